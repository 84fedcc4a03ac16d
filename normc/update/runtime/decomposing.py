"""Buckets whose functions look for eigenpairs of factors, and warn where there are none. Needs torch alone."""

from __future__ import annotations

import warnings

from normc.update.runtime.run import Bucket, Run

# What ops warn of (`decomposed` in normc/update/ops/kronecker.py), before the parameter's place among those that step.
UNDECOMPOSED = "no eigenpairs: "


def decomposed_by(bucket: Bucket, run: Run) -> list[str]:
    """Run a bucket's function. Returns the parameters that have a factor without eigenpairs; other warnings go on."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        bucket.step(run)
    places = []
    for one in said:
        text = str(one.message)
        if text.startswith(UNDECOMPOSED):
            places.append(int(text.removeprefix(UNDECOMPOSED)))
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return [bucket.names[run.live[place]] for place in places]
