"""Plans for the tests of plans: a GPT-2 of two layers with experts, ties and a fallback, and random ones."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import sympy
from hypothesis import strategies as st

from normc.plans.expression import read_formula
from normc.plans.geometry import norms
from normc.plans.plan import NormPlan
from normc.plans.row import D_IN, D_OUT, KERNEL, ROLES, Block, Evidence, Role, Row, Scale, Use


def row(name: str, shape: tuple[int, ...], role: Role, norm: str, target: float = 1.0, **facts: Any) -> Row:
    """A finished row; axes are nn.Linear's unless given."""
    matrix = len(shape) > 1
    axes: dict[str, Any] = {
        "out_axes": (0,) if shape else (),
        "in_axes": (1,) if matrix else (),
        "block_axes": (),
        "kernel_axes": (),
    }
    axes |= {key: facts.pop(key) for key in axes if key in facts}

    def size(*fields: str) -> int:
        return math.prod(shape[axis] for field in fields for axis in axes[field])

    draft = Row(
        name=name, shape=shape, dtype="float32", role=role, fan_in=size("in_axes", "kernel_axes"),
        fan_out=size("out_axes"), norm=norm, mass=None, sensitivity=None, scale=Scale(sympy.Integer(0), (0.0,)),
        target=target, state_bytes=4 * math.prod(shape), **axes,
        **({"aliases": (), "uses": (), "blocks": (), "rule": "lmo", "evidence": ()} | facts),
    )  # fmt: skip
    return replace(draft, scale=draft.scaled(target * norms[norm].scale))


def seen(role: str, op: str, source: str, reason: str = "weights lie before it and after it") -> tuple[Evidence, ...]:
    """The evidence of a role."""
    return (Evidence("role", role, reason, op, source),)


def thirds(size: int, axis: int) -> tuple[Block, ...]:
    """Blocks q, k and v of one size each."""
    return tuple(Block(label, axis, ((i * size, (i + 1) * size),)) for i, label in enumerate("qkv"))


def sample() -> NormPlan:
    """Four layers, the third with another radius; of the rest one tensor is tied, one lost, one frozen, one unused."""
    attention = seen("hidden", "aten.addmm", "model.py:12")
    layout = Evidence(
        "layout", "fan-in 64 on axis 0, fan-out 192 on axis 1", "aten.addmm sums over it", "aten.addmm", "model.py:12"
    )
    index = (Use("position", "aten.embedding", "model.py:4", "", ("index", "out")),)
    rows = [
        row("wte.weight", (100, 64), "output", "sign", 10.0, aliases=("head.weight",),
            evidence=seen("output", "aten.linear", "model.py:40", "its result reaches the output")),
        row("wpe.weight", (32, 64), "position", "colnorm", in_axes=(0,), out_axes=(1,), uses=index),
    ]  # fmt: skip
    for layer in range(4):
        rows += [
            row(f"h.{layer}.attn.weight", (64, 192), "hidden", "spectral", 6.0 if layer == 2 else 3.0, in_axes=(0,),
                out_axes=(1,), blocks=thirds(64, 1), evidence=(layout, *attention)),
            row(f"h.{layer}.attn.bias", (192,), "bias", "rms", blocks=thirds(64, 0)),
            *(row(f"h.{layer}.experts.{i}.up", (256, 64), "hidden", "spectral", 3.0) for i in range(2)),
        ]  # fmt: skip
    rows += [
        row("patch.weight", (64, 3, 4, 4), "input", "spectral", kernel_axes=(2, 3), frozen=True),
        row("mix.weight", (8, 8), "state", "sign", in_axes=(), out_axes=(),
            fallback="no rule for aten.fft_rfft (mixer.py:41)"),
        replace(row("old.weight", (8, 8), "unused", "sign", target=0.0), rule="none", state_bytes=0),
    ]  # fmt: skip
    return NormPlan(tuple(rows), "Sample", "uscion", (("radius_hidden", 3.0),), ("guessed while tracing: one answer",))


_names = st.text(min_size=1, max_size=12)
_finite = st.floats(0, 1e6, allow_nan=False)
_atoms = st.sampled_from(["d_out", "d_in", "k"]) | st.integers(1, 50) | st.floats(0.1, 50.0)


def _compound(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pair = st.tuples(st.sampled_from(["add", "mul", "max", "min", "div"]), children, children)
    root = st.tuples(st.just("sqrt"), children)
    power = st.tuples(st.just("pow"), _atoms, st.integers(1, 3) | st.just(("div", 3, 2)))
    return pair | root | power


formulas = st.recursive(_atoms, _compound, max_leaves=6)


@st.composite
def random_rows(draw: st.DrawFn, name: str) -> Row:
    """A row that is right in itself, and otherwise anything."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=4)))
    kinds = [
        "out_axes",
        "in_axes",
        *draw(st.lists(st.sampled_from(["kernel_axes", "block_axes", "in_axes"]), min_size=2, max_size=2)),
    ]
    axes: dict[str, Any] = {key: tuple(i for i in range(len(shape)) if kinds[i] == key) for key in set(kinds)}
    cut = draw(st.integers(1, shape[0]))
    spans = [((0, cut),), ((cut, shape[0]),)] if cut < shape[0] else []
    blocks = tuple(Block(draw(_names), 0, span) for span in spans)
    made = row(
        name, shape, draw(st.sampled_from([*ROLES])), draw(st.sampled_from(sorted(norms))), blocks=blocks,
        frozen=draw(st.booleans()), fallback=draw(st.none() | _names), **axes,
    )  # fmt: skip
    scale = made.scaled(read_formula(draw(formulas.filter(_has_value))))
    evidence = tuple(
        Evidence(*draw(st.tuples(_names, _names, _names, _names, _names))) for _ in range(draw(st.integers(0, 2)))
    )
    return replace(
        made, scale=scale, evidence=evidence, mass=draw(st.none() | _finite), sensitivity=draw(st.none() | _finite),
        target=draw(_finite), uses=(Use("hidden", draw(_names), "", "", tuple("none" for _ in shape)),),
    )  # fmt: skip


def _has_value(formula: object) -> bool:
    number = read_formula(formula).subs({D_OUT: 2, D_IN: 3, KERNEL: 4})
    return bool(number.is_real and number < 1e12)


@st.composite
def random_plans(draw: st.DrawFn) -> NormPlan:
    """Up to three such rows."""
    names = draw(st.lists(_names, min_size=1, max_size=3, unique=True))
    option = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | _names
    options = draw(st.dictionaries(_names, option, max_size=2))
    rows = tuple(draw(random_rows(name)) for name in names)
    return NormPlan(rows, draw(_names), "scion", tuple(options.items()), tuple(draw(st.lists(_names, max_size=2))))
