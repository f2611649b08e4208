"""Scores Parquet by a bundle on a Ray cluster: `python batch_score.py BUNDLE ROWS OUT --workers 8`.

Needs Ray with its data extra, and what a bundle needs (torch, NumPy, pyarrow); shardrec is not among that. Workers
open the bundle by the loader that lies in it, so that BUNDLE is a path that all of them see.
"""

import argparse
import os
import sys

import pyarrow as pa
import ray


class Scorer:
    """A scorer opens the bundle once, in an actor of its own, and then scores one batch of rows after another."""

    def __init__(self, bundle: str, threads: int) -> None:
        sys.path.insert(0, bundle)
        from loader import Bundle

        self.bundle = Bundle(bundle, threads=threads)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Returns the rows with their scores beside them."""
        return rows.append_column("score", pa.array(self.bundle.score(rows)))


def _read(rows: str) -> ray.data.Dataset:
    """Returns the rows, of which none is read yet; where there are none, the script ends with a line."""
    try:
        return ray.data.read_parquet(rows)
    except (OSError, ValueError) as error:
        sys.exit(f"batch_score: {rows}: no Parquet rows can be read: {str(error).splitlines()[0]}")


def main() -> None:
    """Reads, scores and writes, batch by batch: no more of the rows than some batches is in memory."""
    given = argparse.ArgumentParser()
    given.add_argument("bundle")
    given.add_argument("rows", help="a Parquet file, a folder of them, or a URI")
    given.add_argument("out", help="a folder or URI for the Parquet files with scores")
    given.add_argument("--workers", type=int, default=1)
    given.add_argument("--threads", type=int, default=1, help="of each worker")
    given.add_argument("--batch", type=int, default=4096, help="rows that are scored at once")
    options = given.parse_args()
    if not os.path.isfile(os.path.join(options.bundle, "bundle.json")):
        sys.exit(f"batch_score: {options.bundle}: there is no bundle.json; name a bundle, made by `shardrec export`")
    ray.init(ignore_reinit_error=True)
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if options.workers * options.threads >= cpus:
        wanted = f"{options.workers} workers with {options.threads} CPU(s) each"
        sys.exit(f"batch_score: {wanted} leave none of the cluster's {cpus} CPUs for reading and writing; take fewer")
    rows = _read(options.rows)
    scored = rows.map_batches(
        Scorer,
        fn_constructor_args=(os.path.abspath(options.bundle), options.threads),
        batch_format="pyarrow",
        batch_size=options.batch,
        num_cpus=options.threads,
        compute=ray.data.ActorPoolStrategy(size=options.workers),
    )
    scored.write_parquet(options.out)


if __name__ == "__main__":
    main()
