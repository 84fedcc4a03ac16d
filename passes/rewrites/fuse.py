"""A scale that follows an elementwise direction becomes the size of the step itself."""

from __future__ import annotations

from torch import fx

from normc.update.ops.arithmetic import constrained, descend, scale
from normc.update.program.program import Chain, Decision, Program, each_form
from normc.update.program.rewriting import rewrite


@rewrite("fuse")
def fuse(program: Program) -> Program:
    """Every chain with `descend(w, scale(d, factor=c), lr)` as `descend(w, d, lr, radius=c)` where d is elementwise.

    Where what is elementwise runs in kernels, so it is where d comes out of a core: the kernel behind it reads d once,
    and d may be narrow. On a CPU a step of any size reads d once too.
    """
    cpu = program.device.type == "cpu"
    anywhere = cpu or (program.device.fused and "kernels" not in program.build.without)
    decisions: list[Decision] = []
    chains = tuple(_fuse(chain, decisions, anywhere, cpu) for chain in program.chains)
    return program.with_chains(chains, decisions)


def _fuse(chain: Chain, decisions: list[Decision], anywhere: bool, sized: bool) -> Chain:
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(chain.graph, values)
    graph.output(output)
    for node in list(graph.nodes):
        direction = node.args[1] if node.target in (descend, constrained) else None
        if not isinstance(direction, fx.Node) or direction.op != "call_function" or "radius" in node.kwargs:
            continue
        if direction.target is not scale:
            if sized and each_form(direction.target) is None:
                node.kwargs = {**node.kwargs, "radius": 1.0}  # steps of all sizes may then share a core
            continue
        source, factor = direction.args[0], direction.kwargs["factor"]
        elementwise = isinstance(source, fx.Node) and each_form(source.target) is not None
        if len(direction.users) == 1 and (elementwise or anywhere):
            node.args = (node.args[0], source, *node.args[2:])
            node.kwargs = {**node.kwargs, "radius": factor}
            graph.erase_node(direction)
            number = f" x{len(chain.rows)}" if len(chain.rows) > 1 else ""
            what = f"{chain.row.name}{number}: scale into {node.target.__name__}"
            decisions.append(Decision("fuse", what, "a number times a number", "a pass over memory"))
    graph.lint()
    return Chain(chain.rows, graph, chain.group)
