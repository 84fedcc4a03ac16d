"""Exported updates: torch alone, the same code, the same bits."""

from __future__ import annotations

import builtins
import copy
import dis
import importlib.util
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType

import pytest
import torch

from normc.compiler import build
from normc.errors import NormcError
from normc.exporting import export
from tests.handmade import Small, plan_of, small_rows, train
from tests.optimizer.test_step import made, weights

# Blocks normc, takes 3 steps with each exported file, and prints the weights as hex. None needs torch's compiler.
SCRIPT = """
import importlib.util
import sys
from pathlib import Path

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "normc":
            raise ImportError("normc is not installed here")

sys.meta_path.insert(0, Block())
import torch

for folder in map(Path, sys.argv[1:]):
    spec = importlib.util.spec_from_file_location(folder.name.replace("-", "_"), folder / "update.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    model, gradients = torch.load(folder / "data.pt", weights_only=True)
    parameters = {name: torch.nn.Parameter(value) for name, value in model.items()}
    opt = module.Optimizer(parameters.items(), lr=0.01)
    for step in gradients:
        opt.zero_grad()
        for name, gradient in step.items():
            parameters[name].grad = gradient
        opt.step()
    print(torch.cat([p.detach().flatten() for p in parameters.values()]).numpy().tobytes().hex())
assert "torch._dynamo" not in sys.modules
"""


def imported(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("exported_update", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "exported_update", module)
    spec.loader.exec_module(module)
    return module


def test_exported_updates_are_bit_equal_without_normc(tmp_path: Path) -> None:
    ends = {}
    for recipe in ("scion", "muon", "modula", "modular-dual"):
        model, opt = made(recipe)
        folder = tmp_path / recipe
        folder.mkdir()
        export(opt, folder / "update.py")
        start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        generator = torch.Generator().manual_seed(3)
        gradients = [{name: torch.randn(w.shape, generator=generator) for name, w in start.items()} for _ in range(3)]
        torch.save((start, gradients), folder / "data.pt")
        for step in gradients:
            for name, parameter in model.named_parameters():
                parameter.grad = step[name].clone()
            opt.step()
        ends[str(folder)] = weights(model).numpy().tobytes().hex()
    result = subprocess.run([sys.executable, "-c", SCRIPT, *ends], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert dict(zip(ends, result.stdout.split(), strict=True)) == ends


def test_exported_body_is_what_runs_here_and_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, opt = made()
    path = export(opt, tmp_path / "update.py")
    text = path.read_text()
    assert opt.text.functions in text and opt.text.tables.rstrip() in text
    update, runtime = text.index("\ndef core_"), text.index("class UpdateOptimizer(")
    assert update < runtime < text.index("\nUPDATE = Update(")
    first = re.search(r"^(?:class|def|@).*", text, re.MULTILINE)
    assert first is not None and first[0] in opt.text.functions
    assert "import normc" not in text
    assert "from normc" not in text
    module = imported(path, monkeypatch)
    assert module.__doc__ is not None
    assert "up.*.weight x3, 32 x 16, fan-in on axis 1, hidden, spectral, scale 4.243" in module.__doc__


def test_exported_optimizer_checks_resumes_and_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, opt = made("muon")
    module = imported(export(opt, tmp_path / "update.py"), monkeypatch)
    train(model, [opt], 2)
    exported = module.Optimizer(model.named_parameters(), lr=1.0, compile=False)
    exported.load_state_dict(opt.state_dict())
    twin_model, twin = copy.deepcopy((model, exported))
    loaded_model, loaded = pickle.loads(pickle.dumps((model, exported)))
    for own, optimizer in ((model, opt), (twin_model, twin), (loaded_model, loaded)):
        train(own, [optimizer], 2, 2)
        assert torch.equal(weights(own), weights(model))
    with pytest.raises(RuntimeError, match="no parameter 'other'"):
        module.Optimizer([("other", torch.nn.Parameter(torch.ones(1)))], lr=0.1)
    with pytest.raises(RuntimeError, match="the plan says"):
        module.Optimizer(Small(width=8).named_parameters(), lr=0.1)


def test_export_from_a_plan_alone_for_a_device_that_is_not_here(tmp_path: Path) -> None:
    plan = plan_of(small_rows(Small()), "scion")
    text = export(plan, tmp_path / "update.py", target="cuda:sm_90").read_text()
    assert "for cuda:sm_90" in text
    assert "dtype=torch.float16" in text
    compile(text, "update.py", "exec")
    with pytest.raises(NormcError, match="no code"):
        export(plan, tmp_path / "update.py", target="reference")
    model = Small()
    reference = build(plan, model.named_parameters(), lr=0.1, backend="reference")
    assert "dtype=torch.float16" not in export(reference, tmp_path / "update.py", target="cpu:fp32").read_text()


def asked_for(code: CodeType) -> Iterator[str]:
    """Names that code looks up in its module, and all code in it."""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from asked_for(constant)


@pytest.mark.parametrize("target", ["cpu:fp32", "cpu:bf16", "cuda:sm_90"])
def test_an_exported_file_has_every_name_that_it_asks_for(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(plan_of(small_rows(Small()), "muon"), tmp_path / "update.py", target=target)
    module = imported(path, monkeypatch)
    names = set(asked_for(compile(path.read_text(), "update.py", "exec")))
    assert len(names) > 50
    assert sorted(name for name in names if not hasattr(module, name) and not hasattr(builtins, name)) == []
