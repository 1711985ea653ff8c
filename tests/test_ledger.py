"""The spend ledger: reservations, replies, losses, batches, caps; dead processes and eight threads in two processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from provider_server import KEY, Faults, ProviderServer

from sysdesign.errors import LimitError, ServiceError
from sysdesign.ledger import Busy, Held, Ledger, Paid


@pytest.fixture
def ledger(tmp_path: Path):  # type: ignore[no-untyped-def]
    opened = Ledger(tmp_path / "ledger.sqlite3", 1000)
    yield opened
    opened.close()


def held(ledger: Ledger, key: str, worst: int) -> Held:
    found = ledger.reserve(key, worst, "anthropic", "m")
    assert isinstance(found, Held)
    return found


def test_a_paid_reply_is_never_bought_again(ledger: Ledger) -> None:
    ledger.settle(held(ledger, "k", 300), 120, "body")
    assert ledger.reserve("k", 300, "anthropic", "m") == Paid(body="body")
    assert (ledger.totals().settled, ledger.totals().open, ledger.reply("k")) == (120, 0, "body")


def test_the_worst_case_is_held_until_the_reply_comes(ledger: Ledger) -> None:
    first = held(ledger, "a", 600)
    with pytest.raises(LimitError, match="the cap is"):
        ledger.reserve("b", 401, "anthropic", "m")
    ledger.settle(first, 10, "x")
    assert isinstance(ledger.reserve("b", 990, "anthropic", "m"), Held)


def test_lost_stays_charged_and_released_does_not(ledger: Ledger) -> None:
    ledger.lose(held(ledger, "a", 600), "timeout")
    ledger.release(held(ledger, "b", 400), "429")
    assert (ledger.totals().lost, ledger.totals().committed, ledger.losses("a")) == (600, 600, 1)
    with pytest.raises(LimitError):
        ledger.reserve("a", 401, "anthropic", "m")


def test_a_cap_of_zero_forbids_every_call(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l", 0)
    with pytest.raises(LimitError, match="runtime.budget_usd"):
        ledger.reserve("a", 1, "anthropic", "m")
    ledger.close()


def test_one_request_is_bought_by_one_at_a_time(ledger: Ledger) -> None:
    held(ledger, "a", 1)
    assert ledger.reserve("a", 1, "anthropic", "m") == Busy()
    second = Ledger(ledger.path, 1000)
    assert second.reserve("a", 1, "anthropic", "m") == Busy()
    second.close()


def test_threads_never_pass_the_cap(ledger: Ledger) -> None:
    passed: list[int] = []

    def spend(name: int) -> None:
        for i in range(20):
            try:
                found = ledger.reserve(f"{name}/{i}", 50, "anthropic", "m")
            except LimitError:
                continue
            assert isinstance(found, Held)
            passed.append(ledger.totals().committed)
            if i % 3 == 0:
                ledger.settle(found, 7, "x")

    threads = [threading.Thread(target=spend, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passed and max(passed) <= 1000


def test_a_killed_process_loses_its_open_call_and_keeps_its_replies(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from sysdesign.ledger import Ledger\n"
        "l = Ledger(Path(sys.argv[1]), 1000); l.settle(l.reserve('paid', 100, 'p', 'm'), 40, 'body'); l.reserve('open', 200, 'p', 'm')\n"
        "i = l.intend([('b1', 30), ('b2', 30)], 'p', 'm'); l.posting(i); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "l")], cwd=Path(__file__).parents[1])
    assert done.returncode == -signal.SIGKILL
    ledger = Ledger(tmp_path / "l", 1000)
    totals = ledger.totals()
    assert (totals.settled, totals.lost, totals.open) == (40, 200, 60) and ledger.reply("paid") == "body"
    (intent,) = ledger.adopt()
    assert intent.state == "posting" and intent.keys == ("b1", "b2")
    assert isinstance(ledger.reserve("open", 200, "p", "m"), Held)
    ledger.close()


def test_the_living_are_not_buried(tmp_path: Path) -> None:
    first, second = Ledger(tmp_path / "l", 1000), Ledger(tmp_path / "l", 1000)
    kept = held(first, "a", 100)
    intent = first.intend([("b", 10)], "p", "m")
    assert second.bury_the_dead() == 0 and second.adopt() == []
    first.settle(kept, 5, "x")
    first.posted(intent, "remote-1")
    assert second.remotes() == {"remote-1"}
    first.close()
    assert [i.remote for i in second.adopt()] == ["remote-1"]
    second.close()


def test_a_batch_reserves_before_and_settles_each_once(ledger: Ledger) -> None:
    with pytest.raises(LimitError):
        ledger.intend([("a", 600), ("b", 600)], "p", "m")
    assert ledger.totals().committed == 0
    intent = ledger.intend([("a", 300), ("b", 300), ("c", 300)], "p", "m")
    assert intent is not None and ledger.reserve("a", 1, "p", "m") == Busy(batch=True)
    assert ledger.settle_item(intent, "a", 100, "x") and not ledger.settle_item(intent, "a", 100, "x")
    ledger.close_items(intent, ["b"], "released", "expired")
    ledger.finish(intent)
    totals = ledger.totals()
    assert (totals.settled, totals.lost, totals.open) == (100, 300, 0)  # c had no result: it may have been billed


def test_a_settled_charge_is_not_settled_twice(ledger: Ledger) -> None:
    once = held(ledger, "a", 10)
    ledger.settle(once, 5, "x")
    with pytest.raises(ServiceError, match="must be open"):
        ledger.settle(once, 5, "x")


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(b"not a database, but long enough to be taken for a broken header" * 30)
    with pytest.raises(ServiceError, match="usable spend ledger"):
        Ledger(tmp_path / "l", 10)


def test_a_clock_that_jumps_changes_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    first = held(ledger, "a", 100)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert ledger.bury_the_dead() == 0 and ledger.reserve("a", 1, "p", "m") == Busy()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    ledger.settle(first, 10, "x")
    assert ledger.totals().settled == 10


WORKER = """
import os, sys, threading
from pathlib import Path
from sysdesign.errors import LimitError, ServiceError
from sysdesign.ledger import Ledger
from sysdesign.models.paid import Patience, Request, Spender, open_provider
path, url, cap, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
ledger = Ledger(path, cap)
provider = open_provider("anthropic", "claude-haiku-5-5", key_env="CHAOS_KEY", base_url=url)
spender = Spender(provider, ledger, patience=Patience(tries=40, first_wait_s=0.02, longest_wait_s=0.1, deadline_s=60, lost_replies=40))
todo = list(range(count))
lock = threading.Lock()
def work():
    while True:
        with lock:
            if not todo:
                return
            number = todo.pop()
        try:
            spender.buy(Request(prefix="p" * 400, text=f"question {number}", max_tokens=300))
        except (LimitError, ServiceError):
            pass
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
ledger.close()
"""


def chaos(folder: Path, seed: int, count: int, cap: int) -> dict[str, float]:
    """Two processes of eight threads over one ledger and a hostile server; one is killed midway. Returns the two accounts."""
    with ProviderServer(Faults(limited=0.05, dropped=0.05, slow_s=0.01), seed=seed) as server:
        env = {**os.environ, "CHAOS_KEY": KEY}
        args = [sys.executable, "-c", WORKER, str(folder / f"l{seed}"), server.url, str(cap), str(count)]
        workers = [subprocess.Popen(args, cwd=Path(__file__).parents[1], env=env, stderr=subprocess.DEVNULL) for _ in range(2)]
        while sum(server.account.served.values()) < count // 3 and workers[0].poll() is None:
            threading.Event().wait(0.01)
        workers[0].kill()
        for worker in workers:
            worker.wait(timeout=120)
        threading.Event().wait(0.05)
        ledger = Ledger(folder / f"l{seed}", cap)
        ledger.bury_the_dead()
        totals, replies = ledger.totals(), ledger._db().execute("SELECT COUNT(*) FROM reply").fetchone()[0]
        lost = ledger._db().execute("SELECT COUNT(*) FROM charge WHERE state = 'lost'").fetchone()[0]
        ledger.close()
        account = server.account
        return {
            "billed": account.billed, "committed": totals.committed, "cap": cap, "open": totals.open, "replies": replies, "lost": lost,
            "requests": count, "served": sum(account.served.values()), "dropped": sum(account.dropped.values()),
            "twice": sum(n - 1 - account.dropped[k] for k, n in account.served.items() if n - 1 > account.dropped[k]),
        }  # fmt: skip


def test_chaos_nothing_is_overspent_paid_twice_or_lost(tmp_path: Path) -> None:
    check_chaos(chaos(tmp_path, 0, 36, 1_000_000), ample=True)


def check_chaos(found: dict[str, float], ample: bool) -> None:
    """What must hold whatever happened. `ample`: the cap leaves room for every request."""
    assert found["billed"] <= found["committed"] <= found["cap"], found
    # every further sale of a request follows a reply that was really lost: dropped, or on its way to the killed process (8 threads)
    assert found["served"] <= found["replies"] + found["lost"] and found["twice"] <= 8, found
    if ample:
        assert found["replies"] == found["requests"] and found["open"] == 0, found  # the survivor bought what the dead one did not
    else:
        assert 0 < found["replies"] < found["requests"], found
