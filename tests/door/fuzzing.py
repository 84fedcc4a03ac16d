"""Fuzz plans, checkpoints, options and command lines: `python -m tests.door.fuzzing --inputs 10000 --seed 0`.

Each input gives a result or one NormcError, and no text of it is run (tests/door/test_fuzz.py, whose checks these are).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from tests.door.test_fuzz import CHECKS, RUNS, alarmed

# Inputs of each check in a round. A plan costs the generation of its code, a checkpoint a copy of an optimizer.
ROUND = {"test_plans": 25, "test_names_stay_inert_in_generated_code": 10, "test_checkpoints": 50}
USUAL = 500


def rounds(inputs: int, seed: int, only: Iterable[str] = ()) -> dict[str, int]:
    """Run checks in rounds, each of a seed of its own, until they had `inputs` together; return how many each had."""
    names = list(only) or list(CHECKS)
    RUNS.clear()
    while RUNS.total() < inputs:
        with alarmed():
            for name in names:
                CHECKS[name](ROUND.get(name, USUAL), seed)()
        print(f"seed {seed}: {RUNS.total():,} of {inputs:,} inputs, none crashed", flush=True)
        seed += 1
    return dict(RUNS)


def main() -> None:
    """Run the checks, and print how many inputs each had. The first failure ends the run, with its smallest input."""
    parser = argparse.ArgumentParser(prog="python -m tests.door.fuzzing")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; the next ones follow")
    parser.add_argument(
        "--only", choices=sorted(CHECKS), action="append", default=[], help="one check; may be repeated"
    )
    given = parser.parse_args()
    for name, number in rounds(given.inputs, given.seed, given.only).items():
        print(f"{name}: {number:,}")


if __name__ == "__main__":
    main()
