"""One stage as a command: flags in, one MLflow run out, every error one line.

This is where stages, store and tracking are wired together; the stages themselves know none of it. Anything heavy is
imported after the flags are checked, so a typo answers at once.
"""

from __future__ import annotations

import sys

if not (3, 11) <= sys.version_info[:2] <= (3, 12):
    found = ".".join(map(str, sys.version_info[:3]))
    sys.exit(f"python: must be 3.11 or 3.12 (got '{found}') - make an environment with one of them: uv venv --python 3.11 .venv")

import importlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sysdesign.config.root import Config
from sysdesign.errors import ConfigError, SysdesignError, interrupted
from sysdesign.profiles import CONF, fields, resolve

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from sysdesign.artifacts import Artifact, Store
    from sysdesign.flow import Outcome
    from sysdesign.tracking.runs import RunLog

# what libraries say about their own progress and advice is not about this run
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

ROOT = Path(__file__).parents[1]
DEFAULT_PROFILE = "rehearsal"


def main(stage: str, about: str, argv: Sequence[str] | None = None) -> None:
    """`python -m pipelines.<stage>`: run that stage alone on inputs that are already made."""
    command(about, ("seed", stage, "runtime"), lambda config, profile: _one(stage, config, profile), argv)


def command(about: str, sections: Sequence[str], run: Callable[[Config, str], None], argv: Sequence[str] | None = None) -> None:
    """Parse flags, resolve the configuration, run; exits with the error's code after printing it as one line."""
    with errors_as_lines():
        profile, flags = parse(list(sys.argv[1:] if argv is None else argv), about, sections)
        run(resolve(Config, profile, flags), profile)


@contextmanager
def errors_as_lines() -> Iterator[None]:
    """The one place where the project's errors are caught; a polite end (SIGTERM: shutdown, pre-emption) is an interrupt too."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except SysdesignError as err:
        print(f"error: {err}", file=sys.stderr)
        sys.exit(err.exit_code)
    except BrokenPipeError:  # `... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except BaseException as err:
        if not interrupted(err):
            raise
        print("stopped: what was finished is kept; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def parse(argv: list[str], about: str, sections: Sequence[str], own: dict[str, str] | None = None) -> tuple[str, dict[str, str]]:
    """(profile, dotted flags) of a command line; `--help` prints and exits.

    `own` are plain flags of this command with their help. Raises ConfigError for a flag without a value.
    """
    profile, flags, rest = DEFAULT_PROFILE, {}, list(argv)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            print(usage(about, sections, own or {}))
            sys.exit(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name == "--":
            raise ConfigError("command line", "takes --profile NAMES and --section.field VALUE", "see --help", word)
        if not equals:
            if not rest:
                raise ConfigError(name, "needs a value", f"write {name} VALUE", word)
            value = rest.pop(0)
        if name == "--profile":
            if not value.strip(" ,"):
                raise ConfigError("--profile", "must name at least one file in conf/", "write --profile rehearsal", value)
            profile = value
        else:
            flags[name.removeprefix("--")] = value
    return profile, flags


def usage(about: str, sections: Sequence[str], own: dict[str, str]) -> str:
    """The help text: what the command does, the profiles, and every field of its sections."""
    lines = [about.strip(), "", "profiles (--profile a,b; later ones win):"]
    for path in sorted(CONF.glob("*.yaml")):
        with path.open(encoding="utf-8") as text:
            lines.append(f"  {path.stem:18} {text.readline().lstrip('# ').strip()}")
    lines += ["", "fields (default in brackets):"]
    lines += [f"  --{name:40} {text}" for name, text in own.items()]
    for field in fields(Config):
        if field.path.split(".")[0] in sections:
            about_it = " ".join(field.help.split())
            lines.append(f"  --{field.path:40} {about_it} {field.type} [{field.default}]")
    return "\n".join(lines)


def open_store(config: Config) -> Store:
    """The artefact store of this configuration."""
    from sysdesign.artifacts import Store

    return Store((ROOT / config.runtime.store).resolve())


def stage_function(name: str) -> Callable[..., Any]:
    """The stage's function, imported only when it has to run."""

    def function(*args: Any, **kwargs: Any) -> Any:
        if name == "export":  # stages do not know each other, so the certificate is handed the rules that evaluation scores by
            kwargs["score"] = importlib.import_module("sysdesign.evaluate.scoring").score
        return getattr(importlib.import_module(f"sysdesign.{name}.stage"), name)(*args, **kwargs)

    return function


def run_stage(
    name: str,
    config: Config,
    profile: str,
    store: Store,
    log: RunLog,
    *,
    alone: bool,
    inputs: dict[str, Artifact] | None = None,
    served: ModelVersion | None = None,
) -> tuple[Outcome, dict[str, Artifact]]:
    """Make, reuse or fetch one stage within an open MLflow run and record it there; `inputs` instead of this configuration's own,
    `served` the registered version that they are."""
    from sysdesign import flow
    from sysdesign.plan.rent import metered
    from sysdesign.tracking import lineage, registry, standing

    def fetch(stage_name: str, key: str) -> Artifact | None:
        return lineage.fetch(log.client, store, stage_name, key)

    stage = flow.find_stage(name)
    log.params({"profile": profile, "seed": config.seed, **flow.flat(getattr(config, name), name)})
    inputs = inputs or flow.inputs_of(stage, config, store, profile + _flags(config, profile), fetch)
    function, fresh = stage_function(name), alone and stage.acts
    if name in ("evaluate", "deploy"):
        log._try(lambda: _tell(registry.notice(log.client, served.name if served else config.runtime.registered_model)))
    if name == "evaluate":
        key, model = flow.address(stage, config, inputs), config.runtime.registered_model
        function = partial(function, standing=partial(standing.standing, log.client, store, model, inputs["export"], key))
        fresh = standing.outdated(log.client, model, store.find(name, key), inputs["export"], key)
    with metered(name, config.runtime, store.root):
        outcome = flow.run(stage, function, config, store, inputs, log, fetch=fetch, fresh=fresh)
    lineage.record(log, outcome, inputs, push=config.runtime.push)
    if name == "evaluate":
        registry.register(log, config.runtime.registered_model, outcome.artifact, inputs)
    if name == "deploy" and not outcome.cached:
        registry.note_deployment(log.client, config.runtime.registered_model, inputs["export"], outcome.artifact.manifest.report, served)
    return outcome, inputs


def _tell(line: str) -> None:
    if line:
        print(line, file=sys.stderr)


def _flags(config: Config, profile: str) -> str:
    """What the configuration adds to its profile, as `mlflow run` takes it: an advice without it would make another artefact."""
    from sysdesign import flow

    try:
        given, plain = (flow.flat(one, "") for one in (config, resolve(Config, profile, {})))
    except ConfigError:  # a trial's profile is its experiment, which its sweep names
        return ""
    return "".join(
        f" -P {name[1:]}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in given.items()
        if plain.get(name) != value
    )


def line(outcome: Outcome) -> str:
    """One line about a finished stage."""
    how = "in the store" if outcome.cached else f"{outcome.seconds:7.1f} s"
    note = outcome.artifact.manifest.note.partition("\n")[0]
    return f"{outcome.artifact.stage:14} {how:>12}   {outcome.artifact.path.name}   {note}"


def _one(name: str, config: Config, profile: str) -> None:
    from sysdesign.tracking import runs

    client = runs.connect(ROOT)
    store = open_store(config)
    with runs.run(client, f"{name} ({profile})", tags={"sysdesign.stage": name, "sysdesign.profile": profile}) as log:
        outcome, _ = run_stage(name, config, profile, store, log, alone=True)
    print(line(outcome))
