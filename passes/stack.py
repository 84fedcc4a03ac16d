"""Rows whose chains are the same but for the name become one chain over a stack."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from normc.update.program import Chain, Decision, Program, annotate


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
        merged.append(annotate(replace(chains[0], rows=rows)))
        if len(rows) > 1:
            shape = "x".join(map(str, rows[0].shape))
            decisions.append(Decision("stack", f"{len(rows)} x {rows[0].name}", f"same shape {shape}, view and rule"))
    return program.with_chains(tuple(merged), decisions)


def signature(graph: fx.Graph) -> tuple[str, ...]:
    """What a graph computes, as text: equal for graphs that were built alike."""
    return tuple(f"{node.name} = {node.target}{node.args}{sorted(node.kwargs.items())}" for node in graph.nodes)
