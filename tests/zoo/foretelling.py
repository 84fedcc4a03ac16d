"""Time series and episodes: returns and actions, a distribution's parameters, patches."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.zoo.case import Case
from tests.zoo.families import model
from tests.zoo.hearing import PAIR, noise


def episode() -> dict[str, Tensor]:
    """Four steps of two episodes: what was seen, done, earned and is to be earned."""
    return {
        "states": noise(2, 4, 5),
        "actions": noise(2, 4, 3),
        "rewards": noise(2, 4, 1),
        "returns_to_go": noise(2, 4, 1),
        "timesteps": torch.tensor([[3, 4, 5, 6], [9, 10, 11, 12]]),
        "attention_mask": torch.ones(2, 4),
    }


def series() -> dict[str, Tensor]:
    """Past and future values with two features of time."""
    return {
        "past_values": noise(2, 10),
        "past_time_features": noise(2, 10, 2),
        "past_observed_mask": torch.ones(2, 10),
        "static_real_features": noise(2, 1),
        "future_values": noise(2, 4),
        "future_time_features": noise(2, 4, 2),
    }


FORETELLING: dict[str, Case] = {
    # Times of an episode come with it, and choose rows. wpe is read at row 0 only, as its caller wants no positions:
    # alike everywhere, it is no position, though it was built as one. wte is never read.
    "decision-transformer": Case(
        model(
            "DecisionTransformerModel",
            "DecisionTransformerConfig",
            state_dim=5,
            act_dim=3,
            hidden_size=32,
            n_layer=1,
            n_head=4,
            max_ep_len=20,
            n_positions=64,
        ),
        episode,
        {
            "encoder.wte.weight": "unused",
            "encoder.wpe.weight": "embedding xo colnorm",
            "embed_timestep.weight": "embedding xo colnorm",
            "embed_[rsa]*.weight": "input oi spectral",
            "embed_ln.weight": "gain o rms",
            "*.c_attn.weight": "hidden io spectral 32 32 32",
            "*.c_attn.bias": "bias o rms 32 32 32",
            "*.c_proj.weight": "hidden io spectral",
            "*.c_fc.weight": "hidden io spectral",
            "*.ln_?.weight": "gain o rms",
            "predict_state.weight": "output oi sign",
            "predict_action.0.weight": "output oi sign",
            "predict_return.weight": "output oi sign",
            "predict_return.bias": "bias - rms",
            "*bias": "bias o rms",
        },
    ),
    # A distribution's three parameters, each a head with one output; sines are a frozen parameter.
    "time-series": Case(
        model(
            "TimeSeriesTransformerForPrediction",
            "TimeSeriesTransformerConfig",
            **PAIR,
            prediction_length=4,
            context_length=8,
            lags_sequence=[1, 2],
            num_time_features=2,
            num_static_real_features=1,
        ),
        series,
        {
            "*.value_projection.weight": "input oi spectral",
            "*.embed_positions.weight": "unused",
            "*_proj.weight": "hidden oi spectral",
            "*.fc?.weight": "hidden oi spectral",
            "parameter_projection.proj.?.weight": "output oi sign",
            "parameter_projection.proj.?.bias": "bias - rms",
            "*norm*.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    # Patches of every channel; the class token takes the first of the places before it is joined.
    "patchtst": Case(
        model(
            "PatchTSTForPrediction",
            "PatchTSTConfig",
            num_input_channels=3,
            context_length=32,
            patch_length=8,
            patch_stride=8,
            d_model=32,
            num_attention_heads=4,
            ffn_dim=48,
            num_hidden_layers=1,
            prediction_length=4,
            use_cls_token=True,
            channel_attention=True,
        ),
        lambda: {"past_values": noise(2, 32, 3)},
        {
            "*.input_embedding.weight": "input oi spectral",
            "*.cls_token": "token ---o rms",
            "*.position_enc": "position xo colnorm",
            "*_proj.weight": "hidden oi spectral",
            "*.ff.?.weight": "hidden oi spectral",
            "*norm.weight": "gain o rms",
            "head.projection.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
}
