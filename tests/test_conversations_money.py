"""What must not happen to money: a stranger's batch taken for ours, a short set taken for a whole one, a lost reply taken for none."""

from __future__ import annotations

import io
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from provider_server import Faults, ProviderServer, echo
from test_conversations_live import HASTE, KINDS, MODELS, QUICK, close, key, make, run, teacher, url

from sysdesign.conversations import purchase
from sysdesign.errors import ConfigError, LimitError, ServiceError
from sysdesign.ledger import Ledger
from sysdesign.models import paid
from sysdesign.models.batches import buy_batch, settle_open
from sysdesign.models.paid import Answer, NotTaken, Patience, Refused, Request, Spender, custom_id, open_provider, own_host
from sysdesign.models.prices import Usage, read_prices
from sysdesign.models.quote import Job, cost_table, quote

__all__ = ["key"]  # the fixture
README = Path(__file__).parents[1] / "README.md"


def ask(count: int, **fields: Any) -> dict[str, Request]:
    return {f"r{i}": Request(**({"prefix": "p" * 100, "text": f"q{i}", "max_tokens": 50} | fields)) for i in range(count)}


@pytest.mark.parametrize("polls", [0, 5])
def test_a_strangers_batch_of_equal_size_is_not_taken_for_ours(tmp_path: Path, polls: int) -> None:
    """Ended or still running: it is waited for, found to be another's, and ours is posted once."""
    wanted = ask(4)
    with ProviderServer(Faults(polls=polls)) as server:
        first = make("anthropic", server, tmp_path)
        intent = first.ledger.intend([(first.key(r), first.worst(r, True)) for r in wanted.values()], first.place, first.provider.model)
        assert intent is not None
        first.ledger.posting(intent, first.provider.newest_batch())  # and dies before it is sent
        close(first)
        stranger = make("anthropic", server, tmp_path / "other")
        stranger.provider.post_batch([(f"theirs-{i}", Request(prefix="", text=f"t{i}", max_tokens=50)) for i in range(4)], "theirs")
        billed = server.account.billed
        spender = make("anthropic", server, tmp_path)
        replies = buy_batch(spender, wanted, rhythm=QUICK)
        assert all(isinstance(a, Answer) for a in replies.values()) and set(server.account.served.values()) == {1}
        assert len(server.account.batches) == 2 and spender.ledger.totals().lost == 0
        assert server.account.billed - billed <= spender.ledger.totals().committed
        close(spender)
        close(stranger)


def test_a_batch_noted_under_a_strangers_id_is_looked_for_anew(tmp_path: Path) -> None:
    wanted = ask(3)
    with ProviderServer(Faults(polls=1)) as server:
        spender = make("anthropic", server, tmp_path)
        intent = spender.ledger.intend(
            [(spender.key(r), spender.worst(r, True)) for r in wanted.values()], spender.place, MODELS["anthropic"]
        )
        assert intent is not None
        items = [(custom_id(k, intent.id), r) for k, r in zip(intent.keys, wanted.values(), strict=True)]
        spender.provider.post_batch(items, intent.id)
        other = spender.provider.post_batch([(f"x{i}", r) for i, r in enumerate(ask(3, text="theirs").values())], "theirs")
        spender.ledger.posted(intent, str(other))
        with pytest.raises(ServiceError, match="holds others"):
            buy_batch(spender, wanted, rhythm=QUICK)
        assert all(isinstance(a, Answer) for a in buy_batch(spender, wanted, rhythm=QUICK).values())
        assert len(server.account.batches) == 2 and spender.ledger.totals().lost == 0
        close(spender)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["live", "batch"])
def test_a_run_cut_short_by_the_cap_is_an_error_and_the_next_goes_on(tmp_path: Path, kind: str, mode: str) -> None:
    with ProviderServer() as server:
        cfg = teacher(kind, server, mode=mode, max_tokens=2000, concurrency=1)
        with pytest.raises(LimitError, match="the cap is"):
            run(tmp_path, cfg, budget_usd=0.0024 if mode == "live" else 0.0016)
        assert not (tmp_path / "out" / "conversations.jsonl").exists() and server.account.billed <= 2400
        assert 0 < sum(server.account.served.values()) < 10
        _, kept, rejected = run(tmp_path, cfg)
        assert len(kept) == 10 and not rejected and set(server.account.served.values()) == {1}


def test_worst_cases_under_way_slow_a_run_down_and_do_not_end_it(tmp_path: Path) -> None:
    with ProviderServer() as server:
        spender, wanted = make("anthropic", server, tmp_path), ask(20, max_tokens=1000)
        spender.ledger.cap = 3 * spender.worst(wanted["r0"], False)
        replies = purchase.buy_live(spender, wanted, 8)
        assert all(isinstance(a, Answer) for a in replies.values()) and spender.ledger.totals().committed <= spender.ledger.cap
        close(spender)


def test_an_outage_in_the_middle_is_an_error_not_a_short_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paid, "Patience", lambda: HASTE)
    served = [0]

    def down_after_three(text: str) -> str:
        served[0] += 1
        if served[0] == 3:
            server.faults.status, server.faults.message = 529, "overloaded"
        return echo(text)

    with ProviderServer(Faults(reply=down_after_three)) as server:
        with pytest.raises(ServiceError, match="of 10 requests have"):
            run(tmp_path, teacher("anthropic", server, mode="live", concurrency=1))
        server.faults.status = None
        _, kept, _ = run(tmp_path, teacher("anthropic", server, mode="live", concurrency=1))
        assert len(kept) == 10 and set(server.account.served.values()) == {1}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_the_server_says_it_cached_fits_the_reservation(tmp_path: Path, kind: str) -> None:
    for cache in (True, False):
        for model, price in read_prices().models.items():
            if price.provider != kind:
                continue
            provider = open_provider(kind, model, key_env="TEST_KEY", base_url="http://127.0.0.1:9", cache=cache)  # type: ignore[arg-type]
            spender = Spender(provider, Ledger(tmp_path / f"{model}{cache}", 10**9))
            request = Request(prefix="p" * 20_000, text="q" * 900, max_tokens=500)
            for batch in (True, False):
                written = Answer(text="", finish="stop", usage=Usage(cache_write=5200, output=500))
                assert spender.cost(written, batch) <= spender.worst(request, batch)
            close(spender)


@pytest.mark.parametrize("kind", KINDS)
def test_live_after_batch_says_at_once_what_is_open_and_reads_what_has_ended(tmp_path: Path, kind: str) -> None:
    wanted = ask(3)
    with ProviderServer(Faults(polls=10**6)) as server:
        first = make(kind, server, tmp_path)
        with pytest.raises(ServiceError, match="must end within"):
            buy_batch(first, wanted, rhythm=type(QUICK)(first_s=0.01, longest_s=0.01, look_s=0.01, deadline_s=0))
        second = make(kind, server, tmp_path)  # while the first lives, its batch is its own
        with pytest.raises(Refused, match="open batch"):
            second.buy(wanted["r0"])
        close(first)
        with pytest.raises(Refused, match=r"has 3 of these requests under way.*mode batch"):
            settle_open(second, {second.key(r) for r in wanted.values()}, QUICK)
        server.faults.polls = 0
        settle_open(second, {second.key(r) for r in wanted.values()}, QUICK)
        assert isinstance(second.buy(wanted["r0"]), Answer) and set(server.account.served.values()) == {1}
        close(second)


@pytest.mark.parametrize("address", ["closed port", "http://no-such-host.invalid"])
@pytest.mark.parametrize("kind", [*KINDS, "chat"])
def test_a_server_that_cannot_be_reached_costs_nothing(tmp_path: Path, kind: str, address: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        where = f"http://127.0.0.1:{listener.getsockname()[1]}" if address == "closed port" else "http://no-such-host.invalid"
        if kind == "chat" and address != "closed port":
            where = "http://no-such-host.internal"
        provider = open_provider(kind, MODELS.get(kind, "m"), key_env="TEST_KEY", base_url=where)  # type: ignore[arg-type]
        spender = Spender(provider, Ledger(tmp_path / "l", 10**6), patience=Patience(tries=2, first_wait_s=0.01))
        with pytest.raises(ServiceError, match="must reply"):
            spender.buy(Request(prefix="", text="q", max_tokens=60))
        assert spender.ledger.totals().committed == 0
        if kind != "chat":
            assert isinstance(provider.post_batch([("a", Request(prefix="", text="q", max_tokens=60))], "i"), NotTaken)
        close(spender)


def test_a_public_chat_server_needs_consent_and_a_price(tmp_path: Path) -> None:
    assert all(
        own_host(f"http://{h}/v1") for h in ("localhost:1", "127.0.0.1:1", "[::1]:1", "10.1.2.3", "192.168.0.4:8", "ollama", "gpu.local")
    )
    assert not any(own_host(u) for u in ("https://api.example.com/v1", "http://8.8.8.8/v1", "not an address"))
    with ProviderServer() as server:
        fields: dict[str, Any] = {"api": "chat", "model": "m", "base_url": "https://api.example.com/v1", "mode": "live"}
        with pytest.raises(ConfigError, match="provider's terms"):
            run(tmp_path, teacher("openai", server, **fields, i_have_read_provider_terms=False))
        with pytest.raises(ConfigError, match="usd_per_mtok"):
            run(tmp_path, teacher("openai", server, **fields))
        cfg = teacher("openai", server, api="chat", model="m", mode="live", usd_per_mtok=(1.0, 2.0), image_share=0)
        with pytest.raises(LimitError, match="must be above 0"):
            run(tmp_path, cfg, budget_usd=0.0)
        report, _, _ = run(tmp_path, cfg)
        assert report.spent_usd == pytest.approx(10 * 20e-6)  # each 10 in, 5 out by its own count


@pytest.mark.parametrize("kind", KINDS)
def test_looks_that_fail_are_repeated_and_a_bad_line_sinks_no_batch(tmp_path: Path, kind: str) -> None:
    with ProviderServer(Faults(looks_fail=3)) as server:
        spender = make(kind, server, tmp_path)
        assert all(isinstance(a, Answer) for a in buy_batch(spender, ask(3), rhythm=QUICK).values())
        server.faults.malformed = True  # one line of sixty, for ever
        replies = buy_batch(spender, ask(60, prefix="x"), rhythm=QUICK)
        assert sum(isinstance(a, Answer) for a in replies.values()) == 59 and spender.ledger.totals().open == 0
        assert spender.ledger.totals().lost > 0 and server.account.billed <= spender.ledger.totals().committed
        close(spender)


def test_results_that_are_gone_stay_charged_and_are_named(tmp_path: Path) -> None:
    with ProviderServer(Faults(archived=True)) as server:
        spender = make("anthropic", server, tmp_path)
        with pytest.raises(ServiceError, match="can never be read"):
            buy_batch(spender, ask(3), rhythm=QUICK)
        assert server.account.billed <= spender.ledger.totals().lost and spender.ledger.totals().open == 0
        server.faults.archived = False
        assert all(isinstance(a, Answer) for a in buy_batch(spender, ask(3), rhythm=QUICK).values())
        close(spender)


@pytest.mark.parametrize("kind", KINDS)
def test_two_servers_share_no_reply_and_official_keys_stay(tmp_path: Path, kind: str) -> None:
    request = Request(prefix="p", text="q", max_tokens=60)
    with ProviderServer() as one, ProviderServer() as other:
        spenders = [make(kind, server, tmp_path) for server in (one, other)]
        assert spenders[0].key(request) != spenders[1].key(request)
        for spender in spenders:
            spender.buy(request)
        assert sum(one.account.served.values()) == sum(other.account.served.values()) == 1
        for spender in spenders:
            close(spender)
    official = Spender(open_provider(kind, MODELS[kind], key_env="TEST_KEY"), Ledger(tmp_path / "o", 1))  # type: ignore[arg-type]
    assert official.key(request) == request.key(kind, MODELS[kind], "low")
    close(official)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_ends_too_early_counts_as_spent(tmp_path: Path, kind: str) -> None:
    with ProviderServer(Faults(cut_stream=True)) as server:
        spender = make(kind, server, tmp_path)
        with pytest.raises(ServiceError, match="3 replies to one request were lost"):
            spender.buy(Request(prefix="", text="q", max_tokens=9000))
        assert server.account.billed <= spender.ledger.totals().lost and spender.ledger.totals().settled == 0
        server.faults.cut_stream = False
        assert spender.buy(Request(prefix="", text="q", max_tokens=9000)).text == "pong"
        close(spender)


def test_what_is_paid_or_open_drops_out_of_a_batch(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l", 1000)
    ledger.settle(ledger.reserve("paid", 10, "p", "m"), 5, "x")  # type: ignore[arg-type]
    ledger.reserve("open", 10, "p", "m")
    intent = ledger.intend([("paid", 10), ("open", 10), ("new", 10), ("new", 10)], "p", "m")
    assert intent is not None and intent.keys == ("new",) and ledger.totals().open == 20
    assert ledger.intend([("paid", 10), ("new", 10)], "p", "m") is None
    ledger.close()


def test_a_pilot_is_billed_first_and_the_rest_is_quoted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(purchase, "PILOT", 3)
    monkeypatch.setattr(purchase, "PILOT_FROM", 10)
    with ProviderServer() as server:
        _, kept, _ = run(tmp_path, teacher("anthropic", server, mode="batch"))
        said = capfd.readouterr().err
        assert len(kept) == 10 and "by the bills of 3 live calls (50 tokens of thinking each), the rest:\n7 requests" in said
        assert server.account.calls["POST /v1/messages"] == 3 and set(server.account.served.values()) == {1}
        assert server.account.cache_writes * 4 <= 25_000  # written once, live and for an hour; the batch reads it
    (tmp_path / "dear").mkdir()
    with ProviderServer(Faults(reply=lambda text: "x" * 40_000)) as server, pytest.raises(LimitError, match="other 7 requests will cost"):
        run(tmp_path / "dear", teacher("anthropic", server, mode="batch"), budget_usd=0.03)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("remaining", "most"), [(2, 2), (40, 6)])
def test_rate_limit_headers_bound_the_calls_under_way_and_the_bar_says_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, remaining: int, most: int
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    with ProviderServer(Faults(remaining=remaining, slow_s=0.03)) as server:
        spender = make(kind, server, tmp_path)
        replies = purchase.buy(spender, ask(14), teacher(kind, server, concurrency=6), "live")
        assert all(isinstance(a, Answer) for a in replies.values()) and 0 < server.account.most_active <= most
        close(spender)
    shown = sys.stderr.getvalue().rpartition("\r")[2]  # type: ignore[attr-defined]
    assert "14/14" in shown and "rejected 0, spent $0.00, projected $0.00" in shown


def test_the_readme_prints_the_table_that_the_code_computes() -> None:
    assert cost_table(read_prices()) in README.read_text(encoding="utf-8")


def test_a_quote_adds_up_what_each_request_pays() -> None:
    price, job = read_prices().models["claude-haiku-5-5"], Job(requests=10, prefix=1000, own=100, reply=50, max_tokens=200)
    one = Usage(input=100, output=50)
    first, later = one.model_copy(update={"cache_write": 1000}), one.model_copy(update={"cache_read": 1000})
    for batch, found in ((False, quote(price, job).live_cache), (True, quote(price, job).batch_cache)):
        paid_for = price.cost(first, batch=batch, long=batch) + 9 * price.cost(later, batch=batch, long=batch)
        assert found * 1e6 == pytest.approx(paid_for, abs=10)
    found, hits = quote(price, job), read_prices().batch_cache_hits["anthropic"]
    assert found.hits == hits.fewest == 0.3 and "30% to 98%" in hits.source
    missed = 7 * price.cost(first, batch=True, long=True) + 3 * price.cost(later, batch=True, long=True)
    assert found.batch_missed * 1e6 == pytest.approx(missed, abs=10) and found.batch_missed > found.batch > found.batch_cache


def test_malformed_replies_of_free_calls_are_one_line(tmp_path: Path) -> None:
    with ProviderServer() as server:
        for kind in KINDS:
            provider = open_provider(kind, MODELS[kind], key_env="TEST_KEY", base_url=url(server, kind) + "/nowhere")  # type: ignore[arg-type]
            for call in (lambda p=provider: p.count(ask(1)["r0"]), lambda p=provider: p.results("b1"), lambda p=provider: p.newest_batch()):
                try:
                    call()
                except ServiceError as error:
                    assert "\n" not in str(error) and json.dumps(str(error))
            provider.close()
