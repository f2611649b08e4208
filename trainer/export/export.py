"""A trained model is written as a bundle: a folder that scores raw rows with torch, NumPy and pyarrow alone."""

import io
import json
import shutil
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch.export import ExportedProgram

from shardrec import __version__
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.files.file_names import file_stems
from shardrec.data_pipeline.files.owned_files import check_replaceable, remove_made
from shardrec.data_pipeline.files.whole_files import whole_file, whole_folder
from shardrec.models.base import Recommender
from shardrec.models.inputs import PooledEmbeddings, SequenceEmbeddings
from shardrec.models.table_reads import table_reads
from shardrec.trainer.checkpoints.calibration import calibration_of
from shardrec.trainer.checkpoints.manifest import fingerprint
from shardrec.trainer.checkpoints.saved_model import SavedModel
from shardrec.trainer.checkpoints.tower_file import model_tensors, saved_tower
from shardrec.trainer.config.paths import absolute_folder
from shardrec.trainer.export import loader
from shardrec.trainer.export.arguments import ProgramInput
from shardrec.trainer.export.inlined import inline_autocast
from shardrec.trainer.export.item_files import write_items
from shardrec.trainer.export.loader.checksums import checksum
from shardrec.trainer.export.onnx import save_onnx
from shardrec.trainer.export.programs import Program, export_programs
from shardrec.trainer.export.row_specs import Types, row_specs
from shardrec.trainer.export.self_check import CHECKED_ROWS, check_bundle, opened_run, split_to_check
from shardrec.trainer.export.table_files import Rows, write_id_map, write_table, write_vocabulary
from shardrec.trainer.run_folder.atomic import check_out
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session

MANIFEST, LOADER, CALIBRATION, ONNX = "bundle.json", "loader", "calibration.json", "tower.onnx"


def export_bundle(
    run_folder: str | Path,
    out: str | Path,
    *,
    rows: Rows | None = None,
    onnx: bool = False,
    step: int | None = None,
    overwrite: bool = False,
    checked_rows: int = CHECKED_ROWS,
) -> dict[str, Any]:
    """Writes the bundle of a run's checkpoint to the folder `out` and returns what its `bundle.json` says.

    rows: how tables' rows are stored where that is smaller than as they were trained. onnx: the tower as ONNX too.
    step: which checkpoint; None: the best, else the last. overwrite: a bundle in `out` may be replaced. checked_rows:
    so many rows of test data (else validation, else training) are scored by bundle and trained model; 0: none.

    Raises UserError, with nothing left behind, where there is no such run or checkpoint, where the model cannot be
    exported, where the rows to score cannot be read, and where bundle and trained model differ by more than the bound
    of `self_check.py`.
    """
    folder, out = RunFolder.open(run_folder), absolute_folder(Path(out))
    check = partial(_check_out, overwrite=overwrite, inputs=(folder.path,))
    check(out)
    saved = SavedModel.of(folder, step)
    calibration = _calibration(folder, saved)
    blueprint = Blueprint(folder.config(), folder.schema())
    split = split_to_check(blueprint) if checked_rows else None
    with whole_folder(out, check, listed=True) as made:
        manifest = _written(made, folder, blueprint, saved, rows, onnx)
        if split or "user" in manifest["programs"]:
            with opened_run(blueprint, folder, saved.step) as session:
                manifest |= _with_items(made, session, manifest)
                manifest |= _files(made)
                _write_json(made / MANIFEST, manifest)
                manifest["check"] = check_bundle(made, session, split, checked_rows)
        manifest |= _files(made)
        _write_json(made / MANIFEST, manifest)
        if calibration is not None:  # after the check, which is of the model's own predictions
            (made / CALIBRATION).write_bytes(calibration)
    return manifest


def _with_items(made: Path, session: Session, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the items that users are given lists of; where it is not known which, the halves of the tower go.

    Returns what that changes of the manifest.
    """
    programs = dict(manifest["programs"])
    if "user" not in programs:
        return {}
    try:
        return {"catalogue": write_items(made, session)}
    except UserError as error:  # no feature is the item, or the training rows are gone
        for side in ("user", "item"):
            (made / programs.pop(side)["file"]).unlink()
        return {"programs": programs, "no_shared_space": str(error), "lists_left_out": True}


def _files(made: Path) -> dict[str, dict[str, int]]:
    """Returns the bytes of each file that is mapped or read whole, and its checksum, by which damages are told."""
    files = [path for path in sorted(made.rglob("*")) if path.suffix in (".npy", ".arrow", ".parquet", ".pt2")]
    names = {path.relative_to(made).as_posix(): path for path in files}
    return {
        "files": {name: path.stat().st_size for name, path in names.items()},
        "checksums": {name: checksum(path) for name, path in names.items()},
    }


def _calibration(folder: RunFolder, saved: SavedModel) -> bytes | None:
    """Returns the run's calibration, if it has one. Raises UserError where it was fitted to another checkpoint."""
    if calibration_of(folder, saved.step, None, "move the file away to export without it") is None:
        return None
    return folder.calibration_file.read_bytes()


def _check_out(out: Path, *, overwrite: bool, inputs: tuple[Path, ...]) -> None:
    """Raises UserError for a place that holds anything but, with `overwrite`, a bundle that was exported there."""
    if overwrite and (out / MANIFEST).is_file():
        remove_made(out / LOADER / "__pycache__")  # by Python, where the bundle was opened by its own loader
        check_replaceable(out, inputs)
    elif (out / MANIFEST).is_file():
        raise UserError(f"{out}: holds a bundle; replace it with --overwrite, or name another --out")
    else:
        check_out(out)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _written(
    made: Path, folder: RunFolder, blueprint: Blueprint, saved: SavedModel, rows: Rows | None, onnx: bool
) -> dict[str, Any]:
    """Writes all files but the manifest, and returns that."""
    model, name = blueprint.model, blueprint.config.model["name"]
    model.load_state_dict(model_tensors(saved_tower(saved.path, saved.content)), strict=False)
    programs, specs = _write_programs(made, model, blueprint.schema)
    found = {} if not onnx else {"onnx_difference": save_onnx(name, programs["tower"], made / ONNX)}
    _copy_loader(made / LOADER)
    stems = file_stems(saved.tables)
    tables = {name: write_table(made, stems[name], saved.tables[name], rows) for name in saved.tables}
    id_stems = file_stems(saved.id_maps)
    spaces = {name: write_id_map(made, id_stems[name], id_map) for name, id_map in saved.id_maps.items()}
    return {
        "format": loader.FORMAT,
        "software": f"shardrec {__version__}",
        "run": _facts(folder, blueprint, saved),
        "predicts": _predicts(model),
        **_row_specs(made, blueprint, _read_features(model)),
        "tables": tables,
        "id_spaces": spaces,
        "programs": specs,
        "files": {},  # until all of them are there
        **found,
        "no_shared_space": model.no_shared_space,
        "check": {"rows": 0, "why": "as asked for"},
    }


def _predicts(model: Recommender) -> dict[str, Any]:
    """Returns what a bundle says of its predictions: the task, of one that adds a loss the one below, and its label."""
    task = getattr(model.task, "task", model.task)
    return {"task": type(task).__name__, "label": getattr(task, "label", None)}


def _copy_loader(to: Path) -> None:
    to.mkdir()
    for file in Path(loader.__file__).parent.glob("*.py"):
        shutil.copyfile(file, to / file.name)


def _read_features(model: Recommender) -> tuple[str, ...]:
    unread = model.unread_features(labelled=False)
    return tuple(name for name in model.features if name not in unread)


def _row_specs(made: Path, blueprint: Blueprint, features: tuple[str, ...]) -> dict[str, Any]:
    """Writes vocabularies; returns the specs of raw rows, and of prepared ones."""
    prepared = blueprint.schema.subset(features).unlabelled()
    raw, source = prepared.raw(), blueprint.config.data.schema_folder
    paths = tuple(dict.fromkeys((*prepared.vocabularies, *raw.vocabularies)))
    files = {path: f"vocabularies/{stem}" for path, stem in file_stems(paths).items()}
    strings = {path: write_vocabulary(made, files[path], source, path) for path in paths}
    spaces = {feature: table.dynamic.name for feature, table in table_reads(blueprint.model.inputs) if table.dynamic}
    types = _trained_types(blueprint)
    return {
        "raw": row_specs(raw, _raw_types(prepared, raw, types), strings, files, spaces),
        "prepared": row_specs(prepared, types, strings, files, spaces),
    }


def _raw_types(prepared: Schema, raw: Schema, types: Types) -> Types:
    """Returns the types of raw columns that are the same in prepared rows; of what ids were made of none is known."""
    made = {column for f, g in zip(prepared.sparse, raw.sparse, strict=True) if f != g for column in g.columns}
    return {column: kind for column, kind in types.items() if column not in made}


def _trained_types(blueprint: Blueprint) -> Types:
    """Returns the types of the columns of the training rows; none where these cannot be read any more."""
    try:
        paths = blueprint.config.data.split("train")
        assert paths is not None
        schemas = blueprint.data_set(paths).index.schemas
    except UserError:
        return {}
    found: dict[str, pa.DataType] = {}
    for schema, _ in schemas:
        for field in schema:
            if field.name not in found or pa.types.is_null(found[field.name]):
                found[field.name] = field.type
    return found


def _facts(folder: RunFolder, blueprint: Blueprint, saved: SavedModel) -> dict[str, Any]:
    config, summary = blueprint.config, folder.summary() or {}
    return {
        "folder": str(folder.path),
        "model": config.model["name"],
        "step": saved.step,
        "checkpoint": fingerprint(saved.content),
        "labels": [label.name for label in blueprint.schema.labels],
        "metrics": summary.get("metrics", {}),
        "settings": config.model_dump(mode="json", include={"model", "tables", "optimizer"}),
    }


def _write_programs(made: Path, model: Recommender, schema: Schema) -> tuple[dict[str, Program], dict[str, Any]]:
    """Writes the towers' programs; returns them, and what the loader has to know of each."""
    programs = export_programs(model, schema)
    specs = {}
    for name, program in programs.items():
        inline_autocast(program.exported)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own
            torch.export.save(program.exported, content := io.BytesIO())  # a full disk would abort torch's own writer
        with whole_file(made / f"{name}.pt2", synced=False) as temporary:
            temporary.write_bytes(content.getbuffer())
        inputs = [_input(model, given) for given in program.inputs]
        specs[name] = {"file": f"{name}.pt2", "inputs": inputs, **_output(program.exported, inputs)}
    return programs, specs


def _output(exported: ExportedProgram, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the shape of a row's prediction, and which feature has as many ids as it has ratings, if one has."""
    shape = exported.graph.output_node().args[0][0].meta["val"].shape[1:]
    if all(isinstance(size, int) for size in shape):
        return {"shape": list(shape), "lists": None}
    return {"shape": [], "lists": next(i["features"][0] for i in inputs if i["kind"] == "sequence")}


def _input(model: Recommender, given: ProgramInput) -> dict[str, Any]:
    spec: dict[str, Any] = {"name": given.name, "kind": given.kind, "features": list(given.features)}
    declared = model.inputs.get(given.name)
    if given.kind in ("shared", "dense"):
        return spec
    assert isinstance(declared, PooledEmbeddings | SequenceEmbeddings)
    tables = [declared.tables[feature] for feature in given.features]
    spec["tables"] = [table.name for table in tables]
    if given.kind == "sequence":
        return spec | {"dense": list(given.dense), "weighted": given.weighted}
    return spec | {"mean": [table.pooling == "mean" for table in tables], "concat": given.concat}
