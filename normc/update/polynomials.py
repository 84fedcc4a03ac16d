"""Newton-Schulz polynomials by name: (a, b, c) per step, for singular values that start in (0, 1]."""

from __future__ import annotations

from normc.errors import NormcError

# Keller Jordan's, as in torch.optim.Muon: leaves [.68, 1.13] of [.01, 1].
KELLER = (3.4445, -4.7750, 2.0315)

# Polar Express (arXiv 2505.16932), degree 5, with its first step taken at s / 1.02 against rounding: leaves
# [.859, 1.141] of [.003, 1], and [.847, 1.141] of [.001, 1].
POLAR_EXPRESS = (
    (8.156554524902461 / 1.02, -22.48329292557795 / 1.02**3, 15.878769915207462 / 1.02**5),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def polynomials(name: str, steps: int) -> tuple[tuple[float, float, float], ...]:
    """The polynomials called `name` ("polar-express", "keller", "exact": none), `steps` of them."""
    if name == "exact":
        return ()
    if steps < 1:
        raise NormcError(f"Newton-Schulz can't run {steps} steps", "use ns_steps of 1 to 20, or polynomial='exact'")
    if name == "keller":
        return (KELLER,) * steps
    if name == "polar-express":
        if steps != len(POLAR_EXPRESS):
            raise NormcError(
                f"polar-express is five polynomials, not {steps}", "use ns_steps=5, or polynomial='keller'"
            )
        return POLAR_EXPRESS
    raise NormcError(f"no polynomial is called {name!r}", "known: exact, keller, polar-express")
