"""On an emulated GPU every model steps and is scored as in one process of the CPU; on two, models of each kind are.

Those of each kind are resumed in between. All models take turns in one set of processes, since starting these costs
more than the models.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch.distributed as dist
import yaml

from shardrec.models import MODELS
from shardrec.trainer.benchmarks.gpu_check.sections.every_model import BATCH, run_files_of_every_model
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.run_folder.folder import RunFolder
from tests.emulated_cuda.emulated import emulated_cuda
from tests.processes import run_processes
from tests.trainer.recorded import recording_worker

STEPS = 2
OF_EACH_KIND = ("deepfm", "dlrm", "autorec", "dien", "din", "sasrec", "drn")
"""Pooled rows, dense features, ratings, histories, running moments, a position's rows, a second network."""
SCORED_ROWS = BATCH + 1  # one of them in a batch of its own, so that a rank has none


def learn(rank: int, world_size: int, run_files: dict[str, str], device: str) -> dict[str, Any]:
    """{model: its run's summary with losses and collectives} of `STEPS` steps.

    On an emulated GPU those `OF_EACH_KIND` stop after the first, on a real one all.

    device: cpu, cuda, or `emulated` for the other cuda. Run folders are of the world's size and the device.
    """
    found = {}
    if device == "cuda":  # a group that knows GPUs
        dist.destroy_process_group()
        dist.init_process_group("nccl", store=dist.HashStore(), rank=rank, world_size=world_size)
    for name, path in run_files.items():
        run = f"{Path(path).with_suffix('')}-{world_size}-{device}"
        if device == "cpu":
            found[name] = _train(rank, path, run, device, STEPS)
            continue
        with emulated_cuda(rank, world_size) if device == "emulated" else nullcontext() as emulation:
            if emulation:
                emulation.driver.reserved = (1 + rank) << 30
            stops = name in OF_EACH_KIND or device == "cuda"
            losses = _train(rank, path, run, "cuda", 1)["losses"] if stops else []
            found[name] = _train(rank, path, run, "cuda", STEPS, resume=stops)
        found[name]["losses"] = losses + found[name]["losses"]
        found[name]["stopped"] = stops
        if emulation:
            assert emulation.driver.asked == {rank}
            found[name]["collectives"] = emulation.collectives.seen
    return found


def _train(rank: int, path: str, run: str, device: str, steps: int, *, resume: bool = False) -> dict[str, Any]:
    config = load(path, [f"run={run}", f"launch.device={device}", f"trainer.max_steps={steps}"])
    folder = RunFolder.create(config, resume=resume) if rank == 0 else RunFolder(Path(config.run))
    dist.barrier()
    return launch(recording_worker, config, folder)


@pytest.fixture(scope="module")
def run_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("emulated")
    run_files = run_files_of_every_model(folder)
    for data in {yaml.safe_load(Path(path).read_text())["data"]["path"] for path in run_files.values()}:
        rows = pq.read_table(Path(data, "train", "0.parquet")).slice(0, SCORED_ROWS)
        Path(data, "test").mkdir()
        pq.write_table(rows, Path(data, "test", "0.parquet"))
    return run_files


@pytest.fixture(scope="module")
def on_cpu(run_files: dict[str, str]) -> dict[str, Any]:
    return run_processes(1, learn, 1, run_files, "cpu")[0]


@pytest.fixture(scope="module")
def on_one_gpu(run_files: dict[str, str]) -> dict[str, Any]:
    return run_processes(1, learn, 1, run_files, "emulated", timeout=240)[0]


@pytest.fixture(scope="module")
def on_two_gpus(run_files: dict[str, str]) -> dict[str, Any]:
    return run_processes(2, learn, 2, {name: run_files[name] for name in OF_EACH_KIND}, "emulated", timeout=240)[0]


@pytest.fixture(scope="module")
def on_a_real_gpu(run_files: dict[str, str]) -> dict[str, Any]:
    return run_processes(1, learn, 1, run_files, "cuda", timeout=240)[0]


@pytest.mark.parametrize("name", MODELS)
def test_one_emulated_gpu_learns_as_the_cpu_does(name: str, on_cpu: dict[str, Any], on_one_gpu: dict[str, Any]) -> None:
    _assert_alike(on_one_gpu[name], on_cpu[name])


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_two_emulated_gpus_learn_as_one_process_does(
    name: str, on_cpu: dict[str, Any], on_two_gpus: dict[str, Any]
) -> None:
    _assert_alike(on_two_gpus[name], on_cpu[name])
    assert on_two_gpus[name]["world_size"] == 2
    assert "c10d::alltoall_base_" in on_two_gpus[name]["collectives"]  # ids and vectors went from GPU to GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_a_real_gpu_learns_as_the_cpu_does(name: str, on_cpu: dict[str, Any], on_a_real_gpu: dict[str, Any]) -> None:
    _assert_alike(on_a_real_gpu[name], on_cpu[name], tolerance=1e-4)


def test_the_summary_tells_of_the_gpus_memory(on_cpu: dict[str, Any], on_two_gpus: dict[str, Any]) -> None:
    assert on_two_gpus["deepfm"]["peak_device_memory_bytes"] == 2 << 30  # of the second, which holds more
    assert "peak_device_memory_bytes" not in on_cpu["deepfm"]


def _assert_alike(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-5) -> None:
    assert len(expected["losses"]) == STEPS and expected["losses"][0] != expected["losses"][1]
    assert found["first_step"] == int(found["stopped"])
    assert found["losses"] == pytest.approx(expected["losses"], abs=tolerance)
    assert found["metrics"]["test"] == pytest.approx(expected["metrics"]["test"], abs=10 * tolerance)
