"""A program is a tower of a trained model, exported: tensors in, predictions out, without the code that trained it.

`tower` scores whole rows. `shared` and `candidate` are the same tower cut in two: what a request's candidates have in
common is computed once.
"""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.base import Recommender
from shardrec.models.inputs import Padded
from shardrec.trainer.export.arguments import Group, ProgramInput, assembled, groups
from shardrec.trainer.export.cut import cut
from shardrec.trainer.export.sides import depends_on_candidate

_ROWS, _LENGTH = 3, 5  # of the example that programs are traced with; their own may be any


@dataclass(frozen=True)
class Program:
    """A program takes the tensors of its inputs, one after the other, and returns the tensors that `outputs` names.

    `exported.module()(*tensors)` is one tensor, of `shared` a tuple. Predictions are [B], of several classes [B, C], of
    a list of asked ids [B, L] in its slots.
    """

    exported: ExportedProgram
    inputs: tuple[ProgramInput, ...]
    outputs: tuple[str, ...]


def export_programs(model: Recommender, schema: Schema) -> dict[str, Program]:
    """Exports a trained model's towers, in fp32 and evaluation mode, on the CPU. The model is left as it is.

    `tower` takes whole rows. Where the schema's roles say that some features differ between candidates and others do
    not, `shared` takes the latter, of one row, and `candidate` what `shared` returns and the former. Raises UserError
    for a tower that torch.export cannot trace.
    """
    tower = copy.deepcopy(model).cpu().float().eval()
    inputs = {name: source for name, source in tower.inputs.items() if source.read == "always"}
    whole = _Tower(tower, groups(inputs, schema))
    programs = {"tower": Program(_exported(whole, whole.groups), whole.given, ("prediction",))}
    divided = _Tower(tower, groups(inputs, schema, lambda feature: depends_on_candidate(schema, feature)))
    sides = {group.varies for group in divided.groups if group.given.features}
    return programs | (_cut(divided) if len(sides) == 2 else {})


class _Tower(nn.Module):
    """A tower with its task's prediction, on plain tensors: those of the groups of its inputs, one after the other."""

    def __init__(self, model: Recommender, inputs: dict[str, list[Group]]) -> None:
        super().__init__()
        self.model, self.parts = model, inputs
        self.run: Any = model.forward if model.padded is None else model.padded

    @property
    def groups(self) -> list[Group]:
        return [group for groups in self.parts.values() for group in groups]

    @property
    def given(self) -> tuple[ProgramInput, ...]:
        return tuple(group.given for group in self.groups)

    def forward(self, *tensors: Tensor) -> Tensor:
        left = iter(tensors)
        inputs = {name: assembled(parts, left) for name, parts in self.parts.items()}
        prediction = self.model.task.prediction(self.run(**inputs))
        return prediction.values if isinstance(prediction, Padded) else prediction


def _cut(tower: _Tower) -> dict[str, Program]:
    """Exports the two parts of a tower whose inputs come in groups of both sides."""
    once = [group for group in tower.groups if not group.varies]
    each = [group for group in tower.groups if group.varies]
    varying = [group.varies for group in tower.groups for _ in group.given.tensors]
    parts = cut(_exported(tower, tower.groups), varying)
    border = parts.shared(*(tensor for group in once for tensor in group.example(1, _LENGTH)))
    dims = [dict.fromkeys(lengths, Dim.AUTO) for lengths in parts.lengths]
    given = tuple(ProgramInput(name, "shared") for name in parts.border)
    return {
        "shared": Program(_exported(parts.shared, once), tuple(group.given for group in once), parts.border),
        "candidate": Program(
            _exported(parts.candidate, each, border, dims),
            (*given, *(group.given for group in each)),
            ("prediction",),
        ),
    }


def _exported(
    module: nn.Module, inputs: Sequence[Group], border: Sequence[Tensor] = (), dims: Sequence[dict[int, Any]] = ()
) -> ExportedProgram:
    """Exports a module for any number of rows and lengths; `border`: arguments before the groups'."""
    arguments, shapes = list(border), list(dims)
    for group in inputs:
        for name, tensor in zip(group.given.tensors, group.example(_ROWS, _LENGTH), strict=True):
            arguments.append(tensor)
            is_padded = group.given.kind == "sequence" and not name.endswith(".lengths")
            shapes.append({0: Dim("rows")} | ({1: Dim(f"{group.given.name}_length")} if is_padded else {}))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its tracing
        return torch.export.export(module, tuple(arguments), dynamic_shapes=(tuple(shapes),), strict=False)
