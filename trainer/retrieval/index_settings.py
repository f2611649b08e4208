"""Settings of an approximate index say how much it looks at; most follow from the number of items."""

from math import sqrt

from pydantic import Field, ValidationError

from shardrec.data_pipeline.declared.declaration import Declaration, unknown
from shardrec.data_pipeline.errors import UserError

ITEMS_A_LIST = 39
"""The fewest items that k-means of an inverted file is given for each of its lists, as faiss asks for."""

SETTINGS_OF = {"exact": (), "hnsw": ("m", "ef_construction", "ef_search"), "ivf": ("lists", "probes")}
"""The settings that each index has."""


class IndexSettings(Declaration):
    """Settings of an index; what is None is chosen by the number of items.

    m, ef_construction, ef_search: of a graph (hnsw): links an item, and candidates held while it is built and searched
    lists, probes: of an inverted file (ivf): clusters of items, and how many of them a query looks into
    """

    m: int = Field(default=32, ge=2, le=512)
    ef_construction: int = Field(default=200, ge=1)
    ef_search: int = Field(default=128, ge=1)
    lists: int | None = Field(default=None, ge=1)
    probes: int | None = Field(default=None, ge=1)

    @classmethod
    def parse(cls, words: tuple[str, ...]) -> "IndexSettings":
        """Reads NAME=NUMBER words. Raises UserError for an unknown name or a number that is none."""
        pairs = [word.partition("=") for word in words]
        if wrong := [word for word, (_, equals, _) in zip(words, pairs, strict=True) if not equals]:
            raise UserError(f"--index-set {wrong[0]}: expected NAME=NUMBER, such as probes=32")
        try:
            return cls.model_validate({name: value for name, _, value in pairs})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"]))
            if name not in cls.model_fields:
                raise UserError("--index-set: " + unknown("setting", name, list(cls.model_fields))) from None
            raise UserError(f"--index-set {name}: {first['msg']}; there are: {', '.join(cls.model_fields)}") from None

    def check(self, kind: str) -> None:
        """Raises UserError where a setting is given that the index of this kind has not."""
        if others := [name for name in self.model_fields_set if name not in SETTINGS_OF[kind]]:
            has = f"it has {', '.join(SETTINGS_OF[kind])}" if SETTINGS_OF[kind] else "it has no settings"
            raise UserError(
                f"--index-set {others[0]}: is no setting of the {kind} index: {has}; leave it out, or name another by "
                "--index"
            )

    def of(self, items: int) -> "IndexSettings":
        """Returns the settings for a number of items, with nothing left open.

        4 sqrt(N) lists, as far as each has enough items, and an eighth of them, but 8 at least, to look into.
        """
        lists = self.lists or max(1, min(int(4 * sqrt(items)), items // ITEMS_A_LIST))
        lists = min(lists, items)
        return self.model_copy(update={"lists": lists, "probes": min(self.probes or max(8, lists // 8), lists)})
