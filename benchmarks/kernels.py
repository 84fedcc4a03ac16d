"""Time the matrix kernels on a GPU: `python -m benchmarks.kernels [--out FOLDER] [--seconds 150]`.

Four tables: symmetric products beside dense ones, a few tiles for each size; the same by quack-kernels, if it is
installed; Newton-Schulz in each form beside the plain one, with its error against float64 and the share of singular
values in [0.7, 1.2]; many small matrices in one launch. `normc tune` keeps the fastest tiles.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from normc.tools.tuning import FAILURES, fastest, timed
from normc.update.kernels.hopper import by_quack, quack_missing
from normc.update.kernels.polar import polar_gram, polar_many, polar_standard
from normc.update.kernels.small import small
from normc.update.kernels.symmetric import symmetric
from normc.update.ops.matrices import polar
from normc.update.polynomials.by_name import polynomials

STEPS = polynomials("polar-express", 5)
# (batch, n, k): products R R and X X^T of the suites, and sizes around where dense products win.
PRODUCTS = (
    (48, 768, 768), (8, 4096, 4096), (48, 1600, 1600), (24, 768, 3072), (64, 256, 256), (64, 512, 512),
    (48, 1024, 1024), (16, 2048, 2048), (4, 4096, 14336), (24, 1600, 6400), (64, 384, 384), (16, 3072, 3072),
    (64, 256, 4096), (1, 1024, 1024), (1, 2048, 2048), (1, 4096, 4096), (256, 192, 192),
)  # fmt: skip
BESIDE = ((16, 2048, 2048), (16, 2048, 14336), (8, 4096, 4096), (4, 4096, 14336))
SHAPES = (
    (48, 768, 768), (12, 768, 3072), (16, 1600, 1600), (4, 1600, 6400), (4, 4096, 4096), (2, 4096, 14336),
    (48, 256, 256), (48, 512, 512), (24, 1024, 1024), (8, 2048, 2048), (48, 300, 1200), (16, 1000, 1000),
    (8, 769, 1000),
)  # fmt: skip
SMALL = ((2000, 64, 64), (2000, 128, 128), (2000, 64, 576), (2000, 8, 4096), (2000, 16, 1024), (500, 128, 1152))


@dataclass
class Clock:
    """Seconds that are left; what comes after them is left out."""

    end: float

    def over(self) -> bool:
        """Whether there are none."""
        return time.monotonic() > self.end


def captured(run: Callable[[], object]) -> Callable[[], object]:
    """The call as a CUDA graph, so that launches cost nothing."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def quality(found: Tensor, exact: Tensor) -> str:
    """Relative error of the first matrix against float64, and the share of its singular values in [0.7, 1.2].

    The latter up to 2048 of them: an SVD of more takes longer than all the rest.
    """
    one = found[:1].double()
    relative = f"{float((one - exact).norm() / exact.norm()):.4f}"
    if min(one.shape[-2:]) > 2048:
        return f"{relative}     -"
    squares = torch.linalg.eigvalsh(one @ one.mT if one.shape[1] <= one.shape[2] else one.mT @ one)
    return f"{relative} {float(((squares >= 0.49) & (squares <= 1.44)).double().mean()):.3f}"


def reason(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).splitlines() or [type(error).__name__])[0][:80]


def products(clock: Clock) -> list[dict[str, object]]:
    """The fastest tile for each size, beside a dense product."""
    print(f"{'batch':>5} {'n':>5} {'k':>6} {'dense ms':>9} {'TF/s':>5} {'symm. ms':>9} {'ratio':>6}  tile")
    rows: list[dict[str, object]] = []
    for batch, n, k in PRODUCTS:
        if clock.over():
            print("no time left for more sizes")
            break
        one = fastest(n, k, batch)
        speed = 2e-9 * batch * n * n * k / one.dense
        shown = tuple(asdict(one.best).values())
        times = f"{one.dense:9.3f} {speed:5.0f} {one.after:9.3f} {one.after / one.dense:6.2f}"
        print(f"{batch:5} {n:5} {k:6} {times}  {shown}")
        rows.append(asdict(one))
    return rows


def beside(clock: Clock) -> list[dict[str, object]]:
    """Symmetric products by quack-kernels beside normc's: milliseconds as CUDA graphs, with and without a matrix added.

    HOPPER_FROM and HOPPER_SAVES of normc.update.kernels.tiles are set by the ratio.
    """
    rows: list[dict[str, object]] = []
    print(f"\n{'batch':>5} {'n':>5} {'k':>6} {'added':>6} {'own ms':>9} {'quack ms':>9} {'ratio':>6}")
    for batch, n, k in BESIDE:
        if quack_missing() or clock.over():
            print(quack_missing() or "no time left for more sizes")
            break
        x = torch.randn(batch, n, k, device="cuda", dtype=torch.float16) / k**0.5
        out, more = (torch.empty(batch, n, n, device="cuda", dtype=torch.float16) for _ in range(2))
        more.copy_(x[:, :, :1] @ x[:, :, :1].mT)
        for add in (None, more):
            if not by_quack(x, x.mT, out, add, 0.5, 2.0):
                print(quack_missing())
                return rows
            own = timed(captured(partial(symmetric, x, x, add=add, alpha=0.5, beta=2.0, out=out)))
            theirs = timed(captured(partial(by_quack, x, x.mT, out, add, 0.5, 2.0)))
            added = "no" if add is None else "yes"
            print(f"{batch:5} {n:5} {k:6} {added:>6} {own:9.3f} {theirs:9.3f} {theirs / own:6.2f}")
            rows.append({"batch": batch, "n": n, "k": k, "added": add is not None, "own_ms": own, "quack_ms": theirs})
    return rows


def forms(clock: Clock) -> list[dict[str, object]]:
    """Newton-Schulz in each form on the shapes of the suites: milliseconds as a CUDA graph, error and share."""
    half, short = torch.float16, torch.bfloat16
    runs: dict[str, Callable[[Tensor], Tensor]] = {
        "plain bf16": lambda x: polar(x, STEPS, short),
        "standard bf16": lambda x: polar_standard(x, STEPS, dtype=short, result=short),
        "standard fp16": lambda x: polar_standard(x, STEPS, dtype=half, result=half),
        "gram fp16": lambda x: polar_gram(x, STEPS, dtype=half, result=half),
    }
    return table(clock, SHAPES, runs, torch.bfloat16)


def many(clock: Clock) -> list[dict[str, object]]:
    """Small matrices: one launch beside batched products."""
    runs: dict[str, Callable[[Tensor], Tensor]] = {
        "plain bf16": lambda x: polar(x, STEPS, torch.bfloat16),
        "gram fp16": lambda x: polar_gram(x, STEPS, dtype=torch.float16),
        "small fp16": lambda x: small(x, STEPS),
        "small bf16": lambda x: small(x, STEPS, dtype=torch.bfloat16),
        "small tf32": lambda x: small(x, STEPS, dtype=torch.float32, precision="tf32"),
    }
    return table(clock, SMALL, runs, torch.float32)


def table(
    clock: Clock,
    shapes: tuple[tuple[int, int, int], ...],
    runs: dict[str, Callable[[Tensor], Tensor]],
    dtype: torch.dtype,
) -> list[dict[str, object]]:
    """Time every run on every shape."""
    print(f"\n{'batch':>5} {'n':>5} {'m':>6} " + " ".join(f"{name:>24}" for name in runs) + "   (ms, error, share)")
    rows: list[dict[str, object]] = []
    for batch, n, m in shapes:
        if clock.over():
            print("no time left for more shapes")
            break
        x = torch.randn(batch, n, m, device="cuda", dtype=dtype)
        exact = polar(x[:1].double(), STEPS)
        cells: dict[str, str] = {}
        for name, run in runs.items():
            try:
                ms = timed(captured(lambda run=run, x=x: run(x)))  # type: ignore[misc]  # binds now
                cells[name] = f"{ms:9.3f} {quality(run(x), exact)}"
            except FAILURES as failure:
                cells[name] = reason(failure)[:24]
        print(f"{batch:5} {n:5} {m:6} " + " ".join(f"{cell:>24}" for cell in cells.values()))
        rows.append({"batch": batch, "n": n, "m": m, **cells})
        del x
        torch.cuda.empty_cache()
    return rows


def together() -> dict[str, float]:
    """GPT-2's hidden matrices: all of one short side in one chain, beside a chain a shape."""
    sizes = ((48, 768, 768), (12, 768, 3072), (12, 3072, 768))
    xs = [torch.randn(size, device="cuda", dtype=torch.bfloat16) for size in sizes]
    kept = {"dtype": torch.float16, "result": torch.float16}
    one = timed(captured(lambda: polar_many(xs, STEPS, **kept)))  # type: ignore[arg-type]  # dtypes
    each = timed(captured(lambda: [polar_gram(x, STEPS, **kept) for x in xs]))  # type: ignore[arg-type]
    print(f"\nGPT-2 124M, 72 matrices: {one:.3f} ms in one chain, {each:.3f} ms in a chain a shape")
    return {"one_chain_ms": one, "chain_a_shape_ms": each}


def main() -> None:
    """Print the tables and write them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="a folder for kernels.json")
    parser.add_argument("--seconds", type=float, default=140.0, help="the tables' time; what is over it is left out")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(
            "this needs a GPU: on CPU the kernels run in Triton's interpreter alone, in tests/update/kernels"
        )
    torch.manual_seed(0)
    start = time.monotonic()
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    found: dict[str, object] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    # The forms first: they compile little. Products take what is left.
    found["forms"] = forms(Clock(start + 0.4 * options.seconds))
    found["together"] = together()
    found["small"] = many(Clock(start + 0.6 * options.seconds))
    found["beside"] = beside(Clock(start + 0.75 * options.seconds))
    print()
    rows = products(Clock(start + options.seconds))
    found["products"] = rows
    print(f"\n{time.monotonic() - start:.0f} s")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "kernels.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
