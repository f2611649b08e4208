"""Two workers calibrate and retrieve as one does."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch.distributed as dist

import shardrec
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.ranking.calibrate import calibrate_worker
from shardrec.trainer.retrieval.requests import Request
from shardrec.trainer.retrieval.retrieve import retrieve_worker, similar_worker
from shardrec.trainer.run_folder.folder import RunFolder
from tests.processes import run_processes
from tests.trainer.catalogue.small_catalogue import rows, run_file, write_shop


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    data = write_shop(folder / "data")
    draw = np.random.default_rng(0)
    for split, count in (("train", 300), ("validation", 200)):
        made = rows(draw.integers(0, 40, count), draw.integers(0, 30, count))
        label = (draw.random(count) < 0.5).astype(np.float32)
        pq.write_table(made.set_column(made.column_names.index("label"), "label", [label]), data / split / "0.parquet")
    return Path(shardrec.train(shardrec.load(run_file(folder / "run.yaml", data)), quiet=True).run_folder)


def everything(run: Path, out: Path, step: int) -> dict[str, Any]:
    """What each worker does, one after the other."""
    folder = RunFolder.open(run)
    config, paths = folder.config(), str(run.parent / "data/validation")
    fit = launch(calibrate_worker, config, folder, splits={"validation": paths}, method="isotonic", step=step)
    asked: dict[str, Any] = {"out": str(out), "step": step}
    request = Request(5, seen=("train",))
    launch(retrieve_worker, config, folder, asked=(paths,), request=request, **asked)
    (out / "alike").mkdir(exist_ok=True)
    launch(
        similar_worker, config, folder, asked=("i01", "i02"), request=Request(5), **asked | {"out": str(out / "alike")}
    )
    return dict(fit["calibration"])


def of_rank(rank: int, run: Path, out: Path, step: int) -> dict[str, Any]:
    found = everything(run, out, step)
    dist.barrier()
    return found


def test_two_workers_find_what_one_does(run: Path, tmp_path: Path) -> None:
    with shardrec.open(run) as model:
        step = model.step
        expected = model.calibrate()
        lists = model.retrieve(run.parent / "data/validation", n=5, seen="train")
        alike = model.similar(["i01", "i02"], n=5)
    found = run_processes(2, of_rank, run, tmp_path, step, timeout=120)
    one = expected.model_dump(mode="json")
    for fit in found:
        np.testing.assert_allclose(fit["x"], one["x"], rtol=1e-5)
        np.testing.assert_allclose(fit["y"], one["y"], rtol=1e-5)
    parts = sorted(tmp_path.glob("part-*.parquet"))
    assert len(parts) == 2 and all(len(pq.read_table(part)) for part in parts)
    both = pq.read_table(parts).sort_by([("row", "ascending"), ("rank", "ascending")])
    assert both.drop_columns("score").equals(lists.drop_columns("score").combine_chunks())
    assert pq.read_table(tmp_path / "alike").drop_columns("score").equals(alike.drop_columns("score"))
