"""The coordinate check: the RMS of every activation, before and after some steps, over models of several sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from normc.arguments import function, instance, mapping, whole
from normc.compiler import build
from normc.errors import NormcError
from normc.model.trace.values import tensor_leaves
from normc.passes.analyses.flow import Flow
from normc.passes.analyses.request import Request
from normc.tools.check.grouping import Name, naming
from normc.tools.check.onestep import BAND, Loss, are_shares
from normc.tools.check.recording import LOGITS, OUTPUT, first_float, recorded
from normc.tools.check.slopes import MULTIPLIED, Along, Kind, judged, rising, settled, slope
from normc.tools.check.subject import Subject, seeded, subject_of
from normc.tools.check.verdict import Verdict

Made = nn.Module | tuple[nn.Module, Any]
FIRST = "output's change in step 1, over lr"
RATE = 0.02


@dataclass(frozen=True, slots=True)
class Series:
    """One activation (or layers of one pattern): its RMS at each size, by step, and that of its change since step 0."""

    name: str
    kind: Kind
    steps: tuple[tuple[float, ...], ...]
    moved: tuple[float, ...]
    slopes: tuple[float | None, float | None, float | None]
    verdict: Verdict

    @property
    def last(self) -> tuple[float, ...]:
        """RMS after the last step, at each size."""
        return self.steps[-1]

    @property
    def spread(self) -> float:
        """Largest over smallest of `last`."""
        return max(self.last) / min(self.last) if min(self.last) > 0 else math.inf


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Part three of a check, along the width or the depth."""

    along: Along
    sizes: tuple[int, ...]
    count: int
    lr: float
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """How each model of a family is trained: from which weights (`init`: those of `normc.init_`), on what, how far."""

    request: Request
    example_inputs: Any = None
    init: bool = False
    loss: Loss | None = None
    steps: int = 3
    lr: float = RATE
    seed: int = 0


def measure_coordinates(along: Along, family: Mapping[int, Made | Callable[[], Made]], trial: Trial) -> Coordinates:
    """Train each member for some steps on its one batch. NormcError for fewer than two sizes.

    The data are the same for all whose inputs have the same shape. Without a `loss`, it is the model's own if it
    returns a number, else the squared distance from fixed Gaussian targets.
    """
    fix = "give {64: model, 128: (model, inputs), 256: a function that makes either}"
    for size in mapping(f"the {along}s", family, fix):
        whole(f"one of the {along}s", size, 1, fix)
    if len(family) < 2:
        raise NormcError(f"a check over {along}s needs two sizes or more", f"give --{along}s FIELD=32,64,128")
    subjects = []
    for made in family.values():
        with seeded(trial.seed):
            model, inputs = _member(made, along, fix)
            inputs = inputs if inputs is not None else trial.example_inputs
            subjects.append(subject_of(model, inputs, trial.request, trial.init))
    sizes = tuple(family)
    largest = naming(subjects[sizes.index(max(sizes))].model, along)
    names = [largest if along == "width" else naming(subject.model, along) for subject in subjects]
    kinds: dict[str, Kind] = {}
    runs = []
    for subject, name in zip(subjects, names, strict=True):
        kinds |= _kinds(subject, name)
        runs.append(_trained(subject, name, trial))
    bound = BAND[1] if all(are_shares(subject) for subject in subjects) else None
    shared = [line for line in runs[0] if all(line in run for run in runs)]
    series = []
    for line in shared:
        values = [run[line] for run in runs]
        series.append(_series(line, kinds.get(line, "plain"), sizes, values, along, bound))
    shown = list(_distinct(series))
    step = next((one.verdict for one in shown if one.kind == "step"), None)
    verdicts = settled([one.verdict for one in shown], step, bound is not None)
    found = [replace(one, verdict=verdict) for one, verdict in zip(shown, verdicts, strict=True)]
    output = next((one for one in found if one.name == OUTPUT), None)
    return Coordinates(along, sizes, trial.steps, trial.lr, tuple(_beside(one, output) for one in found))


def _beside(one: Series, output: Series | None) -> Series:
    """A readout that the model multiplies by a number of its size is judged by the model's output."""
    right = output is not None and output.verdict.level != "wrong"
    if output is None or not right or one.kind != "readout" or one.verdict.level != "wrong" or one is output:
        return one
    pairs = zip((*one.steps, one.moved), (*output.steps, output.moved), strict=True)
    factors = [[there / here if here else None for here, there in zip(*pair, strict=True)] for pair in pairs]
    for of_size in zip(*factors, strict=True):
        numbers = [number for number in of_size if number is not None]
        if not numbers or not all(math.isclose(number, numbers[0], rel_tol=1e-3) for number in numbers):
            return one
    return replace(one, verdict=Verdict("note", one.verdict.word, MULTIPLIED))


def _distinct(series: Iterable[Series]) -> Iterator[Series]:
    """Without modules that hand on what another one gave; the output stays."""
    seen: set[tuple[object, ...]] = set()
    for one in series:
        numbers = (one.steps, one.moved)
        if numbers not in seen or one.name == OUTPUT:
            yield one
        seen.add(numbers)


Run = dict[str, tuple[tuple[float, ...], float]]


def _trained(subject: Subject, name: Name, trial: Trial) -> Run:
    """By pattern of module path: RMS at every step, and of the change from the first to the last."""
    model = subject.model
    opt = build(subject.plan, model.named_parameters(), lr=trial.lr, backend=subject.target, compile=False)
    traces: list[dict[str, Tensor]] = []
    target: Tensor | None = None
    for step in range(trial.steps + 1):
        with seeded(trial.seed), recorded(model) as seen, torch.enable_grad():
            result = model(*subject.args, **subject.kwargs)
        traces.append(seen)
        if step == trial.steps:
            break
        target = _target(result, trial.seed) if target is None else target
        opt.zero_grad()
        (_loss(result, target) if trial.loss is None else trial.loss(result)).backward()
        opt.step()
    found = {
        path: (tuple(_size(trace[path]) for trace in traces), _size(traces[-1][path] - first))
        for path, first in traces[0].items()
        if all(path in trace and trace[path].shape == first.shape for trace in traces)
    }
    run = _grouped(found, name)
    if OUTPUT in traces[0] and trial.steps:
        first = _size(traces[1][OUTPUT] - traces[0][OUTPUT]) / trial.lr
        run = {FIRST: ((first,), first), **run}
    return run


def _member(made: Made | Callable[[], Made], along: Along, fix: str) -> tuple[nn.Module, Any]:
    """Return a model of a family and its inputs, None where it has none of its own."""
    if not isinstance(made, (nn.Module, tuple)):
        made = function(f"a model of the {along}s", made, fix)()
    model, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    return instance(f"a model of the {along}s", model, nn.Module, fix), inputs


def _size(tensor: Tensor) -> float:
    return float(tensor.double().square().mean().sqrt()) if tensor.numel() else 0.0


def _target(result: object, seed: int) -> Tensor:
    out = first_float(result)
    if out is None:
        raise NormcError("the model returns no float tensor to learn from", "give check() a loss")
    noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise.to(out.device, out.dtype)


def _loss(result: object, target: Tensor) -> Tensor:
    """The model's own loss if it returns a number, else the squared distance from the targets."""
    numbers = [leaf for leaf in tensor_leaves(result) if leaf.numel() == 1 and leaf.requires_grad]
    if numbers:
        return numbers[0].sum()
    out = first_float(result)
    assert out is not None
    return (out - target).square().mean()


def _grouped(found: Mapping[str, tuple[tuple[float, ...], float]], name: Name) -> Run:
    """Paths of one name as one: the root of the mean of their squares."""
    members: dict[str, list[tuple[tuple[float, ...], float]]] = {}
    for path, values in found.items():
        members.setdefault(name(path), []).append(values)
    return {
        line: (tuple(_mean(column) for column in zip(*(steps for steps, _ in own), strict=True)),
               _mean(moved for _, moved in own))
        for line, own in members.items()
    }  # fmt: skip


def _mean(values: Iterable[float]) -> float:
    squares = [value**2 for value in values]
    return math.sqrt(sum(squares) / len(squares))


def _kinds(subject: Subject, name: Name) -> dict[str, Kind]:
    """Which modules read out, hold an attention's logits, or hand on a residual stream."""
    found: dict[str, Kind] = {OUTPUT: "readout", FIRST: "step"}
    for join in subject.facts[Flow].joins:
        found[name(join.node.meta.get("module", ""))] = "stream"
    for row in subject.plan.rows:
        if row.role == "output":
            found |= {name(use.module): "tied" for use in row.uses if use.role in ("embedding", "position")}
            found |= {name(use.module): "readout" for use in row.uses if use.role == "output"}
    found |= {name(f"{path} {LOGITS}".strip()): "logits" for path, _ in subject.model.named_modules()}
    return found


def _series(
    name: str,
    kind: Kind,
    sizes: tuple[int, ...],
    runs: list[tuple[tuple[float, ...], float]],
    along: Along,
    bound: float | None,
) -> Series:
    steps = tuple(zip(*(run[0] for run in runs), strict=True))
    moved = tuple(run[1] for run in runs)
    fit = rising if along == "depth" else slope
    slopes = (fit(sizes, steps[0]), fit(sizes, steps[-1]), fit(sizes, moved))
    return Series(name, kind, steps, moved, slopes, judged(kind, along, slopes, steps[0], bound))
