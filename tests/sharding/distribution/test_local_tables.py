"""Local tables that know of features with one id a row look them up as those that do not, at less cost."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.distribution.local_tables import LocalBags
from shardrec.sharding.lookup.groups import Group
from shardrec.sharding.updates.context import UpdateContext

SGD = TableOptimizer(name="sgd", learning_rate=0.5)
WIDE, DEEP = (
    EmbeddingTable(name=name, num_embeddings=7, embedding_dim=dim, optimizer=SGD)
    for name, dim in (("wide", 1), ("deep", 4))
)
GROUP = Group("bags", {WIDE: ("a", "b"), DEEP: ("b", "a")})
FULL, HOLES = {"a": [[1], [2], [6]], "b": [[3], [3], [0]]}, {"a": [[1], [2], [6]], "b": [[3], [], [0]]}


class Called(TorchDispatchMode):
    """The names of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def batch_of(ids: dict[str, list[list[int]]]) -> KeyedJaggedTensor:
    bags = [bag for bags in ids.values() for bag in bags]
    return KeyedJaggedTensor(
        list(ids),
        torch.tensor([i for bag in bags for i in bag]),
        lengths=torch.tensor([len(bag) for bag in bags], dtype=torch.int32),
        stride=3,
        length_per_key=[sum(map(len, bags)) for bags in ids.values()],
    )


def trained(narrow: tuple[str, ...], ids: dict[str, list[list[int]]]) -> tuple[list[torch.Tensor], list[str]]:
    bags, called = LocalBags(GROUP, torch.device("cpu"), 0, narrow=narrow), Called()
    for weight in bags.kernels[0].weights:
        weight.copy_(torch.arange(weight.numel()).view_as(weight))
    bags.begin(UpdateContext(0))
    with called:
        vectors = bags(batch_of(ids)).values()
    vectors.backward(torch.linspace(-1, 1, vectors.numel()).view_as(vectors))
    return [vectors.detach(), *bags.kernels[0].weights], called.names


@pytest.mark.parametrize("keys", ["ab", "ba"])
@pytest.mark.parametrize(("ids", "spares"), [(FULL, True), (HOLES, False)])
def test_one_id_a_row_is_looked_up_without_lengths(keys: str, ids: dict, spares: bool) -> None:
    ids = {key: ids[key] for key in keys}
    expected, _ = trained((), ids)
    found, called = trained(("a", "b"), ids)
    assert all(map(torch.equal, found, expected))
    assert spares == (not any("cumsum" in name or "permute" in name for name in called))


def test_lists_are_not_taken_for_single_ids() -> None:
    """Three ids in three rows may be two of one row and none of another."""
    ids = {"a": [[1, 2], [], [6]], "b": [[3], [3], [0]]}
    found, _ = trained(("b",), ids)
    expected, _ = trained((), ids)
    assert all(map(torch.equal, found, expected))
