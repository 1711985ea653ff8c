"""Search the configuration as an experiment file asks: trials, pruning, budget, a winner.

A sweep that was killed goes on with the same command, under the same trial numbers. --keep true writes the winner's profile
to conf/; without it the profile lies in the sweep's folder.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines import probe
from pipelines.command import ROOT, errors_as_lines, open_store, parse
from pipelines.trial import make
from sysdesign.config.root import Config
from sysdesign.config.sweep import INTERIM, RayRunner, SweepSpec
from sysdesign.errors import ConfigError, LimitError
from sysdesign.profiles import CONF
from sysdesign.records import NullLog
from sysdesign.sweep.address import require_cluster
from sysdesign.sweep.spec import check, fingerprint, merge, read_spec
from sysdesign.sweep.trial import Request, Result

OWN = {
    "spec": "The experiment file [experiments/rehearsal.yaml]",
    "keep": "Write the winner's profile to conf/sweep-<name>.yaml [false]",
    "plan": "Only check the file and say what the sweep will take [false]",
    "name": "Name of the study, in place of the file's",
    "budget.trials": "Trials, in place of the file's; also budget.hours, budget.usd",
    "runner.kind": "optuna|ray, in place of the file's; also runner.workers, runner.gpus (of each trial), runner.address",
}
SPEC_SECTIONS = ("name", "budget", "runner", "sampler", "pruning", "storage_env", "objective")
CHAIN = ("base", "diagrams", "conversations", "dataset", "train", "export", "evaluate")


def main(argv: list[str]) -> None:
    with errors_as_lines():
        profile, flags = parse(argv, __doc__ or "", ("seed", "runtime"), OWN)
        own: dict[str, str] = {name: flags.pop(name) for name in ("spec", "keep", "plan") if name in flags}
        changes = {name: flags.pop(name) for name in list(flags) if name.split(".")[0] in SPEC_SECTIONS}
        if any(word.split("=")[0] == "--profile" for word in argv):
            changes["profile"] = profile
        path = Path(own.get("spec", "experiments/rehearsal.yaml"))
        spec = read_spec(path if path.exists() else ROOT / path, changes)
        base = check(spec, flags, metrics)
        sweep(spec, base, flags, keep=truth("keep", own), plan=truth("plan", own))


def sweep(spec: SweepSpec, base: Config, flags: Mapping[str, str], *, keep: bool, plan: bool) -> None:
    """Run the study to the end of its budget, then report. Raises what the book, a stage or the budget raises."""
    from sysdesign.sweep import budget, local
    from sysdesign.sweep.book import open_book

    if isinstance(spec.runner, RayRunner):
        require_cluster(spec.runner.address)
    else:
        local.require_gpus(spec.runner)
    store, price = open_store(base), base.runtime.gpu_usd_per_hour
    folder = store.root / ".sweeps" / spec.name
    with open_book(spec, fingerprint(spec, flags), folder) as book:
        print(f"{spec.name}: {spec.question.strip()}\n{budget.quote(book, price, spec.runner.workers)}", flush=True)
        if plan:
            return
        if price and not base.runtime.yes:
            raise LimitError(
                spec.name, "trials cost money on this machine", "go on with --runtime.yes true, after a look at the quote above", price
            )
        _run(spec, base, flags, book, folder, keep)


def _run(spec: SweepSpec, base: Config, flags: Mapping[str, str], book: Any, folder: Path, keep: bool) -> None:
    from sysdesign.sweep import report
    from sysdesign.sweep.conductor import Conductor
    from sysdesign.tracking import runs, trials

    client, store = runs.connect(ROOT), open_store(base)
    parent = trials.parent_run(client, book.uid, f"sweep {spec.name}")
    chronicle = trials.TrialRuns(client, parent, book.uid, lambda trial, result: print(line(spec, book, trial, result), flush=True))
    conductor = Conductor(
        book, chronicle, folder, lambda n, values: request(spec, flags, book.uid, n, values), base.runtime.gpu_usd_per_hour
    )
    try:
        parent.params(
            {"profile": spec.profile, "spec": spec.name, "objective": spec.objective.metric, "sampler": spec.sampler, **dict(flags)}
        )
        prepare(spec, base, store)
        if isinstance(spec.runner, RayRunner):
            from sysdesign.sweep import cluster

            cluster.run(conductor, spec.runner, ROOT, folder)
        else:
            from sysdesign.sweep import local

            local.run(conductor, spec.runner, ROOT)
        found = report.write(book, folder / "report")
        parent.metrics(found.metrics())
        parent.tags({"mlflow.note.content": found.note(), **found.tags()})
        trials.attach(parent, folder / "report")
    except BaseException as err:
        chronicle.abandon()
        trials.close(parent, "KILLED" if isinstance(err, KeyboardInterrupt) else "FAILED")
        raise
    trials.close(parent, "FINISHED")
    print(f"\nended because {conductor.stopped}\n{found.note()}\nreport: {folder / 'report' / 'report.html'}", flush=True)
    if found.profile:
        _hand_over(spec, flags, found.profile, keep)


def prepare(spec: SweepSpec, config: Config, store: Any) -> None:
    """Make what all trials share, once: every stage that no axis reaches.

    Raises ArtifactError when the data have no question that the objective is about.
    """
    for name in shared_stages(spec):
        outcome = make(name, config, store, spec.profile, NullLog())
        if not outcome.cached:
            print(f"{name:14} {outcome.seconds:7.1f} s   shared by all trials", flush=True)
        if name == "dataset" and (spec.objective.metric.startswith("probe/") or spec.rung()[0].startswith(INTERIM)):
            probe.questions(outcome.artifact, part(spec), 1)


def shared_stages(spec: SweepSpec) -> list[str]:
    """Stages before training whose results no axis can change."""
    from sysdesign.flow import STAGES

    varied = {path.split(".")[0] for path in spec.space}
    reached: set[str] = set(CHAIN) if "seed" in varied else set()
    for name in CHAIN:
        if name in varied or any(upstream in reached for upstream in STAGES[name].reads):
            reached.add(name)
    return [name for name in CHAIN if name not in reached and name in wanted(spec) and name not in ("train", "export", "evaluate")]


def wanted(spec: SweepSpec) -> tuple[str, ...]:
    """Stages that a trial's objective needs."""
    return CHAIN if spec.objective.metric.startswith("eval/") else CHAIN[: CHAIN.index("train") + 1]


def request(spec: SweepSpec, flags: Mapping[str, str], study: str, trial: int, values: Mapping[str, Any]) -> Request:
    """What a trial's process is to do."""
    rung, _ = spec.rung()
    return Request(
        study=study,
        number=trial,
        profile=spec.profile,
        flags=merge(spec, flags, values),
        values=dict(values),
        stages=wanted(spec),
        probes=spec.objective.probes if spec.objective.metric.startswith("probe/") else 0,
        interim=spec.pruning.probes if rung.startswith(INTERIM) else 0,  # type: ignore[union-attr]
        part=part(spec),
        probe_tokens=spec.objective.probe_tokens,
        group=spec.objective.group,
    )


def part(spec: SweepSpec) -> str:
    """What a probe must be scored in to be asked."""
    rung, _ = spec.rung()
    asked = spec.objective.metric if spec.objective.metric.startswith("probe/") else rung
    return asked.removeprefix(INTERIM).removeprefix("probe/") if asked.startswith("probe/") else "score"


def metrics(config: Config) -> tuple[set[str], set[str]]:
    """What trials of that configuration can be judged by: at their end, and while they train."""
    from sysdesign.evaluate.measure import metric_names
    from sysdesign.evaluate.summary import TITLES
    from sysdesign.train.stage import TrainReport

    train = {f"train/{name}" for name, field in TrainReport.model_fields.items() if field.annotation is not str}
    ends = train | {f"probe/{name}" for name in TITLES} | metric_names(config.evaluate)
    return ends, {"train/loss", "train/val_loss"} | {f"{INTERIM}{name}" for name in TITLES}


def line(spec: SweepSpec, book: Any, trial: int, result: Result) -> str:
    """One line about a trial that has ended."""
    values = "  ".join(f"{path.rpartition('.')[2]}={_short(value)}" for path, value in book.values(trial).items())
    score = result.metrics.get(spec.objective.metric)
    how = f"{score:.4f}" if result.end == "complete" and score is not None else result.end
    return f"trial {trial:<4} {how:>10} {result.seconds:7.1f} s   {values}   {result.reason}".rstrip()


def truth(name: str, own: Mapping[str, str]) -> bool:
    """A flag of this command that is true or false."""
    value = own.get(name, "false").lower()
    if value not in ("true", "false"):
        raise ConfigError(f"--{name}", "is true or false", f"write --{name} true", value)
    return value == "true"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _hand_over(spec: SweepSpec, flags: Mapping[str, str], profile: Path, keep: bool) -> None:
    """Say, or do, what makes the winner a profile like every other. `flags` held for all trials, so they hold for it."""
    if keep:
        shutil.copy(profile, CONF / profile.name)
    else:
        print(f"keep the winner: cp {profile} conf/")
    more = "".join(f" -P {shlex.quote(f'{name}={value}')}" for name, value in flags.items())
    print(f"train it in full, evaluate, gate: mlflow run . -P profile={spec.profile},{profile.stem}{more} --env-manager=local", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
