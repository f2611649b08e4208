"""The unsharded lookup against loops; what it asks of batches; its errors."""

from typing import Any

import pytest
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.models.inputs import DenseFeatures, Jagged, PooledEmbeddings, SequenceEmbeddings
from shardrec.models.table_settings import TableOptimizer
from shardrec.sharding.distribution.distribute import distribute
from shardrec.sharding.lookup.lookup import EmbeddingLookup
from shardrec.sharding.planning.planner import plan_tables
from shardrec.sharding.planning.topology import Topology
from tests.sharding.cases import Case, Rows, Step, draw_rows, every_case, numbers_beside, share, table
from tests.sharding.everywhere import OPTIMIZERS
from tests.sharding.reference import Reference

DENSE = ("x", "y", "z")


def test_unsharded_trains_like_loops() -> None:
    """Autograd and torch's SGD on the unsharded module are the reference that sharded ones are compared with."""
    case = every_case().optimized({"sgd": OPTIMIZERS["sgd"]})
    generator = torch.Generator().manual_seed(5)
    batches = [draw_rows(case, 9, generator) for _ in range(4)]
    reference = Reference(case)
    expected = reference.train(batches)
    step = Step(case, device="cpu")
    tables = step.lookup.table_parameters()
    groups = [(tables.values(), OPTIMIZERS["sgd"].learning_rate), (step.tower.parameters(), 0.1)]
    optimizer = torch.optim.SGD([{"params": list(parameters), "lr": rate} for parameters, rate in groups])
    losses = []
    for rows in batches:
        total, count = step(share(case, rows, 0, 1, step.lookup))
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
        losses.append((total / count).item())
    assert losses == pytest.approx(expected, abs=1e-6)
    for name, weight in tables.items():
        dim = reference.weights[name].shape[1]
        torch.testing.assert_close(weight[:, :dim].detach().double(), reference.weights[name], atol=1e-6, rtol=0)
        assert not weight[:, dim:].any()


def look_up(case: Case, rows: Rows, sharded: bool) -> dict[str, Any]:
    if not sharded:
        lookup = EmbeddingLookup(case.inputs, DENSE, weighted_names=case.weighted, device="cpu", seed=7)
        return lookup(share(case, rows, 0, 1, lookup))
    optimizer = TableOptimizer(name="sgd")
    plan = plan_tables(case.inputs, optimizer, Topology(1, 1, "cpu", 1 << 30))
    made = distribute(Step(case), plan, optimizer=optimizer, seed=7, device=torch.device("cpu"))
    return made.lookup(share(case, rows, 0, 1, made.lookup))


def test_shapes_and_equality_with_the_sharded_form() -> None:
    """In this process, whose group of one `distribute` makes."""
    case = every_case()
    rows = draw_rows(case, 6, torch.Generator().manual_seed(2))
    plain, sharded = look_up(case, rows, False), look_up(case, rows, True)
    assert plain.keys() == sharded.keys() == case.inputs.keys()
    shapes = {n: tuple(v.shape) for n, v in plain.items() if isinstance(v, torch.Tensor)}
    assert shapes["fields"] == (6, 3, 5) and shapes["both"] == (6, 9) and shapes["dense"] == (6, 2)
    positions = sum(len(x) for x in rows.ids["items"])
    assert plain["history"].values.shape == (positions, 2, 6)
    assert plain["history"].offsets.tolist()[-1] == positions
    assert plain["history"].weights is None
    prices = [x for ids in rows.ids["items"] for x in numbers_beside(ids)]
    assert plain["history"].dense.flatten().tolist() == pytest.approx(prices)
    assert plain["steps"].weights.tolist() == pytest.approx([w for x in rows.weights["s"] for w in x])
    for name, value in plain.items():
        pairs = zip(value, sharded[name], strict=True) if isinstance(value, Jagged) else [(value, sharded[name])]
        for a, b in pairs:
            assert (a is None and b is None) or torch.allclose(a, b, atol=1e-7)


def test_dense_columns_are_picked_by_name() -> None:
    inputs = {"some": DenseFeatures(("z", "x")), "all": DenseFeatures(DENSE), "none": DenseFeatures(()), "a": bags()}
    case = Case(inputs, {"a": 1})
    lookup = EmbeddingLookup(inputs, DENSE, device="cpu")
    found = lookup(share(case, draw_rows(case, 2, torch.Generator()), 0, 1, lookup))
    assert found["some"].tolist() == [[2, 0], [5, 3]]
    assert found["all"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["none"].shape == (2, 0)
    with pytest.raises(ValueError, match="dense feature 'q' is not among"):
        EmbeddingLookup({"dense": DenseFeatures(("q",))}, DENSE)


def bags(**more: Any) -> PooledEmbeddings:
    return PooledEmbeddings({"a": table("t", 9, 4, **more)})


def test_a_model_without_tables_or_with_dense_inputs_only() -> None:
    case = Case({"dense": DenseFeatures(("y",))}, {})
    lookup = EmbeddingLookup(case.inputs, DENSE, device="cpu")
    assert lookup.id_names == ()
    other = EmbeddingLookup({"a": bags()}, DENSE)
    batch = share(Case({"a": bags()}, {"a": 1}), Rows({"a": [[1], [2]]}, {}, [1.0, 1.0]), 0, 1, other)
    assert lookup(batch)["dense"].tolist() == [[1], [4]]


@pytest.mark.parametrize("sharded", [False, True])
def test_ids_may_come_in_any_order_and_with_others(sharded: bool) -> None:
    case = Case({"x": PooledEmbeddings({"a": table("t", 9, 4), "b": table("u", 5, 4)})}, {"a": 1, "b": 2})
    rows = draw_rows(case, 5, torch.Generator().manual_seed(3))
    expected = look_up(case, rows, sharded)["x"]
    more = Case({**case.inputs, "more": PooledEmbeddings({"c": table("v", 5, 4)})}, {**case.lengths, "c": 1})
    rows.ids["c"] = [[1]] * 5
    back = PooledEmbeddings({f: case.inputs["x"].tables[f] for f in ("b", "a")})
    turned = Case({"more": more.inputs["more"], "x": back}, {})
    other = EmbeddingLookup(turned.inputs, DENSE)
    assert set(other.id_names) == {"a", "b", "c"} and other.id_names != ("a", "b")
    lookup = EmbeddingLookup(case.inputs, DENSE, device="cpu", seed=7)
    assert torch.equal(lookup(share(case, rows, 0, 1, other))["x"], expected)


def test_the_order_of_ids_may_not_change_between_batches() -> None:
    """TorchRec permutes by the first batch's keys; another order would look up other tables' rows without a word."""
    case = Case({"x": PooledEmbeddings({"a": table("t", 9, 4), "b": table("u", 9, 4)})}, {"a": 1, "b": 1})
    rows = draw_rows(case, 3, torch.Generator())
    lookup = EmbeddingLookup(case.inputs, DENSE, device="cpu")
    batch = share(case, rows, 0, 1, lookup)
    lookup(batch)
    batch.ids = batch.ids.permute([1, 0])
    with pytest.raises(ValueError, match="but the first batch's came as"):
        lookup(batch)


def test_unsharded_half_precision_gives_fp32() -> None:
    half, sequence = table("t", 9, 6, dtype="fp16"), table("u", 9, 6, dtype="fp16")
    case = Case({"x": PooledEmbeddings({"a": half}), "y": SequenceEmbeddings({"b": sequence})}, {"a": 1, "b": 2})
    lookup = EmbeddingLookup(case.inputs, DENSE, device="cpu")
    found = lookup(share(case, draw_rows(case, 3, torch.Generator()), 0, 1, lookup))
    assert found["x"].dtype == found["y"].values.dtype == torch.float32
    (found["x"].sum() + found["y"].values.sum()).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float16 for p in lookup.table_parameters().values())


def test_a_step_with_no_ids() -> None:
    """All rows padding, as an epoch's last batch may be on some rank."""
    case = every_case().optimized({"s": OPTIMIZERS["adagrad"], "l": OPTIMIZERS["rmsprop"]})
    rows = draw_rows(case, 3, torch.Generator())
    empty = Rows({f: [[], [], []] for f in rows.ids}, {f: [[], [], []] for f in rows.weights}, [0.0] * 3)
    optimizer = OPTIMIZERS["adagrad"]
    plan = plan_tables(case.inputs, optimizer, Topology(1, 1, "cpu", 1 << 30))
    made = distribute(Step(case), plan, optimizer=optimizer, seed=7, device=torch.device("cpu"))
    before = {n: t.shards[0].weight.clone() for n, t in made.tables.items()}
    total, _ = made.module(share(case, empty, 0, 1, made.lookup))
    total.backward()
    made.step()
    assert all(torch.equal(t.shards[0].weight, before[n]) for n, t in made.tables.items())


def test_an_id_beyond_the_table_is_an_error() -> None:
    case = Case({"x": bags(optimizer=OPTIMIZERS["sgd"])}, {"a": 1})
    rows = Rows({"a": [[1], [9]]}, {}, [1.0, 1.0])
    plan = plan_tables(case.inputs, OPTIMIZERS["sgd"], Topology(1, 1, "cpu", 1 << 30))
    made = distribute(Step(case), plan, optimizer=OPTIMIZERS["sgd"], seed=7, device=torch.device("cpu"))
    with pytest.raises(IndexError, match=r"id 9 at place 1 .* no such row \(of \[9\]\)"):
        made.module(share(case, rows, 0, 1, made.lookup))


def test_sequences_of_unequal_dims() -> None:
    unequal = SequenceEmbeddings({"a": table("t", 9, 4), "b": table("u", 9, 6)})
    with pytest.raises(UserError, match=r"input 'h' stacks sequences of unequal embedding_dim \(t 4, u 6\)"):
        EmbeddingLookup({"h": unequal}, DENSE)


def test_two_tables_of_one_name() -> None:
    with pytest.raises(ValueError, match="two tables are called 't'"):
        EmbeddingLookup({"x": bags(), "y": PooledEmbeddings({"b": table("t", 8, 4)})}, DENSE)


def test_names_that_look_like_torchrecs_keys() -> None:
    """TorchRec writes feature@table where tables share a feature; a feature that is called so has its own rows."""
    tables = {name: table(name, 4, 4) for name in ("wide/a", "deep/a", "type", "a%40b")}
    names = {"a": "wide/a", "a@table:wide/a": "type", "a%40table:wide/a": "a%40b"}
    pooled = PooledEmbeddings({feature: tables[name] for feature, name in names.items()})
    inputs = {"first": pooled, "second": PooledEmbeddings({"a": tables["deep/a"]})}
    case = Case(inputs, lengths=dict.fromkeys(names, 3))
    rows = draw_rows(case, 6, torch.Generator().manual_seed(2))
    lookup = EmbeddingLookup(case.inputs, DENSE, device="cpu", seed=7)
    weights = lookup.table_parameters()
    batch = share(case, rows, 0, 1, lookup)
    looked_up = lookup(batch)
    for place, (feature, name) in enumerate(names.items()):
        torch.testing.assert_close(looked_up["first"][:, place], _sums(weights[name], batch.ids[feature]))
    torch.testing.assert_close(looked_up["second"][:, 0], _sums(weights["deep/a"], batch.ids["a"]))
    sharded = look_up(case, rows, True)
    for name in inputs:
        torch.testing.assert_close(sharded[name], looked_up[name])


def _sums(weight: torch.Tensor, ids: Any) -> torch.Tensor:
    return torch.stack([weight[row].sum(0) for row in ids.values().split(ids.lengths().tolist())]).detach()


def test_numbers_that_are_not_aligned_with_the_ids_are_refused() -> None:
    case = every_case()
    lookup = EmbeddingLookup(case.inputs, DENSE, weighted_names=case.weighted, device="cpu")
    batch = share(case, draw_rows(case, 6, torch.Generator().manual_seed(2)), 0, 1, lookup)
    batch.dense_sequences["prices"] = batch.dense_sequences["prices"][1:]
    with pytest.raises(ValueError, match=r"'prices' has \d+ numbers beside \d+ ids of items, kinds; .* aligned"):
        lookup(batch)
