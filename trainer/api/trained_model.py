"""A trained model in this process scores rows, tells its metrics and shows its tables."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from shardrec.data_pipeline.errors import UserError
from shardrec.sharding.distribution.frozen_rows import RowKind
from shardrec.trainer.checkpoints.checkpoint import restore
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment, resolve_device
from shardrec.trainer.launch.worker import computing
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.scoring.evaluate import splits_to_score
from shardrec.trainer.scoring.predict import ROW, check_predictions, scored_batches
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session
from shardrec.trainer.tables.export import export_table
from shardrec.trainer.training.evaluation import evaluate

Data: TypeAlias = Any
"""Files, folders, globs or URIs; or rows in memory: a pyarrow.Table or a pandas.DataFrame."""


def open(run_folder: str | Path, step: int | None = None, *, rows: RowKind | None = None) -> "TrainedModel":
    """Opens what a run trained. Tables are read when they are first needed, and held in this process.

    step: which checkpoint; None: the best, else the last. rows: "int8" holds tables' rows as int8 where that is
    smaller; None: as they were trained.

    Raises UserError where there is no run folder, or no such checkpoint.

        model = shardrec.open("runs/mine")
        scores = model.predict(frame)
    """
    return TrainedModel(RunFolder.open(run_folder), step, rows=rows)


class TrainedModel:
    """A trained model is one checkpoint of a run. Use it in a `with` block, or `close` it, to give its memory back."""

    def __init__(self, folder: RunFolder, step: int | None = None, *, rows: RowKind | None = None) -> None:
        self.run_folder = folder.path
        self.step = folder.choose_step(step)
        self._folder, self._rows = folder, rows
        self._joined = False

    # ------------------------------------------------------------ what it is

    @cached_property
    def config(self) -> RunConfig:
        """Returns the run's resolved configuration."""
        return self._folder.config()

    @property
    def tables(self) -> tuple[str, ...]:
        """Returns the names of its tables."""
        return tuple(self._blueprint.model.tables)

    # ------------------------------------------------------------ what it does

    def predict(self, data: Data, *, keys: Sequence[str] = ()) -> Any:
        """Scores every row: key columns and `prediction` (a list, where the model answers with lists).

        data: rows in memory, which come back as what they are, in their order and under a frame's index; or files,
        folders, globs or URIs, which come back as a pyarrow.Table with each row's place, `row`. No labels are needed.
        keys: columns to keep; default: those of the schema's keys that are there.

        Raises UserError for columns that are missing or of a wrong type.
        """
        return self._scored(data, tuple(keys), explain=False)

    def explain(self, data: Data, *, keys: Sequence[str] = ()) -> Any:
        """Scores every row as `predict` does, and says what each score came from.

        There are two more lists, equally long in a row: `weights`, and `weights_of`: the names of what each belongs
        to, or the ids of a history's events in order.

        Raises UserError where the model explains nothing (afm, din, dien and bst do), and as `predict`.
        """
        return self._scored(data, tuple(keys), explain=True)

    def evaluate(self, data: Data | None = None) -> dict[str, dict[str, float]]:
        """Returns metrics by split: of the run's own validation and test rows, or of `data` under that name.

        Raises UserError where there are no rows or labels.
        """
        with _as_paths(data) as paths, computing(self.config, self._environment):
            session = self._session
            splits = splits_to_score(self._blueprint, self._folder, paths)
            return {name: evaluate(session, session.loader(split)) for name, split in splits.items()}

    def table(self, name: str, *, state: bool = False) -> pa.Table:
        """Returns a table's rows that have an id: `id`, by the values of its vocabulary where there is one, `vector`.

        state: also a column for each of the optimizer's state. Raises UserError for an unknown table.
        """
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "rows"
            export_table(self.run_folder, name, out, self.step, state=state)
            return pq.read_table(out)

    def close(self) -> None:
        """Gives back the memory of the tables. The model can be used again; it reads them anew."""
        self.__dict__.pop("_session", None)
        self.__dict__.pop("_blueprint", None)
        if self._joined and dist.is_initialized():
            dist.destroy_process_group()
        self.__dict__.pop("_environment", None)
        self._joined = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ inside

    @cached_property
    def _environment(self) -> Environment:
        if dist.is_initialized() and dist.get_world_size() > 1:
            raise UserError(
                f"open: this process is one of {dist.get_world_size()} in a process group, and a model is opened in "
                "one alone; score with `shardrec predict`, which runs on all of them"
            )
        environment = Environment(0, 1, 0, 1, resolve_device(self.config.launch.device))
        self._joined = not dist.is_initialized()
        environment.join(self.config.launch.timeout)
        return environment

    @cached_property
    def _blueprint(self) -> Blueprint:
        return Blueprint(self.config, self._folder.schema(), rows=self._rows)

    @cached_property
    def _session(self) -> Session:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            session = Session.build(self._blueprint, self._environment)
            restore(self._folder.checkpoint(self.step), session)
        return session

    def _scored(self, data: Data, keys: tuple[str, ...], *, explain: bool) -> Any:
        known = _column_names(data)
        keys = keys or tuple(key for key in self._blueprint.schema.keys if known is None or key in known)
        with _as_paths(data) as paths, computing(self.config, self._environment):
            check_predictions(self._blueprint, paths, keys, explain=explain)
            loader = self._session.loader(paths, labelled=False, keys=keys)
            scores = pa.concat_tables(scored_batches(self._session, loader, explain=explain))
        if known is None:
            return scores
        scores = scores.drop_columns([ROW])
        if isinstance(data, pa.Table):
            return scores
        frame: Any = data
        return scores.to_pandas().set_index(frame.index)


def _column_names(data: Data) -> list[str] | None:
    """The columns of rows in memory; None for files."""
    if isinstance(data, pa.Table):
        return data.column_names
    if hasattr(data, "columns") and hasattr(data, "index"):
        return [str(name) for name in data.columns]
    return None


@contextmanager
def _as_paths(data: Data | None) -> Iterator[tuple[str, ...]]:
    """The files to read; rows in memory are written to one that is removed afterwards."""
    if data is None:
        yield ()
    elif _column_names(data) is not None:
        table = data if isinstance(data, pa.Table) else pa.Table.from_pandas(data, preserve_index=False)
        with tempfile.TemporaryDirectory() as scratch:
            path = os.path.join(scratch, "rows.parquet")
            pq.write_table(table, path)
            yield (path,)
    else:
        yield (str(data),) if isinstance(data, str | Path) else tuple(map(str, data))
