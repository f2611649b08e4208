"""Labels are looked at as far as is needed: whether there are any, and which values they take."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdFeature, IdListFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.data_pipeline.reading import labels
from shardrec.data_pipeline.reading.index import DataSet
from shardrec.data_pipeline.reading.labels import labels_in, missing_labels

USER = IdFeature(name="user", ids=Identity(num_ids=9))
NAN, F32 = float("nan"), pa.float32()


def written(folder: Path, *files: Any, name: str = "label") -> DataSet:
    folder.mkdir(exist_ok=True)
    for i, column in enumerate(files):
        pq.write_table(pa.table({"user": pa.array(np.zeros(len(column))), name: column}), folder / f"{i}.parquet",
                       row_group_size=2)  # fmt: skip
    return DataSet.open(folder)


def said(data: DataSet, *declared: Label) -> str | None:
    return missing_labels(data, Schema(features=(USER,), labels=declared or (Label(),)))


@pytest.mark.parametrize(
    "column",
    [pa.nulls(5), pa.nulls(5, F32), pa.array([NAN] * 5, F32), pa.nulls(5, pa.int64()), pa.nulls(5, pa.bool_())],
    ids=str,
)
def test_rows_without_any_label(column: pa.Array, tmp_path: Path) -> None:
    assert said(written(tmp_path, column, column)) == "column 'label' is null in all 10 rows"


def test_a_single_label_counts_wherever_it_is(tmp_path: Path) -> None:
    """A row that lacks one beside it is a bad row, which is for the reader to name."""
    assert said(written(tmp_path, pa.nulls(5, F32), pa.array([None] * 4 + [0.0], F32))) is None


def test_what_is_declared_missing_is_a_label(tmp_path: Path) -> None:
    assert said(written(tmp_path, pa.nulls(5, F32)), Label(missing=0)) is None


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    """Of labels, one of several among them, and of the ratings that a list is to be answered with."""
    data = written(tmp_path, pa.array([1.0, 0.0]))
    assert said(data, Label(), Label(name="bought")) == "there is no column 'bought'"
    asked = IdListFeature(name="asked", ids=Identity(num_ids=9), weights="ratings", weights_are="labels")
    assert missing_labels(data, Schema(features=(asked,), labels=())) == "there is no column 'ratings'"


def test_values_are_those_that_the_reader_makes(tmp_path: Path) -> None:
    data = written(tmp_path, pa.array([3, 1, 4, 1, 5, 9]))
    assert labels_in(data, Label(), [7.0]) == {1, 3, 4, 5, 9}
    assert labels_in(data, Label(threshold=4), [2.0]) == {0, 1}
    with pytest.raises(UserError, match=r"0\.parquet, row 1, column 'label': found null"):
        labels_in(written(tmp_path / "bad", pa.array([1, None, 4])), Label(), [7.0])


def test_no_further_than_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "_CHUNK_ROWS", 2)
    data = written(tmp_path, pa.array([1.0, 0.0, 1.0, 0.5, None, None]))
    assert labels_in(data, Label(), [0, 1]) == {0, 1}  # the nulls further on are not read
    monkeypatch.setattr(labels, "MOST_ROWS", 4)
    assert labels_in(data, Label(), [7]) is None
