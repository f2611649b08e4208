"""A bundle scores rows on its own: this folder needs Python, NumPy, pyarrow and torch alone.

It is part of every bundle that `shardrec export` writes, so that a service needs nothing that trained the model:

    from loader import Bundle

    bundle = Bundle("my-bundle")
    scores = bundle.score([{"user": "u7", "item": "i3", "price": 9.5}])

Rows are raw: strings and numbers as they were before preparation. Values that the model was not trained to read are
errors, `RowError`, that name row and feature; nothing is repaired silently.

- `bundle.py`: a bundle that is open: scores, and lists of items
- `calibration.py`: scores become rates
- `checks.py`: values of JSON are as they should be
- `checksums.py`: whether files are as they were written
- `features.py`: values of rows become table rows and numbers
- `hashing.py`: the hash by which values become ids
- `manifest.py`: what `bundle.json` says, checked
- `programs.py`: a tower, run on rows
- `rows.py`: rows in all their forms, and the types of their values
- `tables.py`: tables, vocabularies and id spaces, mapped into memory
"""

from .bundle import Bundle
from .manifest import FORMAT
from .rows import ANY, RowError

__all__ = ["ANY", "FORMAT", "Bundle", "RowError"]
