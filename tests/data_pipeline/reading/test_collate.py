"""Blocks and batches against plain Python rows."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import (
    DenseFeature,
    DenseSequenceFeature,
    IdFeature,
    IdListFeature,
    SequenceFeature,
)
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.data_pipeline.reading.blocks import Block
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.data_pipeline.reading.parquet import Chunk

FEATURES = (
    IdFeature(name="a", ids=Identity(num_ids=100)),
    IdListFeature(name="tags", ids=Identity(num_ids=50)),
    DenseFeature(name="d0"),
    SequenceFeature(name="items", ids=Identity(num_ids=1000), max_length=4, aligned="history"),
    IdFeature(name="b", column="bee", ids=Identity(num_ids=100)),
    IdFeature(name="c", ids=Identity(num_ids=100)),
    IdListFeature(name="rated", ids=Identity(num_ids=60), weights="ratings"),
    SequenceFeature(name="shops", ids=Identity(num_ids=1000), max_length=4, aligned="history"),
    DenseFeature(name="d1"),
    DenseSequenceFeature(name="prices", column="paid", max_length=4, aligned="history", missing=-1),
)
SCHEMA = Schema(
    features=FEATURES, labels=(Label(name="click"), Label(name="spend")), weight="w", group="user", keys=("key",)
)


def rows_of(count: int, seed: int) -> list[dict]:
    """Rows as a user would write them down; numbers are exact in float32."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        length = int(rng.integers(0, 7))
        rated = int(rng.integers(0, 3))
        rows.append(
            {
                "a": int(rng.integers(100)),
                "tags": rng.integers(0, 50, rng.integers(0, 4)).tolist(),
                "d0": float(rng.integers(-8, 8)) / 4,
                "items": rng.integers(0, 1000, length).tolist(),
                "bee": int(rng.integers(100)),
                "c": int(rng.integers(100)),
                "rated": rng.integers(0, 60, rated).tolist(),
                "ratings": (rng.integers(1, 6, rated) / 2).tolist(),
                "shops": rng.integers(0, 1000, length).tolist(),
                "paid": [None if paid == 0 else float(paid) / 4 for paid in rng.integers(0, 9, length)],
                "d1": float(i),
                "click": float(rng.integers(2)),
                "spend": float(rng.integers(10)),
                "w": float(rng.integers(1, 5)) / 2,
                "user": int(rng.integers(-5, 5)),
                "key": f"key {i}",
            }
        )
    return rows


def arrow_of(rows: list[dict]) -> pa.RecordBatch:
    columns = {}
    for name, example in rows_of(1, 0)[0].items():
        kind = {int: pa.int64(), float: pa.float32(), str: pa.string()}.get(type(example))
        if kind is None:
            kind = pa.list_(
                pa.float32() if name in ("ratings", "paid") else pa.int32() if name == "items" else pa.int64()
            )
        columns[name] = pa.array([r[name] for r in rows], kind)
    return pa.RecordBatch.from_pydict(columns)


def block_of(layout: Layout, rows: list[dict], place: int = 0) -> Block:
    return layout.block(Chunk(arrow_of(rows), "file", 0, place))


def jagged(ids: KeyedJaggedTensor, weighted: bool = False) -> dict[str, list[list]]:
    """key -> rows -> ids (or their weights), read with nothing but keys, values, lengths and stride."""
    assert ids.values().dtype == ids.lengths().dtype == torch.int64
    lengths = ids.lengths().view(len(ids.keys()), ids.stride()).tolist()
    found, at = {}, 0
    flat = (ids.weights() if weighted else ids.values()).tolist()
    for key, row_lengths in zip(ids.keys(), lengths, strict=True):
        found[key] = []
        for n in row_lengths:
            found[key].append(flat[at : at + n])
            at += n
    assert at == len(flat)
    again = {key: [row.tolist() for row in ids[key].to_dense()] for key in list(ids.keys())}
    assert weighted or again == found  # per-key views, which use the cached lengths per key
    return found


def check_batch(batch, rows: list[dict], places: list[int], id_names, weighted_names, class_weights=None):
    """A batch holds exactly these rows in this order, then padding."""
    padding = batch.size - len(rows)
    columns = {"b": "bee"}
    expected = {}
    for f in SCHEMA.sparse:
        values = [r[columns.get(f.name, f.name)] for r in rows]
        values = [v if isinstance(v, list) else [v] for v in values]
        expected[f.name] = [v[-4:] if f.name in ("items", "shops") else v for v in values] + [[]] * padding
    assert batch.ids.keys() == list(id_names)
    assert jagged(batch.ids) == {name: expected[name] for name in id_names}
    assert batch.weighted_ids.keys() == list(weighted_names)
    assert jagged(batch.weighted_ids) == {name: expected[name] for name in weighted_names}
    assert jagged(batch.weighted_ids, weighted=True) == {"rated": [r["ratings"] for r in rows] + [[]] * padding}
    assert {name: lengths.tolist() for name, lengths in batch.host_lengths.items()} == {
        name: [len(row) for row in expected[name]] for name in (*id_names, *weighted_names)
    }
    assert batch.dense.tolist() == [[r["d0"], r["d1"]] for r in rows] + [[0, 0]] * padding
    assert batch.dense.is_contiguous()
    for name in ("click", "spend"):
        assert batch.labels[name].tolist() == [r[name] for r in rows] + [0] * padding
    factors = [(class_weights or {}).get(r["click"], 1) for r in rows]
    weights = [r["w"] * f for r, f in zip(rows, factors, strict=True)]
    assert batch.weights.tolist() == weights + [0] * padding
    assert batch.groups.tolist() == [r["user"] for r in rows] + [0] * padding
    assert batch.rows.tolist() == places + [-1] * padding
    assert batch.live.tolist() == [True] * len(rows) + [False] * padding
    paid = [-1 if paid is None else paid for r in rows for paid in r["paid"][-4:]]
    assert {name: values.tolist() for name, values in batch.dense_sequences.items()} == {"prices": paid}
    for tensor in (batch.dense, batch.weights, *batch.labels.values(), *batch.dense_sequences.values()):
        assert tensor.dtype == torch.float32


@settings(max_examples=30)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.integers(0, 3), st.data())
def test_permuted_joined_and_sliced_blocks_make_the_batch_of_their_rows(sizes, padding, data):
    layout = Layout(SCHEMA, ".")
    rows = rows_of(sum(sizes), data.draw(st.integers(0, 999)))
    blocks, start = [], 0
    for size in sizes:
        blocks.append(block_of(layout, rows[start : start + size], 100 + start))
        start += size
    window = Block.join(blocks)
    order = data.draw(st.permutations(range(len(rows))))
    shuffled = window.take(np.array(order, np.int64))
    cut = data.draw(st.integers(0, len(rows)))
    parts = [shuffled.slice(0, cut), shuffled.slice(cut, len(rows))]
    size = len(rows) + padding
    if size:
        batch = layout.collate(parts, size)
        check_batch(batch, [rows[i] for i in order], [100 + i for i in order], layout.id_names, ("rated",))
    assert pa.concat_tables([p.extra for p in parts]).num_columns == 0


def test_keys_in_any_order_and_class_weights():
    order = ("shops", "c", "tags", "rated", "a", "items", "b")
    class_weights = {1.0: 2.5, 0.0: 0.5}
    layout = Layout(SCHEMA, ".", id_order=order, class_weights=class_weights)
    assert layout.id_names == ("shops", "c", "tags", "a", "items", "b")
    assert (layout.weighted_id_names, layout.dense_names) == (("rated",), ("d0", "d1"))
    rows = rows_of(9, 3)
    batch = layout.collate([block_of(layout, rows)], 11)
    check_batch(batch, rows, list(range(9)), layout.id_names, ("rated",), class_weights)


def test_features_that_the_order_leaves_out_are_not_read():
    layout = Layout(SCHEMA, ".", id_order=("tags", "a"))
    assert (layout.id_names, layout.weighted_id_names, layout.dense_names) == (("tags", "a"), (), ("d0", "d1"))
    assert set(layout.columns) == {"tags", "a", "d0", "d1", "paid", "click", "spend", "w", "user"}
    rows = rows_of(4, 2)
    assert jagged(layout.collate([block_of(layout, rows)], 4).ids)["tags"] == [r["tags"] for r in rows]
    with pytest.raises(UserError, match="unknown feature 'tag'; did you mean 'tags'"):
        Layout(SCHEMA, ".", id_order=("tag",))


@pytest.mark.parametrize(
    "absent",
    [("shops",), ("items", "shops", "a", "rated"), ("a", "tags", "b", "c", "prices"), ("items", "shops", "prices")],
)
def test_absent_features_have_keys_without_ids_and_are_not_read(absent):
    order = ("shops", "c", "tags", "rated", "a", "items", "b")
    layout = Layout(SCHEMA, ".", id_order=order, absent=absent)
    rows = rows_of(9, 4)
    columns = {"b": "bee", "rated": "ratings", "prices": "paid"}
    assert set(layout.columns).isdisjoint({*absent, *(columns.get(name) for name in absent)})
    batch = layout.collate([block_of(layout, rows[:5]), block_of(layout, rows[5:], 5)], 11)
    whole = Layout(SCHEMA, ".", id_order=order)
    expected = whole.collate([block_of(whole, rows)], 11)
    for found, all_of_it in ((batch.ids, expected.ids), (batch.weighted_ids, expected.weighted_ids)):
        assert found.keys() == all_of_it.keys() and found.stride() == 11
        read = jagged(all_of_it)
        assert jagged(found) == {name: [[]] * 11 if name in absent else read[name] for name in read}
    weights = jagged(expected.weighted_ids, weighted=True)
    assert jagged(batch.weighted_ids, weighted=True) == ({"rated": [[]] * 11} if "rated" in absent else weights)
    assert torch.equal(batch.dense, expected.dense) and torch.equal(batch.rows, expected.rows)
    prices = [] if "prices" in absent else expected.dense_sequences["prices"].tolist()
    assert batch.dense_sequences["prices"].tolist() == prices
    assert jagged(layout.collate([], 2).ids) == {name: [[], []] for name in order if name != "rated"}


def test_a_rank_without_rows_gets_padding_only():
    layout = Layout(SCHEMA, ".")
    check_batch(layout.collate([], 3), [], [], layout.id_names, ("rated",))


def test_one_valued_features_only():
    layout = Layout(SCHEMA.subset(["a", "c"]), ".")
    rows = rows_of(5, 1)
    for size in (5, 7):
        batch = layout.collate([block_of(layout, rows).slice(0, 2), block_of(layout, rows).slice(2, 5)], size)
        padding = [[]] * (size - 5)
        assert jagged(batch.ids) == {n: [[r[n]] for r in rows] + padding for n in ("a", "c")}
        assert batch.weighted_ids is None
        assert batch.dense.shape == (size, 0)


def test_no_unweighted_ids():
    rows = rows_of(4, 1)
    for names in (["d0"], ["rated", "d0"]):
        layout = Layout(SCHEMA.subset(names), ".")
        batch = layout.collate([block_of(layout, rows)], 5)
        assert batch.ids.keys() == [] and batch.ids.stride() == 5 and batch.ids.values().numel() == 0
        assert batch.to(torch.device("cpu")).ids.stride() == 5
        assert (batch.weighted_ids is not None) == ("rated" in names)


def test_without_labels_weight_and_group():
    schema = Schema(features=FEATURES[:1], labels=())
    layout = Layout(schema, ".", extra_columns=("key",))
    assert layout.columns == ("a", "key")
    block = block_of(layout, rows_of(3, 0))
    batch = layout.collate([block], 4)
    assert batch.labels == {} and batch.groups is None
    assert batch.weights.tolist() == [1, 1, 1, 0]
    assert block.take(np.array([2, 0])).extra.to_pydict() == {"key": ["key 2", "key 0"]}


def test_ids_past_31_bits():
    large = 2**40
    layout = Layout(Schema(features=(IdFeature(name="x", ids=Identity(num_ids=large)),), labels=()), ".")
    ids = pa.array([0, large - 1, 2**31])
    block = layout.block(Chunk(pa.RecordBatch.from_pydict({"x": ids}), "file", 0, 0))
    assert layout.collate([block], 3).ids.values().tolist() == ids.to_pylist()
    nearly = Layout(Schema(features=(IdFeature(name="x", ids=Identity(num_ids=2**31)),), labels=()), ".")
    ids = pa.array([0, 2**31 - 1])
    block = nearly.block(Chunk(pa.RecordBatch.from_pydict({"x": ids}), "file", 0, 0))
    assert block.ids.dtype == np.int32
    assert nearly.collate([block], 2).ids.values().tolist() == ids.to_pylist()


def test_errors_name_the_row_in_the_file():
    rows = rows_of(4, 0)
    rows[2]["a"] = 100
    with pytest.raises(UserError, match=r"part-7\.parquet.*row 1002.*column 'a'.*100"):
        Layout(SCHEMA, ".").block(Chunk(arrow_of(rows), "part-7.parquet", 1000, 5000))
    rows = rows_of(4, 0)
    rows[3]["shops"] = [1] * (len(rows[3]["items"]) % 4 + 1)
    with pytest.raises(UserError, match=r"row 1003.*'items'.*'shops'"):
        Layout(SCHEMA, ".").block(Chunk(arrow_of(rows), "part-7.parquet", 1000, 5000))


def test_row_bytes_is_near_what_a_block_takes():
    layout = Layout(SCHEMA, ".")
    rows = rows_of(3000, 5)
    means = {n: float(np.mean([len(r[n]) for r in rows])) for n in ("tags", "rated")}
    means |= {n: float(np.mean([min(len(r[n]), 4) for r in rows])) for n in ("items", "shops", "paid")}
    estimate = layout.row_bytes(means) * 3000
    assert 0.9 < block_of(layout, rows).nbytes / estimate < 1.1


def test_class_weights_need_a_label():
    layout = Layout(SCHEMA.model_copy(update={"labels": ()}), ".", class_weights={0.5: 9.0})
    rows = rows_of(6, 4)
    rows[0]["w"] = 0.5
    assert layout.collate([block_of(layout, rows)], 6).weights.tolist() == [r["w"] for r in rows]


@pytest.mark.parametrize(
    ("items", "shops", "message"),
    [
        ([[1], [1, 2]], [[1], [3]], "f, row 11: column 'items' has 2 elements and column 'shops' has 1, but both are"),
        ([[1] * 9, []], [[1] * 8, None], "f, row 10: column 'items' has 9 elements and column 'shops' has 8"),
        ([[1], [2, 1000]], [[1], [2, 3]], r"f, row 11, column 'items': found 1000, expected an id in \[0, 1000\)"),
        ([None, [2, -1]], [[], [2, 3]], r"f, row 11, column 'items': found -1, expected an id in \[0, 1000\)"),
        ([[1], [None]], [[1], [2]], "f, row 11, column 'items': found null, expected an id"),
    ],
)
def test_sequences_that_are_wrong_are_named_by_row_and_column(items: list, shops: list, message: str) -> None:
    schema = Schema(features=tuple(f for f in FEATURES if isinstance(f, SequenceFeature)), labels=())
    lists = {"items": pa.array(items, pa.list_(pa.int64())), "shops": pa.array(shops, pa.list_(pa.int64()))}
    with pytest.raises(UserError, match=f"^{message}"):
        Layout(schema, ".").block(Chunk(pa.RecordBatch.from_pydict(lists), "f", 10, 0))


@pytest.mark.parametrize(
    ("items", "paid", "message"),
    [
        ([[1], [1, 2]], [[1], [3]], "f, row 11: column 'items' has 2 elements and column 'paid' has 1, but both are"),
        ([[1] * 9, []], [[1] * 8, None], "f, row 10: column 'items' has 9 elements and column 'paid' has 8"),
        ([[], [1, 2]], [[], [3, np.inf]], "f, row 11, column 'paid': found inf, expected a finite number"),
        ([[1] * 6], [[1, 2, 3, 4, None, 6]], "f, row 10, column 'paid': found null, expected a finite number, or"),
        ([[1], [2]], [None, [2]], "f, row 10: column 'items' has 1 elements and column 'paid' has 0"),
        ([[1]], [[1e16]], "f, row 10, column 'paid': found 1e[+]16, expected a number of magnitude .*`transforms`"),
    ],
)
def test_numbers_that_are_wrong_are_named_by_row_and_column(items: list, paid: list, message: str) -> None:
    of_ids = next(f for f in FEATURES if f.name == "items")
    prices = DenseSequenceFeature(name="prices", column="paid", max_length=4, aligned="history")
    layout = Layout(Schema(features=(of_ids, prices), labels=()), ".")
    lists = {"items": pa.array(items, pa.list_(pa.int64())), "paid": pa.array(paid, pa.list_(pa.float64()))}
    with pytest.raises(UserError, match=f"^{message}") as error:
        layout.block(Chunk(pa.RecordBatch.from_pydict(lists), "f", 10, 0))
    assert "\n" not in str(error.value)


def test_empty_null_and_long_histories_are_rows() -> None:
    schema = Schema(features=tuple(f for f in FEATURES if isinstance(f, SequenceFeature)), labels=())
    items, shops = [[], None, [1, 2, 3, 4, 5, 6], [7]], [None, [], [8, 7, 6, 5, 4, 3], [2]]
    lists = {"items": pa.array(items, pa.list_(pa.int64())), "shops": pa.array(shops, pa.list_(pa.int64()))}
    layout = Layout(schema, ".")
    ids = layout.collate([layout.block(Chunk(pa.RecordBatch.from_pydict(lists), "f", 0, 0))], 5).ids.to_dict()
    for name, kept in (("items", [3, 4, 5, 6, 7]), ("shops", [6, 5, 4, 3, 2])):  # the most recent four
        assert ids[name].values().tolist() == kept
        assert ids[name].lengths().tolist() == [0, 0, 4, 1, 0]
