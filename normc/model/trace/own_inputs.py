"""What a model says that it eats: transformers' configs and signatures, timm's configs. Nothing is ever downloaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from normc.model.trace.foreign import ask, signature_of
from normc.model.trace.inputs import Call
from normc.model.trace.names import unwrapped

_BATCH, _TOKENS = 2, 8
# Neither constant nor an arange, with repeats: embeddings are told from tables of positions by it.
_IDS = ((11, 5, 29, 5, 17, 8, 23, 11), (7, 19, 7, 13, 6, 31, 19, 9))


def own_inputs(model: nn.Module) -> Call | None:
    """(args, kwargs) of a small forward that `model` itself describes, on its device; None if it describes none."""
    inner = unwrapped(model)
    device = next((parameter.device for parameter in inner.parameters()), torch.device("cpu"))
    device = torch.device("cpu") if device.type == "meta" else device
    if isinstance(ask(inner, "main_input_name"), str) and ask(inner, "config") is not None:
        kwargs = _transformers(inner)
        if kwargs is None:
            return None
        return (), {key: value.to(device) if isinstance(value, Tensor) else value for key, value in kwargs.items()}
    size = _timm_size(inner)
    return ((_noise(_BATCH, *size).to(device),), {}) if size is not None else None


def _timm_size(model: nn.Module) -> tuple[int, ...] | None:
    """`input_size`, channels first, of a timm model's config, a dict or an object. The config is that of the weights
    that there are to load: the model itself says otherwise if it was made with img_size= or in_chans=.
    """
    for name in ("pretrained_cfg", "default_cfg"):
        config = ask(model, name)
        fields = config if isinstance(config, dict) else {key: ask(config, key) for key in ("input_size", "first_conv")}
        size = fields.get("input_size")
        if isinstance(size, (list, tuple)):
            channels, *lengths = (int(length) for length in size)
            own = ask(ask(model, "patch_embed"), "img_size")
            lengths = list(own) if isinstance(own, (list, tuple)) and len(own) == len(lengths) else lengths
            return (_channels(model, fields.get("first_conv")) or channels, *lengths)
    return None


def _channels(model: nn.Module, first: Any) -> int | None:
    """What the convolution that a timm config names as the first one takes; of several, the first; None if unknown."""
    first = first[0] if isinstance(first, (list, tuple)) and first else first
    found = dict(model.named_modules()).get(first) if isinstance(first, str) else None
    channels = ask(found, "in_channels")
    return channels if isinstance(channels, int) else None


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _transformers(model: nn.Module) -> dict[str, Any] | None:
    signature = signature_of(model.forward)
    parameters = signature.parameters if signature is not None else {}
    main = str(model.main_input_name)
    wanted = [main]
    config = model.config
    if ask(config, "is_encoder_decoder") and "decoder_input_ids" in parameters:
        wanted.append("decoder_input_ids")
    placed = any(ask(config, name) is not None for name in ("image_token_id", "image_token_index"))
    if main in ("input_ids", "pixel_values") and not placed and _setting(config, "image_size", "input_size"):
        # Text and image side by side; where images go to marked places among the tokens, text alone is traced.
        wanted += [name for name in ("input_ids", "pixel_values") if name in parameters and name != main]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    wanted += [name for name, parameter in parameters.items()
               if parameter.default is parameter.empty and parameter.kind in named and name not in wanted]  # fmt: skip
    made: dict[str, Any] = {}
    for name in wanted:
        maker = _MAKERS.get(name)
        value = maker(model) if maker is not None else None
        if value is None:
            return None
        made[name] = value
    if "use_cache" in parameters:
        made["use_cache"] = False
    return made


def _setting(config: object, *names: str) -> Any:
    """The first of `names` that the config, or its part for text, vision or audio, sets."""
    parts = ("", "text_config", "vision_config", "audio_config", "encoder", "decoder", "backbone_config")
    for part in parts:
        holder = ask(config, part) if part else config
        for name in names:
            if (value := ask(holder, name)) is not None:
                return value
    return None


def _token_ids(model: nn.Module) -> Tensor | None:
    vocabulary = _setting(model.config, "vocab_size")
    if not isinstance(vocabulary, int) or vocabulary < 2:
        return None
    # Classifiers of sequences look for padding to find the last token, and refuse two sequences without it.
    rows = _IDS if ask(model.config, "pad_token_id") is not None else _IDS[:1]
    if not type(model).__name__.endswith("ForSequenceClassification"):
        rows = _IDS
    return torch.tensor(rows) % vocabulary


def _features(model: nn.Module) -> Tensor | None:
    """A sequence of vectors in the place of embedded tokens."""
    width = _setting(model.config, "hidden_size", "d_model", "n_embd", "embed_dim")
    return _noise(_BATCH, _TOKENS, width) if isinstance(width, int) else None


def _pixels(model: nn.Module) -> Tensor:
    size = _setting(model.config, "image_size", "input_size")
    if isinstance(size, dict):
        size = (size.get("height", 224), size.get("width", 224))
    height, width = (size, size) if isinstance(size, int) else tuple(size or (224, 224))[-2:]
    channels = _setting(model.config, "num_channels", "in_channels")
    frames = _setting(model.config, "num_frames")
    shape = (_BATCH, channels if isinstance(channels, int) else 3, int(height), int(width))
    return _noise(shape[0], int(frames), *shape[1:]) if isinstance(frames, int) else _noise(*shape)


def _waveform(model: nn.Module) -> Tensor:
    """One second of sound, or the spectrogram that the config gives the size of."""
    bins, length = _setting(model.config, "num_mel_bins"), _setting(model.config, "max_length")
    return _noise(_BATCH, length, bins) if isinstance(bins, int) and isinstance(length, int) else _noise(_BATCH, 16_000)


def _sound_features(model: nn.Module) -> Tensor | None:
    config = model.config
    positions, bins = ask(config, "max_source_positions"), _setting(config, "num_mel_bins")
    channels = _setting(config, "input_feat_per_channel", "feature_projection_input_dim")
    if isinstance(channels, int):
        return _noise(_BATCH, 64, channels)
    if isinstance(bins, int):
        return _noise(_BATCH, bins, 2 * positions) if isinstance(positions, int) else _noise(_BATCH, 64, bins)
    return None


_MAKERS: dict[str, Callable[[Any], Tensor | None]] = {
    "input_ids": _token_ids,
    "decoder_input_ids": _token_ids,
    "inputs_embeds": _features,
    "hidden_states": _features,
    "pixel_values": _pixels,
    "pixel_values_videos": _pixels,
    "input_values": _waveform,
    "input_features": _sound_features,
}
