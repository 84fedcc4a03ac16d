"""A plan made again: what its example didn't reach gets its row when it has a gradient."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from normc.arguments import instance
from normc.errors import NormcError
from normc.model.facts import Log
from normc.model.trace.distributed import own_parameters
from normc.model.trace.first_forward import on_first_forward
from normc.model.trace.graph import ModelGraph, named_arguments
from normc.model.trace.inputs import example_inputs as read_inputs
from normc.model.trace.own_inputs import own_inputs
from normc.optimizer import Optimizer
from normc.passes.analyses.geometry import finished
from normc.passes.analyses.request import Request
from normc.pipeline import Inputs, plan_graph, plan_model, traced, uncollected
from normc.plans.asked import changed, refuse_lost
from normc.plans.notes import listed, unreached
from normc.plans.override import as_torch_stores_it
from normc.plans.plan import NormPlan
from normc.plans.row import Evidence, Row
from normc.recipe.by_name import recipe_of
from normc.recipe.recipe import Recipe

Places = Sequence[tuple[Mapping[str, Tensor | None], str, Tensor]]


def refuse_sparse(model: nn.Module, plan: NormPlan | None = None) -> None:
    """NormcError if a parameter that learns will get sparse gradients, as its module or an op of the trace says."""
    learning = {name: weight for name, weight in model.named_parameters(remove_duplicate=False) if weight.requires_grad}
    found = [f"{at}.weight".lstrip(".") for at, own in model.named_modules() if getattr(own, "sparse", False) is True]
    graph = getattr(getattr(plan, "origin", None), "model", None)
    if isinstance(graph, ModelGraph):
        names = {node: name for name, node in graph.nodes.items()}
        calls = [named_arguments(node) for node in graph.graph.nodes if node.op == "call_function"]
        found += [names.get(call["weight"], "") for call in calls if call.get("sparse") is True]
    for name in found:
        if name in learning:
            raise NormcError(f"the gradient of {name!r} will be sparse", "make the embedding with sparse=False")


def inputs_of(model: nn.Module, example_inputs: Any) -> Inputs:
    """The arguments of forward that example inputs stand for. NormcError if there are none, and none are known."""
    instance("model", model, nn.Module, "pass a torch.nn.Module")
    found = own_inputs(model) if example_inputs is None else read_inputs(model, example_inputs)
    if found is None:
        raise NormcError(
            f"{type(model).__name__} doesn't say what its forward takes",
            "pass example_inputs: a tensor, a tuple, a dict or a batch of your DataLoader",
        )
    return found


def request_of(plan: NormPlan) -> Request:
    """How a plan that was given was asked for, as far as it says so."""
    known = getattr(plan.origin, "request", None)
    return known if isinstance(known, Request) else Request(recipe_of(plan))


@uncollected()
def again(plan: NormPlan, request: Request, model: nn.Module, inputs: Inputs, moved: Collection[str] = ()) -> NormPlan:
    """The plan, where its unused rows are those of the model as it now stands, if these inputs reach them.

    What has `moved` although no trace sees how becomes a fallback. All other rows stay, but for which are frozen.
    NormcError as `plan`.
    """
    fresh = plan_graph(traced(model, inputs, request), request)
    fresh = replace(fresh, rows=_admitted(fresh.rows, moved, request.recipe))
    reached = {row.name for row in fresh.rows if row.role != "unused"}
    known = {pattern: change for pattern, change in request.overrides.items()
             if any(row.name in reached for row in fresh.matching(pattern))}  # fmt: skip
    new = changed(fresh, known).by_name
    rows = tuple(_renewed(row, new.get(row.name)) for row in plan.rows)
    woken = [row.name for row, old in zip(rows, plan.rows, strict=True) if row.role != old.role]
    if not woken:
        return plan
    named = listed(woken, 3)
    notes = dict.fromkeys(note for note in plan.notes if note not in unreached(plan.rows))
    notes |= dict.fromkeys(note for note in fresh.notes if note not in unreached(fresh.rows))
    notes |= dict.fromkeys((f"planned again for {named}, which an example reached later", *unreached(rows)))
    found = replace(plan, rows=rows, notes=tuple(notes), origin=None, saved=None, wiring=fresh.wiring)
    if request.strict:
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
class Source:
    """What an optimizer remembers of the model that it was planned from: weakly, and not in copies and pickles."""

    request: Request
    known: weakref.ref[nn.Module] | None = None
    inputs: Inputs | None = None
    # Where modules hold parameters of an optimizer, and which these are.
    _places: tuple[Mapping[str, Tensor] | None, Places] = field(default=(None, ()), repr=False, compare=False)

    def __reduce__(self) -> tuple[type[Source], tuple[Request]]:
        return Source, (self.request,)

    def of(self, model: nn.Module, inputs: Inputs | None, plan: NormPlan) -> Source:
        """With a model, and its inputs where the plan has rows that they don't reach."""
        idle = any(row.role == "unused" for row in plan.rows)
        kept = pytree.tree_map_only(Tensor, Tensor.detach, inputs) if idle and inputs is not None else None
        return Source(self.request, weakref.ref(model), kept)

    def wait(self, opt: Optimizer, model: nn.Module) -> None:
        """Plan the optimizer at the model's first forward, unless it is gone by then."""
        opt_of, model_of = weakref.ref(opt), weakref.ref(model)

        def adopt(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            opt, model = opt_of(), model_of()
            if opt is None or model is None or opt.update.ready:
                return
            found = plan_model(model, (args, kwargs), self.request)
            refuse_sparse(model, found)
            opt.adopt(found)
            opt.origin = self.of(model, (args, kwargs), opt.plan)
            opt.awaited = None

        opt.awaited = on_first_forward(model, adopt)

    def again(self, plan: NormPlan) -> NormPlan:
        """The plan made again on what is remembered. NormcError where that is nothing, or can't be traced now."""
        model = self.known() if self.known is not None else None
        if model is None:
            raise NormcError("the optimizer is a copy, or its model is gone", "give the model")
        if self.inputs is None and own_inputs(model) is None:
            raise NormcError("the optimizer knows no example inputs", "give them")
        return again(plan, self.request, model, self.inputs or inputs_of(model, None))

    def parameters(self) -> Mapping[str, Tensor] | None:
        """Those of the model as it now is, by all their names; None where it isn't known."""
        model = self.known() if self.known is not None else None
        return None if model is None else dict(own_parameters(model, remove_duplicate=False))

    def gone(self, members: Mapping[str, Tensor]) -> bool:
        """Whether the model holds another tensor where it held one of these. Says so once of those never seen in it."""
        model = self.known() if self.known is not None else None
        if model is None:
            return False
        of, places = self._places
        if of is members:
            return any(table.get(name) is not parameter for table, name, parameter in places)
        ids = {id(parameter) for parameter in members.values()}
        tables = [module._parameters for module in model.modules()]
        places = [(table, name, p) for table in tables for name, p in table.items() if p is not None and id(p) in ids]
        self._places = members, places
        return len({id(parameter) for *_, parameter in places}) < len(ids)

    def parameter(self, name: str) -> Tensor | None:
        """One of them; None where the model isn't known, or has none of that name."""
        owner: Any = self.known() if self.known is not None else None
        if owner is None:
            return None
        *path, own = name.split(".")
        try:  # in the modules' own tables: attributes take three times as long
            for part in path:
                owner = owner._modules[part]
            found: Tensor | None = owner._parameters[own]
        except KeyError:
            return None
        return found

    def with_model(
        self, plan: NormPlan, model: nn.Module, example_inputs: Any, moved: Collection[str]
    ) -> tuple[NormPlan, Source]:
        """The plan made again on this model and example, and what is remembered from now on."""
        inputs = inputs_of(model, example_inputs)
        found = again(plan, self.request, model, inputs, moved)
        return found, self.of(model, inputs, found)
