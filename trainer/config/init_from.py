"""`init_from` of a run file: which tables and tower parameters start as those of other runs, in part and scaled.

Pure arithmetic on names and shapes: `training/warm_start.py` copies, `training/inspection.py` checks before a run
starts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shardrec.data_pipeline.declaration import unknown
from shardrec.data_pipeline.errors import UserError

Column = Annotated[int, Field(ge=0)]


class Transfer(BaseModel):
    """What a name takes from a source: `scale` times the columns [start, stop) of what is called `from` there.

    from: default the same name; a `*` in it stands for what `*` matched in the pattern that this belongs to.
    columns: of a table's rows, or of a parameter's last dimension; default all; a stop of null is the end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    source: str | None = Field(default=None, alias="from")
    columns: tuple[Column, Column | None] | None = None
    scale: float = Field(default=1.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _columns_ascend(self) -> "Transfer":
        if self.columns and self.columns[1] is not None and self.columns[0] >= self.columns[1]:
            raise ValueError(f"columns [start, stop] must ascend, found {list(self.columns)}")
        return self


class Source(BaseModel):
    """A run folder, or an earlier stage of the same run file, and what is taken from it by name patterns of this run.

    A pattern is a name with at most one `*`. Without `tables` and `parameters` all is taken, the tables' optimizer
    state included; with them weights only, and optimizer state starts fresh.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str | None = None
    stage: str | None = None
    tables: dict[str, Transfer] | None = None
    parameters: dict[str, Transfer] | None = Field(default=None, description="of the tower, and its moments")

    @field_validator("tables", "parameters", mode="before")
    @classmethod
    def _bare_patterns(cls, value: Any) -> Any:
        return {p: {} if t is None else t for p, t in value.items()} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _consistent(self) -> "Source":
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
        """Whether everything is taken, optimizer state included."""
        return self.tables is None and self.parameters is None


@dataclass(frozen=True)
class Contents:
    """What a model or a checkpoint holds, by the names that users know.

    where: in the words of an error line. tables: (rows, columns). parameters: shapes of the tower's parameters and
    buffers. dynamic: the tables whose rows belong to an id map, without which they mean nothing.
    """

    where: str
    tables: Mapping[str, tuple[int, ...]]
    parameters: Mapping[str, tuple[int, ...]]
    dynamic: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Copy:
    """One table or parameter: `target` becomes `scale` times the columns [start, stop) of `source`."""

    target: str
    source: str
    start: int
    stop: int
    scale: float


@dataclass(frozen=True)
class Copies:
    """What is taken from one source."""

    tables: tuple[Copy, ...]
    parameters: tuple[Copy, ...]


def resolve(sources: Iterable[tuple[Source, Contents]], target: Contents) -> list[Copies]:
    """The copies from each source into `target`.

    Raises UserError for patterns and names that match nothing, for what would be written twice, for dynamic tables, and
    for shapes that differ (a source table may have fewer rows).
    """
    tables, parameters = Side("table", target.tables, target.dynamic), Side("parameter", target.parameters)
    return [
        Copies(
            tables.copies(source.tables or {}, held.where, held.tables, held.dynamic),
            parameters.copies(source.parameters or {}, held.where, held.parameters),
        )
        for source, held in sources
    ]


class Side:
    """The tables or the parameters of the run that is to start, and what is written to them already."""

    def __init__(self, what: str, shapes: Mapping[str, tuple[int, ...]], dynamic: frozenset[str] = frozenset()) -> None:
        self.what = what
        self.shapes = shapes
        self.dynamic = dynamic
        self._taken: dict[str, str] = {}

    def copies(
        self,
        transfers: Mapping[str, Transfer],
        where: str,
        held: Mapping[str, tuple[int, ...]],
        dynamic: frozenset[str] = frozenset(),
    ) -> tuple[Copy, ...]:
        """The copies that the patterns of one source ask for. Raises UserError as `resolve` does."""
        found = []
        for pattern, transfer in transfers.items():
            matches = {name: part for name in self.shapes if (part := _matched(pattern, name)) is not None}
            if not matches:
                raise UserError("init_from: " + unknown(self.what, pattern, list(self.shapes)))
            for name, part in matches.items():
                entry = f"{pattern!r} from {where}"
                if other := self._taken.get(name):
                    raise UserError(f"init_from: {self.what} {name!r} is written twice, by {other} and by {entry}")
                self._taken[name] = entry
                source = (transfer.source or pattern).replace("*", part)
                if source not in held:
                    missing = unknown(self.what, source, list(held))
                    raise UserError(f"init_from: what {self.what} {name!r} starts from is not in {where}: {missing}")
                if source in dynamic or name in self.dynamic:
                    its = f"table {source!r} of {where}" if source in dynamic else f"table {name!r} of this run"
                    raise UserError(
                        f"init_from: {its} is dynamic, so that its rows belong to the ids of its own id map; take the "
                        "whole run, without `tables` and `parameters`, or leave the table out"
                    )
                found.append(self._copy(name, source, transfer, where, held[source]))
        return tuple(found)

    def _copy(self, name: str, source: str, transfer: Transfer, where: str, held: tuple[int, ...]) -> Copy:
        wanted, width = self.shapes[name], held[-1] if held else 1
        start, stop = transfer.columns or (0, None)
        stop = width if stop is None else stop
        taken = f"{self.what} {source!r} in {where}"
        if transfer.columns and not (held and start < stop <= width):
            raise UserError(f"init_from: columns {start}:{stop} of {taken} are asked for, which is {self._shown(held)}")
        found = (*held[:-1], stop - start) if held else held
        grown = self.what == "table" and found[0] < wanted[0] and found[1] == wanted[1]
        if found != wanted and not grown:
            what, verb = (f"columns {start}:{stop} of {taken}", "are") if transfer.columns else (taken, "is")
            shrunk = self.what == "table" and found[0] > wanted[0] and found[1] == wanted[1]
            alike = "choose `columns`, or the models' settings, so that they are alike"
            remedy = f"tables may grow, not shrink: keep {found[0]} ids or more in the schema" if shrunk else alike
            raise UserError(
                f"init_from: {self.what} {name!r} is {self._shown(wanted)}, but {what} {verb} {self._shown(found)}; "
                + remedy
            )
        return Copy(name, source, start, stop, transfer.scale)

    def _shown(self, shape: Sequence[int]) -> str:
        if self.what == "table":
            return f"{shape[0]} rows x {shape[1]} columns"
        return " x ".join(map(str, shape)) or "a single number"


def _matched(pattern: str, name: str) -> str | None:
    """What the `*` of a pattern stands for in a name (nothing where it has none); None where they do not match."""
    before, star, after = pattern.partition("*")
    if not star:
        return "" if pattern == name else None
    fits = name.startswith(before) and name.endswith(after) and len(name) >= len(before) + len(after)
    return name[len(before) : len(name) - len(after)] if fits else None
