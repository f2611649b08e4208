"""The most popular items of Gowalla have the scores that the literature has, where its files are here."""

from pathlib import Path

import pytest
import yaml

from shardrec.data_pipeline.prepare.importers.pairs import PairForm, prepare_pairs
from shardrec.data_pipeline.prepare.steps.preparation import Output
from shardrec.data_pipeline.prepare.steps.source import Inputs
from shardrec.trainer.catalogue.evaluation import CatalogueScorer
from shardrec.trainer.config.load import load
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session
from tests.trainer.catalogue.conftest import ALONE


def test_the_most_popular_items(shared_data: Path, tmp_path: Path) -> None:
    """0.0416 and 0.0317, of training with the validation pairs (BARS' gowalla_m1)."""
    files = [[shared_data / "gowalla" / f"{name}.txt.gz"] for name in ("train", "valid", "test")]
    report = prepare_pairs(
        Inputs(*files, divided=False), PairForm(), Output(tmp_path / "data"), max_length=0, train_with_validation=True
    )
    assert report.tally.rows == {"train": 719_081 + 91_047, "test": 217_242}
    assert "29,858 users, 40,981 items" in str(report)
    declared = {
        "run": str(tmp_path / "run"),
        "data": {"path": str(tmp_path / "data")},
        "model": {"name": "mf", "embedding_dim": 1},
        "trainer": {"evaluation": {"catalogue": True}},
        "launch": {"device": "cpu"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(declared))
    scorer = CatalogueScorer.of(Session.build(Blueprint(load(tmp_path / "run.yaml")), ALONE))
    assert scorer is not None
    found = scorer.of_popular("test", str(tmp_path / "data" / "test"))
    assert found == {
        "popular_recall@20": pytest.approx(0.0416, abs=5e-5),
        "popular_ndcg@20": pytest.approx(0.0317, abs=5e-5),
    }
