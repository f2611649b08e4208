"""What gloo says of a peer that is late or gone is known for that, in whichever words."""

import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from shardrec.data_pipeline.stores.mirrors import VARIABLE, local
from shardrec.trainer.launch.last_words import LastWords, forget, is_of_waiting, last_words, left
from shardrec.trainer.run_folder.folder import RunFolder
from tests.object_store import BUCKET, ObjectStore
from tests.processes import run_processes


def wait_twice_for_a_late_rank(rank: int) -> list[tuple[str, str, bool, bool]]:
    """(what gloo says, what the user is told, whether it is of waiting, whether of another's end) of each exchange."""
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=0.5))
    dist.barrier(group)
    if rank:
        time.sleep(2)
        return []
    heard = []
    received = [torch.zeros(2), torch.zeros(2)]
    for of_one in received:
        try:
            dist.all_to_all_single(of_one, torch.ones(2), group=group)
        except RuntimeError as error:
            words = last_words(error, rank=rank, world_size=2, timeout=0.5, log=Path("log"))
            heard.append((str(error), words.line, is_of_waiting(error), words.is_consequence))
    return heard


def test_what_follows_a_time_out_is_known_to_have_waited() -> None:
    heard, _ = run_processes(2, wait_twice_for_a_late_rank)
    assert len({said for said, *_ in heard}) == 2, "gloo has other words for what follows a time-out"
    for _, line, is_of_waiting_, is_consequence in heard:
        assert "for other workers, in vain" in line
        assert is_of_waiting_ and is_consequence


def test_words_of_another_machine_come_through_the_store(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []
    for machine in ("launcher", "other"):
        monkeypatch.setenv(VARIABLE, str(tmp_path / machine))
        path = local(f"s3://{BUCKET}/{tmp_path.name}/run")
        (path / "logs/train-1").mkdir(parents=True)
        folders.append(RunFolder(path, path / "logs/train-1", elsewhere=machine == "other"))
        assert folders[-1].store is not None
    launcher, other = folders
    LastWords("rank 0: lost the connection to another worker", is_consequence=True).leave(launcher, 0)
    LastWords("rank 1: out of memory").leave(other, 1)
    assert [words.line.partition(":")[0] for words in left(launcher)] == ["rank 1", "rank 0"]
    forget(launcher)
    assert not [*left(launcher)] and [words.line for words in left(other)] == ["rank 1: out of memory"]
