"""A model to its plan, and again: what the plan's example didn't reach gets its row when it has a gradient."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from normc.analyse import MOST_UNREACHED, analyse, unused_note
from normc.errors import NormcError
from normc.model.facts import Log
from normc.model.trace.frontend import trace
from normc.model.trace.inputs import example_inputs as read_inputs
from normc.model.trace.own_inputs import own_inputs
from normc.passes.analyses.geometry import finished
from normc.passes.analyses.request import Request
from normc.plans.override import as_torch_stores_it
from normc.plans.plan import NormPlan
from normc.plans.row import Evidence, Row
from normc.recipe.by_name import recipes
from normc.recipe.recipe import Recipe

Overrides = Mapping[str, str | Mapping[str, Any]] | None
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's search for cycles of garbage: a fifth of planning, of whose objects nearly all are kept."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def inputs_of(model: nn.Module, example_inputs: Any) -> Inputs:
    """The arguments of forward that example inputs stand for. NormcError if there are none, and none are known."""
    found = own_inputs(model) if example_inputs is None else read_inputs(model, example_inputs)
    if found is None:
        raise NormcError(
            f"{type(model).__name__} doesn't say what its forward takes",
            "pass example_inputs: a tensor, a tuple, a dict or a batch of your DataLoader",
        )
    return found


def changed(plan: NormPlan, overrides: Overrides) -> NormPlan:
    """The plan with overrides, in their order."""
    for pattern, change in (overrides or {}).items():
        plan = plan.override(pattern, **({"norm": change} if isinstance(change, str) else change))
    return plan


def refuse_lost(plan: NormPlan) -> None:
    """NormcError for fallbacks, and for rows that require a gradient which doesn't reach them."""
    lost = [f"    {row.name}: {row.fallback}" for row in plan.rows if row.fallback is not None]
    unused = [row for row in plan.rows if row.role == "unused" and not row.frozen]
    unreached = [f"    {row.name}: {_why(row)}, though it requires one" for row in unused]
    if not lost and not unreached:
        return
    what = " or ".join([*["could not be inferred"] * bool(lost), *["get no gradient"] * bool(unreached)])
    fixes = ['add a rule for the op (one file, @rule("aten.name")), or override those rows'] if lost else []
    fixes += ["pass example_inputs that reach what is unused, or freeze it: requires_grad_(False)"] if unreached else []
    listed = "\n".join([*lost, *unreached])
    number = f"{len(lost) + len(unreached)} of {len(plan.rows)} parameters"
    raise NormcError(f"{number} {what}:\n{listed}", "; ".join(fixes))


def _why(row: Row) -> str:
    said = next((found.reason for found in row.evidence if found.fact == "role"), "no gradient reaches it")
    return said if "gradient" in said else f"{said}, so no gradient reaches it"


@dataclass(frozen=True)
class Planner:
    """All that says how a model is planned, but for the model and its inputs."""

    request: Request
    overrides: Overrides = None
    frontend: str = "recorder"
    strict: bool = False

    @uncollected()
    def plan(self, model: nn.Module, inputs: Inputs) -> NormPlan:
        """The plan of a model on these inputs. NormcError where tracing fails, and where `strict` refuses."""
        found = changed(analyse(trace(model, *inputs, self.frontend), self.request), self.overrides)
        if self.strict:
            refuse_lost(found)
        for note in found.notes:
            if note.startswith(MOST_UNREACHED):
                warnings.warn(f"{found.model}: {note}", stacklevel=4)
        return found

    @uncollected()
    def again(self, plan: NormPlan, model: nn.Module, inputs: Inputs, moved: Collection[str] = ()) -> NormPlan:
        """The plan, where its unused rows are those of the model as it now stands, if these inputs reach them.

        What has `moved` although no trace sees how becomes a fallback. All other rows stay, but for which are frozen.
        NormcError as `plan`.
        """
        fresh = analyse(trace(model, *inputs, self.frontend), self.request)
        fresh = replace(fresh, rows=_admitted(fresh.rows, moved, self.request.recipe))
        reached = {row.name for row in fresh.rows if row.role != "unused"}
        known = {pattern: change for pattern, change in (self.overrides or {}).items()
                 if any(row.name in reached for row in fresh.matching(pattern))}  # fmt: skip
        new = changed(fresh, known).by_name
        rows = tuple(_renewed(row, new.get(row.name)) for row in plan.rows)
        woken = [row.name for row, old in zip(rows, plan.rows, strict=True) if row.role != old.role]
        if not woken:
            return plan
        named = ", ".join(woken[:3]) + (f" and {len(woken) - 3} more" if len(woken) > 3 else "")
        notes = dict.fromkeys(note for note in plan.notes if note not in unused_note(plan.rows))
        notes |= dict.fromkeys(note for note in fresh.notes if note not in unused_note(fresh.rows))
        notes |= dict.fromkeys((f"planned again for {named}, which an example reached later", *unused_note(rows)))
        found = replace(plan, rows=rows, notes=tuple(notes), origin=None, saved=None)
        if self.strict:
            refuse_lost(found)
        return found


def _admitted(rows: tuple[Row, ...], moved: Collection[str], recipe: Recipe) -> tuple[Row, ...]:
    """The rows, with a fallback for each of those names that the trace calls unused: it counts as a middling row."""
    shares = sorted(row.mass for row in rows if row.mass) or [1.0]
    drafts = tuple(_unseen(row, shares[len(shares) // 2]) if row.name in moved else row for row in rows)
    recipe = recipe.seeing(drafts)
    found = []
    for draft, row in zip(drafts, rows, strict=True):
        log = Log({row.name: list(draft.evidence)})
        found.append(
            row if draft is row else replace(finished(draft, recipe, log), evidence=tuple(log.evidence[row.name]))
        )
    return tuple(found)


def _unseen(row: Row, mass: float) -> Row:
    if row.role != "unused":
        return row
    row = as_torch_stores_it(row) if len(row.shape) > 1 else row
    why = "it has a gradient, but a trace of the model doesn't see how"
    told = Evidence("role", "state", why)
    return replace(row, role="state", mass=mass, fallback=why, sensitivity=None, magnitude=None, evidence=(told,))


def _renewed(old: Row, new: Row | None) -> Row:
    if new is None or (old.rule == "none" and old.role != "unused"):
        return old
    return new if old.role == "unused" else replace(old, frozen=new.frozen)


@dataclass
class Planned:
    """What an optimizer remembers of the model that it was planned from: weakly, and not in copies and pickles."""

    planner: Planner
    known: weakref.ref[nn.Module] | None = None
    inputs: Inputs | None = None

    def __reduce__(self) -> tuple[type[Planned], tuple[Planner]]:
        return Planned, (self.planner,)

    @staticmethod
    def of(planner: Planner, model: nn.Module, inputs: Inputs | None, plan: NormPlan) -> Planned:
        """The inputs are kept where the plan has rows that they don't reach."""
        idle = any(row.role == "unused" for row in plan.rows)
        kept = pytree.tree_map_only(Tensor, Tensor.detach, inputs) if idle and inputs is not None else None
        return Planned(planner, weakref.ref(model), kept)

    def again(self, plan: NormPlan) -> NormPlan:
        """As `Planner.again`, on what is remembered. NormcError where that is nothing, or can't be traced now."""
        model = self.known() if self.known is not None else None
        if model is None:
            raise NormcError("the optimizer is a copy, or its model is gone", "give the model")
        if self.inputs is None and own_inputs(model) is None:
            raise NormcError("the optimizer knows no example inputs", "give them")
        if any(hasattr(parameter, "device_mesh") for parameter in model.parameters()):
            raise NormcError("the parameters are sharded by now", "plan before fully_shard")
        return self.planner.again(plan, model, self.inputs or inputs_of(model, None))


def planner_of(plan: NormPlan, overrides: Overrides, frontend: str, strict: bool) -> Planner:
    """How a plan that was given was made, as far as it says so."""
    known = getattr(plan.origin, "request", None)
    request = known if isinstance(known, Request) else Request(recipes[plan.recipe].configure(**dict(plan.options)))
    return Planner(request, overrides, frontend, strict)
