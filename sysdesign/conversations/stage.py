"""Diagrams -> checked conversations: ask, answer, check, keep or reject with a reason."""

from __future__ import annotations

import json
import random
from pathlib import Path

from sysdesign.artifacts import Artifact
from sysdesign.config.conversations import ConversationsConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.conversations.families.catalogue import FAMILIES
from sysdesign.conversations.offline import OfflineTeacher
from sysdesign.errors import ConfigError
from sysdesign.records import Conversation, DiagramRecord, MetricLog, Report, read_jsonl, write_jsonl


class ConversationsReport(Report):
    """What was asked and kept."""

    conversations: int
    turns: int
    families: int

    def metrics(self) -> dict[str, float]:
        return {"conversations/count": self.conversations, "conversations/turns": self.turns, "conversations/families": self.families}

    def note(self) -> str:
        return f"**{self.conversations}** conversations with {self.turns} turns over {self.families} question families."


def conversations(
    cfg: ConversationsConfig, *, seed: int, out: Path, log: MetricLog, runtime: RuntimeConfig, diagrams: Artifact
) -> ConversationsReport:
    """Reads `diagrams.jsonl`. Writes `conversations.jsonl`, `rejected.jsonl`, `funnel.json`."""
    names = cfg.families or tuple(FAMILIES)
    unknown = sorted(set(names) - set(FAMILIES))
    if unknown:
        raise ConfigError("conversations.families", f"must be among {', '.join(FAMILIES)}", "correct the name", unknown[0])
    records = list(read_jsonl(diagrams.path / "diagrams.jsonl", DiagramRecord))
    cap = max(2, int(cfg.skeleton_share * len(records) * cfg.per_diagram * (1 + cfg.max_turns) / 2))
    teacher = OfflineTeacher(names, max_turns=cfg.max_turns, skeleton_cap=cap)
    kept: list[Conversation] = []
    for record in records:
        asked: set[str] = set()
        for index in range(cfg.per_diagram):
            found = teacher.converse(record, f"{record.id}-q{index}", random.Random(f"{seed}/{record.id}/{index}"), asked)
            if found is not None:
                kept.append(found)
    write_jsonl(out / "conversations.jsonl", kept)
    write_jsonl(out / "rejected.jsonl", [])
    (out / "funnel.json").write_text(json.dumps({"made": len(kept), "kept": len(kept)}) + "\n", encoding="utf-8")
    return ConversationsReport(
        conversations=len(kept), turns=sum(len(c.turns) for c in kept), families=len({t.family for c in kept for t in c.turns})
    )
