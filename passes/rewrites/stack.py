"""Rows whose chains are the same but for the name become one chain over a stack."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from normc.update.ops.arithmetic import scale
from normc.update.program.program import ROWWISE, Chain, Decision, Program, rowwise_numbers
from normc.update.program.rewriting import rewrite


@rewrite("stack")
def stack(program: Program) -> Program:
    """Chains of equal graph, shape, dtype and group merged, in the order of their first rows.

    A frozen row is kept apart from trained ones: its share of a stack would be computed for nothing.
    """
    families: dict[tuple[object, ...], list[Chain]] = {}
    for chain in program.chains:
        row = chain.row
        key = (chain.group, row.role, row.shape, row.dtype, row.frozen, signature(chain.graph))
        families.setdefault(key, []).append(chain)
    decisions, merged = [], []
    for chains in families.values():
        rows = tuple(row for chain in chains for row in chain.rows)
        _number(chains)
        merged.append(replace(chains[0], rows=rows))
        if len(rows) > 1:
            shape = "x".join(map(str, rows[0].shape))
            decisions.append(
                Decision(
                    "stack",
                    f"{len(rows)} x {rows[0].name}",
                    f"same shape {shape}, view and rule",
                    f"{len(rows) - 1} of each op",
                )
            )
    return program.with_chains(tuple(merged), decisions)


def signature(graph: fx.Graph) -> tuple[str, ...]:
    """What a graph computes but for its rowwise numbers, as text: equal for graphs that were built alike."""
    found = []
    for node in graph.nodes:
        kwargs = sorted((name, "a row" if name in ROWWISE else value) for name, value in node.kwargs.items())
        found.append(f"{node.name} = {node.target}{node.args}{kwargs}")
    return tuple(found)


def _number(chains: list[Chain]) -> None:
    """Give the first chain's calls the rowwise numbers of all chains. Changes its graph, which `fuse` has made."""
    sizes = [len(chain.rows) for chain in chains]
    for calls in zip(*(list(chain.graph.nodes) for chain in chains), strict=True):
        own = {name: rowwise_numbers(calls, sizes, name) for name in ROWWISE if name in calls[0].kwargs}
        if calls[0].target is scale and own["factor"] == 1.0:
            calls[0].replace_all_uses_with(calls[0].all_input_nodes[0])
            chains[0].graph.erase_node(calls[0])
        elif own:
            calls[0].kwargs = {**calls[0].kwargs, **own}
