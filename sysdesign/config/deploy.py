"""Where the exported model is served, and what it must answer before it may serve."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sysdesign.config.section import Section


class OllamaConfig(Section):
    """An Ollama server: on this machine or any that HTTP reaches."""

    url: str = Field(default="http://127.0.0.1:11434", pattern=r"^https?://[^/\s]+/?$")
    """Address of the server."""
    model: str = Field(default="sysdesign", pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*(/[a-zA-Z0-9][a-zA-Z0-9._-]*)?$", max_length=80)
    """Name people type after `ollama run`, without a tag; versions are kept beside it as tags `v-<12 hex digits>`."""
    replace: bool = False
    """Take the name even when a model that this project did not make holds it (it is kept as `<model>:replaced-<12 hex digits>`)."""
    keep: int = Field(default=2, ge=1, le=20)
    """Versions kept on the server, the serving one included; older ones are deleted."""
    upload_tries: int = Field(default=5, ge=1, le=100)
    """How often the upload of one file is tried before giving up."""
    timeout_s: float = Field(default=600.0, gt=0, le=86400)
    """How long the server may stay silent, in seconds; loading a large model from a slow disk takes minutes."""


class LlamaCppConfig(Section):
    """llama.cpp's own server, started by this project inside its process."""

    context: int = Field(default=8192, ge=512, le=131072)
    """Tokens of context; one picture takes 1,024 or more."""
    timeout_s: float = Field(default=600.0, gt=0, le=86400)
    """How long an answer may take, in seconds."""


class GoldenConfig(Section):
    """The question about a known picture that a model answers before it may serve."""

    question: str = Field(default="List the names of all components in this diagram, one per line.", min_length=1, max_length=2000)
    """Asked twice with the same picture: both answers must be equal."""
    max_tokens: int = Field(default=128, ge=1, le=4096)
    """Length limit of the answer, in tokens."""
    min_found: float = Field(default=0.75, ge=0, le=1)
    """Share of the drawn component names that the answer must contain; 0 for a rehearsal's weights."""


class DeployConfig(Section):
    """From an export to a server that answers."""

    to: Literal["auto", "ollama", "llamacpp"] = "auto"
    """auto: Ollama when it answers at its address, else llama.cpp on this machine."""
    ollama: OllamaConfig = OllamaConfig()
    """The Ollama server."""
    llamacpp: LlamaCppConfig = LlamaCppConfig()
    """The fallback."""
    despite_certificate: bool = False
    """Serve a model although its parity certificate failed, that is, although it does not behave like what was trained."""
    golden: GoldenConfig = GoldenConfig()
    """The health check."""
