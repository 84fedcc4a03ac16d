"""What is made from memory is what the op gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import normc
from normc.model.trace.remembered import Remembered
from normc.model.trace.values import tensors_in
from tests.zoo.models import CASES

aten = torch.ops.aten
# The others are run with the slow ones.
QUICK = {"hf-gpt2", "hf-llama", "hf-bert", "mixtral", "mamba", "swin", "convnext", "recurrent", "clip", "hf-resnet"}


def form(out: Any) -> object:
    if not isinstance(out, Tensor):
        return out
    assert type(out) is FakeTensor
    storage = out.untyped_storage().nbytes()
    constant = None if out.constant is None else out.constant.tolist()
    return (out.shape, out.stride(), out.storage_offset(), out.dtype, out.fake_device, out.requires_grad, out.is_conj(),
            out.is_neg(), storage, constant)  # fmt: skip


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(CASES)]
)
def test_every_op_of_a_model_gives_from_memory_what_it_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, make = Remembered.run, Remembered._made
    made: list[Any] = []

    def counted(self: Remembered, known: Any) -> Tensor:
        made.append(known)
        return make(self, known)

    def beside(self: Remembered, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        before = len(made)
        out = run(self, func, args, kwargs)
        if len(made) > before:
            again = func(*args, **kwargs)
            assert form(out) == form(again), func
            memory = {tensor.untyped_storage()._cdata for tensor in tensors_in((args, kwargs))}
            assert again.untyped_storage()._cdata not in memory, func
        return out

    monkeypatch.setattr(Remembered, "_made", counted)
    monkeypatch.setattr(Remembered, "run", beside)
    case = CASES[name]
    normc.plan(case.build(), case.inputs())
    assert made or name not in QUICK


@pytest.fixture
def remembered() -> Remembered:
    return Remembered(FakeTensorMode())


def twice(remembered: Remembered, func: Any, *operands: Any, **options: Any) -> tuple[Any, Any]:
    with remembered._mode:
        return remembered.run(func, operands, options), remembered.run(func, operands, options)


def fake(remembered: Remembered, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    with remembered._mode:
        return torch.empty(shape, dtype=dtype)


def test_results_are_tensors_of_their_own(remembered: Remembered) -> None:
    x = fake(remembered, 3, 4)
    one, other = twice(remembered, aten.relu.default, x)
    assert len(remembered._known) == 1
    assert one is not other and one.untyped_storage()._cdata != other.untyped_storage()._cdata
    assert form(one) == form(other)


def test_numbers_of_other_types_are_other_operands(remembered: Remembered) -> None:
    x = fake(remembered, 3, dtype=torch.int64)
    dtypes = [twice(remembered, aten.add.Tensor, x, number)[1].dtype for number in (1, 1.0, 1, 1.0)]
    assert dtypes == [torch.int64, torch.float32] * 2


def test_the_default_dtype_counts(remembered: Remembered) -> None:
    x = fake(remembered, 3, dtype=torch.int64)
    with remembered._mode:
        first = remembered.run(aten.true_divide.Tensor, (x, 2), {})
        torch.set_default_dtype(torch.float64)
        try:
            second = remembered.run(aten.true_divide.Tensor, (x, 2), {})
        finally:
            torch.set_default_dtype(torch.float32)
    assert (first.dtype, second.dtype) == (torch.float32, torch.float64)


@pytest.mark.parametrize(
    ("func", "options"),
    [
        (aten.view.default, ((12,),)),
        (aten.dropout.default, (0.5, False)),
        (aten.add_.Tensor, (1,)),
        (aten.max.dim, (0,)),
    ],
)
def test_what_is_no_new_tensor_is_run(remembered: Remembered, func: Any, options: tuple[Any, ...]) -> None:
    """A view, its operand itself, a write, several results."""
    x = fake(remembered, 3, 4)
    twice(remembered, func, x, *options)
    assert all(known is None for known in remembered._known.values())


def test_ties_stay_ties_in_a_model_whose_dropout_is_off() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.drop, self.two = nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.drop(self.drop(self.one(x))))

    plan = normc.plan(Model().eval(), torch.zeros(2, 8))
    assert [row.role for row in plan.rows if row.name.endswith("weight")] == ["input", "output"]
