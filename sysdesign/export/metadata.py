"""A model folder -> the key-value part of its GGUF files: hyperparameters, tokenizer, chat template, and where it all came from.

The tokenizer is read from tokenizer.json as it is. llama.cpp splits text by a rule it knows by name, so a tokenizer whose
splitting expression is not exactly Qwen2's is refused: its token ids would differ in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from sysdesign.errors import InputError
from sysdesign.export.families import PROJECTOR, TEXT_ARCHITECTURE, Layout
from sysdesign.export.recipe import FILE_TYPES
from sysdesign.graph import Record

# as published with Qwen2, Qwen2-VL, Qwen2.5-VL and Qwen3-VL (tokenizer.json, read 2026-11)
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # fmt: skip
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's token types


class Origin(Record):
    """Where a model came from: written into the file, so that it can be traced without this project's store."""

    name: str
    base: str  # repository or kind of the base
    base_revision: str = ""
    license: str = ""
    adapter_sha256: str = ""  # digest of the training artefact; empty for the untuned base
    training_key: str = ""
    dataset_sha256: str = ""


def add_origin(writer: Any, origin: Origin, parameters: int) -> None:
    """`general.*` as the GGUF specification names it, and `sysdesign.*` for what it has no word for."""
    writer.add_name(origin.name)
    writer.add_size_label(size_label(parameters))
    if origin.license:
        writer.add_license(origin.license)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, origin.base.rpartition("/")[2])
    if origin.base_revision:
        writer.add_base_model_version(0, origin.base_revision)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", origin.base):
        writer.add_base_model_organization(0, origin.base.partition("/")[0])
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{origin.base}")
    if origin.adapter_sha256:
        writer.add_finetune("systems-design")
        writer.add_string("sysdesign.adapter.sha256", origin.adapter_sha256)
        writer.add_string("sysdesign.training.key", origin.training_key)
        writer.add_string("sysdesign.dataset.sha256", origin.dataset_sha256)


def size_label(parameters: int) -> str:
    """`7.6B`, `668K`: rounded as the GGUF naming convention does."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= limit:
            value = parameters / limit
            return f"{value:.1f}{unit}" if value < 10 else f"{value:.0f}{unit}"
    return "1K"


def add_text(writer: Any, layout: Layout, quant: str) -> None:
    """Hyperparameters of the language model, in the words of llama.cpp's converter."""
    text = layout.text
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    writer.add_type("model")
    writer.add_block_count(layout.layers)
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    if (kind := rope.get("rope_type", rope.get("type", "default"))) not in ("default", "mrope"):
        law = "positions must be plain multimodal rotary ones"
        raise InputError("config.json: rope_parameters", law, "export a base without context extension", kind)
    writer.add_rope_dimension_sections([*rope["mrope_section"], 0, 0][:4])
    writer.add_rope_freq_base(float(rope.get("rope_theta", text.get("rope_theta", 1e6))))
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    if (width := text.get("head_dim")) is not None:
        writer.add_key_length(width)
        writer.add_value_length(width)
    if layout.family == "qwen3_vl":
        writer.add_num_deepstack_layers(len(layout.vision.get("deepstack_visual_indexes", [])))
    writer.add_file_type(FILE_TYPES[quant][1])
    writer.add_quantization_version(2)


def add_vision(writer: Any, layout: Layout) -> None:
    """Hyperparameters of the vision tower and what its pictures are normalised by."""
    vision, family = layout.vision, layout.family
    tower = {"width": vision["embed_dim"], "inner": vision["hidden_size"]} if family == "qwen2_vl" else {
        "width": vision["hidden_size"], "inner": vision["intermediate_size"],
    }  # fmt: skip
    side = 560
    if family == "qwen3_vl":
        side = int(vision.get("num_position_embeddings", 2304) ** 0.5 * vision.get("patch_size", 16))
    writer.add_type("mmproj")
    writer.add_file_type(FILE_TYPES["f16"][1])
    writer.add_clip_has_vision_encoder(True)
    writer.add_vision_projection_dim(layout.text["hidden_size"])
    writer.add_vision_image_size(vision.get("image_size", side))
    writer.add_vision_patch_size(vision["patch_size"])
    writer.add_vision_embedding_length(tower["width"])
    # for Qwen2-VL llama.cpp is told the output width here; it sizes nothing by it (conversion/qwenvl.py)
    writer.add_vision_feed_forward_length(tower["inner"])
    writer.add_vision_block_count(vision["depth"])
    writer.add_vision_head_count(vision["num_heads"])
    writer.add_vision_image_mean(layout.processor["image_mean"])
    writer.add_vision_image_std(layout.processor["image_std"])
    writer.add_clip_projector_type(PROJECTOR[family])
    if family == "qwen2_5_vl":
        writer.add_vision_use_silu(True)
        writer.add_vision_n_wa_pattern(_window_pattern(vision["fullatt_block_indexes"]))
    if family == "qwen3_vl":
        writer.add_vision_use_gelu(True)
        writer.add_vision_spatial_merge_size(vision.get("spatial_merge_size", 2))
        deep = vision.get("deepstack_visual_indexes", [])
        writer.add_vision_is_deepstack_layers([i in deep for i in range(vision["depth"])])
    top = layout.config if family != "qwen3_vl" else layout.config.get("text_config", {})
    writer.add_vision_attention_layernorm_eps(top.get("rms_norm_eps", 1e-6))
    writer.add_quantization_version(2)


def _window_pattern(full: list[int]) -> int:
    """Every n-th layer sees the whole picture; llama.cpp knows only equal steps."""
    step = full[0] + 1
    if any(b - a != step for a, b in pairwise(full)):
        raise InputError("config.json: fullatt_block_indexes", "must be equally spaced", "choose another base", full)
    return step


def add_tokenizer(writer: Any, folder: Path, text: Mapping[str, Any]) -> None:
    """Tokens, types, merges, special ids and the chat template of the processor in `folder`; `text` is the model's text config.

    Raises InputError: no tokenizer.json, not byte-level BPE with Qwen2's splitting rule, more tokens than the model has rows.
    """
    path = folder / "tokenizer.json"
    try:
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise InputError(str(folder), f"must hold tokenizer.json and tokenizer_config.json ({err})", "run the train stage again") from None
    splits = [p["pattern"].get("Regex") for p in _parts(tokenizer["pre_tokenizer"]) if p["type"] == "Split"]
    if tokenizer["model"]["type"] != "BPE" or splits != [QWEN2_SPLIT]:
        raise InputError(
            str(path), "must split text by Qwen2's rule, the one llama.cpp knows as qwen2", "use the base's own tokenizer", splits
        )
    tokens, types = _tokens(tokenizer, int(text["vocab_size"]), path)
    ids = {token: i for i, token in enumerate(tokens)}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]])
    for kind in ("bos", "eos", "unk", "pad"):
        said = config.get(f"{kind}_token")
        token = said.get("content") if isinstance(said, Mapping) else said
        number = ids.get(str(token), text.get(f"{kind}_token_id"))
        if isinstance(number, int) and number < len(tokens):
            getattr(writer, f"add_{kind}_token_id")(number)
    if isinstance(config.get("add_bos_token"), bool):
        writer.add_add_bos_token(config["add_bos_token"])
    writer.add_chat_template(chat_template(folder, config))


def _tokens(tokenizer: Mapping[str, Any], vocab_size: int, path: Path) -> tuple[list[str], list[int]]:
    added = {token["id"]: token for token in tokenizer.get("added_tokens", [])}
    names = {i: token for token, i in tokenizer["model"]["vocab"].items()} | {i: token["content"] for i, token in added.items()}
    if max(names) >= vocab_size:
        raise InputError(
            str(path), f"must not hold more tokens than the model's {vocab_size} rows", "use the base's own tokenizer", max(names) + 1
        )
    types = []
    for i in range(vocab_size):
        if i in added:
            marked = added[i]["special"] or re.fullmatch(r"<\|.*\|>", added[i]["content"], re.DOTALL)
            types.append(CONTROL if marked else USER_DEFINED)
        else:
            types.append(NORMAL if i in names else UNUSED)
    return [names.get(i, f"[PAD{i}]") for i in range(vocab_size)], types


def _parts(pre: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(pre["pretokenizers"]) if pre["type"] == "Sequence" else [pre]


def chat_template(folder: Path, config: Mapping[str, Any] | None = None) -> str:
    """The Jinja template of a processor folder; a shipped model without one would be prompted by guess."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    if (folder / "chat_template.json").is_file():
        return str(json.loads((folder / "chat_template.json").read_text(encoding="utf-8"))["chat_template"])
    template = (config or {}).get("chat_template")
    if not isinstance(template, str):
        raise InputError(str(folder), "must hold a chat template", "use the base's own processor")
    return template


def architecture(layout: Layout, vision: bool) -> str:
    """`general.architecture` of the text model or of the projector."""
    return "clip" if vision else TEXT_ARCHITECTURE[layout.family]
