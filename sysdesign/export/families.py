"""A base folder of one of the three Qwen-VL families -> what its two GGUF files hold: tensor names, types and hyperparameters.

Names and keys are those of llama.cpp's own converter (its conversion/qwenvl.py and qwen3vl.py, read 2026-11, MIT); a contract test
holds the result equal to that converter's, tensor for tensor and key for key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sysdesign.errors import InputError
from sysdesign.export.weights import Stored

ARCHITECTURES = {
    "Qwen2VLForConditionalGeneration": "qwen2_vl",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
    "Qwen3VLForConditionalGeneration": "qwen3_vl",
}
TEXT_ARCHITECTURE = {"qwen2_vl": "qwen2vl", "qwen2_5_vl": "qwen2vl", "qwen3_vl": "qwen3vl"}
PROJECTOR = {"qwen2_vl": "qwen2vl_merger", "qwen2_5_vl": "qwen2.5vl_merger", "qwen3_vl": "qwen3vl_merger"}

_TEXT = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
_LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_VISION = {
    "pos_embed": "v.position_embd", "merger.ln_q": "v.post_ln", "merger.norm": "v.post_ln", "merger.mlp.0": "mm.0",
    "merger.mlp.2": "mm.2", "merger.linear_fc1": "mm.0", "merger.linear_fc2": "mm.2",
}  # fmt: skip
_BLOCK = {
    "norm1": "ln1", "norm2": "ln2", "attn.proj": "attn_out", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down", "mlp.linear_fc1": "ffn_up",
    "mlp.linear_fc2": "ffn_down", "attn.qkv": "attn_qkv", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_DEEPSTACK = {"norm": "norm", "linear_fc1": "fc1", "linear_fc2": "fc2"}


@dataclass(frozen=True)
class Piece:
    """One tensor of a GGUF file: rows `start` to `stop` of a stored tensor, or one of the two time planes of the patch filter."""

    name: str
    source: str  # canonical name of the stored tensor
    shape: tuple[int, ...]  # row-major
    start: int = 0
    plane: int | None = None


@dataclass(frozen=True)
class Layout:
    """What the files of one model need, in the order in which the tensors are written."""

    family: str
    config: Mapping[str, Any]  # config.json as it is
    text: Mapping[str, Any]  # its text part, flattened
    vision: Mapping[str, Any]
    processor: Mapping[str, Any]  # image_mean, image_std and more
    text_pieces: tuple[Piece, ...]
    vision_pieces: tuple[Piece, ...]

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding: then llama.cpp multiplies by token_embd."""
        return not any(piece.name == "output.weight" for piece in self.text_pieces)

    @property
    def layers(self) -> int:
        return int(self.text["num_hidden_layers"])


def read_layout(folder: Path, weights: Mapping[str, Stored]) -> Layout:
    """The layout of the model in `folder` (config.json, processor_config.json or preprocessor_config.json).

    Raises InputError: an architecture that is none of the three, a tensor that has no place or is missing, a vision tower that
    llama.cpp cannot hold.
    """
    config = _read(folder / "config.json")
    architecture = (config.get("architectures") or [None])[0]
    if architecture not in ARCHITECTURES:
        do = f"choose a base of {', '.join(ARCHITECTURES)}"
        raise InputError(str(folder / "config.json"), "architectures must name a model that can be exported", do, architecture)
    family = ARCHITECTURES[architecture]
    text, vision = {**config, **config.get("text_config", {})}, config["vision_config"]
    processor: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            said = _read(folder / name)
            processor |= {**said, **said.get("image_processor", {})}
    if "image_mean" not in processor:
        raise InputError(str(folder), "must hold processor_config.json or preprocessor_config.json with image_mean", "fetch the base again")
    tied = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
    held = {name: stored for name, stored in weights.items() if not (tied and name == "lm_head.weight")}
    pieces = [piece for name, stored in held.items() for piece in _pieces(name, stored, family, vision, folder)]
    layout = Layout(
        family, config, text, vision, processor,
        tuple(p for p in pieces if not p.source.startswith("visual.")), tuple(p for p in pieces if p.source.startswith("visual.")),
    )  # fmt: skip
    _complete(layout, tied, folder)
    return layout


def _pieces(name: str, stored: Stored, family: str, vision: Mapping[str, Any], folder: Path) -> Iterator[Piece]:
    module, _, suffix = name.rpartition(".")
    if match := re.fullmatch(r"layers\.(\d+)\.(.+)", module):
        stem = _LAYER.get(match[2])
        target = stem and f"blk.{match[1]}.{stem}"
    elif module == "visual.patch_embed.proj":
        yield from _patch(name, suffix, stored, folder)
        return
    elif family != "qwen3_vl" and (match := re.fullmatch(r"visual\.blocks\.(\d+)\.attn\.qkv", module)):
        third = stored.shape[0] // 3
        for i, part in enumerate("qkv"):
            yield Piece(f"v.blk.{match[1]}.attn_{part}.{suffix}", name, (third, *stored.shape[1:]), start=i * third)
        return
    elif match := re.fullmatch(r"visual\.blocks\.(\d+)\.(.+)", module):
        stem = _BLOCK.get(match[2])
        target = stem and f"v.blk.{match[1]}.{stem}"
    elif match := re.fullmatch(r"visual\.deepstack_merger_list\.(\d+)\.(.+)", module):
        stem = _DEEPSTACK.get(match[2])
        target = stem and f"v.deepstack.{vision['deepstack_visual_indexes'][int(match[1])]}.{stem}"
    else:
        target = _VISION.get(module.removeprefix("visual.")) if module.startswith("visual.") else _TEXT.get(module)
    if not target:
        do = "choose a base whose architecture is as published"
        raise InputError(str(folder), "every tensor must have a place in the GGUF files", do, stored.name)
    yield Piece(f"{target}.{suffix}", name, stored.shape)


def _patch(name: str, suffix: str, stored: Stored, folder: Path) -> Iterator[Piece]:
    """The patch filter (width, 3, 2, side, side): llama.cpp holds one two-dimensional filter for each of the two time steps."""
    if suffix == "bias":
        yield Piece("v.patch_embd.bias", name, stored.shape)
        return
    width, colours, times, *side = stored.shape
    if times != 2:
        raise InputError(str(folder), "llama.cpp holds vision towers with temporal_patch_size 2 only", "choose another base", times)
    for plane, end in enumerate(("", ".1")):
        yield Piece(f"v.patch_embd.weight{end}", name, (width, colours, *side), plane=plane)


def _complete(layout: Layout, tied: bool, folder: Path) -> None:
    """llama.cpp reads a file with a missing tensor as far as it must, or aborts: count before writing."""
    names = {piece.name for piece in (*layout.text_pieces, *layout.vision_pieces)}
    qkv = "attn_qkv" if layout.family == "qwen3_vl" else "attn_q"
    layer = [v for v in _LAYER.values() if layout.family == "qwen3_vl" or "_norm" not in v or v in ("attn_norm", "ffn_norm")]
    expected = {f"blk.{i}.{stem}.weight" for i in range(layout.layers) for stem in layer} | {"token_embd.weight", "output_norm.weight"}
    expected |= {"v.patch_embd.weight", "v.patch_embd.weight.1", "mm.0.weight", "mm.2.weight", "v.post_ln.weight"}
    expected |= {f"v.blk.{i}.{stem}.weight" for i in range(int(layout.vision["depth"])) for stem in (qkv, "attn_out", "ffn_up", "ln1")}
    expected |= set() if tied else {"output.weight"}
    if lost := sorted(expected - names):
        law = f"must hold every tensor of its config.json; {len(lost)} are missing"
        raise InputError(str(folder), law, "fetch the base again", lost[:3])
    if int(layout.vision["depth"]) < 3:
        raise InputError(str(folder), "llama.cpp needs a vision tower of at least 3 layers", "choose another base", layout.vision["depth"])
    if layout.family == "qwen3_vl" and layout.layers < 4:
        raise InputError(str(folder), "llama.cpp needs at least 4 decoder layers for Qwen3-VL", "choose another base", layout.layers)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise InputError(str(path), f"must be readable JSON ({err})", "fetch the base again") from None
