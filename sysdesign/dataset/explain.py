"""A row's id -> where it is from, as markdown: the conversation and its teacher, the graph and its picture, the seed prompt."""

from __future__ import annotations

import difflib
import re
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
    lines, shown = [f"# {row_id}", ""], ""
    if dropped is not None:
        lines += [f"Rejected from `dataset-{dataset.key[:12]}`: `{dropped.reason}`: {dropped.detail}"]
        lines += ["", "```", str(dropped.record), "```"] if dropped.record else []
        talk_id = row_id
    else:
        row = _find(row_id, dataset)
        lines += [f"In **{row.split}** of `dataset-{dataset.key[:12]}`; kind of question: {row.family}; {row.n_tokens} tokens,"]
        lines += [f"{row.n_image_tokens} of them pictures, {row.n_trained_tokens} learned."]
        talk_id, shown = row.conversation_id, row.images[0] if row.images else ""
    if own := re.fullmatch(r"(extra|replay)(\d+)-(\d+)", talk_id):
        kind, file, line = own[1], int(own[2]), own[3]
        lines += ["", f"Your own data: `{dataset.manifest.config[kind]['paths'][file]}`, row {line} (blank lines are not counted)."]
        return "\n".join(lines) + "\n"
    talk = _talk(talk_id, conversations)
    if talk is not None:
        lines += _told(talk, conversations, diagrams, shown)
    return "\n".join(lines) + "\n"


def _told(talk: Conversation, conversations: Artifact, diagrams: Artifact, shown: str) -> list[str]:
    lines = ["", f"## Conversation {talk.id}", ""]
    lines += [f"Teacher: {talk.teacher} ({talk.provider}), in `conversations-{conversations.key[:12]}`.", ""]
    for turn in talk.turns:
        lines += [f"- **{turn.family}** ({turn.structure}): {turn.question}", f"  - {' '.join(turn.answer.split())}"]
        lines += [f"  - `{fact.name}` = {fact.value} {fact.unit or ''} by rule `{fact.rule}`".rstrip() for fact in turn.facts]
    if talk.diagram_id is not None:
        diagram = next((d for d in read_jsonl(diagrams.path / "diagrams.jsonl", DiagramRecord) if d.id == talk.diagram_id), None)
        if diagram is None:
            return [*lines, "", f"## Diagram {talk.diagram_id}", "", "There is none of this id."]
        graph = diagram.graph
        lines += ["", f"## Diagram {diagram.id}", "", f"{graph.title}: {len(graph.components)} components, {len(graph.edges)} edges, style"]
        lines += [f"{diagram.style}; picture `{diagrams.path / diagram.image}`; graph `{diagram.graph_sha256[:12]}`, topology"]
        lines += [f"`{diagram.topology[:12]}`" + (f"; shown to the model as `{shown}`." if shown else ".")]
    seed = next((prompt for prompt in seed_prompts() if prompt.id == talk.seed_id), None)
    return [*lines, "", f"## Seed prompt {talk.seed_id}", "", seed.prompt.strip() if seed else "Not one of the released seed prompts."]


def _talk(talk_id: str, conversations: Artifact) -> Conversation | None:
    """By its id, or, for a line that was rejected before its id was known, `conversation-<line>`."""
    line = re.fullmatch(r"conversation-(\d+)", talk_id)
    talks = enumerate(read_jsonl(conversations.path / "conversations.jsonl", Conversation), start=1)
    return next((talk for number, talk in talks if talk.id == talk_id or (line and number == int(line[1]))), None)


def _find(row_id: str, dataset: Artifact) -> Row:
    known = []
    probes = read_jsonl(dataset.path / "probes.jsonl", Row)
    for row in chain(*(iter_split(dataset, split) for split in SPLITS), probes):
        if row.id == row_id:
            return row
        known.append(row.id)
    near = difflib.get_close_matches(row_id, known, 3) or known[:3]
    raise InputError("row", "must be an id in rows/, probes.jsonl or rejected.jsonl", f"for example {', '.join(near)}", row_id)
