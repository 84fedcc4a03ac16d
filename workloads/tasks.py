"""What is trained: a small GPT-2 on bytes, a small ResNet on images. Everything that two optimizers must share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from workloads.data import bible, images

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Task:
    """A model from one seed, its loss, and its batches: `batch(i)` is the same whoever asks for it.

    `inputs` is what the model's forward takes: the example that it is traced on.
    """

    title: str
    model: Callable[[], nn.Module]
    inputs: Batch | Tensor
    loss: Callable[[nn.Module, Batch], Tensor]
    batch: Callable[[int], Batch]
    validation: tuple[Batch, ...]
    steps: int
    every: int  # steps between measurements of the validation loss


def gpt2_task(quick: bool = False, seed: int = 0, device: str = "cpu") -> Task:
    """HF's GPT-2 (random init, 256 byte tokens, tied head, 1.3 M parameters) on the Bible; `quick` is a toy of it."""
    import transformers
    from transformers import GPT2Config, GPT2LMHeadModel

    transformers.logging.set_verbosity_error()  # byte tokens have no special ones, which it warns of on every build
    width, layers, context, rows, steps, every = (32, 2, 32, 8, 30, 10) if quick else (160, 4, 128, 16, 300, 25)
    split = bible()

    def model() -> nn.Module:
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=256, n_positions=context, n_embd=width, n_layer=layers, n_head=4,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None, use_cache=False,
        )  # fmt: skip
        net: nn.Module = GPT2LMHeadModel(config)
        return net.to(device)

    def cut(text: Tensor, count: int, key: int) -> Batch:
        """`count` windows of `text`, their places drawn from `key` alone: {"input_ids": long [count, context]}."""
        draw = torch.Generator().manual_seed(key)
        starts = torch.randint(0, text.numel() - context, (count, 1), generator=draw)
        ids = text[starts + torch.arange(context)].long().to(device)
        return {"input_ids": ids, "labels": ids}

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        value = net(**batch).loss
        assert isinstance(value, Tensor)
        return value

    return Task(
        title=f"GPT-2 ({layers} layers, width {width}) on the {split.name}, bytes",
        model=model,
        inputs=cut(split.train, rows, 0),
        loss=loss,
        batch=lambda step: cut(split.train, rows, 1_000_003 * (seed + 1) + step),
        validation=tuple(cut(split.validation, 32, -1 - part) for part in range(1 if quick else 4)),
        steps=steps,
        every=every,
    )


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut, with batch norms; a 1x1 convolution where the width or size changes."""

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(narrow, wide, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(wide)
        self.second = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(wide)
        same = narrow == wide and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(narrow, wide, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, narrow, h, w] -> [n, wide, h / stride, w / stride]."""
        y = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A stem, three residual stages, the mean over pixels, a linear head: 28x28 grey images to ten classes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.stages = nn.Sequential(
            Residual(width, width, 2), Residual(width, 2 * width, 2), Residual(2 * width, 4 * width, 2)
        )
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, 28, 28] -> logits [n, 10]."""
        y: Tensor = self.stages(functional.relu(self.stem(x))).mean((2, 3))
        logits: Tensor = self.head(y)
        return logits


def resnet_task(quick: bool = False, seed: int = 0, device: str = "cpu") -> Task:
    """A small ResNet on 28x28 images (which ones: workloads.data.images); `quick` is a toy of it."""
    width, rows, steps, every = (8, 32, 30, 10) if quick else (16, 128, 300, 25)
    split = images()

    def model() -> nn.Module:
        torch.manual_seed(seed)
        return SmallResNet(width).to(device)

    def batch(step: int) -> Batch:
        draw = torch.Generator().manual_seed(1_000_003 * (seed + 1) + step)
        chosen = torch.randint(0, len(split.train), (rows,), generator=draw)
        return {"x": split.train[chosen].to(device), "label": split.train_labels[chosen].to(device)}

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(net(batch["x"]), batch["label"])

    measured = zip(split.validation[:2000].split(500), split.validation_labels[:2000].split(500), strict=True)
    return Task(
        title=f"ResNet (width {width}) on {split.name}",
        model=model,
        inputs=batch(0)["x"],
        loss=loss,
        batch=batch,
        validation=tuple({"x": x.to(device), "label": label.to(device)} for x, label in measured),
        steps=steps,
        every=every,
    )
