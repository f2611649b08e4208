"""Fixtures that all layers share."""

from pathlib import Path

import pytest

from tests import ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real public data sets beside the project; their licences forbid a copy inside it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder
