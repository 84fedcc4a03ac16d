"""KL-Shampoo and KL-SOAP: equality with the algorithm written out, and what its factors come to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normc.compiler import build
from normc.errors import NormcError
from tests.beside import apart
from tests.handmade import after, draft, plan_of
from tests.recipe.recipes.test_soap import Plain as Soap
from tests.ties import firm_bases

KINDS = ("kl-soap", "kl-shampoo")


class Plain:
    """The algorithm of 2509.03378 as its authors run it: bases and eigenvalues by side, inverses written out."""

    def __init__(
        self, matrices: list[nn.Parameter], lr: float, kind: str, *, every: int = 10, largest: int = 10000,
        start: float = 0.1, normalize: bool = False,
    ) -> None:  # fmt: skip
        self.matrices, self.lr, self.kind, self.every, self.largest = matrices, lr, kind, every, largest
        self.start, self.normalize = start, normalize
        self.known: dict[int, dict[str, Any]] = {}

    @torch.no_grad()
    def step(self) -> None:
        for w in self.matrices:
            assert w.grad is not None
            state = self.known.setdefault(id(w), {"t": -1, "m": torch.zeros_like(w), "v": torch.zeros_like(w)})
            state["t"] += 1
            d = self.direction(w.grad, state) if state["t"] else torch.zeros_like(w)
            d = d / d.square().mean().sqrt() if self.normalize and state["t"] else d
            self.learn(w.grad, state)
            w.sub_(self.lr * d).mul_(1 - self.lr * 0.01 * (state["t"] > 0))

    def direction(self, g: Tensor, state: dict[str, Any]) -> Tensor:
        (q, p), (a, b) = state["Q"], state["e"]
        if self.kind == "kl-soap":
            h = q.T @ g @ p
            state["m"] = 0.9 * state["m"] + 0.1 * h
            state["v"] = 0.98 * state["v"] + 0.02 * h**2
            return q @ (state["m"] / (state["v"].sqrt() + 1e-8)) @ p.T
        state["m"] = 0.9 * state["m"] + 0.1 * g
        return q @ ((q.T @ state["m"] @ p) / (torch.outer(a, b).sqrt() + 1e-8)) @ p.T

    def learn(self, g: Tensor, state: dict[str, Any]) -> None:
        """Both sides by what they were; a side that is too long keeps the identity."""
        eye = [torch.eye(n, dtype=g.dtype) for n in g.shape]
        sides = [side for side in (0, 1) if g.shape[side] <= self.largest]
        if state["t"] == 0:
            state["S"] = {0: 0.02 * g @ g.T / g.shape[1], 1: 0.02 * g.T @ g / g.shape[0]}
            state["Q"] = [torch.linalg.eigh(state["S"][s])[1].flip(1) if s in sides else eye[s] for s in (0, 1)]
            ones = [torch.ones(n, dtype=g.dtype) for n in g.shape]
            state["e"] = [ones[s] * (self.start if s in sides else 1.0) for s in (0, 1)]
            return
        (q, p), (a, b) = state["Q"], state["e"]
        left, right = q @ torch.diag(1 / a) @ q.T, p @ torch.diag(1 / b) @ p.T
        whole, averages = {0: g @ right @ g.T / g.shape[1], 1: g.T @ left @ g / g.shape[0]}, []
        for side, basis, old in ((0, q, a), (1, p, b)):
            state["S"][side] = 0.98 * state["S"][side] + 0.02 * whole[side]
            new = 0.98 * old + 0.02 * (basis.T @ whole[side] @ basis).diagonal()
            averages.append(new.clamp_min(max(10, g.shape[side]) ** -2.0) if side in sides else old)
        state["e"] = averages
        if state["t"] % self.every == 0:
            m = q @ state["m"] @ p.T
            state["Q"] = [torch.linalg.qr(state["S"][s] @ state["Q"][s])[0] if s in sides else eye[s] for s in (0, 1)]
            if self.kind == "kl-soap":
                state["m"] = state["Q"][0].T @ m @ state["Q"][1]


class Vectors(Soap):
    """SOAP's Adam, by the numbers of these recipes."""

    @torch.no_grad()
    def update(self, w: Tensor, g: Tensor, state: dict[str, Any]) -> None:
        if not state:
            state |= {"m": torch.zeros_like(g), "v": torch.zeros_like(g), "k": 0}
            return
        state["k"] += 1
        state["m"] = 0.9 * state["m"] + 0.1 * g
        state["v"] = 0.98 * state["v"] + 0.02 * g**2
        d = state["m"] / (state["v"].sqrt() + 1e-8)
        d = d / d.square().mean().sqrt() if self.normalize else d
        bias = (1 - 0.98 ** state["k"]) ** 0.5 / (1 - 0.9 ** state["k"])
        w -= self.lr * d * (bias if self.correct else 1.0)
        w *= 1 - self.lr * 0.01


OPTIONS: list[Any] = [
    ({}, {}),
    ({"precondition_frequency": 3, "max_precond_dim": 16}, {"every": 3, "largest": 16}),
    pytest.param({"init_factor": 1e-3}, {"start": 1e-3}, marks=pytest.mark.slow),
    pytest.param({"normalize_grads": True}, {"normalize": True}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("options", "plain"), OPTIONS)
def test_it_equals_the_algorithm(
    kind: str, options: dict[str, Any], plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty steps in float64, with refreshments."""
    firm_bases(monkeypatch)

    def originals(named: dict[str, nn.Parameter]) -> list[Any]:
        matrices = [w for w in named.values() if w.dim() == 2]
        rest = nn.ParameterList(w for w in named.values() if w.dim() != 2)
        own = {"normalize": plain.get("normalize", False)}
        return [Plain(matrices, 5e-3, kind, **plain), Vectors(rest, 5e-3, correct=kind == "kl-shampoo", **own)]

    assert apart(torch.float64, kind, originals, 5e-3, options, steps=30) <= 1e-10


def test_factors_come_to_those_of_the_gradients_covariance() -> None:
    """Gradients L^1/2 Z R^1/2 of a Kronecker covariance are whitened: the mean square of d is one in every direction.

    The product of both factors is what the divergence determines; a scale may move from one to the other.
    """
    generator = torch.Generator().manual_seed(2)
    left, right = (torch.randn(n, n, generator=generator, dtype=torch.float64) for n in (4, 3))
    grads = left @ torch.randn(4000, 4, 3, generator=generator, dtype=torch.float64) @ right
    w = nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
    plan = plan_of([draft("w", (4, 3), "hidden", dtype="float64")], "kl-shampoo", precondition_frequency=1)
    opt = build(plan, [("w", w)], lr=0.0, compile=False, beta2=0.999)
    for grad in grads:
        w.grad = grad.clone()
        opt.step()
    state = opt.state[w]
    bases = [(state[f"basis_{side}"][0], state[f"spectrum_{side}"][0]) for side in ("out", "in")]
    found = [basis @ torch.diag(spectrum) @ basis.T for basis, spectrum in bases]
    expected = torch.kron(left @ left.T, right.T @ right)
    gap = torch.linalg.matrix_norm(torch.kron(*found) - expected) / torch.linalg.matrix_norm(expected)
    assert float(gap) < 0.1


def test_a_matrix_without_a_factor_gets_adam() -> None:
    generator = torch.Generator().manual_seed(3)
    grads = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64)
    row, start = draft("w", (6, 5), "hidden", dtype="float64"), torch.ones(6, 5, dtype=torch.float64)
    vector = draft("w", (30,), "bias", dtype="float64")
    for kind in KINDS:
        found = after(row, start, grads, kind, {"max_precond_dim": 2})
        torch.testing.assert_close(found.flatten(), after(vector, start.flatten(), grads.flatten(1), kind))


def test_the_first_step_moves_nothing_and_a_missing_gradient_is_none() -> None:
    grads = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    row, start = draft("w", (6, 5), "hidden", dtype="float64"), torch.ones(6, 5, dtype=torch.float64)
    for kind in KINDS:
        for eps in (1e-8, 0.0):
            assert torch.equal(after(row, start, grads[:1], kind, weight_decay=0.5, eps=eps), start)
        moved = after(row, start, grads, kind, {"precondition_frequency": 2}, weight_decay=0.0)
        assert bool(moved.isfinite().all()) and not torch.equal(moved, start)
        none = torch.zeros(4, 6, 5, dtype=torch.float64)
        still = after(row, start, none, kind, {"precondition_frequency": 2}, weight_decay=0.0, eps=0.0)
        assert torch.equal(still, start)


def test_states_are_those_of_rows_and_columns() -> None:
    (soap,) = plan_of([draft("w", (8, 4), "hidden")], "kl-soap").rows
    (shampoo,) = plan_of([draft("w", (8, 4), "hidden")], "kl-shampoo").rows
    assert soap.state_bytes == 4 * (2 * 32 + 2 * (64 + 16) + 8 + 4 + 1)
    assert shampoo.state_bytes == 4 * (32 + 2 * (64 + 16) + 8 + 4 + 1)


def test_options_are_checked() -> None:
    for bad, known in (({"init_factor": 0.0}, "positive"), ({"precondition_frequency": 0}, "whole number")):
        for kind in KINDS:
            with pytest.raises(NormcError, match=known):
                plan_of([draft("w", (8, 4), "hidden")], kind, **bad)
