"""A tower as ONNX, for runtimes other than torch, is checked against torch before it is handed out."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor

from shardrec.data_pipeline.errors import UserError, installed_by
from shardrec.data_pipeline.files.whole_files import whole_file
from shardrec.trainer.export.programs import Program

BOUND = 1e-4
"""How far a prediction of onnxruntime may be from torch's, in parts of it where that is above 1."""


def save_onnx(model: str, tower: Program, path: Path) -> float:
    """Writes a tower as one file and returns the largest difference that onnxruntime's predictions have from torch's.

    Its inputs are called as the program's tensors, and have any number of rows and events. model: its name, for
    messages. Raises UserError where ONNX cannot hold the tower, or holds another one.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--onnx needs {error.name}; {installed_by('onnx')}") from None
    names = [name for given in tower.inputs for name in given.tensors]
    try:
        with _quiet():
            made = torch.onnx.export(
                tower.exported, (), input_names=names, output_names=list(tower.outputs), dynamo=True, verbose=False
            )
        assert made is not None
        content = made.model_proto.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"{model} cannot be ONNX: {_reason(error)}; leave --onnx out") from error
    expected, read = tower.exported.module(), {given.name for given in session.get_inputs()}
    worst = 0.0
    for rows, length in ((1, 1), (2, 7), (33, 4)):
        tensors = _random(tower, rows, length)
        given = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True) if name in read}
        found, wanted = torch.from_numpy(session.run(None, given)[0]), expected(*tensors)
        worst = max(worst, float(((found - wanted).abs() / wanted.abs().clamp(min=1)).max()))
    if not worst <= BOUND:
        raise UserError(
            f"{model} as ONNX predicts up to {worst:.1e} away from torch, more than {BOUND:g}; leave --onnx out"
        )
    with whole_file(path, synced=False) as temporary:
        temporary.write_bytes(content)
    return worst


def _reason(error: BaseException) -> str:
    """Returns the first line of what made an export fail, which says most."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = (line.strip() for line in str(error).splitlines())
    return next((line.rstrip(".") for line in lines if line), type(error).__name__)


def _random(tower: Program, rows: int, length: int) -> list[Tensor]:
    """Draws tensors for a program: normal numbers, and histories of all lengths."""
    generator, examples, tensors = torch.Generator().manual_seed(0), iter(tower.exported.example_inputs[0]), []
    for given in tower.inputs:
        slots = min(length, given.max_length or length)
        for name in given.tensors:
            shape = list(next(examples).shape)
            if name.endswith(".lengths"):
                tensors.append(torch.arange(rows) % (slots + 1))
                continue
            shape[: 2 if given.kind == "sequence" else 1] = [rows, slots] if given.kind == "sequence" else [rows]
            tensors.append(torch.randn(shape, generator=generator))
    return tensors


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what the exporter says of its own steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
