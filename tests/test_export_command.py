"""The export command on bad input: its code, one line that says what to do, and no artefact."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import command
from sysdesign import flow
from sysdesign.artifacts import Artifact, Store
from sysdesign.config.root import Config
from sysdesign.models.base import Base
from sysdesign.profiles import resolve
from sysdesign.records import NullLog, Report
from tests.export_inputs import make_base, make_dataset, make_train, rewrite

FLAGS = {
    "export.quantisations": "[q4_k_m]", "export.ship": "q4_k_m", "export.base_gguf": "false", "export.context": "1024",
    "export.parity.prompts": "2", "export.parity.tokens": "4", "runtime.device": "cpu", "runtime.workers": "2",
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of a base, an adapter and a dataset that export well."""
    folder = tmp_path_factory.mktemp("sound")
    base = make_base(folder / "base")
    make_train(folder / "train", base)
    make_dataset(folder / "dataset", count=2)
    return folder


@pytest.fixture
def inputs(sound: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(sound, tmp_path / "inputs"))


class _Kept(Report):
    def note(self) -> str:
        return "made"


def stocked(inputs: Path, root: Path) -> None:
    """A store that holds the inputs under the default profile's keys. The base is a local folder of the user's, so that damage to it is
    not the store's to find."""
    config, store = resolve(Config, command.DEFAULT_PROFILE, {}), Store(root)
    made: dict[str, Artifact] = {}
    for name in ("base", "diagrams", "conversations", "dataset", "train"):
        stage = flow.find_stage(name)

        def copied(*args: Any, out: Path, name: str = name, **kwargs: Any) -> Report:
            if name == "base":
                told = Base(kind="folder", name=str(inputs / "base" / "model"), revision="0" * 40, family="qwen2_vl")
                (out / "base.json").write_text(told.model_dump_json())
            elif (inputs / name).exists():
                shutil.copytree(inputs / name, out, dirs_exist_ok=True)
            return _Kept()

        made[name] = flow.run(stage, copied, config, store, {one: made[one] for one in stage.reads}, NullLog()).artifact


def run(inputs: Path, folder: Path, capsys: pytest.CaptureFixture[str], **changes: str) -> tuple[int, list[str]]:
    """The exit code of the command on these inputs, and the errors it printed."""
    stocked(inputs, folder / "store")
    capsys.readouterr()
    flags = {**FLAGS, "runtime.store": str(folder / "store"), **changes}
    words = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
    try:
        command.main("export", "", words)
    except SystemExit as left:
        return int(left.code or 0), [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error", "Traceback"))]
    return 0, []


def _model(inputs: Path) -> Path:
    return inputs / "base" / "model"


def _lost_shard(inputs: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors", "lm_head.weight": "model-00002-of-00002.safetensors"}}
    (_model(inputs) / "model.safetensors.index.json").write_text(json.dumps(index))


def _other_modules(inputs: Path) -> None:
    from safetensors.numpy import load_file, save_file

    file = inputs / "train" / "adapter" / "adapter_model.safetensors"
    save_file({name.replace("q_proj", "query"): values for name, values in load_file(file).items()}, file)


def _nan(inputs: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = np.nan

    rewrite(_model(inputs) / "model.safetensors", change)


def _odd_rows(inputs: Path) -> None:
    """Inner width 160, of the base and of an adapter that fits it."""

    def cut(tensors: dict[str, np.ndarray]) -> None:
        for name in [name for name in tensors if "layers" in name and "mlp" in name and "visual" not in name]:
            tensors[name] = np.ascontiguousarray(tensors[name][:, :160] if "down_proj" in name else tensors[name][:160])

    rewrite(_model(inputs) / "model.safetensors", cut)
    shutil.rmtree(inputs / "train")
    make_train(inputs / "train", type("B", (), {"path": inputs / "base"})())


def _architecture(inputs: Path) -> None:
    path = _model(inputs) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["LlavaForConditionalGeneration"]}))


@contextmanager
def _largest_file(limit: int) -> Iterator[None]:
    """The next write beyond `limit` bytes of any file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_lost_shard, ["every shard", "must be there", "model-00001-of-00002.safetensors", "base.name"]),
        (_other_modules, ["a module that the base does not have", "query"]),
        (_nan, ["layers.0.mlp.up_proj.weight", "must be finite", "NaN"]),
        (_odd_rows, ["multiples of 256", "160", "q8_0"]),
        (_architecture, ["must name a model that can be exported", "LlavaForConditionalGeneration", "Qwen2VL"]),
    ],
    ids=["shard lost", "adapter of another model", "NaN", "odd rows", "unknown architecture"],
)
def test_bad_input_is_one_line_and_no_artefact(
    damage: Callable[[Path], None], words: list[str], inputs: Path, tmp_path: Path, tracking_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(inputs)
    code, lines = run(inputs, tmp_path, capsys)
    assert code > 1 and len(lines) == 1, lines
    for word in words:
        assert word in lines[0], lines[0]
    assert not list((tmp_path / "store").glob("export-*")) and not list((tmp_path / "store").rglob("*.gguf"))


def test_a_disk_that_fills_up_is_one_line_and_the_same_command_goes_on(
    inputs: Path, tmp_path: Path, tracking_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for keep_merged, quant in (("false", "f32"), ("true", "q4_k_m")):  # the first fills up in a GGUF file, the second in a merged shard
        flags = {"export.keep_merged": keep_merged, "export.quantisations": f"[{quant}]", "export.ship": quant}
        flags["export.parity.prompts"] = "0"
        for full in (True, False):
            with _largest_file(2_500_000) if full else nullcontext():
                code, lines = run(inputs, tmp_path, capsys, **flags)
            assert (code, len(lines)) == ((7, 1) if full else (0, 0)), lines
            assert not full or ("disk" in lines[0] and "Traceback" not in lines[0]), lines
            assert len(list((tmp_path / "store").glob("export-*"))) == (keep_merged == "true") + (not full)


def test_tied_embeddings_are_certified(inputs: Path, tmp_path: Path, tracking_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(_model(inputs) / "model.safetensors", lambda tensors: tensors.__delitem__("lm_head.weight"))
    path = _model(inputs) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))
    assert run(inputs, tmp_path, capsys) == (0, [])
    made = next((tmp_path / "store").glob("export-*"))
    assert json.loads((made / "parity.json").read_text())["passed"] is True
    from gguf import GGUFReader

    said = GGUFReader(made / "gguf" / "model-q4_k_m.gguf").fields
    assert said["general.base_model.0.name"].contents() == "model"  # the folder's name, not its path
