"""What is inspected is what runs: what training would refuse is refused before anything is written."""

from pathlib import Path

import pytest
import torch.distributed as dist

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.session.session import Session
from shardrec.trainer.training.inspection import inspect_run
from shardrec.trainer.training.train_run import train_run
from tests.emulated_cuda.emulated import emulated_cuda
from tests.trainer.small_run import run_file, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("inspected") / "data", rows=600)


def test_a_second_stage_that_does_not_fit_its_memory(data: Path, tmp_path: Path) -> None:
    """Its batches made ahead are counted before the first stage is trained to its end."""
    stages = [{"name": "first"}, {"name": "second", "data": {"prefetch": 1024}}]
    path = run_file(tmp_path / "run.yaml", data, data={"memory": 40_000_000}, stages=stages)
    with pytest.raises(UserError, match=r"data\.memory of 38 MiB is too small"):
        train_run(load(path), quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_launcher_of_ray_asks_no_gpu(data: Path, tmp_path: Path) -> None:
    """Its workers plan; a launcher that asked would take a context's memory of the first GPU."""
    config = load(run_file(tmp_path / "run.yaml", data, launch={"device": "cuda", "workers": 2}))
    with emulated_cuda(count=2) as emulation:
        inspect_run(config)
        assert not emulation.driver.asked
        inspect_run(load(run_file(tmp_path / "run.yaml", data, launch={"device": "cuda", "workers": 1})))
        assert emulation.driver.asked == {0}  # where the launcher is the worker


def test_a_rank_of_torchrun_asks_its_own_gpu(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "localhost"}
    for name, value in ranks.items():
        monkeypatch.setenv(name, str(value))
    with emulated_cuda(index=1, count=2) as emulation:
        inspect_run(load(run_file(tmp_path / "run.yaml", data, launch={"device": "cuda"})))
    assert emulation.driver.asked == {1}


def test_everything_is_made_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training takes over the model, the plan and the footers that inspection made."""
    opened: list[str] = []
    from shardrec.data_pipeline.reading.index import DataSet

    plain = DataSet.open.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(DataSet, "open", classmethod(lambda cls, paths: (opened.append(paths), plain(cls, paths))[1]))
    blueprint = inspect_run(load(run_file(tmp_path / "run.yaml", data)))
    model, plan = blueprint.model, blueprint.plan()
    environment = Environment.from_variables("cpu")
    environment.join(60)
    try:
        session = Session.build(blueprint, environment)
        train = blueprint.config.data.split("train")
        assert train is not None
        loaders = [blueprint.loader(train, training=True), session.loader(train, training=True)]
    finally:
        dist.destroy_process_group()
    assert session.model is model and session.plan is plan
    assert sorted(opened) == sorted(set(opened)) and len(opened) == 3
    of_inspection, of_training = loaders
    assert of_inspection.order_state() == of_training.order_state()
    assert set(of_inspection.columns) == set(of_training.columns)
