"""How the base is tuned: what is trained, for how long, by which backend, and with which of the fast path's parts.

Defaults are for a 7B model on one GPU. Sizes that are 0 or `auto` are chosen by the memory planner from the card's memory.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sysdesign.config.section import Section


class LoraConfig(Section):
    """The adapter: low-rank updates of the language model's seven linear maps in every layer."""

    rank: int = Field(default=16, ge=1, le=512)
    """Rank of each update."""
    alpha: float = Field(default=32.0, gt=0, le=4096)
    """Updates are scaled by alpha / rank."""
    vision: bool = False
    """Also train the vision tower's linear maps; its features are then computed at every step."""
    merger: bool = False
    """Also train the map from vision features to the language model's width."""


class FastConfig(Section):
    """Parts of the fast path; each can be switched off to measure its own effect."""

    packed: bool = True
    """Join samples without padding; attention stays within each sample."""
    features: bool = True
    """Compute frozen vision features once and keep them on disk."""
    kernels: Literal["triton", "compiled", "eager"] = "triton"
    """Elementwise parts of the decoder layers on CUDA: the project's own kernels, torch.compile's, or torch's."""
    attention: Literal["auto", "flash", "sdpa"] = "auto"
    """Attention kernel; auto takes the fastest that the machine has."""


class AutoBackend(Section):
    """The fastest backend that the machine can run."""

    kind: Literal["auto"] = "auto"
    fast: FastConfig = FastConfig()
    """Parts of the fast path."""


class PeftBackend(Section):
    """TRL, PEFT and bitsandbytes; with `plain` the libraries' own forward pass, otherwise the fast path."""

    kind: Literal["peft"] = "peft"
    plain: bool = False
    """Use the libraries' own forward pass and padded batches: the reference that the fast path is measured against."""
    fast: FastConfig = FastConfig()
    """Parts of the fast path."""


class UnslothBackend(Section):
    """Unsloth's FastVisionModel; needs a CUDA card and the `unsloth` extra."""

    kind: Literal["unsloth"] = "unsloth"


Backend = Annotated[AutoBackend | PeftBackend | UnslothBackend, Field(discriminator="kind")]


class TrainConfig(Section):
    """One QLoRA run."""

    backend: Backend = AutoBackend()
    """Which library trains."""
    lora: LoraConfig = LoraConfig()
    """The adapter."""
    weights: Literal["auto", "nf4", "bf16", "fp32"] = "nf4"
    """Storage of the frozen language model; auto takes bf16 where the card has room, fp32 is for equality checks on a CPU."""
    compute: Literal["auto", "fp32", "bf16", "fp8"] = "auto"
    """Arithmetic of the frozen linear maps; auto is bf16 on a GPU and fp32 on a CPU; fp8 needs a Hopper card or newer."""
    epochs: float = Field(default=2.0, gt=0, le=1000)
    """Passes over the training rows."""
    max_steps: int = Field(default=0, ge=0)
    """Stop after this many steps; 0 means by epochs."""
    batch: int = Field(default=8, ge=1, le=4096)
    """Samples in one optimiser step."""
    micro_tokens: int = Field(default=0, ge=0)
    """Most tokens in one forward pass; 0 lets the planner choose. The loss does not depend on it."""
    checkpoint_layers: int = Field(default=-1, ge=-1)
    """Decoder layers whose activations are computed again in the backward pass; -1 lets the planner choose."""
    max_vram_gib: float = Field(default=0.0, ge=0)
    """Memory the planner may use; 0 means what the card has free."""
    max_length: int = Field(default=8192, ge=64)
    """Longest sample in tokens; a longer one is left out and counted."""
    learning_rate: float = Field(default=2.0e-4, gt=0, le=1)
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay after the warm-up."""
    warmup_steps: int = Field(default=10, ge=0)
    """Steps of linear warm-up."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """AdamW's decay of the adapter."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    optimizer: Literal["adamw_torch_fused", "adamw_torch", "adamw_8bit"] = "adamw_torch_fused"
    """8-bit states save 6 bytes for each trained parameter."""
    eval_steps: int = Field(default=25, ge=0)
    """Validation loss every so many steps; 0 means only at the end."""
    save_steps: int = Field(default=25, ge=0)
    """Checkpoint every so many steps (a multiple of eval_steps when the best one is kept); 0 means never."""
    keep_best: bool = True
    """End with the checkpoint of the lowest validation loss instead of the last one."""
    patience: int = Field(default=0, ge=0)
    """Stop after this many validations without improvement; 0 means never."""
    answer_steps: int = Field(default=0, ge=0)
    """Log answers to validation questions, with their pictures, every so many steps; 0 means only at the end."""
    answers: int = Field(default=2, ge=0, le=64)
    """How many validation questions are answered."""
    answer_tokens: int = Field(default=48, ge=1, le=2048)
    """Longest logged answer."""
    upload_checkpoints: bool = False
    """Also send every checkpoint to the tracking server, below `resume/`: for machines that may be taken away."""
