from typing import Any


def run(task: Any, report: Any) -> None:
    report("rows", [{"name": "a|b", "rate": 1234.5}, {"name": "c", "rate": float("nan")}])
    report("device", task.device)
