"""For Lightning: `class Model(Compiled, LightningModule)` has its optimizer, its schedule, and its plan in the log.

Needs neither `lightning` nor `pytorch_lightning` itself: the class works beside either's LightningModule.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from normc.compiler import compile as compile_optimizer
from normc.errors import NormcError
from normc.optimizer import Optimizer
from normc.saving import save
from normc.tools.schedule import schedule


class Compiled:
    """Put this before LightningModule among a class's bases.

    normc_options   options of `normc.compile`, such as {"lr": 0.4}.
    normc_schedule  options of `normc.schedule`; None for a constant lr.

    The model is traced on `example_input_array`, Lightning's own attribute, where it is set; else on the first batch.
    """

    normc_options: Mapping[str, Any] = MappingProxyType({})
    normc_schedule: Mapping[str, Any] | None = MappingProxyType({})
    _logged = False

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimizer, and a scheduler that is stepped once a step, in Lightning's form.

        NormcError if the run has no number of steps, which a schedule needs.
        """
        module: Any = self
        self._logged = False
        opt = compile_optimizer(module, getattr(module, "example_input_array", None), **self.normc_options)
        if self.normc_schedule is None:
            return {"optimizer": opt}
        steps = module.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise NormcError(
                "the run has no end, so its schedule has none", "give Trainer max_steps, or set normc_schedule = None"
            )
        rate = schedule(opt, int(steps), **self.normc_schedule)
        return {"optimizer": opt, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def on_train_batch_end(self, *given: Any) -> None:
        """Log the plan after the first batch, when it is known. A class that has this hook too calls super()'s."""
        if not self._logged:
            self._logged = True
            log_plan(self)
        parent: Any = super()
        parent.on_train_batch_end(*given)


def log_plan(module: Any) -> None:
    """Print the plan of a LightningModule's optimizer, in the process of rank 0 alone; give its recipe and hash to the
    module's loggers, and write plan.json into their folder. NormcError before the plan is known.
    """
    trainer = module.trainer
    opt: Optimizer = trainer.optimizers[0]
    if not trainer.is_global_zero:
        return
    module.print(opt.plan)
    for logger in trainer.loggers:
        logger.log_hyperparams({"normc_recipe": opt.plan.recipe, "normc_plan": opt.plan.hash})
    if trainer.log_dir is not None:
        folder = Path(trainer.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save(opt.plan, folder / "plan.json")
