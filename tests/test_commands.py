"""What a person sees at the command line: help and typos at once, every bad input one line, no traceback."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from pipelines import command as wiring
from sysdesign import prompts
from sysdesign.artifacts import MANIFEST, Store
from sysdesign.config.root import Config
from sysdesign.errors import SysdesignError

ROOT = Path(__file__).parents[1]
Command = Callable[..., subprocess.CompletedProcess[str]]


def one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def test_help_names_every_field_of_the_stage_without_heavy_imports(command: Command) -> None:
    done = command("train", "--help")
    assert done.returncode == 0
    assert "--train.lora.rank" in done.stdout and "--runtime.device" in done.stdout
    assert "rehearsal" in done.stdout and "--diagrams.count" not in done.stdout
    probe = "import sys, pipelines.train; print([m for m in ('torch', 'mlflow', 'transformers', 'PIL') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--profile", "rehersal"], ["--profile", "'rehersal'", "did you mean --profile rehearsal?"]),
        (["--train.lora.rnk", "8"], ["--train.lora.rnk: is no field", "did you mean train.lora.rank?"]),
        (["--train.lora.rank", "0"], ["--train.lora.rank", "greater than or equal to 1", "got 0"]),
        (["--train.lora.rank"], ["needs a value"]),
        (["train"], ["takes --profile NAMES"]),
    ],
)
def test_a_mistyped_command_line(command: Command, flags: list[str], words: list[str]) -> None:
    one_line(command("train", *flags), 2, *words)


def test_a_missing_input_says_which_command_makes_it(command: Command, tracking_uri: str, tmp_path: Path) -> None:
    one_line(command("train", "--runtime.store", str(tmp_path / "store")), 4, "it is not there", "mlflow run . -e ")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _made(store: Store, key: str = "c" * 64) -> Path:
    with store.work("base", key, 1) as work:
        (work / "base.json").write_text("{}")
        made = store.commit(work, stage="base", version=1, key=key, seed=0, config={}, inputs={}, prompts={}, report={}, seconds=0.0)
    return made.path


def corrupt_manifest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (_made(store) / MANIFEST).write_text("not json")
    store.find("base", "c" * 64)


def tampered_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (_made(store) / "base.json").write_text("[]")
    found = store.find("base", "c" * 64)
    assert found
    store.verify(found)


def locked_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.root / ".work").mkdir(parents=True)
    with FileLock(str(store.root / ".work" / ("base-" + "c" * 12)) + ".lock"), store.work("base", "c" * 64, 0.05):
        pass


def no_disk_space(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.work("base", "c" * 64, 1) as work:
        raise OSError(errno.ENOSPC, "No space left on device", str(work / "model.safetensors"))


def unreadable_prompt(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store.root / "prompts"
    (folder / "student").mkdir(parents=True)
    (folder / "student/system.v1.md").write_bytes(b"\xff\xfe not UTF-8")
    (folder / "lock.json").write_text((ROOT / "prompts/lock.json").read_text())
    monkeypatch.setattr(prompts, "PROMPTS", folder)
    prompts.read_prompt("student/system.v1.md")


@pytest.mark.parametrize(
    ("break_it", "code", "words"),
    [
        (corrupt_manifest, 4, ["manifest.json: manifest must be whole", "rm -r"]),
        (tampered_file, 4, ["base.json: must have the sha256 its manifest records"]),
        (locked_store, 4, ["another one holds this", "--runtime.lock_timeout_s"]),
        (no_disk_space, 7, ["model.safetensors", "disk must have room", "--runtime.store"]),
        (unreadable_prompt, 3, ["student/system.v1.md", "git checkout"]),
    ],
)
def test_what_breaks_on_disk_is_one_line(
    break_it: Any, code: int, words: list[str], store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left, wiring.errors_as_lines():
        break_it(store, monkeypatch)
    assert left.value.code == code
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("error: ") and "\n" not in printed
    for word in words:
        assert word in printed, printed


def test_the_wrong_python_is_told_what_to_install() -> None:
    pretend = (
        "import sys; sys.version_info = (3, 10, 4, 'final', 0); import runpy; runpy.run_module('pipelines.train', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", pretend], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == "python: must be 3.11 or 3.12 (got '3.10.4') - make an environment with one of them: uv venv --python 3.11 .venv"
    )


def test_error_lines_name_place_law_value_and_way_out() -> None:
    error = SysdesignError("conf/a.yaml: train.epochs", "must be above 0", "set 1 or more", "x" * 500)
    assert str(error).startswith("conf/a.yaml: train.epochs: must be above 0 (got 'xxx")
    assert str(error).endswith("...) - set 1 or more")
    assert len(str(error)) < 220


def test_flags_reach_the_configuration() -> None:
    profile, flags = wiring.parse(["--profile", "full", "--seed=3", "--train.lora.rank", "8"], "about", ("train",))
    assert (profile, flags) == ("full", {"seed": "3", "train.lora.rank": "8"})
    assert wiring.resolve(Config, profile, flags).train.lora.rank == 8


def test_two_commands_on_a_store_that_does_not_exist_yet(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    words = [sys.executable, "-m", "pipelines.export", "--runtime.store", str(tmp_path / "store")]
    both = [subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 4, err
        assert "Traceback" not in err and "it is not there" in err


@pytest.mark.parametrize(
    ("uri", "words"),
    [("foo://bar", "the tracking store must answer"), ("sqlite:////proc", "the tracking store must answer")],
)
def test_a_tracking_address_that_is_none(uri: str, words: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    one_line(command("diagrams", "--diagrams.count", "1"), 6, "MLFLOW_TRACKING_URI", words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--profile", ""], "must name at least one file"),
        (["--base", "&a {x: *a}"], "must not contain itself"),
        (["--runtime.store", ""], "runtime.store"),
    ],
)
def test_empty_and_endless_values(command: Command, flags: list[str], words: str) -> None:
    one_line(command("diagrams", *flags), 2, words)


def test_a_store_that_cannot_be_a_folder(command: Command, tracking_uri: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one_line(command("diagrams", "--diagrams.count", "1", "--runtime.store", str(tmp_path / "file")), 4, "must be a writable folder")
