"""Tables are files of a bundle that are mapped into memory: rows of tables, and which row an id or a value has."""

import mmap
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .hashing import hash_texts
from .rows import distinct, integers

SCALE_BYTES = 8  # behind each row of int8: its scale and its bias


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


class DamagedError(ValueError):
    """A file of a bundle is not as it was written."""

    def __init__(self, path: Path, found: object) -> None:
        line = " ".join(str(found).split()) or type(found).__name__
        super().__init__(f"{path}: damaged ({line[:200]}); copy the bundle again, or export its run again")


def opened(path: Path, shape: tuple[int | None, ...], kinds: str = "f", *, mode: Literal["r", "c"] = "r") -> np.ndarray:
    """Maps an array's file into memory. Raises ValueError where it is not of this shape, and of one of these kinds."""
    try:
        array: np.ndarray = np.load(path, mmap_mode=mode)
    except (OSError, EOFError) as error:
        raise DamagedError(path, error) from None
    except ValueError:  # numpy takes what is no array for pickled objects, and advises to open them
        raise DamagedError(path, "it holds no array") from None
    sizes = zip(array.shape, shape, strict=False)
    if (
        array.ndim != len(shape)
        or any(size not in (found, None) for found, size in sizes)
        or array.dtype.kind not in kinds
    ):
        expected = "x".join("N" if size is None else str(size) for size in shape)
        raise DamagedError(path, f"{array.dtype} {'x'.join(map(str, array.shape))}, expected {expected}")
    return array


def _mapped(path: Path, shape: tuple[int | None, ...], kinds: str) -> np.ndarray:
    """Maps an array's file into memory. Rows come from all over it, so that reading ahead would be for nothing."""
    array = opened(path, shape, kinds)
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        array.base.madvise(mmap.MADV_RANDOM)
    return array.view(np.ndarray)


class Tables:
    """Tables open each file once, when it is first asked for."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self._folder, self._specs, self._spaces = folder, manifest["tables"], manifest["id_spaces"]
        self._array = cache(lambda file, shape, kinds: _mapped(folder / file, shape, kinds))

    def vectors(self, table: str, rows: np.ndarray) -> np.ndarray:
        """Returns a table's rows: [n] -> float32 [n, D]. Of int8 ones each has a scale and a bias."""
        spec = self._specs[table]
        whole = (spec["rows"], spec["dim"])
        if spec["dtype"] != "int8":
            return self._array(spec["file"], whole, "f")[rows].astype(np.float32, copy=False)
        found = self._array(spec["file"], (whole[0], whole[1] + SCALE_BYTES), "u")[rows]
        scale = found[:, spec["dim"] :].copy().view(np.float32)
        return found[:, : spec["dim"]].astype(np.float32) * scale[:, :1] + scale[:, 1:]

    def vocabulary(self, stem: str) -> Lookup:
        """Returns the vocabulary of these files."""
        path, known = self._folder / f"{stem}.arrow", None
        if path.exists():
            try:
                known = pa.ipc.open_file(pa.memory_map(str(path))).read_all()["value"]
            except (pa.ArrowException, OSError, KeyError) as error:
                raise DamagedError(path, error) from None
        keys, rows = f"{stem}.keys.npy", f"{stem}.rows.npy"
        return self._lookup(keys, rows, 0, known)

    def id_space(self, name: str) -> Lookup:
        """Returns which rows of dynamic tables ids have."""
        spec = self._spaces[name]
        return self._lookup(spec["ids"], spec["rows"], spec["default_row"])

    def _lookup(self, keys: str, rows: str, default: int, texts: pa.Array = None) -> Lookup:
        count = None if texts is None else len(texts)
        known = self._array(keys, (count,), "iu")
        return Lookup(known, self._array(rows, (len(known),), "iu"), default, texts)
