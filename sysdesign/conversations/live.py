"""Offline drafts -> the same conversations in a language model's words: ordered, quoted, bought through the ledger, read back.

The model gets the graph as text with the computed facts (cheaper than the picture, and it cannot misread it); a share of the requests
also carries the picture. It may change every word and no fact: the sieve that follows trusts nothing it wrote.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sysdesign.config.conversations import ClaudeTeacherConfig, OpenAITeacherConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.conversations.families.catalogue import FAMILIES
from sysdesign.conversations.names import bare, foreign_names
from sysdesign.conversations.purchase import acquire
from sysdesign.conversations.structures import stated
from sysdesign.errors import ConfigError
from sysdesign.models.paid import Answer, NotTaken, Request, Spender, open_ledger, open_provider, own_host
from sysdesign.models.prices import Price
from sysdesign.prompts import read_prompt
from sysdesign.records import Conversation, DiagramRecord, Rejected

PREFIX_BYTES = 18_000  # above 4,096 tokens, the largest minimum that a provider has asked of a cacheable prefix
REPLY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "turns": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"task": {"type": "integer"}, "question": {"type": "string"}, "answer": {"type": "string"}},
                "required": ["task", "question", "answer"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["turns"],
    "additionalProperties": False,
}
# With the picture attached, the teacher also says where it contradicts the data.
AUDIT_SCHEMA: dict[str, Any] = REPLY_SCHEMA | {
    "properties": {**REPLY_SCHEMA["properties"], "disagrees": {"type": "string"}},
    "required": ["turns", "disagrees"],
}
Teacher = ClaudeTeacherConfig | OpenAITeacherConfig


@dataclass(frozen=True)
class Written:
    """What a teacher made of the drafts. `audited`: replies that saw the picture; `spent_usd`: committed in the ledger by now."""

    made: list[Conversation]
    lost: list[Rejected]
    spent_usd: float
    audited: int


def rewrite(
    cfg: Teacher,
    drafts: Sequence[Conversation],
    diagrams: Mapping[str, DiagramRecord],
    folder: Path,
    runtime: RuntimeConfig,
    after: str = "",
) -> Written:
    """The drafts in the teacher's words, as far as it could word them.

    `after`: what the quote says at its end.

    Raises ConfigError (terms not confirmed, unknown or retired model), LimitError (no budget, not confirmed, or the cap is reached
    before anything was bought), ServiceError (no key, refused, unreachable).
    """
    kind = "anthropic" if isinstance(cfg, ClaudeTeacherConfig) else "chat" if cfg.api == "chat" else "openai"
    own = kind == "chat" and own_host(cfg.base_url or "")
    if not own and not cfg.i_have_read_provider_terms:
        raise ConfigError(
            "conversations.teacher.i_have_read_provider_terms",
            "must be true: providers restrict training competing models on their outputs",
            "read your provider's terms, then pass --conversations.teacher.i_have_read_provider_terms true, or use the offline teacher",
            False,
        )
    price = chat_price(cfg) if isinstance(cfg, OpenAITeacherConfig) else None
    provider = open_provider(
        kind,  # type: ignore[arg-type]
        cfg.model,
        key_env=cfg.api_key_env,
        base_url=cfg.base_url,
        effort=cfg.effort,
        cache=cfg.cache,
        chat_price=price,
    )
    ledger = open_ledger(Path(runtime.store), max(runtime.budget_usd, 1e-6) if own and price is None else runtime.budget_usd)
    try:
        prefix = shared_prefix(drafts)
        requests = {d.id: order(d, diagrams.get(d.diagram_id or ""), folder, prefix, cfg) for d in drafts}
        visible = {d.id: sum(len(t.question) + len(t.answer) for t in d.turns) * 1.5 / 4 for d in drafts}
        mode, counts = "batch" if cfg.mode == "batch" and kind != "chat" else "live", kind != "chat"
        replies = acquire(Spender(provider, ledger), requests, visible, cfg, runtime, mode, count_prefix=counts, after=after)
        made, lost = read_all(drafts, replies, diagrams, f"{cfg.model}+rules-v1", provider.name)
        with_picture = {name for name, request in requests.items() if request.images}
        audited = sum(isinstance(replies.get(name), Answer) for name in with_picture)
        return Written(made=made, lost=lost, spent_usd=ledger.totals().committed / 1e6, audited=audited)
    finally:
        ledger.close()
        provider.close()


def chat_price(cfg: OpenAITeacherConfig) -> Price | None:
    """The price of a chat-completions server that bills; None for one's own."""
    if cfg.api != "chat" or cfg.usd_per_mtok is None:
        return None
    known = {"provider": "chat", "input": cfg.usd_per_mtok[0], "output": cfg.usd_per_mtok[1], "batch": 1.0, "source": "usd_per_mtok"}
    return Price.model_validate(known | {"cache_read": None, "cache_write": None, "cache_write_long": None})


def shared_prefix(drafts: Sequence[Conversation]) -> str:
    """The teacher's prompt, the rule behind each kind of question, and drafts as examples, up to a cacheable length."""
    lines = [read_prompt("conversations/teacher.v3.md"), "", "# How each kind of question is answered", ""]
    lines += [f"- {name}: {' '.join((family.__doc__ or '').split())}" for name, family in FAMILIES.items()]
    lines += ["", "# Examples of drafts", ""]
    text, seen = "\n".join(lines) + "\n", set()
    for draft in drafts:
        for turn in draft.turns:
            if turn.family not in seen and len(turn.answer) < 700:
                seen.add(turn.family)
                text += f"({turn.family}) Q: {turn.question}\nA: {turn.answer}\n\n"
        if len(text.encode()) > PREFIX_BYTES:
            break
    return text


def order(draft: Conversation, diagram: DiagramRecord | None, folder: Path, prefix: str, cfg: Teacher) -> Request:
    """The request for one conversation; every `1 / image_share`-th, chosen by the draft's name, carries its picture."""
    tasks = [
        {
            "id": number,
            "question": turn.question,
            "facts": [{"name": f.name, "value": f.value, **({"unit": f.unit} if f.unit else {})} for f in turn.facts],
            "answer": turn.answer,
        }
        for number, turn in enumerate(draft.turns, 1)
    ]
    data: dict[str, Any] = ({} if diagram is None else seen_graph(diagram)) | {"tasks": tasks}
    images: tuple[Path, ...] = ()
    schema = REPLY_SCHEMA
    if diagram is not None and int(hashlib.sha256(draft.id.encode()).hexdigest()[:8], 16) / 2**32 < cfg.image_share:
        images, schema = (folder / diagram.image,), AUDIT_SCHEMA
        data = {"picture_attached": True} | data
    text = json.dumps(data, ensure_ascii=False)
    return Request(prefix=prefix, text=text, images=images, reply_schema=schema, max_tokens=cfg.max_tokens)


def seen_graph(diagram: DiagramRecord) -> dict[str, Any]:
    """What the picture shows, as data: names, kinds, arrows, and only the values that are drawn."""
    graph, visible = diagram.graph, set(diagram.visible)
    names = {c.id: c.name for c in graph.components}

    def drawn(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in values.items() if f"{prefix}.{k}" in visible and v not in (None, [], ())}

    skip = {"id", "name", "type", "src", "dst", "mode", "via_cache", "entry", "zone"}
    return {
        "system": graph.title,
        "components": [
            {"name": c.name, "kind": c.type} | drawn(c.id, {k: v for k, v in c.model_dump(mode="json").items() if k not in skip})
            for c in graph.components
        ],
        "arrows": [
            {"from": names[e.src], "to": names[e.dst], "line": "dashed" if e.mode == "async" else "solid"}
            | drawn(f"edge:{i}", {k: v for k, v in e.model_dump(mode="json", exclude_defaults=True).items() if k not in skip})
            | ({"only_on_miss_of": names[e.via_cache]} if e.via_cache and f"edge:{i}.via_cache" in visible else {})
            for i, e in enumerate(graph.edges)
        ],
        "journeys": [
            {"name": f.name, "enters_at": names[f.entry]}
            | drawn(f"flow:{f.id}", {k: v for k, v in f.model_dump(mode="json").items() if k not in skip})
            for f in graph.flows
        ],
    }


def read_all(
    drafts: Sequence[Conversation],
    replies: Mapping[str, Answer | NotTaken],
    diagrams: Mapping[str, DiagramRecord],
    teacher: str,
    provider: str,
) -> tuple[list[Conversation], list[Rejected]]:
    """Replies as conversations; a draft without a usable reply is rejected with the reason, never mended."""
    made: list[Conversation] = []
    lost: list[Rejected] = []
    for draft in drafts:
        reply = replies.get(draft.id, NotTaken(why="not bought"))
        found = read(draft, reply, diagrams.get(draft.diagram_id or ""), teacher, provider)
        (made if isinstance(found, Conversation) else lost).append(found)  # type: ignore[arg-type]
    return made, lost


def read(
    draft: Conversation, reply: Answer | NotTaken, diagram: DiagramRecord | None, teacher: str, provider: str
) -> Conversation | Rejected:
    """One reply as the conversation it words: same tasks, same order, names only from the picture."""

    def bad(reason: str, detail: str) -> Rejected:
        return Rejected(id=draft.id, reason=reason, detail=detail[:300], record=reply.model_dump(mode="json"))

    if isinstance(reply, NotTaken):
        return bad("no_reply", reply.why)
    if reply.finish != "stop":
        return bad("refusal" if reply.finish == "refusal" else "cut_off", reply.finish)
    try:
        found = json.loads(reply.text)
        said = [(int(t["task"]), str(t["question"]), str(t["answer"])) for t in found["turns"]]
        disagrees = str(found.get("disagrees", "")).strip()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return bad("format", f"not the asked JSON: {error!r}")
    if [task for task, _, _ in said] != list(range(1, len(draft.turns) + 1)):
        return bad("format", f"tasks {[task for task, _, _ in said]} for {len(draft.turns)} asked")
    if disagrees:
        return bad("picture_disagrees", disagrees)
    known = (
        [c.name for c in diagram.graph.components] + [z.name for z in diagram.graph.zones] + [f.name for f in diagram.graph.flows]
        if diagram
        else []
    )
    turns = []
    for (_, question, answer), turn in zip(said, draft.turns, strict=True):
        if diagram is not None and (foreign := foreign_names(answer, known, allowed=turn.question)):
            return bad("foreign_name", "; ".join(foreign))
        text = bare(answer).strip()
        turns.append(
            turn.model_copy(
                update={"question": bare(question).strip(), "answer": text, "structure": "written", "facts": stated(turn.facts, text)}
            )
        )
    return draft.model_copy(update={"turns": tuple(turns), "provider": provider, "teacher": teacher})
