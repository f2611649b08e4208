"""A request says whose lists are asked for, of how many items, without which, and by which index."""

from collections.abc import Sequence
from dataclasses import dataclass

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.models.base import input_features
from shardrec.trainer.retrieval.index import Kind, check_index
from shardrec.trainer.retrieval.index_settings import IndexSettings
from shardrec.trainer.session.blueprint import Blueprint

ROW, RANK, SCORE, SIMILAR = "row", "rank", "score", "similar"
EVERYONE = ("*",)


@dataclass(frozen=True)
class Request:
    """A request is for lists of `n` items.

    seen: "train", or files of users' items, which lists leave out; none: nothing is left out. kind, settings: of the
    index. keys: columns that rows of users keep.
    """

    n: int = 10
    seen: tuple[str, ...] = ()
    kind: Kind = "exact"
    settings: IndexSettings | None = None
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"--n: found {self.n}, expected 1 or more")
        check_index(self.kind)


def check_retrieves(blueprint: Blueprint) -> None:
    """Raises UserError for a model whose users and items share no space."""
    model = blueprint.model
    if model.towers() is None:
        raise UserError(
            f"model {blueprint.config.model['name']} cannot retrieve items for users: {model.no_shared_space}; score "
            "candidates with `shardrec rank`, or take items like an item with `shardrec retrieve --similar`"
        )


def item_side(blueprint: Blueprint) -> tuple[str, ...]:
    """Returns the features that the user tower does not read, which rows of users need not have."""
    towers = blueprint.model.towers()
    assert towers is not None
    of_users = {f for name in towers.user_inputs for f in input_features(blueprint.model.inputs[name])}
    return tuple(f.name for f in blueprint.read.features if f.name not in of_users)


def user_columns(blueprint: Blueprint) -> tuple[str, ...]:
    """Returns the columns that the user tower's features are read from."""
    absent = (*blueprint.model.unread_features(labelled=False), *item_side(blueprint))
    return Layout(blueprint.read.unlabelled(), blueprint.config.data.schema_folder, absent=absent).columns


def check_names(keys: Sequence[str], item: str) -> None:
    """Raises UserError where a column to keep takes the name of one that lists have."""
    if taken := sorted({ROW, RANK, SCORE, item} & set(keys)):
        raise UserError(f"--keys {taken[0]}: lists have a column of that name already; leave it out")
