"""Inputs that are broken at random: whatever is read, what is wrong with it is one line and never a traceback.

`python -m tests.fuzzing importers --cases 10000` tries many; the suite tries a few hundred.

- `broken_bytes.py`: files' bytes, broken at random
- `checkpoints.py`: forged manifests, and run folders with damaged files
- `documents.py`: run files, overrides and schemas
- `importers.py`: raw files and recipes of `shardrec prepare`
- `mutations.py`: documents with one thing changed in them
- `parquet.py`: Parquet files with flipped bits, with and without checksums
"""

from collections.abc import Callable

from tests.fuzzing import checkpoints, documents, importers, parquet

DOORS: dict[str, Callable[[int], None]] = {
    "importers": importers.one,
    "run_files": documents.run_file,
    "schemas": documents.schema,
    "manifests": checkpoints.manifest,
    "run_folders": checkpoints.damaged_file,
    "parquet": parquet.checked,
    "plain_parquet": parquet.unchecked,
}
"""What can be fuzzed: each takes a seed and raises for a traceback, naming what it did."""
