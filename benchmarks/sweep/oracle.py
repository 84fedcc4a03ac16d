"""An independent judge of a plan: what a module's class and a parameter's name say that its row ought to be.

normc never looks at classes or names; people do, and are mostly right. Where the two differ, one of them is wrong, and
the sweep lists it for a person to decide. Rows that the example doesn't reach are judged by one thing alone: whether
their module was called.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch import nn

from normc.plans.plan import NormPlan
from normc.plans.row import Row


class Verdict(NamedTuple):
    """What was expected `about` a row (axes, role, blocks or reach), and what the row says."""

    row: str
    about: str
    expected: str
    found: str

    @property
    def agrees(self) -> bool:
        """Whether what was found is one of what was expected ("a or b")."""
        if self.expected.startswith("at least"):
            return int(self.found.split()[0]) >= int(self.expected.split()[2])
        return self.found in self.expected.split(": ")[-1].split(" or ")


def judge(model: nn.Module, plan: NormPlan, called: set[int]) -> Iterator[Verdict]:
    """One verdict for everything that classes and names say about the rows; `called` are ids of modules."""
    heads = _heads(model)
    seen: set[tuple[str, str]] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{name}" if path else name
            if full not in plan:
                continue
            row = plan[full]
            if row.role == "unused":
                if id(module) in called and _plainly_used(module) and row.name == full:
                    yield Verdict(full, "reach", f"{_kind(module)} called: reached", _why_unused(row))
                continue
            if row.fallback is not None:
                continue
            if _plainly_used(module) and id(module) in called and row.name == full:
                yield Verdict(full, "reach", f"{_kind(module)} called: reached", "reached")
            for verdict in _of(module, name, full, row, heads.get(id(parameter), "")):
                if (verdict.row, verdict.about) not in seen:
                    seen.add((verdict.row, verdict.about))
                    yield verdict


def _of(module: nn.Module, name: str, full: str, row: Row, head: str) -> Iterator[Verdict]:
    axes = "oi" if "tied" in head.split(", ")[-1] and "untied" not in head else _axes(module, name)
    if axes:
        yield Verdict(full, "axes", f"{_kind(module)}: {_without_ones(axes, row.shape)}", _row_axes(row))
    role = head or _role(module, name, full, row)
    if role:
        yield Verdict(full, "role", role, row.role)
    if (groups := getattr(module, "groups", 1)) > 1 and name == "weight" and axes[:1] == "o":
        if groups < row.shape[0] or row.shape[1] > 1:
            yield Verdict(full, "blocks", f"{_kind(module)} groups: {groups} blocks", f"{len(row.blocks)} blocks")
    if (least := _parts(module, name, full, row)) > 1:
        label = re.sub(r"\d+", "*", ".".join(full.split(".")[-2:]))
        yield Verdict(full, "blocks", f"at least {least} parts in {label}", f"{len(row.blocks)} blocks")


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


def _parts(module: nn.Module, name: str, full: str, row: Row) -> int:
    """How many blocks the name of a fused matrix promises at least; 0 if it is none."""
    if isinstance(module, nn.RNNBase) and name.startswith("weight_"):
        return {"LSTM": 4, "GRU": 3}.get(_kind(module), 0)
    if row.role not in ("hidden", "input", "output") or ("weight" not in name and "proj" not in name):
        return 0
    own = full.split(".")[-2] if name == "weight" and "." in full else name
    if re.fullmatch(r"qkv|qkv_proj|query_key_value|Wqkv|in_proj_weight|in_proj_qkv\w*", own):
        return 2 if row.shape[0] == 2 * row.shape[1] else 3
    if own == "c_attn" and type(module).__name__ == "Conv1D":
        return 3 if row.shape[1] == 3 * row.shape[0] else 2
    if re.fullmatch(r"gate_up_proj|kv|kv_proj|to_kv|key_value|gate_up|up_gate_proj", own):
        return 2
    return 2 if own == "in_proj" and re.search(r"(mamba|mixer|ssm)\.in_proj", full) else 0


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
