"""Names as people write them -> names as they are drawn: case, punctuation, abbreviations and slips of reading are forgiven.

Matching is one to one and exact first, so that a slip never takes a name that somebody else spelled right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

SLIP = 0.2  # share of characters that may be misread; field practice for text read from pictures
_ALIASES = {
    "db": "database", "databases": "database", "dbs": "database", "svc": "service", "srv": "service", "services": "service",
    "gw": "gateway", "mq": "queue", "msg": "message", "msgs": "message", "repo": "repository", "auth": "authentication",
    "authn": "authentication", "cfg": "config", "mgr": "manager", "notif": "notification", "notifs": "notification",
    "notifications": "notification", "postgresql": "postgres", "k8s": "kubernetes", "redis cache": "redis",
}  # fmt: skip
_PHRASES = {"load balancer": "lb", "loadbalancer": "lb", "message queue": "queue", "content delivery network": "cdn"}
TECHNOLOGIES = (
    "redis", "memcached", "kafka", "rabbitmq", "sqs", "kinesis", "pulsar", "nats", "pub/sub", "postgres", "postgresql", "mysql", "mariadb",
    "mongodb", "cassandra", "scylladb", "dynamodb", "cockroachdb", "spanner", "bigtable", "hbase", "couchbase", "neo4j", "elasticsearch",
    "opensearch", "solr", "snowflake", "bigquery", "redshift", "clickhouse", "druid", "s3", "minio", "gcs", "nginx", "haproxy", "envoy",
    "cloudfront", "fastly", "akamai", "cloudflare", "varnish", "lambda", "airflow", "spark", "flink", "zookeeper", "etcd", "consul",
    "vault", "prometheus", "grafana", "datadog", "jaeger", "istio", "kong", "keycloak", "auth0", "okta", "temporal", "celery",
    "aurora", "milvus",
)  # fmt: skip


@lru_cache(maxsize=65_536)
def normal(name: str) -> str:
    """Lower case, words apart, abbreviations spelled one way: "Orders-DB" and "orders database" agree."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", name)
    text = re.sub(r"[^\w]+|_+", " ", text.lower()).strip()
    for phrase, short in _PHRASES.items():
        text = re.sub(rf"\b{phrase}\b", short, text)
    return " ".join(_ALIASES.get(word, word) for word in text.split())


def match_names(found: Sequence[str], known: Sequence[str]) -> dict[int, int]:
    """Index in `found` -> index in `known`, one to one: equal names first, then the least misread.

    A slip may change at most `SLIP` of the characters and none of the digits: "db-1" is not "db-2".
    """
    left = [normal(name) for name in found]
    right = [normal(name) for name in known]
    pairs: dict[int, int] = {}
    free = set(range(len(right)))
    for squeeze in (False, True):
        for i, name in enumerate(left):
            if i in pairs or not name:
                continue
            hit = next((j for j in sorted(free) if _same(name, right[j], squeeze)), None)
            if hit is not None:
                pairs[i] = hit
                free.discard(hit)
    near = []
    for i, name in enumerate(left):
        if i in pairs:
            continue
        for j in free:
            limit = int(SLIP * max(len(name), len(right[j])))
            if limit and re.findall(r"\d+", name) == re.findall(r"\d+", right[j]) and (away := distance(name, right[j], limit)) <= limit:
                near.append((away, i, j))
    for _, i, j in sorted(near):
        if i not in pairs and j in free:
            pairs[i] = j
            free.discard(j)
    return pairs


def distance(a: str, b: str, limit: int) -> int:
    """Edits (insert, delete, replace) from `a` to `b`; `limit + 1` as soon as it must be more."""
    if abs(len(a) - len(b)) > limit:
        return limit + 1
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
        if min(row) > limit:
            return limit + 1
    return row[-1]


def mentioned(text: str, names: Iterable[str]) -> list[str]:
    """Which of `names` stand in `text`, in order of first mention. A longer name hides a shorter one inside it."""
    plain = f" {_words(text)} "
    taken = [False] * len(plain)
    hits = []
    for name in sorted(set(names), key=lambda name: (-len(normal(name)), name)):
        for spelling in dict.fromkeys((normal(name), _words(name))):
            if not spelling:
                continue
            start = plain.find(f" {spelling} ")
            while start >= 0:
                span = range(start + 1, start + 1 + len(spelling))
                if not any(taken[i] for i in span):
                    for i in span:
                        taken[i] = True
                    hits.append((start, name))
                start = plain.find(f" {spelling} ", start + 1)
    return list(dict.fromkeys(name for _, name in sorted(hits)))


def foreign_technologies(text: str, allowed: str) -> list[str]:
    """Well-known products that `text` names and `allowed` (the graph and the question) does not: candidates for inventions."""
    given = f" {_words(allowed)} "
    return [name for name in mentioned(text, TECHNOLOGIES) if f" {normal(name)} " not in given and f" {_words(name)} " not in given]


def _same(a: str, b: str, squeeze: bool) -> bool:
    return a.replace(" ", "") == b.replace(" ", "") if squeeze else a == b


def _words(text: str) -> str:
    return normal(text)
