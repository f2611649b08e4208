"""The tables that inputs read: listed, found by feature, and replaced."""

from dataclasses import replace

import pytest

from shardrec.models.inputs import DenseFeatures, Input, PooledEmbeddings, SequenceEmbeddings
from shardrec.models.table_reads import declared_tables, features_of, table_reads, with_tables
from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable

ITEM = EmbeddingTable(name="item", num_embeddings=5, embedding_dim=4)
USER = EmbeddingTable(name="user", num_embeddings=3, embedding_dim=4, optimizer=TableOptimizer(name="sgd"))


@pytest.fixture
def inputs() -> dict[str, Input]:
    return {
        "target": PooledEmbeddings({"item": ITEM, "user": USER}),
        "dense": DenseFeatures(("age",)),
        "history": SequenceEmbeddings({"seen": ITEM}),
        "again": PooledEmbeddings({"item": ITEM}),
    }


def test_reads_are_listed_input_by_input(inputs: dict[str, Input]) -> None:
    reads = [("item", ITEM), ("user", USER), ("seen", ITEM), ("item", ITEM)]
    assert list(table_reads(inputs)) == reads
    assert features_of(inputs, "item") == ("item", "seen")
    assert features_of(inputs, "age") == ()


def test_tables_by_name_take_the_default_optimizer_where_they_have_none(inputs: dict[str, Input]) -> None:
    assert declared_tables(inputs) == {"item": ITEM, "user": USER}
    default = TableOptimizer(name="adagrad")
    assert declared_tables(inputs, default) == {"item": replace(ITEM, optimizer=default), "user": USER}


def test_two_tables_of_one_name_are_refused(inputs: dict[str, Input]) -> None:
    inputs["again"] = PooledEmbeddings({"item": replace(ITEM, num_embeddings=6)})
    with pytest.raises(ValueError, match="two tables are called 'item'"):
        declared_tables(inputs)


def test_inputs_with_other_tables_keep_all_else(inputs: dict[str, Input]) -> None:
    inputs["history"] = SequenceEmbeddings({"seen": ITEM}, read="training")
    halved = with_tables(inputs, lambda table: replace(table, dtype="fp16"))
    assert halved["dense"] is inputs["dense"]
    assert halved["history"] == SequenceEmbeddings({"seen": replace(ITEM, dtype="fp16")}, read="training")
    assert {table.dtype for _, table in table_reads(halved)} == {"fp16"}
    assert {table.dtype for _, table in table_reads(inputs)} == {"fp32"}
