"""Own events are those of a row's history that are of the row's own item: they would give it away."""

from collections.abc import Mapping, Sequence

import numpy as np

from shardrec.data_pipeline.reading.blocks import Block, Lists, offsets_of
from shardrec.data_pipeline.reading.collate import Layout


class OwnEvents:
    """Own events are left out of blocks of one layout, with what is aligned with them."""

    def __init__(self, layout: Layout, item_of: Mapping[str, str]) -> None:
        """item_of: sequence -> the feature of one id a row that its ids are compared with."""
        self._places = [(*layout.list_row(name), layout.id_row(item)) for name, item in item_of.items()]

    def left_out(self, parts: Sequence[Block]) -> list[Block]:
        """Returns the blocks without events of their rows' items."""
        return [self._of_block(block) for block in parts]

    def _of_block(self, block: Block) -> Block:
        lists = list(block.lists)
        for place, row, item in self._places:
            lists[place] = _without(lists[place], row, block.ids[item])
        return block._replace(lists=tuple(lists))


def _without(lists: Lists, row: int, items: np.ndarray) -> Lists:
    """Returns lists without the events whose id in list `row` is that of [n] items."""
    lengths = lists.lengths
    others = lists.owned[row] != np.repeat(items, lengths)
    if others.all():
        return lists
    kept = np.zeros(len(others) + 1, np.int64)
    np.cumsum(others, out=kept[1:])
    offsets = kept[lists.offsets - lists.offsets[0]]
    return Lists(
        np.compress(others, lists.owned, axis=1),
        offsets_of(np.diff(offsets)),
        None if lists.weights is None else lists.owned_weights[others],
        None if lists.numbers is None else np.compress(others, lists.owned_numbers, axis=1),
    )
