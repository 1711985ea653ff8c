"""A width, a family and some text -> a complete vision-language model folder of two million parameters, in the hub's layout.

Rehearsals, tests and continuous integration need a base that every later tool accepts (PEFT, bitsandbytes, llama.cpp's
converter) and that no network has to deliver. Weights are random but not careless: hidden states keep unit scale, so that a
low-rank adapter on the decoder's linears alone, with embeddings and head frozen, can learn from a few hundred steps. With `recency`
half of the heads also start where every trained model ends up: looking at what was just said. Nothing of the task is in them, and
the base answers noise.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sysdesign.config.base import TinyBase

if TYPE_CHECKING:
    from torch import nn

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
HEAD_WIDTH = 64
VISION_WIDTH = 64
NEAR_PAIRS = slice(4, 10)  # rotary pairs whose waves, added up, are high over the last twenty tokens and cancel beyond
NEAR_LOGIT = 1.3  # what each of those pairs adds to the attention logit of the token itself
NEAR_GAIN = 8.0  # an average over twenty random embeddings is that much weaker than one
VISION_DEPTH = 4  # llama.cpp's projector code wants at least 3; two windows of two layers suit qwen2_5_vl

_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' and default_system -%}
<|im_start|>system
{{ default_system }}<|im_end|>
{% endif -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part['type'] == 'video' -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- else -%}
{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def chat_template(family: str) -> str:
    """ChatML with pictures; the qwen2 families speak as a helpful assistant when no system message leads, qwen3_vl does not."""
    system = "" if family == "qwen3_vl" else "You are a helpful assistant."
    return f"{{%- set default_system = {system!r} -%}}\n" + _TEMPLATE


def build_tiny(folder: Path, cfg: TinyBase, corpus: Iterable[str], seed: int) -> int:
    """Write weights (bfloat16), tokenizer, chat template and processor below `folder`; returns the number of parameters.

    The same arguments give the same bytes. `corpus` is what the tokenizer learns its merges from; a small one gives fewer
    than `cfg.vocabulary` tokens, never an error.
    """
    import torch
    import transformers

    tokenizer = _tokenizer(corpus, cfg.vocabulary, chat_template(cfg.family))
    processor = _processor(cfg.family, tokenizer)
    config = _config(cfg, tokenizer)
    architecture: Any = {
        "qwen2_vl": transformers.Qwen2VLForConditionalGeneration,
        "qwen2_5_vl": transformers.Qwen2_5_VLForConditionalGeneration,
        "qwen3_vl": transformers.Qwen3VLForConditionalGeneration,
    }[cfg.family]
    with torch.random.fork_rng(devices=[]):  # transformers draws weights that are replaced below; the caller's generator stays as it was
        model = architecture(config)
    _fill(model, seed, cfg.layers)
    if cfg.recency:
        _look_near(model)
    model.to(torch.bfloat16)
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]), pad_token_id=tokenizer.pad_token_id
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def _tokenizer(corpus: Iterable[str], vocabulary: int, template: str) -> Any:
    """Byte-level BPE with Qwen2's own pre-tokenizer, so that llama.cpp's `qwen2` rules split text the same way."""
    import json

    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    blank = Qwen2Tokenizer()
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.NFC()
    learner.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, min_frequency=2, show_progress=False)
    )
    learned = json.loads(learner.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL[1:]),
        model_max_length=32768,
        chat_template=template,
    )


def _processor(family: str, tokenizer: Any) -> Any:
    import transformers

    template = tokenizer.chat_template
    if family == "qwen3_vl":
        bounds = {"shortest_edge": 65536, "longest_edge": 16777216}  # as published with Qwen3-VL
        pictures = transformers.Qwen2VLImageProcessor(patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3, size=bounds)
        return transformers.Qwen3VLProcessor(pictures, tokenizer, transformers.Qwen3VLVideoProcessor(), chat_template=template)
    pictures = transformers.Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 12845056})  # as published with Qwen2-VL
    kind: Any = transformers.Qwen2VLProcessor if family == "qwen2_vl" else transformers.Qwen2_5_VLProcessor
    return kind(pictures, tokenizer, transformers.Qwen2VLVideoProcessor(), chat_template=template)


def _config(cfg: TinyBase, tokenizer: Any) -> Any:
    import transformers

    def token(text: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(text))

    heads = cfg.hidden // HEAD_WIDTH
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": cfg.hidden, "intermediate_size": cfg.hidden, "num_hidden_layers": cfg.layers,
        "num_attention_heads": heads, "num_key_value_heads": max(1, heads // 2), "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "pad_token_id": token("<|endoftext|>"), "bos_token_id": token("<|endoftext|>"),
        "eos_token_id": token("<|im_end|>"),
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},  # sums to half a head
    }  # fmt: skip
    vision: dict[str, Any] = {"depth": VISION_DEPTH, "num_heads": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
    whole: dict[str, Any] = {
        "image_token_id": token("<|image_pad|>"), "video_token_id": token("<|video_pad|>"), "tie_word_embeddings": False,
        "vision_start_token_id": token("<|vision_start|>"), "vision_end_token_id": token("<|vision_end|>"), "dtype": "bfloat16",
    }  # fmt: skip
    if cfg.family == "qwen2_vl":
        vision |= {"embed_dim": VISION_WIDTH, "hidden_size": cfg.hidden, "mlp_ratio": 2, "patch_size": 14}
        return transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **whole)
    if cfg.family == "qwen2_5_vl":
        vision |= {
            "hidden_size": VISION_WIDTH, "out_hidden_size": cfg.hidden, "intermediate_size": 2 * VISION_WIDTH, "patch_size": 14,
            "window_size": 112, "fullatt_block_indexes": [1, 3],
        }  # fmt: skip
        return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **whole)
    text["head_dim"] = HEAD_WIDTH
    text["num_hidden_layers"] = max(4, cfg.layers)  # two of them take the vision tower's middle layers; llama.cpp aborts below four
    text["rope_parameters"] |= {"mrope_interleaved": True}
    vision |= {
        "hidden_size": VISION_WIDTH, "out_hidden_size": cfg.hidden, "intermediate_size": 2 * VISION_WIDTH, "patch_size": 16,
        "deepstack_visual_indexes": [1, 2], "num_position_embeddings": 2304,
    }  # fmt: skip
    return transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **whole)


def _fill(model: nn.Module, seed: int, layers: int) -> None:
    """Replace every random weight, drawn with numpy because torch's kernels differ between processors.

    Matrices get variance 1/fan-in, so that a normalised input gives a unit-scale output; what writes into the residual stream
    is divided by the root of its writers' number; embeddings have unit scale, hence the head, with rows of length one, gives
    logits of unit spread on unrelated states and of sqrt(hidden) on a matching one: enough for a confident answer.
    """
    import numpy as np
    import torch

    writers = ("o_proj.weight", "down_proj.weight", "attn.proj.weight", "fc2.weight", "linear_fc2.weight")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() < 2:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            scale = 1.0 if "embed" in name and "patch" not in name else weight[0].numel() ** -0.5
            if name.endswith(writers) and "merger" not in name:
                scale /= (2 * layers) ** 0.5
            draw = np.random.default_rng([seed, zlib.crc32(name.encode())])
            weight.copy_(torch.from_numpy((draw.standard_normal(tuple(weight.shape)) * scale).astype(np.float32)))


def _look_near(model: nn.Module) -> None:
    """Make the first half of the decoder's heads read the recent past, by biases alone.

    Equal constants b in query and key at rotary pair i, of frequency f_i = theta^(-2i/head width), add b^2 cos(f_i d) / sqrt(head width)
    to the attention logit at distance d. Summed over NEAR_PAIRS that is a bump about twenty tokens wide.
    """
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            heads = (
                weight.view(-1, HEAD_WIDTH, *weight.shape[1:]) if name.rpartition(".")[0].endswith(("q_proj", "k_proj", "v_proj")) else None
            )
            if heads is None:
                continue
            near = heads[: len(heads) // 2]
            if name.endswith(("q_proj.bias", "k_proj.bias")):
                near[:, NEAR_PAIRS] = (NEAR_LOGIT * HEAD_WIDTH**0.5) ** 0.5
            elif name.endswith("v_proj.weight"):
                near *= NEAR_GAIN
