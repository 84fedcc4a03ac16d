"""What a check says of networks whose fault, or lack of one, is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.errors import NormcError
from normc.tools.check.gains import GainRow
from normc.tools.check.report import CheckReport
from normc.tools.check.slopes import judged, rising, settled
from normc.tools.check.verdict import Verdict
from tests.model.trace.state import rng_state, state_of
from tests.tools.check.models import batch, mlp, seeded_gpt, tokens


def gains(report: CheckReport) -> dict[str, GainRow]:
    assert report.gains is not None
    return {row.name: row for row in report.gains.rows}


@pytest.fixture(scope="module")
def plain() -> CheckReport:
    return normc.check(seeded_gpt(), tokens(), sharp=6)


def test_a_model_is_left_as_it_was() -> None:
    model = seeded_gpt()
    other = seeded_gpt(width=96)
    before, rng = state_of(model), rng_state()
    normc.check(model, tokens(), sharp=0, widths={48: model, 96: other}, steps=1)
    assert state_of(model) == before
    assert rng_state() == rng
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_sound_model_has_no_mark(plain: CheckReport) -> None:
    assert plain.ok
    assert plain.step is not None
    assert plain.step.jointly.promised is not None
    assert 0.4 < plain.step.jointly.budget / plain.step.jointly.promised < 1.75
    for row in gains(plain).values():
        assert row.shown.ratios[0] == pytest.approx(1, abs=0.5), row.name
        assert row.sharp is not None
        assert row.sharp > 0.9 * row.shown.budget, row.name


@pytest.mark.parametrize("fast", [False, True])
def test_two_runs_agree_to_the_last_digit(plain: CheckReport, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the CPU multiplies bf16 fast: a check's steps are float32 on every CPU."""
    monkeypatch.setattr("normc.backends.cpu.fast_bf16", lambda: fast)
    assert normc.check(seeded_gpt(), tokens(), sharp=6).to_json() == plain.to_json()


def test_weights_that_are_ten_times_too_large_are_explained_and_mended_by_init() -> None:
    """The plan is right: the check says so, with the factor, and marks no line."""
    sound, large = (normc.check(mlp(factor=factor), batch(), sharp=0) for factor in (1.0, 10.0))
    assert sound.ok and large.ok
    assert large.step is not None and large.step.verdict.word == "large at init"
    mended = normc.check(mlp(factor=10.0), batch(), sharp=0, init=True)
    assert {row.verdict.word for row in gains(mended).values()} <= {"ok", "small at init"}
    for row in gains(large).values():
        assert (row.verdict.level, row.verdict.word) == ("note", "large at init")
        assert row.shown.ratios[1] == pytest.approx(100, rel=0.3)  # two other matrices, each tenfold
        assert row.shown.ratios[0] == pytest.approx(1, abs=0.4)


def test_a_zero_initialised_projection_is_explained_and_not_marked() -> None:
    model = seeded_gpt()
    for block in model.blocks:
        nn.init.zeros_(block.attn.c_proj.weight)  # type: ignore[union-attr, arg-type]
        nn.init.zeros_(block.down.weight)  # type: ignore[union-attr, arg-type]
    report = normc.check(model, tokens(), sharp=0)
    assert report.ok
    rows = gains(report)
    for name in ("blocks.*.up.weight", "blocks.*.ln_1.weight"):
        row = rows[name]
        assert (row.shown.initial, row.verdict.word, row.verdict.level) == (0.0, "0 at init", "note")
        assert row.shown.nominal is not None
        assert row.shown.nominal > 0.1
    text = report.text(120)
    assert "blocks.*.down.weight" in text
    assert "no target blows up" in " ".join(text.split())
    plan = normc.plan(model, tokens())
    assert [row.target for row in plan.rows] == [row.target for row in normc.plan(seeded_gpt(), tokens()).rows]


def test_a_query_that_starts_without_effect_isn_t_marked() -> None:
    class Separate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embed = nn.Embedding(96, 32)
            self.q, self.k, self.v = (nn.Linear(32, 32, bias=False) for _ in range(3))
            self.head = nn.Linear(32, 96, bias=False)

        def forward(self, idx: Tensor) -> Tensor:
            x = self.embed(idx)
            y = nn.functional.scaled_dot_product_attention(0.01 * self.q(x), self.k(x), self.v(x))
            return self.head(y)

    row = gains(normc.check(Separate(), tokens(), sharp=0))["k.weight"]
    assert row.verdict.level == "note" or row.verdict.word == "ok"


def series(report: CheckReport, along: str) -> dict[str, Any]:
    part = getattr(report, along)
    return {one.name: one for one in part.series}


def test_coordinates_are_the_same_on_every_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = set()
    for fast in (False, True):
        monkeypatch.setattr("normc.backends.cpu.fast_bf16", lambda fast=fast: fast)
        widths = {width: mlp(width) for width in (64, 128)}
        documents.add(normc.check(mlp(), batch(), sharp=0, widths=widths).to_json())
    assert len(documents) == 1


def test_over_the_width_a_sound_network_is_flat_and_its_readout_may_shrink_at_init() -> None:
    widths = {width: mlp(width, readout=1.0) for width in (128, 256, 512)}
    report = normc.check(mlp(), batch(), sharp=0, widths=widths, lr=1e-3)
    found = series(report, "widths")
    assert report.ok
    assert [found[name].verdict.word for name in "0123"] == ["flat"] * 4
    assert found["output"].slopes[0] == pytest.approx(-0.5, abs=0.15)
    assert abs(found["output"].slopes[2]) < 0.3
    assert found["output"].verdict.word == "shrinks"


def test_a_readout_that_is_too_large_for_what_is_learned_is_marked() -> None:
    widths = {width: mlp(width) for width in (256, 512, 1024)}
    found = series(normc.check(mlp(), batch(), sharp=0, widths=widths, lr=1e-3), "widths")
    assert abs(found["output"].slopes[0]) < 0.2
    assert found["output"].slopes[2] == pytest.approx(0.45, abs=0.15)
    assert found["output"].verdict.marked == "!! change grows"


def test_an_initialisation_that_forgets_the_fan_in_grows_with_the_width() -> None:
    widths = {width: mlp(width, deviation=0.1) for width in (64, 128, 256)}
    found = series(normc.check(mlp(), batch(), sharp=0, widths=widths), "widths")
    assert found["2"].verdict.word == "grows"
    assert found["2"].slopes[0] == pytest.approx(0.5, abs=0.1)
    assert found["output"].slopes[0] == pytest.approx(1.0, abs=0.15)


def test_uniform_targets_make_attention_logits_grow_with_the_width_and_steps_with_the_depth() -> None:
    widths = {width: seeded_gpt(width=width, layers=1) for width in (32, 64, 128)}
    depths = {layers: seeded_gpt(layers=layers) for layers in (2, 4, 8)}
    report = normc.check(seeded_gpt(), tokens(), recipe="uscion", sharp=0, lr=0.02, widths=widths, depths=depths)
    logits = series(report, "widths")["blocks.*.attn attention logits"]
    assert abs(logits.slopes[0]) < 0.3
    assert logits.slopes[2] > 0.3
    assert logits.verdict.marked == "!! grows"
    assert series(report, "widths")["wte"].verdict.level == "note"
    step = series(report, "depths")["output's change in step 1, over lr"]
    assert step.slopes[1] > 0.5
    assert step.verdict.marked == "!! grows"
    assert not report.ok


def test_json_holds_every_parameter_and_the_plot_is_drawn(plain: CheckReport, tmp_path: Path) -> None:
    document = json.loads(plain.to_json())
    assert [gain["name"] for gain in document["gains"]] == [name for name, _ in seeded_gpt().named_parameters()]
    assert document["verdict"]["level"] in ("ok", "note")
    plain.plot(tmp_path / "check.svg")
    assert (tmp_path / "check.svg").read_text().startswith("<?xml")
    with pytest.raises(NormcError, match=r"\.png or \.svg"):
        plain.plot(tmp_path / "check.txt")


def test_what_can_t_be_checked_is_said() -> None:
    with torch.device("meta"):
        hollow = mlp()
    with pytest.raises(NormcError, match="real weights"):
        normc.check(hollow, batch())
    with pytest.raises(NormcError, match="two sizes"):
        normc.check(mlp(), batch(), sharp=0, widths={64: mlp()})
    with pytest.raises(NormcError, match=r"lr is 0.0(.|\n)*above 0"):
        normc.check(mlp(), batch(), lr=0.0)


def test_a_loss_of_one_s_own_gives_the_gradients() -> None:
    seen: list[tuple[int, ...]] = []

    def loss(out: Tensor) -> Tensor:
        seen.append(tuple(out.shape))
        return nn.functional.cross_entropy(out, torch.zeros(64, dtype=torch.int64))

    report = normc.check(mlp(), batch(), sharp=0, loss=loss)
    assert report.ok
    assert seen == [(64, 16)] * 2


@pytest.mark.parametrize("recipe", ["modular-dual", "modula"])
def test_targets_that_share_one_budget_keep_one_step_in_its_band(recipe: str) -> None:
    for width, layers in ((32, 2), (64, 8)):
        step = normc.check(seeded_gpt(width=width, layers=layers), tokens(), sharp=0, recipe=recipe).step
        assert step is not None
        assert step.shares
        assert step.jointly.promised == pytest.approx(1)
        assert 0.4 < step.jointly.budget < 1.75
        assert step.peak[1] < 2.5
        assert step.verdict.level == "ok"


def test_a_fault_at_init_is_marked_where_it_is_and_not_where_it_is_felt() -> None:
    """One standard deviation for all widths; the weights of `init_` have none of it."""
    widths = {width: mlp(width, deviation=0.1) for width in (64, 128, 256)}
    report = normc.check(mlp(), batch(), sharp=0, widths=widths)
    marked = [name for name, one in series(report, "widths").items() if one.verdict.level == "wrong"]
    assert marked == ["2", "3", "4", "output"]
    mended = normc.check(mlp(), batch(), sharp=0, widths=widths, init=True)
    assert [one.verdict.word for one in series(mended, "widths").values()].count("grows") == 0 and mended.ok


@pytest.mark.parametrize(("power", "expected"), [(0.5, 0.5), (1.0, 1.0), (0.0, 0.0)])
def test_powers_of_the_depth_are_what_they_are(power: float, expected: float) -> None:
    assert rising((2, 4, 8), [size**power for size in (2, 4, 8)]) == pytest.approx(expected)


def test_what_levels_off_is_flat() -> None:
    assert (found := rising((2, 4, 8), [1 - 1 / size for size in (2, 4, 8)])) is not None and found < 0.15


def test_between_flat_and_a_wrong_exponent_nothing_is_marked() -> None:
    assert judged("plain", "width", (0.0, 0.0, 0.35), (1.0,), None).level == "note"
    assert judged("plain", "width", (0.0, 0.0, 0.5), (1.0,), None).level == "wrong"
    assert judged("plain", "width", (0.35, 0.35, 0.9), (1.0,), None).level == "wrong"
    assert judged("plain", "width", (-0.35, -0.35, 0.0), (1.0,), None).level == "note"


def test_growth_within_the_targets_budget_is_a_note() -> None:
    verdicts = [judged("plain", "width", (0.0, 0.0, 0.5), (1.0,), None)]
    band = Verdict("note", "in band")
    assert [settled(verdicts, band, bounded)[0].level for bounded in (True, False)] == ["note", "wrong"]
    assert settled(verdicts, Verdict("wrong", "grows"), True)[0].level == "wrong"


@pytest.mark.parametrize("inside", [True, False])
def test_a_readout_that_a_number_of_its_width_follows_is_judged_by_the_output(inside: bool) -> None:
    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table, self.a = nn.Embedding(32, width), nn.Linear(width, width, bias=False)
            self.head, self.factor = nn.Linear(width, 8, bias=False), 64 / width
            nn.init.normal_(self.a.weight, std=width**-0.5)
            nn.init.zeros_(self.head.weight)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = nn.functional.gelu(self.a(nn.functional.rms_norm(self.table(ids), (self.table.embedding_dim,))))
            out: torch.Tensor = self.head(x * self.factor) if inside else self.head(x) * self.factor
            return out

    ids = torch.randint(32, (8, 16), generator=torch.Generator().manual_seed(0))
    widths = {width: (lambda width=width: (Net(width), ids)) for width in (64, 256, 1024)}
    options = {"base_width": 64.0}
    report = normc.check(Net(64), ids, recipe="mup-adam", options=options, lr=3e-3, steps=4, sharp=0, widths=widths)
    found = series(report, "widths")
    assert found["output"].verdict.level != "wrong"
    assert found["head"].verdict.level == ("note" if not inside else found["output"].verdict.level)
    assert (found["head"].verdict.word == "grows") is not inside
