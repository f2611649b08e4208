"""Results are printed whole, also in a narrow terminal, with the reason for what has no number."""

from pathlib import Path
from typing import Any

import pytest

from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.summaries import print_metrics


@pytest.mark.parametrize("missing", [None, float("nan")])  # as in JSON, and as computed
def test_a_narrow_terminal_cuts_nothing(
    missing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    metrics = {f"{name}@{k}": 0.12345 for k in (5, 10, 20) for name in ("hr", "ndcg", "recall", "precision")}
    split = "validation of the first week"
    reason = {"auc": "all labels are 0", "calibration": "all labels are 0", "gauc": "no group has rows of both classes"}
    result = {
        "step": 7,
        "metrics": {split: {"auc": missing, "log_loss": 0.5, **metrics, "mrr": 0.25}, "test": {"log_loss": 0.25}},
        "undefined": {split: reason},
    }
    print_metrics(RunFolder(tmp_path), result)
    *table, of_labels, of_group, _ = capsys.readouterr().out.splitlines()
    names, values = [], []
    for header, first, second in (table[start : start + 3] for start in range(0, len(table), 4)):
        assert all(len(line) <= 100 for line in (header, first, second))
        names += header.split()[1:]
        assert header.split()[0] == "split" and second.split()[0] == "test"
        values += zip(first.split(split)[1].split(), second.split()[1:], strict=True)
    assert names == ["auc", "log_loss", *metrics, "mrr"]
    assert values == [("undefined", "-"), ("0.5000", "0.2500"), *[("0.1235", "-")] * 12, ("0.2500", "-")]
    assert [of_labels, of_group] == [
        f"{split}: undefined: auc, calibration (all labels are 0)",
        f"{split}: undefined: gauc (no group has rows of both classes)",
    ]


def test_values_of_actions_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"td_error": 0.25, "mean_q": 0.5, "mean_target": 1.5, "rows": 8}
    print_metrics(RunFolder(tmp_path), {"step": 7, "metrics": {"data": metrics}})
    header, line, *_ = capsys.readouterr().out.splitlines()
    assert header.split() == ["split", "td_error", "mean_q", "mean_target"]
    assert line.split() == ["data", "0.2500", "0.5000", "1.5000"]
