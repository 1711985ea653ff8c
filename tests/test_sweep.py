"""A sweep says what is wrong before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines import sweep
from sysdesign.config.root import Config
from sysdesign.errors import ConfigError, ServiceError
from sysdesign.profiles import resolve
from sysdesign.sweep.address import require_cluster
from sysdesign.sweep.spec import check, merge, read_spec
from tests import sweep_world as world

ROOT = world.ROOT
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_resolves(path: Path) -> None:
    spec = read_spec(path, {})
    check(spec, {}, sweep.metrics)
    assert spec.name == path.stem


def test_there_are_experiments() -> None:
    assert {path.stem for path in EXPERIMENTS} >= {"rehearsal", "rank-x-rate", "data-size", "resolution", "teacher-mix"}


RATE = {"kind": "float", "low": 1e-4, "high": 1e-2}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"space": {"train.lora.rang": RATE}}, "space.train.lora.rang: is no field.*did you mean train.lora.rank"),
        ({"space": {"train.learning_rate": {"kind": "float", "low": 1e-2, "high": 1e-4}}}, "range is empty"),
        ({"space": {"train.lora.rank": {"kind": "choice", "values": [4]}}}, "at least two different values"),
        ({"space": {"train.learning_rate": {"kind": "float", "low": 0.0, "high": 1.0, "log": True}}}, "log range needs low above 0"),
        ({"space": {"train.lora.rank": {"kind": "int", "low": 0, "high": 8}}}, "space.train.lora.rank: every value must fit"),
        ({"space": {"runtime.workers": {"kind": "int", "low": 1, "high": 8}}}, "cannot change a result"),
        ({"space": {}}, "space.*at least 1 item"),
        ({"budget": {"trials": 0}}, "budget.trials: input should be greater than or equal to 1.*got 0"),
        (
            {"objective": {"metric": "train/loss_lst", "direction": "minimize"}},
            "objective.metric: must be a number that is logged at a trial's end.*did you mean train/loss_last",
        ),
        ({"objective": {"metric": "banana"}}, "objective.metric"),
        ({"objective": {"metric": "train/val_loss"}}, "did you mean train/val_loss_best"),
        ({"objective": {"metric": "probe/edge_f2"}}, "logged at a trial's end.*did you mean probe/edge_f1"),
        ({"objective": {"metric": "eval/sccore"}}, "logged at a trial's end.*did you mean eval/score"),
        ({"objective": {"metric": "eval/rouge_l"}}, "logged at a trial's end"),  # the rehearsal does not ask for it
        ({"pruning": {"kind": "asha", "metric": "probe/score"}}, "while a trial trains.*did you mean probe/interim_score"),
        ({"pruning": {"kind": "asha", "metric": "train/minutes"}}, "pruning.metric: must be a number that is logged while a trial trains"),
        ({"pruning": {"kind": "asha"}, "fixed": {"train.eval_steps": 0}}, "must report before their last step"),
        ({"pruning": {"kind": "asha"}, "fixed": {"train.max_steps": 50}}, "set train.eval_steps below train.max_steps"),
        ({"fixed": {"train.maxsteps": 4}}, "fixed.train.maxsteps: is no field.*did you mean train.max_steps"),
        ({"sampler": "gp", "pruning": {"kind": "asha"}}, "gp ignores pruned trials"),
        ({"profile": "rehersal"}, "did you mean --profile rehearsal"),
        ({"fixed": {"train.lora.rank": 8}}, "both varied and fixed"),
        ({"runner": {"kind": "optuna", "gpus": 2}}, "runner.gpus: a trial trains on one GPU"),
        ({"runner": {"kind": "ray", "gpus": 4}}, "runner.gpus: a trial trains on one GPU"),
    ],
)
def test_a_bad_file_is_refused_with_the_way_out(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    about = world.spec().model_dump(mode="json") | change
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(about))
    with pytest.raises(ConfigError, match=said):
        check(read_spec(path, {}), {}, sweep.metrics)


def test_a_flag_may_not_fix_an_axis_and_may_change_the_budget() -> None:
    path = ROOT / "experiments/rehearsal.yaml"
    with pytest.raises(ConfigError, match="--train.lora.rank: is varied by the sweep"):
        check(read_spec(path, {}), {"train.lora.rank": "8"}, sweep.metrics)
    assert read_spec(path, {"budget.trials": "3"}).budget.trials == 3
    with pytest.raises(ConfigError, match="must be a readable experiment file"):
        read_spec(Path("experiments/none.yaml"), {})


def test_several_gpus_a_trial_go_with_what_training_itself_reports() -> None:
    spec, flags = read_spec(ROOT / "experiments/rehearsal.yaml", {}), {"runtime.devices": "2"}
    with pytest.raises(ConfigError, match="cannot be asked questions while it trains.*pruning.metric to train/val_loss"):
        check(spec, flags, sweep.metrics)
    by_loss = read_spec(ROOT / "experiments/rehearsal.yaml", {"pruning.metric": "train/val_loss"})
    assert check(by_loss, flags, sweep.metrics).runtime.devices == 2


def test_an_axis_may_be_a_block_and_reaches_the_trial_whole() -> None:
    spec = read_spec(ROOT / "experiments/resolution.yaml", {})
    flags = merge(spec, {}, {"dataset.picture": {"min_tokens": 256, "max_tokens": 384}, "train.lora.rank": 32})
    config = resolve(Config, "rehearsal", flags)
    assert (config.dataset.picture.min_tokens, config.dataset.picture.max_tokens, config.train.lora.rank) == (256, 384, 32)


def test_shared_stages_are_those_no_axis_reaches() -> None:
    assert sweep.shared_stages(read_spec(ROOT / "experiments/rehearsal.yaml", {})) == ["base", "diagrams", "conversations", "dataset"]
    assert sweep.shared_stages(read_spec(ROOT / "experiments/data-size.yaml", {})) == ["base"]
    assert sweep.shared_stages(read_spec(ROOT / "experiments/teacher-mix.yaml", {})) == ["base", "diagrams"]


def test_a_ray_address_that_does_not_answer() -> None:
    with pytest.raises(ServiceError, match="a Ray cluster must answer there.*127.0.0.1:9.*ray start --head"):
        require_cluster("127.0.0.1:9")
    with pytest.raises(ServiceError, match="inside the cluster"):
        require_cluster("ray://127.0.0.1:10001")


def test_the_command_answers_bad_input_in_one_line(command: Any, tmp_path: Path) -> None:
    done = command("sweep", "--spec", "experiments/rehearsal.yaml", "--budget.trials", "0", "--runtime.store", str(tmp_path))
    assert done.returncode == 2
    assert "budget.trials" in done.stderr and len(done.stderr.strip().splitlines()) == 1
