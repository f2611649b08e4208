"""What runs ahead of steps, and what is read behind them, changes nothing that is trained, nor what is refused."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.benchmarks.gpu_check.sections.every_model import run_files_of_every_model
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session import loaders
from shardrec.trainer.session.pipeline import Pipeline
from shardrec.trainer.training import stepping
from shardrec.trainer.training.trainer import Trainer
from tests.processes import ProcessError, run_processes
from tests.trainer.recorded import assert_same_checkpoint, recording_worker
from tests.trainer.small_run import run_file, write_data

OFF, FAR = Pipeline(ahead=0, late=0), Pipeline(ahead=2, late=2)
STEPS = 5
IN_ORDER = ("data.order=time", "data.lanes=null")


def run(
    path: str, folder: Path, pipeline: Pipeline, *overrides: str, leads: bool = True, worker: Any = recording_worker
) -> dict[str, Any]:
    """A run whose pipeline is this one, whatever it computes on."""
    config = load(path, [f"run={folder}", "launch.device=cpu", "data.prefetch=4", *overrides])
    run_folder = RunFolder.create(config, resume=False) if leads else RunFolder(folder)
    if dist.is_initialized():
        dist.barrier()

    def chosen(*_: Any) -> Pipeline:
        return pipeline

    with patch.object(stepping, "pipeline", chosen), patch.object(loaders, "pipeline", chosen):
        return launch(worker, config, run_folder)


def both_ways(rank: int, run_files: dict[str, str], world_size: int) -> dict[str, list[Any]]:
    """{model: losses of the run without a pipeline, and with one}; runs are in `NAME-1-off`, `NAME-1-far` and so on."""
    found: dict[str, list[Any]] = {}
    for name, path in run_files.items():
        for how, pipeline in (("off", OFF), ("far", FAR)):
            folder = Path(path).with_name(f"{name}-{world_size}-{how}")
            result = run(path, folder, pipeline, f"trainer.max_steps={STEPS}", "trainer.epochs=9", leads=rank == 0)
            found.setdefault(name, []).append(result["losses"])
    return found


@pytest.fixture(scope="module")
def run_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Those of every model, and of one with weighted ids and ids without bounds."""
    folder = tmp_path_factory.mktemp("models")
    unbounded = {"user": {"dynamic": {"rows": 120, "after": 2}}}
    own = run_file(folder / "unbounded.yaml", write_data(folder / "data", rows=1200), tables=unbounded)
    return {**run_files_of_every_model(folder), "unbounded": str(own)}


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.long)])
def test_every_model_trains_to_the_same_bits(world_size: int, run_files: dict[str, str]) -> None:
    losses, *of_others = run_processes(world_size, both_ways, run_files, world_size, timeout=400)
    for name, (off, far) in losses.items():
        assert far == off and len(off) == STEPS, name
        assert all(of_other[name] == [off, far] for of_other in of_others)
        runs = (Path(run_files[name]).with_name(f"{name}-{world_size}-{how}") for how in ("off", "far"))
        assert_same_checkpoint(*(folder / f"checkpoints/step-{STEPS}" for folder in runs))


# ---------------------------------------------------------------- what goes wrong


def spoil(data: Path, column: str, value: float) -> None:
    """Gives the last training row, in file order, a value."""
    path = data / "train" / "1.parquet"
    rows = pq.read_table(path)
    values = rows[column].to_numpy().copy()
    values[-1] = value
    pq.write_table(rows.set_column(rows.column_names.index(column), column, [values]), path, row_group_size=500)


def refused(rank: int, path: str, folder: Path, pipeline: Pipeline) -> tuple[str, int, dict[str, Any]]:
    """The line that a run ends with, the steps that were counted, and its tables and tower, which are as of then."""
    kept: dict[str, Any] = {}

    def worker(config: RunConfig, run_folder: RunFolder, environment: Environment, **_: Any) -> None:
        at_work = Trainer(config, run_folder, environment)
        at_work.restore()
        try:
            at_work.fit()
        finally:
            at_work.reporter.close()
            session = at_work.session
            shards = ((n, s) for n, table in session.distributed.tables.items() for s in table.shards)
            kept.update({f"{n} {s.row} {k}": t.clone() for n, s in shards for k, t in s.tensors.items()})
            kept.update({name: tensor.clone() for name, tensor in session.tower_tensors().items()})

    with pytest.raises(UserError) as caught:
        run(path, folder, pipeline, *IN_ORDER, "trainer.epochs=9", leads=rank == 0, worker=worker)
    return str(caught.value), RunFolder(folder).steps(), kept


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("table_optimizer", ["adam", "sgd"])
def test_a_loss_that_is_not_finite_changes_nothing(tmp_path: Path, world_size: int, table_optimizer: str) -> None:
    """Rows that moments or a decay would move by a gradient of zeros stay, too, and the row is named."""
    data = write_data(tmp_path / "data", rows=1200)
    spoil(data, "label", 1e30)  # its square is infinite
    tables = {"name": table_optimizer, "learning_rate": 0.1, "weight_decay": 0.1}
    path = run_file(tmp_path / "run.yaml", data, optimizer={"tables": tables}, model={"task": "regression"})
    found = [
        run_processes(world_size, refused, str(path), tmp_path / how, pipeline)
        for how, pipeline in (("off", OFF), ("far", FAR))
    ]
    for (line, steps, off), (same_line, same_steps, far) in zip(*found, strict=True):
        assert "step 6: the loss is not finite, from 1 rows (1200)" in line and line.replace("off", "far") == same_line
        assert steps == same_steps
        assert off.keys() == far.keys()
        for name, tensor in off.items():
            assert torch.equal(tensor, far[name]), name


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_bad_row_is_refused_in_its_turn(tmp_path: Path, world_size: int) -> None:
    """Steps before it are made, and their checkpoints written, whoever of the ranks has read it already."""
    data = write_data(tmp_path / "data", rows=1200)
    spoil(data, "label", 7)
    path = run_file(tmp_path / "run.yaml", data, trainer={"checkpoint": {"every_steps": 1, "keep": 20}})
    steps = []
    for how, pipeline in (("off", OFF), ("far", FAR)):
        with pytest.raises(ProcessError, match="UserError: label 'label': found 7 in row 1200"):
            run_processes(world_size, trained, str(path), tmp_path / how, pipeline)
        steps.append(RunFolder(tmp_path / how).steps())
    assert steps == [[1, 2, 3, 4, 5]] * 2


def trained(rank: int, path: str, folder: Path, pipeline: Pipeline) -> None:
    run(path, folder, pipeline, *IN_ORDER, leads=rank == 0)
