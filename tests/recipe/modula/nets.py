"""Modula's networks as ordinary modules, whose weights are what multiplies (the package keeps a factor beside them)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The largest slope of GELU, at sqrt 2; the JAX package divides by it, rounded to 1.1289.
GELU_SLOPE = 0.5 * (1 + math.erf(1.0)) + math.exp(-1.0) / math.sqrt(math.pi)


def linear(out: int, of: int) -> nn.Linear:
    """A matrix without a bias."""
    return nn.Linear(of, out, bias=False)


def centred(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """x without its mean."""
    return x - x.mean(dims, keepdim=True)


class MLP(nn.Module):
    """Linear layers with an activation between them."""

    def __init__(self, depth: int, kind: str, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear(width, width) for _ in range(depth))
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, ...], width entries each."""
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = layer(x)
            if self.kind == "relu":
                x = F.relu(x)
            elif self.kind == "scaled relu":
                x = math.sqrt(2) * F.relu(x)
            else:
                x = F.gelu(x) / GELU_SLOPE
        out: Tensor = self.layers[-1](x)
        return out


class ResMLP(nn.Module):
    """Images flattened, residual blocks of RMS norm, linear, absolute value and centring."""

    def __init__(self, width: int, blocks: int, depth: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.initial = linear(width, inputs)
        self.blocks = nn.ModuleList(nn.ModuleList(linear(width, width) for _ in range(depth)) for _ in range(blocks))
        self.final = linear(outputs, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, ...]."""
        x = self.initial(x.flatten(1))
        n = len(self.blocks)
        for block in self.blocks:
            y = x
            assert isinstance(block, nn.ModuleList)
            for layer in block:
                y = centred(layer(F.rms_norm(y, y.shape[1:], eps=0)).abs(), (-1,))
            x = (1 - 1 / n) * x + 1 / n * y
        out: Tensor = self.final(x)
        return out


class ResCNN(nn.Module):
    """The same of convolutions, averaged over the image."""

    def __init__(self, width: int, blocks: int, depth: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.initial = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(depth))
            for _ in range(blocks)
        )
        self.final = linear(outputs, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, channels, height, width]."""
        x = self.initial(x)
        n = len(self.blocks)
        for block in self.blocks:
            y = x
            assert isinstance(block, nn.ModuleList)
            for layer in block:
                y = centred(layer(F.rms_norm(y, y.shape[1:], eps=0)).abs(), (1, 2, 3))
            x = (1 - 1 / n) * x + 1 / n * y
        out: Tensor = self.final(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))
        return out


class Block(nn.Module):
    """Weights of one transformer block; heads may be of another width than the embedding's share."""

    def __init__(self, d: int, heads: int, d_query: int, d_value: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k = linear(heads * d_query, d), linear(heads * d_query, d)
        self.v, self.o = linear(heads * d_value, d), linear(d, heads * d_value)
        self.up, self.down = linear(4 * d, d), linear(d, 4 * d)

    def split(self, x: Tensor) -> Tensor:
        """[batch, length, heads * d] as [batch, heads, length, d]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class GPT(nn.Module):
    """The torch package's: two embeddings, norms, and a third in front of the attention."""

    def __init__(self, vocab: int, context: int, heads: int, d: int, d_query: int, d_value: int, blocks: int) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab, d), nn.Embedding(context, d)
        self.blocks = nn.ModuleList(Block(d, heads, d_query, d_value) for _ in range(blocks))
        self.head = linear(vocab, d)

    @staticmethod
    def norm(x: Tensor) -> Tensor:
        """Layer norm without weights."""
        return F.layer_norm(x, x.shape[-1:], eps=0)

    def attend(self, block: Block, x: Tensor) -> Tensor:
        """Functional attention, of a third of each of its inputs."""
        q, k, v = (block.split(part(x)) / 3 for part in (block.q, block.k, block.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1 / q.shape[-1])
        out: Tensor = block.o(y.transpose(1, 2).flatten(2))
        return out

    def think(self, block: Block, x: Tensor) -> Tensor:
        """The block's two-layer network."""
        out: Tensor = block.down(math.sqrt(2) * F.gelu(block.up(x)))
        return out

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [batch, length]."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        x = 1 / 2 * self.tok(tokens) + 1 / 2 * self.pos(place)
        c = 1 / (2 * len(self.blocks))
        for block in self.blocks:
            assert isinstance(block, Block)
            x = (1 - c) * x + c * self.attend(block, self.norm(x))
            x = (1 - c) * x + c * self.think(block, self.norm(x))
        out: Tensor = self.head(self.norm(x))
        return out


class PlainGPT(GPT):
    """The JAX package's: one embedding, no norm, a third behind the attention, a scale of its logits and of the output.

    Its rotary embedding counts as of gain one and has no weights; it is left out.
    """

    def __init__(
        self, vocab: int, heads: int, d: int, blocks: int, attention_scale: float = 1.0, final_scale: float = 1.0
    ) -> None:
        super().__init__(vocab, 1, heads, d, d // heads, d // heads, blocks)
        del self.pos
        self.attention_scale, self.final_scale = attention_scale, final_scale

    def attend(self, block: Block, x: Tensor) -> Tensor:
        """A third of functional attention."""
        q, k, v = (block.split(part(x)) for part in (block.q, block.k, block.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.attention_scale / q.shape[-1])
        out: Tensor = block.o(1 / 3 * y.transpose(1, 2).flatten(2))
        return out

    def think(self, block: Block, x: Tensor) -> Tensor:
        """The block's two-layer network."""
        out: Tensor = block.down(F.gelu(block.up(x)) / GELU_SLOPE)
        return out

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [batch, length]."""
        x = self.tok(tokens)
        c = 1 / (2 * len(self.blocks))
        for block in self.blocks:
            assert isinstance(block, Block)
            x = (1 - c) * x + c * self.attend(block, x)
            x = (1 - c) * x + c * self.think(block, x)
        return self.final_scale * self.head(x)


def in_order(model: nn.Module) -> list[str]:
    """Names of the parameters in the order in which the package keeps its weights: that of their use."""
    names = [name for name, _ in model.named_parameters()]
    order = ("tok", "initial", "pos", "q", "k", "v", "o", "up", "down", "head", "final")
    ranks = {name: rank for rank, name in enumerate(order)}

    def key(name: str) -> tuple[int, ...]:
        parts = name.split(".")
        if parts[0] in ("blocks", "layers"):
            return (1, *(ranks.get(part, int(part) if part.isdigit() else 0) for part in parts[1:-1]))
        return (0 if parts[0] in order[:3] else 2, ranks[parts[0]])

    return sorted(names, key=key)
