"""Exports every model of the registry and compares its programs with the model: `python -m tests.trainer.export`.

Prints a line a model: CPU seconds, and the largest differences of predictions. Names may be given; `--onnx` adds ONNX.
"""

import sys
import tempfile
import time
from pathlib import Path

from shardrec.models import MODELS
from shardrec.trainer.benchmarks.gpu_check.sections.every_model import schema_of
from shardrec.trainer.export.onnx import save_onnx
from shardrec.trainer.export.programs import export_programs
from tests.trainer.export.cases import asked_of, build, first_row, inputs_of, one_request, predictions, run


def largest_differences(name: str, rows: int = 64, *, with_onnx: bool = False) -> str:
    """Exports one model and says how far its programs are from it."""
    model = build(name)
    start = time.process_time()
    programs = export_programs(model, schema_of(name))
    seconds = time.process_time() - start
    inputs = inputs_of(model, rows)
    found = run(programs["tower"], model, inputs)
    found = asked_of(found, inputs)
    said = f"{name:15} {seconds:5.1f} s  tower {float((found - predictions(model, inputs)).abs().max()):.1e}"
    if "shared" in programs:
        request = one_request(model, programs["shared"], inputs, 1)
        border = run(programs["shared"], model, first_row(request, 0))
        found = run(programs["candidate"], model, request, *border)
        said += f"  candidate {float((found - predictions(model, request)).abs().max()):.1e}"
    if with_onnx:
        with tempfile.TemporaryDirectory() as folder:
            said += f"  onnx {save_onnx(name, programs['tower'], Path(folder) / 'tower.onnx'):.1e}"
    return said


if __name__ == "__main__":
    asked = [name for name in sys.argv[1:] if name != "--onnx"]
    for name in asked or MODELS:
        print(largest_differences(name, with_onnx="--onnx" in sys.argv), flush=True)
