"""What is left of a sweep: a page, a table, and a profile that trains in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import sweep
from sysdesign.config.root import Config
from sysdesign.profiles import resolve
from sysdesign.sweep import report
from sysdesign.sweep.book import open_book
from sysdesign.sweep.trial import Result
from tests import sweep_world as world

ROOT = world.ROOT
PRINT = "f" * 12


def test_the_report_shows_the_winner_and_its_profile_trains_in_full(tmp_path: Path) -> None:
    spec = world.spec(budget={"trials": 8}, fixed={"train.max_steps": 4})
    with open_book(spec, PRINT, tmp_path) as book:
        for cost in range(8):
            number = book.next()
            score = world.loss(book.values(number), 10)
            book.tell(number, Result(end="complete", metrics={"train/val_loss_best": score}, seconds=60, work_s=50 + cost, cost_usd=0.1))
        found = report.write(book, tmp_path / "report")
        best = min(book.done(), key=lambda t: t.value)
    assert found.best == best.number and found.complete == 8 and found.hours == pytest.approx(8 / 60)
    assert found.importance and sum(found.importance.values()) == pytest.approx(1.0)
    assert f"`train.learning_rate` = {found.values['train.learning_rate']:.3g}. 8 trials" in found.note()
    assert "Share of the score's variance: `train." in found.note() and "sweep/importance/train.lora.rank" in found.metrics()
    page = (tmp_path / "report/report.html").read_text()
    for title in ("Score by trial", "Which axis matters", "Parallel coordinates", "Score against cost"):
        assert title in page
    assert len((tmp_path / "report/trials.csv").read_text().splitlines()) == 9
    assert found.profile
    config = resolve(Config, f"rehearsal,{found.profile.stem}", {}, conf=_conf_with(found.profile, tmp_path))
    assert config.train.lora.rank == found.values["train.lora.rank"]
    assert config.train.max_steps == resolve(Config, "rehearsal", {}).train.max_steps  # not the sweep's shortcut


@pytest.mark.parametrize("keep", [True, False])
def test_the_winner_is_written_to_conf_when_asked_and_the_command_names_it(
    keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    won, conf = tmp_path / "sweep-world.yaml", tmp_path / "conf"
    won.write_text("# winner\ntrain: {lora: {rank: 8}}\n")
    conf.mkdir()
    monkeypatch.setattr(sweep, "CONF", conf)
    sweep._hand_over(world.spec(), {"diagrams.count": "20", "dataset.extra.paths": "[a b.jsonl]"}, won, keep)
    said = capsys.readouterr().out
    assert (conf / won.name).exists() is keep and (f"cp {won} conf/" in said) is not keep
    assert "mlflow run . -P profile=rehearsal,sweep-world -P diagrams.count=20 -P 'dataset.extra.paths=[a b.jsonl]' --env" in said


def _conf_with(profile: Path, folder: Path) -> Path:
    conf = folder / "conf"
    conf.mkdir()
    for path in [*(ROOT / "conf").glob("*.yaml"), profile]:
        (conf / path.name).write_text(path.read_text())
    return conf


def test_the_front_of_score_against_cost() -> None:
    points = [(1.0, 5.0), (2.0, 3.0), (3.0, 4.0), (4.0, 1.0), (1.0, 6.0)]
    assert report.front(points, "minimize") == [0, 1, 3]
    assert report.front(points, "maximize") == [4]


def test_a_sweep_without_a_complete_trial_still_reports(tmp_path: Path) -> None:
    with open_book(world.spec(), PRINT, tmp_path) as book:
        book.tell(book.next(), Result(end="pruned", reason="out of memory", seconds=1.0))
        found = report.write(book, tmp_path / "report")
    assert found.best is None and found.profile is None and "none has a score" in found.note()
