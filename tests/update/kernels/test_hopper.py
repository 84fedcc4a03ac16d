"""Symmetric products of quack-kernels: where they are taken, what they are given, and what becomes of failures.

A stand-in computes with torch here; the real ones are compared with float64 where there are a Hopper and the package.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from normc.exporting import export
from normc.pipeline import program_of
from normc.update.kernels import cost, hopper, products
from normc.update.kernels.hopper import by_quack, quack_missing
from normc.update.kernels.polar import polar_gram, polar_standard
from normc.update.kernels.products import hopper_pays, product
from normc.update.kernels.tiles import HOPPER_FROM
from normc.update.program.build import build_of
from tests.passes.rewrites.test_kernels import of, plan
from tests.update.kernels.spectra import EXPRESS, error, reference, spectrum

CUDA = torch.device("cuda")
HALF = torch.float16
SM90 = (9, 0)


@dataclass
class Quack:
    """Stands for gemm_symmetric: computes in float32, rounds once, and knows how it was called."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    failure: Exception | None = None
    factor: float = 1.0

    def __call__(self, a: Tensor, b: Tensor, C: Tensor | None, out: Tensor, alpha: float, beta: float) -> Tensor:
        assert a.dtype == b.dtype == out.dtype and isinstance(alpha, float) and isinstance(beta, float)
        assert out.shape == (a.shape[0], a.shape[1], b.shape[2]) and (C is None or C.shape == out.shape)
        if self.failure is not None:
            raise self.failure
        self.calls.append({"a": a, "b": b, "C": C, "out": out, "alpha": alpha, "beta": beta})
        value = self.factor * alpha * (a.float() @ b.float())
        lower = (value if C is None else value + beta * C.float()).tril()
        return out.copy_(lower + lower.tril(-1).mT)


@pytest.fixture
def quack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Quack]:
    """Installed, not yet looked at."""
    standing = Quack()
    module, package = ModuleType("quack.gemm_interface"), ModuleType("quack")
    vars(module)["gemm_symmetric"] = standing
    monkeypatch.setitem(sys.modules, "quack", package)
    monkeypatch.setitem(sys.modules, "quack.gemm_interface", module)
    installed(monkeypatch, "0.5.0")
    yield standing
    hopper._quack_installed.cache_clear()


def installed(patches: pytest.MonkeyPatch, found: str | None, module: Any = hopper) -> None:
    """Of which version quack-kernels is; None for not at all."""

    def version(name: str) -> str:
        assert name == "quack-kernels"
        if found is None:
            raise PackageNotFoundError(name)
        return found

    patches.setattr(module, "version", version)
    patches.setattr(module, "_QUACK", {})
    module._quack_installed.cache_clear()


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """All products count as large symmetric ones on a Hopper."""
    monkeypatch.setattr(products, "symmetric_pays", lambda *args: True)
    monkeypatch.setattr(products, "hopper_pays", lambda n, dtype, device, without: "hopper" not in without)
    monkeypatch.setattr(products, "MIRRORED_FROM", 0)


def halves(n: int, k: int, seed: int = 0) -> Tensor:
    return torch.randn(2, n, k, generator=torch.Generator().manual_seed(seed)).div(k**0.5).half()


def empty(n: int) -> Tensor:
    return torch.full((2, n, n), float("nan"), dtype=HALF)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.25, -2.0)])
@pytest.mark.parametrize("adds", [False, True])
def test_what_quack_is_given(quack: Quack, alpha: float, beta: float, adds: bool) -> None:
    x, out = halves(40, 64), empty(40)
    add = halves(40, 40) if adds else None
    add = (add + add.mT) if add is not None else None
    assert by_quack(x, x.mT, out, add, alpha, beta)
    first, call = quack.calls  # the first looks whether a product comes out right
    assert first["a"].shape[1] % 256 != 0 and first["out"].dtype == HALF
    assert call["a"] is x and call["C"] is add and call["out"] is out
    assert torch.equal(call["b"], x.mT)
    # A scale of exactly one would have it compile another kernel; in float32 it is one.
    assert call["alpha"] != 1.0 and torch.tensor(call["alpha"], dtype=torch.float32) == alpha
    assert torch.tensor(call["beta"], dtype=torch.float32) == (beta if adds else 1.0)
    expected = alpha * (x.double() @ x.double().mT) + (beta * add.double() if add is not None else 0.0)
    assert error(out, expected) < 5e-4
    assert by_quack(x, x.mT, out, add, alpha, beta)
    assert len(quack.calls) == 3


def test_columns_are_taken_as_well_as_rows(quack: Quack) -> None:
    x = halves(64, 40).mT
    assert by_quack(x, x.mT, out := empty(40), None, 1.0, 1.0)
    assert error(out, x.double() @ x.double().mT) < 5e-4


def test_what_quack_does_not_take(quack: Quack) -> None:
    x, out = halves(40, 64), empty(40)
    odd, shifted = halves(41, 64), halves(40, 72)[:, :, 4:68]
    both = torch.empty(2 * 40 * 40 + 8, dtype=HALF)
    unaligned = both[4 : 4 + 2 * 40 * 40].view(2, 40, 40)
    spread = halves(40, 128)[:, :, ::2]
    one = halves(40, 64)[:1].expand(2, 40, 64)
    for a, goal, add in (
        (odd, empty(41), None),  # a side of 82 bytes
        (x[:, :, :60], out, None),
        (shifted, out, None),  # an address of 8 bytes past 16
        (x, unaligned, None),
        (x, out, unaligned),
        (spread, out, None),  # neither rows nor columns
        (one, out, None),
        (x, out, out),  # written while it is read
        (x.float(), out.float(), None),
        (x, out.float(), None),
        (x, out, out.bfloat16()),
        (x[:0], out[:0], None),
        (x[:, :, :0], out, None),
    ):
        assert not by_quack(a, a.mT, goal, add, 1.0, 1.0), (a.shape, a.stride(), goal.dtype)
    assert quack.calls == [] and bool(out.isnan().all())
    assert by_quack(x.bfloat16(), x.bfloat16().mT, out.bfloat16(), None, 1.0, 1.0)


def test_it_is_taken_where_it_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [SM90]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked[-1])
    assert hopper_pays(HOPPER_FROM, HALF, CUDA) and hopper_pays(14336, torch.bfloat16, CUDA)
    assert not hopper_pays(HOPPER_FROM - 8, HALF, CUDA)
    assert not hopper_pays(HOPPER_FROM, torch.float32, CUDA)
    assert not hopper_pays(HOPPER_FROM, HALF, torch.device("cpu"))
    assert not hopper_pays(HOPPER_FROM, HALF, CUDA, ("gram", "hopper"))
    for other in ((8, 0), (8, 9), (10, 0)):
        asked.append(other)
        assert not hopper_pays(HOPPER_FROM, HALF, CUDA)
        assert hopper_pays(HOPPER_FROM, HALF, CUDA, capability=SM90)


def test_products_without_a_diagonal_are_its_own(quack: Quack, everywhere: None) -> None:
    gram, out = halves(40, 40), empty(40)
    gram = gram @ gram.mT
    assert product(gram, gram, out, add=gram, alpha=0.5, beta=2.0) is out
    assert len(quack.calls) == 2 and quack.calls[1]["b"] is gram
    assert error(out, 0.5 * gram.double() @ gram.double() + 2.0 * gram.double()) < 5e-4
    own = product(gram, gram, empty(40), add=gram, alpha=0.5, beta=2.0, gamma=3.0)
    assert len(quack.calls) == 2
    assert error(own, out.double() + 3.0 * torch.eye(40)) < 2e-3
    product(gram, gram, out, without=("hopper",))
    assert len(quack.calls) == 2


@pytest.mark.parametrize("without", [(), ("fold",)])
@pytest.mark.parametrize("form", ["gram", "standard"])
def test_forms_through_it(quack: Quack, everywhere: None, form: Any, without: tuple[str, ...]) -> None:
    """Right, and as many operations as the cost model says."""
    run = {"gram": polar_gram, "standard": polar_standard}[form]
    x = spectrum("gaussian", 64, 128).float()
    assert error(run(x, EXPRESS, dtype=HALF, without=without), reference(x)) < 0.02
    done = sum(2 * call["a"].shape[1] ** 2 * call["a"].shape[2] for call in quack.calls[1:])
    folded = ("fold" not in without and form == "gram") or products.folds(64, HALF, CUDA, without, True)
    part = cost.plain_part(64, 128, form, 5, 2, 0.5, folded)
    assert part * cost.work(64, 128, form, 5, 2, 0.5) == pytest.approx(0.5 * done)


@pytest.mark.parametrize(
    ("found", "reason"),
    [(None, "quack-kernels isn't installed"), ("0.4.9", "quack-kernels 0.4.9 is older than 0.5"), ("dev", "older")],
)
def test_not_there(quack: Quack, monkeypatch: pytest.MonkeyPatch, found: str | None, reason: str) -> None:
    installed(monkeypatch, found)
    x = halves(40, 64)
    with warnings.catch_warnings(action="error"):
        assert not by_quack(x, x.mT, empty(40), None, 1.0, 1.0)
    assert reason in quack_missing() and quack.calls == []
    for newer in ("0.5.0", "0.10.0rc1", "1.0"):
        installed(monkeypatch, newer)
        assert by_quack(x, x.mT, empty(40), None, 1.0, 1.0) and quack_missing() == ""


@pytest.mark.parametrize("kind", ["import", "compile", "wrong"])
def test_a_failure_is_warned_of_once(
    quack: Quack, everywhere: None, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "import":
        monkeypatch.setitem(sys.modules, "quack.gemm_interface", None)
    elif kind == "compile":
        quack.failure = RuntimeError("no assembler\nfor this architecture")
    else:
        quack.factor = 1.01
    reason = {"import": "quack.gemm_interface", "compile": "no assembler", "wrong": "comes out wrong"}[kind]
    x = halves(40, 64)
    with pytest.warns(UserWarning, match=f"quack-kernels is left out on cpu: .*{reason}"):
        found = product(x, x.mT, empty(40))
    assert error(found, x.double() @ x.double().mT) < 2e-3
    assert reason in quack_missing() and "architecture" not in quack_missing()
    with warnings.catch_warnings(action="error"):
        assert not by_quack(x, x.mT, empty(40), None, 1.0, 1.0)


def test_a_graph_is_not_captured_of_a_first_look(quack: Quack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(hopper, "_quack_takes", lambda *args: True)

    class There:
        """Tensors on a GPU."""

        device = CUDA

    assert not by_quack(There(), There(), There(), None, 1.0, 1.0)  # type: ignore[arg-type]  # has all that is asked
    assert hopper._QUACK == {} and quack.calls == []
    monkeypatch.setitem(hopper._QUACK, CUDA, (lambda *args, **kept: None, ""))
    assert by_quack(There(), There(), There(), None, 1.0, 1.0)  # type: ignore[arg-type]


def test_exported_files_take_it_too(quack: Quack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = export(plan(4096, 4096, 2), tmp_path / "update.py", target="cuda:sm_90")
    spec = spec_from_file_location("update_of_hopper", file)
    assert spec is not None and spec.loader is not None
    update = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, update)
    spec.loader.exec_module(update)
    for name in ("symmetric_pays", "hopper_pays"):
        monkeypatch.setattr(update, name, lambda *args: True)
    x, out = halves(40, 64), empty(40)
    installed(monkeypatch, None, update)
    assert update.quack_missing() == "quack-kernels isn't installed"
    assert not update.by_quack(x, x.mT, out, None, 1.0, 1.0)
    installed(monkeypatch, "0.5.0", update)
    assert update.product(x, x.mT, out) is out
    assert len(quack.calls) == 2


def test_decisions_say_whose_products_they_are(quack: Quack, monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = plan(4096, 14336, 2), plan(768, 3072, 2)
    for one in of("hopper", large):
        assert "symmetric products of quack-kernels" in one.what
        assert one.why == "if quack-kernels is installed on cuda:sm_90; here it is"
    long = next(one for one in of("hopper", large) if "4096x14336" in one.what)
    share = cost.share_of(4096, HALF, CUDA, kernels=True)
    part = cost.plain_part(4096, 14336, "gram", 5, 2, share, True)
    assert long.what.endswith(f"{part:.0%} of all")
    assert long.saving == f"at least {0.04 * part:.1%} of the products, predicted" and 0.0 < 0.04 * part < 0.04
    assert {one.why for one in of("hopper", small)} == {"a side under 4096"}
    assert {one.why for one in of("hopper", large, "cuda:sm_100")} == {"cuda:sm_100 isn't cuda:sm_90"}
    assert {one.saving for one in (*of("hopper", small), *of("hopper", large, "cuda:sm_80"))} == {""}
    for left in ("hopper", "symmetric"):
        assert of("hopper", large, without=(left,)) == []
    assert of("hopper", large, "cpu:fp32") == []
    installed(monkeypatch, None)
    assert all(one.why.endswith("here quack-kernels isn't installed") for one in of("hopper", large))
    assert program_of(large, build_of("cuda:sm_90")).decisions != ()


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != SM90 or bool(quack_missing()),
    reason="needs a Hopper and quack-kernels",
)
@pytest.mark.parametrize("dtype", [HALF, torch.bfloat16])
@pytest.mark.parametrize(("n", "k"), [(2048, 2048), (1032, 3000), (264, 264), (4104, 4104)])
def test_on_a_gpu(n: int, k: int, dtype: torch.dtype) -> None:
    torch.manual_seed(n)
    x, d = (torch.randn(2, n, k, device="cuda") / k**0.5).to(dtype), torch.randn(2, n, n, device="cuda")
    d = (d + d.mT).to(dtype)
    for y in (x, x.mT.contiguous().mT):
        out = torch.full((2, n, n), float("nan"), device="cuda", dtype=dtype)
        assert by_quack(y, y.mT, out, d, 0.5, 2.0)
        assert error(out, 0.5 * (x.double() @ x.double().mT) + 2.0 * d.double()) < torch.finfo(dtype).eps
        graph, first = torch.cuda.CUDAGraph(), out.clone()
        with torch.cuda.graph(graph):
            assert by_quack(y, y.mT, out, d, 0.5, 2.0)
        out.zero_()
        graph.replay()
        assert torch.equal(out, first)
