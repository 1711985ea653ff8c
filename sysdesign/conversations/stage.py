"""Stage `conversations`: diagrams and seed prompts -> checked conversations: ask, answer, check, keep or reject with a reason."""

from __future__ import annotations

import json
from pathlib import Path

from sysdesign.artifacts import Artifact
from sysdesign.config.conversations import ConversationsConfig, OfflineTeacherConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.conversations.card import card
from sysdesign.conversations.drafts import chosen_families, draft
from sysdesign.conversations.judge import open_judge
from sysdesign.conversations.sieve import sieve
from sysdesign.errors import LimitError
from sysdesign.prompts import headline_prompts, seed_prompts
from sysdesign.records import DiagramRecord, MetricLog, Rejected, Report, read_jsonl, write_jsonl


class ConversationsReport(Report):
    """What was asked, kept and spent."""

    conversations: int
    turns: int
    families: int
    rejected: int
    text_only: int
    distinct_2: float
    largest_skeleton_share: float
    teacher: str
    spent_usd: float | None = None

    def metrics(self) -> dict[str, float]:
        """Counts, variety, and dollars where any were at stake."""
        found = {
            "count": self.conversations, "turns": self.turns, "families": self.families, "rejected": self.rejected,
            "text_only": self.text_only, "distinct_2": self.distinct_2, "largest_skeleton_share": self.largest_skeleton_share,
        }  # fmt: skip
        return {f"conversations/{k}": float(v) for k, v in found.items()} | (
            {} if self.spent_usd is None else {"cost/api_usd": self.spent_usd}
        )

    def note(self) -> str:
        """One sentence."""
        cost = "" if self.spent_usd is None else f", for ${self.spent_usd:.2f}"
        return (
            f"**{self.conversations}** conversations with {self.turns} turns over {self.families} question families by "
            f"{self.teacher}{cost}; "
            f"{self.rejected} rejected, distinct-2 {self.distinct_2:.2f}."
        )


def conversations(
    cfg: ConversationsConfig, *, seed: int, out: Path, log: MetricLog, runtime: RuntimeConfig, diagrams: Artifact
) -> ConversationsReport:
    """Ask `cfg.per_diagram` conversations about each diagram and `cfg.text_only` design questions; keep what passes every check.

    Reads: `diagrams.jsonl` (and `images/` for the audited share of a live teacher), the seed prompts, the teacher's prompt, the
    evaluation prompts. A live teacher's paid replies live in the ledger beside the artefacts (`<store>/ledger.sqlite3`): they
    outlast this stage so that none is ever bought twice.
    A judge, where one is asked for, spends from the same ledger after every other check.
    Writes: `conversations.jsonl`, `rejected.jsonl`, `funnel.json`, `card.md`.
    Raises: ConfigError (unknown family; terms not confirmed; unknown or retired model; missing key), LimitError (nothing left to
    keep; the budget would be passed), ServiceError (the provider refused).
    """
    names = chosen_families(cfg)
    records = {r.id: r for r in read_jsonl(diagrams.path / "diagrams.jsonl", DiagramRecord)}
    seeds, held_out = seed_prompts(), headline_prompts()
    drafts = draft(cfg, names, seed, list(records.values()), seeds)
    judge = open_judge(cfg, records, runtime)
    spent_usd = None
    lost: list[Rejected] = []
    audit: dict[str, int] = {}
    if isinstance(cfg.teacher, OfflineTeacherConfig):
        made = drafts
    else:
        from sysdesign.conversations.live import rewrite

        written = rewrite(cfg.teacher, drafts, records, diagrams.path, runtime, judge.expect(drafts) if judge else "")
        made, lost, spent_usd = written.made, written.lost, written.spent_usd
        disagreed = sum(r.reason == "picture_disagrees" for r in lost)
        audit = {"compared with their picture": written.audited, "disagreed": disagreed}
    result = sieve(made, records, {s.id: s for s in seeds}, held_out, cfg, judge)
    spent_usd = judge.spent_usd if judge and judge.spent_usd is not None else spent_usd
    if not result.kept:
        worst = ", ".join(f"{reason} {count}" for reason, count in result.reasons.items()) or "nothing was asked"
        raise LimitError("conversations", f"at least one conversation must pass ({worst})", "widen conversations.families or ask for more")
    write_jsonl(out / "conversations.jsonl", result.kept)
    write_jsonl(out / "rejected.jsonl", [*lost, *result.rejected])
    turns = [t for c in result.kept for t in c.turns]
    report = ConversationsReport(
        conversations=len(result.kept), turns=len(turns), families=len({t.family for t in turns}),
        rejected=len(result.rejected) + len(lost), text_only=sum(c.diagram_id is None for c in result.kept),
        distinct_2=round(result.distinct_2, 4),
        largest_skeleton_share=round(result.largest_skeleton / len(turns), 4), teacher=result.kept[0].teacher, spent_usd=spent_usd,
    )  # fmt: skip
    funnel: dict[str, object] = {
        "drafted": len(drafts),
        **result.funnel,
        "reasons": {**result.reasons, **({"not_written": len(lost)} if lost else {})},
    }
    if audit:
        funnel["audit"] = audit
    if judge:
        funnel["verdicts"] = judge.counts
    (out / "funnel.json").write_text(json.dumps(funnel, indent=2) + "\n", encoding="utf-8")
    (out / "card.md").write_text(card(result, report.note(), seed, judge.counts if judge else {}, audit), encoding="utf-8")
    log.metrics(report.metrics())
    log.file(out / "card.md")
    return report
