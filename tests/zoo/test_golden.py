"""The whole plan of a small GPT, as it is printed and explained."""

from __future__ import annotations

from collections.abc import Callable

import normc
from normc.tools.report.explain import explain
from tests.tools.report.test_explain import printed
from tests.zoo.case import tokens
from tests.zoo.nano_gpt import NanoGPT


def test_the_printed_plan(golden: Callable[[str, str], None]) -> None:
    golden("plan_nano_gpt.txt", normc.plan(NanoGPT(), tokens()).text(width=120))


def test_the_explained_rows(golden: Callable[[str, str], None]) -> None:
    plan = normc.plan(NanoGPT(), tokens())
    for name in ("blocks.0.attn.c_attn.weight", "wte.weight"):
        golden(f"explain_nano_gpt_{name.split('.')[-2]}.txt", printed(explain(plan, name)))
