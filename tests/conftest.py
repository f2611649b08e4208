"""Fixtures that all layers share."""

import os
from pathlib import Path

import pytest

from tests import ROOT

# Tests run side by side, one a core: more threads would only wait for each other. Read when torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real public data sets beside the project; their licences forbid a copy inside it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder
