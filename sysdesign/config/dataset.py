"""How conversations become rows: the picture policy, the longest row, the splits, and data of your own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sysdesign.config.section import Section

Share = Annotated[float, Field(ge=0, le=0.5)]


class PictureConfig(Section):
    """Bounds of the one picture policy, in visual tokens (28 x 28 pixels each; 32 x 32 for qwen3_vl)."""

    min_tokens: int = Field(default=1024, ge=4, le=16384)
    """Smaller pictures are enlarged to this; below 1,024 Ollama enlarges them itself, in its own way."""
    max_tokens: int = Field(default=1280, ge=4, le=16384)
    """Larger pictures are reduced to this."""

    @model_validator(mode="after")
    def _ordered(self) -> PictureConfig:
        # An aligned rectangle must exist between the bounds for every sane shape.
        if self.max_tokens < self.min_tokens * 1.1:
            raise ValueError("max_tokens must be at least 1.1 x min_tokens, or few shapes fit between them")
        return self


class UserData(Section):
    """Rows of your own: JSONL in this project's format, ShareGPT's or OpenAI's. Pictures must lie in the file's folder."""

    paths: tuple[str, ...] = ()
    """JSONL files."""
    licence: str = "unstated"
    """Under which terms they are; printed in the dataset card."""
    max_rows: int = Field(default=200_000, ge=1)
    """Rows read from all files together; the rest is counted, not used."""
    max_line_bytes: int = Field(default=1 << 20, ge=1024, le=1 << 26)
    """Longer lines are rejected unread."""
    max_image_bytes: int = Field(default=32 << 20, ge=1024, le=1 << 30)
    """Larger picture files are rejected unread."""
    max_image_pixels: int = Field(default=50_000_000, ge=4096, le=500_000_000)
    """Pictures with more pixels are rejected before they are decoded."""


class DatasetConfig(Section):
    """The full job: about 2,000 conversations on 500 diagrams."""

    picture: PictureConfig = PictureConfig()
    max_tokens: int = Field(default=4096, ge=128, le=131072)
    """Longest row, pictures included; longer rows are rejected, never cut."""
    val_share: Share = 0.06
    """Share of graph topologies kept for the loss during training."""
    test_share: Share = 0.12
    """Share of the remaining topologies kept for evaluation, beside those drawn in the held-out style."""
    probe_count: int = Field(default=300, ge=0, le=100_000)
    """Single questions of the test split that are scored without a judge; fewer when there are fewer."""
    extra: UserData = UserData()
    """Your own task data, for train and val."""
    replay: UserData = UserData()
    """General conversations that keep old skills alive, for train only."""
    replay_share: Share = 0.15
    """At most this share of the training rows is replay."""
