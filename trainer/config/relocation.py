"""A run file inside a run folder means that folder, wherever it was moved or copied since it was written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def relocated(declared: dict[str, Any], file: Path) -> dict[str, Any]:
    """Returns a run folder's own run file with `run` where the folder is now; any other run file as it is.

    Stages that it starts from, beside it then and now, are those beside it.
    """
    here = file.resolve().parent
    written = declared.get("run")
    if not isinstance(written, str) or not is_of_run_folder(declared, file) or Path(written).resolve() == here:
        return declared
    sources = declared.get("init_from")
    moved = [_beside(source, Path(written), here) for source in sources] if isinstance(sources, list) else sources
    return {**declared, "run": str(here), **({"init_from": moved} if "init_from" in declared else {})}


def is_of_run_folder(declared: Mapping[str, Any], file: Path) -> bool:
    """Says whether a file is what a run left, by what lies beside it."""
    folder = file.resolve().parent
    if file.name == "config.yaml":
        return file.is_file() and (folder / "schema.yaml").is_file() and (folder / "checkpoints").is_dir()
    stages = declared.get("stages")
    names = [stage.get("name") for stage in stages if isinstance(stage, Mapping)] if isinstance(stages, list) else []
    return file.name == "stages.yaml" and any((folder / str(name) / "config.yaml").is_file() for name in names)


def lies_in_run_folder(declared: Mapping[str, Any], file: Path) -> bool:
    """Says whether a run file came with a run folder, under whatever name: so did what it names."""
    folder = file.resolve().parent
    left = ("metrics.jsonl", "plan.txt")
    return (
        is_of_run_folder(declared, file)
        or ((folder / "stages.yaml").is_file() and any(folder.glob("*/checkpoints")))
        or is_of_run_folder({}, folder / "config.yaml")
        or ((folder / "config.yaml").is_file() and any((folder / name).is_file() for name in left))
    )


def _beside(source: Any, before: Path, here: Path) -> Any:
    run = source.get("run") if isinstance(source, Mapping) else None
    if not isinstance(run, str) or Path(run).parent != before.parent:
        return source
    sibling = here.parent / Path(run).name
    return {**source, "run": str(sibling)} if (sibling / "config.yaml").is_file() else source
