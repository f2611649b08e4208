"""Negatives: what is drawn, that it follows rows wherever they go, and what cannot be drawn."""

import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import (
    DenseFeature,
    DenseSequenceFeature,
    FeatureCross,
    IdFeature,
    IdListFeature,
    SequenceFeature,
)
from shardrec.data_pipeline.features.id_transforms import Cross, Identity
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.data_pipeline.reading.index import DataSet
from shardrec.data_pipeline.sampling.negatives import Negatives, NegativeSampler, check_negatives
from shardrec.data_pipeline.sampling.pairs import PairSet
from shardrec.data_pipeline.sampling.settings import NegativeSampling

USERS, ITEMS = 9, 30
SCHEMA = Schema(
    features=(
        IdFeature(name="hour", role="context", ids=Identity(num_ids=24)),
        IdFeature(name="item", role="item", ids=Identity(num_ids=ITEMS)),
        IdFeature(name="user", role="user", ids=Identity(num_ids=USERS)),
        IdListFeature(name="genres", role="item", ids=Identity(num_ids=100), weights="shares"),
        SequenceFeature(name="path", role="user", ids=Identity(num_ids=1000), max_length=3),
        IdFeature(name="brand", role="item", ids=Identity(num_ids=10)),
        DenseFeature(name="price", role="item"),
        DenseFeature(name="age", role="user"),
        DenseSequenceFeature(name="size_prices", role="item", max_length=2, aligned="sizes"),
        DenseSequenceFeature(name="size_weights", role="item", max_length=2, aligned="sizes"),
        SequenceFeature(name="sizes", role="item", ids=Identity(num_ids=100), max_length=2, aligned="sizes"),
    ),
    labels=(Label(), Label(name="rating")),
    weight="weight",
    group="user",
)


def item_columns(items: np.ndarray) -> dict[str, pa.Array]:
    genres = [[int(i), 99 - int(i)][: i % 3] for i in items]
    sizes = [list(range(int(i), int(i) + i % 4)) for i in items]
    return {
        "item": pa.array(items),
        "genres": pa.array(genres, pa.list_(pa.int64())),
        "shares": pa.array([[g / 10 for g in of_item] for of_item in genres], pa.list_(pa.float32())),
        "brand": pa.array(items % 10),
        "price": pa.array(items / 4, pa.float32()),
        "sizes": pa.array(sizes, pa.list_(pa.int64())),
        "size_prices": pa.array([[s / 8 for s in of_item] for of_item in sizes], pa.list_(pa.float32())),
        "size_weights": pa.array([[-s for s in of_item] for of_item in sizes], pa.list_(pa.int32())),
    }


def write(folder: Path, rows: int, seed: int = 0, group_rows: int = 16) -> list[tuple[int, int]]:
    """Rows of random pairs, one of each user first; other columns are functions of user, item and row. The pairs."""
    r = np.random.default_rng(seed)
    users, items, row = r.integers(0, USERS, rows), r.integers(0, ITEMS, rows), np.arange(rows)
    users[:USERS] = items[:USERS] = row[:USERS]
    columns = {
        **item_columns(items),
        "user": users,
        "hour": row % 24,
        "path": pa.array([list(range(n, n + n % 4)) for n in row], pa.list_(pa.int64())),
        "age": (users / 2).astype(np.float32),
        "label": np.ones(rows, np.float32),
        "rating": (row % 5 + 1).astype(np.float32),
        "weight": (row % 3 + 1).astype(np.float32),
    }
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "0.parquet", row_group_size=group_rows)
    return list(zip(users.tolist(), items.tolist(), strict=True))


def load(folder: Path, per_positive: int = 3, sampling: NegativeSampling | None = None, **options) -> Loader:
    source = DataSet.open(folder)
    sampling = sampling or NegativeSampling(per_positive=per_positive)
    negatives = pickle.loads(pickle.dumps(Negatives.read(sampling, source, SCHEMA, ".")))  # as other ranks get it
    given = {"folder": ".", "global_batch_size": 4 * (1 + per_positive), "window": 32, "prefetch": 0, **options}
    return Loader(source, SCHEMA, negatives=negatives, **given)


def check(batch: Batch, pairs: list[tuple[int, int]], per_positive: int) -> dict[int, list[int]]:
    """Every column of a batch is right; row -> the items drawn for it, in order."""
    live = int(batch.live.sum())
    assert live % (1 + per_positive) == 0 and (batch.rows[live:] == -1).all() and not batch.weights[live:].any()
    ids = {key: [x.tolist() for x in value.to_dense()] for key, value in batch.ids.to_dict().items()}
    weighted = batch.weighted_ids.to_dict()["genres"]
    drawn: dict[int, list[int]] = {}
    sizes = [s for of_item in ids["sizes"] for s in of_item]
    assert batch.dense_sequences["size_prices"].tolist() == [s / 8 for s in sizes]
    assert batch.dense_sequences["size_weights"].tolist() == [-s for s in sizes]
    for n, row in enumerate(batch.rows[:live].tolist()):
        user, own = pairs[row]
        (item,) = ids["item"][n]
        if row not in drawn:  # the row itself
            drawn[row] = []
            assert (item, batch.labels["label"][n], batch.labels["rating"][n]) == (own, 1, row % 5 + 1)
        else:
            drawn[row].append(item)
            assert (user, item) not in pairs
            assert batch.labels["label"][n] == batch.labels["rating"][n] == 0
        assert ids["user"][n] == [user] == [batch.groups[n]] and ids["hour"][n] == [row % 24]
        assert ids["path"][n] == list(range(row, row + row % 4))[-3:]
        assert ids["sizes"][n] == list(range(item, item + item % 4))[-2:]
        assert ids["brand"][n] == [item % 10] and batch.weights[n] == row % 3 + 1
        assert batch.dense[n].tolist() == [item / 4, user / 2]
        genres = [item, 99 - item][: item % 3]
        assert weighted.to_dense()[n].tolist() == genres
        assert weighted.to_dense_weights()[n].tolist() == pytest.approx([g / 10 for g in genres])
    assert all(len(items) == per_positive for items in drawn.values())
    return drawn


def all_drawn(loaders: list[Loader], pairs: list[tuple[int, int]], per_positive: int, epoch: int) -> dict[int, list]:
    drawn: dict[int, list[int]] = {}
    for loader in loaders:
        for batch in loader.epoch(epoch):
            found = check(batch, pairs, per_positive)
            assert not found.keys() & drawn.keys()
            drawn |= found
    return drawn


def same(a: Batch, b: Batch) -> bool:
    tensors = [(x.rows, x.dense, x.labels["label"], x.ids.values(), x.weighted_ids.values()) for x in (a, b)]
    return all(torch.equal(x, y) for x, y in zip(*tensors, strict=True))


@settings(max_examples=12)
@given(
    rows=st.integers(USERS, 70),
    per_positive=st.integers(1, 5),
    lanes=st.sampled_from([1, 2, 4]),
    world_size=st.integers(1, 5),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 3),
    data=st.data(),
)
def test_draws_belong_to_rows_whatever_reads_them(
    tmp_path_factory, rows, per_positive, lanes, world_size, seed, epoch, data
):
    folder = tmp_path_factory.mktemp("rows")
    pairs = write(folder, rows)
    alone = all_drawn([load(folder, per_positive, seed=seed, lanes=1)], pairs, per_positive, epoch)
    assert sorted(alone) == list(range(rows))
    options = {"seed": seed, "lanes": lanes, "world_size": world_size, "window": data.draw(st.integers(1, 40))}
    ranks = [load(folder, per_positive, rank=rank, **options) for rank in range(world_size)]
    assert all_drawn(ranks, pairs, per_positive, epoch) == alone
    assert sum(rank.rows_read for rank in ranks) == rows
    rank = data.draw(st.sampled_from(ranks))
    full, start = list(rank.epoch(epoch)), data.draw(st.integers(0, rank.steps_per_epoch))
    resumed = list(rank.epoch(epoch, start))
    assert len(resumed) == len(full) - start
    assert all(same(a, b) for a, b in zip(resumed, full[start:], strict=True))


def test_every_epoch_and_seed_draws_anew(tmp_path):
    pairs = write(tmp_path, 60)
    first = all_drawn([load(tmp_path)], pairs, 3, 0)
    for seed, epoch in ((0, 1), (1, 0)):
        other = all_drawn([load(tmp_path, seed=seed)], pairs, 3, epoch)
        drawn = [(x, y) for row in first for x, y in zip(first[row], other[row], strict=True)]
        assert np.mean([x == y for x, y in drawn]) < 0.2  # 1/20 by chance


def of_log(tmp_path: Path, known: dict[int, list[int]], **settings) -> Negatives:
    """Of a log where these users have these items."""
    pairs = [(user, item) for user, items in known.items() for item in items]
    users, items = (np.array(column) for column in zip(*pairs, strict=True))
    schema = SCHEMA.subset(["user", "item"]).unlabelled()
    pq.write_table(pa.table({"user": users, "item": items}), tmp_path / "0.parquet")
    return Negatives.read(NegativeSampling(**settings), DataSet.open(tmp_path / "0.parquet"), schema, ".")


def sampler(tmp_path: Path, known: dict[int, list[int]]) -> tuple[NegativeSampler, np.ndarray]:
    """And its candidates."""
    negatives = of_log(tmp_path, known, per_positive=4)
    return NegativeSampler(negatives, negatives.layout, seed=5), negatives.catalogue.ids[0]


@pytest.mark.parametrize("left", [1, 2, 3, 12, 28], ids=lambda left: f"{left} of 30 left")
def test_draws_are_uniform_over_what_is_left(tmp_path, left):
    from scipy.stats import chi2

    made, items = sampler(tmp_path, {0: list(range(left, 30)), 1: list(range(15)), 2: list(range(15, 30))})
    drawn = made.draw(np.zeros(5000, np.int32), np.arange(5000), epoch=2)
    counts = np.bincount(items[drawn.ravel()], minlength=30)
    assert drawn.shape == (4, 5000) and not counts[left:].any()
    expected = drawn.size / left
    assert ((counts[:left] - expected) ** 2 / expected).sum() <= chi2.ppf(0.999, max(left - 1, 1))


def test_a_users_items_and_the_draws_of_a_row_are_independent(tmp_path):
    made, _ = sampler(tmp_path, {0: [0], 1: list(range(1, 30))})
    drawn = made.draw(np.zeros(20_000, np.int32), np.arange(20_000), epoch=0)
    for a, b in ((drawn[0], drawn[1]), (drawn[3][:-1], drawn[0][1:])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.03


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_a_user_who_has_everything_is_found_at_the_start(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("shardrec.data_pipeline.sampling.negatives.READ_ROWS", chunk)
    of_log(tmp_path, {0: [0], 3: list(range(29)), 4: list(range(1, 30))})
    with pytest.raises(UserError, match=r"user 3 \(.*\) has all 30 candidates in training.*negatives\.items"):
        of_log(tmp_path, {0: [0], 3: list(range(30)), 4: [1]})
    pq.write_table(pa.table({"item": [28, 2]}), tmp_path / "items.parquet")
    few = str(tmp_path / "items.parquet")
    of_log(tmp_path, {0: [0, 2], 3: [28, 29], 4: [3]}, items=few)
    with pytest.raises(UserError, match=r"user 4 \(.*\) has all 2 candidates in training"):
        of_log(tmp_path, {0: [0, 2], 3: [28, 29], 4: [1, 2, 27, 28, 29]}, items=few)


def test_a_training_row_that_is_no_positive(tmp_path):
    write(tmp_path, 60)
    table = pq.read_table(tmp_path / "0.parquet")
    labels = np.ones(60, np.float32)
    labels[41] = 3
    spoilt = table.set_column(table.column_names.index("label"), "label", pa.array(labels))
    pq.write_table(spoilt, tmp_path / "0.parquet", row_group_size=16)
    load(tmp_path)
    strict = SCHEMA.model_copy(update={"labels": (Label(threshold=3), Label(name="rating"))})
    with pytest.raises(UserError, match=r"0\.parquet, row 0: label 'label' is 0, but data\.negatives takes every"):
        Negatives.read(NegativeSampling(), DataSet.open(tmp_path), strict, ".")
    labels[41] = -1
    spoilt = table.set_column(table.column_names.index("label"), "label", pa.array(labels))
    pq.write_table(spoilt, tmp_path / "0.parquet", row_group_size=16)
    with pytest.raises(UserError, match=r"0\.parquet, row 41: label 'label' is -1"):
        load(tmp_path)


def crossing(*features: IdFeature) -> Schema:
    return SCHEMA.model_copy(update={"features": (*SCHEMA.features, *features)})


def prepared_cross(name: str, *columns: str, **settings) -> IdFeature:
    return IdFeature(name=name, ids=Identity(num_ids=9, prepared=Cross(columns=columns, num_ids=9)), **settings)


@pytest.mark.parametrize(
    "cross",
    [
        IdFeature(name="x", role="context", ids=Cross(columns=("user", "item"), num_ids=9)),
        IdFeature(name="x", role="item", ids=Cross(columns=("brand", "hour"), num_ids=9)),
        IdFeature(name="x", ids=FeatureCross(features=(SCHEMA["user"], SCHEMA["brand"]), num_ids=9)),
        prepared_cross("x", "user", "item", role="context"),
        IdListFeature(name="x", ids=FeatureCross(features=(SCHEMA["user"], SCHEMA["genres"]), num_ids=9)),
    ],
    ids=["of columns", "item or not", "of features", "prepared", "with a list"],
)
def test_a_cross_of_the_item_with_others_would_give_labels_away(cross):
    with pytest.raises(
        UserError, match=r"feature 'x' is a cross of the item with others and would keep.*data\.crosses"
    ):
        check_negatives(NegativeSampling(), crossing(cross), ["x"], ".")


@pytest.mark.parametrize(
    ("cross", "brought"),
    [
        (IdFeature(name="x", role="item", ids=Cross(columns=("user", "hour"), num_ids=9)), False),
        (IdFeature(name="x", ids=FeatureCross(features=(SCHEMA["user"], SCHEMA["hour"]), num_ids=9)), False),
        (IdFeature(name="x", ids=FeatureCross(features=(SCHEMA["item"], SCHEMA["brand"]), num_ids=9)), True),
        (IdFeature(name="x", role="user", ids=Cross(columns=("item", "brand"), num_ids=9)), True),
        (prepared_cross("x", "user", "elsewhere", role="user"), False),
        (IdListFeature(name="x", ids=FeatureCross(features=(SCHEMA["item"], SCHEMA["genres"]), num_ids=9)), True),
    ],
    ids=["with role item", "user x context", "of the item's", "with role user", "prepared", "with a list"],
)
def test_other_crosses_go_with_what_they_are_of(cross, brought):
    schema = NegativeSampling().read_from(crossing(cross), ["x"])
    assert [f.name for f in schema.features] == ["item", "user", "x"]
    assert NegativeSampling().item_features(schema) == (("item", "x") if brought else ("item",))


def test_a_drawn_items_crosses_come_with_it(tmp_path):
    write(tmp_path, 40)
    source = DataSet.open(tmp_path)
    of_item = IdFeature(name="x", ids=FeatureCross(features=(SCHEMA["item"], SCHEMA["brand"]), num_ids=10**9))
    of_user = IdFeature(name="y", ids=FeatureCross(features=(SCHEMA["user"], SCHEMA["hour"]), num_ids=10**9))
    schema = NegativeSampling().read_from(crossing(of_item, of_user), ["item", "x", "y"])
    negatives = Negatives.read(NegativeSampling(per_positive=2), source, schema, ".")
    loader = Loader(source, schema, folder=".", global_batch_size=12, negatives=negatives, id_order=["item", "x", "y"])
    of, stays = {}, {}
    for batch in loader.epoch(0):
        item, x, y = batch.ids.values().view(3, -1).tolist()
        for row, *ids in zip(batch.rows.tolist(), item, x, y, strict=True):
            if row >= 0:
                assert of.setdefault(ids[0], ids[1]) == ids[1]
                assert stays.setdefault(row, ids[2]) == ids[2]
    assert len(set(of.values())) == len(of) > 10


def test_known_pairs_are_part_of_the_memory(tmp_path):
    write(tmp_path, 60)
    negatives = Negatives.read(NegativeSampling(per_positive=3), DataSet.open(tmp_path), SCHEMA, ".")
    known = negatives.known
    assert negatives.nbytes == 8 * len(known.keys) + len(known._bits) + negatives.catalogue.nbytes
    with pytest.raises(UserError, match=r"data\.memory of 0 MiB is too small: data\.negatives takes .* known pairs"):
        load(tmp_path, memory=negatives.nbytes)
    with pytest.raises(UserError, match=r"too small: 0 MiB hold what data\.negatives needs, and 1 lanes"):
        load(tmp_path, memory=negatives.nbytes + 1, lanes=1)


def test_only_items_of_the_training_rows_are_drawn(tmp_path):
    _, items = sampler(tmp_path, {0: [3, 29, 3], 4: [11, 29]})
    assert items.tolist() == [3, 11, 29]


@given(st.sets(st.integers(0, 2**62), min_size=1), st.lists(st.integers(0, 2**62)))
def test_pair_set_is_a_set(known, asked):
    asked = [*asked, *list(known)[::2]]
    pairs = PairSet(np.array(sorted(known), np.int64))
    found = pairs.places_of(np.array(asked, np.int64))
    assert found.tolist() == [place for place, key in enumerate(asked) if key in known]
    low, high = min(asked), max(asked)
    assert pairs.between(low, high).tolist() == sorted(key for key in known if low <= key < high)


def test_a_file_of_items_names_the_candidates_and_their_features(tmp_path):
    pairs = write(tmp_path / "train", 60)
    order = np.random.default_rng(0).permutation(np.arange(5, ITEMS))
    pq.write_table(pa.table(item_columns(order)), tmp_path / "items.parquet")
    sampling = NegativeSampling(per_positive=3, items=str(tmp_path / "items.parquet"))
    drawn = all_drawn([load(tmp_path / "train", sampling=sampling)], pairs, 3, 0)
    assert {item for items in drawn.values() for item in items} == set(range(5, ITEMS))
    twice = pa.table(item_columns(np.array([4, 2, 9, 2])))
    pq.write_table(twice, tmp_path / "items.parquet")
    with pytest.raises(UserError, match=r"items\.parquet: rows 1 and 3 are of one item \(table row 2\)"):
        load(tmp_path / "train", sampling=sampling)
    pq.write_table(twice.drop_columns("brand"), tmp_path / "items.parquet")
    with pytest.raises(UserError, match=r"items\.parquet: unknown column 'brand'"):
        check_negatives(sampling, SCHEMA, ["genres", "brand"], ".")


def test_a_resumed_run_must_draw_alike(tmp_path):
    write(tmp_path, 20)
    saved = load(tmp_path).order_state()
    load(tmp_path).check_state(saved)
    with pytest.raises(UserError, match=r"data\.(global_batch_size|negatives)"):
        load(tmp_path, per_positive=1).check_state(saved)
    plain = Loader(DataSet.open(tmp_path), SCHEMA, folder=".", global_batch_size=16, window=32, lanes=4)
    with pytest.raises(UserError, match=r"data\.negatives is None, but the checkpoint was made with .*per_positive"):
        plain.check_state(saved)


@pytest.mark.parametrize(
    ("batch", "lanes", "nearest"),
    [(4096, None, "4080 or 4160"), (4096, 8, "4080 or 4120"), (7, None, "5 or 10"), (3, 1, "5")],
)
def test_a_batch_that_does_not_hold_whole_rows(batch, lanes, nearest):
    with pytest.raises(UserError, match=rf"global_batch_size {batch} .*multiple of 5 .*that suit: {nearest}$"):
        NegativeSampling().positives_of(batch, lanes)
    assert NegativeSampling().positives_of(5120, 16) == 1024


def test_what_cannot_be_drawn(tmp_path):
    sampling = NegativeSampling()

    def having(**changes):
        features = tuple(changes.pop(f.name, f) for f in SCHEMA.features)
        return SCHEMA.model_copy(update={"features": features})

    names = [f.name for f in SCHEMA.features]
    with pytest.raises(UserError, match=r"data\.negatives\.user: unknown feature 'usr'; did you mean 'user'"):
        check_negatives(NegativeSampling(user="usr"), SCHEMA, names, ".")
    with pytest.raises(UserError, match=r"data\.negatives\.item: feature 'genres' is of kind id_list"):
        check_negatives(NegativeSampling(item="genres"), SCHEMA, names, ".")
    with pytest.raises(UserError, match=r"the share 0\.5 of their negatives"):
        check_negatives(sampling, SCHEMA.model_copy(update={"negative_rate": 0.5}), names, ".")
    no_role = having(hour=SCHEMA["hour"].model_copy(update={"role": None}))
    with pytest.raises(UserError, match=r"feature 'hour' has no role.*give it role"):
        check_negatives(sampling, no_role, names, ".")
    check_negatives(sampling, no_role, ["user", "item"], ".")
    aligned = {"max_length": 2, "aligned": "events", "ids": Identity(num_ids=2)}
    mixed = having(
        path=SequenceFeature(name="path", role="user", **aligned),
        brand=SequenceFeature(name="brand", role="item", **aligned),
    )
    with pytest.raises(UserError, match="aligned as 'events' have the roles user and item"):
        check_negatives(sampling, mixed, names, ".")
    mixed = having(size_prices=SCHEMA["size_prices"].model_copy(update={"role": "user"}))
    with pytest.raises(UserError, match="aligned as 'sizes' have the roles user and item"):
        check_negatives(sampling, mixed, names, ".")
    of_both = having(age=SCHEMA["age"].model_copy(update={"role": "user_item"}))
    with pytest.raises(UserError, match="'age' has role: user_item, so it is not known what it would be of the user"):
        check_negatives(sampling, of_both, names, ".")
    after = having(age=SCHEMA["age"].model_copy(update={"place": "next", "of": "price", "role": None}))
    with pytest.raises(
        UserError, match=r"'age' \(place: next\) is of a logged transition, and a drawn item led to none"
    ):
        check_negatives(sampling, after, names, ".")
    write(tmp_path, 20)
    with pytest.raises(UserError, match="class_weights and negatives exclude each other"):
        load(tmp_path, class_weights={0: 2.0})


def test_a_model_need_not_read_the_user(tmp_path):
    pairs = write(tmp_path, 40)
    source = DataSet.open(tmp_path)
    schema = NegativeSampling().read_from(SCHEMA, ["brand", "price"])
    assert [f.name for f in schema.features] == ["item", "user", "brand", "price"]
    negatives = Negatives.read(NegativeSampling(per_positive=1), source, schema, ".")
    loader = Loader(source, schema, folder=".", global_batch_size=8, negatives=negatives, id_order=["brand"])
    drawn = defaultdict(list)
    for batch in loader.epoch(0):
        assert batch.ids.keys() == ["brand"]
        for row, brand, price in zip(batch.rows, batch.ids.values(), batch.dense[:, 0], strict=True):
            assert price * 4 % 10 == brand
            drawn[int(row)].append(round(float(price) * 4))
    assert sorted(drawn) == list(range(40))
    assert all(pairs[row][1] == own and (pairs[row][0], other) not in pairs for row, (own, other) in drawn.items())
