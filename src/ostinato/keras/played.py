"""From a recorded graph what every play of it would compute anew is taken out.

Before: the operations as they were recorded, one call each; the only tensors that the graph holds
are constants that Python code made. After: the same results and the same changes of the inputs, to
the bit, from fewer calls. For example

.. code-block:: text

    detach = aten.detach(arg0)                     (gone: nothing is differentiated in a play)
    lift = aten.lift_fresh_copy(_tensor_constant0)
    power = aten.pow(lift, 2)                      (gone: computed once)
    mm = aten.mm(arg1, detach)              ->     mm = aten.mm(arg1, arg0)
    add = aten.add(mm, power)               ->     add = aten.add(mm, _folded0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.fx import GraphModule

#: Larger constants would hold more memory than computing them anew costs time.
_MOST_ELEMENTS = 1 << 20


def simplify(graph: GraphModule) -> None:
    """Fold constants and drop ``detach``, in place."""
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    changed = _changed(graph)
    known: dict[Node, Tensor] = {}
    for node in graph.graph.nodes:
        if node not in changed and _is_constant(node, known):
            value = _compute(graph, node, known)
            if isinstance(value, Tensor) and value.numel() <= _MOST_ELEMENTS:
                known[node] = value
    for k, (node, value) in enumerate(known.items()):
        outside = [user for user in node.users if user not in known]
        if outside:
            graph.register_buffer(f"_folded{k}", value)
            with graph.graph.inserting_before(node):
                constant = graph.graph.get_attr(f"_folded{k}")
            for user in outside:
                user.replace_input_with(node, constant)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _changed(graph: GraphModule) -> set[Node]:
    """Nodes whose memory some operation writes into, directly or through a view of it."""
    found: set[Node] = set()
    for node in graph.graph.nodes:
        waiting = list(_written(node))
        while waiting:
            one = waiting.pop()
            if one not in found:
                found.add(one)
                # Whatever it may be a view of; more than that does no harm.
                if _may_alias(one):
                    waiting += one.all_input_nodes
    return found


def _written(node: Node) -> Iterator[Node]:
    """Those arguments that an operation writes into."""
    if isinstance(node.target, OpOverload):
        for k, argument in enumerate(node.target._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given = node.args[k] if k < len(node.args) else node.kwargs.get(argument.name)
                yield from (n for n in tree_leaves(given) if isinstance(n, Node))


def _may_alias(node: Node) -> bool:
    if not isinstance(node.target, OpOverload):
        return True  # the item of a list
    return any(r.alias_info is not None for r in node.target._schema.returns)


def _is_constant(node: Node, known: dict[Node, Tensor]) -> bool:
    target: Any = node.target
    if not isinstance(target, OpOverload):
        return node.op == "get_attr"
    if target._schema.is_mutable or torch.Tag.nondeterministic_seeded in target.tags:
        return False
    return all(n in known for n in node.all_input_nodes)


def _compute(graph: GraphModule, node: Node, known: dict[Node, Tensor]) -> Any:
    target: Any = node.target
    if node.op == "get_attr":
        return getattr(graph, target)
    arguments = torch.fx.map_arg(node.args, known.__getitem__)
    keywords = torch.fx.map_arg(node.kwargs, known.__getitem__)
    with torch.no_grad():
        return target(*arguments, **keywords)
