"""A raw source is what preparation reads: one input file as a stream of record batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from shardrec.data_pipeline.errors import UserError, shortened
from shardrec.data_pipeline.features.arrow_values import Origin
from shardrec.data_pipeline.files.natural_order import natural_key
from shardrec.data_pipeline.prepare.steps.streams import COMPRESSED, is_empty
from shardrec.data_pipeline.prepare.steps.writer import Split
from shardrec.data_pipeline.reading.finding import UNFINISHED


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

    What folders and globs leave out are names that begin with `_` or `.` (other programs' unfinished work, or not data:
    `_SUCCESS`) and files that hold nothing. A name with characters of globs that is there is that file or folder.
    Numbers in names are counted, so that `day_10` comes after `day_9`; otherwise the order is that of `paths`. Raises
    UserError where nothing is found.
    """
    files: list[str] = []
    for named in paths:
        try:
            files += sorted(map(str, _named_files(Path(named), patterns)), key=natural_key)
        except (OSError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"{shortened(str(named), 200)}: cannot be read as a path or glob ({reason})") from None
    return files


def _named_files(path: Path, patterns: Sequence[str]) -> Iterable[Path]:
    """Returns the files that a path, folder or glob stands for. Raises UserError where there are none."""
    if path.is_file():
        return {path}
    folder = path.is_dir()
    if not folder and not any(c in str(path) for c in "*?["):
        raise UserError(f"{shortened(str(path), 200)}: {'is no regular file' if path.exists() else 'no such file'}")
    found = {f for p in patterns for f in path.glob(p)} if folder else _matches(path)
    files = {f for f in found if f.is_file() and not (folder and f.name.startswith(UNFINISHED))}
    if not files:
        inside = f"no files {' or '.join(patterns)} in this folder" if folder else "no file matches"
        deeper = "; folders in it are not looked into: name them, or give a glob such as '*/*.csv'"
        raise UserError(f"{path}: {inside}{deeper if any(f.is_dir() for f in found) else ''}")
    with_content = {f for f in files if not is_empty(str(f))}
    if not with_content:
        raise UserError(f"{path}: all {len(files)} files are empty")
    return with_content


def _matches(path: Path) -> set[Path]:
    """Returns what a glob matches; a part of it that is there as it is written stands for itself.

    Names that begin with `_` or `.` match a part that begins so only.
    """
    there, parts = Path(path.anchor), list(path.relative_to(path.anchor).parts)
    while parts and parts[0] != "**" and (there / parts[0]).exists():
        there /= parts.pop(0)
    begun = tuple(c for c in UNFINISHED if not any(part.startswith(c) for part in parts))
    found = there.glob(str(Path(*parts)))
    return {f for f in found if not any(part.startswith(begun) for part in f.relative_to(there).parts)}


def existing_folder(folder: str | Path, held: str) -> Path:
    """Returns the folder that holds a data set's files. Raises UserError, saying what it should hold, without one."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name the one that holds {held}")
    return folder


def plain_or_compressed(folder: Path, name: str) -> str | None:
    """Returns the path of a file called `name`, or so with .gz, .bz2, ... behind; None where there is none."""
    return next(
        (str(folder / f"{name}{ending}") for ending in COMPRESSED if (folder / f"{name}{ending}").is_file()), None
    )


def the_file(folder: Path, name: str) -> str:
    """Returns the path of a file called `name`, plain or compressed. Raises UserError where there is none."""
    path = plain_or_compressed(folder, name)
    if path is None:
        raise UserError(f"{folder}: no {name} (plain, or with {', '.join(COMPRESSED[1:])} behind) in this folder")
    return path


def compressed_too(*names: str) -> tuple[str, ...]:
    """Returns names or patterns of files, each plain and with the endings of compressed ones."""
    return tuple(name + ending for name in names for ending in COMPRESSED)
