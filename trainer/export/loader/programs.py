"""Programs are a bundle's towers: tensors in, which are gathered of rows and tables, predictions out."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export.graph_signature import InputKind

from .features import Column
from .rows import BLOCK_ROWS, RowError, Rows
from .tables import DamagedError, Tables


class Program:
    """A program is what torch exported of a tower, with the inputs that it takes of rows and tables."""

    def __init__(self, path: Path, spec: Mapping[str, Any], tables: Tables) -> None:
        self.inputs = [i for i in spec["inputs"] if i["kind"] != "shared"]
        self.features = list(dict.fromkeys(name for i in self.inputs for name in i["features"] + i.get("dense", [])))
        self._lists, self._shape = spec["lists"], spec["shape"]
        self._path, self._tables = path, tables

    @cached_property
    def _run(self) -> Callable[..., tuple[Tensor, ...]]:
        """Returns the program's graph with its weights, read when it is first called.

        `module()` would check and arrange its arguments, which for one row takes longer than the tower.
        """
        try:
            program = torch.export.load(str(self._path))
        except Exception as error:  # of whatever a broken archive makes torch stumble over
            raise DamagedError(self._path, error) from error
        known = {**program.state_dict, **program.constants}
        inputs = program.graph_signature.input_specs
        weights = [known[spec.target].detach() for spec in inputs if spec.kind is not InputKind.USER_INPUT]
        return partial(program.graph_module.forward, *weights)

    @torch.inference_mode()
    def __call__(self, columns: Mapping[str, Column], count: int, *shared: Tensor) -> tuple[Tensor, ...]:
        """Runs the program on `count` rows; columns of one row are every row's."""
        try:
            return self._run(*shared, *(t for spec in self.inputs for t in self._tensors(spec, columns, count)))
        except DamagedError:
            raise
        except Exception as error:  # of inputs that are not the program's
            raise DamagedError(self._path, f"it does not run on the inputs that bundle.json names: {error}") from error

    def by_block(self, rows: Rows, read: Callable[[Rows], Mapping[str, Column]], *shared: Tensor) -> Any:
        """Returns what the program says of rows, some of them at a time. Raises RowError."""
        outputs: list[Any] = []
        for start in range(0, rows.count, BLOCK_ROWS):
            block = rows.block(start)
            try:
                columns = read(block)
            except RowError as error:
                row = None if error.row is None else error.row + start
                raise RowError(error.message, row, error.feature) from None
            found = self(columns, block.count, *shared)[0].numpy()
            if self._lists is None:
                if not np.isfinite(found).all():
                    raise DamagedError(self._path, "what it makes of rows of tables is no number")
                outputs.append(found)
            else:  # of ids that are asked for
                lengths = np.broadcast_to(np.asarray(columns[self._lists].lengths), block.count)
                outputs += [of_row[:length] for of_row, length in zip(found, lengths, strict=True)]
        if self._lists is not None:
            return outputs
        return outputs[0] if len(outputs) == 1 else np.concatenate([np.zeros((0, *self._shape), np.float32), *outputs])

    def _tensors(self, spec: Mapping[str, Any], columns: Mapping[str, Column], count: int) -> Iterator[Tensor]:
        if spec["kind"] == "sequence":
            yield from (t if len(t) == count else t.repeat_interleave(count, 0) for t in self._sequence(spec, columns))
            return
        dense = spec["kind"] == "dense"
        parts = []
        for i, name in enumerate(spec["features"]):
            column = columns[name]
            vectors = column.values[:, None] if dense else self._tables.vectors(spec["tables"][i], column.values)
            parts.append(vectors if column.lengths is None else _pooled(vectors, column, spec["mean"][i]))
        if any(len(part) != count for part in parts):
            parts = [np.broadcast_to(part, (count, part.shape[1])) for part in parts]
        out = np.concatenate(parts, 1) if parts else np.zeros((count, 0), np.float32)
        yield torch.from_numpy(out if dense or spec["concat"] else out.reshape(count, len(parts), -1))

    def _sequence(self, spec: Mapping[str, Any], columns: Mapping[str, Column]) -> Iterator[Tensor]:
        first = columns[spec["features"][0]]
        lengths = np.asarray(first.lengths)
        at = np.arange(max(1, int(lengths.max(initial=0)))) < lengths[:, None]

        def padded(*values: Any) -> Tensor:
            out = np.zeros((*at.shape, len(values), *values[0].shape[1:]), np.float32)
            for i, of_feature in enumerate(values):
                out[:, :, i][at] = of_feature
            return torch.from_numpy(out)

        names = zip(spec["features"], spec["tables"], strict=True)
        yield padded(*(self._tables.vectors(table, columns[name].values) for name, table in names))
        yield torch.from_numpy(lengths)
        if spec["weighted"]:
            yield padded(first.weights)[:, :, 0]
        if spec["dense"]:
            yield padded(*(columns[name].values for name in spec["dense"]))


def _pooled(vectors: np.ndarray, column: Column, mean: bool) -> np.ndarray:
    """Sums (or averages) the vectors of each row's ids: [T, D] -> [n, D]."""
    lengths = torch.from_numpy(column.lengths)
    row = torch.repeat_interleave(lengths)
    weights = torch.ones(len(vectors)) if column.weights is None else torch.from_numpy(column.weights)
    weighted = torch.from_numpy(vectors) if column.weights is None else torch.from_numpy(vectors) * weights[:, None]
    sums = torch.zeros(len(lengths), vectors.shape[1]).index_add_(0, row, weighted)
    if mean:
        total = torch.zeros(len(lengths)).index_add_(0, row, weights)
        sums *= torch.where(total == 0, 0.0, 1 / torch.where(total == 0, 1.0, total))[:, None]
    return sums.numpy()
