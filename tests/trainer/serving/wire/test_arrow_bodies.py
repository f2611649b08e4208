"""Streams of Arrow: read as they were written, and nothing in a body that is not one gets further than a refusal."""

import random
from typing import Any

import pyarrow as pa
import pytest

from shardrec.trainer.serving.wire.arrow_bodies import read_table, write_table
from shardrec.trainer.serving.wire.refusals import Refusal

TABLE = pa.table(
    {
        "user": ["ä", None, "c"],
        "ids": pa.array([[1], [], [2, 3]], pa.list_(pa.int64())),
        "price": pa.array([1, None, 3], pa.float32()),
        "empty": pa.array([[], [], []], pa.list_(pa.null())),
    }
)


def compressed(codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, TABLE.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as stream:
        stream.write_table(pa.concat_tables([TABLE] * 100).combine_chunks())
    return bytes(sink.getvalue())


def test_a_stream_is_read_as_it_was_written() -> None:
    assert read_table(write_table(TABLE), 3).equals(TABLE)
    assert read_table(write_table(pa.concat_tables([TABLE, TABLE])), 6).num_rows == 6


REFUSED: dict[str, tuple[Any, int]] = {
    "nothing": (b"", 400),
    "no stream": (b'{"rows": []}' * 9, 400),
    "cut": (write_table(TABLE)[:300], 400),
    "no rows": (write_table(TABLE.slice(0, 0)), 400),
    "too many rows": (write_table(pa.concat_tables([TABLE, TABLE])), 413),
    "lz4": (compressed("lz4"), 415),
    "zstd": (compressed("zstd"), 415),
    "dictionaries": (write_table(pa.table({"user": TABLE["user"].dictionary_encode()})), 422),
    "run ends": (write_table(pa.table({"x": pa.RunEndEncodedArray.from_arrays([3], ["long"])})), 422),
    "views": (write_table(pa.table({"x": TABLE["user"].cast(pa.string_view())})), 422),
    "nulls in lists of no type": (write_table(pa.table({"x": pa.array([[None] * 9], pa.list_(pa.null()))})), 422),
    "one name twice": (write_table(TABLE.select(["user", "user"])), 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_plain_rows_is_refused(name: str) -> None:
    body, status = REFUSED[name]
    with pytest.raises(Refusal) as refusal:
        read_table(body, 5)
    assert refusal.value.status == status
    assert "\n" not in refusal.value.line


def test_changed_bytes_are_refused_or_are_other_rows() -> None:
    draw, body = random.Random(0), write_table(TABLE)
    read = 0
    for _ in range(3000):
        changed = bytearray(body)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(body))] = draw.randrange(256)
        try:
            read_table(bytes(changed), 5).to_pylist()
            read += 1
        except Refusal:
            pass
    assert 0 < read < 3000
