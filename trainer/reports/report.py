"""A report is the page of a run folder, of a run of stages and of each of them, or of several runs side by side."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.stores.mirrors import local
from shardrec.trainer.config.paths import absolute, absolute_folder
from shardrec.trainer.reports.one_run import run_page, stages_page
from shardrec.trainer.reports.page import check_own_page, write_page
from shardrec.trainer.reports.run_facts import RunFacts, check_run_folder, is_of_stages, stage_folders
from shardrec.trainer.reports.side_by_side import side_by_side_page
from shardrec.trainer.reports.slice_scores import SliceScores, forget, slice_scores
from shardrec.trainer.reports.slices_section import is_current
from shardrec.trainer.reports.table_health import AT_ONCE, ON_REQUEST
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.lasting import check_lasting
from shardrec.trainer.run_folder.synced import fetch, send

REPORT = "report.html"
COMPARED = "compare.csv"


def report_runs(
    runs: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    slices: Sequence[str] | None = None,
    quiet: bool = True,
) -> Path:
    """Writes the page of a run, or of several side by side, and returns where it is.

    runs: run folders; the folder of a comparison stands for all its runs. out: the page; default: report.html in the
    folder, where one is given. slices: features of whose values the test rows' scores are measured apart, which scores
    them; they are kept in the run folder for its later pages. None: those kept; none of them: forgets what was kept.

    Raises UserError for what is no run folder, an unknown feature, and an `out` that is another file.
    """
    places = [local(absolute(str(run))) for run in runs]
    for place in places:
        fetch(place)
    if not places:
        raise UserError("report: no run folder given")
    if out is None and len(places) > 1:
        raise UserError("report: of several runs the page needs a place: name it with --out report.html")
    target = places[0] / REPORT if out is None else absolute_folder(out)
    folders = [folder for place in places for folder in _expanded(place)]
    check_lasting("--out", target)
    _check_place(target, given=out is not None)
    one = len(folders) == 1 and len(places) == 1
    if slices and not (one and not is_of_stages(folders[0])):
        raise UserError("report: --slices is for the report of one run; name one run folder (of stages: one of them)")
    if not one:
        write_page(target, _of_several(folders, target))
    elif is_of_stages(folders[0]):
        if out is None:
            _write_stages(folders[0], budget=ON_REQUEST)
        write_page(target, _of_stages(folders[0], target))
    else:
        facts = RunFacts.of(folders[0])
        _measure_slices(facts, slices, quiet=quiet)
        write_page(target, run_page(facts, budget=ON_REQUEST))
    send(target)
    return target


def _measure_slices(facts: RunFacts, features: Sequence[str] | None, *, quiet: bool) -> None:
    """Measures the slices that are asked for, or those kept of another checkpoint than the best one is now."""
    if features:
        slice_scores(facts, features, quiet=quiet).keep(facts.folder)
    elif features is not None:
        forget(facts.folder)
    elif (kept := SliceScores.kept(facts.folder)) is not None and not is_current(facts, kept):
        with suppress(UserError):  # rows that are gone: the page says of which checkpoint the slices are
            slice_scores(facts, list(kept.features), quiet=quiet).keep(facts.folder)


def write_run_report(path: Path, *, failure: str | None = None) -> None:
    """Writes the page of a run folder, or of a run of stages and of its stages, into it; reads little of its tables."""
    if is_of_stages(path):
        _write_stages(path, budget=AT_ONCE)
        write_page(path / REPORT, _of_stages(path, path / REPORT, failure))
    else:
        write_page(path / REPORT, run_page(RunFacts.of(path), budget=AT_ONCE, failure=failure))


def _write_stages(path: Path, *, budget: int) -> None:
    """Writes the pages of the stages that have begun."""
    for folder in stage_folders(path).values():
        if RunFolder(folder).config_file.is_file():
            write_page(folder / REPORT, run_page(RunFacts.of(folder), budget=budget))


def write_comparison_report(folder: Path) -> None:
    """Writes the page of a comparison's runs into its folder, once two of them have begun, and theirs where missing.

    A run's own page is written where there is none, or what the run says of itself is newer.
    """
    runs = _of_comparison(folder)
    for run in runs:
        if _is_outdated(run):
            write_run_report(run)
    if len(runs) > 1:
        write_page(folder / REPORT, _of_several(runs, folder / REPORT, f"Comparison {folder.name}"))


def _is_outdated(path: Path) -> bool:
    """Says whether a run has said something since its page was written, or has none."""
    run = RunFolder(path)
    said = [file for file in (run.metrics_file, run.summary_file, run.stages_file) if file.is_file()]
    page = run.report_file
    return not page.is_file() or any(file.stat().st_mtime > page.stat().st_mtime for file in said)


def _check_place(target: Path, *, given: bool) -> None:
    if target.is_dir():
        raise UserError(f"--out {target}: a folder, where a page is to be written; name a file in it")
    if given and not target.parent.is_dir():
        raise UserError(f"--out {target}: no folder {target.parent}; make it, or name another place")
    check_own_page(target)


def _expanded(path: Path) -> list[Path]:
    """Returns the run folders that a path stands for: all of a comparison, else itself, which is checked."""
    if (path / COMPARED).is_file() and (runs := _of_comparison(path)):
        return runs
    check_run_folder(path)
    return [path]


def _of_comparison(folder: Path) -> list[Path]:
    """Returns the runs of a comparison's folder that have begun, by model and seed; of stages the last one's."""
    begun = [
        p for p in folder.glob("*/seed-*") if p.is_dir() and (is_of_stages(p) or RunFolder(p).config_file.is_file())
    ]
    return sorted(begun, key=lambda p: (p.parent.name, len(p.name), p.name))


def _of_several(folders: Sequence[Path], target: Path, title: str = "") -> str:
    lasts = [_last_stage(folder) if is_of_stages(folder) else folder for folder in folders]
    names = distinct_names(folders)
    runs = [RunFacts.of(folder, name) for folder, name in zip(lasts, names, strict=True) if folder is not None]
    return side_by_side_page(runs, target, title=title)


def _last_stage(folder: Path) -> Path | None:
    """Returns the last stage that has begun."""
    begun = [path for path in stage_folders(folder).values() if RunFolder(path).config_file.is_file()]
    return begun[-1] if begun else None


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Returns what tells folders apart: their paths without what all have in common, and their own name at least."""
    shared = Path(os.path.commonpath(folders)) if len(set(folders)) > 1 else folders[0].parent
    names = [path.relative_to(shared).as_posix() for path in folders]
    return [path.name if name == "." else name for path, name in zip(folders, names, strict=True)]


def _of_stages(path: Path, target: Path, failure: str | None = None) -> str:
    stages = {
        name: RunFacts.of(folder, name) if RunFolder(folder).config_file.is_file() else None
        for name, folder in stage_folders(path).items()
    }
    return stages_page(path, stages, target, failure)
