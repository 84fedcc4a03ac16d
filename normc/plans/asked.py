"""What a user asks of a plan that is there: rows as he wants them, and none that is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from normc.arguments import by_text, instance, shown
from normc.errors import NormcError
from normc.plans.override import FIELDS
from normc.plans.plan import NormPlan
from normc.plans.row import Row

_FIX = 'give {"glob*": "sign"}, or {"glob*": {"norm": "sign", "scale": 0.1, "mass": 1.0, "weight_decay": 0}}'


def asked_changes(overrides: Mapping[str, str | Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """Return what `overrides` change, by pattern. NormcError for what isn't a mapping, and for an unknown field."""
    found = {}
    for pattern, change in by_text("overrides", overrides, _FIX).items():
        fields = {"norm": change} if isinstance(change, str) else by_text(f"the override of {pattern!r}", change, _FIX)
        for key in fields:
            if key not in FIELDS:
                raise NormcError(f"the override of {pattern!r} has no field {shown(key)}", _FIX)
        found[pattern] = fields
    return found


def changed(plan: NormPlan, overrides: Mapping[str, str | Mapping[str, Any]] | None) -> NormPlan:
    """Return the plan with overrides, in their order. NormcError as `asked_changes` and `NormPlan.override`."""
    instance("plan", plan, NormPlan, "give what normc.plan or normc.load returned")
    for pattern, change in asked_changes(overrides).items():
        plan = plan.override(pattern, **change)
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
