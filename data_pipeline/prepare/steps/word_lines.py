"""Lines of words, `user item item ...`, become a user and an item for each item."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrec.data_pipeline.errors import UserError, shortened
from shardrec.data_pipeline.prepare.steps.lines import Lines


def pairs_in(lines: Lines, file: str, *, alone: bool = False) -> tuple[pa.Array, pa.Array]:
    """Returns the users and the items of these lines, dictionary-encoded strings; blank lines have none.

    alone: users without items are passed over. Else they raise UserError (file, line).
    """
    stripped = pc.utf8_trim_whitespace(pc.split_pattern(pa.array([lines.text(file)]), "\n").flatten())
    words = pc.utf8_split_whitespace(stripped)
    counts = pc.list_value_length(words).to_numpy()
    blank = pc.equal(stripped, "").to_numpy(zero_copy_only=False)
    lonely = np.flatnonzero((counts == 1) & ~blank)
    if len(lonely) and not alone:
        user = stripped[int(lonely[0])].as_py()
        raise UserError(
            f"{file}, line {lines.first + lonely[0]}: found {shortened(user)!r} alone, expected `user item item ...`"
        )
    flat, starts = words.flatten(), words.offsets.to_numpy()[:-1]
    keep = np.ones(len(flat), bool)
    keep[starts] = False
    users = flat.take(pa.array(np.repeat(starts, np.where(blank, 0, counts - 1))))
    return users.dictionary_encode(), flat.filter(pa.array(keep)).dictionary_encode()
