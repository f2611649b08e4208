"""Bytes are broken as users' files are: cut, doubled, flipped, joined, with odd numbers and signs put in."""

import random

TOKENS = (
    *(b"", b'"', b"'", b'""', b",", b"\t", b"|", b"::", b":", b"\n", b"\r", b"\r\n", b"\n\n", b"\0", b"\x01", b"\xff"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"nan", b"inf", b"-1", b"1e400", b"1e308", b"0", b"-0.0", b"null"),
    *(
        b"9223372036854775807",
        b"9223372036854775808",
        b"-9223372036854775808",
        b"4294967296",
        b"9" * 5000,
        b"x" * 20_000,
    ),
    *(
        b"{",
        b"}",
        b"[" * 3000,
        b"]",
        b"{}",
        b"[]",
        b"true",
        b"\\ud800",
        b"\\u0000",
        b"#",
        b"qid:1",
        b" ",
        b"()",
        b"~",
        b"*",
    ),
)


def mutated(data: bytes, chance: random.Random, tokens: tuple[bytes, ...] = TOKENS) -> bytes:
    """Returns data broken in one to three ways."""
    for _ in range(chance.randint(1, 3)):
        data = chance.choice(_WAYS)(data, chance, tokens)
    return data


def _span(data: bytes, chance: random.Random) -> tuple[int, int]:
    start = chance.randint(0, len(data))
    return start, min(len(data), start + chance.choice((1, 1, 2, 5, 20, 200)))


def _insert(data: bytes, chance: random.Random, tokens: tuple[bytes, ...]) -> bytes:
    at = chance.randint(0, len(data))
    return data[:at] + chance.choice(tokens) + data[at:]


def _replace(data: bytes, chance: random.Random, tokens: tuple[bytes, ...]) -> bytes:
    start, stop = _span(data, chance)
    return data[:start] + chance.choice(tokens) + data[stop:]


def _delete(data: bytes, chance: random.Random, _: tuple[bytes, ...]) -> bytes:
    start, stop = _span(data, chance)
    return data[:start] + data[stop:]


def _double(data: bytes, chance: random.Random, _: tuple[bytes, ...]) -> bytes:
    start, stop = _span(data, chance)
    return data[:stop] + data[start:stop] + data[stop:]


def _flip(data: bytes, chance: random.Random, _: tuple[bytes, ...]) -> bytes:
    if not data:
        return data
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def _word(data: bytes, chance: random.Random, tokens: tuple[bytes, ...]) -> bytes:
    """Replaces one word, so that what is around it still can be read."""
    import re

    words = list(re.finditer(rb"[\w.-]+", data))
    if not words:
        return data
    word = chance.choice(words)
    return data[: word.start()] + chance.choice(tokens) + data[word.end() :]


def _cut(data: bytes, chance: random.Random, _: tuple[bytes, ...]) -> bytes:
    return data[: chance.randint(0, len(data))]


def _shuffle_lines(data: bytes, chance: random.Random, _: tuple[bytes, ...]) -> bytes:
    lines = data.splitlines(keepends=True)
    chance.shuffle(lines)
    return b"".join(lines[: chance.randint(0, len(lines))])


_WAYS = (_insert, _replace, _delete, _double, _flip, _word, _word, _word, _cut, _shuffle_lines)
