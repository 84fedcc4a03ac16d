"""The public calls, on whole models: with and without example inputs, from a saved plan, with overrides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import normc
from tests.zoo.case import tokens
from tests.zoo.nano_gpt import NanoGPT


class Tree(nn.Module):
    """Says nothing of what it eats."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(96, 16), nn.Linear(16, 16), nn.Linear(16, 96)

    def forward(self, ids: Tensor, scale: float = 1.0) -> Tensor:
        """ids: [batch, time] -> logits [batch, time, 96]."""
        out: Tensor = self.head(self.mix(self.embed(ids)).relu() * scale)
        return out


def train(model: nn.Module, opt: torch.optim.Optimizer, steps: int) -> list[float]:
    """Losses of some steps on one batch."""
    losses = []
    ids = tokens()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("recipe", ["uscion", "scion", "muon"])
def test_one_call_trains_a_gpt(recipe: str) -> None:
    torch.manual_seed(0)
    model = NanoGPT()
    opt = normc.compile(model, tokens(), lr=2e-2, recipe=recipe, compile=False)
    losses = train(model, opt, 12)
    assert losses[-1] < losses[0] - 0.5
    names = {name for group in opt.param_groups for name in group["param_names"]}
    assert names == {name for name, _ in model.named_parameters()}


def test_a_model_that_says_nothing_is_planned_on_its_first_forward() -> None:
    torch.manual_seed(0)
    model = Tree()
    opt = normc.compile(model, lr=1e-2, compile=False)
    assert isinstance(opt, torch.optim.Optimizer)
    schedule = torch.optim.lr_scheduler.LinearLR(opt)
    with pytest.raises(normc.NormcError, match=r"before the plan is known[\s\S]*forward once"):
        opt.step()
    with pytest.raises(normc.NormcError, match="not known yet"):
        _ = opt.plan
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(tokens(), scale=0.5)
    assert opt.plan["head.weight"].role == "output"
    assert opt.plan["embed.weight"].role == "embedding"
    assert not model._forward_pre_hooks
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    groups = len(opt.param_groups)
    losses = train(model, opt, 6)
    schedule.step()
    assert losses[-1] < losses[0]
    assert len(opt.param_groups) == groups


def test_planned_early_and_planned_late_are_the_same_optimizer() -> None:
    torch.manual_seed(0)
    early, late = Tree(), Tree()
    late.load_state_dict(early.state_dict())
    ours = normc.compile(early, tokens(), lr=1e-2, compile=False)
    theirs = normc.compile(late, lr=1e-2, compile=False)
    assert train(early, ours, 4) == train(late, theirs, 4)
    assert ours.plan.hash == theirs.plan.hash


def test_a_batch_of_a_loader_is_an_example() -> None:
    loader = DataLoader(TensorDataset(tokens(8), tokens(8)), batch_size=2)
    assert normc.plan(Tree(), next(iter(loader))).hash == normc.plan(Tree(), tokens()).hash
    assert normc.plan(Tree(), loader).hash == normc.plan(Tree(), tokens()).hash


def test_a_saved_plan_needs_no_trace(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, same = NanoGPT(), NanoGPT()
    same.load_state_dict(model.state_dict())
    plan = normc.plan(model, tokens())
    (tmp_path / "plan.json").write_text(plan.to_json())
    loaded = normc.NormPlan.from_json((tmp_path / "plan.json").read_text())
    assert loaded == plan
    one = normc.compile(model, tokens(), lr=1e-2, compile=False)
    two = normc.compile(same, plan=loaded, lr=1e-2, compile=False)
    assert train(model, one, 3) == train(same, two, 3)


def test_overrides_reach_the_step() -> None:
    torch.manual_seed(0)
    model = Tree()
    changes: dict[str, dict[str, object]] = {"mix.weight": {"norm": "sign", "scale": 0.5}, "head.weight": {"mass": 0}}
    opt = normc.compile(model, tokens(), lr=0.1, overrides=changes, weight_decay=0.0, compile=False)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    train(model, opt, 1)
    assert torch.equal(model.head.weight, before["head.weight"])
    moved = (model.mix.weight - before["mix.weight"]).abs()
    torch.testing.assert_close(moved[moved > 0], torch.full_like(moved[moved > 0], 0.05))


def test_strict_names_every_row_that_is_lost_and_an_override_answers_it() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.head = nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(x * torch.linalg.eigvalsh(self.w) + torch.fft.rfft(x @ x.T, dim=0).abs().mean())
            return out

    x = torch.randn(8, 8)
    assert normc.plan(Strange(), x)["w"].fallback
    with pytest.raises(normc.NormcError, match=r"1 of 3 parameters[\s\S]*w: .*linalg"):
        normc.plan(Strange(), x, strict=True)
    plan = normc.plan(Strange(), x, strict=True, overrides={"w": {"norm": "spectral", "scale": 1.0}})
    assert plan["w"].norm == "spectral"


def test_a_model_without_inputs_says_what_to_pass() -> None:
    with pytest.raises(normc.NormcError, match="Tree doesn't say what its forward takes"):
        normc.plan(Tree())


def test_a_pass_prints_its_decisions_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NORMC_PRINT", "role")
    normc.plan(Tree(), tokens())
    printed = capsys.readouterr().err
    assert printed.startswith("-- role (")
    assert "head.weight\n  role  output   because its result reaches the model's output" in printed
    assert "layout" not in printed
    monkeypatch.setenv("NORMC_PRINT", "roles")
    with pytest.raises(normc.NormcError, match="no pass: roles"):
        normc.plan(Tree(), tokens())


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(normc.NormcError, match="did you mean 'muon'"):
        normc.plan(Tree(), tokens(), recipe="moun")


def test_an_index_on_meta_is_not_guessed_in_silence() -> None:
    class Typed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.types, self.head = nn.Embedding(96, 8), nn.Embedding(2, 8), nn.Linear(8, 3)
            self.register_buffer("kinds", torch.zeros(1, 8, dtype=torch.long))

        def forward(self, ids: Tensor) -> Tensor:
            out: Tensor = self.head(self.words(ids) + self.types(self.kinds))
            return out

    real = normc.plan(Typed(), tokens())
    assert (real["types.weight"].role, real.notes) == ("embedding", ())
    with torch.device("meta"):
        ghost = normc.plan(Typed(), tokens())
    assert [note for note in ghost.notes if "types.weight" in note and "could not be read" in note]


def test_the_plan_of_a_model_on_meta_is_that_of_the_model() -> None:
    with torch.device("meta"):
        ghost = NanoGPT()
    assert normc.plan(ghost, tokens()).hash == normc.plan(NanoGPT(), tokens()).hash
    assert all(parameter.is_meta for parameter in ghost.parameters())


def test_importing_normc_draws_no_random_number() -> None:
    code = (
        "import random, torch, normc; s = random.getstate(); normc.plan, normc.compile; assert random.getstate() == s"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
