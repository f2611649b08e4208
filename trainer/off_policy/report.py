"""What an evaluation found is printed as a table, and written as CSV."""

from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.owned_files import check_own_file
from shardrec.trainer.off_policy.intervals import Estimate
from shardrec.trainer.run_folder.atomic import write_csv
from shardrec.trainer.run_folder.lasting import check_lasting
from shardrec.trainer.run_folder.summaries import UNDEFINED
from shardrec.trainer.run_folder.terminal import plain_table, print_whole

_HEADER = rb"policy,estimator,value,.*"


def check_writable(out: Path) -> None:
    """Raises UserError where a file may not be written or replaced: one of another kind, or in a place that ends.

    So it does where its folder is not there.
    """
    check_lasting("--out", out)
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}; make it, or name another file")
    check_own_file(out, _HEADER)


def known(name: str, estimate: Estimate) -> dict[str, float | None]:
    """Returns an estimate's numbers; None where there is none, which JSON has no NaN for.

    The direct method has no interval: over draws of rows its reward model, and how far that is off, stays the same.
    """
    numbers = {key: None if isnan(value) else value for key, value in estimate._asdict().items()}
    return numbers if name != "direct" else {"value": numbers["value"], **dict.fromkeys(list(numbers)[1:])}


def write_policy(result: Mapping[str, Any], out: Path) -> None:
    """Writes a line of CSV for each estimate. Raises UserError as `check_writable`."""
    check_writable(out)
    facts = {name: result[name] for name in ("reward", "rows", "confidence")} | result["weights"]
    lines = [
        {"policy": result["policy"], "estimator": name, **estimate, **facts}
        for name, estimate in result["estimates"].items()
    ]
    write_csv(out, lines)


def print_policy(result: Mapping[str, Any]) -> None:
    """Prints a table of estimates, the facts of the weights, and a line for each warning."""
    share = f"{100 * result['confidence']:g} %"
    cells = []
    for name, estimate in result["estimates"].items():
        bootstrap, normal = (
            f"{_shown(estimate[low])} .. {_shown(estimate[high])}" if estimate[low] is not None else ""
            for low, high in (("low", "high"), ("normal_low", "normal_high"))
        )
        cells.append([name, _shown(estimate["value"]), bootstrap, normal])
    title = f"{result['reward']} a row of policy {result['policy']}"
    table = plain_table(("", "estimate", f"{share} of draws", f"{share}, normal"), cells, left=("",), title=title)
    weights = result["weights"]
    fewest, most = result["candidates"]
    groups = "" if result["groups"] is None else f" of {result['groups']:,} groups"
    facts = (
        f"{result['rows']:,} rows{groups}, {fewest if fewest == most else f'{fewest} to {most}'} candidates each; "
        f"effective sample size {weights['effective_rows']:,.1f}, largest weight {weights['largest']:.4g}, mean weight "
        f"{weights['mean']:.4g}"
    )
    left_out = [f"{name}: left out: {why}" for name, why in result["left_out"].items()]
    print_whole(table, facts, *left_out, *(f"warning: {line}" for line in result["warnings"]))


def _shown(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.4g}"
