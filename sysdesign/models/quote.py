"""What it will cost before it costs anything: one job's quote, and the table of all models (`python -m sysdesign.models.quote`).

A job is so many requests of a shared prefix, an own part and a reply; a quote gives the mean and the worst case for live, live with
cache, batch, and batch with cache.
"""

from __future__ import annotations

import sys

from sysdesign.graph import Record
from sysdesign.models.prices import Price, PriceFile, read_prices

LIVE_HITS, BATCH_HITS = (
    0.98,
    0.6,
)  # share of requests that find the prefix in the cache; a batch's order is the provider's, so 0.6 is a guess


class Job(Record):
    """Sizes in tokens, means over the job; `max_tokens` bounds a reply."""

    requests: int
    prefix: int
    own: int
    reply: int
    max_tokens: int


class Quote(Record):
    """US dollars for the whole job, and hours."""

    live: float
    live_cache: float
    batch: float
    batch_cache: float
    worst_live: float
    worst_batch: float
    hours_live: float

    def lines(self, model: str, job: Job) -> str:
        """What a person reads before saying yes."""
        return (
            f"{job.requests} requests to {model}: about {job.prefix + job.own} tokens in, {job.reply} out each\n"
            f"  live          ${self.live:.2f} (with cache ${self.live_cache:.2f}), at worst ${self.worst_live:.2f}, "
            f"about {self.hours_live:.1f} h\n"
            f"  batch         ${self.batch:.2f} (with cache ${self.batch_cache:.2f}), at worst ${self.worst_batch:.2f}, within 24 h"
        )


# 500 diagrams x 4 conversations: sizes of this project's own requests, at about four bytes a token, and replies of 800 visible tokens
# (two turns) with 500 of thinking at low effort.
FULL_JOB = Job(requests=2000, prefix=4500, own=1900, reply=1300, max_tokens=4096)


def quote(price: Price, job: Job, *, in_flight: int = 8, reply_s: float = 12.0) -> Quote:
    """The six prices of a job under one model's price."""
    whole = job.prefix + job.own

    def mean(batch: bool, hits: float | None) -> float:
        if hits is None or not price.caches:
            one = whole * price.input
        else:
            one = job.own * price.input + job.prefix * (hits * (price.cache_read or 0) + (1 - hits) * price.write_price(batch))
        return job.requests * (one + job.reply * price.output) * (price.batch if batch else 1) / 1e6

    return Quote(
        live=mean(False, None), live_cache=mean(False, LIVE_HITS), batch=mean(True, None), batch_cache=mean(True, BATCH_HITS),
        worst_live=job.requests * price.worst(whole * 2, job.max_tokens, batch=False, cached=price.caches) / 1e6,
        worst_batch=job.requests * price.worst(whole * 2, job.max_tokens, batch=True, cached=price.caches, long=True) / 1e6,
        hours_live=job.requests * reply_s / max(1, in_flight) / 3600,
    )  # fmt: skip


def cost_table(prices: PriceFile, job: Job = FULL_JOB) -> str:
    """Markdown: every priced model, cheapest first, for that job."""
    rows = [
        f"{job.requests:,} requests (500 diagrams x 4 conversations), {job.prefix + job.own:,} tokens in of which {job.prefix:,} shared, "
        f"{job.reply:,} out; prices of {prices.as_of}, US dollars; cache hits {LIVE_HITS:.0%} live, {BATCH_HITS:.0%} in batch (assumed).",
        "",
        "| model | live | live + cache | batch | batch + cache | worst case, batch |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for model, price in sorted(prices.models.items(), key=lambda item: quote(item[1], job).batch):
        q = quote(price, job)
        cached = (f"{q.live_cache:.2f}", f"{q.batch_cache:.2f}") if price.caches else ("-", "-")
        rows.append(f"| {model} | {q.live:.2f} | {cached[0]} | {q.batch:.2f} | {cached[1]} | {q.worst_batch:.2f} |")
    rows.append("| offline rules | 0 | 0 | 0 | 0 | 0 |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(cost_table(read_prices()))
