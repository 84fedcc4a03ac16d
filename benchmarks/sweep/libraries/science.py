"""Models of physics and of points in space: neuraloperator, e3nn, schnetpack, egnn, normflows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of

PACKAGES = ("neuraloperator", "e3nn", "egnn-pytorch", "normflows", "mambapy")
MODULES = ("neuralop.models", "e3nn.o3", "e3nn.nn", "egnn_pytorch", "normflows", "mambapy.mamba")


def _operator(kind: str, **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        return of(getattr(library("neuralop.models"), kind)(**options), torch.randn(2, 3, 16, 16))

    return build


_FNO: dict[str, Any] = {"n_modes": (6, 6), "in_channels": 3, "out_channels": 2, "hidden_channels": 12, "n_layers": 2}


class Points(nn.Module):
    """A tensor product of features and spherical harmonics, gated, then an equivariant linear layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        o3, blocks = library("e3nn.o3"), library("e3nn.nn")
        self.o3, hidden = o3, o3.Irreps("8x0e + 4x1o")
        self.embed = o3.Linear(o3.Irreps("5x0e"), hidden)
        product = getattr(o3, kind)
        if kind == "FullyConnectedTensorProduct":
            self.product = product(hidden, o3.Irreps("1x0e + 1x1o"), o3.Irreps("8x0e + 4x0e + 4x1o"))
            self.gate = blocks.Gate("8x0e", [torch.relu], "4x0e", [torch.sigmoid], "4x1o")
            middle = self.gate.irreps_out
        else:
            self.product, self.gate = product(hidden, o3.Irreps("1x0e + 1x1o")), None
            middle = self.product.irreps_out
        self.weights = None
        if self.product.weight_numel and not self.product.internal_weights:
            self.weights = blocks.FullyConnectedNet([3, 12, self.product.weight_numel], torch.relu)
        self.head = o3.Linear(middle, "2x0e")

    def forward(self, x: Tensor, position: Tensor) -> Any:
        """x: [points, 5]; position: [points, 3]."""
        sphere = self.o3.spherical_harmonics("1x0e + 1x1o", position, normalize=True)
        weights = () if self.weights is None else (self.weights(position.square()),)
        h = self.product(self.embed(x), sphere, *weights)
        return self.head(h if self.gate is None else self.gate(h))


def _points(kind: str) -> Build:
    return lambda draw: of(Points(kind), torch.randn(7, 5), torch.randn(7, 3))


def _gates(draw: Draw) -> Example:
    made = library("e3nn.nn.models.v2106.gate_points_networks").SimpleNetwork(
        irreps_in="3x0e", irreps_out="2x0e", max_radius=2.0, num_neighbors=3.0, num_nodes=5.0, mul=4, layers=1, lmax=1
    )
    edges = torch.randint(0, 6, (2, 14))
    return of(made, {"pos": torch.randn(6, 3), "x": torch.randn(6, 3), "edge_index": edges,
                     "batch": torch.zeros(6, dtype=torch.long)})  # fmt: skip


def _egnn(draw: Draw) -> Example:
    made = library("egnn_pytorch").EGNN_Network(
        num_tokens=9, num_positions=12, dim=16, depth=2, num_nearest_neighbors=4, coor_weights_clamp_value=2.0,
        global_linear_attn_every=1, global_linear_attn_heads=2, global_linear_attn_dim_head=8,
    )  # fmt: skip
    return of(made, torch.randint(0, 9, (2, 12)), torch.randn(2, 12, 3))


class Density(nn.Module):
    """The forward KL divergence of a normalising flow."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> Any:
        """x: [batch, 2]."""
        return self.flow.forward_kld(x)  # type: ignore[operator]  # a method of normflows' models


def _flow(layer: Any) -> Build:
    def build(draw: Draw) -> Example:
        flows = library("normflows")
        layers = [made for _ in range(2) for made in layer(flows)]
        return of(Density(flows.NormalizingFlow(flows.distributions.base.DiagGaussian(2), layers)), torch.randn(6, 2))

    return build


def _mamba(draw: Draw) -> Example:
    home = library("mambapy.mamba")
    made = home.Mamba(home.MambaConfig(d_model=16, n_layers=2, d_state=4, pscan=draw.random() < 0.5, use_cuda=False))
    return of(made, torch.randn(2, 9, 16))


MODELS: dict[str, Build] = {
    "fno": _operator("FNO", **_FNO),
    "fno-norm": _operator("FNO", **_FNO, norm="group_norm", fno_skip="soft-gating"),
    "fno-separable": _operator("FNO", **_FNO, separable=True),
    "fno-complex": _operator("FNO", **_FNO, channel_mlp_skip="linear"),
    "tfno": _operator("TFNO", **_FNO, rank=0.4),
    "tfno-cp": _operator("FNO", **_FNO, factorization="CP", rank=0.4),
    "tfno-tt": _operator("FNO", **_FNO, factorization="TT", rank=0.4),
    "uno": _operator("UNO", in_channels=3, out_channels=2, hidden_channels=12, n_layers=3, lifting_channels=12,
                     projection_channels=12, uno_out_channels=[12, 16, 12], uno_n_modes=[[6, 6], [4, 4], [6, 6]],
                     uno_scalings=[[1, 1], [0.5, 0.5], [2, 2]], channel_mlp_skip="linear"),
    "e3-product": _points("FullyConnectedTensorProduct"),
    "e3-full": _points("FullTensorProduct"),
    "e3-gates": _gates,
    "egnn": _egnn,
    "flow-realnvp": _flow(lambda flows: [
        flows.flows.AffineCouplingBlock(flows.nets.MLP([1, 12, 2], init_zeros=True)), flows.flows.Permute(2, "swap"),
    ]),
    "flow-spline": _flow(lambda flows: [flows.flows.AutoregressiveRationalQuadraticSpline(2, 1, 12)]),
    "flow-glow": _flow(lambda flows: [flows.flows.LULinearPermute(2), flows.flows.ActNorm(2)]),
    "flow-planar": _flow(lambda flows: [flows.flows.MaskedAffineAutoregressive(2, 12)]),
    "flow-residual": _flow(lambda flows: [
        flows.flows.Residual(flows.nets.LipschitzMLP([2, 12, 2], init_zeros=True, lipschitz_const=0.9)),
    ]),
    "mamba": _mamba,
}  # fmt: skip
