"""Unsound values, of which there must be none in a checkpoint, are counted in what was written and in what is live."""

from collections import Counter
from collections.abc import Iterable, Mapping

import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.sharding.checkpoints.entries import Entry
from shardrec.sharding.checkpoints.unwritten_file import UnwrittenFile
from shardrec.sharding.tables.magnitudes import count_beyond, largest_value, unsound_values
from shardrec.trainer.session.session import Session
from shardrec.trainer.session.tower import MODEL


class UnsoundValuesError(UserError):
    """Unsound values are not finite, or so large that no step changes them: training cannot go on from them."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        """Names the first of `counts`, tensors with how many such values each has, and sums the others up."""
        name, count = next(iter(counts.items()))
        others = f" (and {sum(counts.values()) - count:,} of {len(counts) - 1} others)" if len(counts) > 1 else ""
        noun, verb = ("value", "is") if sum(counts.values()) == 1 else ("values", "are")
        super().__init__(f"{count:,} {noun} of {name}{others} {verb} not finite, or too large to train on")


def unsound_in_tables(files: Iterable[UnwrittenFile], entries: Iterable[Entry]) -> dict[str, int]:
    """Returns how many values of each table's tensors were found unsound as files were copied, or others written."""
    counts: Counter[str] = Counter()
    for file in files:
        counts.update({_of_table(file.entry["table"], name): count for name, count in (file.unsound or {}).items()})
    for entry in entries:
        for name, described in entry["tensors"].items():
            if "unsound" in described:
                counts[_of_table(entry["table"], name)] += described["unsound"]
    return dict(counts)


def unsound_tower(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Returns how many values of each parameter, buffer and optimizer state of a tower are unsound.

    tensors: by plan-independent names, as `Session.tower_tensors` gives them.
    """
    counts = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        parameter, _, state = rest.rpartition("/") if kind == "tower_optimizer" else (rest, "", "")
        is_buffer = kind == "tower_buffer"  # moments are of the data's magnitude
        largest = torch.finfo(torch.float32).max if is_buffer else largest_value(state)
        if count := count_beyond(tensor, largest):
            counts[(f"{state} of " if state else "") + f"the tower's {parameter.removeprefix(MODEL)}"] = count
    return counts


def check_sound(session: Session) -> None:
    """Raises UnsoundValuesError, on all workers, where training could not go on from what a session holds.

    That is one pass over all tables.
    """
    environment, counts = session.environment, Counter[str]()
    for name, table in session.distributed.tables.items():
        for shard in table.shards if environment.leads or not table.replicated else ():
            found = unsound_values({tensor: table.logical(shard, tensor) for tensor in shard.tensors})
            counts.update({_of_table(name, tensor): count for tensor, count in found.items()})
    of_all: Counter[str] = sum(environment.gather(counts), Counter())
    of_tower = environment.broadcast(unsound_tower(session.tower_tensors()) if environment.leads else None)
    if unsound := dict(of_all) | of_tower:
        raise UnsoundValuesError(unsound)


def _of_table(table: str, tensor: str) -> str:
    return f"table {table!r}" if tensor == "weight" else f"{tensor} of table {table!r}"
