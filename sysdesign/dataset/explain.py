"""A row's id -> where it is from, as markdown: the conversation and its teacher, the graph and its picture, the seed prompt."""

from __future__ import annotations

import difflib
from itertools import chain

from sysdesign.artifacts import Artifact
from sysdesign.errors import InputError
from sysdesign.models.rows import Split, iter_split
from sysdesign.prompts import seed_prompts
from sysdesign.records import Conversation, DiagramRecord, Rejected, Row, read_jsonl

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def explain(row_id: str, dataset: Artifact, conversations: Artifact, diagrams: Artifact) -> str:
    """The whole way back from one row, probe or rejected row. Raises InputError with the nearest ids when there is no such row."""
    dropped = next((one for one in read_jsonl(dataset.path / "rejected.jsonl", Rejected) if one.id == row_id), None)
    if dropped is not None:
        said = f"\n\n```\n{dropped.record}\n```" if dropped.record else ""
        return f"# {row_id}\n\nRejected: `{dropped.reason}`: {dropped.detail}{said}\n"
    row = _find(row_id, dataset)
    lines = [
        f"# {row.id}",
        "",
        f"In **{row.split}** of `dataset-{dataset.key[:12]}`; kind of question: {row.family}; {row.n_tokens} tokens,",
    ]
    lines += [f"{row.n_image_tokens} of them pictures, {row.n_trained_tokens} learned.", ""]
    if row.provider == "user":
        return "\n".join([*lines, f"Your own data: {row.conversation_id} (file and line).", ""])
    talk = next(c for c in read_jsonl(conversations.path / "conversations.jsonl", Conversation) if c.id == row.conversation_id)
    lines += [
        f"## Conversation {talk.id}",
        "",
        f"Teacher: {talk.teacher} ({talk.provider}), in `conversations-{conversations.key[:12]}`.",
        "",
    ]
    for turn in talk.turns:
        lines += [f"- **{turn.family}** ({turn.structure}): {turn.question}", f"  - {' '.join(turn.answer.split())}"]
        lines += [f"  - `{fact.name}` = {fact.value} {fact.unit or ''} by rule `{fact.rule}`".rstrip() for fact in turn.facts]
    if talk.diagram_id is not None:
        diagram = next(d for d in read_jsonl(diagrams.path / "diagrams.jsonl", DiagramRecord) if d.id == talk.diagram_id)
        graph = diagram.graph
        lines += ["", f"## Diagram {diagram.id}", "", f"{graph.title}: {len(graph.components)} components, {len(graph.edges)} edges, style"]
        lines += [f"{diagram.style}; picture `{diagrams.path / diagram.image}`; graph `{diagram.graph_sha256[:12]}`, topology"]
        lines += [f"`{diagram.topology[:12]}`; shown to the model as `{row.images[0] if row.images else ''}`."]
    seed = next((prompt for prompt in seed_prompts() if prompt.id == talk.seed_id), None)
    lines += ["", f"## Seed prompt {talk.seed_id}", "", seed.prompt.strip() if seed else "Not one of the released seed prompts."]
    return "\n".join(lines) + "\n"


def _find(row_id: str, dataset: Artifact) -> Row:
    known = []
    probes = read_jsonl(dataset.path / "probes.jsonl", Row)
    for row in chain(*(iter_split(dataset, split) for split in SPLITS), probes):
        if row.id == row_id:
            return row
        known.append(row.id)
    near = difflib.get_close_matches(row_id, known, 3) or known[:3]
    raise InputError("row", "must be an id in rows/, probes.jsonl or rejected.jsonl", f"for example {', '.join(near)}", row_id)
