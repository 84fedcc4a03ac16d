"""What the sweep over other libraries found: a compact JSON, and a page of Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks.sweep.report import Outcome, gathered, median, table

_HEAD = """# Models of other libraries

Written by `python -m benchmarks.sweep --libraries`; [libraries.json](libraries.json) has a line for each model.
`make libraries` installs the libraries into an environment of their own; normc needs none of them. Each model is small,
has random settings and weights, and is planned in eval and in training mode, each in a process with a time limit.

- *planned*: both plans were made. *failed*: `normc.plan` raised although the model runs. *stopped*: the time limit.
  *broken*: the model no longer ran after it had been planned. *not built*, *does not run*: says nothing about normc.
- *lost*: rows that the plan calls unused and that one real backward (the sum of squares of every output) reaches, in
  either mode. *idle*: rows with a step that this backward doesn't reach.
- *judge*: rows on which [the judge](../benchmarks/sweep/oracle.py) and the plan of training mode differ.
"""


def write(out: Path) -> None:
    """`libraries.json` and `libraries.md` from the results in `out`."""
    outcomes = [json.loads(line) for line in (out / "libraries.jsonl").read_text().splitlines()]
    outcomes.sort(key=lambda outcome: outcome["name"])
    facts = json.loads((out / "libraries.run.json").read_text())
    lines = ",\n  ".join(json.dumps(_short(outcome), separators=(",", ":")) for outcome in outcomes)
    (out / "libraries.json").write_text(f'{{"run": {json.dumps(facts)},\n "models": [\n  {lines}\n ]}}\n')
    readings = Path(__file__).with_name("readings.md").read_text()
    (out / "libraries.md").write_text(_HEAD + _page(outcomes, facts) + readings)


def _short(outcome: Outcome) -> Outcome:
    """What of an outcome is kept: no counts that the page adds up."""
    kept = ("name", "status", "error", "seconds", "rows", "lost", "idle", "far", "fallbacks", "disagreed")
    return {key: round(outcome[key], 2) if key == "seconds" else outcome[key] for key in kept if outcome.get(key)}


def _page(outcomes: list[Outcome], facts: Outcome) -> str:
    versions = json.loads(facts["version"])
    shelves = {name: [one for one in outcomes if one["name"].startswith(f"{name}/")] for name in versions}
    heads = ("library", "models", "planned", "failed", "stopped", "broken", "rows", "lost", "idle", "fallbacks",
             "judge", "seconds (median)")  # fmt: skip
    rows = [(versions[name], *_counts(found)) for name, found in shelves.items() if found]
    rows.append(("all", *_counts(outcomes)))
    lines = [f"\n{facts['date']}, normc {facts['normc']}; {' and '.join(facts['machines'])}."]
    lines += table("By library", heads, rows)
    wrong = [(one["name"], one["status"], one["error"]) for one in outcomes
             if one["status"] in ("failed", "stopped", "broken")]  # fmt: skip
    lines += table("Failed, stopped and broken", ("model", "", "error"), wrong)
    lines += table("Unused, but reached by autograd", ("model", "mode", "rows", "first"), _lost(outcomes))
    lines += table("Planned, but not reached by autograd", ("model", "rows", "first"),
                   [(one["name"], len(one["idle"]), one["idle"][0])
                    for one in outcomes if one.get("idle")])  # fmt: skip
    lines += table("Targets far from the others of their role", ("model", "rows", "first"),
                   [(one["name"], len(one["far"]), one["far"][0]) for one in outcomes if one.get("far")])  # fmt: skip
    planned = [one for one in outcomes if "fallbacks" in one]
    for title, key, names in (
        ("Fallbacks, by reason", "fallbacks", ("reason",)),
        ("Where the judge differs", "disagreed", ("about", "the judge expects", "the plan says")),
    ):
        found = [(*kind, *rest) for kind, rest in gathered(planned, key).items()]
        lines += table(title, (*names, "tensors", "models", "first"), found)
    apart = [(one["name"], one["status"], one["error"]) for one in outcomes
             if one["status"] in ("not built", "does not run")]  # fmt: skip
    lines += table("Said nothing about normc", ("model", "", "error"), apart)
    return "\n".join(lines) + "\n"


def _counts(found: list[Outcome]) -> tuple[int | str, ...]:
    status = Counter(one["status"] for one in found)
    planned = [one for one in found if "rows" in one]
    return (
        len(found), status["planned"], status["failed"], status["stopped"], status["broken"],
        sum(one["rows"] for one in planned),
        sum(len(names) for one in found for names in (one.get("lost") or {}).values()),
        sum(len(one.get("idle", ())) for one in found),
        sum(count for one in planned for count, _ in one["fallbacks"].values()),
        sum(entry[-2] for one in planned for entry in one["disagreed"]),
        f"{median(one['seconds'] for one in planned):.2f}",
    )  # fmt: skip


def _lost(outcomes: Iterable[Outcome]) -> list[tuple[str, str, int, str]]:
    return [(one["name"], mode, len(names), names[0]) for one in outcomes
            for mode, names in (one.get("lost") or {}).items()]  # fmt: skip
