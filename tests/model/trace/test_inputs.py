"""Example inputs in every form, and what models say of themselves."""

from __future__ import annotations

from collections import UserDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from normc.errors import NormcError
from normc.model.trace.frontend import trace
from normc.model.trace.inputs import example_inputs
from normc.model.trace.own_inputs import own_inputs
from tests.model.trace.zoo import TRANSFORMERS


class _Two(nn.Module):
    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        return x


class _Masked(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x


class _One(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class _Whole(nn.Module):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["pixels"]


X, Y = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])


def test_a_tensor_a_tuple_and_a_mapping() -> None:
    assert example_inputs(_One(), X)[0][0] is X
    assert [len(example_inputs(model, (X, Y))[0]) for model in (_One(), _Two(), _Masked())] == [1, 2, 2]
    assert list(example_inputs(_Two(), {"x": X, "targets": Y})[1]) == ["x", "targets"]
    assert list(example_inputs(_Two(), UserDict(x=X))[1]) == ["x"]


def test_arguments_can_be_given_in_full() -> None:
    args, kwargs = example_inputs(_Masked(), ((X,), {"mask": Y}))
    assert args[0] is X and kwargs["mask"] is Y


def test_a_collated_target_goes_only_to_a_parameter_that_is_named_like_one() -> None:
    assert [len(example_inputs(model, [X, Y])[0]) for model in (_One(), _Two(), _Masked())] == [1, 2, 1]


def test_keys_that_forward_does_not_take_are_dropped_if_the_rest_binds() -> None:
    assert list(example_inputs(_One(), {"x": X, "id": Y})[1]) == ["x"]
    assert "pixels" in example_inputs(_Whole(), {"pixels": X, "id": Y})[0][0]
    with pytest.raises(NormcError, match=r"_Two\.forward.*example inputs: \{targets: tensor\[4\], id: tensor\[4\]\}"):
        example_inputs(_Two(), {"targets": Y, "id": Y})
    with pytest.raises(NormcError, match="can't take"):
        example_inputs(_One(), {"pixels": X})


def test_a_loader_gives_its_first_batch_and_disturbs_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(X, Y), batch_size=2, shuffle=True, generator=generator)
    other = DataLoader(TensorDataset(X, Y), batch_size=2, shuffle=True)
    state, own = torch.get_rng_state(), generator.get_state()
    (first,), _ = example_inputs(_One(), loader)
    example_inputs(_One(), other)
    assert first.shape == (2, 3)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(generator.get_state(), own)
    assert torch.equal(next(iter(loader))[0], first)
    with pytest.raises(NormcError, match="empty"):
        example_inputs(_One(), DataLoader(TensorDataset(X[:0])))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_models_say_what_they_eat(name: str) -> None:
    model, (_, expected) = TRANSFORMERS[name]()
    call = own_inputs(model)
    assert call is not None
    args, kwargs = call
    assert args == () and set(kwargs) == set(expected)
    assert len(trace(model, args, kwargs).nodes) == len(list(model.named_parameters()))
    ids = kwargs.get("input_ids")
    if ids is not None:
        assert ids.shape == (2, 8) and ids.max() < 96
        assert 3 < len(ids.unique()) < ids.numel()


@pytest.mark.parametrize("config", [{"input_size": (3, 16, 16)}, SimpleNamespace(input_size=(3, 16, 16))])
def test_a_timm_config_gives_the_size(config: Any) -> None:
    model = nn.Conv2d(3, 4, 3)
    model.pretrained_cfg = config
    call = own_inputs(model)
    assert call is not None and call[0][0].shape == (2, 3, 16, 16)


@pytest.mark.parametrize("first", ["patch_embed.proj", ("patch_embed.proj",)])
def test_a_timm_model_knows_better_than_the_config_of_its_weights(first: Any) -> None:
    """As timm leaves it where it is told img_size= or in_chans=."""
    model: Any = nn.Module()
    model.patch_embed = nn.Module()
    model.patch_embed.proj = nn.Conv2d(1, 4, 8)
    model.patch_embed.img_size = (32, 48)
    model.pretrained_cfg = {"input_size": (3, 224, 224), "first_conv": first}
    call = own_inputs(model)
    assert call is not None and call[0][0].shape == (2, 1, 32, 48)


def test_a_model_that_says_nothing_is_none() -> None:
    assert own_inputs(nn.Linear(2, 2)) is None


def test_a_cache_is_switched_off_unless_asked_for() -> None:
    model, (_, kwargs) = TRANSFORMERS["llama"]()
    ids = {"input_ids": kwargs["input_ids"]}
    graphs = [trace(model, (), call).graph for call in (ids, ids | {"use_cache": True})]
    assert [len(graph.output_node().all_input_nodes) for graph in graphs] == [1, 5]
