"""The log has a row for each item shown, written once its user's next request has come: nothing in it is guessed.

A file a day, log/day-0001.parquet, beside log/schema.yaml. Rows are in order of `time`, when they were completed, which
is when the user came again, or when a user had been away for so long as to count as lost (`terminal`: 1, without next
candidates). `requested` says when the item was shown. What is still open at the end is not written.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.files.sealed_parquet import SealedWriter
from shardrec.data_pipeline.files.whole_files import whole_file
from shardrec.trainer.simulation.log_schema import (
    ACTION_IDS,
    ACTION_NUMBERS,
    STATE_IDS,
    list_name,
    log_schema,
    state_numbers,
)
from shardrec.trainer.simulation.settings import SimulationSettings
from shardrec.trainer.simulation.world import Requests, Shown, at_places

GROUP_ROWS = 16_384

_ID, _NUMBER = np.int32, np.float32


def day_file(folder: Path, day: int) -> Path:
    """Returns the file of a day, from 1."""
    return folder / f"day-{day:04d}.parquet"


class TransitionLog:
    """A log keeps each user's latest request, [U, ...] a column, until it is known what came after it.

    waiting: [U] bool, whose is kept.
    """

    def __init__(self, folder: Path, settings: SimulationSettings) -> None:
        self.folder, self.settings = folder, settings
        users, candidates, shown = settings.users, settings.candidates, settings.shown
        self.waiting = np.zeros(users, bool)
        self._state: dict[str, np.ndarray] = {n: np.zeros(users, _ID) for n in STATE_IDS}
        self._state |= {n: np.zeros(users, _NUMBER) for n in state_numbers(settings)}
        self._actions: dict[str, np.ndarray] = {n: np.zeros((users, candidates), _ID) for n in ACTION_IDS}
        self._actions |= {n: np.zeros((users, candidates), _NUMBER) for n in ACTION_NUMBERS}
        self._place = np.zeros((users, shown), np.int64)
        self._propensity = np.zeros((users, shown))
        self._clicks = np.zeros((users, shown), np.int8)
        self._requested = np.zeros(users)
        self._parts: list[pa.Table] = []
        self._writer: SealedWriter | None = None
        self._open = ExitStack()

    # ------------------------------------------------------------ a day's file

    def begin(self, day: int) -> None:
        """Opens the file of a day."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "schema.yaml").exists():
            log_schema(self.settings).save(self.folder / "schema.yaml")
        path = self._open.enter_context(whole_file(day_file(self.folder, day)))
        schema = self._rows(np.zeros(0, np.int64), {}, {}, np.zeros(0), 0.0).schema
        few = [f.name if not pa.types.is_list(f.type) else f"{f.name}.list.element" for f in schema if _is_of_ids(f)]
        writer = SealedWriter(path, schema, use_dictionary=few, compression_level=1)
        self._writer = self._open.enter_context(writer)

    def end(self) -> None:
        """Puts the day's file in its place, whole."""
        self._flush()
        self._open.close()
        self._writer = None

    def give_up(self) -> None:
        """Leaves the day's file out, after an error."""
        self._parts.clear()
        self._open.__exit__(RuntimeError, RuntimeError("given up"), None)

    def prune(self, day: int) -> None:
        """Removes the files of days that `log_days` does not keep."""
        if self.settings.log_days is not None and day > self.settings.log_days:
            day_file(self.folder, day - self.settings.log_days).unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._parts and self._writer is not None:
            self._writer.write_table(pa.concat_tables(self._parts).combine_chunks())
        self._parts.clear()

    # ------------------------------------------------------------ rows

    def complete(self, requests: Requests, activeness: np.ndarray) -> None:
        """Writes the rows of those who are here again; activeness: [R], right after this return."""
        again = self.waiting[requests.user]
        users = requests.user[again]
        state = {name: values[again] for name, values in requests.state.items()}
        actions = {name: values[again] for name, values in requests.actions.items()}
        self._add(self._rows(users, state, actions, activeness[again], requests.time))

    def lost(self, users: np.ndarray, state: Mapping[str, np.ndarray], activeness: np.ndarray, time: float) -> None:
        """Writes the rows of users [n] who are given up as lost, with their state now; nothing could be shown."""
        self._add(self._rows(users, state, {}, activeness, time))
        self.waiting[users] = False

    def overdue(self, time: float) -> np.ndarray:
        """Returns the users who have been away for `returns.lost_days`, [n] int64."""
        away = time - self._requested >= 86_400 * self.settings.returns.lost_days
        return np.flatnonzero(self.waiting & away)

    def keep(self, requests: Requests, shown: Shown, clicks: np.ndarray) -> None:
        """Takes up what was shown and clicked, until the users come again."""
        users = requests.user
        for kept, values in ((self._state, requests.state), (self._actions, requests.actions)):
            for name, column in kept.items():
                column[users] = values[name]
        self._place[users], self._propensity[users] = shown.place, shown.propensity
        self._clicks[users], self._requested[users] = clicks, requests.time
        self.waiting[users] = True

    def _add(self, rows: pa.Table) -> None:
        self._parts.append(rows)
        if sum(map(len, self._parts)) >= GROUP_ROWS:
            self._flush()

    def _rows(
        self,
        users: np.ndarray,
        state: Mapping[str, np.ndarray],
        actions: Mapping[str, np.ndarray],
        activeness: np.ndarray,
        time: float,
    ) -> pa.Table:
        """Returns the kept requests of users [n] as rows; state, actions: what came next, no actions where nothing."""
        shown, place = self.settings.shown, self._place[users]
        terminal = not actions

        def each(values: np.ndarray) -> np.ndarray:
            return np.repeat(values, shown, axis=0)

        columns: dict[str, Any] = {name: each(kept[users]) for name, kept in self._state.items()}
        columns |= {name: at_places(kept[users], place).ravel() for name, kept in self._actions.items()}
        for name, kept in self._state.items():
            columns[f"next_{name}"] = each(state.get(name, kept[:0]).astype(kept.dtype))
        left = _left(place, self.settings.candidates)
        for name, kept in self._actions.items():
            columns[list_name("candidate", name)] = _lists(each(kept[users]), left)
        for name, kept in self._actions.items():
            after = np.zeros((len(users), 0)) if terminal else actions[name]
            columns[list_name("next_candidate", name)] = _lists(each(after.astype(kept.dtype)))
        rows = len(users) * shown
        columns["click"] = self._clicks[users].ravel()
        columns["activeness"] = each(activeness.astype(_NUMBER))
        columns["terminal"] = np.full(rows, terminal, np.int8)
        columns["propensity"] = self._propensity[users].ravel()
        columns["time"] = np.full(rows, float(time))
        columns["requested"] = each(self._requested[users])
        columns["position"] = np.tile(np.arange(shown, dtype=np.int8), len(users))
        return pa.table(columns)

    # ------------------------------------------------------------ kept

    def state(self) -> dict[str, np.ndarray]:
        """Returns all that changes, by name."""
        kept = {f"state_{n}": v for n, v in self._state.items()} | {f"action_{n}": v for n, v in self._actions.items()}
        alone = {n: getattr(self, f"_{n}") for n in ("place", "propensity", "clicks", "requested")}
        return {**kept, **alone, "waiting": self.waiting}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes up what `state` returned."""
        for name in self._state:
            self._state[name] = state[f"state_{name}"]
        for name in self._actions:
            self._actions[name] = state[f"action_{name}"]
        for name in ("place", "propensity", "clicks", "requested"):
            setattr(self, f"_{name}", state[name])
        self.waiting = state["waiting"]


def _left(place: np.ndarray, candidates: int) -> np.ndarray:
    """Returns which candidates each place of lists [n, L] was chosen from, [n L, C] bool: those not shown above it."""
    count, shown = place.shape
    shown_at = np.full((count, candidates), shown)
    np.put_along_axis(shown_at, place, np.arange(shown)[None], axis=1)
    left: np.ndarray = shown_at[:, None, :] >= np.arange(shown)[None, :, None]
    return left.reshape(count * shown, candidates)


def _lists(values: np.ndarray, kept: np.ndarray | None = None) -> pa.Array:
    """Returns [n, C] as n lists, with those values alone that are kept (None: all)."""
    count, length = values.shape
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(np.full(count, length) if kept is None else kept.sum(1), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel() if kept is None else values[kept]))


def _is_of_ids(field: pa.Field) -> bool:
    kind = field.type.value_type if pa.types.is_list(field.type) else field.type
    return bool(pa.types.is_integer(kind))
