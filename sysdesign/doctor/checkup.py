"""A profile and this machine -> every finding, in the order in which they would stop a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import sysdesign.diagrams
from sysdesign.artifacts import Store
from sysdesign.config.root import Config
from sysdesign.doctor import machine, services, stores
from sysdesign.doctor.findings import Finding, bad, warn
from sysdesign.errors import SysdesignError
from sysdesign.models.prices import read_prices

Needs = tuple[float, float, float]  # disk in GB, memory and GPU memory in GiB


def checkup(config: Config, profile: str, root: Path, needs: Callable[[], Needs]) -> list[Finding]:
    """All findings. `needs` says what the profile takes; it may raise a SysdesignError, which becomes a finding."""
    store = Store((root / config.runtime.store).resolve())
    whole = stores.artifacts(store)
    found = [machine.python(), machine.packages(root / "requirements.txt")]
    disk, memory, vram, trouble = 3.0, 3.0, 0.0, None
    if whole.state == "ok":  # a broken store is told once, below
        try:
            disk, memory, vram = needs()
        except SysdesignError as error:
            trouble = bad("profile", f"{error.where}: {error.law}", error.do)
    found += [trouble] if trouble else []
    found += [machine.disk(store.root, disk), machine.memory(memory), machine.gpu(config, vram, profile), machine.graphviz(config)]
    found += [machine.fonts(Path(sysdesign.diagrams.__path__[0]) / "fonts"), machine.llamacpp(), machine.hub(config)]
    tracking, date = stores.tracking(root)
    trap = stores.file_store_trap(root)
    found += [whole, tracking, *([trap] if trap else []), services.ollama(config), *services.keys(config)]
    found.append(services.clock(read_prices().as_of, date))
    if config.runtime.budget_usd <= 0 and services.paid_ones(config) and services.paid_ones(config)[0].kind != "chat":
        found.append(
            warn(
                "budget",
                "runtime.budget_usd is 0, so nothing can be bought",
                "add --runtime.budget_usd 10; the quote: python -m pipelines.plan",
            )
        )
    if os.environ.get("MLFLOW_RUN_ID"):
        found.append(warn("environment", "MLFLOW_RUN_ID is set: the next command would write into that run", "unset MLFLOW_RUN_ID"))
    return found
