"""The dtype that Newton-Schulz runs in."""

from __future__ import annotations

import torch

from normc.update.ops.matrices import polar
from normc.update.program.program import Chain, Decision, Program, state_dtype
from normc.update.program.rewriting import rewrite


@rewrite("dtypes")
def dtypes(program: Program) -> Program:
    """Every `polar` whose stack is float32 gets the device's dtype, if that has one; float64 stays as it is."""
    dtype = program.device.polar
    if dtype is None:
        return program
    changed = [chain for chain in program.chains if polar_dtype(program, chain) and _set(chain, dtype)]
    what = f"Newton-Schulz in {dtype} for {sum(len(chain.rows) for chain in changed)} parameters"
    return program.with_chains(program.chains, [Decision("dtypes", what, program.device.why)])


def polar_dtype(program: Program, chain: Chain) -> torch.dtype | None:
    """What a chain's Newton-Schulz runs in, or will: None for the dtype of its stack."""
    left_out = "dtypes" in program.build.without
    return None if left_out or state_dtype(chain.row) != torch.float32 else program.device.polar


def _set(chain: Chain, dtype: torch.dtype) -> bool:
    """Changes the chain's own graph, which `fuse` and `stack` have made for it."""
    found = False
    for node in chain.graph.nodes:
        if node.target is polar:
            node.kwargs = {**node.kwargs, "dtype": dtype}
            found = True
    return found
