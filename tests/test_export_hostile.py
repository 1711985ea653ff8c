"""Bases, adapters and disks that cannot give an exact export: one line, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sysdesign.errors import InputError, LimitError, SysdesignError
from sysdesign.export.adapter import open_adapter
from sysdesign.export.weights import open_weights
from tests.export_inputs import make_base, make_train, rewrite, write_tiny


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base")).path / "model"


@pytest.fixture
def base(sound: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(sound, tmp_path / "base"))


def _config(base: Path, **changes: Any) -> None:
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _lost_shard(base: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors", "lm_head.weight": "model-00002-of-00002.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


def _cut(base: Path) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _nan(tensors: dict[str, np.ndarray]) -> None:
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = np.nan


def _huge(tensors: dict[str, np.ndarray]) -> None:
    tensors["lm_head.weight"] *= 1e6


def _extra(tensors: dict[str, np.ndarray]) -> None:
    tensors["model.extra.weight"] = tensors["model.norm.weight"]


def _narrow(base: Path) -> None:
    """Inner width 160: its down projection has rows that no k-quant can hold."""

    def cut(tensors: dict[str, np.ndarray]) -> None:
        for name in list(tensors):
            if "gate_proj" in name or "up_proj" in name:
                tensors[name] = tensors[name][:160]
            if "down_proj" in name:
                tensors[name] = np.ascontiguousarray(tensors[name][:, :160])

    rewrite(base / "model.safetensors", cut)


def _integer(base: Path) -> None:
    head = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (base / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"1234")


def _other_split(base: Path) -> None:
    path = base / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    for part in tokenizer["pre_tokenizer"]["pretokenizers"]:
        if part["type"] == "Split":
            part["pattern"]["Regex"] = r"\s+"
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("damage", "quant", "law"),
    [
        (_lost_shard, "f16", r"every shard .*must be there.*model-00001"),
        (_cut, "f16", r"must be whole"),
        (lambda b: (b / "model.safetensors").unlink(), "f16", r"must hold model.safetensors or its index"),
        (_integer, "f16", r"16 or 32 bit floats.*U8"),
        (lambda b: rewrite(b / "model.safetensors", _nan), "q4_k_m", r"up_proj.*must be finite after the merge"),
        (lambda b: rewrite(b / "model.safetensors", _huge), "f16", r"lm_head.weight: f16 holds values up to"),
        (lambda b: rewrite(b / "model.safetensors", lambda t: t.pop("model.norm.weight")), "f16", r"every tensor.*output_norm"),
        (lambda b: rewrite(b / "model.safetensors", _extra), "f16", r"place.*extra"),
        (_narrow, "q4_k_m", r"(Q4_K|Q6_K) needs rows that are multiples of 256.*160.*q8_0"),
        (lambda b: _config(b, architectures=["LlamaForCausalLM"]), "f16", r"must name a model that can be exported.*Llama"),
        (_other_split, "f16", r"must split text by Qwen2's rule"),
        (lambda b: (b / "tokenizer.json").unlink(), "f16", r"must hold tokenizer.json"),
    ],
    ids=["shard lost", "cut short", "no weights", "quantised already", "NaN", "too large for f16", "tensor lost", "tensor unknown",
         "odd rows", "unknown architecture", "other tokenizer", "no tokenizer"],
)  # fmt: skip
def test_bad_bases_are_one_line(base: Path, damage: Callable[[Path], object], quant: str, law: str, tmp_path: Path) -> None:
    damage(base)
    with pytest.raises(SysdesignError, match=law) as error:
        write_tiny(base, tmp_path / "out", (quant,))
    assert "\n" not in str(error.value) and not (tmp_path / "out" / f"model-{quant}.gguf").exists()


def _adapter_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _rename(folder: Path, old: str, new: str) -> None:
    from safetensors.numpy import load_file, save_file

    file = folder / "adapter_model.safetensors"
    save_file({name.replace(old, new): values for name, values in load_file(file).items()}, file)


@pytest.mark.parametrize(
    ("damage", "law"),
    [
        (lambda a: _rename(a, "layers.1.", "layers.9."), r"changes a module that the base does not have"),
        (lambda a: _rename(a, "k_proj", "q_norm"), r"module that the base does not have|must have the weight's shape"),
        (lambda a: _rename(a, "layers.1.mlp.up_proj.lora_B", "layers.1.mlp.up_proj.lora_C"), r"lora_A and lora_B matrices only"),
        (lambda a: _adapter_config(a, use_dora=True), r"use_dora"),
        (lambda a: _adapter_config(a, modules_to_save=["lm_head"]), r"modules_to_save"),
        (lambda a: _adapter_config(a, r=8), r"says rank 8"),
        (lambda a: (a / "adapter_model.safetensors").unlink(), r"adapter's weights must be there"),
    ],
    ids=["other depth", "other module", "no pair", "dora", "saved modules", "other rank", "no weights"],
)
def test_bad_adapters_are_one_line(sound: Path, damage: Callable[[Path], object], law: str, tmp_path: Path) -> None:
    adapter = make_train(tmp_path / "train", type("B", (), {"path": sound.parent})()).path / "adapter"
    damage(adapter)
    with pytest.raises(InputError, match=law):
        open_adapter(adapter, open_weights(sound))


def test_scales_follow_pefts_patterns_and_rank_stabilising(sound: Path, tmp_path: Path) -> None:
    adapter = make_train(tmp_path / "train", type("B", (), {"path": sound.parent})()).path / "adapter"
    _adapter_config(adapter, use_rslora=True, alpha_pattern={r"layers\.0\..*q_proj": 40})
    scales = open_adapter(adapter, open_weights(sound)).scales
    assert scales["layers.0.self_attn.q_proj.weight"] == 20.0 and scales["layers.1.self_attn.q_proj.weight"] == 4.0


def test_a_disk_too_small_is_found_before_the_first_byte(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))  # type: ignore[attr-defined]
    with pytest.raises(LimitError, match=r"GB of free disk.*0\.00 GB free"):
        write_tiny(base, tmp_path / "out", ("f16",))
    assert not list((tmp_path / "out").iterdir())


def test_a_disk_that_fills_up_in_the_middle_keeps_what_is_there(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = os.pwrite, [0]

    def full(descriptor: int, data: Any, offset: int) -> int:
        count[0] += 1
        if count[0] > 10:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(LimitError, match=r"No space left.*a rerun goes on"):
        write_tiny(base, tmp_path / "out", ("f16",))
    monkeypatch.setattr(os, "pwrite", real)
    write_tiny(base, tmp_path / "out", ("f16",))
    write_tiny(base, tmp_path / "fresh", ("f16",))
    assert (tmp_path / "out" / "model-f16.gguf").read_bytes() == (tmp_path / "fresh" / "model-f16.gguf").read_bytes()
