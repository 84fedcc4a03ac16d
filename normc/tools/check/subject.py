"""What is checked: a copy of a model with real weights, its graph, what the passes found, and how to run the graph."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from normc.errors import NormcError
from normc.initialise import init_
from normc.model.facts import Facts, Log
from normc.model.trace.frontend import trace
from normc.model.trace.graph import ModelGraph
from normc.model.trace.inputs import example_inputs as read_inputs
from normc.model.trace.names import named_parameters, under_bare_names
from normc.model.trace.own_inputs import own_inputs
from normc.model.trace.replay import feeds_of
from normc.model.trace.untouched import rng_untouched
from normc.passes.analyses.request import Request
from normc.pipeline import analysed, plan_of
from normc.plans.plan import NormPlan

Watch = Callable[[fx.Node, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Weights:
    """A value for each parameter, by name; `factors` multiply what some nodes give (a tied table's rows)."""

    of: Mapping[str, Tensor]
    factors: Mapping[fx.Node, float] = field(default_factory=dict)

    def plus(self, changes: Mapping[str, Tensor]) -> Weights:
        """The same with some of the parameters moved."""
        moved = {name: tensor + changes[name] if name in changes else tensor for name, tensor in self.of.items()}
        return Weights(moved, self.factors)


@dataclass(frozen=True)
class Subject:
    """A private copy of a model and all that is known of it. `initial` are its weights as they were given."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    graph: ModelGraph
    facts: Facts
    plan: NormPlan
    feeds: Mapping[str, Tensor]
    initial: Weights

    @property
    def target(self) -> str:
        """What its steps are generated for. On a CPU float32: a check's digits don't depend on the instruction set."""
        cuda = any(tensor.is_cuda for tensor in self.initial.of.values())
        return "cuda" if cuda else "cpu:fp32"

    def run(self, weights: Weights, watch: Watch | None = None) -> list[Tensor]:
        """The float outputs of the graph on these weights, differentiable; `watch` sees, and may replace, each value.

        Random ops draw the same numbers in every run. NormcError if the graph doesn't run.
        """
        names = {node.name: name for name, node in self.graph.nodes.items()}
        values: dict[fx.Node, Any] = {}
        with seeded():
            for node in self.graph.graph.nodes:
                if node.op == "output":
                    found = [values[source] for source in node.args[0]]
                    return _outputs([value for value in found if isinstance(value, Tensor)])
                value = self._value(node, values, weights, names)
                if node in weights.factors:
                    value = value * weights.factors[node]
                if watch is not None and isinstance(value, Tensor) and value.is_floating_point():
                    value = watch(node, value)
                values[node] = value
        raise NormcError(f"the graph of {self.graph.model} has no output", "trace the model again")

    def _value(self, node: fx.Node, values: Mapping[fx.Node, Any], weights: Weights, names: Mapping[str, str]) -> Any:
        if node.op == "placeholder":
            fed = weights.of[names[node.name]] if node.name in names else self.feeds.get(node.name)
            fed = node.meta.get("concrete") if fed is None else fed
            if not isinstance(fed, Tensor):
                raise NormcError(f"no tensor for {node.name}", "give the inputs as tensors of the forward call")
            return fed.clone()
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def _outputs(found: list[Tensor]) -> list[Tensor]:
    """Floating-point outputs; a loss beside what it is made of isn't one."""
    floats = [value for value in found if value.is_floating_point()]
    whole = [value for value in floats if value.numel() > 1]
    return whole or floats


def rms(tensors: list[Tensor]) -> float:
    """Root of the summed mean squares: the RMS of one tensor, the length of several."""
    return math.sqrt(sum(float(tensor.detach().double().square().mean()) for tensor in tensors))


def peak(tensors: list[Tensor]) -> float:
    """The largest RMS along the last dimension."""
    found = [tensor.detach().double().square() for tensor in tensors]
    return math.sqrt(max(float((square.mean(-1) if square.dim() else square).max()) for square in found))


@contextlib.contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """The same random numbers inside, whatever was drawn before; the generators are put back."""
    with rng_untouched():
        torch.manual_seed(seed)
        yield


def private(model: nn.Module, example_inputs: Any) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """A float copy of the model, without dropout, and of its inputs. NormcError without real weights or inputs."""
    if any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()]):
        raise NormcError(
            f"{type(model).__name__} has weights on the meta device: a check runs the model",
            "build it with real weights (a factory, not inside torch.device('meta'))",
        )
    try:
        twin = copy.deepcopy(model)
    except (RuntimeError, TypeError) as problem:
        raise NormcError(
            f"{type(model).__name__} can't be copied: {str(problem).splitlines()[0]}",
            "check it before its first forward, or make it copy.deepcopy-able",
        ) from problem
    _quiet(twin)
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in twin.parameters()):
        twin = twin.float()
    call = own_inputs(twin) if example_inputs is None else read_inputs(twin, example_inputs)
    if call is None:
        raise NormcError(
            f"{type(model).__name__} doesn't say what its forward takes",
            "pass example_inputs: a tensor, a tuple, a dict or a batch of your DataLoader",
        )
    args, kwargs = pytree.tree_map_only(Tensor, _copied, call)
    return twin, args, kwargs


def _quiet(model: nn.Module) -> None:
    """Switch dropout off; norms over the batch stay in their mode, since their running statistics mean nothing yet."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for module, training in modes.items():
        if isinstance(module, (nn.modules.batchnorm._NormBase)):
            module.training = training


def _copied(tensor: Tensor) -> Tensor:
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.detach().clone().float() if half else tensor.detach().clone()


def subject_of(model: nn.Module, example_inputs: Any, request: Request, init: bool = False) -> Subject:
    """Copy, trace and analyse; `init` gives the copy the weights of `normc.init_`.

    NormcError as `private`, and where the model can't be traced.
    """
    twin, args, kwargs = private(model, example_inputs)
    graph = under_bare_names(trace(twin, args, kwargs), twin)
    log = Log()
    facts = analysed(graph, request, log)
    plan = plan_of(graph, request, facts, log)
    if init:
        init_(twin, plan)
    initial = {name: tensor.detach().clone() for name, tensor in named_parameters(twin)}
    return Subject(
        twin, args, kwargs, graph, facts, plan, feeds_of(graph, twin, args, kwargs), Weights(initial),
    )  # fmt: skip
