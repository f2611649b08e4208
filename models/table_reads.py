"""Table reads say which tables a model's inputs look up, and put other tables in their place."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from shardrec.models.inputs import DenseFeatures, Input, SequenceEmbeddings
from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable


def table_reads(inputs: Mapping[str, Input]) -> Iterator[tuple[str, EmbeddingTable]]:
    """Yields (feature, table) for every feature whose ids are looked up, input by input."""
    for source in inputs.values():
        if not isinstance(source, DenseFeatures):
            yield from source.tables.items()


def declared_tables(inputs: Mapping[str, Input], default: TableOptimizer | None = None) -> dict[str, EmbeddingTable]:
    """Returns all tables by name, in order of first use; those without an optimizer get `default`.

    Raises ValueError where two of one name differ.
    """
    tables: dict[str, EmbeddingTable] = {}
    for _, table in table_reads(inputs):
        known = tables.setdefault(table.name, table)
        if known != table:
            raise ValueError(f"two tables are called {table.name!r}: {known} and {table}")
    return {name: t if t.optimizer else replace(t, optimizer=default) for name, t in tables.items()}


def features_of(inputs: Mapping[str, Input], table: str) -> tuple[str, ...]:
    """Returns the features whose ids are rows of the table of this name, each once."""
    return tuple(dict.fromkeys(feature for feature, read in table_reads(inputs) if read.name == table))


def sequence_tables(inputs: Mapping[str, Input]) -> set[str]:
    """Returns the names of the tables that any input reads as a sequence."""
    sequences = (source for source in inputs.values() if isinstance(source, SequenceEmbeddings))
    return {table.name for source in sequences for table in source.tables.values()}


def with_tables(inputs: Mapping[str, Input], change: Callable[[EmbeddingTable], EmbeddingTable]) -> dict[str, Input]:
    """Returns the inputs with `change(table)` in place of every table."""
    return {
        name: source
        if isinstance(source, DenseFeatures)
        else replace(source, tables={feature: change(table) for feature, table in source.tables.items()})
        for name, source in inputs.items()
    }
