"""Which model is tuned: a tiny one built on the spot, or one of the hub's Qwen vision-language families."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sysdesign.config.section import Section


class TinyBase(Section):
    """A real Qwen2-VL architecture of about two million parameters with a tokenizer of its own: rehearsals need no network."""

    kind: Literal["tiny"] = "tiny"
    family: Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"] = "qwen2_vl"
    """Architecture family."""
    hidden: int = Field(default=256, ge=256, le=1024, multiple_of=256)
    """Width; k-quants need multiples of 256."""
    layers: int = Field(default=2, ge=2, le=8)
    """Decoder layers."""
    vocabulary: int = Field(default=1536, ge=512, le=8192)
    """Byte-pair tokens besides the special ones."""
    recency: bool = False
    """Half of the heads begin by reading the last twenty tokens, so that a hundred steps of a low-rank adapter can learn what was asked."""

    @model_validator(mode="after")
    def _has_biases(self) -> TinyBase:
        if self.recency and self.family == "qwen3_vl":
            raise ValueError("recency needs query and key biases, which qwen3_vl does not have")
        return self


class HubBase(Section):
    """A published model; the commit is pinned so that a rerun is the same model."""

    kind: Literal["hub"] = "hub"
    name: str = "Qwen/Qwen2-VL-7B-Instruct"
    """Repository on the Hugging Face hub, or a local folder in the same layout."""
    revision: str = "main"
    """Branch, tag or commit."""
    family: Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"] = "qwen2_vl"
    """Architecture family."""


BaseConfig = Annotated[TinyBase | HubBase, Field(discriminator="kind")]
