"""Tables are files of a bundle that are mapped into memory: rows of tables, and which row an id or a value has."""

import mmap
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .hashing import hash_texts
from .rows import distinct, integers


class Lookup:
    """Ascending keys have rows, and other keys the default row. Strings are compared too where their hashes are keys.

    So are vocabularies looked up, and the ids of dynamic tables.
    """

    def __init__(self, keys: np.ndarray, rows: np.ndarray, default: int, texts: pa.Array = None) -> None:
        self._keys, self._rows, self._default, self._texts = keys, rows, default, texts

    def __call__(self, keys: np.ndarray, texts: pa.Array = None) -> np.ndarray:
        if not len(self._keys):
            return np.full(len(keys), self._default)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        known = self._keys[places] == keys
        if self._texts is not None:
            known &= pc.equal(self._texts.take(pa.array(places)), texts).to_numpy(zero_copy_only=False)
        return np.where(known, self._rows[places], self._default)

    def of_values(self, values: pa.Array) -> np.ndarray:
        """Returns the rows of integers, or of strings: [n] int64."""
        if self._texts is None:
            return self(integers(values))
        texts, places = distinct(values)
        return np.append(self(hash_texts(texts), texts), 0)[places]


def _mapped(path: Path) -> np.ndarray:
    """Maps an array's file into memory. Rows come from all over it, so that reading ahead would be for nothing."""
    array = np.load(path, mmap_mode="r")
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        array.base.madvise(mmap.MADV_RANDOM)
    return array.view(np.ndarray)


class Tables:
    """Tables open each file once, when it is first asked for."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self._folder, self._specs, self._spaces = folder, manifest["tables"], manifest["id_spaces"]
        self._array = cache(lambda file: _mapped(folder / file))

    def vectors(self, table: str, rows: np.ndarray) -> np.ndarray:
        """Returns a table's rows: [n] -> float32 [n, D]. Of int8 ones each has a scale and a bias."""
        spec = self._specs[table]
        found = self._array(spec["file"])[rows]
        if spec["dtype"] != "int8":
            return found.astype(np.float32, copy=False)
        scale = found[:, spec["dim"] :].copy().view(np.float32)
        return found[:, : spec["dim"]].astype(np.float32) * scale[:, :1] + scale[:, 1:]

    def vocabulary(self, stem: str) -> Lookup:
        """Returns the vocabulary of these files."""
        texts = self._folder / f"{stem}.arrow"
        known = pa.ipc.open_file(pa.memory_map(str(texts))).read_all()["value"] if texts.exists() else None
        return Lookup(self._array(f"{stem}.keys.npy"), self._array(f"{stem}.rows.npy"), 0, known)

    def id_space(self, name: str) -> Lookup:
        """Returns which rows of dynamic tables ids have."""
        spec = self._spaces[name]
        return Lookup(self._array(spec["ids"]), self._array(spec["rows"]), spec["default_row"])
