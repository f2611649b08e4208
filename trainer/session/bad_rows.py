"""Bad rows are those that cannot be read any more: a run goes on without them as long as they are few."""

from collections import defaultdict
from collections.abc import Mapping

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.trainer.launch.environment import Environment

NAMED = 3  # files that an error line names, and row groups of each

BadGroups = Mapping[tuple[str, int], str]
"""(file, row group) -> why its rows are left out."""


def all_bad_groups(loader: Loader, environment: Environment) -> dict[tuple[str, int], str]:
    """Returns the row groups that any worker met and left out, in order. All workers call it alike."""
    of_ranks = environment.gather(dict(loader.bad_groups))
    return dict(sorted((named, why) for of_rank in of_ranks for named, why in of_rank.items()))


def check_few(bad: int, loader: Loader, environment: Environment, most: float) -> None:
    """Raises UserError, on all workers, where more than the share `most` of a loader's rows is bad.

    bad: rows, over all workers, who call it alike.
    """
    if bad <= most * loader.num_rows:
        return
    groups = all_bad_groups(loader, environment)
    first = next(iter(groups.values()), "").partition("; ")[0]
    raise UserError(
        f"{bad:,} of {loader.num_rows:,} rows cannot be read, over data.max_bad_fraction of {most:g}: {listed(groups)}"
        f"; the first: {first}; write these files again, or allow for more"
    )


def listed(groups: BadGroups) -> str:
    """Returns the first few files with the first few of their row groups."""
    by_file: dict[str, list[int]] = defaultdict(list)
    for file, group in groups:
        by_file[file].append(group)
    named = [
        f"{file} (row group{'s' * (len(of) > 1)} {', '.join(map(str, of[:NAMED]))}{', ...' * (len(of) > NAMED)})"
        for file, of in list(by_file.items())[:NAMED]
    ]
    more = len(by_file) - NAMED
    return ", ".join(named) + (f" and {more} more files" if more > 0 else "")
