"""Items that a batch shares: which are drawn, for whom, and what is said of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from shardrec.data_pipeline.batch import Alternatives, Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import DenseFeature, IdFeature, IdListFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.data_pipeline.reading.index import DataSet
from shardrec.data_pipeline.sampling.settings import NegativeSampling
from shardrec.data_pipeline.sampling.shared import SharedNegatives

ROWS, ITEMS, BATCH = 450, 30, 60
SCHEMA = Schema(
    features=(
        IdFeature(name="user", role="user", ids=Identity(num_ids=20)),
        IdFeature(name="item", role="item", ids=Identity(num_ids=ITEMS)),
        IdListFeature(name="tags", role="item", ids=Identity(num_ids=7)),
        IdListFeature(name="topics", role="item", ids=Identity(num_ids=7), weights="topic_weights"),
        SequenceFeature(name="seen", role="user", table="item", ids=Identity(num_ids=ITEMS), max_length=9),
        DenseFeature(name="price", role="item"),
        DenseFeature(name="age", role="user"),
    ),
    labels=(),
    weight="weight",
)
ITEM_OF = {"seen": "item"}


def lists(rows: list[list[Any]], kind: pa.DataType) -> pa.Array:
    return pa.array(rows, pa.list_(kind))


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    item = draw.zipf(1.3, ROWS) % (ITEMS - 4)  # the last four are in no row
    seen = [[*draw.integers(0, ITEMS, draw.integers(0, 6)), i, 3] for i in item]
    return {
        "user": draw.integers(0, 20, ROWS),
        "item": item,
        "tags": lists([[i % 7] * (i % 3) for i in item], pa.int64()),
        "topics": lists([[i % 5, 6] for i in item], pa.int64()),
        "topic_weights": lists([[float(i), 2.0] for i in item], pa.float32()),
        "seen": lists(seen, pa.int64()),
        "price": item / 10,
        "age": np.full(ROWS, 9.0),
        "weight": np.full(ROWS, 2.0),
    }


@pytest.fixture(scope="module")
def data(columns: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("shared")
    pq.write_table(pa.table(columns), folder / "0.parquet", row_group_size=100)
    return DataSet.open(str(folder))


def loader(data: DataSet, rank: int = 0, world_size: int = 1, *, order: Any = "shuffled", **settings: Any) -> Loader:
    sampling = NegativeSampling(**settings)
    negatives = SharedNegatives.read(sampling, data, SCHEMA, "")
    return Loader(
        data,
        SCHEMA,
        folder="",
        global_batch_size=BATCH,
        lanes=2 if order == "shuffled" else None,
        seed=5,
        order=order,
        rank=rank,
        world_size=world_size,
        negatives=negatives,
        item_of=ITEM_OF,
    )


def against(batch: Batch) -> Alternatives:
    assert batch.alternatives is not None
    return batch.alternatives


def of_row(batch: Batch, feature: str, row: int) -> list[float]:
    ids = batch.weighted_ids if feature == "topics" else batch.ids
    assert ids is not None
    offsets = ids[feature].offsets()
    return ids[feature].values()[offsets[row] : offsets[row + 1]].tolist()


def test_drawn_items_are_rows_with_their_features_alone(data: DataSet) -> None:
    for batch in loader(data, shared=8).epoch(0):
        alternatives = against(batch)
        rows = len(alternatives.items)
        assert batch.size == rows + 8 and not batch.live[rows:].any() and not batch.weights[rows:].any()
        for at in range(batch.size):
            drawn = at >= rows
            item = int(alternatives.shared[at - rows] if drawn else alternatives.items[at])
            if item < 0:
                assert not of_row(batch, "item", at) and not drawn
                continue
            assert of_row(batch, "item", at) == [item]
            assert of_row(batch, "tags", at) == [item % 7] * (item % 3)
            assert of_row(batch, "topics", at) == [item % 5, 6]
            assert batch.dense[at].tolist() == pytest.approx([item / 10, 0 if drawn else 9.0])
            assert len(of_row(batch, "user", at)) == (0 if drawn else 1)
            assert not drawn or not of_row(batch, "seen", at)
            for name in ("item", "tags", "topics", "user", "seen"):
                assert batch.host_lengths[name][at] == len(of_row(batch, name, at))
        assert batch.weighted_ids["topics"].weights().numel() == 2 * (int((alternatives.items >= 0).sum()) + 8)


def test_draws_do_not_depend_on_ranks_and_go_on_where_they_were(data: DataSet) -> None:
    """Each rank has its part, and as many rows as every other; the parts are one rank's draws."""
    settings: dict[str, Any] = {"shared": 8, "distribution": "popularity"}
    alone = list(loader(data, **settings).epoch(1))
    parts = [list(loader(data, rank, 3, **settings).epoch(1)) for rank in range(3)]
    for step, batch in enumerate(alone):
        shared = torch.cat([against(part[step]).shared for part in parts])
        assert shared.tolist() == [*against(batch).shared.tolist(), -1]
        assert len({part[step].size for part in parts}) == 1
    (again,) = list(loader(data, **settings).epoch(1, start_step=len(alone) - 1))
    assert against(again).shared.tolist() == against(alone[-1]).shared.tolist()
    drawn = {tuple(against(b).shared.tolist()) for e in (1, 2) for b in loader(data, **settings).epoch(e)}
    assert len(drawn) == 2 * len(alone)


@pytest.mark.parametrize("distribution", ["uniform", "popularity"])
def test_how_often_items_are_drawn_and_expected(
    distribution: str, data: DataSet, columns: dict[str, Any], tmp_path: Path
) -> None:
    counts = np.bincount(columns["item"], minlength=ITEMS)
    there = counts > 0
    share = counts / ROWS if distribution == "popularity" else there / there.sum()
    found, expected = np.zeros(ITEMS), 0.0
    of_item: dict[int, float] = {}
    made = loader(data, shared=20, distribution=distribution)
    for epoch in range(40):
        for batch in made.epoch(epoch):
            alternatives = against(batch)
            found += np.bincount(alternatives.shared, minlength=ITEMS)
            expected += 20
            for ids, log_q in (("items", "log_q"), ("shared", "shared_log_q")):
                pairs = zip(getattr(alternatives, ids).tolist(), getattr(alternatives, log_q).tolist(), strict=True)
                of_item |= {i: q for i, q in pairs if i >= 0}
    error = np.abs(found - expected * share) / np.sqrt(expected * share.clip(1e-9))
    assert found[~there].sum() == 0 and error[there].max() < 4.5
    assert of_item == pytest.approx({i: np.log(20 * share[i]) for i in np.flatnonzero(there)}, abs=1e-5)
    (batch, *_) = loader(data, shared=20, in_batch=True, distribution=distribution).epoch(0)
    wanted = np.log((20 * share + BATCH * counts / ROWS).clip(1e-9))
    items = against(batch).items[:9]
    assert against(batch).log_q[:9].tolist() == pytest.approx(wanted[items].tolist(), abs=1e-5)


def test_as_many_as_there_are_is_each_once(data: DataSet, columns: dict[str, Any]) -> None:
    there = np.unique(columns["item"]).tolist()
    for batch in loader(data, shared=ITEMS).epoch(0):
        assert against(batch).shared.tolist() == there
        assert against(batch).shared_log_q.tolist() == pytest.approx([0.0] * len(there), abs=1e-6)


def test_evaluation_has_the_same_items_in_each_batch_and_on_each_rank(data: DataSet) -> None:
    """Where a batch's own items are shared in training, as many are drawn by popularity."""
    parts = [list(loader(data, rank, 2, order="file", in_batch=True).epoch(0)) for rank in range(2)]
    drawn = {tuple(against(b).shared.tolist()) for part in parts for b in part}
    assert [len(items) for items in drawn] == [BATCH]
    assert not against(parts[0][0]).dealt and not against(parts[0][0]).in_batch


def test_candidates_may_be_named_by_a_file(data: DataSet, tmp_path: Path) -> None:
    items = {"item": [28, 3, 29], "tags": [[1], [], [2, 2]], "topics": [[1]] * 3, "topic_weights": [[1.0]] * 3}
    pq.write_table(pa.table({**items, "price": [1.0, 2.0, 3.0]}), tmp_path / "items.parquet")
    (batch, *_) = loader(data, shared=9, items=str(tmp_path / "items.parquet")).epoch(0)
    rows = len(against(batch).items)
    assert against(batch).shared.tolist() == [3, 28, 29]
    assert [of_row(batch, "tags", rows + i) for i in range(3)] == [[], [1], [2, 2]]
    assert batch.dense[rows:, 0].tolist() == [2, 1, 3]


def test_a_history_is_without_the_rows_own_item(data: DataSet, columns: dict[str, Any]) -> None:
    seen = columns["seen"].to_pylist()
    for batch in loader(data, in_batch=True).epoch(0):
        for at, row in enumerate(batch.rows.tolist()):
            if row >= 0:
                own = columns["item"][row]
                assert of_row(batch, "seen", at) == [i for i in seen[row][-9:] if i != own]
                assert batch.host_lengths["seen"][at] == len(of_row(batch, "seen", at))
                assert own in seen[row]


def test_a_row_that_is_no_positive_is_named(tmp_path: Path, columns: dict[str, Any]) -> None:
    label = np.ones(ROWS)
    label[7] = 0
    pq.write_table(pa.table({**columns, "label": label}), tmp_path / "0.parquet")
    schema = SCHEMA.model_copy(update={"labels": (Label(name="label"),)})
    with pytest.raises(UserError, match=r"row 7: label 'label' is 0, but data\.negatives takes every training row"):
        SharedNegatives.read(NegativeSampling(in_batch=True), DataSet.open(str(tmp_path)), schema, "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shared": 5, "per_positive": 4}, "per_positive gives each row negatives of its own"),
        ({"distribution": "popularity"}, "distribution: popularity is of the items that a batch shares"),
        ({"in_batch": True, "distribution": "popularity"}, "distribution: popularity is of the items"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        NegativeSampling(**settings)


def test_settings_go_around_and_are_known_to_older_checkpoints() -> None:
    for settings in ({}, {"per_positive": 2}, {"shared": 9}, {"in_batch": True}):
        sampling = NegativeSampling(**settings)
        assert NegativeSampling(**sampling.model_dump()) == sampling
    old = {"per_positive": 4, "user": "user", "item": "item", "distribution": "uniform", "items": None}
    assert NegativeSampling().state() == old
