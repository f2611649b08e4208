"""A bundle scores raw rows as the trained model scores prepared ones, without anything that trained it."""

import compileall
import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import shardrec
from shardrec.data_pipeline.errors import UserError
from shardrec.sharding.checkpoints.saved_tables import saved_tables
from shardrec.sharding.distribution.frozen_rows import dequantise, quantise
from shardrec.trainer.checkpoints.manifest import read_manifest
from shardrec.trainer.export import self_check
from shardrec.trainer.export.loader import FORMAT, Bundle, RowError
from shardrec.trainer.export.loader.checksums import checksum
from shardrec.trainer.export.table_files import write_array
from shardrec.trainer.serving.opened import OpenedBundle
from tests import ROOT
from tests.damaged_json import damaged
from tests.trainer.command_line import refused
from tests.trainer.command_line import shardrec as command
from tests.trainer.dynamic_runs import dynamic_run, write_raw_data
from tests.trainer.export.bundles import changed, damages_are_lines, files_cut_short_are_errors
from tests.trainer.export.open_table import bundle_with_table
from tests.trainer.saved_runs import USERS, trained_run, write_named_data


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose users are prepared by a vocabulary and whose items are strings, with its bundle beside it."""
    folder = tmp_path_factory.mktemp("named")
    write_named_data(folder / "data")
    trained_run(folder)
    shardrec.export(folder / "run", folder / "bundle")
    return folder


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of dynamic tables, some of fp16 rows, with its bundle."""
    folder = tmp_path_factory.mktemp("dynamic")
    write_raw_data(folder / "data")
    dynamic_run(folder)
    shardrec.export(folder / "run", folder / "bundle")
    return folder


def test_rows(folder: Path, count: int = 40) -> pa.Table:
    return pq.read_table(folder / "data/test").slice(0, count)


test_rows.__test__ = False  # type: ignore[attr-defined]


def predicted(folder: Path, rows: pa.Table, **options: Any) -> np.ndarray:
    with shardrec.open(folder / "run", **options) as model:
        return model.predict(rows)["prediction"].to_numpy()


def raw(rows: pa.Table) -> pa.Table:
    """Rows as they were before preparation: users by their own ids, of which row 0 is one that is not known."""
    users = [USERS[user - 1] if user else 3 for user in rows["user"].to_pylist()]
    return rows.set_column(rows.column_names.index("user"), "user", pa.array(users))


# ---------------------------------------------------------------- scores


def test_raw_and_prepared_rows_score_as_the_trained_model(named: Path) -> None:
    rows = test_rows(named)
    expected = predicted(named, rows)
    np.testing.assert_allclose(Bundle(named / "bundle", prepared=True).score(rows), expected, atol=1e-6)
    bundle = Bundle(named / "bundle")
    np.testing.assert_allclose(bundle.score(raw(rows)), expected, atol=1e-6)
    np.testing.assert_allclose(bundle.score(raw(rows).to_pylist()), expected, atol=1e-6)
    np.testing.assert_allclose(bundle.score(raw(rows).to_pandas()), expected, atol=1e-6)
    np.testing.assert_allclose(bundle.score(raw(rows).to_pydict()), expected, atol=1e-6)
    assert bundle.score([]).shape == (0,)


def test_raw_rows_are_described(named: Path) -> None:
    bundle = Bundle(named / "bundle")
    assert bundle.columns == {
        "user": "int64",
        "item": "string?",
        "kind": "int64",
        "tags": "list<int64>?",
        "tag_weights": "list<double>?",
        "shelves": "list<int64>?",
        "price": "double" if bundle.columns["price"] == "double" else "float",
    }
    assert not bundle.retrieves


def test_ids_without_a_row_score_as_the_trained_model(dynamic: Path) -> None:
    rows = test_rows(dynamic, 6)
    users = pa.array([*rows["user"].to_pylist()[:3], 5, 6, -(2**63)])
    rows = rows.set_column(0, "user", users).set_column(1, "item", pa.array(["item 1", "item 96", "", "a", "b", "ä"]))
    expected = predicted(dynamic, rows)
    bundle = Bundle(dynamic / "bundle")
    np.testing.assert_allclose(bundle.score(rows), expected, atol=1e-6)
    for _ in range(2):  # the second time by what is remembered
        np.testing.assert_allclose(bundle.score(rows.to_pylist()), expected, atol=1e-6)


def test_many_rows_are_scored_in_blocks(named: Path) -> None:
    rows = raw(test_rows(named, 50))
    bundle = Bundle(named / "bundle")
    many = pa.concat_tables([rows] * 100)  # more than one block
    np.testing.assert_allclose(bundle.score(many), np.tile(bundle.score(rows), 100), atol=1e-6)
    broken = many.to_pylist()
    broken[4_500]["price"] = None
    with pytest.raises(RowError, match="row 4500: feature 'price': found nothing, expected a finite number") as caught:
        bundle.score(broken)
    assert (caught.value.row, caught.value.feature) == (4_500, "price")


def test_candidates_score_as_whole_rows(named: Path) -> None:
    rows = raw(test_rows(named, 30)).to_pylist()
    bundle = Bundle(named / "bundle")
    context = {name: rows[0][name] for name in ("user", "kind", "tags", "tag_weights")}
    candidates = [{name: row[name] for name in ("item", "shelves", "price")} for row in rows]
    whole = [context | candidate for candidate in candidates]
    np.testing.assert_allclose(bundle.score_candidates(context, candidates), bundle.score(whole), atol=1e-6)
    columns = pa.Table.from_pylist(candidates)
    one = pa.Table.from_pylist([context])
    np.testing.assert_allclose(bundle.score_candidates(one, columns), bundle.score(whole), atol=1e-6)
    assert bundle.score_candidates(context, []).shape == (0,)
    many = [candidates[i % 30] for i in range(5_000)]  # more than one block
    many[4_500] = many[4_500] | {"price": "dear"}
    with pytest.raises(RowError, match=r"^row 4500: feature 'price': found 'dear', expected"):
        bundle.score_candidates(context, many)
    many[4_500] = candidates[0]
    np.testing.assert_allclose(bundle.score_candidates(context, many)[4_500], bundle.score(whole[:1])[0], atol=1e-6)
    with pytest.raises(RowError, match="the context is one row, found 2"):
        bundle.score_candidates([context, context], candidates)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": None}, "row 1: feature 'user': found nothing, expected an id"),
        ({"user": "7"}, "row 1: feature 'user': found '7', expected int64"),
        ({"user": True}, "row 1: feature 'user': found True, expected int64"),
        ({"kind": 3}, r"row 1: feature 'kind': found 3, expected an id in \[0, 3\)"),
        ({"item": 5}, "row 1: feature 'item': found 5, expected string"),
        ({"price": float("inf")}, "row 1: feature 'price': found inf, expected a finite number"),
        ({"price": "1"}, "row 1: feature 'price': found '1', expected"),
        ({"tags": [1, 2], "tag_weights": [0.5]}, "row 1: feature 'tags': found 1 weights, expected as many as ids: 2"),
        ({"tags": [1, 99]}, "row 1: feature 'tags': found 99, expected an id"),
        ({"tags": 5}, "row 1: feature 'tags': found 5, expected list<int64>"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(named: Path, change: dict[str, Any], message: str) -> None:
    rows = raw(test_rows(named, 3)).to_pylist()
    rows[1] |= {"tags": [1, 2], "tag_weights": [1.0, 1.0]} | change
    with pytest.raises(RowError, match=f"^{message}"):
        Bundle(named / "bundle").score(rows)


def test_columns_that_are_needed_are_named(named: Path) -> None:
    bundle, rows = Bundle(named / "bundle"), raw(test_rows(named, 3))
    with pytest.raises(RowError, match=r"^feature 'user': there is no column 'user'$"):
        bundle.score(rows.drop_columns(["user"]))
    without = rows.set_column(1, "item", pa.nulls(3))
    np.testing.assert_array_equal(bundle.score(rows.drop_columns(["item"])), bundle.score(without))
    with pytest.raises(RowError, match=r"^columns are not equally long"):
        bundle.score({"user": [1, 2], "price": [0.5]})
    with pytest.raises(RowError, match=r"^rows are a pyarrow.Table"):
        bundle.score("rows")


def test_rows_without_a_column_of_the_bundle_are_refused(named: Path) -> None:
    """Also where all columns may be missing: theirs are misspelt."""
    bundle, others = Bundle(named / "bundle"), {"usr": [1, 2], "prise": [0.5, 1.0]}
    expected = "found the columns 'usr', 'prise', expected some of 'user', 'item', "
    for rows in (others, pd.DataFrame(others), pa.table(others)):
        for call in (bundle.score, bundle.read, partial(bundle.score_candidates, {"user": 1})):
            with pytest.raises(RowError, match=f"^{expected}"):
                call(rows)
        with pytest.raises(RowError, match=f"^context: {expected}"):
            bundle.score_candidates(pa.table(others).slice(0, 1), [{"item": "i1"}])
    with pytest.raises(RowError, match=f"^row 1: {expected}"):
        bundle.score([{"user": 1}, {"usr": 1, "prise": 2}])
    for nothing, where in (({}, ""), (pd.DataFrame(), ""), ([{}], "row 0: ")):
        with pytest.raises(RowError, match=f"^{where}found no columns, expected some of 'user', "):
            bundle.score(nothing)


# ---------------------------------------------------------------- files


def test_rows_are_stored_as_asked_for(dynamic: Path, tmp_path: Path) -> None:
    step = Bundle(dynamic / "bundle").manifest["run"]["step"]
    checkpoint = dynamic / f"run/checkpoints/step-{step}"
    tables = saved_tables(checkpoint, read_manifest(checkpoint)["tables"])
    ids = np.arange(20)
    for kind in ("fp32", "fp16", "int8"):
        out = tmp_path / kind
        made = shardrec.export(dynamic / "run", out, rows=None if kind == "fp32" else kind)
        assert made["check"]["largest_difference"] <= {"fp32": 1e-6, "fp16": 1e-3, "int8": 0.05}[kind]
        assert {"auc", "trained_auc"} <= set(made["check"])
        bundle = Bundle(out)
        for name, table in tables.items():
            ((_, weight),) = table.blocks("weight", 20, last=20)
            stored = made["tables"][name]["dtype"]
            small = table.embedding_dim + 8 < table.embedding_dim * {"fp32": 4, "fp16": 2}[table.dtype]
            expected_kind = {"fp32": table.dtype, "fp16": "fp16", "int8": "int8" if small else table.dtype}[kind]
            assert stored == expected_kind, name
            weight = weight.float()
            wanted = {"fp32": weight, "fp16": weight.half().float(), "int8": dequantise(quantise(weight))}[stored]
            np.testing.assert_allclose(bundle.vectors(name, ids), wanted.numpy(), atol=1e-6)


def test_a_bundle_needs_torch_numpy_and_pyarrow_alone(named: Path, tmp_path: Path) -> None:
    """By its own loader, and by the same one of shardrec."""
    rows = raw(test_rows(named))
    pq.write_table(rows, tmp_path / "rows.parquet")
    program = """
        import sys, importlib.abc

        refused = ["shardrec", "torchrec", "fbgemm_gpu", "ray", "pydantic", "yaml", "typer"]

        class Refused(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in refused:
                    raise ImportError(f"{name} is not here")

        sys.meta_path.insert(0, Refused())
        sys.path.insert(0, "bundle")
        import numpy as np, pyarrow.parquet as pq
        from loader import Bundle

        rows = pq.read_table("rows.parquet")
        bundle = Bundle("bundle", threads=1)
        scores = [bundle.score(rows), bundle.score(rows.to_pylist())]
        assert not {"shardrec", "torchrec", "fbgemm_gpu", "ray", "pydantic"} & set(sys.modules)

        refused.remove("shardrec")
        sys.path.insert(0, sys.argv[1])
        from shardrec.trainer.export.loader import Bundle

        np.save("scores.npy", np.stack([*scores, Bundle("bundle").score(rows)]))
    """
    (tmp_path / "bundle").symlink_to(named / "bundle")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    python = [sys.executable, "-W", "error", "-c", textwrap.dedent(program), str(ROOT)]
    subprocess.run(python, cwd=tmp_path, env=environment, check=True)
    for scores in np.load(tmp_path / "scores.npy"):
        np.testing.assert_allclose(scores, Bundle(named / "bundle").score(rows), atol=1e-6)


def test_a_table_of_a_hundred_million_rows_opens_without_being_read(tmp_path: Path) -> None:
    """Its file has holes in it, and is larger than what may be read of it in the time of a test."""
    bundle = Bundle(bundle_with_table(tmp_path / "bundle", 10**8, 16))
    rows = bundle.read({"user": [0, 10**8 - 1]})["user"].values
    assert bundle.vectors("user", rows).tolist() == np.zeros((2, 16)).tolist()


def test_a_copy_that_was_cut_short_is_refused(named: Path, tmp_path: Path) -> None:
    copied = tmp_path / "a copy"
    shutil.copytree(named / "bundle", copied)
    assert len(Bundle(copied).score(raw(test_rows(named)))) == 40
    for path in (copied / "tables/item.npy", copied / "tower.pt2"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(ValueError, match=rf"{path.name}: missing or cut off, where the bundle has {len(whole):,} "):
            Bundle(copied)
        path.write_bytes(b"\xff" * len(whole))
        with pytest.raises(ValueError, match=rf"{path.name}: damaged \(its bytes are not those that were exported"):
            Bundle(copied)
        path.write_bytes(whole)


def test_a_file_that_is_cut_short_while_it_is_mapped_is_an_error(named: Path, dynamic: Path, tmp_path: Path) -> None:
    """The system ends a process that touches what is gone: this one is still there."""
    rows = raw(test_rows(named))
    of_named = files_cut_short_are_errors(named / "bundle", tmp_path / "named", lambda bundle: bundle.score(rows))
    of_dynamic = files_cut_short_are_errors(
        dynamic / "bundle", tmp_path / "dynamic", lambda bundle: bundle.score(test_rows(dynamic))
    )
    assert {name.partition("/")[0] for name in of_named} == {"tables", "vocabularies"}
    assert {name.partition("/")[0] for name in of_dynamic} == {"tables"}
    assert any(name.endswith(".ids.npy") for name in of_dynamic)


def test_rows_that_are_no_numbers_score_nothing(named: Path, tmp_path: Path) -> None:
    """Where a table is so large that no checksum has seen them."""
    copied = tmp_path / "bundle"
    shutil.copytree(named / "bundle", copied)
    manifest = json.loads((copied / "bundle.json").read_text())
    for table in manifest["tables"].values():
        rows = np.load(copied / table["file"])
        np.save(copied / table["file"], np.full_like(rows, np.nan))
    (copied / "bundle.json").write_text(json.dumps(manifest | {"checksums": {}}))
    with pytest.raises(ValueError, match=r"tower\.pt2: damaged \(what it makes of rows of tables is no number\)"):
        Bundle(copied).score(raw(test_rows(named)))


def test_checksums_of_large_files_are_of_blocks(tmp_path: Path) -> None:
    path = tmp_path / "table.npy"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    whole = checksum(path)
    for place in (0, (1 << 30) - 1):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        assert checksum(path) != whole
        whole = checksum(path)


def test_what_no_bundle_is_refused(tmp_path: Path, named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="not a bundle"):
        Bundle(tmp_path)
    (tmp_path / "bundle.json").write_text("[]")
    with pytest.raises(ValueError, match=r"not a bundle: bundle.json holds no object"):
        Bundle(tmp_path)
    for other in (FORMAT - 1, FORMAT + 1, None):
        (tmp_path / "bundle.json").write_text(json.dumps({"format": other}))
        with pytest.raises(ValueError, match=f"a bundle of format {other}, where this loader reads format {FORMAT}; "):
            Bundle(tmp_path)
    line = refused(monkeypatch, "bench", "bundle", tmp_path, "--data", named / "data/test")
    assert "a bundle of format None" in line


def test_a_manifest_that_was_damaged_by_hand_is_one_line(named: Path, dynamic: Path) -> None:
    """Whichever member is gone, or of another type."""
    for folder in (named, dynamic):
        rows = test_rows(folder, 3).to_pylist()
        assert damages_are_lines(folder / "bundle", partial(Bundle.score, rows=rows)) > 300


def test_a_manifest_names_what_is_there(named: Path) -> None:
    def line(change: Callable[[Any], Any]) -> str:
        manifest = json.loads((named / "bundle/bundle.json").read_text())
        change(manifest)
        with changed(named / "bundle") as write, pytest.raises(ValueError, match="export its run again") as caught:
            write(json.dumps(manifest))
            with pytest.raises(UserError, match=r"^[^\n]*the bundle does not score: [^\n]*export its run again$"):
                OpenedBundle(str(named / "bundle"), 1)  # as a service does
            Bundle(named / "bundle").score(test_rows(named).to_pylist())
        return str(caught.value).removeprefix(f"{named}/bundle/")

    assert line(lambda m: m.pop("raw")).startswith("bundle.json: raw is missing; copy the bundle again")
    assert 'tables.item.rows is "90", expected an integer' in line(lambda m: m["tables"]["item"].update(rows="90"))
    assert "programs.tower.inputs is 'item', expected one of `tables`" in line(lambda m: m["tables"].pop("item"))
    assert "is 'tables/item.npy', expected one of `files`" in line(lambda m: m["files"].pop("tables/item.npy"))
    assert "tables/item.npy: damaged (float16 " in line(lambda m: m["tables"]["item"].update(dim=3))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files of this process find no room beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_bundle_that_finds_no_room_is_a_line_and_leaves_nothing(
    named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is a program, or an array, whose own writers abort or say no reason."""
    out = tmp_path / "bundle"
    with largest_file((named / "bundle/tower.pt2").stat().st_size - 1):
        line = refused(monkeypatch, "export", named / "run", "--out", out)
    assert f"{out}: no space left on the device; nothing was kept" in line
    assert list(tmp_path.iterdir()) == []
    with largest_file(1000), pytest.raises(OSError, match=r"File too large: .*large\.npy"):
        write_array(tmp_path / "large.npy", np.zeros(1000))


# ---------------------------------------------------------------- the command


def test_the_command_says_what_it_did(named: Path, tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    out = tmp_path / "bundle"
    command(monkeypatch, "export", named / "run", "--out", out, "--rows", "int8", "--check", 100)
    printed = capfd.readouterr().out
    assert "model deepfm, step" in printed and "checked: scores of 100 test rows differ" in printed
    assert "auc of these rows" in printed
    line = refused(monkeypatch, "export", named / "run", "--out", out)
    assert "holds a bundle; replace it with --overwrite, or name another --out" in line
    assert "is a file" in refused(monkeypatch, "export", named / "run", "--out", out / "tower.pt2")
    compileall.compile_dir(out / "loader", quiet=1)  # as Python does when the loader is imported
    command(monkeypatch, "export", named / "run", "--out", out, "--overwrite", "--check", 0)
    assert "not checked: as asked for" in capfd.readouterr().out
    (out / "mine.txt").write_text("kept")
    assert "did not write 'mine.txt'" in refused(monkeypatch, "export", named / "run", "--out", out, "--overwrite")
    assert "not a run folder" in refused(monkeypatch, "export", tmp_path / "none", "--out", tmp_path / "other")
    assert "no complete checkpoint of step 77" in refused(
        monkeypatch, "export", named / "run", "--out", tmp_path / "other", "--step", 77
    )
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}


def test_a_bundle_that_scores_otherwise_is_not_kept(named: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(self_check.BOUNDS, "fp32", 1e-9)
    monkeypatch.setitem(self_check.BOUNDS, "int8", 1e-8)
    with pytest.raises(UserError, match=r"scores of test rows differ from the trained model's by up to .*int8"):
        shardrec.export(named / "run", tmp_path / "bundle", rows="int8")
    assert list(tmp_path.iterdir()) == []


def test_auc_is_the_share_of_pairs_in_order() -> None:
    draw = np.random.default_rng(0)
    scores, labels = draw.integers(0, 9, 60) / 10, draw.integers(0, 2, 60)
    weights = draw.random(60)
    rows = list(zip(scores, labels, weights, strict=True))
    pairs = [(p > n, p == n, v * w) for p, a, v in rows if a for n, b, w in rows if not b]
    expected = sum(w * (over + 0.5 * tie) for over, tie, w in pairs) / sum(w for *_, w in pairs)
    assert self_check.auc(scores, labels, weights) == pytest.approx(expected)


def test_the_check_reads_labels_where_there_are_some(dynamic: Path) -> None:
    """Its AUC of the trained model is that which `evaluate` finds."""
    with shardrec.open(dynamic / "run") as model:
        auc = model.evaluate()["test"]["auc"]
    assert shardrec.Bundle(dynamic / "bundle").manifest["check"]["trained_auc"] == pytest.approx(auc, abs=1e-6)


def test_scores_are_calibrated_where_the_run_is(named: Path, tmp_path: Path) -> None:
    rows, calibration = raw(test_rows(named)), named / "run/calibration.json"
    whole = Bundle(named / "bundle")
    plain = whole.score(rows).astype(np.float64)
    run = {name: whole.manifest["run"][name] for name in ("step", "checkpoint")}
    isotonic = {"method": "isotonic", "x": [0.2, 0.6], "y": [0.1, 0.9]}
    no_name = {"step": run["step"]}
    try:
        for facts, line in (
            (run | {"step": 10**6}, "was fitted to scores of step 1000000, and step"),
            (run | {"checkpoint": "another"}, "was fitted to scores of another checkpoint of step"),
            (no_name, "was fitted to scores of a checkpoint that it does not name, maybe another of step"),
        ):
            calibration.write_text(json.dumps(isotonic | facts))
            with pytest.raises(UserError, match=line):
                shardrec.export(named / "run", tmp_path / "bundle")
        calibration.write_text("{")
        with pytest.raises(UserError, match="cannot be read as a calibration"):
            shardrec.export(named / "run", tmp_path / "bundle")
        calibration.write_text(json.dumps(isotonic | run))
        made = shardrec.export(named / "run", tmp_path / "bundle")
    finally:
        calibration.unlink()
    assert made["check"]["largest_difference"] < 1e-6  # of what the model itself predicts
    expected = np.clip(0.1 + (plain - 0.2) * 2, 0.1, 0.9)
    np.testing.assert_allclose(Bundle(tmp_path / "bundle").score(rows), expected, atol=1e-6)
    exported = tmp_path / "bundle/calibration.json"
    exported.write_text(json.dumps(isotonic | {"checkpoint": "another"}))
    with pytest.raises(ValueError, match=r"calibration\.json was fitted to another checkpoint"):
        Bundle(tmp_path / "bundle")
    platt = {"method": "platt", "a": 2.0, "b": -0.5}
    exported.write_text(json.dumps(platt | run))
    expected = 1 / (1 + np.exp(-2 * np.log(plain / (1 - plain)) + 0.5))
    np.testing.assert_allclose(Bundle(tmp_path / "bundle").score(rows), expected, atol=1e-6)
    for fit in (platt, isotonic):
        for done, broken in damaged(fit | {"checkpoint": run["checkpoint"]}):
            exported.write_text(json.dumps(broken))
            if done.endswith(" -1"):  # which may be a map too
                continue
            with pytest.raises(ValueError, match=r"(calibration\.json: .*|another checkpoint); export the run again"):
                pytest.fail(f"{done} was taken: {Bundle(tmp_path / 'bundle').columns}")
