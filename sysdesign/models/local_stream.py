"""Weights on this machine -> an answer piece by piece while it is generated, for a person who watches.

Generation runs in a thread of its own and hands over whole characters; when the reader leaves, it stops at the next token.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from sysdesign.errors import ServiceError
from sysdesign.models.chat import Message, Reply
from sysdesign.models.local import Local, _as_template


def stream_local(
    model: Local, messages: Sequence[Message], *, max_tokens: int, seed: int, temperature: float
) -> Generator[str, None, Reply]:
    """Yields text and returns the `Reply`; greedy at temperature 0. Raises ServiceError when generation fails, out of memory for one."""
    import torch
    from transformers import StoppingCriteria, TextIteratorStreamer

    left = threading.Event()

    class Left(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            return torch.full((input_ids.shape[0],), left.is_set(), dtype=torch.bool, device=input_ids.device)

    processor, weights = model._processor, model._model
    text = processor.apply_chat_template(_as_template(messages), tokenize=False, add_generation_prompt=True)
    pictures = [_opened(path) for message in messages for path in message.images]
    inputs = processor(text=[text], images=pictures or None, return_tensors="pt", do_resize=False).to(weights.device)
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    sampling: dict[str, Any] = {"do_sample": temperature > 0, "temperature": temperature or None, "top_p": None, "top_k": None}
    ended: dict[str, Any] = {}

    def generate() -> None:
        try:
            with torch.inference_mode(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                ended["ids"] = weights.generate(
                    **inputs, max_new_tokens=max_tokens, streamer=streamer, stopping_criteria=[Left()], **sampling
                )
        except Exception as err:  # reported where somebody reads, not in this thread
            ended["error"] = err
            streamer.end()

    begun = time.perf_counter()
    worker = threading.Thread(target=generate, daemon=True)
    worker.start()
    pieces: list[str] = []
    try:
        for piece in streamer:
            if piece:
                pieces.append(piece)
                yield piece
    finally:
        left.set()
        worker.join()
    if error := ended.get("error"):
        reason = " ".join(str(error).split())[:200]
        raise ServiceError(model.name, "the model must be able to answer", "ask for less, or use --runtime.device cpu", reason) from error
    asked = inputs["input_ids"].shape[1]
    made = ended["ids"].shape[1] - asked
    return Reply(
        text="".join(pieces), finish="length" if made >= max_tokens else "stop", input_tokens=asked, output_tokens=made,
        seconds=round(time.perf_counter() - begun, 3),
    )  # fmt: skip


def _opened(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.convert("RGB")
