"""Detached inputs: under which keys their ids stand, what the tower gets, when they are read."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from shardrec.models.dynamic_ids import DynamicConfig, DynamicIds
from shardrec.models.inputs import DenseFeatures, Jagged, PooledEmbeddings, SequenceEmbeddings
from shardrec.sharding.lookup.detached import stand_ins
from shardrec.sharding.lookup.lookup import EmbeddingLookup
from tests.sharding.cases import SEED, Case, Rows, draw_rows, every_case, make, share, table, train

DENSE = ("x", "y", "z")
PAIR = (table("user", 9, 4), table("item", 7, 4))


def flat(value: Any) -> torch.Tensor:
    return value.values if isinstance(value, Jagged) else value


def test_ids_stand_under_a_key_of_their_tables() -> None:
    user, item = PAIR
    inputs = {
        "now": PooledEmbeddings({"user": user, "item": item, "rated": item}),
        "wide": PooledEmbeddings({"item": table("wide", 7, 1)}),
        "next": PooledEmbeddings({"next_user": user, "user": user, "likes": item}, detached=True),
        "candidates": SequenceEmbeddings({"items": item, "others": item}, detached=True),
        "linear": PooledEmbeddings({"items": table("wide", 7, 1)}, detached=True),
        "alone": PooledEmbeddings({"own": table("own", 3, 2)}, detached=True),
    }
    assert stand_ins(inputs, {"rated", "likes"}) == {
        "user": "user",  # whose key next_user must then not take
        "next_user": "next_user",
        "likes": "rated",  # with weights, like it
        "items": "item",  # of both tables
        "others": "others",  # none is left
        "own": "own",
    }


def unsharded(case: Case) -> EmbeddingLookup:
    return EmbeddingLookup(case.inputs, DENSE, weighted_names=case.weighted, device="cpu", seed=SEED)


@pytest.mark.parametrize("sharded", [False, True])
def test_the_tower_gets_vectors_without_gradient(sharded: bool) -> None:
    """Of the rows that the same ids would have as any input's; the keys of collections grow by what finds none free."""
    plain = every_case()
    case = plain.with_detached()
    rows = draw_rows(case, 6, torch.Generator().manual_seed(2))
    lookup = make(case).lookup if sharded else unsharded(case)
    found = lookup(share(case, rows, 0, 1, lookup))
    keys = {f for part in lookup.collections for features in part.group.features.values() for f in features}
    assert keys == {*plain.lengths, "later_tags", "alone"}
    other = unsharded(plain)
    twin = replace(
        rows,
        ids={f: rows.ids[f"next_{f}"] for f in plain.lengths},
        weights={f: rows.weights[f"next_{f}"] for f in plain.weighted},
    )
    expected = other(share(plain, twin, 0, 1, other))
    for name in plain.inputs:
        if name == "dense":
            continue
        torch.testing.assert_close(flat(found[f"next/{name}"]), flat(expected[name]), atol=1e-6, rtol=0)
        assert flat(found[name]).requires_grad and not flat(found[f"next/{name}"]).requires_grad
    tags = other.table_parameters()["tags"][:, :1].detach()
    later = torch.tensor([i for row in rows.ids["later_tags"] for i in row])
    assert torch.equal(found["later"].values, tags[later].unsqueeze(1))


def test_what_is_labelled_is_left_out_of_predictions() -> None:
    user, item = PAIR
    inputs = {
        "now": PooledEmbeddings({"user": user, "item": item}),
        "next": PooledEmbeddings({"next_user": user}, read="labelled", detached=True),
        "seen": SequenceEmbeddings({"items": item}, read="training", detached=True),
        "more": PooledEmbeddings({"user": user}, read="training"),
        "dense": DenseFeatures(("x",)),
        "next_dense": DenseFeatures(("y",), read="labelled"),
    }
    case = Case(inputs, {"user": 1, "item": 1, "next_user": 1, "items": 3})
    lookup = EmbeddingLookup(inputs, DENSE, device="cpu")
    batch = share(case, draw_rows(case, 4, torch.Generator()), 0, 1, lookup)
    labelled = replace(batch, labels={"click": torch.zeros(4)})
    assert set(lookup(batch)) == set(lookup(labelled)) == set(inputs)
    lookup.eval()
    assert set(lookup(labelled)) == {"now", "next", "dense", "next_dense"}
    assert set(lookup(batch)) == {"now", "dense"}


def test_detached_ids_find_the_rows_of_dynamic_tables_and_get_none() -> None:
    """Nor do they count, or keep a row from being given away."""
    ids = DynamicIds("t", DynamicConfig(rows=16, after=2, candidates=2.0))
    asked = table("t", ids.num_embeddings, 4, dynamic=ids)
    inputs = {"x": PooledEmbeddings({"a": asked}), "next": PooledEmbeddings({"b": asked}, detached=True)}
    case = Case(inputs, {"a": 1, "b": 1})
    made = make(case)
    once = Rows({"a": [[5], [6]], "b": [[7], [8]]}, {}, [1.0, 1.0])
    again = Rows({"a": [[5], [9]], "b": [[7], [5]]}, {}, [1.0, 1.0])
    train(case, made, [once, again], tower_rate=0.0)
    id_map = made.id_maps["t"]
    rows = id_map.find(torch.tensor([5, 6, 7, 8, 9]))
    assert (rows >= 0).tolist() == [True, False, False, False, False]  # 7 came twice, as 5 did
    assert (id_map.counters.admissions, id_map.occupied(), id_map.candidates()) == (1, 1, 2)
    before = {name: column.clone() for name, column in id_map.row_state.items()}
    batch = share(case, Rows({"a": [[6], []], "b": [[5], [7]]}, {}, [1.0, 1.0]), 0, 1, made.lookup)
    made.lookup.dynamic.begin(2)
    found = made.lookup(batch)["next"][:, 0]
    after = {name: column for name, column in id_map.row_state.items()}
    weight = made.tables["t"].shards[0].weight
    assert torch.equal(found, weight[torch.stack([rows[0], torch.tensor(ids.default_row)])][:, :4])
    assert before["count"][before["id"] == 5].equal(after["count"][after["id"] == 5])
    assert before["last_use"][before["id"] == 5].equal(after["last_use"][after["id"] == 5])
