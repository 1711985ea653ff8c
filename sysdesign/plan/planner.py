"""A configuration -> the whole plan: what is made already, what each stage takes, on which machine, for how much, within budget or not.

Nothing is made, fetched or paid. Stages that need a card are counted on the machine that is planned for; pictures, conversations, dataset
and deployment need none and are counted on the reader's own.
"""

from __future__ import annotations

import datetime
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil

from sysdesign import flow
from sysdesign.artifacts import Artifact, Store
from sysdesign.config.root import Config
from sysdesign.graph import Record
from sysdesign.models.prices import read_prices
from sysdesign.plan import history
from sysdesign.plan.points import Points, read_points
from sysdesign.plan.stages import Estimate, Machine, estimate, this_machine_cores
from sysdesign.plan.work import work_of

ON_CARD = ("base", "train", "export", "evaluate")


class Line(Record):
    """One stage."""

    estimate: Estimate
    cached: bool
    minutes: float  # still to be spent; corrected by own runs
    worst_minutes: float
    machine_usd: float
    machine_worst_usd: float
    corrected_by: int = 0  # own finished runs


class Bill(Record):
    """The plan on one machine."""

    machine: Machine
    lines: tuple[Line, ...]
    setup_minutes: float

    @property
    def why_not(self) -> tuple[str, ...]:
        return tuple(f"{line.estimate.stage}: {line.estimate.why_not}" for line in self.lines if line.estimate.why_not and not line.cached)

    @property
    def minutes(self) -> float:
        return self.setup_minutes + sum(line.minutes for line in self.lines)

    @property
    def machine_minutes(self) -> float:
        return self.setup_minutes + sum(line.minutes for line in self.lines if line.estimate.stage in ON_CARD)

    @property
    def api_usd(self) -> float:
        return sum(line.estimate.api_usd for line in self.lines if not line.cached)

    @property
    def usd(self) -> float:
        return self.api_usd + self.setup_minutes / 60 * self.machine.usd + sum(line.machine_usd for line in self.lines)

    @property
    def worst_usd(self) -> float:
        api = sum(line.estimate.api_worst_usd for line in self.lines if not line.cached)
        return api + 2 * self.setup_minutes / 60 * self.machine.usd_high + sum(line.machine_worst_usd for line in self.lines)

    @property
    def vram_gib(self) -> float:
        return max((line.estimate.vram_gib for line in self.lines if not line.cached), default=0.0)

    @property
    def disk_gb(self) -> float:
        return sum(line.estimate.disk_gb for line in self.lines if not line.cached)


class Plan(Record):
    """What `plan` shows: the chosen machine's bill, every machine's, and what to know before saying yes."""

    profile: str
    chosen: Bill
    others: tuple[Bill, ...]  # every card's, cheapest that fits first
    budget_usd: float
    notes: tuple[str, ...]


Resolve = Callable[[str], Config]


def make_plan(profile: str, resolve: Resolve, root: Path, *, gpu: str | None = None) -> Plan:
    """The plan of a profile; `resolve` gives the configuration of a list of profiles with the caller's flags on top.

    Raises ConfigError (unknown model or teacher), InputError (price or points file), ArtifactError (a corrupt artefact in the store).
    """
    points = read_points()
    config = resolve(profile)
    machine = choose_machine(profile, config, points, gpu if gpu is not None else local_gpu())
    store = Store((root / config.runtime.store).resolve())
    runs = history.finished(store.root, history.tracking_uri(root))
    chosen = bill(config, machine, points, store, runs)
    others: list[Bill] = []
    if config.base.kind != "tiny":
        for name in points.cards:
            other = resolve(with_card(profile, name, points))
            others.append(bill(other, rented(name, other, points), points, store, runs))
        others.sort(key=lambda one: (bool(one.why_not), one.usd))
    return Plan(
        profile=profile,
        chosen=chosen,
        others=tuple(others),
        budget_usd=config.runtime.budget_usd,
        notes=tuple(notes(config, chosen, points)),
    )


def bill(config: Config, machine: Machine, points: Points, store: Store, runs: list[history.Manifest]) -> Bill:
    """Every stage on one machine."""
    work, own = work_of(config, points), this_computer()
    made = already_made(config, store)

    def planned(stage: str, behind: Config) -> float | None:
        if stage in ON_CARD and (machine.card is not None or behind.runtime.device == "cuda"):
            return None
        return estimate(stage, behind, work_of(behind, points), own, points).minutes

    corrections = history.factors(runs, config, planned)
    if machine.card is not None:
        corrections |= _on_this_card(config, machine, points, store, runs)
    lines = []
    for name in flow.STAGES:
        on = machine if name in ON_CARD else own
        lines.append(_line(estimate(name, config, work, on, points), name in made, on, corrections.get(name)))
    rent = not machine.own and any(line.minutes for line in lines if line.estimate.stage in ON_CARD)
    return Bill(machine=machine, lines=tuple(lines), setup_minutes=points.cost("setup_minutes") if rent else 0.0)


def _line(found: Estimate, cached: bool, machine: Machine, correction: history.Factor | None) -> Line:
    by = correction.value if correction else 1.0
    minutes = 0.0 if cached else found.minutes * by
    worst = 0.0 if cached else max(found.worst_minutes * min(by, 1.0), minutes * 1.25)
    return Line(
        estimate=found, cached=cached, minutes=minutes, worst_minutes=worst, machine_usd=minutes / 60 * machine.usd,
        machine_worst_usd=worst / 60 * machine.usd_high, corrected_by=correction.runs if correction else 0,
    )  # fmt: skip


def _on_this_card(
    config: Config, machine: Machine, points: Points, store: Store, runs: list[history.Manifest]
) -> dict[str, history.Factor]:
    """Training runs that were made on the same kind of card, wherever it stood: their summary names it."""

    def planned(stage: str, behind: Config) -> float | None:
        return estimate(stage, behind, work_of(behind, points), machine, points).minutes

    same = [m for m in runs if m.stage == "train" and points.card_named(history.card_of(store.folder(m.stage, m.key))) == machine.name]
    others = [m for m in runs if m.stage != "train"]
    found = history.factors([*same, *others], config, lambda stage, behind: planned(stage, behind) if stage == "train" else None)
    return {"train": found["train"]} if "train" in found else {}


def already_made(config: Config, store: Store) -> set[str]:
    """Stages whose artefact is in the store. Only the keys are computed: nothing is made or fetched."""
    made: dict[str, Artifact] = {}
    for stage in flow.STAGES.values():
        if not all(name in made for name in stage.reads):
            continue
        inputs = {name: made[name] for name in stage.reads}
        found = store.find(stage.name, flow.address(stage, config, inputs))
        if found is not None:
            made[stage.name] = found
    return set(made)


def choose_machine(profile: str, config: Config, points: Points, gpu: str) -> Machine:
    """The card that the profile names, else the one in this computer, else its processor."""
    if named := _cards_in(profile, points):
        return rented(named[-1], config, points)
    own = this_computer()
    card = points.card_named(gpu) if gpu and config.runtime.device != "cpu" else None
    if card is None:
        return own
    usd = config.runtime.gpu_usd_per_hour
    return own.model_copy(update={"name": card, "card": points.cards[card], "usd": usd, "usd_high": usd, "own": usd == 0})


def rented(name: str, config: Config, points: Points) -> Machine:
    """A machine with that card at the profile's price, or at the points file's."""
    card = points.cards[name]
    usd = config.runtime.gpu_usd_per_hour or card.usd
    return Machine(name=name, card=card, cores=card.cores, ram_gib=card.ram_gib, usd=usd, usd_high=max(usd, card.usd_high), own=False)


def this_computer() -> Machine:
    """The processor and memory of the machine that plans."""
    ram = psutil.virtual_memory().total / 2**30
    return Machine(name="this computer", card=None, cores=this_machine_cores(), ram_gib=ram, usd=0.0, usd_high=0.0, own=True)


def local_gpu() -> str:
    """The driver's name of the first card here; empty without one."""
    if shutil.which("nvidia-smi") is None:
        return ""
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else ""


def with_card(profile: str, card: str, points: Points) -> str:
    """The same profiles with this card's in place of any other's."""
    names = [name for name in (part.strip() for part in profile.split(",")) if name and name not in points.cards]
    return ",".join([*names, card])


def notes(config: Config, chosen: Bill, points: Points) -> list[str]:
    """What a person should know before saying yes."""
    said = [f"does not fit: {why}" for why in chosen.why_not]
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if chosen.machine.own and chosen.disk_gb > free:
        said.append(f"disk: needs {chosen.disk_gb:.0f} GB, {free:.0f} GB are free: free space or set runtime.store to another disk")
    short = [
        line
        for line in chosen.lines
        if line.estimate.stage in ON_CARD and line.estimate.ram_gib > chosen.machine.ram_gib and not line.cached
    ]
    said += [
        f"memory: {line.estimate.stage} needs {line.estimate.ram_gib:.0f} GiB, {chosen.machine.name} has {chosen.machine.ram_gib:.0f}"
        for line in short
    ]
    asked = next(line for line in chosen.lines if line.estimate.stage == "evaluate")
    if config.evaluate.through == "llamacpp" and asked.minutes > 60 and chosen.machine.card is not None:
        said.append(
            f"evaluation asks the shipped files on the processor and takes {asked.minutes / 60:.0f} h: do it at home, or try "
            "--evaluate.through transformers on the card, or a CUDA build of xllamacpp"
        )
    if (warning := read_prices().stale(datetime.date.today())) is not None:
        said.append(warning)
    if (datetime.date.today() - points.as_of).days > 90:
        said.append(f"rents are of {points.as_of}: compare them with the provider's page")
    return said


def _cards_in(profile: str, points: Points) -> list[str]:
    return [name for name in (part.strip() for part in profile.split(",")) if name in points.cards]
