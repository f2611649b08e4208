"""Tables are printed whole, too wide ones in blocks below each other; error lines name files and what to do."""

import errno
import io

import pytest
from rich.console import Console

from shardrec.trainer.run_folder.terminal import READABLE, error_line, plain_table, print_table, print_whole


def printed(columns: list[str], lines: list[list[str]], left: tuple[str, ...], width: int) -> list[str]:
    console = Console(file=(out := io.StringIO()), width=width)
    print_table(console, plain_table(columns, lines, left=left, title="scores"))
    assert console.width == width
    return out.getvalue().splitlines()


def test_a_wide_table_goes_on_below_itself_with_the_names_of_its_lines() -> None:
    columns = ["model", "rows of", "rows", *(f"recall@{k}" for k in range(100, 120))]
    lines = [[model, "test", "5", *(f"0.{k:04d}" for k in range(i, i + 20))] for i, model in enumerate(("mf", "din"))]
    found = printed(columns, lines, ("model", "rows of"), 20)
    assert max(map(len, found)) <= READABLE
    assert found[0].strip() == "scores" and sum("scores" in line for line in found) == 1
    blocks = [block.splitlines() for block in "\n".join(found[1:]).split("\n\n")]
    assert len(blocks) > 1 and all(block[0].split()[:3] == ["model", "rows", "of"] for block in blocks)
    assert [word for block in blocks for word in block[0].split()[3:]] == columns[2:]
    for place, line in enumerate(lines, start=1):
        assert all(block[place].split()[:2] == line[:2] for block in blocks)
        assert [word for block in blocks for word in block[place].split()[2:]] == line[2:]


@pytest.mark.parametrize(("width", "blocks"), [(20, 2), (150, 1)])
def test_a_terminal_that_is_wide_enough_has_one_block(width: int, blocks: int) -> None:
    found = printed(["model", *(f"ndcg@{k}" for k in range(10, 24))], [["mf", *["0.1"] * 14]], ("model",), width)
    assert sum("model" in line for line in found) == blocks


def test_a_name_wider_than_any_terminal_is_not_cut_and_stands_once(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a" * 300
    print_whole(plain_table(["table", "rows", "dim"], [[name, "12", "4"]], left=("table",)))
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["table", "rows", "dim"],
        [name, "12", "4"],
    ]


def test_a_place_that_may_not_be_written_is_named_with_what_to_do() -> None:
    line = error_line(PermissionError(errno.EACCES, "Permission denied", "/runs/report.html"))
    assert line.endswith("/runs/report.html: Permission denied; change its permissions, or name another place")
    assert error_line(FileNotFoundError(errno.ENOENT, "No such file", "/runs/x")).endswith("/runs/x: No such file")
