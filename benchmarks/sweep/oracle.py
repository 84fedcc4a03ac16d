"""An independent judge of a plan: what a module's class and a parameter's name say that its row ought to be.

normc never looks at classes or names; people do, and are mostly right. Where the two differ, one of them is wrong, and
the sweep lists it for a person to decide. Rows that the example doesn't reach are judged by one thing alone: whether
their module was called.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from benchmarks.sweep.parts import found, promised
from normc.plans.plan import NormPlan
from normc.plans.row import Row


class Verdict(NamedTuple):
    """What was expected `about` a row (axes, role, blocks, norm or reach), and what the row says."""

    row: str
    about: str
    expected: str
    found: str

    @property
    def agrees(self) -> bool:
        """Whether what was found is one of what was expected ("a or b")."""
        return self.found in self.expected.split(": ")[-1].split(" or ")


def judge(
    model: nn.Module, plan: NormPlan, called: set[int], reached: frozenset[str] | None = None
) -> Iterator[Verdict]:
    """One verdict for everything that classes and names say about the rows.

    `called` are ids of modules; `reached` are the names of the parameters that a real backward reached, where one was
    run: that is the better witness of who is reached.
    """
    heads, parents = _heads(model), dict(model.named_modules())
    seen: set[tuple[str, str]] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{name}" if path else name
            if full not in plan:
                continue
            row = plan[full]
            if (reach := _reach(module, full, row, called, reached)) is not None:
                yield reach
            if row.role == "unused" or row.fallback is not None:
                continue
            opinions = _of(module, name, full, row, heads.get(id(parameter), ""))
            for verdict in (*opinions, *_blocks(module, name, full, row, parents, plan)):
                if (verdict.row, verdict.about) not in seen:
                    seen.add((verdict.row, verdict.about))
                    yield verdict


def _reach(module: nn.Module, full: str, row: Row, called: set[int], reached: frozenset[str] | None) -> Verdict | None:
    if row.name != full or row.frozen or row.numel == 0:
        return None
    says = _why_unused(row) if row.role == "unused" else "reached"
    if reached is not None:
        if full in reached:
            return Verdict(full, "reach", "autograd: reached", says)
        return None if row.role != "unused" else Verdict(full, "reach", "autograd: unused", "unused")
    if _plainly_used(module) and id(module) in called:
        return Verdict(full, "reach", f"{_kind(module)} called: reached", says)
    return None


def _of(module: nn.Module, name: str, full: str, row: Row, head: str) -> Iterator[Verdict]:
    axes = "oi" if "tied" in head.split(", ")[-1] and "untied" not in head else _axes(module, name)
    if isinstance(module, nn.Embedding) and row.role == "output" and not head:
        axes = ""  # a table that is the head too: nothing here knows whether it is
    if axes:
        yield Verdict(full, "axes", f"{_kind(module)}: {_without_ones(axes, row.shape)}", _row_axes(row))
    role = head or _role(module, name, full, row)
    if role:
        yield Verdict(full, "role", role, row.role)
    if (norm := _norm(axes, role, row)) and row.role in role.split(": ")[-1].split(" or "):
        yield Verdict(full, "norm", norm, row.norm)


def _blocks(
    module: nn.Module, name: str, full: str, row: Row, parents: Mapping[str, nn.Module], plan: NormPlan
) -> Iterator[Verdict]:
    if row.role == "depthwise" or (row.numel == max(row.shape, default=1) and name == "weight"):
        return
    promise = promised(module, name, full, row, parents)
    if promise is not None:
        sizes = " or ".join(_sizes(one) for one in promise.sizes)
        yield Verdict(full, "blocks", f"{promise.why}: {sizes}", _sizes(found(row)))
    elif name == "bias" and isinstance(module, nn.Linear) and (beside := full.removesuffix("bias") + "weight") in plan:
        weight = plan[beside]
        outer = tuple(block for block in weight.blocks if block.axis in weight.out_axes)
        if weight.role in _MATRICES and weight.fallback is None and weight.name == beside:
            sizes = _sizes(found(replace(weight, blocks=outer)))
            yield Verdict(full, "blocks", f"bias, as its weight: {sizes}", _sizes(found(row)))


def _sizes(sizes: Iterable[int]) -> str:
    """`3 x 64`, `96 32 32`, `none`."""
    listed = list(sizes)
    if len(listed) > 1 and len(set(listed)) == 1:
        return f"{len(listed)} x {listed[0]}"
    return " ".join(map(str, listed)) or "none"


_MATRICES = ("input", "hidden", "output", "router")


def _norm(axes: str, role: str, row: Row) -> str:
    """The norm that the default recipe has for what class and name say; "" if they don't say enough."""
    if role == "" or row.frozen or row.mass == 0:
        return ""
    if row.role in _MATRICES and axes:
        if row.role == "output" and any(use.role in ("embedding", "position") for use in row.uses):
            return "table and head at once: sign"
        window = math.prod(size for letter, size in zip(axes, row.shape, strict=False) if letter == "k")
        return "a window of matrices: slices" if window > 1 else "a matrix: spectral"
    return {"gain": "gain: rms", "bias": "bias: rms", "embedding": "table: colnorm", "position": "table: colnorm",
            "depthwise": "a filter a channel: rownorm"}.get(row.role, "")  # fmt: skip


def _why_unused(row: Row) -> str:
    """The plan's own reason: read without a gradient, or not read at all."""
    return next((found.reason for found in row.evidence if found.claim == "unused"), "unused")


def _kind(module: nn.Module) -> str:
    """The nearest class of torch, or the module's own."""
    for base in type(module).__mro__:
        if base.__module__.startswith("torch.nn.modules") and base is not nn.Module:
            return base.__name__
    return type(module).__name__


def _plainly_used(module: nn.Module) -> bool:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.LayerNorm, nn.GroupNorm)
    return isinstance(module, kinds)


def _axes(module: nn.Module, name: str) -> str:
    """One letter an axis: o fan-out, i fan-in or index, k window, b block; "" if the class says nothing."""
    if name == "in_proj_weight" and isinstance(module, nn.MultiheadAttention):
        return "oi"
    if isinstance(module, nn.RNNBase) and name.startswith("weight_"):
        return "oi"
    if name != "weight":
        return ""
    if isinstance(module, nn.Embedding):
        return "io"
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return "io" + "k" * len(module.kernel_size) if module.groups == 1 else ""
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        depthwise = module.groups == module.in_channels > 1
        first = "b" if depthwise and module.groups == module.out_channels else "o"
        return (first if depthwise else "o") + "i" + "k" * len(module.kernel_size)
    if isinstance(module, nn.Linear):
        return "oi"
    return "io" if type(module).__name__ == "Conv1D" else ""


def _row_axes(row: Row) -> str:
    letters = {axis: letter for letter in "oibk" for axis in _places(row, letter)}
    return _without_ones("".join(letters.get(axis, "-") for axis in range(len(row.shape))), row.shape)


def _places(row: Row, letter: str) -> tuple[int, ...]:
    return {"o": row.out_axes, "i": row.in_axes, "b": row.block_axes, "k": row.kernel_axes}[letter]


def _without_ones(axes: str, shape: Iterable[int]) -> str:
    """Axes of one entry say nothing."""
    return "".join("1" if size == 1 else letter for letter, size in zip(axes, shape, strict=False))


_POSITION = re.compile(r"(^|\.|(?<![xyhw])_)(pos(ition)?_?embed(ding)?s?|wpe|relative_position_bias_table)(\.weight)?$")
_TOKEN = re.compile(r"(^|\.)(\w*cls_token|class_token|dist(illation)?_token|class_embedding|reg(ister)?_tokens?)$")
_ROUTER = re.compile(r"(moe|mlp|experts|ffn|feed_forward)\.(gate|router|router\.layer|gate\.wg)\.weight$")
_NORM = re.compile(r"Norm(2d|Act|Act2d|Fp32|1d|3d|Mlp2d)?$|^(Rms|Layer|Batch|Group)Norm")


def _role(module: nn.Module, name: str, full: str, row: Row) -> str:
    """The roles that class and name allow, "a or b"; "" if they say nothing."""
    if _POSITION.search(full) and len(row.shape) > 1:
        return "learned queries: token or position" if "query" in full else "position name: position"
    if _TOKEN.search(full):
        return "token name: token"
    if _ROUTER.search(full) and row.shape[0] > 1 and len(row.shape) == 2:
        return "router name: router"
    kind = type(module).__name__
    if _NORM.search(kind) and len(row.shape) == 1 and row.numel > 1:
        return {"weight": f"{_kind(module)} weight: gain", "bias": f"{_kind(module)} bias: bias"}.get(name, "")
    if kind.startswith("LayerScale"):
        return "layer scale: gain"
    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        if name == "bias":
            return f"{_kind(module)} bias: bias" if row.numel > 1 else f"{_kind(module)} bias of one: bias or scalar"
        if name == "gain":
            return "a standardised weight's gain: gain"
        if name != "weight":
            return ""
        if isinstance(module, nn.Linear):
            return "Linear weight: hidden or input or output or router"
        if module.groups == module.in_channels > 1:
            return "one channel a group: depthwise"
        return "Conv weight: hidden or input or output"
    if isinstance(module, nn.Embedding):
        return "Embedding weight: embedding or position or output or token"
    return ""


def _heads(model: nn.Module) -> dict[int, str]:
    """By id of the parameter: what the library itself says of inputs, outputs and embeddings."""
    found: dict[int, str] = {}
    config = getattr(model, "pretrained_cfg", None)
    if isinstance(config, dict):
        for key, says in (("first_conv", "first_conv: input"), ("classifier", "timm classifier: output")):
            paths = config.get(key) or ()
            for path in (paths,) if isinstance(paths, str) else paths:
                found |= _weight(_module(model, path), says)
        return found
    embeddings = _called(model, "get_input_embeddings")
    if isinstance(embeddings, nn.Embedding):
        found |= _weight(embeddings, "input embeddings: embedding or output")
    outputs = _called(model, "get_output_embeddings")
    tied = isinstance(embeddings, nn.Embedding) and getattr(outputs, "weight", None) is embeddings.weight
    found |= _weight(outputs, "output embeddings, tied: output" if tied else "output embeddings: output")
    if outputs is not None and not tied and isinstance(embeddings, nn.Embedding):
        found |= _weight(embeddings, "input embeddings, untied: embedding")
    if re.search(r"For\w*Classification$|ForQuestionAnswering$", type(model).__name__):
        for path in ("classifier", "score", "qa_outputs"):
            if isinstance(module := getattr(model, path, None), nn.Linear):
                found |= _weight(module, "classifier: output")
    return found


def _called(model: nn.Module, method: str) -> Any:
    try:
        return getattr(model, method)()
    except (AttributeError, NotImplementedError, TypeError):
        return None


def _module(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _weight(module: object, says: str) -> dict[int, str]:
    weight = getattr(module, "weight", None)
    return {id(weight): says} if isinstance(weight, nn.Parameter) else {}
