"""Mini-batch-aware L2: how often rows are counted, what a step does to them, which settings are refused."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from shardrec.models.inputs import DenseFeatures
from shardrec.models.table_settings import TableOptimizer
from shardrec.sharding.checkpoints.tables import read_tables, write_tables
from shardrec.sharding.planning.plan import table_bytes
from shardrec.sharding.planning.planner import plan_tables
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.updates import sample_counts as frequency
from shardrec.sharding.updates.context import UpdateContext
from shardrec.sharding.updates.rules import SAMPLES
from tests.sharding.cases import (
    SEED,
    Case,
    Rows,
    count_samples,
    draw_rows,
    every_case,
    make,
    share,
    train,
    whole_tables,
)

BATCHES, ROWS = 3, 9
SGD = TableOptimizer(name="sgd", learning_rate=0.5, weight_decay=0.4, decay="frequency")


@pytest.fixture
def batches() -> list[Rows]:
    generator = torch.Generator().manual_seed(SEED)
    return [draw_rows(every_case(), ROWS, generator) for _ in range(BATCHES)]


def counted(case: Case, batches: list[Rows]) -> dict[str, Counter[int]]:
    """table -> row -> in how many rows of the batches it occurs, whatever feature and how often."""
    reads = [(f, t.name) for i in case.inputs.values() if not isinstance(i, DenseFeatures) for f, t in i.tables.items()]
    found: dict[str, Counter[int]] = {name: Counter() for _, name in reads}
    for rows in batches:
        for r in range(len(rows.scale)):
            for name in found:
                found[name].update({i for f, t in reads if t == name for i in rows.ids[f][r]})
    return found


def test_samples_are_counted_once_for_every_row_they_name(batches: list[Rows]) -> None:
    """Pooled, weighted and sequence features, several on one table; a second count replaces the first."""
    case = every_case().changed_optimizer(SGD)
    distributed = make(case)
    for some in (batches[:1], batches):
        count_samples(case, distributed, some)
        expected = counted(case, some)
        for name, tensors in whole_tables(distributed).items():
            rows = distributed.tables[name].table.num_embeddings
            assert tensors[SAMPLES].tolist() == [expected[name][i] for i in range(rows)], name
    twice = sum(len(ids) != len(set(ids)) for b in batches for ids in b.ids["items"])
    assert twice and max(expected["item"].values()) > 1


def test_a_step_shrinks_the_rows_of_the_batch_only(batches: list[Rows]) -> None:
    """Beside a gradient of 0: w (1 - lr factor lambda / n); all other rows keep every bit."""
    case = every_case().changed_optimizer(SGD)
    distributed = make(case)
    count_samples(case, distributed, batches)
    before, expected = whole_tables(distributed), counted(case, batches)
    distributed.begin(UpdateContext(0, learning_rate_factor=0.5))
    total, _ = distributed.module(share(case, batches[0], 0, 1, distributed.lookup))
    (total * 0).backward()
    distributed.step()
    for name, named in counted(case, batches[:1]).items():
        old, new = before[name]["weight"], distributed.tables[name].shards[0].weight
        for row in range(len(old)):
            if row in named:
                shrunk = old[row].double() * (1 - 0.5 * 0.5 * 0.4 / expected[name][row])
                torch.testing.assert_close(new[row].double(), shrunk, rtol=1e-6, atol=1e-9)
            else:
                assert torch.equal(new[row], old[row]), (name, row)
        assert torch.equal(before[name][SAMPLES], distributed.tables[name].shards[0].tensors[SAMPLES])


def test_a_row_that_was_not_counted_decays_as_one_of_a_single_sample(batches: list[Rows]) -> None:
    """Such as an item that is drawn as a negative in a later epoch first."""
    case = every_case().changed_optimizer(SGD)
    uncounted, once = make(case), make(case)
    count_samples(case, uncounted, [])
    for table in once.tables.values():
        table.shards[0].tensors[SAMPLES].fill_(1)
    for distributed in (uncounted, once):
        train(case, distributed, batches[:1])
    for name, tensors in whole_tables(once).items():
        assert torch.equal(tensors["weight"], whole_tables(uncounted)[name]["weight"])


def test_more_samples_than_can_be_counted(batches: list[Rows], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frequency, "MOST_SAMPLES", 2 * ROWS)
    case = every_case().changed_optimizer(SGD)
    count_samples(case, make(case), batches[:2])
    with pytest.raises(ValueError, match=r"counts up to 18 training rows, and there are more; choose decay: batch"):
        count_samples(case, make(case), batches)


def test_a_checkpoint_carries_the_counts(batches: list[Rows], tmp_path: Path) -> None:
    case = every_case().changed_optimizer(SGD)
    wrote, reads = make(case), make(case)
    count_samples(case, wrote, batches)
    entries = write_tables(tmp_path, wrote.tables)
    read_tables(tmp_path, entries, reads.tables)
    for distributed in (wrote, reads):
        train(case, distributed, batches[:2])
    for name, tensors in whole_tables(wrote).items():
        assert torch.equal(tensors["weight"], whole_tables(reads)[name]["weight"])
        assert torch.equal(tensors[SAMPLES], whole_tables(reads)[name][SAMPLES]) and tensors[SAMPLES].any()
    other = every_case().changed_optimizer(SGD.model_copy(update={"decay": "batch"}))
    with pytest.raises(ValueError, match="has optimizer state samples there and none here"):
        read_tables(tmp_path, entries, make(other).tables)


def test_plans_count_their_memory() -> None:
    plain = every_case().changed_optimizer(SGD.model_copy(update={"decay": "batch"}))
    for placement in ("data_parallel", "table_wise", "row_wise", "column_wise"):
        sizes = []
        for case in (plain, every_case().changed_optimizer(SGD)):
            plan = plan_tables(case.placed(placement).inputs, SGD, Topology(2, 2, "cpu", 1 << 30))
            sizes.append(sum(plan.bytes_per_rank))
        shards = [s for t in plan.tables.values() for s in t.shards]
        assert sizes[1] - sizes[0] == 4 * sum(s.rows for s in shards)
    (table, *_) = plan.tables.values()
    assert table_bytes(table.table) == 3 * 5 * 4 + 3 * 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "ftrl", "decay": "frequency"}, "decay is a setting of sgd, .*, not of ftrl; l2 is its L2"),
        ({"name": "sgd", "decay": "frequency"}, "decay: frequency decays by weight_decay, which is 0"),
    ],
)
def test_refused_settings(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TableOptimizer(**settings)  # type: ignore[arg-type]
