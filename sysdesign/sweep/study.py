"""A specification -> the Optuna study behind it: its storage, its sampler for each trial, its pruner."""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from sysdesign.config.sweep import NoPruning, Pruning, SweepSpec
from sysdesign.errors import ServiceError

JOURNAL = "study.journal"
SEED_STRIDE = 100_003  # a prime above any number of trials, so that two seeds share no draw


class _Leased:
    """Optuna's lock protocol without a lock: the driver's lease is one already, and lock files outlive a killed writer by half a minute."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None: ...


def open_study(spec: SweepSpec, folder: Path, url: str) -> optuna.Study:
    """The study of that name in `url`, or in a journal file in `folder`. Call it under the lease.

    Raises ServiceError when the storage does not open; the message never shows the address.
    """
    try:
        if url:
            storage: Any = RDBStorage(url)
        else:
            path = folder / JOURNAL
            _cut_torn_line(path)
            storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_Leased()))
        return optuna.create_study(
            storage=storage, sampler=sampler(spec, 0), pruner=pruner(spec.pruning), study_name=spec.name,
            direction=spec.objective.direction, load_if_exists=True,
        )  # fmt: skip
    except Exception as err:  # every database driver has a family of errors of its own
        law = f"the study's storage must open ({type(err).__name__})"
        raise ServiceError(spec.storage_env or str(folder / JOURNAL), law, "check the storage, or give the sweep another name") from None


def sampler(spec: SweepSpec, trial: int) -> Any:
    """The sampler that draws trial number `trial`: a function of (seed, number) and the trials before it, whatever was killed."""
    seed = random.Random(spec.seed * SEED_STRIDE + trial).randrange(2**31)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match spec.sampler:
            case "tpe":
                startup = min(10, max(3, spec.budget.trials // 4))
                return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=min(10, max(3, spec.budget.trials // 4)))
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)


def pruner(pruning: Pruning | NoPruning) -> Any:
    """Optuna's successive halving is ASHA: it decides at each report, without waiting for the others."""
    if isinstance(pruning, NoPruning):
        return optuna.pruners.NopPruner()
    if pruning.kind == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=pruning.first, reduction_factor=pruning.factor)
    return optuna.pruners.HyperbandPruner(min_resource=pruning.first, reduction_factor=pruning.factor)


def _cut_torn_line(path: Path) -> None:
    """A machine that lost power may have written half a line; with more lines behind it the journal could not be read."""
    if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
