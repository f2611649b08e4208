"""The plan of a check: its sections in the order of their worth, and the seconds that each may take on one GPU."""

from dataclasses import dataclass

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError


@dataclass(frozen=True)
class Section:
    """A section is the module `sections/NAME.py`. seconds: what it may take; least: it is not begun with less left."""

    name: str
    title: str
    seconds: float
    least: float


SECTIONS = (
    Section("facts", "Versions and rates", 45, 10),
    Section("losses", "Losses beside the CPU's", 75, 15),
    Section("dlrm", "DLRM, 26 tables of dim 128", 170, 40),
    Section("host_waits", "Where a step of each model waits for the GPU", 80, 20),
    Section("cuda_tests", "Tests that need a GPU", 150, 40),
    Section("row_memory", "Rows in host memory and behind a cache", 60, 15),
    Section("history_forms", "Histories beside their padded forms", 90, 20),
    Section("dynamic_tables", "Unbounded ids", 60, 15),
)


def chosen(names: tuple[str, ...]) -> tuple[Section, ...]:
    """Returns the named sections, in the plan's order; all where none is named. Raises UserError for other names."""
    known = [section.name for section in SECTIONS]
    for name in names:
        if name not in known:
            raise UserError("--sections: " + unknown("section", name, known))
    return tuple(section for section in SECTIONS if not names or section.name in names)
