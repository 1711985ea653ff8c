"""Bad input to `python -m pipelines.conversations` against a server that bills: each is one line, and nothing is paid for nothing."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from provider_server import KEY, Faults, ProviderServer
from test_conversations_live import HASTE, QUICK

from pipelines.command import main
from sysdesign import ledger
from sysdesign.models import batches, paid, prices

Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """The public command on two diagrams: its exit code and what it wrote to stderr."""
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setattr(batches, "Rhythm", lambda: QUICK)
    monkeypatch.setattr(paid, "Patience", lambda: HASTE)

    def run(stage: str, *flags: str) -> tuple[int, str]:
        capfd.readouterr()
        code = 0
        try:
            main(stage, "", [*flags, "--diagrams.count", "2", "--runtime.store", str(tmp_path / "store")])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, capfd.readouterr().err

    assert run("diagrams")[0] == 0
    return run


def test_every_bad_input_is_one_line_and_the_next_run_goes_on(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with ProviderServer() as server:

        def teach(*flags: str, budget: str = "1") -> tuple[int, str]:
            given = {
                "kind": "claude",
                "base_url": server.url,
                "api_key_env": "TEST_KEY",
                "i_have_read_provider_terms": "true",
                "mode": "live",
            }
            own = [word for name, value in given.items() for word in (f"--conversations.teacher.{name}", value)]
            more = ["--conversations.per_diagram", "2", "--conversations.text_only", "1", "--conversations.skeleton_share", "1"]
            return call("conversations", *own, *more, "--runtime.budget_usd", budget, "--runtime.yes", "true", *flags)

        def refused(found: tuple[int, str], *words: str) -> None:
            lines = [line for line in found[1].splitlines() if line.startswith("error: ")]
            assert found[0] != 0 and "Traceback" not in found[1] and len(lines) == 1, found
            assert all(word in lines[0] for word in words), lines[0]

        refused(teach("--conversations.teacher.api_key_env", "NOT_SET_ANYWHERE"), "NOT_SET_ANYWHERE", "export")
        refused(teach("--conversations.teacher.model", "claude-sonnet-4-5"), "retired model")
        refused(teach("--conversations.teacher.i_have_read_provider_terms", "false"), "provider's terms")
        refused(teach(budget="0"), "runtime.budget_usd", "must be above 0")
        refused(teach("--runtime.yes", "false"), "runtime.yes", "nobody is there")
        monkeypatch.setenv("TEST_KEY", "wrong")
        refused(teach(), "invalid api key", "check the key")
        monkeypatch.setenv("TEST_KEY", KEY)
        server.faults = Faults(status=400, message="Your credit balance is too low to access the API")
        refused(teach(), "credit balance", "top up")
        server.faults = Faults(malformed=True)
        assert server.account.billed == 0
        refused(teach("--conversations.teacher.mode", "batch"), "every line must be a result", "run it again")
        server.faults = Faults()
        served, old = sum(server.account.served.values()), prices.read_prices()
        aged = old.model_copy(update={"as_of": datetime.date.today() - datetime.timedelta(days=61)})
        monkeypatch.setattr(paid, "read_prices", lambda: aged)
        jumps = iter(range(10**6))
        monkeypatch.setattr(ledger, "time", SimpleNamespace(time=lambda: time.time() + (-1) ** next(jumps) * 86400 * 365))
        code, said = teach("--conversations.teacher.mode", "batch")
        assert code == 0 and "61 days old: compare them with the provider's page" not in said  # nothing is left to buy: no quote
        assert sum(server.account.served.values()) == served == 5 and set(server.account.served.values()) == {1}
        code, said = teach("--conversations.teacher.effort", "medium")
        assert code == 0 and "warning: prices of" in said and "61 days old: compare them with the provider's page" in said
        assert set(server.account.served.values()) == {1} and sum(server.account.served.values()) == 10
