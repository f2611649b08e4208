"""Exports every model of the registry and compares its programs with the model: `python -m tests.trainer.export`.

Prints a line a model: seconds, and the largest differences of predictions. Names may be given; `--onnx` adds ONNX.
"""

import sys
import time

import torch

from shardrec.models import MODELS
from shardrec.trainer.export.programs import export_programs
from tests.trainer.every_model import schema_of
from tests.trainer.export.cases import build, first_row, inputs_of, one_request, run, scores


def largest_differences(name: str, rows: int = 64) -> str:
    """Exports one model and says how far its programs are from it."""
    model = build(name)
    start = time.perf_counter()
    programs = export_programs(model, schema_of(name))
    seconds = time.perf_counter() - start
    inputs = inputs_of(model, rows)
    found = run(programs["tower"], model, inputs)
    if name == "autorec":
        found = found[torch.arange(found.shape[1]) < inputs["decode"].lengths[:, None]]
    said = f"{name:15} {seconds:5.1f} s  tower {float((found - scores(model, inputs)).abs().max()):.1e}"
    if "shared" in programs:
        request = one_request(model, programs["shared"], inputs, 1)
        border = run(programs["shared"], model, first_row(request, 0))
        found = run(programs["candidate"], model, request, *border)
        said += f"  candidate {float((found - scores(model, request)).abs().max()):.1e}"
        steps = [sum(n.op == "call_function" for n in p.exported.graph.nodes) for p in programs.values()]
        said += f"  steps {' '.join(map(str, steps))}"
    return said


if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        print(largest_differences(name), flush=True)
