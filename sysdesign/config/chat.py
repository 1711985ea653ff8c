"""Whom to talk to, and how: in the terminal, once for a script, on a web page, or over a folder of pictures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sysdesign.config.deploy import LlamaCppConfig, OllamaConfig
from sysdesign.config.section import Section


class ChatConfig(Section):
    """A conversation with a model; nothing here changes an artefact."""

    via: Literal["auto", "ollama", "llamacpp", "adapter", "hub"] = "auto"
    """auto: Ollama when it serves the model, else llama.cpp on the exported files; adapter: the tuned weights through transformers;
    hub: the untuned base."""
    ollama: OllamaConfig = OllamaConfig()
    """The Ollama server."""
    llamacpp: LlamaCppConfig = LlamaCppConfig()
    """The server that is started when there is no Ollama."""
    prompt: str = ""
    """Ask this once and stop; empty: talk."""
    image: tuple[str, ...] = ()
    """Pictures that go with the first question."""
    output: Literal["text", "json"] = "text"
    """json: one object with answer, finish, token counts and seconds, for scripts."""
    folder: str = ""
    """Ask `prompt` about every picture below this folder and write one line each to `answers`."""
    answers: str = "answers.jsonl"
    """Where the answers about a folder go; a rerun asks only about pictures that are not in it yet."""
    web: bool = False
    """Serve the web page instead of the terminal."""
    host: str = "127.0.0.1"
    """Address of the web page; another than loopback lets the whole network ask your model."""
    port: int = Field(default=7860, ge=0, le=65535)
    """Port of the web page; 0 takes a free one."""
    max_tokens: int = Field(default=1024, ge=1, le=32768)
    """Length limit of an answer, in tokens."""
