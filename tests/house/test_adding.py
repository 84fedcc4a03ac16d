"""A norm, a recipe and a backend are one file each: importing it is all. In a process of their own, since nothing takes
a part out again. An op's rule is in tests/model/ops/test_user_rule.py.
"""

from __future__ import annotations

import subprocess
import sys

_MODEL = """
import torch
import normc
from torch import nn

def fresh():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(16, 6)

def train(opt, steps=30):
    losses = []
    for _ in range(steps):
        loss = (model(x) - 1.0).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 2, losses
"""

NORM = """
model, x = fresh()
from normc.plans.geometry import norms
import tests.house.added.norm
d = torch.randn(2, 4, 5, dtype=torch.float64)
step = norms["four"].lmo(d)
torch.testing.assert_close(norms["four"].measure(step), torch.ones(2, dtype=torch.float64))
torch.testing.assert_close((d * step).sum((1, 2)), norms["four"].dual(d))
opt = normc.compile(model, x, lr=0.1, recipe="uscion", overrides={"0.weight": "four"}, compile=False)
assert opt.plan["0.weight"].norm == "four" and "def four(" in opt.source
train(opt)
"""

RECIPE = """
model, x = fresh()
import tests.house.added.recipe
copy = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
copy.load_state_dict(model.state_dict())
train(normc.compile(model, x, lr=0.1, recipe="ball", compile=False))
plain, model = model, copy
train(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5))
for ours, theirs in zip(plain.parameters(), model.parameters(), strict=True):
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
"""

BACKEND = """
model, x = fresh()
from tests.house.added.backend import STEPPED
train(normc.compile(model, x, lr=0.1, backend="telling", compile=False), steps=20)
assert sorted(set(STEPPED)) == ["0.bias", "0.weight", "2.bias", "2.weight"] and len(STEPPED) == 80
"""


def test_one_file_adds_a_part() -> None:
    script = _MODEL + NORM + RECIPE + BACKEND
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
