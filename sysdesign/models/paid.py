"""The seam to models that cost money: a request in, a reply that was paid for exactly once out.

Every provider answers with one of three outcomes: `Answer` (billed by its usage), `NotTaken` (surely not billed) or `MaybeBilled` (a
timeout, a dropped connection, a server error). The loop here turns them into ledger entries; SDK retries are off, because a retry the
ledger does not see is a second charge.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from sysdesign.errors import ConfigError, LimitError, ServiceError
from sysdesign.graph import Record
from sysdesign.ledger import Busy, Held, Intent, Ledger, Paid
from sysdesign.models.prices import FREE, Price, Usage, read_prices


class Refused(ServiceError):
    """Asking again cannot help: key, credit, model, or a reply that somebody else is waiting for."""


class Transient(ServiceError):
    """A free call (a look at a batch, a count) that failed and may succeed later."""


class LostReply(ServiceError):
    """One request whose reply was lost so often that it is given up; others may go on."""


class Request(Record):
    """What is asked. `prefix` is shared by many requests and may be cached by the provider; `images` come before the text."""

    prefix: str
    text: str
    images: tuple[Path, ...] = ()
    reply_schema: dict[str, Any] | None = None  # JSON schema that the reply must follow
    max_tokens: int

    def key(self, provider: str, model: str, effort: str) -> str:
        """Identity of the purchase: the same key is never paid for twice. `provider` is a `place`; pictures count by content."""
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
    """Not billed: 429 or a client error, an errored part of a batch. `fatal`: asking again cannot help (key, credit, model)."""

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


class Undecided(Record):
    """A batch that still runs may be the one looked for: only when it has ended do its results tell."""

    batch: str


class Gone(Record):
    """The provider knows no such batch, or no longer keeps its results."""

    why: str


Item = tuple[str, Request]  # custom id, request
# Custom id, and the reply or why there is none: not billed (errored, expired, cancelled), or a result that cannot be read and may be billed
Result = tuple[str, Answer | NotTaken | MaybeBilled]


class Provider(Protocol):
    """One provider and one model. `room` tells how many requests its last rate-limit headers leave, None when unknown.

    `long_cache`: whether prefixes of a batch are written to the dearer, long-lived cache. Free calls raise `Transient` or `Refused`.
    `results` names a line that tells no custom id `line N`.
    """

    name: str
    model: str
    effort: str
    price: Price
    base_url: str
    long_cache: bool

    def count(self, request: Request) -> int: ...
    def send(self, request: Request, *, long: bool = False) -> Answer | NotTaken | MaybeBilled: ...
    def room(self) -> float | None: ...
    def newest_batch(self) -> str | None: ...
    def post_batch(self, items: Sequence[Item], intent: str) -> str | NotTaken | MaybeBilled: ...
    def find_batch(self, intent: Intent, known: frozenset[str]) -> str | Undecided | None: ...
    def poll(self, batch: str) -> BatchState | Gone: ...
    def results(self, batch: str) -> list[Result] | Gone: ...
    def close(self) -> None: ...


OFFICIAL = ("https://api.anthropic.com", "https://api.openai.com/v1")


def place(provider: Provider) -> str:
    """Whose replies these are: the provider, and the address unless it is the provider's own. Two servers never share a reply."""
    address = provider.base_url.rstrip("/")
    return provider.name if address in OFFICIAL else f"{provider.name}@{address}"


def custom_id(key: str, intent: str) -> str:
    """What a request is called inside a batch: within both providers' alphabet and 64 characters, and like no other batch's."""
    return f"{key[:40]}-{intent[:16]}"


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

    def __init__(self, provider: Provider, ledger: Ledger, prefix_tokens: int | None = None, patience: Patience | None = None) -> None:
        """`prefix_tokens`: counted tokens of the shared prefix; without it the bound takes a token a byte."""
        self.provider, self.ledger, self.patience = provider, ledger, patience or Patience()
        self.prefix_tokens, self.place = prefix_tokens, place(provider)

    def key(self, request: Request) -> str:
        """The ledger key of the request."""
        return request.key(self.place, self.provider.model, self.provider.effort)

    def worst(self, request: Request, batch: bool, long: bool = False) -> int:
        """Micro-dollars that the request can cost at most: providers cache by themselves, so a cache write is always possible."""
        tokens = input_bound(request, self.provider.name, self.prefix_tokens)
        return self.provider.price.worst(tokens, request.max_tokens, batch=batch, long=(batch or long) and self.provider.long_cache)

    def cost(self, answer: Answer, batch: bool, long: bool = False) -> int:
        """Micro-dollars that it did cost."""
        return self.provider.price.cost(answer.usage, batch=batch, long=(batch or long) and self.provider.long_cache)

    def buy(self, request: Request, *, long: bool = False) -> Answer:
        """The reply, from the ledger or from the provider. `long`: write the prefix to the long-lived cache, for a batch that follows.

        Raises LimitError: the cap would be passed. Refused: for good. LostReply: given up. ServiceError: no reply within the patience.
        """
        key, worst, patience, who = self.key(request), self.worst(request, False, long), self.patience, self._who
        started, rng, why, tries = time.monotonic(), random.Random(key), "", 0
        while time.monotonic() - started < patience.deadline_s:
            held = self.ledger.reserve(key, worst, self.place, self.provider.model)
            if isinstance(held, Paid):
                return Answer.model_validate_json(held.body)
            if isinstance(held, Busy):
                if held.batch:
                    raise Refused(who, "must not be asked live for what an open batch is buying", ELSEWHERE)
                self.ledger.bury_the_dead()
                patience.sleep(min(1.0, patience.first_wait_s) * (0.5 + rng.random()))
                continue
            answer = self._send(held, request, long)
            if isinstance(answer, Answer):
                return answer
            why, tries = answer.why, tries + 1
            if isinstance(answer, NotTaken) and answer.fatal:
                raise Refused(who, f"must accept the request ({why})", answer.do or "read its reply")
            if isinstance(answer, MaybeBilled) and self.ledger.losses(key) >= patience.lost_replies:
                law = f"must reply: {self.ledger.losses(key)} replies to one request were lost and may have been billed ({why})"
                raise LostReply(who, law, "run it again to try once more: paid replies are kept")
            if tries >= patience.tries:
                break
            wait = min(patience.longest_wait_s, patience.first_wait_s * 2 ** (tries - 1)) * (0.5 + rng.random())
            if isinstance(answer, NotTaken) and answer.retry_after_s is not None:
                wait = max(answer.retry_after_s, 0.0) + 0.1 * wait
            if time.monotonic() - started + wait > patience.deadline_s:
                break
            patience.sleep(wait)
        raise ServiceError(who, f"must reply ({tries} tries, last: {why or 'busy'})", "run it again: paid replies are kept")

    @property
    def _who(self) -> str:
        return f"{self.place} {self.provider.model}"

    def _send(self, held: Held, request: Request, long: bool) -> Answer | NotTaken | MaybeBilled:
        try:
            answer = self.provider.send(request, long=long)
        except BaseException as error:
            self.ledger.lose(held, repr(error))  # interrupted or broken mid-call: it may have been billed
            raise
        if isinstance(answer, Answer):
            self.ledger.settle(held, self.cost(answer, False, long), answer.model_dump_json())
        elif isinstance(answer, NotTaken):
            self.ledger.release(held, answer.why)
        else:
            self.ledger.lose(held, answer.why)
        return answer


LASTING = 0.02  # share of requests that a set may go without when asking again cannot help: a lost reply, an errored part of a batch


def whole(spender: Spender, replies: dict[str, Answer | NotTaken]) -> dict[str, Answer | NotTaken]:
    """The same replies. Raises ServiceError when too many are missing: a set that was cut short must not pass for a complete one."""
    missing = [reply for reply in replies.values() if isinstance(reply, NotTaken)]
    passing = [reply for reply in missing if not reply.fatal]
    if not missing or (not passing and len(missing) <= max(1, LASTING * len(replies))):
        return replies
    why = (passing or missing)[0].why
    law = f"{len(missing)} of {len(replies)} requests have no reply ({why})"
    raise ServiceError(f"{spender.place} {spender.provider.model}", law, "run it again: what was paid is kept, and only the rest is bought")


ELSEWHERE = "another run is waiting for that batch: let it end, then run this again; what it bought is in the ledger"


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


def open_provider(
    kind: Literal["anthropic", "openai", "chat"],
    model: str,
    *,
    key_env: str,
    base_url: str | None = None,
    effort: str = "low",
    cache: bool = True,
    chat_price: Price | None = None,
    where: str = "conversations.teacher",
) -> Provider:
    """The adapter of that kind, for the section `where`.

    `chat_price`: of a chat-completions server that bills; without it the server must be one's own.

    Raises ConfigError: unknown or retired model, a public server without a price. ServiceError: no usable key in the environment variable.
    """
    import os

    prices = read_prices()
    key = (os.environ.get(key_env, "") if key_env else "").strip()
    if not key.isascii() or not key.isprintable():
        raise ServiceError(f"environment variable {key_env}", "must hold plain characters only", "copy the key again, without quotes")
    if kind == "chat":
        from sysdesign.models.openai_api import OpenAIApi

        if base_url is None:
            do = "--conversations.teacher.base_url http://localhost:11434/v1"
            raise ServiceError("conversations.teacher.base_url", "must be set when api is chat", do)
        if chat_price is None and not own_host(base_url):
            law = "must be this machine or a private network, or have a price: without one there is no cap"
            raise ConfigError("conversations.teacher.base_url", law, "set --conversations.teacher.usd_per_mtok [IN,OUT]", base_url)
        return OpenAIApi(model, chat_price or FREE, key or "none", base_url=base_url, effort=effort, chat=True)
    price = prices.price(model, kind, f"{where}.model")
    if not key:
        other = "use the offline teacher" if where == "conversations.teacher" else "set judge.kind none"
        raise ServiceError(f"environment variable {key_env}", "must hold the provider's API key", f"export {key_env}=..., or {other}")
    if kind == "anthropic":
        from sysdesign.models.claude import Claude

        return Claude(model, price, key, base_url=base_url, effort=effort, cache=cache and price.caches)
    from sysdesign.models.openai_api import OpenAIApi

    return OpenAIApi(model, price, key, base_url=base_url, effort=effort, cache=cache and price.caches)


def own_host(base_url: str) -> bool:
    """Whether the address is this machine's or a private network's, by its text alone: no name is looked up."""
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return bool(host) and ("." not in host or host.endswith((".localhost", ".local", ".internal", ".lan", ".home.arpa")))


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
