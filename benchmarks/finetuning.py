"""Fine-tuning of a small model that AdamW trained, fully and by LoRA: `python -m benchmarks.finetuning [--write]`.

A GPT-2 of two layers learns the first 70 % of the Bible's bytes with AdamW; then copies of it learn the next 25 % with
each optimizer, lr and decay. Losses in nats a byte, on the last 5 %, beside that of the model before; one seed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import normc
from workloads.data import bible
from workloads.training import adamw

PAGE = Path("docs/finetuning.md")
BEGIN, END = "<!-- made by `make finetuning` -->\n", "<!-- until here -->\n"
WIDTH, LAYERS, CONTEXT, ROWS, RANK = 64, 2, 32, 8, 4
ADAMW = (3e-4, 1e-3, 3e-3)
NORMC = (0.05, 0.1, 0.2, 0.4)
DECAYS = (0.1,)
Make = Callable[[nn.Module, float, float], torch.optim.Optimizer]


def base() -> nn.Module:
    """HF's GPT-2 with a tied head, from one seed, without dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    size = {"vocab_size": 256, "n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4}
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}
    model: nn.Module = GPT2LMHeadModel(GPT2Config(**size, **quiet, use_cache=False))
    return model


def adapted(model: nn.Module) -> nn.Module:
    """The model frozen, with LoRA beside every product of its blocks."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    target: Any = model
    config = LoraConfig(r=RANK, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
    made: nn.Module = get_peft_model(target, config)
    return made


def cut(text: Tensor, rows: int, key: int) -> Tensor:
    """Windows of `text`, long [rows, CONTEXT], their places drawn from `key` alone."""
    draw = torch.Generator().manual_seed(key)
    starts = torch.randint(0, text.numel() - CONTEXT, (rows, 1), generator=draw)
    return text[starts + torch.arange(CONTEXT)].long()


def trained(model: nn.Module, opt: torch.optim.Optimizer, text: Tensor, steps: int) -> nn.Module:
    """The model after `steps` batches, under normc.schedule's own shape."""
    rate = normc.schedule(opt, steps)
    for step in range(steps):
        ids = cut(text, ROWS, step)
        model(input_ids=ids, labels=ids).loss.backward()
        opt.step()
        opt.zero_grad()
        rate.step()
    return model


@torch.no_grad()
def measured(model: nn.Module, text: Tensor) -> float:
    """The mean loss over four batches of 64 windows."""
    batches = [cut(text, 64, -1 - part) for part in range(4)]
    return statistics.fmean(float(model(input_ids=ids, labels=ids).loss) for ids in batches)


def compiled(model: nn.Module, lr: float, decay: float) -> torch.optim.Optimizer:
    """normc's default recipe, its cores not compiled."""
    return normc.compile(model, lr=lr, weight_decay=decay, compile=False)


def rows(before: nn.Module, text: Tensor, held: Tensor, steps: int) -> list[str]:
    """A line of the table for every way, optimizer and decay: the loss at each lr, the best one in bold."""
    found = []
    contestants: tuple[tuple[str, Make, tuple[float, ...]], ...] = (("AdamW", adamw, ADAMW), ("normc", compiled, NORMC))
    for way in ("full", f"LoRA, rank {RANK}"):
        for name, make, rates in contestants:
            for decay in DECAYS:
                losses = []
                for lr in rates:
                    model = copy.deepcopy(before)
                    model = model if way == "full" else adapted(model)
                    losses.append(measured(trained(model, make(model, lr, decay), text, steps), held))
                best = min(losses)
                shown = [f"{'**' * (loss == best)}{loss:.3f}{'**' * (loss == best)}" for loss in losses]
                each = ", ".join(f"{value} ({lr:g})" for value, lr in zip(shown, rates, strict=True))
                found.append(f"| {way} | {name} | {decay} | {each} |")
                print(found[-1], flush=True)
    return found


def main() -> None:
    """Train the base, fine-tune copies, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetuning", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--base-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE}")
    given = parser.parse_args()
    torch.set_num_threads(1)
    split = bible()
    whole = torch.cat([split.train, split.validation])
    ends = [int(share * whole.numel()) for share in (0.70, 0.95)]
    model = base()
    before = trained(model, adamw(model, 3e-3), whole[: ends[0]], given.base_steps)
    text, held = whole[ends[0] : ends[1]], whole[ends[1] :]
    start = measured(before, held)
    table = ["| way | optimizer | decay | loss after (lr) |", "| --- | --- | --- | --- |"]
    where = (
        f"Before: {start:.3f} after {given.base_steps} steps of AdamW. Fine-tuned for {given.steps} steps of {ROWS} x "
        f"{CONTEXT} bytes, {sum(p.numel() for p in before.parameters()):,} parameters, torch {torch.__version__}:"
    )
    print(where, flush=True)
    table += rows(before, text, held, given.steps)
    if given.write:
        page = PAGE.read_text()
        head, rest = page.split(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n{where}\n\n" + "\n".join(table) + f"\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
