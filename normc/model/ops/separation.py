"""What a product of two activations keeps apart of each: attention's heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import fx

from normc.model.ops.value import Value


class Separation(NamedTuple):
    """An operand of `node`, a product of two activations: the dimensions `places` keep products apart, as heads do.

    `rows` are other dimensions that do, of this operand alone: heads of queries that share a key.
    """

    value: Value
    places: tuple[int, ...]
    rows: tuple[int, ...]
    node: fx.Node


def separation(value: Value, shared: Sequence[int], summed: Sequence[int], node: fx.Node) -> Separation | None:
    """How `node` keeps apart what is in an operand; None if it keeps nothing of a parameter apart.

    It does so along the dimensions `shared` with the other operand; and along the rest, where entries of one
    parameter's axis are `summed`, and others of it are not.
    """
    rank = range(len(value.dims))
    shared, summed = [rank[i] for i in shared], [rank[i] for i in summed]
    gone = {run.axis for i in summed for factor in value.dims[i] for run in factor.runs if run.stride}
    places = tuple(i for i in shared if any(factor.runs for factor in value.dims[i]))
    rest = [i for i in rank if i not in shared and i not in summed]
    rows = tuple(i for i in rest if any(run.axis in gone for factor in value.dims[i] for run in factor.runs))
    return Separation(value, places, rows, node) if places or rows else None
