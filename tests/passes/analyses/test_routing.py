"""A router's choice says where others go; a metric's, a decoder's and a sorted activation's doesn't."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc

EXPERTS = 4


class Mixture(nn.Module):
    """Experts behind a gate, in the form that the case has."""

    def __init__(self, form: Callable[[Mixture, Tensor, Tensor], Tensor], gates: int = EXPERTS) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Linear(6, 8), nn.Linear(8, gates, bias=False), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(EXPERTS))
        self.w = nn.Parameter(torch.randn(EXPERTS, 8, 8))
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).relu()
        return self.head(h + self.form(self, h, self.gate(h)))

    def all(self, h: Tensor) -> Tensor:
        return torch.stack([expert(h) for expert in self.experts], 1)


def loop(net: Mixture, h: Tensor, g: Tensor) -> Tensor:
    share, chosen = g.softmax(-1).topk(2)
    out = torch.zeros_like(h)
    for number, expert in enumerate(net.experts):
        rows, slot = torch.where(chosen == number)
        out = out.index_add(0, rows, expert(h[rows]) * share[rows, slot, None])
    return out


def masks(net: Mixture, h: Tensor, g: Tensor) -> Tensor:
    p = g.softmax(-1)
    best = p.argmax(-1)
    return sum((best == n)[:, None] * expert(h) for n, expert in enumerate(net.experts)) * p.amax(-1, keepdim=True)


def one_hot(net: Mixture, h: Tensor, g: Tensor) -> Tensor:
    p, best = g.softmax(-1).max(-1)
    return torch.einsum("be,bed->bd", F.one_hot(best, EXPERTS) * p[:, None], net.all(h))


def written(net: Mixture, h: Tensor, g: Tensor) -> Tensor:
    values, places = g.topk(2)
    gates = torch.zeros_like(g).scatter(-1, places, values.softmax(-1))
    return (gates[..., None] * net.all(h)).sum(1)


def masked_scores(net: Mixture, h: Tensor, g: Tensor) -> Tensor:
    least = g.topk(2)[0][:, -1:]
    gates = g.masked_fill(g < least, -1e9).softmax(-1)
    return torch.bmm(gates[:, None], net.all(h))[:, 0]


def gathered(net: Mixture, h: Tensor, g: Tensor) -> Tensor:
    share, chosen = g.sigmoid().topk(2)
    places = chosen[..., None].expand(-1, -1, 8)
    return (net.all(h).gather(1, places) * share[..., None]).sum(1)


def stacked(net: Mixture, h: Tensor, g: Tensor) -> Tensor:
    share, chosen = g.softmax(-1).max(-1)
    return torch.bmm(h[:, None], net.w[chosen])[:, 0] * share[:, None]


def sorted_tokens(net: Mixture, h: Tensor, g: Tensor) -> Tensor:
    share, chosen = g.softmax(-1).topk(1)
    order = chosen.flatten().argsort()
    counts = torch.bincount(chosen.flatten(), minlength=EXPERTS)
    ends = counts.cumsum(0)
    rows = torch.arange(len(h))[:, None]
    inside = ((rows < ends) & (rows >= ends - counts)).to(h.dtype)
    out = torch.einsum("be,bd,edf->bf", inside, h[order], net.w)
    return torch.zeros_like(h).index_copy(0, order, out) * share


def sinkhorn(net: Mixture, h: Tensor, g: Tensor) -> Tensor:
    with torch.no_grad():
        cost = g.exp()
        rows, columns = torch.ones(len(h)), torch.ones(EXPERTS)
        for _ in range(8):
            rows = 1 / (EXPERTS * (columns * cost).sum(1))
            columns = 1 / (len(h) * (rows[:, None] * cost).sum(0))
        best = (columns * cost * rows[:, None]).argmax(-1)
    share = g.sigmoid().gather(1, best[:, None])
    out = torch.zeros_like(h)
    for number, expert in enumerate(net.experts):
        rows_ = (best == number).nonzero()[:, 0]
        out = out.index_copy(0, rows_, expert(h[rows_]))
    return out * share


def expert_choice(net: Mixture, h: Tensor, g: Tensor) -> Tensor:
    share, tokens = g.softmax(-1).t().topk(3)
    picked = F.one_hot(tokens, len(h)).to(h.dtype)
    inside = torch.einsum("ecb,bd->ecd", picked, h)
    outside = torch.einsum("ecd,edf->ecf", inside, net.w)
    return torch.einsum("ecb,ec,ecf->bf", picked, share, outside)


def straight_through(net: Mixture, h: Tensor, g: Tensor) -> Tensor:
    gates = F.gumbel_softmax(g, hard=True)
    return torch.einsum("be,bed->bd", gates, net.all(h))


def depth(net: Mixture, h: Tensor, g: Tensor) -> Tensor:
    share, tokens = g[:, 0].topk(2)
    return torch.zeros_like(h).index_add(0, tokens, net.experts[0](h[tokens]) * share[:, None])


ROUTERS = [loop, masks, one_hot, written, masked_scores, gathered, stacked, sorted_tokens, sinkhorn, expert_choice,
           straight_through]  # fmt: skip


@pytest.mark.parametrize("form", ROUTERS, ids=lambda form: form.__name__)
def test_a_router_of_experts(form: Callable[[Mixture, Tensor, Tensor], Tensor]) -> None:
    assert normc.plan(Mixture(form), torch.randn(5, 6))["gate.weight"].role == "router"


def test_a_router_of_depth() -> None:
    assert normc.plan(Mixture(depth, gates=1), torch.randn(5, 6))["gate.weight"].role == "router"


class Speaker(nn.Module):
    """Tokens in, scores of tokens out, in the form that the case has."""

    def __init__(self, form: Callable[[Speaker, Tensor], object]) -> None:
        super().__init__()
        self.embed, self.mid, self.head = nn.Embedding(12, 8), nn.Linear(8, 8), nn.Linear(8, 12)
        self.form = form

    def forward(self, ids: Tensor) -> object:
        return self.form(self, ids)

    def scores(self, h: Tensor) -> Tensor:
        return self.head(self.mid(h).relu())

    def said(self, ids: Tensor) -> Tensor:
        return self.scores(self.embed(ids))


def decoded(step: Callable[[Speaker, Tensor], Tensor]) -> Callable[[Speaker, Tensor], Tensor]:
    """Three tokens more, each the embedding of the last one's best."""

    def run(net: Speaker, ids: Tensor) -> Tensor:
        h, out = net.embed(ids), []
        for _ in range(3):
            out.append(net.scores(h[:, -1]))
            h = torch.cat([h, step(net, out[-1])[:, None]], 1)
        return torch.stack(out, 1)

    return run


HEADS: dict[str, Callable[[Speaker, Tensor], object]] = {
    "accuracy": lambda net, i: (s := net.said(i), (s.argmax(-1) == i).float().mean()),
    "accuracy by max": lambda net, i: (s := net.said(i), (s.max(-1)[1] == i).float().mean()),
    "top-5 accuracy": lambda net, i: (s := net.said(i), (s.topk(5)[1] == i[..., None]).any(-1).float().mean()),
    "rank of the label": lambda net, i: (
        s := net.said(i),
        (s.argsort(-1, descending=True) == i[..., None]).float().argmax(-1).float().mean(),
    ),
    "wrongs weigh more": lambda net, i: (
        F.cross_entropy((s := net.said(i)).mT, i, reduction="none") * (1 + (s.argmax(-1) != i).float())
    ).mean(),
    "its own labels": lambda net, i: F.cross_entropy((s := net.said(i)).mT, s.argmax(-1)),
    "confusion": lambda net, i: (s := net.said(i), torch.bincount((i * 12 + s.argmax(-1)).flatten(), minlength=144)),
    "sorted shares": lambda net, i: (s := net.said(i), s.softmax(-1).sort(-1, descending=True)[0].cumsum(-1)),
    "greedy": decoded(lambda net, s: net.embed(s.argmax(-1))),
    "greedy by topk": decoded(lambda net, s: net.embed(s.topk(1)[1][:, 0])),
    "greedy by index": decoded(lambda net, s: net.embed.weight[s.max(-1)[1]]),
    "greedy by a product": decoded(lambda net, s: F.one_hot(s.argmax(-1), 12).float() @ net.embed.weight),
}


@pytest.mark.parametrize("form", HEADS.values(), ids=HEADS)
def test_a_head_whose_best_entries_are_only_read_is_no_router(form: Callable[[Speaker, Tensor], object]) -> None:
    plan = normc.plan(Speaker(form), torch.randint(0, 12, (2, 5)))
    assert [plan[f"{name}.weight"].role for name in ("embed", "mid", "head")] == ["embedding", "hidden", "output"]


class Sorted(nn.Module):
    """Two layers, and a function of the second's features or places that sorts."""

    def __init__(self, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.form(self.mid(self.stem(x).relu())))


def by_places(h: Tensor) -> Tensor:
    pairs = h.unflatten(-1, (4, 2))
    return pairs.gather(-1, pairs.argsort(-1)).flatten(-2)


def winners(h: Tensor) -> Tensor:
    return h * torch.zeros_like(h).scatter(-1, h.topk(3)[1], 1.0)


def sparse_coded(h: Tensor) -> Tensor:
    values, places = h.topk(3)
    return torch.zeros_like(h).scatter(-1, places, values.relu())


def sparsemax(h: Tensor) -> Tensor:
    largest = h.sort(-1, descending=True)[0]
    total = largest.cumsum(-1)
    count = (1 + torch.arange(1, 9) * largest > total).sum(-1, keepdim=True)
    return (h - (total.gather(-1, count - 1) - 1) / count).clamp(min=0)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "group sort": lambda h: h.unflatten(-1, (4, 2)).sort(-1)[0].flatten(-2),
    "group sort by places": by_places,
    "max-min": lambda h: torch.cat([h.unflatten(-1, (4, 2)).max(-1)[0], h.unflatten(-1, (4, 2)).min(-1)[0]], -1),
    "k-max pooling": lambda h: h.topk(3, 1)[0].mean(1),
    "sorted along time": lambda h: h.sort(1)[0][:, :3].mean(1),
    "the k-th value": lambda h: h * (h >= h.kthvalue(6, -1, keepdim=True)[0]),
    "winners by a threshold": lambda h: h * (h >= h.topk(4)[0][..., -1:]),
    "winners by places": winners,
    "a sparse code": sparse_coded,
    "sparsemax": sparsemax,
}


@pytest.mark.parametrize("form", FUNCTIONS.values(), ids=FUNCTIONS)
def test_an_activation_function_that_sorts_is_no_router(form: Callable[[Tensor], Tensor]) -> None:
    plan = normc.plan(Sorted(form), torch.randn(2, 5, 6))
    assert [plan[f"{name}.weight"].role for name in ("stem", "mid", "head")] == ["input", "hidden", "output"]
