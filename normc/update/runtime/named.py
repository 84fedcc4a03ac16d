"""A torch optimizer whose parameters are known by name, and its checkpoints matched by it. Needs torch alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any, NoReturn

import torch
from torch import Tensor

from normc.update.runtime.faults import POLICIES
from normc.update.runtime.holder import GradientHolder
from normc.update.runtime.rounding import SEED
from normc.update.runtime.run import Cores, Update

# Prefixes that wrappers put into parameter names.
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module.")
# Options of torch's optimizers that say nothing of the update, or that a loss says as well: what to do instead. Hosts
# pass all of them; None and False ask for nothing.
_OWN = "leave it out: how a planned update runs is in its generated code"
FOREIGN = {
    "maximize": "call backward on the negated loss: an update goes down",
    "amsgrad": "leave it out: no recipe keeps the largest of its averages",
    "differentiable": "leave it out: a step is not part of autograd's graph",
    "betas": "give momentum and beta2 (normc recipes lists what each recipe has)",
    **dict.fromkeys(("foreach", "fused", "capturable"), _OWN),
}
# Values of groups that are averages' shares, from 0 to below 1; all others are at least 0.
SHARES = ("momentum", "beta2")


class NamedOptimizer(GradientHolder):
    """Two parameter groups, matrices and the rest, each with `param_names` and the plan's hash.

    Never keeps a group, a parameter or an lr between steps: hosts replace all three.
    """

    cores: Cores
    _built = False
    _given: tuple[str, ...] = ()
    _policy: str = "raise"

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        update: Update,
        lr: float | Tensor | Mapping[str, float],
        compile: bool = True,
        nonfinite: str = "raise",
        **options: float | tuple[float, ...],
    ) -> None:
        if nonfinite not in POLICIES:
            self._fail(f"nonfinite is {nonfinite!r}", f"give one of {', '.join(POLICIES)}")
        self._policy = nonfinite
        self._check_policy(update)
        self.update = update
        self.cores = Cores(compile, self._warning())
        groups: list[dict[str, Any]] = [
            {"params": [], "param_names": [], "plan": update.plan, "lr": rate, **defaults, **self._seeds()}
            for rate, defaults in zip(self._rates(lr), update.defaults, strict=True)
        ]
        for name, value in options.items():
            self._set_option(groups, name, value)
        for name, parameter in self._resolve(named_parameters):
            group = groups[update.entries[name].group]
            group["params"].append(parameter)
            group["param_names"].append(name)
        shared = [name for name in update.defaults[0] if all(name in defaults for defaults in update.defaults)]
        super().__init__(groups, {"lr": groups[0]["lr"], **{name: groups[0][name] for name in shared}})
        self._given = tuple(options)
        self._refuse_unread(update)
        self._built = True

    def _fail(self, problem: str, fix: str) -> NoReturn:
        raise RuntimeError(f"{problem}\n  fix: {fix}")

    def _warning(self) -> type[Warning]:
        return UserWarning

    def _rebuilt(self) -> Update:
        """The update of an optimizer that comes out of a pickle."""
        self._fail(f"a {type(self).__name__} can't be unpickled", "make it anew and load its state_dict")

    def _seeds(self) -> dict[str, int]:
        """What a group has more if rounding is stochastic."""
        return {SEED: 0} if self.update.stochastic else {}

    def _check_policy(self, update: Update) -> None:
        """Fails where a step can't be left out: its gradient has spoiled the average by then."""
        if self._policy == "skip" and any(bucket.holds_gradients for bucket in update.buckets):
            fix = 'give nonfinite="zero", which counts such entries as zero, or another recipe'
            self._fail(f"{update.recipe} can't skip a step: gradients hold the average of all before", fix)

    def _rates(self, lr: float | Tensor | Mapping[str, float]) -> list[float | Tensor]:
        """Each group's lr: the same, or that of its recipe."""
        labels = self.update.labels or (self.update.recipe,) * len(self.update.defaults)
        if isinstance(lr, Mapping) and set(lr) != set(labels):
            self._fail(
                f"lr is given for {', '.join(sorted(lr))}", f"give one for each of {', '.join(dict.fromkeys(labels))}"
            )
        rates = [lr[label] if isinstance(lr, Mapping) else lr for label in labels]
        for rate in rates:
            self._check_number("lr", rate, math.inf)
        return rates

    def _check_number(self, name: str, value: object, end: float) -> None:
        """Fails on what isn't a number from 0 to below `end`."""
        if isinstance(value, bool) or not isinstance(value, int | float | Tensor) or not 0.0 <= float(value) < end:
            least = "a finite number of at least 0" if end == math.inf else f"a number from 0 to below {end:g}"
            self._fail(f"{name} is {value!r}", f"give {least}")

    def _set_option(self, groups: list[dict[str, Any]], name: str, value: float | tuple[float, ...]) -> None:
        known = dict.fromkeys(key for defaults in self.update.defaults for key in defaults)
        if name not in known and name in FOREIGN and value in (None, False):
            return
        if name not in known:
            fix = FOREIGN.get(name, f"known: {', '.join(['lr', *known])}")
            self._fail(f"there is no option {name!r}", fix)
        each = value if isinstance(value, tuple) else (value,) * len(groups)
        if len(each) != len(groups):
            self._fail(f"{name} is {value!r}", "give a number, or one for matrices and one for the rest")
        for group, defaults, own in zip(groups, self.update.defaults, each, strict=True):
            if name in defaults:
                whole = name not in SHARES or defaults[name] == 1.0  # of 1 an average is a sum (Shampoo's factors)
                self._check_number(
                    name, own, math.nextafter(1.0, 2.0) if whole and name in SHARES else math.inf if whole else 1.0
                )
                group[name] = own

    def _refuse_unread(self, update: Update) -> None:
        """Fails on a value that was given, isn't the recipe's own, and that no function of the update reads."""
        used = {bucket.group for bucket in update.buckets} if update.reads else ()
        read = {name for group in used for name in update.reads[group]}
        for name in self._given if used else ():
            for group, defaults in zip(self.param_groups, update.defaults, strict=True):
                if name not in read and group.get(name) != defaults.get(name):
                    self._fail(
                        f"no update of {update.recipe} reads {name}, which is {group[name]}",
                        "leave it out, or take a recipe or an option that has a use for it",
                    )

    def _name(self, given: str) -> str:
        """The plan's name of a parameter that may be known by an alias, or wear wrappers' prefixes."""
        bare = given
        for wrapper in WRAPPERS:
            bare = bare.replace(wrapper, "")
        for name in (given, bare):
            if name in self.update.entries:
                return name
            if name in self.update.aliases:
                return self.update.aliases[name]
        return self._fail(f"the plan has no parameter {given!r}", "plan again, or pass the planned model's parameters")

    def _resolve(self, named_parameters: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """(plan's name, parameter), each once; fails on a shape that differs, and if one is missing."""
        seen: set[str] = set()
        for item in named_parameters:
            if not isinstance(item, tuple):
                self._fail("parameters came without names", "pass model.named_parameters(), not model.parameters()")
            name = self._name(item[0])
            if name in seen:
                continue
            seen.add(name)
            self._check_shape(name, item[1])
            if item[1].requires_grad:
                self._check_real(name, item[1])
            yield name, item[1]
        entries = self.update.entries
        missing = [name for name in entries if name not in seen and not (entries[name].frozen or entries[name].idle)]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            self._fail(f"no parameter was given for {missing[0]!r}{more}", "pass all of the planned model's parameters")

    def _check_shape(self, name: str, parameter: Tensor) -> None:
        shape = self.update.entries[name].shape
        if tuple(parameter.shape) == shape:
            return
        fix = "plan again with this model"
        if parameter.dim() == 1 and len(shape) > 1:
            fix = "its host flattened it (DeepSpeed ZeRO, FSDP1): use DDP, FSDP2, or FSDP1 with use_orig_params=True"
        self._fail(f"{name!r} has shape {tuple(parameter.shape)}, the plan says {shape}", fix)

    def _check_real(self, name: str, tensor: Tensor) -> None:
        if tensor.is_complex():
            self._fail(f"{name!r} is complex", "keep its real and imaginary part in a real parameter")

    def _dtype(self, parameter: Tensor) -> torch.dtype:
        """What a parameter's step is computed in."""
        return torch.promote_types(parameter.dtype, self.update.compute_dtype)

    def _kept_in(self, parameter: Tensor, kind: str) -> torch.dtype:
        """What a parameter's state of a kind is kept in."""
        return (self.update.state if kind == "like" else None) or self._dtype(parameter)

    def take(self, update: Update) -> None:
        """Take a plan's update: parameters move between the two groups in place, states and group values stay."""
        loaded = {group["plan"] for group in self.param_groups} - {"", update.plan}
        if loaded:
            self._fail("a checkpoint of another plan was loaded before this one was known", "load one of this plan")
        self._refuse_unread(update)
        self._check_policy(update)
        self.update = update
        named = [
            pair for group in self.param_groups for pair in zip(group["param_names"], group["params"], strict=True)
        ]
        placed = list(self._resolve(named))
        for index, group in enumerate(self.param_groups):
            own = [(name, parameter) for name, parameter in placed if update.entries[name].group == index]
            group["params"][:] = [parameter for _, parameter in own]
            group["param_names"] = [name for name, _ in own]
            group["plan"] = update.plan

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Fails once the optimizer is built: the plan says what every parameter gets."""
        if self._built:
            fix = "plan the whole model; what has no gradient yet (requires_grad=False) is skipped until it has one"
            self._fail("parameters can't be added to an optimizer whose update is planned", fix)
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """As torch's, and `rows`: what the plan says of each parameter, in short."""
        state: dict[str, Any] = super().state_dict()
        if self.update.ready:
            state["rows"] = {name: entry.what for name, entry in self.update.entries.items()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load by name; fails on another plan's checkpoint. State gets its own dtype, whatever the parameter's."""
        mapped = self._by_name(state_dict)
        super().load_state_dict(mapped)
        ids = [key for group in mapped["param_groups"] for key in group["params"]]
        groups = self.param_groups
        named = [pair for group in groups for pair in zip(group["param_names"], group["params"], strict=True)]
        kinds = {name: dict(bucket.states) for bucket in self.update.buckets for name in bucket.names}
        for key, (own, parameter) in zip(ids, named, strict=True):
            for name, value in mapped["state"].get(key, {}).items():
                dtype = self._kept_in(parameter, kinds.get(own, {}).get(name, ""))
                # torch has rounded it to the parameter's dtype.
                if isinstance(value, Tensor) and name not in self.as_they_are and dtype != parameter.dtype:
                    self.state[parameter][name] = value.detach().to(device=parameter.device, dtype=dtype, copy=True)

    def _by_name(self, saved: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint with its parameters in the order of this optimizer's."""
        groups = saved["param_groups"]
        if any(group["params"] and "param_names" not in group for group in groups):
            self._fail("the checkpoint has no parameter names", "load one that an optimizer of normc wrote")
        self._check_plan(saved)
        keys = {
            self._name(name): key
            for group in groups
            for name, key in zip(group.get("param_names", ()), group["params"], strict=True)
        }
        mapped: dict[str, Any] = {"state": {}, "param_groups": []}
        for index, group in enumerate(self.param_groups):
            names = group["param_names"]
            absent = [name for name in names if name not in keys]
            if absent:
                self._fail(f"the checkpoint has nothing of {absent[0]!r}", "load one of the same model")
            ranked = sorted(groups, key=lambda old: -len(set(names) & set(map(self._name, old.get("param_names", ())))))
            values = deepcopy(ranked[0] if names else groups[min(index, len(groups) - 1)])
            values["plan"] = self.update.plan or values.get("plan", "")
            seeds = {name: values.get(name, seed) for name, seed in self._seeds().items()}
            values.pop(SEED, None)
            values |= {"params": [keys[name] for name in names], "param_names": list(names), **seeds}
            mapped["param_groups"].append(values)
            mapped["state"] |= {
                keys[name]: saved["state"][keys[name]] for name in names if keys[name] in saved["state"]
            }
        return mapped

    def _check_plan(self, saved: dict[str, Any]) -> None:
        plans = {group.get("plan", "") for group in saved["param_groups"]} - {""}
        if not self.update.ready or not plans or plans == {self.update.plan}:
            return
        old, new = saved.get("rows", {}), {name: entry.what for name, entry in self.update.entries.items()}
        differing = [name for name in {**old, **new} if old.get(name) != new.get(name)] if old else []
        if differing and all("unused" in (_role(old, name), _role(new, name)) for name in differing):
            return  # Either plan knew nothing of these: it was made, or made again, with another example.
        changes = [f"\n    {name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}" for name in differing[:8]]
        more = f"\n    and {len(differing) - 8} more" if len(differing) > 8 else ""
        rows = "".join(changes) + more
        problem = (
            f"the checkpoint was written under plan {', '.join(sorted(plans))}, this is plan {self.update.plan}{rows}"
        )
        self._fail(problem, "compile with the plan and options that wrote it")

    def __getstate__(self) -> dict[str, Any]:
        """As torch's, without the generated update, which is made again."""
        return {**super().__getstate__(), "_compile": self.cores.enabled, "_policy": self._policy}

    def __setstate__(self, state: dict[str, Any]) -> None:
        enabled = state.pop("_compile", None)
        super().__setstate__(state)
        if enabled is not None:  # a pickle or a copy; torch's load_state_dict comes by here too
            self.cores = Cores(enabled, self._warning())
            self.update = self._rebuilt()
            self._built = True


def _role(rows: Mapping[str, str], name: str) -> str:
    return rows.get(name, "").split(",")[0]
