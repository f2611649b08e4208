"""A request says whose lists are asked for, of how many items, without which, and by which index."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.paths import absolute
from shardrec.trainer.retrieval.index import Kind, check_index
from shardrec.trainer.retrieval.index_settings import IndexSettings
from shardrec.trainer.session.blueprint import Blueprint

ROW, RANK, SCORE, SIMILAR = "row", "rank", "score", "similar"
EVERYONE = ("*",)
TRAIN = "train"


@dataclass(frozen=True)
class Request:
    """A request is for lists of `n` items.

    seen: "train", or files of users' items, which lists leave out; none: nothing is left out. kind, settings: of the
    index. keys: columns that rows of users keep. raw: rows of users are as they were before preparation; raw_seen:
    files of `seen` are.
    """

    n: int = 10
    seen: tuple[str, ...] = ()
    kind: Kind = "exact"
    settings: IndexSettings | None = None
    keys: tuple[str, ...] = ()
    raw: bool = False
    raw_seen: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.n, Integral) or self.n < 1:
            raise UserError(f"--n: found {self.n!r}, expected 1 or more")
        if TRAIN in self.seen and len(self.seen) > 1:
            raise UserError(f"--seen: `{TRAIN}` goes alone; name it, or files of users and items")
        check_index(self.kind)
        if self.settings is not None and self.kind != "approximate":  # whose kind follows from the items
            self.settings.check(self.kind)

    @property
    def seen_files(self) -> tuple[str, ...]:
        """Returns the files of seen items; none where they are those of training."""
        return () if self.seen == (TRAIN,) else self.seen

    def of(self, *, data: bool) -> "Request":
        """Returns the request of rows that are given, or that the run has, with paths as they are from any folder.

        Raises UserError where nothing can be raw.
        """
        if self.raw and not (data or self.seen_files):
            raise UserError("--raw: is about rows of --data and files of --seen, and there are none; leave it out")
        return replace(self, raw=self.raw and data, seen=absolute(self.seen_files) or self.seen)


def check_retrieves(blueprint: Blueprint) -> None:
    """Raises UserError for a model whose users and items share no space."""
    model = blueprint.model
    if model.towers() is None:
        raise UserError(
            f"model {blueprint.config.model['name']} cannot retrieve items for users: {model.no_shared_space}; score "
            "candidates with `shardrec rank`, or take items like an item with `shardrec retrieve --similar`"
        )


def check_names(keys: Sequence[str], item: str) -> None:
    """Raises UserError where a column to keep takes the name of one that lists have."""
    if taken := sorted({ROW, RANK, SCORE, item} & set(keys)):
        raise UserError(f"--keys {taken[0]}: lists have a column of that name already; leave it out")
