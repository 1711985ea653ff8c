"""A served GGUF file and test prompts -> what llama.cpp read and answered, with its log-probabilities."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sysdesign.errors import ArtifactError, ServiceError
from sysdesign.export.certificate import Answer, Step

PICTURE = "<picture>"
_AROUND = 2  # vision start and end, which the server puts around each picture


def ask(url: str, messages: Sequence[Mapping[str, Any]], images: Sequence[Path], *, tokens: int, top: int, never: Sequence[int]) -> Answer:
    """Greedy answer of the server at `url` (ending in /v1). `messages`: chat format with image parts, in the order of `images`.

    `never`: tokens that may not be chosen, on either side of a comparison (`torn_tokens`).
    """
    root = url.removesuffix("/v1")
    said = _openai(messages, images)
    marker = _call(f"{root}/props", None)["media_marker"]
    prompt = str(_call(f"{root}/apply-template", {"messages": said})["prompt"]).replace(marker, PICTURE)
    ids: list[int] = []
    for piece in prompt.split(PICTURE):
        ids += _call(f"{root}/tokenize", {"content": piece, "add_special": False, "parse_special": True})["tokens"] if piece else []
    body = {
        "messages": said, "max_tokens": tokens, "temperature": 0, "top_k": 1, "logprobs": True, "top_logprobs": top, "cache_prompt": False,
        "logit_bias": [[token, False] for token in never],
    }  # fmt: skip
    reply = _call(f"{url}/chat/completions", body)
    choice = reply["choices"][0]
    if any(option["logprob"] is None for step in choice["logprobs"]["content"] for option in step["top_logprobs"]):
        do = "train again with a lower learning rate or alpha: the update is too large for 16-bit arithmetic"
        raise ArtifactError("export", "the tuned model's answers must have finite probabilities in llama.cpp", do, "not a number")
    steps = [
        Step(token=step["id"], top={option["id"]: option["logprob"] for option in step["top_logprobs"]})
        for step in choice["logprobs"]["content"]
    ]
    if len(steps) != reply["usage"]["completion_tokens"]:  # the token that ends an answer is among them
        law = "llama.cpp must report every token it chose"
        raise ServiceError(url, law, "use another xllamacpp release", f"{len(steps)} of {reply['usage']['completion_tokens']}")
    text = str(choice["message"]["content"])
    image_tokens = reply["usage"]["prompt_tokens"] - len(ids) - _AROUND * len(images)
    return Answer(
        prompt=prompt, text_tokens=tuple(ids), image_tokens=image_tokens, text=text, steps=tuple(steps),
        ended=choice["finish_reason"] == "stop",
    )  # fmt: skip


def torn_tokens(processor: Path) -> tuple[int, ...]:
    """Ids of tokens that end inside a UTF-8 character: llama.cpp's server does not report them, so the steps would not line up."""
    vocabulary = json.loads((processor / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    spelled = _byte_alphabet()
    return tuple(sorted(number for token, number in vocabulary.items() if _torn(bytes(spelled[c] for c in token if c in spelled))))


def _torn(data: bytes) -> bool:
    for back, byte in enumerate(reversed(data[-4:]), start=1):
        if byte >= 0xC0:  # the first byte of a character says how long it is
            return back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
    return False


def _byte_alphabet() -> dict[str, int]:
    """The character by which byte-level BPE writes each byte: printable Latin-1 as itself, the others from U+0100 on."""
    plain = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _openai(messages: Sequence[Mapping[str, Any]], images: Sequence[Path]) -> list[dict[str, Any]]:
    pictures = iter(images)
    said = []
    for message in messages:
        if isinstance(message["content"], str):
            said.append({"role": message["role"], "content": message["content"]})
            continue
        parts: list[dict[str, Any]] = []
        for part in message["content"]:
            if part["type"] == "image":
                data = base64.b64encode(next(pictures).read_bytes()).decode()
                parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
            else:
                parts.append({"type": "text", "text": part["text"]})
        only_text = all(part["type"] == "text" for part in parts)
        content: Any = "".join(part["text"] for part in parts) if only_text else parts
        said.append({"role": message["role"], "content": content})
    return said


def _call(url: str, body: Mapping[str, Any] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=3600) as reply:
            return json.load(reply)
    except (urllib.error.URLError, OSError, ValueError) as err:
        detail = err.read()[:300].decode(errors="replace") if isinstance(err, urllib.error.HTTPError) else str(err)
        do = "raise export.context, or read the server's log"
        raise ServiceError(url, "llama.cpp must answer the parity prompts", do, detail) from None
