"""A command that is interrupted says how to go on with what it has begun."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardrec.data_pipeline.stores.mirrors import address
from shardrec.trainer.run_folder.signals import in_words
from shardrec.trainer.run_folder.terminal import messages


@contextmanager
def telling_how_to_go_on(folder: Path, *begun: Path, way_on: str = "go on with --resume") -> Iterator[None]:
    """Prints a line where a signal ends the block: the way on where any of the files that say so has been begun."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        kept = way_on if any(file.exists() for file in begun) else "nothing was kept"
        messages().print(f"{address(folder)}: {in_words(interrupt)}; {kept}", markup=False, soft_wrap=True)
        interrupt.is_said = True  # type: ignore[attr-defined]  # as `end_of` asks
        raise
