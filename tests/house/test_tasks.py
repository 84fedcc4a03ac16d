"""What the examples compare by is fair: the same weights and batches for both, and losses that mean what they say."""

from __future__ import annotations

import dataclasses
import io

import pytest
import torch
from rich.console import Console
from torch import nn

from workloads.data import bible
from workloads.tasks import SmallResNet, gpt2_task
from workloads.training import Run, adamw, muon, train


def test_the_text_is_whole_and_its_ends_are_apart() -> None:
    split = bible()
    assert split.train.numel() + split.validation.numel() == 4_305_142
    assert bytes(split.train[:16].tolist()) == b"1:1 In the begin"
    assert bytes(split.validation[-5:].tolist()) == b"Amen."


def test_a_task_gives_the_same_weights_and_batches_every_time() -> None:
    first, second = gpt2_task(quick=True), gpt2_task(quick=True)
    for ours, theirs in zip(first.model().parameters(), second.model().parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(first.batch(3)["input_ids"], second.batch(3)["input_ids"])
    assert not torch.equal(first.batch(3)["input_ids"], first.batch(4)["input_ids"])


def test_training_is_repeatable_and_learns() -> None:
    task = dataclasses.replace(gpt2_task(quick=True), steps=8, every=4)
    runs = []
    for _ in range(2):
        model = task.model()
        runs.append(train(task, model, adamw(model, 1e-2), "AdamW", Console(file=io.StringIO()), warmup=0.2))
    assert runs[0].validation == runs[1].validation
    assert [step for step, _ in runs[0].validation] == [4, 8]
    assert runs[0].final < runs[0].validation[0][1] < 5.6


def test_steps_to_a_loss_count_the_first_time() -> None:
    run = Run("x", (), ((10, 3.0), (20, 2.0), (30, 1.0)), 1.0, 1.0, 1.0)
    assert run.reached(2.0) == 20
    assert run.reached(0.5) is None


def test_the_resnet_gives_ten_logits() -> None:
    assert SmallResNet(4)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_muon_has_the_matrices_between_activations_and_adamw_the_rest() -> None:
    model = gpt2_task(quick=True).model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    pair = muon(model, 1e-2)
    matrices, rest = ({names[id(p)] for group in opt.param_groups for p in group["params"]} for opt in pair)
    assert matrices == {name for name in names.values() if name.startswith("transformer.h.") and name.endswith("weight")
                        and ".ln_" not in name}  # fmt: skip
    assert matrices | rest == set(names.values())
    assert not matrices & rest
    untied = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    (first, second) = muon(untied, 1e-2)
    assert [len(opt.param_groups[0]["params"]) for opt in (first, second)] == [1, 1]
    with pytest.raises(ValueError, match="no matrices"):
        muon(SmallResNet(4), 1e-2)


def test_several_optimizers_are_stepped_and_scheduled_together() -> None:
    task = dataclasses.replace(gpt2_task(quick=True), steps=6, every=6)
    model = task.model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    pair = muon(model, 1e-2)
    run = train(task, model, pair, "Muon", Console(file=io.StringIO()), warmup=0.2)
    assert not [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert {group["lr"] for opt in pair for group in opt.param_groups} == {0.0}
    assert run.final < 5.6
