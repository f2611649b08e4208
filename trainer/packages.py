"""Our four packages have common names, so a user's own `models/` or `trainer/` folder could shadow one of ours."""

import importlib.util
import sys
from pathlib import Path

PACKAGES = ("trainer", "sharding", "models", "data_pipeline")
HOME = Path(__file__).resolve().parent.parent


def shadowed() -> str | None:
    """One line that names the path which shadows one of our packages, or None. Imports nothing."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        places = list(spec.submodule_search_locations or [spec.origin or ""]) if spec else []
        place = Path(places[0]).resolve() if places else None
        if place is None or place.parent != HOME:
            return (
                f"{place or package}: found where shardrec's own `{package}` package ({HOME / package}) is expected; "
                "rename that folder, or run `shardrec` from another folder and with no PYTHONPATH to it"
            )
    return None


def append_to_path(folder: str | None) -> None:
    """Makes a user's models importable. Appended, so that a folder of theirs never shadows ours."""
    if folder and folder not in sys.path:
        sys.path.append(folder)
