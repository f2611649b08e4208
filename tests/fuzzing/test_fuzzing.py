"""A few hundred broken inputs, the same each time; `python -m tests.fuzzing NAME --cases N` tries more."""

import runpy
import sys

import pytest

from tests.fuzzing import DOORS
from tests.fuzzing.importers import IMPORTERS, run, write

CASES = {
    "importers": 100,
    "run_files": 80,
    "schemas": 80,
    "manifests": 20,
    "run_folders": 20,
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


def test_the_command_counts_tracebacks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["tests.fuzzing", "importers", "--cases", "1"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("tests.fuzzing", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 cases of importers, 0 tracebacks"
