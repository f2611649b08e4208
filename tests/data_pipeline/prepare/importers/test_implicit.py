"""Delimited logs of users and items -> leave-one-out."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.commands import app
from shardrec.data_pipeline.prepare.importers.implicit import LogColumns, prepare_implicit
from shardrec.data_pipeline.prepare.steps.preparation import Output
from shardrec.data_pipeline.prepare.steps.text import TextFormat

Event = tuple[str, str, str]


def log(path: Path, events: list[Event], header: str = "who,what,when") -> Path:
    path.write_text("\n".join([*([header] if header else []), *(",".join(e) for e in events)]) + "\n")
    return path


def events() -> list[Event]:
    """12 users with 1 to 12 of 40 items at shuffled times."""
    r = np.random.default_rng(3)
    made = []
    for user in range(1, 13):
        items, times = r.permutation(40)[:user], r.permutation(1000)[:user]
        made += [(f"u{user}", f"i{i}", str(t)) for i, t in zip(items, times, strict=True)]
    r.shuffle(made)
    return [(u, i, t) for u, i, t in made]


def prepared(path: Path, out: Path, columns: LogColumns | None = None, **options) -> Path:
    columns = columns or LogColumns("who", "what", "when")
    prepare_implicit([path], columns, TextFormat(), Output(out), negatives=5, **options)
    return out


def rows(out: Path, split: str) -> list[tuple[str, str, int]]:
    """(user, item, label) in the log's own names; items that training lacks are called '?'."""
    names = [
        ["?", *pq.read_table(out / "vocabularies" / f"{table}.parquet").column("value").to_pylist()]
        for table in ("user", "item")
    ]
    table = pq.read_table(out / split)
    columns = (table.column(c).to_pylist() for c in ("user", "item", "label"))
    return [(names[0][u], names[1][i], label) for u, i, label in zip(*columns, strict=True)]


def by_time(log: list[Event]) -> dict[str, list[str]]:
    """user -> its items in the order of their first times; of equal times the earlier line is first."""
    found: dict[str, list[str]] = {}
    for user, item, _ in sorted(log, key=lambda e: int(e[2])):
        if item not in found.setdefault(user, []):
            found[user].append(item)
    return found


def check(out: Path, log: list[Event], keep_unknown: bool = False) -> dict[str, int]:
    """The last item of each user is for test, the second last for validation, the rest for training.

    Gives the number of positives of each split that no training row has, which are row 0 or left out.
    """
    items = by_time(log)
    cut = {u: len(of_user) - 2 if len(of_user) > 2 else len(of_user) for u, of_user in items.items()}
    train = {(u, i) for u, of_user in items.items() for i in of_user[: cut[u]]}
    assert sorted(rows(out, "train")) == sorted((u, i, 1) for u, i in train)
    known, unknown = {i for _, i in train}, {}
    for split, back in (("validation", -2), ("test", -1)):
        found = rows(out, split)
        held = {u: of_user[back] for u, of_user in items.items() if cut[u] < len(of_user)}
        unknown[split] = sum(i not in known for i in held.values())
        held = {u: i for u, i in held.items() if keep_unknown or i in known}
        assert {u: i for u, i, label in found if label} == {u: i if i in known else "?" for u, i in held.items()}
        assert {u for u, _, _ in found} == held.keys()
        for user in held:
            negatives = [i for u, i, label in found if u == user and not label]
            assert len(negatives) == len(set(negatives)) == 5
            assert set(negatives) <= known - set(items[user])
    return unknown


def test_leave_one_out_by_time(tmp_path: Path) -> None:
    path = log(tmp_path / "log.csv", events())
    check(prepared(path, tmp_path / "out"), events())


@pytest.mark.parametrize("keep", [False, True])
def test_positives_that_no_training_row_has(tmp_path: Path, keep: bool) -> None:
    """Left out unless they are asked for; counted in the printed report."""
    path = log(tmp_path / "log.csv", events())
    flags = ["--user", "who", "--item", "what", "--time", "when", "--candidates", "5", *(["--keep-unknown"] * keep)]
    made = CliRunner().invoke(app, ["implicit", str(path), str(tmp_path / "out"), *flags])
    unknown = check(tmp_path / "out", events(), keep)
    assert min(unknown.values()) > 0
    line = "held-out items that no training row has: {test} of 10 in test, {validation} of 10 in validation; "
    assert line.format(**unknown) + ("kept, as row 0" if keep else "their groups are left out") in made.output
    assert ("?" in {i for _, i, label in rows(tmp_path / "out", "test") if label}) == keep


def test_repetitions_and_equal_times(tmp_path: Path) -> None:
    made = events()
    made = [*made, *((u, i, "2000") for u, i, _ in made[::3]), ("u5", "i1", "999"), ("u5", "i2", "999")]
    check(prepared(log(tmp_path / "log.csv", made), tmp_path / "out"), made)


def test_times_as_text_and_without_times(tmp_path: Path) -> None:
    iso = [(u, i, f"2024-01-01T00:{int(t) // 60:02}:{int(t) % 60:02}") for u, i, t in events()]
    path = log(tmp_path / "log.csv", iso)
    with pytest.raises(UserError, match=r"log\.csv, line 2, column 'when': found '2024-01-01T.*expected an integer"):
        prepared(path, tmp_path / "none")
    check(prepared(path, tmp_path / "text", LogColumns("who", "what", "when", "string")), events())
    columns = LogColumns("who", "what")
    kept = {"columns": columns, "keep_unknown": True}
    one, same, other = (prepared(path, tmp_path / f"{n}", **kept, seed=s) for n, s in ((0, 0), (1, 0), (2, 1)))
    tests = [{(u, i) for u, i, label in rows(out, "test") if label} for out in (one, same, other)]
    assert tests[0] == tests[1] and len(tests[0]) == 10
    assert len(tests[0] & tests[2]) < 7


def test_by_command(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    path.write_text("\n".join("\t".join(e) for e in events()) + "\n")
    flags = ["--user", "a", "--item", "b", "--time", "c", "--columns", "a,b,c", "--delimiter", r"\t"]
    made = CliRunner().invoke(app, ["implicit", str(path), str(tmp_path / "out"), *flags, "--candidates", "5"])
    assert made.exit_code == 0, made.output
    check(tmp_path / "out", events())
    assert "group: a" in (tmp_path / "out" / "schema.yaml").read_text()
    flags += ["--no-validation", "--candidates", "50"]
    failed = CliRunner().invoke(app, ["implicit", str(path), str(tmp_path / "none"), *flags])
    assert isinstance(failed.exception, UserError) and "too many to draw 50 others" in str(failed.exception)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (("u1", "", "3"), r"log\.csv, line 3, column 'what': found an empty field"),
        (("u1", "i1"), r"log\.csv, line 3: found 2 fields, expected 3"),
        (("u1", "i1", "soon"), r"log\.csv, line 3, column 'when': found 'soon', expected an integer"),
    ],
)
def test_bad_lines(tmp_path: Path, line: Event, problem: str) -> None:
    path = log(tmp_path / "log.csv", [("u1", "i2", "1"), line])
    with pytest.raises(UserError, match=problem):
        prepared(path, tmp_path / "out")


def test_unknown_columns(tmp_path: Path) -> None:
    path = log(tmp_path / "log.csv", events())
    with pytest.raises(UserError, match="unknown column 'whom'; did you mean 'who'"):
        prepared(path, tmp_path / "out", LogColumns("whom", "what"))
