"""Raw files and recipes of every `shardrec prepare` command that reads any, broken at random."""

import bz2
import gzip
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from typer.testing import CliRunner

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.commands import app
from shardrec.data_pipeline.prepare.importers.avazu import COLUMNS
from tests.fuzzing.broken_bytes import TOKENS, mutated

LONGEST_MESSAGE = 2500
RECIPE = """format: {delimiter: ",", quote: '"', encoding: utf-8, null_values: [""]}
features:
- {kind: id, name: user, ids: {kind: vocabulary, min_count: 1, max_size: 1000}}
- {kind: id, name: item, ids: {kind: vocabulary}, type: integer}
- {kind: id, name: shop, ids: {kind: hash, num_ids: 50, seed: 2}}
- {kind: id, name: both, ids: {kind: cross, columns: [user, shop], num_ids: 99}}
- {kind: id, name: hour, ids: {kind: bucketize, boundaries: [6, 12, 18]}}
- {kind: sequence, name: history, ids: {kind: vocabulary}, type: integer, table: item, max_length: 3, aligned: h}
- {kind: dense_sequence, name: paid, transforms: [{kind: standardise}], missing: 1, max_length: 3, aligned: h}
- {kind: id, name: later, column: item, ids: {kind: vocabulary}, type: integer, table: item, place: next, of: item}
- {kind: id_list, name: tags, ids: {kind: hash, num_ids: 9}, weights: scores, max_length: 4}
- {kind: dense, name: price, transforms: [{kind: log}, {kind: standardise}, {kind: clip, low: -3, high: 3}], missing: 0}
labels: [{name: click, threshold: 0.5}]
weight: w
group: user
keys: [row]
propensity: w
time: hour
time_type: number
split: {by: hash, columns: [user], fractions: {train: 0.8, validation: 0.1, test: 0.1}, seed: 0}
negative_rate: 1.0
seed: 0
"""
BY_TIME = "split: {by: time, column: hour, type: number, cuts: [8, 14]}\n"
BY_COLUMN = "split: {by: column, column: shop, values: {s0: train, s1: validation, s2: test, s3: train}}\n"
VALUES = (
    *(
        b"-1",
        b"0",
        b"1e400",
        b".nan",
        b".inf",
        b"-.inf",
        b"null",
        b"true",
        b"9" * 30,
        b"9" * 5000,
        b"[]",
        b"{}",
        b"[1, a]",
    ),
    *(
        b"utf-8",
        b"utf-99",
        b"hex",
        b"utf-16",
        b'"\\ud800"',
        b'"\\0"',
        b'"\\n"',
        b'""',
        b"x" * 3000,
        b"2020-01-01",
        b"a/../b",
    ),
    *(
        b"id",
        b"dense",
        b"hash",
        b"identity",
        b"raw",
        b"string",
        b"number",
        b"integer",
        b"user",
        b"row",
        b"time",
        b"label",
    ),
)


class Importer(NamedTuple):
    """An importer is the name and arguments of a command, and files that it reads: name -> content."""

    arguments: tuple[str, ...]
    files: dict[str, bytes]


def _text(rows: int, line: Callable[[int], str]) -> bytes:
    return "".join(line(i) + "\n" for i in range(rows)).encode()


def _log(delimiter: str = ",") -> bytes:
    head = delimiter.join(
        ("row", "user", "item", "shop", "hour", "history", "paid", "tags", "scores", "price", "click", "w")
    )
    fields = "r{i},u{u},{v},s{s},{h}.5,1|2|{v},0.5||{h},x|y,0.5|1,{v}.25,{c},1"
    return _text(
        40,
        lambda i: (
            fields.format(i=i, u=i % 5, v=i % 7, s=i % 4, h=i % 24, c=i % 2).replace(",", delimiter) if i else head
        ),
    )


def _of_columns() -> dict[str, Importer]:
    """Returns importers of single rows."""
    frappe = "user\titem\tcnt\tdaytime\tweekday\tisweekend\thomework\tcost\tweather\tcountry\tcity"
    avazu = ",".join(COLUMNS)
    bandit = ",timestamp,item_id,position,click,propensity_score,user_feature_0"
    bandit += "".join(f",user-item_affinity_{i}" for i in range(3))
    return {
        "delimited": Importer(
            ("delimited", "x.csv", "OUT", "--recipe", "r.yaml"), {"x.csv": _log(), "r.yaml": RECIPE.encode()}
        ),
        "delimited ::": Importer(
            ("delimited", "x.csv", "OUT", "--recipe", "r.yaml"),
            {"x.csv": _log("::"), "r.yaml": RECIPE.replace('","', '"::"').encode()},
        ),
        "implicit": Importer(
            ("implicit", "x.csv", "OUT", "--time", "price", "--time-type", "number", "--candidates", "2"),
            {"x.csv": _log()},
        ),
        "criteo": Importer(
            ("criteo", "x.txt", "OUT", "--min-count", "1"),
            {"x.txt": _text(30, lambda i: "\t".join([str(i % 2), *[str(i)] * 13, *[f"{i % 3:08x}"] * 26]))},
        ),
        "avazu": Importer(
            ("avazu", "x.csv", "OUT", "--by-time"),
            {
                "x.csv": _text(
                    40,
                    lambda i: (
                        ",".join([str(i), str(i % 2), f"1410{21 + i % 9}{i % 24:02}", *["a"] * 21]) if i else avazu
                    ),
                )
            },
        ),
        "libfm": Importer(
            ("libfm", "x.libfm", "OUT", "--fields", "f.txt"),
            {"x.libfm": _text(30, lambda i: f"{i % 2} {i % 5}:1 {5 + i % 7}:1"), "f.txt": b"user 0\nitem 5\n"},
        ),
        "libfm svm": Importer(
            ("libfm", "x.svm", "OUT"),
            {"x.svm": _text(30, lambda i: f"{i % 3} qid:{i} {i % 5}:0.5 {5 + i % 7}:1 # note")},
        ),
        "open-bandit": Importer(
            ("open-bandit", "OUT", "men.csv", "--candidates"),
            {
                "men.csv": _text(
                    40,
                    lambda i: (
                        f"{i},2019-11-24 00:00:{i:02}.5+00:00,{i % 3},{1 + i % 3},{i % 2},0.{i:02},u{i % 4},{i},0.5,-1"
                        if i
                        else bandit
                    ),
                ),
                "item_context.csv": b",item_id,item_feature_0,item_feature_1\n0,0,0.5,a\n1,1,-1.25,b\n2,2,3.0,a\n",
            },
        ),
        "frappe": Importer(
            ("frappe", ".", "OUT", "--raw"),
            {"frappe.csv": _text(30, lambda i: f"{i % 4}\t{i % 9}\t1\ta\tb\tc\td\te\tf\tg\th" if i else frappe)},
        ),
    }


def _of_movielens() -> dict[str, Importer]:
    """Returns importers of MovieLens' files."""
    ratings = _text(60, lambda i: f"{1 + i % 6}::{1 + i * 7 % 11}::{1 + i % 5}::{978300000 + i}")
    users = _text(6, lambda i: f"{1 + i}::{'MF'[i % 2]}::{(1, 18, 25)[i % 3]}::{i}::0{i}370")
    movies = _text(11, lambda i: f"{1 + i}::Film {i} (19{80 + i})::Drama|Comedy")
    movielens = {"ratings.dat": ratings, "users.dat": users, "movies.dat": movies}
    flags = "|".join(["0", "1", "1", *["0"] * 16])
    smaller = {
        "u.data": ratings.replace(b"::", b"\t"),
        "u.user": _text(6, lambda i: f"{1 + i}|{20 + i}|M|artist|0{i}370"),
        "u.item": _text(11, lambda i: f"{1 + i}|Film {i}|01-Jan-199{i % 10}||http://x|{flags}"),
    }
    return {
        "movielens": Importer(("movielens", ".", "OUT"), movielens),
        "movielens 100k": Importer(("movielens", ".", "OUT"), smaller),
        "ratings": Importer(("ratings", ".", "OUT"), {"ratings.dat": ratings}),
        "movielens-histories": Importer(("movielens-histories", ".", "OUT"), movielens),
    }


def _of_behaviour() -> dict[str, Importer]:
    """Returns importers of users' histories."""
    histories = _text(20, lambda i: f"{i} " + " ".join(str(1 + (i * 3 + j) % 13) for j in range(6)))
    review = '{{"reviewerID": "u{u}", "asin": "a{a}", "unixReviewTime": {t}, "text": "{{x"}}'
    return {
        "histories": Importer(
            ("histories", "x.txt", "OUT", "--attributes", "a.json"),
            {"x.txt": histories, "a.json": json.dumps({str(i): [f"c{i % 3}", i] for i in range(1, 14)}).encode()},
        ),
        "amazon": Importer(
            ("amazon", "OUT", "--reviews", "r.json", "--metadata", "m.json"),
            {
                "r.json": _text(60, lambda i: review.format(u=i % 5, a=i * 7 % 29, t=1400000000 + i)),
                "m.json": _text(29, lambda i: str({"asin": f"a{i}", "categories": [["x", f"c{i % 3}"]]})),
            },
        ),
        "ncf": Importer(
            ("ncf", ".", "OUT"),
            {
                "n.train.rating": _text(300, lambda i: f"{i % 10}\t{i * 7 % 150}\t1\t{i}"),
                "n.test.rating": _text(10, lambda i: f"{i}\t{(i + 3) % 150}\t1\t{i}"),
                "n.test.negative": _text(10, lambda i: f"({i},{(i + 3) % 150})\t{20 + i}\t{40 + i}"),
            },
        ),
    }


IMPORTERS = _of_columns() | _of_movielens() | _of_behaviour()
_PACKED = (gzip.compress, bz2.compress)


def one(chance: random.Random) -> None:
    """Breaks one file of one importer and runs it. Raises whatever is no UserError of one short line."""
    name = chance.choice(list(IMPORTERS))
    importer = IMPORTERS[name]
    files = dict(importer.files)
    file = chance.choice(list(files))
    if file == "r.yaml":
        files[file] = _recipe(files[file], chance)
    else:
        files[file] = mutated(files[file], chance, TOKENS)
    if chance.random() < 0.1:
        files[file] = mutated(chance.choice(_PACKED)(files[file]), chance)
    with tempfile.TemporaryDirectory() as folder:
        run(write(importer, files, Path(folder)), Path(folder, "OUT"))


def write(importer: Importer, files: dict[str, bytes], folder: Path) -> list[str]:
    """Writes files for an importer and returns its arguments."""
    for path, content in files.items():
        (folder / path).write_bytes(content)
    return [str(folder / a) if a in (*files, ".", "OUT") else a for a in importer.arguments]


def run(arguments: list[str], out: Path) -> None:
    """Runs a command in this process. Raises for a traceback, a message that is long, or a folder left over."""
    result = CliRunner().invoke(app, arguments)
    error = result.exception
    if isinstance(error, UserError):
        message = str(error)
        assert "\n" not in message and len(message) <= LONGEST_MESSAGE, message[:5000]
        assert not out.exists() and not list(out.parent.glob(".OUT*")), message
    elif error is not None:
        raise error


def _recipe(recipe: bytes, chance: random.Random) -> bytes:
    split = chance.choice((b"", b"", BY_TIME.encode(), BY_COLUMN.encode()))
    if split:
        recipe = b"".join(split if line.startswith(b"split:") else line for line in recipe.splitlines(keepends=True))
    return mutated(recipe, chance, VALUES if chance.random() < 0.8 else TOKENS)
