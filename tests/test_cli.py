"""The one command: it reaches every other, completes what they take, and says what they are."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipelines import cli
from sysdesign.config.root import Config
from sysdesign.flow import STAGES
from sysdesign.profiles import CONF, resolve

ROOT = Path(__file__).parents[1]
Command = Callable[..., subprocess.CompletedProcess[str]]


def test_every_command_is_reached_and_described(command: Command) -> None:
    project = yaml.safe_load((ROOT / "MLproject").read_text())
    listed = cli.commands()
    assert {"all" if name == "main" else name for name in project["entry_points"]} <= set(listed)
    assert all(about.endswith((".", ":", ",")) or about for about in listed.values()) and all(listed.values())
    assert next(iter(listed)) == "doctor", "a newcomer starts there"
    shown = command("cli", "--help")
    assert shown.returncode == 0 and all(name in shown.stdout for name in listed)


def test_a_command_gets_its_flags_and_its_exit_code(command: Command) -> None:
    through, direct = command("cli", "train", "--help"), command("train", "--help")
    assert through.stdout == direct.stdout and through.returncode == 0
    typo = command("cli", "train", "--train.lora.rnk", "8")
    assert typo.returncode == 2 and "did you mean train.lora.rank" in typo.stderr
    wrong = command("cli", "trian")
    assert wrong.returncode == 2 and "did you mean train?" in wrong.stderr and "Traceback" not in wrong.stderr


@pytest.mark.parametrize(
    ("words", "some", "never"),
    [
        (["d"], ["doctor", "diagrams", "dataset", "deploy"], ["train"]),
        (["train", "--pro"], ["--profile"], ["--train.epochs"]),
        (["train", "--profile", "full,h"], ["full,h200"], ["full,full"]),
        (["train", "--train.lora."], ["--train.lora.rank"], ["--export.ship"]),
        (["train", "--train.weights", ""], ["nf4", "bf16"], ["--profile"]),
        (["plan", "--export.sh"], ["--export.ship"], []),
        (["plan", "--js"], ["--json"], []),
        (["export", "--export.base_gguf", "t"], ["true"], ["false"]),
        (["completion", "b"], ["bash"], ["zsh"]),
        (["nothing", "-"], [], ["--profile"]),
    ],
)
def test_completion_offers_what_fits(words: list[str], some: list[str], never: list[str]) -> None:
    offered = cli.complete(words)
    assert set(some) <= set(offered) and not set(never) & set(offered)


def test_bash_completes_through_the_printed_script(command: Command, tmp_path: Path) -> None:
    program = tmp_path / "sysdesign"
    program.write_text(f'#!/bin/sh\ncd {ROOT} && exec {__import__("sys").executable} -m pipelines.cli "$@"\n')
    program.chmod(0o755)
    printed = command("cli", "completion", "bash").stdout
    ask = f"PATH={tmp_path}:$PATH\n{printed}\nCOMP_WORDS=(sysdesign train --profile a100-8)\nCOMP_CWORD=3\n_sysdesign 2>/dev/null"
    ask += "\necho ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True)
    assert done.stdout.strip() == "a100-80gb"
    others = {"zsh": "autoload -U compinit; compinit -uD; {}\necho ${_comps[sysdesign]}", "fish": "{}\ncomplete -C 'sysdesign trai'"}
    for shell, ask in others.items():
        if shutil.which(shell):
            run = ask.replace("{}", cli.script([shell]))
            said = subprocess.run(
                [shell, "-c", run], capture_output=True, text=True, env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
            )
            assert said.stdout.strip() == {"zsh": "_sysdesign", "fish": "train"}[shell], said.stderr
    assert command("cli", "completion", "csh").returncode == 2


@pytest.mark.parametrize("path", sorted((CONF / "cloud").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_cloud_task_starts_real_commands_with_real_flags(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    task = yaml.safe_load(text)
    assert text.startswith("# ") and "pipelines.plan" in task["run"], "the price is shown before"
    assert task["resources"]["max_hourly_cost"] <= 4
    assert task["resources"].get("autostop", {}).get("down") or task["resources"]["use_spot"], "nothing rented outlives its work"
    assert isinstance(resolve(Config, task["envs"]["PROFILE"], {}), Config)
    assert task["envs"]["UNTIL"] in STAGES
    for word in task["run"].replace('"', "").split():
        if word.startswith("pipelines."):
            assert word.removeprefix("pipelines.") in cli.commands()
        if word.startswith("--") and word != "--profile":
            assert any(word == option for option in cli._options("all")), word
    assert not any("key" in name.lower() or "token" in name.lower() for name in task["envs"]), "secrets go under secrets"
