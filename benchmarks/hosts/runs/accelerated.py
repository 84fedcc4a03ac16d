"""accelerate: model, optimizer and scheduler in one prepare(), accumulation by its context, its own checkpoints."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.data import DataLoader

import normc
from benchmarks.hosts.host import Job, host
from benchmarks.hosts.plain import LR, ROWS, Windows, loop, task


def _plain(job: Job, number: int) -> nn.Module:
    return loop(job.steps, compiled=job.compiled, number=number)


@host(
    "accelerate",
    "accelerate",
    "accelerate",
    ("accelerate",),
    "prepare(), 2 accumulated parts",
    partial(_plain, number=2),
)
def accelerated(job: Job) -> nn.Module:
    """The loop of accelerate's own examples."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, step_scheduler_with_optimizer=False)
    model = task().model()
    opt = normc.compile(model, lr=LR, compile=job.compiled)
    rate = normc.schedule(opt, job.steps)
    loader = DataLoader(Windows(job.steps), batch_size=ROWS // 2)
    model, opt, loader, rate = accelerator.prepare(model, opt, loader, rate)
    if job.resume:
        accelerator.load_state(str(job.folder))
        loader = accelerator.skip_first_batches(loader, 2 * job.half)
    step = job.half if job.resume else 0
    for batch in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch).loss)
            opt.step()
            opt.zero_grad()
        if accelerator.sync_gradients:
            rate.step()
            step += 1
            if step == job.half and not job.resume:
                accelerator.save_state(str(job.folder))
    trained: nn.Module = accelerator.unwrap_model(model)
    return trained
