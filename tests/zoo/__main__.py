"""The score of the zoo: `python -m tests.zoo [--write]` prints, for every model, how many of its rows are right.

--write puts the table into docs/zoo.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import normc
from tests.zoo.models import CASES
from tests.zoo.test_zoo import wrong_rows

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"
HEAD = """# The zoo

Models whose every row was written down by hand from the architecture (its paper, its module's source): role, what each
axis is, independent blocks, norm. `python -m tests.zoo` prints this score; `make test` holds it.
Cases and expectations are in [tests/zoo](../tests/zoo); where an expectation is a matter of opinion, a comment beside
it usually says so. A few were settled after the plan's answer had been seen, and are no independent evidence:
`funnel`'s `seg_embed`, the last projection of `sam`, `masked_spec_embed`, biases of `dispatched-experts`, `two-towers`'
`mean`, axis letters of `s4d`, of the scalars and fused qkv of `modded-gpt`, and of biases of one output.

"""


def main(arguments: list[str]) -> None:
    """One line a model, the wrong rows under it, and the sum."""
    lines, right, total, fallbacks = [], 0, 0, 0
    for name in sorted(CASES):
        plan = normc.plan(CASES[name].build(), CASES[name].inputs(), recipe="uscion")
        wrong = wrong_rows(CASES[name], plan)
        good = len(plan) - sum(1 for row in plan.rows if any(line.startswith(f"{row.name}:") for line in wrong))
        fallbacks += sum(1 for row in plan.rows if row.fallback)
        right, total = right + good, total + len(plan)
        print(f"{name:24} {good:4} of {len(plan):4}", *wrong, sep="\n    " if wrong else "", flush=True)
        lines.append(f"| {name} | {good} | {len(plan)} |")
    summary = f"{right} of {total} rows right in {len(CASES)} models, {fallbacks} fallbacks"
    print(summary)
    if arguments == ["--write"]:
        table = "\n".join(["| model | rows right | rows |", "| --- | --- | --- |", *lines])
        PAGE.write_text(f"{HEAD}**{summary}.**\n\n{table}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
