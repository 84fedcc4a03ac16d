"""What takes long says so, to the logger "normc": a compilation shouldn't look like a hang. Needs no torch."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("normc")
# Seconds before the first line; the next come after twice as long each.
PATIENCE = 2.0


@contextmanager
def progress(what: str, patience: float = PATIENCE) -> Iterator[None]:
    """Log `what` is being done, and for how long by now, once it has taken `patience` seconds; at its end, how long it
    took. Nothing where it is quicker.

    The first lines are warnings, since they have to be seen where nobody has set up logging; the last is an info.
    """
    began, over = time.monotonic(), threading.Event()

    def tell() -> None:
        wait = patience
        while not over.wait(wait):
            spent = time.monotonic() - began
            LOGGER.warning("%s: %.0f s so far", what, spent)
            wait = max(spent, patience)

    teller = threading.Thread(target=tell, name="normc-progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
        if (spent := time.monotonic() - began) >= patience:
            LOGGER.info("%s: done after %.1f s", what, spent)
