"""Delimited files as users have them: what is dropped beside them, odd headers, lists, lines without end."""

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.data_pipeline.prepare.importers.delimited import prepare_delimited
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report
from shardrec.data_pipeline.prepare.steps.source import Inputs
from shardrec.data_pipeline.reading.index import DataSet

FEATURES = (
    "features:\n- {kind: id, name: user, ids: {kind: vocabulary}}\n- {kind: id, name: title, ids: {kind: vocabulary}}\n"
)
SPLIT = "labels: [{name: click}]\nsplit: {by: hash, fractions: {train: 1.0, validation: 0, test: 0}}\n"
RECIPE = FEATURES + SPLIT
TAGS = FEATURES + "- {kind: id_list, name: tags, ids: {kind: vocabulary}}\n" + SPLIT
HEADER = "user,title,click\n"
ZEROS = "0" * 30


def prepared(tmp_path: Path, source: str | Path, recipe: str = RECIPE) -> tuple[Report, Path]:
    (tmp_path / "r.yaml").write_text(recipe)
    out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
    return prepare_delimited(Inputs([source]), tmp_path / "r.yaml", Output(out)), out


def of_text(tmp_path: Path, text: str, recipe: str = RECIPE) -> Path:
    (tmp_path / "in.csv").write_text(text)
    return prepared(tmp_path, tmp_path / "in.csv", recipe)[1]


def values(out: Path, table: str) -> list[Any]:
    return sorted(pq.read_table(out / "vocabularies" / f"{table}.parquet").column("value").to_pylist())


def test_long_delimiters_in_quotes_are_text(tmp_path: Path) -> None:
    out = of_text(tmp_path, 'user::title::click\nu1::"a::b"::1\nu2::c\x01::0\n', "format: {delimiter: '::'}\n" + RECIPE)
    assert values(out, "title") == ["a::b", "c\x01"]


def test_a_column_that_is_there_twice_is_refused_where_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 1: column 'click' is there 2 times, expected it once"):
        of_text(tmp_path, "user,title,click,click\nu1,a,1,0\n")
    assert values(of_text(tmp_path, "user,title,click,note,note\nu1,a,1,,\n"), "user") == ["u1"]
    no_header = "format: {header: false, columns: [user, title, click, user]}\n" + RECIPE
    with pytest.raises(UserError, match="column 'user' is there 2 times"):
        of_text(tmp_path, "u1,a,1,u2\n", no_header)


def test_list_fields_have_no_empty_elements(tmp_path: Path) -> None:
    text = 'user,title,click,tags\nu1,a,1,Action|Comedy|\nu2,b,0,|Drama\nu3,c,0,||\nu4,d,1,\nu5,e,1,""\n'
    out = of_text(tmp_path, text, TAGS)
    assert values(out, "tags") == ["Action", "Comedy", "Drama"]
    assert [len(tags) for tags in pq.read_table(out / "train").column("tags").to_pylist()] == [2, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u1,a,1,x|,1|2\n", "line 2, column 'tags': found an empty element, expected one for each"),
        ("u1,a,1,x|y,1|2\nu1,a,1,x|y,|2\n", "line 3, column 'scores': found an empty element"),
    ],
)
def test_an_empty_element_that_has_another_beside_it_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Left out, the others would belong to the wrong ones."""
    weighted = TAGS.replace("name: tags,", "name: tags, weights: scores,")
    with pytest.raises(UserError, match=message):
        of_text(tmp_path, "user,title,click,tags,scores\n" + text, weighted)


PRICES = """
format: {delimiter: ";"}
features:
- {kind: id, name: item, ids: {kind: vocabulary}}
- {kind: dense, name: price, transforms: [{kind: standardise}]}
- {kind: sequence, name: past, ids: {kind: vocabulary}, table: item, max_length: 2, aligned: past}
- {kind: dense_sequence, name: paid, column: cost, transforms: [{kind: standardise}],
   missing: 4, max_length: 2, aligned: past}
- {kind: id, name: then, ids: {kind: vocabulary}, table: item, place: next, of: item}
- {kind: dense, name: then_paid, column: at_then, place: next, of: price, transforms: [{kind: standardise}]}
labels: [{name: click}]
propensity: p
time: at
split: {by: hash, fractions: {train: 1.0, validation: 0, test: 0}}
"""


def test_prices_beside_past_items_and_what_followed(tmp_path: Path) -> None:
    """Numbers are cut as the ids are, an empty one is missing, and moments are those of all elements there are."""
    text = (
        "item;price;past;cost;then;at_then;click;p;at\n"
        "a;1;a|b|c;9|2|;b;50;1;0.5;10\nb;3;;;c;60;0;0.25;11\nc;5;a;6;a;70;1;1;12\n"
    )
    out = of_text(tmp_path, text, PRICES)
    schema = Schema.load(out / "schema.yaml")
    assert (schema.propensity, schema.time, schema["paid"].columns) == ("p", "at", ("cost",))
    assert (schema["then"].place, schema["then"].of, schema["then"].table_name) == ("next", "item", "item")
    assert schema["then_paid"].transforms == schema["price"].transforms and schema["price"].transforms[0].mean == 3
    mean, deviation = np.mean([9, 2, 6]), np.std([9, 2, 6])
    (fitted,) = schema["paid"].transforms
    assert (fitted.mean, fitted.deviation) == pytest.approx((mean, deviation))
    rows = pq.read_table(out / "train")
    assert rows.column("cost").to_pylist() == [[2, None], [], [6]]
    assert rows.column("p").to_pylist() == [0.5, 0.25, 1] and rows.column("at").to_pylist() == [10, 11, 12]
    loader = Loader(DataSet.open(out / "train"), schema, folder=out, global_batch_size=3, order="time")
    (batch,) = loader.epoch(0)
    assert batch.ids["past"].lengths().tolist() == [2, 0, 1]
    expected = (np.array([2, 4, 6]) - mean) / deviation
    assert batch.dense_sequences["paid"].numpy() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(UserError, match="line 2, column 'past': found an empty element, expected one for each"):
        of_text(tmp_path, text.replace("a|b|c", "a||c"), PRICES)
    with pytest.raises(UserError, match="column 'past' has 3 elements and column 'cost' has 2, but both are aligned"):
        of_text(tmp_path, text.replace("9|2|", "9|2"), PRICES)
    without = PRICES.replace("missing: 4, ", "")
    with pytest.raises(UserError, match="line 2, column 'cost': found null, expected a finite number, or `missing`"):
        of_text(tmp_path, text, without)
    with pytest.raises(UserError, match="dense_sequence 'paid' is aligned as 'pst', but no sequence of ids is"):
        of_text(
            tmp_path, text, PRICES.replace("missing: 4, max_length: 2, aligned: past", "max_length: 2, aligned: pst")
        )


def test_what_spark_and_hadoop_drop_into_a_folder_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "part-00000.csv").write_text(HEADER + "u1,a,1\nu2,b,0\n")
    (folder / "part-00001.csv").write_text("")
    (folder / "part-00002.csv.gz").write_bytes(gzip.compress(b""))
    (folder / "part-00003.csv").write_text(HEADER)
    for name in ("_SUCCESS", "_committed_1", ".part-00000.csv.crc"):
        (folder / name).write_text("?")
    for source in (folder, folder / "*", folder / "*.csv*", tmp_path / "**" / "*.csv*"):
        assert prepared(tmp_path, source)[0].tally.rows == {"train": 2}
    (folder / "part-00000.csv").write_text("")
    (folder / "part-00003.csv").unlink()
    with pytest.raises(UserError, match="all 3 files are empty"):
        prepared(tmp_path, folder)


@pytest.mark.parametrize("compression", ["zstd", "bz2", "lz4"])
def test_other_compressions_are_told_by_content(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "in.csv"
    with pa.output_stream(path, compression=compression) as stream:
        stream.write((HEADER + "u1,a,1\n" * 5000).encode())
    assert prepared(tmp_path, path)[0].tally.rows == {"train": 5000}
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"in\.csv: damaged: "):
        prepared(tmp_path, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04....", "is a zip archive; unpack it"),
        (b"PAR1....", "is a Parquet file"),
        ((HEADER + "u1,a,1\n").encode("utf-16"), "begins as UTF-16 does, expected utf-8; set `encoding`"),
        (b"\xef\xbb\xbf\n\r\n", "is empty"),
        (HEADER.encode() + b'u1,"a,1\nu2,b,0\n', "line 2: a quote opens a field and is never closed; close it"),
        (b"x," * 100_000 + b"\n", "line 1: more than 100,000 fields; check the delimiter"),
        (HEADER.encode() + b"\n\r\nu1,a\n", "line 4: found 2 fields, expected 3"),
        (HEADER.encode() + b'\nu1,"a\n\n",x\n', "line 3, column 'click': found 'x', expected a number"),
        (HEADER.encode() + b"u1,a," + b"9x" * 50_000, r"found '(9x)+\.\.\. \(100,000 characters\)'"),
    ],
)
def test_what_is_no_such_text_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "in.csv").write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        prepared(tmp_path, tmp_path / "in.csv")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600


def test_names_with_signs_of_globs_stand_for_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "data [1]"
    folder.mkdir()
    (folder / "a*.csv").write_text(HEADER + "u1,a,1\n")
    (folder / "ab.csv").write_text(HEADER + "u1,a,1\nu2,b,1\n")
    assert prepared(tmp_path, folder / "a*.csv")[0].tally.rows == {"train": 1}
    assert prepared(tmp_path, folder / "a?.csv")[0].tally.rows == {"train": 3}
    assert prepared(tmp_path, folder)[0].tally.rows == {"train": 3}


def test_links_that_go_round_and_odd_paths_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "again").symlink_to("..")
    (folder / "x.csv").write_text(HEADER + "u1,a,1\n")
    assert prepared(tmp_path, folder / "**" / "*.csv")[0].tally.rows == {"train": 1}
    assert prepared(tmp_path, folder)[0].tally.rows == {"train": 1}
    os.mkfifo(tmp_path / "pipe")
    (folder / "x.csv").rename(tmp_path / "y.csv")
    for named, message in (
        ("loop", "no such file"),
        ("pipe", "is no regular file"),
        ("x" * 5000, "cannot be read as a path or glob|no such file"),
        ("a**b", "cannot be read as a path or glob|no file matches"),
        ("a\0b", "no such file|cannot be read"),
        ("in", "no files \\* in this folder; folders in it are not looked into"),
    ):
        with pytest.raises(UserError, match=message) as refused:
            prepared(tmp_path, tmp_path / named)
        assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("format: {encoding: utf-99}\n" + RECIPE, "format.encoding: unknown encoding 'utf-99'; expected one that"),
        ("format: {encoding: hex}\n" + RECIPE, "unknown encoding 'hex'"),
        ("format: {encoding: punycode}\n" + RECIPE, "unknown encoding 'punycode'"),
        ("format: {encoding: ''}\n" + RECIPE, "unknown encoding ''"),
        ("format: {quote: é}\n" + RECIPE, "quote: found 'é', expected an ASCII character"),
        ("format: {delimiter: '\",'}\n" + RECIPE, "delimiter: found '\",', expected no line end or quote in it"),
        ('format: {delimiter: "\\n"}\n' + RECIPE, "delimiter: found .* expected no line end"),
        ('format: {delimiter: "\\ud800"}\n' + RECIPE, "not valid YAML: .* invalid Unicode"),
        (RECIPE.replace("train: 1.0", "train: .nan"), "fractions.train: .* finite number"),
        (RECIPE.replace("{kind: vocabulary}", "{kind: vocabulary, min_count: 1" + ZEROS + "}", 1), "min_count: .* les"),
        (RECIPE.replace("{kind: vocabulary}", "{kind: vocabulary, max_size: 1" + ZEROS + "}", 1), "max_size: .* less"),
        (TAGS.replace("name: tags,", "name: tags, max_length: 1" + ZEROS + ","), "max_length: .* less"),
        (RECIPE.replace("by: hash,", "by: time, column: click, cuts: [1" + ZEROS + "],"), "cuts of type integer"),
        (RECIPE.replace("by: hash,", "by: time, column: click, type: number, cuts: [.nan],"), "cuts.0.* finite number"),
        (RECIPE.replace("{kind: vocabulary}", "{kind: voc" + "a" * 10_000 + "}", 1), r"\.\.\. \("),
    ],
)  # fmt: skip
def test_bad_values_of_recipes_are_one_line(tmp_path: Path, recipe: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        of_text(tmp_path, "user,title,click,tags\nu1,a,1,x\n", recipe)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1500
    assert not list(tmp_path.glob("*out*"))


ENDLESS = """
import resource, sys
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.commands import app
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for command in sys.argv[1:]:
    try:
        app(command.split(), standalone_mode=False)
    except UserError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_line_without_end_stays_within_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 MB of one line, as 300 kB of gzip, is refused from the first 40 MiB or so of it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    long = gzip.compress(b"1" * 10_000_000, 1) * 30
    commands = {
        f'delimited quoted out --recipe r.yaml\n{HEADER}u,"': "line 2: a quote opens a field and is not closed within",
        f"delimited field out --recipe r.yaml\n{HEADER}u,": "line 2: is longer than",
        "libfm x.libfm out\n1 ": "line 1: is longer than",
        'amazon out --reviews x.json\n{"reviewerID": "': "line 1: is longer than",
        "histories x.txt out\n1 2": "line 1: is longer than",
        'histories u.txt out --attributes a.json\n{"1": ["': "in an entry of more than",
    }
    (tmp_path / "u.txt").write_text("1 2 3\n")
    for command in commands:
        words, beginning = command.split("\n", 1)
        name = next(word for word in reversed(words.split()) if word not in ("out", "r.yaml", "--recipe"))
        (tmp_path / name).write_bytes(gzip.compress(beginning.encode()) + long)
    words = [command.split("\n")[0] for command in commands]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ran = subprocess.run([sys.executable, "-c", ENDLESS, *words], capture_output=True, text=True, env=environment)
    *lines, grown = ran.stdout.splitlines()
    assert len(lines) == len(commands), ran.stderr
    for line, message in zip(lines, commands.values(), strict=True):
        assert message in line
    assert int(grown) < 450_000  # kB; a line alone is 300,000, and reading it whole took several times that
