"""Requests to a live teacher -> their replies: quoted, agreed to, tried on a few, then bought through the ledger, live or in batches."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from sysdesign.config.conversations import ClaudeTeacherConfig, JudgeConfig, OpenAITeacherConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.errors import LimitError, ServiceError
from sysdesign.models.batches import buy_batch, settle_open, under_way
from sysdesign.models.paid import Answer, LostReply, NotTaken, Refused, Request, Spender, stale_prices, whole
from sysdesign.models.quote import Job, quote

SAMPLE = 20  # requests whose tokens are counted for the quote
PILOT, PILOT_FROM = 20, 400  # live calls that re-quote the rest, and from how many requests on
WARM_FROM = 20  # requests from which it pays to write the prefix to the cache with one live call before a batch is posted
REQUOTE = 1.2  # a re-quote dearer than this, by request, is asked about again
OUTAGE = 5  # requests in a row without a reply: the provider is down, not the request
THINKING_TOKENS = {"low": 500, "medium": 1500, "high": 4000}  # assumed for the quote; the bill counts the real ones
Asker = ClaudeTeacherConfig | OpenAITeacherConfig | JudgeConfig


def acquire(
    spender: Spender,
    requests: Mapping[str, Request],
    visible: Mapping[str, float],
    cfg: Asker,
    runtime: RuntimeConfig,
    mode: str,
    *,
    count_prefix: bool = True,
    after: str = "",
) -> dict[str, Answer | NotTaken]:
    """The replies by name, as far as they must still be bought: quoted and agreed to first.

    `visible`: tokens that each reply will show, for the quote; `after`: a line that the quote ends with.
    Raises LimitError (not confirmed, or the cap is reached), ServiceError (refused, unreachable, too many without a reply).
    """
    if mode == "live":
        settle_open(spender, {spender.key(r) for r in requests.values()})
    bought = under_way(spender)
    wanted = {n: r for n, r in requests.items() if (key := spender.key(r)) not in bought and spender.ledger.reply(key) is None}
    if wanted:
        shared = next(iter(wanted.values())).prefix
        spender.prefix_tokens = spender.provider.count(Request(prefix=shared, text="x", max_tokens=1)) if count_prefix else None
        size = job(spender, wanted, visible, cfg)
        agree(spender, size, cfg, runtime, after=after)
        pilot(spender, wanted, size, cfg, mode, runtime)
    return buy(spender, requests, cfg, mode)


def job(spender: Spender, wanted: Mapping[str, Request], visible: Mapping[str, float], cfg: Asker) -> Job:
    """Sizes of what is still to be bought: input tokens counted by the provider on a sample, replies as long as expected."""
    names = sorted(wanted)[:: max(1, len(wanted) // SAMPLE)][:SAMPLE]
    counted = [spender.provider.count(wanted[name]) for name in names]
    prefix = (spender.prefix_tokens or 0) if cfg.cache else 0
    shown = sum(visible[n] for n in names) / len(names)
    mean = sum(counted) / len(counted)
    reply = min(cfg.max_tokens, round(shown) + THINKING_TOKENS[cfg.effort])
    worst = sum(spender.worst(r, False) for r in wanted.values()), sum(spender.worst(r, True) for r in wanted.values())
    own = max(0, round(mean) - prefix)
    return Job(requests=len(wanted), prefix=prefix, own=own, reply=reply, max_tokens=cfg.max_tokens, worst=worst)


def agree(spender: Spender, size: Job, cfg: Asker, runtime: RuntimeConfig, before: str = "", after: str = "") -> None:
    """Show the quote, and go on only with a yes. Raises LimitError without one."""
    text = before + quote(spender.provider.price, size, in_flight=cfg.concurrency).lines(cfg.model, size)
    totals = spender.ledger.totals()
    text += f"\n  ledger        ${totals.committed / 1e6:.2f} committed, cap ${spender.ledger.cap / 1e6:.2f}; mode {cfg.mode}"
    text += f"\n{after.rstrip()}" if after else ""
    if (warning := stale_prices()) is not None:
        text += f"\n  warning: {warning}"
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
    if runtime.yes:
        return
    if not sys.stdin.isatty():
        raise LimitError("runtime.yes", "nobody is there to accept the quote", "look at the quote above, then add --runtime.yes true")
    sys.stderr.write("Spend it? Type yes: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() != "yes":
        raise LimitError("the quote", "was not accepted", "nothing more was spent")


def pilot(spender: Spender, wanted: Mapping[str, Request], size: Job, cfg: Asker, mode: str, runtime: RuntimeConfig) -> None:
    """A few live calls before the rest: they write the prefix to the cache, and their bills give a better quote.

    Raises LimitError when the rest, by the measured bills, would not fit below the cap, or is refused.
    """
    chosen = PILOT if len(wanted) >= PILOT_FROM else 1 if mode == "batch" and len(wanted) >= WARM_FROM and cfg.cache else 0
    names = sorted(wanted)[:: max(1, len(wanted) // max(1, chosen))][:chosen]
    if not names:
        return
    bought = buy_live(spender, {name: wanted[name] for name in names}, cfg.concurrency, long=mode == "batch")
    used = [reply.usage for reply in bought.values() if isinstance(reply, Answer)]
    if len(names) < PILOT or not used:
        return
    whole_input = sum(u.input + u.cache_read + u.cache_write for u in used) / len(used)
    prefix = min(size.prefix, max(u.cache_read + u.cache_write for u in used))
    reply = math.ceil(sum(u.output for u in used) / len(used))
    rest, own = len(wanted) - len(names), max(0, round(whole_input) - prefix)
    live, batch = (most * rest // size.requests for most in size.worst or (0, 0))
    sizes = {"requests": rest, "prefix": prefix, "own": own, "reply": reply, "cold": 0 if prefix else 1, "worst": (live, batch)}
    measured = size.model_copy(update=sizes)
    before, now = (quote(spender.provider.price, j).expected(mode, cfg.cache) / j.requests for j in (size, measured))
    left = (spender.ledger.cap - spender.ledger.totals().committed) / 1e6
    if now * rest > left:
        law = f"the other {rest} requests will cost about ${now * rest:.2f} by the bills of the first {len(used)}, and ${left:.2f} are left"
        raise LimitError(
            "runtime.budget_usd", law, "raise --runtime.budget_usd, or choose a cheaper model or batch mode", runtime.budget_usd
        )
    said = f"by the bills of {len(used)} live calls ({sum(u.thinking for u in used) / len(used):.0f} tokens of thinking each), the rest:\n"
    asked_again = runtime if now > REQUOTE * before else runtime.model_copy(update={"yes": True})
    agree(spender, measured, cfg, asked_again, before=said)


def buy(spender: Spender, requests: Mapping[str, Request], cfg: Asker, mode: str) -> dict[str, Answer | NotTaken]:
    """Live or in batches, with a bar that tells done, rejected, spent and projected."""
    from tqdm import tqdm

    what = "verdicts" if isinstance(cfg, JudgeConfig) else "conversations"
    with tqdm(total=len(requests), desc=f"{what} ({cfg.model}, {mode})", unit="conv", disable=None) as bar:

        def show(done: int, rejected: int = 0) -> None:
            spent = spender.ledger.totals().committed / 1e6
            projected = spent / done * len(requests) if done else 0.0
            bar.set_postfix_str(f"rejected {rejected}, spent ${spent:.2f}, projected ${projected:.2f}")
            bar.update(done - bar.n)

        show(0)
        if mode == "batch":
            return buy_batch(spender, requests, progress=lambda done: show(done))
        return buy_live(spender, requests, cfg.concurrency, show)


def buy_live(
    spender: Spender,
    requests: Mapping[str, Request],
    in_flight: int,
    show: Callable[[int, int], None] = lambda done, rejected: None,
    *,
    long: bool = False,
) -> dict[str, Answer | NotTaken]:
    """Live calls, at most `in_flight` at once and fewer when the rate-limit headers leave less room.

    The first goes alone, so that the others find its prefix in the cache. What breaks off the buying (the cap, a refusal, `OUTAGE`
    requests in a row without a reply) is raised once the calls under way have ended; the next run goes on from there.
    Raises LimitError: the cap. ServiceError: refused, unreachable, or too many requests without a reply.
    """
    found: dict[str, Answer | NotTaken] = {}
    waiting, rejected, in_a_row = list(requests.items())[::-1], 0, 0
    stop: ServiceError | LimitError | None = None
    with ThreadPoolExecutor(in_flight) as pool:
        running: dict[Future[Answer], str] = {}
        while waiting or running:
            room = spender.provider.room()
            most = 1 if not found else in_flight if room is None else max(1, min(in_flight, int(room)))
            while waiting and len(running) < most and stop is None:
                name, request = waiting.pop()
                running[pool.submit(spender.buy, request, long=long)] = name
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                try:
                    found[name], in_a_row = future.result(), 0
                except (ServiceError, LimitError) as error:
                    if isinstance(error, LimitError) and running:  # worst cases of calls under way hold the money: fewer at once
                        waiting.append((name, requests[name]))
                        in_flight = len(running)
                        continue
                    found[name] = NotTaken(why=f"{error.where}: {error.law}", fatal=isinstance(error, LostReply))
                    rejected, in_a_row = rejected + 1, in_a_row + 1
                    if isinstance(error, LimitError | Refused) or in_a_row >= OUTAGE:
                        stop = stop or error
            show(len(found), rejected)
    if stop is not None:
        bought = sum(isinstance(a, Answer) for a in found.values())
        law = f"{stop.law}; {bought} of {len(requests)} requests have their reply"
        raise type(stop)(
            stop.where, law, stop.do if "run it again" in stop.do else f"{stop.do}; then run it again: only the rest is bought"
        )
    return whole(spender, found)
