"""A few hundred broken inputs, the same each time; `python -m tests.fuzzing NAME --cases N` tries more."""

import subprocess
import sys

import pytest

from tests import ROOT
from tests.fuzzing import DOORS
from tests.fuzzing.importers import IMPORTERS, run, write

CASES = {
    "importers": 200,
    "run_files": 150,
    "schemas": 150,
    "manifests": 40,
    "run_folders": 40,
    "parquet": 100,
    "plain_parquet": 100,
}
# once they ended in a traceback, or in a line without end
FOUND = {
    "importers": (1112, 2404, 5883),
    "run_files": (172, 392, 4344),
    "manifests": (125, 196, 197, 206, 3451),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(name: str) -> None:
    for seed in FOUND[name]:
        DOORS[name](seed)


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("name", CASES)
def test_broken_inputs_end_in_one_line(name: str, part: int) -> None:
    for seed in range(part, CASES[name], 4):
        try:
            DOORS[name](seed)
        except Exception as error:
            error.add_note(f"python -m tests.fuzzing {name} --first {seed} --cases 1")
            raise


def test_whole_inputs_are_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Else broken ones would show nothing."""
    for importer in IMPORTERS.values():
        folder = tmp_path_factory.mktemp("whole")
        out = folder / "OUT"
        run(write(importer, importer.files, folder), out)
        assert (out / "schema.yaml").exists(), importer.arguments


def test_the_command_counts_tracebacks() -> None:
    command = [sys.executable, "-m", "tests.fuzzing", "importers", "--cases", "1"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "1 cases of importers, 0 tracebacks"
