"""Tune and compare optimizers on small workloads: `python -m benchmarks.workloads [--jobs N] [--within SECONDS]`.

Every optimizer gets the same number of runs on every workload: seven learning rates with weight decay, three without,
two more around the best of them, and the best from three other seeds. Results are lines of JSON in --results; a run
that has one isn't run again, so several sittings add up. --report writes docs/workloads.json, .md and .png from them.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from benchmarks.workloads import report, sitting
from benchmarks.workloads.job import run
from benchmarks.workloads.stages import due
from benchmarks.workloads.workload import load


def main(arguments: list[str] | None = None) -> None:
    """Run what is due, or report."""
    summary = (__doc__ or "").splitlines()[0]
    parser = sitting.options("python -m benchmarks.workloads", summary, "workloads whose names match", "workloads")
    given = parser.parse_args(arguments)
    size, workloads, results = sitting.size_of(given), load(), sitting.results_of(given)
    only = [name for name in workloads if fnmatchcase(name, given.only)]
    if not only:
        raise SystemExit(f"no workload matches {given.only!r}\n  fix: choose among {', '.join(workloads)}")
    if given.report:
        data = report.summary(results, workloads, size)
        if not data["workloads"]:
            path = sitting.path_of(given)
            raise SystemExit(f"{path} has no optimizer that is confirmed from three seeds\n  fix: run longer first")
        report.write(data, sitting.pages_of(given))
        print(f"wrote workloads.json, .md and .png to {sitting.pages_of(given)}")
        return
    sitting.sit(given, results, lambda known: due(known, workloads, size, only), run)


if __name__ == "__main__":
    main()
