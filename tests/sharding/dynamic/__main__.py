"""Times a step's ids on their way through an id map of a million rows, in both of its forms, in turns.

    python -m tests.sharding.dynamic --distinct 100000 --threads 1

Lower quartiles of 10 steps once the table is full, in milliseconds of processor time, all threads' together.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor

from shardrec.models.dynamic_ids import DynamicConfig
from shardrec.sharding.dynamic.distinct import distinct
from shardrec.sharding.dynamic.id_map import IdMap
from shardrec.sharding.tables.draws import mixed

FILLING, TIMED, SPACE = 15, 10, 20_000_000


def batches(count: int) -> list[Tensor]:
    """Draws each step's distinct ids: most of them are new, some come again and again."""
    draw = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(FILLING + TIMED):
        numbers = (torch.rand(3 * count, generator=draw, dtype=torch.float64) ** 2.5 * SPACE).long().unique()
        drawn.append(mixed(numbers[torch.randperm(len(numbers), generator=draw)][:count]))
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--distinct", type=int, default=100_000, help="ids of a step")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    steps = batches(arguments.distinct)
    for said in ({}, {"after": 2}, {"evict": "lru"}, {"evict": "age", "age": 5}, {"probability": 0.3}):
        maps = {
            form: IdMap(DynamicConfig(rows=1_000_000, **said), name="t", seed=0, compiled=form)
            for form in (True, False)
        }
        spent: dict[tuple[bool, str], list[float]] = {}
        new = 0
        for step, ids in enumerate(steps):
            for form, made in maps.items():
                began = [time.process_time()]
                asked = distinct(made.geometry, ids, compiled=form)
                began.append(time.process_time())
                new = len(made.observe(asked.ids, asked.counts, step).fresh_ids)
                began.append(time.process_time())
                made.find(asked.ids)
                began.append(time.process_time())
                for name, start, end in zip(("distinct", "observe", "find"), began, began[1:], strict=False):
                    spent.setdefault((form, name), []).append(1e3 * (end - start))
        figures = {key: statistics.quantiles(of[FILLING:])[0] for key, of in spent.items()}
        row = "  ".join(
            f"{name} {figures[True, name]:5.1f} ({figures[False, name]:5.1f})" for _, name in list(spent)[:3]
        )
        print(f"{said or 'lfu'!s:30} {row}  admitted {new:,}; in brackets by torch", flush=True)


if __name__ == "__main__":
    main()
