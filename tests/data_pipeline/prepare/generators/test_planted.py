from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.generators.planted import (
    BLOCK_ROWS,
    Histories,
    LogRows,
    PlantedLog,
    PowerLaw,
    Strengths,
)

SMALL = PlantedLog(ids=(50, 30, 20, 40, 10, 50), dense=2)
WITH_HISTORY = PlantedLog(ids=(50, 30), dense=1, histories=Histories(items=3_000, mean_length=8, max_length=30))


# ---------------------------------------------------------------- the law of ids


@settings(max_examples=200)
@given(st.sampled_from([1, 2, 7, 10**4, 10**9, 2**53]), st.floats(0, 40), st.sampled_from([0.0, 0.5, 1 - 2**-53]))
def test_ids_are_in_range_for_any_size_and_skew(num_ids: int, skew: float, extreme: float) -> None:
    law = PowerLaw(num_ids, skew)
    ids = law.ids(np.append(np.linspace(0, 1, 50, endpoint=False), extreme))
    assert ids.min() >= 0 and ids.max() < num_ids
    assert (np.diff(ids[:50]) >= 0).all()
    assert law.below(0) == 0 and law.below(num_ids) == 1


@pytest.mark.parametrize("skew", [0.0, 0.7, 1.0, 1.2, 2.5])
def test_ids_are_as_frequent_as_the_law_says(skew: float) -> None:
    law, draws = PowerLaw(1_000, skew), 400_000
    counts = np.bincount(law.ids(np.random.default_rng(0).random(draws)), minlength=1_000)
    expected = draws * np.diff(law.below(np.arange(1_001)))
    deviation = (counts - expected) / np.sqrt(expected * (1 - expected / draws))
    assert np.abs(deviation[expected > 20]).max() < 5
    assert 0.8 < (deviation[expected > 20] ** 2).mean() < 1.25 or (expected > 20).sum() < 100


@pytest.mark.parametrize("skew", [0.5, 1.0, 1.2, 2.0])
def test_frequency_falls_as_a_power_of_the_rank(skew: float) -> None:
    share = np.diff(PowerLaw(10**9, skew).below(np.array([100, 101, 10_000, 10_001])))[[0, 2]]
    assert np.log(share[0] / share[1]) / np.log(10_000.5 / 100.5) == pytest.approx(skew, rel=0.01)


def test_a_billion_ids_reach_the_tail() -> None:
    ids = PowerLaw(10**9, 0.5).ids(np.random.default_rng(0).random(10_000))
    assert len(np.unique(ids)) > 9_900
    assert np.median(ids) == pytest.approx(0.25e9, rel=0.1)  # half of the mass lies below n / 4 where skew is 1 / 2


# ---------------------------------------------------------------- rows


def equal(a: LogRows, b: LogRows, rows: int) -> None:
    for name, values in a.columns.items():
        np.testing.assert_array_equal(values[:rows], b.columns[name][:rows])
    np.testing.assert_array_equal(a.probability[:rows], b.probability[:rows])
    np.testing.assert_array_equal(a.label[:rows], b.label[:rows])


def test_a_row_does_not_depend_on_how_many_are_drawn() -> None:
    log = replace(WITH_HISTORY, seed=3)
    few, many = log.block("train", 2, rows=100), replace(log).block("train", 2, rows=20_001)
    equal(few, many, 100)
    (items, offsets), (more_items, more_offsets) = few.lists["history"], many.lists["history"]
    np.testing.assert_array_equal(offsets, more_offsets[:101])
    np.testing.assert_array_equal(items, more_items[: offsets[-1]])


def test_blocks_splits_and_seeds_differ() -> None:
    blocks = [SMALL.block("train", 0), SMALL.block("train", 1), SMALL.block("test", 0)]
    blocks.append(replace(SMALL, seed=1).block("train", 0))
    for a, b in combinations(blocks, 2):
        same = [np.mean(a.columns[name] == b.columns[name]) for name in ("id_1", "dense_1")]
        assert same[0] < 0.5 and same[1] < 0.01


def test_columns_are_independent() -> None:
    block = PlantedLog(ids=(1_000,) * 4, dense=3, skew=0.0).block("train", 0)
    correlation = np.corrcoef([*block.columns.values(), block.label])
    assert np.abs(correlation[:7, :7] - np.eye(7)).max() < 0.02


def test_labels_follow_the_probabilities() -> None:
    block = SMALL.block("train", 0)
    order = np.argsort(block.probability)
    for part in np.array_split(order, 20):
        p = block.probability[part].astype(np.float64)
        assert abs(block.label[part].sum() - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum())


@pytest.mark.parametrize("rate", [0.01, 0.25, 0.8])
def test_the_click_rate_is_as_asked(rate: float) -> None:
    log = replace(SMALL, strengths=Strengths(click_rate=rate))
    assert log.block("test", 5).probability.mean() == pytest.approx(rate, rel=0.03)


# ---------------------------------------------------------------- the planted logit


def loops(log: PlantedLog, block: LogRows, row: int) -> tuple[float, float, list[float]]:
    """(sum of weights, sum of dot products of all pairs, share of same taste) of a row, before centring."""
    hidden = [log.hidden(name, block.columns[name][row : row + 1])[:, 0].astype(np.float64) for name in log.fields]
    centres = [
        log.hidden(name, np.arange(n)) @ np.diff(PowerLaw(n, log.skew).below(np.arange(n + 1)))
        for name, n in log.fields.items()
    ]
    factors = [h[1:] - c[1:] for h, c in zip(hidden, centres, strict=True)]
    share = []
    if block.lists:
        items, offsets = block.lists["history"]
        mine = items[offsets[row] : offsets[row + 1]]
        target = log.taste(block.columns["item"][row : row + 1])[0]
        share = [sum(int(t == target) for t in log.taste(mine)) / len(mine)]
    return sum(h[0] for h in hidden), sum(float(a @ b) for a, b in combinations(factors, 2)), share


@pytest.mark.parametrize("log", [SMALL, WITH_HISTORY])
def test_the_logit_is_the_formula(log: PlantedLog) -> None:
    block, rows = log.block("train", 0), 600
    found = [loops(log, block, row) for row in range(rows)]
    dense = np.stack([block.columns[f"dense_{i + 1}"][:rows] for i in range(log.dense)], 1)
    parts = np.column_stack([[a for a, _, _ in found], [b for _, b, _ in found], [s for _, _, s in found], dense])
    p = block.probability[:rows].astype(np.float64)
    logit = np.log(p / (1 - p))
    design = np.column_stack([parts, np.ones(rows)])
    fitted, *_ = np.linalg.lstsq(design, logit, rcond=None)
    # centres here are exact, those of the log are means over its pilot block
    assert np.abs(design @ fitted - logit).max() < 0.03
    spread = fitted[:-1] * parts.std(0)
    assert spread[0] == pytest.approx(log.strengths.additive, rel=0.1)
    assert spread[1] == pytest.approx(log.strengths.interaction, rel=0.1)
    history = parts.shape[1] - log.dense
    assert spread[2:history] == pytest.approx([log.strengths.history] * (history - 2), rel=0.1)
    assert np.sqrt((fitted[history:-1] ** 2).sum()) == pytest.approx(log.strengths.dense, rel=0.02)


def test_the_effect_of_an_id_fades_with_its_rank() -> None:
    hidden = PlantedLog(ids=(10**6,), reach=100).hidden("id_1", np.arange(10**6))
    spread = hidden.reshape(3, 1_000, 1_000).std((0, 2))  # over 1,000 ids each
    assert spread[900] / spread[99] == pytest.approx(99_600 / 900_600, rel=0.1)
    assert hidden[:, :20].std() == pytest.approx(1 / np.sqrt(3), rel=0.2)
    assert np.abs(np.corrcoef(hidden) - np.eye(3)).max() < 0.1


def one_hot(log: PlantedLog, block: LogRows) -> csr_matrix:
    """Ids one-hot beside the dense columns."""
    sizes = list(log.fields.values())
    starts = np.cumsum([0, *sizes])
    rows, dense = len(block.label), np.stack([block.columns[f"dense_{i + 1}"] for i in range(log.dense)], 1)
    places = np.stack([block.columns[name] + start for name, start in zip(log.fields, starts, strict=False)], 1)
    places = np.column_stack([places, np.tile(starts[-1] + np.arange(log.dense), (rows, 1))])
    values = np.column_stack([np.ones((rows, len(sizes))), dense])
    offsets = np.arange(rows + 1) * places.shape[1]
    return csr_matrix((values.ravel(), places.ravel(), offsets), (rows, starts[-1] + log.dense))


@pytest.mark.parametrize("interaction", [0.0, 0.7])
def test_a_model_without_interactions_falls_short_by_them_and_only_by_them(interaction: float) -> None:
    log = PlantedLog(ids=(50,) * 8, strengths=Strengths(interaction=interaction))
    train, test = log.block("train", 0), log.block("test", 0)
    model = LogisticRegression(C=0.3, max_iter=100).fit(one_hot(log, train), train.label)
    gap = roc_auc_score(test.label, test.probability) - roc_auc_score(
        test.label, model.decision_function(one_hot(log, test))
    )
    assert gap > 0.03 if interaction else gap < 0.005


# ---------------------------------------------------------------- histories


def test_histories_have_the_lengths_and_items_that_were_asked() -> None:
    for mean, longest in ((1, 1), (1, 50), (23, 50), (50, 50), (3, 50)):
        histories = Histories(items=1_005, mean_length=mean, max_length=longest)
        block = replace(WITH_HISTORY, histories=histories).block("train", 0)
        items, offsets = block.lists["history"]
        lengths = np.diff(offsets)
        assert offsets[0] == 0 and offsets[-1] == len(items) and len(lengths) == BLOCK_ROWS
        assert lengths.min() >= 1 and lengths.max() <= longest
        assert lengths.mean() == pytest.approx(mean, rel=0.02)
        assert items.min() >= 0 and items.max() < 1_005


def test_an_items_taste_is_hidden_and_every_taste_is_equally_popular() -> None:
    tastes = WITH_HISTORY.taste(np.arange(1_000)).reshape(100, 10)
    assert (np.sort(tastes, axis=1) == np.arange(10)).all()
    assert len(np.unique(tastes[:, 0])) == 10  # not the id's remainder


def test_a_history_of_the_targets_taste_makes_clicks_likelier() -> None:
    block = WITH_HISTORY.block("train", 0)
    items, offsets = block.lists["history"]
    row = np.repeat(np.arange(BLOCK_ROWS), np.diff(offsets))
    same = WITH_HISTORY.taste(items) == WITH_HISTORY.taste(block.columns["item"])[row]
    share = np.bincount(row, same) / np.diff(offsets)
    assert block.label[share > 0.4].mean() > 0.4 > 0.2 > block.label[share == 0].mean()
    assert 0.05 < (share > 0.4).mean() < 0.2


def test_target_and_history_share_a_table() -> None:
    schema = WITH_HISTORY.schema
    assert schema["history"].table_name == schema["item"].table_name
    assert schema["history"].max_length == 30


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings_", "line"),
    [
        ({"ids": ()}, "one field or more"),
        ({"ids": (5, 0)}, "each of 1 id or more"),
        ({"ids": (5,), "dense": -1}, "dense=-1"),
        ({"ids": (5,), "skew": -0.1}, "skew=-0.1"),
        ({"ids": (5,), "reach": 0}, "reach=0"),
        ({"ids": (5,), "seed": -1}, "seed=-1"),
        ({"ids": (5,), "strengths": Strengths(click_rate=1.0)}, "click_rate=1.0"),
        ({"ids": (5,), "histories": Histories(0, 1, 1)}, "items=0"),
        ({"ids": (5,), "histories": Histories(10, 9, 8)}, "mean_length=9, max_length=8"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(settings_: dict, line: str) -> None:
    with pytest.raises(UserError, match=line):
        PlantedLog(**settings_)


def test_the_smallest_logs_work() -> None:
    block = PlantedLog(ids=(1,), dense=0).block("train", 0, rows=3)
    assert (block.columns["id_1"] == 0).all()
    np.testing.assert_allclose(block.probability, 0.25, atol=1e-6)  # there is nothing to tell rows apart
    assert len(WITH_HISTORY.block("test", 0, rows=0).label) == 0
