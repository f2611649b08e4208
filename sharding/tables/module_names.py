"""Any text names a feature or a table, and torch and TorchRec take few: this is what stands for a name inside of them.

Both are reversible, so that no two names become one. Checkpoints have the names themselves.
"""

from urllib.parse import quote, unquote

_TABLE = "table:"  # so that no name is one that every torch module has (`type`, `float`, `train`)


def module_name(table: str) -> str:
    """Returns a table's name as a module's: without dots, and none that a module has anyway."""
    return _TABLE + quoted(table)


def table_name(module: str) -> str:
    """Returns the table whose `module_name` this is."""
    return unquote(module.removeprefix(_TABLE))


def quoted(table: str) -> str:
    """Returns a table's name as the draws of its rounding go by it: percent-encoded, without dots."""
    return quote(table, safe="/ ").replace(".", "%2E")


def feature_key(feature: str) -> str:
    """Returns a feature's name as TorchRec's key: without `@`, which TorchRec writes between feature and table."""
    return feature.replace("%", "%25").replace("@", "%40")


def feature_name(key: str) -> str:
    """Returns the feature whose `feature_key` this is."""
    return key.replace("%40", "@").replace("%25", "%")
