"""Models of every kind with parameters of some size, the inputs of their towers, and the tensors of their programs."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from shardrec.models import MODELS, config_class
from shardrec.models.base import Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, Jagged, PooledEmbeddings
from shardrec.trainer.benchmarks.gpu_check.sections.every_model import SETTINGS, SMALL, schema_of
from shardrec.trainer.export.arguments import ProgramInput
from shardrec.trainer.export.programs import Program
from tests.models.cases import randomise

LONGEST = 5  # of the histories in `every_model`


def build(name: str, **settings: Any) -> Recommender:
    """A model as `every_model` sets it, with running moments that differ from fresh ones."""
    model_class = MODELS[name]
    config = config_class(model_class)
    small = {key: value for key, value in SMALL.items() if key in config.model_fields}
    torch.manual_seed(0)
    model = model_class(Fields(schema_of(name)), config.model_validate(small | SETTINGS.get(name, {}) | settings))
    randomise(model)
    for key, buffer in model.named_buffers():
        if key.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def inputs_of(model: Recommender, rows: int, seed: int = 0) -> dict[str, Any]:
    """Random inputs of a tower; of the histories the first is empty and the second full."""
    torch.manual_seed(seed)
    lengths = torch.randint(0, LONGEST + 1, (rows,))
    lengths[:2] = torch.tensor([0, LONGEST])[:rows]
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    found: dict[str, Any] = {}
    for name, source in model.inputs.items():
        if source.read != "always":
            continue
        if isinstance(source, DenseFeatures):
            found[name] = torch.randn(rows, len(source.features))
            continue
        dims = [table.embedding_dim for table in source.tables.values()]
        if isinstance(source, PooledEmbeddings):
            found[name] = torch.randn(rows, sum(dims)) if source.concat else torch.randn(rows, len(dims), dims[0])
        else:
            events = int(lengths.sum())
            numbers = torch.randn(events, len(source.dense)) if source.dense else None
            found[name] = Jagged(torch.randn(events, len(dims), dims[0]), lengths, offsets, dense=numbers)
    return found


def predictions(model: Recommender, inputs: dict[str, Any]) -> Tensor:
    """What the model itself predicts; of lists all ratings, row after row."""
    with torch.no_grad():
        prediction = model.task.prediction(model(**inputs))
    return prediction.values if isinstance(prediction, Jagged) else prediction


def asked_of(found: Tensor, inputs: dict[str, Any]) -> Tensor:
    """What a program says of the ids that are asked for, where its model rates lists of them; else what it says."""
    lengths = inputs["decode"].lengths if "decode" in inputs else None
    return found if lengths is None else found[torch.arange(found.shape[1]) < lengths[:, None]]


def columns(model: Recommender, name: str, value: Tensor) -> dict[str, Tensor]:
    """The part of a pooled or dense input that each of its features has."""
    source = model.inputs[name]
    if isinstance(source, DenseFeatures):
        return dict(zip(source.features, value.split(1, 1), strict=True))
    concat = isinstance(source, PooledEmbeddings) and source.concat
    widths = [table.embedding_dim if concat else 1 for table in source.tables.values()]
    return dict(zip(source.tables, value.split(widths, 1), strict=True))


def padded(value: Jagged, length: int) -> list[Tensor]:
    """The values, lengths and numbers of sequences in `length` slots; what stands behind them is large."""
    live = torch.arange(length) < value.lengths[:, None]
    tensors = []
    for numbers in (value.values, value.dense):
        if numbers is not None:
            tensors.append(torch.full((*live.shape, *numbers.shape[1:]), 1e3))
            tensors[-1][live] = numbers
    return [tensors[0], value.lengths, *tensors[1:]]


def tensors_of(model: Recommender, given: ProgramInput, inputs: dict[str, Any], length: int = LONGEST) -> list[Tensor]:
    """A program input's tensors."""
    value = inputs[given.name]
    if isinstance(value, Jagged):
        return padded(value, length)
    parts = columns(model, given.name, value)
    return [torch.cat([parts[feature] for feature in given.features], 1) if given.features else value]


def run(program: Program, model: Recommender, inputs: dict[str, Any], *before: Tensor, length: int = LONGEST) -> Any:
    """What a program returns for inputs of the model."""
    return opened(program)(*before, *tensors(model, program, inputs, length))


@cache
def opened(program: Program) -> Any:
    """A program as it is called."""
    return program.exported.module()


def tensors(model: Recommender, program: Program, inputs: dict[str, Any], length: int = LONGEST) -> list[Tensor]:
    """A program's own arguments, of inputs of the model."""
    ours = (given for given in program.inputs if given.kind != "shared")
    return [tensor for given in ours for tensor in tensors_of(model, given, inputs, length)]


def one_request(model: Recommender, shared: Program, inputs: dict[str, Any], row: int) -> dict[str, Any]:
    """The inputs with what `shared` reads as it is in one row, in all of them."""
    changed = dict(inputs)
    for given in shared.inputs:
        value = changed[given.name]
        if isinstance(value, Jagged):
            changed[given.name] = repeated(value, row)
        else:
            parts = columns(model, given.name, value)
            parts |= {f: parts[f][row : row + 1].expand_as(parts[f]) for f in given.features}
            changed[given.name] = torch.cat(list(parts.values()), 1) if parts else value
    return changed


def repeated(value: Jagged, row: int) -> Jagged:
    """A batch as large, all of whose rows are this one."""
    rows, first, last = len(value.lengths), value.offsets[row], value.offsets[row + 1]
    dense = None if value.dense is None else value.dense[first:last].repeat(rows, 1)
    offsets = (last - first) * torch.arange(rows + 1)
    return Jagged(value.values[first:last].repeat(rows, 1, 1), offsets.diff(), offsets, dense=dense)


def first_row(inputs: dict[str, Any], row: int) -> dict[str, Any]:
    """The inputs of one row alone."""
    return {name: one(repeated(v, row)) if isinstance(v, Jagged) else v[row : row + 1] for name, v in inputs.items()}


def one(value: Jagged) -> Jagged:
    """The first row alone."""
    end = int(value.offsets[1])
    dense = None if value.dense is None else value.dense[:end]
    return Jagged(value.values[:end], value.lengths[:1], value.offsets[:2], dense=dense)
