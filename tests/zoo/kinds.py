"""One model of each kind: what a quick run of the tests tries where the whole zoo takes a minute or more."""

from __future__ import annotations

from tests.zoo.awkward import AWKWARD

KINDS = AWKWARD.keys() | {
    "clip", "convnext", "hf-bert", "hf-gpt2", "hf-llama", "hf-resnet", "mamba", "mixtral", "nano-gpt-with-loss",
    "recurrent", "swin",
}  # fmt: skip
