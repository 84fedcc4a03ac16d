"""Paths through a model's code: where a forward asks what a trace doesn't know, one trace sees one path of several.

The path that reads most is the model's. What it doesn't read is looked for on others: one question at a time gets
another answer, and a path is kept if a gradient reaches more on it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from normc.model.trace.failures import Failure
from normc.model.trace.graph import ModelGraph, Path
from normc.model.trace.guesses import PATIENCE, Answers, Asked, Value, alternatives
from normc.model.trace.provenance import Site
from normc.model.trace.reach import graded

_REPAIRS = 12  # other answers that are tried where a trace fails
_TURNS = 2  # of them, for one question
_MISSES = 6  # traces in a row that read nothing new
_MISSES_OF_KNOWN = 2  # the same, for another answer than the true one
_MISSES_OF_DRAWS = 4  # the same, for other random numbers
_MOST = 64  # traces of one model
_NODES = 100_000  # of all traces but the first
_LONGER = 64
_SHORT, _TIMES = 2_000, 10  # nodes that another path may have: so many, or so many times those of the first


@dataclass(frozen=True, slots=True)
class Trial:
    """One trace, by the answers it was given."""

    found: ModelGraph | Failure
    answers: Answers


Run = Callable[[Answers], ModelGraph | Failure]


def explored(run: Run) -> ModelGraph | Failure:
    """The graph of the path that reads most, with other paths for what it doesn't read. `run` traces once."""
    first = _first_that_runs(run)
    if isinstance(first.found, Failure):
        return first.found
    if not (first.answers.asked or first.answers.drew):
        return first.found
    unread = {parameter.name for parameter in first.found.parameters} - reads(first.found)
    if not unread:
        return first.found
    trials = [first, *_more(run, first, unread)]
    trials += _other_draws(run, first, unread.difference(*(_names(trial) for trial in trials)))
    return _best(trials)


def reads(graph: ModelGraph) -> set[str]:
    """Names of the parameters that a gradient reaches."""
    reached = graded(graph.graph.output_node())
    return {name for name, node in graph.nodes.items() if node in reached}


def _names(trial: Trial) -> set[str]:
    return reads(trial.found) if isinstance(trial.found, ModelGraph) else set()


def _first_that_runs(run: Run) -> Trial:
    """A trace that doesn't fail: what was asked last before it did gets another answer. Else the first trace."""
    first = trial = _tried(run, Answers())
    tried: dict[Site, int] = {}
    for _ in range(_REPAIRS):
        answers = trial.answers
        if not isinstance(trial.found, Failure) or answers.last is None or trial.found.blame in ("loop", "time"):
            break
        if answers.tired and answers.patience == PATIENCE:
            trial = _tried(run, Answers(answers.chosen, PATIENCE * _LONGER), _NODES)
            continue
        asked = answers.asked | first.answers.asked
        others = {site: alternatives(asked[site].value)[:_TURNS][tried.get(site, 0) :] for site in asked}
        made_up = [site for site in (answers.last, *reversed(asked)) if not asked[site].known and others[site]]
        if not made_up:
            break
        site = made_up[0]
        tried[site] = tried.get(site, 0) + 1
        trial = _tried(run, Answers({**answers.chosen, site: others[site][0]}, answers.patience), _NODES)
    return first if isinstance(trial.found, Failure) else trial


def _tried(run: Run, answers: Answers, most: int = sys.maxsize) -> Trial:
    answers.most = most
    return Trial(run(answers), answers)


@dataclass(frozen=True, slots=True)
class _Idea:
    """Give `asked` the alternative number `at` to its answer, besides what the trial `after` was given."""

    after: Trial
    asked: Asked
    at: int = 0
    misses: int = 0

    def answers(self) -> Answers | None:
        if self.at >= len(self.asked.others):
            return None
        chosen: Mapping[Site, Value] = {**self.after.answers.chosen, self.asked.site: self.asked.others[self.at]}
        return Answers(chosen, self.after.answers.patience)

    def next(self, missed: bool) -> Iterator[_Idea]:
        """The next number in its place, unless two in a row led nowhere."""
        misses = self.misses + 1 if missed else 0
        if misses < 2:
            yield replace(self, at=self.at + 1, misses=misses)


def _more(run: Run, first: Trial, unread: set[str]) -> Iterator[Trial]:
    """Trials on which gradients reach some of `unread`."""
    waiting, seen = _ideas(first, set()), set(first.answers.asked)
    missed = nodes = 0
    most = max(_SHORT, _TIMES * len(first.found.graph.nodes)) if isinstance(first.found, ModelGraph) else _NODES
    for _ in range(_MOST):
        if not waiting or not unread or nodes > _NODES:
            return
        idea = waiting.pop(0)
        if missed >= (_MISSES_OF_KNOWN if idea.asked.known else _MISSES):
            continue
        if (answers := idea.answers()) is None:
            continue
        trial = _tried(run, answers, most)
        new = unread & _names(trial)
        nodes += len(trial.found.graph.nodes) if isinstance(trial.found, ModelGraph) else 0
        waiting[:0] = idea.next(not new)
        missed = 0 if new else missed + 1
        if new:
            unread = unread - new
            waiting[:0] = _ideas(trial, seen)
            seen |= set(trial.answers.asked)
            yield trial


def _other_draws(run: Run, first: Trial, unread: set[str]) -> Iterator[Trial]:
    """Trials on which Python and NumPy draw other numbers (a layer is left out by chance), while those read more."""
    missed = 0
    for draw in range(1, _MOST):
        if not unread or not first.answers.drew or missed >= _MISSES_OF_DRAWS:
            return
        trial = _tried(run, Answers(first.answers.chosen, first.answers.patience, draw=draw), _NODES)
        missed += 1
        if new := unread & _names(trial):
            missed, unread = 0, unread - new
            yield trial


def _ideas(trial: Trial, seen: set[Site]) -> list[_Idea]:
    """What was asked here first: what was made up before what is true, yes and no before numbers."""
    fresh = [asked for site, asked in trial.answers.asked.items() if site not in seen]
    fresh.sort(key=lambda asked: (asked.known, not isinstance(asked.value, bool)))
    return [_Idea(trial, asked) for asked in fresh]


def _best(trials: list[Trial]) -> ModelGraph:
    """The path that reads most, if no true answer was changed for it, and others for the rest."""
    honest = [trial for trial in trials if not any(_is_known(site, trials) for site in trial.answers.chosen)]
    best = max(honest, key=_read)
    assert isinstance(best.found, ModelGraph)
    covered, others = _names(best), []
    for trial in trials:
        assert isinstance(trial.found, ModelGraph)
        if new := _names(trial) - covered:
            covered |= new
            names = tuple(parameter.name for parameter in trial.found.parameters if parameter.name in new)
            others.append(Path(trial.found, names, _difference(trial.answers, best.answers)))
    return replace(best.found, others=tuple(others))


def _is_known(site: Site, trials: list[Trial]) -> bool:
    return any(trial.answers.asked[site].known for trial in trials if site in trial.answers.asked)


def _read(trial: Trial) -> int:
    """How many entries of parameters a gradient reaches."""
    assert isinstance(trial.found, ModelGraph)
    found = _names(trial)
    return sum(math.prod(parameter.shape) for parameter in trial.found.parameters if parameter.name in found)


def _difference(answers: Answers, best: Answers) -> str:
    """What this path was answered otherwise."""
    sites = dict.fromkeys((*answers.chosen, *best.chosen))
    asked = [answers.asked[site] for site in sites if site in answers.asked]
    said = [f"{question.value} at {question.site.source or 'the question'}" for question in asked]
    if not said:
        return "on the path that other random numbers take"
    return f"on the path that is taken if the answer is {' and '.join(said)}"
