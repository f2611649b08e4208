"""A run in a store has a mirror on each machine: what one sends the other fetches, and nobody's newer file is lost."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shardrec.data_pipeline.stores.mirrors import VARIABLE, local
from shardrec.trainer.run_folder import synced
from shardrec.trainer.run_folder.lock import locked
from shardrec.trainer.run_folder.stop_request import END, STOP, Request, ask_to_end, ask_to_stop, forget_requests
from shardrec.trainer.run_folder.synced import KEPT_LOGS, fetch, forget, holds_other_things, in_step, push, withdraw
from tests.object_store import BUCKET, Fault, ObjectStore


class Machines:
    """Two machines, of which this process is one at a time, each time a new process."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._tmp_path, self._monkeypatch = tmp_path, monkeypatch
        self.uri = f"s3://{BUCKET}/{tmp_path.name}"

    def on(self, name: str) -> Path:
        """Returns the run's mirror there."""
        synced._seen.clear()
        synced._known.clear()
        self._monkeypatch.setenv(VARIABLE, str(self._tmp_path / name))
        folder = local(self.uri)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@pytest.fixture
def machines(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    return Machines(tmp_path, monkeypatch)


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_what_one_machine_sends_another_goes_on_with(machines: Machines, store: ObjectStore) -> None:
    here = machines.on("a")
    write(here, config_yaml="run", metrics_jsonl="1\n", words__vocabulary_parquet="w", logs__train_1__driver_log="log")
    write(here, checkpoints__x="not sent", logs__train_1__progress_json="nor this", _lock="nor this")
    push(here)
    name = here.name
    assert store.names(name) == ["config.yaml", "logs/train.1/driver.log", "metrics.jsonl", "words/vocabulary.parquet"]
    there = machines.on("b")
    fetch(there)
    assert (there / "metrics.jsonl").read_text() == "1\n" and (there / "checkpoints").is_dir()
    assert (there / "words/vocabulary.parquet").read_text() == "w" and not (there / "logs").exists()
    write(there, metrics_jsonl="1\n2\n")
    push(there)
    fetch(machines.on("a"))
    assert (here / "metrics.jsonl").read_text() == "1\n2\n"


def test_sends_and_fetches_only_what_has_changed(machines: Machines, store: ObjectStore) -> None:
    here = machines.on("a")
    write(here, config_yaml="run", metrics_jsonl="1\n")
    push(here)
    store.requests.clear()
    write(here, metrics_jsonl="1\n2\n")
    push(here)
    assert [request for request in store.requests if request.startswith(("PUT", "POST"))] == [
        f"PUT /{BUCKET}/{here.name}/metrics.jsonl"
    ]
    there = machines.on("b")
    fetch(there)
    store.requests.clear()
    fetch(machines.on("b"))
    assert not any("metrics.jsonl" in request for request in store.requests)


def gone_on_with_elsewhere(machines: Machines) -> None:
    """Another machine adds a record, and sends it."""
    there = machines.on("b")
    fetch(there)
    write(there, metrics_jsonl="1\n2\n")
    push(there)
    machines.on("a")


def test_a_stale_mirror_overwrites_nothing(machines: Machines, store: ObjectStore) -> None:
    """As the launcher's does not, where rank 0 runs on another machine."""
    here = machines.on("a")
    write(here, config_yaml="run", metrics_jsonl="1\n")
    push(here)
    seen = dict(synced._seen)
    gone_on_with_elsewhere(machines)
    synced._seen.update(seen)
    write(here, summary_json="{}")
    push(here)
    assert store.read(f"{here.name}/metrics.jsonl") == b"1\n2\n" and store.read(f"{here.name}/summary.json") == b"{}"


def test_a_launcher_sends_no_older_records_than_there_are(machines: Machines, store: ObjectStore) -> None:
    """Rank 0 was on its machine, wrote to its mirror, and has gone on from another one."""
    here = machines.on("a")
    write(here, config_yaml="run", metrics_jsonl="")
    push(here)
    seen, known = dict(synced._seen), dict(synced._known)
    write(here, metrics_jsonl="1\n")  # another process does, and sends it
    push(machines.on("a"))
    gone_on_with_elsewhere(machines)
    synced._seen.update(seen)
    synced._known.update(known)
    an_hour_ago = time.time() - 3600
    os.utime(here / "metrics.jsonl", (an_hour_ago, an_hour_ago))
    push(here, is_last=True)
    assert store.read(f"{here.name}/metrics.jsonl") == b"1\n2\n"
    write(here, metrics_jsonl="1\n2\n3\n")
    os.utime(here / "metrics.jsonl", (an_hour_ago + 7200, an_hour_ago + 7200))
    push(here, is_last=True)
    assert store.read(f"{here.name}/metrics.jsonl") == b"1\n2\n3\n"


def test_what_the_store_has_no_more_goes(machines: Machines, store: ObjectStore) -> None:
    here = machines.on("a")
    write(here, config_yaml="run", summary_json="{}", logs__train_1__driver_log="log")
    push(here)
    there = machines.on("b")
    fetch(there)
    forget(there / "summary.json")
    assert not (there / "summary.json").exists() and "summary.json" not in store.names(here.name)
    fetch(machines.on("a"))
    assert not (here / "summary.json").exists() and (here / "logs/train.1/driver.log").exists()


def test_a_training_of_this_machine_is_ahead_of_the_store(machines: Machines, store: ObjectStore) -> None:
    here = machines.on("a")
    write(here, config_yaml="run", metrics_jsonl="1\n")
    push(here)
    with locked(here, "train-1"):
        write(here, metrics_jsonl="1\n2\n", curves_json="new")
        fetch(machines.on("a"))
        assert (here / "metrics.jsonl").read_text() == "1\n2\n" and (here / "curves.json").exists()


def test_what_is_no_run_is_neither_fetched_nor_taken_for_an_empty_folder(
    machines: Machines, store: ObjectStore
) -> None:
    here = machines.on("a")
    store.write(f"{here.name}/logs-of-january/part.parquet", b"rows")
    fetch(here)
    assert not any(here.iterdir()) and holds_other_things(here)
    assert not holds_other_things(here / "run")


def test_a_run_that_came_to_nothing_takes_back_what_it_sent_and_no_more(machines: Machines, store: ObjectStore) -> None:
    here = machines.on("a")
    write(here, config_yaml="run", logs__train_1__driver_log="log")
    push(here)
    store.write(f"{here.name}/words", b"somebody's")
    withdraw(here)
    assert store.names(here.name) == ["words"]
    store.remove(f"{here.name}/words")
    assert not holds_other_things(here)


def test_is_sent_in_the_end_with_the_newest_logs(machines: Machines, store: ObjectStore) -> None:
    here = machines.on("a")
    with in_step(here):
        write(here, config_yaml="run")
        for number in range(KEPT_LOGS + 2):
            path = here / "logs" / f"{'train' if number % 2 else 'evaluate'}-202601{number:02}" / "driver.log"
            path.parent.mkdir(parents=True)
            path.write_text("log")
    logs = {name.split("/")[1] for name in store.names(here.name) if name.startswith("logs/")}
    assert len(logs) == KEPT_LOGS and not logs & {"evaluate-20260100", "train-20260101"}


@pytest.mark.parametrize(("name", "ask"), [(STOP, ask_to_stop), (END, ask_to_end)])
def test_a_wish_reaches_a_training_elsewhere_and_a_store_that_is_away_does_not_end_it(
    machines: Machines, store: ObjectStore, name: str, ask: Callable[[Path], None]
) -> None:
    there = machines.on("b")
    request = Request(there, name, elsewhere=True)
    with store.failing(Fault("HEAD|GET", "500")):
        assert not request.is_made()
    ask(machines.on("a"))
    assert Request(machines.on("b"), name, elsewhere=True).is_made()
    forget_requests(machines.on("a"))
    assert not Request(machines.on("b"), name, elsewhere=True).is_made()
