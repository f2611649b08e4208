"""Names of models and settings of tables are to be had without the libraries that compute."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "statement",
    [
        "import shardrec.models as models; list(models.MODELS); 'fm' in models.MODELS",
        "import shardrec.models.table_settings",
        "import shardrec.models.dynamic_ids",
        "import shardrec.models.fields",
    ],
)
def test_neither_torch_nor_numpy_is_loaded(statement: str) -> None:
    heavy = "[name for name in ('torch', 'torchrec', 'numpy', 'pyarrow') if name in sys.modules]"
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; {statement}; print({heavy})"], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
