"""What a reporter leaves in a run folder, and what it does not leave in the process."""

import threading
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.reporting import Reporter


def test_going_back_ends_what_wrote_until_then(tmp_path: Path) -> None:
    threads = threading.active_count()
    reporter = Reporter(RunFolder(tmp_path), leads=True, tensorboard=True)
    reporter.start(0)
    reporter.record("train", 1, {"loss": 3.0})
    reporter.record("train", 2, {"loss": 9.0})
    reporter.start(1)
    reporter.record("train", 2, {"loss": 2.0})
    reporter.close()
    assert threading.active_count() == threads
    assert [line["loss"] for line in reporter.folder.records()] == [3.0, 2.0]
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in shown] == [(1, 3.0), (2, 2.0)]
