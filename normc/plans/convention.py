"""How local gains become sensitivities: a recipe says which way, the analyses go it."""

from __future__ import annotations

from typing import Literal, get_args

Convention = Literal["modula", "sharp", "average"]
CONVENTIONS: tuple[str, ...] = get_args(Convention)
