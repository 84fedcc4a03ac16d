"""A measurement as a plot: steps against batch sizes, the law, and what doubling the batch would ideally save."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from pathlib import Path

from normc.errors import NormcError
from normc.tools.cbs.law import Law


def draw(sizes: Sequence[int], target: float, law: Law, path: Path) -> None:
    """The law over these batch sizes, into `path`. NormcError without matplotlib, or where it can't be written."""
    try:
        mpl = importlib.import_module("matplotlib")
    except ModuleNotFoundError:
        raise NormcError("a plot needs matplotlib", "pip install matplotlib") from None
    mpl.use("agg")
    plt = importlib.import_module("matplotlib.pyplot")
    figure, axes = plt.subplots(figsize=(6.2, 4.0), dpi=144, layout="constrained")
    low, high = min(law.batches), max(law.batches)
    curve = [low * (high / low) ** (k / 100) for k in range(101)]
    axes.loglog(curve, [law.predict(law.optimal) * law.optimal / batch for batch in curve], "--", color="0.6",
                label="no waste: steps fall as 1 / B")  # fmt: skip
    axes.loglog(curve, [law.predict(batch) for batch in curve], color="#5b8e7d",
                label=f"{law.a:.3g} + {law.b:.3g} / B" + ("" if law.alpha == 1 else f"^{law.alpha:.3g}"))  # fmt: skip
    axes.loglog(law.batches, law.steps, "o", color="#d1495b", label="measured")
    if math.isfinite(law.critical) and law.critical <= 2 * high:
        axes.axvline(law.critical, color="0.3", linewidth=0.8)
        axes.annotate(f" critical: {law.critical:.0f}", (law.critical, max(law.steps)), va="top", fontsize=9)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("batch size")
    axes.set_ylabel(f"steps to a loss of {target:g}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    try:
        figure.savefig(path)
    except OSError as problem:
        raise NormcError(
            f"{path} can't be written: {problem.strerror}", "give a file in a folder that exists"
        ) from None
    finally:
        plt.close(figure)
