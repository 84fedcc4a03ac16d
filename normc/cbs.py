"""The critical batch size, measured: how far batches can grow before more of them is only more work (2410.21676).

    found = normc.cbs.measure(train, (16, 32, 64, 128, 256), target=2.0, lrs=(1e-3, 2e-3, 4e-3))
    print(found)
    found.fit().critical

`train(batch, lr)` makes one run: a `Trial`. docs/cbs.md says the rest.
"""

from normc.tools.cbs.average import averaged as averaged
from normc.tools.cbs.law import Law as Law
from normc.tools.cbs.law import fit as fit
from normc.tools.cbs.measure import measure as measure
from normc.tools.cbs.result import Measurement as Measurement
from normc.tools.cbs.result import Point as Point
from normc.tools.cbs.trial import Trial as Trial
