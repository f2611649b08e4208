"""Planted interests: what the log says, and that pooled histories hide it."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.prepare.commands import app
from shardrec.data_pipeline.prepare.generators.interests import InterestLog
from shardrec.data_pipeline.prepare.generators.planted import Histories, LogRows

LOG = InterestLog(Histories(items=20_000, mean_length=23, max_length=50), negatives=True)
ORDERED = replace(LOG, order=True)
ROWS = 20_000


@pytest.fixture(scope="module")
def block() -> LogRows:
    return LOG.block("train", 0, ROWS)


def said(log: InterestLog, block: LogRows, row: int) -> float:
    """The sum of the opinions of a row's events of the target's category, fading where the order counts."""
    (items, offsets), (categories, _) = block.lists["item_history"], block.lists["category_history"]
    total = 0.0
    for item, category in zip(*(x[offsets[row] : offsets[row + 1]] for x in (items, categories)), strict=True):
        if category == block.columns["category"][row]:
            total = total * (0.25 if log.order else 1) + float(log.opinion(np.array([item]))[0])
    return total


@pytest.mark.parametrize("log", [LOG, ORDERED])
def test_clicks_follow_the_events_of_the_targets_category(log: InterestLog) -> None:
    block = log.block("train", 0, ROWS)
    parts = log.parts(block)
    expected = [said(log, block, row) for row in range(300)]
    np.testing.assert_allclose(parts.interest[:300], expected, atol=1e-12)
    logit = np.log(block.probability / (1 - block.probability.astype(np.float64)))
    design = np.stack([parts.quality, parts.interest, np.ones(ROWS)], 1)
    weights, residual, *_ = np.linalg.lstsq(design, logit, rcond=None)
    assert residual / ROWS < 1e-6
    spread = weights[:2] * design[:, :2].std(0)
    assert spread == pytest.approx([log.quality, log.interest], rel=0.05)
    assert block.label.mean() == pytest.approx(0.5, abs=0.02) == pytest.approx(block.probability.mean(), abs=0.02)


def test_histories_mix_interests_in_runs(block: LogRows) -> None:
    items, offsets = block.lists["item_history"]
    categories, _ = block.lists["category_history"]
    np.testing.assert_array_equal(categories, LOG.category(items))
    np.testing.assert_array_equal(block.columns["category"], LOG.category(block.columns["item"]))
    assert np.bincount(categories, minlength=100).min() > 0.85 * len(items) / 100  # each as popular as the others
    per_row = [len(set(categories[a:b])) for a, b in pairwise(offsets[:501])]
    assert np.mean(per_row) > 4 and max(per_row) <= LOG.interests
    again = categories[1:] == categories[:-1]
    again[offsets[1:-1] - 1] = False
    assert again.sum() / (len(items) - ROWS) == pytest.approx(0.5 + 0.5 / LOG.interests, abs=0.01)


def test_negatives_are_of_categories_that_the_history_has_not(block: LogRows) -> None:
    (items, offsets), (categories, _) = block.lists["negative_item_history"], block.lists["negative_category_history"]
    np.testing.assert_array_equal(categories, LOG.category(items))
    owner = np.repeat(np.arange(ROWS), np.diff(offsets))
    had = np.zeros((ROWS, LOG.categories), bool)
    had[owner, block.lists["category_history"][0]] = True
    assert not had[owner, categories].any()
    assert np.bincount(categories, minlength=100).min() > 0.85 * len(items) / 100


def test_a_row_does_not_depend_on_how_many_are_drawn(block: LogRows) -> None:
    few = replace(LOG).block("train", 0, 100)
    np.testing.assert_array_equal(few.probability, block.probability[:100])
    np.testing.assert_array_equal(few.label, block.label[:100])
    for name, (values, offsets) in few.lists.items():
        np.testing.assert_array_equal(values, block.lists[name][0][: offsets[-1]])
    other = LOG.block("test", 0, 100)
    assert (other.columns["item"] != few.columns["item"]).any()


@pytest.mark.parametrize("dim", [8, 16])
def test_pooled_histories_hide_it(block: LogRows, dim: int) -> None:
    """A pool of `dim` numbers that knows all opinions: each is written along its category's direction, and the
    target's direction reads them. The best such reader, with the quality beside it, is well below what can be reached.
    """
    items, offsets = block.lists["item_history"]
    directions = np.random.default_rng(0).standard_normal((LOG.categories, dim)) / dim**0.5
    written = LOG.opinion(items)[:, None] * directions[block.lists["category_history"][0]]
    total = np.add.reduceat(written, offsets[:-1])
    best = roc_auc_score(block.label, block.probability)
    quality = LOG.parts(block).quality
    for pooled in (total, total / np.diff(offsets)[:, None]):
        read = (pooled * directions[block.columns["category"]]).sum(1)
        scores = [a * read / read.std() + 0.4 * quality / quality.std() for a in (0.5, 1, 1.5, 2, 3)]
        assert max(roc_auc_score(block.label, score) for score in scores) < best - 0.03


def test_without_the_order_much_is_lost() -> None:
    block = ORDERED.block("train", 0, ROWS)
    parts, unordered = ORDERED.parts(block), LOG.parts(block).interest
    (categories, offsets) = block.lists["category_history"]
    same = categories == np.repeat(block.columns["category"], np.diff(offsets))
    n = np.add.reduceat(same.astype(np.int64), offsets[:-1])
    guess = unordered * (1 - 0.25**n) / 0.75 / np.maximum(n, 1)  # the mean of the signal over all orders of the events
    quality = 0.4 * parts.quality / parts.quality.std()
    scores = [a * guess / guess.std() + quality for a in (0.5, 1, 1.5, 2)]
    best = roc_auc_score(block.label, block.probability)
    assert max(roc_auc_score(block.label, score) for score in scores) < best - 0.05


def test_the_command_writes_rows_and_the_best_scores(tmp_path: Path) -> None:
    out = tmp_path / "log"
    sizes = ["--rows", "4000", "--items", "900", "--mean-length", "6", "--max-length", "9", "--categories", "30"]
    options = ["synthetic-histories", str(out), *sizes, "--order", "--history-negatives"]
    result = CliRunner().invoke(app, options)
    assert result.exception is None, result.output
    best = yaml.safe_load((out / "best.yaml").read_text())
    assert f"best attainable on test: AUC {best['test']['auc']:.4f}" in result.output
    schema, table = Schema.load(out / "schema.yaml"), pq.read_table(out / "train")
    assert table.num_rows == 3200
    assert {c for f in schema.features for c in f.columns} | {"label", "probability"} == set(table.column_names)
    assert [(f.name, f.table_name, f.role, f.num_embeddings) for f in schema.sparse] == [
        ("item", "item", "item", 900),
        ("category", "category", "item", 30),
        ("item_history", "item", "user", 900),
        ("category_history", "category", "user", 30),
        ("negative_item_history", "item", "user", 900),
        ("negative_category_history", "category", "user", 30),
    ]
    assert {f.aligned for f in schema.sparse[2:]} == {"history"}  # type: ignore[union-attr]
    lengths = [table.column(f.name).combine_chunks().value_lengths().to_numpy() for f in schema.sparse[2:]]
    assert all((x == lengths[0]).all() for x in lengths) and lengths[0].max() <= 9
    test = pq.read_table(out / "test")
    auc = roc_auc_score(test.column("label").to_numpy(), test.column("probability").to_numpy())
    assert best["test"]["auc"] == pytest.approx(auc, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"interests": 0}, "interests=0, expected 1 or more"),
        ({"categories": 19}, "categories=19, expected from twice the interests to the number of items"),
        ({"categories": 30_000}, "categories=30000, expected from twice"),
        ({"click_rate": 0.0}, "click_rate=0.0"),
        ({"skew": -1.0}, "skew=-1.0"),
        ({"reach": 0.0}, "reach=0.0"),
        ({"seed": -1}, "seed=-1"),
        ({"histories": Histories(100, 9, 8)}, "mean_length=9, max_length=8"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(settings: dict, line: str) -> None:
    with pytest.raises(UserError, match=line):
        replace(LOG, **settings)
