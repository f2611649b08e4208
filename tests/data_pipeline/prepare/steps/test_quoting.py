"""Quoted fields against Python's csv module: the same rows, at the same lines, wherever blocks end."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.importers import criteo, libfm, movielens
from shardrec.data_pipeline.prepare.importers.delimited import prepare_delimited
from shardrec.data_pipeline.prepare.steps import lines as lines_module
from shardrec.data_pipeline.prepare.steps.preparation import Output
from shardrec.data_pipeline.prepare.steps.quoting import Quoted
from shardrec.data_pipeline.prepare.steps.source import Inputs
from shardrec.data_pipeline.prepare.steps.text import TextFile, TextFormat

Row = tuple[int, list[str]]


def by_csv(text: str, form: TextFormat) -> Iterator[Row]:
    """Python's rows with the line that each begins in; empty lines are none."""
    how: dict[str, Any] = {"quotechar": form.quote} if form.quote else {"quoting": csv.QUOTE_NONE}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=form.delimiter, **how)
    line = 1
    for row in reader:
        if row:
            yield line, row
        line = reader.line_num + 1


def by_character(text: str, form: TextFormat) -> Iterator[Row]:
    """The same with delimiters of any length, one character after the other."""
    at, line, begun, row, field, quoted = 0, 1, 1, [""], "", False
    opened = False  # whether the field has been begun
    while at < len(text):
        c = text[at]
        if quoted:
            if c == form.quote and text[at + 1 : at + 2] == form.quote:
                at += 1
            elif c == form.quote:
                quoted, c = False, ""
            line += c == "\n" or (c == "\r" and text[at + 1 : at + 2] != "\n")
            row[-1] += c
        elif c == form.quote and not opened:
            quoted = opened = True
        elif text.startswith(form.delimiter, at):
            row, opened = [*row, ""], False
            at += len(form.delimiter) - 1
        elif c in "\r\n":
            at += text.startswith("\r\n", at)
            if row != [""] or opened:
                yield begun, row
            line += 1
            begun, row, opened = line, [""], False
        else:
            row[-1] += c
            opened = True
        at += 1
    assert not field
    if row != [""] or opened:
        yield begun, row


def read(path: Path, raw: bytes, form: TextFormat, fields: int, block: int) -> list[Row]:
    path.write_bytes(raw)
    names = [f"x{i}" for i in range(fields)]
    file = TextFile(str(path), form, dict.fromkeys(names, pa.string()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "BLOCK_BYTES", block)
        patch.setattr(lines_module, "_FIRST_BYTES", block)
        return [
            (int(origin.row(i).split()[-1]), [v or "" for v in row.values()])
            for batch, origin in file.batches()
            for i, row in enumerate(batch.to_pylist())
        ]


ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\r\n\r\n", "\n\r"])
DELIMITERS = st.sampled_from([",", "\t", "|", ";", " ", "\x01", "::", "|;", "§", "aa", ":::"])
CHARACTERS = 'ab", \t|;:\x01\x1f§é日\ufeff\n\r'
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gb18030", "utf-7"]


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, TextFormat, int]:
    """Rows of equally many fields, most of them written well; perhaps with a character less."""
    quote = draw(st.sampled_from(['"', '"', "'", None]))
    delimiter = draw(DELIMITERS)
    fields = draw(st.integers(1, 4))
    form = TextFormat(
        delimiter=delimiter,
        quote=quote,
        header=draw(st.booleans()),
        columns=tuple(f"x{i}" for i in range(fields)),
        encoding=draw(st.sampled_from(ENCODINGS)),
    )
    plain = st.text(CHARACTERS, max_size=6).map(
        lambda s: s.replace(delimiter, "").replace("\n", "").replace("\r", "").lstrip(quote or "")
    )
    written = plain
    if quote:
        doubled = st.text(CHARACTERS + quote, max_size=8).map(lambda s: quote + s.replace(quote, 2 * quote) + quote)
        written = plain | doubled | doubled | st.tuples(doubled, plain).map("".join)
    rows = draw(st.lists(st.lists(written, min_size=fields, max_size=fields), max_size=6))
    text = delimiter.join(form.columns or ()) + draw(ENDS)
    for row in rows:
        text += delimiter.join(row) + draw(ENDS)
    if draw(st.booleans()):
        text = text.rstrip("\r\n")
    if draw(st.integers(0, 5)) == 0:
        at = draw(st.integers(0, len(text) - 1))
        text = text[:at] + text[at + 1 :]
    return text.removeprefix("\ufeff"), form, fields


@settings(max_examples=400)
@given(texts(), st.integers(4, 40))
def test_rows_and_their_lines_are_those_of_csv(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[str, TextFormat, int], block: int
) -> None:
    text, form, fields = drawn
    path = tmp_path_factory.getbasetemp() / "quoting.csv"
    expected = list(by_character(text, form))
    if len(form.delimiter) == 1:
        assert expected == list(by_csv(text, form))
    open_at_end = form.quote is not None and _stays_open(text, form)
    odd = next(((line, row) for line, row in expected if len(row) != fields), None)
    try:
        found = read(path, text.encode(form.encoding), form, fields, block)
    except UserError as error:
        if not expected:
            assert "is empty" in str(error)
        elif open_at_end:
            assert "a quote opens a field" in str(error) or "fields, expected" in str(error)
        else:
            assert odd is not None and f"line {odd[0]}: found {len(odd[1])} fields" in str(error)
        return
    assert not open_at_end and (odd is None or (form.header and odd == expected[0]))
    assert found == expected[form.header :]


def _stays_open(text: str, form: TextFormat) -> bool:
    """A quote is open at the end where another line would go on with the field."""
    one, more = list(by_character(text, form)), list(by_character(text + "\n\n?", form))
    return bool(one) and len(one) == len(more)


@settings(max_examples=300)
@given(st.text('a",\n', max_size=40))
@example('""\n"a""",""""\n')
def test_quotes_are_found_alike_in_one_go_and_one_by_one(text: str) -> None:
    raw = text.encode()
    at = [i for i, c in enumerate(text) if c == '"']
    found, walked = Quoted.of(raw, b'"', b","), Quoted._walked(raw, at, (ord(","), ord("\n"), ord("\r")))
    every = list(range(len(raw)))
    breaks = [i for i in every if text[i] in ",\n"]
    assert found.hold(_array(breaks)).tolist() == walked.hold(_array(breaks)).tolist()
    assert (len(found.starts) > len(found.ends)) == (len(walked.starts) > len(walked.ends))


def _array(values: list[int]) -> Any:
    return pa.array(values, pa.int64()).to_numpy()


FORMATS = {
    "criteo": criteo.recipe().format,
    "movielens 1m": movielens.RATINGS_1M,
    "movielens 100k": movielens.RATINGS_100K,
    "libfm": libfm._LINE,
    "avazu": TextFormat(quote=None),
    "ncf and frappe": TextFormat(delimiter="\t", header=False, quote=None),
}


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40)
@given(
    st.lists(st.lists(st.text("a\"' é", min_size=1, max_size=5), min_size=3, max_size=3), min_size=1, max_size=5), ENDS
)
def test_formats_without_quotes_keep_them_as_characters(
    tmp_path_factory: pytest.TempPathFactory, name: str, rows: list[list[str]], end: str
) -> None:
    form = FORMATS[name].model_copy(update={"columns": ("x0", "x1", "x2"), "header": False})
    text = "".join(form.delimiter.join(row) + end for row in rows)
    path = tmp_path_factory.getbasetemp() / "plain.csv"
    found = read(path, text.encode(form.encoding), form, 3, 5)
    assert found == list(by_character(text, form))
    assert [row for _, row in found] == rows


def test_line_breaks_in_quotes_beyond_a_block(tmp_path: Path) -> None:
    """Blocks of 8 MiB end within quotes, and every row is counted once."""
    rows = 45_000
    text = "user,title,click\n" + "".join(f'u{k},"a\n' + "b\n" * 99 + f'",{k % 2}\n' for k in range(rows))
    assert len(text) > lines_module.BLOCK_BYTES
    (tmp_path / "in.csv").write_text(text)
    (tmp_path / "r.yaml").write_text(
        "features:\n- {kind: id, name: title, ids: {kind: vocabulary}}\nlabels: [{name: click}]\n"
        "split: {by: hash, fractions: {train: 1}}\n"
    )
    report = prepare_delimited(Inputs([tmp_path / "in.csv"]), tmp_path / "r.yaml", Output(tmp_path / "out"))
    assert report.tally.rows == {"train": rows}
    assert report.schema["title"].num_embeddings == 2
    (tmp_path / "in.csv").write_text(text + "u,t,x\n")
    with pytest.raises(UserError, match=f"line {rows * 101 + 2}, column 'click': found 'x'"):
        prepare_delimited(Inputs([tmp_path / "in.csv"]), tmp_path / "r.yaml", Output(tmp_path / "out2"))
