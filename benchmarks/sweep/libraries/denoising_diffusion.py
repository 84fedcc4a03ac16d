"""denoising-diffusion-pytorch: U-Nets, among them EDM2's with forced weight normalisation."""

from __future__ import annotations

import torch

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of

PACKAGES = ("denoising-diffusion-pytorch",)
MODULES = ("denoising_diffusion_pytorch",)
_HOME = "denoising_diffusion_pytorch"


def _unet(draw: Draw) -> Example:
    model = library(_HOME).Unet(
        dim=16, dim_mults=(1, 2), attn_heads=2, attn_dim_head=8, full_attn=(False, True),
        learned_sinusoidal_cond=draw.random() < 0.5, self_condition=draw.random() < 0.5,
    )  # fmt: skip
    return of(model, torch.randn(2, 3, 16, 16), torch.tensor([3, 70]))


def _unet_1d(draw: Draw) -> Example:
    model = library(_HOME).Unet1D(dim=16, dim_mults=(1, 2), channels=4, attn_heads=2, attn_dim_head=8)
    return of(model, torch.randn(2, 4, 32), torch.tensor([3, 70]))


def _diffusion(draw: Draw) -> Example:
    net = library(_HOME).Unet(dim=16, dim_mults=(1, 2), attn_heads=2, attn_dim_head=8, full_attn=(False, True))
    return of(library(_HOME).GaussianDiffusion(net, image_size=16, timesteps=50), torch.rand(2, 3, 16, 16))


def _guided(draw: Draw) -> Example:
    home = library(f"{_HOME}.classifier_free_guidance")
    net = home.Unet(dim=16, num_classes=7, dim_mults=(1, 2), attn_heads=2, attn_dim_head=8, cond_drop_prob=0.3)
    return of(net, torch.randn(2, 3, 16, 16), torch.tensor([3, 70]), torch.tensor([1, 5]))


def _karras(draw: Draw) -> Example:
    model = library(f"{_HOME}.karras_unet").KarrasUnet(
        image_size=16, dim=16, dim_max=32, num_downsamples=1, num_blocks_per_stage=1, attn_res=(8,), attn_dim_head=8,
        num_classes=5, fourier_dim=16,
    )  # fmt: skip
    return of(model, torch.randn(2, 4, 16, 16), torch.rand(2), class_labels=torch.tensor([1, 4]))


def _karras_1d(draw: Draw) -> Example:
    model = library(f"{_HOME}.karras_unet_1d").KarrasUnet1D(
        seq_len=16, dim=16, dim_max=32, num_downsamples=1, num_blocks_per_stage=1, attn_res=(8,), attn_dim_head=8,
        fourier_dim=16,
    )  # fmt: skip
    return of(model, torch.randn(2, 4, 16), torch.rand(2))


def _simple(draw: Draw) -> Example:
    model = library(f"{_HOME}.simple_diffusion").UViT(
        dim=16, dim_mults=(1, 2), vit_depth=1, attn_heads=2, attn_dim_head=8, init_img_transform=None,
    )  # fmt: skip
    return of(model, torch.randn(2, 3, 16, 16), torch.rand(2))


MODELS: dict[str, Build] = {
    "unet": _unet,
    "unet-1d": _unet_1d,
    "diffusion": _diffusion,
    "guided": _guided,
    "karras": _karras,
    "karras-1d": _karras_1d,
    "simple": _simple,
}
