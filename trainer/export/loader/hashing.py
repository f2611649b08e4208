"""Hashes are XXH64, as the data pipeline makes them: of 64-bit words, and of texts."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_M = (1 << 64) - 1
_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_Reader = Callable[[int, int], Any]  # offset and width in bytes -> the little-endian word there


def _rotate(x: Any, bits: int) -> Any:
    return (x << bits & _M) | (x >> 64 - bits)


def _round(state: Any, word: Any) -> Any:
    return _rotate(state + word * _P2 & _M, 31) * _P1 & _M


def _xxh64(length: int, seed: int, word: _Reader) -> Any:
    """Returns the hash of values of `length` bytes, each a number or an array of them."""
    state: Any = seed + _P5 & _M
    if length >= 32:
        lanes: list[Any] = [s & _M for s in (seed + _P1 + _P2, seed + _P2, seed, seed - _P1)]
        for start in range(0, length - 31, 32):
            lanes = [_round(lane, word(start + 8 * i, 8)) for i, lane in enumerate(lanes)]
        state = 0
        for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True):
            state = state + _rotate(lane, bits) & _M
        for lane in lanes:
            state = ((state ^ _round(0, lane)) * _P1 & _M) + _P4 & _M
    state = state + length & _M
    at = length - length % 32
    while at + 8 <= length:
        state = (_rotate(state ^ _round(0, word(at, 8)), 27) * _P1 & _M) + _P4 & _M
        at += 8
    if at + 4 <= length:
        state = (_rotate(state ^ (word(at, 4) * _P1 & _M), 23) * _P2 & _M) + _P3 & _M
        at += 4
    while at < length:
        state = _rotate(state ^ (word(at, 1) * _P5 & _M), 11) * _P1 & _M
        at += 1
    for shift, factor in ((33, _P2), (29, _P3)):
        state = (state ^ state >> shift) * factor & _M
    return state ^ state >> 32


def hash_words(words: Sequence[np.ndarray], seed: int = 0) -> np.ndarray:
    """Returns the hashes of rows of k 64-bit words: k arrays [n] -> [n] uint64."""
    columns = [word.view(np.uint64) for word in words]
    return np.asarray(_xxh64(8 * len(columns), seed, lambda at, _: columns[at // 8]), np.uint64)


def hash_texts(texts: pa.Array, seed: int = 0) -> np.ndarray:
    """Returns the hashes of large_binary values: [n] uint64."""
    if len(texts) <= 64:  # numbers of Python are faster
        return np.fromiter((_xxh64(len(v), seed, partial(_number, v)) for v in texts.to_pylist()), np.uint64)
    found, lengths = np.empty(len(texts), np.uint64), pc.binary_length(texts).to_numpy()
    for length in np.unique(lengths).tolist():
        some = np.flatnonzero(lengths == length)
        content = np.frombuffer(texts.take(pa.array(some)).buffers()[2] or b"", np.uint8, len(some) * length)
        padded = np.zeros((len(some), -(-length // 8) * 8), np.uint8)
        padded[:, :length] = content.reshape(len(some), length)
        found[some] = _xxh64(length, seed, partial(_word, padded))
    return found


def _number(value: bytes, at: int, width: int) -> int:
    return int.from_bytes(value[at : at + width], "little")


def _word(rows: np.ndarray, at: int, width: int) -> np.ndarray:
    return rows.view(f"<u{width}")[:, at // width].astype(np.uint64)
