"""Lists of the whole catalogue are measured as plain loops measure them, on any number of ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import shardrec
from shardrec.data_pipeline.errors import UserError
from shardrec.models.undefined import Undefined
from shardrec.trainer.catalogue.evaluation import CatalogueScorer
from shardrec.trainer.catalogue.items import Catalogue
from shardrec.trainer.catalogue.vectors import item_side, item_vectors
from shardrec.trainer.config.catalogue import CatalogueEvaluation
from shardrec.trainer.config.load import load
from shardrec.trainer.retrieval.lists import vectors_of
from shardrec.trainer.session.session import Session
from shardrec.trainer.training.inspection import inspect_run
from tests.trainer.catalogue.lists_by_hand import measured, pairs_of
from tests.trainer.catalogue.small_catalogue import run_file
from tests.trainer.recorded import train, train_in_processes


def scores_by_hand(session: Session, items: torch.Tensor, folder: Path) -> dict[int, np.ndarray]:
    """user -> products with all items, of its first positive row."""
    rows = pq.read_table(folder).to_pylist()
    loader = session.loader(str(folder), labelled=False, absent=item_side(session))
    users = torch.cat([vectors for vectors, _ in vectors_of(session, loader)])
    first: dict[int, np.ndarray] = {}
    for row, user in zip(rows, users, strict=True):
        if row["label"] > 0:
            first.setdefault(row["user"], (user @ items.T).numpy())
    return first


def both(*splits: dict[int, set[str]]) -> dict[int, set[str]]:
    return {user: set().union(*(s.get(user, set()) for s in splits)) for user in set().union(*splits)}


def test_equals_plain_loops(session: Session, catalogue: Catalogue, shop: Path) -> None:
    """By default what training and validation have is left out of a test list, or else what `exclude` names."""
    items, ids = item_vectors(session, catalogue), catalogue.ids.to_pylist()
    scores, wanted = scores_by_hand(session, items, shop / "test"), pairs_of(shop / "test")
    trained, validation = pairs_of(shop / "train"), pairs_of(shop / "validation")
    new, new_ids = {user: s[catalogue.trained :] for user, s in scores.items()}, ids[catalogue.trained :]
    new_wanted = {user: of_user & set(new_ids) for user, of_user in wanted.items()}
    counts = dict.fromkeys(scores, catalogue.counts)
    for exclude, known in ((None, both(trained, validation)), (("train",), trained), ((), {})):
        settings = CatalogueEvaluation(top_k=(1, 5, 40), exclude=exclude, new_items=True)
        found = CatalogueScorer(session, settings).metrics("test", str(shop / "test"))
        for k in settings.top_k:
            expected = measured(scores, ids, wanted, known, k)
            expected |= {f"new_{n}": v for n, v in measured(new, new_ids, new_wanted, known, k).items()}
            of_popular = measured(counts, ids, wanted, known, k)
            expected |= {f"popular_{name}@{k}": of_popular[f"{name}@{k}"] for name in ("recall", "ndcg")}
            assert {name: found[name] for name in expected} == pytest.approx(expected), (exclude, k)


def test_a_split_is_not_left_out_of_its_own_lists(session: Session, shop: Path) -> None:
    scorer = CatalogueScorer(session, CatalogueEvaluation(top_k=(40,)))
    found = scorer.metrics("data", str(shop / "validation"))
    assert found == scorer.metrics("validation", str(shop / "validation"))
    assert found["recall@40"] == 1  # the whole catalogue, which has all


def test_vectors_that_are_not_finite_have_no_lists(session: Session, shop: Path) -> None:
    scorer, parameter = CatalogueScorer(session, CatalogueEvaluation()), next(session.model.parameters())
    kept = parameter.detach().clone()
    with torch.no_grad():
        parameter[:] = torch.nan
    found = scorer.metrics("validation", str(shop / "validation"))
    with torch.no_grad():
        parameter[:] = kept
    assert isinstance(found["recall@20"], Undefined) and found["popular_recall@20"] > 0


EVALUATED: dict[str, Any] = {
    "epochs": 4,
    "matmul_precision": "highest",
    "evaluation": {"test": True, "catalogue": {"top_k": [5], "new_items": True}},
    "early_stopping": {"metric": "recall@5", "patience": 3},
}


@pytest.fixture(scope="module")
def run(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = run_file(tmp_path_factory.mktemp("run") / "run.yaml", shop, trainer=EVALUATED)
    return path, train(path)


def test_two_ranks_measure_as_one(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """With a sharded table; and users and items that do not divide by the ranks."""
    path, alone = run
    (together,) = train_in_processes(2, path, (f"run={tmp_path}/run", "tables={item: {placement: row_wise}}"))
    assert together["best_step"] == alone["best_step"]
    for split in ("validation", "test"):
        defined = {n: v for n, v in alone["metrics"][split].items() if not isinstance(v, Undefined)}
        assert "recall@5" in defined
        assert {n: together["metrics"][split][n] for n in defined} == pytest.approx(defined, rel=1e-4)


def test_a_resumed_run_chooses_alike(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, unbroken = run
    train(path, (f"run={tmp_path}/run", "trainer.epochs=2"))
    resumed = train(path, (f"run={tmp_path}/run",), resume=True)
    assert resumed["best_step"] == unbroken["best_step"] and resumed["steps"] == unbroken["steps"]
    names = ("recall@5", "ndcg@5", "new_recall@5", "popular_recall@5")
    for split, metrics in unbroken["metrics"].items():
        assert [str(metrics[n]) for n in names] == [str(resumed["metrics"][split][n]) for n in names]


def test_evaluated_again(run: tuple[Path, dict[str, Any]], shop: Path) -> None:
    path, summary = run
    with shardrec.open(yaml.safe_load(path.read_text())["run"]) as model:
        found = model.evaluate()
        again = model.evaluate(str(shop / "test"))["data"]
    for name in ("recall@5", "ndcg@5", "new_recall@5", "popular_recall@5", "coverage@5"):
        assert found["test"][name] == again[name] == summary["metrics"]["test"][name]


def refused(path: Path, shop: Path, **sections: Any) -> str:
    with pytest.raises(UserError) as error:
        inspect_run(load(run_file(path, shop, **sections)))
    return str(error.value)


def test_what_cannot_be_measured(shop: Path, tmp_path: Path) -> None:
    path, asked = tmp_path / "run.yaml", {"evaluation": {"catalogue": {"top_k": [5]}}}
    line = refused(path, shop, trainer=asked, model="deepfm")
    assert line.startswith("model deepfm has no vectors")
    assert "model.top_k already" in refused(path, shop, trainer=asked, model={"top_k": [5]})
    wanted = asked | {"early_stopping": {"metric": "recall@20"}}
    assert "'recall@20'" in refused(path, shop, trainer=wanted)
    assert "none.parquet" in refused(path, shop, data={"catalogue": str(shop / "none.parquet")})
