"""Inputs that are broken at random: whatever is read, what is wrong with it is one line and never a traceback.

`python -m tests.fuzzing importers --cases 10000` tries many; the suite tries a few hundred.

- `broken_bytes.py`: files' bytes, broken at random
- `importers.py`: raw files and recipes of `shardrec prepare`
"""

from collections.abc import Callable

from tests.fuzzing import importers

DOORS: dict[str, Callable[[int], None]] = {"importers": importers.one}
"""What can be fuzzed: each takes a seed and raises for a traceback, naming what it did."""
