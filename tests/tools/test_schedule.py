"""normc.schedule: the lr of every step by hand, for any optimizer, over a checkpoint; and what it refuses."""

from __future__ import annotations

import copy
import io
import itertools
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from tests.zoo.case import tokens


def rates(steps: int, lr: float | Tensor = 1.0, more: int = 0, **shape: Any) -> list[float]:
    """The lr of each step, and of `more` behind the last."""
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = normc.schedule(opt, steps, **shape)
    seen = []
    for _ in range(steps + more):
        seen.append(float(opt.param_groups[0]["lr"]))
        opt.step()
        scheduler.step()
    return seen


def near(*fractions: str) -> Any:
    """Fractions as numbers."""
    return pytest.approx([float(Fraction(each)) for each in fractions])


def test_the_default_is_a_tenth_up_then_straight_down_to_zero() -> None:
    assert rates(20, more=2) == near("1/2", "1", *(f"{left}/18" for left in range(18, 0, -1)), "0", "0")
    assert rates(10, more=1) == near("1", *(f"{left}/9" for left in range(9, 0, -1)), "0")


@pytest.mark.parametrize(("steps", "warmup"), list(itertools.product((1, 2, 7, 10, 450), (0.05, 0.1, 0.4))))
def test_the_formula_of_the_measurements(steps: int, warmup: float) -> None:
    rise = max(1, round(warmup * steps))
    formula = [min((step + 1) / rise, (steps - step) / max(1, steps - rise)) for step in range(steps + 1)]
    assert rates(steps, warmup=warmup, more=1) == formula


@pytest.mark.parametrize("shape", [{"constant": 0.5}, {"decay": 0.3}, {"constant": 0.5, "decay": 0.3}])
def test_a_constant_part(shape: dict[str, Any]) -> None:
    assert rates(10, warmup=0.2, **shape) == near("1/2", "1", "1", "1", "1", "1", "1", "1", "2/3", "1/3")


def test_no_decay_and_no_warmup() -> None:
    assert rates(4, warmup=0.0, decay=0.0, more=3) == [1.0] * 7
    assert rates(4, warmup=0.5, decay=0.0, more=1) == near("1/2", "1", "1", "1", "1")
    assert rates(4, warmup=1.0) == near("1/4", "1/2", "3/4", "1")
    assert rates(3, warmup=0.0, decay=1.0, more=1) == near("1", "2/3", "1/3", "0")


def test_the_floor_is_a_share_of_lr_and_stays() -> None:
    assert rates(6, lr=2.0, warmup=0.0, constant=0.5, floor=0.5, more=2) == near(
        "2", "2", "2", "2", "5/3", "4/3", "1", "1"
    )


def test_groups_keep_their_ratio_and_a_tensor_stays_the_tensor() -> None:
    rate = torch.tensor(4.0)
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    opt = torch.optim.Adam([{"params": [first], "lr": rate}, {"params": [second], "lr": 0.5}], foreach=False)
    scheduler = normc.schedule(opt, 4, warmup=0.5)
    assert opt.param_groups[0]["lr"] is rate
    assert (float(rate), opt.param_groups[1]["lr"]) == (2.0, 0.25)
    for _ in range(3):
        opt.step()
        scheduler.step()
    assert opt.param_groups[0]["lr"] is rate
    assert (float(rate), opt.param_groups[1]["lr"]) == (2.0, 0.25)


def test_one_tensor_for_all_groups_of_a_plan() -> None:
    opt = normc.compile(nn.Linear(4, 4), torch.zeros(2, 4), lr=torch.tensor(1.0), compile=False)
    scheduler = normc.schedule(opt, 10, warmup=0.5)
    seen = [[float(group["lr"]) for group in opt.param_groups]]
    for _ in range(5):
        opt.step()
        scheduler.step()
        seen.append([float(group["lr"]) for group in opt.param_groups])
    assert seen == [[pytest.approx(rate)] * 2 for rate in (0.2, 0.4, 0.6, 0.8, 1.0, 1.0)]


def test_a_checkpoint_goes_on_where_it_was_even_with_another_shape_given() -> None:
    def fresh(steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3.0)
        return opt, normc.schedule(opt, steps, constant=0.2, floor=0.1)

    opt, scheduler = fresh(20)
    for _ in range(7):
        opt.step()
        scheduler.step()
    file = io.BytesIO()
    torch.save({"opt": opt.state_dict(), "schedule": scheduler.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    later, resumed = fresh(500)
    later.load_state_dict(saved["opt"])
    resumed.load_state_dict(saved["schedule"])
    for _ in range(14):
        assert later.param_groups[0]["lr"] == opt.param_groups[0]["lr"]
        for pair in ((opt, scheduler), (later, resumed)):
            pair[0].step()
            pair[1].step()
    assert opt.param_groups[0]["lr"] == pytest.approx(0.3)


def test_an_optimizer_that_waits_for_its_plan() -> None:
    class Says(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(96, 8), nn.Linear(8, 96)

        def forward(self, ids: Tensor) -> Tensor:
            out: Tensor = self.head(self.embed(ids))
            return out

    torch.manual_seed(0)
    late = Says()
    early = copy.deepcopy(late)
    found = []
    for model, inputs in ((late, None), (early, tokens())):
        opt = normc.compile(model, inputs, compile=False)
        scheduler = normc.schedule(opt, 4, warmup=0.5)
        for _ in range(4):
            nn.functional.cross_entropy(model(tokens()).flatten(0, 1), tokens().flatten()).backward()
            opt.step()
            opt.zero_grad()
            scheduler.step()
        found.append([parameter.detach() for parameter in model.parameters()])
        assert [group["lr"] for group in opt.param_groups] == [0.0, 0.0]
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": -3}, "steps is -3"),
        ({"steps": 2.5}, r"steps is 2\.5\n  fix: give a whole number"),
        ({"steps": True}, "steps is True"),
        ({"warmup": 100}, r"warmup is 100\n  fix: give a share from 0 to 1, of the steps"),
        ({"warmup": -0.1}, r"warmup is -0\.1"),
        ({"warmup": "0.1"}, "warmup is '0.1'"),
        ({"decay": float("nan")}, "decay is nan"),
        ({"constant": 1.5}, r"constant is 1\.5"),
        ({"floor": 2}, r"floor is 2\n  fix: give a share from 0 to 1, of lr"),
        ({"warmup": 0.6, "decay": 0.6}, r"take 1\.2 of the run\n  fix: give shares that add up to 1"),
        ({"warmup": 0.6, "constant": 0.6}, r"take 1\.2 of the run"),
        ({"warmup": 0.1, "constant": 0.1, "decay": 0.1}, r"take 0\.3 of the run"),
    ],
)
def test_what_is_no_schedule(shape: dict[str, Any], message: str) -> None:
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(normc.NormcError, match=message):
        normc.schedule(opt, **({"steps": 10} | shape))
    assert opt.param_groups[0]["lr"] == 1.0
    assert "initial_lr" not in opt.param_groups[0]


def test_several_optimizers_are_scheduled_one_by_one() -> None:
    with pytest.raises(normc.NormcError, match=r"a list can't be scheduled\n  fix: .*each its own"):
        normc.schedule([], 10)  # type: ignore[arg-type]
