"""Train models of many sizes at many learning rates: `python -m benchmarks.transfer [--jobs N] [--within SECONDS]`.

Widths, depths and batch sizes of a Llama-like model on code, one seed; every optimizer gets one grid of learning rates
for all sizes. Results are lines of JSON in --results; a run that has one isn't run again, so several sittings add up.
--report writes docs/transfer-trained.json, .md and .png from them, and two more plots.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from benchmarks.transfer import plots, report
from benchmarks.transfer.contestants import CONTESTANTS
from benchmarks.transfer.due import due, run
from benchmarks.transfer.sizes import SIZES
from benchmarks.workloads import sitting


def main(arguments: list[str] | None = None) -> None:
    """Run what is due, or report."""
    summary, only = (__doc__ or "").splitlines()[0], "sizes and optimizers that match, as '256x*/auto'"
    given = sitting.options("python -m benchmarks.transfer", summary, only, "transfer").parse_args(arguments)
    form, results = sitting.size_of(given), sitting.results_of(given)
    known = [f"{size.label}/{name}" for size in SIZES[form].all() for name in CONTESTANTS]
    if not any(fnmatchcase(name, given.only) for name in known):
        raise SystemExit(f"nothing matches {given.only!r}\n  fix: give a glob of {known[0]} to {known[-1]}")
    if given.report:
        data = report.summary(results, form)
        if not data["optimizers"]:
            path = sitting.path_of(given)
            raise SystemExit(f"{path} has no optimizer that has run its grid at two sizes\n  fix: run longer first")
        folder = sitting.pages_of(given)
        report.write(data, folder)
        plots.write(data, folder)
        print(f"wrote transfer-trained.json, .md and three plots to {folder}")
        return
    sitting.sit(given, results, lambda found: due(found, form, given.only), run)


if __name__ == "__main__":
    main()
