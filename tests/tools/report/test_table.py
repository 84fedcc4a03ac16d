from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from normc.plans.plan import NormPlan
from normc.plans.row import Block
from normc.tools.report import words
from normc.tools.report.changes import changes
from normc.tools.report.families import families
from normc.tools.report.folding import folded
from tests.conftest import Golden
from tests.plans.sample import row, sample


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_table(width: int, golden: Golden) -> None:
    text = sample().text(width)
    assert max(map(cell_len, text.splitlines())) <= width
    golden(f"table-{width}.txt", text)


@pytest.mark.parametrize("width", [40, 60, 80, 133, 200])
def test_no_name_number_or_warning_is_lost_at_any_width(width: int) -> None:
    text = "".join(sample().text(width).split())
    names = ["wte.weight", "=head.weight", "h.*.experts.*.up×8", "h.{0,1,3}.attn.weight×3", "h.2.attn.weight"]
    for word in (*names, "FALLBACK:noruleforaten.fft_rfft(mixer.py:41)", "input,frozen", "√(out/in)", "qkv,3×64"):
        assert word in text, word


def test_every_row_is_in_one_family() -> None:
    plan = sample()
    found = [member.name for family in families(plan.rows) for member in family.rows]
    assert sorted(found) == sorted(plan.by_name)


def test_families_that_differ_in_part_name_their_members_exactly() -> None:
    shapes = {(0, 0): 4, (0, 1): 4, (1, 0): 4, (1, 1): 8, (2, 0): 4, (2, 1): 4}
    rows = [row(f"l.{i}.e.{j}.w", (size, 4), "hidden", "spectral") for (i, j), size in shapes.items()]
    assert [(family.name, len(family.rows)) for family in families(rows)] == [
        ("l.{0,2}.e.*.w", 4),
        ("l.1.e.0.w", 1),
        ("l.1.e.1.w", 1),
    ]


def test_runs_of_numbers_are_short_and_one_of_many_stays_a_number() -> None:
    rows = [row(f"h.{i}.w", (8 if i in (0, 7) else 4, 4), "hidden", "spectral") for i in range(12)]
    assert [family.name for family in families(rows)] == ["h.{0,7}.w", "h.{1-6,8-11}.w"]
    alone = [row("layer.0.w", (4, 4), "hidden", "spectral")]
    assert families(alone)[0].name == "layer.0.w"


def test_hostile_names_neither_move_the_cursor_nor_change_a_colour() -> None:
    names = ["a\x1b[31mred", "b\nnew line", "[bold]c[/bold]", "d\u202e", "e\ud800"]
    plan = NormPlan(tuple(row(name, (4, 4), "hidden", "spectral") for name in names), "M\x07", "uscion")
    text = plan.text(100)
    assert "\x1b" not in text
    assert "a\\x1b[31mred" in text
    assert "b\\nnew line" in text
    assert "[bold]c[/bold]" in text
    assert "\\u202e" in text


def test_an_empty_plan_prints() -> None:
    assert "0 of 0 tensors" in NormPlan((), "Nothing", "uscion").text(80)
    assert "0 of 0 tensors" in NormPlan((), "Nothing", "uscion").text(80, brief=True)


def test_from_140_columns_on_a_family_is_one_line_and_below_two() -> None:
    long = "down.*.attentions.0.transformer_blocks.0.attn1.to_q.a_projection_with_a_long_name.weight"
    rows = [row(long.replace("*", str(i)), (320, 640), "hidden", "spectral", 0.1 + i) for i in range(9)]
    for width, lines in ((140, 1), (139, 2), (100, 2)):
        body = NormPlan(tuple(rows), "UNet", "uscion").text(width).splitlines()
        assert len(body[1 + lines : body.index("")]) == lines
        assert max(map(cell_len, body)) <= width
    assert "weight ×9" in body[3]


def test_what_is_cut_keeps_both_ends_and_its_columns() -> None:
    assert words.cut("abcdefgh", 8) == "abcdefgh"
    assert words.cut("abcdefgh", 5) == "ab…gh"
    assert words.cut("abcdefgh", 1) == "…"
    assert cell_len(words.cut("権" * 40, 9)) <= 9


def test_gains_and_biases_of_many_sizes_are_one_line() -> None:
    norms = [
        row(f"layer{i}.0.bn{j}.{kind}", (64 * i,), "gain" if kind == "weight" else "bias", "rms")
        for i in range(1, 5) for j in (1, 2) for kind in ("weight", "bias")
    ]  # fmt: skip
    rows = (*norms, row("layer1.0.bn1.bias.tied", (64,), "bias", "rms", aliases=("other",)))
    found = folded(families(rows))
    assert [(family.name, len(family.rows)) for family in found] == [
        ("layer*.*.bn*.{weight,bias}", 16), ("layer1.0.bn1.bias.tied", 1)
    ]  # fmt: skip
    text = NormPlan(rows, "ResNet", "uscion").text(160)
    assert "64–256" in text
    assert "gain, bias" in text
    few = families(norms[:4])
    assert folded(few) == few


def test_in_brief_every_tensor_is_counted_and_what_stands_out_is_shown() -> None:
    plan = sample().override("h.3.experts.1.up", scale=7.0)
    text = plan.text(150, brief=True)
    counted = [line.split() for line in text.split("rows to look at")[0].splitlines()[2:] if line.strip()]
    kinds = {(one.role, words.norm(one)) for one in plan.rows}
    assert len(counted) == len(kinds)
    below = text.split("rows to look at")[1]
    for name in ("wte.weight", "h.{0,1,3}.attn.weight", "patch.weight", "mix.weight", "old.weight", "h.3.experts.1.up"):
        assert name in below
    assert "wpe.weight" not in below


def test_a_difference_is_said_once_for_all_layers_with_what_it_does() -> None:
    plan = sample()
    other = plan.override("h.*.experts.*.up", scale=7.0).override("wpe.weight", norm="sign")
    console = Console(width=200)
    with console.capture() as captured:
        console.print(changes(plan, other))
    text = captured.get()
    assert "h.*.experts.*.up ×8" in text
    assert "scale: 3·√(out/in) -> 7" in text
    assert "norm: colnorm -> sign" in text
    assert "every entry of a step has one size" in text
    assert "9 of 21 rows differ" in text


@pytest.mark.parametrize(
    ("shape", "axes", "said"),
    [
        ((192, 64), {}, "64→192 (out, in)"),
        ((64, 192), {"in_axes": (0,), "out_axes": (1,)}, "64→192 (in, out)"),
        ((64, 3, 7, 5), {"kernel_axes": (2, 3)}, "3→64, 7×5 (out, in)"),
        ((8, 32, 64), {"block_axes": (0,), "out_axes": (1,), "in_axes": (2,)}, "8 of 64→32 (out, in)"),
        ((4, 8), {"in_axes": (), "out_axes": ()}, "4×8"),
        ((), {}, "one number"),
    ],
)
def test_shapes_say_which_axis_is_which(shape: tuple[int, ...], axes: dict[str, Any], said: str) -> None:
    assert words.shape(row("w", shape, "hidden", "rms", **axes)) == said


def test_blocks_are_said_in_few_words() -> None:
    def cut(*sizes: int, labels: str) -> tuple[Block, ...]:
        edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        return tuple(Block(label, 0, ((a, b),)) for label, a, b in zip(labels, edges, edges[1:], strict=False))

    assert words.blocks(cut(4, 4, 4, labels="qkv")) == "q k v, 3 × 4"
    assert words.blocks(cut(8, 4, 4, labels="qkv")) == "q 8, k 4, v 4"
    assert words.blocks(tuple(Block(f"group {i}", 0, ((i, i + 1),)) for i in range(9))) == "9 × 1"
    apart = tuple(Block(label, 0, ((i, i + 1), (i + 2, i + 3))) for i, label in enumerate(("gate", "up")))
    assert words.blocks(apart) == "gate up, 2 × 2, interleaved"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (497_759_232, "497.8 MB"), (10**15, "1000.0 TB")]
)
def test_sizes(count: int, text: str) -> None:
    assert words.size(count) == text


def test_the_footer_counts_what_learns_apart() -> None:
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in sample().text(200).splitlines()[-11:] if line}
    assert lines["inferred"].endswith("19 of 21 tensors")
    assert (lines["unused"], lines["frozen"]) == (
        "1 tensor, 64 parameters: old.weight", "1 tensor, 3,072 parameters: patch.weight"
    )  # fmt: skip
    assert lines["learning"].endswith("19 of 21 tensors")
    whole = NormPlan(tuple(row for row in sample() if row.rule != "none" and not row.frozen), "Sample", "uscion")
    assert "learning" not in whole.text(200)


def test_rows_without_an_update_say_so() -> None:
    plan = sample().override("h.1.attn.weight", mass=0)
    assert "hidden, frozen" in plan.text(200)
    line = next(line for line in plan.text(200).splitlines() if line.startswith("old.weight"))
    assert "no update" in line
    assert words.norm(replace(plan["wpe.weight"], rule="adamw")) == "colnorm (adamw)"
