"""Regions that a tower computes without autocast become part of its graph: an exported program is fp32 anyway.

torch exports such a region as a function of its own, whose call takes longer than a row's arithmetic.
"""

import torch
from torch.export import ExportedProgram
from torch.fx import Node


def inline_autocast(program: ExportedProgram) -> None:
    """Puts the nodes of all regions with another autocast into the graph itself, in place."""
    module = program.graph_module
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not torch.ops.higher_order.wrap_with_autocast:
            continue
        _, _, enabled, _, region, *arguments = node.args
        assert isinstance(region, Node) and isinstance(region.target, str) and not enabled
        inner = getattr(module, region.target).graph
        given = dict(zip(inner.find_nodes(op="placeholder"), arguments, strict=True))
        with graph.inserting_before(node):
            outputs = graph.graph_copy(inner, given)
        for user in list(node.users):  # getitem: a region returns a tuple
            assert isinstance(outputs, list | tuple)
            user.replace_all_uses_with(outputs[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)
        if not region.users:
            graph.erase_node(region)
            delattr(module, region.target)
    module.recompile()
