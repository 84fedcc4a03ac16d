"""What an op gives for fake operands: its form by its fake kernel, and the truth, or a guess, where data decides."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from normc.model.trace.forms import FORMS, by_fake_kernel, even_counts, fitting_sizes, whole_sequences
from normc.model.trace.guesses import Answers, Reads, Value, is_question, likely
from normc.model.trace.late import Late
from normc.model.trace.provenance import Site
from normc.model.trace.remembered import Remembered
from normc.model.trace.shadow import LARGEST, Form, Known, Shadows
from normc.model.trace.stand_ins import Twins
from normc.model.trace.values import Structure, Values, map_leaves, tensors_in

# What fake kernels raise where they would need data.
_BLIND = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
_BLIND_TEXTS = ("data is not allocated yet", "no fake impl registered")
_MOST = 4_096  # the largest number that is made up for a count
_REFUSALS = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, AssertionError)


class Answer(NamedTuple):
    """What an op gave: fake output, real output where known, and the guess, if one had to be made."""

    out: Structure
    known: Known | None = None
    guessed: str = ""


class Call(NamedTuple):
    """An op, its operands, those of them that it writes to, and where it is called."""

    func: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    written: list[Tensor]
    site: Site


class Runner:
    """Runs ops on fake tensors, and on real ones beside them where those are known."""

    def __init__(self, twins: Twins, values: Values, answers: Answers, graph: fx.Graph) -> None:
        self.shadows = Shadows()
        self._twins, self._values, self._answers = twins, values, answers
        self._remembered, self._reads, self._late = Remembered(twins.mode), Reads(graph), Late(graph, twins)
        self._forms: dict[object, Form | None] = {}  # forms that nothing known decides, by operands
        self._open: dict[object, Structure | None] = {}  # forms that data decides, by what was known

    def run(self, call: Call) -> Answer | None:
        """What the op gives. None if data decides its form, and only its parts can say it."""
        func, args, kwargs, written, _ = call
        if is_question(func):
            with self.shadows.lent(self._found_late(call)):
                return self._answer(call)
        if (form := FORMS.get(func.name())) is not None:
            return Answer(form(*args, **kwargs))
        try:
            out = self._remembered.run(func, args, kwargs)
        except _REFUSALS as error:
            if not is_blind(error):
                raise
            with self.shadows.lent(self._found_late(call)):
                return self._run_blind(call)
        small = sum(tensor.numel() for tensor in tensors_in(out)) <= LARGEST
        known = self.shadows.run(func, args, kwargs, written) if small else None
        if known is None and (counts := even_counts(func, args, kwargs)) is not None:
            known = Known(counts, certain=False)
        return Answer(out, known)

    def fitted(self, func: object, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, where sizes of parts that were made up fit what is split."""
        split = func is torch.ops.aten.split_with_sizes.default and len(args) > 1
        return fitting_sizes(args) if split and self._answers.made_some_up else args

    def _found_late(self, call: Call) -> dict[int, tuple[Tensor, Known]]:
        """The values of those operands that no value was kept of, though none depends on weights."""
        found: dict[int, tuple[Tensor, Known]] = {}
        for fake in tensors_in((call.args, call.kwargs)):
            node = self._values.find(fake)
            if node is not None and self.shadows.value(fake) is None and (known := self._late.value(node)) is not None:
                found[id(fake)] = fake, known
        return found

    def _answer(self, call: Call) -> Answer:
        func, args, kwargs, written, site = call
        known = self.shadows.run(func, args, kwargs, written)
        if known is None:
            value = self._answers.made_up(site, self._first(call), self._reads.count())
            return Answer(value, None, f"answered {value}")
        value = self._answers.known(site, known.value, known.certain, self._reads)
        if value != known.value:
            return Answer(value, None, f"answered {value}, and it is {known.value}")
        return Answer(value, known, "" if known.certain else f"drawn at random: {value}")

    def _first(self, call: Call) -> Value:
        """What is made up first: a number that adds up what weights computed is what ones add up to."""
        node = self._values.find(call.args[0])
        first = likely(call.func, call.args[0], node)
        if node is None or isinstance(first, (bool, float)):
            return first
        counted = self._late.counted(node)
        return counted if counted is not None and 0 < counted <= _MOST else first

    def _run_blind(self, call: Call) -> Answer | None:
        func, args, kwargs, written, _ = call
        known = self.shadows.run(func, args, kwargs, written)
        if known is not None:
            return Answer(self._like(known.value), known, "" if known.certain else "drawn at random")
        if (counts := even_counts(func, args, kwargs)) is not None:
            return Answer(self._like(counts), Known(counts, certain=False), "took all numbers to occur as often")
        form = self._form(call)
        if form is not None:
            return self._formed(form, "" if form.certain else "drawn at random")
        if func.name() == "aten::_pack_padded_sequence":
            lengths = self._like(whole := whole_sequences(*args))
            self.shadows.put(lengths, Known(whole, certain=False))
            form = self.shadows.form(func, (args[0], lengths, *args[2:]), kwargs)
            return self._formed(form, "took every sequence to be whole") if form is not None else None
        key = self._remembered.key(func, args, kwargs)
        if key is None or key not in self._open:
            self._open[key] = self._by_rows(call)
        out = self._open[key]
        return None if out is None else Answer(self._like(out), None, "took every row to be hit once")

    def _form(self, call: Call) -> Form | None:
        """The form that known operands decide, or none: then it is the same for all operands of these shapes."""
        func, args, kwargs, _, _ = call
        if any(self.shadows.value(tensor) is not None for tensor in tensors_in((args, kwargs))):
            return self.shadows.form(func, args, kwargs)
        if torch.Tag.dynamic_output_shape in func.tags or can_be_taken_apart(func):
            return None
        key = self._remembered.key(func, args, kwargs)
        if key is None or key not in self._forms:
            self._forms[key] = self.shadows.form(func, args, kwargs)
        return self._forms[key]

    def _by_rows(self, call: Call) -> Structure | None:
        func, args, kwargs, _, _ = call
        try:
            return by_fake_kernel(func, args, kwargs)
        except _REFUSALS:
            return None if can_be_taken_apart(func) else self.shadows.tried(func, args, kwargs, alike=True)

    def _formed(self, form: Form, guessed: str) -> Answer:
        out = self._like(form.value)
        for fake, real, same in zip(tensors_in(out), tensors_in(form.value), form.same, strict=True):
            if same and form.decided:
                self.shadows.put(fake, Known(real, form.certain))
        return Answer(out, None, guessed)

    def _like(self, real: Structure) -> Structure:
        def fake(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=self._twins.device)

        return map_leaves(real, fake)


def is_blind(error: Exception) -> bool:
    """Whether a fake kernel raised `error` because it would need data."""
    return isinstance(error, _BLIND) or any(text in str(error) for text in _BLIND_TEXTS)


def can_be_taken_apart(func: torch._ops.OpOverload) -> bool:
    """Whether the op is made of others."""
    return func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
