"""A program is a tower of a trained model, exported: tensors in, predictions out, without the code that trained it.

`tower` scores whole rows. `shared` and `candidate` are the same tower cut in two: what a request's candidates have in
common is computed once. `user` and `item` give the vectors of a model whose users and items share a space.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.base import Recommender
from shardrec.models.inputs import Input, Padded, SequenceEmbeddings
from shardrec.trainer.export.arguments import Group, ProgramInput, assembled, groups
from shardrec.trainer.export.cut import cut
from shardrec.trainer.export.sides import depends_on_candidate

_ROWS, _LENGTH = 3, 5  # of the example that programs are traced with; their own may be any
_REMEDY = "what torch.export takes, and how a model gives a form of its own for it, is in docs/own-models.md"


@dataclass(frozen=True, eq=False)
class Program:
    """A program takes the tensors of its inputs, one after the other, and returns the tensors that `outputs` names.

    `exported.module()(*tensors)` is one tensor, of `shared` a tuple. Predictions are [B], of several classes [B, C], of
    a list of asked ids [B, L] in its slots; vectors are [B, D].
    """

    exported: ExportedProgram
    inputs: tuple[ProgramInput, ...]
    outputs: tuple[str, ...]


def export_programs(model: Recommender, schema: Schema) -> dict[str, Program]:
    """Exports a trained model's towers, in fp32 and evaluation mode, on the CPU. The model is left as it is.

    `tower` takes whole rows. Where the schema's roles say that some features differ between candidates and others do
    not, `shared` takes the latter, of one row, and `candidate` what `shared` returns and the former. A model with
    `towers` has `user` and `item`. Raises UserError for a model that torch.export cannot trace.
    """
    model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    inputs = {name: source for name, source in model.inputs.items() if source.read == "always"}
    if model.padded is None and any(isinstance(source, SequenceEmbeddings) for source in inputs.values()):
        raise UserError(
            f"{type(model).__name__} reads sequences, whose jagged form cannot be exported, and has no `padded` form; "
            + _REMEDY
        )
    with _understood(model):
        whole = _Tower(model, _predict(model), groups(inputs, schema))
        programs = {"tower": whole.exported("prediction")}
        divided = _Tower(model, whole.run, groups(inputs, schema, lambda name: depends_on_candidate(schema, name)))
        if len({group.varies for group in divided.groups if group.given.features}) == 2:
            programs |= _cut(divided)
        if (towers := model.towers()) is not None:
            for side, run, names in (
                ("user", towers.user, towers.user_inputs),
                ("item", towers.item, towers.item_inputs),
            ):
                read: Mapping[str, Input] = {name: inputs[name] for name in names}
                programs[side] = _Tower(model, run, groups(read, schema)).exported("vectors")
    return programs


def _predict(model: Recommender) -> Callable[..., Tensor]:
    """Returns what maps a tower's inputs, sequences padded, to its task's predictions."""
    run = model.forward if model.padded is None else model.padded

    def predict(**inputs: Tensor | Padded) -> Tensor:
        prediction: Any = model.task.prediction(run(**inputs))
        return prediction.values if isinstance(prediction, Padded) else prediction

    return predict


class _Tower(nn.Module):
    """A tower runs on plain tensors: those of the groups of its inputs, one after the other."""

    def __init__(self, model: Recommender, run: Callable[..., Tensor], inputs: Mapping[str, list[Group]]) -> None:
        super().__init__()
        self.model, self.run, self.parts = model, run, dict(inputs)

    @property
    def groups(self) -> list[Group]:
        return [group for groups in self.parts.values() for group in groups]

    def exported(self, output: str) -> Program:
        return Program(_exported(self, self.groups), tuple(group.given for group in self.groups), (output,))

    def forward(self, *tensors: Tensor) -> Tensor:
        left = iter(tensors)
        return self.run(**{name: assembled(parts, left) for name, parts in self.parts.items()})


def _cut(tower: _Tower) -> dict[str, Program]:
    """Exports the two parts of a tower whose inputs come in groups of both sides."""
    once = [group for group in tower.groups if not group.varies]
    each = [group for group in tower.groups if group.varies]
    varying = [group.varies for group in tower.groups for _ in group.given.tensors]
    parts = cut(_exported(tower, tower.groups), varying)
    border = parts.shared(*(tensor for group in once for tensor in group.example(1, _LENGTH)))
    dims = [dict.fromkeys(lengths, Dim.AUTO) for lengths in parts.lengths]
    shared = _exported(parts.shared, once, rows=1)
    candidate = _exported(parts.candidate, each, border, dims)
    given = tuple(ProgramInput(name, "shared") for name in parts.border)
    return {
        "shared": Program(shared, tuple(group.given for group in once), parts.border),
        "candidate": Program(candidate, (*given, *(group.given for group in each)), ("prediction",)),
    }


def _exported(
    module: nn.Module,
    inputs: Sequence[Group],
    border: Sequence[Tensor] = (),
    dims: Sequence[dict[int, Any]] = (),
    rows: int | None = None,
) -> ExportedProgram:
    """Exports a module for any lengths, and any number of rows unless it is given.

    border: arguments before the groups', whose dimensions of any size are `dims`
    """
    arguments, shapes = list(border), list(dims)
    for group in inputs:
        for name, tensor in zip(group.given.tensors, group.example(rows or _ROWS, _LENGTH), strict=True):
            arguments.append(tensor)
            is_padded = group.given.kind == "sequence" and not name.endswith(".lengths")
            shape: dict[int, Any] = {} if rows else {0: Dim("rows")}
            shapes.append(shape | ({1: Dim(f"{group.given.name}_length")} if is_padded else {}))
    with torch.no_grad(), _quiet():
        return torch.export.export(module, tuple(arguments), dynamic_shapes=(tuple(shapes),), strict=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what torch says of its own tracing."""
    log = logging.getLogger("torch.fx._symbolic_trace")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


@contextmanager
def _understood(model: Recommender) -> Iterator[None]:
    """Turns what torch.export says of a model that it cannot trace into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = str(error)
        reason = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
        if "specialized it to be a constant" in text:
            reason = "its code fixes the number of rows, or of events: take it from x.shape[0], not from len(x)"
        elif "data-dependent" in text.lower():
            reason = "an `if`, a loop or a shape of its code depends on values in the batch: use torch.where and masks"
        raise UserError(f"{type(model).__name__} cannot be exported: {reason.rstrip('.')}; {_REMEDY}") from error
