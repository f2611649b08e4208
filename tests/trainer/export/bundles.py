"""Bundles made by hand, of features alone: what a schema says of rows, as the loader reads it."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
import torch

from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.export.loader import FORMAT, Bundle, RowError
from shardrec.trainer.export.row_specs import row_specs
from shardrec.trainer.export.table_files import write_vocabulary
from tests.damaged_json import damaged


def bundle_of(folder: Path, schema: Schema, types: pa.Schema, vocabularies: Path) -> Bundle:
    """A bundle whose program is empty in `folder`, for rows of the schema that have these Arrow types."""
    folder.mkdir(parents=True)
    files = {path: f"vocabularies/{i}" for i, path in enumerate(schema.vocabularies)}
    strings = {path: write_vocabulary(folder, files[path], str(vocabularies), path) for path in files}
    rows = row_specs(schema, {field.name: field.type for field in types}, strings, files, {})
    tower = {"file": "tower.pt2", "inputs": [], "shape": [], "lists": None}
    (folder / "tower.pt2").touch()
    manifest = {
        "format": FORMAT,
        "files": {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()},
        "raw": rows,
        "prepared": rows,
        "tables": {},
        "id_spaces": {},
        "programs": {"tower": tower},
        "predicts": {"task": "BinaryClassification", "label": "label"},
    }
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return Bundle(folder)


NOT_DAMAGED = ("run", "check", "software", "prepared")
"""What a manifest says of its run, which nothing goes by; and rows that are read as `raw` ones are."""


def damages_are_lines(folder: Path, use: Callable[[Bundle], Any]) -> int:
    """Opens and uses a bundle with each member of its manifest damaged; returns how many were refused by a line."""
    manifest = json.loads((folder / "bundle.json").read_text())
    whole = {name: manifest.pop(name) for name in NOT_DAMAGED}
    refused = 0
    with changed(folder) as write, patch.object(torch.export, "load", cache(torch.export.load)):
        for done, parts in damaged(manifest):
            write(json.dumps(whole | parts))
            try:
                with suppress(RowError):
                    use(Bundle(folder))
            except ValueError as error:
                refused += 1
                assert str(folder) in (line := str(error)) and len(line.splitlines()) == 1, (done, line)
                assert any(remedy in line for remedy in ("export its run again", "copy it again", "loader")), line
            except Exception as error:
                error.add_note(done)
                raise
    return refused


@contextmanager
def changed(folder: Path) -> Iterator[Callable[[str], Any]]:
    """Lets the manifest be written, and puts it back."""
    path = folder / "bundle.json"
    whole = path.read_text()
    try:
        yield path.write_text
    finally:
        path.write_text(whole)


def mapped_files(folder: Path) -> set[Path]:
    """The files of a folder that this process has mapped into memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {Path(words[5]) for line in lines if len(words := line.split(maxsplit=5)) > 5 and f"{folder}/" in words[5]}


def files_cut_short_are_errors(whole: Path, folder: Path, use: Callable[[Bundle], Any]) -> set[str]:
    """Cuts each file that a bundle has mapped, while it has; returns their names. use: reads them all."""
    shutil.copytree(whole, folder)
    use(bundle := Bundle(folder))
    mapped = mapped_files(folder)
    for path in mapped:
        content = path.read_bytes()
        os.truncate(path, 100)
        with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: damaged \(cut short to 100 bytes, expected"):
            use(bundle)
        with path.open("r+b") as file:  # the same file, which is still mapped
            file.write(content)
    use(bundle)
    return {path.relative_to(folder).as_posix() for path in mapped}
