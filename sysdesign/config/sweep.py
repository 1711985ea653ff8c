"""A sweep's specification, as `experiments/*.yaml` holds it: the question, what is varied, what is judged, and what it may cost."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sysdesign.config.section import Section

Direction = Literal["minimize", "maximize"]
METRICS = r"^(train|probe|eval)/[a-z0-9_/]+$"
INTERIM = "probe/interim_"  # of the few questions that are asked while a trial trains


class Choice(Section):
    """One of a few values; a value may be a whole block, such as a teacher or the picture bounds."""

    kind: Literal["choice"] = "choice"
    values: tuple[Any, ...]
    """What to try."""

    @model_validator(mode="after")
    def _some(self) -> Choice:
        if len({repr(value) for value in self.values}) < max(len(self.values), 2):
            raise ValueError("an axis needs at least two different values")
        return self


class Span(Section):
    """A range of numbers, both ends included."""

    kind: Literal["int", "float"]
    low: float
    """Smallest."""
    high: float
    """Largest."""
    log: bool = False
    """Try orders of magnitude evenly."""
    step: float = Field(default=0.0, ge=0)
    """Only multiples of this above `low`; 0 means any (whole numbers for int)."""

    @model_validator(mode="after")
    def _not_empty(self) -> Span:
        if not self.low < self.high:
            raise ValueError(f"the range is empty: low {self.low:g} must be below high {self.high:g}")
        if self.log and (self.low <= 0 or self.step):
            raise ValueError("a log range needs low above 0 and no step")
        if self.kind == "int" and any(value % 1 for value in (self.low, self.high, self.step)):
            raise ValueError("low, high and step of an int range must be whole numbers")
        return self


Axis = Annotated[Choice | Span, Field(discriminator="kind")]


class Objective(Section):
    """What a trial is judged by. `probe/...` scores answers to validation questions: the test split stays unseen by the choice."""

    metric: str = Field(default="probe/score", pattern=METRICS)
    """A metric of train, of the validation probe, or of evaluate (the last needs an export)."""
    direction: Direction = "maximize"
    """Which way is better."""
    probes: int = Field(default=200, ge=1, le=100_000)
    """Validation questions asked of every trial's model (probe/... only)."""
    probe_tokens: int = Field(default=256, ge=1, le=8192)
    """Longest answer to one (probe/... only)."""
    group: int = Field(default=8, ge=1, le=512)
    """Questions in one batch (probe/... only)."""


class Budget(Section):
    """Whichever is reached first ends the sweep, between trials."""

    trials: int = Field(ge=1, le=100_000)
    """Finished, pruned and running ones count; failed ones do not."""
    hours: float | None = Field(default=None, gt=0)
    """Hours that trials ran, added over workers and restarts; left out: no limit."""
    usd: float | None = Field(default=None, gt=0)
    """Machine (runtime.gpu_usd_per_hour) and API dollars; left out: no limit."""
    minutes_a_trial: float = Field(default=0.0, ge=0)
    """Your estimate for the quote; 0: unknown until the first trial has ended."""
    failures: int = Field(default=3, ge=1, le=1000)
    """Failed trials after which the sweep stops: the set-up is wrong."""


class NoPruning(Section):
    """Every trial runs to its end."""

    kind: Literal["none"] = "none"


class Pruning(Section):
    """Trials that fall behind are stopped early, judged after every train.eval_steps steps.

    asha: successive halving without waiting; hyperband: several of them, so that a slow starter is not always lost.
    """

    kind: Literal["hyperband", "asha"]
    metric: str = Field(default="", pattern=rf"{METRICS}|^$")
    """What they are judged by; empty: the objective's own score on a few validation questions, or the loss if the objective is train/..."""
    direction: Direction = "minimize"
    """Which way is better, if a metric is named."""
    probes: int = Field(default=32, ge=1, le=10_000)
    """Validation questions asked at each report, the same ones of every trial (unless it is the loss)."""
    factor: int = Field(default=3, ge=2, le=10)
    """One in so many goes on at each rung."""
    first: int = Field(default=1, ge=1)
    """Reports that every trial is given."""


class OptunaRunner(Section):
    """Trials run on this machine, each in a process of its own."""

    kind: Literal["optuna"] = "optuna"
    workers: int = Field(default=1, ge=1, le=256)
    """Trials at a time."""
    gpus: int = Field(default=0, ge=0, le=64)
    """GPUs that a trial has to itself and trains on together (its runtime.devices); 0: every trial sees all of them."""


class RayRunner(Section):
    """Trials run wherever a Ray cluster has room; the artefact store must lie on a disk that all its nodes share."""

    kind: Literal["ray"] = "ray"
    address: str = ""
    """host:port of a running cluster; empty: one on this machine for the time of the sweep."""
    workers: int = Field(default=1, ge=1, le=4096)
    """Trials at a time."""
    cpus: float = Field(default=1.0, gt=0)
    """CPUs a trial reserves."""
    gpus: float = Field(default=0.0, ge=0, le=64)
    """GPUs of one machine that a trial reserves and trains on together (its runtime.devices); below 1 several trials share one,
    which limits no memory."""

    @field_validator("gpus")
    @classmethod
    def _whole(cls, gpus: float) -> float:
        if gpus > 1 and gpus % 1:
            raise ValueError("a trial has whole GPUs, or a part of one")
        return gpus


class SweepSpec(Section):
    """One question about the configuration, and how it is to be answered."""

    question: str = Field(min_length=10)
    """What the sweep is to find out, in a sentence."""
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    """Name of the study; another specification needs another name."""
    profile: str = "full"
    """Profiles every trial starts from."""
    objective: Objective = Objective()
    """What a trial is judged by."""
    budget: Budget
    """When to stop."""
    runner: Annotated[OptunaRunner | RayRunner, Field(discriminator="kind")] = OptunaRunner()
    """Where trials run."""
    sampler: Literal["tpe", "gp", "random"] = "tpe"
    """tpe with a pruner, gp without one: measured in experiments/LOG.md."""
    pruning: Annotated[NoPruning | Pruning, Field(discriminator="kind")] = Pruning(kind="hyperband")
    """When to stop a trial early."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the sampler; trials train with the configuration's own seed."""
    storage_env: str = Field(default="", pattern=r"^([A-Z][A-Z0-9_]*)?$")
    """Name of an environment variable with the address of a PostgreSQL database, for a study that a team shares; empty: a file."""
    space: dict[str, Axis] = Field(min_length=1)
    """Axes by config path."""
    fixed: dict[str, Any] = {}
    """Config fields set for every trial, so that trials are short; the winner's profile does not carry them."""

    def rung(self) -> tuple[str, Direction]:
        """What trials are compared by while they train, and which way is better; "" without pruning."""
        if self.pruning.kind == "none":
            return "", "minimize"
        if self.pruning.metric:
            return self.pruning.metric, self.pruning.direction
        prefix, _, name = self.objective.metric.partition("/")
        if prefix == "train":
            return "train/val_loss", "minimize"
        return (INTERIM + name, self.objective.direction) if prefix == "probe" else (f"{INTERIM}score", "maximize")

    @model_validator(mode="after")
    def _fits(self) -> SweepSpec:
        # It models pruned trials as if they had never run: 240 epochs with both were worse than either alone.
        if self.sampler == "gp" and self.pruning.kind != "none":
            raise ValueError("gp ignores pruned trials: use sampler tpe, or pruning {kind: none}")
        if both := set(self.space) & set(self.fixed):
            raise ValueError(f"{sorted(both)[0]} is both varied and fixed")
        return self
