"""A study has one owner, counts its trials and its money, and draws nothing twice."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines import sweep
from sysdesign.config.root import Config
from sysdesign.errors import ArtifactError, ConfigError, LimitError
from sysdesign.profiles import resolve
from sysdesign.sweep import budget
from sysdesign.sweep.book import Book, open_book
from sysdesign.sweep.spec import fingerprint
from sysdesign.sweep.trial import Result
from tests import sweep_world as world

ROOT = world.ROOT
PRINT = "f" * 12


def test_another_study_or_another_driver_in_the_storage(tmp_path: Path) -> None:
    with open_book(world.spec(objective={"metric": "train/loss", "direction": "maximize"}), "d" * 12, tmp_path):
        pass  # a plan: no trial yet, so another specification may take the name
    with open_book(world.spec(), PRINT, tmp_path) as book:
        assert book.study.direction.name == "MINIMIZE"
        book.next()
    with (
        pytest.raises(ConfigError, match="holds a study of that name with other axes.*another name"),
        open_book(world.spec(), "e" * 12, tmp_path),
    ):
        pass
    claim = (
        f"from filelock import FileLock; l = FileLock({str(tmp_path / 'driver.lock')!r}); l.acquire(); print('held', flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", claim], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline() == b"held\n"
    try:
        with pytest.raises(ArtifactError, match="one driver at a time runs a study"), open_book(world.spec(), PRINT, tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with open_book(world.spec(), PRINT, tmp_path):  # the claim died with its holder
        pass


def test_the_meaning_of_a_trial_is_in_the_fingerprint_and_the_budget_is_not() -> None:
    first = fingerprint(world.spec(), {})
    assert fingerprint(world.spec(budget={"trials": 99}, runner={"kind": "ray"}), {}) == first
    assert fingerprint(world.spec(fixed={"train.max_steps": 9}), {}) != first
    assert fingerprint(world.spec(), {"train.batch": "4"}) != first


def test_an_orphan_runs_again_under_its_number_with_its_values_and_nothing_is_drawn_twice(tmp_path: Path) -> None:
    def played(folder: Path, *, restarts: bool) -> list[dict[str, Any]]:
        values: list[dict[str, Any]] = []
        while len(values) < 6:
            with open_book(world.spec(), PRINT, folder) as book:
                number = book.next()
                if restarts and len(values) % 2:
                    before = book.values(number)
                    del book
                    with_new = Book(world.spec(), _reopen(folder))
                    assert with_new.orphans == [number] and with_new.counted() == number + 1
                    assert with_new.next() == number and with_new.values(number) == before
                    book = with_new
                values.append(book.values(number))
                score = world.loss(values[-1], 10)
                book.tell(number, book.judge(Result(end="complete", metrics={"train/val_loss_best": score}, seconds=1.0)))
        return values

    whole, cut = played(tmp_path / "a", restarts=False), played(tmp_path / "b", restarts=True)
    assert whole == cut
    assert len({json.dumps(v) for v in whole}) == 6


def _reopen(folder: Path) -> Any:
    from sysdesign.sweep.study import open_study

    return open_study(world.spec(), folder, "")


def test_a_torn_journal_is_read_up_to_the_tear(tmp_path: Path) -> None:
    with open_book(world.spec(), PRINT, tmp_path) as book:
        book.next()
    with (tmp_path / "study.journal").open("ab") as journal:
        journal.write(b'{"op_code": 4, "worker')
    with open_book(world.spec(), PRINT, tmp_path) as book:
        assert book.orphans == [0]
        assert book.next() == 0


def test_scores_that_are_none(tmp_path: Path) -> None:
    with open_book(world.spec(), PRINT, tmp_path) as book:
        nan = book.judge(Result(end="complete", metrics={"train/val_loss_best": math.nan, "train/steps": 1.0}))
        assert nan.end == "pruned" and "not finite" in nan.reason and nan.metrics == {"train/steps": 1.0}
        none = book.judge(Result(end="complete", metrics={"train/steps": 1.0}))
        assert none.end == "failed" and none.reason == "nobody logged train/val_loss_best; logged were train/steps"
        many = dict.fromkeys(["train/val_loss", "train/val_loss_ci_low", *(f"eval/part_{n}" for n in range(200))], 1.0)
        said = book.judge(Result(end="complete", metrics=many)).reason
        assert "logged were train/val_loss, " in said and said.endswith(" and 195 more") and "_ci_" not in said


@pytest.mark.parametrize(
    ("named", "rung", "sign"),
    [
        ({}, ("probe/interim_score", "maximize"), -1.0),
        ({"metric": "train/val_loss", "direction": "minimize"}, ("train/val_loss", "minimize"), 1.0),
    ],
)
def test_a_trial_far_behind_is_stopped_and_recorded_as_pruned(
    named: dict[str, str], rung: tuple[str, str], sign: float, tmp_path: Path
) -> None:
    spec = world.spec(pruning={"kind": "asha", "factor": 2, **named}, objective={"metric": "probe/score", "direction": "maximize"})
    assert spec.rung() == rung
    with open_book(spec, PRINT, tmp_path) as book:
        stopped = []
        for level in (1.0, 0.9, 5.0, 6.0):  # the last two are far behind, whether a loss falls or a score rises
            number = book.next()
            stopped.append(any(book.report(number, step, sign * level) for step in (1, 2, 3, 4)))
            book.tell(number, Result(end="pruned" if stopped[-1] else "complete", metrics={"probe/score": 1 / level}))
        assert stopped == [False, False, True, True]
        assert [t.state.name for t in book.done()] == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]


def test_what_trials_are_compared_by_follows_the_objective() -> None:
    def rung(metric: str, direction: str) -> tuple[str, str]:
        return world.spec(pruning={"kind": "hyperband"}, objective={"metric": metric, "direction": direction}).rung()

    assert rung("probe/hallucination", "minimize") == ("probe/interim_hallucination", "minimize")
    assert rung("eval/gain", "maximize") == ("probe/interim_score", "maximize")
    assert rung("train/val_loss_best", "minimize") == ("train/val_loss", "minimize")
    assert world.spec().rung()[0] == ""


def test_the_budget_stops_between_trials(tmp_path: Path) -> None:
    hourly = world.spec(budget={"trials": 8, "usd": 1.0, "minutes_a_trial": 6})
    with open_book(hourly, PRINT, tmp_path) as book:
        assert "8 of 8 trials to run; about 48 min" in budget.quote(book, 4.0, 1) and "3.20 USD" in budget.quote(book, 4.0, 1)
        assert budget.refusal(hourly.budget, budget.spent(book, 4.0), 1, fresh=True) == ""
        assert "would pass 1 USD" in budget.refusal(hourly.budget, budget.spent(book, 4.0), 2, fresh=True)
        for _ in range(2):
            book.tell(book.next(), Result(end="complete", metrics={"train/val_loss_best": 1.0}, seconds=360, cost_usd=0.4))
        assert "0.80 USD are used" in budget.refusal(hourly.budget, budget.spent(book, 4.0), 0, fresh=True)
    short = world.spec(budget={"trials": 2, "hours": 0.1})
    with open_book(short, PRINT, tmp_path / "b") as book:
        book.tell(book.next(), Result(end="complete", metrics={"train/val_loss_best": 1.0}, seconds=300))
        assert "would pass 0.1 h" in budget.refusal(short.budget, budget.spent(book, 0.0), 0, fresh=True)


def test_money_is_asked_about(tmp_path: Path) -> None:
    spec = world.spec()
    config = resolve(Config, "rehearsal", {"runtime.gpu_usd_per_hour": "2", "runtime.store": str(tmp_path)})
    with pytest.raises(LimitError, match="cost money.*--runtime.yes true"):
        sweep.sweep(spec, config, {}, keep=False, plan=False)
