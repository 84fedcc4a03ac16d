from __future__ import annotations

import io
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import normc.compiler
from normc.cli import main
from normc.errors import NormcError
from normc.plans.plan import NormPlan
from normc.tools.given import read_override
from tests.plans.sample import sample


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asked of the compiler, which answers with the sample."""
    seen: dict[str, Any] = {}

    def plan(model: Any, example_inputs: Any = None, **options: Any) -> NormPlan:
        seen.update(model=model, inputs=example_inputs, **options)
        return sample()

    monkeypatch.setattr(normc.compiler, "plan", plan)
    return seen


@pytest.fixture
def target(tmp_path: Path) -> str:
    path = tmp_path / "net.py"
    path.write_text("import torch\ndef build(width=3):\n    return torch.nn.Linear(width, 2), torch.ones(1, width)\n")
    return f"{path}:build"


@pytest.fixture
def saved(tmp_path: Path) -> str:
    path = tmp_path / "plan.json"
    path.write_text(sample().to_json())
    return str(path)


def test_plan_prints_the_table(asked: dict[str, Any], target: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", target, "--set", "width=5", "--recipe", "scion", "--option", "radius_hidden=2.0", "--strict"]
    assert main([*arguments, "--width", "120"]) == 0
    assert capsys.readouterr().out == sample().text(120) + "\n"
    assert (asked["recipe"], asked["options"], asked["strict"]) == ("scion", {"radius_hidden": 2.0}, True)
    assert asked["model"].in_features == 5
    assert tuple(asked["inputs"].shape) == (1, 5)
    text = "minimax:lower=1e-4,tolerance=0.1"  # an option's value may hold what separates names and values
    assert main(["plan", target, "--option", f"polynomial={text}", "--option", "muon.power=1/2"]) == 0
    assert asked["options"] == {"polynomial": text, "muon.power": "1/2"}


def test_the_frontend_is_passed_on_if_named(asked: dict[str, Any], target: str, saved: str) -> None:
    assert main(["plan", target]) == 0
    assert "frontend" not in asked
    assert main(["plan", target, "--frontend", "export"]) == 0
    assert asked["frontend"] == "export"
    assert main(["plan", saved, "--frontend", "export"]) == 2


def test_plan_saves_and_overrides(
    asked: dict[str, Any], target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.json"
    assert main(["plan", target, "--json", str(path), "--override", "h.*.attn.weight:norm=sign,scale=0.1"]) == 0
    wanted = sample().override("h.*.attn.weight", norm="sign", scale=0.1)
    assert NormPlan.from_json(path.read_text()) == wanted
    assert "recipe" not in asked
    assert "wrote" in capsys.readouterr().err


def test_plan_writes_json_alone_to_standard_output(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", saved, "--json", "-"]) == 0
    assert capsys.readouterr().out == sample().to_json()


def test_explain_shows_each_matching_row(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", saved, "--explain", "h.[01].attn.weight"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("because weights lie before it and after it") == 2
    assert "inferred" not in printed


def test_export_works_from_a_model_and_from_a_plan(
    asked: dict[str, Any], target: str, saved: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        import_module("normc.exporting"), "export", lambda *arguments, plain: calls.append((*arguments, plain))
    )
    output = str(tmp_path / "update.py")
    assert main(["export", target, "--target", "cuda:sm_90", "-o", output]) == 0
    assert main(["export", saved, "-o", output, "--without", "gram"]) == 0
    assert main(["export", saved, "-o", output, "--plain"]) == 0
    assert calls == [
        (sample(), output, "cuda:sm_90", [], False),
        (sample(), output, "cpu", ["gram"], False),
        (sample(), output, "cpu", [], True),
    ]


def test_recipes_lists_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    from normc.recipe.by_name import recipes

    assert main(["recipes", "--width", "120"]) == 0
    printed = capsys.readouterr().out
    for name in recipes:
        assert name in printed
        assert recipes[name].summary in printed


def test_diff_shows_what_differs(saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", saved, saved]) == 0
    assert sample().hash[:16] in capsys.readouterr().out
    other = tmp_path / "other.json"
    other.write_text(sample().override("wpe.weight", norm="rms").to_json())
    assert main(["diff", saved, str(other)]) == 1
    printed = capsys.readouterr().out
    assert "wpe.weight\n  norm: colnorm -> rms\n    a step has one length as a whole\n  scale: √out -> 1\n" in printed
    assert "1 of 21 rows differ" in printed
    assert main(["plan", "--diff", saved, str(other)]) == 1
    assert capsys.readouterr().out == printed
    assert main(["plan", saved, "--diff", saved]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "hf:gpt2", "--set", "n_layers=2"], "has no 'n_layers'"),
        (["plan", "torch.nn:Flatten"], "doesn't say what its forward takes"),
        (["plan", "missing.json"], "missing.json' can't be read"),
        (["plan", "SAVED", "--recipe", "muon"], "is a plan already"),
        (
            ["plan", "SAVED", "--strict"],
            r"2 of 21 parameters(?s:.*)mix\.weight: no rule(?s:.*)old\.weight: no",
        ),
        (["plan", "SAVED", "--explain", "h.9.*"], "no parameter of Sample matches"),
        (["plan", "SAVED", "--override", "norm=sign"], "is no override"),
        (["plan", "SAVED", "--width", "3"], "3 columns"),
        (["plan", "SAVED", "--json", "no/such/folder/plan.json"], "can't be written"),
        (["diff", "SAVED", "missing.json"], "missing.json' can't be read"),
    ],
)
def test_a_mistake_is_one_message_and_status_two(
    arguments: list[str], message: str, saved: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([saved if word == "SAVED" else word for word in arguments]) == 2
    printed = capsys.readouterr()
    assert re.search(message, printed.err)
    assert "fix: " in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMC_DEBUG", "1")
    with pytest.raises(NormcError):
        main(["plan", "nothing"])


def test_overrides_are_read() -> None:
    assert read_override("a:b.*:norm=sign,scale=0.5,mass=0") == ("a:b.*", {"norm": "sign", "scale": 0.5, "mass": 0.0})
    for wrong in ("x", "x:", ":norm=sign", "x:norm", "x:size=3", "x:norm=sign,norm=rms", "x:scale=big"):
        with pytest.raises(NormcError):
            read_override(wrong)


def test_a_reader_that_goes_away_is_no_error(saved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def fileno(self) -> int:
            return spare.fileno()

    with Path(saved).open() as spare:
        monkeypatch.setattr("sys.stdout", Gone())
        assert main(["plan", saved, "--json", "-"]) == 0
