"""Kronecker preconditioners by least Kullback-Leibler divergence: each side's factor is of gradients that the other's
has whitened (arXiv 2509.03378).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from normc.recipe.stages.build import Builder
from normc.recipe.stages.kronecker import Bases, Part, Rotate, Side, into, parts_of, partwise
from normc.recipe.stages.late import LateAdam, counted
from normc.update.ops import arithmetic, late, relative, whitened

# As the authors' code: a root of an eigenvalue is at least 1 / its side, a side counting as 10 to 4000.
SIDES = (10, 4000)


@dataclass(frozen=True, slots=True)
class WhitenedRotate(Rotate):
    """Adam in the eigenbases of factors that have whitened each other: KL-SOAP.

    A factor is the average of x x^T / n for x = g Q E^-1/2, by the other side's basis Q, spectrum E and size n; a side
    without a factor is the identity. Spectra are averages of their own, of what is seen in the bases as they are. As in
    the authors' code all of them start at `start`, and neither bases nor spectra are sorted when bases are refreshed.
    """

    sorts: ClassVar[bool] = False

    start: float = 0.1

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """L <- beta2 L + (1 - beta2) g R^-1 g^T / n, R likewise; Adam in their eigenbases."""
        return Rotate.emit(self, build, direction)

    def factors(self, build: Builder, step: fx.Node, bases: Bases) -> Bases:
        """Update factors and spectra by what both were before."""
        spectra, matrices, seen, found = spectra_of(build, bases), {}, {}, {}
        for part in dict.fromkeys(side.part for side in bases):
            _, rows, columns = part.fold.shape
            sizes: dict[str, Any] = {"rows": rows, "columns": columns, "view": part.view}
            matrices[part] = build.call("x", whitened.seen, build.grad, **sizes)
        for side in bases:
            x, other = matrices[side.part], Side(side.part, not side.turned)
            if other in bases:
                args = (x, bases[other], spectra[other], step)
                x = build.call("x", whitened.whitened, *args, turned=other.turned)
            seen[side], (name, shape) = x, side.state("factor", 2)
            factor = (build.state(name, shape), x, self.decay(build))
            found[side] = build.keep(name, build.call("a", whitened.mean_gram, *factor, turned=side.turned))
        for side, basis in bases.items():
            least = 1.0 / max(SIDES[0], min(side.size, SIDES[1])) ** 2
            known: dict[str, Any] = {"turned": side.turned, "start": self.start, "least": least}
            new = (spectra[side], seen[side], basis, step, self.decay(build))
            build.keep(side.state("spectrum", 1)[0], build.call("e", whitened.spectrum, *new, **known))
        return found


@dataclass(frozen=True, slots=True)
class WhitenedKron(WhitenedRotate):
    """The average gradient over the roots of factors that have whitened each other: KL-Shampoo.

    It keeps no squares of entries. Bases and spectra are those of the step before, as in the authors' code; the first
    step makes them and takes no gradient. A row with a part that has no factor gets `LateAdam`.
    """

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """Q (Q^T m P / (sqrt(e_L e_R) + eps)) P^T, for eigenbases Q, P and spectra e_L, e_R of L and R."""
        parts = parts_of(build.row)
        sides = self.rotated(parts)
        if len({side.part for side in sides}) < len(parts):
            return LateAdam.emit(self, build, direction)
        step = counted(build)
        bases = {side: build.state(*side.state("basis", 2)) for side in sides}
        spectra = spectra_of(build, bases)

        def unit(build: Builder, x: fx.Node, part: Part) -> fx.Node:
            x = into(bases, back=False)(build, x, part)
            own = (spectra.get(Side(part, turned)) for turned in (False, True))
            x = build.call("x", whitened.over_spectra, x, *own, build.number("eps"))
            return into(bases, back=True)(build, x, part)

        direction = build.call("d", late.later, direction, step)
        average = build.call("m", arithmetic.ema, build.average("exp_avg"), direction, build.number("momentum"))
        direction = partwise(build, build.keep("exp_avg", average), parts, unit)
        self.refreshed(build, step, self.factors(build, step, bases), bases)
        return build.call("d", relative.even, direction) if self.normalize else direction


def spectra_of(build: Builder, sides: Bases) -> Bases:
    """The spectra of sides as they are."""
    return {side: build.state(*side.state("spectrum", 1)) for side in sides}
