"""Reading a run file starts nothing heavy: what it declares is imported without the libraries that carry it out."""

import subprocess
import sys

import pytest

from tests import ROOT

HEAVY = ("torch", "torchrec", "fbgemm_gpu", "ray", "pandas", "pyarrow", "numpy")
DECLARED = (
    "declared.declaration",
    "errors",
    "features.crosses",
    "features.id_transforms",
    "features.schema",
    "sampling.settings",
    "declared.sizes",
)


@pytest.mark.parametrize("module", DECLARED)
def test_what_a_run_file_declares_loads_nothing_heavy(module):
    code = f"import sys, shardrec.data_pipeline.{module}; print([m for m in {HEAVY} if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
