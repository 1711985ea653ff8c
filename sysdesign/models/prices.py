"""A dated price file -> what a request may cost at worst, and what a reply did cost, in integer micro-dollars.

A dollar per million tokens is a micro-dollar per token, so prices multiply token counts directly; every sum is rounded up.
"""

from __future__ import annotations

import datetime
import difflib
import math
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from sysdesign.errors import ConfigError, InputError
from sysdesign.graph import Record

PRICES = Path(__file__).with_name("prices.v1.yaml")
STALE_DAYS = 60


class Usage(Record):
    """Billed tokens of one reply; `input` counts neither cache reads nor writes, `output` includes thinking."""

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    thinking: int = 0  # part of output


class Price(Record):
    """US dollars per million tokens; None: unknown, so that way of paying is not used."""

    provider: str
    input: float
    output: float
    cache_read: float | None
    cache_write: float | None
    cache_write_long: float | None
    batch: float
    source: str

    @property
    def caches(self) -> bool:
        """Whether cache prices are known."""
        return self.cache_read is not None and self.cache_write is not None

    def write_price(self, long: bool) -> float:
        """Price of a cache write; where only the short one is known it stands for both."""
        return max(self.input, (self.cache_write_long if long else None) or self.cache_write or self.input)

    def worst(self, input_tokens: int, max_tokens: int, *, batch: bool, long: bool = False) -> int:
        """Micro-dollars if every input token is written to the dearest cache and the reply is as long as allowed."""
        dearest = max(self.write_price(long), self.write_price(False), self.input)
        return math.ceil((math.ceil(input_tokens * dearest) + math.ceil(max_tokens * self.output)) * (self.batch if batch else 1.0))

    def cost(self, usage: Usage, *, batch: bool, long: bool = False) -> int:
        """Micro-dollars of a reply."""
        total = (
            usage.input * self.input
            + usage.cache_read * (self.input if self.cache_read is None else self.cache_read)
            + usage.cache_write * self.write_price(long)
            + usage.output * self.output
        )
        return math.ceil(total * (self.batch if batch else 1.0) - 1e-9)


class Image(Record):
    """Tokens of a picture of w x h pixels: ceil(w / patch) * ceil(h / patch) * factor + plus."""

    patch: int
    factor: float
    plus: int

    def tokens(self, width: int, height: int) -> int:
        """Tokens that the picture is billed as."""
        return math.ceil(math.ceil(width / self.patch) * math.ceil(height / self.patch) * self.factor) + self.plus


class Hits(Record):
    """Shares of a batch's requests that read their prefix from the cache."""

    fewest: float = Field(ge=0, le=1)
    most: float = Field(ge=0, le=1)
    source: str


class PriceFile(Record):
    """The whole file."""

    as_of: datetime.date
    models: dict[str, Price]
    retired: dict[str, datetime.date]
    image: dict[Literal["anthropic", "openai"], Image]
    batch_cache_hits: dict[str, Hits]

    def price(self, model: str, provider: str, where: str = "conversations.teacher.model") -> Price:
        """The price of a model; `where`: the setting that names it. Raises ConfigError: retired, unknown, or another provider's."""
        if model in self.retired:
            raise ConfigError(where, f"must not be a retired model ({self.retired[model]:%Y-%m-%d})", self._choices(provider), model)
        found = self.models.get(model)
        if found is None or found.provider != provider:
            near = difflib.get_close_matches(model, self._names(provider), 1)
            do = f"did you mean {near[0]}?" if near else self._choices(provider)
            raise ConfigError(where, f"must be a priced {provider} model: without a price there is no cap", do, model)
        return found

    def stale(self, today: datetime.date) -> str | None:
        """A warning when the prices are old (or from the future: a wrong clock), else None."""
        days = (today - self.as_of).days
        if -1 <= days <= STALE_DAYS:
            return None
        age = f"{days} days old" if days > 0 else f"dated {-days} days ahead of this machine's clock"
        return f"prices of {self.as_of} are {age}: compare them with the provider's page before you spend"

    def _names(self, provider: str) -> list[str]:
        return [name for name, price in self.models.items() if price.provider == provider]

    def _choices(self, provider: str) -> str:
        return f"choose one of {', '.join(self._names(provider))}"


@lru_cache(maxsize=4)
def read_prices(path: Path = PRICES) -> PriceFile:
    """The price file. Raises InputError when it is unreadable or breaks its schema."""
    import yaml

    try:
        return PriceFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise InputError(
            str(path), f"must be a price file ({' '.join(str(error).split())[:200]})", "restore it with `git checkout`"
        ) from error


FREE = Price(
    provider="local", input=0, output=0, cache_read=None, cache_write=None, cache_write_long=None, batch=1, source="your own server"
)
