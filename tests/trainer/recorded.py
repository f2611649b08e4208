"""Training runs whose every global batch is recorded: in this process, in spawned gloo processes, or under Ray."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor

from shardrec.trainer.checkpoints.manifest import read_manifest
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.prepared import Prepared
from shardrec.trainer.training.trainer import Trainer
from tests.processes import run_processes


class RecordingTrainer(Trainer):
    """Keeps the rows and the loss of every step."""

    def record(self) -> None:
        self.rows: list[list[int]] = []
        self.losses: list[float] = []
        lost = self.state.lost

        def record_loss(losses: dict[str, float]) -> None:
            lost(losses)
            self.losses.append(losses["loss"])

        self.state.lost = record_loss  # type: ignore[method-assign]

    def step(self, prepared: Prepared, *arguments: Any, **rest: Any) -> None:
        batch = prepared.batch()
        super().step(prepared, *arguments, **rest)
        self.rows.append(batch.rows[batch.live].tolist())


def recording_worker(
    config: RunConfig, folder: RunFolder, environment: Environment, *, blueprint: Blueprint | None = None
) -> dict[str, Any]:
    """Trains; returns the summary with `losses` and `batches`, the sorted row ids of every global batch."""
    trainer = RecordingTrainer(config, folder, environment, blueprint)
    trainer.record()
    trainer.restore()
    trainer.fit()
    summary = trainer.finish()
    of_ranks = environment.gather(trainer.rows)
    batches = [sorted(r for rows in step for r in rows) for step in zip(*of_ranks, strict=True)]
    return summary | {"losses": trainer.losses, "batches": batches}


def train(run_file: Path, overrides: tuple[str, ...] = (), *, resume: bool = False) -> dict[str, Any]:
    """One run by the backend that its run file names."""
    config = load(run_file, overrides)
    return launch(recording_worker, config, RunFolder.create(config, resume=resume))


def train_in_processes(
    world_size: int, run_file: Path, *runs: tuple[str, ...], resumed: tuple[tuple[str, ...], ...] = ()
) -> list[dict[str, Any]]:
    """Each of `runs` (its overrides), and then of those to be resumed, one after another, in one set of processes."""
    every = [(run, False) for run in runs] + [(run, True) for run in resumed]
    return run_processes(world_size, _train_rank, run_file, every, timeout=240)[0]


def _train_rank(rank: int, run_file: Path, runs: list[tuple[tuple[str, ...], bool]]) -> list[dict[str, Any]]:
    results = []
    for overrides, resume in runs:
        config = load(run_file, overrides)
        folder = RunFolder.create(config, resume=resume) if rank == 0 else RunFolder(Path(config.run))
        dist.barrier()
        results.append(launch(recording_worker, config, folder))
    return results


def whole_tables(checkpoint: Path) -> dict[str, dict[str, Tensor]]:
    """{table: {weight, accumulator}} put together from the files of a checkpoint, by safetensors' own reader."""
    found: dict[str, dict[str, Tensor]] = {}
    for entry in read_manifest(checkpoint)["tables"]:
        table = found.setdefault(entry["table"], {})
        with safe_open(str(checkpoint / entry["file"]), framework="pt") as file:
            for name in file.keys():
                part = file.get_tensor(name)
                rows = entry["num_embeddings"]
                shape = (rows, entry["embedding_dim"]) if part.dim() == 2 else (rows,)
                whole = table.setdefault(name, torch.full(shape, torch.nan, dtype=part.dtype))
                at = whole[entry["row"] : entry["row"] + len(part)]
                if part.dim() == 2:
                    at = at[:, entry["column"] : entry["column"] + part.shape[1]]
                at.copy_(part)
    return found


def whole_id_maps(checkpoint: Path) -> dict[str, dict[str, Tensor]]:
    """{id space: columns} of dynamic tables, put together likewise."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, said in read_manifest(checkpoint)["id_maps"].items():
        columns = found.setdefault(name, {})
        for entry in said["files"]:
            with safe_open(str(checkpoint / entry["file"]), framework="pt") as file:
                for column in file.keys():
                    part = file.get_tensor(column)
                    whole = columns.setdefault(column, torch.full((entry["num_embeddings"],), -7, dtype=part.dtype))
                    whole[entry["row"] : entry["row"] + len(part)] = part
    return found


def tower(checkpoint: Path) -> dict[str, Tensor]:
    """Everything in a checkpoint's tower file but the generators."""
    with safe_open(str(checkpoint / "tower.safetensors"), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


VOLATILE = ("time", "samples_per_second", "recent_samples_per_second")
"""What two equal runs record otherwise."""


def records(folder: RunFolder) -> list[dict[str, Any]]:
    """What a run has recorded but for its starts, and for what is otherwise in equal runs."""
    kept = [record for record in folder.records() if record["kind"] != "start"]
    return [{key: value for key, value in record.items() if key not in VOLATILE} for record in kept]


def assert_same_checkpoint(one: Path, other: Path) -> None:
    """Bit for bit: tables with their state and ids, tower with its optimizer."""
    tables, others = (
        whole_tables(at) | {f"ids of {n}": c for n, c in whole_id_maps(at).items()} for at in (one, other)
    )
    assert tables.keys() == others.keys()
    for name, tensors in tables.items():
        assert tensors.keys() == others[name].keys()
        for key, tensor in tensors.items():
            assert torch.equal(tensor, others[name][key]), (name, key)
    towers = tower(one), tower(other)
    assert towers[0].keys() == towers[1].keys()
    for name, tensor in towers[0].items():
        assert torch.equal(tensor, towers[1][name]), name
