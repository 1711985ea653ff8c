"""A sweep says what is wrong before it starts."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from pipelines import sweep
from sysdesign.config.root import Config
from sysdesign.config.sweep import OptunaRunner, RayRunner
from sysdesign.errors import ConfigError, ServiceError, ToolError
from sysdesign.profiles import resolve
from sysdesign.sweep.address import require_cluster
from sysdesign.sweep.local import require_gpus
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
        ({"budget": {"trials": 1, "usd": 0}}, "budget.usd: input should be greater than 0 .got 0.*leave it out"),  # is not "no limit"
        ({"budget": {"trials": 1, "hours": 0}}, "budget.hours: input should be greater than 0 .got 0"),
        ({"runner": {"kind": "optuna", "address": "head:6379"}}, "runner.address: is no field of kind optuna .*set runner.kind to ray"),
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
        ({"runner": {"kind": "ray", "gpus": 1.5}}, "runner.gpus: a trial has whole GPUs, or a part of one.*got 1.5"),
        (
            {"runner": {"kind": "optuna", "gpus": 2}, "fixed": {"runtime.devices": 4}},
            "runtime.devices: a trial trains on the 2 that.*got 4",
        ),
        ({"runner": {"kind": "ray", "gpus": 0.5}, "fixed": {"runtime.devices": 2}}, "runtime.devices: a trial trains on the 1 that.*got 2"),
        (
            {"runner": {"kind": "ray", "gpus": 8}, "fixed": {"train.batch": 4}},
            "train.batch: each of a trial's 8 GPUs needs a sample.*got 4",
        ),
        (
            {"runner": {"kind": "optuna", "gpus": 2}, "space": {"train.batch": {"kind": "choice", "values": [4, 1]}}},
            "space.train.batch: every value must fit.*each of a trial's 2 GPUs needs a sample",
        ),
    ],
)
def test_a_bad_file_is_refused_with_the_way_out(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    about = world.spec().model_dump(mode="json") | change
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(about))
    with pytest.raises(ConfigError, match=said):
        check(read_spec(path, {}), {}, sweep.metrics)


def test_a_flag_may_not_fix_an_axis_and_may_change_the_budget(tmp_path: Path) -> None:
    path = ROOT / "experiments/rehearsal.yaml"
    with pytest.raises(ConfigError, match="--train.lora.rank: is varied by the sweep"):
        check(read_spec(path, {}), {"train.lora.rank": "8"}, sweep.metrics)
    mix = read_spec(ROOT / "experiments/teacher-mix.yaml", {})
    with pytest.raises(ConfigError, match="--conversations.teacher.kind: is varied by the sweep's conversations.teacher"):
        check(mix, {"conversations.teacher.kind": "offline"}, sweep.metrics)  # every trial would have had that one
    wide = read_spec(ROOT / "experiments/resolution.yaml", {})
    with pytest.raises(ConfigError, match="resolution: fixed.dataset.picture.min_tokens: is varied by the sweep's dataset.picture"):
        check(wide.model_copy(update={"fixed": {"dataset.picture.min_tokens": 64}}), {}, sweep.metrics)
    assert read_spec(path, {"budget.trials": "3"}).budget.trials == 3
    assert read_spec(path, {"runner.gpus": "2", "runner.kind": "ray"}).runner.gpus == 2  # in whatever order
    with pytest.raises(ConfigError, match="must be a readable experiment file"):
        read_spec(Path("experiments/none.yaml"), {})
    (tmp_path / "mine.yml").write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match="--spec: an experiment file is named something.yaml .got .*mine.yml"):
        read_spec(tmp_path / "mine.yml", {})
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    with pytest.raises(ConfigError, match="mine.yaml: budget: field required") as caught:
        read_spec(tmp_path / "mine.yaml", {})
    assert all(line.startswith(f"{tmp_path}/mine.yaml: ") for line in str(caught.value).splitlines())


@pytest.mark.parametrize("kind", ["optuna", "ray"])
def test_a_trial_trains_on_all_the_gpus_that_the_runner_gives_it(kind: str) -> None:
    spec = read_spec(ROOT / "experiments/rehearsal.yaml", {"runner.kind": kind, "runner.gpus": "2"})
    assert spec.rung()[0].startswith("probe/interim_") and check(spec, {}, sweep.metrics).runtime.devices == 2
    asked = sweep.request(spec, {}, "study", 0, {"train.lora.rank": 8, "train.learning_rate": 1e-3})
    assert resolve(Config, asked.profile, asked.flags).runtime.devices == 2 and asked.interim
    alone = read_spec(ROOT / "experiments/rehearsal.yaml", {"runner.kind": kind, "runner.gpus": "0"})
    assert check(alone, {}, sweep.metrics).runtime.devices == 1
    assert check(alone, {"runtime.devices": "2"}, sweep.metrics).runtime.devices == 2  # processes on a CPU, or all GPUs there are


def test_gpus_that_are_not_there_are_refused_before_a_trial_trains_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(
        ToolError, match=r"runner.gpus: 3 x 2 GPUs are needed at a time .* this machine shows 0 .got 2. - lower it, 0 takes"
    ):
        require_gpus(OptunaRunner(workers=3, gpus=2))
    require_gpus(OptunaRunner(workers=3))


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
    with pytest.raises(ServiceError, match="must be host:port .got 'head'"):
        require_cluster("head")
    with socket.create_server(("127.0.0.1", 0)) as server:  # answers, and is no cluster: Ray would try for minutes
        threading.Thread(target=lambda: server.accept()[0].sendall(b"+OK ready\r\n"), daemon=True).start()
        with pytest.raises(ServiceError, match="a Ray cluster must answer there, and what does is none"):
            require_cluster(f"127.0.0.1:{server.getsockname()[1]}")


def test_a_ray_cluster_without_room_for_one_trial_is_refused_instead_of_waited_for() -> None:
    from sysdesign.sweep.cluster import require_room

    machines = [
        {"Alive": True, "Resources": {"CPU": 8.0, "node:__internal_head__": 1.0}},
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 16.0, "GPU": 8.0}},
    ]
    with pytest.raises(
        ServiceError, match="the 2 GPUs and 1 CPUs of a trial; the cluster's have 0 GPUs and 8 CPUs, 1 GPUs and 4 CPUs - lower"
    ):
        require_room(RayRunner(gpus=2), machines)
    with pytest.raises(ServiceError, match="the 1 GPUs and 8 CPUs of a trial"):  # not what two machines have together
        require_room(RayRunner(gpus=1, cpus=8), machines)
    require_room(RayRunner(gpus=1, cpus=4), machines)


def test_the_command_answers_bad_input_in_one_line(command: Any, tmp_path: Path) -> None:
    done = command("sweep", "--spec", "experiments/rehearsal.yaml", "--budget.trials", "0", "--runtime.store", str(tmp_path))
    assert done.returncode == 2
    assert "budget.trials" in done.stderr and len(done.stderr.strip().splitlines()) == 1
