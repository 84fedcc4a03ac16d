"""What is to be said about a plan as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from normc.plans.row import Row

MOST_UNREACHED = "most of the model would not learn"  # how the note of that begins
_SHOWN = 4


def guessed(guesses: Iterable[str]) -> tuple[str, ...]:
    """One note for each guess of the trace, with how often it was made."""
    counted = Counter(guesses)
    return tuple(f"guessed while tracing: {guess}" + (f" (x{n})" if n > 1 else "") for guess, n in counted.items())


def unreached(rows: Sequence[Row]) -> tuple[str, ...]:
    """What is to be said of rows that no gradient reaches: one note, or none."""
    unused = [row for row in rows if row.role == "unused"]
    if not unused:
        return ()
    size, whole = sum(row.numel for row in unused), sum(row.numel for row in rows)
    if 2 * size > whole:
        most = f"no gradient reaches {len(unused)} of {len(rows)} parameters, {size:,} of {whole:,} entries"
        return (f"{MOST_UNREACHED}: {most}; see that forward returns what the loss is made of, and reads its inputs",)
    return (
        f"no gradient reaches {len(unused)} parameters ({size:,} entries); an example that uses them may change that",
    )


def planned_elsewhere(names: Sequence[str], why: str) -> str:
    """That these parameters are planned on another path through the model's code."""
    count = f"{len(names)} parameters are" if len(names) > 1 else "1 parameter is"
    return f"{count} planned {why}: {listed(names)}"


def listed(names: Sequence[str], most: int = _SHOWN) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
