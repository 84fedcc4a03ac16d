"""Lightning's mixin: the plan in the log, the schedule over the run, an example of the module's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import normc
from normc.integrations.lightning import Compiled

L: Any = pytest.importorskip("lightning.pytorch")

DATA: Any = [(torch.linspace(-1, 1, 24).reshape(4, 6), torch.linspace(0, 1, 12).reshape(4, 3))] * 8


def made(**members: Any) -> Any:
    class Model(Compiled, L.LightningModule):
        normc_options = {"lr": 0.1, "compile": False}  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return nn.functional.mse_loss(self(batch[0]), batch[1])

    return type("Model", (Model,), members)()


def fit(model: Any, folder: Path, **options: Any) -> Any:
    from lightning.pytorch.loggers import CSVLogger

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    logger = CSVLogger(folder)
    trainer = L.Trainer(accelerator="cpu", logger=logger, **({"max_epochs": 1} | quiet | options))
    trainer.fit(model, DataLoader(DATA, batch_size=None))
    return trainer


def test_the_plan_is_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = fit(made(), tmp_path)
    (opt,) = trainer.optimizers
    plan = normc.load(Path(trainer.log_dir) / "plan.json")
    assert isinstance(plan, normc.NormPlan) and plan.hash == opt.plan.hash
    assert opt.plan.hash in (Path(trainer.log_dir) / "hparams.yaml").read_text()
    printed = capsys.readouterr().out
    assert printed.count("net.0.weight") == 1
    assert opt.plan.hash[:16] in printed


def test_the_schedule_runs_over_all_steps(tmp_path: Path) -> None:
    trainer = fit(made(), tmp_path, max_epochs=2, accumulate_grad_batches=2)
    (rate,) = (each.scheduler for each in trainer.lr_scheduler_configs)
    assert rate.last_epoch == 8
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0
    assert not fit(made(normc_schedule=None), tmp_path).lr_scheduler_configs


def test_a_run_without_an_end_has_no_schedule(tmp_path: Path) -> None:
    with pytest.raises(normc.NormcError, match=r"no end[^$]*fix: give Trainer max_steps"):
        fit(made(), tmp_path, max_epochs=-1)


def test_the_modules_own_example_plans_before_the_first_batch(tmp_path: Path) -> None:
    seen = []

    def setup(self: Any) -> None:
        seen.append(self.trainer.optimizers[0].plan.hash)

    trainer = fit(made(example_input_array=DATA[0][0], on_train_start=setup), tmp_path)
    assert seen == [trainer.optimizers[0].plan.hash]
