"""What is stepped: small modules with the matrices of known models, so that a plan is made of a forward that uses them.

A hidden suite holds matrices alone. `gpt2-124m-whole` has embeddings, gains and biases too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOKENS = 16  # what an example holds: only shapes of weights matter here


class Block(nn.Module):
    """A transformer's block: `kv` heads share keys and values, `gated` has a gate beside `up`, `whole` all vectors."""

    def __init__(self, width: int, head: int, kv: int, inner: int, gated: bool = False, whole: bool = False) -> None:
        super().__init__()
        self.head = head
        self.q = nn.Linear(width, width, bias=whole)
        self.k = nn.Linear(width, kv * head, bias=whole)
        self.v = nn.Linear(width, kv * head, bias=whole)
        self.o = nn.Linear(width, width, bias=whole)
        self.gate = nn.Linear(width, inner, bias=whole) if gated else None
        self.up = nn.Linear(width, inner, bias=whole)
        self.down = nn.Linear(inner, width, bias=whole)
        self.before = nn.LayerNorm(width, elementwise_affine=whole)
        self.between = nn.LayerNorm(width, elementwise_affine=whole)

    def forward(self, x: Tensor) -> Tensor:
        """Attention, then the two or three matrices of the network."""
        y = self.before(x)
        q, k, v = (layer(y).unflatten(-1, (-1, self.head)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.shape[1] != q.shape[1])
        x = x + self.o(y.transpose(1, 2).flatten(-2))
        y = self.between(x)
        inner = F.gelu(self.up(y)) if self.gate is None else F.silu(self.gate(y)) * self.up(y)
        result: Tensor = x + self.down(inner)
        return result


class Stream(nn.Module):
    """Blocks on a residual stream."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """The stream after the last block."""
        for block in self.blocks:
            x = block(x)
        return x


class Language(nn.Module):
    """A whole GPT: table, positions, blocks, a last norm, and a head that is tied to the table."""

    def __init__(self, width: int, layers: int, vocabulary: int, positions: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.stream = Stream([Block(width, 64, width // 64, 4 * width, whole=True) for _ in range(layers)])
        self.last = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.tie()

    def tie(self) -> None:
        """Table and head are one parameter: again, after the module was moved."""
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        y: Tensor = self.head(self.last(self.stream(self.table(tokens) + self.positions(places))))
        return y


class Bottleneck(nn.Module):
    """Three convolutions and, where the shape changes, a fourth beside them."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        self.reduce = nn.Conv2d(before, width, 1, bias=False)
        self.window = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.expand = nn.Conv2d(width, after, 1, bias=False)
        self.beside = nn.Conv2d(before, after, 1, stride, bias=False) if before != after or stride != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways."""
        y = self.expand(F.relu(self.window(F.relu(self.reduce(x)))))
        return F.relu(y + (x if self.beside is None else self.beside(x)))


class ResNet50(nn.Module):
    """The 53 convolutions of a ResNet-50. A frozen head comes last, so that none of them is the output."""

    def __init__(self, depths: tuple[int, ...] = (3, 4, 6, 3), width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        blocks, before = [], width
        for stage, depth in enumerate(depths):
            for place in range(depth):
                blocks.append(Bottleneck(before, width << stage, 2 if stage and not place else 1))
                before = 4 * (width << stage)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, 10, bias=False).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        y: Tensor = self.head(self.blocks(F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)).mean((2, 3)))
        return y


class Adapter(nn.Module):
    """Two small matrices beside a residual stream, as heads, LoRA and groups of convolutions have them."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The stream after both."""
        y: Tensor = self.up(F.relu(self.down(x)))
        return x + y


@dataclass(frozen=True, slots=True)
class Suite:
    """A module, tiny if `quick`; an example for its forward; and where it is run by default."""

    name: str
    summary: str
    build: Callable[[bool], nn.Module]
    example: Callable[[bool], Tensor]
    devices: tuple[str, ...] = ("cuda",)


def _gpt(width: int, layers: int, head: int = 64) -> Callable[[bool], nn.Module]:
    def build(quick: bool) -> nn.Module:
        size, depth = (2 * head, 2) if quick else (width, layers)
        return Stream([Block(size, head, size // head, 4 * size) for _ in range(depth)])

    return build


def _llama(quick: bool) -> nn.Module:
    if quick:
        return Stream([Block(128, 32, 1, 320, gated=True) for _ in range(2)])
    return Stream([Block(4096, 128, 8, 14336, gated=True) for _ in range(8)])


def _adapters(quick: bool) -> nn.Module:
    """64x128, 96x128, 128x128 and their transposes."""
    return Stream([Adapter(128, (64, 96, 128)[i % 3]) for i in range(9 if quick else 1000)])


def _features(width: int, small: int) -> Callable[[bool], Tensor]:
    return lambda quick: torch.zeros(1, TOKENS, small if quick else width)


def _tokens(quick: bool) -> Tensor:
    return torch.zeros(1, TOKENS, dtype=torch.int64)


_BOTH = ("cuda", "cpu")
SUITES = {
    suite.name: suite
    for suite in (
        Suite("gpt2-124m", "12 x {q, k, v, o 768x768, 3072x768, 768x3072}", _gpt(768, 12), _features(768, 128), _BOTH),
        Suite("gpt2-xl", "48 x {q, k, v, o 1600x1600, 6400x1600, 1600x6400}", _gpt(1600, 48), _features(1600, 128)),
        Suite("llama3-8b", "8 of 32 x {q, o 4096x4096, k, v 1024x4096, gate, up 14336x4096, down}", _llama,
              _features(4096, 128)),
        Suite("resnet50", "53 convolutions", lambda quick: ResNet50((1, 1, 1, 1), 16) if quick else ResNet50(),
              lambda quick: torch.zeros(1, 3, 64, 64)),
        Suite("many-small", "2,000 matrices of 64 to 128", _adapters, _features(128, 128), _BOTH),
        Suite("30m", "10 x {q, k, v, o 512x512, 2048x512, 512x2048}", _gpt(512, 10), _features(512, 128), ("cpu",)),
        Suite("gpt2-124m-whole", "all of GPT-2: embeddings, gains and biases too",
              lambda quick: Language(128, 2, 300, 32) if quick else Language(768, 12, 50257, 1024), _tokens, _BOTH),
    )
}  # fmt: skip
