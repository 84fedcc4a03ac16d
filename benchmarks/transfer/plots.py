"""The plots: loss against learning rate at every size, rates of layers against width, steps against batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.transfer.report import varied
from benchmarks.transfer.sizes import AXES

OF_LAYERS = ("adamw", "mup-adam", "completep", "everett")


def write(data: Mapping[str, Any], folder: Path) -> None:
    """Write transfer-trained.png, transfer-trained-layers.png and transfer-trained-batch.png."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    for draw, name in ((losses, ""), (layers, "-layers"), (batches, "-batch")):
        figure = draw(data, plt)
        figure.tight_layout()
        figure.savefig(folder / f"transfer-trained{name}.png")
        plt.close(figure)


def losses(data: Mapping[str, Any], plt: Any) -> Any:
    """A column an optimizer, a row an axis, a line a size; a ring is the size's best, the line the one rate for all."""
    done = data["optimizers"]
    figure, grid = plt.subplots(
        len(AXES), len(done), figsize=(1 + 2.1 * len(done), 7), dpi=120, sharey="row", sharex="col", squeeze=False
    )
    for row, axis in zip(grid, AXES, strict=True):
        sizes = varied(data, axis)
        for axes, (name, own) in zip(row, done.items(), strict=True):
            for place, (value, label) in enumerate(sizes.items()):
                if label in own["sizes"]:
                    colour = plt.cm.viridis(place / max(1, len(sizes) - 1) * 0.9)
                    entry = own["sizes"][label]
                    axes.plot(own["rates"], entry["losses"], ".-", color=colour, label=f"{axis} {value}", linewidth=1)
                    axes.plot([entry["lr"]], [entry["best"]], "o", color=colour, fillstyle="none")
            axes.axvline(own["one"], color="0.7", linewidth=0.8, zorder=0)
            axes.set_xscale("log", base=2)
            axes.set_xticks(own["rates"][1::2], [f"{lr:g}" for lr in own["rates"][1::2]])
            axes.grid(alpha=0.25)
            if axis == AXES[0]:
                axes.set_title(name, fontsize=10)
            if axis == AXES[-1]:
                axes.set_xlabel("lr")
        entries = [own["sizes"][label] for own in done.values() for label in sizes.values() if label in own["sizes"]]
        finite = [entry["best"] for entry in entries if math.isfinite(entry["best"])]
        if finite:
            spread = max(finite) - min(finite)
            row[0].set_ylim(min(finite) - 0.1 * spread - 0.02, max(finite) + 0.8 * spread + 0.1)
        row[0].set_ylabel("final loss")
        row[0].legend(frameon=False, fontsize=6)
    return figure


def layers(data: Mapping[str, Any], plt: Any) -> Any:
    """Best loss and best rate against width, of a rate for all layers, muP, CompleteP and a rate for each."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6), dpi=144)
    sizes = varied(data, "width")
    for name in OF_LAYERS:
        own = data["optimizers"].get(name, {"sizes": {}})["sizes"]
        found = {width: own[label] for width, label in sizes.items() if label in own}
        found = {width: entry for width, entry in found.items() if math.isfinite(entry["best"])}
        left.plot(list(found), [entry["best"] for entry in found.values()], "o-", label=name)
        right.plot(list(found), [entry["lr"] for entry in found.values()], "o-", label=name)
    _by_twos(right.xaxis, right.yaxis, left.xaxis)
    for axes, title in ((left, "best final loss"), (right, "best lr")):
        axes.set_xticks(list(sizes), [str(width) for width in sizes])
        axes.set(xlabel="width", ylabel=title)
        axes.grid(alpha=0.25)
    left.legend(frameon=False)
    return figure


def batches(data: Mapping[str, Any], plt: Any) -> Any:
    """Steps to one loss against the batch size, with the law where there is one."""
    figure, axes = plt.subplots(figsize=(5.6, 4), dpi=144)
    for place, (name, own) in enumerate(data["optimizers"].items()):
        found = own["batches"]
        steps = {int(batch): count for batch, count in found.get("steps", {}).items()}
        critical = found.get("critical", math.inf)
        label = f"{name}: {critical:.0f}" if math.isfinite(critical) else name
        axes.plot(list(steps), list(steps.values()), "o", color=f"C{place}", label=label)
        if "a" in found:
            sizes = sorted(steps)
            axes.plot(sizes, [found["a"] + found["b"] / size for size in sizes], color=f"C{place}", linewidth=0.8)
    _by_twos(axes.xaxis, axes.yaxis)
    axes.set(xlabel="batch size", ylabel="steps to one loss")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=7, title="critical batch size")
    return figure


def _by_twos(*scales: Any) -> None:
    """Make axes logarithmic; not those of an empty plot, which have no logarithm."""
    for scale in scales:
        if any(line.get_xdata().size for line in scale.axes.get_lines()):
            getattr(scale.axes, f"set_{scale.axis_name}scale")("log", base=2)
