"""From a technology to its icon, as the `diagrams` package ships it: looked up once, scaled once, pasted often."""

from __future__ import annotations

import importlib
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sysdesign.diagrams.vocabulary import TECHNOLOGIES, TYPE_ICONS
from sysdesign.errors import ToolError
from sysdesign.graph import ComponentType

if TYPE_CHECKING:
    from PIL.Image import Image

_BY_NAME = {name.casefold(): icon for known in TECHNOLOGIES.values() for name, _, icon in known}
# Other spellings that prompts use.
_BY_NAME |= {
    "kafka": "onprem.queue:Kafka", "sqs": "aws.integration:SQS", "s3": "aws.storage:S3", "gcs": "gcp.storage:GCS",
    "aurora": "aws.database:Aurora",
    "druid": "onprem.database:Druid", "nlb": "aws.network:NLB", "redis cluster": "onprem.inmemory:Redis",
    "aerospike": "onprem.inmemory:Aerospike",
    "postgresql pgvector": "onprem.database:PostgreSQL", "emqx": "onprem.queue:Emqx", "etcd": "onprem.network:Etcd",
    "flink": "onprem.analytics:Flink",
    "spark": "onprem.analytics:Spark", "influxdb": "onprem.database:InfluxDB", "hbase": "onprem.database:HBase",
    "couchbase": "onprem.database:Couchbase",
    "splunk": "onprem.monitoring:Splunk", "trino": "onprem.analytics:Trino", "presto": "onprem.analytics:Presto",
    "spanner": "gcp.database:Spanner",
    "elasticache": "aws.database:Elasticache", "timescaledb": "onprem.database:PostgreSQL", "qdrant": "onprem.database:Qdrant",
    "nats": "onprem.queue:Nats",
    "mqtt broker": "onprem.queue:Emqx", "hazelcast": "onprem.inmemory:Hazelcast", "consul": "onprem.network:Consul",
    "zookeeper": "onprem.network:Zookeeper",
}  # fmt: skip


def icon_name(kind: ComponentType, technology: str | None) -> str:
    """`module:Class` in the `diagrams` package; the icon of the type where the technology has none."""
    return _BY_NAME.get((technology or "").casefold(), TYPE_ICONS[kind])


@lru_cache(maxsize=1024)
def icon(name: str, size_px: int) -> Image:
    """The icon, RGBA, fitted into a square of `size_px`. Raises ToolError when the package or the icon is missing."""
    from PIL import Image

    picture = _original(name)
    scale = size_px / max(picture.size)
    fitted = picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS, reducing_gap=2.0
    )
    square = Image.new("RGBA", (size_px, size_px), (0, 0, 0, 0))
    square.paste(fitted, ((size_px - fitted.width) // 2, (size_px - fitted.height) // 2))
    return square


@lru_cache(maxsize=256)
def _original(name: str) -> Image:
    from PIL import Image

    module, _, kind = name.partition(":")
    try:
        node = getattr(importlib.import_module(f"diagrams.{module}"), kind)
        spec = importlib.util.find_spec("diagrams")
        if spec is None or spec.origin is None:
            raise ImportError("no module named diagrams")
        # the class knows its file: _icon_dir is relative to the folder that holds the package
        with Image.open(Path(spec.origin).parents[1] / node._icon_dir / node._icon) as opened:
            picture = opened.convert("RGBA")
            picture.thumbnail((192, 192), Image.Resampling.LANCZOS)
            return picture
    except (ImportError, AttributeError, OSError) as err:
        raise ToolError(f"icon {name}", f"must be in the `diagrams` package ({err})", "`pip install diagrams==0.25.1`") from None
