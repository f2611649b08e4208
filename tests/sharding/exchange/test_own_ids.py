"""A batch's ids as they are sent: narrow ones as a matrix, ragged ones dealt to the ranks that hold their rows."""

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.data_pipeline.batch import Batch
from shardrec.sharding.exchange.id_layout import IdLayout, Wanted
from shardrec.sharding.exchange.own_ids import IdPacker
from shardrec.sharding.exchange.slots import KernelSlots, Slot


def kernel(*slots: Slot) -> KernelSlots:
    return KernelSlots(0, pooled=True, weighted=False, slots=slots)


def layout() -> IdLayout:
    """Rank 0 has b whole, rank 1 a; both have blocks of 5 rows for c and for the ragged d."""
    blocks = [[Slot(f, f, 0, 4, row=5 * rank, block=5, is_last=rank == 1) for f in "cd"] for rank in range(2)]
    kernels = [[kernel(Slot(whole, whole, 0, 4)), kernel(*blocks[rank])] for rank, whole in enumerate("ba")]
    return IdLayout(kernels, 0, single="abc", weighted=())


def batch(lists: dict[str, list[list[int]]]) -> Batch:
    rows = [row for of_key in lists.values() for row in of_key]
    ids = KeyedJaggedTensor(
        keys=list(lists),
        values=torch.tensor([i for row in rows for i in row], dtype=torch.int64),
        lengths=torch.tensor([len(row) for row in rows]),
    )
    count = len(rows) // len(lists)
    return Batch(torch.zeros(count, 0), ids, None, {}, torch.ones(count), None, torch.arange(count))


def test_narrow_ids_are_told_apart_from_ragged_ones() -> None:
    found = layout()
    assert found.features == ("b", "a", "c", "d")  # c, which all ranks want, behind what one does
    assert found.narrow_runs == [[(0, 1), (2, 3)], [(1, 3)]]
    assert found.ragged == [(Wanted("d", 5),)] * 2


@pytest.mark.parametrize("keys", ["bacd", "dcab"])
def test_ids_are_brought_into_order_whatever_order_they_come_in(keys: str) -> None:
    """And rows without an id, as padding is, have -1; from batch to batch counts may change."""
    packer = IdPacker(layout())
    lists = {"a": [[1], [2], []], "b": [[3], [4], []], "c": [[], [6], [7]], "d": [[9, 0, 5], [], [4, 8]]}
    for _ in range(2):
        own = packer.own(batch({key: lists[key] for key in keys}))
        assert own.narrow.tolist() == [[3, 4, -1], [1, 2, -1], [-1, 6, 7]] and not own.full
        parts = [own.part(Wanted("d", 5), rank) for rank in range(2)]
        assert [part.lengths.tolist() for part in parts] == [[1, 0, 1], [2, 0, 1]]
        assert [part.values.tolist() for part in parts] == [[0, 4], [4, 0, 3]]  # as rows of each rank's block
        dealt = torch.cat([part.values + 5 * rank for rank, part in enumerate(parts)])
        assert dealt[own.order[Wanted("d", 5)]].tolist() == [9, 0, 5, 4, 8]
        full = packer.own(batch({key: [[1], [2], [3]] for key in keys}))
        assert full.full and full.narrow.tolist() == [[1, 2, 3]] * 3


def test_what_was_said_to_be_one_id_a_row_is_refused_with_more() -> None:
    packer = IdPacker(layout())
    with pytest.raises(ValueError, match="feature 'a' has 3 ids in 2 rows"):
        packer.own(batch({"b": [[1], [1]], "a": [[1, 2], [3]], "c": [[1], [1]], "d": [[1], []]}))
