"""Unsloth's FastVisionModel as a backend: the same adapter on the same modules, trained by its kernels. CUDA only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sysdesign.config.train import TrainConfig


def load_unsloth(folder: Path, cfg: TrainConfig, seed: int) -> Any:
    """The base in NF4 under an adapter whose parameter names and first values are those of the `peft` backend."""
    from unsloth import FastVisionModel  # type: ignore[import-not-found]

    from sysdesign.train.peft_backend import redraw

    model, _ = FastVisionModel.from_pretrained(
        str(folder),
        max_seq_length=cfg.max_length,
        load_in_4bit=cfg.weights != "bf16",
        use_gradient_checkpointing="unsloth",
        local_files_only=True,
    )
    model = FastVisionModel.get_peft_model(
        model,
        r=cfg.lora.rank,
        lora_alpha=cfg.lora.alpha,
        lora_dropout=0,
        bias="none",
        random_state=seed,
        finetune_vision_layers=cfg.lora.vision,
        finetune_language_layers=True,
        finetune_attention_modules=True,
        finetune_mlp_modules=True,
    )
    FastVisionModel.for_training(model)
    redraw(model, seed)
    return model
