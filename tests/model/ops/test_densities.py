"""Scales of densities: what a curve bends on its way to a distance is a state, the means are a matrix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn import functional as F

import normc

Form = Callable[[Tensor, Tensor, Tensor], Tensor]


class Mixture(nn.Module):
    """How well each of five components, with a mean and a scale for every feature, explains a sample."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.stem, self.form = nn.Linear(10, 8), form
        self.mean, self.scale = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self.stem(x)[:, None], self.mean, self.scale).softmax(-1)


FORMS: dict[str, Form] = {
    "precision": lambda z, m, s: (((z - m) ** 2) * torch.exp(-s)).sum(-1),
    "variance": lambda z, m, s: (((z - m) ** 2) / s.exp()).sum(-1),
    "variance by softplus": lambda z, m, s: ((z - m).square() / (F.softplus(s) + 1e-3)).sum(-1),
    "deviation": lambda z, m, s: (((z - m) / s.exp()) ** 2).sum(-1),
    "laplace": lambda z, m, s: -((z - m).abs() / s.exp()).sum(-1),
    "turned": lambda z, m, s: (torch.sigmoid(s) * (m - z) ** 2).mean(-1),
    "with its log": lambda z, m, s: -0.5 * (((z - m) ** 2) * torch.exp(-s)).sum(-1) - s.sum(-1),
    "a distribution": lambda z, m, s: Independent(Normal(m, s.exp()), 1).log_prob(z),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_scales_of_a_mixture(form: Form) -> None:
    plan = normc.plan(Mixture(form), torch.randn(6, 10))
    assert plan["scale"].role == "state" and not plan["scale"].fallback
    assert (plan["mean"].role, plan["mean"].in_axes, plan["mean"].out_axes) == ("output", (1,), (0,))
