"""The other frontend: torch.export runs the model's Python, and the recorder runs the graph that it gives.

Export takes apart nothing: composite ops, writes through views and regions without gradients come out as they are.
Run again, its graph is written down by the code that writes down a model's own forward, so the analyses see one form.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.proxy import TracerBase
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from normc.model.trace.names import unwrapped
from normc.model.trace.provenance import Provenance, is_entry, own_file, within_functions
from normc.model.trace.stand_ins import Twins
from normc.model.trace.untouched import untouched
from normc.model.trace.unwritten import Unwritten
from normc.model.trace.values import storage_key, tensor_leaves
from normc.nodes import op_name

_FRAME = re.compile(r'^\s*File "(.+)", line (\d+), in ', re.MULTILINE)
_REPEATED = re.compile(r"@\d+")  # export's mark on a module's path when it is called again


class _Flat(nn.Module):
    """The model as export takes any: a flat row of tensors in, a flat row of tensors out."""

    def __init__(self, model: nn.Module, where: Provenance, leaves: list[Any], form: pytree.TreeSpec) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._call = where, leaves, form

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        where, leaves, form = self._call
        given = iter(tensors)
        args, kwargs = pytree.tree_unflatten([next(given) if isinstance(x, Tensor) else x for x in leaves], form)
        return tuple(tensor_leaves(where.run(self.model, args, kwargs)))


def exported(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], twins: Twins, where: Provenance
) -> Callable[[], list[Tensor]]:
    """Export `model`, and return what runs the exported graph on `twins`, to be called inside a recorder.

    The model holds its own tensors again when this returns. Raises whatever torch.export raises.
    """
    from torch._export.verifier import SpecViolationError

    leaves, form = pytree.tree_flatten((args, kwargs))
    inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    inner = unwrapped(model)
    with untouched(model, args, kwargs):
        twins.move_in(model.modules())
        flat = _Flat(inner, where, leaves, form)
        fakes = tuple(twins.of(tensor) for tensor in inputs)
        with _quietly(), _whole_functions(), _all_frames(), Unwritten():
            try:
                program = torch.export.export(flat, fakes, strict=False)
            except SpecViolationError as error:  # the one that is no RuntimeError
                raise RuntimeError(str(error)) from error
    player = _Player(twins, where, inner)
    return lambda: player.play(program, inputs)


class _Player:
    """Runs an exported program, region by region, as if the model's own Python ran."""

    def __init__(self, twins: Twins, where: Provenance, model: nn.Module) -> None:
        self._twins, self._where = twins, where
        first = {id(module): path for path, module in model.named_modules()}
        self._paths: dict[str, str] = {
            path: first[id(module)] for path, module in model.named_modules(remove_duplicate=False)
        }
        self._own: dict[str, Tensor] = {**dict(model.named_parameters(remove_duplicate=False))}
        self._own |= dict(model.named_buffers(remove_duplicate=False))
        held = (vars(module).values() for module in model.modules())
        plain = [leaf for leaf in pytree.tree_leaves([list(values) for values in held]) if isinstance(leaf, Tensor)]
        self._by_memory = {_memory(tensor): tensor for tensor in [*plain, *self._own.values()]}

    def play(self, program: torch.export.ExportedProgram, inputs: list[Tensor]) -> list[Tensor]:
        """What the model returned."""
        signature, given = program.graph_signature, iter(inputs)
        placeholders = program.graph.find_nodes(op="placeholder")
        operands: list[Any] = []
        for spec, node in zip(signature.input_specs, placeholders, strict=True):
            name = (spec.target or "").removeprefix("model.")
            if spec.kind is InputKind.USER_INPUT:
                operands.append(self._twins.of(next(given)))
            elif name in self._own:
                operands.append(self._twins.of(self._own[name]))
            else:
                operands.append(self._known(program.constants[str(spec.target)], node))
        out = self.run(program.graph_module, operands)
        wanted = [spec.kind is OutputKind.USER_OUTPUT for spec in signature.output_specs]
        return [tensor for tensor, is_wanted in zip(out, wanted, strict=True) if is_wanted]

    def run(self, graph: fx.GraphModule, operands: list[Any]) -> Any:
        """What `graph` returns for `operands`, one for each placeholder."""
        values: dict[fx.Node, Any] = {}
        given = iter(operands)
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(given)
            elif node.op == "get_attr":
                values[node] = self._known(_attribute(graph, str(node.target)), node)
            elif node.op == "output":
                return fx.node.map_arg(node.args[0], values.__getitem__)
            else:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = self._call(node, args, kwargs)
        return None

    def _call(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(node.target, "__name__", "")
        if name in _REGIONS:
            region = next(place for place, leaf in enumerate(args) if isinstance(leaf, fx.GraphModule))
            with _REGIONS[name](*args[:region]):
                return self.run(args[region], list(args[region + 1 :]))
        if name.startswith("_assert"):
            return None
        self._where.stand(self._module(node), _source(node))
        args = tuple(self._runner(arg) if isinstance(arg, fx.GraphModule) else arg for arg in args)
        return node.target(*args, **kwargs)  # type: ignore[operator]  # a call_function's target is a function

    def _runner(self, graph: fx.GraphModule) -> Callable[..., Any]:
        return lambda *operands: self.run(graph, list(operands))

    def _known(self, held: Any, node: fx.Node) -> Any:
        """The twin of a constant of the graph. RuntimeError if export has kept a tensor without knowing its origin."""
        if not isinstance(held, Tensor):
            return held
        real = self._twins.original(held)
        real = self._by_memory.get(_memory(real), real)
        if isinstance(real, FakeTensor) and _memory(real) not in self._by_memory:
            if real.constant is None:
                user = next(iter(node.users), node)
                self._where.stand(self._module(user), _source(user))
                place = f"{op_name(user)} ({_source(user)})"
                raise RuntimeError(f"the exported graph has lost how an operand of {place} was computed")
            real = real.constant
        with _disable_current_modes():
            return self._twins.of(real)

    def _module(self, node: fx.Node) -> str:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        path = _REPEATED.sub("", str(stack[-1][0])) if stack else ""
        return self._paths.get(path.removeprefix("model").removeprefix("."), "")


@contextlib.contextmanager
def _plainly(*_: Any) -> Iterator[None]:
    yield


# Higher-order ops that call a part of the graph as it stands: what is in force while it runs, by its first operands.
_REGIONS: dict[str, Callable[..., contextlib.AbstractContextManager[Any]]] = {
    "wrap_with_set_grad_enabled": torch.set_grad_enabled,
    "wrap_with_autocast": lambda device, dtype, enabled, cache: torch.autocast(device, dtype, enabled, cache),
    "tag_activation_checkpoint": _plainly,
    "wrap": _plainly,
}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Export prints the graph so far when it fails, and logs what it thinks of it."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.fx.experimental.symbolic_shapes")]
    levels = [logger.level for logger in loggers]
    with contextlib.redirect_stderr(io.StringIO()):
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _whole_functions() -> Iterator[None]:
    """Hide from export that a custom autograd function switches gradients off inside: it has a backward of its own."""
    with within_functions(torch._C.DisableTorchFunction):
        yield


@contextlib.contextmanager
def _all_frames() -> Iterator[None]:
    """Keep every frame of the model's own code on a node: export would keep those of functions called forward."""
    name = "_filter_traceback_frames"
    keep = getattr(TracerBase, name, None)
    if keep is None:
        yield
        return

    def own(_: TracerBase, frames: list[traceback.FrameSummary]) -> traceback.StackSummary:
        entered = max((at for at, frame in enumerate(frames) if is_entry(frame.filename, frame.name)), default=-1)
        return traceback.StackSummary.from_list([frame for frame in frames[entered + 1 :] if own_file(frame.filename)])

    setattr(TracerBase, name, own)
    try:
        yield
    finally:
        setattr(TracerBase, name, keep)


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    """What a tensor and its alias have in common; itself alone where the layout has no one storage (sparse)."""
    key = storage_key(tensor)
    if key is None:
        return (id(tensor),)
    return key, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _attribute(graph: fx.GraphModule, path: str) -> Any:
    found: Any = graph
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _source(node: fx.Node) -> str:
    """`file.py:line` of the innermost of the model's own frames that export kept."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    return next((f"{name}:{line}" for path, line in reversed(frames) if (name := own_file(path))), "")
