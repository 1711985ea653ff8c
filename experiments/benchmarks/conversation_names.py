"""Names of components that no picture shows, and places in an answer to put them: what a checker of names is measured with.

Imports nothing of the library, so that no list of the checks can leak into what they are measured by. There are two disjoint halves
of words, products and sentences: `SEEN` may be looked at while the checks are improved, `KEPT` only gives the figure.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Half:
    """What names and sentences are made of; `{}` is the place of the name."""

    heads: tuple[str, ...]
    tails: tuple[str, ...]
    products: tuple[str, ...]
    codenames: tuple[str, ...]
    sentences: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SEEN = Half(
    heads=_words("ledger payments loyalty coupon invoice fraud geo media cart pricing consent shipment tenant rebate telemetry payout"),
    tails=_words("Sync DB Core Hub Service Worker Bridge Store Tracker Grid Vault Runner Feed Manager"),
    products=_words("Kafka Redis Consul Postgres MongoDB Envoy Memcached RabbitMQ Snowflake Nginx Airflow Vitess"),
    codenames=_words("Kestrel Atlas Beacon Harbor Raven Mercury Titan Pegasus"),
    sentences=(
        "Put {} in front of it.",
        "Note that {} is also affected.",
        "It hands the rest to {}.",
        "Without {} this would be worse.",
        "{} takes the remaining requests.",
        "The result also depends on {}, which is shared.",
        "Here {} and its callers wait for each other.",
        "The next hop ({}) has room.",
        "{}: still within its limits.",
        "Behind it stands {}.",
    ),
)
KEPT = Half(
    heads=_words("billing wallet catalog subscription refund risk map video basket tariff identity parcel customer voucher sensor salary"),
    tails=_words("Replicator Base Center Node API Processor Link Bucket Watcher Mesh Safe Executor Pipe Controller"),
    products=_words("Pulsar Valkey Zookeeper MySQL Cassandra Traefik Hazelcast ActiveMQ Databricks Apache Prefect TiDB"),
    codenames=_words("Osprey Zeus Lantern Anchor Falcon Saturn Colossus Phoenix"),
    sentences=(
        "A copy of the data is kept by {}.",
        "First {} must be scaled.",
        "{} would be the next to fail.",
        "Keep in mind that {} retries as well.",
        "The load then moves to {}, as drawn.",
        "{} and the rest stay below their limits.",
        "Otherwise, {} fills up.",
        "Every call also passes {}.",
        "That is because {} sits between them.",
        "The rest is absorbed - see {}.",
    ),
)
STYLES = (
    "two",
    "three",
    "hyphen",
    "snake",
    "camel",
    "run_on",
    "numbered",
    "lower",
    "the_lower",
    "product",
    "small_product",
    "codename",
    "version",
)


def invented(half: Half, style: str, rng: random.Random) -> str:
    """One name in that style, as people name services."""
    head, tail = rng.choice(half.heads), rng.choice(half.tails)
    other, product = rng.choice([h for h in half.heads if h != head]), rng.choice(half.products)
    return {
        "two": f"{head.title()} {tail}",  # Ledger Sync
        "three": f"{head.title()} {other.title()} {tail}",  # Ledger Coupon Sync
        "hyphen": f"{head}-{tail.lower()}",  # ledger-sync
        "snake": f"{head}_{tail.lower()}",  # ledger_sync
        "camel": f"{head.title()}{tail}",  # LedgerSync
        "run_on": f"{head}{tail.lower()}",  # ledgersync
        "numbered": f"{product.lower()}-{rng.randint(1, 9)}",  # kafka-2
        "lower": f"{head} {tail.lower()}",  # ledger sync
        "the_lower": f"the {head} {tail.lower()}",  # the ledger sync
        "product": product,
        "small_product": product.lower(),
        "codename": rng.choice(half.codenames),
        "version": f"{head}-v{rng.randint(2, 4)}",  # ledger-v2
    }[style]


def swapped(answer: str, drawn: list[str], name: str, rng: random.Random) -> str | None:
    """The answer with one mention of one drawn name replaced; None when no drawn name is in it."""
    mentions = [m.span() for d in drawn for m in re.finditer(rf"(?<!\w){re.escape(d)}(?!\w)", answer)]
    if not mentions:
        return None
    start, end = rng.choice(mentions)
    at_start = start == 0 or answer[:start].rstrip(" ")[-1:] in (".", "\n", ":")
    return answer[:start] + (name[0].upper() + name[1:] if at_start and name.startswith("the ") else name) + answer[end:]


def added(answer: str, half: Half, name: str, rng: random.Random) -> str:
    """The answer with a mention more, in its own form: a key and value, a row, an item or a sentence."""
    body = answer.strip().removeprefix("```json").removesuffix("```").strip()
    if body.startswith("{"):
        found = json.loads(body)
        where = rng.choice([k for k, v in found.items() if isinstance(v, list)] or [""])
        if where and rng.random() < 0.5:
            found[where].append(name)
        else:
            found[rng.choice(("bottleneck", "via", "component"))] = name
        return answer.replace(body, json.dumps(found, ensure_ascii=False, indent=2 if "\n" in body else None))
    lines = answer.splitlines()
    rows = [i for i, line in enumerate(lines) if line.startswith("| ") and not line.startswith("| ---")]
    if len(rows) > 1 and rng.random() < 0.5:
        cells = lines[rows[-1]].split(" | ")
        lines.insert(rows[-1] + 1, " | ".join([f"| {name}", *cells[1:]]))
        return "\n".join(lines)
    sentence = rng.choice(half.sentences).format(name)
    sentence = sentence[0].upper() + sentence[1:] if name.startswith("the ") else sentence
    items = [i for i, line in enumerate(lines) if line.startswith(("- ", "* "))]
    if items and rng.random() < 0.5:
        lines.insert(items[-1] + 1, lines[items[-1]][:2] + sentence)
        return "\n".join(lines)
    return f"{answer}\n\n{sentence}" if rows else f"{answer} {sentence}"
