"""Times the training step with towers' compiled kernels and by torch operations alone, in turns, beside its bound.

    python -m tests.trainer.benchmarks.figures.forms --models din,dien --data data/turns/histories

One thread; milliseconds of a core, lower quartiles, so that other work on the machine counts little. Each model is
trained in fp32 and in bf16.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.declared.documents import dump_document
from shardrec.models.layers.kernels.library import torch_alone
from shardrec.trainer.benchmarks.bound import Bound
from shardrec.trainer.benchmarks.histories import MODELS
from shardrec.trainer.benchmarks.step import in_memory
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.supervision import supervised
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.inspection import inspect_run
from shardrec.trainer.training.trainer import Trainer


def core_milliseconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return 1e3 * (time.process_time() - began)


def forms_worker(config: RunConfig, folder: RunFolder, environment: Environment, *, steps: int) -> dict[str, float]:
    """Returns the lower quartile of each form and of the bound."""
    trainer = Trainer(config, folder, environment)
    trainer.session.distributed.module.train()
    batches = in_memory(trainer.loader, environment.device)
    bound = Bound.of_step(trainer.train_step, trainer.session.distributed, batches[0])
    found: dict[str, list[float]] = {"compiled": [], "torch": [], "bound": []}
    for batch in islice(cycle(batches), steps):
        for form, context in (("compiled", nullcontext()), ("torch", torch_alone())):
            with context:
                found[form].append(core_milliseconds(lambda batch=batch: trainer.train_step(batch)))
        found["bound"].append(core_milliseconds(bound.measure))
    return {form: statistics.quantiles(times[2:])[0] for form, times in found.items()}  # the first ones load kernels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="din,dien,bst")
    parser.add_argument("--data", type=Path, required=True, help="a prepared folder")
    parser.add_argument("--steps", type=int, default=14)
    given = parser.parse_args()
    print("| model | precision | torch | compiled | bound | compiled / bound |\n|---|---|---|---|---|---|", flush=True)
    for model, precision in product(given.models.split(","), ("fp32", "bf16")):
        with tempfile.TemporaryDirectory() as scratch:
            run: dict[str, Any] = {
                "run": f"{scratch}/run",
                "data": {"path": str(given.data.absolute())},
                "model": MODELS.get(model, {"name": model}),
                "trainer": {"precision": precision},
                "launch": {"threads": 1},
            }
            (path := Path(scratch) / "run.yaml").write_text(dump_document(run))
            config = load(path)
            inspect_run(config)
            folder = RunFolder.create(config, resume=False)
            times = supervised(forms_worker, config, folder, quiet=True, steps=given.steps)
            assert times is not None
        shown = " | ".join(f"{times[name]:.0f}" for name in ("torch", "compiled", "bound"))
        print(f"| {model} | {precision} | {shown} | {times['compiled'] / times['bound']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
