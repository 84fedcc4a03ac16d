"""A Llama-like model: RMS norms, rotary positions, SwiGLU, no biases, a head of its own."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workloads.language import language
from benchmarks.workloads.layers import Attention, small
from benchmarks.workloads.workload import Task, workload


class SwiGlu(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same."""
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


class LlamaBlock(nn.Module):
    """Rotary attention and a mixer of features, each behind an RMS norm."""

    def __init__(self, width: int, size: int, mixer: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention, self.mixer = Attention(width, size, causal=True, rotary=True, bias=False), mixer

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, width] -> the same."""
        x = x + self.attention(self.first(x))
        out: Tensor = x + self.mixer(self.second(x))
        return out


class Llama(nn.Module):
    """Tokens in, logits out; `mixers` are the blocks' feature mixers, `size` is a head's."""

    def __init__(self, vocabulary: int, width: int, mixers: list[nn.Module], size: int | None = None) -> None:
        super().__init__()
        size = size or min(width // 2, 64)
        self.tokens = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(LlamaBlock(width, size, mixer) for mixer in mixers)
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, vocabulary, bias=False)
        small(self)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, time] -> logits [batch, time, vocabulary]."""
        x = self.tokens(ids)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def sized(quick: bool, seed: int, device: str, text: str) -> Task:
    """Width 32 and 2 layers, or width 256 and 4."""
    width, depth = (32, 2) if quick else (256, 4)

    def build(vocabulary: int, context: int) -> nn.Module:
        return Llama(vocabulary, width, [SwiGlu(width, width * 8 // 3) for _ in range(depth)])

    return language(text, build, quick, seed, device)


@workload("llama-text", "Llama-like model on the King James Bible, tokens")
def on_text(quick: bool, seed: int, device: str) -> Task:
    """On text."""
    return sized(quick, seed, device, "text")


@workload("llama-code", "Llama-like model on Python's standard library, tokens")
def on_code(quick: bool, seed: int, device: str) -> Task:
    """On code."""
    return sized(quick, seed, device, "code")
