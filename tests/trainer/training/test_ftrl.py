"""Every model trains under FTRL, also those that multiply tables: rows start as declared, none is held at 0."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from shardrec.models import MODELS
from shardrec.models.inputs import PooledEmbeddings
from shardrec.sharding.updates.context import UpdateContext
from shardrec.trainer.benchmarks.gpu_check.sections.every_model import run_files_of_every_model
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session

FTRL = "optimizer.tables={name: ftrl, learning_rate: 0.1, l1: 1.0e-4}"


@pytest.fixture(scope="module")
def run_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run_files_of_every_model(tmp_path_factory.mktemp("every_model"))


@pytest.mark.parametrize("name", MODELS)
def test_every_table_of_every_model_trains(name: str, run_files: dict[str, str]) -> None:
    config = load(Path(run_files[name]), [FTRL])
    environment = Environment(0, 1, 0, 1, torch.device("cpu"))
    environment.join(config.launch.timeout)
    try:
        session = Session.build(Blueprint(config), environment)
        tables = session.distributed.tables
        fresh = {name: [shard.weight.clone() for shard in table.shards] for name, table in tables.items()}
        train = config.data.split("train")
        assert train is not None
        for step, batch in zip(range(2), session.loader(train, training=True).epoch(0), strict=False):
            session.distributed.begin(UpdateContext(step, loss_weight=float(batch.weights.sum())))
            terms = session.model.task.loss(session.distributed.module(batch), batch)
            sum(term.total / term.count for term in terms.values()).backward()
            session.distributed.step()
    finally:
        dist.destroy_process_group()
    for table in tables.values():
        for shard, before in zip(table.shards, fresh[table.name], strict=True):
            moved = (shard.weight != before).any(0)
            if name == "ffm":
                moved |= of_own_field(session, table.name)
            assert moved.all(), f"{table.name}: columns {(~moved).nonzero().flatten().tolist()} stay as they were"


def of_own_field(session: Session, table: str) -> torch.Tensor:
    """Which columns of a table hold an FFM's factors for the field that reads it alone: no pair has them."""
    (field,) = (source for source in session.model.inputs.values() if isinstance(source, PooledEmbeddings))
    readers = [place for place, read in enumerate(field.tables.values()) if read.name == table]
    width = field.width // len(field.tables)
    factors = (width - 1) // len(field.tables)
    columns = torch.zeros(width, dtype=torch.bool)
    if len(readers) == 1:
        columns[1 + readers[0] * factors :][:factors] = True
    return columns
