"""What commands write appears complete or not at all: text, CSV, pictures and folders."""

import csv
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.owned_files import check_own_file
from shardrec.data_pipeline.files.whole_files import whole_file, whole_folder
from shardrec.trainer.run_folder.lasting import check_lasting

_SOFTWARE = "shardrec"

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_atomically(path: Path, text: str) -> None:
    """Writes all of `text` in place of what `path` held, or leaves that, whatever happens."""
    with whole_file(path) as temporary:
        temporary.write_text(text)


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a table: columns in the order of first appearance, numbers in full, nothing where a row lacks one."""
    rows = list(rows)
    with whole_file(path) as temporary, temporary.open("w", newline="") as file:
        columns = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_picture(path: Path, figure: "Figure") -> None:
    """Writes a figure as PNG or, to a path that ends in .svg, as SVG; either says in itself who made it."""
    from matplotlib import rc_context

    vector = path.suffix.lower() == ".svg"
    metadata = {"Creator": _SOFTWARE, "Date": None} if vector else {"Software": _SOFTWARE}
    with whole_file(path) as temporary, rc_context({"svg.hashsalt": _SOFTWARE}):  # the same figure is the same file
        figure.savefig(temporary, format="svg" if vector else "png", metadata=metadata)


def check_own_picture(path: Path) -> None:
    """Raises UserError where something else is in the place of a picture."""
    name = _SOFTWARE.encode()
    png = rb"\x89PNG.{,300}Software\x00" + name
    svg = rb"<\?xml .{,900}<dc:creator>\s*<cc:Agent>\s*<dc:title>" + name + rb"</dc:title>"
    check_own_file(path, b"(?:" + png + b"|" + svg + b").*")


def check_out(out: Path, option: str = "--out") -> None:
    """Raises UserError unless `out`, given as `option`, is not there, or an empty folder, and in a place that lasts."""
    check_lasting(option, out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file, where a folder is to be; name another {option}")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: not empty; name another {option}")


def new_folder(
    out: Path, *, option: str = "--out", launch: str | None = None, leads: bool = True
) -> AbstractContextManager[Path]:
    """Yields a folder to be filled, which then becomes `out`, which must be empty or not there; else UserError.

    option: what `out` was given as. launch, leads: where the ranks of one launch fill it together, as in
    `whole_folder`.
    """
    return whole_folder(out, partial(check_out, option=option), launch=launch, leads=leads)
