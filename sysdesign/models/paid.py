"""The seam to models that cost money: a request in, a reply that was paid for exactly once out.

Every provider answers with one of three outcomes: `Answer` (billed by its usage), `NotTaken` (surely not billed) or `MaybeBilled` (a
timeout, a dropped connection, a server error). The loop here turns them into ledger entries; SDK retries are off, because a retry the
ledger does not see is a second charge.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from sysdesign.errors import LimitError, ServiceError
from sysdesign.graph import Record
from sysdesign.ledger import Busy, Held, Ledger, Paid
from sysdesign.models.chat import Message, Reply
from sysdesign.models.prices import FREE, Price, Usage, read_prices


class Request(Record):
    """What is asked. `prefix` is shared by many requests and may be cached by the provider; `images` come before the text."""

    prefix: str
    text: str
    images: tuple[Path, ...] = ()
    reply_schema: dict[str, Any] | None = None  # JSON schema that the reply must follow
    max_tokens: int

    def key(self, provider: str, model: str, effort: str) -> str:
        """Identity of the purchase: the same key is never paid for twice. Pictures count by content."""
        pictures = [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.images]
        parts = [provider, model, effort, self.prefix, self.text, pictures, self.reply_schema, self.max_tokens]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Answer(Record):
    """A reply and what it used. `finish` other than `stop` is a reject, but it was paid for all the same."""

    text: str
    finish: Literal["stop", "length", "refusal"]
    usage: Usage
    request_id: str | None = None


class NotTaken(Record):
    """Refused before any work: 429 or a client error. `fatal`: asking again cannot help (key, credit, model)."""

    why: str
    retry_after_s: float | None = None
    fatal: bool = False
    do: str = ""


class MaybeBilled(Record):
    """Nobody knows whether it was billed."""

    why: str


class BatchState(Record):
    """`ended` when results can be read; counts are what the provider reports."""

    ended: bool
    done: int
    total: int
    problem: str | None = None  # the whole batch failed, e.g. validation


Item = tuple[str, Request]  # custom id, request
Result = tuple[str, Answer | NotTaken]  # custom id, reply or why there is none (errored, expired, cancelled: not billed)


class Provider(Protocol):
    """One provider and one model. `room` tells how many requests its last rate-limit headers leave, None when unknown."""

    name: str
    model: str
    effort: str
    price: Price
    base_url: str

    def count(self, request: Request) -> int: ...
    def send(self, request: Request) -> Answer | NotTaken | MaybeBilled: ...
    def room(self) -> float | None: ...
    def post_batch(self, items: Sequence[Item], intent: str) -> str | NotTaken | MaybeBilled: ...
    def find_batch(self, intent: str, ids: Sequence[str], known: frozenset[str]) -> str | None: ...
    def poll(self, batch: str) -> BatchState: ...
    def results(self, batch: str) -> Iterator[Result]: ...
    def close(self) -> None: ...


@dataclass
class Patience:
    """How long the loops try. Waiting is on the monotonic clock: a clock that jumps changes nothing."""

    tries: int = 8
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    deadline_s: float = 1800.0
    lost_replies: int = 3  # after so many lost replies to one request it is given up
    sleep: Callable[[float], None] = time.sleep


class Spender:
    """Buys replies from one provider through the ledger."""

    def __init__(
        self, provider: Provider, ledger: Ledger, prefix_tokens: int | None = None, patience: Patience | None = None, cached: bool = True
    ) -> None:
        """`prefix_tokens`: counted tokens of the shared prefix; without it the bound takes a token a byte."""
        self.provider, self.ledger, self.patience = provider, ledger, patience or Patience()
        self.cached = cached and provider.price.caches
        self.prefix_tokens = prefix_tokens

    def key(self, request: Request) -> str:
        """The ledger key of the request."""
        return request.key(self.provider.name, self.provider.model, self.provider.effort)

    def worst(self, request: Request, batch: bool) -> int:
        """Micro-dollars that the request can cost at most."""
        tokens = input_bound(request, self.provider.name, self.prefix_tokens)
        return self.provider.price.worst(tokens, request.max_tokens, batch=batch, cached=self.cached, long=batch)

    def buy(self, request: Request) -> Answer:
        """The reply, from the ledger or from the provider.

        Raises LimitError: the cap would be passed. ServiceError: refused for good, or no reply within the patience.
        """
        key, worst, patience = self.key(request), self.worst(request, False), self.patience
        started, rng, why, tries = time.monotonic(), random.Random(key), "", 0
        while time.monotonic() - started < patience.deadline_s:
            held = self.ledger.reserve(key, worst, self.provider.name, self.provider.model)
            if isinstance(held, Paid):
                return Answer.model_validate_json(held.body)
            if isinstance(held, Busy):
                self.ledger.bury_the_dead()
                patience.sleep(min(1.0, patience.first_wait_s) * (0.5 + rng.random()))
                continue
            answer = self._send(held, request)
            if isinstance(answer, Answer):
                return answer
            why, tries = answer.why, tries + 1
            if isinstance(answer, NotTaken) and answer.fatal:
                raise ServiceError(
                    f"{self.provider.name} {self.provider.model}", f"must accept the request ({why})", answer.do or "read its reply"
                )
            if tries >= patience.tries or self.ledger.losses(key) >= patience.lost_replies:
                break
            wait = min(patience.longest_wait_s, patience.first_wait_s * 2 ** (tries - 1)) * (0.5 + rng.random())
            if isinstance(answer, NotTaken) and answer.retry_after_s is not None:
                wait = max(answer.retry_after_s, 0.0) + 0.1 * wait
            if time.monotonic() - started + wait > patience.deadline_s:
                break
            patience.sleep(wait)
        raise ServiceError(
            f"{self.provider.name} {self.provider.model}",
            f"must reply ({tries} tries, last: {why or 'busy'})",
            "run it again: paid replies are kept",
        )

    def _send(self, held: Held, request: Request) -> Answer | NotTaken | MaybeBilled:
        try:
            answer = self.provider.send(request)
        except BaseException as error:
            self.ledger.lose(held, repr(error))  # interrupted or broken mid-call: it may have been billed
            raise
        if isinstance(answer, Answer):
            cost = self.provider.price.cost(answer.usage, batch=False)
            self.ledger.settle(held, cost, answer.model_dump_json())
        elif isinstance(answer, NotTaken):
            self.ledger.release(held, answer.why)
        else:
            self.ledger.lose(held, answer.why)
        return answer


def input_bound(request: Request, provider: str, prefix_tokens: int | None = None) -> int:
    """Tokens that the input has at most: a token is at least a byte; pictures by the provider's formula and a tenth more."""
    schema = json.dumps(request.reply_schema) if request.reply_schema else ""
    prefix = len(request.prefix.encode()) if prefix_tokens is None else prefix_tokens
    pictures = 0
    if request.images:
        from PIL import Image

        formula = read_prices().image["anthropic" if provider == "anthropic" else "openai"]
        for path in request.images:
            with Image.open(path) as picture:
                pictures += int(formula.tokens(*picture.size) * 1.1) + 1
    return prefix + len(request.text.encode()) + len(schema.encode()) + pictures + 600  # roles, tool and format scaffolding


def expected_cost(provider: Provider, input_tokens: int, prefix_tokens: int, output_tokens: int, *, batch: bool, hits: float) -> float:
    """Micro-dollars one request costs in the mean when a share `hits` reads the prefix from the cache and the rest writes it."""
    price = provider.price
    fresh = input_tokens - prefix_tokens
    if not price.caches or hits <= 0:
        return (input_tokens * price.input + output_tokens * price.output) * (price.batch if batch else 1)
    prefix = prefix_tokens * (hits * (price.cache_read or 0) + (1 - hits) * price.write_price(batch))
    return (fresh * price.input + prefix + output_tokens * price.output) * (price.batch if batch else 1)


class PaidChat:
    """A paid provider behind the chat seam, so that a judge spends from the same ledger. Raises as `Spender.buy`."""

    def __init__(self, spender: Spender) -> None:
        self._spender = spender
        self.name = f"{spender.provider.model}@{spender.provider.name}"

    def reply(self, messages: Sequence[Message], *, max_tokens: int, seed: int) -> Reply:
        """One reply; `seed` enters the text so that votes are separate purchases (these models take no sampling seed)."""
        prefix = "\n\n".join(m.text for m in messages if m.role == "system")
        said = [m for m in messages if m.role != "system"]
        text = said[0].text if len(said) == 1 else "\n\n".join(f"{m.role.upper()}: {m.text}" for m in said)
        if seed:
            text += f"\n\n(vote {seed})"
        request = Request(prefix=prefix, text=text, images=tuple(p for m in said for p in m.images), max_tokens=max_tokens)
        started = time.monotonic()
        answer = self._spender.buy(request)
        tokens = answer.usage.input + answer.usage.cache_read + answer.usage.cache_write
        return Reply(
            text=answer.text,
            finish=answer.finish,
            input_tokens=tokens,
            output_tokens=answer.usage.output,
            seconds=time.monotonic() - started,
        )

    def close(self) -> None:
        """Close the provider's connections and the ledger."""
        self._spender.provider.close()
        self._spender.ledger.close()


def open_provider(
    kind: Literal["anthropic", "openai", "chat"],
    model: str,
    *,
    key_env: str,
    base_url: str | None = None,
    effort: str = "low",
    cache: bool = True,
) -> Provider:
    """The adapter of that kind. Raises ConfigError: unknown or retired model; ServiceError: no key in the environment variable."""
    import os

    prices = read_prices()
    key = os.environ.get(key_env, "") if key_env else ""
    if kind == "chat":
        from sysdesign.models.openai_api import OpenAIApi

        if base_url is None:
            raise ServiceError(
                "conversations.teacher.base_url",
                "must be set when api is chat",
                "--conversations.teacher.base_url http://localhost:11434/v1",
            )
        return OpenAIApi(model, FREE, key or "none", base_url=base_url, effort=effort, chat=True)
    price = prices.price(model, kind)
    if not key:
        raise ServiceError(
            f"environment variable {key_env}", "must hold the provider's API key", f"export {key_env}=..., or use the offline teacher"
        )
    if kind == "anthropic":
        from sysdesign.models.claude import Claude

        return Claude(model, price, key, base_url=base_url, effort=effort, cache=cache and price.caches)
    from sysdesign.models.openai_api import OpenAIApi

    return OpenAIApi(model, price, key, base_url=base_url, effort=effort)


def open_ledger(store: Path, budget_usd: float) -> Ledger:
    """The project's one ledger. Raises LimitError when the budget is 0: then nothing may be bought."""
    if budget_usd <= 0:
        raise LimitError(
            "runtime.budget_usd",
            "must be above 0 before anything is bought",
            "set --runtime.budget_usd to what you are ready to lose",
            budget_usd,
        )
    store.mkdir(parents=True, exist_ok=True)
    return Ledger(store / "ledger.sqlite3", round(budget_usd * 1e6))


def stale_prices(today: datetime.date | None = None) -> str | None:
    """A warning when the price file is older than it should be."""
    return read_prices().stale(today or datetime.date.today())
