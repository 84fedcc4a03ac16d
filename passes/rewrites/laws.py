"""laws: every row's chain without what its norm makes idle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import fx

from normc.update.program.laws import Finding, simplified
from normc.update.program.program import Chain, Decision, Program
from normc.update.program.rewriting import rewrite


@rewrite("laws")
def laws(program: Program) -> Program:
    """Each chain simplified; one decision for each law, with the number of rows. Chains of one graph keep one."""
    counted: Counter[Finding] = Counter()
    chains = []
    seen: dict[int, tuple[fx.Graph, Sequence[Finding]]] = {}
    for chain in program.chains:
        if id(chain.graph) not in seen:
            seen[id(chain.graph)] = simplified(chain.graph)
        graph, found = seen[id(chain.graph)]
        counted.update({finding: len(chain.rows) for finding in found})
        chains.append(Chain(chain.rows, graph, chain.group))
    decisions = [
        Decision("laws", f"{finding.what}, in {number} rows", finding.why, finding.saving)
        for finding, number in counted.items()
    ]
    return program.with_chains(tuple(chains), decisions)
