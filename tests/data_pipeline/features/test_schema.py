"""schema.yaml: what is written is read back, what is wrong gets one line."""

from pathlib import Path

import pytest

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.dense_transforms import Clip, Log, Standardise
from shardrec.data_pipeline.features.feature_kinds import (
    DenseFeature,
    DenseSequenceFeature,
    IdFeature,
    IdListFeature,
    SequenceFeature,
)
from shardrec.data_pipeline.features.id_transforms import Bucketize, Cross, Hash, Identity, Vocabulary
from shardrec.data_pipeline.features.schema import Label, Schema

PRICES = (Log(), Standardise(mean=1, deviation=2), Clip(low=-3))
FULL = Schema(
    features=(
        IdFeature(name="user", column="user_id", ids=Hash(num_ids=10, seed=3), missing="row"),
        IdFeature(name="age", ids=Bucketize(boundaries=(18, 30.5))),
        IdFeature(name="both", ids=Cross(columns=("user_id", "age"), num_ids=50)),
        IdFeature(
            name="item",
            ids=Identity(num_ids=7, prepared=Vocabulary(path="v/item.parquet", size=5), prepared_column="asin"),
        ),
        SequenceFeature(name="history", ids=Identity(num_ids=7), max_length=9, table="item", aligned="h"),
        IdListFeature(name="tags", ids=Vocabulary(path="v/tags.parquet", size=4), weights="w", max_length=3),
        DenseFeature(name="price", transforms=PRICES, missing=0.5),
        DenseSequenceFeature(name="paid", transforms=(Log(),), missing=2, max_length=9, aligned="h", role="user_item"),
        IdFeature(name="next_age", ids=Bucketize(boundaries=(18, 30.5)), table="age", place="next", of="age"),
        SequenceFeature(
            name="shown",
            ids=Identity(num_ids=7, prepared=Vocabulary(path="v/item.parquet", size=5)),
            max_length=4,
            table="item",
            aligned="c",
            place="candidate",
            of="item",
        ),
        DenseSequenceFeature(
            name="shown_price", transforms=PRICES, max_length=4, aligned="c", place="candidate", of="price"
        ),
    ),
    labels=(Label(column="rating", threshold=4), Label(name="rating", missing=3)),
    weight="w8",
    group="user_id",
    keys=("user_id", "asin"),
    negative_rate=0.25,
    propensity="p",
    time="t",
)


def test_a_saved_schema_is_read_back(tmp_path: Path) -> None:
    FULL.save(tmp_path / "schema.yaml")
    assert Schema.load(tmp_path / "schema.yaml") == FULL
    assert Schema.load(f"file://{tmp_path}/schema.yaml") == FULL
    assert "missing: error" not in (tmp_path / "schema.yaml").read_text()


def test_rows_of_tables_count_unknown_and_missing_values() -> None:
    rows = {f.name: f.num_embeddings for f in FULL.sparse}
    assert rows == {"user": 11, "age": 3, "both": 50, "item": 7, "history": 7, "tags": 5, "next_age": 3, "shown": 7}


def test_raw_undoes_preparation() -> None:
    raw = FULL.raw()
    assert raw["item"].ids == Vocabulary(path="v/item.parquet", size=5)
    assert raw["item"].missing == "row"
    assert raw["item"].columns == ("asin",)
    assert raw["item"].num_embeddings == FULL["item"].num_embeddings
    assert raw["user"] == FULL["user"] and raw["shown_price"] == FULL["shown_price"]
    assert raw["shown"].ids == raw["item"].ids
    unlabelled = FULL.unlabelled()
    assert (unlabelled.labels, unlabelled.group, unlabelled.time, unlabelled.propensity) == ((), None, None, None)


def test_features_at_another_place_are_known_by_what_they_are_of() -> None:
    assert FULL.places("next") == {"age": "next_age"} and FULL.places("next_candidate") == {}
    assert FULL.places("candidate") == {"item": "shown", "price": "shown_price"}
    assert [f.name for f in FULL.dense_sequences] == ["paid", "shown_price"]
    assert [f.name for f in FULL.dense] == ["price"]


@pytest.mark.parametrize(
    ("left_out", "line"),
    [
        ("age", r"data\.features: feature 'next_age' \(place: next, of: age\): unknown feature 'age'"),
        ("history", "data.features: dense_sequence 'paid' is aligned as 'h', but no sequence of ids is"),
        ("shown", "data.features: dense_sequence 'shown_price' is aligned as 'c', but no sequence of ids is"),
    ],
)
def test_a_run_names_what_its_features_need(left_out: str, line: str) -> None:
    names = [f.name for f in FULL.features if f.name != left_out]
    assert FULL.chosen(["user", "price"]).features == (FULL["user"], FULL["price"])
    with pytest.raises(UserError, match=line):
        FULL.chosen(names)


AGE, PRICE = "{kind: id, name: age, ids: {kind: identity, num_ids: 9}}", "{kind: dense, name: price, role: item}"


def of_age(kind: str = "id", name: str = "b", **keys: object) -> str:
    given = {"kind": kind, "name": name, "of": "age", "table": "age", **keys}
    listed = ", ".join(f"{key}: {value}" for key, value in given.items() if value is not None)
    return f"{{{listed}, ids: {{kind: identity, num_ids: 9}}}}"


CANDIDATES = of_age("sequence", place="candidate", max_length=4, aligned="c")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([of_age()], r"`of` says whose values .* found place: now and of: age"),
        ([of_age(of=None, place="next")], "found place: next without `of`"),
        ([of_age(place="later")], "place: "),
        (
            [of_age(of="agee", place="next")],
            r"feature 'b' \(place: next, of: agee\): unknown feature 'agee'; did you mean 'age'",
        ),
        (
            [of_age(place="next"), of_age(name="c", of="b", place="next")],
            "'b' has place: next itself; name a feature of the row",
        ),
        ([of_age("sequence", place="next", max_length=3)], "is of kind sequence, expected id, as 'age' is of kind id"),
        ([of_age(place="next", table="ages")], "has table 'ages', expected that of 'age': give it `table: age`"),
        (
            ["{kind: dense, name: c, place: next, of: price, transforms: [{kind: log}]}"],
            r"'c' \(place: next, of: price\) has other `transforms` than 'price', .*; give both the same",
        ),
        ([of_age(place="next", role="user")], "has role: user, but 'age' has role: None; leave it out"),
        ([of_age(place="candidate")], "is of kind id, expected sequence, as 'age' is of kind id"),
        (
            [CANDIDATES, of_age("sequence", "c", of="b", place="candidate", max_length=4)],
            "'b' has place: candidate itself",
        ),
        (
            ["{kind: dense, name: c, place: candidate, of: price}"],
            "is of kind dense, expected dense_sequence, as 'price'",
        ),
        (
            [
                CANDIDATES,
                of_age("sequence", "other", place="next_candidate", max_length=4, aligned="d"),
                "{kind: dense_sequence, name: p, place: candidate, of: price, max_length: 4, aligned: d}",
            ],
            r"'b' \(aligned: c\) and 'p' \(aligned: d\) have place: candidate but make no one list",
        ),
        (
            [of_age(place="next"), of_age(name="c", place="next")],
            "'b' and 'c' both have place: next and of: age; leave one",
        ),
        (["{kind: dense_sequence, name: p, max_length: 4}"], "aligned: .*required"),
        (
            ["{kind: dense_sequence, name: p, max_length: 4, aligned: h}"],
            "'p' is aligned as 'h', but no sequence of ids is",
        ),
        (
            [CANDIDATES, "{kind: dense_sequence, name: p, place: candidate, of: price, max_length: 5, aligned: c}"],
            "'b' and 'p' are aligned as 'c' but keep 4 and 5 elements; give them one max_length",
        ),
        (
            [
                "{kind: id_list, name: l, ids: {kind: identity, num_ids: 9}, weights: w}",
                "{kind: id_list, name: m, table: l, place: next, of: l, ids: {kind: identity, num_ids: 9}}",
            ],
            "'l' has weights and 'm' has none",
        ),
        (
            [
                "{kind: id_list, name: l, ids: {kind: identity, num_ids: 9}}",
                of_age("sequence", of="l", place="candidate", max_length=4),
            ],
            "'l' is of kind id_list; candidates have an id or a number each",
        ),
    ],
)
def test_transitions_that_do_not_fit_get_one_line(tmp_path: Path, features: list[str], message: str) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text(f"features: [{', '.join((AGE, PRICE, *features))}]")
    with pytest.raises(UserError, match=message) as error:
        Schema.load(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_subsets_keep_the_schemas_order() -> None:
    assert [f.name for f in FULL.subset(["price", "user"]).features] == ["user", "price"]
    assert FULL.subset(None) is FULL
    with pytest.raises(UserError, match="unknown feature 'prise'; did you mean 'price'"):
        FULL.subset(["prise"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("features: [{kind: id, name: a, ids: {kind: hash, num_ids: 4, sead: 3}}]", "ids.hash.sead: unknown key"),
        ("featurs: []", "featurs: unknown key"),
        ("features: [{kind: idd, name: a}]", "unknown kind 'idd'; did you mean 'id'"),
        ("features: [{kind: id, name: a, ids: {kind: hash, num_ids: x}}]", r"num_ids: .*integer.*\(found 'x'\)"),
        ("features: [{kind: id, name: a, ids: {kind: identity, num_ids: 0}}]", "greater than 0"),
        (
            "features: [{kind: id, name: a, ids: {kind: hash, num_ids: true}}]",
            r"features\.0\.ids\.num_ids: expected a number \(found True\)",
        ),
        (
            "features: [{kind: dense, name: price, transforms: [{kind: clip, low: false, high: 2}]}]",
            r"features\.0\.transforms\.0\.low: expected a number \(found False\)",
        ),
        ("features: []", "at least 1"),
        ("", "the top level"),
        ("[1,", "not valid YAML"),
        (
            "features: [{kind: id_list, name: a, column: b, ids: {kind: cross, columns: [a, b], num_ids: 3}}]",
            "without `column`",
        ),
        ("features: [{kind: id, name: a, ids: {kind: bucketize, boundaries: [2, 1]}}]", "boundaries must ascend"),
        ("features: [{kind: id, name: a, ids: {kind: bucketize, boundaries: [.nan]}}]", "a finite number"),
        ("features: [{kind: dense, name: a}, {kind: dense, name: a}]", "feature 'a' is declared twice"),
        (
            "features: [{kind: id, name: a, ids: {kind: hash, num_ids: 4}, table: t}, "
            "{kind: id, name: b, ids: {kind: hash, num_ids: 5}, table: t}]",
            "'a' and 'b' share table 't' but need 4 and 5 rows",
        ),
        (
            "features: [{kind: sequence, name: a, ids: {kind: hash, num_ids: 4}, max_length: 9, aligned: history}, "
            "{kind: sequence, name: b, ids: {kind: hash, num_ids: 5}, max_length: 8, aligned: history}]",
            "sequences 'a' and 'b' are aligned as 'history' but keep 9 and 8 elements; give them one max_length",
        ),
        (
            "features: [{kind: id, name: a, ids: {kind: identity, num_ids: 9, "
            "prepared: {kind: vocabulary, path: p, size: 3}}}]",
            "`prepared` makes 4 rows",
        ),
        (
            "features: [{kind: id_list, name: a, ids: {kind: identity, num_ids: 9}, weights_are: labels}]",
            "weights_are: labels needs `weights`",
        ),
    ],
)
def test_wrong_schemas_get_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        Schema.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_missing_or_unreadable_schema(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such schema; write one"):
        Schema.load(tmp_path / "schema.yaml")
    with pytest.raises(UserError, match="a folder, where a schema"):
        Schema.load(tmp_path)
    (tmp_path / "schema.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        Schema.load(tmp_path / "schema.yaml")


def test_unknown_names_suggest_the_nearest() -> None:
    assert (
        unknown("key", "batch_sise", ["batch_size", "lanes"]) == "unknown key 'batch_sise'; did you mean 'batch_size'?"
    )
    assert unknown("key", "zzz", ["batch_size", "lanes"]) == "unknown key 'zzz'; known: batch_size, lanes"
