"""`shardrec rank` scores rows as `shardrec predict` does, and writes them in the order of each group."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.files.sealed_parquet import write_sealed
from shardrec.sharding.distribution.frozen_rows import RowKind
from shardrec.trainer.checkpoints.calibration import Calibration, calibration_of
from shardrec.trainer.config.paths import absolute, absolute_folder
from shardrec.trainer.launch.backends import check_launches_workers
from shardrec.trainer.ranking.calibrate import check_probabilities
from shardrec.trainer.ranking.ordering import Ordering
from shardrec.trainer.run_folder.atomic import new_folder
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.holds import hold_step
from shardrec.trainer.scoring.predict import ROW, predict_rows
from shardrec.trainer.session.blueprint import Blueprint

PART = "part-00000.parquet"
UNCALIBRATED = "rank without it by --uncalibrated"


def rank_rows(
    run_folder: Path,
    data: tuple[str, ...],
    out: Path,
    ordering: Ordering,
    keys: tuple[str, ...] = (),
    step: int | None = None,
    overrides: tuple[str, ...] = (),
    *,
    calibrated: bool | None = None,
    rows: RowKind | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Writes `out`, a folder with one Parquet file of rows as `Ordering.ordered` orders them: all rows are in memory.

    A group that the ordering does not name is the schema's, if that has one. keys: columns to keep beside; default: the
    schema's. calibrated: by the run folder's calibration; None: where there is one. rows: how tables are held.

    Returns `rows`, `kept`, `groups`, `step`, `group` and `calibration`, its method or None.
    Raises UserError for what cannot be scored or ordered, and for a model without probabilities; then `out` is left as
    it was.
    """
    folder = RunFolder.open(run_folder)
    config = folder.config(overrides)
    check_launches_workers(config.launch, "rank")
    blueprint = Blueprint(config, folder.schema(), rows=rows)
    check_probabilities(blueprint, "rank")
    ordering = with_group(ordering, blueprint.schema)
    kept = kept_columns(ordering, keys or blueprint.schema.keys)
    chosen, hold = hold_step(folder, step)
    with hold, new_folder(absolute_folder(out)) as temporary:
        calibration = calibration_of(folder, chosen, calibrated, UNCALIBRATED)
        scores = temporary / "scores"
        predict_rows(folder.path, absolute(data), scores, kept, chosen, overrides, rows=rows, quiet=quiet)
        scored = pq.read_table(scores).sort_by(ROW)
        shutil.rmtree(scores)
        ranked = ordering.ordered(scored, calibration)
        write_sealed(with_facts(ranked, chosen, calibration), temporary / PART)
    groups = 1 if ordering.group is None else len(scored[ordering.group].unique())
    return {
        "rows": len(scored),
        "kept": len(ranked),
        "groups": groups,
        "group": ordering.group,
        "step": chosen,
        "calibration": None if calibration is None else calibration.method,
    }


def with_group(ordering: Ordering, schema: Schema) -> Ordering:
    """Returns an ordering by the schema's group, where it names none itself."""
    return ordering if ordering.group is not None else replace(ordering, group=schema.group)


def kept_columns(ordering: Ordering, keys: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the columns that rows keep: the group, the bid, the keys. Raises UserError for a name that is taken."""
    kept = tuple(dict.fromkeys((*ordering.columns, *keys)))
    ordering.check(kept)
    return kept


def with_facts(ranked: pa.Table, step: int, calibration: Calibration | None) -> pa.Table:
    """Returns the table with what its probabilities are, in the file's metadata under `calibration` and `step`."""
    facts: Mapping[str, str] = {
        "calibration": "none" if calibration is None else f"{calibration.method}, fitted on {calibration.split}",
        "step": str(step),
    }
    return ranked.replace_schema_metadata(facts)
