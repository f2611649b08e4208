"""Times a batch's lookup and update, for every rule and both forms of our kernel, beside FBGEMM's row-wise AdaGrad.

    chrt -f 10 python -m tests.sharding.kernels --rows 38461 --threads 1

26 tables of 16 columns, 4,096 ids of each, drawn as u^4: medians of 15 in milliseconds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen

from shardrec.sharding.tables.rounding import ShardRounding
from shardrec.sharding.updates.context import UpdateContext
from shardrec.sharding.updates.row_tables import RowTables
from tests.sharding.kernels.test_rows import RULES

TABLES, COLUMNS, BATCH = 26, 16, 4096


def median(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(15):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1e3 * statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=38_461, help="of each table")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, draw = arguments.rows, torch.Generator().manual_seed(0)
    ids = torch.cat([(torch.rand(BATCH, generator=draw) ** 4 * rows).long() for _ in range(TABLES)])
    offsets, gradient = torch.arange(len(ids) + 1), torch.randn(BATCH, TABLES * COLUMNS, generator=draw)
    fbgemm = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, COLUMNS, EmbeddingLocation.HOST, ComputeDevice.CPU)] * TABLES,
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    )
    lookup = median(lambda: fbgemm(ids, offsets))
    both = median(lambda: fbgemm(ids, offsets).backward(gradient))
    print(f"{'FBGEMM RowwiseAdaGrad':34}  lookup {lookup:6.2f}  update {both - lookup:6.2f}", flush=True)
    for rule in RULES:
        for dtype in (torch.float32,) if type(rule).__name__ == "Ftrl" else (torch.float32, torch.float16):
            tables = RowTables(
                *([(rows, COLUMNS)] * TABLES, range(TABLES), [rule] * TABLES),
                dtypes=[dtype] * TABLES,
                device=torch.device("cpu"),
                roundings=[ShardRounding(0, "table")] * TABLES,
            )
            tables.begin(UpdateContext(1))
            form = tables.compiled
            found = []
            for tables.compiled in (form, None):
                found.append(median(partial(tables.pool, ids, offsets, None)))
                found.append(median(partial(tables.receive, gradient, ids, offsets, None)))
            decays = " by frequency" if rule.by_frequency else " decay" if rule.weight_decay else ""
            name = f"{type(rule).__name__}{decays} {str(dtype).removeprefix('torch.')}"
            print("{:34}  lookup {:6.2f}  update {:6.2f}  by torch {:6.2f} {:6.2f}".format(name, *found), flush=True)


if __name__ == "__main__":
    main()
