"""Tables are files of a bundle that are mapped into memory: rows of tables, and which row an id or a value has."""

import mmap
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .hashing import hash_texts
from .rows import distinct, integers

T = TypeVar("T")

SCALE_BYTES = 8  # behind each row of int8: its scale and its bias


class DamagedError(ValueError):
    """A file of a bundle is not as it was written."""

    def __init__(self, path: Path, found: object) -> None:
        line = " ".join(str(found).split()) or type(found).__name__
        super().__init__(f"{path}: damaged ({line[:200]}); copy the bundle again, or export its run again")


class MappedFile(Generic[T]):
    """A mapped file is content that is read where it is touched; of one that was cut short nothing must be touched.

    The system would end the process, without a word.
    """

    def __init__(self, path: Path, content: T, mapping: mmap.mmap, size: int) -> None:
        self._path, self._content, self._mapping, self._size = path, content, mapping, size

    @property
    def content(self) -> T:
        """Returns the content, at the cost of a system call. Raises DamagedError where the file has become shorter."""
        if (size := self._mapping.size()) < self._size:
            raise DamagedError(self._path, f"cut short to {size:,} bytes, expected {self._size:,}")
        return self._content


Mapped = MappedFile[np.ndarray]


class Lookup:
    """Ascending keys have rows, and other keys the default row. Strings are compared too where their hashes are keys.

    So are vocabularies looked up, and the ids of dynamic tables.
    """

    def __init__(self, keys: Mapped, rows: Mapped, default: int, texts: MappedFile[pa.Array] | None) -> None:
        self._keys, self._rows, self._default, self._texts = keys, rows, default, texts

    def __call__(self, keys: np.ndarray, texts: pa.Array = None) -> np.ndarray:
        """Returns the rows of keys. Raises DamagedError where a file has been cut short."""
        all_keys, rows = self._keys.content, self._rows.content
        if not len(all_keys):
            return np.full(len(keys), self._default)
        places = np.minimum(np.searchsorted(all_keys, keys), len(all_keys) - 1)
        known = all_keys[places] == keys
        if self._texts is not None:
            of_keys = self._texts.content.take(pa.array(places))
            known &= pc.equal(of_keys, texts).to_numpy(zero_copy_only=False)
        return np.where(known, rows[places], self._default)

    def of_values(self, values: pa.Array) -> np.ndarray:
        """Returns the rows of integers, or of strings: [n] int64."""
        if self._texts is None:
            return self(integers(values))
        texts, places = distinct(values)
        return np.append(self(hash_texts(texts), texts), 0)[places]


def opened(path: Path, shape: tuple[int | None, ...], kinds: str = "f", *, mode: Literal["r", "c"] = "r") -> Mapped:
    """Maps an array's file into memory. Raises ValueError where it is not of this shape, and of one of these kinds."""
    try:
        array: Any = np.load(path, mmap_mode=mode)
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
    mapping = array._mmap
    if mode == "r" and hasattr(mmap, "MADV_RANDOM"):  # rows come from all over it: to read ahead would be for nothing
        mapping.madvise(mmap.MADV_RANDOM)
    return MappedFile(path, array.view(np.ndarray), mapping, array.offset + array.nbytes)


class Tables:
    """Tables open each file once, when it is first asked for."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self._folder, self._specs, self._spaces = folder, manifest["tables"], manifest["id_spaces"]
        self._array = cache(lambda file, shape, kinds: opened(folder / file, shape, kinds))

    def vectors(self, table: str, rows: np.ndarray) -> np.ndarray:
        """Returns a table's rows: [n] -> float32 [n, D]. Of int8 ones each has a scale and a bias."""
        spec = self._specs[table]
        whole = (spec["rows"], spec["dim"])
        if spec["dtype"] != "int8":
            return self._array(spec["file"], whole, "f").content[rows].astype(np.float32, copy=False)
        found = self._array(spec["file"], (whole[0], whole[1] + SCALE_BYTES), "u").content[rows]
        scale = found[:, spec["dim"] :].copy().view(np.float32)
        return found[:, : spec["dim"]].astype(np.float32) * scale[:, :1] + scale[:, 1:]

    def vocabulary(self, stem: str) -> Lookup:
        """Returns the vocabulary of these files."""
        path, known = self._folder / f"{stem}.arrow", None
        if path.exists():
            try:
                known = _texts(path)
            except (pa.ArrowException, OSError, KeyError, ValueError) as error:
                raise DamagedError(path, error) from None
        keys, rows = f"{stem}.keys.npy", f"{stem}.rows.npy"
        return self._lookup(keys, rows, 0, known)

    def id_space(self, name: str) -> Lookup:
        """Returns which rows of dynamic tables ids have."""
        spec = self._spaces[name]
        return self._lookup(spec["ids"], spec["rows"], spec["default_row"])

    def _lookup(self, keys: str, rows: str, default: int, texts: MappedFile[pa.Array] | None = None) -> Lookup:
        count = None if texts is None else len(texts.content)
        known = self._array(keys, (count,), "iu")
        return Lookup(known, self._array(rows, (len(known.content),), "iu"), default, texts)


def _texts(path: Path) -> MappedFile[pa.Array]:
    """Maps an Arrow file of texts into memory."""
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return MappedFile(path, pa.ipc.open_file(pa.py_buffer(mapping)).read_all()["value"], mapping, len(mapping))
