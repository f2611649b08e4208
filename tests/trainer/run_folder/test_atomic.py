"""Text, CSV, pictures and folders that commands write: complete or absent."""

import math
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.run_folder.atomic import new_folder, write_atomically, write_csv, write_picture


def test_writes_leave_no_other_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x", "1")
    write_atomically(tmp_path / "x", "2")
    assert (tmp_path / "x").read_text() == "2"
    write_picture(tmp_path / "x.png", Figure())
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x", "x.png"]


def test_csv_has_all_columns_and_numbers_in_full(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", iter([{"a": 1, "b": 1 / 3}, {"a": None, "c": math.nan, "b": "x,y"}]))
    assert (tmp_path / "x.csv").read_text() == 'a,b,c\n1,0.3333333333333333,\n,"x,y",nan\n'


def test_rows_that_cannot_be_made_leave_the_old_table(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", [{"a": 1}])
    with pytest.raises(ZeroDivisionError):
        write_csv(tmp_path / "x.csv", ({"a": 1 // n} for n in (1, 0)))
    assert (tmp_path / "x.csv").read_text() == "a\n1\n"
    assert [p.name for p in tmp_path.iterdir()] == ["x.csv"]


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as folder:  # an empty folder is as good as none
        (folder / "mine").write_text("1")
    for out, why in (
        (tmp_path / "out", "not empty"),
        (tmp_path / "out" / "mine", "is a file, where a folder is to be"),
    ):
        with pytest.raises(UserError, match=f"{out.name}: {why}; name another --out"), new_folder(out):
            raise AssertionError("must not be entered")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "mine").read_text() == "1"
