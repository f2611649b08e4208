"""The compiled kernel beside the torch form of every rule, and beside itself on more threads and other processors."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardrec.models.kernels.sources import compiler
from shardrec.sharding.kernels.library import library
from shardrec.sharding.tables.rounding import ShardRounding
from shardrec.sharding.updates.context import UpdateContext
from shardrec.sharding.updates.ftrl import Ftrl
from shardrec.sharding.updates.row_tables import RowTables
from shardrec.sharding.updates.rules import SAMPLES, AdaGrad, Adam, RmsProp, RowUpdate, RowwiseAdaGrad, Sgd
from tests.kernel_settings import kernels_set_to

COMMON: dict[str, Any] = {"learning_rate": 0.1}
RULES: list[RowUpdate] = [
    Sgd(**COMMON),
    Sgd(**COMMON, momentum=0.9, weight_decay=0.2),
    AdaGrad(**COMMON, eps=1e-3),
    AdaGrad(**COMMON, eps=1e-3, weight_decay=0.2, by_frequency=True),
    RowwiseAdaGrad(**COMMON, eps=1e-3, weight_decay=0.2),
    RmsProp(**COMMON, eps=1e-3, smoothing=0.9, weight_decay=0.2),
    Adam(**COMMON, eps=1e-3, betas=(0.9, 0.999), weight_decay=0.2),
    Adam(**COMMON, eps=1e-3, betas=(0.9, 0.99), weight_decay=0.2, by_frequency=True),
    Ftrl(**COMMON, beta=0.5, l1=0.05, l2=0.2),
]
TABLES = (0, 1, 0, 2)
"""Which table each feature reads."""


@pytest.fixture(autouse=True, scope="module")
def _is_compiled() -> None:
    if compiler() is None:
        pytest.skip("no C++ compiler here")
    assert library() is not None


@dataclass(frozen=True)
class Steps:
    """Steps of a batch of bags each: ids [T], offsets [F B + 1], scale [T] or None, gradient [B, columns]."""

    shapes: tuple[tuple[int, int], ...]
    batches: tuple[tuple[Tensor, Tensor, Tensor | None, Tensor], ...]

    @staticmethod
    def drawn(
        seed: int, bags: int, most: int, columns: tuple[int, ...], rows: tuple[int, ...], scaled: bool
    ) -> "Steps":
        """Draws three batches; most: ids of a bag, 1 for one in each. Some rows are named again and again."""
        draw = torch.Generator().manual_seed(seed)
        batches = []
        for _ in range(3):
            lengths = torch.randint(0, most + 1, (len(TABLES) * bags,), generator=draw)
            lengths = torch.ones_like(lengths) if most == 1 else lengths
            per_feature = lengths.view(len(TABLES), bags).sum(1).tolist()
            ids = [
                (torch.rand(n, generator=draw) ** 3 * rows[t]).long() for n, t in zip(per_feature, TABLES, strict=True)
            ]
            total = sum(per_feature)
            scale = torch.rand(total, generator=draw) if scaled else None
            gradient = torch.randn(bags, sum(columns[t] for t in TABLES), generator=draw)
            batches.append((torch.cat(ids), torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), scale, gradient))
        return Steps(tuple(zip(rows, columns, strict=True)), tuple(batches))

    def run(
        self, update: RowUpdate, dtype: torch.dtype, *, compiled: bool, deferred: bool = False, rounds: bool = False
    ) -> list[Tensor]:
        """Returns all that was looked up, all weights and all state after the last step."""
        roundings = [ShardRounding(7, f"t{t}", 3 * t, 2 * t) if rounds else None for t in range(len(self.shapes))]
        tables = RowTables(
            *(self.shapes, TABLES, [update] * len(self.shapes)),
            dtypes=[dtype] * len(self.shapes),
            device=torch.device("cpu"),
            roundings=roundings,
            deferred=deferred,
        )
        assert tables.compiled is not None
        tables.compiled = tables.compiled if compiled else None
        draw = torch.Generator().manual_seed(1)
        for weight, state in zip(tables.weights, tables.states, strict=True):
            weight.copy_(torch.randn(weight.shape, generator=draw))
            update.warm_start(weight, state)
            if SAMPLES in state:
                state[SAMPLES].copy_(torch.randint(0, 5, state[SAMPLES].shape, generator=draw))
        found = []
        for step, (ids, offsets, scale, gradient) in enumerate(self.batches):
            tables.begin(UpdateContext(step, learning_rate_factor=1 - 0.2 * step, loss_weight=3.0))
            out = tables(ids, offsets, scale)
            found.append(out.detach().clone())
            out.backward(gradient)
            for t, (rows, columns) in enumerate(self.shapes if deferred else ()):
                gathered = torch.zeros(rows, columns + 1)
                tables.add_gradients(t, gathered)
                tables.update(t, gathered)
        return [*found, *tables.weights, *(x for state in tables.states for x in state.values())]


STEPS = st.builds(
    Steps.drawn,
    seed=st.integers(0, 99),
    bags=st.integers(0, 6),
    most=st.sampled_from([1, 1, 4]),
    columns=st.tuples(*[st.sampled_from([1, 3, 8, 16, 35])] * 3),
    rows=st.tuples(*[st.integers(1, 3000)] * 3),
    scaled=st.booleans(),
)


@settings(max_examples=150)
@given(
    steps=STEPS,
    rule=st.sampled_from(RULES),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    deferred=st.booleans(),
    rounds=st.booleans(),
)
def test_equals_the_torch_form(steps: Steps, rule: RowUpdate, dtype: torch.dtype, deferred: bool, rounds: bool) -> None:
    """To rounding in fp32: of FTRL's z, that of what it is the difference of. A half may go to its other neighbour."""
    if dtype == torch.float16 and isinstance(rule, Ftrl):
        dtype = torch.float32
    one, other = (steps.run(rule, dtype, compiled=c, deferred=deferred, rounds=rounds) for c in (True, False))
    tolerance = 2e-3 if dtype == torch.float16 else 4e-5 if isinstance(rule, Ftrl) else 4e-6
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


set_to = partial(kernels_set_to, library)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_same_bits_on_any_number_of_threads_and_any_processor(rule: RowUpdate) -> None:
    """Also where one large table's update is divided among threads, and where sums are long."""
    steps = Steps.drawn(3, bags=9000, most=3, columns=(19, 4, 16), rows=(70_000, 50, 2000), scaled=True)
    for dtype in (torch.float32,) if isinstance(rule, Ftrl) else (torch.float32, torch.float16):
        with set_to():
            expected = steps.run(rule, dtype, compiled=True, rounds=True)
        for form in ({"threads": 2}, {"threads": 4}, {"level": 0}, {"level": 1}):
            with set_to(**form):
                found = steps.run(rule, dtype, compiled=True, rounds=True)
            assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)), form


def test_ids_astray_change_nothing() -> None:
    steps = Steps.drawn(0, bags=5, most=1, columns=(3, 3, 3), rows=(9, 9, 9), scaled=False)
    ids, offsets, _, gradient = steps.batches[0]
    tables = RowTables(steps.shapes, TABLES, [RULES[0]] * 3, dtypes=[torch.float32] * 3, device=torch.device("cpu"))
    for astray in (9, -1, 2**40):
        ids[13] = astray
        for call in (lambda: tables(ids, offsets), lambda: tables.receive(gradient, ids, offsets, None)):
            with pytest.raises(IndexError, match=f"id {astray} at place 13 .* no such row"):
                call()
    assert not any(weight.any() for weight in tables.weights)


def test_batches_of_other_precision_and_stride_are_read_right() -> None:
    """The library is given addresses, and knows no strides."""
    steps = Steps.drawn(0, bags=5, most=3, columns=(3, 3, 3), rows=(9, 9, 9), scaled=True)
    (ids, offsets, scale, gradient), found = steps.batches[0], []
    assert scale is not None
    spread = [torch.stack([x, torch.full_like(x, -7)], 1)[:, 0] for x in (ids.int(), offsets.int(), scale.double())]
    for batch in ([ids, offsets, scale], spread):
        tables = RowTables(steps.shapes, TABLES, [RULES[1]] * 3, dtypes=[torch.float32] * 3, device=torch.device("cpu"))
        assert tables.compiled is not None
        tables.compiled.update(gradient.t().contiguous().t() if batch is spread else gradient, *batch, 1.0, 1.0)
        found.append([*tables.weights, tables.compiled.pool(*batch)])
    assert found[0][0].any() and all(torch.equal(a, b) for a, b in zip(*found, strict=True))
