"""A base folder -> the quantised base under a PEFT adapter: the libraries' own objects, on a CPU or a CUDA card.

The adapter's parameters stay in fp32 whatever the base is stored in, because AdamW's small updates vanish in bf16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sysdesign.config.train import LoraConfig
from sysdesign.errors import ArtifactError

LANGUAGE = r"language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
MERGER = r"visual\.(merger|deepstack_merger_list\.\d+)\.(mlp\.[02]|linear_fc\d)"  # mlp.1 is the activation between them
VISION = r"visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2|linear_fc1|linear_fc2|gate_proj|up_proj|down_proj))"


def target_pattern(lora: LoraConfig) -> str:
    """Regular expression of the module names that get an update, the same for every backend."""
    parts = [LANGUAGE, *([VISION] if lora.vision else []), *([MERGER] if lora.merger else [])]
    return r".*(" + "|".join(parts) + ")"


def load_base(folder: Path, *, weights: str, dtype: Any, device: Any) -> Any:
    """transformers' model, its decoder's linears in NF4 when `weights` says so; vision tower and head stay in `dtype`.

    Raises ArtifactError when the folder holds no loadable model.
    """
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["model.visual", "lm_head"],  # by full prefix: plain "visual" matches nothing and quantises the tower
    )
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            attn_implementation="sdpa",
            device_map={"": device},
            quantization_config=quantised if weights == "nf4" else None,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            str(folder), f"must hold a loadable base ({' '.join(str(error).split())[:200]})", "run the base stage again"
        ) from error
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # would repack weights at the first validation, and cannot train from there
            module.support_avx512bf16_for_cpu = False
    return model


def add_adapter(model: Any, lora: LoraConfig, seed: int) -> Any:
    """Wrap `model` with freshly drawn fp32 adapters; the draw depends on `seed` alone."""
    import torch
    from peft import LoraConfig as PeftLora
    from peft import get_peft_model

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    settings = PeftLora(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=target_pattern(lora),
        task_type="CAUSAL_LM",  # type: ignore[arg-type]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, settings)
    redraw(wrapped, seed)
    return wrapped


def redraw(wrapped: Any, seed: int) -> None:
    """Draw every A anew from `seed` and its name (uniform, as PEFT does) and zero every B: equal under every backend and device."""
    import math
    import zlib

    import torch

    for name, parameter in wrapped.named_parameters():
        if not parameter.requires_grad:
            continue
        parameter.data = parameter.data.float()
        if ".lora_A." in name:
            generator = torch.Generator().manual_seed((seed << 32) + zlib.crc32(name.encode()))
            bound = 1 / math.sqrt(parameter.shape[1])  # kaiming_uniform with a = sqrt(5)
            draw = torch.rand(parameter.shape, generator=generator) * 2 * bound - bound
            parameter.data.copy_(draw.to(parameter.device))
        else:
            parameter.data.zero_()
