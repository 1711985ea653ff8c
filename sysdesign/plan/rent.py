"""A stage on a rented machine -> its minutes in the same ledger as API calls, and an end before the budget is passed.

Each started minute is paid ahead, so that a killed run has never used more than it charged. When the next minute does not fit under
`runtime.budget_usd` the stage is interrupted as by a shutdown: what is finished is kept, and a rerun with a higher budget goes on there.
Counted are the minutes in which stages run, on the machine whose ledger it is; a provider's bill also has the minutes around them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sysdesign.config.runtime import RuntimeConfig
from sysdesign.errors import LimitError, interrupted
from sysdesign.ledger import Ledger
from sysdesign.models.paid import open_ledger
from sysdesign.plan.planner import ON_CARD


@contextmanager
def metered(stage: str, runtime: RuntimeConfig, store: Path, minute_s: float = 60.0) -> Iterator[None]:
    """Charge the block's minutes. Raises LimitError when the first or a later one does not fit; then the block was interrupted.

    Does nothing for stages that need no card, on a machine of one's own (`gpu_usd_per_hour` 0), or without a budget.
    """
    minute = round(runtime.gpu_usd_per_hour / 60 * 1e6)
    if stage not in ON_CARD or not minute or not runtime.budget_usd:
        yield
        return
    store.mkdir(parents=True, exist_ok=True)
    ledger = open_ledger(store, runtime.budget_usd)
    over: list[LimitError] = []
    done = threading.Event()

    def pay(ledger: Ledger) -> None:
        while not done.wait(minute_s):
            try:
                ledger.spend(minute, "machine", stage, f"{runtime.gpu_usd_per_hour:g} an hour")
            except LimitError as error:
                over.append(error)
                if not done.is_set():
                    os.kill(os.getpid(), signal.SIGTERM)  # the command's own handler makes it an interrupt of the main thread
                return

    payer = threading.Thread(target=pay, args=(ledger,), daemon=True)
    try:
        ledger.spend(minute, "machine", stage, f"{runtime.gpu_usd_per_hour:g} an hour")
        payer.start()
        yield
    except BaseException as err:
        if over and interrupted(err):
            raise over[0] from None
        raise
    finally:
        done.set()
        if payer.ident is not None:
            payer.join()
        ledger.close()
