"""The architectures of transformers: every model type, every class that takes its configuration, made small.

A configuration is tried small, then shallow (its own widths, few layers), then as it is.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from benchmarks.sweep.candidate import Candidate
from benchmarks.sweep.vision import importable_torchvision

_SHALLOW: dict[str, int] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "decoder_layers",
                     "num_encoder_layers", "num_decoder_layers", "num_blocks", "depth", "n_blocks"), 2),
    "vocab_size": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip

_SMALL: dict[str, int] = _SHALLOW | {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embed_dim", "word_embed_proj_dim",
                     "hidden_dim", "decoder_hidden_size", "projection_dim"), 64),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads", "encoder_attention_heads",
                     "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "num_experts_per_token"), 2),
    **dict.fromkeys(("intermediate_size", "n_inner", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 96),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    **dict.fromkeys(("head_dim", "d_kv", "qk_nope_head_dim", "v_head_dim", "attention_head_dim"), 16),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size"), 48),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 24),
    "embedding_size": 48, "rotary_dim": 8, "qk_rope_head_dim": 16, "type_vocab_size": 2,
}  # fmt: skip

_SIZES: tuple[tuple[str, Mapping[str, int]], ...] = (("small", _SMALL), ("shallow", _SHALLOW), ("default", {}))


@functools.cache
def _library() -> Any:
    importable_torchvision()
    found = importlib.import_module("transformers")
    found.logging.set_verbosity_error()
    return found


def version() -> str:
    """The version of transformers, whose shared modules are imported once this returns."""
    assert _library().PreTrainedModel
    return str(_library().__version__)


def names() -> list[str]:
    """`type/Class` for every model class of every model type; the first class of each type before any second one."""
    ranked: list[tuple[int, str]] = []
    for kind in sorted(_library().CONFIG_MAPPING.keys()):
        ranked += [(rank, f"{kind}/{cls}") for rank, cls in enumerate(_classes(kind) or ("",))]
    seen: set[str] = set()
    found = []
    for _, name in sorted(ranked, key=lambda item: item[0]):
        cls = name.partition("/")[2]
        if not cls or cls not in seen:
            found.append(name)
            seen.add(cls)
    return found


def _classes(kind: str) -> tuple[str, ...]:
    """Names of the automatic model classes of a model type: heads first, the bare model last."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    tables = {key.removesuffix("_MAPPING_NAMES"): dict(value) for key, value in vars(auto).items()
              if re.fullmatch(r"MODEL(_FOR_\w+)?_MAPPING_NAMES", key)}  # fmt: skip
    found: dict[str, None] = {}
    for key in sorted(tables, key=lambda key: (key == "MODEL", _rank(key), key)):
        entry = tables[key].get(kind, ())
        found |= dict.fromkeys((entry,) if isinstance(entry, str) else entry)
    return tuple(found)


def _rank(table: str) -> int:
    order = ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_CLASSIFICATION", "IMAGE_TEXT_TO_TEXT", "CTC")
    return next((rank for rank, head in enumerate(order) if table == f"MODEL_FOR_{head}"), len(order))


def candidates(name: str) -> Iterator[Candidate]:
    """The ways of building `type/Class` or `type/`, smallest first."""
    kind, _, cls = name.partition("/")
    for size, wanted in _SIZES:
        yield Candidate(size, functools.partial(_build, kind, cls, wanted))


def _build(kind: str, cls: str, wanted: Mapping[str, int]) -> nn.Module:
    transformers = _library()
    config_class = transformers.CONFIG_MAPPING[kind]
    blank = config_class()
    settings = _settings(blank, wanted)
    config = config_class(**settings) if settings else blank
    make: Callable[[Any], nn.Module] = getattr(transformers, cls) if cls else _own_class(config_class)
    return make(config)


def _own_class(config_class: type) -> Callable[[Any], nn.Module]:
    """The first model class beside a configuration that no automatic class knows. LookupError if there is none."""
    place = config_class.__module__.replace(".configuration_", ".modeling_")
    try:
        module = importlib.import_module(place)
    except ModuleNotFoundError:
        raise LookupError("a configuration without a model class") from None
    for found in vars(module).values():
        own = isinstance(found, type) and issubclass(found, nn.Module) and found.__module__ == place
        if own and getattr(found, "config_class", None) is config_class and "PreTrained" not in found.__name__:
            make: Callable[[Any], nn.Module] = found
            return make
    raise LookupError("a configuration without a model class")


def _settings(config: Any, wanted: Mapping[str, int]) -> dict[str, Any]:
    """The fields of `config`, and of the configurations in it, that are larger than wanted."""
    found: dict[str, Any] = {}
    for key, value in vars(config).items():
        if isinstance(value, _library().PretrainedConfig):
            inner = _settings(value, wanted)
            if inner:
                found[key] = {"model_type": value.model_type, **inner}
        elif key in wanted and isinstance(value, int) and not isinstance(value, bool) and value > wanted[key]:
            found[key] = wanted[key]
        elif key == "num_experts_per_tok" and value is None:
            found[key] = 2
    return found
