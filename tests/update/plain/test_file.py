"""What a plain file is: short, clean by PEP 8, safe for any name, and whole without normc."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from normc.compiler import build
from normc.compiler import plan as plan_model
from normc.errors import NormcError
from normc.exporting import export, exported_plain
from normc.model.targets import load_target
from normc.plans.row import Block
from normc.recipe.by_name import recipes
from tests.conftest import Golden
from tests.door.hostile import NAMES
from tests.handmade import Small, draft, plan_of, small_rows
from tests.quick import others_slow
from tests.update.plain.test_steps import module_of

HOSTILE = (*NAMES, "{0} {1!r} %s", "x.*.0.7", "h.007", "h." + "9" * 40, '"""; import os; os.abort()')
SCRIPT = """
import sys, types
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "normc":
            raise ImportError("normc is not installed here")
sys.meta_path.insert(0, Block())
sys.path.insert(0, sys.argv[1])
import torch
import kept
start, gradients = torch.load(sys.argv[1] + "/data.pt", weights_only=True)
parameters = {name: torch.nn.Parameter(value) for name, value in start.items()}
opt = kept.Optimizer(parameters.items(), lr=0.01)
for step in gradients:
    for name, gradient in step.items():
        parameters[name].grad = gradient
    opt.step()
torch.save({name: value.detach() for name, value in parameters.items()}, sys.argv[1] + "/end.pt")
"""


def lint(text: str) -> list[str]:
    """What flake8 would say of a file that is written by us: names, widths, blanks."""
    tree = ast.parse(text)
    known = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    lines = text.splitlines()
    found = [f"unused {name}" for name in known - used]
    found += [f"line {i} of {len(line)}" for i, line in enumerate(lines, 1) if len(line) > 79]
    found += [f"line {i} ends with a blank" for i, line in enumerate(lines, 1) if line != line.rstrip()]
    for i, line in enumerate(lines):
        if line.startswith(("def ", "class ")) and lines[i - 2 : i] != ["", ""]:
            found.append(f"no two lines before {line}")
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    found += [f"{name} is never used" for name in defined if name not in used and name != "Optimizer"]
    return found


@pytest.mark.parametrize("recipe", others_slow(recipes, ("auto", "kl-soap", "muon", "muown", "scion")))
def test_files_are_clean(recipe: str) -> None:
    text = exported_plain(plan_of(small_rows(Small()), recipe))
    assert lint(text) == []
    if importlib.util.find_spec("ruff") is not None:
        asked = [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--select",
            "E,F,W,B,C4,PIE,I",
            "--ignore",
            "B905",
            "-",
        ]
        said = subprocess.run(asked, input=text, capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stdout


def test_a_file_runs_where_normc_is_not(tmp_path: Path) -> None:
    model = Small()
    plan = plan_of(small_rows(model), "auto")
    assert export(plan, tmp_path / "kept.py", plain=True) == tmp_path / "kept.py"
    text = (tmp_path / "kept.py").read_text()
    assert "import normc" not in text and "from normc" not in text
    start = {name: w.detach().clone() for name, w in model.named_parameters()}
    gradients = [{name: torch.randn(w.shape) for name, w in start.items()} for _ in range(3)]
    torch.save((start, gradients), tmp_path / "data.pt")
    said = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    slow = build(plan, model.named_parameters(), lr=0.01, backend="reference")
    for step in gradients:
        for name, w in model.named_parameters():
            w.grad = step[name]
        slow.step()
    ends = dict(model.named_parameters())
    for name, end in torch.load(tmp_path / "end.pt", weights_only=True).items():
        torch.testing.assert_close(end, ends[name].detach(), atol=1e-5, rtol=0)


def test_names_are_text_whatever_is_in_them() -> None:
    rows = [replace(draft(name, (4, 3), "hidden"), aliases=(f"alias of {name}",)) for name in HOSTILE]
    rows[0] = replace(rows[0], blocks=tuple(Block('"""\n*', 0, ((i, i + 1),)) for i in range(4)))
    plan = plan_of(rows, "muon", model='"""\nimport os  # \\')
    parameters = {f"alias of {name}": torch.nn.Parameter(torch.ones(4, 3)) for name in HOSTILE}
    opt = module_of(plan)["Optimizer"](parameters.items(), lr=0.1)
    assert [name for group in opt.param_groups for name in group["param_names"]] == list(HOSTILE)
    for w in parameters.values():
        w.grad = torch.eye(4, 3)
    opt.step()
    assert not any(torch.equal(w, torch.ones(4, 3)) for w in parameters.values())


def test_another_model_is_one_error() -> None:
    module = module_of(plan_of(small_rows(Small()), "scion"))
    named = dict(Small().named_parameters())
    named["embed.weight"] = torch.nn.Parameter(torch.ones(2, 2))
    del named["head.weight"]
    named["other"] = named["up.0.weight"]
    with pytest.raises(ValueError, match=r"'other' is unknown; 'embed.weight' has not .*; 'head.weight' is"):
        module["Optimizer"](named.items(), lr=0.1)


def test_what_a_plain_file_does_not_carry_is_refused(tmp_path: Path) -> None:
    plan = plan_of(small_rows(Small()), "auto")
    path = tmp_path / "kept.py"
    for options in ({"target": "cuda:sm_90"}, {"without": ["laws"]}, {"state_dtype": torch.bfloat16}):
        with pytest.raises(NormcError, match="plain file"):
            export(plan, path, plain=True, **options)
    narrow = build(plan, Small().named_parameters(), lr=0.1, state_dtype=torch.int8)
    with pytest.raises(NormcError, match="plain file"):
        export(narrow, path, plain=True)
    assert not path.exists()
    blocks = tuple(Block(f"head {i}", 0, ((2 * i, 2 * i + 2),)) for i in range(2))
    with pytest.raises(NormcError, match="logits"):
        exported_plain(plan_of([draft("q", (4, 3), "hidden", blocks=blocks)], "muon", qk_clip=10.0))


def test_an_optimizer_is_exported_by_its_plan(tmp_path: Path) -> None:
    model = Small()
    opt = build(plan_of(small_rows(model), "muon"), model.named_parameters(), lr=0.1, compile=False)
    assert export(opt, tmp_path / "kept.py", plain=True).read_text() == exported_plain(opt.plan)


def test_gpt2_takes_less_than_250_lines(golden: Golden) -> None:
    text = exported_plain(plan_model(load_target("hf:gpt2", {}).model))
    assert len(text.splitlines()) < 250
    assert lint(text) == []
    golden("plain/gpt2.py", text)


def test_many_layers_take_a_line_each_kind() -> None:
    rows = [
        draft(f"layers.{i}.experts.{j}.{kind}", (4, 3), "hidden", out_axes=(0,))
        for i in range(60)
        for j in range(8)
        for kind in ("up", "down")
    ]
    text = exported_plain(plan_of(rows, "scion"))
    assert '"layers.*.experts.*.up", (range(60), range(8)), (4, 3)' in text
    assert len(text.splitlines()) < 160
