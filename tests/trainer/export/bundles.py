"""Bundles made by hand, of features alone: what a schema says of rows, as the loader reads it."""

import json
from pathlib import Path

import pyarrow as pa

from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.export.loader import FORMAT, Bundle
from shardrec.trainer.export.row_specs import row_specs
from shardrec.trainer.export.table_files import write_vocabulary


def bundle_of(folder: Path, schema: Schema, types: pa.Schema, vocabularies: Path) -> Bundle:
    """A bundle without programs in `folder`, for rows of the schema that have these Arrow types."""
    folder.mkdir(parents=True)
    files = {path: f"vocabularies/{i}" for i, path in enumerate(schema.vocabularies)}
    strings = {path: write_vocabulary(folder, files[path], str(vocabularies), path) for path in files}
    rows = row_specs(schema, {field.name: field.type for field in types}, strings, files, {})
    manifest = {
        "format": FORMAT,
        "files": {},
        "raw": rows,
        "prepared": rows,
        "tables": {},
        "id_spaces": {},
        "programs": {},
    }
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return Bundle(folder)
