"""A path that a user gives is one in the folder where the command runs; workers and later commands run elsewhere.

So each is made absolute as it comes in: those of run files by `load`, those of commands and of Python by who takes
them.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.sections import SPLITS, Paths, RunConfig

C = TypeVar("C", bound=RunConfig)

OF_RUN = ("run", "import_from")
OF_DATA = ("path", "schema_path", *SPLITS)
"""Keys of a run file that name files or folders, beside `items` of `data.negatives` and `data.catalogue`, and
`init_from`'s `run`."""


@overload
def absolute(paths: str) -> str: ...
@overload
def absolute(paths: tuple[str, ...]) -> tuple[str, ...]: ...
def absolute(paths: Paths) -> Paths:
    """Returns paths as they are from any folder; URIs pass through. Raises UserError for an empty one."""
    if isinstance(paths, tuple):
        return tuple(map(absolute, paths))
    if not paths:  # which would be all files of the folder
        raise UserError("found an empty path; name files, folders, globs or URIs")
    return paths if "://" in paths else os.path.abspath(os.path.expanduser(paths))


def absolute_folder(path: str | Path) -> Path:
    """Returns a local file's or folder's path as it is from any folder. Raises UserError for a URI."""
    if re.match(r"[a-z0-9]+:/", str(path)):
        raise UserError(f"{path}: a URI, where a path on a disk is expected; write there, then copy it")
    return Path(absolute(str(path)))


def located(config: C) -> C:
    """Returns the configuration with absolute paths, in its stages too."""
    data = config.data
    update: dict[str, Any] = {name: _absolute(getattr(data, name)) for name in OF_DATA}
    update["catalogue"] = data.catalogue.model_copy(update={"items": _absolute(data.catalogue.items)})
    if data.negatives:
        update["negatives"] = data.negatives.model_copy(update={"items": _absolute(data.negatives.items)})
    sources = tuple(source.model_copy(update={"run": _absolute(source.run)}) for source in config.init_from)
    paths = {name: _absolute(getattr(config, name)) for name in OF_RUN}
    stages = tuple(map(_located_stage, config.stages))
    parts = {"data": data.model_copy(update=update), "init_from": sources, "stages": stages}
    return config.model_copy(update=paths | parts)


def _located_stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stage, which is a part of a run file that is checked once it is whole, with absolute paths."""
    stage, data, sources = dict(stage), stage.get("data"), stage.get("init_from")
    if isinstance(data, Mapping):
        stage["data"] = data = _with_absolute(data, (*OF_DATA, "schema"))
        if isinstance(data.get("negatives"), Mapping):
            data["negatives"] = _with_absolute(data["negatives"], ("items",))
        if isinstance(data.get("catalogue"), Mapping):
            data["catalogue"] = _with_absolute(data["catalogue"], ("items",))
        elif "catalogue" in data:
            data["catalogue"] = _absolute(data["catalogue"])
    if isinstance(sources, list | tuple):
        stage["init_from"] = [_with_absolute(s, ("run",)) if isinstance(s, Mapping) else s for s in sources]
    elif sources is not None:
        stage["init_from"] = _with_absolute(sources, ("run",)) if isinstance(sources, Mapping) else _absolute(sources)
    return stage


def _with_absolute(section: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: _absolute(value) if key in keys else value for key, value in section.items()}


def _absolute(given: Any) -> Any:
    """Returns paths made absolute; what is none, is not there or is of a wrong type passes through."""
    if isinstance(given, list | tuple):
        return type(given)(map(_absolute, given))
    return absolute(given) if isinstance(given, str) else given
