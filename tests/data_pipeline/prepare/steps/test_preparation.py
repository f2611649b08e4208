"""Recipes applied to delimited files: what is written against plain Python over the same lines."""

import filecmp
import gzip
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
import yaml

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdFeature
from shardrec.data_pipeline.features.id_transforms import Vocabulary
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.features.transforms import FeatureReader
from shardrec.data_pipeline.files.owned_files import MARKER
from shardrec.data_pipeline.prepare.importers.delimited import prepare_delimited
from shardrec.data_pipeline.prepare.steps.fitting import Moments, ValueCounts
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report
from shardrec.data_pipeline.prepare.steps.recipe import Recipe
from shardrec.data_pipeline.prepare.steps.source import Inputs
from tests import ROOT

RECIPE: dict[str, Any] = {
    "features": [
        {"kind": "id", "name": "user", "column": "user_id", "ids": {"kind": "vocabulary", "min_count": 3}},
        {"kind": "id", "name": "city", "ids": {"kind": "vocabulary"}, "missing": "row"},
        {"kind": "id", "name": "town", "column": "city", "ids": {"kind": "raw"}, "missing": "row"},
        {"kind": "id", "name": "shop", "ids": {"kind": "hash", "num_ids": 50, "seed": 2}},
        {"kind": "id", "name": "both", "ids": {"kind": "cross", "columns": ["user_id", "shop"], "num_ids": 99}},
        {"kind": "id", "name": "hour", "ids": {"kind": "bucketize", "boundaries": [6, 12, 18]}},
        {"kind": "id", "name": "item", "ids": {"kind": "vocabulary", "min_count": 2}, "type": "integer"},
        {
            "kind": "sequence",
            "name": "history",
            "ids": {"kind": "vocabulary", "min_count": 2},
            "type": "integer",
            "table": "item",
            "max_length": 3,
        },
        {"kind": "id_list", "name": "tags", "ids": {"kind": "hash", "num_ids": 9}, "weights": "scores"},
        {"kind": "dense", "name": "price", "transforms": [{"kind": "log"}, {"kind": "standardise"}], "missing": 0},
    ],
    "labels": [{"name": "click"}],
    "weight": "w",
    "group": "user_id",
    "keys": ["row", "user_id"],
    "split": {"by": "hash", "columns": ["user_id", "row"], "fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}},
}
COLUMNS = [
    *("row", "user_id", "city", "shop", "hour", "item", "history", "tags", "scores", "price", "click", "w", "unused")
]


def lines(n: int, seed: int = 0) -> list[dict[str, str]]:
    chance = random.Random(seed)
    made = []
    for i in range(n):
        tags = [chance.choice("xyz") for _ in range(chance.randrange(3))]
        values = [
            f"r{seed}-{i}",
            f"u{int(chance.expovariate(0.1))}",
            chance.choice(["", "Bonn", "Rom", "Oslo"]),
            f"s{chance.randrange(20)}",
            f"{chance.randrange(240) / 10}",
            str(int(chance.expovariate(0.2))),
            "|".join(str(int(chance.expovariate(0.2))) for _ in range(chance.randrange(6))),
            "|".join(tags),
            "|".join(str(chance.randrange(8) / 4) for _ in tags),
            chance.choice(["", f"{chance.expovariate(0.01):.3f}"]),
            str(int(chance.random() < 0.3)),
            f"{1 + chance.randrange(3)}",
            "?",
        ]
        made.append(dict(zip(COLUMNS, values, strict=True)))
    return made


def write(path: Path, rows: list[dict[str, str]], zipped: bool = False) -> Path:
    text = "\n".join([",".join(COLUMNS), *(",".join(r.values()) for r in rows)]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    return path


def run(tmp_path: Path, inputs: Inputs, recipe: dict[str, Any] | None = None, **output: Any) -> tuple[Path, Report]:
    declared = tmp_path / "recipe.yaml"
    declared.write_text(yaml.safe_dump(recipe or RECIPE))
    out = tmp_path / output.pop("name", "out")
    return out, prepare_delimited(inputs, declared, Output(out, **output))


def table(folder: Path, split: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / split).to_pylist() if (folder / split).is_dir() else []


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, str]], Path, Report]:
    folder = tmp_path_factory.mktemp("prepared")
    rows = lines(900) + lines(700, seed=1)
    files = [write(folder / "a.csv", rows[:900]), write(folder / "b.csv.gz", rows[900:], zipped=True)]
    return rows, *run(folder, Inputs(files), row_group_rows=128, file_rows=256)


def test_every_row_is_in_one_split_in_order(prepared: Any) -> None:
    rows, out, report = prepared
    order = {r["row"]: i for i, r in enumerate(rows)}
    seen: list[int] = []
    for split in ("train", "validation", "test"):
        places = [order[r["row"]] for r in table(out, split)]
        assert places == sorted(places)
        assert len(places) == report.tally.rows[split]
        seen += places
    assert sorted(seen) == list(range(len(rows)))
    assert 850 < report.tally.rows["train"] < 1070
    made = ["schema.yaml", "test", "train", "validation", "vocabularies"]
    assert sorted(f.name for f in out.iterdir()) == [MARKER, *made]
    for file in (out / "train").glob("*"):
        assert pq.ParquetFile(file).metadata.num_rows <= 256


def test_vocabularies_hold_training_values_only_most_frequent_first(prepared: Any) -> None:
    rows, out, _ = prepared
    raw = {r["row"]: r for r in rows}
    train = [raw[r["row"]] for r in table(out, "train")]
    items = [v for r in train for v in [r["item"], *r["history"].split("|")] if v]
    for name, values, least, kind in (
        ("user", [r["user_id"] for r in train], 3, str),
        ("city", [r["city"] for r in train if r["city"]], 1, str),
        ("item", items, 2, int),
    ):
        counts = Counter(kind(v) for v in values)
        expected = sorted(((v, n) for v, n in counts.items() if n >= least), key=lambda x: (-x[1], x[0]))
        found = pq.read_table(out / "vocabularies" / f"{name}.parquet").to_pylist()
        assert [(r["value"], r["count"]) for r in found] == expected
    everything = {r["user_id"] for r in rows}
    assert len(everything) > len({r["user_id"] for r in train}) > 0  # else the test shows nothing


def test_rows_are_what_the_recipe_says(prepared: Any) -> None:
    rows, out, _ = prepared
    raw = {r["row"]: r for r in rows}

    def vocabulary(name: str) -> dict[Any, int]:
        values = pq.read_table(out / "vocabularies" / f"{name}.parquet").column("value").to_pylist()
        return {v: i + 1 for i, v in enumerate(values)}

    users, cities, items = vocabulary("user"), vocabulary("city"), vocabulary("item")

    def digest(text: str) -> bytes:
        return xxhash.xxh64(text.encode()).digest()[::-1]

    for split in ("train", "validation", "test"):
        for r in table(out, split):
            source = raw[r["row"]]
            history = [items.get(int(v), 0) for v in source["history"].split("|") if v]
            tags = [v for v in source["tags"].split("|") if v]
            town = digest(source["city"]) if source["city"] else bytes(7) + b"\x80"
            both = digest(source["user_id"]) + digest(source["shop"])
            assert r == {
                "user": users.get(source["user_id"], 0),
                "city": cities.get(source["city"], 0) if source["city"] else len(cities) + 1,
                "town": int.from_bytes(town, "little", signed=True),
                "shop": xxhash.xxh64_intdigest(source["shop"].encode(), 2) % 50,
                "both": xxhash.xxh64_intdigest(both) % 99,
                "hour": sum(float(source["hour"]) >= b for b in (6, 12, 18)),
                "item": items.get(int(source["item"]), 0),
                "history": history[-3:],
                "tags": [xxhash.xxh64_intdigest(v.encode()) % 9 for v in tags],
                "tags_weights": [float(v) for v in source["scores"].split("|") if v],
                "price": pytest.approx(float(source["price"]), rel=1e-6) if source["price"] else None,
                "click": float(source["click"]),
                "w": float(source["w"]),
                "row": source["row"],
                "user_id": source["user_id"],
            }


def test_the_written_schema_reads_the_rows_and_serves_raw_ones(prepared: Any) -> None:
    rows, out, report = prepared
    schema = Schema.load(out / "schema.yaml")
    assert schema == report.schema
    assert (schema.group, schema.keys, schema.weight) == ("user_id", ("row", "user_id"), "w")
    batch = pq.read_table(out / "test").combine_chunks().to_batches()[0]
    raw = {r["row"]: r for r in rows}
    mine = [raw[r] for r in batch.column("row").to_pylist()]
    served = pa.RecordBatch.from_pydict(
        {
            "user_id": [r["user_id"] for r in mine],
            "city": [r["city"] or None for r in mine],
            "shop": [r["shop"] for r in mine],
            "hour": [float(r["hour"]) for r in mine],
            "item": [int(r["item"]) for r in mine],
            "history": [[int(v) for v in r["history"].split("|") if v] for r in mine],
            "tags": [[v for v in r["tags"].split("|") if v] for r in mine],
            "tags_weights": [[float(v) for v in r["scores"].split("|") if v] for r in mine],
            "price": [float(r["price"]) if r["price"] else None for r in mine],
        }
    )
    for written, serving in zip(schema.features, schema.raw().features, strict=True):
        a, b = FeatureReader(written, out), FeatureReader(serving, out)
        a.check(batch.schema, "prepared")
        b.check(served.schema, "raw")
        for x, y in zip(a(batch, "prepared"), b(served, "raw"), strict=True):
            if x is not None and y is not None:
                np.testing.assert_allclose(x, y, rtol=1e-6)
            assert (x is None) == (y is None)


def test_standardise_is_fitted_on_training_rows_without_missing_values(prepared: Any) -> None:
    _, out, report = prepared
    logs = [np.log1p(r["price"]) for r in table(out, "train") if r["price"] is not None]
    step = report.schema["price"].transforms[1]
    assert step.mean == pytest.approx(np.mean(logs), rel=1e-6)
    assert step.deviation == pytest.approx(np.std(logs), rel=1e-6)


@pytest.mark.parametrize("largest", ["1e300", "1e308"])  # whose squares, whose sums are infinite
def test_numbers_without_a_deviation_are_named(tmp_path: Path, largest: str) -> None:
    file, recipe = tmp_path / "a.csv", tmp_path / "recipe.yaml"
    file.write_text(f"paid,click\n{largest},1\n-{largest},0\n{largest},1\n{largest},0\n")
    feature = {"kind": "dense", "name": "paid", "transforms": [{"kind": "standardise"}]}
    recipe.write_text(yaml.safe_dump({"features": [feature], "labels": [{"name": "click"}]}))
    with pytest.raises(UserError, match="paid: its numbers are too large for a mean and a deviation"):
        prepare_delimited(Inputs([file]), recipe, Output(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_two_ray_workers_write_the_same_bytes(prepared: Any, tmp_path: Path) -> None:
    import ray

    rows, out, report = prepared
    files = [write(tmp_path / "a.csv", rows[:900]), write(tmp_path / "b.csv.gz", rows[900:], zipped=True)]
    other, found = run(tmp_path, Inputs(files), row_group_rows=128, file_rows=256, workers=2)
    assert not ray.is_initialized()
    assert found.tally == report.tally
    names = sorted(str(f.relative_to(out)) for f in out.rglob("*") if f.is_file())
    assert names == sorted(str(f.relative_to(other)) for f in other.rglob("*") if f.is_file())
    same, different, failed = filecmp.cmpfiles(out, other, names, shallow=False)
    assert (sorted(same), different, failed) == (names, [], [])


def test_a_wrong_line_on_a_worker_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    rows = lines(300)
    rows[250]["hour"] = "late"
    with pytest.raises(UserError, match=r"b\.csv, line 252, column 'hour': found 'late', expected a number"):
        run(tmp_path, Inputs([write(tmp_path / "a.csv", lines(50, 5)), write(tmp_path / "b.csv", rows)]))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.csv", "b.csv", "recipe.yaml"]


def changed(**changes: Any) -> dict[str, Any]:
    return {**RECIPE, **changes}


def test_negatives_are_left_out_of_training_only(tmp_path: Path, prepared: Any) -> None:
    rows, whole, _ = prepared
    files = [write(tmp_path / "a.csv", rows[:900]), write(tmp_path / "b.csv", rows[900:])]
    out, report = run(tmp_path, Inputs(files), changed(negative_rate=0.25))
    assert report.schema.negative_rate == 0.25
    for split in ("validation", "test"):
        assert [r["row"] for r in table(out, split)] == [r["row"] for r in table(whole, split)]
    before, after = table(whole, "train"), table(out, "train")
    kept = {r["row"] for r in after}
    assert {r["row"] for r in before if r["click"] == 1} <= kept <= {r["row"] for r in before}
    negatives = sum(r["click"] == 0 for r in before)
    assert sum(r["click"] == 0 for r in after) == pytest.approx(0.25 * negatives, abs=0.06 * negatives)
    assert report.tally.dropped == len(before) - len(after)
    assert pq.read_table(out / "vocabularies" / "city.parquet").column("count").to_numpy().sum() == sum(
        bool(r["city"] != 4) for r in after
    )


def test_given_files_are_splits_and_a_test_file_may_lack_labels(tmp_path: Path) -> None:
    train, validation = write(tmp_path / "a.csv", lines(80)), write(tmp_path / "b.csv", lines(30, 1))
    test = tmp_path / "c.csv"
    keep = [c for c in COLUMNS if c != "click"]
    text = [",".join(keep), *(",".join(r[c] for c in keep) for r in lines(20, 2))]
    test.write_text("\n".join(text) + "\n")
    out, report = run(tmp_path, Inputs([train], [validation], [test]))
    assert report.tally.rows == {"train": 80, "validation": 30, "test": 20}
    assert [r["click"] for r in table(out, "test")] == [None] * 20
    assert pq.read_schema(next((out / "test").glob("*"))) == pq.read_schema(next((out / "train").glob("*")))
    assert "no click" in str(report)
    with pytest.raises(UserError, match="unknown column 'click'"):
        run(tmp_path, Inputs([test]), name="other")


def test_time_splits(tmp_path: Path) -> None:
    rows = lines(400)
    source = Inputs([write(tmp_path / "a.csv", rows)])
    for split in (
        {"by": "time", "column": "hour", "type": "number", "cuts": [12.0, 20.0]},
        {"by": "time", "column": "hour", "type": "number", "fractions": {"train": 0.5, "validation": 0.3, "test": 0.2}},
    ):
        out, report = run(tmp_path, source, changed(split=split, keys=["row"]), overwrite=True)
        raw = {r["row"]: float(r["hour"]) for r in rows}
        hours = [[raw[r["row"]] for r in table(out, s)] for s in ("train", "validation", "test")]
        assert max(hours[0]) < min(hours[1]) <= max(hours[1]) < min(hours[2])
        if "cuts" in split:
            assert max(hours[0]) < 12 <= min(hours[1]) and max(hours[1]) < 20 <= min(hours[2])
        else:
            assert report.tally.rows == pytest.approx({"train": 200, "validation": 120, "test": 80}, abs=8)


def test_columns_that_features_also_name(tmp_path: Path) -> None:
    recipe = {
        "features": [
            {"kind": "id", "name": "user_id", "ids": {"kind": "vocabulary"}},
            {"kind": "id", "name": "item", "ids": {"kind": "identity", "num_ids": 1000}},
            {"kind": "dense", "name": "h", "column": "hour"},
        ],
        "labels": [{"name": "click", "threshold": 0.5}, {"name": "late", "column": "hour", "threshold": 12}],
        "group": "user_id",
        "keys": ["user_id", "item"],
        "split": {"by": "column", "column": "city", "values": {"Bonn": "train", "Rom": "test", "Oslo": "validation"}},
    }
    rows = [r for r in lines(200) if r["city"]]
    out, report = run(tmp_path, Inputs([write(tmp_path / "a.csv", rows)]), recipe)
    schema = Schema.load(out / "schema.yaml")
    assert (schema.group, schema.keys) == ("user_id_raw", ("user_id_raw", "item"))
    found = table(out, "test")
    expected = [r for r in rows if r["city"] == "Rom"]
    assert [(r["user_id_raw"], r["item"], r["hour"]) for r in found] == [
        (r["user_id"], int(r["item"]), float(r["hour"])) for r in expected
    ]
    late = report.tally.labels["late"]["test"]
    assert late == (sum(float(r["hour"]) >= 12 for r in expected), len(expected))


def test_vocabularies_of_any_names_have_files_of_their_own(tmp_path: Path) -> None:
    names = ["a/b", "a%2Fb", "User", "user", "..", "x" * 300, "字" * 100, "\0", "type", "1e3"]
    features = [{"kind": "id", "name": n, "column": "user_id", "ids": {"kind": "vocabulary"}} for n in names]
    recipe = {**RECIPE, "features": features, "weight": None, "group": None, "keys": []}
    out, _ = run(tmp_path, Inputs([write(tmp_path / "a.csv", lines(60))]), recipe)
    schema = Schema.load(out / "schema.yaml")
    assert [f.name for f in schema.features] == names
    paths = [f.ids.path for f in schema.raw().sparse if isinstance(f.ids, Vocabulary)]
    assert len({path.lower() for path in paths}) == len(names)
    assert sorted(f"vocabularies/{file.name}" for file in (out / "vocabularies").iterdir()) == sorted(paths)
    for row in table(out, "train"):
        assert len({row[name] for name in names}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"features": [*RECIPE["features"], {"kind": "dense", "name": "tags_weights"}]},
            "the weights of 'tags' and column 'tags_weights' would both be written as 'tags_weights'",
        ),
        ({"featurs": []}, "featurs: unknown key"),
        ({"features": [{"kind": "id", "name": "a", "ids": {"kind": "vocab"}}]}, "'vocab'"),
        ({"weight": "user_id"}, "column 'user_id' is read as string and, by weight, as double"),
        ({"split": {"by": "hash", "fractions": {"train": 0.5}}}, "sum to 1"),
        ({"negative_rate": 0}, "greater than 0"),
        (
            {
                "features": [
                    *RECIPE["features"],
                    {"kind": "id", "name": "x", "table": "item", "ids": {"kind": "vocabulary"}},
                ]
            },
            "table 'item' declare different vocabularies",
        ),
        (
            {
                "features": [
                    {"kind": "id", "name": "user_id", "table": "t", "ids": {"kind": "vocabulary"}},
                    {"kind": "id", "name": "item", "table": "t", "ids": {"kind": "vocabulary"}, "missing": "row"},
                ]
            },
            "'user_id' and 'item' share table 't', but only one has a row of missing values; give both",
        ),
    ],
)
def test_wrong_recipes_get_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    source = write(tmp_path / "a.csv", lines(5))
    with pytest.raises(UserError, match=message) as error:
        run(tmp_path, Inputs([source]), changed(**change))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("click", "", "line 4, column 'click': found null"),
        ("click", "nan", "line 4, column 'click': found nan"),
        ("user_id", "", "line 4, column 'user_id': found null, .*missing: row"),
        ("w", "-1", "line 4, column 'w': found -1"),
        ("scores", "1|2|3|4", "line 4, column 'scores': found 4 weights"),
        ("item", "x", "line 4, column 'item': found 'x', expected an integer"),
    ],
)
def test_wrong_values_are_named_and_leave_nothing(tmp_path: Path, column: str, value: str, message: str) -> None:
    rows = lines(9)
    rows[2][column] = value
    with pytest.raises(UserError, match=message):
        run(tmp_path, Inputs([write(tmp_path / "a.csv", rows)]))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.csv", "recipe.yaml"]


def test_no_training_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no training rows"):
        run(tmp_path, Inputs([write(tmp_path / "a.csv", [])]))
    assert not (tmp_path / "out").exists()


def test_the_documented_examples_are_valid() -> None:
    *schemas, ids, recipe = (
        example
        for page in ("data.md", "prepare.md")
        for example in re.findall(
            r"```(?:yaml)?\n(?:# [^\n]*\n)?(features.*?|format.*?|\{kind.*?)```",
            (ROOT / "docs" / page).read_text(),
            re.DOTALL,
        )
    )
    assert [len(Schema.model_validate(yaml.safe_load(schema)).features) for schema in schemas] == [5, 4, 8]
    for line in ids.splitlines():
        IdFeature.model_validate({"name": "x", "ids": yaml.safe_load(line)})
    assert len(Recipe.model_validate(yaml.safe_load(recipe)).features) == 6


def test_moments_merge_to_those_of_all_numbers() -> None:
    numbers = np.random.default_rng(0).normal(1e6, 3, 1000)
    merged = Moments()
    for part in np.split(numbers, [0, 1, 10, 500]):
        merged = merged.merge(Moments.of(part))
    assert merged.rows == 1000
    assert merged.mean == pytest.approx(numbers.mean(), rel=1e-12)
    assert merged.deviation == pytest.approx(numbers.std(), rel=1e-9)
    assert Moments.of(np.full(5, 2.0)).deviation == 1.0


def test_value_counts_compact_without_losing_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardrec.data_pipeline.prepare.steps.fitting._COMPACT_ROWS", 50)
    counts, expected = ValueCounts(), Counter[int]()
    for seed in range(30):
        values = np.random.default_rng(seed).geometric(0.02, 40)
        counts.add(pa.array(values))
        expected.update(values.tolist())
    assert {r["value"]: r["count"] for r in counts.table().to_pylist()} == expected
