"""Newton-Schulz polynomials side by side: what each costs and what it guarantees."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from normc.update.polynomials.by_name import families, polynomial
from normc.update.polynomials.composition import LOWER, composed, shown


def table(steps: int = 5, lower: float = LOWER) -> RenderableType:
    """Every family of polynomials with `steps` steps (the cubics with as many as cost no more), on [lower, 1].

    Columns: steps, matrix products, where singular values of [lower, 1] end, and how much those near zero grow.
    NormcError for a number of steps or a lower out of range.
    """
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("polynomial", "steps", "products", f"leaves [{lower:g}, 1] in", "growth", "what"):
        grid.add_column(Text(head), justify="right" if head in ("steps", "products", "growth") else "left")
    for name, family in families.items():
        texts = [name, f"{name}:degree=3"] if "degree" in family.options else [name]
        for text in texts:
            number = 3 * steps // 2 if text != name else steps
            made = polynomial(text, max(number, 1))
            if not made.steps:
                grid.add_row(text, "", "SVD", "1", "", Text(family.summary))
                continue
            found = composed(text, made.steps, lower)
            cells = (str(len(made.steps)), str(found.products), Text(shown(found.leaves)), f"{found.growth:.0f}")
            grid.add_row(text, *cells, Text(family.summary))
    return Group(grid, Text("\nA quintic takes three matrix products a step, a cubic two.", style="dim"))


def show(text: str, steps: int = 5) -> RenderableType:
    """One polynomial: its coefficients and the interval that each step guarantees. NormcError for one unknown."""
    return Text(str(polynomial(text, steps)))
