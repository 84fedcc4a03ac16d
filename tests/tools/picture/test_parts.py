"""The parts of a picture: modules, repeated layers, where parts stand, and what runs between."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import normc
from normc.plans.plan import NormPlan
from normc.plans.row import Block
from normc.tools.picture.glyphs import glyph
from normc.tools.picture.lines import drawn
from normc.tools.picture.parts import ENTRY, EXIT, Part
from tests.passes.analyses.test_wiring import Block as Layer
from tests.passes.analyses.test_wiring import Stream
from tests.plans.sample import row, sample, thirds


def outline(part: Part) -> list[object]:
    """Labels, nested; names of cards; of layers alike the first, and how many there are."""
    if part.kind == "card":
        return [part.label, *(place.short for place in part.places)]
    inside = part.parts[:1] if part.alike else [part.parts[i] for rank in (*part.ranks, part.apart) for i in rank]
    return [part.label, *([len(part.parts)] if part.alike else []), *(outline(inner) for inner in inside)]


def planned(model: nn.Module, *inputs: Tensor) -> Part:
    return drawn(normc.plan(model, inputs))


def test_modules_stand_in_the_order_of_the_values() -> None:
    layer = ["norm", "weight", "bias"], ["up", "weight", "bias"], ["down", "weight", "bias"], ["+"]
    assert outline(planned(Stream(), torch.arange(6).reshape(2, 3))) == [
        "Stream",
        ["table", "weight"],
        ["blocks.0 – 1", 2, ["blocks.0", *layer]],
        ["mix", "weight", "bias"],
        ["head", "weight"],
        ["spare", "weight", "bias"],
    ]


def test_lines_of_a_box_lie_between_its_own_parts() -> None:
    whole = planned(Stream(), torch.arange(6).reshape(2, 3))
    names = {ENTRY: "in", EXIT: "out"} | {i: part.label for i, part in enumerate(whole.parts)}
    found = {(names[line.source], names[line.target]): (line.stream, line.side) for line in whole.lines}
    assert found == {
        ("in", "table"): (False, ""),
        ("table", "blocks.0 – 1"): (True, ""),
        ("table", "mix"): (False, "lane"),
        ("blocks.0 – 1", "mix"): (True, ""),
        ("mix", "head"): (False, ""),
        ("head", "out"): (False, ""),
    }
    assert [whole.parts[i].label for i in whole.apart] == ["spare"]
    (stack,) = (part for part in whole.parts if part.alike)
    first = stack.parts[0]
    assert first.spine
    assert {(line.source, line.target, line.side) for line in first.lines if line.stream} == {
        (ENTRY, 3, "spine"), (3, EXIT, "")
    }  # fmt: skip


class Turns(nn.Module):
    """Layers, of which some are a card alone, that the model itself adds to its stream."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.plain = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.deep = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in (*self.plain, *self.deep):
            x = x + layer(x)
        return self.last(x)


def test_a_join_of_layers_in_turn_is_drawn_within_the_layer() -> None:
    whole = planned(Turns(), torch.ones(2, 8))
    assert outline(whole) == [
        "Turns",
        ["first", "weight", "bias"],
        ["plain.0 – 2", 3, ["plain.0", ["plain.0", "weight", "bias"], ["+"]]],
        ["deep.0 – 1", 2, ["deep.0", ["deep.0.0", "weight", "bias"], ["deep.0.1", "weight", "bias"], ["+"]]],
        ["last", "weight", "bias"],
    ]
    assert not any(line.back for part in whole.walk() for line in part.lines)


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.two(self.one(x).relu()).relu()
        return x


def test_a_layer_that_runs_again_has_a_line_that_goes_back() -> None:
    whole = planned(Loop(), torch.ones(2, 8))
    back = [line for line in whole.lines if line.back]
    assert [(whole.parts[line.source].label, whole.parts[line.target].label) for line in back] == [("two", "one")]


class Between(nn.Module):
    """Two norms, a number apart, and a layer between them; a table that is read before the first value."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.shift, self.mix, self.last = nn.Parameter(torch.ones(8)), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm2(self.mix(self.norm1(x + self.shift))))


def test_layers_with_others_between_them_are_apart() -> None:
    whole = planned(Between(), torch.ones(2, 8))
    order = [whole.parts[place] for rank in whole.ranks for place in rank]
    assert [part.label or part.places[0].short for part in order] == ["shift", "norm1", "mix", "norm2", "last"]
    assert not any(line.back for line in whole.lines)


def test_without_wiring_all_modules_are_there_in_order() -> None:
    whole = drawn(sample())
    shown = [place.name for part in whole.walk() for place in part.places]
    assert sorted(shown) == sorted(name for row in sample() for name in (row.name, *row.aliases))
    assert not any(part.lines for part in whole.walk())
    assert outline(whole)[:4] == ["Sample", ["wte", "weight"], ["head", "weight"], ["wpe", "weight"]]


def test_layers_that_differ_in_more_than_size_are_apart() -> None:
    rows = [row(f"h.{i}.w", (8, 8 + i), "hidden", "spectral" if i < 3 else "sign") for i in range(5)]
    whole = drawn(NormPlan(tuple(rows), "M", "scion"))
    assert outline(whole) == ["M", ["h", ["h.0 – 2", 3, ["h.0", "w"]], ["h.3 – 4", 2, ["h.3", "w"]]]]


def test_names_that_are_nested_without_end_are_drawn() -> None:
    rows = [row("a." * depth + "w", (4, 4), "hidden", "spectral") for depth in range(1, 400)]
    whole = drawn(NormPlan(tuple(rows), "M", "scion"))
    assert sum(len(part.places) for part in whole.walk()) == 399


def test_a_matrix_is_d_out_tall_and_its_blocks_are_stripes() -> None:
    tall = glyph(row("w", (4096, 16), "hidden", "spectral"))
    assert tall.height > 2 * tall.width
    assert not tall.stripes
    fused = glyph(row("w", (64, 192), "hidden", "spectral", in_axes=(0,), out_axes=(1,), blocks=thirds(64, 1)))
    assert [stripe.label for stripe in fused.stripes] == ["q", "k", "v"]
    assert [stripe.start for stripe in fused.stripes] == [0, *(round(fused.height * i / 3, 1) for i in (1, 2))]
    assert not fused.across
    halves = tuple(Block(str(i), 1, ((32 * i, 32 * i + 32),)) for i in range(2))
    assert glyph(row("w", (8, 64), "hidden", "spectral", blocks=halves)).across
    many = tuple(Block(str(i), 0, ((i, i + 1),)) for i in range(2000))
    assert len(glyph(row("w", (2000, 8), "hidden", "spectral", blocks=many)).stripes) == 48
    stack = row("w", (8, 64, 32), "hidden", "spectral", block_axes=(0,), out_axes=(1,), in_axes=(2,))
    assert glyph(stack).sheets == 3


def test_layers_of_a_model_are_one_box(updates_once: None) -> None:
    model = nn.Sequential(nn.Linear(4, 8), *(Layer() for _ in range(6)), nn.Linear(8, 2))
    assert outline(planned(model, torch.ones(2, 4)))[2][:2] == ["1 – 6", 6]  # type: ignore[index]
