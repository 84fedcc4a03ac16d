"""laws: every row's chain without what its norm makes idle."""

from __future__ import annotations

from collections import Counter

from normc.update.program.laws import Finding, simplified
from normc.update.program.program import Chain, Decision, Program
from normc.update.program.rewriting import rewrite


@rewrite("laws")
def laws(program: Program) -> Program:
    """Each chain simplified; one decision for each law, with the number of rows."""
    counted: Counter[Finding] = Counter()
    chains = []
    for chain in program.chains:
        graph, found = simplified(chain.graph)
        counted.update({finding: len(chain.rows) for finding in found})
        chains.append(Chain(chain.rows, graph, chain.group))
    decisions = [
        Decision("laws", f"{finding.what}, in {number} rows", finding.why, finding.saving)
        for finding, number in counted.items()
    ]
    return program.with_chains(tuple(chains), decisions)
