import hashlib
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.metrics import log_loss, roc_auc_score

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.files.owned_files import MARKER
from shardrec.data_pipeline.prepare.generators.planted import Histories
from shardrec.data_pipeline.prepare.generators.synthetic import parse_ids, synthetic

SMALL = {"ids": (5_000, 100, 20), "dense": 2, "histories": Histories(items=300, mean_length=4, max_length=9)}


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read(folder: Path, split: str) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted((folder / split).iterdir())])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "log"
    synthetic(folder, rows=700_000, fractions={"train": 0.9, "validation": 0.02, "test": 0.08}, **SMALL)
    return folder


def test_the_folder_is_that_of_a_preparation(made: Path) -> None:
    names = ["best.yaml", "schema.yaml", "test", "train", "validation"]
    assert sorted(path.name for path in made.iterdir()) == [MARKER, *names]
    schema = Schema.load(made / "schema.yaml")
    assert [f.name for f in schema.features] == ["id_1", "id_2", "id_3", "item", "history", "dense_1", "dense_2"]
    assert [f.num_embeddings for f in schema.sparse] == [5_000, 100, 20, 300, 300]
    sizes = []
    for path in sorted((made / "train").iterdir()):
        metadata = pq.ParquetFile(path).metadata
        sizes.append([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])
        assert {metadata.row_group(0).column(i).compression for i in range(metadata.num_columns)} == {"ZSTD"}
    assert sizes == [[65_536] * 8, [65_536, 630_000 - 9 * 65_536]]


def test_every_declared_column_is_there_and_valid(made: Path) -> None:
    schema, table = Schema.load(made / "schema.yaml"), read(made, "validation")
    assert table.num_rows == 14_000
    needed = {column for f in schema.features for column in f.columns} | {"label", *schema.keys}
    assert set(table.column_names) == needed
    assert sum(table[name].null_count for name in needed) == 0
    assert [str(table.schema.field(name).type) for name in ("id_1", "history", "dense_1", "probability", "label")] == [
        "int32",
        "list<element: int32>",
        "float",
        "float",
        "int8",
    ]
    assert max(len(items) for items in table["history"].to_pylist()) <= 9
    for f in schema.sparse[:4]:
        ids = table[f.columns[0]].to_numpy()
        assert ids.min() >= 0 and ids.max() < f.num_embeddings


def test_the_best_scores_are_those_of_the_written_probabilities(made: Path) -> None:
    best = yaml.safe_load((made / "best.yaml").read_text())
    assert list(best) == ["train", "validation", "test"]
    for split, scores in best.items():
        table = read(made, split)
        label, p = table["label"].to_numpy(), table["probability"].to_numpy().astype(np.float64)
        assert scores["auc"] == pytest.approx(roc_auc_score(label, p), abs=2e-6)
        assert scores["log_loss"] == pytest.approx(log_loss(label, p), abs=2e-7)
        rate = label.mean()
        entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
        assert scores["normalized_entropy"] == pytest.approx(log_loss(label, p) / entropy, abs=1e-6)
        assert scores["click_rate"] == pytest.approx(rate, abs=1e-7)


def test_any_number_of_workers_writes_the_same_bytes(made: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    again = {"rows": 700_000, "fractions": {"train": 0.9, "validation": 0.02, "test": 0.08}, **SMALL}
    synthetic(tmp_path / "log", workers=2, progress=lines.append, **again)
    assert digests(tmp_path / "log") == digests(made)
    assert lines[-1] == "wrote 4 of 4 files"


def test_a_longer_log_begins_with_the_rows_of_a_shorter_one(made: Path, tmp_path: Path) -> None:
    synthetic(tmp_path / "log", rows=1_000, fractions={"train": 0.5, "test": 0.5}, **SMALL)
    assert not (tmp_path / "log" / "validation").exists()
    for split in ("train", "test"):
        short = read(tmp_path / "log", split)
        assert short.equals(read(made, split).slice(0, 500).combine_chunks())
    other = synthetic(tmp_path / "other", rows=1_000, seed=1, **SMALL)
    assert not read(other.folder, "train").slice(0, 500).equals(read(tmp_path / "log", "train"))


def test_sizes_are_given_once_or_for_each_field(tmp_path: Path) -> None:
    def sizes(name: str, **arguments: object) -> list[int]:
        report = synthetic(tmp_path / name, rows=100, dense=0, **arguments)  # type: ignore[arg-type]
        return [f.num_embeddings for f in report.schema.sparse]

    assert sizes("one", fields=3, ids=7) == [7, 7, 7]
    assert sizes("each", ids=parse_ids("1e3,20")) == [1_000, 20]
    assert sizes("in turn", fields=5, ids=(7, 8)) == [7, 8, 7, 8, 7]


def test_the_report_names_what_can_be_reached(tmp_path: Path) -> None:
    report = str(synthetic(tmp_path / "log", rows=2_000))
    best = yaml.safe_load((tmp_path / "log" / "best.yaml").read_text())
    assert f"best attainable on test: AUC {best['test']['auc']:.4f}, log loss {best['test']['log_loss']:.4f}" in report
    assert "1,600 rows" in report and str(tmp_path / "log") in report


def test_a_split_of_one_label_has_no_auc(tmp_path: Path) -> None:
    report = synthetic(tmp_path / "log", rows=100, fractions={"train": 0.99, "test": 0.01})
    assert set(report.best["test"]) == {"log_loss", "click_rate"}
    assert yaml.safe_load((tmp_path / "log" / "best.yaml").read_text()) == report.best


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"rows": 0}, "rows=0"),
        ({"rows": 10, "fractions": {"train": 0.0, "test": 1.0}}, "some rows for training"),
        ({"rows": 10, "ids": ()}, "one field or more"),
        ({"rows": 10, "fields": 0}, "one field or more"),
        ({"rows": 10, "skew": -1.0}, "skew=-1.0"),
    ],
)
def test_a_refused_request_leaves_nothing(tmp_path: Path, arguments: dict, line: str) -> None:
    with pytest.raises(UserError, match=line):
        synthetic(tmp_path / "log", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_ids_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="found '1000;20'"):
        parse_ids("1000;20")
