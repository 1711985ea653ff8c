"""A model and a config -> one of four conversations: once for a script, over a folder, on a web page, or at the terminal."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from sysdesign.chat.speakers import Sources, Speaker, open_speaker
from sysdesign.config.chat import ChatConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.errors import ConfigError


def chat(
    cfg: ChatConfig,
    *,
    seed: int,
    runtime: RuntimeConfig,
    sources: Sources,
    keyboard: TextIO = sys.stdin,
    screen: TextIO = sys.stdout,
    history: Path | None = None,
) -> None:
    """Talk to the model until the person, the script or the folder is done.

    Reads pictures where the person points. Writes to `screen`, and `cfg.answers` for a folder. Raises ConfigError when the flags do
    not fit together, InputError and LimitError for pictures and prompts, ServiceError when the model does not answer.
    """
    if cfg.folder and not cfg.prompt:
        raise ConfigError("chat.folder", "needs a question to ask about every picture", "add --chat.prompt")
    if cfg.web and (cfg.folder or cfg.prompt):
        raise ConfigError("chat.web", "takes its questions on the page", "leave out --chat.prompt and --chat.folder")
    if cfg.image and not cfg.prompt:
        raise ConfigError("chat.image", "goes with a question", "add --chat.prompt, or use /image at the terminal")
    with open_speaker(cfg, sources, runtime) as speaker:
        if cfg.folder:
            from sysdesign.chat.infer import infer

            tally = infer(speaker, Path(cfg.folder), cfg.prompt, Path(cfg.answers), max_tokens=cfg.max_tokens, seed=seed)
            screen.write(tally.model_dump_json() + "\n")
        elif cfg.prompt:
            _once(cfg, speaker, seed, screen)
        elif cfg.web:
            from sysdesign.chat.web import serve_page

            serve_page(speaker, cfg.host, cfg.port, max_tokens=cfg.max_tokens, seed=seed, screen=screen)
        else:
            from sysdesign.chat.terminal import talk

            talk(speaker, max_tokens=cfg.max_tokens, seed=seed, keyboard=keyboard, screen=screen, history=history)


def _once(cfg: ChatConfig, speaker: Speaker, seed: int, screen: TextIO) -> None:
    """One question. As text the answer streams; as JSON it comes whole, so that what a script reads is always complete."""
    from sysdesign.chat.terminal import Conversation

    with tempfile.TemporaryDirectory(prefix="sysdesign-chat-") as folder:
        conversation = Conversation(speaker, Path(folder), max_tokens=cfg.max_tokens, seed=seed)
        for image in cfg.image:
            conversation.attach(Path(image))

        def write(text: str) -> None:
            if cfg.output == "text":
                screen.write(text)
                screen.flush()

        reply = conversation.ask(cfg.prompt, write)
    if cfg.output == "json":
        answer = {"model": speaker.name, "answer": reply.text} | reply.model_dump(exclude={"text"})
        screen.write(json.dumps(answer, ensure_ascii=False))
    screen.write("\n")
