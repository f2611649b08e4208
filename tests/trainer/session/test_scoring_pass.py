"""A scoring pass gives the scores of single batches, in the order of rows, and leaves nothing running behind it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.scoring.predict import scored_batches, written
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.forward import Inputs
from shardrec.trainer.session.loaders import ROWS_AT_ONCE, batches_at_once
from shardrec.trainer.session.scoring_pass import ScoringPass
from shardrec.trainer.session.session import Session
from tests.trainer.small_run import run_file, write_data

MODEL = {"name": "deepfm", "embedding_dim": 4, "mlp": {"hidden": [16, 16]}}
ROWS = 600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scoring")
    run_file(folder / "run.yaml", write_data(folder / "data", rows=4 * ROWS), model=MODEL)
    return folder


@pytest.fixture
def threads() -> Iterator[None]:
    """Two threads of torch, and none of ours left afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("shardrec")]


def session_of(folder: Path, *overrides: str) -> Session:
    config = load(folder / "run.yaml", ("launch.threads=2", *overrides))
    environment = Environment.from_variables("cpu")
    environment.join(60)
    return Session.build(Blueprint(config), environment)


def rows_with_a_bad_one(folder: Path, row: int) -> str:
    rows = pq.read_table(folder / "data/validation/0.parquet")
    users = rows["user"].to_pylist()
    users[row] = 999
    pq.write_table(rows.set_column(0, "user", pa.array(users, pa.int64())), folder / f"bad-{row}.parquet")
    return str(folder / f"bad-{row}.parquet")


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("batch_size", [7, 64, None])
def test_scores_are_those_of_single_batches_in_the_order_of_rows(
    folder: Path, precision: str, batch_size: int | None
) -> None:
    session = session_of(folder, f"trainer.precision={precision}", f"data.evaluation_batch_size={batch_size or 'null'}")
    loader = session.loader(str(folder / "data/validation"), labelled=False, keys=("user",))
    expected = []
    with session.scoring():
        for batch in loader.epoch(0):
            expected.append(session.model.task.prediction(session.forward(batch))[batch.live])
    scores = pa.concat_tables(scored_batches(session, loader))
    assert scores["row"].to_pylist() == list(range(ROWS))
    assert scores["user"].equals(pq.read_table(folder / "data/validation", columns=["user"])["user"])
    found = torch.tensor(scores["prediction"].to_pylist())
    tolerance = 1e-6 if precision == "fp32" else 1e-3
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=tolerance)


@pytest.mark.usefixtures("threads")
def test_batches_are_scored_side_by_side(folder: Path) -> None:
    """Each of the first two waits for the other."""
    session = session_of(folder, "data.evaluation_batch_size=64")
    both = threading.Barrier(2, timeout=60)

    def score(inputs: Inputs, batch: Batch) -> int:
        if int(batch.rows[0]) < 128:
            both.wait()
        assert not (torch.is_grad_enabled() or session.model.training) and torch.get_num_threads() == 1
        return int(batch.rows[0])

    session.distributed.module.train()
    loader = session.loader(str(folder / "data/validation"), labelled=False)
    assert [found for _, _, found in ScoringPass(session, loader, score)] == list(range(0, ROWS, 64))
    assert session.model.training


@pytest.mark.usefixtures("threads")
def test_a_bad_row_is_a_line_after_the_scores_before_it(folder: Path) -> None:
    session = session_of(folder, "data.evaluation_batch_size=64")
    path = rows_with_a_bad_one(folder, 500)
    scored: list[int] = []
    with pytest.raises(UserError, match="row 500, column 'user': found 999"):
        for table in scored_batches(session, session.loader(path, labelled=False)):
            scored += table["row"].to_pylist()
    assert scored == list(range(len(scored)))


@pytest.mark.usefixtures("threads")
def test_a_score_that_fails_ends_the_pass(folder: Path) -> None:
    session = session_of(folder, "data.evaluation_batch_size=8")

    def score(inputs: Inputs, batch: Batch) -> None:
        if 80 in batch.rows:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(ScoringPass(session, session.loader(str(folder / "data/validation"), labelled=False), score))


@pytest.mark.usefixtures("threads")
def test_a_full_disk_ends_the_pass_with_a_line(folder: Path) -> None:
    session = session_of(folder, "data.evaluation_batch_size=8")
    scores = scored_batches(session, session.loader(str(folder / "data/validation"), labelled=False))
    with pytest.raises(UserError, match="/dev/full: no space left on the device; nothing was kept"):
        written(scores, "/dev/full")


def batch_size(session: Session, folder: Path, **more: bool) -> int:
    return session.loader(str(folder / "data/validation"), **more).order.global_batch_size


def test_a_batch_to_score_is_large_where_memory_allows(folder: Path) -> None:
    assert batch_size(session_of(folder), folder) == ROWS_AT_ONCE
    assert batch_size(session_of(folder, "data.global_batch_size=16384"), folder) == 16384
    assert batch_size(session_of(folder, "data.evaluation_batch_size=100"), folder) == 100
    small = session_of(folder, "data.memory=16MB", "data.global_batch_size=64")
    loader = small.loader(str(folder / "data/validation"))
    assert 64 < loader.order.global_batch_size < ROWS_AT_ONCE
    assert loader.order.global_batch_size * loader.row_bytes * 3 * 5 <= 4_000_000


def test_batches_scored_at_once_come_out_of_those_made_ahead(folder: Path) -> None:
    for prefetch, threads, expected in ((1, 8, 1), (4, 2, 2), (4, 8, 3), (16, 8, 8)):
        session = session_of(folder, f"data.prefetch={prefetch}", f"launch.threads={threads}")
        assert batches_at_once(session.config, session.environment) == expected
