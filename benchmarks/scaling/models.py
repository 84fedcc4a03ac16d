"""Models of these benchmarks by their shapes alone, and their plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from normc.plans.plan import NormPlan
from normc.plans.row import Block, Row
from tests.handmade import draft, plan_of

RECIPE = "muon"  # as the others' step: orthogonalised momentum for hidden matrices, AdamW for the rest


def gpt2(width: int, layers: int) -> Iterator[Row]:
    """GPT-2, whose query, key and value are one matrix of three blocks, stored [in, out]."""
    turned = {"in_axes": (0,), "out_axes": (1,)}
    yield draft("wte.weight", (50257, width), "output")
    yield draft("wpe.weight", (1024, width), "position")
    for layer in range(layers):
        own = f"h.{layer}"
        spans = [((part * width, (part + 1) * width),) for part in range(3)]
        blocks = tuple(Block(label, 1, span) for label, span in zip("qkv", spans, strict=True))
        yield draft(f"{own}.attn.c_attn.weight", (width, 3 * width), "hidden", blocks=blocks, **turned)
        yield draft(f"{own}.attn.c_attn.bias", (3 * width,), "bias")
        for name, fan_in, fan_out in (
            ("attn.c_proj", width, width), ("mlp.c_fc", width, 4 * width), ("mlp.c_proj", 4 * width, width),
        ):  # fmt: skip
            yield draft(f"{own}.{name}.weight", (fan_in, fan_out), "hidden", **turned)
            yield draft(f"{own}.{name}.bias", (fan_out,), "bias")
        for name in ("ln_1", "ln_2"):
            yield draft(f"{own}.{name}.weight", (width,), "gain")
            yield draft(f"{own}.{name}.bias", (width,), "bias")


def llama(width: int, inner: int, layers: int, keys: int, vocabulary: int = 128256) -> Iterator[Row]:
    """Llama 3, with `keys` features of keys and of values."""
    yield draft("embed_tokens.weight", (vocabulary, width), "embedding")
    for layer in range(layers):
        own = f"layers.{layer}"
        yield from _attention(own, width, keys)
        yield draft(f"{own}.mlp.gate_proj.weight", (inner, width), "hidden")
        yield draft(f"{own}.mlp.up_proj.weight", (inner, width), "hidden")
        yield draft(f"{own}.mlp.down_proj.weight", (width, inner), "hidden")
    yield draft("norm.weight", (width,), "gain")
    yield draft("lm_head.weight", (vocabulary, width), "output")


def _attention(own: str, width: int, keys: int) -> Iterator[Row]:
    for name, fan_out in (("q", width), ("k", keys), ("v", keys), ("o", width)):
        yield draft(f"{own}.self_attn.{name}_proj.weight", (fan_out, width), "hidden")
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield draft(f"{own}.{name}.weight", (width,), "gain")


def experts(width: int, inner: int, layers: int, number: int, keys: int, vocabulary: int = 128256) -> Iterator[Row]:
    """A mixture of experts in every layer, each expert's matrices parameters of their own."""
    yield draft("embed_tokens.weight", (vocabulary, width), "embedding")
    for layer in range(layers):
        own = f"layers.{layer}"
        yield from _attention(own, width, keys)
        yield draft(f"{own}.mlp.gate.weight", (number, width), "router")
        for expert in range(number):
            each = f"{own}.mlp.experts.{expert}"
            yield draft(f"{each}.gate_proj.weight", (inner, width), "hidden")
            yield draft(f"{each}.up_proj.weight", (inner, width), "hidden")
            yield draft(f"{each}.down_proj.weight", (width, inner), "hidden")
    yield draft("norm.weight", (width,), "gain")
    yield draft("lm_head.weight", (vocabulary, width), "output")


MODELS: Mapping[str, Callable[[], Iterator[Row]]] = {
    "GPT-2 XL": lambda: gpt2(1600, 48),
    "Llama 3 8B": lambda: llama(4096, 14336, 32, 1024),
    "Llama 3 70B": lambda: llama(8192, 28672, 80, 1024),
    "Llama 3 405B": lambda: llama(16384, 53248, 126, 1024),
    "MoE 1T": lambda: experts(7168, 3072, 61, 256, 1024),
}


def plan(name: str) -> NormPlan:
    """The plan of one of them."""
    return plan_of(MODELS[name](), RECIPE, model=name)
