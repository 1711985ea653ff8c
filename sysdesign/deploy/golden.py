"""A fixed picture and question -> whether a served model may take over: it answers, the same twice, and has seen the picture."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

from sysdesign.config.deploy import GoldenConfig
from sysdesign.errors import ServiceError
from sysdesign.graph import Record
from sysdesign.models.chat import Message, Reply
from sysdesign.models.picture import PicturePolicy

NAMES = ("Gateway", "Orders", "Ledger")  # plain words: no model needs to know a product to read them
OLLAMA_ENLARGES_TO = 1024  # tokens: smaller pictures, a rehearsal's, are enlarged for Qwen-VL and nothing can be said about them
SLACK = 8  # tokens around the image tokens themselves: vision start and end, perhaps a line break

Ask = Callable[[list[Message]], Reply]


class Health(Record):
    """What the health check saw."""

    question: str
    answer: str
    found: float  # share of the drawn names in the answer
    prompt_tokens: int | None
    image_tokens: int | None  # how many more tokens the prompt had with the picture than without
    seconds: float | None  # of the first answer, loading included
    tokens_per_second: float | None  # of the second answer


def draw_golden(path: Path, policy: PicturePolicy) -> int:
    """Write the picture: three named boxes in a row, joined by arrows, at a size the policy leaves alone. Returns its image tokens."""
    from PIL import Image, ImageDraw, ImageFont

    width, height = policy.size(1120, 840)
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(10, width // 36))
    line = max(2, width // 400)
    box_width, box_height = width * 0.22, height * 0.18
    for index, name in enumerate(NAMES):
        x, y = width * (0.17 + 0.33 * index), height / 2
        pen.rounded_rectangle(
            (x - box_width / 2, y - box_height / 2, x + box_width / 2, y + box_height / 2), radius=width // 80, outline="black", width=line
        )
        pen.text((x, y), name, fill="black", font=font, anchor="mm")
        if index:
            tip, tail = x - box_width / 2, x - width * 0.33 + box_width / 2
            pen.line((tail, y, tip, y), fill="black", width=line)
            pen.polygon(((tip, y), (tip - width / 60, y - width / 120), (tip - width / 60, y + width / 120)), fill="black")
    policy.fit(image).save(path)
    return width * height // policy.side**2


def check_health(ask: Ask, cfg: GoldenConfig, picture: Path, tokens: int, system: str, where: str) -> Health:
    """Ask twice with the picture (of `tokens` image tokens) and once without.

    Raises ServiceError saying which of the laws the model broke.
    """
    lead = [Message(role="system", text=system)] if system else []
    shown = [*lead, Message(role="user", text=cfg.question, images=(picture,))]
    first, second = ask(shown), ask(shown)
    blind = ask([*lead, Message(role="user", text=cfg.question)])
    mend = "look at the parity certificate of the export; nothing was changed on the server"
    if not first.text.strip():
        raise ServiceError(where, "the golden question must get an answer", mend, first.text)
    if first.text != second.text:
        raise ServiceError(where, "the same greedy question must get the same answer twice", mend, (first.text[:60], second.text[:60]))
    seen = None if first.input_tokens is None or blind.input_tokens is None else first.input_tokens - blind.input_tokens
    most = tokens + SLACK if tokens >= OLLAMA_ENLARGES_TO else math.inf
    if seen is not None and not tokens <= seen <= most:
        law = f"the picture must reach the model as the {tokens} image tokens it has: a server that resizes it shows something else"
        raise ServiceError(where, law, mend, f"{seen} tokens more with the picture")
    found = share_found(first.text)
    if found < cfg.min_found:
        law = f"the answer must name {cfg.min_found:.0%} of the golden picture's components ({', '.join(NAMES)})"
        raise ServiceError(where, law, mend, first.text)
    speed = second.output_tokens / second.seconds if second.output_tokens and second.seconds else None
    return Health(
        question=cfg.question, answer=first.text, found=round(found, 3), prompt_tokens=first.input_tokens, image_tokens=seen,
        seconds=first.seconds, tokens_per_second=None if speed is None else round(speed, 2),
    )  # fmt: skip


def share_found(answer: str) -> float:
    """Share of the drawn names that appear in an answer as whole words, whatever their case."""
    words = set(re.findall(r"[a-z]+", answer.lower()))
    return sum(name.lower() in words for name in NAMES) / len(NAMES)
