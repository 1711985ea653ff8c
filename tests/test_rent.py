"""A rented machine's minutes stand in the ledger beside API calls, under one cap."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import command
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.errors import LimitError
from sysdesign.models.paid import open_ledger
from sysdesign.plan.rent import metered

RENTED = RuntimeConfig(gpu_usd_per_hour=3.6, budget_usd=0.2)  # 6 cents a minute: three fit


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """SIGTERM as the commands take it."""
    before = signal.signal(signal.SIGTERM, command._interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


def test_minutes_and_replies_share_one_cap_and_the_stage_ends_before_it_is_passed(tmp_path: Path) -> None:
    bought = open_ledger(tmp_path, RENTED.budget_usd)
    bought.spend(50_000, "anthropic", "claude")  # two minutes are left
    said = r"\$0.1700 are committed and this may add \$0.0600; the cap is \$0.2000"
    with pytest.raises(LimitError, match=said), metered("train", RENTED, tmp_path, minute_s=0.02):
        time.sleep(20)
    assert bought.totals().committed == 170_000
    entered = False
    with pytest.raises(LimitError), metered("evaluate", RENTED, tmp_path):
        entered = True
    assert not entered, "not even a first minute fits"
    bought.close()


def test_a_person_s_own_interrupt_stays_one(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), metered("train", RENTED, tmp_path):
        raise KeyboardInterrupt


def test_an_interrupt_that_a_library_turned_into_its_own_error_is_still_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="130"), command.errors_as_lines():
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("worker is killed by signal: Terminated")
    assert capsys.readouterr().err.startswith("stopped: ")
    with pytest.raises(RuntimeError, match="its own"), command.errors_as_lines():
        raise RuntimeError("its own")


def test_only_a_rented_machine_with_a_budget_is_counted(tmp_path: Path) -> None:
    for stage, runtime in [
        ("diagrams", RENTED),
        ("train", RENTED.model_copy(update={"gpu_usd_per_hour": 0.0})),
        ("train", RENTED.model_copy(update={"budget_usd": 0.0})),
    ]:
        with metered(stage, runtime, tmp_path):
            pass
    assert not list(tmp_path.iterdir())
