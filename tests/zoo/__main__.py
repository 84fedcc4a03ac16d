"""The score of the zoo: `python -m tests.zoo` prints, for every model, how many of its rows are right."""

from __future__ import annotations

from tests.zoo.models import CASES
from tests.zoo.test_zoo import wrong_rows


def main() -> None:
    """One line a model, the wrong rows under it, and the sum."""
    right = total = 0
    for name in sorted(CASES):
        wrong = wrong_rows(name)
        count = sum(1 for _ in CASES[name].build().named_parameters())
        right, total = right + count - len(wrong), total + count
        print(f"{name:24} {count - len(wrong):4} of {count:4}", *wrong, sep="\n    " if wrong else "")
    print(f"{right} of {total} rows right in {len(CASES)} models")


if __name__ == "__main__":
    main()
