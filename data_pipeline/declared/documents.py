"""A document is YAML that somebody wrote: run files, schemas, recipes and overrides all come through this one door.

What is read is plain data (mappings, lists, text, numbers, true and false, null) within bounds, and each mapping, list
and number is an object of its own. What is written reads back equal.

Text is parsed by libyaml. Pure Python takes about ten times as long, which a schema of thousands of features shows.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from shardrec.data_pipeline.errors import UserError, in_quotes

MOST_BYTES = 32 << 20
"""A document's bytes, at most. Ten thousand features are one or two megabytes."""

MOST_VALUES = 2_000_000
"""Values in a document, at most, those of aliases counted wherever they stand; each takes about 0.5 kB while read."""

MOST_FROM_ALIASES = 200_000
"""Values that aliases may add to what is written: a page of nested ones can mean billions."""

MOST_DEPTH = 100
"""Levels of nesting, at most."""

MOST_DIGITS = 100
"""Characters of a number, at most."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BaseDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_TAG = "tag:yaml.org,2002:"
_EXPONENT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
_HELD = {kind: f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}

# ---------------------------------------------------------------- reading


def read_document(path: str | Path, what: str, *, exponents: bool = False) -> Any:
    """Returns the content of the YAML file at `path`, a local path or a URI that `pyarrow.fs` knows.

    Raises UserError for a missing file (`what` ends the line: "no such ..."), for one that is no UTF-8 text or too
    large, and as `parse_document` does.
    """
    return parse_document(_text(path, what), str(path), exponents=exponents)


def parse_document(text: str, where: str, *, exponents: bool = False) -> Any:
    """Returns the content of a YAML text, which error lines call `where`.

    exponents: `1e-3` is a number, as in YAML 1.2; else it is text, as YAML 1.1 has it.

    Raises UserError for broken YAML, a key that is given twice, a tag or a number that is not plain data, and for what
    is too deep or too large once aliases stand for what they mean.
    """
    try:
        text.encode()
        loader = (_ExponentLoader if exponents else _Loader)(text)
        try:
            return _Values(loader).of_document()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {_one_line(error)}") from None
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: not text: found {error.object[error.start]!r} at character {error.start + 1}, half of a "
            "surrogate pair; write it as UTF-8"
        ) from None
    except _RefusedError as refusal:
        raise UserError(f"{where}: {refusal}") from None


def _text(path: str | Path, what: str) -> str:
    try:
        data = _remote_bytes(str(path)) if "://" in str(path) else _local_bytes(Path(path))
        if len(data) > MOST_BYTES:
            raise UserError(f"{path}: more than {MOST_BYTES >> 20} MiB, which no {what.partition(';')[0]} is")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, where a {what.partition(';')[0]} (YAML) is expected") from None
    except UnicodeDecodeError as error:
        found = error.object[error.start]
        raise UserError(
            f"{path}: cannot be read: not UTF-8 text (byte {found:#04x} at {error.start}); save it as UTF-8"
        ) from None
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        reason = error.strerror if isinstance(error, OSError) and error.strerror else _one_line(error)
        raise UserError(f"{in_quotes(str(path))}: cannot be read: {reason}") from None


def _local_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


def _remote_bytes(uri: str) -> bytes:
    from shardrec.data_pipeline.stores.filesystems import opened  # slow to import, and most files are local
    from shardrec.data_pipeline.stores.retries import tried

    def read() -> bytes:
        filesystem, path = opened(uri)
        with filesystem.open_input_stream(path) as stream:
            data: bytes = stream.read(MOST_BYTES + 1)
            return data

    return tried(read, f"{uri}: read")


class _RefusedError(Exception):
    """Says in words why a document is not read."""


class _Loader(_Base):
    """A loader counts values and levels while the parser goes on, and stops it at a bound."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.values = 0
        self._depth = 0

    def descend_resolver(self, parent: Any, index: Any) -> None:
        """Is called before each value that is not an alias."""
        self.values += 1
        self._depth += 1
        if self.values > MOST_VALUES:
            raise _RefusedError(f"more than {MOST_VALUES:,} values; write a smaller file")
        if self._depth > MOST_DEPTH:
            raise _RefusedError(f"nested deeper than {MOST_DEPTH} levels{_line(parent)}; write it flatter")

    def ascend_resolver(self) -> None:
        """Is called after each value that is not an alias."""
        self._depth -= 1


class _ExponentLoader(_Loader):
    """A loader of YAML 1.2's floats."""


_ExponentLoader.add_implicit_resolver(f"{_TAG}float", _EXPONENT, list("-+0123456789."))


class _Values:
    """Makes plain data of the nodes of one document."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._sizes: dict[int, int | None] = {}
        self._scalars = yaml.constructor.SafeConstructor()

    def of_document(self) -> Any:
        """Returns the document's content; None where it is empty."""
        root = self._loader.get_single_node()
        if root is None:
            return None
        written = self._loader.values
        if self._size(root) > min(MOST_VALUES, written + MOST_FROM_ALIASES):
            raise _RefusedError(
                f"{written:,} values, which aliases (`*name`) turn into more than "
                f"{min(MOST_VALUES, written + MOST_FROM_ALIASES):,}; write out what is meant"
            )
        return self._value(root)

    def _size(self, node: yaml.Node) -> int:
        """Counts the values of a node, each alias as all that it stands for."""
        if isinstance(node, yaml.ScalarNode):
            return 1
        known = self._sizes.get(id(node), 0)
        if known is None:
            raise _RefusedError(f"a value that contains itself by an alias{_line(node)}; write out what is meant")
        if known == 0:
            self._sizes[id(node)] = None
            inside = node.value
            if isinstance(node, yaml.MappingNode):
                inside = [part for pair in inside for part in pair]
            known = self._sizes[id(node)] = 1 + sum(map(self._size, inside))
        return known

    def _value(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return node.value if node.tag == _HELD["str"] else self._scalar(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == _HELD["seq"]:
            return [self._value(inside) for inside in node.value]
        if isinstance(node, yaml.MappingNode) and node.tag == _HELD["map"]:
            return self._mapping(node)
        raise _no_plain_data(node)

    def _mapping(self, node: yaml.MappingNode) -> dict[Any, Any]:
        own: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _HELD["merge"]:
                merged = {**self._merged(value_node), **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise _RefusedError(f"a list or mapping as a key{_line(key_node)}; expected text or a number")
            key = self._value(key_node)
            line = key_node.start_mark.line + 1
            if key in own:
                both = f"lines {lines[key]} and {line}" if line != lines[key] else f"line {line}"
                raise _RefusedError(f"key {in_quotes(key)} is there twice, in {both}; keep one of them")
            own[key], lines[key] = self._value(value_node), line
        return {**merged, **own} if merged else own

    def _merged(self, node: yaml.Node) -> dict[Any, Any]:
        """Returns what `<<` brings in: a mapping, or several of which earlier ones win."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        result: dict[Any, Any] = {}
        for part in parts:
            if not isinstance(part, yaml.MappingNode):
                raise _RefusedError(f"`<<` takes a mapping or a list of mappings{_line(part)}")
            result = {**self._mapping(part), **result}
        return result

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind in ("timestamp", "value"):  # dates are text, and so is `=`
            return node.value
        if node.tag not in _HELD.values() or kind in ("seq", "map", "merge"):
            raise _no_plain_data(node)
        if kind in ("int", "float") and len(node.value) > MOST_DIGITS:
            raise _RefusedError(
                f"a number of {len(node.value):,} characters{_line(node)}: {in_quotes(node.value)}; write a smaller "
                "one, or text in quotes"
            )
        make = getattr(self._scalars, f"construct_yaml_{kind}")
        try:
            return make(node)
        except (ValueError, KeyError, IndexError, OverflowError):  # `!!int x`
            raise _RefusedError(f"{in_quotes(node.value)} is no {kind}{_line(node)}") from None


def _no_plain_data(node: yaml.Node) -> _RefusedError:
    tag = node.tag.replace(_TAG, "!!")
    return _RefusedError(f"{in_quotes(tag)} is no plain data{_line(node)}; expected text, numbers, lists or mappings")


def _line(node: yaml.Node | None) -> str:
    return f", in line {node.start_mark.line + 1}" if node is not None else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).replace('in "<unicode string>", ', "in ").split())


# ---------------------------------------------------------------- writing


class _Dumper(_BaseDumper):
    """A dumper writes everything out, and puts text in quotes that either way of reading would take for a number."""

    def ignore_aliases(self, data: Any) -> bool:
        """Returns True: values that are equal by chance are no aliases."""
        return True


_Dumper.add_implicit_resolver(f"{_TAG}float", _EXPONENT, list("-+0123456789."))


def dump_document(content: Any, *, width: int = 120, flow: bool | None = False) -> str:
    """Returns plain data as YAML; `flow` None writes innermost lists and mappings in one line each."""
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=width, default_flow_style=flow))
