"""Lightning: a module with normc's mixin, a checkpoint by its callback, resumed by ckpt_path."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from benchmarks.hosts.host import Job, host
from benchmarks.hosts.plain import LR, ROWS, Windows, loop, task
from normc.integrations.lightning import Compiled


def _plain(job: Job) -> nn.Module:
    return loop(job.steps, compiled=job.compiled, clip=1.0, by_groups=True)


@host("lightning", "Lightning", "lightning", ("lightning",), "clip 1, automatic optimization", _plain)
def lightning(job: Job) -> nn.Module:
    """One epoch."""
    import lightning.pytorch as L
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Model(Compiled, L.LightningModule):  # type: ignore[misc]  # Lightning's types aren't followed
        def __init__(self) -> None:
            super().__init__()
            self.net = task().model()
            self.normc_options = {"lr": LR, "compile": job.compiled}

        def training_step(self, batch: Any, index: int) -> Any:
            return self.net(**batch).loss

    model = Model()
    saved = ModelCheckpoint(job.folder, filename="half", every_n_train_steps=job.half, save_top_k=-1)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, gradient_clip_val=1.0, callbacks=[saved], enable_progress_bar=False,
        enable_model_summary=False, logger=CSVLogger(job.folder), log_every_n_steps=job.steps,
    )  # fmt: skip
    trainer.fit(
        model,
        DataLoader(Windows(job.steps), batch_size=ROWS),
        ckpt_path=job.folder / "half.ckpt" if job.resume else None,
        weights_only=True,
    )
    return model
