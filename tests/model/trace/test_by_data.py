"""Ops whose result's shape depends on data: known data decides, else one row an entry; of any library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import rnn

import normc
from normc.model.trace.forms import by_fake_kernel
from normc.model.trace.frontend import trace
from normc.nodes import op_name

LIBRARY = torch.library.Library("tried", "DEF")  # kept: ops go when it does
LIBRARY.define("keep(Tensor boxes, Tensor scores, float least) -> Tensor")
LIBRARY.define("hidden(Tensor x) -> Tensor")
LIBRARY.define("twice(Tensor x) -> Tensor")
LIBRARY.define("count(Tensor x) -> int")
LIBRARY.define("apart(Tensor x) -> (Tensor, Tensor[])")
LIBRARY.define("head(Tensor x) -> Tensor")
LIBRARY.impl("keep", lambda boxes, scores, least: (scores > least).nonzero()[:, 0], "CPU")
LIBRARY.impl("hidden", lambda x: x[x[:, 0] > 0], "CPU")
LIBRARY.impl("twice", lambda x: x * 2, "CPU")
LIBRARY.impl("count", lambda x: int((x > 0).sum()), "CPU")
LIBRARY.impl("apart", lambda x: (x[x[:, 0] > 0], [x[:1].clone(), x.sum(0)]), "CPU")
LIBRARY.impl("head", lambda x: x[: max(1, int((x > 0).sum().item()) % 3)], "CompositeImplicitAutograd")
tried: Any = torch.ops.tried


@torch.library.register_fake("tried::keep", lib=LIBRARY)
def _(boxes: Tensor, scores: Tensor, least: float) -> Tensor:
    return scores.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.long)


class Net(nn.Module):
    """A layer before and a layer after what is tried out."""

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.stem, self.head, self.body = nn.Linear(6, 8), nn.Linear(8, 3), body

    def forward(self, x: Tensor) -> Any:
        """x: [4, 6]."""
        return self.head(self.body(self, self.stem(x).tanh()))


BY_WEIGHTS: dict[str, Callable[[Any, Tensor], Any]] = {
    "nms with a fake kernel": lambda net, h: h[tried.keep(h[:, :4], h[:, 4], 0.1)],
    "rows without a fake kernel": lambda net, h: tried.hidden(h),
    "rows and a list": lambda net, h: tried.apart(h)[0] + tried.apart(h)[1][1],
    "a number": lambda net, h: h[: tried.count(h)],
    "made of others": lambda net, h: tried.head(h),
    "nonzero": lambda net, h: h[h.sum(-1).nonzero()[:, 0]],
    "where": lambda net, h: h[torch.where(h[:, 0] > 0)],
    "mask": lambda net, h: h[h[:, 0] > 0],
    "mask of both axes": lambda net, h: h + h[h > 0].sum(),
    "masked_select": lambda net, h: h + torch.masked_select(h, h > 0).sum(),
    "unique": lambda net, h: h[h.argmax(-1).unique() % 4],
    "unique rows": lambda net, h: h.unique(dim=0),
    "consecutive": lambda net, h: h[torch.unique_consecutive(h.argmax(-1)) % 4],
    "bincount": lambda net, h: h * torch.bincount(h.argmax(-1), minlength=8)[:8],
    "repeat": lambda net, h: h.repeat_interleave(h.argmax(-1), 0),
    "one-hot": lambda net, h: h + F.one_hot(h.argmax(-1)).sum(),
    "split": lambda net, h: torch.tensor_split(h, h.argmax(-1)[:2].cpu())[0],
    "list": lambda net, h: torch.cat(h.split(torch.bincount(h.argmax(-1) % 4, minlength=4).tolist())),
    "least squares": lambda net, h: h + torch.linalg.lstsq(h, h).solution.sum(),
    "its array": lambda net, h: h * float(h.detach().numpy().mean()),
    "its text": lambda net, h: (h, f"{h.mean():.3f}")[0],
}


@pytest.mark.parametrize("how", sorted(BY_WEIGHTS))
def test_what_weights_decide_is_guessed_and_said(how: str) -> None:
    plan = normc.plan(Net(BY_WEIGHTS[how]), torch.randn(4, 6))
    roles = {row.name: (row.role, row.fallback) for row in plan.rows}
    assert roles["stem.weight"] == ("input", None) and roles["head.weight"] == ("output", None)
    assert any("guessed" in note for note in plan.notes)


BY_INPUTS: dict[str, tuple[Callable[[Any, Tensor, Tensor], Any], tuple[int, ...]]] = {
    "mask": (lambda net, h, n: h[n > 2], (3, 8)),
    "rows": (lambda net, h, n: h[(n > 2).nonzero()[:, 0]], (3, 8)),
    "repeat": (lambda net, h, n: h.repeat_interleave(n, 0), (14, 8)),
    "nms": (lambda net, h, n: h[tried.keep(n[:, None].float(), n.float(), 2.5)], (3, 8)),
    "its array": (lambda net, h, n: h[: int(n.numpy().min())], (2, 8)),
    "an array of it": (lambda net, h, n: h[torch.from_numpy(n.numpy() % 4)], (4, 8)),
}


@pytest.mark.parametrize("how", sorted(BY_INPUTS))
def test_what_inputs_decide_is_known(how: str) -> None:
    body, shape = BY_INPUTS[how]

    class Counting(Net):
        def forward(self, x: Tensor, n: Tensor) -> Any:  # type: ignore[override]  # one input more
            return self.head(body(self, self.stem(x).tanh(), n))

    graph = trace(Counting(lambda net, h: h), (torch.randn(4, 6), torch.tensor([5, 3, 2, 4])), {})
    (head,) = (node for node in graph.nodes["head.weight"].users if op_name(node) == "aten.linear")
    assert tuple(head.args[0].meta["val"].shape) == shape  # type: ignore[union-attr]  # its input
    assert not graph.guesses


def test_an_op_without_a_fake_kernel_whose_shape_is_plain_is_no_guess() -> None:
    plan = normc.plan(Net(lambda net, h: tried.twice(h)), torch.randn(4, 6))
    assert not any("guessed" in note for note in plan.notes) and plan["stem.weight"].role == "input"


def test_one_row_an_entry_of_what_decides_and_no_fewer_than_must_be() -> None:
    aten = torch.ops.aten
    mask, x = torch.ones(5, dtype=torch.bool), torch.randn(5, 3)
    assert by_fake_kernel(aten.index.Tensor, (x, [mask]), {}).shape == (5, 3)
    assert by_fake_kernel(aten.masked_select.default, (x.t(), mask), {}).shape == (5,)
    assert by_fake_kernel(aten.bincount.default, (torch.arange(5), None, 12), {}).shape == (12,)


def test_what_loops_over_the_classes_that_occur_goes_round_for_a_few() -> None:
    def by_class(net: Any, h: Tensor) -> Tensor:
        classes = h.argmax(-1)
        return torch.stack([h[torch.where(classes == one)[0]].mean(0) for one in classes.unique()])

    graph = trace(Net(by_class), (torch.randn(4_000, 6),), {})
    assert graph.nodes["head.weight"].users and len(graph.graph.nodes) < 200


class Tagger(nn.Module):
    """An LSTM over packed sequences."""

    def __init__(self, kind: Any = nn.LSTM, **options: Any) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(9, 8), kind(8, 6, batch_first=True, **options)
        self.head = nn.Linear(6 * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids: [3, 6]; lengths: [3]."""
        packed = rnn.pack_padded_sequence(self.table(ids), lengths, batch_first=True, enforce_sorted=False)
        return self.head(rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0])


class Packed(Tagger):
    def forward(self, packed: Any) -> Tensor:  # type: ignore[override]  # a packed sequence
        return self.head(self.layer(packed._replace(data=self.table(packed.data)))[0].data)


class LastState(Tagger):
    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        x = self.table(ids)
        packed = rnn.pack_padded_sequence(x, lengths.tolist(), batch_first=True, enforce_sorted=False)
        return self.head(self.layer(packed)[1][-1])


class Measured(Tagger):
    """Its lengths depend on weights."""

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        x = self.table(ids)
        lengths = (x.sum(-1) > 0).sum(1).clamp(min=1)
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0])


IDS = torch.randint(9, (3, 6), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([6, 3, 4])
PACKED = rnn.pack_padded_sequence(IDS, LENGTHS, batch_first=True, enforce_sorted=False)
TAGGERS: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...]]] = {
    "lstm": (Tagger, (IDS, LENGTHS)),
    "gru both ways": (lambda: Tagger(nn.GRU, num_layers=2, bidirectional=True), (IDS, LENGTHS)),
    "rnn": (lambda: Tagger(nn.RNN), (IDS, LENGTHS)),
    "packed input": (Packed, (PACKED,)),
    "last state": (lambda: LastState(nn.GRU), (IDS, LENGTHS)),
    "lengths by weights": (Measured, (IDS, LENGTHS)),
}


@pytest.mark.parametrize("frontend", ["recorder", "export"])
@pytest.mark.parametrize("how", sorted(TAGGERS))
def test_packed_sequences_are_planned(how: str, frontend: str) -> None:
    make, inputs = TAGGERS[how]
    plan = normc.plan(make(), inputs, frontend=frontend)
    assert (plan["table.weight"].role, plan["table.weight"].norm) == ("embedding", "colnorm")
    assert plan["head.weight"].role == "output"
    inner = [row for row in plan.rows if row.name.startswith("layer.weight")]
    assert inner and all(row.role == "hidden" and row.norm == "spectral" for row in inner)
    assert how == "rnn" or all(len(row.blocks) in (3, 4) for row in inner)
    assert not any(row.fallback for row in plan.rows)
    guessed = any("took every sequence to be whole" in note for note in plan.notes)
    assert guessed == (how == "lengths by weights")
