"""Arrow strings and integers are hashed by XXH64, vectorised in NumPy.

The algorithm is that of https://github.com/Cyan4973/xxHash (doc/xxhash_spec.md), bit for bit, so that any XXH64 library
reproduces the ids. Strings are grouped by length, since equal lengths take equal steps; no Python runs per value.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrec.data_pipeline.errors import UserError

_P1, _P2, _P3, _P4, _P5 = (
    np.uint64(p)
    for p in (
        0x9E3779B185EBCA87,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x85EBCA77C2B2AE63,
        0x27D4EB2F165667C5,
    )
)
_MASK = (1 << 64) - 1
_CHUNK = 16384  # values hashed at a time: the temporaries stay in the processor's cache

LONGEST = 1 << 16
"""Bytes of a string that is an id. Each 32 bytes are a step in Python: a single long string would take minutes."""

WordReader = Callable[[int], np.ndarray]  # byte offset within each value -> the little-endian word there, uint64


class LongStringError(UserError):
    """A string is longer than ids are."""


def hash_integers(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns the XXH64 of each integer's 8 little-endian bytes (two's complement): [n] of any width -> [n] uint64.

    Equal integers hash equally whatever their width.
    """
    words = np.ascontiguousarray(values.astype(np.int64, copy=False)).view(np.uint64)
    return _in_chunks(len(words), lambda a, b: _xxh64(8, b - a, seed, _columns([words[a:b]])))


def hash_words(columns: Sequence[np.ndarray], seed: int = 0) -> np.ndarray:
    """Returns the XXH64 of the 8 k bytes of k words a row, as crosses are hashed: k arrays [n] uint64 -> [n] uint64."""

    def part(a: int, b: int) -> np.ndarray:
        return _xxh64(8 * len(columns), b - a, seed, _columns([c[a:b] for c in columns]))

    return _in_chunks(len(columns[0]), part)


def hash_strings(array: pa.Array, seed: int = 0) -> np.ndarray:
    """Returns the XXH64 of each value's bytes (UTF-8 for strings): [n] string, large_string or binary -> [n] uint64.

    A null hashes to an unspecified value: mask it. Raises LongStringError for a value of more than `LONGEST` bytes.
    """
    data, offsets = _string_buffers(array)
    lengths = np.diff(offsets)
    if len(lengths) == 0:
        return np.empty(0, np.uint64)
    starts = offsets[:-1]
    longest = int(lengths.max())
    if longest > LONGEST:
        raise LongStringError(f"a string of {longest:,} bytes, where ids have {LONGEST:,} at most")
    if longest == int(lengths.min()):
        return _in_chunks(len(starts), lambda a, b: _xxh64(longest, b - a, seed, *_bytes_at(data, starts[a:b])))
    order = np.argsort(lengths.astype(np.min_scalar_type(longest)), kind="stable")
    by_length = lengths[order]
    bounds = np.flatnonzero(np.diff(by_length)) + 1
    result = np.empty(len(lengths), np.uint64)
    for group in np.split(order, bounds):
        length = int(lengths[group[0]])
        for a in range(0, len(group), _CHUNK):
            indices = group[a : a + _CHUNK]
            result[indices] = _xxh64(length, len(indices), seed, *_bytes_at(data, starts[indices]))
    return result


def hash_array(array: pa.Array, seed: int = 0) -> np.ndarray:
    """Returns the XXH64 of each value of an integer, boolean, string, binary or dictionary array: [n] -> [n] uint64.

    Only distinct strings are hashed. A null hashes to an unspecified value: mask it. Raises UserError for other types.
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _hash_dictionary(array, seed)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        if array.null_count:
            array = array.fill_null(False if pa.types.is_boolean(kind) else 0)
        return hash_integers(array.to_numpy(zero_copy_only=False), seed)
    if is_string(kind):
        return _hash_dictionary(array.dictionary_encode(), seed)
    raise UserError(f"cannot hash values of type {kind}; expected integers or strings")


def is_string(kind: pa.DataType) -> bool:
    """Tells whether values of this type are hashed by their bytes."""
    types = pa.types
    return (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_string_view(kind)
        or types.is_binary_view(kind)
    )


def _hash_dictionary(array: pa.DictionaryArray, seed: int) -> np.ndarray:
    indices = array.indices
    if indices.null_count:
        indices = indices.fill_null(0)
    places = indices.to_numpy(zero_copy_only=False)
    values = array.dictionary
    if len(values) == 0:  # nothing but nulls
        return np.zeros(len(array), np.uint64)
    if len(values) <= 2 * len(places):
        return _hash_distinct(values, seed)[places]
    used, places = np.unique(places, return_inverse=True)  # a short slice of a large dictionary
    return _hash_distinct(values.take(pa.array(used)), seed)[places]


def _hash_distinct(values: pa.Array, seed: int) -> np.ndarray:
    return hash_strings(values, seed) if is_string(values.type) else hash_array(values, seed)


def _string_buffers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bytes, of which 8 can be read after any start, and the offsets [n + 1] int64."""
    kind = array.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        array = pc.cast(array, pa.large_binary())
        kind = array.type
    wide = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    _, offsets, data = array.buffers()
    n = len(array)
    if offsets is None or n == 0:
        return np.zeros(8, np.uint8), np.zeros(n + 1, np.int64)
    raw = np.frombuffer(offsets, np.int64 if wide else np.int32)[array.offset : array.offset + n + 1]
    places = raw.astype(np.int64)
    content = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)
    if len(content) < places[-1] + 8:  # the last word may be read past the end of an unpadded buffer
        content = np.concatenate([content[places[0] : places[-1]], np.zeros(8, np.uint8)])
        places -= places[0]
    return content, places


def _columns(words: list[np.ndarray]) -> WordReader:
    return lambda offset: words[offset // 8]


def _bytes_at(data: np.ndarray, starts: np.ndarray) -> tuple[WordReader, WordReader, WordReader]:
    """Returns readers of the 8-, 4- and 1-byte words at an offset from each start, as uint64."""

    def reader(dtype: str, width: int) -> WordReader:
        # every byte position is the start of a word: overlapping, unaligned, no copy
        words = np.ndarray(len(data) - width + 1, dtype, data, strides=(1,))
        return lambda offset: words[starts + offset].astype(np.uint64, copy=False)

    return reader("<u8", 8), reader("<u4", 4), reader("u1", 1)


def _in_chunks(n: int, part: Callable[[int, int], np.ndarray]) -> np.ndarray:
    result = np.empty(n, np.uint64)
    for a in range(0, n, _CHUNK):
        b = min(a + _CHUNK, n)
        result[a:b] = part(a, b)
    return result


def _rotate(x: np.ndarray, bits: int) -> np.ndarray:
    left = x << np.uint64(bits)
    x >>= np.uint64(64 - bits)
    left |= x
    return left


def _round(state: np.ndarray, word: np.ndarray) -> np.ndarray:
    mixed = _rotate(state + word * _P2, 31)
    mixed *= _P1
    return mixed


def _stripes(length: int, n: int, seed: int, word: WordReader) -> np.ndarray:
    """Returns the state after all whole 32-byte stripes, which four accumulators take in turn."""
    starts = (seed + int(_P1) + int(_P2), seed + int(_P2), seed, seed - int(_P1))
    states = [np.full(n, s & _MASK, np.uint64) for s in starts]
    for stripe in range(0, length - 31, 32):
        states = [_round(state, word(stripe + 8 * i)) for i, state in enumerate(states)]
    result = np.zeros(n, np.uint64)
    for state, bits in zip(states, (1, 7, 12, 18), strict=True):
        result += _rotate(state.copy(), bits)
    for state in states:
        result ^= _round(np.zeros(n, np.uint64), state)
        result *= _P1
        result += _P4
    return result


def _xxh64(
    length: int, n: int, seed: int, word: WordReader, half: WordReader | None = None, byte: WordReader | None = None
) -> np.ndarray:
    """Returns the XXH64 of n values of `length` bytes each."""
    short = (seed + int(_P5)) & _MASK
    state = _stripes(length, n, seed, word) if length >= 32 else np.full(n, short, np.uint64)
    state += np.uint64(length)
    at = length - length % 32
    while at + 8 <= length:
        mixed = _rotate(word(at) * _P2, 31)
        mixed *= _P1
        state ^= mixed
        state = _rotate(state, 27)
        state *= _P1
        state += _P4
        at += 8
    if half is not None and at + 4 <= length:
        state ^= half(at) * _P1
        state = _rotate(state, 23)
        state *= _P2
        state += _P3
        at += 4
    while byte is not None and at < length:
        state ^= byte(at) * _P5
        state = _rotate(state, 11)
        state *= _P1
        at += 1
    state ^= state >> np.uint64(33)
    state *= _P2
    state ^= state >> np.uint64(29)
    state *= _P3
    state ^= state >> np.uint64(32)
    return state
