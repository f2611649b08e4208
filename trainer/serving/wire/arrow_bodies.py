"""Rows as a stream of Arrow record batches, of which nothing is believed: a body may come from anybody."""

import struct

import pyarrow as pa

from shardrec.trainer.serving.wire.refusals import Refusal, malformed, wrong

RECORD_BATCH, DICTIONARY_BATCH = 3, 2
"""Kinds of a message's header, in Arrow's format (Message.fbs)."""

COMPRESSION = 3
"""Which field of a record batch says how it is compressed (Message.fbs)."""


def read_table(body: bytes, most: int) -> pa.Table:
    """Returns the rows of a stream.

    Their buffers lie in `body`: nothing in it can stand for more than it holds. Raises Refusal for a stream that is
    compressed, whose columns are of types by which few bytes stand for many values, that holds no rows or more than
    `most`, or that is broken.
    """
    try:
        _check_messages(body)
        with pa.ipc.open_stream(pa.py_buffer(body)) as stream:
            for column in stream.schema:
                if not _is_plain(column.type):
                    line = f"column {column.name[:80]!r} is {str(column.type)[:80]}, expected plain values or lists"
                    raise wrong(line, field=column.name[:80])
            batches, rows = [], 0
            for batch in stream:
                rows += batch.num_rows
                if rows > most:
                    raise Refusal(413, f"more than {most:,} rows, which are the most of one request")
                batch.validate(full=True)
                _check_lists_of_nulls(batch)
                batches.append(batch)
            table = pa.Table.from_batches(batches, stream.schema)
        if len(set(table.column_names)) != table.num_columns:
            raise malformed("the stream holds two columns of one name")
    except (pa.ArrowException, OSError, struct.error, ValueError, OverflowError, MemoryError) as error:
        raise malformed(f"the body is no stream of Arrow: {' '.join(str(error).split())[:200]}") from None
    if not rows:
        raise malformed("the stream holds no rows")
    return table


def write_table(table: pa.Table) -> bytes:
    """Returns a table as a stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def _is_plain(kind: pa.DataType) -> bool:
    """Whether each value of a type has bytes of its own: numbers, strings, and lists of them."""
    p = pa.types
    if p.is_list(kind) or p.is_large_list(kind):
        return _is_plain(kind.value_type) and not p.is_nested(kind.value_type)
    tests = (p.is_integer, p.is_floating, p.is_boolean, p.is_string, p.is_large_string, p.is_null)
    return any(test(kind) for test in tests)


def _check_lists_of_nulls(batch: pa.RecordBatch) -> None:
    """Refuses nulls in lists of no type: millions of them take no bytes. Lists that are all empty are of that type."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_nested(column.type) and pa.types.is_null(column.type.value_type) and len(column.values):
            raise wrong(f"column {name[:80]!r} holds lists of nulls, expected values", field=name[:80])


def _check_messages(body: bytes) -> None:
    """Refuses compressed batches before a byte of them is unpacked, and dictionaries."""
    for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(body)):
        kind, header = _header(memoryview(message.metadata))
        if kind == DICTIONARY_BATCH:
            raise wrong("the stream holds dictionaries; send plain columns")
        if kind == RECORD_BATCH and _field(memoryview(message.metadata), header, COMPRESSION):
            raise Refusal(415, "the stream is compressed; send it as it is")


def _header(message: memoryview) -> tuple[int, int]:
    """Returns the kind of a message's header, and where it lies in the flatbuffer."""
    (root,) = struct.unpack_from("<I", message, 0)
    kind, header = _field(message, root, 1), _field(message, root, 2)
    if not kind or not header:
        raise ValueError("a message without header")
    (offset,) = struct.unpack_from("<I", message, header)
    return message[kind], header + offset


def _field(buffer: memoryview, table: int, number: int) -> int:
    """Returns where a field of a flatbuffer's table lies; 0 where the table lacks it."""
    (back,) = struct.unpack_from("<i", buffer, table)
    start = table - back
    (size,) = struct.unpack_from("<H", buffer, start)
    if 4 + 2 * number >= size:
        return 0
    (offset,) = struct.unpack_from("<H", buffer, start + 4 + 2 * number)
    return table + int(offset) if offset else 0
