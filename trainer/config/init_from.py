"""`init_from` of a run file says which tables and tower parameters start as those of other runs, in part and scaled.

Pure arithmetic on names and shapes: `training/warm_start.py` copies, `training/inspection.py` checks before a run
starts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shardrec.data_pipeline.declared.declaration import Place, unknown
from shardrec.data_pipeline.errors import UserError

Column = Annotated[int, Field(ge=0, lt=2**31)]


class Transfer(BaseModel):
    """A transfer says what a name takes: `scale` times the columns [start, stop) of what is called `from` there.

    from: default the same name; a `*` in it stands for what `*` matched in the pattern that this belongs to.
    columns: of a table's rows, or of a parameter's last dimension; default all; a stop of null is the end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    source: str | None = Field(default=None, alias="from")
    columns: tuple[Column, Column | None] | None = None
    scale: float = Field(default=1.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _columns_ascend(self) -> "Transfer":
        if self.columns and self.columns[1] is not None and self.columns[0] >= self.columns[1]:
            raise ValueError(f"columns [start, stop] must ascend, found {list(self.columns)}")
        return self


class InitFrom(BaseModel):
    """An entry names a run folder or an earlier stage, and what is taken from it, by name patterns of this run.

    A pattern is a name with at most one `*`. Without `tables` and `parameters` all is taken, the tables' optimizer
    state included; with them weights only, and optimizer state starts fresh.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Place | None = None
    stage: str | None = None
    tables: dict[str, Transfer] | None = None
    parameters: dict[str, Transfer] | None = Field(default=None, description="of the tower, and its moments")

    @field_validator("tables", "parameters", mode="before")
    @classmethod
    def _bare_patterns(cls, value: Any) -> Any:
        return {p: {} if t is None else t for p, t in value.items()} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _consistent(self) -> "InitFrom":
        if (self.run is None) == (self.stage is None):
            raise ValueError("an entry names either a `run` (a run folder) or a `stage`")
        for pattern, transfer in {**(self.tables or {}), **(self.parameters or {})}.items():
            if pattern.count("*") > 1 or (transfer.source or "").count("*") > pattern.count("*"):
                raise ValueError(
                    f"pattern {pattern!r}: one `*` at most, and one in `from` only where the pattern has one"
                )
        return self

    @property
    def is_whole(self) -> bool:
        """Returns whether everything is taken, optimizer state included."""
        return self.tables is None and self.parameters is None


@dataclass(frozen=True)
class Contents:
    """Contents are what a model or a checkpoint holds, by the names that users know.

    where: in the words of an error line. tables: (rows, columns). parameters: shapes of the tower's parameters and
    buffers. dynamic: the tables whose rows belong to an id map, without which they mean nothing.
    """

    where: str
    tables: Mapping[str, tuple[int, ...]]
    parameters: Mapping[str, tuple[int, ...]]
    dynamic: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Copy:
    """A copy makes the table or parameter `target` `scale` times the columns [start, stop) of `source`."""

    target: str
    source: str
    start: int
    stop: int
    scale: float


@dataclass(frozen=True)
class Copies:
    """Copies are all that is taken from one source."""

    tables: tuple[Copy, ...]
    parameters: tuple[Copy, ...]


def resolve_copies(sources: Iterable[tuple[InitFrom, Contents]], target: Contents) -> list[Copies]:
    """Returns the copies from each source into `target`.

    Raises UserError for patterns and names that match nothing, for what would be written twice, for dynamic tables, and
    for shapes that differ (a source table may have fewer rows).
    """
    tables, parameters = Side("table", target.tables, target.dynamic), Side("parameter", target.parameters)
    return [
        Copies(
            tables.copies(source.tables or {}, contents.where, contents.tables, contents.dynamic),
            parameters.copies(source.parameters or {}, contents.where, contents.parameters),
        )
        for source, contents in sources
    ]


class Side:
    """A side is the tables or the parameters of the run that is to start, and knows what is written to them already."""

    def __init__(self, noun: str, shapes: Mapping[str, tuple[int, ...]], dynamic: frozenset[str] = frozenset()) -> None:
        self.noun = noun
        self.shapes = shapes
        self.dynamic = dynamic
        self._taken: dict[str, str] = {}

    def copies(
        self,
        transfers: Mapping[str, Transfer],
        where: str,
        shapes: Mapping[str, tuple[int, ...]],
        dynamic: frozenset[str] = frozenset(),
    ) -> tuple[Copy, ...]:
        """Returns the copies that the patterns of one source ask for. Raises UserError as `resolve_copies` does."""
        copies: list[Copy] = []
        for pattern, transfer in transfers.items():
            matches = {name: part for name in self.shapes if (part := _matched(pattern, name)) is not None}
            if not matches:
                raise UserError("init_from: " + unknown(self.noun, pattern, list(self.shapes)))
            for name, part in matches.items():
                entry = f"{pattern!r} from {where}"
                if first := self._taken.get(name):
                    raise UserError(f"init_from: {self.noun} {name!r} is written twice, by {first} and by {entry}")
                self._taken[name] = entry
                source = (transfer.source or pattern).replace("*", part)
                if source not in shapes:
                    missing = unknown(self.noun, source, list(shapes))
                    raise UserError(f"init_from: what {self.noun} {name!r} starts from is not in {where}: {missing}")
                if source in dynamic or name in self.dynamic:
                    its = f"table {source!r} of {where}" if source in dynamic else f"table {name!r} of this run"
                    raise UserError(
                        f"init_from: {its} is dynamic, so that its rows belong to the ids of its own id map; take the "
                        "whole run, without `tables` and `parameters`, or leave the table out"
                    )
                copies.append(self._copy(name, source, transfer, where, shapes[source]))
        return tuple(copies)

    def _copy(self, name: str, source: str, transfer: Transfer, where: str, shape: tuple[int, ...]) -> Copy:
        wanted, width = self.shapes[name], shape[-1] if shape else 1
        start, stop = transfer.columns or (0, None)
        stop = width if stop is None else stop
        taken = f"{self.noun} {source!r} in {where}"
        if transfer.columns and not (shape and start < stop <= width):
            raise UserError(
                f"init_from: columns {start}:{stop} of {taken} are asked for, which is {self._shown(shape)}"
            )
        copied = (*shape[:-1], stop - start) if shape else shape
        grown = self.noun == "table" and copied[0] < wanted[0] and copied[1] == wanted[1]
        if copied != wanted and not grown:
            part, verb = (f"columns {start}:{stop} of {taken}", "are") if transfer.columns else (taken, "is")
            shrunk = self.noun == "table" and copied[0] > wanted[0] and copied[1] == wanted[1]
            alike = "choose `columns`, or the models' settings, so that they are alike"
            remedy = f"tables may grow, not shrink: keep {copied[0]} ids or more in the schema" if shrunk else alike
            raise UserError(
                f"init_from: {self.noun} {name!r} is {self._shown(wanted)}, but {part} {verb} {self._shown(copied)}; "
                + remedy
            )
        return Copy(name, source, start, stop, transfer.scale)

    def _shown(self, shape: Sequence[int]) -> str:
        if self.noun == "table":
            return f"{shape[0]} rows x {shape[1]} columns"
        return " x ".join(map(str, shape)) or "a single number"


def _matched(pattern: str, name: str) -> str | None:
    """Returns what the `*` of a pattern stands for in a name ("" where it has none); None where they do not match."""
    before, star, after = pattern.partition("*")
    if pattern == name and star:
        return "*"  # a name with a star in it
    if not star:
        return "" if pattern == name else None
    fits = name.startswith(before) and name.endswith(after) and len(name) >= len(before) + len(after)
    return name[len(before) : len(name) - len(after)] if fits else None
