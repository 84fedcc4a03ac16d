"""Mixtures of experts by hand: a loop over modules, one-hot dispatch, soft slots; two towers into one space."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.awkward import vectors
from tests.zoo.case import Case, tokens
from tests.zoo.transforming import BIAS, HEAD, LINEAR, TEXT


class LoopExperts(nn.Module):
    """Mixtral's loop: a module an expert, tokens picked by a mask and added back; a shared expert with a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gate, self.head = nn.Embedding(96, 16), nn.Linear(16, 4, bias=False), nn.Linear(16, 96)
        self.experts = nn.ModuleList(
            nn.ModuleDict({"w1": nn.Linear(16, 24), "w2": nn.Linear(24, 16), "w3": nn.Linear(16, 24)}) for _ in range(4)
        )
        self.shared, self.shared_gate = nn.Linear(16, 16), nn.Linear(16, 1, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).view(-1, 16)
        weights, chosen = F.softmax(self.gate(x), dim=1, dtype=torch.float).topk(2, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            assert isinstance(expert, nn.ModuleDict)
            rows, slot = torch.where(chosen == number)
            y = expert["w2"](F.silu(expert["w1"](x[rows])) * expert["w3"](x[rows]))
            out.index_add_(0, rows, y * weights[rows, slot, None])
        out = out + torch.sigmoid(self.shared_gate(x)) * self.shared(x)
        return self.head(x + out)


class Dispatched(nn.Module):
    """GShard and Switch: one-hot dispatch and combination by einsum; then soft experts with learned slots."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router, self.head = nn.Embedding(96, 16), nn.Linear(16, 4, bias=False), nn.Linear(16, 96)
        self.wi, self.wo = nn.Parameter(torch.randn(4, 16, 24)), nn.Parameter(torch.randn(4, 24, 16))
        self.bi = nn.Parameter(torch.zeros(4, 1, 24))
        self.phi, self.soft = nn.Parameter(torch.randn(16, 4, 2)), nn.Parameter(torch.randn(4, 16, 16))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).view(-1, 16)
        probs = self.router(x).softmax(dim=-1)
        gate, chosen = probs.max(dim=-1)
        one_hot = F.one_hot(chosen, 4)
        place = (one_hot.cumsum(0) - 1) * one_hot
        dispatch = one_hot.unsqueeze(-1) * F.one_hot(place.sum(-1), x.shape[0]).unsqueeze(1)
        inside = torch.einsum("sec,sm->ecm", dispatch.to(x.dtype), x)
        inside = F.relu(torch.einsum("ecm,emh->ech", inside, self.wi) + self.bi)
        outside = torch.einsum("ech,ehm->ecm", inside, self.wo)
        x = x + torch.einsum("sec,ecm->sm", dispatch * gate[:, None, None], outside)
        logits = torch.einsum("sm,mep->sep", x, self.phi)
        slots = torch.einsum("sep,sm->epm", logits.softmax(dim=0), x)
        slots = torch.einsum("epm,emn->epn", slots, self.soft).relu()
        weight = logits.flatten(1).softmax(dim=-1).view_as(logits)
        return self.head(x + torch.einsum("sep,epn->sn", weight, slots))


class Contrastive(nn.Module):
    """Two towers into one space, a scale in the log domain, the symmetric loss; a sigmoid loss's bias."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.embed = nn.Linear(6, 16), nn.Embedding(96, 16)
        self.image_proj, self.text_proj = nn.Linear(16, 8, bias=False), nn.Parameter(torch.randn(16, 8))
        self.logit_scale, self.logit_bias = nn.Parameter(torch.tensor(2.6)), nn.Parameter(torch.tensor(-10.0))

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        a = self.image_proj(self.image(x).relu())
        b = self.embed(ids).mean(1) @ self.text_proj
        a, b = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
        logits = self.logit_scale.exp() * a @ b.t() + self.logit_bias
        target = torch.arange(len(x))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2
        return loss, -F.logsigmoid(logits * (2 * torch.eye(len(x)) - 1)).sum()


EXPERTS: dict[str, Case] = {
    # A gate with one output for a shared expert is no router: nothing is chosen.
    "loop-experts": Case(
        LoopExperts,
        tokens,
        TEXT | BIAS | {"gate.weight": "router oi rownorm", "experts.*.weight": LINEAR, "shared*.weight": LINEAR},
    ),
    # Soft experts choose nothing: phi maps a token to a score a slot. bi is cut by experts, as wi is.
    "dispatched-experts": Case(
        Dispatched,
        tokens,
        TEXT
        | {
            "router.weight": "router oi rownorm",
            "wi": "hidden bio spectral",
            "wo": "hidden bio spectral",
            "bi": "bias b-o rms",
            "phi": "hidden ioo spectral",
            "soft": "hidden bio spectral",
            "head.bias": "bias o rms",
        },
    ),
    "contrastive": Case(
        Contrastive,
        lambda: (vectors(3, 6), torch.arange(12).view(3, 4)),
        {
            "image.weight": "input oi spectral",
            "image.bias": "bias o rms",
            "embed.weight": "embedding xo colnorm",
            "image_proj.weight": HEAD,
            "text_proj": "output io sign",
            "logit_*": "scalar  sign",
        },
    ),
}
