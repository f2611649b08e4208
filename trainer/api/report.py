"""A report is one page about a run, or about several side by side."""

from collections.abc import Sequence
from pathlib import Path

from shardrec.trainer.api.door import door
from shardrec.trainer.config.trust import trust_folders


@door
def report(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    slices: str | Sequence[str] | None = None,
    trust: bool = False,
) -> Path:
    """Writes a self-contained page (HTML, no scripts) about runs, and returns where it is.

    runs: a run folder, finished or not, or several; the folder of a comparison stands for all its runs. out: the page;
    default: report.html in the one folder given. slices: features by whose values the test rows' scores are measured
    apart, of one run, on this page and its later ones; []: no longer. trust: as `open` takes it.

    Raises UserError for what is no run folder, an unknown feature, and an `out` that shardrec did not write.

        shardrec.report("runs/mine", slices=["country"])
        shardrec.report(["runs/deepfm", "runs/dcn"], "both.html")
    """
    from shardrec.trainer.reports.report import report_runs

    places = [runs] if isinstance(runs, str | Path) else list(runs)
    if trust:
        trust_folders(*places)
    return report_runs(places, out, slices=(slices,) if isinstance(slices, str) else slices)
