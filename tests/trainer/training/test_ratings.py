"""Lists of ratings through a whole run: any placement and number of ranks, predictions without labels, bad ratings."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.importers.ratings import prepare_ratings
from shardrec.data_pipeline.prepare.steps.preparation import Output
from shardrec.trainer.scoring.predict import predict_rows
from tests.trainer.recorded import train, train_in_processes, whole_tables

STEPS, DEFAULT = 6, 3.2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of 40 items, one of which only the test split rates, by users of whom the frequent ones rate most."""
    folder = tmp_path_factory.mktemp("ratings")
    r = np.random.default_rng(0)
    pairs = np.argwhere(r.random((60, 40)) < np.linspace(0.9, 0.1, 60)[:, None])
    quality = r.normal(size=40)
    rating = np.clip(np.round(3.5 + quality[pairs[:, 1]] + 0.3 * r.normal(size=len(pairs))), 1, 5).astype(np.int64)
    pq.write_table(
        pa.table({"user_id": pairs[:, 0], "movie_id": pairs[:, 1], "rating": rating}), folder / "ratings.parquet"
    )
    prepare_ratings(folder, Output(folder / "data", row_group_rows=8))
    test = next((folder / "data/test").iterdir())
    table = pq.read_table(test)
    empty = {"rated": [[]], "rated_ratings": [[]], "asked": [[3, 1]], "asked_ratings": [[5.0, 4.0]]}
    unknown = {"rated": [[2]], "rated_ratings": [[4.0]], "asked": [[0]], "asked_ratings": [[1.0]]}
    added = [pa.table({"movie_id": [1000 + i], **row}).cast(table.schema) for i, row in enumerate((empty, unknown))]
    pq.write_table(pa.concat_tables([table, *added]), test)
    return folder / "data"


def autorec_run(folder: Path, data: Path) -> Path:
    path = folder / "run.yaml"
    path.write_text(
        f"""
run: {folder}/run
data: {{path: {data}, global_batch_size: 12, lanes: 4, window: 16}}
model: {{name: autorec, hidden: 6, default: {DEFAULT}}}
optimizer:
  tables: {{name: adagrad, learning_rate: 0.1, eps: 1e-3}}
  tower: {{name: adagrad, learning_rate: 0.1}}
trainer: {{epochs: 3, max_steps: {STEPS}, best_metric: rmse, matmul_precision: highest, tensorboard: false}}
launch: {{threads: 1}}
"""
    )
    return path


def overrides(folder: Path, name: str, encoder: str, decoder: str, *more: str) -> tuple[str, ...]:
    placed = f"tables={{encoder/user: {{placement: {encoder}}}, decoder/user: {{placement: {decoder}}}}}"
    return (f"run={folder}/{name}", placed, *more)


WHOLE = "optimizer.tables={name: adam, learning_rate: 1e-2, eps: 1e-3, weight_decay: 1e-3, decay: table}"
CASES = {
    "sharded": ("table_wise", "row_wise"),
    "replicated": ("data_parallel", "data_parallel", WHOLE),
}


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """One process, data-parallel tables; per optimizer the summary, tables and run folder."""
    folder = tmp_path_factory.mktemp("alone")
    path = autorec_run(folder, data)
    found = {}
    for name, more in (("rows", ()), ("whole", (WHOLE,))):
        result = train(path, overrides(folder, name, "data_parallel", "data_parallel", *more))
        tables = whole_tables(folder / name / f"checkpoints/step-{STEPS}")
        found[name] = {"result": result, "tables": tables, "folder": folder / name}
    return found


def test_sharded_on_two_ranks_equals_one_process(data: Path, alone: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    runs = [overrides(tmp_path, name, *case) for name, case in CASES.items()]
    results = train_in_processes(2, autorec_run(tmp_path, data), *runs)
    for (name, case), result in zip(CASES.items(), results, strict=True):
        expected = alone["whole" if WHOLE in case else "rows"]
        assert result["batches"] == expected["result"]["batches"]
        assert result["losses"] == pytest.approx(expected["result"]["losses"], abs=1e-5), name
        found = whole_tables(tmp_path / name / f"checkpoints/step-{STEPS}")
        for table, tensors in expected["tables"].items():
            np.testing.assert_allclose(found[table]["weight"], tensors["weight"], atol=1e-5, err_msg=f"{name} {table}")
        for metric, value in expected["result"]["metrics"]["test"].items():
            assert result["metrics"]["test"][metric] == pytest.approx(value, abs=1e-5), metric


def test_the_loss_is_the_mean_over_all_ratings_of_a_global_batch(data: Path, alone: dict[str, dict[str, Any]]) -> None:
    """Fresh tables predict the default."""
    result = alone["rows"]["result"]
    rows = pq.read_table(data / "train").to_pylist()
    ratings = np.array([r for row in result["batches"][0] for r in rows[row]["asked_ratings"]])
    assert result["losses"][0] == pytest.approx(float(((ratings - DEFAULT) ** 2).mean()), abs=1e-5)
    assert result["losses"][-1] < result["losses"][0]


def test_predictions_are_lists_and_need_no_ratings(
    data: Path, alone: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    test = pq.read_table(data / "test")
    pq.write_table(test.drop_columns(["asked_ratings"]), tmp_path / "asked.parquet")
    out = tmp_path / "out"
    predict_rows(alone["whole"]["folder"], (str(tmp_path / "asked.parquet"),), out, quiet=True)
    found = pq.read_table(out)
    assert found.column_names == ["row", "movie_id", "prediction"]
    assert found["prediction"].type == pa.list_(pa.float32()) and found["movie_id"].equals(test["movie_id"])
    predicted, ratings = found["prediction"].to_pylist(), test["asked_ratings"].to_pylist()
    assert [len(row) for row in predicted] == [len(row) for row in ratings]
    assert predicted[-2:] == [[pytest.approx(DEFAULT)] * 2, [pytest.approx(DEFAULT)]]
    assert len({p for row in predicted[:-2] for p in row}) > 50
    error = np.concatenate(predicted) - np.concatenate(ratings)
    rmse = alone["whole"]["result"]["metrics"]["test"]["rmse"]
    assert math.sqrt((error**2).mean()) == pytest.approx(rmse, abs=1e-5)


def test_a_rating_outside_the_range_is_one_line(data: Path, tmp_path: Path) -> None:
    path = autorec_run(tmp_path, data)
    with pytest.raises(UserError, match=r"feature 'rated': found the rating 5 in row \d+, expected 1 to 4; correct"):
        train(path, ("model={name: autorec, hidden: 6, rating_range: [1, 4]}",))


def test_a_known_rating_outside_the_range_is_not_scored(
    data: Path, alone: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Rows to be scored have no asked ratings, and none is missed."""
    rows = pq.read_table(data / "test").drop_columns(["asked_ratings"])
    known = rows["rated_ratings"].to_pylist()
    at = next(i for i, ratings in enumerate(known) if ratings)
    known[at] = [50.0, *known[at][1:]]
    column = pa.array(known, rows.schema.field("rated_ratings").type)
    pq.write_table(rows.set_column(rows.column_names.index("rated_ratings"), "rated_ratings", column), tmp_path / "new")
    line = rf"feature 'rated': found the rating 50 in row {at}, expected 1 to 5; correct"
    with pytest.raises(UserError, match=line):
        predict_rows(alone["whole"]["folder"], (str(tmp_path / "new"),), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_other_models_say_that_there_is_no_label(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the schema declares no label"):
        train(autorec_run(tmp_path, data), ("model={name: fm}",))
