"""The one picture policy: how a picture is resized before any model sees it, the same in training, evaluation and serving.

Serving stacks differ: llama.cpp letterboxes to the aligned size where transformers stretches, and Ollama enlarges small
pictures to 1,024 tokens. A picture that already has an aligned size within the bounds passes through all of them untouched.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from sysdesign.graph import Record

if TYPE_CHECKING:
    from PIL.Image import Image

PIXELS_PER_TOKEN_SIDE = {"qwen2_vl": 28, "qwen2_5_vl": 28, "qwen3_vl": 32}  # patch size x spatial merge of each family


class PicturePolicy(Record):
    """Bounds in visual tokens; `side` is the pixels that one token covers in each direction."""

    side: Annotated[int, Field(ge=8, le=64)] = 28
    min_tokens: Annotated[int, Field(ge=4, le=16384)] = 1024
    max_tokens: Annotated[int, Field(ge=4, le=16384)] = 1280

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) in pixels, both multiples of `side`, closest to the aspect ratio within the token bounds.

        A size that already satisfies the policy is returned unchanged, so resizing twice equals resizing once.
        """
        columns, rows = max(1, round(width / self.side)), max(1, round(height / self.side))
        if width == columns * self.side and height == rows * self.side and self.min_tokens <= columns * rows <= self.max_tokens:
            return width, height
        wanted = min(max(width * height / self.side**2, self.min_tokens), self.max_tokens)
        aspect = width / height
        ideal = math.sqrt(wanted * aspect)
        options = [
            (c, r)
            for c in range(max(1, math.floor(ideal) - 3), math.ceil(ideal) + 4)
            for r in {max(1, math.floor(c / aspect)), max(1, round(c / aspect)), max(1, math.ceil(c / aspect))}
            if self.min_tokens <= c * r <= self.max_tokens
        ]
        if not options:  # a very long picture: the bounds win over the aspect ratio
            spans = ((math.ceil(self.min_tokens / r), self.max_tokens // r, r) for r in range(1, self.max_tokens + 1))
            options = [(min(max(round(r * aspect), fewest), most), r) for fewest, most, r in spans if fewest <= most]
        c, r = min(options, key=lambda option: (abs(math.log(option[0] / option[1] / aspect)), abs(option[0] * option[1] - wanted)))
        return c * self.side, r * self.side

    def fit(self, image: Image) -> Image:
        """`image` as RGB at `size(...)`, stretched (bicubic, as transformers does), transparency on white."""
        from PIL import Image as pil

        if image.mode in ("RGBA", "LA", "P", "PA"):
            layered = image.convert("RGBA")
            image = pil.alpha_composite(pil.new("RGBA", layered.size, "white"), layered)
        image = image.convert("RGB")
        size = self.size(*image.size)
        return image if image.size == size else image.resize(size, pil.Resampling.BICUBIC)
