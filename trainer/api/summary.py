"""A summary says what came of a finished training run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from shardrec.models.undefined import with_reasons


@dataclass(frozen=True)
class Summary:
    """A summary says where a finished run is, how good it is and how long it took.

    run_folder: all that it left. metrics: split -> metric -> value, of the best checkpoint; one that the rows do not
    define is `Undefined`, a NaN that says why. not_scored: splits without metrics, and why. left_out: split -> rows
    that could not be read, and were not trained on or scored. steps, rows: trained on. best_step: whose checkpoint is
    the best; epochs_to_best: until then. world_size: workers. samples_per_second: over all workers, without evaluation.
    checkpoint_seconds: that training stopped for checkpoints. peak_device_memory_bytes: of the GPU that held most; None
    on CPU. seconds_to_first_step, wall_seconds: from the start of the call. parameters: weights of tables and of the
    tower. zero_weights: table -> share of exact zeros, where there is an L1. stages: of a run of stages, by name; all
    else is then the last one's.
    """

    run_folder: Path
    metrics: dict[str, dict[str, float]]
    steps: int
    rows: int
    best_step: int
    epochs_to_best: float
    stopped_early: bool
    world_size: int
    samples_per_second: float
    peak_memory_bytes: int
    wall_seconds: float
    parameters: dict[str, int]
    peak_device_memory_bytes: int | None = None
    checkpoint_seconds: float | None = None
    seconds_to_first_step: float | None = None
    not_scored: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    zero_weights: dict[str, float] = field(default_factory=dict)
    stages: "dict[str, Summary]" = field(default_factory=dict)

    @classmethod
    def of(cls, run_folder: Path, values: Mapping[str, Any]) -> "Summary":
        """Makes the summary that a run folder's summary.json holds as `values`."""
        stages = {name: cls.of(run_folder / name, stage) for name, stage in values.get("stages", {}).items()}
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        undefined = values.get("undefined", {})
        metrics = {split: with_reasons(of, undefined.get(split, {})) for split, of in values["metrics"].items()}
        return cls(**{**known, "run_folder": run_folder, "metrics": metrics, "stages": stages})
