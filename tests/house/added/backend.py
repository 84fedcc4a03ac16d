"""A backend: the reference, which tells of each row that it steps. What a user writes is this file."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from normc.backends.backend import Backend, backends
from normc.backends.reference import load, polar_dtype
from normc.recipe.recipe import Recipe
from normc.update.program.module import Loaded
from normc.update.program.program import Program
from normc.update.runtime.run import Bucket, Run

STEPPED: list[str] = []


def tell(bucket: Bucket, run: Run) -> None:
    """Note the names, then step."""
    STEPPED.extend(bucket.names)
    bucket.step(run)


def telling(program: Program, recipe: Recipe) -> Loaded:
    """The reference's update, whose buckets note their row's name before they step it."""
    loaded = load(program, recipe)
    buckets = tuple(replace(bucket, step=partial(tell, bucket)) for bucket in loaded.update.buckets)
    return replace(loaded, update=replace(loaded.update, buckets=buckets))


def target(name: str) -> str:
    """Only "telling"."""
    return name


backends.add("telling", Backend("telling", "the reference, told", False, target, polar_dtype, telling), __name__)
