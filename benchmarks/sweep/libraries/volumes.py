"""monai: networks of medical volumes and images."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of

PACKAGES = ("monai",)
MODULES = ("monai.networks.nets",)


def _net(kind: str, shape: tuple[int, ...] = (2, 1, 32, 32), **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        return of(getattr(library("monai.networks.nets"), kind)(**options), torch.randn(shape))

    return build


_FLAT: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
_CUBE = (1, 1, 32, 32, 32)


def _diffusion(draw: Draw) -> Example:
    made = library("monai.networks.nets").DiffusionModelUNet(
        **_FLAT, channels=(16, 32), attention_levels=(False, True), num_res_blocks=1, num_head_channels=8,
        norm_num_groups=4, with_conditioning=True, cross_attention_dim=12, num_class_embeds=5,
    )  # fmt: skip
    return of(made, torch.randn(2, 1, 16, 16), torch.tensor([3, 70]), context=torch.randn(2, 4, 12),
              class_labels=torch.tensor([4, 2]))  # fmt: skip


def _registered(draw: Draw) -> Example:
    made = library("monai.networks.nets").VoxelMorphUNet(
        spatial_dims=2, in_channels=2, unet_out_channels=16, channels=(8, 8, 16, 16, 16, 16), final_conv_channels=(8,)
    )
    return of(made, torch.randn(2, 2, 32, 32))


def _control(draw: Draw) -> Example:
    made = library("monai.networks.nets").ControlNet(
        spatial_dims=2, in_channels=1, channels=(16, 32), attention_levels=(False, True), num_res_blocks=1,
        num_head_channels=8, norm_num_groups=4, conditioning_embedding_num_channels=(8,),
    )  # fmt: skip
    return of(made, torch.randn(2, 1, 16, 16), torch.tensor([3, 70]), torch.randn(2, 1, 16, 16))


MODELS: dict[str, Build] = {
    "unet": _net("UNet", **_FLAT, channels=(8, 16, 32), strides=(2, 2), num_res_units=2),
    "attention-unet": _net("AttentionUnet", **_FLAT, channels=(8, 16, 32), strides=(2, 2)),
    "basic-unet": _net("BasicUNet", **_FLAT, features=(8, 8, 16, 16, 32, 8)),
    "basic-unet++": _net("BasicUNetPlusPlus", **_FLAT, features=(8, 8, 16, 16, 32, 8)),
    "dyn-unet": _net("DynUNet", **_FLAT, kernel_size=[3, 3, 3], strides=[1, 2, 2], upsample_kernel_size=[2, 2],
                     filters=[8, 16, 32], deep_supervision=True, deep_supr_num=1, res_block=True),
    "segresnet": _net("SegResNet", **_FLAT, init_filters=8, blocks_down=(1, 1), blocks_up=(1,)),
    "segresnet-ds": _net("SegResNetDS", **_FLAT, init_filters=8, blocks_down=(1, 1)),
    "segresnet-vae": _net("SegResNetVAE", (2, 1, 32, 32), input_image_size=(32, 32), **_FLAT, init_filters=8,
                          blocks_down=(1, 1), blocks_up=(1,), vae_nz=8),
    "vnet": _net("VNet", (2, 1, 32, 32), **_FLAT),
    "highres": _net("HighResNet", **_FLAT),
    "medne-xt": _net("MedNeXt", **_FLAT, init_filters=8, blocks_down=(1,), blocks_bottleneck=1, blocks_up=(1,)),
    "densenet": _net("DenseNet", **_FLAT, init_features=8, growth_rate=4, block_config=(2, 2)),
    "resnet": _net("ResNet", block="basic", layers=[1, 1, 1, 1], block_inplanes=[8, 8, 16, 16], spatial_dims=2,
                   n_input_channels=1, num_classes=3),
    "senet": _net("SEResNet50", (2, 1, 64, 64), spatial_dims=2, in_channels=1, num_classes=3, layers=(1, 1, 1, 1)),
    "efficientnet": _net("EfficientNetBN", (2, 1, 64, 64), model_name="efficientnet-b0", pretrained=False,
                         spatial_dims=2, in_channels=1, num_classes=3),
    "flexible-unet": _net("FlexibleUNet", (2, 1, 64, 64), in_channels=1, out_channels=2, backbone="efficientnet-b0",
                          pretrained=False, spatial_dims=2),
    "vit": _net("ViT", in_channels=1, img_size=(32, 32), patch_size=(8, 8), hidden_size=24, mlp_dim=32, num_layers=2,
                num_heads=2, classification=True, num_classes=3, spatial_dims=2),
    "masked-vit": _net("MaskedAutoEncoderViT", in_channels=1, img_size=(32, 32), patch_size=(8, 8), hidden_size=24,
                       mlp_dim=32, num_layers=2, num_heads=2, decoder_hidden_size=24, decoder_mlp_dim=32,
                       decoder_num_layers=1, decoder_num_heads=2, spatial_dims=2),
    "unetr": _net("UNETR", (1, 1, 32, 32), in_channels=1, out_channels=2, img_size=(32, 32), feature_size=8,
                  hidden_size=24, mlp_dim=32, num_heads=2, spatial_dims=2),
    "swin-unetr": _net("SwinUNETR", (1, 1, 64, 64), in_channels=1, out_channels=2, feature_size=12, depths=(1, 1, 1, 1),
                       num_heads=(2, 2, 2, 2), spatial_dims=2, use_v2=True),
    "swin-unetr-volume": _net("SwinUNETR", _CUBE, in_channels=1, out_channels=2, feature_size=12, depths=(1, 1, 1, 1),
                              num_heads=(2, 2, 2, 2)),
    "autoencoder": _net("AutoEncoder", **_FLAT, channels=(8, 16), strides=(2, 2)),
    "variational": _net("VarAutoEncoder", spatial_dims=2, in_shape=(1, 32, 32), out_channels=1, latent_size=4,
                        channels=(8, 16), strides=(2, 2)),
    "vqvae": _net("VQVAE", spatial_dims=2, in_channels=1, out_channels=1, channels=(8, 16), num_res_channels=(8, 16),
                  num_res_layers=1, downsample_parameters=((2, 4, 1, 1), (2, 4, 1, 1)),
                  upsample_parameters=((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)), num_embeddings=16, embedding_dim=8),
    "autoencoder-kl": _net("AutoencoderKL", spatial_dims=2, in_channels=1, out_channels=1, channels=(8, 16),
                           latent_channels=4, num_res_blocks=(1, 1), norm_num_groups=4,
                           attention_levels=(False, True)),
    "discriminator": _net("PatchDiscriminator", spatial_dims=2, in_channels=1, channels=8, num_layers_d=2),
    "hovernet": _net("HoVerNet", (1, 3, 256, 256), mode="fast", in_channels=3, out_classes=3),
    "regression": _net("RegUNet", (2, 2, 32, 32), spatial_dims=2, in_channels=2, num_channel_initial=8, depth=2,
                       out_channels=2),
    "dints": lambda draw: of(
        library("monai.networks.nets").DiNTS(
            dints_space=library("monai.networks.nets").TopologySearch(channel_mul=0.25, num_blocks=2, num_depths=3,
                                                                      use_downsample=True, spatial_dims=2),
            in_channels=1, num_classes=2, spatial_dims=2, use_downsample=True,
        ),
        torch.randn(1, 1, 32, 32),
    ),
    "diffusion": _diffusion,
    "voxel-morph": _registered,
    "controlnet": _control,
    "milmodel": lambda draw: of(
        library("monai.networks.nets").MILModel(num_classes=3, mil_mode="att_trans", pretrained=False),
        torch.randn(1, 2, 3, 64, 64),
    ),
    "transformer": lambda draw: of(
        library("monai.networks.nets").DecoderOnlyTransformer(
            num_tokens=23, max_seq_len=16, attn_layers_dim=16, attn_layers_depth=2, attn_layers_heads=2
        ),
        torch.randint(0, 23, (2, 9)),
    ),
}  # fmt: skip
