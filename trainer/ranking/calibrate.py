"""`shardrec calibrate` fits a map of predictions to labels, measures it on rows it was not fitted to, and keeps it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.hashing import hash_words
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.models.tasks import Task
from shardrec.sharding.distribution.frozen_rows import RowKind
from shardrec.trainer.checkpoints.calibration import Calibration, Measured
from shardrec.trainer.checkpoints.manifest import fingerprint, read_manifest
from shardrec.trainer.checkpoints.restored import on_checkpoint
from shardrec.trainer.config.paths import absolute, absolute_folder
from shardrec.trainer.config.sections import Paths
from shardrec.trainer.launch.supervision import supervised
from shardrec.trainer.launch.torchrun import leads
from shardrec.trainer.ranking.isotonic import fit_isotonic
from shardrec.trainer.ranking.platt import fit_platt
from shardrec.trainer.ranking.reliability import Reliability, draw_reliability, log_loss
from shardrec.trainer.run_folder.atomic import check_own_picture
from shardrec.trainer.run_folder.command_logs import command_name, own_logs
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.holds import hold_step
from shardrec.trainer.run_folder.progress import ProgressFile
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.forward import Inputs
from shardrec.trainer.session.scoring_pass import ScoringPass
from shardrec.trainer.session.session import Session
from shardrec.trainer.training.inspection import inspect_split

Array = NDArray[np.float64]
Method = Literal["isotonic", "platt"]
Split = Literal["validation", "test"]

FOLDS = 5
FEW_ROWS = 1000
"""Fewer rows than these an isotonic map follows too closely: it has as many steps as they have ups and downs."""

PICTURES = (".svg", ".png")


class ScoredRows(NamedTuple):
    """Scored rows are [n] predictions, labels and positive weights, in the order of the data."""

    prediction: Array
    label: Array
    weight: Array


def calibrate_run(
    run_folder: Path,
    method: Method = "isotonic",
    split: Split = "validation",
    data: tuple[str, ...] = (),
    step: int | None = None,
    overrides: tuple[str, ...] = (),
    *,
    rows: RowKind | None = None,
    picture: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Fits on a split of the run, or on `data`, and writes the run folder's calibration.json.

    step: which checkpoint scores; None: the best, else the last. rows: how tables are held, as `Blueprint` takes it.
    picture: a reliability diagram, PNG or SVG by its ending. Returns `calibration` as the file has it, `reliability` by
    rows and `not_measured`. None on further ranks of a torchrun.
    Raises UserError for a model that does not predict probabilities, and for rows that no map can be fitted to; then
    the run folder is left as it was.
    """
    folder = RunFolder.open(run_folder)
    config = folder.config(overrides)
    blueprint = Blueprint(config, folder.schema(), rows=rows)
    check_probabilities(blueprint, "calibrate")
    if picture is not None:
        _check_picture(picture := absolute_folder(picture))
    paths, not_measured = rows_to_score(blueprint, folder, split, absolute(data))
    chosen, hold = hold_step(folder, step)
    logs = own_logs(folder, command_name("calibrate"), leads=leads(), reads=True)
    with hold, logs as logged:
        result = supervised(
            calibrate_worker, config, logged, quiet=quiet,
            splits=paths, method=method, step=chosen, blueprint=blueprint,
        )  # fmt: skip
    if result is None:
        return None
    if picture is not None:  # before the map: what fails leaves the one that was there
        draw_reliability(picture, {name: _pair(of_rows) for name, of_rows in result["reliability"].items()})
    Calibration.model_validate(result["calibration"]).save(folder)
    return result | {"not_measured": not_measured}


def check_probabilities(blueprint: Blueprint, command: str) -> None:
    """Raises UserError for a model that does not predict probabilities of a label."""
    task = blueprint.model.task
    if not task.metrics().has_curves or label_of(task) is None:
        raise UserError(
            f"{command}: model {blueprint.config.model['name']} does not predict probabilities of a label, as models "
            "with task binary do"
        )


def label_of(task: Task) -> str | None:
    """Returns the label that a task predicts, or the task that it adds a loss to; None where there is not one."""
    found = getattr(task, "label", None) or getattr(getattr(task, "task", None), "label", None)
    return None if found is None else str(found)


def rows_to_score(
    blueprint: Blueprint, folder: RunFolder, split: Split, data: tuple[str, ...] = ()
) -> tuple[dict[str, Paths], dict[str, str]]:
    """Returns files by name, first those to fit, then the run's other split to measure; and why that is not measured.

    Raises UserError where those to fit cannot be scored or have no labels.
    """
    if split not in get_args(Split):
        raise UserError("--split: " + unknown("split to fit", split, get_args(Split)))
    name = "data" if data else split
    paths = data or blueprint.config.data.split(split)
    if paths is None:
        raise UserError(f"{folder.address}: its data have no {split} rows; name files with --data")
    if line := blueprint.missing_labels(paths):
        raise UserError(f"{name} rows: without labels there is nothing to fit: {line}; name others with --data")
    inspect_split(blueprint, paths)
    found: dict[str, Paths] = {name: paths}
    other = "validation" if split == "test" and not data else "test"
    problem: str | None = None
    if (its := blueprint.config.data.split(other)) is not None and its != paths:
        try:
            if (problem := blueprint.missing_labels(its)) is None:
                inspect_split(blueprint, its)
                found[other] = its
        except UserError as error:
            problem = str(error)
    return found, {} if problem is None else {other: problem}


def _check_picture(picture: Path) -> None:
    if picture.suffix.lower() not in PICTURES:
        raise UserError(f"--picture {picture}: expected a name that ends in .svg or .png")
    if not picture.parent.is_dir():
        raise UserError(f"--picture {picture}: there is no such folder; make it, or name another")
    check_own_picture(picture)


@on_checkpoint
def calibrate_worker(
    session: Session,
    folder: RunFolder,
    *,
    splits: dict[str, Paths],
    method: Method,
    step: int,
) -> dict[str, Any]:
    """Scores one worker's share of each of `splits`; all workers fit the first one's rows, and so alike."""
    progress = ProgressFile(folder.logs, enabled=session.environment.leads)
    found = {}
    for name, paths in splits.items():
        loader = session.loader(paths)
        found[name] = scored_rows(session, loader, progress.counter(f"scoring {name}", loader.steps_per_epoch))
    checkpoint = fingerprint(read_manifest(folder.checkpoint(step)))
    calibration, reliability = fit_calibration(found, method, step, checkpoint)
    return {
        "calibration": calibration.model_dump(mode="json"),
        "reliability": {
            name: [[column.tolist() for column in bins] for bins in pair] for name, pair in reliability.items()
        },
    }


def _pair(of_rows: Any) -> tuple[Reliability, Reliability]:
    before, after = (Reliability(*map(np.array, bins)) for bins in of_rows)
    return before, after


def scored_rows(session: Session, loader: Loader, on_batch: Callable[[int], None] = lambda step: None) -> ScoredRows:
    """Returns the rows of all workers that have weight, 28 bytes each, on every worker, which call it alike.

    Raises UserError, on all, for rows of any that cannot be read or scored.
    """
    task, label = session.model.task, label_of(session.model.task)
    assert label is not None

    def rows_of(inputs: Inputs, batch: Batch) -> torch.Tensor:
        prediction = task.prediction(session.forward.output(inputs, batch))
        assert isinstance(prediction, torch.Tensor)
        columns = (batch.rows, prediction, batch.labels[label], batch.weights)
        return torch.stack([column[batch.live].double() for column in columns]).cpu()

    parts: list[torch.Tensor] = []
    for step, (_, _, of_batch) in enumerate(ScoringPass(session, loader, rows_of), start=1):
        parts.append(of_batch)
        on_batch(step)
    mine = torch.cat(parts, dim=1).numpy() if parts else np.zeros((4, 0))
    rows = np.concatenate(session.environment.gather(mine), axis=1)
    rows = rows[:, np.argsort(rows[0], kind="stable")]
    _, prediction, labels, weights = rows[:, rows[3] > 0]
    return ScoredRows(prediction, labels, weights)


def fit_calibration(
    rows: Mapping[str, ScoredRows], method: Method, step: int, checkpoint: str
) -> tuple[Calibration, dict[str, tuple[Reliability, Reliability]]]:
    """Fits the first of `rows`; returns the calibration, and the reliability of all before and after.

    step, checkpoint: what scored the rows, and its fingerprint. The first are measured in parts, each calibrated by a
    fit on the others. Raises UserError for rows of one class, and for predictions that are NaN.
    """
    if method not in get_args(Method):
        raise UserError("--method: " + unknown("method", method, get_args(Method)))
    split, fitted = next(iter(rows.items()))
    _check(split, fitted)
    after = {split: _cross_fitted(fitted, method)}
    points = _fit(fitted, method)
    after |= {name: Calibration(**points)(other.prediction) for name, other in rows.items() if name != split}
    measured, reliability = {}, {}
    for name, of_rows in rows.items():
        if not len(of_rows.label):
            continue
        pair = (of_rows, of_rows._replace(prediction=after[name]))
        before_bins, after_bins = (Reliability.of(*each) for each in pair)
        reliability[name] = (before_bins, after_bins)
        measured[name] = Measured(
            rows=len(of_rows.label),
            cross_fitted=FOLDS if name == split else 0,
            ece=(before_bins.error, after_bins.error),
            log_loss=(log_loss(*pair[0]), log_loss(*pair[1])),
        )
    facts: dict[str, Any] = {"split": split, "rows": len(fitted.label), "step": step, "checkpoint": checkpoint}
    return Calibration(**points, **facts, measured=measured), reliability


def _check(split: str, rows: ScoredRows) -> None:
    if not np.isfinite(rows.prediction).all():
        raise UserError(f"calibrate: the model scores some {split} rows as NaN; calibrate a checkpoint of another step")
    mean = float(rows.label.mean()) if len(rows.label) else 0.0
    if len(rows.label) < FOLDS or mean in (0.0, 1.0):
        has = "no weight" if not len(rows.label) else f"{len(rows.label)} rows whose mean label is {mean:g}"
        raise UserError(
            f"calibrate: {split} rows have {has}, expected {FOLDS} or more of both classes; name others with --data"
        )


def _cross_fitted(rows: ScoredRows, method: Method) -> Array:
    """Returns each row's prediction, calibrated by a fit that has not seen it.

    Parts are by hash: files often have a positive at each 5th or 100th row, which would all be in one part.
    """
    fold = hash_words([np.arange(len(rows.label), dtype=np.uint64)]) % np.uint64(FOLDS)
    found = np.empty_like(rows.prediction)
    for k in range(FOLDS):
        others = ScoredRows(*(column[fold != k] for column in rows))
        found[fold == k] = Calibration(**_fit(others, method))(rows.prediction[fold == k])
    return found


def _fit(rows: ScoredRows, method: Method) -> dict[str, Any]:
    """Returns the fields of a calibration that are its map."""
    weights = rows.weight / rows.weight.mean()
    if method == "isotonic":
        x, y = fit_isotonic(rows.prediction, rows.label, weights)
        return {"method": method, "x": x.tolist(), "y": y.tolist()}
    a, b = fit_platt(rows.prediction, rows.label, weights)
    return {"method": method, "a": a, "b": b}
