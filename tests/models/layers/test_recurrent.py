"""GRUs over packed sequences against loops, torch's own, and what their equations say of extreme attention."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shardrec.models.layers import pieces
from shardrec.models.layers.kernels.library import torch_alone
from shardrec.models.layers.packing import Packing, pack_steps
from shardrec.models.layers.recurrent import GRU, Update
from tests.models.layers.jagged import Rows, numbers, rows

INPUTS, HIDDEN = 3, 4


def layer(update: Update = "learned") -> GRU:
    torch.manual_seed(0)
    return GRU(INPUTS, HIDDEN, update).double()


def states(gru: GRU, x: Tensor, packing: Packing, attention: Tensor | None = None) -> Tensor:
    """In the order of the batch."""
    return packing.unpack(gru(packing.pack(x), packing, None if attention is None else packing.pack(attention)))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def by_loops(gru: GRU, x: Tensor, given: Rows, attention: Tensor) -> np.ndarray:
    weight, bias, recurrent = (p.detach().numpy() for p in (gru.project.weight, gru.project.bias, gru.recurrent))
    inputs = {name: slice(i * HIDDEN, (i + 1) * HIDDEN) for i, name in enumerate("rhu")}

    def gate(name: str, i: np.ndarray, h: np.ndarray) -> np.ndarray:
        rows_of = inputs[name]
        return weight[rows_of] @ i + bias[rows_of] + recurrent[rows_of] @ h

    found = []
    for events, weights in zip(given.split(x.detach()), given.split(attention.detach()), strict=True):
        h = np.zeros(HIDDEN)
        for i, a in zip(events.numpy(), weights.tolist(), strict=True):
            r = sigmoid(gate("r", i, h))
            rows_of = inputs["h"]
            candidate = np.tanh(weight[rows_of] @ i + bias[rows_of] + r * (recurrent[rows_of] @ h))
            z = {"learned": 1, "scaled": a, "attention": a}[gru.update]
            z *= 1 if gru.update == "attention" else sigmoid(gate("u", i, h))
            h = (1 - z) * h + z * candidate
            found.append(h)
    return np.array(found)


@pytest.fixture(params=[1, 6 * HIDDEN * 8, pieces.PIECE_BYTES], ids=["steps_alone", "some_together", "all_together"])
def grouped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", request.param)


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize("update", get_args(Update))
def test_equals_the_equations(update: Update) -> None:
    given = rows()
    x, attention = numbers(given.positions, INPUTS), torch.rand(given.positions, dtype=torch.float64)
    gru = layer(update)
    found = states(gru, x, pack_steps(*given), None if update == "learned" else attention)
    np.testing.assert_allclose(found.detach().numpy(), by_loops(gru, x, given, attention), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize("update", get_args(Update))
def test_gradients_by_differences(update: Update) -> None:
    given, gru = rows((4, 0, 5, 1, 3)), layer(update)
    packing = pack_steps(*given)
    attention = torch.rand(given.positions, dtype=torch.float64, requires_grad=update != "learned")

    def run(x: Tensor, a: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip([name for name, _ in gru.named_parameters()], parameters, strict=True))
        arguments = (packing.pack(x), packing, None if update == "learned" else packing.pack(a))
        return torch.func.functional_call(gru, named, arguments)

    assert torch.autograd.gradcheck(run, (numbers(given.positions, INPUTS), attention, *gru.parameters()))


def test_equals_torchs_gru_with_gates_translated() -> None:
    """Whose order is r, z, n, whose z is 1 - u, and which has biases of h as well."""
    given, gru = rows(), layer()
    theirs = nn.GRU(INPUTS, HIDDEN).double()
    r, h, u = (slice(i * HIDDEN, (i + 1) * HIDDEN) for i in range(3))
    with torch.no_grad():
        for target, source in (
            (theirs.weight_ih_l0, gru.project.weight),
            (theirs.bias_ih_l0, gru.project.bias),
            (theirs.weight_hh_l0, gru.recurrent),
        ):
            target.copy_(torch.cat([source[r], -source[u], source[h]]))
        theirs.bias_hh_l0.zero_()
    ours_in, theirs_in = numbers(given.positions, INPUTS), numbers(given.positions, INPUTS)
    ours = states(gru, ours_in, pack_steps(*given))
    expected = torch.cat([theirs(part)[0] for part in given.split(theirs_in) if len(part)])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    upstream = numbers(given.positions, HIDDEN, seed=1).detach()
    ours.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=0, atol=1e-12)
    of_theirs = theirs.weight_hh_l0.grad
    torch.testing.assert_close(
        gru.recurrent.grad, torch.cat([of_theirs[r], of_theirs[u], -of_theirs[h]]), atol=1e-12, rtol=0
    )


def test_full_attention_is_the_gru_and_none_holds_the_state() -> None:
    given, plain = rows(), layer()
    packing, x = pack_steps(*given), numbers(given.positions, INPUTS)
    augru, agru = layer("scaled"), layer("attention")
    augru.load_state_dict(plain.state_dict())
    ones = torch.ones(given.positions, dtype=torch.float64)
    torch.testing.assert_close(states(augru, x, packing, ones), states(plain, x, packing), rtol=0, atol=1e-15)
    for gru in (augru, agru):
        attention = ones.clone()
        step = torch.arange(given.positions) - given.offsets[given.row]
        attention[step >= 2] = 0
        for part in given.split(states(gru, x, packing, attention)):
            assert (part[2:] == part[1:2]).all()
        assert not states(gru, x, packing, 0 * ones).any()


@pytest.mark.parametrize("update", get_args(Update))
def test_a_row_does_not_see_its_batch_mates(update: Update) -> None:
    given, gru = rows(), layer(update)
    x, a = numbers(given.positions, INPUTS), torch.rand(given.positions, dtype=torch.float64)
    attention = None if update == "learned" else a
    together = given.split(states(gru, x, pack_steps(*given), attention))
    for b, length in enumerate(given.lengths.tolist()):
        if length:
            own = given.split(a)[b] if attention is not None else None
            alone = states(gru, given.split(x)[b], pack_steps(*rows((length,))), own)
            torch.testing.assert_close(together[b], alone, rtol=0, atol=1e-13)


def test_under_autocast_all_is_fp32() -> None:
    """But for factors of a kernel's products, which `tests/models/layers/kernels/test_recurrent.py` has."""
    given = rows()
    gru = GRU(INPUTS, HIDDEN, "scaled")
    x = numbers(given.positions, INPUTS).detach().float().requires_grad_()
    packing, attention = pack_steps(*given), torch.rand(given.positions)
    with torch_alone():
        expected = states(gru, x, packing, attention)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = states(gru, x, packing, attention)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    gradients = [torch.autograd.grad(y.sum(), [x, *gru.parameters()]) for y in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)


def test_bf16_inputs_have_fp32_states_and_their_own_gradient() -> None:
    given, gru = rows(), GRU(INPUTS, HIDDEN)
    x = numbers(given.positions, INPUTS).detach().bfloat16().requires_grad_()
    packing = pack_steps(*given)
    found, expected = states(gru, x, packing), states(gru, x.float(), packing)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert gradient.dtype == torch.bfloat16 and gradient.isfinite().all()
