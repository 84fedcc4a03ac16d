"""What the examples compare by is fair: the same weights and batches for both, and losses that mean what they say."""

from __future__ import annotations

import dataclasses
import io

import torch
from rich.console import Console

from workloads.data import bible
from workloads.tasks import SmallResNet, gpt2_task
from workloads.training import Run, adamw, train


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
