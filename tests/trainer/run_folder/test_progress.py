import io
import json
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from shardrec.trainer.run_folder.progress import Event, ProgressFile, ProgressView


def read(logs: Path) -> Event:
    return Event(**json.loads((logs / "progress.json").read_text()))


def view(logs: Path, terminal: bool, quiet: bool = False) -> tuple[ProgressView, io.StringIO]:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120, color_system=None)
    return ProgressView(logs, console=console, quiet=quiet), output


def wait_for(text: str, output: io.StringIO) -> None:
    deadline = time.monotonic() + 10
    while text not in output.getvalue() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert text in output.getvalue()


def test_steps_are_written_at_most_five_times_a_second(tmp_path: Path) -> None:
    progress = ProgressFile(tmp_path)
    seen = set()
    began = time.monotonic()
    for step in range(1, 3001):
        progress.step("training", step, 10_000, loss=0.5, rate=1e4)
        seen.add(read(tmp_path).step)
    assert len(seen) <= 1 + 5 * (time.monotonic() - began + 0.2)
    time.sleep(0.25)
    progress.step("training", 3001, 10_000, loss=0.4, rate=2e4)
    assert read(tmp_path) == Event("training", 3001, 10_000, loss=0.4, rate=2e4, trained=3001)


def test_a_new_phase_and_its_last_step_are_written_at_once(tmp_path: Path) -> None:
    progress = ProgressFile(tmp_path)
    progress.step("training", 1, 9)
    progress.phase("saving checkpoint")
    assert read(tmp_path) == Event("saving checkpoint", trained=1)
    done = progress.counter("evaluating test", 3)
    assert read(tmp_path) == Event("evaluating test", 0, 3, trained=1)
    done(1)
    done(3)
    assert read(tmp_path) == Event("evaluating test", 3, 3, trained=1)


def test_other_workers_write_nothing(tmp_path: Path) -> None:
    progress = ProgressFile(tmp_path, enabled=False)
    progress.phase("training")
    progress.counter("evaluating", 3)(3)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_does_not_stop_the_run(tmp_path: Path) -> None:
    ProgressFile(tmp_path / "absent").phase("training")


@pytest.mark.parametrize("terminal", [True, False])
def test_the_view_follows_the_file(tmp_path: Path, terminal: bool) -> None:
    (tmp_path / "progress.json").write_text('{"phase": "an old run", "step": 1}')
    shown, output = view(tmp_path, terminal)
    with shown:
        wait_for("starting workers", output)
        progress = ProgressFile(tmp_path)
        progress.step("training", 30, 120, epoch=2, loss=0.51234, rate=43_210.9)
        wait_for("training", output)
        wait_for("30/120", output)
        wait_for("epoch 2  loss 0.5123  43,211 samples/s", output)
        progress.phase("evaluating test")
        wait_for("evaluating test", output)
    assert "an old run" not in output.getvalue()


def test_lines_are_few_where_the_output_is_no_terminal(tmp_path: Path) -> None:
    shown, output = view(tmp_path, terminal=False)
    with shown:
        progress = ProgressFile(tmp_path)
        for step in range(1, 8):
            progress.step("training", step, 100)
            time.sleep(0.1)
    lines = output.getvalue().splitlines()
    assert lines[0] == "starting workers"
    assert len([line for line in lines if line.startswith("training")]) == 1
    assert "\x1b" not in output.getvalue()


def test_what_happened_last_is_shown_at_the_end(tmp_path: Path) -> None:
    shown, output = view(tmp_path, terminal=False)
    with shown:
        ProgressFile(tmp_path).phase("saving checkpoint")
    assert output.getvalue().splitlines()[-1] == "saving checkpoint"


def test_quiet_shows_nothing(tmp_path: Path) -> None:
    shown, output = view(tmp_path, terminal=True, quiet=True)
    with shown:
        ProgressFile(tmp_path).phase("training")
        time.sleep(0.4)
    assert output.getvalue() == ""


def test_an_error_inside_ends_the_bar_and_passes_on(tmp_path: Path) -> None:
    shown, output = view(tmp_path, terminal=True)
    with pytest.raises(ZeroDivisionError), shown:
        wait_for("starting workers", output)
        raise ZeroDivisionError
    ended = output.getvalue()
    time.sleep(0.4)
    assert output.getvalue() == ended
    assert ended.rfind("\x1b[?25h") > ended.rfind("\x1b[?25l")  # the cursor is visible again


def test_a_bar_leaves_the_output_of_others_alone(tmp_path: Path) -> None:
    """It would send to the terminal what libraries print into a log."""
    before = sys.stdout, sys.stderr
    shown, output = view(tmp_path, terminal=True)
    with shown:
        wait_for("starting workers", output)
        assert (sys.stdout, sys.stderr) == before
