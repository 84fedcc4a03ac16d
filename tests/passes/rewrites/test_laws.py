"""Laws: what is dropped changes nothing, and what would change something stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from normc.compiler import build
from normc.errors import NormcError
from normc.pipeline import program_of
from normc.recipe.by_name import recipes
from normc.recipe.stages.apply import Decay, Descend, Shrink
from normc.recipe.stages.build import Builder, Space, Stage, chain_of
from normc.recipe.stages.clip import ClipRms
from normc.recipe.stages.moments import Ema
from normc.recipe.stages.norm import Lmo
from normc.recipe.stages.precondition import AdamDirection, UnbiasedEma
from normc.recipe.stages.size import Radius
from normc.update.ops import arithmetic
from normc.update.program.laws import simplified
from normc.update.program.program import annotate, evaluate, placeholders
from tests.handmade import draft, finish


class Times(Stage):
    """A multiple of a gradient, for the tests."""

    gives: Space | None = None  # type: ignore[misc]
    kind = "scale"

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        return build.call("s", arithmetic.scale, direction, factor=self.factor)


def row_of(norm: str, blocks: bool = False, recipe: str = "uscion") -> Any:
    """A finished row of shape 6 x 4 with that norm, in two unequal blocks if asked for."""
    spans = [("a", 0, ((0, 2),)), ("b", 0, ((2, 6),))]
    from normc.plans.row import Block

    given = {"blocks": tuple(Block(*span) for span in spans)} if blocks else {}
    plan = finish([draft("w", (6, 4), "hidden", **given)], recipes[recipe])
    return plan.override("w", norm=norm).rows[0]


def result(graph: fx.Graph) -> tuple[torch.Tensor, ...]:
    """What a graph makes of fixed random inputs; states that it doesn't have are left out."""
    fill = torch.Generator().manual_seed(3)
    every = {name: torch.randn(1, 6, 4, generator=fill, dtype=torch.float64) for name in ("w", "g", "m", "v")}
    inputs: dict[str, Any] = {"w": every["w"], "g": every["g"], "momentum_buffer": every["m"], "exp_avg": every["m"]}
    inputs |= {"exp_avg_sq": every["v"].square(), "step": torch.tensor([2.0])}
    inputs |= {"lr": 0.1, "momentum": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.3}
    names = {node.name for node in graph.nodes if node.op == "placeholder"}
    return evaluate(graph, {name: value for name, value in inputs.items() if name in names})


@pytest.mark.parametrize("norm", ["spectral", "sign", "colnorm", "rownorm", "rms", "frobenius"])
@pytest.mark.parametrize("blocks", [False, True])
def test_a_positive_scale_in_front_of_a_norm_is_dropped(norm: str, blocks: bool) -> None:
    row = row_of(norm, blocks)
    plain = chain_of(row, (Ema(), Times(7.0), Times(0.25), Lmo(), Descend()))
    short, found = simplified(plain)
    dropped = [finding for finding in found if "scale in front" in finding.what]
    through_blocks = blocks and norm != "sign" and norm != "rownorm"
    assert len(dropped) == (0 if through_blocks else 2)
    for before, after in zip(result(plain), result(short), strict=True):
        torch.testing.assert_close(before, after, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["spectral", "sign", "colnorm", "rms"])
def test_bias_corrections_and_clipping_in_front_of_a_norm_are_dropped(norm: str) -> None:
    """With the count of steps that the correction alone has needed."""
    plain = chain_of(row_of(norm), (UnbiasedEma(), ClipRms(0.01), Lmo(), Descend()))
    short, found = simplified(plain)
    assert [finding.what.split(" in front")[0] for finding in found] == ["clip_rms", "debiased"]
    assert [node.name for node in placeholders(short, "state")] == ["exp_avg"]
    before, after = result(plain)[0], result(short)[0]
    torch.testing.assert_close(before, after, rtol=1e-12, atol=1e-12)


def test_a_negative_scale_and_a_scale_that_others_read_stay() -> None:
    row = row_of("sign")
    plain = chain_of(row, (Ema(), Times(-7.0), Lmo(), Descend()))
    assert simplified(plain) == (plain, ())

    class Twice(Times):
        def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
            scaled = super().emit(build, direction)
            build.keep("momentum_buffer", scaled)
            return scaled

    plain = chain_of(row, (Ema(), Twice(7.0), Lmo(), Descend()))
    assert simplified(plain) == (plain, ())


def test_the_sign_of_adam_s_direction_is_the_sign_of_its_average() -> None:
    row = row_of("sign")
    plain = chain_of(row, (AdamDirection(), Lmo(), Descend()))
    short, found = simplified(plain)
    assert [finding.saving for finding in found] == ["its state"]
    assert [node.name for node in placeholders(short, "state")] == ["exp_avg"]
    assert {node.name for node in placeholders(short, "number")} == {"lr", "momentum"}
    torch.testing.assert_close(result(plain)[0], result(short)[0])
    # Other norms see the sizes that the division changes.
    plain = chain_of(row_of("colnorm"), (AdamDirection(), Lmo(), Descend()))
    assert simplified(plain) == (plain, ())


def test_the_second_of_two_norms_is_dropped_but_not_of_newton_schulz() -> None:
    class Again(Lmo):
        takes = ("primal",)

    row = row_of("sign")
    plain = chain_of(row_of("colnorm", recipe="modular-dual"), (Ema(), Lmo(), Descend()))
    assert simplified(plain)[1] == ()
    graph = fx.Graph()
    graph.output(graph.graph_copy(chain_of(row, (Ema(), Lmo(), Descend())), {}))
    (sign,) = (node for node in graph.nodes if node.name == "u")
    with graph.inserting_after(sign):
        second = graph.call_function(sign.target, (sign,))
    sign.replace_all_uses_with(second, lambda user: user is not second)
    short, found = simplified(graph)
    assert ["second of two" in finding.what for finding in found] == [True]
    torch.testing.assert_close(result(graph)[0], result(short)[0])


@pytest.mark.parametrize(("stage", "bound"), [(Decay(), "radius / weight_decay"), (Shrink(), "within the radius")])
def test_decay_and_step_become_one_constrained_step(stage: Stage, bound: str) -> None:
    row = row_of("spectral")
    plain = chain_of(row, (Ema(), Lmo(), stage, Descend()))
    short, found = simplified(plain)
    assert [bound in finding.why for finding in found] == [True]
    torch.testing.assert_close(result(plain)[0], result(short)[0])
    unsized = simplified(chain_of(row, (AdamDirection(), Radius(), stage, Descend())))[1]
    assert [finding.why for finding in unsized] == ["the same arithmetic"]


def test_stages_that_do_not_follow_each_other_are_refused() -> None:
    row = row_of("sign")
    with pytest.raises(NormcError, match="Descend can't follow Ema, which is dual"):
        chain_of(row, (Ema(), Descend()))
    with pytest.raises(NormcError, match="Ema can't follow Lmo, which is primal"):
        chain_of(row, (Lmo(), Ema()))
    with pytest.raises(NormcError, match="Lmo can't follow Radius"):
        chain_of(row, (Radius(), Lmo()))


def test_layers_whose_steps_differ_in_size_share_one_function() -> None:
    """Each keeps its own size, also where some have no gradient."""
    sizes = [0.5, 1.0, 2.0, 4.0, 8.0]
    drafts = [draft(f"layers.{i}.w", (6, 4), "hidden") for i in range(5)]
    drafts += [draft(f"layers.{i}.a", (6, 4), "state") for i in range(5)]
    plan = finish(drafts, recipes["uscion"].configure(polynomial="exact"))
    for index, size in enumerate(sizes):
        plan = plan.override(f"layers.{index}.*", scale=size)
    assert len(program_of(plan).families) == 2
    assert all(annotate(chain) for chain in program_of(plan).chains)
    for compiled in (False, True):
        named = [(row.name, torch.nn.Parameter(torch.zeros(6, 4))) for row in plan.rows]
        opt = build(plan, named, lr=0.1, compile=compiled)
        for name, weight in named:
            if "2" not in name:
                weight.grad = torch.eye(6, 4)
        opt.step()
        for name, weight in named:
            size = sizes[int(name.split(".")[1])] if "2" not in name else 0.0
            torch.testing.assert_close(weight.detach(), -0.1 * size * torch.eye(6, 4), rtol=1e-5, atol=1e-6)
