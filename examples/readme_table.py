"""Fills the generated parts of README.md and docs/reading.md: `python -m examples.readme_table`.

Plans are made now, of a GPT-2 on the meta device; the numbers and the plot come from the last `make demo`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

import normc
from examples.comparison import lines

README = Path("README.md")
READING = Path("docs/reading.md")
DEMO = Path("out/demo")
WIDTH = 140


def main() -> None:
    """Rewrite the blocks of README and docs/reading.md in place; the demo's stay where it hasn't been run."""
    text = filled(README.read_text(), "plan", f"```\n{gpt2_table()}\n```")
    if (DEMO / "summary.json").is_file():
        text = filled(text, "results", results(json.loads((DEMO / "summary.json").read_text())))
        shutil.copyfile(DEMO / "loss.png", "docs/loss.png")
    else:
        print(f"{DEMO / 'summary.json'} isn't there, so the results stay: run `make demo` first")
    README.write_text(text)
    page = filled(READING.read_text(), "plan", f"```text\n{gpt2_table()}\n```")
    READING.write_text(filled(page, "explained", f"```text\n{explained()}\n```"))


def gpt2() -> normc.NormPlan:
    """The plan of GPT-2 (124 M parameters)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config())
    return normc.plan(model)


def gpt2_table() -> str:
    """What print(opt.plan) shows for GPT-2 on a terminal of 140 columns, without colour."""
    return gpt2().text(width=WIDTH).strip("\n")


def explained() -> str:
    """All that its plan knows of one fused attention weight."""
    return gpt2().explain("transformer.h.0.attn.c_attn.weight", width=120).strip("\n")


def results(summary: dict[str, Any]) -> str:
    """The demo's closing numbers as a Markdown table."""
    where = f"{summary['threads']} threads of {summary['machine']}, torch {summary['torch']}"
    size = f"{summary['parameters']:,} parameters, {summary['steps']} steps, {where}"
    table = [
        f"{summary['task']}, {size}:",
        "",
        "| | lr | final validation loss | steps to AdamW's final loss | optimizer ms/step | train time |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(f"| {' | '.join(line)} |" for line in lines(summary)),
    ]
    return "\n".join(table)


def filled(text: str, name: str, content: str) -> str:
    """`text` with `content` between its marks `<!-- name: begin -->` and `<!-- name: end -->`."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in text or end not in text:
        raise SystemExit(f"there is no block {begin} … {end}\n  fix: put both marks where it belongs")
    head, rest = text.split(begin, 1)
    return f"{head}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"


if __name__ == "__main__":
    main()
