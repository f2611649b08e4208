"""What callers from Python pass is checked before anything is done, and error lines name their arguments."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

import shardrec
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.api.door import door


@door
def entered(
    path: str | Path | Sequence[str] = "p",
    *,
    index: Literal["exact", "ivf"] = "exact",
    n: int = 1,
    share: float | None = None,
    raw: bool = False,
    users: Sequence[object] = (),
    overrides: Sequence[str] = (),
    line: str = "none",
) -> None:
    """Ends with an error line as commands have it."""
    raise UserError(line)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: shardrec.export("runs/none", "out", rows="fp8"), "rows: found 'fp8', expected 'fp16' or 'int8' or None"),  # type: ignore[arg-type]
    (lambda: shardrec.export("runs/none", "out", check=-1), "check: found -1, expected 0 or more"),
    (lambda: shardrec.open("runs/none", rows="int4"), "rows: found 'int4', expected 'int8' or None"),  # type: ignore[arg-type]
    (lambda: shardrec.open(""), "run_folder: found nothing in it"),
    (lambda: shardrec.report(["runs/none", ""]), "runs: found nothing in it"),
    (lambda: shardrec.train({}, resume="yes"), "resume: found 'yes', expected 'auto' or True or False"),  # type: ignore[arg-type]
    (lambda: shardrec.tune({}, jobs=-1), "jobs: found -1, expected 0 or more"),
    (lambda: shardrec.plan({}, shardrec.Machines(hosts=0)), "hosts: found 0, expected 1 or more"),
    (lambda: shardrec.plan({}, shardrec.Machines(hosts="2")), "hosts: found '2', expected a whole number or None"),  # type: ignore[arg-type]
    (lambda: shardrec.plan({}, {"hosts": 2}), "machines: found .* expected a shardrec.Machines or None"),  # type: ignore[arg-type]
    (lambda: entered(n="5"), "n: found '5', expected a whole number"),  # type: ignore[arg-type]
    (lambda: entered(n=True), "n: found True, expected a whole number"),
    (lambda: entered(share=1, users=[""], n=3), "none"),
    (lambda: entered(raw="no"), "raw: found 'no', expected True or False"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "line"), REFUSED, ids=[line for _, line in REFUSED])
def test_an_argument_of_another_kind_is_one_line(call: Callable[[], Any], line: str) -> None:
    with pytest.raises(shardrec.UserError, match=line):
        call()


@pytest.mark.parametrize(
    ("of_command", "of_python"),
    [
        ("--users: names nobody", "users: names nobody"),
        ("--raw: is about rows; leave --raw out", "raw=True: is about rows; leave raw=True out"),
        ("needs faiss, or --index exact", 'needs faiss, or index="exact"'),
        ("name another --index, or none", "name another index, or none"),
        ("--set a.b: twice", "overrides a.b: twice"),
        ("`shardrec rank --users`, or --curves, in /a--users", "`shardrec rank --users`, or --curves, in /a--users"),
    ],
)
def test_errors_name_arguments_where_there_are_such(of_command: str, of_python: str) -> None:
    with pytest.raises(UserError) as raised:
        entered(line=of_command)
    assert str(raised.value) == of_python


def test_a_call_that_no_function_takes_is_pythons_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'seen'"):
        entered(seen=1)  # type: ignore[call-arg]
