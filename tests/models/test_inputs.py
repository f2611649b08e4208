"""Tables that fields declare under a run file's settings."""

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import DenseFeature, DenseSequenceFeature, IdFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Identity, Raw
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.base import Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings, SequenceEmbeddings
from shardrec.models.table_settings import TableInit, TableOptimizer, TableSettings
from shardrec.models.tables import EmbeddingTable
from shardrec.models.tasks import BinaryClassification
from tests.models.cases import mixed_schema, ratings_schema


def test_later_patterns_win_and_the_unsaid_stays() -> None:
    fields = Fields(
        mixed_schema(),
        {
            "*": TableSettings(embedding_dim=8, dtype="fp16"),
            "item": TableSettings(embedding_dim=4, placement="row_wise"),
            "ite*": TableSettings(optimizer=TableOptimizer(name="sgd")),
        },
    )
    tables = fields.tables(embedding_dim=16, zero_columns=1)
    assert tables["user"].embedding_dim == 9 and tables["user"].placement is None
    item = tables["item"]
    assert (item.embedding_dim, item.dtype, item.placement) == (5, "fp16", "row_wise")
    assert item.optimizer == TableOptimizer(name="sgd")


def test_what_is_said_of_fresh_rows_leaves_the_rest_as_the_model_declares() -> None:
    normal = TableInit(kind="normal", scale=0.5)
    settings = {"*": TableSettings(init={"scale": 0.02}), "item": TableSettings(init={"kind": "uniform"})}
    fields = Fields(mixed_schema(), settings)
    assert fields.table("user", embedding_dim=4, init=normal).init == TableInit(kind="normal", scale=0.02)
    assert fields.table("item", embedding_dim=4, init=normal).init == TableInit(kind="uniform", scale=0.02)
    assert fields.table("tags", embedding_dim=4).init == TableInit(kind="uniform", scale=0.02)
    read_back = {name: TableSettings.model_validate(s.model_dump(mode="json")) for name, s in settings.items()}
    again = Fields(mixed_schema(), read_back)  # a run folder's config.yaml has every key
    assert again.table("user", embedding_dim=4, init=normal).init == TableInit(kind="normal", scale=0.02)


def test_features_of_one_id_space_share_a_table_per_group() -> None:
    fields = Fields(mixed_schema())
    tables = fields.tables(embedding_dim=4)
    assert tables["item"] == tables["last_item"] and tables["item"].name == "item"
    assert fields.table("item", embedding_dim=4, group="deep").name == "deep/item"


def test_a_setting_that_matches_no_table_names_the_nearest() -> None:
    fields = Fields(mixed_schema(), {"itm": TableSettings(dtype="fp16")})
    tables = fields.tables(embedding_dim=4)
    with pytest.raises(UserError, match="unknown table 'itm'; did you mean 'item'"):
        fields.check_all_settings_used(t.name for t in tables.values())


def test_dynamic_tables_have_rows_for_ids_and_one_for_all_others() -> None:
    settings = {"item": TableSettings(dynamic={"rows": 1000, "after": 3}), "user": TableSettings(dynamic=True)}
    fields = Fields(mixed_schema(), settings)
    item, deep = fields.table("item", embedding_dim=4), fields.table("last_item", embedding_dim=4, group="deep")
    assert item.dynamic is not None and item.dynamic.name == "item" and item.dynamic.config.after == 3
    assert 1000 < item.num_embeddings < 1500 and item.dynamic.default_row == item.num_embeddings - 1
    assert deep.dynamic is None, "the pattern does not match deep/item"
    user = fields.table("user", embedding_dim=4)
    assert user.dynamic is not None and user.dynamic.config.rows == mixed_schema()["user"].num_embeddings
    off = Fields(mixed_schema(), settings | {"it*": TableSettings(dynamic=False)})
    assert off.table("item", embedding_dim=4).dynamic is None
    unsaid = Fields(mixed_schema(), settings | {"it*": TableSettings(dtype="fp16")})
    assert unsaid.table("item", embedding_dim=4).dynamic == item.dynamic


def test_raw_ids_need_a_dynamic_table_of_known_size() -> None:
    schema = Schema(features=(IdFeature(name="user", ids=Raw()), IdFeature(name="item", ids=Raw())))
    for settings in ({}, {"user": TableSettings(dynamic=True)}):
        with pytest.raises(UserError, match=r"the ids of feature 'user' are raw, .*user: \{dynamic: \{rows"):
            Fields(schema, settings).table("user", embedding_dim=4)
        with pytest.raises(UserError, match=r'"\*/user": \{dynamic: \{rows'):  # its tables of all groups at once
            Fields(schema, settings).table("user", embedding_dim=4, group="wide")
    fields = Fields(schema, {"*": TableSettings(dynamic={"rows": 40}), "item": TableSettings(dynamic={"rows": 90})})
    rows = [fields.table(f, embedding_dim=4).num_embeddings for f in ("user", "item")]
    assert 40 < rows[0] < 90 < rows[1]


def test_a_schema_without_ids_is_refused() -> None:
    with pytest.raises(UserError, match="at least one id or id_list feature"):
        Fields(mixed_schema().subset(["n0"])).tables(embedding_dim=4)


def test_a_dense_feature_has_no_table() -> None:
    with pytest.raises(UserError, match="'n0' is dense"):
        Fields(mixed_schema()).table("n0", embedding_dim=4)


def test_selection_by_pattern_keeps_the_schemas_order() -> None:
    fields = Fields(mixed_schema())
    assert fields.select(["user_*", "item", "*s"]) == ("item", "tags", "topics", "user_item")
    assert fields.select(None) == fields.pooled


class TwoInputs(Recommender):
    def __init__(self, **inputs: PooledEmbeddings | SequenceEmbeddings | DenseFeatures) -> None:
        super().__init__(inputs=inputs, task=BinaryClassification("label"))

    def forward(self, field: object, dense: object) -> None: ...


def table(rows: int) -> PooledEmbeddings:
    return PooledEmbeddings({f"f{rows}": EmbeddingTable(name="t", num_embeddings=rows, embedding_dim=4)})


def test_inputs_are_forwards_parameters() -> None:
    with pytest.raises(TypeError, match=r"forward takes \('field', 'dense'\) but inputs declares \('field', 'other'\)"):
        TwoInputs(field=table(3), other=DenseFeatures(()))


class Trained(TwoInputs):
    def forward(self, field: object, dense: object = None) -> None: ...  # type: ignore[override]


def test_inputs_that_are_not_always_read() -> None:
    """Their features, unless an input that is read has them too; `forward` has to do without."""
    a, b = EmbeddingTable(name="t", num_embeddings=3, embedding_dim=4), PooledEmbeddings
    model = Trained(field=b({"x": a, "y": a}), dense=SequenceEmbeddings({"y": a, "z": a}, read="training"))
    assert model.features == ("x", "y", "z")
    assert model.unread_features(labelled=True) == model.unread_features(labelled=False) == ("z",)
    labelled = Trained(field=b({"x": a}), dense=DenseFeatures(("n",), read="labelled"))
    assert labelled.unread_features(labelled=True) == ()
    assert labelled.unread_features(labelled=False) == ("n",)
    assert Trained(field=b({"x": a}), dense=SequenceEmbeddings({"z": a})).unread_features(labelled=False) == ()
    with pytest.raises(TypeError, match=r"forward needs a default for 'field', which is not read always: training"):
        Trained(field=SequenceEmbeddings({"z": a}, read="training"))


def test_two_tables_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two tables are called 't'"):
        TwoInputs(field=table(3), dense=table(4))


def test_labels_of_id_lists_are_no_field() -> None:
    """Pooled, they would give the answer away."""
    schema = ratings_schema()
    assert Fields(schema).pooled == Fields(schema.unlabelled()).pooled == ("rated",)
    with pytest.raises(UserError, match="unknown id or id_list feature 'asked'"):
        Fields(schema).select(["asked"])


def test_models_take_the_rows_own_features_unless_they_ask_for_another_place() -> None:
    ids = Identity(num_ids=9)
    shown = {"place": "candidate", "max_length": 4, "aligned": "shown"}
    schema = Schema(
        features=(
            IdFeature(name="item", ids=ids),
            DenseFeature(name="price"),
            SequenceFeature(name="past", ids=ids, table="item", max_length=3, aligned="past"),
            DenseSequenceFeature(name="paid", max_length=3, aligned="past"),
            IdFeature(name="next_item", ids=ids, table="item", place="next", of="item"),
            DenseFeature(name="next_price", place="next", of="price"),
            SequenceFeature(name="shown", ids=ids, table="item", of="item", **shown),
            DenseSequenceFeature(name="shown_price", of="price", **shown),
        )
    )
    fields = Fields(schema)
    assert (fields.pooled, fields.dense) == (("item",), ("price",))
    assert (fields.sequences, fields.dense_sequences) == (("past",), ("paid",))
    assert fields.at("next") == {"item": "next_item", "price": "next_price"}
    assert fields.at("candidate") == {"item": "shown", "price": "shown_price"} and fields.at("next_candidate") == {}
    with pytest.raises(UserError, match="unknown id or id_list feature 'next_item'"):
        fields.select(["next_item"])
