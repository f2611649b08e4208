"""What a plan says that tables take, beside what two processes came to take."""

import gc

import psutil
import pytest
import torch

from shardrec.models.inputs import PooledEmbeddings
from shardrec.models.table_settings import TableOptimizer
from tests.processes import run_processes
from tests.sharding.cases import DEFAULT, Case, draw_rows, make, table, train

STEPS, ROWS, DIM = 20, 400, 64
ROWWISE = TableOptimizer(name="rowwise_adagrad", eps=1e-3)


def case(scale: int) -> Case:
    """Every placement, two optimizers, a half-precision table: `scale` x 15,000 rows of 64 columns in all."""
    tables = [
        table("spread", 8_000 * scale, DIM, optimizer=ROWWISE, placement="row_wise"),
        table("whole", 3_000 * scale, DIM, optimizer=ROWWISE, placement="table_wise"),
        table("other", 3_000 * scale, DIM, dtype="fp16", optimizer=ROWWISE, placement="table_wise"),
        table("copied", 500 * scale, DIM, optimizer=DEFAULT, placement="data_parallel"),
        table("cut", 500 * scale, DIM, optimizer=DEFAULT, placement="column_wise"),
    ]
    inputs = {"all": PooledEmbeddings({t.name: t for t in tables}, concat=True)}
    return Case(inputs, {t.name: 3 for t in tables})  # type: ignore[arg-type]


def anonymous_bytes() -> int:
    """Returns what is resident in this process and of no file; pages shared with forks count whole, ended or not."""
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared


def resident(rank: int) -> tuple[int, int]:
    """(bytes that training on the large tables added to this process, bytes that their plan has for this rank)."""
    generator = torch.Generator().manual_seed(0)
    small = case(2)
    train(small, make(small), [draw_rows(small, ROWS, generator) for _ in range(3)])  # loads what any training loads
    large = case(100)
    batches = [draw_rows(large, ROWS, generator) for _ in range(STEPS)]
    gc.collect()
    before = anonymous_bytes()
    distributed = make(large)
    train(large, distributed, batches)
    gc.collect()
    return anonymous_bytes() - before, distributed.plan.bytes_per_rank[rank]


def test_predicted_memory_is_what_two_ranks_come_to_take() -> None:
    for measured, predicted in run_processes(2, resident):
        assert predicted > 150e6
        assert measured == pytest.approx(predicted, rel=0.1)
