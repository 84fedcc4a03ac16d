"""A tiny GPT trained by two optimizers on the same batches, from the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normc.compiler import build
from normc.plans.row import Role, Row
from normc.update.polynomials.by_name import KELLER
from tests.handmade import draft, plan_of

WIDTH, HEADS, WORDS, LENGTH = 16, 2, 13, 8
Named = dict[str, nn.Parameter]
Originals = Callable[[Named], Iterable[Any]]


class Layer(nn.Module):
    """Attention and MLP; keys have no bias, as no gradient but rounding's would reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.then = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.o, self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (part(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.then(x))))


class TinyGPT(nn.Module):
    """Two layers between an embedding with positions and a head that isn't tied to it."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def role_of(name: str, parameter: Tensor) -> Role:
    """From the architecture above."""
    roles: dict[str, Role] = {"tokens": "embedding", "places": "position", "head": "output"}
    if name.split(".")[0] in roles:
        return roles[name.split(".")[0]]
    if parameter.dim() == 2:
        return "hidden"
    return "gain" if name.endswith("weight") else "bias"


def rows_of(model: nn.Module) -> list[Row]:
    """Drafts of a TinyGPT's parameters; no row has blocks."""
    return [
        replace(draft(name, tuple(p.shape), role_of(name, p)), dtype=str(p.dtype).removeprefix("torch."))
        for name, p in model.named_parameters()
    ]


def shares(named: Named) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The hidden matrices, and the rest."""
    hidden = [parameter for name, parameter in named.items() if role_of(name, parameter) == "hidden"]
    return hidden, [parameter for name, parameter in named.items() if role_of(name, parameter) != "hidden"]


def beside_adamw(original: Callable[[list[nn.Parameter]], Any], lr: float, decay: float = 0.01) -> Originals:
    """`original` for the hidden matrices, and AdamW for the rest."""

    def originals(named: Named) -> list[Any]:
        hidden, rest = shares(named)
        return [original(hidden), torch.optim.AdamW(rest, lr, betas=(0.9, 0.95), weight_decay=decay)]

    return originals


def orthogonal(x: Tensor) -> Tensor:
    """Muon's five steps of Newton-Schulz, written out; zero for zero."""
    x = x / torch.linalg.matrix_norm(x).clamp_min(1e-30)
    for _ in range(5):
        a = x @ x.T
        x = KELLER[0] * x + KELLER[1] * a @ x + KELLER[2] * a @ a @ x
    return x


def loss_of(model: nn.Module, seed: int) -> Tensor:
    """The loss on random tokens that follow a rule, of a seed."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, WORDS, (8, LENGTH + 1), generator=generator)
    tokens[:, 1::2] = (tokens[:, :-1:2] * 3 + 1) % WORDS
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def train(model: nn.Module, opts: Iterable[Any], steps: int = 50, zero: bool = True) -> None:
    """Plain training steps."""
    for seed in range(steps):
        loss_of(model, seed).backward()
        for opt in opts:
            opt.step()
        if zero:
            model.zero_grad()


def fresh(dtype: torch.dtype) -> TinyGPT:
    """Always the same weights."""
    torch.manual_seed(0)
    return TinyGPT().to(dtype)


def difference(one: nn.Module, other: nn.Module) -> float:
    """The largest difference of an entry."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((mine - theirs).detach().abs().max()) for mine, theirs in pairs)


def apart(
    dtype: torch.dtype,
    recipe: str,
    originals: Originals,
    lr: float,
    options: dict[str, Any] | None = None,
    values: dict[str, Any] | None = None,
    steps: int = 50,
) -> float:
    """The largest difference after so many steps of a recipe and of other optimizers. Every weight has moved."""
    ours = fresh(dtype)
    theirs, start = copy.deepcopy(ours), copy.deepcopy(ours)
    plan = plan_of(rows_of(ours), recipe, **(options or {}))
    opt = build(plan, ours.named_parameters(), lr=lr, compile=False, backend="cpu:fp32", **(values or {}))
    train(ours, [opt], steps, zero=recipe != "scion-light")
    train(theirs, list(originals(dict(theirs.named_parameters()))), steps)
    for mine, first in zip(ours.parameters(), start.parameters(), strict=True):
        assert float((mine - first).detach().abs().max()) > 1e-3
    return difference(ours, theirs)
