"""Opens a bundle whose table has many rows, and times it: `python -m tests.trainer.export.open_table --rows 100000000`.

The table's file has holes where rows are, which take no disk and are read as zeros; `--written` fills them, and reads
them from the disk.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.features.feature_kinds import IdFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.export.loader import Bundle
from shardrec.trainer.export.loader.checksums import checksum
from shardrec.trainer.export.table_files import new_array
from tests.trainer.export.bundles import bundle_of

BLOCK = 1 << 18
"""Rows that are written at once."""


def bundle_with_table(folder: Path, rows: int, dim: int, *, written: bool = False) -> Path:
    """Makes a bundle of one feature, `user`, and its table, whose rows are fp32."""
    feature = IdFeature(name="user", ids=Identity(num_ids=rows))
    bundle_of(folder, Schema(features=(feature,), labels=()), pa.schema({"user": pa.int64()}), folder)
    with new_array(folder / "user.npy", "<f4", (rows, dim)) as file:
        draw = np.random.default_rng(0)
        for start in range(0, rows if written else 0, BLOCK):
            file.write(draw.random((min(BLOCK, rows - start), dim), np.float32).data)
        if written:
            file.flush()
            os.fsync(file.fileno())
        else:
            file.truncate(file.tell() + rows * dim * 4)
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["tables"]["user"] = {"file": "user.npy", "rows": rows, "dim": dim, "dtype": "fp32"}
    manifest["files"]["user.npy"] = (folder / "user.npy").stat().st_size
    manifest["checksums"] = {"user.npy": checksum(folder / "user.npy")}
    if written:  # so that opening reads it from the disk
        with (folder / "user.npy").open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


def main() -> None:
    """Prints how long opening takes, and reading some of the rows."""
    given = argparse.ArgumentParser()
    given.add_argument("--rows", type=int, default=100_000_000)
    given.add_argument("--dim", type=int, default=16)
    given.add_argument("--written", action="store_true")
    options = given.parse_args()
    users = np.random.default_rng(1).integers(0, options.rows, 1024)
    with tempfile.TemporaryDirectory() as name:
        folder = bundle_with_table(Path(name, "bundle"), options.rows, options.dim, written=options.written)
        size = (folder / "user.npy").stat().st_size / 1e9
        began = time.perf_counter()
        bundle = Bundle(folder)
        times = [time.perf_counter() - began]
        rows = bundle.read({"user": users})["user"].values
        for _ in range(2):
            began = time.perf_counter()
            bundle.vectors("user", rows)
            times.append(time.perf_counter() - began)
    opened, first, again = (f"{seconds * 1e3:.1f} ms" for seconds in times)
    table = f"a table of {options.rows:,} rows ({size:.1f} GB)"
    print(f"{table} opened in {opened}; 1,024 of its rows were read in {first}, then in {again}")


if __name__ == "__main__":
    main()
