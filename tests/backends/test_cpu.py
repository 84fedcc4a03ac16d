"""The CPU backend: what Newton-Schulz runs in, its form by the sizes of matrices, and turns of large stacks."""

from __future__ import annotations

import copy
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from normc.backends.backend import backends
from normc.backends.cpu import fast_bf16, target
from normc.compiler import build
from normc.exporting import export
from normc.optimizer import Optimizer
from normc.pipeline import update_of
from normc.update.kernels.cost import form, pays
from normc.update.kernels.newton_schulz import newton_schulz
from normc.update.ops.matrices import polar
from normc.update.program.build import build_of
from tests.handmade import Small, draft, plan_of, small_rows, train
from tests.update.kernels.spectra import EXPRESS, SPECTRA, error, reference, share, spectrum

CPU = torch.device("cpu")
SHAPES = {"a": (64, 256), "b": (64, 256), "c": (400, 400), "d": (16, 32)}


def stepped(target: str, steps: int = 2) -> tuple[Optimizer, dict[str, torch.nn.Parameter]]:
    """Some steps of matrices with an unequal spectrum."""
    plan = plan_of([draft(name, shape, "hidden") for name, shape in SHAPES.items()])
    weights = {name: torch.nn.Parameter(torch.zeros(shape)) for name, shape in SHAPES.items()}
    opt = build(plan, weights.items(), lr=0.1, backend=target, compile=False)
    for step in range(steps):
        for place, weight in enumerate(weights.values()):
            rows, columns = weight.shape
            weight.grad = spectrum("inverse", rows, columns, 1, 10 * step + place)[0].float()
        opt.step()
    return opt, weights


@pytest.mark.parametrize(
    ("has", "fast"),
    [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx512_f": True}, False), ({}, False)],
)
def test_bf16_where_the_instruction_set_multiplies_it(
    has: dict[str, bool], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normc.backends.cpu.fast_bf16", fast_bf16)  # the tests' own setting is float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert target("cpu") == ("cpu:bf16" if fast else "cpu")
    assert target("cpu:fp32") == "cpu:fp32"
    opt, weights = stepped("cpu")
    assert ("dtype=torch.bfloat16" in opt.source) is fast
    _, plain = stepped("reference")
    for name, weight in weights.items():
        assert error(weight.detach(), plain[name].detach().double()) < (0.05 if fast else 3e-5)


def test_the_form_goes_by_the_sizes() -> None:
    opt, _ = stepped("cpu:fp32", 0)
    assert opt.source.count(" = newton_schulz(") == 3 and " = polar(" not in opt.source
    assert form(64, 256, torch.float32, CPU) == "gram" and form(400, 400, torch.float32, CPU) == "standard"
    assert not pays(128, 128, torch.float32, CPU)
    assert not pays(512, 2048, torch.bfloat16, CPU)
    assert form(16, 512, torch.float32, CPU) == "standard"


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize(("n", "m"), [(400, 400), (512, 768), (256, 1024), (64, 512)])
def test_forms_are_nearly_as_exact_as_the_plain_products(n: int, m: int, kind: str) -> None:
    x = spectrum(kind, n, m, 1)
    expected = reference(x)
    plain, found = polar(x.float(), EXPRESS), newton_schulz(x.float(), EXPRESS)
    assert error(found, expected) < max(3 * error(plain, expected), 3e-5)
    assert share(found) >= min(share(expected), share(plain)) - 1e-9


def test_turns_are_as_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    whole = Small()
    turns = copy.deepcopy(whole)
    rows = small_rows(whole)
    train(whole, [build(plan_of(rows), whole.named_parameters(), lr=5e-3, compile=False)], 3)
    small = replace(backends["cpu"], at_once=2 * 16 * 32)
    monkeypatch.setitem(backends._parts, "cpu", small)
    opt = build(plan_of(rows), turns.named_parameters(), lr=5e-3, compile=False)
    assert [len(bucket.names) for bucket in opt.update.buckets if "spectral" in bucket.name] == [2, 1, 2, 1]
    train(turns, [opt], 3)
    for one, other in zip(whole.parameters(), turns.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_an_export_carries_the_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opt, weights = stepped("cpu:fp32")
    file = export(opt, tmp_path / "update.py")
    spec = importlib.util.spec_from_file_location("exported_for_cpu", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "exported_for_cpu", module)
    spec.loader.exec_module(module)
    assert "normc.update.kernels" not in file.read_text()
    copies = {name: torch.nn.Parameter(torch.zeros(shape)) for name, shape in SHAPES.items()}
    again = module.Optimizer(copies.items(), lr=0.1, compile=False)
    for step in range(2):
        for place, weight in enumerate(copies.values()):
            rows, columns = weight.shape
            weight.grad = spectrum("inverse", rows, columns, 1, 10 * step + place)[0].float()
        again.step()
    for name, weight in copies.items():
        assert torch.equal(weight, weights[name])
    assert "newton_schulz(" not in update_of(plan_of([draft("d", (16,), "bias")]), build_of("cpu:fp32")).text.body
