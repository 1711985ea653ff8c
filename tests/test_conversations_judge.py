"""The judge behind all other checks: live and in batches, resumed, never paid twice, and nonsense is not a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conversation_samples import artifact, diagrams
from provider_server import Faults, ProviderServer, echo
from test_conversations_live import MODELS, key, teacher, url

from sysdesign.config.conversations import ConversationsConfig, JudgeConfig, OfflineTeacherConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.conversations.judge import read
from sysdesign.conversations.stage import conversations
from sysdesign.errors import ConfigError, LimitError, ServiceError, SysdesignError
from sysdesign.ledger import Ledger
from sysdesign.models.paid import Answer, NotTaken
from sysdesign.models.prices import Usage
from sysdesign.records import Check, Conversation, NullLog, Rejected, Turn, read_jsonl

__all__ = ["key"]  # the fixture
RECORDS = diagrams(4)


def verdict(text: str) -> str:
    """Words drafts like a teacher; judges by a rule: text-only conversations go, with a true quote; one of the others gets nonsense."""
    data = json.loads(text)
    if "tasks" in data:
        return echo(text)
    if "system" not in data:
        quote = " ".join(data["turns"][0]["answer"].split()[:4])
        return json.dumps({"verdict": "reject", "quote": quote.upper(), "reason": "no picture"})
    if "nonsense" in str(data["turns"][0]["question"]) or len(data["components"]) == min(len(r.graph.components) for r in RECORDS):
        return json.dumps({"verdict": "reject", "quote": "words that nobody said", "reason": "x"})
    return json.dumps({"verdict": "keep", "quote": "", "reason": "fine"})


def judge(maker: str, server: ProviderServer, **fields: Any) -> JudgeConfig:
    given = {
        "kind": "claude" if maker == "anthropic" else "openai",
        "model": MODELS[maker],
        "base_url": url(server, maker),
        "api_key_env": "TEST_KEY",
        "i_have_read_provider_terms": True,
    }
    return JudgeConfig.model_validate({**given, **fields})


def run(
    tmp_path: Path, judged: JudgeConfig, by: Any = None, **runtime: Any
) -> tuple[Any, list[Conversation], list[Rejected], dict[str, Any]]:
    folder, out = tmp_path / "diagrams", tmp_path / "out"
    folder.mkdir(exist_ok=True)
    out.mkdir(exist_ok=True)
    settings = RuntimeConfig.model_validate({"store": str(tmp_path / "store"), "budget_usd": 1.0, "yes": True} | runtime)
    cfg = ConversationsConfig(teacher=by or OfflineTeacherConfig(), judge=judged, per_diagram=2, text_only=2, skeleton_share=1)
    report = conversations(cfg, seed=0, out=out, log=NullLog(), runtime=settings, diagrams=artifact(folder, RECORDS, pictures=True))  # type: ignore[arg-type]
    funnel = json.loads((out / "funnel.json").read_text())
    return report, list(read_jsonl(out / "conversations.jsonl", Conversation)), list(read_jsonl(out / "rejected.jsonl", Rejected)), funnel


@pytest.mark.parametrize(("kind", "mode"), [("anthropic", "live"), ("openai", "batch")])
def test_verdicts_decide_are_counted_and_are_never_paid_twice(
    tmp_path: Path, kind: str, mode: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with ProviderServer(Faults(reply=verdict)) as server:
        report, kept, rejected, funnel = run(tmp_path, judge(kind, server, mode=mode))
        assert "at worst $" in capfd.readouterr().err
        assert all(c.diagram_id for c in kept) and [r.reason for r in rejected] == ["judge", "judge"]
        assert all(r.detail.endswith(": no picture") for r in rejected) and funnel["reasons"] == {"judge": 2}
        assert funnel["verdicts"]["unjudged"] > 0 and sum(funnel["verdicts"].values()) == funnel["varied"] == 10
        assert funnel["judged"] == len(kept) == 8 and "unjudged" in (tmp_path / "out" / "card.md").read_text()
        ledger = Ledger(tmp_path / "store" / "ledger.sqlite3", 10**9)
        totals = ledger.totals()
        ledger.close()
        assert server.account.billed <= totals.settled <= server.account.billed + 11 and report.spent_usd == pytest.approx(
            totals.settled / 1e6
        )
        again, kept_again, _, _ = run(tmp_path, judge(kind, server, mode=mode), budget_usd=0.01)
        assert set(server.account.served.values()) == {1} and kept_again == kept and again.spent_usd == report.spent_usd
        _, strict, refused, _ = run(tmp_path, judge(kind, server, mode=mode, unjudged="reject"))
        assert len(strict) == funnel["verdicts"]["keep"] and {r.reason for r in refused} == {"judge", "unjudged"}
        assert set(server.account.served.values()) == {1}


def test_a_run_that_was_cut_short_buys_only_the_missing_verdicts(tmp_path: Path) -> None:
    with ProviderServer(Faults(reply=verdict)) as server:
        with pytest.raises(LimitError, match="the cap is"):
            run(tmp_path, judge("anthropic", server, mode="live", concurrency=1), budget_usd=0.003)
        assert 0 < sum(server.account.served.values()) < 10 and not (tmp_path / "out" / "conversations.jsonl").exists()
        run(tmp_path, judge("anthropic", server, mode="live"))
        assert set(server.account.served.values()) == {1} and len(server.account.served) == 10


def test_the_teachers_quote_names_the_judge_and_both_share_a_ledger(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with ProviderServer(Faults(reply=verdict)) as server:
        report, kept, _, _ = run(tmp_path, judge("openai", server), teacher("anthropic", server, mode="live"))
        said = capfd.readouterr().err
        assert said.index("then the judge, gpt-6-luna: about $") < said.index("requests to gpt-6-luna")
        assert {c.provider for c in kept} == {"anthropic"} and report.spent_usd is not None
        assert server.account.billed / 1e6 <= report.spent_usd <= server.account.billed / 1e6 + 25e-6


@pytest.mark.parametrize(
    ("fields", "runtime", "kind", "says"),
    [
        ({"i_have_read_provider_terms": False}, {}, ConfigError, "judge.i_have_read_provider_terms"),
        ({"kind": "claude", "model": "claude-haiku-5-5"}, {}, ConfigError, "another family than the teacher"),
        ({"model": "gpt-5"}, {}, ConfigError, r"conversations\.judge\.model.*retired"),
        ({"api_key_env": "NOT_SET_ANYWHERE"}, {}, ServiceError, "export NOT_SET_ANYWHERE"),
        ({}, {"budget_usd": 0.0}, LimitError, "must be above 0"),
    ],
)
def test_a_judge_that_cannot_work_is_refused_before_the_teacher_is_paid(
    tmp_path: Path, fields: dict[str, Any], runtime: dict[str, Any], kind: type[SysdesignError], says: str
) -> None:
    with ProviderServer(Faults(reply=verdict)) as server:
        with pytest.raises(kind, match=says):
            run(tmp_path, judge("openai", server, **fields), teacher("anthropic", server, mode="live"), **runtime)
        assert server.account.billed == 0


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        ('{"verdict": "keep", "quote": "", "reason": ""}', "stop", "keep"),
        ('{"verdict": "reject", "quote": "Order  db", "reason": "wrong"}', "stop", "reject"),
        ('{"verdict": "reject", "quote": "", "reason": "wrong"}', "stop", "unjudged"),
        ('{"verdict": "reject", "quote": "Fraud DB", "reason": "wrong"}', "stop", "unjudged"),
        ('{"verdict": "maybe", "quote": "", "reason": ""}', "stop", "unjudged"),
        ('{"verdict": "reject", "quote": null, "reason": ""}', "stop", "unjudged"),
        ("[1]", "stop", "unjudged"),
        ("nonsense", "stop", "unjudged"),
        ('{"verdict": "keep", "quote": "", "reason": ""}', "length", "unjudged"),
        ("", "refusal", "unjudged"),
    ],
)
def test_what_a_verdict_is(text: str, finish: str, expected: str) -> None:
    turn = Turn(question="Which is full?", answer="Order DB is.", family="f", structure="s", check=Check(kind="set", expected=["Order DB"]))
    said = Conversation(id="c", diagram_id=None, seed_id="s", turns=(turn,), provider="p", teacher="t")
    assert read(said, Answer(text=text, finish=finish, usage=Usage()))[0] == expected  # type: ignore[arg-type]
    assert read(said, NotTaken(why="gone"))[0] == "unjudged"
