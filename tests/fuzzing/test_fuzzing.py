"""A few hundred broken inputs, the same each time; `python -m tests.fuzzing NAME --cases N` tries more."""

import random
import runpy
import sys

import pytest

from tests.fuzzing.doors import DOORS
from tests.fuzzing.drawn_bytes import DrawnBytes
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
        DOORS[name](random.Random(seed))


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("name", CASES)
def test_broken_inputs_end_in_one_line(name: str, part: int) -> None:
    for seed in range(part, CASES[name], 4):
        try:
            DOORS[name](random.Random(seed))
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


def test_bytes_decide_every_draw() -> None:
    """As far as they go; then everything is the first of its kind."""
    one, same = (DrawnBytes(bytes(range(40, 140))) for _ in range(2))
    drawn = [
        (draw.random(), draw.choice("abcdefg"), draw.randint(3, 9), draw.sample(range(9), 3), draw.getrandbits(11))
        for draw in (one, same)
    ]
    assert drawn[0] == drawn[1] and 3 <= drawn[0][2] <= 9 and 0 <= drawn[0][0] < 1
    outcomes = {DrawnBytes(bytes([byte])).choice("abc") for byte in range(256)}
    assert outcomes == {*"abc"}
    spent = DrawnBytes(b"")
    assert (spent.random(), spent.choice("abc"), spent.randrange(5, 9), spent.shuffle([1, 2])) == (0.0, "a", 5, None)
