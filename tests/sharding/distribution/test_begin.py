"""Every kind of kernel gets every field of a step's context that its updates depend on."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from shardrec.models.dynamic_ids import DynamicConfig, DynamicIds
from shardrec.models.inputs import PooledEmbeddings
from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.distribution.distribute import Distributed, distribute
from shardrec.sharding.distribution.frozen_rows import frozen_inputs
from shardrec.sharding.distribution.local_tables import LocalBags
from shardrec.sharding.distribution.replicas import Replicas
from shardrec.sharding.distribution.row_kernels import FrozenKernel, FusedBags, RowUpdateKernel
from shardrec.sharding.planning.placements import replicas
from shardrec.sharding.planning.planner import plan_tables
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.updates.context import UpdateContext
from tests.sharding.cases import GIB, SEED, Case, Rows, Step, make, share, table

KINDS = ("fused", "row update", "local", "replicated")
SGD = TableOptimizer(name="sgd", learning_rate=0.5)
FTRL = TableOptimizer(name="ftrl", learning_rate=0.5)
ROWS = Rows({"a": [[3], [1], [3], [0]]}, {}, [1.0] * 4)


def case_of(kind: str, optimizer: TableOptimizer = SGD, **more: object) -> Case:
    if kind in ("row update", "local") and optimizer == SGD:
        optimizer = SGD.model_copy(update={"momentum": 0.5})
    one = table("t", 5, 8, optimizer=optimizer, **more)
    return Case({"x": PooledEmbeddings({"a": one})}, {"a": 1})


def build(case: Case, kind: str) -> Distributed:
    """The case's step on one rank, which a planner would give replicas to for `decay: table` alone."""
    if kind != "replicated":
        return make(case, compiled=kind == "local")
    plan = plan_tables(case.inputs, SGD, Topology(1, 1, "cpu", GIB))
    copied: EmbeddingTable = plan.tables["t"].table
    plan = replace(plan, tables={"t": replicas(copied, 1)})
    return distribute(Step(case), plan, optimizer=SGD, seed=SEED, device=torch.device("cpu"))


def changed(case: Case, kind: str, context: UpdateContext) -> Tensor:
    """How far each weight moves in one step."""
    made = build(case, kind)
    weight = made.tables["t"].shards[0].weight
    before = weight.float().clone()
    made.begin(context)
    total, _ = made.module(share(case, ROWS, 0, 1, made.lookup))
    total.backward()
    made.step()
    return weight.float() - before


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("fused", FusedBags), ("row update", RowUpdateKernel), ("local", LocalBags), ("replicated", Replicas)],
)
def test_kinds_are_what_they_are_called(kind: str, expected: type) -> None:
    """FBGEMM's, and ours under TorchRec, are those of one process on a CPU where nothing is compiled."""
    made = build(case_of(kind), kind)
    (holder,) = made._kernels or [made.replicas]
    assert isinstance(holder, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_learning_rate_factor_scales_a_rows_change(kind: str) -> None:
    whole, half, none = (changed(case_of(kind), kind, UpdateContext(0, factor)) for factor in (1.0, 0.5, 0.0))
    assert whole[[0, 1, 3]].abs().min() > 1e-4 and not whole[[2, 4]].any() and not none.any()
    torch.testing.assert_close(half, whole / 2, atol=1e-7, rtol=0)


@pytest.mark.parametrize("kind", ["row update", "local", "replicated"])
def test_the_loss_weight_makes_ftrls_gradients_those_of_a_sum(kind: str) -> None:
    """A fresh weight's first change is lr g / (beta + |g|)."""
    one, many = (changed(case_of(kind, FTRL), kind, UpdateContext(0, loss_weight=w)) for w in (1.0, 64.0))
    rate = FTRL.learning_rate
    gradient = one / (rate - one.abs())
    assert gradient.any()
    torch.testing.assert_close(many, rate * 64 * gradient / (1 + 64 * gradient.abs()))
    plain = [changed(case_of(kind), kind, UpdateContext(0, loss_weight=w)) for w in (1.0, 64.0)]
    assert torch.equal(*plain)


@pytest.mark.parametrize("kind", ["row update", "local", "replicated"])
def test_the_step_chooses_the_draws_that_fp16_rows_are_rounded_by(kind: str) -> None:
    case = case_of(kind, dtype="fp16")
    first, second, again = (changed(case, kind, UpdateContext(step)) for step in (0, 1, 0))
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert (first - second).abs().max() <= 2**-10  # one unit in the last place of weights under 2


def test_the_step_is_the_last_use_of_ids() -> None:
    ids = DynamicIds("t", DynamicConfig(rows=16))
    case = Case({"x": PooledEmbeddings({"a": table("t", ids.num_embeddings, 4, dynamic=ids, optimizer=SGD)})}, {"a": 1})
    made = make(case)
    for step in (4, 9):
        made.begin(UpdateContext(step))
        made.module(share(case, ROWS, 0, 1, made.lookup))
        state = made.id_maps["t"].row_state
        assert state["last_use"][state["count"] > 0].tolist() == [step] * 3


def test_frozen_tables_take_a_context_and_stay_as_they_are() -> None:
    case = case_of("fused")
    case = replace(case, inputs=frozen_inputs(case.inputs))
    made = build(case, "frozen")
    assert [type(kernel) for kernel in made._kernels] == [FrozenKernel]
    made.begin(UpdateContext(3, 0.5, 64.0))
    with torch.no_grad():
        made.module(share(case, ROWS, 0, 1, made.lookup))
    assert not made.tables["t"].shards[0].weight.any()


def test_gradients_that_no_step_used_are_forgotten() -> None:
    case = case_of("replicated")
    made = build(case, "replicated")
    made.begin(UpdateContext(0))
    made.module(share(case, ROWS, 0, 1, made.lookup))[0].backward()
    made.begin(UpdateContext(1))
    before = made.tables["t"].shards[0].weight.clone()
    made.step()
    assert torch.equal(made.tables["t"].shards[0].weight, before)
