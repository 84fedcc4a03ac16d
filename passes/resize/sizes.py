"""Sizes as unknowns: what two dimensions that meet, a view that splits one, or a slice of one says about them.

A dimension is an ordered product of atoms, outermost first. An atom is plain, or stands for an ordered product or sum
of dimensions that was found out later.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Atom:
    """One unknown size, traced as `size`; `fixed` if it is a number that no other size changes.

    `data`: an input has it, or it follows from a size that an input has.
    """

    size: int
    fixed: bool = False
    link: Atom | None = None
    product: Dim | None = None
    terms: tuple[Dim, ...] | None = None
    data: bool = False

    @property
    def plain(self) -> bool:
        """Whether nothing more is known of it."""
        return self.product is None and self.terms is None


Dim = tuple[Atom, ...]


def fresh(size: int, fixed: bool = False, data: bool = False) -> Dim:
    """A dimension of which nothing is known."""
    return (Atom(size, fixed, data=data),) if size != 1 else ()


def _share(atom: Atom, size: int) -> Dim:
    """A factor or term of an atom."""
    return fresh(size, atom.fixed, atom.data)


def size_of(dim: Dim) -> int:
    """The size as traced."""
    return math.prod(atom.size for atom in dim)


def found(atom: Atom) -> Atom:
    """The atom that stands for all that were found to be one with it."""
    while atom.link is not None:
        atom = atom.link
    return atom


def expanded(dim: Dim) -> Dim:
    """The dimension in atoms that are no product."""
    flat: list[Atom] = []
    for atom in map(found, dim):
        flat += [atom] if atom.product is None else expanded(atom.product)
    return tuple(flat)


def leaves(dim: Dim) -> Iterable[Atom]:
    """All plain atoms that the size is made of."""
    for atom in expanded(dim):
        if atom.terms is None:
            yield atom
        else:
            for term in atom.terms:
                yield from leaves(term)


def constant(dim: Dim) -> bool:
    """Whether no other size changes this one."""
    return all(atom.fixed for atom in leaves(dim))


def value(dim: Dim, sizes: Mapping[Atom, int]) -> int:
    """The size where the leaves have those of `sizes`; as traced where it says nothing."""
    total = 1
    for atom in expanded(dim):
        total *= sizes.get(atom, atom.size) if atom.terms is None else sum(value(term, sizes) for term in atom.terms)
    return total


def unite(first: Dim, second: Dim) -> bool:
    """Two dimensions of one size are the same from now on. False where that can't be said with atoms."""
    a, b = list(expanded(first)), list(expanded(second))
    while a and b and a[0] is b[0]:
        del a[0], b[0]
    while a and b and a[-1] is b[-1]:
        del a[-1], b[-1]
    if len(a) == 1 and len(b) > 1:
        a, b = b, a
    if len(b) == 1 and len(a) > 1 and b[0].plain and size_of(tuple(a)) == b[0].size:
        b[0].product = tuple(a)
        return True
    if len(b) == 1 and len(a) == 2 and b[0].terms is not None:
        return _times(a, b[0])
    while a and b:
        x, y = found(a[0]), found(b[0])
        if x.size == y.size:
            if not _merge(x, y):
                return False
            del a[0], b[0]
        else:
            small, large, rest = (x, y, b) if x.size < y.size else (y, x, a)
            if large.size % small.size or not large.plain:
                return False
            inner = _share(large, large.size // small.size)
            large.product = (small, *inner)
            rest[:1] = [small, *inner]
    return not a and not b


def _times(product: Sequence[Atom], total: Atom) -> bool:
    """n of m each is the sum of n terms of m."""
    assert total.terms is not None
    count, each = product
    if len(total.terms) != count.size or any(size_of(term) != each.size for term in total.terms):
        return False
    count.fixed = True
    return all(unite((each,), term) for term in total.terms)


def _merge(x: Atom, y: Atom) -> bool:
    if x is y:
        return True
    if x.plain or y.plain:
        a, b = (x, y) if x.plain else (y, x)
        if any(leaf is a for leaf in leaves((b,))):
            return False
        a.link = b
        b.fixed = b.fixed or (a.fixed and b.plain)
        b.data = b.data or a.data
        return True
    assert x.terms is not None and y.terms is not None
    return _align(list(x.terms), list(y.terms), x, y)


def _align(a: list[Dim], b: list[Dim], x: Atom, y: Atom) -> bool:
    """Two sums are one: their terms, cut where either is cut, are the same."""
    while a and b:
        m, n = size_of(a[0]), size_of(b[0])
        if m == n:
            if not unite(a[0], b[0]):
                return False
            del a[0], b[0]
            continue
        small, rest = (m, b) if m < n else (n, a)
        cut = _halves(rest[0], small)
        if cut is None:
            return False
        rest[:1] = list(cut)
    x.link = y
    return True


def _halves(dim: Dim, at: int) -> tuple[Dim, Dim] | None:
    """The dimension as its first `at` entries and the rest; None if that can't be said."""
    flat = expanded(dim)
    if not flat:
        return None
    inner = size_of(flat[1:])
    first = flat[0]
    if at % inner:
        return None
    at //= inner
    if first.terms is None:
        first.terms = (_share(first, at), _share(first, first.size - at))
        return (*first.terms[0], *flat[1:]), (*first.terms[1], *flat[1:])
    before: list[Dim] = []
    terms = list(first.terms)
    done = 0
    while terms and done < at:
        term = terms[0]
        if done + size_of(term) > at:
            cut = _halves(term, at - done)
            if cut is None:
                return None
            terms[:1] = list(cut)
            term = terms[0]
        before.append(term)
        done += size_of(term)
        del terms[0]
    first.terms = (*before, *terms)
    return (*summed(before), *flat[1:]), (*summed(terms), *flat[1:])


def summed(terms: Sequence[Dim]) -> Dim:
    """The dimension of parts put one behind the other."""
    terms = [term for term in terms if size_of(term)]
    if len(terms) == 1:
        return terms[0]
    return (Atom(sum(map(size_of, terms)), terms=tuple(terms)),) if terms else fresh(0)


def part(dim: Dim, start: int, size: int, step: int = 1) -> Dim:
    """`size` entries from `start` on."""
    whole = size_of(dim)
    if size == whole and step == 1:
        return dim
    if step > 1:
        return _every(dim, size, step)
    rest: Dim = dim
    if start:
        cut = _halves(rest, start)
        if cut is None:
            return fresh(size)
        rest = cut[1]
    if size == whole - start:
        return rest
    cut = _halves(rest, size)
    return fresh(size) if cut is None else cut[0]


def _every(dim: Dim, size: int, step: int) -> Dim:
    flat = expanded(dim)
    if size * step != size_of(dim):
        return fresh(size)
    if len(flat) > 1 and flat[-1].size == step:
        return flat[:-1]
    if len(flat) == 1 and flat[0].plain:
        flat[0].product = (*fresh(size), *fresh(step, fixed=True))
        return flat[0].product[:1]
    return fresh(size)


def viewed(dims: Sequence[Dim], shape: Sequence[int]) -> list[Dim]:
    """Dimensions of a row-major view."""
    rest = [atom for dim in dims for atom in expanded(dim)]
    if 0 in shape:
        return [fresh(size) for size in shape]
    views: list[Dim] = []
    for size in shape:
        took: list[Atom] = []
        wanted = size
        while wanted > 1 and rest:
            atom = rest[0]
            if wanted % atom.size == 0:
                took.append(rest.pop(0))
                wanted //= atom.size
                continue
            inner = _divided(atom, wanted)
            if inner is None:
                break
            rest[:1] = inner
            if expanded((inner[0],)) != (inner[0],):
                rest[:1] = expanded((inner[0],))
        if wanted != 1:
            return [fresh(size) for size in shape]
        views.append(tuple(took))
    return views


def _divided(atom: Atom, outer: int) -> list[Atom] | None:
    """An atom as `outer` times the rest."""
    if outer < 1 or atom.size % outer or outer >= atom.size:
        return None
    inner = atom.size // outer
    if atom.terms is None:
        atom.product = (*_share(atom, outer), *_share(atom, inner))
        return list(atom.product)
    if len(atom.terms) == outer and all(size_of(term) == inner for term in atom.terms):
        for term in atom.terms[1:]:
            if not unite(atom.terms[0], term):
                return None
        return [Atom(outer, fixed=True), *expanded(atom.terms[0])]
    return None
