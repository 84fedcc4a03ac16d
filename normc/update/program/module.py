"""The generated module: update ops, compiled cores, one function per family, and tables of parameters by name."""

from __future__ import annotations

import functools
import linecache
import types
from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from normc.update.program.listing import Form, Grouped, tables
from normc.update.program.program import (
    ROWWISE,
    Core,
    Family,
    Program,
    placeholders,
    returned,
    rowwise_numbers,
    split,
)
from normc.update.program.source import (
    INDENT,
    Printer,
    Swaps,
    descriptions,
    functions,
    header,
    literal,
    op_source,
    shape_comment,
)
from normc.update.runtime.run import Update

PREAMBLE = """from __future__ import annotations

import math
{modules}
import torch
from torch import Tensor

{kernels}from normc.update.runtime.door import {}
"""

KERNELS = """from normc.update.kernels.newton_schulz import beside, newton_schulz, picked
from normc.update.kernels.normalise import PARTS, measured, unit_norm
"""


@dataclass(frozen=True, slots=True)
class Text:
    """A generated module in parts, the same in an exported file, whose imports differ.

    `tables` say which function updates which parameter, and need the runtime's classes.
    """

    doc: str
    functions: str
    tables: str = ""

    @property
    def body(self) -> str:
        """All below the imports."""
        return "\n\n\n".join(part for part in (self.functions, self.tables) if part)

    @property
    def module(self) -> str:
        """The module as it runs in this process."""
        kernels = "@jit" in self.body
        names = ["Bucket", "Entry", *(["Fused", "FusedRun"] if kernels else []), "Run", "Update"]
        names += ["jit", "tl"] if kernels else []
        more = KERNELS if "newton_schulz(" in self.body else ""
        modules = "import warnings\n" if "warnings." in self.body else ""
        return f"{self.doc}\n\n{PREAMBLE.format(', '.join(names), kernels=more, modules=modules)}\n\n{self.body}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """An update that can run, and the text that it runs from."""

    update: Update
    text: Text


def write(program: Program, recipe: Grouped, version: str, form: Form | None = None) -> Text:
    """The source of a batched program, and of its steps in another form. The same program gives the same text."""
    printer = Printer()
    swaps: Swaps = form.swaps if form is not None else lambda family: {}
    cores = [printer.core(family, family.core, swaps(family)) for family in program.families if family.core is not None]
    steps = [_step(printer, family) for family in program.families]
    if form is not None:
        steps += [*form.helpers, *filter(None, map(form.step, program.families))]
    listed = tables(program, recipe, printer, form)
    constants = [
        f"{name} = (\n" + "".join(f"{INDENT}{literal(item)},\n" for item in value) + ")"
        for value, name in printer.constants.items()
        if isinstance(value, tuple)
    ]
    ops = [op_source(op) for op in functions(program, swaps)]
    parts = ["\n".join(constants)] if constants else []
    parts += [*ops, *cores, *steps]
    return Text(header(program, version), "\n\n\n".join(parts), listed + "\n")


def _step(printer: Printer, family: Family) -> str:
    """The function that the optimizer calls: lists of tensors, plain numbers, any number of parameters."""
    first = family.chains[0]
    parts = split(first.graph)
    names = _list_names(first.graph)
    lines = [f"def {family.name}(run: Run) -> None:"]
    lines += [f"{INDENT}# {line}" for line in descriptions(family)]
    used = {source for node in (*parts.before, *parts.after) for source in node.all_input_nodes}
    for node in placeholders(first.graph, "number"):
        if node in used:
            lines.append(f"{INDENT}{node.name} = run.number({literal(node.name)})")
    lines.append(f"{INDENT}w = run.weights")
    if any(node.users for node in placeholders(first.graph, "grad")):
        lines.append(f"{INDENT}g = run.grads")
    for node in placeholders(first.graph, "state"):
        lines.append(f"{INDENT}{node.name} = run.states[{literal(node.name)}]")
    lines += [_each(printer, node, names, family) for node in parts.before]
    if family.core is not None:
        lines += _core_call(family, family.core, names)
    lines += [_each(printer, node, names, family) for node in parts.after]
    lines += _write_back(first.graph, names)
    return "\n".join(lines)


def _list_names(graph: fx.Graph) -> dict[fx.Node, str]:
    """Variables of a list function: what is updated in place keeps the name of its weight or state."""
    names = {node: node.name for node in graph.nodes}
    for node in _in_place(graph):
        names[node] = names[node.all_input_nodes[0]]
    return names


def _in_place(graph: fx.Graph) -> list[fx.Node]:
    """List ops that update a weight or a state, in order: those between it and its returned value."""
    core = split(graph).core
    found: set[fx.Node] = set()
    kept = [*placeholders(graph, "weight"), *placeholders(graph, "state")]
    for before, after in zip(kept, returned(graph), strict=True):
        path, node = [], after
        while node.op == "call_function" and node not in core and isinstance(node.args[0], fx.Node):
            path.append(node)
            node = node.args[0]
        found.update(path if node is before else ())
    return [node for node in graph.nodes if node in found]


def _each(printer: Printer, node: fx.Node, names: Mapping[fx.Node, str], family: Family) -> str:
    op = getattr(node.target, "__name__", "")
    numbers: dict[str, str] = {}
    for name in ROWWISE:
        if name in node.kwargs:
            found = rowwise_numbers(_calls(node, family), [len(chain.rows) for chain in family.chains], name)
            numbers[name] = printer.numbers(found)
    call = printer.call(f"{op}_each", node, names, numbers)
    in_place = names[node] == names[node.all_input_nodes[0]]
    return f"{INDENT}{call}" if in_place else f"{INDENT}{names[node]} = {call}"


def _calls(node: fx.Node, family: Family) -> list[fx.Node]:
    """The same call in every chain of a family, by its place among the list ops."""
    found = []
    place: int | None = None
    for chain in family.chains:
        parts = split(chain.graph)
        lists = (*parts.before, *parts.after)
        place = lists.index(node) if place is None else place
        found.append(lists[place])
    return found


def _core_call(family: Family, core: Core, names: Mapping[fx.Node, str]) -> list[str]:
    """Stack the lists, call the core, and take its stacks apart again."""
    offsets = [0]
    for chain in family.chains:
        offsets.append(offsets[-1] + len(chain.rows))
    lines: list[str] = []
    arguments: list[str] = []
    numbers = {node for chain in family.chains for node in placeholders(chain.graph, "number")}
    for node in (node for place, node in core.inputs if place == 0 and node not in numbers):
        how = "" if node.meta["val"].shape[1:] == family.chains[0].row.shape else ", alike=True"
        lines.append(f"{INDENT}every_{node.name} = run.full({names[node]}{how})")
    for index, (place, node) in enumerate(core.inputs):
        arguments.append(f"x{index}")
        if node in numbers:
            lines.append(f"{INDENT}x{index} = run.tensor({literal(node.name)})")
            continue
        span = f"{offsets[place]}:{offsets[place + 1]}" if len(family.chains) > 1 else ""
        source = f"every_{node.name}[{span}]" if span else f"every_{node.name}"
        lines.append(f"{INDENT}x{index} = stack({source}){shape_comment(node)}")
    results = [f"y{index}" for index in range(len(core.outputs))]
    left = ", ".join(results) + ("," if len(results) == 1 else "")
    left = f"({left})" if len(results) == 1 else left
    lines.append(f"{INDENT}{left} = run.core(core_{family.name}, {', '.join(arguments)})")
    per_chain = len(core.outputs) // len(family.chains)
    for position in range(per_chain):
        parts = ", ".join(f"*{name}.unbind()" for name in results[position::per_chain])
        lines.append(f"{INDENT}{core.outputs[position][1].name} = run.pick([{parts}])")
    return lines


def _write_back(graph: fx.Graph, names: Mapping[fx.Node, str]) -> list[str]:
    """Weights and states that no list op updated in place are copied into their own tensors."""
    kept = [*placeholders(graph, "weight"), *placeholders(graph, "state")]
    pairs = zip(kept, returned(graph), strict=True)
    return [
        f"{INDENT}torch._foreach_copy_({before.name}, {names[after]})"
        for before, after in pairs
        if names[after] != before.name
    ]


@functools.lru_cache(maxsize=32)
def load(source: str, plan: str) -> Update:
    """Run a generated module; its frames show in tracebacks under `<normc plan HASH>`."""
    name, index = f"<normc plan {plan[:16]}>", 2
    while name in linecache.cache and linecache.getlines(name) != source.splitlines(keepends=True):
        name, index = f"<normc plan {plan[:16]} #{index}>", index + 1
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    module = types.ModuleType("normc_update")
    exec(compile(source, name, "exec"), module.__dict__)  # noqa: S102  # `write` holds names to literals
    update: Update = module.UPDATE
    return update
