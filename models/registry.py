"""A registry holds classes by name and imports each, and with it torch, only when it is asked for."""

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardrec.models.base import Recommender


class Registry(Mapping[str, "type[Recommender]"]):
    """A registry maps names to model classes, given as `package.module:Class`; names alone import nothing."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.paths = dict(paths)

    def __getitem__(self, name: str) -> "type[Recommender]":
        """Returns the class called `name`. Raises KeyError for an unknown name."""
        module, _, class_name = self.paths[name].partition(":")
        model: type[Recommender] = getattr(importlib.import_module(module), class_name)
        return model

    def __contains__(self, name: object) -> bool:
        return name in self.paths

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)
