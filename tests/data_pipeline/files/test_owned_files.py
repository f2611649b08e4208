"""Nothing is removed or replaced but what the program can prove that it wrote."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.owned_files import (
    MARKER,
    check_own_file,
    check_replaceable,
    mark,
    remove_files,
    remove_owned,
)


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A folder of which all files are listed."""
    folder = tmp_path / "ours"
    for name in ("schema.yaml", "train/part-0.parquet"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("ours")
    mark(folder, complete=True)
    return folder


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_what_is_listed_may_go_and_goes_whole(ours: Path, tmp_path: Path) -> None:
    check_replaceable(ours, [tmp_path / "elsewhere.csv"])
    remove_owned(ours)
    assert everything(tmp_path) == set()


def a_file(folder: Path) -> str:
    (folder / "train" / "notes.txt").write_text("mine")
    return "did not write 'train/notes.txt'"


def a_folder(folder: Path) -> str:
    (folder / "mine").mkdir()
    return "did not write 'mine/'"


def two_files(folder: Path) -> str:
    for name in ("a", "b"):
        (folder / name).write_text("mine")
    return "did not write 'a' and 1 more"


def a_link_among_them(folder: Path) -> str:
    (folder / "data").symlink_to(folder.parent)
    return "did not write 'data'"


def a_link_instead_of_a_file(folder: Path) -> str:
    (folder.parent / "precious").write_text("mine")
    (folder / "schema.yaml").unlink()
    (folder / "schema.yaml").symlink_to(folder.parent / "precious")
    return "did not write 'schema.yaml'"


def a_link_instead_of_a_folder(folder: Path) -> str:
    (folder.parent / "precious").mkdir()
    (folder.parent / "precious" / "part-0.parquet").write_text("mine")
    (folder / "train" / "part-0.parquet").unlink()
    (folder / "train").rmdir()
    (folder / "train").symlink_to(folder.parent / "precious")
    return "did not write 'train'"


def no_list(folder: Path) -> str:
    (folder / MARKER).unlink()
    return "nothing in it proves that shardrec wrote it"


def a_list_of_other_files(folder: Path) -> str:
    (folder.parent / "precious").write_text("mine")
    listed = json.loads((folder / MARKER).read_text())
    (folder / MARKER).write_text(json.dumps(listed | {"files": [*listed["files"], "../precious"]}))
    return "nothing in it proves"


@pytest.mark.parametrize(
    "change",
    [
        a_file,
        a_folder,
        two_files,
        a_link_among_them,
        a_link_instead_of_a_file,
        a_link_instead_of_a_folder,
        no_list,
        a_list_of_other_files,
    ],
)
def test_what_is_the_users_is_named_and_stays(ours: Path, change: Callable[[Path], str]) -> None:
    said = change(ours)
    before = everything(ours.parent)
    with pytest.raises(UserError, match=said):
        check_replaceable(ours)
    assert everything(ours.parent) == before
    mine = {p for p in ours.parent.rglob("*") if p.is_file() and p.read_text() == "mine"}
    links = {p for p in ours.rglob("*") if p.is_symlink()}
    remove_owned(ours)  # even so
    assert all(p.read_text() == "mine" for p in mine)
    assert all(p.is_symlink() for p in links)


def test_a_link_the_working_directory_and_inputs_are_refused(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(ours)
    with pytest.raises(UserError, match="it is a link to"):
        check_replaceable(tmp_path / "link")
    with pytest.raises(UserError, match=r"holds what is to be read \(.*part-0.parquet\)"):
        check_replaceable(ours, [ours / "train" / "part-0.parquet"])
    for inside in (ours, ours / "train"):
        monkeypatch.chdir(inside)
        with pytest.raises(UserError, match="the working directory"):
            check_replaceable(ours)
    assert everything(ours) == {MARKER, "schema.yaml", "train", "train/part-0.parquet"}


def test_files_are_removed_by_name_and_never_through_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious"
    for folder in (run / "logs" / "deep", run / "kept", precious):
        folder.mkdir(parents=True)
        (folder / "a.log").write_text("")
    (run / "kept" / "notes").write_text("")
    (run / "linked").symlink_to(precious)
    (run / "plan.txt").symlink_to(precious / "a.log")
    monkeypatch.chdir(run)
    remove_files(run, ["logs/deep/a.log", "kept/a.log", "linked/a.log", "plan.txt", "absent/x", "logs"])
    assert everything(run) == {"kept", "kept/notes", "linked", "plan.txt"}
    assert os.listdir(precious) == ["a.log"]


def test_nothing_goes_through_a_folder_that_is_a_link(ours: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(ours)
    remove_files(tmp_path / "link", ["schema.yaml", "train/part-0.parquet"])
    assert everything(ours) == {MARKER, "schema.yaml", "train", "train/part-0.parquet"}
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / MARKER).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        mark(tmp_path / "new", complete=False)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_file_is_replaced_where_it_is_known_for_ours(tmp_path: Path) -> None:
    file, pattern = tmp_path / "rates.csv", rb"a,b\n.*"
    check_own_file(file, pattern)  # nothing there
    file.write_text("a,b\n1,2\n")
    check_own_file(file, pattern)
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "other").write_text("notes\na,b\n")
    for name in ("link", "dangling", "other", "."):
        with pytest.raises(UserError, match="nothing in it proves that shardrec wrote it"):
            check_own_file(tmp_path / name, pattern)
