"""A scale that follows an elementwise direction becomes the step size of `descend`: one pass over memory less."""

from __future__ import annotations

from torch import fx

from normc.update.arithmetic import descend, scale
from normc.update.program import Chain, Decision, Program, each_form


def fuse(program: Program) -> Program:
    """Every chain with `descend(w, scale(d, c), lr)` as `descend(w, d, lr, radius=c)` where d is elementwise."""
    decisions: list[Decision] = []
    chains = tuple(_fuse(chain, decisions) for chain in program.chains)
    return program.with_chains(chains, decisions)


def _fuse(chain: Chain, decisions: list[Decision]) -> Chain:
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(chain.graph, values)
    graph.output(output)
    for node in list(graph.nodes):
        direction = node.args[1] if node.target is descend else None
        if not isinstance(direction, fx.Node) or direction.target is not scale or "radius" in node.kwargs:
            continue
        source, factor = direction.args
        if isinstance(source, fx.Node) and len(direction.users) == 1 and each_form(source.target) is not None:
            node.args = (node.args[0], source, *node.args[2:])
            node.kwargs = {**node.kwargs, "radius": factor}
            graph.erase_node(direction)
            decisions.append(Decision("fuse", f"{chain.row.name}: scale into descend", "one pass over memory less"))
    graph.lint()
    return Chain(chain.rows, graph, chain.group)
