"""A trained model scores each candidate of each row, by the same code and on the same workers as `shardrec predict`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.sealed_parquet import SealedWriter
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.sharding.distribution.frozen_rows import RowKind
from shardrec.trainer.launch.backends import check_launches_workers
from shardrec.trainer.off_policy.choices import Candidates, each_choice
from shardrec.trainer.off_policy.log_fields import LogFields, check_same_ids
from shardrec.trainer.off_policy.logged import Catalogue, origin_of
from shardrec.trainer.off_policy.scorable_rows import ScorableRows
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.scoring.predict import ROW, SCORE, predict_rows
from shardrec.trainer.session.blueprint import Blueprint


@dataclass(frozen=True)
class Trained:
    """A trained model is a checkpoint of a run, with the settings of the launch that scores rows."""

    run_folder: Path
    step: int | None = None
    overrides: tuple[str, ...] = ()
    rows: RowKind | None = None
    quiet: bool = False


@dataclass(frozen=True)
class ScoringModel:
    """A scoring model is a trained one with the rows that it is to score."""

    trained: Trained
    blueprint: Blueprint
    rows: ScorableRows

    @classmethod
    def of(cls, trained: Trained, fields: LogFields) -> "ScoringModel":
        """Opens the run. Raises UserError where its ids are not the log's, or nothing tells candidates' features."""
        folder = RunFolder.open(trained.run_folder)
        config = folder.config(trained.overrides)
        check_launches_workers(config.launch, "ope")
        blueprint = Blueprint(config, folder.schema(), rows=trained.rows)
        read, at = blueprint.read.unlabelled(), blueprint.config.data.schema_folder
        unread = blueprint.model.unread_features(labelled=False)
        for f in (fields.action, fields.position):
            if f is not None and (ours := read.by_name.get(f.name)) is not None:
                check_same_ids(fields, ours, at, f"{trained.run_folder}")
        columns = Layout(read, at, absent=unread).columns
        rows = ScorableRows(fields, read.without(unread), columns)
        rows.sources
        return cls(trained, blueprint, rows)

    def check_predicts(self, reward: str) -> None:
        """Raises UserError where this is to be the reward model, and predicts another label."""
        labels = self.blueprint.schema.labels
        predicted = self.blueprint.config.model.get("label") or (labels[0].name if labels else None)
        if predicted != reward:
            raise UserError(
                f"--reward-model model: the run predicts {predicted!r}, and the reward is {reward!r}; take --reward "
                "of that, or --reward-model means"
            )

    def scored(
        self, paths: Sequence[str], candidates: Candidates, catalogue: Catalogue, scratch: Path
    ) -> NDArray[np.float32]:
        """Returns the score of every candidate of every row, in their order: 4 bytes each are held."""
        known = (catalogue.actions, catalogue.complete())
        file, written = scratch / "rows.parquet", 0
        writer: SealedWriter | None = None
        for chunk, choices, _ in each_choice(paths, candidates, self.rows.needed, self.rows.check):
            rows = self.rows.rows(chunk.batch, origin_of(chunk), choices, known)
            writer = writer or SealedWriter(file, rows.schema)
            writer.write_table(rows)
            written += len(rows)
        assert writer is not None
        writer.close()
        key = next(column for column in self.rows.columns if column not in (ROW, SCORE))  # any: the schema's may lack
        out, run = scratch / "scores", self.trained
        predict_rows(run.run_folder, (str(file),), out, (key,), run.step, run.overrides, rows=run.rows, quiet=run.quiet)
        return _read_scores(out, written)


def _read_scores(folder: Path, count: int) -> NDArray[np.float32]:
    scores = np.full(count, np.nan, np.float32)
    for part in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(part) as file:
            if pa.types.is_list(file.schema_arrow.field(SCORE).type):
                raise UserError("the model answers with lists of scores, not with one of a user and an item")
            for batch in file.iter_batches(columns=[ROW, SCORE]):
                scores[batch.column(ROW).to_numpy()] = batch.column(SCORE).to_numpy(zero_copy_only=False)
    if np.isnan(scores).any():
        raise UserError("the model scores some candidates as NaN; judge a checkpoint of another --step")
    return scores
