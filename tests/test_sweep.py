"""A sweep says what is wrong before it starts, counts its trials, and loses none."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines import sweep, trial
from sysdesign.config.root import Config
from sysdesign.config.sweep import SweepSpec
from sysdesign.errors import ArtifactError, ConfigError, LimitError, ServiceError, ToolError
from sysdesign.profiles import resolve
from sysdesign.sweep import budget, local, report
from sysdesign.sweep.address import require_cluster
from sysdesign.sweep.book import Book, open_book
from sysdesign.sweep.conductor import Conductor
from sysdesign.sweep.spec import check, fingerprint, merge, read_spec
from sysdesign.sweep.trial import Event, Request, Result, read_result, write
from tests import sweep_world as world

ROOT = world.ROOT
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
PRINT = "f" * 12


class Kept:
    """A chronicle that remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.results: dict[int, Result] = {}

    def begin(self, trial: int, values: Mapping[str, Any], *, again: bool) -> None:
        self.calls.append(("again" if again else "begin", trial))

    def event(self, trial: int, event: Event) -> None:
        self.calls.append(("event", trial))

    def end(self, trial: int, result: Result) -> None:
        self.results[trial] = result


def run_here(spec: SweepSpec, folder: Path, usd_per_hour: float = 0.0) -> tuple[Kept, Conductor]:
    kept = Kept()
    with open_book(spec, PRINT, folder) as book:
        conductor = Conductor(book, kept, folder, world.request, usd_per_hour)
        local.run(conductor, spec.runner, ROOT)  # type: ignore[arg-type]
    return kept, conductor


def fault(*faults: str, trials: int = 2) -> SweepSpec:
    space = {**world.spec().model_dump()["space"], "fault": {"kind": "choice", "values": ["", *faults]}}
    return world.spec(space=space, budget={"trials": trials, "failures": 2}, seed=1)


# what is wrong is said before anything starts


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_resolves(path: Path) -> None:
    spec = read_spec(path, {})
    check(spec, {}, sweep.metrics())
    assert spec.name == path.stem


def test_there_are_experiments() -> None:
    assert {path.stem for path in EXPERIMENTS} >= {"rehearsal", "rank-x-rate", "data-size", "resolution", "teacher-mix"}


RATE = {"kind": "float", "low": 1e-4, "high": 1e-2}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"space": {"train.lora.rang": RATE}}, "space.train.lora.rang: is no field.*did you mean train.lora.rank"),
        ({"space": {"train.learning_rate": {"kind": "float", "low": 1e-2, "high": 1e-4}}}, "range is empty"),
        ({"space": {"train.lora.rank": {"kind": "choice", "values": [4]}}}, "at least two different values"),
        ({"space": {"train.learning_rate": {"kind": "float", "low": 0.0, "high": 1.0, "log": True}}}, "log range needs low above 0"),
        ({"space": {"train.lora.rank": {"kind": "int", "low": 0, "high": 8}}}, "space.train.lora.rank: every value must fit"),
        ({"space": {"runtime.workers": {"kind": "int", "low": 1, "high": 8}}}, "cannot change a result"),
        ({"space": {}}, "space.*at least 1 item"),
        ({"budget": {"trials": 0}}, "budget.trials: input should be greater than or equal to 1.*got 0"),
        ({"objective": {"metric": "train/loss_lst", "direction": "minimize"}}, "must be logged by a trial.*did you mean train/loss_last"),
        ({"objective": {"metric": "banana"}}, "objective.metric"),
        ({"fixed": {"train.maxsteps": 4}}, "fixed.train.maxsteps: is no field.*did you mean train.max_steps"),
        ({"sampler": "gp", "pruning": {"kind": "asha"}}, "gp ignores pruned trials"),
        ({"profile": "rehersal"}, "did you mean --profile rehearsal"),
        ({"fixed": {"train.lora.rank": 8}}, "both varied and fixed"),
        ({"runner": {"kind": "optuna", "gpus": 2}}, "runner.gpus: a trial trains on one GPU"),
        ({"runner": {"kind": "ray", "gpus": 4}}, "runner.gpus: a trial trains on one GPU"),
    ],
)
def test_a_bad_file_is_refused_with_the_way_out(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    about = world.spec().model_dump(mode="json") | change
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(about))
    with pytest.raises(ConfigError, match=said):
        check(read_spec(path, {}), {}, sweep.metrics())


def test_a_flag_may_not_fix_an_axis_and_may_change_the_budget() -> None:
    path = ROOT / "experiments/rehearsal.yaml"
    with pytest.raises(ConfigError, match="--train.lora.rank: is varied by the sweep"):
        check(read_spec(path, {}), {"train.lora.rank": "8"}, sweep.metrics())
    assert read_spec(path, {"budget.trials": "3"}).budget.trials == 3
    with pytest.raises(ConfigError, match="must be a readable experiment file"):
        read_spec(Path("experiments/none.yaml"), {})


def test_an_axis_may_be_a_block_and_reaches_the_trial_whole() -> None:
    spec = read_spec(ROOT / "experiments/resolution.yaml", {})
    flags = merge(spec, {}, {"dataset.picture": {"min_tokens": 256, "max_tokens": 384}, "train.lora.rank": 32})
    config = resolve(Config, "rehearsal", flags)
    assert (config.dataset.picture.min_tokens, config.dataset.picture.max_tokens, config.train.lora.rank) == (256, 384, 32)


def test_shared_stages_are_those_no_axis_reaches() -> None:
    assert sweep.shared_stages(read_spec(ROOT / "experiments/rehearsal.yaml", {})) == ["base", "diagrams", "conversations", "dataset"]
    assert sweep.shared_stages(read_spec(ROOT / "experiments/data-size.yaml", {})) == ["base"]
    assert sweep.shared_stages(read_spec(ROOT / "experiments/teacher-mix.yaml", {})) == ["base", "diagrams"]


def test_a_ray_address_that_does_not_answer() -> None:
    with pytest.raises(ServiceError, match="a Ray cluster must answer there.*127.0.0.1:9.*ray start --head"):
        require_cluster("127.0.0.1:9")
    with pytest.raises(ServiceError, match="inside the cluster"):
        require_cluster("ray://127.0.0.1:10001")


def test_the_command_answers_bad_input_in_one_line(command: Any, tmp_path: Path) -> None:
    done = command("sweep", "--spec", "experiments/rehearsal.yaml", "--budget.trials", "0", "--runtime.store", str(tmp_path))
    assert done.returncode == 2
    assert "budget.trials" in done.stderr and len(done.stderr.strip().splitlines()) == 1


# the book


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


def test_a_trial_far_behind_is_stopped_and_recorded_as_pruned(tmp_path: Path) -> None:
    spec = world.spec(pruning={"kind": "asha", "factor": 2}, objective={"metric": "probe/score", "direction": "maximize"})
    with open_book(spec, PRINT, tmp_path) as book:
        stopped = []
        for level in (1.0, 0.9, 5.0, 6.0):  # losses: lower is better, although the objective is a score
            number = book.next()
            stopped.append(any(book.report(number, step, level) for step in (1, 2, 3, 4)))
            book.tell(number, Result(end="pruned" if stopped[-1] else "complete", metrics={"probe/score": 1 / level}))
        assert stopped == [False, False, True, True]
        assert [t.state.name for t in book.done()] == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]


# budgets


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


# trials in processes of their own


def test_trials_run_in_processes_and_pruned_ones_are_stopped(tmp_path: Path) -> None:
    spec = world.spec(budget={"trials": 6}, runner={"kind": "optuna", "workers": 2}, pruning={"kind": "asha", "factor": 2}, seed=3)
    kept, conductor = run_here(spec, tmp_path)
    ends = [kept.results[n].end for n in range(6)]
    assert set(ends) == {"complete", "pruned"}, ends
    assert conductor.stopped == "6 trials are done"
    ran = (tmp_path / "trials/ran.txt").read_text().split()
    assert sorted(map(int, ran)) == [n for n, end in enumerate(ends) if end == "complete"]
    assert all("behind the others at report" in r.reason for r in kept.results.values() if r.end == "pruned")


@pytest.mark.parametrize(
    ("kind", "end", "said"),
    [("killed", "pruned", "out of memory: killed twice by signal 9"), ("crash", "failed", "code 1 and no result: no such thing")],
)
def test_a_crash_is_contained_and_has_its_reason(kind: str, end: str, said: str, tmp_path: Path) -> None:
    folder = tmp_path / "0000"
    write(folder / "request.json", world.request(0, {"train.lora.rank": 4, "train.learning_rate": 1e-3, "fault": kind}))
    asked = Request.model_validate_json((folder / "request.json").read_bytes())
    process = local.start(asked, folder, ROOT, {})
    result = local.ended(process)
    if result is None:  # a kill is tried once more
        again = local.start(asked, folder, ROOT, {})
        again.killed = 1
        result = local.ended(again)
    assert result and result.end == end and said in result.reason


def test_a_trial_ends_with_its_driver(tmp_path: Path) -> None:
    folder = tmp_path / "0000"
    write(folder / "request.json", world.request(0, {"train.lora.rank": 4, "train.learning_rate": 1e-3}))
    process = local.start(Request.model_validate_json((folder / "request.json").read_bytes()), folder, ROOT, {})
    assert process.popen.stdin
    process.popen.stdin.close()  # what the kernel does when the driver is gone
    assert process.popen.wait(timeout=60) == 1 and read_result(folder) is None


def test_too_many_failures_stop_the_sweep(tmp_path: Path) -> None:
    with open_book(world.spec(budget={"trials": 9, "failures": 2}), PRINT, tmp_path) as book:
        conductor = Conductor(book, Kept(), tmp_path, world.request, 0.0)
        first = conductor.take()
        assert first
        conductor.finish(first.number, Result(end="failed", reason="no base"))
        second = conductor.take()
        assert second
        with pytest.raises(LimitError, match="stops after 2 failed trials .trial 1: no base"):
            conductor.finish(second.number, Result(end="failed", reason="no base"))
        assert book.counted() == 0


def test_equal_values_are_answered_from_the_first(tmp_path: Path) -> None:
    spec = world.spec(space={"train.lora.rank": {"kind": "choice", "values": [4, 8]}}, budget={"trials": 6}, sampler="random")
    with open_book(spec, PRINT, tmp_path) as book:
        kept = Kept()
        conductor = Conductor(book, kept, tmp_path, world.request, 0.0)
        ran = []
        while asked := conductor.take():
            ran.append(asked.number)
            conductor.finish(asked.number, Result(end="complete", metrics={"train/val_loss_best": 1.0}, work_s=1.0))
        assert len(ran) == 2 and len(kept.results) == 6
        assert sum(r.reason.startswith("same values as trial") for r in kept.results.values()) == 4


def test_a_real_trial_makes_reuses_and_ends_with_a_reason(tmp_path: Path) -> None:
    flags = {"runtime.store": str(tmp_path / "store"), "diagrams.count": "1", "diagrams.held_out_share": "0"}
    asked = Request(study="s", number=0, profile="rehearsal", flags=flags, values={}, stages=("diagrams",))
    write(tmp_path / "0/request.json", asked)
    first = trial.run_trial(asked, tmp_path / "0")
    assert first.end == "complete" and first.metrics["diagrams/count"] == 1 and first.work_s > 0
    again = trial.run_trial(asked, tmp_path / "0")
    assert again.cached == ("diagrams",) and again.artefacts == first.artefacts
    assert trial.ending(LimitError("train", "a step needed more GPU memory than planned", "lower train.batch")).end == "pruned"
    assert trial.ending(LimitError("train, step 3", "gradients must stay finite", "lower train.learning_rate")).end == "pruned"
    assert trial.ending(MemoryError("1 GiB")).reason == "out of memory: 1 GiB"
    assert trial.ending(LimitError("/disk", "the disk must have room", "free space")).end == "failed"


# killed and resumed


def drive(folder: Path, runner: str, kill: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.sweep_world", "drive", str(folder), runner, *([kill] if kill else [])],
        cwd=ROOT, capture_output=True, text=True, timeout=300, **options,
    )  # fmt: skip


def runs_of(client: MlflowClient) -> tuple[list[Any], list[Any]]:
    found = client.search_runs(["0"], max_results=1000)
    return [r for r in found if "sweep.trial" in r.data.tags], [r for r in found if "sweep.trial" not in r.data.tags]


def test_killed_at_three_points_and_resumed_nothing_is_lost_or_run_twice(tmp_path: Path, tracking_uri: str) -> None:
    (tmp_path / "spec.json").write_text(json.dumps({"budget": {"trials": 5}}))
    (tmp_path / "runner.json").write_text('{"workers": 2}')
    env = os.environ | {"MLFLOW_TRACKING_PASSWORD": "canary-4711", "OPENAI_API_KEY": "canary-4711"}
    for kill in ("begin:2", "event:9", "end:1"):
        assert drive(tmp_path, "optuna", kill, env=env).returncode == -signal.SIGKILL
    done = drive(tmp_path, "optuna", env=env)
    assert done.returncode == 0, done.stderr
    assert sorted(map(int, (tmp_path / "trials/ran.txt").read_text().split())) == [0, 1, 2, 3, 4]
    client = MlflowClient(tracking_uri)
    trials, parents = runs_of(client)
    assert len(parents) == 1 and parents[0].info.status == "FINISHED"
    assert sorted(int(r.data.tags["sweep.trial"].rpartition(":")[2]) for r in trials) == [0, 1, 2, 3, 4]
    for run in trials:
        assert run.info.status == "FINISHED" and run.data.tags["sweep.state"] == "complete"
        assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        curve = [entry.step for entry in client.get_metric_history(run.info.run_id, "train/val_loss")]
        assert curve == list(range(1, 11))
        assert set(run.data.params) == {"train.lora.rank", "train.learning_rate"}
        assert run.data.metrics["cost/trial_seconds"] > 0
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "mlflow.db"]
    assert written and not [path for path in written if b"canary-4711" in path.read_bytes()]


def test_the_address_of_a_shared_storage_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_STORAGE", "postgresql+psycopg://me:canary-4711@127.0.0.1:9/studies")
    with pytest.raises((ServiceError, ToolError)) as caught, open_book(world.spec(storage_env="SWEEP_STORAGE"), PRINT, tmp_path):
        pass
    assert "canary" not in str(caught.value) and "SWEEP_STORAGE" in str(caught.value)
    monkeypatch.delenv("SWEEP_STORAGE")
    with (
        pytest.raises(ConfigError, match="must name a variable that is set"),
        open_book(world.spec(storage_env="SWEEP_STORAGE"), PRINT, tmp_path),
    ):
        pass


def test_ray_runs_the_same_study_and_writes_no_secret(tmp_path: Path, tracking_uri: str) -> None:
    (tmp_path / "spec.json").write_text(json.dumps({"budget": {"trials": 4}, "pruning": {"kind": "asha", "factor": 2}, "seed": 3}))
    (tmp_path / "runner.json").write_text('{"workers": 2}')
    done = drive(tmp_path, "ray", env=os.environ | {"MLFLOW_TRACKING_PASSWORD": "canary-4711", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"})
    assert done.returncode == 0, done.stderr
    trials, parents = runs_of(MlflowClient(tracking_uri))
    assert sorted(int(r.data.tags["sweep.trial"].rpartition(":")[2]) for r in trials) == [0, 1, 2, 3]
    assert {r.info.status for r in [*trials, *parents]} == {"FINISHED"}
    complete = [int(r.data.tags["sweep.trial"].rpartition(":")[2]) for r in trials if r.data.tags["sweep.state"] == "complete"]
    assert sorted(map(int, (tmp_path / "trials/ran.txt").read_text().split())) == sorted(complete)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "mlflow.db"]
    assert any("tuner.pkl" in path.name for path in written)
    assert not [path for path in written if b"canary-4711" in path.read_bytes()]


# what is left


def test_the_report_shows_the_winner_and_its_profile_trains_in_full(tmp_path: Path) -> None:
    spec = world.spec(budget={"trials": 8}, fixed={"train.max_steps": 4})
    with open_book(spec, PRINT, tmp_path) as book:
        for cost in range(8):
            number = book.next()
            score = world.loss(book.values(number), 10)
            book.tell(number, Result(end="complete", metrics={"train/val_loss_best": score}, seconds=60, work_s=50 + cost, cost_usd=0.1))
        found = report.write(book, tmp_path / "report")
        best = min(book.done(), key=lambda t: t.value)
    assert found.best == best.number and found.complete == 8 and found.hours == pytest.approx(8 / 60)
    assert found.importance and sum(found.importance.values()) == pytest.approx(1.0)
    page = (tmp_path / "report/report.html").read_text()
    for title in ("Score by trial", "Which axis matters", "Parallel coordinates", "Score against cost"):
        assert title in page
    assert len((tmp_path / "report/trials.csv").read_text().splitlines()) == 9
    assert found.profile
    config = resolve(Config, f"rehearsal,{found.profile.stem}", {}, conf=_conf_with(found.profile, tmp_path))
    assert config.train.lora.rank == found.values["train.lora.rank"]
    assert config.train.max_steps == resolve(Config, "rehearsal", {}).train.max_steps  # not the sweep's shortcut


def _conf_with(profile: Path, folder: Path) -> Path:
    conf = folder / "conf"
    conf.mkdir()
    for path in [*(ROOT / "conf").glob("*.yaml"), profile]:
        (conf / path.name).write_text(path.read_text())
    return conf


def test_the_front_of_score_against_cost() -> None:
    points = [(1.0, 5.0), (2.0, 3.0), (3.0, 4.0), (4.0, 1.0), (1.0, 6.0)]
    assert report.front(points, "minimize") == [0, 1, 3]
    assert report.front(points, "maximize") == [4]


def test_a_sweep_without_a_complete_trial_still_reports(tmp_path: Path) -> None:
    with open_book(world.spec(), PRINT, tmp_path) as book:
        book.tell(book.next(), Result(end="pruned", reason="out of memory", seconds=1.0))
        found = report.write(book, tmp_path / "report")
    assert found.best is None and found.profile is None and "none has a score" in found.note()
