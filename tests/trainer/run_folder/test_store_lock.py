"""A run in a store is for one training at a time, wherever its owner is; who has ended is taken over."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.stores.location import StorePath
from shardrec.trainer.run_folder import store_lock
from shardrec.trainer.run_folder.heartbeat import Heartbeat
from shardrec.trainer.run_folder.owner import Owner
from shardrec.trainer.run_folder.store_lock import LOCK, check_store_owned, store_locked
from tests.object_store import BUCKET, ObjectStore


@pytest.fixture
def folder(store: ObjectStore, tmp_path: Path) -> StorePath:
    return StorePath.parse(f"s3://{BUCKET}/{tmp_path.name}")


def elsewhere(folder: StorePath, command: str = "train-elsewhere") -> tuple[Owner, StorePath]:
    """The lock of a process on another machine; returns it, and where it gives signs of life."""
    owner = replace(Owner.this_process(command), host="elsewhere", place="another boot")
    sign = store_lock._sign(folder, owner)
    sign.write_text(owner.dump())
    (folder / LOCK).write_text(owner.dump())
    return owner, sign


def test_is_for_one_at_a_time_and_leaves_nothing(folder: StorePath, store: ObjectStore) -> None:
    with store_locked(folder, "train-1"):
        check_store_owned(folder, "train-1")
        line = r"in use by `train` \(process \d+ on .*, since .*\); wait until it is over"
        with pytest.raises(UserError, match=line), store_locked(folder, "train-2"):
            pass
        check_store_owned(folder, "train-1")
    assert store.names(folder.key) == []


def test_one_of_several_who_come_at_once_has_it(folder: StorePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardrec.trainer.run_folder.store_lock._SETTLING_SECONDS", 5.0)  # slow machines stand still
    at_once, done = threading.Barrier(4), threading.Event()
    had, refused = [], []

    def come(number: int) -> None:
        at_once.wait()
        try:
            with store_locked(folder, f"train-{number}"):
                had.append(number)
                done.wait(60)
        except UserError as error:
            refused.append(str(error))
        if len(refused) == 3:
            done.set()

    threads = [threading.Thread(target=come, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(had) == 1 and len(refused) == 3


def test_an_owner_elsewhere_that_gives_signs_of_life_keeps_it(
    folder: StorePath, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shardrec.trainer.run_folder.heartbeat.STORE_BEAT_SECONDS", 0.2)
    owner, sign = elsewhere(folder)
    beats = Heartbeat()
    beats.add(sign, owner.dump())
    with pytest.raises(UserError, match=r"in use by `train` .* on elsewhere"), store_locked(folder, "train-1"):
        pass
    beats.remove(sign)
    assert "waiting up to 60 s to see whether it still lives" in " ".join(capsys.readouterr().err.split())
    assert (folder / LOCK).read_text() == owner.dump()


def test_an_owner_elsewhere_that_has_long_given_none_loses_it_and_finds_out(
    folder: StorePath, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_lock, "SILENCE_SECONDS", 1.0)
    elsewhere(folder)
    taken_over = pytest.raises(UserError, match=r"was taken over by `train` .*this one ends")
    with store_locked(folder, "train-1"), taken_over:
        check_store_owned(folder, "train-elsewhere")
    with pytest.raises(UserError, match="was taken over and left again"):
        check_store_owned(folder, "train-elsewhere")
    assert store.names(folder.key) == []


def test_another_try_of_the_same_launch_takes_it_at_once(folder: StorePath) -> None:
    elsewhere(folder, "train-torchrun-1234")
    with store_locked(folder, "train-torchrun-1234"):
        check_store_owned(folder, "train-torchrun-1234")
