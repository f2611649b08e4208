"""Which sequences make a history, which features its target, and one clear line where that cannot be said."""

from typing import Any

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import DenseFeature, DenseSequenceFeature, IdFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.din import DIN, DINConfig
from shardrec.models.fields import Fields
from shardrec.models.histories import History, HistoryConfig
from shardrec.models.inputs import PooledEmbeddings
from tests.models.cases import histories_schema, mixed_schema

ITEM, KIND = Identity(num_ids=9), Identity(num_ids=4)


def sequence(name: str, table: str | None = "item", aligned: str | None = "a") -> SequenceFeature:
    ids = KIND if table == "kind" else ITEM
    return SequenceFeature(name=name, ids=ids, table=table, max_length=5, aligned=aligned)


def an_id(name: str, table: str | None = None, role: Any = None) -> IdFeature:
    return IdFeature(name=name, ids=KIND if "kind" in (name, table) else ITEM, table=table, role=role)


def numbers(name: str, aligned: str = "a") -> DenseSequenceFeature:
    return DenseSequenceFeature(name=name, max_length=5, aligned=aligned)


def history(*features: Any, **settings: Any) -> History:
    return History.of(Fields(Schema(features=features)), HistoryConfig(**settings))


def test_sequences_find_their_targets_by_table() -> None:
    model = DIN(Fields(histories_schema()), DINConfig())
    assert list(model.inputs["history"].tables) == ["item_history", "kind_history", "hour_history"]
    assert list(model.inputs["target"].tables) == ["item", "kind", "hour"]
    assert list(model.inputs["context"].tables) == ["user"]
    assert model.inputs["target"].tables["kind"] is not None
    assert model.inputs["target"].tables["kind"] == model.inputs["history"].tables["kind_history"]


def test_a_feature_of_the_user_on_the_items_table_is_context() -> None:
    found = history(an_id("last", "item", "user"), an_id("item", role="item"), sequence("clicks"))
    assert found.pairs == {"clicks": "item"} and found.context == ("last",)
    named = history(an_id("last", "item"), an_id("item"), sequence("clicks"), target={"clicks": "last"})
    assert named.pairs == {"clicks": "last"} and named.context == ("item",)


def test_numbers_beside_events_belong_to_them() -> None:
    features = (an_id("item"), sequence("clicks"), numbers("paid"), numbers("age"), numbers("negative_paid"))
    features += (DenseFeature(name="price"), sequence("buys", aligned="b"), numbers("spent", "b"))
    found = history(*features, history=("clicks", "paid"), target={"paid": "price"})
    assert (found.pairs, found.numbers) == ({"clicks": "item"}, {"paid": "price"})
    assert history(*features, history=("clicks",)).numbers == {}
    alone = tuple(f for f in features if f.name != "buys" and f.name != "spent")
    assert history(*alone).numbers == {"paid": None, "age": None}
    model = DIN(Fields(Schema(features=alone)), DINConfig(embedding_dim=4))
    assert (model.inputs["history"].dense, model.event_width) == (("paid", "age"), 6)


def test_what_follows_a_row_is_no_part_of_its_history() -> None:
    """Candidates and the next state have features on the item's table too; a model of histories reads none of them."""
    later = an_id("next", "item").model_copy(update={"place": "next", "of": "item"})
    shown = sequence("shown", aligned="c").model_copy(update={"place": "candidate", "of": "item"})
    ages = numbers("ages", "c").model_copy(update={"place": "candidate", "of": "price"})
    found = history(an_id("item"), DenseFeature(name="price"), sequence("clicks"), later, shown, ages)
    assert (found.pairs, found.context, found.numbers) == ({"clicks": "item"}, (), {})


def test_a_model_without_context_and_dense_features() -> None:
    model = DIN(Fields(Schema(features=(an_id("item"), sequence("clicks")))), DINConfig())
    assert "context" not in model.inputs and isinstance(model.inputs["target"], PooledEmbeddings)


@pytest.mark.parametrize(
    ("features", "settings", "line"),
    [
        (mixed_schema().features, {}, "no sequence feature for it .*user, item, last_item.*`kind: sequence`"),
        ((an_id("item"), sequence("negative_clicks")), {}, "no sequence feature for it"),
        ((an_id("item"), sequence("clicks")), {"history": ("click",)}, "history: unknown sequence feature 'click'"),
        (
            (an_id("kind"), sequence("clicks")),
            {},
            "sequence 'clicks' looks up table 'item', but no id feature .*tables: kind: kind.* `table: item`",
        ),
        (
            (an_id("item"), an_id("kind"), sequence("clicks")),
            {"target": {"clicks": "kind"}},
            "sequence 'clicks' looks up table 'item', but its target feature 'kind' does not",
        ),
        (
            (an_id("item"), an_id("other", "item"), sequence("clicks")),
            {},
            r"so do 2 id features \(item, other\); say which one is the target's: `target: {clicks: item}`",
        ),
        (
            (an_id("item"), sequence("clicks")),
            {"target": {"clicks": "itm"}},
            "target: unknown id feature 'itm'; did you mean 'item'",
        ),
        (
            (an_id("item"), sequence("clicks")),
            {"target": {"click": "item"}},
            "target: unknown sequence of the history 'click'",
        ),
        (
            (an_id("item"), an_id("kind"), sequence("clicks"), sequence("buys", "kind", "b")),
            {},
            r"'clicks' \(aligned: a\) and 'buys' \(aligned: b\) make no one history; name those that do by `history`",
        ),
        (
            (an_id("item"), an_id("kind"), sequence("clicks", aligned=None), sequence("kinds", "kind", None)),
            {},
            r"'clicks' \(not aligned\) and 'kinds' \(not aligned\) make no one history",
        ),
        (
            (an_id("item"), sequence("clicks"), numbers("paid"), DenseFeature(name="price")),
            {"target": {"paid": "item"}},
            "target: unknown dense feature 'item'; known: price",
        ),
        (
            (an_id("item"), sequence("clicks"), sequence("buys", aligned="b"), numbers("paid", "b")),
            {"history": ("clicks", "paid")},
            r"numbers of 'paid' \(aligned: b\) do not lie beside the ids of 'clicks' \(aligned: a\)",
        ),
        (
            (an_id("item"), sequence("clicks"), numbers("paid")),
            {"history": ("paid",)},
            "'paid' has numbers alone; name",
        ),
        (
            (an_id("item"), sequence("clicks"), sequence("again")),
            {},
            "'clicks' and 'again' both have the target feature 'item'",
        ),
    ],
)
def test_histories_that_cannot_be_read(features: Any, settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        history(*features, **settings)
    assert "\n" not in str(error.value)
