"""The recorder: one run of a model under fake tensors, written down as a torch.fx graph, one node an ATen call.

Below autograd's dispatch keys composite ops arrive whole: linear, layer_norm, scaled_dot_product_attention, lstm.
"""

from __future__ import annotations

import itertools
import operator
import re
import time
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from normc.model.trace.effects import after_write, written_by
from normc.model.trace.guesses import Answers, SlowError
from normc.model.trace.higher import body_of
from normc.model.trace.provenance import Provenance
from normc.model.trace.reach import needs_gradient
from normc.model.trace.running import Answer, Call, Runner, can_be_taken_apart
from normc.model.trace.stand_ins import Twins
from normc.model.trace.values import Structure, Values, map_leaves, tensors_in

aten = torch.ops.aten

# Questions about a tensor's form, which a fake tensor answers itself.
_FORM = frozenset(
    getattr(getattr(namespace, name), overload)
    for namespace, names in (
        (torch.ops.prim, ("device", "layout")),
        (aten, ("size", "stride", "dim", "numel", "is_contiguous", "sym_size", "sym_stride", "sym_numel")),
        (aten, ("sym_storage_offset", "is_strides_like_format", "is_non_overlapping_and_dense")),
    )
    for name in names
    if hasattr(namespace, name)
    for overload in getattr(namespace, name).overloads()
)
# Ops of libraries that are an ATen op under another name, with the same operands.
_SYNONYMS = {"transformers::grouped_mm_fallback": aten._grouped_mm.default}
_LIMIT = 600  # seconds of one trace
_OP_ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AssertionError, AttributeError)
_LITERALS = (int, float, bool, str, complex, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


class Recorder(TorchDispatchMode):
    """Writes every op that runs inside `with recorder:` to `graph`; `guesses` says what had to be made up."""

    supports_higher_order_operators = True

    def __init__(self, twins: Twins, where: Provenance, answers: Answers, paths: dict[int, str]) -> None:
        """`paths` names tensors that modules hold as plain attributes, by id."""
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self.graph = fx.Graph()
        self.guesses: list[str] = []
        self.failure: tuple[BaseException, str, str, str] | None = None
        self._twins, self._where, self._paths = twins, where, paths
        self._values = Values(self._reread)
        self._runner = Runner(twins, self._values, answers, self.graph)
        self._shadows = self._runner.shadows
        self._end, self._left = time.monotonic() + _LIMIT, answers.most
        self._placed: fx.Node | None = None
        self._sharing: dict[int, list[fx.Node]] = {}  # nodes with one tensor as their `val`, by its id
        self._constants = itertools.count()

    def place(self, tensor: Tensor, kind: str, name: str) -> fx.Node:
        """A placeholder for `tensor` (the real one), with meta[kind] = name; its twin stands for it from now on."""
        twin = self._twins.of(tensor)
        if (node := self._values.find(twin)) is not None:
            return node
        label = f"{kind[0]}_{re.sub('[^0-9A-Za-z_]', '_', name)}"
        last = self._placed
        with self.graph.inserting_after(last) if last is not None else self.graph.inserting_before(None):
            node = self.graph.create_node("placeholder", label, name=label)
        node.target = node.name
        node.meta.update({"val": twin, kind: name, "module": "", "source": "", "grad": True})
        self._placed = node
        self._values.bind(twin, node)
        if kind == "param":
            self._values.make_leaf(twin)
        if kind != "param" and not isinstance(tensor, FakeTensor):
            self._shadows.give(twin, tensor)
            self._shadows.show(twin, node)
        return node

    def data_of(self, fake: Tensor) -> Tensor:
        """A copy of what `fake` stands for, where that is known; else ones, which is a guess."""
        with _disable_current_modes():
            known = self._shadows.value(fake)
            if known is None:
                site = self._where.site()
                self.guesses.append(f"data of a tensor {_place(site.module, site.source)} taken for ones")
                return torch.ones(fake.shape, dtype=fake.dtype)
            return known.clone()

    def learns(self, fake: Tensor) -> bool:
        """Whether autograd would give `fake` a gradient: a learning parameter goes into it."""
        node = self._values.find(fake)
        return node is not None and needs_gradient(node)

    def finish(self, tensors: list[Tensor]) -> None:
        """The output node: a flat tuple."""
        nodes = tuple(self._operand(self._twin(tensor)) for tensor in tensors)
        self.graph.output(nodes).meta.update(val=tuple(node.meta["val"] for node in nodes), module="", source="")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not isinstance(func, torch._ops.OpOverload):
            return self._run_higher(func, args, kwargs or {})
        func = _SYNONYMS.get(func.name(), func)
        args, kwargs = map_leaves(args, self._twin), map_leaves(kwargs or {}, self._twin)
        if func in _FORM:
            return func(*args, **kwargs)
        args = self._runner.fitted(func, args)
        operands = map_leaves(args, self._operand), map_leaves(kwargs, self._operand)
        site = self._where.site()
        if time.monotonic() > self._end:
            raise SlowError(f"it has taken longer than {_LIMIT} s")
        meta: dict[str, Any] = {"module": site.module, "source": site.source, "grad": self._where.grad}
        if torch._C._current_graph_task_id() != -1:  # no task, no backward
            meta["backward"] = True
        if self._where.in_function:
            meta["function"] = True
        try:
            written = written_by(func, args, kwargs)
            if torch.Tag.inplace_view in func.tags:
                self._freeze(written)
            call = Call(func, args, kwargs, written, site)
            if (answer := self._runner.run(call)) is None:
                return self._take_apart(call)
        except _OP_ERRORS as error:
            self._failed(error, func, meta)
            raise
        if answer.known is None:
            for tensor in written:
                self._shadows.forget(tensor)
        if not written and _nothing_new(answer.out, args, kwargs):
            return answer.out
        self._write_down(func, operands, meta, answer, written)
        return answer.out

    def _run_higher(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run what stands in the place of a higher-order op, op by op; one that takes no function is an op itself."""
        meta: dict[str, Any] = {"module": self._where.module, "source": self._where.source(), "grad": self._where.grad}
        try:
            body = body_of(func, args)
            if body is not None:
                with self:
                    return body(*args, **kwargs)
            args, kwargs = map_leaves(args, self._twin), map_leaves(kwargs, self._twin)
            operands = map_leaves(args, self._operand), map_leaves(kwargs, self._operand)
            out = func(*args, **kwargs)
        except _OP_ERRORS as error:
            self._failed(error, func, meta)
            raise
        self._write_down(func, operands, meta, Answer(out), [])
        return out

    def _failed(self, error: BaseException, func: Any, meta: dict[str, Any]) -> None:
        """Keep which op raised `error` first."""
        if self.failure is None or self.failure[0] is not error:
            self.failure = (error, _title(func), meta["module"], meta["source"])

    def _take_apart(self, call: Call) -> Any:
        """What the op gives, run in its parts, each of which is written down."""
        if not can_be_taken_apart(call.func):
            raise NotImplementedError(f"{_title(call.func)} has no kernel that needs no data")
        with self:
            return call.func.decompose(*call.args, **call.kwargs)

    def _write_down(
        self, func: Any, operands: tuple[Any, Any], meta: dict[str, Any], answer: Answer, written: list[Tensor]
    ) -> None:
        self._left -= 1
        if self._left < 0:
            raise SlowError("it is far longer than other paths")
        node = self.graph.call_function(func, *operands)
        out = answer.out
        node.meta.update(meta, val=out)
        if answer.guessed:
            node.meta["guessed"] = answer.guessed
            self.guesses.append(f"{_title(func)} {_place(meta['module'], meta['source'])} {answer.guessed}")
        if answer.known is not None:
            self._shadows.put(out, answer.known)
            if answer.known.certain and isinstance(out, (bool, int, float, complex)):
                node.meta["concrete"] = out
        kept = self._write(node, written)
        if isinstance(out, Tensor):
            returned = written[:1] if len(written) == 1 and _returns_operand(func) else ()
            for tensor in (out, *returned):
                if id(tensor) not in kept:
                    self._bind(tensor, node)
        elif isinstance(out, (tuple, list)):
            self._bind_parts(out, node, meta)

    def _write(self, node: fx.Node, written: list[Tensor]) -> set[int]:
        """`node` writes to these tensors. Ids of those that it isn't the value of, as autograd knows nothing of it.

        A parameter stays the leaf that it is. The gradient of an activation goes past the write to what it was before.
        """
        kept: set[int] = set()
        recorded = node.meta["grad"]
        for tensor in written:
            before = self._values.find(tensor)
            if self._values.stays_leaf(tensor, recorded):
                kept.add(id(tensor))
                continue
            if not recorded and before is not None and before.op != "placeholder" and before.meta["grad"]:
                kept.add(id(tensor))
            self._values.write(tensor, node)
            self._sharing.setdefault(id(tensor), []).extend([node] if before is None else [before, node])
        return kept

    def _bind_parts(self, parts: Structure, node: fx.Node, meta: dict[str, Any]) -> None:
        for index, part in enumerate(parts):
            if isinstance(part, (Tensor, tuple, list)) and part is not None:
                item = self.graph.call_function(operator.getitem, (node, index))
                item.meta.update(meta, val=part)
                if isinstance(part, Tensor):
                    self._bind(part, item)
                else:
                    self._bind_parts(part, item, meta)

    def _bind(self, tensor: Tensor, node: fx.Node) -> None:
        self._values.bind(tensor, node)
        self._shadows.show(tensor, node)

    def _reread(self, old: fx.Node, write: fx.Node) -> fx.Node:
        node = self.graph.call_function(after_write, (old, write))
        node.meta.update(val=old.meta["val"], module=self._where.module, source=self._where.source())
        node.meta["grad"] = old.meta["grad"] or write.meta["grad"]
        self._sharing.setdefault(id(old.meta["val"]), [old]).append(node)
        return node

    def _freeze(self, written: list[Tensor]) -> None:
        """An op that changes a tensor's shape in place must not change the `val` of the nodes that held it before."""
        for tensor in written:
            node = self._values.find(tensor)
            for holder in (*self._sharing.pop(id(tensor), ()), *([] if node is None else [node])):
                if holder.meta["val"] is tensor:
                    holder.meta["val"] = tensor.detach()

    def _twin(self, leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf if isinstance(leaf, FakeTensor) else self._twins.of(leaf)
        if isinstance(leaf, torch.device) and leaf.type == "meta":
            return self._twins.device
        return leaf

    def _operand(self, leaf: Any) -> Any:
        """The graph's form of an operand. What fx can't hold and no analysis reads (generators, callables) is named."""
        if isinstance(leaf, Tensor):
            node = self._values.find(leaf)
            return node if node is not None else self._place_foreign(leaf)
        if isinstance(leaf, _LITERALS):
            return leaf
        return None if isinstance(leaf, torch.Generator) else f"<{getattr(leaf, '__name__', type(leaf).__name__)}>"

    def _place_foreign(self, twin: Tensor) -> fx.Node:
        """A tensor that no recorded op made: a plain attribute of a module, a constant, a cache."""
        real = self._twins.original(twin)
        name = self._paths.get(id(real)) or f"constant_{next(self._constants)}"
        return self.place(real, "buffer", name)


def _title(func: Any) -> str:
    if isinstance(func, torch._ops.OpOverload):
        return f"{func.namespace}.{func.overloadpacket.__name__}"
    return str(getattr(func, "__name__", func))


def _place(module: str, source: str) -> str:
    return f"in {module or 'the model itself'}" + (f" ({source})" if source else "")


def _returns_operand(func: Any) -> bool:
    """Whether the result is the operand that was written to (`add_`, `out=`)."""
    returns = func._schema.returns
    return bool(returns) and returns[0].alias_info is not None and returns[0].alias_info.is_write


def _nothing_new(out: Structure, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether every result is an operand itself: `x.contiguous()` of what is contiguous, dropout in eval."""
    results = tensors_in(out)
    return bool(results) and {id(tensor) for tensor in results} <= {id(tensor) for tensor in tensors_in((args, kwargs))}
