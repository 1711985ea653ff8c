"""A plan before anything runs: fast and light, its memory near what was measured, its money added up, what is made already left out."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sysdesign.artifacts import Manifest, Store
from sysdesign.config.root import Config
from sysdesign.config.train import TrainConfig
from sysdesign.errors import ConfigError, InputError
from sysdesign.flow import STAGES, address
from sysdesign.plan import history
from sysdesign.plan.planner import Bill, Plan, make_plan
from sysdesign.plan.points import read_points
from sysdesign.plan.stages import estimate
from sysdesign.plan.table import as_json, sources, text, verdict
from sysdesign.plan.work import request_tokens, work_of
from sysdesign.profiles import CONF, resolve
from sysdesign.train import memory

ROOT = Path(__file__).parents[1]
POINTS = read_points()
Command = Callable[..., subprocess.CompletedProcess[str]]
FULL = "full,a100-80gb,teacher-claude"


def planned(profile: str, root: Path, gpu: str = "", **flags: str) -> Plan:
    changed = {name.replace("__", "."): value for name, value in flags.items()}
    return make_plan(profile, lambda names: resolve(Config, names, changed), root, gpu=gpu)


def line(bill: Bill, stage: str) -> object:
    return next(one for one in bill.lines if one.estimate.stage == stage)


@pytest.fixture(autouse=True)
def no_other_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")


def test_the_whole_table_without_a_heavy_import(command: Command) -> None:
    done = command("plan", "--profile", FULL, "--runtime.store", "artifacts/of-nobody")
    assert done.returncode == 0, done.stderr
    for word in [*STAGES, "total", "setting up", "cheapest first", *POINTS.cards, "claude-haiku-5-5"]:
        assert word in done.stdout
    probe = (
        "import sys, pipelines.plan as p; p.main(['--profile', 'full,h200', '--json']); "
        "print([m for m in ('torch', 'mlflow', 'transformers', 'numpy', 'PIL') if m in sys.modules], file=sys.stderr)"
    )
    light = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert light.stderr.strip() == "[]"
    assert {stage["stage"] for stage in json.loads(light.stdout)["stages"]} == set(STAGES)


@pytest.mark.parametrize("point", POINTS.train_points, ids=lambda p: f"{p.passes}x{p.tokens}-{p.full}-{p.lean}-{p.fp8}")
def test_memory_is_within_a_tenth_of_every_measured_step(point: object) -> None:
    shape = POINTS.shapes["Qwen/Qwen2-VL-7B-Instruct"]
    peak = memory.peak_bytes(
        shape, TrainConfig(), tokens=point.tokens, trained=int(point.tokens * 450 / 1519) + 1, full=point.full, lean=point.lean,
        weights="nf4", fp8=point.fp8, vision=False,
    )  # fmt: skip
    assert peak / 2**30 == pytest.approx(point.peak_gib, rel=0.10)


def test_the_seeds_own_job_costs_less_than_sixty_dollars_with_every_figures_source(tmp_path: Path) -> None:
    plan = planned(FULL, tmp_path, runtime__budget_usd="60", conversations__text_only="0")
    assert line(plan.chosen, "conversations").estimate.how.startswith("2,000 requests")
    assert 0 < plan.chosen.usd <= 60 and verdict(plan) == "worst case over"
    listed = sources(POINTS)
    assert listed.count("\n") > len(POINTS.costs) + len(POINTS.requests)
    assert all(
        figure.source.startswith(("measured", "estimate", "formula")) for figure in (*POINTS.costs.values(), *POINTS.requests.values())
    )
    assert all(card.source and card.usd <= card.usd_high for card in POINTS.cards.values())
    assert [name for name, card in POINTS.cards.items() if card.measured] == ["h200"]


def test_money_adds_up_and_cards_come_cheapest_first(tmp_path: Path) -> None:
    plan = planned(FULL, tmp_path)
    bill = plan.chosen
    assert bill.machine.usd == 1.39
    rent = bill.machine_minutes / 60 * bill.machine.usd
    assert bill.usd == pytest.approx(rent + bill.api_usd)
    assert bill.worst_usd > bill.usd and all(one.worst_minutes >= one.minutes for one in bill.lines)
    fitting = [other.usd for other in plan.others if not other.why_not]
    assert len(plan.others) == len(POINTS.cards) and fitting == sorted(fitting) and len(fitting) >= 4
    assert next(o for o in plan.others if o.machine.name == "a100-80gb").usd == pytest.approx(bill.usd)
    told = json.loads(as_json(plan, POINTS))
    assert told["usd"] == pytest.approx(bill.usd, abs=1e-3) and len(told["machines"]) == len(plan.others)


def test_a_smaller_card_recomputes_more_and_a_card_too_small_says_what_to_change(tmp_path: Path) -> None:
    by_name = {other.machine.name: other for other in planned("full,h200", tmp_path).others}
    large, small = line(by_name["h200"], "train").estimate, line(by_name["rtx4090"], "train").estimate
    assert small.vram_gib <= 0.96 * POINTS.cards["rtx4090"].gib < large.vram_gib and small.minutes > large.minutes
    tight = planned("full,h200", tmp_path, train__max_vram_gib="6").chosen
    assert "needs" in tight.why_not[0] and "max_length" in tight.why_not[0]
    assert any("does not fit" in note for note in planned("full,t4", tmp_path).notes)


def test_no_card_here_says_so_and_a_card_here_is_planned_for(tmp_path: Path) -> None:
    alone = planned("full", tmp_path)
    assert alone.chosen.machine.own and "choose a card" in alone.chosen.why_not[0]
    own = planned("full", tmp_path, gpu="NVIDIA A100-SXM4-80GB").chosen
    assert own.machine.name == "a100-80gb" and own.usd == 0 and own.vram_gib > 20
    assert POINTS.card_named("NVIDIA GeForce RTX 4090") == "rtx4090" and POINTS.card_named("NVIDIA Mystery") is None


@pytest.mark.parametrize(
    ("budget", "code", "words"), [("0.5", 7, "OVER the budget"), ("1000", 0, "Within the budget"), ("0", 0, "No budget")]
)
def test_the_budget_holds_over_api_and_card_together(command: Command, budget: str, code: int, words: str) -> None:
    done = command("plan", "--profile", FULL, "--runtime.budget_usd", budget, "--runtime.store", "artifacts/of-nobody")
    assert done.returncode == code and words in done.stdout


def test_paid_teachers_cost_and_free_ones_do_not(tmp_path: Path) -> None:
    live = planned("full,h200,teacher-claude", tmp_path, conversations__teacher__mode="live").chosen
    batch = planned("full,h200,teacher-claude", tmp_path).chosen
    dear = planned("full,h200,teacher-claude", tmp_path, conversations__teacher__model="claude-opus-5-5").chosen
    assert planned("full,h200", tmp_path).chosen.api_usd == 0
    assert 0 < batch.api_usd < line(batch, "conversations").estimate.api_worst_usd
    assert dear.api_usd > 20 * batch.api_usd and live.api_usd > 0
    with pytest.raises(ConfigError, match="did you mean"):
        planned("full,h200,teacher-claude", tmp_path, conversations__teacher__model="claude-haiku-55")
    judged = planned("full,h200", tmp_path, evaluate__judge="{kind: anthropic, model: claude-haiku-5-5, key_env: KEY}").chosen
    assert 0 < judged.api_usd < 0.2


def test_request_sizes_follow_the_configuration() -> None:
    config = resolve(Config, "full,teacher-claude", {})
    prefix, own, reply = request_tokens(config, POINTS)
    assert prefix > 4096, "a shorter prefix is below what providers cache"
    larger = resolve(Config, "full,teacher-claude", {"diagrams.min_components": "20", "conversations.teacher.effort": "high"})
    assert request_tokens(larger, POINTS)[1] > own and request_tokens(larger, POINTS)[2] > reply + 3000


@pytest.mark.parametrize("profile", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_profile_has_a_plan(profile: str, tmp_path: Path) -> None:
    plan = planned(profile, tmp_path)
    assert plan.chosen.minutes > 0 and text(plan, POINTS).startswith(profile)


def test_what_is_made_already_is_found_without_making_anything(tmp_path: Path) -> None:
    config = resolve(Config, "rehearsal", {"runtime.store": str(tmp_path / "store")})
    store = Store(tmp_path / "store")
    made(store, config, "base")
    made(store, config, "diagrams")
    before = sorted(tmp_path.rglob("*"))
    bill = planned("rehearsal", tmp_path, runtime__store=str(tmp_path / "store")).chosen
    assert {one.estimate.stage for one in bill.lines if one.cached} == {"base", "diagrams"}
    assert all(one.minutes == 0 for one in bill.lines if one.cached) and line(bill, "dataset").minutes > 0
    assert sorted(tmp_path.rglob("*")) == before
    assert "in the store" in text(planned("rehearsal", tmp_path, runtime__store=str(tmp_path / "store")), POINTS)


def made(store: Store, config: Config, name: str, seconds: float = 12.0) -> Manifest:
    """An artefact of this stage under its real key."""
    stage = STAGES[name]
    inputs = {upstream: store.load(next(store.root.glob(f"{upstream}-*"))) for upstream in stage.reads}
    key = address(stage, config, inputs)
    with store.work(name, key, 5) as work:
        (work / "x").write_text(f"{name} {key}")
        about = {
            "inputs": {upstream: artifact.digest for upstream, artifact in inputs.items()},
            "prompts": {},
            "report": {},
            "seed": config.seed,
        }
        section = getattr(config, name).model_dump(mode="json")
        return store.commit(work, stage=name, version=1, key=key, config=section, seconds=seconds, **about).manifest


def test_own_finished_runs_correct_the_plan(tmp_path: Path) -> None:
    config = resolve(Config, "rehearsal", {})
    store = Store(tmp_path / "store")
    slow = estimate("diagrams", config, work_of(config, POINTS), planned("rehearsal", tmp_path).chosen.machine, POINTS).minutes
    done = made(store, config, "diagrams", seconds=slow * 60 * 3)
    other = resolve(Config, "rehearsal", {"seed": "9", "runtime.store": str(tmp_path / "store")})
    bill = make_plan("rehearsal", lambda _: other, tmp_path, gpu="").chosen
    found = line(bill, "diagrams")
    assert found.corrected_by == 1 and found.minutes == pytest.approx(3 * slow, rel=0.01)
    assert line(bill, "dataset").corrected_by == 0
    assert history.config_behind(done, {done.digest: done}, config).diagrams == config.diagrams
    assert history.config_behind(done.model_copy(update={"inputs": {"base": "f" * 64}}), {}, config) is None, (
        "an unknown chain says nothing"
    )


def test_runs_are_found_in_the_tracking_store(tracking_uri: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "elsewhere")
    manifest = made(store, resolve(Config, "rehearsal", {}), "diagrams")
    logged = tmp_path / "mlruns/0/r1/artifacts"
    logged.mkdir(parents=True)
    shutil.copy(next(store.root.glob("diagrams-*")) / "manifest.json", logged)
    with sqlite3.connect(tracking_uri.removeprefix("sqlite:///")) as database:
        database.execute(
            "insert into runs (run_uuid, status, lifecycle_stage, start_time, artifact_uri) values ('r1', 'FINISHED', 'active', 1, ?)",
            (str(logged),),
        )
        database.execute("insert into tags (run_uuid, key, value) values ('r1', 'sysdesign.cached', 'false')")
    assert [found.digest for found in history.finished(tmp_path / "nothing", tracking_uri)] == [manifest.digest]
    assert history.finished(tmp_path / "nothing", "sqlite:///" + str(tmp_path / "no.db")) == []


def test_what_cannot_be_planned_is_one_line(command: Command, tmp_path: Path) -> None:
    done = command("plan", "--profile", "full,h200", "--base.name", "somebody/unknown")
    assert done.returncode == 2 and "whose sizes are known" in done.stderr and "Traceback" not in done.stderr
    assert command("plan", "--json", "maybe").returncode == 2
    (tmp_path / "points.yaml").write_text("as_of: yesterday")
    with pytest.raises(InputError, match="git checkout"):
        read_points(tmp_path / "points.yaml")
    local = tmp_path / "model"
    local.mkdir()
    shape = {"hidden_size": 1024, "num_attention_heads": 8, "num_hidden_layers": 4, "intermediate_size": 4096, "vocab_size": 2000}
    vision = {"embed_dim": 320, "depth": 4, "mlp_ratio": 4}
    (local / "config.json").write_text(json.dumps({**shape, "vision_config": vision}))
    assert work_of(resolve(Config, "full", {"base.name": str(local)}), POINTS).shape.hidden == 1024
