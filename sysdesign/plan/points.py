"""`points.v1.yaml` -> the measured figures that plans are computed from, each with its source and date.

Nothing below `plan` imports torch or MLflow, so a plan answers at once on a machine that has neither. `plan` sits above the stages,
like `pipelines`: it asks the train stage's own memory planner, because a second copy of those formulas would drift from the first.
"""

from __future__ import annotations

import datetime
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from sysdesign.errors import InputError
from sysdesign.graph import Record
from sysdesign.train.memory import Shape

POINTS = Path(__file__).with_name("points.v1.yaml")


class Card(Record):
    """One kind of GPU and what renting a machine with it costs an hour. `match`: how its driver's name looks (* for anything)."""

    match: str
    gib: float  # that a process may have
    tflops: float  # 16-bit products, dense
    bandwidth_gbs: float
    bf16: bool
    fp8: bool
    cores: int
    ram_gib: float
    usd: float
    usd_high: float
    measured: bool = False  # else every time on it is scaled from the measured card
    source: str


class TrainPoint(Record):
    """One measured optimiser step of `passes` passes of `tokens` tokens."""

    tokens: int
    passes: int
    full: int
    lean: int
    fp8: Literal["no", "kept", "made"]
    step_ms: float
    peak_gib: float


class UnslothPoint(Record):
    """The other backend on the same samples."""

    tokens_per_s: float
    peak_gib: float
    source: str


class Figure(Record):
    """One number and where it comes from."""

    value: float
    source: str


class Points(Record):
    """The whole file."""

    as_of: datetime.date
    cards: dict[str, Card]
    train_points: tuple[TrainPoint, ...]
    unsloth: UnslothPoint
    costs: dict[str, Figure]
    requests: dict[str, Figure]
    shapes: dict[str, Shape]

    def cost(self, name: str) -> float:
        """A figure of `costs`."""
        return self.costs[name].value

    def request(self, name: str) -> float:
        """A figure of `requests`."""
        return self.requests[name].value

    def card_named(self, device: str) -> str | None:
        """Which card a driver's name means, such as `NVIDIA A100-SXM4-80GB`."""
        return next((name for name, card in self.cards.items() if fnmatch(device, f"*{card.match}*")), None)


@lru_cache(maxsize=2)
def read_points(path: Path = POINTS) -> Points:
    """Raises InputError when the file is unreadable or breaks its schema."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return Points.model_validate(yaml.load(path.read_text(encoding="utf-8"), Loader=loader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        law = f"must be a file of measured points ({' '.join(str(error).split())[:200]})"
        raise InputError(str(path), law, "restore it with `git checkout`") from None
