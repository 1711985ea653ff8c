"""Rows -> one Parquet file a split, written in groups, for `datasets.load_dataset`, DuckDB or a spreadsheet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from sysdesign.records import Row


class Table:
    """`hf/<split>/data.parquet` in the making; holds one group of rows at a time, and replaces the file when closed."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        part = pa.struct([("type", pa.string()), ("text", pa.string())])
        message = pa.struct([("role", pa.string()), ("content", pa.list_(part))])
        texts = ("id", "split", "conversation_id", "diagram_id", "graph_sha256", "topology", "style", "seed_id", "provider", "family")
        counts = ("n_tokens", "n_image_tokens", "n_trained_tokens")
        self._schema = pa.schema(
            [
                *((name, pa.string()) for name in texts),
                ("messages", pa.list_(message)),
                ("images", pa.list_(pa.string())),
                ("check", pa.string()),
                ("facts", pa.string()),
                *((name, pa.int64()) for name in counts),
            ]
        )
        self._plain = (*texts, *counts)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._partial = path, path.with_suffix(".tmp")
        self._writer: Any = pq.ParquetWriter(self._partial, self._schema, compression="zstd")

    def __enter__(self) -> Table:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)

    def add(self, rows: Sequence[Row]) -> None:
        """One row group."""
        import pyarrow as pa

        if rows:
            self._writer.write_table(pa.Table.from_pylist([self._flat(row) for row in rows], schema=self._schema))

    def _flat(self, row: Row) -> dict[str, Any]:
        flat: dict[str, Any] = {name: getattr(row, name) for name in self._plain}
        messages = [
            {"role": m["role"], "content": [{"type": p["type"], "text": p.get("text")} for p in m["content"]]} for m in row.messages
        ]
        check = row.check.model_dump_json() if row.check else None
        facts = json.dumps([fact.model_dump(mode="json") for fact in row.facts])
        return {**flat, "messages": messages, "images": list(row.images), "check": check, "facts": facts}
