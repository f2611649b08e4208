"""Events -> rows of click prediction on histories, against loops."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.prepare.behaviour.candidates import Pool
from shardrec.data_pipeline.prepare.behaviour.events import Coded, Events, hour_of_week
from shardrec.data_pipeline.prepare.behaviour.histories import HistoryProtocol, HistoryRows, prepare_histories
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.data_pipeline.reading.parquet import Chunk

Log = list[tuple[str, str, int]]


def log(users: int = 14, items: int = 30, seed: int = 5) -> Log:
    """User n has n events of random items, at times that repeat; shuffled."""
    r = np.random.default_rng(seed)
    made = [
        (f"u{u}", f"i{int(i)}", 3600 * int(r.integers(40)))
        for u in range(1, users + 1)
        for i in items * r.beta(0.6, 1.5, u)
    ]
    r.shuffle(made)
    return [(u, i, int(t)) for u, i, t in made]


def category_of(item: str) -> str | None:
    return None if item == "i0" else f"c{int(item[1:]) % 4}"


def events_of(found: Log, times: bool = True, categories: bool = True) -> Events:
    users, items, seconds = zip(*found, strict=True)
    named = {i: c for i in items if categories and (c := category_of(i)) is not None}
    return Events.of(
        "log",
        Coded.of([pa.array(users[:7], pa.string()), pa.array(users[7:], pa.string())]),
        Coded.of([pa.array(items)]),
        np.array(seconds) if times else None,
        named if categories else None,
    )


def prepared(out: Path, found: Log, protocol: HistoryProtocol, **parts: bool) -> Report:
    return prepare_histories(events_of(found, **parts), protocol, Output(out, row_group_rows=16))


def by_user(found: Log) -> dict[str, Log]:
    of_user: dict[str, Log] = {}
    for event in sorted(found, key=lambda e: e[2]):  # stable: of equal times the earlier line comes first
        of_user.setdefault(event[0], []).append(event)
    return of_user


class Named:
    """Prepared rows in the log's own names; '?' is row 0, None the row of missing values."""

    def __init__(self, out: Path) -> None:
        self.out, self.schema = out, Schema.load(out / "schema.yaml")
        self._values: dict[str, list[Any]] = {}
        for table in ("user", "item", "category"):
            path = out / "vocabularies" / f"{table}.parquet"
            if path.exists():
                self._values[table] = ["?", *pq.read_table(path).column("value").to_pylist(), None]

    def rows(self, folder: str) -> list[dict[str, Any]]:
        tables = {f.name: f.table_name for f in self.schema.sparse}
        rows = pq.read_table(self.out / folder).to_pylist()
        return [{name: self._name(tables.get(name), value) for name, value in row.items()} for row in rows]

    def _name(self, table: str | None, value: Any) -> Any:
        if table not in self._values:
            return value
        names = self._values[table]
        return [names[v] for v in value] if isinstance(value, list) else names[value]


def expected_positives(found: Log, split: str, protocol: HistoryProtocol) -> dict[tuple[str, int], dict[str, Any]]:
    """(user, place in the user's events) -> row."""
    rows = {}
    for user, of_user in by_user(found).items():
        n = len(of_user)
        held = {"test": [n - 1], "validation": [n - 2]} if n > 2 else {}
        left = range(n - 2) if n > 2 else range(n)
        for k in held.get(split, []) if split != "train" else left:
            past = of_user[:k][-protocol.max_length :]
            if k >= protocol.min_history:
                rows[user, k] = {
                    "user": user,
                    "item": of_user[k][1],
                    "category": category_of(of_user[k][1]),
                    "hour": hour(of_user[k][2]),
                    "item_history": [i for _, i, _ in past],
                    "category_history": [category_of(i) for _, i, _ in past],
                    "hour_history": [hour(t) for _, _, t in past],
                    "label": 1,
                }
    return rows


def hour(seconds: int) -> int:
    """Thursday, the first of January 1970, begins at hour 72 of its week."""
    return (72 + seconds // 3600) % 168


def in_order(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(map(repr, (sorted(row.items()) for row in rows)))


@pytest.mark.parametrize(
    "protocol",
    [
        HistoryProtocol(),
        HistoryProtocol(max_length=3, negatives=2, seed=4),
        HistoryProtocol(min_history=4, sampling="popular"),
    ],
)
def test_rows_are_those_of_the_loops(tmp_path: Path, protocol: HistoryProtocol) -> None:
    found = log()
    prepared(tmp_path / "out", found, protocol)
    named, items = Named(tmp_path / "out"), {u: {i for _, i, _ in e} for u, e in by_user(found).items()}
    n = {u: len(e) for u, e in by_user(found).items()}
    trained = {e[1] for u, of_user in by_user(found).items() for e in of_user[: n[u] - 2 if n[u] > 2 else n[u]]}
    for split in ("train", "validation", "test"):
        rows = named.rows(split)
        expected = expected_positives(found, split, protocol).values()
        for row in expected:
            row["item_history"] = [i if i in trained else "?" for i in row["item_history"]]
        assert in_order(rows[:: 1 + protocol.negatives]) == in_order([r for r in expected if r["item"] in trained])
        for place in range(0, len(rows), 1 + protocol.negatives):
            positive = rows[place]
            for negative in rows[place + 1 : place + 1 + protocol.negatives]:
                assert negative["item"] in trained - items[positive["user"]]
                drawn = {"item": negative["item"], "category": category_of(negative["item"]), "label": 0}
                assert negative == positive | drawn


def test_repeated_items_are_told_and_left_out_where_asked(tmp_path: Path) -> None:
    """Then no row's item is in its history; else only positives' are."""
    found = log()
    first: dict[tuple[str, str], tuple[str, str, int]] = {}
    for event in (e for of_user in by_user(found).values() for e in of_user):
        first.setdefault(event[:2], event)
    repeats = len(found) - len(first)
    said = "events with an item that their user had before: "
    kept = prepared(tmp_path / "kept", found, HistoryProtocol())
    assert f"{said}{repeats}, kept, but no negative is a repeat (--first-only leaves them out)" in str(kept)
    left = prepared(tmp_path / "left", found, HistoryProtocol(first_only=True, history_negatives=True))
    assert f"{said}{repeats}, left out" in str(left)
    same = prepared(tmp_path / "same", list(first.values()), HistoryProtocol(history_negatives=True))
    assert said not in str(same)
    for split in ("train", "validation", "test"):
        left_rows, same_rows = (Named(tmp_path / out).rows(split)[::2] for out in ("left", "same"))
        for row in (*left_rows, *same_rows):
            assert len(row.pop("negative_item_history")) == len(row.pop("negative_category_history"))
        assert in_order(left_rows) == in_order(same_rows)
    rows = {out: Named(tmp_path / out).rows("train") for out in ("kept", "left")}
    given_away = {out: {r["label"] for r in of if r["item"] in r["item_history"]} for out, of in rows.items()}
    assert given_away == {"kept": {1}, "left": set()}


def test_the_other_negatives_lie_beside_the_test_rows(tmp_path: Path) -> None:
    found = log()
    for sampling, other in (("uniform", "popular"), ("popular", "uniform")):
        report = prepared(tmp_path / sampling, found, HistoryProtocol(sampling=sampling))  # type: ignore[arg-type]
        assert f"test_{other}: the positives of test beside negatives drawn otherwise" in str(report)
    a, b = Named(tmp_path / "uniform"), Named(tmp_path / "popular")
    assert a.rows("test") == b.rows("test_uniform") and b.rows("test") == a.rows("test_popular")
    assert a.rows("test")[::2] == a.rows("test_popular")[::2]
    assert a.rows("test") != a.rows("test_popular")


def test_events_of_histories_have_items_beside_them_that_the_user_never_had(tmp_path: Path) -> None:
    found = log()
    prepared(tmp_path / "with", found, HistoryProtocol(history_negatives=True, negatives=2))
    prepared(tmp_path / "without", found, HistoryProtocol(negatives=2))
    items = {u: {i for _, i, _ in e} for u, e in by_user(found).items()}
    drawn = set()
    for split in ("train", "test"):
        plain = Named(tmp_path / "without").rows(split)
        for row, same in zip(Named(tmp_path / "with").rows(split), plain, strict=True):
            beside, categories = row.pop("negative_item_history"), row.pop("negative_category_history")
            assert row == same
            assert len(beside) == len(row["item_history"]) and not items[row["user"]] & set(beside)
            assert categories == [category_of(i) for i in beside]
            drawn.add((row["user"], len(beside), *beside))
    assert len({beside for user, n, *beside in drawn if user == "u14" for beside in beside}) > 5


def test_the_schema_says_what_goes_with_what(tmp_path: Path) -> None:
    found = log()
    prepared(tmp_path / "out", found, HistoryProtocol(history_negatives=True, max_length=7))
    schema = Schema.load(tmp_path / "out" / "schema.yaml")
    assert [(f.name, f.table_name, f.role) for f in schema.sparse] == [
        ("user", "user", "user"),
        ("item", "item", "item"),
        ("category", "category", "item"),
        ("hour", "hour", "context"),
        ("item_history", "item", "user"),
        ("category_history", "category", "user"),
        ("hour_history", "hour", "user"),
        ("negative_item_history", "item", "user"),
        ("negative_category_history", "category", "user"),
    ]
    assert {(f.max_length, f.aligned) for f in schema.features[4:]} == {(7, "history")}  # type: ignore[union-attr]
    assert (schema.group, schema.keys, schema["hour"].num_embeddings) == ("user", ("user", "item"), 168)
    table = pq.read_table(tmp_path / "out" / "train").combine_chunks()
    chunk = Chunk(table.to_batches()[0], "train", 0, 0)
    lists = Layout(schema, tmp_path / "out").block(chunk).lists
    assert [len(together.values) for together in lists] == [5]  # all aligned
    prepared(tmp_path / "bare", found, HistoryProtocol(), times=False, categories=False)
    bare = Schema.load(tmp_path / "bare" / "schema.yaml")
    assert [f.name for f in bare.features] == ["user", "item", "item_history"]


def test_ages_are_days_before_the_event_that_is_asked_for(tmp_path: Path) -> None:
    found = log()
    prepared(tmp_path / "out", found, HistoryProtocol(ages=True, max_length=4, negatives=2, keep_unknown=True))
    ages = Schema.load(tmp_path / "out" / "schema.yaml")["age_history"]
    assert (ages.kind, ages.aligned, ages.max_length, ages.role) == ("dense_sequence", "history", 4, "user")
    expected = set()
    for of_user in by_user(found).values():
        for n, (_, _, at) in enumerate(of_user[1:], 1):
            expected.add(tuple(np.float32((at - then) / 86400) for _, _, then in of_user[max(n - 4, 0) : n]))
    folders = ("train", "validation", "test")
    rows = [row for split in folders for row in pq.read_table(tmp_path / "out" / split).to_pylist()]
    assert {tuple(np.float32(row["age_history"])) for row in rows} == expected and len(expected) > 50
    assert all(len(row["age_history"]) == len(row["item_history"]) for row in rows)
    with pytest.raises(UserError, match="log: ages of events need their times, and it has none"):
        prepared(tmp_path / "bare", found, HistoryProtocol(ages=True), times=False)


def test_vocabularies_are_those_of_training_events(tmp_path: Path) -> None:
    found = log()
    prepared(tmp_path / "out", found, HistoryProtocol())
    kept = [e for of_user in by_user(found).values() for e in (of_user[:-2] if len(of_user) > 2 else of_user)]
    for table, values in (("user", [e[0] for e in kept]), ("item", [e[1] for e in kept])):
        counts = sorted(((values.count(v), v) for v in set(values)), key=lambda c: (-c[0], c[1]))
        read = pq.read_table(tmp_path / "out" / "vocabularies" / f"{table}.parquet")
        assert list(zip(*(read.column(c).to_pylist() for c in ("count", "value")), strict=True)) == counts


def test_held_out_items_that_training_lacks(tmp_path: Path) -> None:
    found = [(u, i, t) for u in "abc" for t, i in enumerate(("x", "y", "z", "w"))] + [("d", "v", 0)]
    found += [("e", i, t) for t, i in enumerate(("x", "y", "new", "newer"))]
    report = str(prepared(tmp_path / "out", found, HistoryProtocol(keep_unknown=True), categories=False))
    assert "held-out items that no training row has: 4 of 4 in validation, 4 of 4 in test; kept, as row 0" in report
    assert "users of fewer than 3 events, in train only: 1" in report
    assert [r["item"] for r in Named(tmp_path / "out").rows("test")[::2]] == ["?"] * 4
    report = str(prepared(tmp_path / "left", found, HistoryProtocol(), categories=False))
    assert "4 of 4 in validation, 4 of 4 in test; their rows are left out (--keep-unknown keeps them)" in report
    assert not (tmp_path / "left" / "test").exists() and not (tmp_path / "left" / "test_popular").exists()


def test_nothing_to_learn_from_and_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^log: no training rows: no user has more than 1 events beside the two held"):
        prepared(tmp_path / "out", [("a", "i1", 0), ("a", "i2", 1), ("a", "i3", 2)], HistoryProtocol())
    with pytest.raises(UserError, match=r"^log: user 'a' has all items that occur in training, so that no negative"):
        prepared(tmp_path / "out", [("a", f"i{t}", t) for t in range(4)], HistoryProtocol())
    assert not (tmp_path / "out").exists()


def test_an_empty_history_is_a_row_where_it_is_asked_for(tmp_path: Path) -> None:
    found = log()
    prepared(tmp_path / "out", found, HistoryProtocol(min_history=0))
    rows = Named(tmp_path / "out").rows("train")
    first = [r for r in rows if not r["item_history"] and r["label"]]
    assert sorted(r["user"] for r in first) == sorted(by_user(found))


def test_the_same_seed_gives_the_same_rows_whatever_the_chunks(tmp_path: Path, monkeypatch: Any) -> None:
    found, protocol = log(), HistoryProtocol(history_negatives=True)
    prepared(tmp_path / "a", found, protocol)
    monkeypatch.setattr(
        "shardrec.data_pipeline.prepare.behaviour.histories.CHUNK_ELEMENTS", 150
    )  # 3 rows at a time: one positive
    prepared(tmp_path / "b", found, protocol)
    prepared(tmp_path / "c", found, HistoryProtocol(history_negatives=True, seed=1))
    a, b, c = (pq.read_table(tmp_path / x / "train") for x in "abc")
    assert a.equals(b) and not a.equals(c)
    same = [{r["user"]: (r["item"], r["item_history"]) for r in Named(tmp_path / x).rows("test")[::2]} for x in "ac"]
    assert same[0] == same[1]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=60), st.integers(1, 8))
def test_histories_are_the_events_before(pairs: list[tuple[int, int]], most: int) -> None:
    found = [(str(u), f"i{i}", 0) for u, i in pairs]
    rows = HistoryRows(events_of(found, times=False, categories=False), HistoryProtocol(max_length=most))
    events = rows.events
    past, offsets = rows.ranges(np.arange(len(events)))
    seen: dict[int, list[int]] = {}
    for at, (user, item) in enumerate(zip(events.users.codes, events.items.codes, strict=True)):
        assert events.items.codes[past[offsets[at] : offsets[at + 1]]].tolist() == seen.setdefault(user, [])[-most:]
        seen[user].append(item)
    assert all(
        [events.items.values[int(i)].as_py() for i in seen[user]] == [i for u, i, _ in found if u == name]
        for user, name in enumerate(events.users.values.to_pylist())
    )


def test_negatives_are_as_likely_as_their_items_and_never_known() -> None:
    users, items = np.array([0, 0, 1]), np.array([0, 1, 4])
    pool = Pool.of(users, items, 5, np.arange(5))
    popular = pool._replace(items=np.array([0, 2, 2, 2, 3, 4]))
    n = 20_000
    for drawn, expected in (
        (pool.draw_each(np.zeros(n, np.int32), [np.arange(n)], "uniform", 0), [0, 0, 1 / 3, 1 / 3, 1 / 3]),
        (popular.draw_each(np.zeros(n, np.int32), [np.arange(n)], "popular", 0), [0, 0, 3 / 5, 1 / 5, 1 / 5]),
        (popular.draw_each(np.ones(n, np.int32), [np.arange(n)], "popular", 0), [1 / 5, 0, 3 / 5, 1 / 5, 0]),
    ):
        found = np.bincount(drawn, minlength=5) / n
        assert found == pytest.approx(expected, abs=0.015)
        assert (found[np.array(expected) == 0] == 0).all()


def test_a_user_of_nearly_all_items_gets_what_is_left() -> None:
    many = 3_000
    pool = Pool.of(np.zeros(many - 2, np.int64), np.arange(many - 2), many, np.arange(many))
    drawn = pool.draw_each(np.zeros(500, np.int64), [np.arange(500)], "uniform", 0)
    assert set(drawn.tolist()) == {many - 2, many - 1}
    full = Pool.of(np.zeros(many, np.int64), np.arange(many), many, np.arange(many))
    with pytest.raises(ValueError, match=r"^1$"):
        full.draw_each(np.array([1, 0]), [np.arange(2)], "uniform", 0)


def test_hours_of_the_week() -> None:
    monday = 4 * 86_400  # the fifth of January 1970
    seconds = np.array([0, 3_599, monday - 1, monday, monday + 5 * 3600, 1_393_545_600])
    assert hour_of_week(seconds).tolist() == [72, 72, 167, 0, 5, 4 * 24]  # the last: Friday 28 February 2014
