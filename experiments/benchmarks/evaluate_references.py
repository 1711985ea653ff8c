"""The offline teacher's own answers through the scorers -> how many right answers, in whatever shape, get full marks.

    python -m experiments.benchmarks.evaluate_references DIAGRAMS CONVERSATIONS

Both are artefact folders. What a probe's own reference answer does not reach is left out of evaluations, so a low figure here would
silently shrink the probe set.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from sysdesign.evaluate.scoring import score
from sysdesign.records import Conversation, DiagramRecord, read_jsonl


def main(diagrams: Path, conversations: Path) -> None:
    graphs = {record.id: record.graph for record in read_jsonl(diagrams / "diagrams.jsonl", DiagramRecord)}
    asked: Counter[str] = Counter()
    full: Counter[str] = Counter()
    for conversation in read_jsonl(conversations / "conversations.jsonl", Conversation):
        for turn in conversation.turns:
            found = score(turn.check, turn.answer, graph=graphs.get(conversation.diagram_id or ""), question=turn.question)
            if found.value is not None:
                asked[turn.check.kind] += 1
                full[turn.check.kind] += found.value > 0.999
    print("| kind of check | answers | full marks |\n|---|---|---|")
    for kind, total in asked.most_common():
        print(f"| {kind} | {total} | {full[kind] / total:.1%} |")
    print(f"| all | {sum(asked.values())} | {sum(full.values()) / sum(asked.values()):.1%} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
