"""Contestants from elsewhere, imported when built: Dion, Gram-Newton-Schulz, Keller Jordan's, modded-nanogpt.

`--peers PATH` is put on the import path; modded-nanogpt is the folder `modded_nanogpt` in it, with `train_gpt.py` and
`triton_kernels.py`.
"""

from __future__ import annotations

import ast
import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.step.contest import (
    DECAY,
    LR,
    MOMENTUM,
    Both,
    CannotRunError,
    Contestant,
    Graphed,
    Problem,
    Runner,
    none,
    original,
)


def found(name: str) -> ModuleType:
    """A module, or CannotRunError with the reason why it can't be imported."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise CannotRunError(f"{name} can't be imported: {str(error).splitlines()[0]}") from error


def dion(graph: bool = False, **options: Any) -> Callable[[Problem], Runner]:
    """Dion's Muon. Its graph is its own wrapper, after three steps instead of ten."""

    def build(given: Problem) -> Runner:
        package = found("dion")
        if options.get("use_gram_newton_schulz"):
            found("quack.gemm_interface")
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        muon = package.Muon(given.matrices, lr=LR, weight_decay=DECAY, mu=MOMENTUM, adjust_lr=None, **options)
        both = Both(muon, given.rest)
        if not graph:
            return Runner(both.step, both, given.matrices, none)
        if given.rest:
            whole = Graphed(both)
            return Runner(whole.step, whole, given.matrices, none)
        wrapped = found("dion.cuda_graph").CudaGraphOptimizer(muon, warmup_steps=3)
        return Runner(wrapped.step, muon, given.matrices, none)

    return build


def gram(given: Problem) -> Runner:
    """Muon of gram-newton-schulz, with its kernels; AdamW for the rest inside of it, as its example has it."""
    package = found("gram_newton_schulz")
    found("quack.gemm_interface")
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    muon = package.Muon(given.matrices, lr=LR, weight_decay=DECAY, momentum=MOMENTUM, adjust_lr=None)
    both = Both(muon, given.rest)
    return Runner(both.step, both, given.matrices, none)


def keller(given: Problem) -> Runner:
    """Keller Jordan's Muon for one device."""
    both = Both(
        found("muon").SingleDeviceMuon(given.matrices, lr=LR, weight_decay=DECAY, momentum=MOMENTUM), given.rest
    )
    return Runner(both.step, both, given.matrices, original)


def modded(given: Problem) -> Runner:
    """modded-nanogpt's optimizer on banks of equal matrices: bf16 weights with 16 more bits beside, bf16 gradients.

    Its file trains when it is imported, so its optimizer's definitions are taken out of it and run alone.
    """
    namespace = _modded_names()
    banks: list[nn.Parameter] = []
    grads: list[Tensor] = []
    table: dict[str, Any] = {}
    sizes: dict[tuple[int, int], int] = {}
    for matrix in given.matrices:
        rows, columns = sorted(matrix.shape, reverse=True)
        sizes[rows, columns] = sizes.get((rows, columns), 0) + 1
    for (rows, columns), number in sizes.items():
        bank = nn.Parameter(torch.zeros(number, rows, columns, dtype=torch.bfloat16, device=given.device))
        label = f"bank_{rows}x{columns}"
        vars(bank).update(label=label, reshape=(number, rows, columns))
        table[label] = {"optim": "normuon", "comms": "none", "adam_betas": None}
        banks.append(bank)
        grads.append(torch.randn_like(bank))
    optimizer = namespace["NorMuonAndAdam"](
        [(f"bank_{index}", bank) for index, bank in enumerate(banks)], table, list(table), list(table),
        {"lr": 0.008, "eps": 1e-10, "weight_decay": 0.005},
        {"lr": LR, "momentum": MOMENTUM, "beta2": 0.9, "weight_decay": DECAY},
    )  # fmt: skip
    second = _adamw_of(given)

    def prepare() -> None:
        for bank, grad in zip(banks, grads, strict=True):  # its step drops them
            bank.grad = grad

    def step() -> None:
        optimizer.step()
        if second is not None:
            second.step()

    states = [value for state in optimizer.param_states.values() for value in state.values()]
    own = tuple(value for value in states if isinstance(value, Tensor))
    return Runner(step, second, [], None, prepare, own)


def _adamw_of(given: Problem) -> torch.optim.AdamW | None:
    return torch.optim.AdamW(given.rest, lr=1e-3, fused=True) if given.rest else None


def _modded_names() -> dict[str, Any]:
    """What modded-nanogpt's optimizer consists of, by name."""
    places = [Path(entry) / "modded_nanogpt" for entry in sys.path]
    place = next((place for place in places if (place / "train_gpt.py").is_file()), None)
    if place is None:
        raise CannotRunError("no folder modded_nanogpt with train_gpt.py on the import path")
    if str(place) not in sys.path:
        sys.path.append(str(place))
    kernels = found("triton_kernels")
    wanted = {"polar_express_coeffs", "polar_express", "_sparse_comms_active", "ParamConfig", "NorMuonAndAdam"}
    text = (place / "train_gpt.py").read_text()
    tree = ast.parse(text)
    tree.body = [node for node in tree.body if wanted & _names(node)]
    module = ModuleType("modded_nanogpt_optimizer")
    module.__file__ = str(place / "train_gpt.py")
    sys.modules[module.__name__] = module
    own: dict[str, Any] = module.__dict__
    own |= {"torch": torch, "Tensor": Tensor, "nn": nn, "dist": torch.distributed, "math": math, "world_size": 1}
    own |= {"dataclass": importlib.import_module("dataclasses").dataclass}
    own |= {name: getattr(kernels, name) for name in ("XXT", "XTX", "ba_plus_cAA", "transpose_add", "transpose_copy")}
    exec(compile(tree, module.__file__, "exec"), own)  # noqa: S102  # the file that the user named
    missing = wanted - set(own)
    if missing:
        raise CannotRunError(f"train_gpt.py has no {', '.join(sorted(missing))}")
    return own


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return set()


_GPU = ("cuda",)
PEERS = (
    Contestant("Dion Muon", "peer", "bf16, compiled", dion()),
    Contestant("Dion Muon, Triton kernels", "peer", "bf16, its symmetric products", dion(use_triton=True), _GPU),
    Contestant("Dion Muon, Gram kernels", "peer", "fp16, symmetric products of quack",
               dion(use_gram_newton_schulz=True, use_triton=True), _GPU),
    Contestant("Dion Muon, Gram kernels, CUDA graph", "peer", "as above, compiled and captured",
               dion(True, use_gram_newton_schulz=True, use_triton=True), _GPU),
    Contestant("Gram-Newton-Schulz", "peer", "fp16, symmetric products of quack", gram, _GPU),
    Contestant("modded-nanogpt banks", "peer", "bf16 weights and gradients, a second moment of neurons too", modded,
               _GPU),
    Contestant("Keller Jordan's Muon", "peer", "bf16, one polynomial 5 times", keller),
)  # fmt: skip
