"""Bundles of models whose users and items share a space find items for users."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import shardrec
from shardrec.trainer.export.loader import Bundle, RowError
from shardrec.trainer.export.loader import bundle as bundle_module
from shardrec.trainer.serving.openapi import openapi
from shardrec.trainer.serving.opened import OpenedBundle
from shardrec.trainer.serving.settings import Settings
from tests.trainer.command_line import refused
from tests.trainer.command_line import shardrec as command
from tests.trainer.export.bundles import damages_are_lines, files_cut_short_are_errors
from tests.trainer.recorded import train
from tests.trainer.saved_runs import USERS, write_named_data
from tests.trainer.small_run import run_file


def run_of(folder: Path, name: str, **data: Any) -> Path:
    """A finished run of a small MF."""
    path = run_file(folder / f"{name}.yaml", folder / "data", data=data, tables={"item": {"dtype": "fp16"}})
    content = yaml.safe_load(path.read_text())
    content["model"] = {"name": "mf", "user": "user", "item": "item", "embedding_dim": 4}
    path.write_text(yaml.safe_dump(content))
    train(path)
    return path.with_suffix("")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("lists")
    write_named_data(made / "data")
    run = run_of(made, "run", catalogue={"user": "user", "item": "item"})
    shardrec.export(run, made / "bundle")
    return made


def items(folder: Path) -> list[str]:
    rows = pq.read_table(folder / "data/train", columns=["item"])
    return sorted(set(rows["item"].to_pylist()) - {None})


def test_items_that_are_cut_short_while_they_are_mapped_are_an_error(folder: Path, tmp_path: Path) -> None:
    def use(bundle: Bundle) -> None:
        bundle.top_n([{"user": USERS[0]}], 2)
        bundle.score(pa.table({"user": [USERS[0]], "item": items(folder)[:1]}))  # of lists values are remembered

    assert "items.npy" in files_cut_short_are_errors(folder / "bundle", tmp_path / "bundle", use)


def test_a_manifest_that_was_damaged_by_hand_is_one_line(folder: Path) -> None:
    """Also where it is its catalogue that is asked for."""

    def use(bundle: Bundle) -> None:
        assert not bundle.retrieves or len(bundle.top_n([{"user": USERS[0]}], 2)[0]) == 1

    assert damages_are_lines(folder / "bundle", use) > 200
    items = folder / "bundle/items.npy"
    whole = items.read_bytes()
    for broken in (whole[:-4], whole[:40], b""):
        items.write_bytes(broken)
        with pytest.raises(ValueError, match=r"items\.npy: missing or cut off"):
            Bundle(folder / "bundle")
    items.write_bytes(whole)


def test_rows_of_users_are_described_by_what_the_user_tower_reads(folder: Path) -> None:
    """Also where no feature has a role, so that the item's column is the context's."""
    opened = OpenedBundle(str(folder / "bundle"), 1)
    assert (opened.bundle.context_columns, opened.bundle.user_columns) == (["user", "item"], ["user"])
    assert opened.facts["user_columns"] == ["user"]
    described = openapi(opened, Settings(opened.path))["components"]["schemas"]["User"]
    assert list(described["properties"]) == described["required"] == ["user"]


def test_lists_are_those_of_the_largest_scores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "BLOCK_ITEMS", 7)
    bundle, names = Bundle(folder / "bundle"), items(folder)
    assert bundle.retrieves
    users = [USERS[3], USERS[77], 5]
    seen = [[], names[:80], [*names[:-4], "no such item"]]
    found, scores = bundle.top_n([{"user": user} for user in users], 6, seen=seen)
    for user, left_out, ids, of_row in zip(users, seen, found, scores, strict=True):
        left = [name for name in names if name not in left_out]
        with_items = bundle.score([{"user": user, "item": name} for name in left])
        best = [left[i] for i in np.argsort(-with_items, kind="stable")[:6]]
        np.testing.assert_allclose(
            bundle.score([{"user": user, "item": name} for name in ids]),
            np.sort(with_items)[::-1][: len(ids)],
            atol=1e-6,
        )
        assert len(ids) == min(6, len(left)) and set(ids) <= set(left)
        assert len(set(ids) & set(best)) >= len(ids) - 1  # items that training saw once may be equal
        assert (np.diff(of_row[: len(ids)]) <= 0).all() and (of_row[len(ids) :] == -np.inf).all()


def test_items_like_an_item_have_the_largest_cosines(folder: Path) -> None:
    bundle = Bundle(folder / "bundle")
    ids = pq.read_table(folder / "bundle/items.parquet").column(0).to_pylist()
    vectors = np.load(folder / "bundle/items.npy")
    assert sorted(ids) == sorted(items(folder))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    at = ids.index("i5")
    cosines = unit @ unit[at]
    cosines[at] = -2
    found, scores = bundle.similar(["i5"], 3)
    np.testing.assert_allclose(scores[0], np.sort(cosines)[::-1][:3], atol=1e-6)
    np.testing.assert_allclose(cosines[[ids.index(name) for name in found[0]]], scores[0], atol=1e-6)
    with pytest.raises(RowError, match="row 1: found the item 'x', which is not in the catalogue"):
        bundle.similar(["i5", "x"], 3)


def test_vectors_of_users_need_no_items(folder: Path) -> None:
    bundle = Bundle(folder / "bundle")
    rows = pa.table({"user": USERS[:9]})
    vectors = bundle.user_vectors(rows)
    assert vectors.shape == (9, 5)
    with shardrec.open(folder / "run") as model:  # whose own rows have numbers that preparation made of such ids
        trained = model.vectors(rows, raw=True)["vector"]
    np.testing.assert_allclose(np.stack(trained.to_numpy()), vectors, atol=1e-6)
    _, scores = bundle.top_n(rows, 1)
    at = (vectors @ np.load(folder / "bundle/items.npy").T).max(1)
    np.testing.assert_allclose(scores[:, 0], at, atol=1e-6)
    assert bundle.user_vectors([]).shape == (0, 5)
    ids, scores = bundle.top_n([], 3)
    assert ids == [] and scores.shape == (0, 3)
    with pytest.raises(RowError, match=r"row 0: found the columns 'item', expected some of 'user'$"):
        bundle.top_n([{"item": "i1"}], 1)
    with pytest.raises(ValueError, match="found n = 0, expected at least 1"):
        bundle.top_n(rows, 0)
    with pytest.raises(RowError, match="`seen` has lists for 1 rows, the rows are 9"):
        bundle.top_n(rows, 1, seen=[[]])


def test_without_a_known_item_a_bundle_scores_rows_alone(folder: Path, tmp_path: Path) -> None:
    made = shardrec.export(run_of(folder, "nameless"), tmp_path / "bundle")
    assert made["check"]["rows"] > 0
    bundle = Bundle(tmp_path / "bundle")
    assert not bundle.retrieves and not (tmp_path / "bundle/user.pt2").exists()
    with pytest.raises(ValueError, match=r"makes no lists of items: .*no id feature has role: item"):
        bundle.top_n([{"user": 1}], 3)


def test_a_run_whose_data_is_gone_is_exported_unchecked_when_asked_and_says_what_it_lacks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run, out = folder / "run", tmp_path / "bundle"
    (folder / "data").rename(folder / "elsewhere")
    try:
        line = refused(monkeypatch, "export", run, "--out", out)
        assert f"no folder {folder / 'data'}" in line and "--check 0" in line and not out.exists()
        command(monkeypatch, "export", run, "--out", out, "--check", 0)
    finally:
        (folder / "elsewhere").rename(folder / "data")
    printed = capfd.readouterr().out
    assert "makes no lists of items, which need the items: data.path: no folder" in printed
    assert not Bundle(out).retrieves
