"""What it will cost before it costs anything: one job's quote, and the table of all models (`python -m sysdesign.models.quote`).

A job is so many requests of a shared prefix, an own part and a reply; a quote gives the mean and the worst case for live, live with
cache, batch, and batch with cache.
"""

from __future__ import annotations

import sys

from sysdesign.graph import Record
from sysdesign.models.prices import Price, PriceFile, read_prices


class Job(Record):
    """Sizes in tokens, means over the job; `max_tokens` bounds a reply.

    `cold`: requests that write the prefix to the cache instead of reading it. One: the first call goes alone and live, and every
    read renews the entry's life (5 minutes, an hour before a batch). A batch's machines may miss it all the same, so a quote names what
    the job costs at the fewest hits that the price file holds for the provider. `worst`: micro-dollars that
    the ledger would reserve, live and batch, where the requests are known.
    """

    requests: int
    prefix: int
    own: int
    reply: int
    max_tokens: int
    cold: int = 1
    worst: tuple[int, int] | None = None


class Quote(Record):
    """US dollars for the whole job, and hours."""

    live: float
    live_cache: float
    batch: float
    batch_cache: float
    batch_missed: float  # with cache, and as few requests of the batch find it as the provider warns of
    hits: float  # that fewest share
    worst_live: float
    worst_batch: float
    hours_live: float

    def expected(self, mode: str, cache: bool) -> float:
        """Dollars in that mode."""
        return (self.batch_cache if cache else self.batch) if mode == "batch" else (self.live_cache if cache else self.live)

    def lines(self, model: str, job: Job) -> str:
        """What a person reads before saying yes."""
        return (
            f"{job.requests} requests to {model}: about {job.prefix + job.own} tokens in, {job.reply} out each\n"
            f"  live          ${self.live:.2f} (with cache ${self.live_cache:.2f}), at worst ${self.worst_live:.2f}, "
            f"about {self.hours_live:.1f} h\n"
            f"  batch         ${self.batch:.2f} (with cache ${self.batch_cache:.2f}, or ${self.batch_missed:.2f} at {self.hits:.0%} hits), "
            f"at worst ${self.worst_batch:.2f}, within 24 h"
        )


# 500 diagrams x 4 conversations: sizes of this project's own requests, at about four bytes a token, and replies of 800 visible tokens
# (two turns) with 500 of thinking at low effort.
FULL_JOB = Job(requests=2000, prefix=4500, own=1900, reply=1300, max_tokens=4096)


def quote(price: Price, job: Job, *, in_flight: int = 8, reply_s: float = 12.0) -> Quote:
    """The six prices of a job under one model's price."""
    whole, long = job.prefix + job.own, price.provider == "anthropic"

    def mean(batch: bool, cold: int | None) -> float:
        if cold is None or not price.caches:
            read, write = job.prefix * price.input, job.prefix * price.input
        else:
            read, write = job.prefix * (price.cache_read or 0), job.prefix * price.write_price(batch and long)
        cold = min(cold or 0, job.requests)
        total = cold * write + (job.requests - cold) * read + job.requests * (job.own * price.input + job.reply * price.output)
        return total * (price.batch if batch else 1) / 1e6

    hits = known.fewest if (known := read_prices().batch_cache_hits.get(price.provider)) is not None else 0.0
    worst = job.worst or (
        job.requests * price.worst(whole * 2, job.max_tokens, batch=False),
        job.requests * price.worst(whole * 2, job.max_tokens, batch=True, long=long),
    )
    return Quote(
        live=mean(False, None), live_cache=mean(False, job.cold), batch=mean(True, None), batch_cache=mean(True, job.cold),
        batch_missed=mean(True, round((1 - hits) * job.requests)), hits=hits, worst_live=worst[0] / 1e6, worst_batch=worst[1] / 1e6,
        hours_live=job.requests * reply_s / max(1, in_flight) / 3600,
    )  # fmt: skip


def cost_table(prices: PriceFile, job: Job = FULL_JOB) -> str:
    """Markdown: every priced model, cheapest first, for that job."""
    fewest = ", ".join(f"{hit.fewest:.0%} ({provider})" for provider, hit in prices.batch_cache_hits.items())
    rows = [
        f"{job.requests:,} requests (500 diagrams x 4 conversations), {job.prefix + job.own:,} tokens in of which {job.prefix:,} shared, "
        f"{job.reply:,} out; prices of {prices.as_of}, US dollars. Cached: the first request writes the shared part, the others "
        f"read it; a batch may miss it, down to {fewest} hits.",
        "",
        "| model | live | live + cache | batch | batch + cache | batch + cache, fewest hits | worst case, batch |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for model, price in sorted(prices.models.items(), key=lambda item: quote(item[1], job).batch):
        q = quote(price, job)
        cached = [f"{usd:.2f}" if price.caches else "-" for usd in (q.live_cache, q.batch_cache, q.batch_missed)]
        rows.append(f"| {model} | {q.live:.2f} | {cached[0]} | {q.batch:.2f} | {cached[1]} | {cached[2]} | {q.worst_batch:.2f} |")
    rows.append("| offline rules | 0 | 0 | 0 | 0 | 0 | 0 |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(cost_table(read_prices()))
