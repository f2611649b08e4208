"""Host reads are the places of a step where the host reads values of tensors: of a GPU's it waits until they are there.

They are seen where operations reach torch's dispatcher, in backward too, so that a machine without a GPU counts them.
There tensors that a run keeps on the host count with those that a GPU would have.
"""

import sys
from collections import Counter
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import shardrec

PACKAGE = str(Path(shardrec.__file__).parent) + "/"
READS = {
    "aten::_local_scalar_dense",
    "aten::bincount",
    "aten::equal",
    "aten::masked_select",
    "aten::nonzero",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::unique_dim_consecutive",
    "aten::_unique",
    "aten::_unique2",
}
"""Operations that give a number to the host, or whose result's size depends on values."""
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
MOVES = {"aten::_to_copy", "aten::copy_"}

Place = tuple[str, int, str]
"""A file of this package, relative to it, or of a library; a line; a function."""


class HostReads(TorchDispatchMode):
    """Counts what the host reads while it lasts: `places` has how often, by place and operation."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[tuple[Place, str]] = Counter()

    @property
    def total(self) -> int:
        """Returns how many reads there were."""
        return self.places.total()

    def by_file(self) -> dict[str, int]:
        """Returns how many reads each file has."""
        counts: Counter[str] = Counter()
        for ((file, _, _), _), count in self.places.items():
            counts[file] += count
        return dict(sorted(counts.items()))

    def __enter__(self) -> "HostReads":
        plain = Tensor.tolist
        reads = self

        def tolist(self: Tensor) -> Any:
            if self.device.type == "cpu" and self.dim() > 0:  # the others reach the dispatcher
                reads.note("tolist")
            return plain(self)

        Tensor.tolist = tolist  # type: ignore[method-assign, assignment]
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del Tensor.tolist  # what is below it is torch's own
        super().__exit__(kind, error, trace)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        name = operation._schema.name
        if name in READS or (name == "aten::repeat_interleave" and _is_sized_by_values(args, kwargs or {})):
            self.note(name.removeprefix("aten::"))
        elif name in INDEXING and any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1]):
            self.note("index by a mask")
        elif name in MOVES and _leaves_the_device(name, args, result):
            self.note("copy to the host")
        return result

    def note(self, what: str) -> None:
        """Counts a read at the innermost place of this package that is being run."""
        self.places[place_of(sys._getframe(1)), what] += 1


def place_of(frame: FrameType | None) -> Place:
    """Returns the innermost place of this package that a frame was called from; without one, the outermost of any."""
    outer: FrameType | None = None
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE) and "/gpu_check/" not in file:
            return file.removeprefix(PACKAGE), frame.f_lineno, frame.f_code.co_qualname
        outer, frame = frame, frame.f_back
    assert outer is not None
    return outer.f_code.co_filename, outer.f_lineno, outer.f_code.co_qualname


def _is_sized_by_values(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Says whether a `repeat_interleave` was not told how many rows it gives."""
    return kwargs.get("output_size") is None and any(isinstance(a, Tensor) for a in args)


def _leaves_the_device(name: str, args: tuple[Any, ...], result: Any) -> bool:
    source, target = (args[0], result) if name == "aten::_to_copy" else (args[1], args[0])
    return bool(source.device.type != "cpu" and target.device.type == "cpu")
