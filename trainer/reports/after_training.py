"""After training, also where it ends with an error, the leading process writes the run's page: never a failure."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.torchrun import leads
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.terminal import error_line, messages


@contextmanager
def reported(config: RunConfig) -> Iterator[Callable[[Path], None]]:
    """Writes the page of the run that the block trains, also where it ends with a UserError or is interrupted.

    Yields what writes it earlier, for trackers to have it.
    """
    written: set[Path] = set()

    def write(path: Path) -> None:
        report_or_warn(path)
        written.add(path)

    try:
        yield write
    except (UserError, KeyboardInterrupt, OSError) as error:
        line = (
            error_line(error).removeprefix("shardrec: error: ")
            if isinstance(error, Exception)
            else "it was interrupted"
        )
        report_or_warn(config.run_folder, failure=line)
        raise
    if config.run_folder not in written:
        report_or_warn(config.run_folder)


def report_comparison(comparison: Path) -> None:
    """Writes the page of a comparison's runs so far, and those of runs that have none of what they now are."""
    with warned():
        from shardrec.trainer.reports.report import write_comparison_report

        write_comparison_report(comparison)


def report_or_warn(path: Path, *, failure: str | None = None) -> None:
    """Writes a run folder's page, if there is one; a line says why where it cannot be."""
    folder = RunFolder(path)
    if leads() and (folder.config_file.is_file() or folder.stages_file.is_file()):
        with warned():
            from shardrec.trainer.reports.report import write_run_report

            write_run_report(path, failure=failure)


@contextmanager
def warned() -> Iterator[None]:
    """Says in a line what kept a page from being written: the run itself is over, and its results are on disk."""
    try:
        yield
    except Exception as error:
        line = " ".join(str(error).split()) or type(error).__name__
        messages().print(f"warning: no report.html: {line}", markup=False, soft_wrap=True)
