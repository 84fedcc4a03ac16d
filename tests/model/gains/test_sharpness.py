"""Second order: the recursion against Modula's own on random modules, and the bound of whole networks against what
they measure (THEORY A5).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normc.model.gains.bends import bend_of
from normc.model.gains.curvature import Bound, meeting, through
from normc.plans.plan import NormPlan
from tests.model.gains.bending import Tensors, bent, layer_norm, rms_norm, size
from tests.model.gains.closed import Module, atom, beside, bond, composed
from tests.model.gains.sharp import VECTORS, Tanh, planned
from tests.recipe.modula import nets

TOKENS = torch.randint(0, 65, (2, 8), generator=torch.Generator().manual_seed(0))


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
