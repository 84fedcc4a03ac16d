"""Why a forward couldn't be traced: the model's code raised, an op gives nothing without data, a loop won't end."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from torch._subclasses.fake_tensor import UnsupportedFakeTensorException

from normc.errors import NormcError
from normc.model.trace.guesses import Answers, EndlessError, SlowError
from normc.model.trace.provenance import Provenance, source_of
from normc.model.trace.recorder import Recorder
from normc.model.trace.running import is_blind

Blame = Literal["model", "op", "loop", "time", "answers"]
# What torch says where a fake tensor can't be what it should be, or have what it should have.
_DATALESS = ("not supported for tensor subclasses", "data pointer", "NestedTensorImpl")


@dataclass(frozen=True, slots=True)
class Failure:
    """A trace that raised: the error, what it says, whose fault it is, and what can be done."""

    error: BaseException
    text: str
    blame: Blame = "model"
    fix: str = ""

    def raised(self, model: str) -> NormcError:
        """The error that the user sees."""
        problem = {
            "model": f"the forward of {model} fails on these example inputs: {self.text}",
            "op": f"normc can't trace the forward of {model}: {self.text}",
            "loop": f"the forward of {model} doesn't end for a trace: {self.text}",
            "time": f"the forward of {model} takes too long to trace: {self.text}",
            "answers": f"the forward of {model} fails whatever a trace answers to what depends on weights: {self.text}",
        }[self.blame]
        return (ForwardError if self.blame == "model" else NormcError)(problem, self.fix)


class ForwardError(NormcError):
    """The model's own code raised on the inputs that it was traced with."""


class Caught:
    """Keeps what a model's code raises inside: any error of any library. Memory that ran out isn't about the model."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> Caught:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, (MemoryError, NormcError)):
            return False
        self.error = error
        return True


def explained(error: Exception, recorder: Recorder, where: Provenance, answers: Answers) -> Failure:
    """What failed: the op, the module, the line of the model's code, and the error's own first line."""
    said = str(error).strip() or "no message"
    source = source_of(error)
    module = where.failed_in(error) or "the model itself"
    op = ""
    if recorder.failure is not None and recorder.failure[0] is error:
        op = recorder.failure[1]
        source = recorder.failure[3] or source
    place = f"in {module}" + (f" ({source})" if source else "")
    blame = _blame(error, op, answers)
    text = f"{op} {place} raised {type(error).__name__}: {said.splitlines()[0]}".lstrip()
    return Failure(error, text, blame, _fix(blame, op, source))


def _blame(error: Exception, op: str, answers: Answers) -> Blame:
    if isinstance(error, (EndlessError, SlowError)):
        return "loop" if isinstance(error, EndlessError) else "time"
    if is_blind(error) or isinstance(error, (NotImplementedError, UnsupportedFakeTensorException)):
        return "op"
    if "sparse" in op or any(text in str(error) for text in _DATALESS):
        return "op"
    return "answers" if answers.last is not None else "model"


def _fix(blame: Blame, op: str, source: str) -> str:
    line = source or "that line"
    if blame == "loop":
        return f"bound the loop at {line} by a number of rounds"
    if blame == "time":
        return "pass smaller example inputs: shorter sequences unroll to fewer ops, and the plan is the same"
    if blame == "answers":
        return f"let {line} pass for any values: a trace has none for what weights computed"
    if blame == "op" and "sparse" in op:
        return f"pass or build what {line} makes sparse as a dense tensor: the plan is the same"
    if blame == "op" and op and not op.startswith("aten."):
        name = op.replace(".", "::", 1)
        return f'say what it gives without data: @torch.library.register_fake("{name}")'
    if blame == "op":
        return f"use torch ops that need no data at {line}, or plan a module whose forward does without it"
    return "the model's own code raises it: call the model on these inputs without normc, and mend what differs"
