"""Recommenders, graphs, sets, latents, splines, capsules, equilibria, pairs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.awkward import vectors
from tests.zoo.case import Case

LINEAR, HEAD, BIAS = "hidden oi spectral", "output oi sign", {"*bias": "bias o rms"}


class DLRM(nn.Module):
    """Bags of categories and dense features; all pairs of dot products; wide weights of each category."""

    pairs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(n, 8, mode="sum") for n in (20, 30))
        self.wide, self.bottom = nn.Embedding(20, 1), nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 8))
        self.top, self.head = nn.Linear(11, 16), nn.Linear(16, 2)
        self.register_buffer("pairs", torch.tril_indices(3, 3, offset=-1))

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        x = self.bottom(dense).relu()
        stack = torch.stack([x] + [bag(ids) for bag in self.bags], dim=1)
        dots = torch.bmm(stack, stack.transpose(1, 2))
        flat = dots[:, self.pairs[0], self.pairs[1]]
        y = self.head(self.top(torch.cat([x, flat], dim=1)).relu())
        return y + self.wide(ids).sum(dim=1)


class TwoTowers(nn.Module):
    """Users and items: biases of each, a global mean, a temperature; the towers' last layers give the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item, self.tower = nn.Embedding(20, 8), nn.Embedding(30, 8), nn.Linear(8, 8)
        self.user_bias, self.item_bias = nn.Embedding(20, 1), nn.Embedding(30, 1)
        self.mean, self.log_temperature = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(()))

    def forward(self, u: Tensor, i: Tensor) -> Tensor:
        a, b = F.normalize(self.tower(self.user(u)), dim=-1), F.normalize(self.item(i), dim=-1)
        score = (a * b).sum(-1) * self.log_temperature.exp()
        return score + self.user_bias(u).squeeze(-1) + self.item_bias(i).squeeze(-1) + self.mean


class GCN(nn.Module):
    """A dense normalised adjacency after the product, then sums over edges of what a source sends (GraphSAGE)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(6, 16)), nn.Parameter(torch.zeros(16))
        self.self_, self.neighbour = nn.Linear(16, 16), nn.Linear(16, 16, bias=False)
        self.message, self.eps, self.head = nn.Linear(32, 16), nn.Parameter(torch.zeros(1)), nn.Linear(16, 3)

    def forward(self, x: Tensor, adjacency: Tensor, edges: Tensor) -> Tensor:
        degree = adjacency.sum(1).pow(-0.5)
        x = ((degree[:, None] * adjacency * degree) @ torch.mm(x, self.weight) + self.bias).relu()
        total = torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
        x = (self.self_(x) + self.neighbour(total)).relu()
        messages = self.message(torch.cat([x[edges[0]], x[edges[1]]], dim=-1)).relu()
        x = (1 + self.eps) * x + torch.zeros_like(x).scatter_add(0, edges[1][:, None].expand(-1, 16), messages)
        return self.head(x)


class GAT(nn.Module):
    """Attention over edges: two vectors a head score source and target, by a sum of products and by a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.head = nn.Linear(6, 32, bias=False), nn.Linear(16, 3)
        self.att_src, self.att_dst = nn.Parameter(torch.randn(1, 4, 8)), nn.Parameter(torch.randn(1, 4, 8))
        self.bias, self.w = nn.Parameter(torch.zeros(32)), nn.Parameter(torch.randn(32, 16))
        self.a = nn.Parameter(torch.randn(32, 1))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.lin(x).view(-1, 4, 8)
        source, target = edges[0], edges[1]
        score = (h * self.att_src).sum(-1)[source] + (h * self.att_dst).sum(-1)[target]
        score = F.leaky_relu(score, 0.2).exp()
        total = torch.zeros(x.shape[0], 4).index_add(0, target, score)
        alpha = score / total[target]
        out = torch.zeros(x.shape[0], 4, 8).index_add(0, target, h[source] * alpha.unsqueeze(-1))
        h = F.elu(out.reshape(-1, 32) + self.bias) @ self.w
        e = h @ self.a[:16] + (h @ self.a[16:]).T
        return self.head(F.leaky_relu(e).softmax(dim=1) @ h)


class Splines(nn.Module):
    """KAN: a spline for every pair of input and output, beside a plain linear layer; mixture-density heads."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.spline = nn.Parameter(torch.randn(12, 4)), nn.Parameter(torch.randn(12, 4, 5))
        self.second, self.coefficients = nn.Linear(12, 8), nn.Parameter(torch.randn(12, 8, 5))
        self.pi, self.mu, self.sigma = nn.Linear(8, 3), nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.linear(F.silu(x), self.base) + F.linear(self.basis(x).flatten(1), self.spline.view(12, -1))
        x = self.second(F.silu(x)) + torch.einsum("bik,iok->bo", self.basis(x), self.coefficients)
        mu = self.mu(x).view(-1, 3, 2)
        return self.pi(x).log_softmax(-1), mu, self.sigma(x).view(-1, 3, 2).exp()

    def basis(self, x: Tensor) -> Tensor:
        return torch.exp(-((x.unsqueeze(-1) - torch.linspace(-1, 1, 5)) ** 2))


class Capsules(nn.Module):
    """Every capsule's vote for every other by a matrix of its own, then routing by agreement."""

    def __init__(self) -> None:
        super().__init__()
        self.primary, self.votes = nn.Conv1d(1, 12, 3, stride=3), nn.Parameter(torch.randn(12, 5, 6, 4))
        self.decoder = nn.Linear(30, 10)

    def forward(self, x: Tensor) -> Tensor:
        u = F.normalize(self.primary(x).view(x.shape[0], 12, 4), dim=-1)
        votes = torch.einsum("bni,ncoi->bnco", u, self.votes)
        logits = torch.zeros(x.shape[0], 12, 5)
        v = torch.zeros(())
        for _ in range(2):
            s = (logits.softmax(dim=2).unsqueeze(-1) * votes).sum(dim=1)
            v = s * s.norm(dim=-1, keepdim=True) / (1 + s.square().sum(dim=-1, keepdim=True))
            logits = logits + (votes * v.unsqueeze(1)).sum(-1)
        return self.decoder(v.flatten(1))


class Equilibrium(nn.Module):
    """The same weights again and again (a fixed point), with the input put in each time; a neural ODE's steps."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u, self.field, self.head = (
            nn.Linear(16, 16, bias=False),
            nn.Linear(6, 16),
            nn.Linear(17, 16),
            nn.Linear(16, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        u = self.u(x)
        z = torch.zeros_like(u)
        for _ in range(3):
            z = torch.tanh(self.w(z) + u)
        for step in range(2):
            z = z + 0.5 * self.field(torch.cat([z, torch.full_like(z[:, :1], step / 2)], dim=1)).tanh()
        return self.head(z)


EDGES = torch.tensor([[0, 1, 2, 3, 4, 1], [1, 2, 3, 4, 0, 3]])

OTHER: dict[str, Case] = {
    # A weight of one number a category adds to both scores: an embedding as wide as the scores' broadcast.
    "dlrm": Case(
        DLRM,
        lambda: (vectors(3, 5), torch.tensor([[1, 2], [3, 4], [5, 6]])),
        BIAS
        | {
            "bags.?.weight": "embedding xo colnorm",
            "wide.weight": "embedding x- colnorm",
            "bottom.0.weight": "input oi spectral",
            "bottom.2.weight": LINEAR,
            "top.weight": LINEAR,
            "head.weight": HEAD,
        },
    ),
    "two-towers": Case(
        TwoTowers,
        lambda: (torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])),
        {
            "user.weight": "embedding xo colnorm",
            "item.weight": "embedding xo colnorm",
            "*_bias.weight": "embedding x- colnorm",
            "tower.weight": HEAD,
            "tower.bias": "bias o rms",
            "mean": "scalar - sign",
            "log_temperature": "scalar  sign",
        },
    ),
    "gcn": Case(
        GCN,
        lambda: (vectors(5, 6), torch.ones(5, 5), EDGES),
        {
            "weight": "input io spectral",
            "*bias": "bias o rms",
            "*.weight": LINEAR,
            "eps": "scalar - sign",
            "head.weight": HEAD,
        },
    ),
    # (h * a).sum(-1) is a product with one row a head. The two halves of `a` are two vectors, for source and target.
    "gat": Case(
        GAT,
        lambda: (vectors(5, 6), EDGES),
        {
            "lin.weight": "input oi spectral",
            "att_*": "hidden obi spectral",
            "*bias": "bias o rms",
            "w": "hidden io spectral",
            "a": "hidden io spectral",
            "head.weight": HEAD,
        },
    ),
    # A spline is a linear map from the basis of every input: its fan-in is inputs by knots.
    "kan": Case(
        Splines,
        lambda: vectors(3, 4),
        BIAS
        | {
            "base": "input oi spectral",
            "spline": "input oii spectral",
            "second.weight": LINEAR,
            "coefficients": "hidden ioi spectral",
            "pi.weight": HEAD,
            "mu.weight": HEAD,
            "sigma.weight": HEAD,
        },
    ),
    "capsules": Case(
        Capsules,
        lambda: vectors(2, 1, 12),
        BIAS
        | {
            "primary.weight": "input oik spectral",
            "votes": "hidden booi spectral",
            "decoder.weight": HEAD,
        },
    ),
    "equilibrium": Case(
        Equilibrium,
        lambda: vectors(3, 6),
        BIAS | {"w.weight": LINEAR, "u.weight": "input oi spectral", "field.weight": LINEAR, "head.weight": HEAD},
    ),
}
