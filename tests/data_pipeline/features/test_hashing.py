"""Our XXH64 against published vectors and the xxhash library."""

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.hashing import hash_array, hash_integers, hash_strings, hash_words

SEEDS = (0, 1, 7, 2**63 + 5, 2**64 - 1)


def of_integer(value: int, seed: int = 0) -> int:
    return xxhash.xxh64_intdigest((value % 2**64).to_bytes(8, "little"), seed)


@pytest.mark.parametrize(
    ("value", "seed", "digest"),
    [
        ("", 0, 0xEF46DB3751D8E999),
        ("a", 0, 0xD24EC4F1A98C6E5B),
        ("abc", 0, 0x44BC2CF5AD770999),
        ("Nobody inspects the spammish repetition", 0, 0xFBCEA83C8A378BF1),
    ],
)
def test_published_values_of_strings(value: str, seed: int, digest: int) -> None:
    assert hash_strings(pa.array([value]), seed).tolist() == [digest]
    assert hash_array(pa.array([value]), seed).tolist() == [digest]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_length_and_seed_equals_the_library(seed: int) -> None:
    random = np.random.default_rng(3)
    values = [random.bytes(length) for length in random.permutation(np.repeat(np.arange(201), 2))]
    expected = [xxhash.xxh64_intdigest(v, seed) for v in values]
    assert hash_strings(pa.array(values, pa.binary()), seed).tolist() == expected
    assert hash_strings(pa.array(values, pa.large_binary()), seed).tolist() == expected
    assert hash_strings(pa.array(values, pa.binary_view()), seed).tolist() == expected
    one_length = [v[:8] for v in values if len(v) >= 8]
    assert hash_strings(pa.array(one_length, pa.binary()), seed).tolist() == [
        xxhash.xxh64_intdigest(v, seed) for v in one_length
    ]


@given(st.lists(st.one_of(st.none(), st.text(max_size=70)), max_size=60), st.integers(0, 2**64 - 1), st.data())
def test_arrays_of_strings_in_any_layout(values: list[str | None], seed: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    expected = [None if v is None else xxhash.xxh64_intdigest(v.encode(), seed) for v in values[start:stop]]
    plain = pa.array(values, pa.string())
    for array in (plain, plain.cast(pa.large_string()), plain.cast(pa.string_view()), plain.dictionary_encode()):
        found = hash_array(array.slice(start, stop - start), seed).tolist()
        assert [None if e is None else f for e, f in zip(expected, found, strict=True)] == expected


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50), st.sampled_from(SEEDS))
def test_integers_hash_their_eight_bytes(values: list[int], seed: int) -> None:
    expected = [of_integer(v, seed) for v in values]
    assert hash_integers(np.array(values, np.int64), seed).tolist() == expected
    assert hash_array(pa.array(values, pa.int64()), seed).tolist() == expected


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int16(), pa.int32(), pa.uint32(), pa.uint64()])
def test_integers_hash_equally_in_any_width(kind: pa.DataType) -> None:
    array = pa.array([0, 1, 100, None], kind)
    assert hash_array(array).tolist()[:3] == [of_integer(0), of_integer(1), of_integer(100)]
    assert hash_array(array.dictionary_encode()).tolist()[:3] == [of_integer(0), of_integer(1), of_integer(100)]


def test_values_of_integers_and_crosses_never_change() -> None:
    """Hard-coded, so that a change of the definition cannot go unnoticed: trained tables depend on it."""
    integers = hash_array(pa.array([0, 1, -1]))
    assert integers.tolist() == [0x34C96ACDCADB1BBB, 0x9F29CB17A2A49995, 0x85D136ADB773C6C9]
    cross = hash_words([hash_array(pa.array(["abc"])), hash_array(pa.array([5]))], seed=3)
    assert cross.tolist() == [0x782B5731F84CB7F3]


@given(st.integers(2, 9), st.integers(0, 2**64 - 1))
def test_crosses_hash_the_digests_in_their_order(k: int, seed: int) -> None:
    words = np.random.default_rng(k).integers(0, 2**64, (k, 5), dtype=np.uint64)
    expected = [xxhash.xxh64_intdigest(words[:, i].astype("<u8").tobytes(), seed) for i in range(5)]
    assert hash_words(list(words), seed).tolist() == expected


def test_short_slices_of_large_dictionaries_and_dictionaries_of_nulls() -> None:
    values = [f"value {i}" for i in range(1000)]
    large = pa.DictionaryArray.from_arrays(pa.array([5, None, 999, 5]), pa.array(values))
    found = hash_array(large)
    assert [found[0], found[2], found[3]] == [xxhash.xxh64_intdigest(values[i].encode()) for i in (5, 999, 5)]
    assert len(hash_array(pa.array([None, None], pa.string()))) == 2


def test_many_values_cross_chunk_borders() -> None:
    values = [f"{i % 50_000:x}" for i in range(120_000)]
    expected = [xxhash.xxh64_intdigest(v.encode()) for v in values]
    assert hash_array(pa.array(values)).tolist() == expected
    assert hash_strings(pa.array(values)).tolist() == expected


def test_an_unpadded_buffer_is_not_read_past_its_end() -> None:
    offsets = np.array([0, 3, 11], np.int32)
    array = pa.StringArray.from_buffers(2, pa.py_buffer(offsets), pa.py_buffer(b"abcdefghijk"))
    assert hash_strings(array).tolist() == [xxhash.xxh64_intdigest(b"abc"), xxhash.xxh64_intdigest(b"defghijk")]


def test_other_types_are_refused() -> None:
    with pytest.raises(UserError, match="cannot hash values of type double"):
        hash_array(pa.array([1.5]))
