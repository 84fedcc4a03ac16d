from __future__ import annotations

import math

import pytest
import torch
from rich.console import Console, RenderableType

from normc.errors import NormcError
from normc.plans.geometry import norms
from normc.plans.row import Block
from normc.tools.report.explain import explain
from normc.tools.report.step import steps
from tests.conftest import Golden
from tests.handmade import draft, plan_of
from tests.plans.sample import row, sample


def printed(thing: RenderableType, width: int = 100) -> str:
    console = Console(width=width, no_color=True, color_system=None)
    with console.capture() as captured:
        console.print(thing)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


@pytest.mark.parametrize(
    "name", ["wte.weight", "wpe.weight", "h.0.attn.weight", "patch.weight", "mix.weight", "old.weight"]
)
def test_the_explanation(name: str, golden: Golden) -> None:
    golden(f"explain-{name}.txt", printed(explain(sample(), name)))


def test_an_alias_is_explained_and_an_unknown_name_refused() -> None:
    assert printed(explain(sample(), "head.weight")).startswith("wte.weight")
    with pytest.raises(NormcError, match="no parameter"):
        explain(sample(), "head.bias")


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (16, 16), (1, 7), (7, 1)])
@pytest.mark.parametrize("name", sorted(norms))
def test_the_step_is_as_large_as_the_norms_own_step(name: str, shape: tuple[int, int]) -> None:
    """Against the norm's step for a random gradient: the RMS is exact, the spectral norm inside its bounds."""
    planned = row("w", shape, "hidden", name, 2.0)
    direction = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = planned.scale.value * norms[name].lmo(direction)[0]
    (found,) = steps(planned)
    assert math.isclose(found.rms, float(step.square().mean().sqrt()), rel_tol=1e-6)
    assert found.spectral is not None
    low, high = found.spectral
    assert low * (1 - 1e-6) <= float(torch.linalg.matrix_norm(step, 2)) <= high * (1 + 1e-6)


def test_rows_without_a_step_have_none() -> None:
    plan = sample()
    assert steps(plan["old.weight"]) == ()
    assert steps(plan["mix.weight"])[0].spectral is None
    assert len(steps(plan["h.0.attn.weight"])) == 3


def test_qk_clip_is_a_line_where_heads_are_known() -> None:
    heads = tuple(Block(f"head {index}", 0, ((4 * index, 4 * index + 4),)) for index in range(2))
    rows = [draft("q", (8, 8), "hidden", blocks=heads), draft("o", (8, 8), "hidden")]
    clipped, plain = plan_of(rows, "muon", qk_clip=50.0), plan_of(rows, "muon")
    (line,) = (line for line in clipped.explain("q", 140).split("\n") if "QK-clip" in line)
    assert "a head whose logits exceed 50 gets w times sqrt(50 / largest)  2 heads" in line
    assert "QK-clip" not in clipped.explain("o", 140)
    assert "QK-clip" not in plain.explain("q", 140)
