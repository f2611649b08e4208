"""A trained model in this process scores rows, tells its metrics and shows its tables."""

import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.models.metrics import MetricSet
from shardrec.sharding.distribution.frozen_rows import RowKind
from shardrec.trainer.api.door import door
from shardrec.trainer.api.opened_catalogue import OpenedCatalogue, request_of, several
from shardrec.trainer.api.process_group import GROUP
from shardrec.trainer.api.rows import Data, Rows
from shardrec.trainer.catalogue.evaluation import CatalogueScorer
from shardrec.trainer.checkpoints.calibration import Calibration, calibration_of
from shardrec.trainer.checkpoints.manifest import fingerprint, read_manifest
from shardrec.trainer.checkpoints.restored import restored
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.config.trust import trust_folders
from shardrec.trainer.launch.environment import Environment, resolve_device
from shardrec.trainer.launch.freed_memory import give_back_freed_memory
from shardrec.trainer.launch.worker import computing
from shardrec.trainer.ranking.calibrate import (
    Method,
    Split,
    check_probabilities,
    fit_calibration,
    rows_to_score,
    scored_rows,
)
from shardrec.trainer.ranking.ordering import Ordering
from shardrec.trainer.ranking.rank import kept_columns, with_group
from shardrec.trainer.retrieval.index import Kind
from shardrec.trainer.retrieval.requests import Request, check_retrieves
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.holds import hold_step
from shardrec.trainer.scoring.curves import Curves, check_curves, found_curves
from shardrec.trainer.scoring.evaluate import splits_to_score
from shardrec.trainer.scoring.predict import ROW, SCORE, check_predictions, scored_batches
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session
from shardrec.trainer.tables.export import export_table
from shardrec.trainer.training.evaluation import scored


@door
def open(
    run_folder: str | Path, step: int | None = None, *, rows: RowKind | None = None, trust: bool = False
) -> "TrainedModel":
    """Opens what a run trained. Tables are read when they are first needed, and held in this process.

    step: which checkpoint; None: the best, else the last. rows: "int8" holds tables' rows as int8 where that is
    smaller; None: as they were trained. trust: the code of a model of somebody's own may be imported from where the run
    folder says, without which only a folder that this user trained on this machine may.

    Raises UserError where there is no run folder, or no such checkpoint.

        model = shardrec.open("runs/mine")
        scores = model.predict(frame)
    """
    if trust:
        trust_folders(run_folder)
    return TrainedModel(RunFolder.open(run_folder), step, rows=rows)


class TrainedModel:
    """A trained model is one checkpoint of a run. Use it in a `with` block, or `close` it, to give its memory back.

    Until then no training prunes the checkpoint.
    """

    def __init__(self, folder: RunFolder, step: int | None = None, *, rows: RowKind | None = None) -> None:
        self.run_folder = folder.path
        self.step, self._hold = hold_step(folder, step)
        self._folder, self._rows = folder, rows
        self._leave: weakref.finalize | None = None
        self.recall_line: str | None = None

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

    @door
    def predict(self, data: Data, *, keys: str | Sequence[str] = (), calibrated: bool = False) -> Any:
        """Scores every row: key columns and `prediction` (a list, where the model answers with lists).

        data: rows in memory, which come back as what they are, in their order and under a frame's index; or files,
        folders, globs or URIs, which come back as a pyarrow.Table with each row's place, `row`. No labels are needed.
        keys: columns to keep; default: those of the schema's keys that are there. calibrated: scores are mapped as
        `calibrate` found.

        Raises UserError for columns that are missing or of a wrong type, and for a step that is not calibrated.
        """
        return self._scored(data, keys, calibration=self._calibration(calibrated))

    @door
    def explain(self, data: Data, *, keys: str | Sequence[str] = ()) -> Any:
        """Scores every row as `predict` does, and says what each score came from.

        There are two more lists, equally long in a row: `weights`, and `weights_of`: the names of what each belongs
        to, or the ids of a history's events in order.

        Raises UserError where the model explains nothing (afm, din, dien and bst do), and as `predict`.
        """
        return self._scored(data, keys, explain=True)

    @door
    def calibrate(
        self, method: Method = "isotonic", *, split: Split = "validation", data: Data | None = None
    ) -> Calibration:
        """Fits a map of scores to the rates at which labels come true, and keeps it in the run folder.

        method: "isotonic", of steps, or "platt", logistic. split: the run's rows to fit; data: others, as `predict`
        takes them, with labels. The result's `measured` has, by rows that a fit has not seen, the expected calibration
        error and log loss before and after.

        Raises UserError for a model that does not predict probabilities of a label, and for rows of one class.
        """
        check_probabilities(self._blueprint, "calibrate")
        rows = None if data is None else Rows.of(data)
        with self._ready(), nullcontext(()) if rows is None else rows.files(self._columns(labelled=True)) as paths:
            splits, _ = rows_to_score(self._blueprint, self._folder, split, paths)
            found = {name: scored_rows(self._session, self._session.loader(of)) for name, of in splits.items()}
        checkpoint = fingerprint(read_manifest(self._folder.checkpoint(self.step)))
        calibration, _ = fit_calibration(found, method, self.step, checkpoint)
        calibration.save(self._folder)
        return calibration

    @door
    def rank(
        self,
        data: Data,
        *,
        bid: str | None = None,
        reserve: float | None = None,
        group: str | None = None,
        top: int | None = None,
        keys: str | Sequence[str] = (),
        calibrated: bool | None = None,
    ) -> Any:
        """Orders the rows of each group by probability, or by probability x bid: `rank`, `score`, `pctr`, `row`.

        data: as `predict` takes it. bid: the column of bids for a click, which adds `bid` and `ecpm` (1,000 x pctr x
        bid). reserve: the least eCPM that a row is kept with. group: the column whose equal values are one group;
        default: the schema's, if it has one, else all rows are one. top: the most rows of a group. calibrated: by the
        run's calibration; None: where there is one.

        Raises UserError for rows that cannot be scored or ordered.
        """
        check_probabilities(self._blueprint, "rank")
        ordering = with_group(Ordering(group, bid, reserve, top), self._blueprint.schema)
        rows = Rows.of(data)
        kept = kept_columns(ordering, self._keys(rows, keys))
        return rows.reordered(ordering.ordered(self._scores(rows, kept), self._calibration(calibrated)), ROW)

    @door
    def evaluate(self, data: Data | None = None) -> dict[str, dict[str, float]]:
        """Returns metrics by split: of the run's own validation and test rows, or of `data` under that name.

        A metric that the rows do not define is `Undefined`, a NaN that says why. Own splits without labels are left
        out. Raises UserError where there are no rows or labels, and where any of the rows cannot be scored.
        """
        return {split: metrics.compute() | lists for split, metrics, lists in self._scored_splits(data, lists=True)}

    @door
    def curves(self, data: Data | None = None) -> Curves:
        """Returns curves of the rows that `evaluate` takes, as tables of all splits; `write` makes files of them.

            curves = model.curves()
            curves.points.to_pandas()       # ROC, precision and recall, by threshold
            curves.write("curves")          # a new folder, as `shardrec evaluate --curves` makes

        Raises UserError for a model that does not score two classes apart, and as `evaluate`.
        """
        check_curves(self._blueprint)
        metrics, found = {}, {}
        for split, of_split, _ in self._scored_splits(data):
            metrics[split], found[split] = of_split.compute(), found_curves(of_split)
        return Curves.of(found, metrics)

    @door
    def retrieve(
        self,
        data: Data | None = None,
        *,
        users: Sequence[object] = (),
        n: int = 10,
        seen: str | Path | Sequence[str | Path] = (),
        index: Kind = "exact",
        settings: Mapping[str, int] | None = None,
        keys: str | Sequence[str] = (),
        raw: bool = False,
    ) -> pa.Table:
        """Returns the n best items of each user, out of the whole catalogue: a row an item, with `rank` and `score`.

        data: rows of what the user tower reads (features, histories, the context of the moment), as `predict` takes
        them; a user need not have been there in training. users: ids instead, whose last training or validation rows
        are taken; "*": all. seen: "train" leaves out the user's items of training, or files of users and items.
        index: "approximate" needs faiss; `recall_line` then says what of the exact lists it finds. settings: of the
        index. keys: columns of the rows that lists keep; default: the user's. raw: rows of data, and of files of
        `seen`, are as they were before preparation.

        Raises UserError for a model whose users and items share no space, and for ids that are not known.

            model.retrieve(users=[7, 12], n=20, seen="train")
        """
        check_retrieves(self._blueprint)
        request = request_of(n, index, settings, seen=seen, keys=keys, raw=raw)
        users = several("users", users)
        if (data is None) == (not users):
            raise UserError("retrieve: pass one of data and users")
        request = request.of(data=not users)
        with self._ready():
            found, self.recall_line = self._opened_catalogue.lists(data, users, request)
        return found

    @door
    def similar(
        self, ids: Sequence[object], n: int = 10, *, index: Kind = "exact", settings: Mapping[str, int] | None = None
    ) -> pa.Table:
        """Returns the n items most like each of some items: its id, `rank`, `similar`, and `score`, the cosine.

        Vectors are the item tower's; of a model without a shared space the items' table rows. Raises UserError for ids
        that the catalogue lacks.
        """
        request, asked = request_of(n, index, settings), several("similar", ids)
        with self._ready():
            found, self.recall_line = self._opened_catalogue.similar(asked, request)
        return found

    @door
    def vectors(self, data: Data | None = None, *, raw: bool = False) -> pa.Table:
        """Returns the id and the `vector` of all items; or, of rows of users as `retrieve` takes them, of these.

        raw: the rows are as they were before preparation.

        Raises UserError for a model whose users and items share no space.
        """
        check_retrieves(self._blueprint)
        with self._ready():
            return self._opened_catalogue.vectors(data, Request(raw=raw))

    @door
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
        self._hold.release()
        for name in ("_session", "_blueprint", "_environment", "_opened_catalogue"):
            self.__dict__.pop(name, None)
        if self._leave is not None:
            self._leave()
            give_back_freed_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ inside

    @cached_property
    def _environment(self) -> Environment:
        environment = Environment(0, 1, 0, 1, resolve_device(self.config.launch.device))
        GROUP.join(environment, self.config.launch.timeout)
        self._leave = weakref.finalize(self, GROUP.leave)
        return environment

    @cached_property
    def _blueprint(self) -> Blueprint:
        return Blueprint(self.config, self._folder.schema(), rows=self._rows)

    @cached_property
    def _session(self) -> Session:
        _, hold = hold_step(self._folder, self.step)  # again, where the model was closed meanwhile
        with hold, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            return restored(self._blueprint, self._folder, self._environment, self.step)

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Computes as the run did; what was seen of files is forgotten afterwards, since they may change."""
        try:
            with computing(self.config, self._environment):
                yield
        finally:
            self._blueprint.forget_files()

    def _scored_splits(
        self, data: Data | None, *, lists: bool = False
    ) -> Iterator[tuple[str, MetricSet, dict[str, float]]]:
        """Yields the run's own splits, or `data`, with metrics that have seen their rows, and those of `lists`."""
        rows = None if data is None else Rows.of(data)
        with self._ready(), nullcontext(()) if rows is None else rows.files(self._columns(labelled=True)) as paths:
            splits = splits_to_score(self._blueprint, self._folder, paths)
            for line in splits.failed.values():
                raise UserError(line)
            scorer = CatalogueScorer.of(self._session) if lists else None
            for name, of_split in splits.paths.items():
                of_rows = scored(self._session, self._session.loader(of_split, skips_bad=True))
                yield name, of_rows, {} if scorer is None else scorer.metrics(name, of_split)

    def _columns(self, keys: Sequence[str] = (), *, labelled: bool) -> tuple[str, ...]:
        """Returns the columns that scoring reads."""
        blueprint = self._blueprint
        schema = blueprint.read if labelled else blueprint.read.unlabelled()
        folder = self.config.data.schema_folder
        absent = blueprint.model.unread_features(labelled=labelled)
        return Layout(schema, folder, extra_columns=tuple(keys), absent=absent).columns

    @cached_property
    def _opened_catalogue(self) -> OpenedCatalogue:
        return OpenedCatalogue(self._session)

    def _calibration(self, wanted: bool | None) -> Calibration | None:
        return calibration_of(self._folder, self.step, wanted, "pass calibrated=False")

    def _keys(self, rows: Rows, keys: str | Sequence[str]) -> tuple[str, ...]:
        """Returns the columns to keep: those asked for, or those of the schema's keys that are there."""
        keys = (keys,) if isinstance(keys, str) else tuple(keys)
        return keys or tuple(key for key in self._blueprint.schema.keys if rows.columns is None or key in rows.columns)

    def _scored(self, data: Data, keys: str | Sequence[str], **how: Any) -> Any:
        rows = Rows.of(data)
        scores = self._scores(rows, self._keys(rows, keys), **how)
        return scores if rows.given is None else rows.answer(scores.drop_columns([ROW]))

    def _scores(
        self, rows: Rows, keys: tuple[str, ...], *, explain: bool = False, calibration: Calibration | None = None
    ) -> pa.Table:
        """Returns `row`, the keys and `prediction` of all rows, and what explains them."""
        if rows.num_rows == 0:
            nothing = rows.selected(keys).append_column(SCORE, pa.array([], pa.float32()))
            return nothing.append_column(ROW, pa.array([], pa.int64()))
        with self._ready(), rows.files((*self._columns(keys, labelled=False), *keys)) as paths:
            check_predictions(self._blueprint, paths, keys, explain=explain)
            loader = self._session.loader(paths, labelled=False, keys=keys)
            tables = scored_batches(self._session, loader, explain=explain, calibration=calibration)
            return pa.concat_tables(tables)
