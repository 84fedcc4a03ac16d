"""Factors for a model that is wider and deeper than the one that was tuned: muP, CompleteP, and u-muP."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from normc.errors import NormcError

Part = Literal["embedding", "hidden", "readout", "gain", "bias"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a parameter's settings are multiplied by; `residual` is of the branch that it is in (1 outside of any).

    lr, weight_decay (decoupled, and itself multiplied by the learning rate), epsilon: of AdamW. init: the standard
    deviation. multiplier: of what the parameter's layer returns.
    """

    lr: float = 1.0
    weight_decay: float = 1.0
    epsilon: float = 1.0
    init: float = 1.0
    multiplier: float = 1.0
    residual: float = 1.0


def mup(part: Part, width: float, in_block: bool = True) -> Rules:
    """muP for AdamW: `completep` of a model that is no deeper than the one that was tuned."""
    return completep(part, width, 1.0, in_block=in_block)


def completep(part: Part, width: float, depth: float, alpha: float = 1.0, in_block: bool = True) -> Rules:
    """CompleteP for AdamW on a pre-norm transformer (Dey et al., 2505.01618, table 1). NormcError for bad factors.

    part          what the parameter is; "hidden" is every matrix of a block
    width, depth  m_N and m_L: how many times wider and deeper than the model that was tuned
    alpha         branches are multiplied by m_L^-alpha; 1 is CompleteP, 1/2 is depth-muP
    in_block      whether a gain or a bias is inside a residual branch; a final norm's isn't

    The paper scales epsilon in residual blocks alone, as this does; its reference code scales all epsilons alike.
    Learning rates shrink by m_N but weight decay grows by it: their product doesn't depend on the width.
    """
    _check(part, width=width, depth=depth)
    if not 0.5 <= alpha <= 1:
        raise NormcError(f"alpha of CompleteP is {alpha}", "give 1, or 1/2 for depth-muP, or what lies between")
    if part == "readout":
        return Rules(multiplier=1 / width)
    if part == "embedding" or (not in_block and part != "hidden"):
        return Rules()
    lr, epsilon, residual = depth ** (alpha - 1), 1 / (width * depth**alpha), depth**-alpha
    if part == "hidden":
        return Rules(lr / width, width, epsilon, width**-0.5, residual=residual)
    return Rules(lr, epsilon=epsilon, residual=residual)


def u_mup(part: Part, fan_in: float, depth: float | None = None) -> Rules:
    """u-muP for Adam (Blake et al., 2407.17465, table 2), whose weights all start with standard deviation 1.

    fan_in   of the matrix; for an embedding the length of its vectors; for a gain or a bias it says nothing
    depth    how many layers the stack has that the parameter is in, as the paper's package counts them: a transformer's
             layer is one, with its two branches. None outside of a stack

    `weight_decay` undoes `lr`: decay per step is then the same for all, as the paper's independent decay. The branch's
    own multiplier depends on its place: `u_mup_residual`.
    """
    _check(part, fan_in=fan_in, depth=1 if depth is None else depth)
    deep = 1.0 if depth is None else depth**-0.5
    lr = deep * (fan_in**-0.5 if part in ("embedding", "hidden") else 1.0)
    multiplier = {"hidden": fan_in**-0.5, "readout": 1 / fan_in}.get(part, 1.0)
    return Rules(lr, weight_decay=1 / lr, multiplier=multiplier)


def u_mup_residual(branch: int, branches: int, residual: float = 1.0, attention: float = 1.0) -> tuple[float, float]:
    """(of the branch, of the stream): what u-muP multiplies both by before it adds them (2407.17465, appendix G).

    Branches, counted from 0, are attention and MLP in turn. At the end of the stack the variance of an average branch
    of all attention, or of all MLPs, is residual^2 of the embedding's; that of attention is attention^2 of the MLPs'.
    Squares of both add up to 1.
    """
    if not 0 <= branch < branches:
        raise NormcError(f"there is no branch {branch} of {branches}", "branches are counted from 0")
    if not (0 < residual < math.inf and 0 < attention < math.inf):
        raise NormcError("the ratios of branches to the embedding must be positive", "give 1, or a finite factor")
    mlp = residual**2 * 2 / (1 + attention**2)
    sizes = (attention**2 * mlp, mlp)
    # Variances in units of two over the number of branches, so that the embedding's is half that number.
    before = branches / 2 + sum(sizes[place % 2] for place in range(branch))
    after = before + sizes[branch % 2]
    return math.sqrt(sizes[branch % 2] / after), math.sqrt(before / after)


def _check(part: str, **sizes: float) -> None:
    if part not in get_args(Part):
        raise NormcError(f"there is no kind of parameter {part!r}", f"known: {', '.join(get_args(Part))}")
    for name, size in sizes.items():
        if not 0 < size < math.inf:
            raise NormcError(f"{name} is {size}", "give a positive number")
