"""What a sweep found: a compact JSON, and a page of Markdown."""

from __future__ import annotations

import datetime as dt
import json
import platform
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from normc.version import VERSION

Outcome = dict[str, Any]
_STATUSES = ("planned", "failed", "stopped", "does not run", "no inputs", "not built")


def note(out: Path, library: str, version: str, total: int) -> int:
    """Keep beside the results where and with what they were made; `total` architectures are there to be tried.

    The number of this machine among those that the results come from.
    """
    file = out / f"{library}.run.json"
    machine = f"{_processor()}, Python {platform.python_version()}, torch {torch.__version__}"
    before = json.loads(file.read_text())["machines"] if file.exists() else []
    facts: Outcome = {"date": dt.datetime.now(dt.UTC).date().isoformat(), "version": version, "total": total,
             "machines": list(dict.fromkeys((*before, machine))), "normc": VERSION}  # fmt: skip
    file.write_text(json.dumps(facts))
    machines: list[str] = facts["machines"]
    return machines.index(machine)


def _processor() -> str:
    try:
        named = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        named = None
    return named[1] if named else platform.machine()


def write(out: Path) -> None:
    """`sweep.json` and `sweep.md` from every library's results in `out`."""
    libraries = {file.name.removesuffix(".run.json"): file for file in sorted(out.glob("*.run.json"))}
    documents, pages = {}, []
    for library, file in libraries.items():
        outcomes = [json.loads(line) for line in (out / f"{library}.jsonl").read_text().splitlines()]
        facts = json.loads(file.read_text())
        documents[library] = facts | _summary(outcomes, facts) | {"models": [_short(outcome) for outcome in outcomes]}
        pages.append(_page(library, documents[library], outcomes))
    verdicts = Path(__file__).with_name("verdicts.md").read_text()
    lines = ",\n".join(f'"{library}": {_document(found)}' for library, found in documents.items())
    (out / "sweep.json").write_text(f"{{\n{lines}\n}}\n")
    (out / "sweep.md").write_text(_HEAD + "\n".join(pages) + verdicts)


def _document(found: Outcome) -> str:
    """One line a model."""
    models = ",\n  ".join(json.dumps(model, separators=(",", ":")) for model in found["models"])
    rest = json.dumps({key: value for key, value in found.items() if key != "models"}, indent=1)
    return rest.removesuffix("\n}") + f',\n "models": [\n  {models}\n ]\n}}'


def _short(outcome: Outcome) -> list[Any]:
    """[name, status, seconds, rows, rows not reached, configuration], or [name, status, error]."""
    if outcome["status"] != "planned":
        return [outcome["name"], outcome["status"], outcome["error"][:120]]
    seconds = round(outcome["seconds"], 1)
    return [outcome["name"], "planned", seconds, outcome["rows"], outcome["unreached"], outcome["size"]]


def _summary(outcomes: list[Outcome], facts: Outcome) -> Outcome:
    planned = [outcome for outcome in outcomes if outcome["status"] == "planned"]
    agreed: Counter[str] = Counter()
    for outcome in planned:
        agreed.update(outcome["agreed"])
    wrong = gathered(planned, "disagreed")
    return {
        "tried": len(outcomes),
        "on": {facts["machines"][at]: n for at, n in sorted(Counter(o.get("machine", 0) for o in outcomes).items())},
        "statuses": dict(Counter(outcome["status"] for outcome in outcomes)),
        "rows": sum(outcome["rows"] for outcome in planned),
        "entries": sum(outcome["entries"] for outcome in planned),
        "unreached": sum(outcome["unreached"] for outcome in planned),
        "held": sum(bool(outcome.get("held")) for outcome in planned),
        "blocked": sum(outcome["blocked"] for outcome in planned),
        "roles": dict(sum((Counter(outcome["roles"]) for outcome in planned), Counter())),
        "seconds": round(sum(outcome["seconds"] for outcome in planned), 1),
        "slowest": [[o["name"], round(o["seconds"], 1), o["rows"]]
                    for o in sorted(planned, key=lambda o: -o["seconds"])[:10]],
        "fallbacks": [[*key, *rest] for key, rest in gathered(planned, "fallbacks").items()],
        "agreed": dict(agreed),
        "disagreed": [[*key, *rest] for key, rest in wrong.items()],
        "failures": [[o["name"], o["error"]] for o in outcomes if o["status"] in ("failed", "stopped")],
    }  # fmt: skip


def gathered(planned: list[Outcome], key: str) -> dict[tuple[str, ...], tuple[int, int, str]]:
    """By kind: how many rows, in how many models, and the first; the most frequent first."""
    found: dict[tuple[str, ...], tuple[int, int, str]] = {}
    for outcome in planned:
        entries: Iterable[list[Any]] = outcome[key]
        if isinstance(outcome[key], dict):
            entries = [[why, *rest] for why, rest in outcome[key].items()]
        for *kind, count, example in entries:
            n, models, first = found.get(tuple(kind), (0, 0, f"{outcome['name']}: {example}"))
            found[tuple(kind)] = (n + count, models + 1, first)
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


_HEAD = """# Every architecture

Written by `python -m benchmarks.sweep`; [sweep.json](sweep.json) has a line for each model. Every architecture is built
with random weights on the meta device and planned on the example inputs that it describes itself. transformers: every
class of every model type, its configuration made small where it allows that. timm: every model at its own size.

An architecture is *planned* if `normc.plan` returned, *failed* if it raised although the model runs on the example,
*stopped* if it took too long. One that can't be built from its default configuration, that doesn't say what its forward
takes, or that doesn't run on the example eagerly either, says nothing about normc and is counted apart.

The *judge* is a second opinion that normc doesn't have: what the class of a module (Linear, Conv2d, Embedding, a norm),
its name (cls_token, qkv, router) and the library itself (get_output_embeddings, first_conv) say of a row's axes, role,
norm and blocks (their number and sizes). Whether a row is reached is asked of autograd where the model is small enough
to be run, else of the calls: a row of a module that was called should be reached. Rows that differ are listed.
"""


def _page(library: str, found: Outcome, outcomes: list[Outcome]) -> str:
    counts = found["statuses"]
    agreed = sum(found["agreed"].values())
    differ = sum(entry[-3] for entry in found["disagreed"])
    inferred = found["rows"] - found["unreached"]
    lost = sum(entry[1] for entry in found["fallbacks"])
    partly = sum(bool(outcome.get("unreached")) for outcome in outcomes)
    machines = " and ".join(f"{machine} ({n:,} models)" for machine, n in found["on"].items())
    lines = [
        f"\n## {library} {found['version']}\n",
        f"{found['date']}, normc {found['normc']}; {machines}.\n",
        "| | |", "|---|---|",
        f"| architectures tried | {found['tried']:,} of {found['total']:,} |",
        *(f"| {status} | {counts[status]:,} |" for status in _STATUSES if counts.get(status)),
        f"| parameters of the planned ones | {found['rows']:,} tensors, {found['entries']:,} entries |",
        f"| not reached by the example | {found['unreached']:,} tensors in {partly:,} models |",
        f"| inferred | {inferred - lost:,} of {inferred:,} reached |",
        f"| held against a real backward | {found['held']:,} models |",
        f"| in blocks | {found['blocked']:,} tensors |",
        f"| the judge agrees | {agreed:,} of {agreed + differ:,} opinions |",
        f"| seconds a plan | {median(o['seconds'] for o in outcomes if o['status'] == 'planned'):.1f} median |",
    ]  # fmt: skip
    lines += table("Failed", ("model", "error"), found["failures"])
    lines += table("Fallbacks, by reason", ("reason", "tensors", "models", "first"), found["fallbacks"])
    heads = ("about", "the judge expects", "the plan says", "tensors", "models", "first")
    lines += table("Where the judge differs", heads, found["disagreed"])
    lines += table("Slowest", ("model", "seconds", "tensors"), found["slowest"])
    apart = Counter((o["status"], _kind_of(o["error"])) for o in outcomes
                    if o["status"] in ("does not run", "no inputs", "not built"))  # fmt: skip
    lines += table("Not planned, for reasons of their own", ("", "error", "models"),
                    [(*key, n) for key, n in apart.most_common(12)])  # fmt: skip
    return "\n".join(lines) + "\n"


def _kind_of(error: str) -> str:
    """The first words of an error, without names and numbers."""
    return re.sub(r"\d+", "N", re.sub(r"[\w.]+\.forward\(\)|'[^']*'", "…", error))[:70]


def median(seconds: Iterable[float]) -> float:
    """The middle one; 0 of none."""
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2] if ordered else 0.0


def table(title: str, heads: tuple[str, ...], rows: Iterable[Iterable[Any]]) -> list[str]:
    """The lines of a Markdown table under its title."""
    body = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    if not body:
        return [f"\n{title}: none."]
    return [f"\n### {title}\n", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *body]


def _cell(cell: Any) -> str:
    return f"{cell:,}" if isinstance(cell, int) else str(cell).replace("|", "\\|")
