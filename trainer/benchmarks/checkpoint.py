"""`shardrec bench checkpoint` measures how fast a large table is written and read, beside the disk itself."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from shardrec.data_pipeline.errors import UserError
from shardrec.sharding.planning.topology import available_memory
from shardrec.trainer.benchmarks.checkpoint_rounds import Round, held_bytes, made_table, measure_round
from shardrec.trainer.benchmarks.sharding import run_without_data
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.supervision import supervised
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.terminal import plain_table, print_table

KINDS = ("plain_write", "write", "plain_read", "read")


def benchmark_checkpoint(
    scratch: Path, folder: Path, size: int, dim: int, rounds: int, workers: int = 1, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns bytes/s of each round and kind, and which share of the best plain round the median of ours reaches.

    scratch: a folder for what is not measured; folder: lies on the disk that is measured; size: bytes of the table with
    its state, over all workers. Raises UserError where the folder is missing or its disk has no room for `size` bytes.
    """
    if not folder.is_dir():
        raise UserError(f"--folder {folder}: no such folder; name one on the disk that checkpoints go to")
    room = shutil.disk_usage(folder).free
    if room < size:
        raise UserError(f"--size {size / 1e9:g}GB: {folder} has {room / 1e9:.1f} GB left; choose a smaller size")
    if (memory := available_memory()) < size:
        raise UserError(f"--size {size / 1e9:g}GB: {memory / 1e9:.1f} GB of memory are left; choose a smaller size")
    config = run_without_data(scratch, workers, overrides)
    run = RunFolder.create(config, resume=False)
    with tempfile.TemporaryDirectory(prefix="shardrec-bench-", dir=folder) as inside:
        measured = supervised(checkpoint_worker, config, run, inside=inside, size=size, dim=dim, rounds=rounds)
    assert measured is not None
    return {
        "folder": str(folder),
        "workers": workers,
        "embedding_dim": dim,
        **summarised(measured["size"], measured["rounds"]),
    }


def checkpoint_worker(
    config: RunConfig, folder: RunFolder, environment: Environment, *, inside: str, size: int, dim: int, rounds: int
) -> dict[str, Any]:
    """Measures the rounds; returns each with the slowest worker's seconds and the most memory that any of them took."""
    table = made_table(size, dim, environment.rank, environment.world_size)

    def of_all_ranks(mine: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [entry for entries in environment.gather(mine) for entry in entries]

    measured = []
    for _ in range(rounds):
        mine = measure_round(Path(inside), table, environment.rank, environment.barrier, of_all_ranks)
        measured.append(_together(environment.gather(mine)))
    return {"size": sum(environment.gather(held_bytes(table))), "rounds": measured}


def _together(ranks: Sequence[Round]) -> dict[str, dict[str, Any]]:
    """Puts one round's times of all ranks together."""
    together = {}
    for kind in KINDS:
        measured = [getattr(rank, kind) for rank in ranks]
        extra = [m.extra_bytes for m in measured if m.extra_bytes is not None]
        together[kind] = {"seconds": max(m.seconds for m in measured), "extra_bytes": max(extra, default=None)}
    return together


def summarised(size: int, rounds: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Returns what is reported of rounds of {kind: {seconds, extra_bytes}} of `size` bytes."""
    rates = {kind: [size / measured[kind]["seconds"] for measured in rounds] for kind in KINDS}
    extra_bytes = {
        kind: [extra for measured in rounds if (extra := measured[kind]["extra_bytes"]) is not None]
        for kind in ("write", "read")
    }
    return {
        "bytes": size,
        "rounds": len(rounds),
        **{f"{kind}_bytes_per_second": rates[kind] for kind in KINDS},
        **{f"{kind}_share_of_disk": median(rates[kind]) / max(rates[f"plain_{kind}"]) for kind in ("write", "read")},
        **{f"{kind}_extra_bytes": max(extra_bytes[kind], default=None) for kind in ("write", "read")},
    }


def print_checkpoint(result: dict[str, Any], console: Console) -> None:
    """Prints a line a round, in GB/s."""
    workers = f"{result['workers']} worker(s)"
    columns = ("round", "disk, writing", "checkpoint", "disk, reading", "checkpoint")
    lines = [
        [str(i + 1), *(f"{result[f'{kind}_bytes_per_second'][i] / 1e9:.2f}" for kind in KINDS)]
        for i in range(result["rounds"])
    ]
    title = f"checkpoint of {result['bytes'] / 1e9:.2f} GB, {workers}, GB/s"
    print_table(console, plain_table(columns, lines, title=title))
    for kind, doing in (("write", "writing"), ("read", "reading")):
        extra = result[f"{kind}_extra_bytes"]
        share = f"{doing}: {result[f'{kind}_share_of_disk']:.0%} of the disk's best round (ours: the median)"
        console.print(share + ("" if extra is None else f", {extra / 2**20:.0f} MiB beside the table"), soft_wrap=True)
