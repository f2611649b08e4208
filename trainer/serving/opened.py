"""A bundle that a service has opened and tried: its columns, what answers say of it, and its scores."""

import os
import time
from collections.abc import Callable
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np

from shardrec.data_pipeline.errors import UserError, shortened
from shardrec.trainer.export.loader import Bundle, RowError
from shardrec.trainer.serving.settings import check_folder
from shardrec.trainer.serving.wire.refusals import Refusal, wrong

LONGEST_MISSPELT = 100
"""Characters of a name that is compared with known ones."""


class OpenedBundle:
    """An opened bundle has scored once: what is broken in it shows before a request comes.

    Raises UserError where the folder holds no bundle, or one that cannot score.
    """

    def __init__(self, path: str, threads: int) -> None:
        self.path = os.path.realpath(path)  # a link may lead elsewhere tomorrow
        began = time.monotonic()
        check_folder(path)
        try:
            self.bundle = Bundle(self.path, threads=threads)
            self._try()
        except (RowError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            line = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{path}: the bundle does not score: {shortened(line, 300)}") from error
        self.opened_in = time.monotonic() - began
        self.columns = dict(self.bundle.columns)
        self.known = frozenset(self.columns)
        self.score: Callable[[Any], Any] = self.bundle.score  # one object, by which batches are told apart

    def _try(self) -> None:
        """Scores some rows, and so loads what the first row of a batch would have to wait for."""
        row = any_row(self.bundle.columns)
        for count in (1, 2, 3):
            scores = self.bundle.score([row] * count)
            if len(scores) != count or not all(np.isfinite(score).all() for score in scores):
                raise ValueError(f"{count} rows scored {[np.asarray(score).tolist() for score in scores]}")
        varying = self.bundle.item_columns or self.bundle.context_columns
        context = {name: row[name] for name in row if name not in varying}
        self.bundle.score_candidates(context, [{name: row[name] for name in varying}] * 2)
        if self.bundle.retrieves:
            items, _ = self.bundle.top_n([{name: row[name] for name in self.bundle.user_columns}], 1)
            self.bundle.similar(items[0], 1)

    @cached_property
    def name(self) -> str:
        """Returns what tells a bundle from the next one, as answers and metrics have it: its folder."""
        return os.path.basename(self.path)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Returns what is known of the model: the bundle's facts of its run, its columns, and where it was opened."""
        return {
            "bundle": self.name,
            "run": self.bundle.manifest.get("run", {}),
            "columns": self.columns,
            "context_columns": list(self.bundle.context_columns),
            "item_columns": list(self.bundle.item_columns),
            "user_columns": list(self.bundle.user_columns),
            "retrieves": self.bundle.retrieves,
        }

    def check_names(self, rows: list[dict[str, Any]], of: str = "rows") -> None:
        """Refuses rows with a column that the model does not read: it would be ignored, misspelt or not."""
        known = self.known
        for place, row in enumerate(rows):
            if not row.keys() <= known:
                name = next(iter(row.keys() - known))
                raise unknown_column(name, sorted(known), place)

    def retrieval(self) -> Bundle:
        """Returns the bundle where it holds a catalogue to retrieve from, and refuses the request where not."""
        if not self.bundle.retrieves:
            raise Refusal(501, f"this bundle does not retrieve: {self.bundle.no_shared_space}")
        return self.bundle


def unknown_column(name: str, known: list[str], row: int | None) -> Refusal:
    """Returns the refusal of a column that the model does not read, with the one that may have been meant."""
    near = get_close_matches(name, known, 1) if len(name) <= LONGEST_MISSPELT else []
    meant = f"did you mean {near[0]!r}?" if near else "/v1/model lists those that there are"
    line = f"unknown column {shortened(name)!r}; {meant}"
    return wrong(line if row is None else f"row {row}: {line}", row=row, field=name[:80])


def any_row(columns: dict[str, str]) -> dict[str, Any]:
    """Returns a row that a bundle of these columns scores: zeros, empty strings, lists of one."""
    return {name: _any_value(kind) for name, kind in columns.items()}


def _any_value(kind: str) -> Any:
    """Returns a value that a column of this type may hold."""
    kind = kind.removesuffix("?")
    if kind.startswith(("list", "large_list")):
        return [_any_value(kind[kind.index("<") + 1 : -1].removeprefix("item: ").removeprefix("element: "))]
    if kind.startswith(("string", "large_string")):
        return ""
    return 0.0 if kind in ("float", "double", "halffloat") else False if kind == "bool" else 0
