"""QK-clip: heads whose logits were seen to be too large are scaled down after the step (MuonClip)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.compiler import build
from normc.errors import NormcError
from normc.plans.row import Block
from tests.handmade import draft, plan_of

EVEN = tuple(Block(f"head {i}", 0, ((4 * i, 4 * i + 4),)) for i in range(3))
UNEVEN = (Block("head 0", 0, ((0, 2), (6, 8))), Block("head 1", 0, ((2, 6),)), Block("other", 0, ((8, 12),)))


@pytest.mark.parametrize("blocks", [EVEN, UNEVEN])
def test_heads_are_scaled_by_the_root_of_what_is_too_much(blocks: tuple[Block, ...]) -> None:
    row, clipped = draft("w", (12, 6), "hidden", blocks=blocks), draft("k", (12, 6), "hidden", blocks=blocks)
    start = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    w, k = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    opt = build(plan_of([row, clipped], "muon", qk_clip=100.0), [("w", w), ("k", k)], lr=0.1, compile=False)
    opt.observe_logits({"k": torch.tensor([400.0, 50.0, 0.0])})
    opt.observe_logits({"k": torch.tensor([100.0, 99.0, 625.0])})
    w.grad = torch.randn(12, 6, generator=torch.Generator().manual_seed(2))
    k.grad = w.grad.clone()
    opt.step()
    for block, share in zip(blocks, (0.5, 1.0, 0.4), strict=True):
        for low, high in block.spans:
            torch.testing.assert_close(k.detach()[low:high], share * w.detach()[low:high])
    before = k.detach() / w.detach()
    w.grad = torch.zeros_like(w)
    k.grad = torch.zeros_like(k)
    for group in opt.param_groups:
        group["lr"] = 0.0
    opt.step()
    torch.testing.assert_close(k.detach() / w.detach(), before)  # what was seen is forgotten


class Attention(nn.Module):
    """Keeps its largest logit a head."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16, bias=False) for _ in range(4))
        self.largest = torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (4, 4)).transpose(1, 2) for part in (self.q, self.k, self.v))
        logits = q @ k.mT / 2
        self.largest = logits.detach().amax((0, 2, 3))
        return self.o((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


def test_the_same_inputs_make_no_larger_logits_then() -> None:
    torch.manual_seed(0)
    model, x = Attention(), 30 * torch.randn(2, 5, 16)
    plan = normc.plan(model, x, recipe="muon", options={"qk_clip": 20.0}, heads=True)
    assert len(plan.by_name["q.weight"].blocks) == 4
    opt = build(plan, model.named_parameters(), lr=0.0, compile=False)
    model(x).square().mean().backward()
    assert float(model.largest.max()) > 40
    expected = model.largest.clamp(max=20.0)
    opt.observe_logits({"q.weight": model.largest, "k.weight": model.largest})
    opt.step()
    model(x)
    torch.testing.assert_close(model.largest, expected)
    with pytest.raises(NormcError, match="2 logits were given for the 4 heads"):
        opt.observe_logits({"q.weight": torch.ones(2)})
    with pytest.raises(NormcError, match="clipped at -1"):
        plan_of([draft("w", (12, 6), "hidden", blocks=EVEN)], "muon", qk_clip=-1.0)
