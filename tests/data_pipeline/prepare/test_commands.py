"""`shardrec prepare ...` from the command line's side."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.prepare.commands import app


def shardrec_prepare(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "x.libfm"
    path.write_text("".join(f"{i % 2} {i % 5}:1 {5 + i % 7}:1\n" for i in range(100)))
    return path


def test_a_summary_is_printed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = shardrec_prepare("libfm", source, out, "--fields", "user:0,item:5", "--group", "user", "--seed", "3")
    rows = {s: pq.read_table(out / s).num_rows for s in ("train", "validation", "test")}
    assert sum(rows.values()) == 100
    for split, n in rows.items():
        assert any(line.split()[:3] == [split, str(n), "rows"] for line in found.splitlines())
    assert "2 features of ids (12 table rows), 0 dense" in found and f"written to {out}" in found
    assert Schema.load(out / "schema.yaml").group == "user"


def test_existing_output_is_refused_or_replaced(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shardrec_prepare("libfm", source, out, "--row-group-rows", "16")
    with pytest.raises(UserError, match="is not empty; name another folder or give --overwrite"):
        shardrec_prepare("libfm", source, out)
    shardrec_prepare("libfm", source, out, "--overwrite", "--fractions", "1,0,0", "--row-group-rows", "30")
    assert not (out / "test").exists()
    file = pq.ParquetFile(next((out / "train").glob("*"))).metadata
    assert [file.row_group(i).num_rows for i in range(file.num_row_groups)] == [30, 30, 30, 10]


@pytest.mark.parametrize("place", ["project", "project/run", ".", "link", "source's folder"])
def test_overwrite_replaces_no_folder_of_the_users(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    run = tmp_path / "project" / "run"
    (run / "checkpoints" / "step-8").mkdir(parents=True)
    (run / "checkpoints" / "step-8" / "manifest.json").write_text("{}")
    shardrec_prepare("libfm", source, tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for folder in (run, run.parent, source.parent):
        (folder / "schema.yaml").write_text("features: []")
    monkeypatch.chdir(run.parent)
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    out = source.parent if place.startswith("source") else Path(".") if place == "." else tmp_path / place
    with pytest.raises(UserError, match="not replaced, since"):
        shardrec_prepare("libfm", source, out, "--overwrite")
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_given_files_and_down_sampling(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = shardrec_prepare("libfm", source, out, "--validation", source, "--test", source, "--negative-rate", "0.5")
    assert pq.read_table(out / "test").num_rows == pq.read_table(out / "validation").num_rows == 100
    kept = pq.read_table(out / "train").num_rows
    assert 60 < kept < 90 and f"{100 - kept} training negatives left out" in found
    assert Schema.load(out / "schema.yaml").negative_rate == 0.5


def test_any_delimited_file(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("a\tlabel\n" + "".join(f"v{i % 3}\t{i % 2}\n" for i in range(50)))
    (tmp_path / "r.yaml").write_text(
        'format: {delimiter: "\\t"}\nfeatures: [{kind: id, name: a, ids: {kind: vocabulary}}]\n'
    )
    shardrec_prepare("delimited", tmp_path / "x.tsv", tmp_path / "out", "--recipe", tmp_path / "r.yaml")
    assert Schema.load(tmp_path / "out" / "schema.yaml")["a"].num_embeddings == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fractions", "0.5,0.4"], "--fractions: found '0.5,0.4', expected"),
        (["--fractions", "a,b,c"], "--fractions: found 'a,b,c', expected"),
        (["--negative-rate", "0"], "--negative-rate: found 0, expected a share above 0"),
        (["--fields", "a:b"], "--fields: expected a name and the first id"),
        (["--test", "nowhere"], "nowhere: no such file"),
    ],
)
def test_wrong_options_get_one_line(source: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        shardrec_prepare("libfm", source, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command",
    ["movielens", "ratings", "ncf", "implicit", "libfm", "frappe", "criteo", "avazu", "delimited", "histories",
     "amazon", "movielens-histories"],
)  # fmt: skip
def test_a_source_that_is_not_there(command: str, tmp_path: Path) -> None:
    """Every importer says so in one line, and makes nothing."""
    out = tmp_path / "out"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("features:\n- {kind: id, name: user, ids: {kind: hash, num_ids: 10}}\n")
    nowhere = tmp_path / "nowhere"
    source = ("--reviews", nowhere) if command == "amazon" else (nowhere,)
    more = {"delimited": ("--recipe", recipe), "libfm": ("--fields", "user:0,item:5")}.get(command, ())
    with pytest.raises(UserError, match="nowhere") as refused:
        shardrec_prepare(command, *source, out, *more)
    assert "\n" not in str(refused.value) and not out.exists()
