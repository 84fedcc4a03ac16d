"""Modules as Modula has them: mass, sensitivity and sharpness from those of their parts, in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Module:
    """A leaf, or two modules one behind the other (`compose`) or beside each other (`tuple`); `step` is an atom's."""

    kind: str
    mass: float
    sens: float
    alpha: float
    beta: float
    gamma: float
    parts: tuple[Module, ...] = ()
    step: float = field(default=0.0)


def atom(mass: float, sens: float) -> Module:
    """A matrix of that norm."""
    return Module("atom", mass, sens, 0.0, 1.0, 0.0)


def bond(sens: float, gamma: float) -> Module:
    """A function without weights."""
    return Module("bond", 0.0, sens, 0.0, 0.0, gamma)


def composed(outer: Module, inner: Module) -> Module:
    """THEORY A5, M2 behind M1."""
    mass = inner.mass + outer.mass
    p1, p2 = (inner.mass / mass, outer.mass / mass) if mass else (0.0, 0.0)
    s1, s2 = inner.sens, outer.sens
    alpha = p1**2 * inner.alpha / s2 + p2**2 * outer.alpha + 2 * p1 * p2 * outer.beta / s2
    alpha += p1**2 * outer.gamma / s2**2
    beta = p1 * inner.beta + s1 * p2 * outer.beta + s1 / s2 * p1 * outer.gamma
    return Module("compose", mass, s1 * s2, alpha, beta, s2 * inner.gamma + s1**2 * outer.gamma, (outer, inner))


def beside(one: Module, other: Module) -> Module:
    """THEORY A5, a tuple of two."""
    mass = one.mass + other.mass
    p1, p2 = (one.mass / mass, other.mass / mass) if mass else (0.0, 0.0)
    alpha, beta = p1**2 * one.alpha + p2**2 * other.alpha, p1 * one.beta + p2 * other.beta
    return Module("tuple", mass, one.sens + other.sens, alpha, beta, one.gamma + other.gamma, (one, other))
