"""Checked conversations -> those that a language model also finds fit to be taught: the last and dearest check, off by default.

One structured verdict a conversation, bought like a teacher's replies: quoted, agreed to, through the same ledger, live or in batches,
never paid twice. A reject needs a quote that really is in the conversation; what is no such verdict leaves the conversation unjudged,
which is counted and treated as `judge.unjudged` says.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sysdesign.config.conversations import (
    ClaudeTeacherConfig,
    ConversationsConfig,
    JudgeConfig,
    NoJudgeConfig,
    OfflineTeacherConfig,
    OpenAITeacherConfig,
)
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.conversations.live import seen_graph
from sysdesign.conversations.purchase import THINKING_TOKENS, acquire
from sysdesign.errors import ConfigError
from sysdesign.models.paid import Answer, NotTaken, Request, Spender, open_ledger, open_provider
from sysdesign.models.prices import read_prices
from sysdesign.models.quote import Job, quote
from sysdesign.prompts import read_prompt
from sysdesign.records import Conversation, DiagramRecord, Rejected

VERDICT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "verdict": {"type": "string", "enum": ["keep", "reject"]},
        "quote": {"type": "string"},
        "reason": {"type": "string"},
    },
    "required": ["verdict", "quote", "reason"],
    "additionalProperties": False,
}
VISIBLE_TOKENS = 60  # of a verdict


@dataclass
class Judge:
    """A judge that was found fit before anything was bought. After `__call__`, `spent_usd` and `counts` say what it did."""

    cfg: JudgeConfig
    runtime: RuntimeConfig
    diagrams: Mapping[str, DiagramRecord]
    spent_usd: float | None = None
    counts: dict[str, int] = field(default_factory=dict)

    def __call__(self, conversations: Sequence[Conversation]) -> tuple[list[Conversation], list[Rejected]]:
        """Those to keep, and the others with the judge's quote and reason. Raises as a teacher's purchase does."""
        requests = {c.id: order(c, self.diagrams.get(c.diagram_id or ""), self.cfg) for c in conversations}
        replies = self._buy(requests) if requests else {}
        kept: list[Conversation] = []
        rejected: list[Rejected] = []
        counts: Counter[str] = Counter()
        for conversation in conversations:
            verdict, why = read(conversation, replies[conversation.id])
            counts[verdict] += 1
            if verdict == "keep" or (verdict == "unjudged" and self.cfg.unjudged == "keep"):
                kept.append(conversation)
                continue
            reason, record = "judge" if verdict == "reject" else "unjudged", conversation.model_dump(mode="json", exclude_defaults=True)
            rejected.append(Rejected(id=conversation.id, reason=reason, detail=why[:300], record=record))
        self.counts = {name: counts[name] for name in ("keep", "reject", "unjudged")}
        return kept, rejected

    def expect(self, drafts: Sequence[Conversation]) -> str:
        """A line for the quote of a live teacher: what judging every draft would cost, by the size of the texts."""
        size = sum(len(order(d, self.diagrams.get(d.diagram_id or ""), self.cfg).text) for d in drafts) // (4 * max(1, len(drafts)))
        own = size + len(read_prompt("conversations/judge.v1.md")) // 4
        reply = min(self.cfg.max_tokens, VISIBLE_TOKENS + THINKING_TOKENS[self.cfg.effort])
        job = Job(requests=len(drafts), prefix=0, own=own, reply=reply, max_tokens=self.cfg.max_tokens)
        found = quote(read_prices().price(self.cfg.model, provider_kind(self.cfg), "conversations.judge.model"), job)
        batch = self.cfg.mode == "batch"
        usd, worst = (found.batch, found.worst_batch) if batch else (found.live, found.worst_live)
        return (
            f"  then the judge, {self.cfg.model}: about ${usd:.2f} ({self.cfg.mode}), at worst ${worst:.2f}, quoted again when it is due\n"
        )

    def _buy(self, requests: Mapping[str, Request]) -> dict[str, Answer | NotTaken]:
        cfg = self.cfg
        provider = _provider(cfg)
        try:
            ledger = open_ledger(Path(self.runtime.store), self.runtime.budget_usd)
            try:
                visible = dict.fromkeys(requests, VISIBLE_TOKENS)
                replies = acquire(Spender(provider, ledger), requests, visible, cfg, self.runtime, cfg.mode)
                self.spent_usd = ledger.totals().committed / 1e6
                return replies
            finally:
                ledger.close()
        finally:
            provider.close()


def open_judge(cfg: ConversationsConfig, diagrams: Mapping[str, DiagramRecord], runtime: RuntimeConfig) -> Judge | None:
    """The judge that the configuration asks for, or None. Called before a teacher is paid, so that its faults cost nothing.

    Raises ConfigError (terms not confirmed, the teacher's own family, unknown or retired model), LimitError (no budget), ServiceError (no
    key).
    """
    judge, teacher = cfg.judge, cfg.teacher
    if isinstance(judge, NoJudgeConfig):
        return None
    if not judge.i_have_read_provider_terms:
        raise ConfigError(
            "conversations.judge.i_have_read_provider_terms",
            "must be true: providers restrict training competing models on their outputs, and a verdict decides what is trained on",
            "read the provider's terms, then pass --conversations.judge.i_have_read_provider_terms true, or use judge.kind none",
            False,
        )
    own = not isinstance(teacher, OfflineTeacherConfig) and (
        (judge.kind == "claude" and isinstance(teacher, ClaudeTeacherConfig))
        or (judge.kind == "openai" and isinstance(teacher, OpenAITeacherConfig) and teacher.api == "responses")
    )
    if own:
        law = "must be of another family than the teacher: models prefer their own style"
        raise ConfigError("conversations.judge.kind", law, "choose the other provider, or judge.kind none", judge.kind)
    open_ledger(Path(runtime.store), runtime.budget_usd).close()
    _provider(judge).close()
    return Judge(judge, runtime, diagrams)


def provider_kind(cfg: JudgeConfig) -> Any:
    return "anthropic" if cfg.kind == "claude" else "openai"


def _provider(cfg: JudgeConfig) -> Any:
    env = cfg.api_key_env or ("ANTHROPIC_API_KEY" if cfg.kind == "claude" else "OPENAI_API_KEY")
    where = "conversations.judge"
    return open_provider(provider_kind(cfg), cfg.model, key_env=env, base_url=cfg.base_url, effort=cfg.effort, cache=False, where=where)


def order(conversation: Conversation, diagram: DiagramRecord | None, cfg: JudgeConfig) -> Request:
    """The request for one verdict: the picture as text, and the turns."""
    turns = [{"question": turn.question, "answer": turn.answer} for turn in conversation.turns]
    data: dict[str, Any] = ({} if diagram is None else seen_graph(diagram)) | {"turns": turns}
    text = json.dumps(data, ensure_ascii=False)
    return Request(prefix=read_prompt("conversations/judge.v1.md"), text=text, reply_schema=VERDICT_SCHEMA, max_tokens=cfg.max_tokens)


def read(conversation: Conversation, reply: Answer | NotTaken) -> tuple[str, str]:
    """`keep`, `reject` or `unjudged`, and why. A reject whose quote is not in the conversation is no verdict."""
    if isinstance(reply, NotTaken):
        return "unjudged", reply.why
    if reply.finish != "stop":
        return "unjudged", reply.finish
    try:
        said = json.loads(reply.text)
        verdict, quoted, reason = said["verdict"], said["quote"], said["reason"]
    except (ValueError, KeyError, TypeError):
        return "unjudged", "not the asked JSON"
    if verdict not in ("keep", "reject") or not isinstance(quoted, str) or not isinstance(reason, str):
        return "unjudged", "not the asked JSON"
    if verdict == "keep":
        return "keep", ""
    whole = _plain(" ".join(f"{t.question} {t.answer}" for t in conversation.turns))
    if not (words := _plain(quoted)) or words not in whole:
        return "unjudged", f"rejected with a quote that is not there: {quoted}"
    return "reject", f'"{quoted}": {reason}'


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
