"""Models with random weights, from configs and by hand, each with the call that it is traced on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.model.trace import awkward
from tests.zoo.nano_gpt import NanoGPT

Call = tuple[tuple[Any, ...], dict[str, Any]]
Build = Callable[[], tuple[nn.Module, Call]]


def _ids(rows: int = 2, length: int = 8) -> Tensor:
    return torch.randint(3, 90, (rows, length), generator=torch.Generator().manual_seed(1))


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def _hugging_face(config: str, model: str, inputs: dict[str, Any], **settings: Any) -> Build:
    def build() -> tuple[nn.Module, Call]:
        import transformers

        common = (
            {"vocab_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} if "vocab" in inputs else {}
        )
        tensors = {key: value for key, value in inputs.items() if key != "vocab"}
        made = getattr(transformers, model)(getattr(transformers, config)(**common, **settings))
        return made, ((), tensors)

    return build


def _by_hand(make: Callable[[], nn.Module], *args: Any) -> Build:
    return lambda: (make(), (args, {}))


_TEXT = {"vocab": True, "input_ids": _ids(), "use_cache": False}
_ENCODED = {"vocab": True, "input_ids": _ids()}
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}

TRANSFORMERS: dict[str, Build] = {
    "gpt2": _hugging_face("GPT2Config", "GPT2LMHeadModel", _TEXT, n_layer=2, n_embd=32, n_head=4, n_positions=32),
    "llama": _hugging_face("LlamaConfig", "LlamaForCausalLM", _TEXT, num_key_value_heads=2, **_SIZES),
    "bert": _hugging_face("BertConfig", "BertForMaskedLM", _ENCODED, **_SIZES),
    "t5": _hugging_face(
        "T5Config",
        "T5ForConditionalGeneration",
        _TEXT | {"decoder_input_ids": _ids(2, 6)},
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    ),
    "mixtral": _hugging_face(
        "MixtralConfig", "MixtralForCausalLM", _TEXT, num_key_value_heads=2, num_local_experts=4, **_SIZES
    ),
    "mamba": _hugging_face("MambaConfig", "MambaForCausalLM", _TEXT, hidden_size=32, num_hidden_layers=2, state_size=4),
    "vit": _hugging_face(
        "ViTConfig",
        "ViTForImageClassification",
        {"pixel_values": _noise(2, 3, 16, 16)},
        image_size=16,
        patch_size=4,
        **_SIZES,
    ),
    "resnet": _hugging_face(
        "ResNetConfig",
        "ResNetForImageClassification",
        {"pixel_values": _noise(2, 3, 32, 32)},
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
    ),
}

BY_HAND: dict[str, Build] = {
    "nanogpt": _by_hand(NanoGPT, _ids(), _ids()),
    "encoder": _by_hand(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2), _noise(2, 5, 16)
    ),
    "recurrent": _by_hand(awkward.Recurrent, _noise(2, 5, 4)),
    "convolutions": _by_hand(awkward.Convolutions, _noise(2, 3, 8, 8)),
    "in-place": _by_hand(awkward.InPlace, _noise(3, 6)),
    "branching": _by_hand(awkward.Branching, _noise(2, 5, 4), torch.tensor([3, 2])),
    "custom-function": _by_hand(awkward.Custom, _noise(2, 4)),
    "checkpointed": _by_hand(awkward.Checkpointed, _noise(2, 4)),
    "listed": _by_hand(awkward.Listed, _noise(2, 4)),
    "caching": _by_hand(awkward.Caching, _noise(3, 4)),
    "force": _by_hand(awkward.Force, _noise(2, 3)),
    "parametrized": _by_hand(
        lambda: nn.utils.parametrizations.weight_norm(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), "bias"),
        _noise(2, 4),
    ),
}

ALL: dict[str, Build] = TRANSFORMERS | BY_HAND
