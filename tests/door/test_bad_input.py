"""Every public call with arguments of wrong types: one NormcError that names the argument and says what to give."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import normc
from normc import cbs
from normc.cli import main
from normc.errors import NormcError

torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
INPUT = torch.ones(2, 4)
PLAN = normc.plan(MODEL, INPUT, recipe="muon")
OPT = normc.compile(MODEL, plan=PLAN, lr=0.1, compile=False)


def compiled(**options: Any) -> Any:
    return normc.compile(MODEL, INPUT, **{"recipe": "muon", "compile": False, **options})


def checked(**options: Any) -> Any:
    return normc.check(MODEL, INPUT, **options)


def measured(**options: Any) -> Any:
    given: dict[str, Any] = {"train": len, "batches": (1, 2, 4), "target": 1.0, "lrs": (0.1,)}
    return cbs.measure(**{**given, **options})


def deferred(**options: Any) -> Any:
    return normc.compile(MODEL, **{"recipe": "muon", **options})


HUGE = 10**400
CALLS: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    *((call, {name: value}, name) for call in (compiled, deferred) for name, value in (
        ("recipe", None), ("recipe", 3), ("recipe", {"*": 1}), ("recipe", {1: "muon"}), ("options", 3),
        ("options", {1: 2}), ("tare", [1]), ("overrides", "x"), ("heads", "no"), ("strict", 1), ("without", None),
        ("compile", "no"), ("stochastic_rounding", torch.ones(2)), ("lr", torch.ones(2)), ("lr", HUGE),
        ("momentum", HUGE), ("momentum", torch.ones(2)), ("state_dtype", "bf16"), ("lr", float("nan")))),
    (compiled, {"tare": {"*": "1"}}, "the mass of"),
    (compiled, {"tare": {"*": HUGE}}, "a huge number"),
    (compiled, {"overrides": {"*": 3}}, "the override of"),
    (compiled, {"overrides": {"*": {"size": 3}}}, "no field 'size'"),
    (compiled, {"overrides": {"*": {"scale": [1]}}}, "the scale in the override"),
    (compiled, {"overrides": {"*": {"norm": 1}}}, "the name of a norm"),
    (compiled, {"backend": 3}, "target"),
    (compiled, {"frontend": ["export"]}, "frontend"),
    (compiled, {"plan": "plan.json"}, "plan is"),
    (lambda: normc.compile(OPT), {}, "model is"),  # type: ignore[arg-type]
    (lambda: normc.plan("gpt2", INPUT), {}, "model is"),  # type: ignore[arg-type]
    (lambda: normc.export("plan.json", "u.py"), {}, "source is"),  # type: ignore[arg-type]
    (lambda: normc.export(PLAN, None), {}, "path is"),  # type: ignore[arg-type]
    (lambda: normc.export(PLAN, ""), {}, "names no file"),
    (lambda: normc.export(PLAN, "a\0b"), {}, "can't be written"),
    (lambda: normc.export(OPT, "u.py", target=3), {}, "target is"),  # type: ignore[arg-type]
    (lambda: normc.save(PLAN, 3), {}, "path is"),  # type: ignore[arg-type]
    (lambda: normc.save(PLAN, "\ud800"), {}, "can't be written"),
    (lambda: normc.load(None), {}, "path is"),  # type: ignore[arg-type]
    (lambda: normc.load("x.json", MODEL), {}, "into is"),  # type: ignore[arg-type]
    (lambda: normc.init_(PLAN, PLAN), {}, "model is"),  # type: ignore[arg-type]
    (lambda: normc.init_(MODEL, MODEL), {}, "plan is"),  # type: ignore[arg-type]
    (lambda: normc.init_(MODEL, PLAN, seed="1"), {}, "seed is"),  # type: ignore[arg-type]
    (lambda: normc.lr_like_adamw(None, 0.1), {}, "plan is"),  # type: ignore[arg-type]
    (lambda: normc.lr_like_adamw(PLAN, "0.1"), {}, "lr is"),  # type: ignore[arg-type]
    (lambda: normc.lr_like_adamw(PLAN, 0.1, rms=HUGE), {}, "rms is"),
    (lambda: normc.schedule(OPT, HUGE), {}, "steps is"),
    (lambda: normc.schedule(OPT, 10, floor=HUGE), {}, "floor is"),
    (lambda: PLAN.override(None, norm="sign"), {}, "pattern is"),  # type: ignore[arg-type]
    (lambda: PLAN.at([1]), {}, "sizes is"),  # type: ignore[arg-type]
    (lambda: PLAN.at(d_model="8"), {}, "d_model is"),  # type: ignore[arg-type]
    (lambda: PLAN.formula(3), {}, "name of a row"),  # type: ignore[arg-type]
    (lambda: PLAN.diff(None), {}, "the other plan"),  # type: ignore[arg-type]
    (lambda: PLAN.text("wide"), {}, "width"),  # type: ignore[arg-type]
    (lambda: normc.NormPlan.from_json(b"{}"), {}, "the plan is"),  # type: ignore[arg-type]
    (lambda: OPT.adopt(None), {}, "plan is"),  # type: ignore[arg-type]
    (lambda: OPT.replan(None), {}, "model is"),  # type: ignore[arg-type]
    (lambda: OPT.step(3), {}, "closure"),  # type: ignore[arg-type]
    (checked, {"steps": "3"}, "steps is"),
    (checked, {"lr": None}, "lr is"),
    (checked, {"loss": 3}, "loss is"),
    (checked, {"init": 1}, "init is"),
    (lambda: normc.check(None), {}, "model is"),  # type: ignore[arg-type]
    (measured, {"train": 3}, "train is"),
    (measured, {"batches": 3}, "batches is"),
    (measured, {"batches": (1, 2, "4")}, "a batch size is"),
    (measured, {"lrs": ("x",)}, "one of lrs"),
    (measured, {"limit": None}, "limit is"),
    (measured, {"report": 3}, "report is"),
    (lambda: cbs.averaged(None, 0.9), {}, "model is"),  # type: ignore[arg-type]
    (lambda: cbs.fit(3, (1, 2, 3)), {}, "batch_sizes is"),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize(("call", "given", "named"), CALLS, ids=lambda value: str(value)[:24] if value else "")
def test_a_wrong_argument_is_named(call: Callable[..., Any], given: dict[str, Any], named: str) -> None:
    with pytest.raises(NormcError) as caught:
        call(**given)
    assert named in caught.value.problem
    assert caught.value.fix
    assert len(str(caught.value)) < 2000


BROKEN = {
    "at its import": (
        "raise RuntimeError('operator torchvision::nms does not exist')",
        "can't be imported: RuntimeError",
    ),
    "inside": ("import no_such_part", "can't be imported: ModuleNotFoundError: No module named 'no_such_part'"),
    "later": (
        "def __getattr__(name):\n    raise ImportError('torch 2.1 is needed')",
        "can't make hf:gpt2: ImportError",
    ),
}

COMMAND = ["plan", "hf:gpt2"]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_installation_is_one_error(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, message = BROKEN[broken]
    (tmp_path / "transformers.py").write_text(source)
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert main(COMMAND) == 2
    finally:
        sys.modules.pop("transformers", None)
    said = capsys.readouterr().err
    assert message in said
    assert "pip install --upgrade torch torchvision transformers" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("body", ["1 / 0", "{}['a']", "assert False", "raise OSError(2, 'gone')", "no_such_name"])
def test_a_factory_that_raises_is_one_error(tmp_path: Path, body: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(f"def build():\n    {body}\n")
    assert main(["plan", f"{tmp_path}/net.py:build"]) == 2
    said = capsys.readouterr().err
    assert "net.py:build raised: " in said
    assert "NORMC_DEBUG=1" in said


def state(**changes: Any) -> dict[str, Any]:
    found = OPT.state_dict()
    return {**found, "param_groups": [{**group, **changes} for group in found["param_groups"]]}


@pytest.mark.parametrize(
    "given",
    [
        {**OPT.state_dict(), "state": {0: 3}},
        {**OPT.state_dict(), "rows": {"0.weight": 3}},
        {**OPT.state_dict(), "held": {"0.weight": 3}},
        {**OPT.state_dict(), "options": {"a": []}},
        {**OPT.state_dict(), "param_groups": [3]},
        state(params=3), state(params=[{}]), state(param_names=[3] * 4), state(plan=3), state(lr=float("nan")),
        state(lr=HUGE), state(lr=torch.ones(2)),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_form_is_refused_before_it_is_read(given: dict[str, Any]) -> None:
    opt = normc.compile(MODEL, plan=PLAN, lr=0.1, compile=False)
    before = opt.state_dict()["param_groups"]
    with pytest.raises(NormcError, match="checkpoint"):
        opt.load_state_dict(given)
    assert opt.state_dict()["param_groups"] == before
