"""User histories are text, `user item item ...`, oldest first, and JSON of items' attributes beside it.

The format of S3-Rec's data (Zhou et al., CIKM 2020). A user's lines are joined in their order, so that a file with one
`user item` a line, in the order of time, is read as well. Users and items are any words; there are no times.
"""

from pathlib import Path

from shardrec.data_pipeline.errors import UserError, shortened
from shardrec.data_pipeline.prepare.behaviour.events import Coded, Events
from shardrec.data_pipeline.prepare.behaviour.histories import HistoryProtocol, prepare_histories
from shardrec.data_pipeline.prepare.steps.json_objects import entries
from shardrec.data_pipeline.prepare.steps.lines import line_blocks
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.source import input_files
from shardrec.data_pipeline.prepare.steps.word_lines import pairs_in


def prepare_user_histories(
    path: str | Path,
    output: Output,
    protocol: HistoryProtocol | None = None,
    attributes: str | Path | None = None,
    progress: Progress = silent,
) -> Report:
    """Prepares the histories in text files.

    attributes: JSON, `{"item": [attribute, ...], ...}`; an item's first attribute is its category

    Raises UserError (file, line) for what cannot be read.
    """
    files = input_files([path])
    users, items = [], []
    for file in files:
        for lines in line_blocks(file):
            of_user, of_item = pairs_in(lines, file)
            users.append(of_user)
            items.append(of_item)
    if not sum(map(len, items)):
        raise UserError(f"{files[0]}: has no rows")
    categories = None if attributes is None else _first_attributes(attributes)
    events = Events.of(files[0], Coded.of(users), Coded.of(items), categories=categories)
    return prepare_histories(events, protocol or HistoryProtocol(), output, progress)


def _first_attributes(path: str | Path) -> dict[object, str]:
    """Returns the first attribute of each item. Raises UserError for what is not such JSON."""
    first: dict[object, str] = {}
    for item, attributes in entries(str(path)):
        one = attributes[0] if isinstance(attributes, list) and attributes else attributes
        if isinstance(one, dict | bool | float) or (isinstance(one, list) and one):
            found = f"item {shortened(item)!r} has {shortened(attributes)}"
            raise UserError(f"{path}: {found}, expected a list of words or whole numbers")
        first.pop(item, None)  # of an item that is there twice the later entry counts, as in JSON
        if isinstance(one, str | int) and one != "":
            first[item] = str(one)
    return first
