"""torch_geometric: a layer of messages between two linear ones, and whole models of molecules and graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of

PACKAGES = ("torch-geometric",)
MODULES = ("torch_geometric.nn",)
_NODES, _EDGES = 8, 24


def _edges() -> Tensor:
    return torch.randint(0, _NODES, (2, _EDGES))


class Around(nn.Module):
    """A layer of messages between two linear layers."""

    def __init__(self, layer: nn.Module, width: int, out: int) -> None:
        super().__init__()
        self.stem, self.layer, self.head = nn.Linear(10, width), layer, nn.Linear(out, 4)

    def forward(self, x: Tensor, edges: Tensor, **more: Any) -> Any:
        """x: [nodes, 10]; edges: [2, edges]."""
        h = self.layer(self.stem(x).relu(), edges, **more)
        return self.head((h[0] if isinstance(h, tuple) else h).relu())


Options = Callable[[], dict[str, Any]]


def _layer(kind: str, *sizes: Any, out: int = 16, more: Options = dict, **options: Any) -> Build:
    """The layer of 16 channels called `kind`; `more` makes further arguments of its forward."""

    def build(draw: Draw) -> Example:
        made = getattr(library("torch_geometric.nn"), kind)(*sizes, **options)
        return of(Around(made, 16, out), torch.randn(_NODES, 10), _edges(), **more())

    return build


def _mlp(inputs: int, out: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 12), nn.ReLU(), nn.Linear(12, out))


def _attributes(width: int) -> Options:
    return lambda: {"edge_attr": torch.rand(_EDGES, width)}


def _kinds(count: int = 3) -> Options:
    return lambda: {"edge_type": torch.randint(0, count, (_EDGES,))}


def _network(kind: str, **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        made = getattr(library("torch_geometric.nn"), kind)(
            in_channels=10, hidden_channels=16, num_layers=2, out_channels=4, **options
        )
        return of(made, torch.randn(_NODES, 10), _edges())

    return build


def _molecule(kind: str, **options: Any) -> Build:
    """A model of atoms in space, with the graph given: the library's own search needs a compiled package."""

    def build(draw: Draw) -> Example:
        geometric = library("torch_geometric.nn")
        made = getattr(geometric, kind)(**options)
        return of(made, torch.randint(1, 9, (_NODES,)), torch.randn(_NODES, 3) * 2, torch.arange(_NODES) // 4)

    return build


def _near(position: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs within a molecule, and their distances."""
    same = (batch[:, None] == batch) & ~torch.eye(len(batch), dtype=torch.bool)
    row, column = same.nonzero().unbind(1)
    return torch.stack([row, column]), (position[row] - position[column]).norm(dim=-1)


def _transfer(draw: Draw) -> Example:
    made = library("torch_geometric.nn").GraphUNet(10, 16, 4, depth=2)
    return of(made, torch.randn(_NODES, 10), _edges())


def _attentive(draw: Draw) -> Example:
    made = library("torch_geometric.nn").AttentiveFP(10, 16, 4, edge_dim=5, num_layers=2, num_timesteps=2)
    return of(made, torch.randn(_NODES, 10), _edges(), torch.rand(_EDGES, 5), torch.arange(_NODES) // 4)


def _lightgcn(draw: Draw) -> Example:
    return of(library("torch_geometric.nn").LightGCN(_NODES, 16, 2), _edges())


def _linkx(draw: Draw) -> Example:
    return of(library("torch_geometric.nn").LINKX(_NODES, 10, 16, 4, 2), torch.randn(_NODES, 10), _edges())


def _simple(draw: Draw) -> Example:
    made = library("torch_geometric.nn").models.SGFormer(10, 16, 4)
    return of(made, torch.randn(_NODES, 10), _edges(), torch.zeros(_NODES, dtype=torch.long))


def _hetero(draw: Draw) -> Example:
    kinds = (["a", "b"], [("a", "to", "b"), ("b", "of", "a")])
    made = library("torch_geometric.nn").HGTConv(10, 16, kinds, heads=2)
    nodes = {kind: torch.randn(_NODES, 10) for kind in kinds[0]}
    return of(made, nodes, {edge: _edges() for edge in kinds[1]})


MODELS: dict[str, Build] = {
    "gcn": _layer("GCNConv", 16, 16),
    "gat": _layer("GATConv", 16, 8, heads=2),
    "gat-edges": _layer("GATConv", 16, 8, heads=2, edge_dim=5, more=_attributes(5)),
    "gatv2": _layer("GATv2Conv", 16, 8, heads=2),
    "transformer": _layer("TransformerConv", 16, 8, heads=2, beta=True),
    "sage": _layer("SAGEConv", 16, 16, project=True),
    "gin": lambda draw: _layer("GINConv", _mlp(16), train_eps=True)(draw),
    "gine": lambda draw: _layer("GINEConv", _mlp(16), edge_dim=5, more=_attributes(5))(draw),
    "nnconv": lambda draw: _layer("NNConv", 16, 16, _mlp(5, 256), more=_attributes(5))(draw),
    "rgcn": _layer("RGCNConv", 16, 16, 3, more=_kinds()),
    "rgcn-bases": _layer("RGCNConv", 16, 16, 3, num_bases=2, more=_kinds()),
    "rgcn-blocks": _layer("RGCNConv", 16, 16, 3, num_blocks=4, more=_kinds()),
    "fast-rgcn": _layer("FastRGCNConv", 16, 16, 3, more=_kinds()),
    "rgat": _layer("RGATConv", 16, 8, 3, heads=2, more=_kinds()),
    "film": _layer("FiLMConv", 16, 16, num_relations=3, more=_kinds()),
    "gmm": _layer("GMMConv", 16, 16, dim=2, kernel_size=3, more=_attributes(2)),
    "gmm-separate": _layer("GMMConv", 16, 16, dim=2, kernel_size=3, separate_gaussians=True, more=_attributes(2)),
    "arma": _layer("ARMAConv", 16, 16, num_stacks=2, num_layers=2),
    "arma-shared": _layer("ARMAConv", 16, 16, num_stacks=2, num_layers=2, shared_weights=True),
    "cheb": _layer("ChebConv", 16, 16, 3),
    "tag": _layer("TAGConv", 16, 16),
    "mixhop": _layer("MixHopConv", 16, 8, out=24),
    "gated": _layer("GatedGraphConv", 16, 2),
    "res-gated": _layer("ResGatedGraphConv", 16, 16),
    "cg": _layer("CGConv", 16, 5, more=_attributes(5)),
    "feast": _layer("FeaStConv", 16, 16, heads=2),
    "dna": lambda draw: of(
        library("torch_geometric.nn").DNAConv(16, heads=2, groups=2), torch.randn(_NODES, 3, 16), _edges()
    ),
    "eg": _layer("EGConv", 16, 16, num_heads=4, num_bases=3),
    "gen": _layer("GENConv", 16, 16, learn_t=True, msg_norm=True, learn_msg_scale=True),
    "gcn2": lambda draw: of(
        library("torch_geometric.nn").GCN2Conv(16, 0.1, 0.5, 1, shared_weights=False),
        torch.randn(_NODES, 16), torch.randn(_NODES, 16), _edges(),
    ),
    "fa": lambda draw: of(
        library("torch_geometric.nn").FAConv(16), torch.randn(_NODES, 16), torch.randn(_NODES, 16), _edges()
    ),
    "agnn": _layer("AGNNConv"),
    "super-gat": _layer("SuperGATConv", 16, 8, heads=2),
    "cluster": _layer("ClusterGCNConv", 16, 16),
    "le": _layer("LEConv", 16, 16),
    "mf": _layer("MFConv", 16, 16, max_degree=3),
    "pdn": _layer("PDNConv", 16, 16, edge_dim=5, hidden_channels=8, more=_attributes(5)),
    "pna": _layer("PNAConv", 16, 16, ["mean", "max"], ["identity", "attenuation"], deg=torch.tensor([1, 2, 4, 3]),
                  towers=2),
    "general": _layer("GeneralConv", 16, 16, heads=2, attention=True),
    "anti-symmetric": _layer("AntiSymmetricConv", 16),
    "hypergraph": _layer("HypergraphConv", 16, 16),
    "gps": lambda draw: _layer("GPSConv", 16, library("torch_geometric.nn").GCNConv(16, 16), heads=2)(draw),
    "edge": lambda draw: _layer("EdgeConv", _mlp(32))(draw),
    "hgt": _hetero,
    "network-gcn": _network("GCN", norm="layer_norm", jk="cat"),
    "network-gat": _network("GAT", heads=2, v2=True),
    "network-gin": _network("GIN", norm="batch_norm"),
    "network-edge": _network("EdgeCNN", jk="lstm"),
    "unet": _transfer,
    "attentive-fp": _attentive,
    "lightgcn": _lightgcn,
    "linkx": _linkx,
    "sgformer": _simple,
    "schnet": lambda draw: _molecule("SchNet", hidden_channels=16, num_filters=16, num_interactions=2, num_gaussians=8,
                                     interaction_graph=_near)(draw),
}  # fmt: skip
