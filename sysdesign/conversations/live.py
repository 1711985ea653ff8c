"""Offline drafts -> the same conversations in a language model's words: ordered, quoted, bought through the ledger, read back.

The model gets the graph as text with the computed facts (cheaper than the picture, and it cannot misread it); a share of the requests
also carries the picture. It may change every word and no fact: the sieve that follows trusts nothing it wrote.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from sysdesign.config.conversations import ClaudeTeacherConfig, OpenAITeacherConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.conversations.families.catalogue import FAMILIES
from sysdesign.conversations.names import bare, foreign_names
from sysdesign.conversations.structures import stated
from sysdesign.errors import ConfigError, LimitError, ServiceError
from sysdesign.models.batches import buy_batch
from sysdesign.models.paid import Answer, NotTaken, Request, Spender, open_ledger, open_provider, stale_prices
from sysdesign.models.quote import Job, quote
from sysdesign.prompts import read_prompt
from sysdesign.records import Conversation, DiagramRecord, Rejected

PREFIX_BYTES = 18_000  # above 4,096 tokens, the largest minimum that a provider has asked of a cacheable prefix
SAMPLE = 20  # requests whose tokens are counted for the quote
THINKING_TOKENS = {"low": 500, "medium": 1500, "high": 4000}  # assumed for the quote; the bill counts the real ones
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
Teacher = ClaudeTeacherConfig | OpenAITeacherConfig


def rewrite(
    cfg: Teacher, drafts: Sequence[Conversation], diagrams: Mapping[str, DiagramRecord], folder: Path, runtime: RuntimeConfig, seed: int
) -> tuple[list[Conversation], list[Rejected], float]:
    """The drafts in the teacher's words, the drafts it could not word, and the dollars that are now committed in the ledger.

    Raises ConfigError (terms not confirmed, unknown or retired model), LimitError (no budget, not confirmed, or the cap is reached
    before anything was bought), ServiceError (no key, refused, unreachable).
    """
    kind = "anthropic" if isinstance(cfg, ClaudeTeacherConfig) else "chat" if cfg.api == "chat" else "openai"
    if kind != "chat" and not cfg.i_have_read_provider_terms:
        raise ConfigError(
            "conversations.teacher.i_have_read_provider_terms",
            "must be true: providers restrict training competing models on their outputs",
            "read your provider's terms, then pass --conversations.teacher.i_have_read_provider_terms true, or use the offline teacher",
            False,
        )
    provider = open_provider(kind, cfg.model, key_env=cfg.api_key_env, base_url=cfg.base_url, effort=cfg.effort, cache=cfg.cache)  # type: ignore[arg-type]
    ledger = open_ledger(Path(runtime.store), runtime.budget_usd if kind != "chat" else max(runtime.budget_usd, 1e-6))
    try:
        prefix = shared_prefix(drafts)
        requests = {d.id: order(d, diagrams.get(d.diagram_id or ""), folder, prefix, cfg) for d in drafts}
        spender = Spender(provider, ledger, cached=cfg.cache)
        wanted = {name: r for name, r in requests.items() if ledger.reply(spender.key(r)) is None}
        if wanted:
            spender.prefix_tokens = provider.count(Request(prefix=prefix, text="x", max_tokens=1)) if kind != "chat" else None
            _agree(spender, wanted, drafts, cfg, runtime)
        replies = _buy(spender, requests, cfg, "batch" if cfg.mode == "batch" and kind != "chat" else "live")
        made, lost = read_all(drafts, replies, diagrams, f"{cfg.model}+rules-v1", provider.name)
        return made, lost, ledger.totals().committed / 1e6
    finally:
        ledger.close()
        provider.close()


def shared_prefix(drafts: Sequence[Conversation]) -> str:
    """The teacher's prompt, the rule behind each kind of question, and drafts as examples, up to a cacheable length."""
    lines = [read_prompt("conversations/teacher.v1.md"), "", "# How each kind of question is answered", ""]
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
    if diagram is not None and int(hashlib.sha256(draft.id.encode()).hexdigest()[:8], 16) / 2**32 < cfg.image_share:
        images = (folder / diagram.image,)
    return Request(
        prefix=prefix, text=json.dumps(data, ensure_ascii=False), images=images, reply_schema=REPLY_SCHEMA, max_tokens=cfg.max_tokens
    )


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
        said = [(int(t["task"]), str(t["question"]), str(t["answer"])) for t in json.loads(reply.text)["turns"]]
    except (ValueError, KeyError, TypeError) as error:
        return bad("format", f"not the asked JSON: {error!r}")
    if [task for task, _, _ in said] != list(range(1, len(draft.turns) + 1)):
        return bad("format", f"tasks {[task for task, _, _ in said]} for {len(draft.turns)} asked")
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


def _agree(spender: Spender, wanted: Mapping[str, Request], drafts: Sequence[Conversation], cfg: Teacher, runtime: RuntimeConfig) -> None:
    """Quote what is still to be bought, and go on only with a yes. Raises LimitError without one."""
    names = sorted(wanted)[:: max(1, len(wanted) // SAMPLE)][:SAMPLE]
    counted = [spender.provider.count(wanted[name]) for name in names]
    prefix = spender.prefix_tokens or 0
    length = {d.id: sum(len(t.question) + len(t.answer) for t in d.turns) for d in drafts}
    visible = sum(length[n] for n in names) * 1.5 / 4 / len(names)
    mean = sum(counted) / len(counted)
    reply = min(cfg.max_tokens, round(visible) + THINKING_TOKENS[cfg.effort])
    job = Job(requests=len(wanted), prefix=prefix, own=max(0, round(mean) - prefix), reply=reply, max_tokens=cfg.max_tokens)
    text = quote(spender.provider.price, job, in_flight=cfg.concurrency).lines(cfg.model, job)
    totals = spender.ledger.totals()
    text += f"\n  ledger        ${totals.committed / 1e6:.2f} committed, cap ${spender.ledger.cap / 1e6:.2f}; mode {cfg.mode}"
    if (warning := stale_prices()) is not None:
        text += f"\n  warning: {warning}"
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
    if runtime.yes:
        return
    if not sys.stdin.isatty():
        raise LimitError("runtime.yes", "nobody is there to accept the quote", "look at the quote above, then add --runtime.yes true")
    sys.stderr.write("Spend it? Type yes: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() != "yes":
        raise LimitError("the quote", "was not accepted", "nothing was spent")


def _buy(spender: Spender, requests: Mapping[str, Request], cfg: Teacher, mode: str) -> dict[str, Answer | NotTaken]:
    from tqdm import tqdm

    with tqdm(total=len(requests), desc=f"conversations ({cfg.model}, {mode})", unit="conv", disable=None) as bar:

        def show(done: int, rejected: int = 0) -> None:
            spent = spender.ledger.totals().committed / 1e6
            projected = spent / done * len(requests) if done else 0.0
            bar.set_postfix_str(f"rejected {rejected}, spent ${spent:.2f}, projected ${projected:.2f}")
            bar.update(done - bar.n)

        if mode == "batch":
            return buy_batch(spender, requests, progress=show)
        return buy_live(spender, requests, cfg.concurrency, show)


def buy_live(
    spender: Spender, requests: Mapping[str, Request], in_flight: int, show: Any = lambda done, rejected: None
) -> dict[str, Answer | NotTaken]:
    """Live calls, at most `in_flight` at once and fewer when the rate-limit headers leave less room.

    A request without a reply within the patience is a reject; a full ledger stops the buying and keeps what was bought. Raises
    LimitError when not even one could be bought, ServiceError when the provider refuses for good.
    """
    found: dict[str, Answer | NotTaken] = {}
    waiting, rejected = list(requests.items())[::-1], 0
    stop: ServiceError | LimitError | None = None
    with ThreadPoolExecutor(in_flight) as pool:
        running: dict[Future[Answer], str] = {}
        while waiting or running:
            room = spender.provider.room()
            most = in_flight if room is None else max(1, min(in_flight, int(room)))
            while waiting and len(running) < most and stop is None:
                name, request = waiting.pop()
                running[pool.submit(spender.buy, request)] = name
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                try:
                    found[name] = future.result()
                except ServiceError as error:
                    if "must accept" in error.law:
                        stop = stop or error
                    found[name], rejected = NotTaken(why=str(error)), rejected + 1
                except LimitError as error:
                    stop = stop or error
                    found[name], rejected = NotTaken(why="over the cap"), rejected + 1
            show(len(found), rejected)
    if stop is not None and (isinstance(stop, ServiceError) or not any(isinstance(a, Answer) for a in found.values())):
        raise stop
    return found
