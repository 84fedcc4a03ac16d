"""Answers to questions about data: what is likely, and what a loop gets that keeps asking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from normc import NormcError
from normc.model.trace.frontend import trace
from normc.model.trace.guesses import PATIENCE, Answers, EndlessError, Reads, alternatives
from normc.model.trace.provenance import Site

HERE, THERE = Site("", "model.py:3", 0), Site("", "model.py:3", 8)


class Net(nn.Module):
    """A few layers; the body asks about what they computed."""

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.stem, self.inside, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.stages, self.body = nn.ModuleList(nn.Linear(6, 6) for _ in range(12)), body
        self.stack = nn.Parameter(torch.randn(12, 6, 6))

    def forward(self, x: Tensor) -> Any:
        """x: [3, 4]."""
        return self.head(self.body(self, self.stem(x).tanh()))


def _answers(body: Callable[[Any, Tensor], Any]) -> list[str]:
    graph = trace(Net(body), (torch.randn(3, 4),), {})
    return [guess.rpartition("answered ")[2] for guess in graph.guesses if "answered" in guess]


LIKELY: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "equal": (lambda h: h.argmax() == 3, "False"),
    "different": (lambda h: h.argmax() != 3, "True"),
    "not equal": (lambda h: ~(h.argmax() == 3), "True"),
    "all equal": (lambda h: (h == 0).all(), "False"),
    "some equal": (lambda h: (h == 0).any(), "True"),
    "some not a number": (lambda h: h.isnan().any(), "False"),
    "all finite": (lambda h: h.isfinite().all(), "True"),
    "less": (lambda h: h.sum() < 3, "True"),
    "the same tensor": (lambda h: torch.equal(h, h + 1), "False"),
    "close": (lambda h: torch.allclose(h, h * 2), "False"),
    "in it": (lambda h: 3 in h.argmax(-1), "True"),
}


@pytest.mark.parametrize("how", sorted(LIKELY))
def test_what_is_likely_is_answered(how: str) -> None:
    question, answer = LIKELY[how]

    def body(net: Any, h: Tensor) -> Tensor:
        every = net.inside(h) + sum(stage(h) for stage in net.stages) + h @ net.stack.sum(0)
        return every * 2 if question(h) else every

    assert _answers(body) == [answer]


def _guarded(net: Any, h: Tensor) -> Tensor:
    while h.norm() > 1e9:
        h = h / 2
    return net.inside(h)


def _settling(net: Any, h: Tensor) -> Tensor:
    z, change = torch.zeros_like(h), torch.tensor(1.0)
    while change > 1e-3:
        new = (net.inside(z) * 0.1 + h).tanh()
        change, z = (new - z).norm(), new
    return z


def _for_ever_unless_close(net: Any, h: Tensor) -> Tensor:
    while True:
        new = net.inside(h).tanh()
        if torch.allclose(new, h):
            return new
        h = new


def _by_a_number(net: Any, h: Tensor) -> Tensor:
    while True:
        new = net.inside(h).tanh()
        if (new - h).norm().item() < 1e-3:
            return new
        h = new


def _halting(net: Any, h: Tensor) -> Tensor:
    halted = torch.zeros(3)
    while (halted < 1).any():
        h = net.inside(h).tanh()
        halted = halted + h.mean(-1).sigmoid()
    return h


def _one_loop_in_another(net: Any, h: Tensor) -> Tensor:
    while h.norm() > 1:
        while h.abs().max() > 3:
            h = h / 2
        h = net.inside(h)
    return h


def _until_a_token(net: Any, h: Tensor) -> Tensor:
    token, out = torch.zeros(1, dtype=torch.long), [h]
    while token != 3:
        h = net.inside(h).tanh()
        token = h.mean(0).argmax().view(1)
        out.append(h)
    return torch.stack(out).sum(0)


@pytest.mark.parametrize(
    "body", [_guarded, _settling, _for_ever_unless_close, _by_a_number, _halting, _one_loop_in_another, _until_a_token]
)
def test_a_loop_that_waits_for_an_answer_ends(body: Callable[[Any, Tensor], Any]) -> None:
    graph = trace(Net(body), (torch.randn(3, 4),), {})
    assert len(graph.guesses) <= PATIENCE * (PATIENCE + 3)
    assert len(graph.graph.nodes) < 1000
    assert len(graph.nodes["inside.weight"].users) >= 1


def test_a_loop_that_no_answer_ends_is_an_error_that_says_where() -> None:
    def body(net: Any, h: Tensor) -> Tensor:
        while h.norm().item() != 5:
            h = h * 2
        return net.inside(h)

    with pytest.raises(NormcError, match=r"doesn't end for a trace: aten\.item .*test_guesses\.py:\d+") as caught:
        trace(Net(body), (torch.randn(3, 4),), {})
    assert caught.value.fix.startswith("bound the loop at test_guesses.py:")


def test_a_loop_over_layers_or_a_stack_is_no_loop_that_waits() -> None:
    def layers(net: Any, h: Tensor) -> Tensor:
        for stage in net.stages:
            h = stage(h) if h.norm() > 0 else h
        return h

    def stacked(net: Any, h: Tensor) -> Tensor:
        for number in range(12):
            h = h @ net.stack[number] if h.norm() > 0 else h
        return h

    assert _answers(layers) == _answers(stacked) == ["True"] * 12


def test_a_check_that_is_called_often_may_pass_every_time() -> None:
    def check(h: Tensor) -> Tensor:
        if h.abs().max() > 1e4:
            raise ValueError("too large")
        return h

    def body(net: Any, h: Tensor) -> Tensor:
        for _ in range(3 * PATIENCE):
            h = check(net.inside(h))
        return h

    assert set(_answers(body)) == {"False"}


def test_answers_are_those_that_were_chosen_and_tire() -> None:
    answers = Answers({HERE: False})
    assert answers.made_up(HERE, True, 0) is False
    assert answers.made_up(THERE, True, 0) is True
    assert [answers.made_up(HERE, True, 0) for _ in range(PATIENCE)][-1] is True and answers.tired
    assert not answers.asked[HERE].value and not answers.asked[HERE].known
    assert answers.made_up(HERE, 1.0, 0) in (1.0, 1e-6)  # another kind of question: no answer was chosen for it


def test_reading_on_is_no_going_round() -> None:
    answers = Answers()
    assert all(answers.made_up(HERE, True, reads) for reads in range(10 * PATIENCE))
    with pytest.raises(EndlessError, match=r"model\.py:3"):
        [answers.made_up(THERE, 1, 0) for _ in range(100_000)]


def test_a_truth_is_told_unless_another_answer_is_chosen() -> None:
    reads = Reads(fx.Graph())
    assert Answers().known(HERE, True, certain=True, reads=reads) is True
    answers = Answers({HERE: False})
    assert answers.known(HERE, True, certain=True, reads=reads) is False and answers.asked[HERE].known


def test_what_was_drawn_at_random_may_be_said_every_time_and_is_no_truth() -> None:
    reads, answers = Reads(fx.Graph()), Answers()
    assert [answers.known(HERE, drawn, certain=False, reads=reads) for drawn in (True, False)] == [True, False]
    asked = answers.asked[HERE]
    assert not asked.known and asked.others == (False, True)
    always = Answers({HERE: True})
    assert all(always.known(HERE, drawn, certain=False, reads=reads) for drawn in (True, False))


def test_there_are_other_answers_of_each_kind() -> None:
    assert alternatives(True) == (False,)
    assert alternatives(1)[:3] == (0, 2, 3)
    assert alternatives(1.0)[:3] == (1e-6, 100.0, 0.0)
