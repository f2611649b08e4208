"""A raw source is what preparation reads: one input file as a stream of record batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from re import split as split_pattern
from typing import TypeVar

import pyarrow as pa

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Origin
from shardrec.data_pipeline.prepare.steps.writer import Split


class RawSource(ABC):
    """A raw source is one input file.

    Sources are pickled to workers and read more than once, each time with the same rows in order.

    path: the file
    split: where all of its rows go, or None: where the recipe's split sends each
    labeled: whether it has labels (a competition's test file has none)
    """

    path: str
    split: Split | None = None
    labeled: bool = True

    @abstractmethod
    def batches(self, columns: Iterable[str] | None = None) -> Iterator[tuple[pa.RecordBatch, Origin]]:
        """Yields the rows in order, at least in these columns (None: all), and where each batch comes from.

        Raises UserError (file, line) for what cannot be parsed.
        """


Made = TypeVar("Made", bound=RawSource)


@dataclass(frozen=True)
class Inputs:
    """Inputs are paths (files, folders, globs). Given validation or test files go there whole.

    divided: whether the recipe splits what `train` names; None: unless validation or test files are given
    """

    train: Sequence[str | Path]
    validation: Sequence[str | Path] = ()
    test: Sequence[str | Path] = ()
    divided: bool | None = None
    patterns: tuple[str, ...] = ("*",)

    def sources(self, make: Callable[[str, Split | None], Made]) -> list[Made]:
        """Returns make(file, split) for every input file, training files first. Raises UserError without any file."""
        divided = self.divided if self.divided is not None else not (self.validation or self.test)
        whole: Split | None = None if divided else "train"
        made = [make(f, whole) for f in input_files(self.train, self.patterns)]
        made += [make(f, "validation") for f in input_files(self.validation, self.patterns)]
        return made + [make(f, "test") for f in input_files(self.test, self.patterns)]


def input_files(paths: Sequence[str | Path], patterns: Sequence[str] = ("*",)) -> list[str]:
    """Returns the files named by `paths`: files, globs, or folders (there: what matches `patterns`).

    Numbers in names are counted, so that `day_10` comes after `day_9`; otherwise the order is that of `paths`. Raises
    UserError where nothing is found.
    """
    files: list[str] = []
    for named in paths:
        path = Path(named)
        if path.is_dir():
            matches = {f for p in patterns for f in path.glob(p) if f.is_file() and not f.name.startswith(".")}
            if not matches:
                raise UserError(f"{path}: no files {' or '.join(patterns)} in this folder")
        elif any(c in str(path) for c in "*?["):
            matches = {f for f in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if f.is_file()}
            if not matches:
                raise UserError(f"{path}: no file matches")
        elif path.is_file():
            matches = {path}
        else:
            raise UserError(f"{path}: no such file")
        files += [str(f) for f in sorted(matches, key=_natural)]
    return files


def existing_folder(folder: str | Path, held: str) -> Path:
    """Returns the folder that holds a data set's files. Raises UserError, saying what it should hold, without one."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name the one that holds {held}")
    return folder


def plain_or_gzip(folder: Path, name: str) -> str | None:
    """Returns the path of a file called `name` or `name`.gz; None where there is neither."""
    return next((str(path) for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def the_file(folder: Path, name: str) -> str:
    """Returns the path of a file called `name` or `name`.gz. Raises UserError where there is neither."""
    path = plain_or_gzip(folder, name)
    if path is None:
        raise UserError(f"{folder}: no {name} or {name}.gz in this folder")
    return path


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in split_pattern(r"(\d+)", str(path))]
