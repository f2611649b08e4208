"""NFM against its equation, by loops; without its network it is the FM."""

import numpy as np
import pytest
import torch

from shardrec.models.fields import Fields
from shardrec.models.fm import FM, FMConfig
from shardrec.models.layers.mlp import MLPConfig
from shardrec.models.nfm import NFM, NFMConfig
from tests.models.cases import linear, mixed_batch, mixed_schema, perceptron, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup


def bi_interaction(v: np.ndarray) -> np.ndarray:
    """[B, F, D] -> [B, D]: sum over i < j of v_i * v_j."""
    result = np.zeros((v.shape[0], v.shape[2]))
    for i in range(v.shape[1]):
        for j in range(i + 1, v.shape[1]):
            result += v[:, i] * v[:, j]
    return result


@pytest.mark.parametrize("dense", [0, 3])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_equals_the_equation(dense: int, batch_norm: bool) -> None:
    schema = mixed_schema(dense)
    config = NFMConfig(embedding_dim=4, batch_norm=batch_norm, mlp=MLPConfig(hidden=(7, 6)))
    model = NFM(Fields(schema), config).double()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    batch = mixed_batch(schema, 6)
    numbers, rows = batch.dense.double().numpy(), pooled_rows(lookup, "field", batch)
    pairs = bi_interaction(rows[:, :, 1:])
    if batch_norm:
        weight, bias = model.norm.weight.detach().numpy(), model.norm.bias.detach().numpy()
        pairs = (pairs - pairs.mean(0)) / np.sqrt(pairs.var(0) + 1e-5) * weight + bias
    expected = linear(model.linear, numbers) + rows[:, :, 0].sum(1)
    expected += perceptron(model.mlp, np.concatenate([pairs, numbers], 1))[:, 0]
    torch.testing.assert_close(model(**lookup(batch)), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_dropout_is_of_the_bi_interaction() -> None:
    schema = mixed_schema()
    model = NFM(Fields(schema), NFMConfig(embedding_dim=4, dropout=0.5, batch_norm=False, mlp=MLPConfig(hidden=())))
    seen: list[torch.Tensor] = []
    model.mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    lookup = ReferenceLookup(model)
    randomise(lookup)
    batch = mixed_batch(schema, 200)
    model(**lookup(batch)), model.eval()(**lookup(batch))
    trained, evaluated = seen
    kept = trained[:, :4] != 0
    assert 0.4 < kept.float().mean() < 0.6
    torch.testing.assert_close(trained[:, :4][kept], 2 * evaluated[:, :4][kept])
    assert torch.equal(trained[:, 4:], batch.dense)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_without_hidden_layers_and_with_h_one_it_is_the_fm(task: str) -> None:
    schema = mixed_schema()
    fm = FM(Fields(schema), FMConfig(embedding_dim=4, task=task)).double()  # type: ignore[arg-type]
    config = NFMConfig(embedding_dim=4, task=task, batch_norm=False, mlp=MLPConfig(hidden=()))  # type: ignore[arg-type]
    nfm = NFM(Fields(schema), config).double()
    assert nfm.tables == fm.tables
    lookup = ReferenceLookup(fm, dtype=torch.float64)
    randomise(fm, lookup)
    (output,) = nfm.mlp.layers
    with torch.no_grad():
        nfm.linear.load_state_dict(fm.linear.state_dict())
        output.weight.zero_()[:, :4] = 1
        output.bias.zero_()
    inputs = lookup(mixed_batch(schema, 6))
    torch.testing.assert_close(nfm(**inputs), fm(**inputs), rtol=0, atol=1e-12)
