"""The chart of a plan has a bar a rank, of the largest tables and id maps, and a line for the memory that there is."""

import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from shardrec.data_pipeline.declared.sizes import readable
from shardrec.data_pipeline.errors import UserError, printable
from shardrec.sharding.planning.plan import Plan, bytes_per_rank
from shardrec.trainer.run_folder.atomic import check_own_picture, write_picture

LARGEST = 8  # tables that have a colour of their own
LONGEST = 20  # characters of a name, which else leaves no room for the bars


def memory_stacks(plan: Plan) -> list[tuple[str, NDArray[np.int64]]]:
    """Returns what bars are made of, from below: (label, bytes on each rank [W]); together all that a rank holds."""
    by_size = sorted(plan.tables.values(), key=lambda t: -sum(t.bytes_by_rank.values()))
    stacks = [(_fitting(printable(t.name)), bytes_per_rank([t], plan.world_size)) for t in by_size[:LARGEST]]
    if rest := by_size[LARGEST:]:
        stacks.append((f"{len(rest)} more tables", bytes_per_rank(rest, plan.world_size)))
    if plan.id_map_bytes:
        stacks.append(("id maps", [plan.id_map_bytes] * plan.world_size))
    return [(f"{name}, {readable(sum(by_rank))}", np.array(by_rank)) for name, by_rank in stacks]


def _fitting(name: str) -> str:
    """Returns a name, without its middle where it is long."""
    half = LONGEST // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[1 - half :]}"


def draw_memory(plan: Plan, path: Path) -> None:
    """Writes the chart as PNG.

    Raises UserError for a file of another kind, for one that is there and no chart of ours, and for a folder that is
    not there.
    """
    if path.suffix.lower() != ".png":
        raise UserError(f"--chart {path}: expected a file that ends in .png")
    if not path.parent.is_dir():
        raise UserError(f"--chart {path}: there is no folder {path.parent}")
    check_own_picture(path)
    ranks = np.arange(plan.world_size)
    figure = Figure(figsize=(max(5.0, min(16.0, 2.5 + 0.11 * plan.world_size)), 4.0), layout="constrained", dpi=150)
    axes = figure.subplots()
    bottom = np.zeros(plan.world_size)
    # a blank before each label: those that begin with `_` are hidden
    for i, (label, by_rank) in enumerate(memory_stacks(plan)):
        axes.bar(ranks, by_rank / 2**30, bottom=bottom, width=0.9, color=f"C{i}", label=f" {label}")
        bottom += by_rank / 2**30
    axes.axhline(plan.memory_per_rank / 2**30, color="0.3", linestyle="--", linewidth=1)
    label = f"{readable(plan.memory_per_rank)} for tables"
    axes.annotate(label, (0, plan.memory_per_rank / 2**30), (2, 2), textcoords="offset points", fontsize=8, color="0.3")
    axes.set_xlim(-0.6, plan.world_size - 0.4)
    axes.set_ylim(0, 1.12 * max(bottom.max(), plan.memory_per_rank / 2**30))
    axes.set_xlabel(f"rank ({plan.local_world_size} a host)")
    axes.set_ylabel("GiB")
    legend = figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a `$` in a name is no formula
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # names may be in any script
        write_picture(path, figure)
