"""Reads one feature from one array, as the tests of readers do."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Origin
from shardrec.data_pipeline.features.transforms import (
    Column,
    FeatureReader,
)

INTEGERS = [pa.int8(), pa.uint8(), pa.int16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]
STRINGS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]


def read(feature: Any, array: pa.Array, folder: Path | str = ".", where: str | Origin = "file") -> Column:
    batch = pa.RecordBatch.from_arrays([array], names=[feature.columns[0]])
    reader = FeatureReader(feature, folder)
    reader.check(batch.schema, "file")
    return reader(batch, where)


def refused(feature: Any, array: pa.Array, message: str, folder: Path | str = ".") -> None:
    with pytest.raises(UserError, match=message) as error:
        read(feature, array, folder, Origin("x.parquet, row group 2", 100))
    assert "\n" not in str(error.value)
