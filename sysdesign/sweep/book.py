"""The one owner of a study: hands out trials, hears how they do, and writes down how they ended. Runners only run.

A study is an Optuna study in a journal file, or on a PostgreSQL server that a team shares. A trial that was running when
the driver died is handed out again first, under its own number; its samples come from (seed, number), so a restart
repeats no draw.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import secrets
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sysdesign.config.sweep import Axis, Choice, SweepSpec
from sysdesign.errors import ConfigError
from sysdesign.sweep import lease
from sysdesign.sweep.spec import number
from sysdesign.sweep.study import JOURNAL, open_study, sampler
from sysdesign.sweep.trial import Result

optuna.logging.set_verbosity(optuna.logging.WARNING)
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


@contextmanager
def open_book(spec: SweepSpec, fingerprint: str, folder: Path) -> Iterator[Book]:
    """The book of `spec`'s study, held for this process; made if it is new.

    Raises ArtifactError when another driver holds it, ConfigError when the storage holds another study of that name,
    ServiceError when a shared storage does not answer.
    """
    url = os.environ.get(spec.storage_env, "") if spec.storage_env else ""
    if spec.storage_env and not url:
        do = f"export {spec.storage_env}=postgresql+psycopg://..., or take storage_env out of the file"
        raise ConfigError(f"{spec.name}: storage_env", "must name a variable that is set", do, spec.storage_env)
    with lease.on_server(url, spec.name, spec.storage_env) if url else lease.on_file(folder / "driver.lock"):
        study = open_study(spec, folder, url)
        held = study.user_attrs.get("fingerprint")
        if held not in (None, fingerprint) and not study.get_trials(deepcopy=False):  # only planned, with other flags
            optuna.delete_study(study_name=spec.name, storage=study._storage)
            study, held = open_study(spec, folder, url), None
        if held not in (None, fingerprint):
            law = f"holds a study of that name with other axes, objective, profile or flags ({held})"
            where = spec.storage_env or str(folder / JOURNAL)
            raise ConfigError(where, law, "give this specification another name (--name NAME), or restore the old one", fingerprint)
        if held is None:
            study.set_user_attr("uid", secrets.token_hex(4))  # names this study in the tracking store, for good
            study.set_user_attr("fingerprint", fingerprint)
        yield Book(spec, study)


class Book:
    """The only writer of its study."""

    def __init__(self, spec: SweepSpec, study: optuna.Study) -> None:
        self.spec, self.study = spec, study
        self.uid = f"{spec.name}-{study.user_attrs['uid']}"
        self.orphans = [trial.number for trial in self._trials(TrialState.RUNNING)]
        self._open: dict[int, optuna.trial.Trial] = {}

    def next(self) -> int:
        """The number of the trial to run now: an orphan of a killed driver, or a new one."""
        if self.orphans:
            found = self.orphans.pop(0)
            trial_id = next(t._trial_id for t in self.study.get_trials(deepcopy=False) if t.number == found)
            self.study.sampler = sampler(self.spec, found)
            trial = optuna.trial.Trial(self.study, trial_id)
        else:
            self.study.sampler = sampler(self.spec, len(self.study.get_trials(deepcopy=False)))
            trial = self.study.ask()
        self._open[trial.number] = trial
        for path, axis in self.spec.space.items():
            _suggest(trial, path, axis)  # an orphan answers with what it has, and draws what the kill cut off
        return int(trial.number)

    def values(self, trial: int) -> dict[str, Any]:
        """Config path -> value of a trial."""
        return {path: decode(self.spec.space[path], value) for path, value in self.trial(trial).params.items()}

    def report(self, trial: int, step: int, value: float) -> bool:
        """Write down an intermediate value (once a step); True when the trial should stop. Values are in the study's direction."""
        metric, direction = self.spec.rung()
        if not metric or not math.isfinite(value):
            return False
        opened = self._open[trial]
        if step not in self.trial(trial).intermediate_values:
            sign = 1.0 if direction == self.spec.objective.direction else -1.0
            opened.report(sign * value, step)
        return bool(opened.should_prune())

    def judge(self, result: Result) -> Result:
        """A result as it counts: without a score it has failed, and a score that is no number is a pruned trial, not a complete one."""
        score = result.metrics.get(self.spec.objective.metric)
        finite = {name: value for name, value in result.metrics.items() if math.isfinite(value)}
        if result.end == "complete" and score is None:
            reason = f"nobody logged {self.spec.objective.metric}; {_near(self.spec.objective.metric, result.metrics)}"
            return result.model_copy(update={"end": "failed", "reason": reason, "metrics": finite})
        if result.end == "complete" and score is not None and not math.isfinite(score):
            return result.model_copy(update={"end": "pruned", "reason": f"the score is not finite ({score})", "metrics": finite})
        return result.model_copy(update={"metrics": finite})

    def tell(self, trial: int, result: Result) -> None:
        """Close a trial with a judged result."""
        opened = self._open.pop(trial)
        opened.set_user_attr("result", result.model_dump(mode="json"))
        state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[result.end]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.study.tell(opened, result.metrics[self.spec.objective.metric] if result.end == "complete" else None, state=state)

    def attr(self, trial: int, name: str, value: Any) -> None:
        """Remember something about a running trial."""
        self._open[trial].set_user_attr(name, value)

    def twin(self, trial: int) -> int | None:
        """A complete trial with the same values, whose result this one would only repeat."""
        mine = self.trial(trial).params
        return next((t.number for t in self._trials(TrialState.COMPLETE) if t.params == mine), None)

    def trial(self, number: int) -> FrozenTrial:
        return next(t for t in self.study.get_trials(deepcopy=False) if t.number == number)

    def result(self, number: int) -> Result | None:
        """How a closed trial ended."""
        found = self.trial(number).user_attrs.get("result")
        return Result.model_validate(found) if found else None

    def counted(self) -> int:
        """Trials that the budget counts. Orphans are among them, so a restart never adds any."""
        return len(self._trials(*COUNTED))

    def failed(self) -> int:
        return len(self._trials(TrialState.FAIL))

    def done(self) -> list[FrozenTrial]:
        """Closed trials, by number."""
        return self._trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

    def best(self) -> FrozenTrial | None:
        """The complete trial with the best score; the earlier one of two equals."""
        sign = 1 if self.spec.objective.direction == "minimize" else -1
        return min(self._trials(TrialState.COMPLETE), key=lambda t: (sign * t.value, t.number), default=None)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return [t for t in self.study.get_trials(deepcopy=False) if t.state in states]


def _near(metric: str, logged: Iterable[str]) -> str:
    """What was logged, nearest first: an evaluation logs hundreds."""
    names = sorted(name for name in logged if "_ci_" not in name)
    found = difflib.get_close_matches(metric, names, 6, 0.0)
    more = f" and {len(names) - len(found)} more" if len(names) > len(found) else ""
    return f"logged were {', '.join(found)}{more}" if names else "nothing was"


def encode(axis: Choice) -> list[str | int | float | bool]:
    """Choices as Optuna stores them: blocks and lists as JSON."""
    return [value if isinstance(value, str | int | float | bool) else json.dumps(value, sort_keys=True) for value in axis.values]


def decode(axis: Axis, stored: Any) -> Any:
    """A stored value as the specification spells it."""
    return axis.values[encode(axis).index(stored)] if isinstance(axis, Choice) else number(axis.kind, stored)


def _suggest(trial: Any, path: str, axis: Axis) -> None:
    if isinstance(axis, Choice):
        trial.suggest_categorical(path, encode(axis))
    elif axis.kind == "int":
        trial.suggest_int(path, int(axis.low), int(axis.high), step=int(axis.step) or 1, log=axis.log)
    else:
        trial.suggest_float(path, axis.low, axis.high, step=axis.step or None, log=axis.log)


def sequence(trials: Sequence[FrozenTrial], direction: str) -> list[float]:
    """Best score so far after each complete trial."""
    best: list[float] = []
    for trial in (t for t in trials if t.value is not None):
        better = min if direction == "minimize" else max
        best.append(better([*best[-1:], float(trial.value)]))
    return best
