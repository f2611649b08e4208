"""`shardrec bench checkpoint`: the bytes of a whole table, every round reported, nothing left behind."""

import json
from pathlib import Path

import pytest
import torch

from shardrec.trainer.benchmarks.checkpoint import summarised
from shardrec.trainer.benchmarks.checkpoint_rounds import held_bytes, made_table
from tests.trainer.command_line import refused, shardrec

MB = 1_000_000


@pytest.mark.parametrize(("dim", "physical"), [(16, 16), (6, 8)])
def test_workers_hold_blocks_of_one_table(dim: int, physical: int) -> None:
    parts = [made_table(3 * MB, dim, rank, 3) for rank in range(3)]
    rows = parts[0].table.num_embeddings
    assert {p.table for p in parts} == {parts[0].table}
    assert [p.shards[0].row for p in parts] == [0, rows // 3, 2 * rows // 3]
    assert sum(map(held_bytes, parts)) == rows * (4 * dim + 4)
    assert 0.99 * 3 * MB < rows * (4 * physical + 4) <= 3 * MB
    values = [p.shards[0].tensors for p in parts]
    assert values[0].keys() == {"weight", "accumulator"}
    assert not torch.equal(values[0]["weight"], values[1]["weight"])
    assert all((tensor == 0).double().mean() < 0.01 for tensors in values for tensor in tensors.values())


def test_every_round_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--folder", tmp_path, "--size", "2MB", "--dim", 6, "--rounds", 2)
    shardrec(monkeypatch, "bench", "checkpoint", *asked)
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert found["bytes"] == 2 * MB // 36 * 28 and found["workers"] == 1  # eight columns are held, six saved
    assert [line.split()[0] for line in lines[2:4]] == ["1", "2"]
    for kind in ("plain_write", "write", "plain_read", "read"):
        assert len(found[f"{kind}_bytes_per_second"]) == 2 and min(found[f"{kind}_bytes_per_second"]) > 0
    assert found["read_extra_bytes"] < 64 << 20
    assert not list(tmp_path.iterdir())


def test_shares_are_medians_of_the_best_plain_round() -> None:
    def measured(seconds: float, extra: int | None) -> dict[str, float | int | None]:
        return {"seconds": seconds, "extra_bytes": extra}

    rounds = [
        {"plain_write": measured(p, 9), "write": measured(w, e), "plain_read": measured(1.0, 0), "read": measured(r, n)}
        for p, w, e, r, n in ((5.0, 4.0, 70, 2.0, None), (2.0, 10.0, 50, 2.0, None), (4.0, 5.0, 60, 4.0, None))
    ]
    found = summarised(100, rounds)
    assert found["write_bytes_per_second"] == [25, 10, 20]
    assert found["write_share_of_disk"] == 20 / 50 and found["write_extra_bytes"] == 70
    assert found["read_share_of_disk"] == 50 / 100 and found["read_extra_bytes"] is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--size", "4 apples"), "--size 4 apples: expected a size such as 80GB or 80GiB"),
        (("--size", "1e18"), "GB left; choose a smaller size"),
        (("--folder", "nowhere"), "--folder nowhere: no such folder; name one on the disk that checkpoints go to"),
    ],
)
def test_refusals(asked: tuple[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(monkeypatch, "bench", "checkpoint", *asked).endswith(said)
    assert not list(tmp_path.iterdir())
