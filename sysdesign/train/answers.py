"""Validation rows -> what the model under training answers to their last question, beside the reference and the picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sysdesign.records import MetricLog, Row


@contextmanager
def answering(model: Any) -> Iterator[Any]:
    """A model under training, ready to generate on the device that is yielded; afterwards it trains on as before."""
    import torch

    device = next(p for p in model.parameters() if p.requires_grad).device
    tower = model.get_base_model().model.visual
    away = next(tower.parameters()).device != device  # the fast path keeps it off the card
    tower.to(device)
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            yield device
    finally:
        if away:
            tower.to("cpu")
        model.train()


def log_answers(model: Any, processor: Any, rows: Sequence[Row], folder: Path, log: MetricLog, *, step: int, max_tokens: int) -> str:
    """Answer each row greedily, log text and pictures, and return the text (markdown)."""
    from PIL import Image

    lines = [f"# Validation answers after step {step}", ""]
    with answering(model) as device:
        for row in rows:
            asked, wanted = list(row.messages[:-1]), row.messages[-1]
            text = processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
            pictures = []
            for name in row.images:
                with Image.open(folder / name) as picture:
                    pictures.append(picture.convert("RGB"))
            inputs = processor(text=[text], images=pictures or None, return_tensors="pt", do_resize=False).to(device)
            out = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False, temperature=None, top_p=None, top_k=None)
            answer = processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            lines += [f"**{row.id}** {_text(asked[-1])}", "", f"- reference: {_text(wanted)}", f"- answer: {answer}", ""]
            for name in row.images:
                log.image(folder / name, f"val/{row.id}", step)
    text = "\n".join(lines)
    log.text(text, f"answers/step-{step:06d}.md")
    return text


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")
