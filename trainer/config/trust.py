"""A run folder may be anybody's: code that it names, and a cluster, are used only where the user said that they may be.

The run file of one of our models is data, and opens without a word. A model `module:Class` is code, imported from where
`import_from` says, and a Ray cluster sends back what is unpacked here. A folder that this user trained on this machine
is known by a note outside of it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.errors import UserError

_said: set[Path] = set()  # folders that the user said to trust, in this process


def trust_folders(*folders: str | Path | None) -> None:
    """Takes what run folders name as if the user had written it, for as long as this process runs."""
    _said.update(_local(folder).resolve() for folder in folders if folder is not None)


def _local(folder: str | Path) -> Path:
    if "://" not in str(folder):
        return Path(folder)
    from shardrec.data_pipeline.stores.mirrors import local  # loads pyarrow

    return local(folder)


def is_foreign(model: str) -> bool:
    """Tells whether a run file's model is code of the user's or of anybody's, `module:Class`, and not one of ours."""
    return ":" in model and not model.startswith(("shardrec.models.", "__main__:"))


def check_trusted(declared: Mapping[str, Any], folder: Path, *, trains: bool = False) -> None:
    """Raises UserError, naming all of it, where a run folder's own run file would run code that nobody vouched for.

    trains: whether it may be trained by, which sends what it records to the trackers that it names.
    """
    facts = _facts(declared, folder)
    wanted = [f"import {model} from {facts['import_from']}" for model in facts["models"]]
    wanted += [f"connect to the Ray cluster {address}" for address in facts["addresses"]]
    wanted += [f"send what it records to {server}" for server in facts.get("servers", ()) if trains]
    if not wanted or {folder.resolve(), *folder.resolve().parents} & _said or _noted(facts, folder):
        return
    raise UserError(f"{folder}: its run file would {', '.join(wanted)}; give --trust if you know whose folder this is")


def note(declared: Mapping[str, Any], folder: Path) -> None:
    """Notes, outside of it, that this user trained in a run folder; where that cannot be written, --trust is needed."""
    facts = _facts(declared, folder)
    if facts["models"] or facts["addresses"] or "servers" in facts:
        place = _place(folder)
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            place.write_text(json.dumps(facts))


def _noted(facts: Mapping[str, Any], folder: Path) -> bool:
    try:
        return bool(json.loads(_place(folder).read_text()) == facts)
    except (OSError, ValueError):
        return False


def _facts(declared: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns what opening a folder would use beside the files in it, and which folder it is, whatever its name."""
    parts = [declared, *_mappings(declared.get("stages")), *_mappings(declared.get("variants"))]
    models = {_name(part.get("model")) for part in parts}
    addresses = {launch.get("address") for part in parts if isinstance(launch := part.get("launch"), Mapping)}
    status = folder.stat()
    foreign = sorted(filter(is_foreign, models))
    servers = sorted({server for part in parts if (server := _server(part.get("trainer"))) is not None})
    return {
        "folder": str(folder.resolve()),
        "device": status.st_dev,
        "inode": status.st_ino,
        "models": foreign,
        "import_from": str(declared.get("import_from") or folder.resolve()) if foreign else None,
        "addresses": sorted(str(address) for address in addresses if address),
        **({"servers": servers} if servers else {}),
    }


def _server(trainer: Any) -> str | None:
    """Returns where a tracker that a run file names would send what is recorded."""
    tracking = trainer.get("tracking") if isinstance(trainer, Mapping) else None
    mlflow = tracking.get("mlflow") if isinstance(tracking, Mapping) else None
    uri = mlflow.get("uri") if isinstance(mlflow, Mapping) else None
    return None if uri is None else str(uri)


def _name(model: Any) -> str:
    return str(model.get("name") if isinstance(model, Mapping) else model)


def _mappings(section: Any) -> list[Mapping[str, Any]]:
    parts = section.values() if isinstance(section, Mapping) else section if isinstance(section, list | tuple) else ()
    return [part for part in parts if isinstance(part, Mapping)]


def _place(folder: Path) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state, "shardrec", "trained", hashlib.sha256(os.fsencode(folder.resolve())).hexdigest() + ".json")
