from typing import Any


def run(task: Any, report: Any) -> None:
    report("figure", 1)
    raise ZeroDivisionError("of no use")
