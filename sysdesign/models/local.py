"""Weights on this machine through transformers: a Hugging Face folder, optionally with a LoRA adapter on top, behind the chat seam.

Greedy and batched: conversations are left-padded and generated together. This is the reference that served files are held
against, so it loads full-precision weights unless told otherwise.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Literal

from sysdesign.errors import ArtifactError, ServiceError, ToolError
from sysdesign.models.chat import Message, Reply


class Local:
    """A Qwen-VL family model. Loads on construction; `close` frees the memory."""

    def __init__(
        self,
        folder: Path,
        *,
        adapter: Path | None = None,
        name: str = "",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        precision: Literal["float32", "bfloat16", "float16"] = "float32",
        group: int = 4,
        loaded: Any = None,
    ) -> None:
        """`group`: conversations a batch. `loaded`: a model to use as it is, in place of `folder`'s weights.

        Raises ArtifactError: no such folder or unreadable weights; ToolError: no CUDA device.
        """
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging as transformers_logging

        if device == "cuda" and not torch.cuda.is_available():
            raise ToolError("runtime.device", "cuda needs a visible GPU", "use --runtime.device cpu")
        where = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        transformers_logging.disable_progress_bar()
        self.name, self.group = name or f"{folder.name}{'+' + adapter.name if adapter else ''}", group
        try:
            self._processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
            model: Any = loaded
            if loaded is None:
                model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, dtype=getattr(torch, precision))
            if adapter is not None:
                from peft import PeftModel

                model = PeftModel.from_pretrained(model, adapter)
        except (OSError, ValueError, KeyError) as error:
            law = f"must hold a loadable model ({' '.join(str(error).split())[:200]})"
            raise ArtifactError(str(adapter or folder), law, "run the stage that made it again") from error
        self._processor.tokenizer.padding_side = "left"
        self._model: Any = model.to(where).eval() if loaded is None else model

    def reply(self, messages: Sequence[Message], *, max_tokens: int, seed: int) -> Reply:
        """One greedy answer; `seed` is unused because nothing is sampled."""
        return self.replies([messages], max_tokens=max_tokens, seed=seed)[0]

    def replies(self, conversations: Sequence[Sequence[Message]], *, max_tokens: int, seed: int) -> list[Reply]:
        """One batch. Pictures are passed as they are: they satisfy the picture policy already."""
        import torch

        start = time.perf_counter()
        inputs = self._inputs(conversations)
        with torch.no_grad():  # not inference mode: a model under training may keep what it computed here
            out = self._model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False, temperature=None, top_p=None, top_k=None)
        width = inputs["input_ids"].shape[1]
        asked = inputs["attention_mask"].sum(dim=1).tolist()
        seconds = (time.perf_counter() - start) / len(conversations)
        ends = self._ends()
        return [
            _reply(self._processor.tokenizer, ids, ends, count, seconds) for ids, count in zip(out[:, width:].tolist(), asked, strict=True)
        ]

    def stream(self, messages: Sequence[Message], *, max_tokens: int, seed: int, temperature: float = 0.0) -> Generator[str, None, Reply]:
        """Yields whole characters as they are generated and returns the `Reply`; greedy at temperature 0.

        Generation runs in a thread of its own; when the reader leaves, it stops at the next token. Raises ServiceError when generation
        fails, out of memory for one.
        """
        import torch
        from transformers import StoppingCriteria, TextIteratorStreamer

        left = threading.Event()

        class Left(StoppingCriteria):
            def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
                return torch.full((input_ids.shape[0],), left.is_set(), dtype=torch.bool, device=input_ids.device)

        inputs = self._inputs([messages])
        streamer = TextIteratorStreamer(self._processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        sampling: dict[str, Any] = {"do_sample": temperature > 0, "temperature": temperature or None, "top_p": None, "top_k": None}
        ended: dict[str, Any] = {}

        def generate() -> None:
            try:
                with torch.inference_mode(), torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    limits: dict[str, Any] = {"max_new_tokens": max_tokens, "stopping_criteria": [Left()]}
                    ended["ids"] = self._model.generate(**inputs, streamer=streamer, **limits, **sampling)
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
            raise ServiceError(
                self.name, "the model must be able to answer", "ask for less, or use --runtime.device cpu", reason
            ) from error
        asked = inputs["input_ids"].shape[1]
        made = ended["ids"].shape[1] - asked
        return Reply(
            text="".join(pieces), finish="length" if made >= max_tokens else "stop", input_tokens=asked, output_tokens=made,
            seconds=round(time.perf_counter() - begun, 3),
        )  # fmt: skip

    def close(self) -> None:
        """Drop the weights."""
        self._model = None
        self._processor = None

    def _inputs(self, conversations: Sequence[Sequence[Message]]) -> Any:
        """One padded batch, on the model's device."""
        from PIL import Image

        texts = [
            self._processor.apply_chat_template(_as_template(messages), tokenize=False, add_generation_prompt=True)
            for messages in conversations
        ]
        pictures = []
        for messages in conversations:
            for path in (path for message in messages for path in message.images):
                with Image.open(path) as picture:
                    pictures.append(picture.convert("RGB"))
        inputs = self._processor(text=texts, images=pictures or None, padding=True, return_tensors="pt", do_resize=False)
        return inputs.to(self._model.device)

    def _ends(self) -> set[int]:
        configured = self._model.generation_config.eos_token_id
        configured = configured if isinstance(configured, list) else [configured]
        return {token for token in (*configured, self._processor.tokenizer.eos_token_id) if token is not None}


def _as_template(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [
        {"role": message.role, "content": [*({"type": "image"} for _ in message.images), {"type": "text", "text": message.text}]}
        for message in messages
    ]


def _reply(tokenizer: Any, ids: list[int], ends: set[int], asked: int, seconds: float) -> Reply:
    stop = next((position for position, token in enumerate(ids) if token in ends), None)
    kept = ids if stop is None else ids[:stop]
    text = tokenizer.decode(kept, skip_special_tokens=False)
    return Reply(
        text=text.strip(), finish="length" if stop is None else "stop", input_tokens=int(asked), output_tokens=len(kept), seconds=seconds
    )
