"""Rewrites left out by name: the same steps, in Triton's interpreter and on lists of tensors, and how one asks."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import normc
from normc.compiler import build
from normc.errors import NormcError
from normc.exporting import export
from normc.optimizer import Optimizer
from normc.pipeline import program_of
from normc.update.kernels import cost, normalise, tiles
from normc.update.program.build import build_of
from normc.update.program.module import load
from normc.update.program.switches import SWITCHABLE
from normc.update.runtime import faults
from normc.update.runtime import fused as runtime
from tests.handmade import Small, plan_of, small_rows, train
from tests.optimizer.test_export import imported
from tests.quick import others_slow
from tests.update.kernels.interpreting import interpret

HALF = "cuda:sm_90"
EVERY = tuple(name for name in SWITCHABLE)
ON_CPU = tuple(name for name, switch in SWITCHABLE.items() if "cpu" in switch.backends)


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels run on the CPU, but for those of matrices; turns are small; loaded modules come from no cache."""
    pytest.importorskip("triton")
    interpret(monkeypatch, normalise, faults)
    monkeypatch.setattr(cost, "LARGEST", 0)
    monkeypatch.setitem(cost.GRAM_FROM, "cpu", 8)
    monkeypatch.setattr(runtime, "AT_ONCE", 1000)
    load.cache_clear()
    yield
    load.cache_clear()


def trained(recipe: str, target: str, without: tuple[str, ...], steps: int = 3) -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(0)
    model = Small()
    plan = plan_of(small_rows(model), recipe)
    opt = build(plan, model.named_parameters(), lr=5e-3, backend=target, compile=False, without=without)
    train(model, [opt], steps)
    return model, opt


@functools.cache
def whole(recipe: str) -> tuple[nn.Module, Optimizer]:
    """Trained with all rewrites, as `interpreter` has it."""
    return trained(recipe, HALF, (), 2)


def apart(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("name", others_slow([*EVERY, "all"], ("stack", "fuse", "gram", "all")))
@pytest.mark.parametrize("recipe", ["muon", pytest.param("modular-dual", marks=pytest.mark.slow)])
def test_steps_without_a_rewrite_are_the_same_in_kernels(interpreter: None, recipe: str, name: str) -> None:
    without = EVERY if name == "all" else (name,)
    full, _ = whole(recipe)
    other, opt = trained(recipe, HALF, without, 2)
    assert apart(full, other) < 2e-3  # bf16 in, fp16 within
    assert opt.update.without == without
    assert all((bucket.fused is None) == ("kernels" in without) for bucket in opt.update.buckets)


@pytest.mark.parametrize("name", [*ON_CPU, "all"])
def test_steps_without_a_rewrite_are_the_same_on_lists(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for table, from_n in ((cost.GRAM_FROM, 8), (tiles.SYMMETRIC_FROM, 8)):
        monkeypatch.setitem(table, "cpu", from_n)
    monkeypatch.setattr(tiles, "CPU_BLOCK", 8)
    without = ON_CPU if name == "all" else (name,)
    full, _ = trained("muon", "cpu:fp32", ())
    other, _ = trained("muon", "cpu:fp32", without)
    assert apart(full, other) < 1e-5


def test_generated_code_says_what_was_left_out() -> None:
    plan = plan_of(small_rows(Small()), "muon")
    named = list(Small().named_parameters())
    full = build(plan, named, lr=1.0, backend=HALF)
    assert "without" not in full.source
    less = build(plan, named, lr=1.0, backend=HALF, without=("graph", "gram"))
    assert less.build.without == ("gram", "graph")  # in the table's order
    assert 'dtype=torch.float16, without=("gram",)' in less.source
    assert '    without=("gram", "graph"),\n' in less.source
    assert "splits=True" in less.source
    assert "splits=True" not in build(plan, named, lr=1.0, backend=HALF, without=["turns"]).source
    assert "@jit" not in build(plan, named, lr=1.0, backend=HALF, without=["kernels"]).source
    assert "dtype=torch.float16" not in build(plan, named, lr=1.0, backend=HALF, without=["dtypes"]).source


def test_what_is_not_stacked_and_not_batched() -> None:
    plan = plan_of(small_rows(Small()), "muon")
    apart, alone = (program_of(plan, build_of(HALF, names)) for names in (["stack"], ["stack", "batch"]))
    assert all(len(chain.rows) == 1 for chain in apart.chains)
    assert len(apart.families) < len(alone.families) == len(alone.chains)


def test_names_are_checked() -> None:
    model = nn.Linear(4, 3)
    with pytest.raises(NormcError, match=r"no rewrite 'grm' to leave out(.|\n)*gram +Newton-Schulz on X X"):
        normc.compile(model, torch.zeros(2, 4), lr=1.0, without=("grm",))
    with pytest.raises(NormcError, match=r"the backend cpu has no rewrite 'graph'(.|\n)*it has: laws, stack"):
        normc.compile(model, torch.zeros(2, 4), lr=1.0, without=("graph",))
    with pytest.raises(NormcError, match=r"reference has no rewrite 'laws'(.|\n)*it has: none"):
        normc.compile(model, torch.zeros(2, 4), lr=1.0, backend="reference", without="laws")
    with pytest.raises(NormcError, match="no rewrite"):
        normc.compile(model, lr=1.0, without=("nothing",))


def test_pickles_and_checkpoints_keep_it() -> None:
    model, opt = trained("muon", "cpu:fp32", ("gram", "batch"), 1)
    again = pickle.loads(pickle.dumps(opt))
    assert again.build.without == again.update.without == ("batch", "gram")
    other, fresh = trained("muon", "cpu:fp32", ("gram", "batch"), 0)
    other.load_state_dict(model.state_dict())
    fresh.load_state_dict(copy.deepcopy(opt.state_dict()))
    train(model, [opt], 2, 1)
    train(other, [fresh], 2, 1)
    assert apart(model, other) == 0.0
    assert fresh.update.without == ("batch", "gram")


def test_a_deferred_optimizer_keeps_it() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    opt = normc.compile(model, lr=1.0, without=["laws"])
    model(torch.zeros(2, 4))
    assert opt.update.without == ("laws",)


def test_exported_files_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, opt = trained("muon", "cpu:fp32", ("batch",), 0)
    copied = copy.deepcopy(model)
    module = imported(export(opt, tmp_path / "update.py"), monkeypatch)
    assert module.UPDATE.without == ("batch",)
    train(model, [opt], 2)
    train(copied, [module.Optimizer(copied.named_parameters(), lr=5e-3, compile=False)], 2)
    assert apart(model, copied) == 0.0
    for target, without, kept in (
        (None, (), ()),
        (HALF, None, ("batch",)),
        (HALF, ("graph",), ("graph",)),
    ):
        assert imported(export(opt, tmp_path / "other.py", target, without), monkeypatch).UPDATE.without == kept


def test_the_table_of_names_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "performance.md").read_text()
    for name, switch in SWITCHABLE.items():
        assert f"| `{name}` | {switch.what} | {', '.join(switch.backends)} |" in page
