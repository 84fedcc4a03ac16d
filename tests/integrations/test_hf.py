"""transformers' Trainer: the factory, what it says to older ones, and what is left frozen."""

from __future__ import annotations

from pathlib import Path

import pytest

import normc
from benchmarks.hosts.plain import Windows, task
from normc.integrations import hf

pytest.importorskip("accelerate")
pytest.importorskip("transformers")


def test_trainer_makes_the_optimizer_of_its_model(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    model = task().model()
    model.get_submodule("transformer.wpe").requires_grad_(False)
    given = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    opt = Trainer(
        model, given, train_dataset=Windows(1), optimizer_cls_and_kwargs=hf.optimizer(recipe="muon")
    ).create_optimizer()
    assert isinstance(opt, normc.Optimizer)
    assert opt.plan.recipe == "muon"
    assert opt.plan["transformer.wpe.weight"].frozen
    assert opt.param_groups[0]["lr"] == normc.compile(task().model(), recipe="muon").param_groups[0]["lr"]


def test_older_trainers_are_told() -> None:
    factory, options = hf.optimizer(lr=0.1)
    with pytest.raises(normc.NormcError, match=r"no model[^$]*fix: use transformers 5"):
        factory([{"params": []}], **options)


def test_optim_takes_no_name_that_isnt_its_own(tmp_path: Path) -> None:
    """When this fails, `optim="normc"` has become possible: offer it, and say so in docs/hosts.md."""
    from transformers import TrainingArguments

    with pytest.raises(ValueError, match="normc"):
        TrainingArguments(output_dir=str(tmp_path), optim="normc")
