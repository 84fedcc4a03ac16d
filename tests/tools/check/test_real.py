"""`normc check --real`: gains and the one step, of the weights that one true step leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.cli import main
from normc.compiler import build
from normc.errors import NormcError
from normc.passes.analyses.request import Request
from normc.recipe.by_name import recipes
from normc.tools.check.onestep import after_step
from normc.tools.check.subject import subject_of


class Classifier(nn.Module):
    """A projection that starts at zero lies between the first layer and the output; the loss comes with the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.head = nn.Linear(8, 32), nn.Linear(32, 32, bias=False), nn.Linear(32, 4)
        nn.init.zeros_(self.middle.weight)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.head(self.middle(self.first(x).relu()))
        return logits if labels is None else (nn.functional.cross_entropy(logits, labels), logits)


def made() -> tuple[Classifier, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = Classifier()
    return model, {"x": torch.randn(16, 8), "labels": torch.arange(16) % 4}


@pytest.mark.parametrize("recipe", ["auto", "muon", "adamw"])
def test_the_step_is_the_optimizers_own(recipe: str) -> None:
    model, inputs = made()
    subject = subject_of(model, inputs, Request(recipes[recipe]))
    found, lr = after_step(subject, None, 0.1)
    assert lr == 0.1
    opt = build(subject.plan, model.named_parameters(), lr=0.1, backend="cpu:fp32", compile=False)
    model(**inputs)[0].backward()
    opt.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found.initial.of[name], parameter.detach(), rtol=1e-5, atol=1e-6)


def test_what_starts_at_zero_is_no_more_in_the_way() -> None:
    model, inputs = made()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, then = (normc.check(model, inputs, sharp=0, real=real) for real in (False, True))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    gains = [{gain.name: gain.initial for gain in report.gains.of} for report in (first, then) if report.gains]
    assert gains[0]["first.weight"] == 0.0
    assert gains[1]["first.weight"] > 0.0
    assert any("one true step (lr 0.8)" in note for note in then.notes)
    assert not any("true step" in note for note in first.notes)


def test_without_a_loss_or_an_lr_it_says_so() -> None:
    model, inputs = made()
    with pytest.raises(NormcError, match=r"(?s)no loss.*fix: give check\(\) a loss"):
        normc.check(model, inputs["x"], real=True)
    report = normc.check(model, inputs["x"], sharp=0, real=0.5, loss=lambda out: out.square().mean())
    assert any("lr 0.5" in note for note in report.notes)
    for lr in (0.0, -1.0, float("nan")):
        with pytest.raises(NormcError, match="true step"):
            normc.check(model, inputs, real=lr)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "real.py"
    file.write_text(
        "import torch\nfrom tests.tools.check.test_real import made\n\ndef target():\n    return made()\n",
        encoding="utf-8",
    )
    assert main(["check", f"{file}:target", "--sharp", "0", "--width", "140", "--real"]) in (0, 1)
    assert "one true step (lr 0.8)" in capsys.readouterr().out
    assert main(["check", f"{file}:target", "--sharp", "0", "--width", "140", "--real", "0.25"]) in (0, 1)
    assert "one true step (lr 0.25)" in capsys.readouterr().out
