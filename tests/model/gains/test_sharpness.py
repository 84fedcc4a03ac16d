"""Second order: the recursion against Modula's own on random modules, every constant against a search for something
larger, and the bound of whole networks against what they measure (THEORY A5).
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import normc
from normc.errors import NormcError
from normc.model.gains.bends import NORM, bend_of
from normc.model.gains.curvature import Bound, meeting, through
from normc.plans.plan import NormPlan
from tests.recipe.modula import nets

TOKENS = torch.randint(0, 65, (2, 8), generator=torch.Generator().manual_seed(0))
VECTORS = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))


# Modules as Modula has them: mass, sensitivity and sharpness from those of their parts, in closed form.


@dataclass
class Module:
    """A leaf, or two modules one behind the other (`compose`) or beside each other (`tuple`); `step` is an atom's."""

    kind: str
    mass: float
    sens: float
    alpha: float
    beta: float
    gamma: float
    parts: tuple[Module, ...] = ()
    step: float = field(default=0.0)


def atom(mass: float, sens: float) -> Module:
    """A matrix of that norm."""
    return Module("atom", mass, sens, 0.0, 1.0, 0.0)


def bond(sens: float, gamma: float) -> Module:
    """A function without weights."""
    return Module("bond", 0.0, sens, 0.0, 0.0, gamma)


def composed(outer: Module, inner: Module) -> Module:
    """THEORY A5, M2 behind M1."""
    mass = inner.mass + outer.mass
    p1, p2 = (inner.mass / mass, outer.mass / mass) if mass else (0.0, 0.0)
    s1, s2 = inner.sens, outer.sens
    alpha = p1**2 * inner.alpha / s2 + p2**2 * outer.alpha + 2 * p1 * p2 * outer.beta / s2
    alpha += p1**2 * outer.gamma / s2**2
    beta = p1 * inner.beta + s1 * p2 * outer.beta + s1 / s2 * p1 * outer.gamma
    return Module("compose", mass, s1 * s2, alpha, beta, s2 * inner.gamma + s1**2 * outer.gamma, (outer, inner))


def beside(one: Module, other: Module) -> Module:
    """THEORY A5, a tuple of two."""
    mass = one.mass + other.mass
    p1, p2 = (one.mass / mass, other.mass / mass) if mass else (0.0, 0.0)
    alpha, beta = p1**2 * one.alpha + p2**2 * other.alpha, p1 * one.beta + p2 * other.beta
    return Module("tuple", mass, one.sens + other.sens, alpha, beta, one.gamma + other.gamma, (one, other))


def grown(dice: random.Random, size: int) -> Module:
    """A random module of `size` leaves."""
    if size == 1:
        if dice.random() < 0.5:
            return atom(dice.uniform(0.1, 3.0), dice.uniform(0.3, 2.0))
        return bond(dice.uniform(0.3, 2.0), dice.choice([0.0, dice.uniform(0.0, 2.0)]))
    left = dice.randint(1, size - 1)
    make = composed if dice.random() < 0.6 else beside
    return make(grown(dice, left), grown(dice, size - left))


def share(module: Module, target: float) -> None:
    """Modula's recursion for a unit step: every atom's norm."""
    module.step = target
    if not module.mass or not module.parts:
        return
    first, second = module.parts
    inner = target * second.mass / module.mass / (first.sens if module.kind == "compose" else 1.0)
    share(first, target * first.mass / module.mass)
    share(second, inner)


def walked(module: Module, given: list[Bound]) -> list[Bound]:
    """The same module as a graph, node by node: a tuple is a list of nodes, and each is an operand."""
    if module.kind == "tuple":
        return [bound for part in module.parts for bound in walked(part, given)]
    if module.kind == "compose":
        outer, inner = module.parts
        return walked(outer, walked(inner, given))
    pairs = [(module.gamma, one, other) for one in given for other in given]
    own = through([(module.sens, bound) for bound in given], pairs)
    if module.kind == "bond":
        return [own]
    met = through([(1.0, bound) for bound in given], ())
    return [through([(1.0, own), (1.0, meeting(met, module.step))], ())]


@pytest.mark.parametrize("seed", range(200))
def test_a_walk_through_the_graph_is_modula_s_recursion(seed: int) -> None:
    dice = random.Random(seed)
    module = grown(dice, dice.randint(2, 24))
    while not module.mass:
        module = grown(dice, dice.randint(2, 24))
    share(module, 1.0)
    found = through([(1.0, bound) for bound in walked(module, [Bound(inputs=1.0)])], ())
    expected = (1.0, module.sens, module.alpha, module.beta, module.gamma)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


# The constants.


@pytest.mark.parametrize(
    ("function", "largest"),
    [(F.gelu, 0.7979), (torch.tanh, 0.7698), (F.silu, 0.5), (F.softplus, 0.25), (torch.sigmoid, 0.0962)],
)
def test_activations(function: Callable[[Tensor], Tensor], largest: float) -> None:
    assert bend_of(function) == pytest.approx(largest, abs=5e-5)


@pytest.mark.parametrize("function", [F.relu, torch.abs, F.hardswish, F.leaky_relu, lambda x: F.elu(x, 1.3)])
def test_a_kink_has_no_second_derivative(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(LookupError, match="kink"):
        bend_of(function)


Tensors = tuple[Tensor, ...]


def bent(function: Callable[..., Tensor], at: Tensors, one: Tensors, two: Tensors) -> Tensor:
    """The second derivative along two directions. Not of torch's layer_norm, whose nested one is wrong."""

    def first(*x: Tensor) -> Tensor:
        found: Tensor = torch.func.jvp(function, x, one)[1]
        return found

    with sdpa_kernel(SDPBackend.MATH):
        found: Tensor = torch.func.jvp(first, at, two)[1]
    return found


def size(x: Tensor) -> Tensor:
    """Largest RMS over the last axis."""
    return x.square().mean(-1).sqrt().max()


def searched(second: Callable[[list[Tensor]], Tensor], start: list[Tensor], steps: int = 200) -> float:
    """The largest value found by ascent."""
    start = [x.requires_grad_() for x in start]
    opt, best = torch.optim.Adam(start, lr=0.05), 0.0
    for _ in range(steps):
        opt.zero_grad()
        value = second(start)
        best = max(best, float(value.detach()))
        (-value).backward()
        opt.step()
    return best


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Modula's functional attention."""
    return F.scaled_dot_product_attention(q, k, v, scale=1 / q.shape[-1])


# Bounds by operand, for q, k and v: what normc's rule says.
ATTENTION = {"qq": 1.0, "kk": 1.0, "qk": 2.0, "qv": 1.0, "kv": 1.0, "vv": 0.0}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pair", ATTENTION)
def test_functional_attention_bends_no_more_than_its_rule_says(pair: str, seed: int) -> None:
    """So it is (0, 0, 2)-sharp, where the paper has (0, 0, 3)."""
    generator = torch.Generator().manual_seed(seed)
    start = [torch.randn(3, 2, generator=generator, dtype=torch.float64) for _ in range(5)]
    first, second = "qkv".index(pair[0]), "qkv".index(pair[1])

    def value(given: list[Tensor]) -> Tensor:
        *at, one, two = (x / size(x) for x in given)
        zero = torch.zeros_like(one)
        found = bent(
            attention, tuple(at), tuple(one if i == first else zero for i in range(3)),
            tuple(two if i == second else zero for i in range(3)),
        )  # fmt: skip
        return size(found)

    found = searched(value, start)
    assert found <= ATTENTION[pair] + 1e-9 <= 3
    if ATTENTION[pair]:
        assert found > 0.3 * ATTENTION[pair]


@pytest.mark.parametrize("seed", range(3))
def test_a_softmax_bends_by_at_most_one(seed: int) -> None:
    """In the sum of the probabilities, by the largest logits: reached by two independent halves."""

    def value(given: list[Tensor]) -> Tensor:
        logits, one, two = given
        return bent(lambda x: F.softmax(x, -1), (logits,), (one,), (two,)).abs().sum()

    generator = torch.Generator().manual_seed(seed)
    start = [torch.randn(4, generator=generator, dtype=torch.float64) for _ in range(3)]
    assert searched(lambda x: value([x[0], x[1].tanh(), x[2].tanh()]), start, 100) <= 1
    halves = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert float(value([torch.zeros(4), *halves])) == pytest.approx(1.0)


def rms_norm(x: Tensor) -> Tensor:
    """Spelled out."""
    return x / x.square().mean(-1, keepdim=True).sqrt()


def layer_norm(x: Tensor) -> Tensor:
    """Spelled out."""
    return rms_norm(x - x.mean(-1, keepdim=True))


@pytest.mark.parametrize("norm", [rms_norm, layer_norm])
def test_a_norm_bends_by_its_constant(norm: Callable[[Tensor], Tensor]) -> None:
    def value(given: list[Tensor]) -> Tensor:
        at, one, two = given
        at = norm(at)
        return size(bent(norm, (at,), (one / size(one),), (two / size(two),)))

    generator = torch.Generator().manual_seed(0)
    found = searched(value, [torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(3)])
    assert found == pytest.approx(NORM, rel=1e-2) and found <= NORM + 1e-6


# Whole networks.


def planned(model: nn.Module, inputs: Tensor, gains: str = "sharp") -> NormPlan:
    return normc.plan(model, inputs, recipe="modular-dual", options={"gains": gains, "position_mass": 1.0})


class Tanh(nn.Module):
    """Linear layers with tanh between them."""

    def __init__(self, depth: int, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nets.linear(width, width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, width]."""
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_network_of_layers_is_their_composition(depth: int) -> None:
    bend = bend_of(torch.tanh)
    module = atom(1.0, 1.0)
    for _ in range(depth - 1):
        module = composed(atom(1.0, 1.0), composed(bond(1.0, bend), module))
    found = planned(Tanh(depth), VECTORS).sharpness
    assert found[:3] == pytest.approx((module.alpha, module.beta, module.gamma))


def gpt(blocks: int) -> Module:
    """Modula's GPT without norms, with the finer bounds of attention left out: (0, 0, 2)."""
    third, gelu = bond(1 / 3, 0.0), bond(1.0, bend_of(lambda x: F.gelu(x) / nets.GELU_SLOPE))

    def residual(branch: Module) -> Module:
        c = 1 / (2 * blocks)
        stream, scaled = bond(1 - c, 0.0), composed(bond(c, 0.0), branch)
        return composed(bond(1.0, 0.0), beside(stream, scaled))

    def leaf() -> Module:
        return atom(5 / (6 * blocks), 1.0)

    whole = atom(1.0, 1.0)
    whole.beta = 0.0  # a table
    for _ in range(blocks):
        three = beside(beside(leaf(), leaf()), leaf())
        whole = composed(residual(composed(leaf(), composed(third, composed(bond(1.0, 2.0), three)))), whole)
        whole = composed(residual(composed(leaf(), composed(gelu, leaf()))), whole)
    return composed(atom(1.0, 1.0), whole)


@pytest.mark.parametrize("blocks", [1, 4])
def test_a_gpt_is_bounded_by_the_composition_of_its_modules(blocks: int) -> None:
    """Closely: the tuple norm counts every pair of q, k, v with the largest bound of all."""
    found, module = planned(nets.PlainGPT(65, 4, 32, blocks), TOKENS).sharpness, gpt(blocks)
    assert found.alpha is not None and 0.5 * module.alpha < found.alpha <= module.alpha
    assert (found.beta, found.gamma) == (0.0, 0.0)


@pytest.mark.parametrize(
    "build", [lambda n: nets.GPT(65, 64, 4, 32, 8, 8, n), lambda n: nets.PlainGPT(65, 4, 32, n)], ids=["norms", "plain"]
)
def test_residual_stacks_stay_bounded_as_they_grow(build: Callable[[int], nn.Module]) -> None:
    alphas = [planned(build(blocks), TOKENS).sharpness.alpha or math.inf for blocks in (1, 2, 4, 8, 16)]
    steps = [after - before for before, after in pairwise(alphas)]
    assert all(step > 0 for step in steps)
    assert all(after < 0.75 * before for before, after in pairwise(steps))
    assert alphas[-1] < 5


def orthogonal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """RMS to RMS norm 1."""
    out, into = shape
    noise = torch.randn(max(shape), min(shape), generator=generator, dtype=torch.float64)
    q = torch.linalg.qr(noise).Q
    return (q if out >= into else q.mT) * math.sqrt(out / into)


def unit(plan: NormPlan, name: str, direction: Tensor) -> Tensor:
    """The step of norm `target` along a direction: dense, as the recipe's."""
    row = plan[name]
    if row.norm == "colnorm":
        return row.target * direction / direction.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-30)
    u, _, v = torch.linalg.svd(direction, full_matrices=False)
    return row.target * math.sqrt(direction.shape[0] / direction.shape[1]) * (u @ v)


def at_norm(plan: NormPlan, shapes: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Weights on their norms' spheres."""
    found = {}
    for name, like in shapes.items():
        noise = torch.randn(like.shape, generator=generator, dtype=torch.float64)
        table = plan[name].norm == "colnorm"
        found[name] = F.rms_norm(noise, noise.shape[-1:]) if table else orthogonal(like.shape, generator)
    return found


class Post(nn.Module):
    """Residual blocks with a norm behind each, so that what is normed has size 1 or more, as the gains take it."""

    def __init__(self, spelled: bool) -> None:
        super().__init__()
        self.tok, self.head = nn.Embedding(17, 16), nets.linear(17, 16)
        self.up, self.down = (nn.ModuleList(nets.linear(16, 16) for _ in range(2)) for _ in range(2))
        self.spelled = spelled

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [batch, length]."""
        x = self.tok(tokens)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(F.silu(up(x)))
            x = layer_norm(x) if self.spelled else F.layer_norm(x, (16,), eps=0)
        out: Tensor = self.head(x)
        return out


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "tanh": (lambda: Tanh(3), F.rms_norm(VECTORS, (16,)).double()),
    "plain gpt": (lambda: nets.PlainGPT(17, 2, 16, 2), TOKENS % 17),
    "norms": (lambda: Post(True), TOKENS % 17),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", CASES)
def test_networks_bend_less_than_the_bound(case: str, seed: int) -> None:
    """Along random unit steps, and along those that an ascent on the second derivative leads to."""
    model, inputs = CASES[case][0](), CASES[case][1]
    plan = planned(
        Post(False) if case == "norms" else model,
        inputs.float() if inputs.is_floating_point() else inputs,
    )
    alpha = plan.sharpness.alpha
    assert alpha is not None
    generator = torch.Generator().manual_seed(seed)
    weights = at_norm(plan, dict(model.named_parameters()), generator)
    names = list(weights)

    def run(*values: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (inputs,))
        return found

    def drawn() -> tuple[Tensor, ...]:
        return tuple(
            unit(plan, name, torch.randn(weights[name].shape, generator=generator, dtype=torch.float64))
            for name in names
        )

    at = tuple(weights.values())
    found = [float(size(bent(run, at, drawn(), drawn())))]
    step = drawn()
    for _ in range(8):
        leaves = tuple(part.requires_grad_() for part in step)
        value = bent(run, at, leaves, leaves)
        found.append(float(size(value.detach())))
        largest = value.flatten(0, -2)[value.square().mean(-1).argmax()]
        grads = torch.autograd.grad(largest.square().sum(), leaves)
        step = tuple(unit(plan, name, grad).detach() for name, grad in zip(names, grads, strict=True))
    assert 0.02 * alpha < max(found) <= alpha


@pytest.mark.parametrize("seed", range(3))
def test_inputs_bend_the_output_less_than_their_bounds(seed: int) -> None:
    model, inputs = CASES["tanh"][0](), CASES["tanh"][1]
    plan = planned(model, inputs.float())
    generator = torch.Generator().manual_seed(seed)
    weights = at_norm(plan, dict(model.named_parameters()), generator)
    names = list(weights)

    def run(x: Tensor, *values: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))
        return found

    def drawn(x: float, w: float) -> Tensors:
        noise = [torch.randn(weights[name].shape, generator=generator, dtype=torch.float64) for name in names]
        moved = rms_norm(torch.randn(inputs.shape, generator=generator, dtype=torch.float64))
        return x * moved, *(w * unit(plan, name, part) for name, part in zip(names, noise, strict=True))

    at = (inputs, *weights.values())
    _, beta, gamma, _ = plan.sharpness
    assert beta is not None and gamma is not None
    assert 0.05 * beta < float(size(bent(run, at, drawn(1, 0), drawn(0, 1)))) <= beta
    assert 0.05 * gamma < float(size(bent(run, at, drawn(1, 0), drawn(1, 0)))) <= gamma


# What the plan says.


def test_old_documents_load_and_new_ones_hold_it() -> None:
    plan = planned(Tanh(2), VECTORS)
    data = json.loads(plan.to_json())
    assert NormPlan.from_json(plan.to_json()).sharpness == plan.sharpness
    del data["sharpness"]
    old = NormPlan.from_json(json.dumps(data))
    assert old.sharpness[:3] == (None, None, None) and "no trace" in old.sharpness.missing
    data["sharpness"] = {"alpha": 1.0, "beta": -1.0, "gamma": 0.0}
    with pytest.raises(NormcError, match="beta"):
        NormPlan.from_json(json.dumps(data))


def test_averages_bound_nothing_and_are_not_written() -> None:
    plan = planned(Tanh(2), VECTORS, "average")
    assert plan.sharpness.alpha is None and "average gains" in plan.sharpness.missing
    assert "sharpness" not in json.loads(plan.to_json())
    assert "α" not in plan.text(120)


def test_the_first_op_without_a_rule_is_named() -> None:
    found = planned(nets.MLP(4, "relu"), VECTORS)
    assert found.sharpness.alpha is None and "aten.relu" in found.sharpness.missing
    assert "aten.relu" in found.text(120)


class Aside(nn.Module):
    """What has no second derivative doesn't lead to the output, or hangs on nothing that moves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nets.linear(16, 16), nets.linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 16]."""
        hidden = torch.tanh(self.first(x))
        torch.relu(hidden)
        out: Tensor = self.last(hidden * torch.relu(torch.ones(16)))
        return out


def test_only_what_lies_on_the_way_counts() -> None:
    assert planned(Aside(), VECTORS).sharpness == planned(Tanh(2), VECTORS).sharpness


def test_another_mass_is_another_norm() -> None:
    plan = planned(Tanh(2), VECTORS)
    bend = bend_of(torch.tanh)
    changed = plan.override("layers.0.weight", mass=0.9)
    module = composed(atom(0.1, 1.0), composed(bond(1.0, bend), atom(0.9, 1.0)))
    assert changed.sharpness.alpha == pytest.approx(module.alpha)
    assert plan.override("layers.0.weight", mass=0).sharpness.alpha == pytest.approx(0.0)


def test_the_footer_says_it_in_one_line() -> None:
    lines = [line for line in planned(Tanh(2), VECTORS).text(120).splitlines() if line.startswith("sharpness")]
    assert len(lines) == 1 and "α 0.6925, β 1.385" in lines[0]


class Block(nn.Module):
    """One op of each kind, for finite differences: sizes 1 in, and no rule off."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.first, self.gate = kind, nets.linear(16, 16), nets.linear(16, 16)
        self.scale, self.shift = nn.Parameter(torch.ones(16)), nn.Parameter(torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 16]."""
        a, b = self.first(x), self.gate(x)
        if self.kind == "gate":
            return a * b * self.scale + self.shift
        if self.kind == "norm":
            return F.layer_norm(a + b, (16,), self.scale, self.shift)
        return torch.cat([a, F.glu(torch.cat([a, b], -1), -1)], -1) * torch.cat([self.scale, self.shift])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("gate", lambda a, b, g, s: 2 * a * b + 2 * g * (a + b)),
        ("norm", lambda a, b, g, s: NORM * (a + b) ** 2 + 2 * g * (a + b)),
    ],
)
def test_gains_and_biases_meet_as_weights(kind: str, expected: Callable[..., float]) -> None:
    plan = planned(Block(kind), F.rms_norm(VECTORS, (16,)))
    steps = [plan[name].target for name in ("first.weight", "gate.weight", "scale", "shift")]
    assert plan.sharpness.alpha == pytest.approx(expected(*steps))
    assert plan.certificate().bound == pytest.approx(1.0)
