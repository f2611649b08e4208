"""Doors are what can be fuzzed, by name."""

import random
from collections.abc import Callable

from tests.fuzzing import checkpoints, documents, importers, parquet

DOORS: dict[str, Callable[[random.Random], None]] = {
    "importers": importers.one,
    "run_files": documents.run_file,
    "schemas": documents.schema,
    "manifests": checkpoints.manifest,
    "run_folders": checkpoints.damaged_file,
    "parquet": parquet.checked,
    "plain_parquet": parquet.unchecked,
}
"""What can be fuzzed: each breaks an input as it draws, and raises for a traceback."""
