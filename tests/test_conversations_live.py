"""Live teachers through the real SDKs against a strict local server: live, batch, cache, resume, refusals, bad input."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from conversation_samples import artifact, diagrams
from provider_server import KEY, Faults, ProviderServer, echo

from sysdesign.config.conversations import ClaudeTeacherConfig, ConversationsConfig, OpenAITeacherConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.conversations.stage import conversations
from sysdesign.errors import ConfigError, LimitError, ServiceError, SysdesignError
from sysdesign.ledger import Ledger
from sysdesign.models import batches
from sysdesign.models.batches import Rhythm, buy_batch
from sysdesign.models.chat import Message
from sysdesign.models.paid import Answer, Patience, Request, Spender, input_bound, open_provider
from sysdesign.models.paid_chat import PaidChat
from sysdesign.models.prices import PriceFile, Usage, read_prices
from sysdesign.models.quote import FULL_JOB, cost_table, quote
from sysdesign.prompts import read_prompt
from sysdesign.records import Conversation, NullLog, Rejected, read_jsonl

RECORDS = diagrams(4)
KINDS = ("anthropic", "openai")
MODELS = {"anthropic": "claude-haiku-5-5", "openai": "gpt-6-luna"}
HASTE = Patience(tries=4, first_wait_s=0.01, longest_wait_s=0.02, deadline_s=20)
QUICK = Rhythm(first_s=0.01, longest_s=0.02, look_s=0.01, deadline_s=20)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setattr(batches, "Rhythm", lambda: QUICK)


def url(server: ProviderServer, kind: str) -> str:
    return server.url if kind == "anthropic" else server.url + "/v1"


def teacher(kind: str, server: ProviderServer, **fields: Any) -> ClaudeTeacherConfig | OpenAITeacherConfig:
    given = {
        "base_url": url(server, kind),
        "api_key_env": "TEST_KEY",
        "i_have_read_provider_terms": True,
        "image_share": 0.6,
        "concurrency": 3,
    }
    return (ClaudeTeacherConfig if kind == "anthropic" else OpenAITeacherConfig).model_validate({**given, **fields})


def run(tmp_path: Path, cfg: ClaudeTeacherConfig | OpenAITeacherConfig, **runtime: Any) -> tuple[Any, list[Conversation], list[Rejected]]:
    folder, out = tmp_path / "diagrams", tmp_path / "out"
    folder.mkdir(exist_ok=True)
    out.mkdir(exist_ok=True)
    settings = RuntimeConfig.model_validate({"store": str(tmp_path / "store"), "budget_usd": 1.0, "yes": True} | runtime)
    whole = ConversationsConfig(teacher=cfg, per_diagram=2, text_only=2, skeleton_share=1)
    report = conversations(whole, seed=0, out=out, log=NullLog(), runtime=settings, diagrams=artifact(folder, RECORDS, pictures=True))  # type: ignore[arg-type]
    return report, list(read_jsonl(out / "conversations.jsonl", Conversation)), list(read_jsonl(out / "rejected.jsonl", Rejected))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["live", "batch"])
def test_a_teacher_words_the_drafts_and_nothing_is_bought_twice(
    tmp_path: Path, kind: str, mode: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with ProviderServer() as server:
        report, kept, rejected = run(tmp_path, teacher(kind, server, mode=mode))
        assert len(kept) == 10 and not rejected, [r.detail for r in rejected]
        assert {c.provider for c in kept} == {kind} and kept[0].teacher == f"{MODELS[kind]}+rules-v1"
        assert "at worst $" in capfd.readouterr().err  # the quote came first
        ledger = Ledger(tmp_path / "store" / "ledger.sqlite3", 10**9)
        settled = ledger.totals().settled
        ledger.close()
        assert server.account.billed <= settled <= server.account.billed + 11 and report.spent_usd == pytest.approx(settled / 1e6)
        assert server.account.cache_reads > 0 and set(server.account.served.values()) == {1}
        posts = "POST /v1/messages/batches" if kind == "anthropic" else "POST /v1/batches"
        assert server.account.calls[posts] == (1 if mode == "batch" else 0)
        before = sum(server.account.served.values())
        again, kept_again, _ = run(tmp_path, teacher(kind, server, mode=mode))
        assert sum(server.account.served.values()) == before and kept_again == kept and again.spent_usd == report.spent_usd


@pytest.mark.parametrize("kind", KINDS)
def test_requests_carry_schema_cache_effort_and_some_pictures(tmp_path: Path, kind: str) -> None:
    with ProviderServer() as server:
        run(tmp_path, teacher(kind, server, mode="live", effort="medium"))
        bodies = server.account.bodies
    assert len(bodies) == 10
    asked = json.loads(
        bodies[0]["messages"][0]["content"][-1]["text"] if kind == "anthropic" else bodies[0]["input"][0]["content"][-1]["text"]
    )
    told = read_prompt("conversations/teacher.v3.md")  # the prompt names every field that is sent
    assert all(f"`{field}`" in told for field in [*asked, *asked["tasks"][0]])
    if kind == "anthropic":
        assert all(b["system"][0]["cache_control"] == {"type": "ephemeral", "ttl": "5m"} for b in bodies)
        assert all(b["output_config"]["effort"] == "medium" and b["output_config"]["format"]["type"] == "json_schema" for b in bodies)
        pictures = [b for b in bodies if b["messages"][0]["content"][0]["type"] == "image"]
    else:
        assert all(b["text"]["format"]["strict"] and b["reasoning"] == {"effort": "medium"} and b["store"] is False for b in bodies)
        pictures = [b for b in bodies if b["input"][0]["content"][0]["type"] == "input_image"]
    assert 0 < len(pictures) < len(bodies)


def test_a_picture_that_disagrees_is_counted_and_its_conversation_rejected(tmp_path: Path) -> None:
    asked: list[str] = []

    def auditor(text: str) -> str:
        found = json.loads(echo(text))
        if json.loads(text).get("picture_attached"):
            asked.append(text)
            found["disagrees"] = "The arrow to the cache is not drawn." if len(asked) == 1 else ""
        return json.dumps(found)

    with ProviderServer(Faults(reply=auditor)) as server:
        _, kept, rejected = run(tmp_path, teacher("anthropic", server, mode="live"))
        schemas = [b["output_config"]["format"]["schema"]["required"] for b in server.account.bodies]
    assert [(r.reason, r.detail) for r in rejected] == [("picture_disagrees", "The arrow to the cache is not drawn.")] and len(kept) == 9
    assert schemas.count(["turns", "disagrees"]) == len(asked) > 1
    funnel = json.loads((tmp_path / "out" / "funnel.json").read_text())
    assert funnel["audit"] == {"compared with their picture": len(asked), "disagreed": 1}


def test_a_teacher_that_invents_is_caught(tmp_path: Path) -> None:
    def liar(text: str) -> str:
        tasks = json.loads(text)["tasks"]
        lies = [t["answer"] + " Put a Fraud Scoring Service in front, it takes 987654 req/s." for t in tasks]
        return json.dumps(
            {"turns": [{"task": t["id"], "question": t["question"], "answer": lie} for t, lie in zip(tasks, lies, strict=True)]}
        )

    with ProviderServer(Faults(reply=lambda text: liar(text) if "components" in text else echo(text))) as server:
        _, kept, rejected = run(tmp_path, teacher("anthropic", server, mode="live"))
    assert all(c.diagram_id is None for c in kept) and len(rejected) == 8
    assert {r.reason for r in rejected} <= {"foreign_name", "foreign_number"}


@pytest.mark.parametrize(
    ("reply", "stop", "reason"),
    [
        (lambda t: "not json", "end_turn", "format"),
        (lambda t: '{"turns": []}', "end_turn", "format"),
        (echo, "max_tokens", "cut_off"),
        (echo, "refusal", "refusal"),
    ],
)
def test_unusable_replies_are_rejected_not_mended(tmp_path: Path, reply: Any, stop: str, reason: str) -> None:
    whole = [0]

    def some(text: str) -> str:
        whole[0] += 1
        return reply(text)

    with ProviderServer(Faults(reply=some, stop=stop)) as server, pytest.raises(LimitError, match="at least one conversation"):
        run(tmp_path, teacher("anthropic", server, mode="live"))
    assert whole[0] == 10
    assert reason


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_whose_id_was_lost_is_found_again(tmp_path: Path, kind: str) -> None:
    with ProviderServer(Faults(drop_batch_post=1)) as server:
        spender = make(kind, server, tmp_path)
        wanted = {f"r{i}": Request(prefix="p" * 100, text=f"q{i}", max_tokens=50) for i in range(7)}
        replies = buy_batch(spender, wanted, rhythm=QUICK)
        assert all(isinstance(a, Answer) for a in replies.values()) and len(server.account.batches) == 1
        assert server.account.billed <= spender.ledger.totals().committed
        close(spender)


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_between_post_and_id_never_pays_twice(tmp_path: Path, kind: str) -> None:
    wanted = {f"r{i}": Request(prefix="p" * 100, text=f"q{i}", max_tokens=50) for i in range(5)}
    with ProviderServer() as server:
        first = make(kind, server, tmp_path)
        items = [(first.key(r), first.worst(r, True)) for r in wanted.values()]
        intent = first.ledger.intend(items, first.place, first.provider.model)
        assert intent is not None
        first.ledger.posting(intent)
        first.provider.post_batch(
            [(batches.custom_id(k, intent.id), r) for (k, _), r in zip(items, wanted.values(), strict=True)], intent.id
        )
        close(first)  # the process dies before it notes the id
        second = make(kind, server, tmp_path)
        replies = buy_batch(second, wanted, rhythm=QUICK)
        assert all(isinstance(a, Answer) for a in replies.values()) and len(server.account.batches) == 1
        assert set(server.account.served.values()) == {1}
        third = second.ledger.intend([("never-sent", 5)], second.place, second.provider.model)
        assert third is not None
        second.ledger.posting(third)
        close(second)
        last = make(kind, server, tmp_path)
        buy_batch(last, wanted, rhythm=QUICK)
        assert last.ledger.totals().open == 0 and last.ledger.totals().lost == 0  # looked for, never accepted: released
        close(last)


@pytest.mark.parametrize("kind", KINDS)
def test_errored_items_cost_nothing_and_malformed_results_stop(tmp_path: Path, kind: str) -> None:
    wanted = {f"r{i}": Request(prefix="", text=f"q{i}", max_tokens=50) for i in range(30)}
    with ProviderServer(Faults(errored=0.3)) as server:
        spender = make(kind, server, tmp_path)
        replies = buy_batch(spender, wanted, size=10, rhythm=QUICK)  # errored ones go into the next batch
        assert all(isinstance(a, Answer) for a in replies.values()) and len(server.account.batches) > 3
        assert set(server.account.served.values()) == {1} and spender.ledger.totals().committed <= server.account.billed + 31
        server.faults.errored = 1.0
        with pytest.raises(ServiceError, match="1 of 1 requests have no reply"):
            buy_batch(spender, {"e": Request(prefix="", text="errs", max_tokens=50)}, rhythm=QUICK)
        server.faults.errored = 0
        server.faults.malformed = True
        with pytest.raises(ServiceError, match="result"):
            buy_batch(spender, {"new": Request(prefix="", text="new", max_tokens=50)}, rhythm=QUICK)
        server.faults.malformed = False
        assert isinstance(buy_batch(spender, {"new": Request(prefix="", text="new", max_tokens=50)}, rhythm=QUICK)["new"], Answer)
        close(spender)


def test_batches_are_cut_to_the_cap(tmp_path: Path) -> None:
    wanted = {f"r{i}": Request(prefix="", text=f"q{i}", max_tokens=1000) for i in range(40)}
    with ProviderServer(Faults(polls=1)) as server:
        spender = make("anthropic", server, tmp_path)
        worst = spender.worst(wanted["r0"], True)
        spender.ledger.cap = worst * 12
        replies = buy_batch(spender, wanted, rhythm=QUICK)
        assert all(isinstance(a, Answer) for a in replies.values()) and len(server.account.batches) >= 4
        spender.ledger.cap = spender.ledger.totals().committed + worst
        more = {**wanted, **{f"s{i}": Request(prefix="", text=f"s{i}", max_tokens=90_000) for i in range(2)}}
        with pytest.raises(LimitError, match="the cap is"):
            buy_batch(spender, more, rhythm=QUICK)
        assert spender.ledger.totals().open == 0
        close(spender)


@pytest.mark.parametrize("kind", KINDS)
def test_streams_limits_and_lost_replies(tmp_path: Path, kind: str) -> None:
    with ProviderServer(Faults(limited=0.3, dropped=0.2, broken=0.2), seed=4) as server:
        spender = make(
            kind, server, tmp_path, patience=Patience(tries=30, first_wait_s=0.01, longest_wait_s=0.02, deadline_s=20, lost_replies=30)
        )
        for i in range(12):
            spender.buy(Request(prefix="", text=f"q{i}", max_tokens=9000 if i % 2 else 60))
        totals = spender.ledger.totals()
        assert totals.lost > 0 and server.account.billed <= totals.committed
        chat = PaidChat(spender)
        reply = chat.reply([Message(role="system", text="judge"), Message(role="user", text="which?")], max_tokens=60, seed=1)
        assert reply.text == "pong" and reply.output_tokens and chat.name == f"{MODELS[kind]}@{kind}"
        close(spender)


@pytest.mark.parametrize(
    ("status", "message", "says"),
    [
        (401, "invalid x-api-key", "check the key"),
        (400, "Your credit balance is too low to access the API", "top up"),
        (429, "You exceeded your current quota: insufficient_quota", "top up"),
        (404, "model: gone", "check the model"),
        (529, "overloaded", "run it again"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_refusals_say_what_to_do(tmp_path: Path, kind: str, status: int, message: str, says: str) -> None:
    with ProviderServer(Faults(status=status, message=message)) as server:
        spender = make(kind, server, tmp_path)
        with pytest.raises(ServiceError, match=says):
            spender.buy(Request(prefix="", text="q", max_tokens=60))
        assert (spender.ledger.totals().committed == 0) == (status < 500)
        close(spender)


def test_an_open_weight_teacher_behind_chat_completions_is_free(tmp_path: Path) -> None:
    with ProviderServer() as server:
        cfg = teacher("openai", server, api="chat", model="qwen3:8b", mode="live", i_have_read_provider_terms=False, image_share=0)
        report, kept, _ = run(tmp_path, cfg, budget_usd=0.0)
        assert {c.provider for c in kept} == {"local"} and report.spent_usd == 0


@pytest.mark.parametrize(
    ("fields", "runtime", "kind", "says"),
    [
        ({"i_have_read_provider_terms": False}, {}, ConfigError, "provider's terms"),
        ({"model": "claude-sonnet-4-5"}, {}, ConfigError, "retired model"),
        ({"model": "claude-haiku-5"}, {}, ConfigError, "did you mean claude-haiku-5-5"),
        ({"api_key_env": "NOT_SET_ANYWHERE"}, {}, ServiceError, "export NOT_SET_ANYWHERE"),
        ({}, {"budget_usd": 0.0}, LimitError, "must be above 0"),
        ({}, {"budget_usd": 0.000001}, LimitError, "the cap is"),
        ({}, {"yes": False}, LimitError, "nobody is there to accept"),
    ],
)
def test_bad_set_ups_buy_nothing(
    tmp_path: Path, fields: dict[str, Any], runtime: dict[str, Any], kind: type[SysdesignError], says: str
) -> None:
    with ProviderServer() as server:
        with pytest.raises(kind, match=says):
            run(tmp_path, teacher("anthropic", server, mode="live", **fields), **runtime)
        assert server.account.billed == 0


def test_prices_warn_when_stale_or_from_the_future_and_the_table_lists_every_model() -> None:
    prices = read_prices()
    assert prices.stale(prices.as_of) is None and prices.stale(prices.as_of + datetime.timedelta(days=60)) is None
    assert "61 days old" in str(prices.stale(prices.as_of + datetime.timedelta(days=61)))
    assert "ahead of this machine's clock" in str(prices.stale(prices.as_of - datetime.timedelta(days=30)))
    table = cost_table(prices)
    assert all(f"| {model} |" in table for model in prices.models)
    haiku = prices.models["claude-haiku-5-5"]
    assert haiku.cost(Usage(input=1_000_000, output=1_000_000, cache_read=1_000_000, cache_write=1_000_000), batch=False) == 735_000
    found = quote(haiku, FULL_JOB)
    assert found.batch == pytest.approx(found.live / 2) and found.live_cache < found.live < found.worst_live
    assert PriceFile.model_validate(prices.model_dump()) == prices


def test_the_bound_covers_what_the_server_counts(tmp_path: Path) -> None:
    with ProviderServer() as server:
        for kind in KINDS:
            spender = make(kind, server, tmp_path / kind)
            for size in (10, 5000):
                request = Request(prefix="p" * size, text="q" * size, max_tokens=60)
                assert spender.provider.count(request) <= input_bound(request, kind)
            close(spender)


def make(kind: str, server: ProviderServer, folder: Path, patience: Patience = HASTE) -> Spender:
    folder.mkdir(exist_ok=True)
    provider = open_provider(kind, MODELS[kind], key_env="TEST_KEY", base_url=url(server, kind))  # type: ignore[arg-type]
    return Spender(provider, Ledger(folder / "ledger", 1_000_000), patience=patience)


def close(spender: Spender) -> None:
    spender.provider.close()
    spender.ledger.close()
