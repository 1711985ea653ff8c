"""An experiment file -> a checked specification, and a trial's axis values -> the configuration flags it runs with.

Everything that can be wrong is found here, before a trial starts: a typo in the last axis must not cost a night.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sysdesign.config.root import Config
from sysdesign.config.sweep import Axis, Choice, SweepSpec
from sysdesign.errors import ConfigError
from sysdesign.profiles import fields, resolve

UNHASHED = ("runtime", "deploy")  # these change no result that a trial is judged by
Values = Mapping[str, Any]  # config path -> value


def read_spec(path: Path, changes: Mapping[str, str]) -> SweepSpec:
    """The specification in `path` with `changes` (dotted flags of the specification itself, such as `budget.trials`).

    Raises ConfigError for an unreadable file and for every field that is wrong.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        known = ", ".join(sorted(str(p) for p in Path("experiments").glob("*.yaml")))
        law = f"must be a readable experiment file ({str(err).splitlines()[0]})"
        raise ConfigError("--spec", law, f"name one of {known}" if known else "see experiments/", str(path)) from None
    if path.suffix != ".yaml":
        raise ConfigError("--spec", "an experiment file is named something.yaml", "rename it", str(path))
    if not isinstance(loaded, dict):
        raise ConfigError(str(path), "must be a mapping with question, name, budget and space", "see experiments/rehearsal.yaml", loaded)
    # `resolve` reads profiles from a folder: an experiment file is a profile of the specification
    try:
        spec: SweepSpec = resolve(SweepSpec, path.stem, changes, path.parent)
    except ConfigError as err:
        said = [line.replace(f"conf/{path.name}", str(path)) for line in str(err).splitlines()]
        err.args = ("\n".join(line.replace("defaults: ", f"{path}: ", 1) if line.startswith("defaults: ") else line for line in said),)
        raise
    return spec


def check(spec: SweepSpec, flags: Mapping[str, str], metrics: Callable[[Config], tuple[set[str], set[str]]]) -> Config:
    """The configuration that trials start from, once every axis value resolves on it and the objective is known.

    `flags`: set on the command line for all trials. `metrics`: what trials log at their end, and while they train.
    Raises ConfigError naming the axis.
    """
    known = [field.path for field in fields(Config)]
    blocks = {path.rsplit(".", depth)[0] for path in known for depth in range(1, path.count(".") + 1)}
    for path in (*spec.space, *spec.fixed):
        where = f"{spec.name}: {'space' if path in spec.space else 'fixed'}.{path}"
        if path not in known and path not in blocks:
            near = difflib.get_close_matches(path, known, 1, 0.5)
            raise ConfigError(where, "is no field of the configuration", f"did you mean {near[0]}?" if near else "see --help", path)
        if path in spec.space and path.split(".")[0] in UNHASHED:
            raise ConfigError(where, "cannot change a result", f"vary a field outside {' and '.join(UNHASHED)}", path)
        if path in spec.space and path in flags:
            raise ConfigError(f"--{path}", "is varied by the sweep", "leave the flag out, or take the axis out of the file", flags[path])
    for block, inside in ((block, path) for block in spec.space for path in (*spec.fixed, *flags) if path.startswith(block + ".")):
        name = inside.removeprefix(block + ".").split(".")[0]
        if name in _named(spec.space[block]):
            where = f"--{inside}" if inside in flags else f"{spec.name}: fixed.{inside}"
            raise ConfigError(where, f"is varied by the sweep's {block}", "leave it out, or take it out of the axis's values", name)
    base: Config = resolve(Config, spec.profile, merge(spec, flags, {}))
    if spec.runner.gpus and base.runtime.devices != gpus_of(spec):
        law = f"a trial trains on the {gpus_of(spec)} that runner.gpus gives it"
        raise ConfigError("--runtime.devices", law, "leave runtime.devices out, or set runner.gpus", base.runtime.devices)
    for path, axis in spec.space.items():
        for value in corners(axis):
            try:
                _shares(resolve(Config, spec.profile, merge(spec, flags, {path: value})))
            except ConfigError as err:
                law = f"every value must fit the configuration ({err})"
                raise ConfigError(f"{spec.name}: space.{path}", law, "narrow the axis", value) from None
    _shares(base)
    (rung, _), (ends, reports) = spec.rung(), metrics(base)
    _require(f"{spec.name}: objective.metric", spec.objective.metric, ends, "at a trial's end")
    if rung:
        _require(f"{spec.name}: pruning.metric", rung, reports, "while a trial trains")
        every, steps = base.train.eval_steps, base.train.max_steps
        if not every or 0 < steps <= every:
            do = f"set train.eval_steps below train.max_steps ({steps})" if steps else "set train.eval_steps"
            raise ConfigError(f"{spec.name}: pruning", "trials must report before their last step", f"{do}, or pruning to none", every)
    return base


def _named(axis: Axis) -> set[str]:
    """Fields that some value of an axis of blocks sets."""
    blocks = [value for value in axis.values if isinstance(value, Mapping)] if isinstance(axis, Choice) else []
    return {str(name) for block in blocks for name in block}


def gpus_of(spec: SweepSpec) -> int:
    """GPUs that one trial trains on when the runner hands them out."""
    return max(1, int(spec.runner.gpus))


def _shares(config: Config) -> None:
    """Raises ConfigError unless every process of a training has work."""
    if config.train.batch < config.runtime.devices:
        law = f"each of a trial's {config.runtime.devices} GPUs needs a sample in every step"
        raise ConfigError("train.batch", law, "raise it, or lower runner.gpus", config.train.batch)


def _require(where: str, metric: str, known: set[str], when: str) -> None:
    if metric not in known:
        near = difflib.get_close_matches(metric, sorted(known), 5, 0.0)
        law = f"must be a number that is logged {when}; the nearest of {len(known)} are {', '.join(near)}"
        raise ConfigError(where, law, f"did you mean {near[0]}?", metric)


def corners(axis: Axis) -> Iterator[Any]:
    """The values that decide whether an axis fits: all of a choice, both ends of a range."""
    if isinstance(axis, Choice):
        yield from axis.values
    else:
        yield from (number(axis.kind, axis.low), number(axis.kind, axis.high))


def number(kind: str, value: float) -> int | float:
    return int(value) if kind == "int" else float(value)


def merge(spec: SweepSpec, flags: Mapping[str, str], values: Values) -> dict[str, str]:
    """Flags of one trial: its GPUs < the file's fixed fields < the command line < the axes. Of a block and
    a field inside it the field wins, so `check` refuses one that an axis sets."""
    layers = {"runtime.devices": str(gpus_of(spec))} if spec.runner.gpus else {}
    layers |= {path: as_flag(value) for path, value in spec.fixed.items()} | dict(flags)
    return layers | {path: as_flag(value) for path, value in values.items()}


def as_flag(value: Any) -> str:
    """A value as a flag spells it; JSON is YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def fingerprint(spec: SweepSpec, flags: Mapping[str, str]) -> str:
    """12 hex digits over all that gives a trial its meaning; budget, runner and wording may change between sessions."""
    about = spec.model_dump(mode="json", exclude={"question", "budget", "runner", "storage_env"})
    return hashlib.sha256(json.dumps([about, dict(flags)], sort_keys=True).encode()).hexdigest()[:12]
