"""Decisions of how a device runs a step: made from the target alone, and equal to what the device would take."""

from __future__ import annotations

import math
import re

import pytest
import torch

import normc
from normc.pipeline import program_of, update_of
from normc.plans.plan import NormPlan
from normc.update.kernels import cost
from normc.update.program.build import build_of
from normc.update.program.program import Decision
from normc.update.runtime import fused as runtime
from tests.handmade import Small, draft, plan_of, small_rows

HOPPER = "cuda:sm_90"


def plan(n: int = 768, m: int = 3072, number: int = 12) -> NormPlan:
    rows = [draft(f"h.{i}.up", (m, n), "hidden") for i in range(number)]
    rows += [draft(f"h.{i}.o", (n, n), "hidden") for i in range(number)]
    return plan_of([*rows, draft("gain", (n,), "gain")], "muon", polynomial="polar-express", ns_steps=5)


def of(rule: str, plan: NormPlan, target: str = HOPPER, without: tuple[str, ...] = ()) -> list[Decision]:
    return [one for one in program_of(plan, build_of(target, without)).decisions if one.rule == rule]


def test_forms_are_shown_with_the_work_of_each() -> None:
    square, long = sorted(of("gram", plan()), key=lambda one: "3072" in one.what)
    assert "12 matrices 768x768 in float16: the standard form" in square.what and square.saving == ""
    assert "12 matrices 768x3072 in float16: the Gram form" in long.what
    share = cost.share_of(768, torch.float16, torch.device("cuda"), kernels=True)
    gram, standard = (12 * cost.work(768, 3072, form, share=share) / 1e9 for form in ("gram", "standard"))
    assert long.why == f"GFLOP of dense products, predicted: standard {standard:,.0f}, gram {gram:,.0f}"
    assert long.saving == f"{1 - gram / standard:.0%} of the products, predicted"
    assert all("the standard form" in one.what for one in of("gram", plan(), without=("gram",)))


def test_a_decision_is_what_the_device_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked on a GPU of the target, the cost model says the same as without one."""
    shapes = [(96, 96), (96, 400), (768, 768), (768, 3072), (1600, 1600), (4096, 14336)]
    for capability, target in (((9, 0), HOPPER), ((8, 0), "cuda:sm_80"), ((7, 0), "cuda:sm_70")):
        for module in ("cost", "products"):
            monkeypatch.setattr(
                f"normc.update.kernels.{module}.runs_kernels", lambda device, own=capability: own >= (8, 0)
            )
        for n, m in shapes:
            both = of("gram", plan(n, m, 2), target) + of("small", plan(n, m, 2), target)
            found = [one for one in both if f"{n}x{m}" in one.what]
            kind = cost.form(n, m, torch.float16, torch.device("cuda"))
            if target == "cuda:sm_70":
                assert found == []  # where steps stay on lists of tensors
                continue
            words = {"small": "", "gram": "the Gram form", "standard": "the standard form"}
            assert {one.rule for one in found} == {"small" if kind == "small" else "gram"}
            assert all(words[kind] in one.what for one in found)


def test_bytes_are_those_of_the_generated_kernels() -> None:
    wide, *_ = of("kernels", plan(), without=("dtypes",))
    narrow, *_ = of("kernels", plan())
    # Read g and m, write m and x; read x and w, write w. In 16 bits x is read and written once more, normalised.
    assert wide.saving.startswith("28 instead of at least 56 bytes")
    assert narrow.saving.startswith("28 instead of at least 56 bytes")
    assert next(one for one in of("kernels", plan()) if "adamw" in one.what).saving.startswith("28 instead of")


def test_launches_are_counted() -> None:
    """As many as a step makes: of generated kernels, and of products."""
    rows = plan(256, 1024, 2)
    (graph,) = of("graph", rows)
    source = update_of(rows, build_of(HOPPER)).text.body
    elementwise = len(re.findall(r"run\.launch\(|= unit_norm\(", source))
    products = sum(18 if "the Gram form" in one.what else 15 for one in of("gram", rows))
    assert graph.saving == f"1 launch by the host instead of at least {elementwise + products}, predicted"


def test_turns_and_lanes() -> None:
    (turns,) = of("turns", plan(1024, 1024, 12))
    assert turns.what.endswith("24 parameters in 2 turns")
    (turns,) = of("turns", plan(2048, 2048, 60))
    at_once = runtime.AT_ONCE // (12 * 2048**2)
    assert turns.what.endswith(f"120 parameters in {math.ceil(120 / at_once)} turns")
    assert of("turns", plan(2048, 2048, 8), without=("turns",)) == []
    assert of("lanes", plan(), without=("lanes",)) == []
    (lanes,) = of("lanes", plan(2048, 2048, 60))
    assert lanes.what.endswith(" in 3 streams")
    (lanes,) = of("lanes", plan(4096, 14336, 4))
    assert lanes.what.endswith(" in 2 streams")
    assert of("lanes", plan(12000, 14336, 2)) == []
    assert of("lanes", plan()) != []


@pytest.mark.parametrize("name", ["small", "symmetric", "fold", "kernels", "graph", "stack", "laws", "dtypes"])
def test_what_is_left_out_is_not_shown(name: str) -> None:
    sizes = (96, 96) if name == "small" else (768, 3072)
    assert of(name, plan(*sizes)) != []
    assert of(name, plan(*sizes), without=(name,)) == []


def test_a_cpu_shows_its_forms() -> None:
    assert any("the Gram form" in one.what for one in of("gram", plan(), "cpu:fp32"))
    assert of("symmetric", plan(), "cpu:fp32") != [] and of("fold", plan(), "cpu:fp32") != []
    assert of("gram", plan(16, 32), "cpu:fp32") == of("graph", plan(), "cpu:fp32") == []


def test_rewrites_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NORMC_PRINT", "graph,stack")
    update_of(plan_of(small_rows(Small()), "muon"), build_of(HOPPER))
    lines = capsys.readouterr().err.splitlines()
    assert {line.split()[0] for line in lines} == {"graph", "stack"}
    assert "predicted" in lines[-1]
    monkeypatch.setenv("NORMC_PRINT", "graphs")
    with pytest.raises(normc.NormcError, match="no pass: graphs"):
        update_of(plan_of(small_rows(Small()), "muon"), build_of(HOPPER))
