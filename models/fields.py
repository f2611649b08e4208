"""Fields are the features that a model may use, and make the tables that it declares for them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.declared.name_patterns import matches
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import (
    DenseFeature,
    DenseSequenceFeature,
    Feature,
    IdFeature,
    IdListFeature,
    LoggedAt,
    SequenceFeature,
    SparseFeature,
)
from shardrec.data_pipeline.features.id_transforms import Raw
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.dynamic_ids import DynamicConfig, DynamicIds
from shardrec.models.table_settings import TableInit, TableSettings
from shardrec.models.tables import EmbeddingTable


class Fields:
    """Fields name the features that a model may use, and make tables for their ids under a run file's settings.

    A model asks them for what it wants, by default for all that there is:

        field = PooledEmbeddings(fields.tables(embedding_dim=16))  # each id and id-list feature with a table
        dense = DenseFeatures(fields.dense)  # every dense feature

    A table is called after its id space (`Schema`'s `table`), with `group/` before it where a model keeps several sets
    of tables (Wide&Deep's `wide/` and `deep/`). `settings` maps name patterns (`*`, `deep/C*`) to `TableSettings`;
    later patterns win.

    Of logged transitions these are the features of the row itself (`place: now`): what followed is asked for by `at`.
    """

    def __init__(self, schema: Schema, settings: Mapping[str, TableSettings] | None = None) -> None:
        self.schema = schema
        self.settings = dict(settings or {})
        self._matched: set[str] = set()

    @property
    def now(self) -> tuple[Feature, ...]:
        """Returns the features that a row has of itself, whatever their kind: those of `place: now`."""
        return tuple(f for f in self.schema.features if f.place == "now")

    def at(self, place: LoggedAt) -> dict[str, str]:
        """Returns the features at another place of a logged transition: what each is `of` -> its name.

        `fields.at("next")["user"]` is the feature that has the user of the next state.
        """
        return self.schema.places(place)

    @property
    def pooled(self) -> tuple[str, ...]:
        """Returns the names of the id and id-list features, labels left out: the fields of an interaction model."""
        return tuple(
            f.name
            for f in self.now
            if isinstance(f, IdFeature) or (isinstance(f, IdListFeature) and f.weights_are == "values")
        )

    @property
    def sequences(self) -> tuple[str, ...]:
        """Returns the names of the sequence features."""
        return tuple(f.name for f in self.now if isinstance(f, SequenceFeature))

    @property
    def dense(self) -> tuple[str, ...]:
        """Returns the names of the dense features."""
        return tuple(f.name for f in self.now if isinstance(f, DenseFeature))

    @property
    def dense_sequences(self) -> tuple[str, ...]:
        """Returns the names of the dense sequences: numbers beside the ids of sequences."""
        return tuple(f.name for f in self.now if isinstance(f, DenseSequenceFeature))

    def select(self, patterns: Iterable[str] | None) -> tuple[str, ...]:
        """Returns the pooled features that match any of the name patterns, in the schema's order (None: all).

        Raises UserError for a pattern that matches none.
        """
        return self.pooled if patterns is None else self._matching(patterns, self.pooled, "id or id_list feature")

    def select_with_dense(self, patterns: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Returns the pooled and the dense features that match any of the name patterns, each in the schema's order.

        Raises UserError for a pattern that matches none of either.
        """
        known = tuple(f.name for f in self.schema.features if f.name in (*self.pooled, *self.dense))
        names = self._matching(patterns, known, "id, id_list or dense feature")
        return tuple(n for n in self.pooled if n in names), tuple(n for n in self.dense if n in names)

    @staticmethod
    def _matching(patterns: Iterable[str], known: Sequence[str], what: str) -> tuple[str, ...]:
        patterns = tuple(patterns)
        for pattern in patterns:
            if not any(matches(name, pattern) for name in known):
                raise UserError("model: " + unknown(what, pattern, known))
        return tuple(name for name in known if any(matches(name, p) for p in patterns))

    def table(
        self, feature: str, *, embedding_dim: int, zero_columns: int = 0, group: str = "", **defaults: Any
    ) -> EmbeddingTable:
        """Returns the table of one feature; `defaults` are further arguments of `EmbeddingTable`.

        The run file's settings override them; of `init` only what they give, its `kind` or its `scale`.

        A row has `zero_columns + embedding_dim` columns. A setting's `embedding_dim` counts the latter; rows of zero
        columns only (embedding_dim=0: linear weights) have a width that settings cannot change. Raises UserError for a
        dense or an unknown feature, and for a dim where there is none to set.
        """
        declared = self.schema[feature]
        if not hasattr(declared, "table_name"):
            raise UserError(f"feature {feature!r} is {declared.kind}; a table needs an id, id_list or sequence feature")
        name = f"{group}/{declared.table_name}" if group else declared.table_name
        overrides: dict[str, Any] = {}
        init = defaults.pop("init", TableInit())
        for pattern, settings in self.settings.items():
            if matches(name, pattern):
                self._matched.add(pattern)
                overrides |= {k: v for k in settings.model_fields_set if (v := getattr(settings, k)) is not None}
                init = settings.init.over(init) if settings.init else init
                if embedding_dim == 0 and "embedding_dim" in overrides:
                    raise UserError(
                        f"tables: {pattern!r} sets embedding_dim {overrides['embedding_dim']}, but table {name!r} "
                        f"holds {zero_columns} linear weight(s) a row; name only tables whose width can be chosen"
                    )
        if "cache_share" in overrides and overrides.get("memory") != "cached":
            raise UserError(
                f"tables: {name!r} has cache_share {overrides['cache_share']:g}, but its memory is "
                f"{overrides.get('memory', 'device')}; set memory: cached, or leave cache_share out"
            )
        dim = zero_columns + overrides.pop("embedding_dim", embedding_dim)
        dynamic = _dynamic_ids(name, declared, overrides.pop("dynamic", None) or None)
        return EmbeddingTable(
            name=name,
            num_embeddings=dynamic.num_embeddings if dynamic else declared.num_embeddings,
            dynamic=dynamic,
            embedding_dim=dim,
            zero_columns=zero_columns,
            **(defaults | overrides | {"init": init}),
        )

    def tables(
        self, *, embedding_dim: int, features: Iterable[str] | None = None, group: str = "", **defaults: Any
    ) -> dict[str, EmbeddingTable]:
        """Returns a table for each of `features` (default: all pooled ones), by the feature's name.

        Features of one id space get equal tables, and so share one. Raises UserError where there is no feature, and
        as `table` does.
        """
        names = self.pooled if features is None else tuple(features)
        if not names:
            raise UserError("the model needs at least one id or id_list feature; the schema (or its subset) has none")
        return {f: self.table(f, embedding_dim=embedding_dim, group=group, **defaults) for f in names}

    def check_all_settings_used(self, tables: Iterable[str]) -> None:
        """Raises UserError for a pattern of the run file that matched no table of the model."""
        for pattern in self.settings:
            if pattern != "*" and pattern not in self._matched:
                raise UserError("tables: " + unknown("table", pattern, sorted(set(tables))))


def _dynamic_ids(table: str, declared: SparseFeature, config: DynamicConfig | None) -> DynamicIds | None:
    is_raw = isinstance(declared.ids, Raw)
    if is_raw and (config is None or config.rows is None):
        pattern = f'"*/{declared.table_name}"' if "/" in table else table
        raise UserError(
            f"tables: the ids of feature {declared.name!r} are raw, any 64-bit number, but table {table!r} does not "
            f"say how many of them have a row; set `tables: {{{pattern}: {{dynamic: {{rows: ...}}}}}}`, or hash the ids"
        )
    if config is None:
        return None
    rows = declared.num_embeddings if config.rows is None else config.rows
    return DynamicIds(declared.table_name, config.model_copy(update={"rows": rows}))
