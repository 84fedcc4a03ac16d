"""Measured gains are what finite differences, and whole Jacobians, say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, fx

from normc.passes.analyses.bind import Binding
from normc.passes.analyses.request import Request
from normc.recipe.by_name import recipes
from normc.tools.check.budget import at_budget
from normc.tools.check.probe import averages, sharpest
from normc.tools.check.subject import Subject, Watch, rms, subject_of
from tests.tools.check.models import Rectangle, seeded_gpt, tokens

REQUEST = Request(recipes["uscion"])


def node_of(subject: Subject, name: str) -> fx.Node:
    return subject.facts[Binding].contacts[name][-1].node


def moving(node: fx.Node, change: Tensor) -> Watch:
    return lambda at, value: value + change if at is node else value


def jacobian(subject: Subject, node: fx.Node) -> Tensor:
    """Of the outputs, each over the root of its size, against one node's value."""

    def outputs(change: Tensor) -> Tensor:
        found = subject.run(subject.initial, moving(node, change))
        return torch.cat([(out / math.sqrt(out.numel())).flatten() for out in found])

    zero = torch.zeros(tuple(node.meta["val"].shape))
    found: Tensor = torch.autograd.functional.jacobian(outputs, zero)
    return found.reshape(found.shape[0], -1)


@pytest.mark.parametrize("name", ["a.weight", "b.weight", "c.bias"])
def test_average_and_sharp_gains_are_those_of_the_jacobian(name: str) -> None:
    subject = subject_of(Rectangle(), torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), REQUEST)
    node = node_of(subject, name)
    matrix = jacobian(subject, node).double()

    average = averages(subject, subject.initial, probes=2000).gain[node]
    sharp = sharpest(subject, subject.initial, [node], iterations=60)[node]

    assert average == pytest.approx(float(matrix.norm()), rel=0.03)
    assert sharp is not None
    assert sharp == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)) * math.sqrt(matrix.shape[1]), rel=1e-3)
    assert average < sharp


def test_average_gain_is_the_change_for_a_random_change_of_rms_one() -> None:
    subject = subject_of(seeded_gpt(), tokens(), REQUEST)
    node = node_of(subject, "blocks.0.up.weight")
    generator = torch.Generator().manual_seed(5)
    before, squares = subject.run(subject.initial), []
    for _ in range(8):
        noise = 1e-2 * torch.randn(tuple(node.meta["val"].shape), generator=generator)
        after = subject.run(subject.initial, moving(node, noise))
        squares.append((rms([new - old for new, old in zip(after, before, strict=True)]) / 1e-2) ** 2)
    finite = math.sqrt(sum(squares) / len(squares))
    assert averages(subject, subject.initial, probes=8).gain[node] == pytest.approx(finite, rel=0.03)


def test_gains_of_a_gpt_at_the_budget_are_the_nominal_ones() -> None:
    subject = subject_of(seeded_gpt(layers=4), tokens(), REQUEST)
    probed = averages(subject, at_budget(subject), probes=4)
    for row in subject.plan.rows:
        if row.name != "wte.weight":  # used twice
            assert row.sensitivity is not None
            assert 0.7 < probed.gain[node_of(subject, row.name)] / row.sensitivity < 1.4, row.name


def test_the_budget_keeps_the_rms_of_every_product() -> None:
    subject = subject_of(seeded_gpt(layers=2), tokens(), REQUEST)
    weights = at_budget(subject)
    probed = averages(subject, weights, probes=1)
    for name in ("blocks.0.attn.c_attn.weight", "blocks.1.up.weight", "wte.weight"):
        contact = subject.facts[Binding].contacts[name][-1]
        assert contact.data is not None
        assert probed.rms[contact.node] == pytest.approx(probed.rms[contact.data], rel=0.1), name
    thirds = weights.of["blocks.0.attn.c_attn.weight"].chunk(3)
    for third in thirds:
        torch.testing.assert_close(third @ third.T, torch.eye(48), atol=1e-5, rtol=0)
    torch.testing.assert_close(weights.of["wpe.weight"].square().mean(1), torch.ones(16))
