"""The order of the stages, the address of each result, and run-or-reuse.

The table below is the whole pipeline: what each stage reads, which config section and prompts can change it, and the
version to bump when its code changes what it makes. Nothing passes paths between stages: one config implies every
address, so a rerun finds what is there.

Stage 0, `base`, is not in the classical list of seven: making the base model an artefact like every other lets dataset,
train, export and evaluate depend on its digest, and gives a rented machine one command that fetches the weights ahead.
"""

from __future__ import annotations

import difflib
import gc
import hashlib
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sysdesign.artifacts import Artifact, Store, key_of
from sysdesign.config.root import Config
from sysdesign.errors import ArtifactError, ConfigError
from sysdesign.prompts import prompt_hashes
from sysdesign.records import MetricLog, Report

VERIFY_BELOW_BYTES = 256 * 2**20  # inputs up to this size are hashed at every use; larger ones before they are shipped


@dataclass(frozen=True)
class Stage:
    """One row of the pipeline. `acts`: it changes the world, so asking for it alone runs it again."""

    name: str
    reads: tuple[str, ...]
    prompts: tuple[str, ...] = ()
    version: int = 1
    acts: bool = False


STAGES = {
    stage.name: stage
    for stage in (
        Stage("base", (), ("diagrams/seeds.v1.yaml", "student/system.v1.md")),
        Stage("diagrams", (), ("diagrams/seeds.v1.yaml", "evaluate/headline.v1.yaml"), version=2),
        Stage(
            "conversations",
            ("diagrams",),
            ("diagrams/seeds.v1.yaml", "conversations/teacher.v3.md", "conversations/judge.v1.md", "evaluate/headline.v1.yaml"),
            version=2,
        ),
        Stage("dataset", ("conversations", "diagrams", "base"), ("student/system.v1.md", "evaluate/headline.v1.yaml"), version=2),
        Stage("train", ("dataset", "base")),
        Stage("export", ("train", "base", "dataset"), ("student/system.v1.md",), version=2),
        Stage(
            "evaluate",
            ("dataset", "diagrams", "export", "train", "base"),
            ("evaluate/headline.v1.yaml", "evaluate/judge.v1.md", "evaluate/judge_pairs.v1.yaml", "student/system.v1.md"),
            version=5,
        ),
        Stage("deploy", ("export",), acts=True),
    )
}


@dataclass(frozen=True)
class Outcome:
    """A stage that is done: its artefact, whether it was found rather than made, and the seconds this call took."""

    artifact: Artifact
    cached: bool
    seconds: float


Fetch = Callable[[str, str], Artifact | None]  # (stage, key) -> an artefact brought from elsewhere, or None


def find_stage(name: str) -> Stage:
    """The stage of that name. Raises ConfigError with the nearest name."""
    if name not in STAGES:
        near = difflib.get_close_matches(name, STAGES, 1)
        raise ConfigError("stage", f"must be one of {', '.join(STAGES)}", f"did you mean {near[0]}?" if near else "see README.md", name)
    return STAGES[name]


def inputs_of(stage: Stage, config: Config, store: Store, profile: str, fetch: Fetch | None = None) -> dict[str, Artifact]:
    """The artefacts that `stage` reads. Raises ArtifactError saying which command makes the first one missing."""
    inputs = {}
    for name in stage.reads:
        upstream = STAGES[name]
        key = address(upstream, config, inputs_of(upstream, config, store, profile, fetch))
        artifact = store.find(name, key) or (fetch(name, key) if fetch else None)
        if artifact is None:
            raise ArtifactError(
                f"{store.root}/{name}-{key[:12]}",
                f"{stage.name} reads the {name} artefact of this configuration, and it is not there",
                f"make it: mlflow run . -e {name} -P profile={profile} --env-manager=local (or the whole chain: mlflow run . "
                f"-P profile={profile} --env-manager=local)",
            )
        inputs[name] = artifact
    return inputs


def address(stage: Stage, config: Config, inputs: Mapping[str, Artifact]) -> str:
    """The key of what `stage` makes of these inputs."""
    digests = {name: artifact.digest for name, artifact in inputs.items()}
    section = getattr(config, stage.name).model_dump(mode="json")
    if stage.name == "dataset":
        digests |= _user_files([*config.dataset.extra.paths, *config.dataset.replay.paths])
    return key_of(stage.name, stage.version, section, config.seed, prompt_hashes(stage.prompts), digests)


def _user_files(paths: Sequence[str]) -> dict[str, str]:
    """Content of a person's own files, which are inputs as much as artefacts are: the JSONL, and the files in its folder by name."""
    found = {}
    for path in map(Path, paths):
        beside = sorted(p for p in path.parent.rglob("*") if p.is_file()) if path.is_file() else []
        listed = "".join(f"{p.relative_to(path.parent)}\0{_sha256(p, p.stat().st_size, p.stat().st_mtime_ns)}\n" for p in beside)
        found[f"file:{path}"] = hashlib.sha256(f"{path.name}\n{listed}".encode()).hexdigest()
    return found


@cache
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    """Of a file's bytes, read once a process; of one that cannot be read, or is larger than any picture may be, by size and time."""
    try:
        if size <= 2**30:
            with path.open("rb") as data:
                return hashlib.file_digest(data, "sha256").hexdigest()
    except OSError:
        pass  # the stage says so if it needs the file
    return f"{size}/{changed_ns}"


def run(
    stage: Stage,
    function: Callable[..., Report],
    config: Config,
    store: Store,
    inputs: Mapping[str, Artifact],
    log: MetricLog,
    *,
    fetch: Fetch | None = None,
    fresh: bool = False,
) -> Outcome:
    """Reuse the artefact of this address, bring it from elsewhere, or make it.

    `fresh` makes it again even if it is there (for stages that act on the world). Raises what the stage raises; then its
    working folder stays, and the next call resumes in it.
    """
    started = time.monotonic()
    key = address(stage, config, inputs)
    if not fresh and (found := store.find(stage.name, key) or (fetch(stage.name, key) if fetch else None)):
        return Outcome(found, True, time.monotonic() - started)
    for artifact in inputs.values():
        if sum(entry.size for entry in artifact.manifest.files) <= VERIFY_BELOW_BYTES:
            store.verify(artifact)
    with store.work(stage.name, key, config.runtime.lock_timeout_s) as work:
        if not fresh and (found := store.find(stage.name, key)):  # another run made it while this one waited
            return Outcome(found, True, time.monotonic() - started)
        section = getattr(config, stage.name)
        runtime = config.runtime.model_copy(update={"store": str(store.root)})  # a relative one counts from the project, not from here
        report = function(section, seed=config.seed, out=work, log=log, runtime=runtime, **inputs)
        gc.collect()  # a stage may have held a model; the next one needs its memory
        if fresh:
            store.discard(stage.name, key)
        made = store.commit(
            work,
            stage=stage.name,
            version=stage.version,
            key=key,
            seed=config.seed,
            config=section.model_dump(mode="json"),
            inputs={name: artifact.digest for name, artifact in inputs.items()},
            prompts=prompt_hashes(stage.prompts),
            report=report.model_dump(mode="json"),
            note=report.note(),
            metrics=report.metrics(),
            seconds=round(time.monotonic() - started, 2),
            commit=git_commit(),
        )
        return Outcome(made, False, time.monotonic() - started)


def git_commit() -> str | None:
    """The commit of the checkout with `+` when it has changes; None outside one. Recorded, never hashed."""
    root = Path(__file__).parents[1]
    try:
        head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        dirty = subprocess.run(["git", "-C", str(root), "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else None


def flat(section: Any, prefix: str) -> dict[str, Any]:
    """A config section as dotted paths to plain values, for parameters a person compares."""
    values: dict[str, Any] = {}
    for name, value in section.model_dump(mode="json").items():
        path = f"{prefix}.{name}"
        values |= _flat_dict(value, path) if isinstance(value, dict) else {path: value}
    return values


def _flat_dict(mapping: dict[str, Any], prefix: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in mapping.items():
        path = f"{prefix}.{name}"
        values |= _flat_dict(value, path) if isinstance(value, dict) and value else {path: value}
    return values
