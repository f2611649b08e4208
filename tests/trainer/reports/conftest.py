"""One finished run for all tests of pages."""

from pathlib import Path

import pytest

from tests.trainer.reports.trained import train_named


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, which tests copy before they change it."""
    return train_named(tmp_path_factory.mktemp("reports"))
