"""Codes of values in memory become rows of a table, whose vocabulary is written on the way."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.features.id_transforms import Identity, Vocabulary
from shardrec.data_pipeline.features.vocabulary import VALUE
from shardrec.data_pipeline.files.sealed_parquet import write_sealed
from shardrec.data_pipeline.prepare.steps.fitting import COUNT
from shardrec.data_pipeline.prepare.steps.recipe import vocabulary_paths


@dataclass(frozen=True, eq=False)
class TableRows:
    """Table rows are held by code, with how the schema declares them; called with codes [n] they give [n] int32."""

    rows: np.ndarray
    ids: Identity

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Returns the rows of codes; the code -1, a missing value, has the last row."""
        return self.rows[codes]

    @classmethod
    def fit(
        cls,
        table: str,
        folder: Path,
        values: pa.Array,
        training: np.ndarray,
        *,
        missing: bool = False,
        others: bool = False,
    ) -> "TableRows":
        """Writes the vocabulary of a table under `folder`: most frequent first, then by value; others are row 0.

        values: by code; training: codes of the training data, -1 for missing ones, which get a row of their own if
        `missing`, the last. others: values that training lacks have rows too, behind those that it has
        """
        counts = np.bincount(training[training >= 0], minlength=len(values))
        vocabulary = pa.table({VALUE: values, COUNT: counts, "code": np.arange(len(values))})
        if not others:
            vocabulary = vocabulary.filter(pa.array(counts > 0))
        vocabulary = vocabulary.sort_by([(COUNT, "descending"), (VALUE, "ascending")])
        rows = np.zeros(len(values) + 1, np.int32)  # the last one answers -1
        rows[vocabulary.column("code").to_numpy()] = np.arange(1, len(vocabulary) + 1)
        rows[-1] = len(vocabulary) + 1
        path = vocabulary_paths([table])[table]
        (folder / path).parent.mkdir(exist_ok=True)
        write_sealed(vocabulary.select([VALUE, COUNT]), folder / path)
        declared = Vocabulary(path=path, size=len(vocabulary))
        return cls(rows, Identity(num_ids=declared.num_rows + missing, prepared=declared))
