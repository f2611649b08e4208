"""schema.yaml: what is written is read back, what is wrong gets one line."""

from pathlib import Path

import pytest

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import (
    Bucketize,
    Clip,
    Cross,
    DenseFeature,
    Hash,
    Identity,
    IdFeature,
    IdListFeature,
    Label,
    Log,
    Schema,
    SequenceFeature,
    Standardise,
    Vocabulary,
)

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
        DenseFeature(name="price", transforms=(Log(), Standardise(mean=1, deviation=2), Clip(low=-3)), missing=0.5),
    ),
    labels=(Label(column="rating", threshold=4), Label(name="rating", missing=3)),
    weight="w8",
    group="user_id",
    keys=("user_id", "asin"),
    negative_rate=0.25,
)


def test_a_saved_schema_is_read_back(tmp_path: Path) -> None:
    FULL.save(tmp_path / "schema.yaml")
    assert Schema.load(tmp_path / "schema.yaml") == FULL
    assert Schema.load(f"file://{tmp_path}/schema.yaml") == FULL
    assert "missing: error" not in (tmp_path / "schema.yaml").read_text()


def test_rows_of_tables_count_unknown_and_missing_values() -> None:
    rows = {f.name: f.num_embeddings for f in FULL.sparse}
    assert rows == {"user": 11, "age": 3, "both": 50, "item": 7, "history": 7, "tags": 5}


def test_raw_undoes_preparation() -> None:
    raw = FULL.raw()
    assert raw["item"].ids == Vocabulary(path="v/item.parquet", size=5)
    assert raw["item"].missing == "row"
    assert raw["item"].columns == ("asin",)
    assert raw["item"].num_embeddings == FULL["item"].num_embeddings
    assert raw["user"] == FULL["user"]


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
