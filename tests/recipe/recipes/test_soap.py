"""SOAP: equality with the package pytorch_optimizer and with the algorithm written out, its identities."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normc.compiler import build
from normc.errors import NormcError
from tests.handmade import Small, draft, loss_of, plan_of, small_rows, train
from tests.ties import firm_bases

STEPS = 50
SEED = torch.Generator().manual_seed(0)


def pair(dtype: torch.dtype) -> tuple[Small, Small, list[Any]]:
    """Two equal models, and the rows of both."""
    torch.manual_seed(0)
    ours = Small().to(dtype)
    rows = [replace(row, dtype=str(dtype).removeprefix("torch.")) for row in small_rows(ours)]
    return ours, copy.deepcopy(ours), rows


def distances(ours: nn.Module, theirs: nn.Module) -> tuple[float, float]:
    """The largest and the average difference of two weights.

    Of the head but for what it adds to every logit, which moves no loss: its gradient is rounding alone, and SOAP
    divides it by its own size.
    """
    gaps = []
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        gap = (mine - other).detach()
        gaps.append((gap - gap.mean(0) if name == "head.weight" else gap).abs().flatten())
    every = torch.cat(gaps)
    return float(every.max()), float(every.mean())


# Weights move by 0.1, on average by 0.02. Where a layer sees few different inputs, its factor is singular, and float32
# leaves some columns of its basis to rounding: these few weights differ more.
TOLERANCES = [pytest.param(torch.float32, (5e-3, 1e-4), marks=pytest.mark.slow), (torch.float64, (1e-10, 1e-12))]


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [pytest.param(torch.float32, (5e-3, 1e-4), marks=pytest.mark.slow), (torch.float64, (1e-5, 1e-6))],
)
def test_soap_equals_the_package(
    dtype: torch.dtype, tolerance: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty steps, four refreshments. The package runs QR in float32 also for float64."""
    from pytorch_optimizer import SOAP

    firm_bases(monkeypatch)
    ours, theirs, rows = pair(dtype)
    start = copy.deepcopy(ours)
    opt = build(plan_of(rows, "soap"), ours.named_parameters(), lr=3e-3, compile=False)
    train(ours, [opt], STEPS)
    train(theirs, [SOAP(theirs.parameters(), lr=3e-3)], STEPS)
    assert all(gap < bound for gap, bound in zip(distances(ours, theirs), tolerance, strict=True))
    assert distances(ours, start)[1] > 1e-2


class Plain:
    """The algorithm of 2409.11321 as its authors run it, a parameter at a time, bases in lists; vectors have none."""

    def __init__(
        self, model: nn.Module, lr: float, *, every: int = 10, largest: int = 10000, one: bool = False,
        beta: float = 0.95, normalize: bool = False, correct: bool = True,
    ) -> None:  # fmt: skip
        self.parameters, self.lr, self.every, self.largest, self.one = list(model.parameters()), lr, every, largest, one
        self.beta, self.normalize, self.correct = beta, normalize, correct
        self.known: dict[int, dict[str, Any]] = {}

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def turned(self, x: Tensor, bases: dict[int, Tensor], back: bool) -> Tensor:
        for side, basis in bases.items():
            x = torch.einsum("ij,jk->ik" if side == 0 else "ij,kj->ki", basis if back else basis.T, x)
        return x

    def step(self) -> None:
        for parameter in self.parameters:
            if parameter.grad is not None:
                self.update(parameter, parameter.grad, self.known.setdefault(id(parameter), {}))

    @torch.no_grad()
    def update(self, w: Tensor, g: Tensor, state: dict[str, Any]) -> None:
        d = self.direction(g, state)
        if not state["k"]:
            return
        d = d / d.square().mean().sqrt() if self.normalize else d
        w -= self.lr * d * (math.sqrt(1 - 0.95 ** state["k"]) / (1 - 0.95 ** state["k"]) if self.correct else 1.0)
        w -= self.lr * 0.01 * w

    def direction(self, g: Tensor, state: dict[str, Any]) -> Tensor:
        """m / (sqrt(v) + eps) of the eigenbases, back from them; zero at the first step, `k` counts those after it."""
        factors = {0: lambda: g @ g.T, 1: lambda: g.T @ g} if g.dim() == 2 else {}
        if not state:
            sides = [side for side in factors if g.shape[side] <= self.largest]
            sides = sorted(sides, key=lambda side: min(g.T.shape) != g.shape[side])[:1] if self.one else sides
            state["factors"] = {side: (1 - self.beta) * factors[side]() for side in sides}
            state["bases"] = {side: torch.linalg.eigh(a)[1].flip(1) for side, a in state["factors"].items()}
            state |= {"m": torch.zeros_like(g), "v": torch.zeros_like(g), "k": 0}
            return torch.zeros_like(g)
        h = self.turned(g, state["bases"], back=False)
        state["k"] += 1
        state["m"] = 0.95 * state["m"] + 0.05 * h
        state["v"] = 0.95 * state["v"] + 0.05 * h**2
        d = self.turned(state["m"] / (state["v"].sqrt() + 1e-8), state["bases"], back=True)
        m = self.turned(state["m"], state["bases"], back=True)
        for side, a in state["factors"].items():
            a.lerp_(factors[side](), 1 - self.beta)
            if state["k"] % self.every == 0:
                q = state["bases"][side]
                order = torch.argsort((q.T @ a @ q).diagonal(), descending=True)
                state["v"] = state["v"].index_select(side, order)
                state["bases"][side] = torch.linalg.qr(a @ q[:, order])[0]
        state["m"] = self.turned(m, state["bases"], back=False)
        return d


OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"precondition_frequency": 3, "max_precond_dim": 16}, {"every": 3, "largest": 16}),
    ({"one_sided": True, "shampoo_beta": 0.8}, {"one": True, "beta": 0.8}),
    ({"normalize_grads": True}, {"normalize": True}),
    ({"correct_bias": False, "max_precond_dim": 2}, {"correct": False, "largest": 2}),
]


@pytest.mark.parametrize(("options", "plain"), OPTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_soap_equals_the_algorithm(
    options: dict[str, Any], plain: dict[str, Any], dtype: torch.dtype, tolerance: tuple[float, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Fifty steps."""
    firm_bases(monkeypatch)
    ours, theirs, rows = pair(dtype)
    opt = build(plan_of(rows, "soap", **options), ours.named_parameters(), lr=3e-3, compile=False)
    train(ours, [opt], STEPS)
    train(theirs, [Plain(theirs, 3e-3, **plain)], STEPS)
    assert all(gap < bound for gap, bound in zip(distances(ours, theirs), tolerance, strict=True))


def gradients(shape: tuple[int, ...], steps: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The same for every call."""
    return torch.randn((steps, *shape), dtype=dtype, generator=torch.Generator().manual_seed(7))


def run(row: Any, grads: list[Tensor | None], w: Tensor, **options: Any) -> Tensor:
    """A weight after steps with these gradients."""
    numbers = {name: options.pop(name) for name in list(options) if name in ("weight_decay", "eps", "momentum")}
    parameter = nn.Parameter(w.clone())
    opt = build(plan_of([row], "soap", **options), [("w", parameter)], lr=0.01, compile=False, **numbers)
    for grad in grads:
        parameter.grad = grad
        opt.step()
    return parameter.detach()


def adam(grads: Tensor, w: Tensor, eps: float) -> Tensor:
    """torch's, from the second gradient on."""
    parameter = nn.Parameter(w.clone())
    opt = torch.optim.Adam([parameter], lr=0.01, betas=(0.95, 0.95), eps=eps)
    for grad in grads[1:]:
        parameter.grad = grad
        opt.step()
    return parameter.detach()


@pytest.mark.parametrize("largest", [0, 10000])
def test_in_the_identity_it_is_adam(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for eps, which torch adds once bias is out. Without sides, and with bases that are the identity."""
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: (a[..., 0], torch.eye(a.shape[-1]).to(a).expand(a.shape)))
    grads, w = gradients((6, 4), 20), torch.randn(6, 4, dtype=torch.float64, generator=SEED)
    row = draft("w", (6, 4), "hidden", dtype="float64")
    options = {"precondition_frequency": 100, "max_precond_dim": largest, "weight_decay": 0.0}
    assert float((run(row, list(grads), w, **options) - adam(grads, w, 1e-8)).abs().max()) < 5e-8


def test_before_the_first_refreshment_it_is_adam_in_fixed_bases() -> None:
    grads, w = gradients((4, 4), 20), torch.randn(4, 4, dtype=torch.float64, generator=SEED)
    left, _, right = torch.linalg.svd(grads[0])
    row = draft("w", (4, 4), "hidden", dtype="float64")
    ours = run(row, list(grads), w, precondition_frequency=20, weight_decay=0.0, eps=1e-12)
    rotated = adam(left.T @ grads @ right.T, left.T @ w @ right.T, 1e-12)
    torch.testing.assert_close(ours, left @ rotated @ right, atol=1e-10, rtol=0)
    assert float((run(row, list(grads), w, precondition_frequency=19, weight_decay=0.0) - ours).abs().max()) < 1e-6


def test_the_first_step_moves_nothing_and_decay_comes_last() -> None:
    grads, w = gradients((5, 3), 2), torch.randn(5, 3, dtype=torch.float64, generator=SEED)
    for shape in ((5, 3), (15,)):
        row = draft("w", shape, "hidden" if len(shape) == 2 else "bias", dtype="float64")
        seen, start = [grad.reshape(shape) for grad in grads], w.reshape(shape)
        assert torch.equal(run(row, seen[:1], start, weight_decay=0.5, eps=0.0), start)
        moved = run(row, seen, start, weight_decay=0.0)
        assert not torch.equal(moved, start)
        torch.testing.assert_close(run(row, seen, start, weight_decay=0.5), moved * (1 - 0.01 * 0.5))


def test_a_missing_gradient_is_no_step() -> None:
    """Each parameter counts its own, refreshes its own bases: two in a stack end where each alone does."""
    grads = gradients((2, 6, 4), 30, torch.float32)
    skipped = [{3, 10, 11}, {0, 1, 12, 25}]
    row = draft("w", (6, 4), "hidden")
    named = [(f"layers.{i}.w", nn.Parameter(torch.ones(6, 4))) for i in range(2)]
    opt = build(plan_of([replace(row, name=name) for name, _ in named], "soap"), named, lr=0.01, compile=False)
    for step in range(30):
        for i, (_, parameter) in enumerate(named):
            parameter.grad = None if step in skipped[i] else grads[step, i].clone()
        opt.step()
    for i, (_, parameter) in enumerate(named):
        own: list[Tensor | None] = [grads[step, i] for step in range(30) if step not in skipped[i]]
        torch.testing.assert_close(parameter.detach(), run(row, own, torch.ones(6, 4)), atol=1e-5, rtol=0)
        assert float(opt.state[parameter]["step"]) == 30 - len(skipped[i])


def test_resuming_is_equal_to_the_bit() -> None:
    torch.manual_seed(0)
    whole = Small()
    halves = copy.deepcopy(whole)
    plan = plan_of(small_rows(whole), "soap", precondition_frequency=4)
    train(whole, [build(plan, whole.named_parameters(), lr=3e-3, compile=False)], 20)
    first = build(plan, halves.named_parameters(), lr=3e-3, compile=False)
    train(halves, [first], 11)
    second = build(plan, halves.named_parameters(), lr=3e-3, compile=False)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(halves, [second], 9, first=11)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))


def test_bases_are_refreshed_only_when_due(monkeypatch: pytest.MonkeyPatch) -> None:
    w = nn.Parameter(torch.ones(6, 4))
    opt = build(plan_of([draft("w", (6, 4), "hidden")], "soap"), [("w", w)], lr=0.01, compile=False)
    calls: list[tuple[str, int]] = []
    steps: list[Tensor] = []
    for name in ("qr", "eigh"):
        plain = getattr(torch.linalg, name)

        def counted(a: Tensor, plain: Any = plain, name: str = name) -> Any:
            calls.append((name, len(steps)))
            return plain(a)

        monkeypatch.setattr(torch.linalg, name, counted)
    for grad in gradients((6, 4), 22, torch.float32):
        steps.append(grad)
        w.grad = grad
        opt.step()
    assert calls == [("eigh", 1), ("eigh", 1), ("qr", 11), ("qr", 11), ("qr", 21), ("qr", 21)]


def test_rows_and_columns_are_rotated_and_the_rest_is_adams() -> None:
    rows = [
        draft("a", (8, 4), "hidden"), draft("b", (50, 8), "embedding"), draft("c", (8,), "gain"),
        draft("d", (1, 1, 8), "token", out_axes=(2,), in_axes=()), draft("e", (), "scalar"),
        draft("f", (8, 4), "hidden", fallback="unknown op"), draft("g", (4,), "unused"),
    ]  # fmt: skip
    found = plan_of(rows, "soap", max_precond_dim=16).rows
    assert [row.rule for row in found] == ["soap", "soap", "adam", "adam", "adam", "adam", "none"]
    assert found[0].state_bytes == 4 * (2 * 32 + 2 * (64 + 16) + 1)
    assert found[1].state_bytes == 4 * (2 * 400 + 2 * 64 + 1)
    assert found[2].state_bytes == 4 * (2 * 8 + 1)


def test_options_are_checked() -> None:
    for frequency in (0, 2.5):
        with pytest.raises(NormcError, match="precondition_frequency"):
            plan_of([draft("w", (8, 4), "hidden")], "soap", precondition_frequency=frequency)


def test_it_trains() -> None:
    torch.manual_seed(0)
    model = Small()
    before = float(loss_of(model, 0).detach())
    opt = build(plan_of(small_rows(model), "soap"), model.named_parameters(), lr=1e-2, compile=False)
    for _ in range(60):
        loss_of(model, 0).backward()
        opt.step()
        opt.zero_grad()
    assert float(loss_of(model, 0).detach()) < 0.5 * before
