"""A free design answer -> grades on those of the eight criteria that rules can check: a partial score, never the whole rubric.

Criteria 6 and 8 (correctness of deep dives, quality of trade-offs) need a reader and get no grade here. Rules see only that a thing is
written down, not that it is right, so this score is a floor for comparing two models on the same prompts. Weights follow the
project's rubric: 12, 12, 10, 14, 16, 16, 10, 10.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sysdesign.evaluate.names import normal
from sysdesign.evaluate.numbers import arithmetic, close, quantities, unit_of
from sysdesign.graph import Record
from sysdesign.prompts import Rubric

WEIGHTS = {1: 12, 2: 12, 3: 10, 4: 14, 5: 16, 7: 10}
TITLES = {
    1: "requirements and scope", 2: "estimates", 3: "API", 4: "data model and storage", 5: "high-level design", 6: "deep dives",
    7: "reliability and scale", 8: "trade-offs",
}  # fmt: skip
LONG_WORDS = 1_600  # beyond this the answer no longer respects its reader
_TYPES = {
    "client": "client|browser|mobile app|app", "cdn": "cdn|content delivery", "dns": "dns", "lb": "load balancer|lb|nginx|haproxy|envoy",
    "gateway": "gateway", "service": "service|microservice", "worker": "worker|consumer", "function": "function|lambda|serverless",
    "cache": "cache|redis|memcached", "sql": "sql|postgres(?:ql)?|mysql|relational|spanner|cockroachdb|aurora",
    "nosql": "nosql|cassandra|dynamodb|mongodb|scylladb|bigtable|key.value store|document store|wide.column",
    "object": "object stor(?:e|age)|s3|blob|gcs|minio",
    "search": "search|elasticsearch|opensearch|inverted index|vector index", "queue": "queue|sqs|rabbitmq",
    "stream": "stream|kafka|kinesis|pulsar|event log",
    "warehouse": "warehouse|bigquery|snowflake|redshift|clickhouse|data lake", "scheduler": "scheduler|cron|airflow",
    "model": "model|inference|embedding",
    "auth": "auth(?:entication|orization)?|oauth|jwt|token service|identity",
    "monitor": "monitor(?:ing)?|metrics|prometheus|alert(?:s|ing)?|tracing",
    "external": "third.party|external|provider|partner|webhook",
}  # fmt: skip
_SIGNS: dict[int, tuple[str, ...]] = {
    1: (r"functional", r"non-functional|latency|availability|durability|consistency", r"out of scope|not in scope|non-goals?", r"assum"),
    2: (r"peak", r"storage|\b[KMGTP]B\b", r"bandwidth|[MG]bit/s|[MG]B/s", r"per second|a second|/s\b|\bqps\b|\brps\b"),
    3: (r"\b(?:GET|POST|PUT|PATCH|DELETE)\s+/|\brpc\b|\bgrpc\b|event", r"idempoten", r"pagina|cursor|limit=",
        r"\b4\d\d\b|error|auth|token"),
    4: (r"\b(?:primary|partition|shard|sort|row)\s*key|\bid\b", r"index", r"retention|ttl|archiv", r"because|since|so that|therefore"),
    5: (r"write path|on write|when a .* (?:writes|posts|uploads)", r"read path|on read|when a .* (?:reads|opens|asks)",
        r"async|queue|event", r"->|→|-->"),
    7: (
        r"bottleneck|hot (?:key|shard|partition)", r"single point of failure|spof|failover|replica",
        r"back-?pressure|retry|retries|circuit breaker|timeout|rate limit",
        r"monitor|alert|availability zone|degrad",
    ),
}  # fmt: skip


class Grades(Record):
    """Criterion number -> grade 0 to 4, the share 0 to 1 that they make together, and what is missing, for readers."""

    grades: dict[int, int]
    value: float
    missing: tuple[str, ...] = ()


def grade(answer: str, rubric: Rubric, *, category: str) -> Grades:
    """Grades of one answer. Estimation, trade-off and critique prompts are graded on what their rubric names only."""
    text = answer.strip()
    if not text:
        return Grades(grades=dict.fromkeys(_criteria(category, rubric), 0), value=0.0, missing=("no answer",))
    grades: dict[int, int] = {}
    missing: list[str] = []
    for criterion in _criteria(category, rubric):
        share, gaps = _share(criterion, text, rubric, category)
        grades[criterion] = round(4 * share)
        missing += gaps
    right, stated = arithmetic(text)
    if 2 in grades and stated and right < stated:
        grades[2] = min(grades[2], 2)
        missing.append(f"{stated - right} of {stated} equations are wrong")
    total = sum(_weight(criterion) for criterion in grades)
    value = sum(_weight(criterion) * points / 4 for criterion, points in grades.items()) / total if total else 0.0
    if len(text.split()) > LONG_WORDS:
        missing.append(f"longer than {LONG_WORDS} words")
    return Grades(grades=grades, value=value, missing=tuple(missing))


def _criteria(category: str, rubric: Rubric) -> list[int]:
    if category == "design":
        return [*WEIGHTS, *([6] if rubric.must_mention else [])]
    named = [*([2] if rubric.required_numbers else []), *([5] if rubric.required_components else []), *([6] if rubric.must_mention else [])]
    return named or [6]


def _weight(criterion: int) -> int:
    return WEIGHTS.get(criterion, 16)  # 6 counts with its weight, for the ideas named


def _share(criterion: int, text: str, rubric: Rubric, category: str) -> tuple[float, list[str]]:
    parts: list[float] = []
    missing: list[str] = []
    if criterion == 2 and rubric.required_numbers:
        found = quantities(text)
        hits = []
        for number in rubric.required_numbers:
            dimension, factor = unit_of(number.unit)
            hits.append(any(q.dimension in (dimension, None) and close(q.value, number.value * factor, number.tolerance) for q in found))
            missing += [] if hits[-1] else [f"{number.name}: about {number.value:g} {number.unit}"]
        parts += [sum(hits) / len(hits)] * 2  # the figures weigh more than the words around them
    if criterion == 5 and rubric.required_components:
        absent = [kind for kind in rubric.required_components if not re.search(rf"\b(?:{_TYPES.get(kind, kind)})s?\b", text, re.IGNORECASE)]
        missing += [f"component: {kind}" for kind in absent]
        parts += [1 - len(absent) / len(rubric.required_components)] * 2
    if criterion == 6:
        gaps = [ideas for ideas in rubric.must_mention if not _names_one(text, ideas)]
        missing += [f"idea: {ideas[0]}" for ideas in gaps]
        parts.append(1 - len(gaps) / len(rubric.must_mention) if rubric.must_mention else 0.0)
    if criterion in _SIGNS and (category == "design" or not parts):
        parts.append(sum(bool(re.search(sign, text, re.IGNORECASE)) for sign in _SIGNS[criterion]) / len(_SIGNS[criterion]))
    return (sum(parts) / len(parts) if parts else 0.0), missing


def _names_one(text: str, spellings: Iterable[str]) -> bool:
    plain = f" {normal(text)} "
    return any(f" {normal(spelling)}" in plain for spelling in spellings)
