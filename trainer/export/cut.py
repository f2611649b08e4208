"""A cut divides an exported tower into what is computed once for a request and what each of its candidates needs.

A node of the graph belongs to the candidates where it depends on an input that does; all others are shared. What the
candidates' nodes read of the shared ones is the border: it is computed for one row, and stands for every candidate.
Parameters and sizes belong to both sides.
"""

import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram


class Cut(NamedTuple):
    """A cut has two modules on tensors.

    shared: the arguments that do not vary -> the border, a tuple. candidate: the border, then the arguments that vary
    -> the tower's output. border: the names of what passes it; lengths: their dimensions of any size, but for the batch
    """

    shared: nn.Module
    candidate: nn.Module
    border: tuple[str, ...]
    lengths: tuple[tuple[int, ...], ...]


def cut(exported: ExportedProgram, varying: Sequence[bool]) -> Cut:
    """Divides a program by which of its arguments, whose first dimension is the batch, vary between candidates."""
    module = exported.module(check_guards=False)
    graph = module.graph
    arguments = [node for node in graph.nodes if node.op == "placeholder"]
    batch = _size(arguments[0], 0)
    sides = _Sides(graph, dict(zip(arguments, varying, strict=True)), batch)
    border = sides.border()
    once = [node for node, varies in zip(arguments, varying, strict=True) if not varies]
    each = [node for node, varies in zip(arguments, varying, strict=True) if varies]
    (output,) = next(node for node in graph.nodes if node.op == "output").args[0]
    return Cut(
        _Part(module, once, tuple(border)),
        _Part(module, [*border, *each], output, expanded={node: _batch_dim(node, batch) for node in border}),
        tuple(node.name for node in border),
        tuple(tuple(dim for dim, size in enumerate(_sizes(n)) if _is_free(size) and size != batch) for n in border),
    )


class _Sides:
    """Sides know which nodes of a graph depend on arguments that vary."""

    def __init__(self, graph: fx.Graph, varying: dict[fx.Node, bool], batch: Any) -> None:
        self.nodes, self.batch = list(graph.nodes), batch
        self.varying = {node for node, varies in varying.items() if varies}
        self.fixed = {node for node, varies in varying.items() if not varies}
        self._follow()

    def _follow(self) -> None:
        for node in self.nodes:
            sources = [source for source in node.all_input_nodes if not _is_size(source)]
            if _is_size(node) or node.op == "placeholder":
                continue
            if any(source in self.varying for source in sources):
                self.varying.add(node)
                self.fixed.discard(node)
            elif node not in self.varying and any(source in self.fixed for source in sources):
                self.fixed.add(node)

    def border(self) -> list[fx.Node]:
        """Returns the fixed nodes that varying ones read.

        One that mixes the batch with another dimension cannot stand for candidates, so that it is computed for each.
        """
        while True:
            border = [n for n in self.nodes if n in self.fixed and any(user in self.varying for user in n.users)]
            mixed = [node for node in border if not _is_clean(node, self.batch)]
            if not mixed:
                return border
            self.varying |= set(mixed)
            self.fixed -= set(mixed)
            self._follow()


class _Part(nn.Module):
    """A part of a graph computes some of its nodes from others that are given, and each parameter that they read."""

    def __init__(
        self,
        module: nn.Module,
        given: list[fx.Node],
        wanted: fx.Node | tuple[fx.Node, ...],
        expanded: dict[fx.Node, int | None] | None = None,
    ) -> None:
        super().__init__()
        self.given, self.wanted, self.expanded = given, wanted, expanded or {}
        self.nodes = _needed(given, wanted)
        for node in self.nodes:
            if node.op == "get_attr":
                setattr(self, _flat(node), operator.attrgetter(str(node.target))(module))
        self.sizes = {
            _size(node, dim): (node, dim)
            for node in reversed(given)
            if isinstance(node.meta["val"], Tensor)
            for dim in range(node.meta["val"].dim())
        }

    def forward(self, *tensors: Tensor) -> Any:
        values: dict[fx.Node, Any] = dict(zip(self.given, tensors, strict=True))
        if self.expanded:
            rows = tensors[-1].shape[0]
            for node, dim in self.expanded.items():
                shape = [rows if i == dim else -1 for i in range(values[node].dim())]
                values[node] = values[node] if dim is None else values[node].expand(shape)
        for node in self.nodes:
            values[node] = self._value(node, values)
        return fx.node.map_arg(self.wanted, values.__getitem__)

    def _value(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        if node.op == "get_attr":
            return getattr(self, _flat(node))
        if _is_dimension(node):
            of, of_dim = node.args
            assert isinstance(of, fx.Node) and isinstance(of_dim, int)
            source, dim = self.sizes[_size(of, of_dim)]
            return values[source].shape[dim]
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def _needed(given: Iterable[fx.Node], wanted: Any) -> list[fx.Node]:
    """Returns the nodes, in the graph's order, that the wanted ones take beside those that are given."""
    found: set[fx.Node] = set()
    pending: list[fx.Node] = []
    fx.node.map_arg(wanted, pending.append)
    known = set(given)
    first = pending[0].graph if pending else None
    while pending:
        node = pending.pop()
        if node in known or node in found:
            continue
        found.add(node)
        if not _is_dimension(node):
            pending += node.all_input_nodes
    return [node for node in first.nodes if node in found] if first is not None else []


def _flat(node: fx.Node) -> str:
    return str(node.target).replace(".", "_")


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool)


def _is_dimension(node: fx.Node) -> bool:
    return node.target is torch.ops.aten.sym_size.int


def _sizes(node: fx.Node) -> list[Any]:
    """Returns a number for each dimension, or the expression of a size that is not known."""
    return [size.node.expr if isinstance(size, torch.SymInt) else size for size in node.meta["val"].shape]


def _size(node: fx.Node, dim: int) -> Any:
    return _sizes(node)[dim]


def _is_free(size: Any) -> bool:
    return bool(getattr(size, "free_symbols", ()))


def _dims_with(node: fx.Node, batch: Any) -> list[int]:
    return [dim for dim, size in enumerate(_sizes(node)) if batch in getattr(size, "free_symbols", ())]


def _batch_dim(node: fx.Node, batch: Any) -> int | None:
    dims = _dims_with(node, batch)
    return dims[0] if dims else None


def _is_clean(node: fx.Node, batch: Any) -> bool:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return False
    dims = _dims_with(node, batch)
    return not dims or (len(dims) == 1 and _size(node, dims[0]) == batch)
