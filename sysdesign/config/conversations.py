"""How many questions are asked, by which teacher, and what a conversation must pass to be kept."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sysdesign.config.section import Section

Usd = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class OfflineTeacherConfig(Section):
    """Answers computed from the graph and worded by a grammar: no key, no network, no cost."""

    kind: Literal["offline"] = "offline"


class ClaudeTeacherConfig(Section):
    """Claude words the questions and answers; facts still come from the graph, and every reply is checked against it."""

    kind: Literal["claude"] = "claude"
    model: str = "claude-haiku-5-5"
    """Exact model name; unknown and retired names are refused."""
    mode: Literal["live", "batch"] = "batch"
    """Batch costs half and answers within a day."""
    effort: Literal["low", "medium", "high"] = "low"
    """How much the model thinks; thinking is billed as output."""
    max_tokens: int = Field(default=4096, ge=256, le=16000)
    """Largest reply with its thinking; also the worst case that the ledger reserves."""
    cache: bool = True
    """Mark the shared prefix for the provider's prompt cache."""
    image_share: Share = 0.05
    """Share of requests that also carry the picture, to audit that it supports the answers."""
    concurrency: int = Field(default=8, ge=1, le=64)
    """Live requests at a time."""
    api_key_env: str = Field(default="ANTHROPIC_API_KEY", pattern=r"^[A-Z][A-Z0-9_]*$")
    """Name of the environment variable that holds the key."""
    base_url: str | None = None
    """Another endpoint that speaks the same protocol."""
    i_have_read_provider_terms: bool = False
    """Providers restrict training competing models on their outputs; say that you have checked yours."""


class OpenAITeacherConfig(Section):
    """GPT through the Responses API, or any server that speaks chat completions (Ollama, vLLM) when `api` is `chat`."""

    kind: Literal["openai"] = "openai"
    model: str = "gpt-6-luna"
    """Exact model name; unknown and retired names are refused, unless `api` is `chat`."""
    api: Literal["responses", "chat"] = "responses"
    """`chat` for open-weight models behind an OpenAI-compatible `base_url`."""
    mode: Literal["live", "batch"] = "batch"
    """Batch costs half and answers within a day."""
    effort: Literal["low", "medium", "high"] = "low"
    """How much the model thinks; thinking is billed as output."""
    max_tokens: int = Field(default=4096, ge=256, le=16000)
    """Largest reply with its thinking; also the worst case that the ledger reserves."""
    cache: bool = True
    """Keep the shared prefix in the provider's prompt cache."""
    image_share: Share = 0.05
    """Share of requests that also carry the picture, to audit that it supports the answers."""
    concurrency: int = Field(default=8, ge=1, le=64)
    """Live requests at a time."""
    api_key_env: str = Field(default="OPENAI_API_KEY", pattern=r"^[A-Z][A-Z0-9_]*$")
    """Name of the environment variable that holds the key; unset is fine for a local server."""
    base_url: str | None = None
    """Another endpoint that speaks the same protocol."""
    usd_per_mtok: tuple[Usd, Usd] | None = None
    """Dollars per million tokens in and out, where `api` is `chat` and the server is somebody else's; one's own costs nothing."""
    i_have_read_provider_terms: bool = False
    """Providers restrict training competing models on their outputs; say that you have checked yours."""


TeacherConfig = Annotated[OfflineTeacherConfig | ClaudeTeacherConfig | OpenAITeacherConfig, Field(discriminator="kind")]


class NoJudgeConfig(Section):
    """Programs alone decide what is kept."""

    kind: Literal["none"] = "none"


class JudgeConfig(Section):
    """A language model also decides, after all other checks: one verdict a conversation, paid from the same budget as the teacher."""

    kind: Literal["claude", "openai"]
    model: str
    """Exact model name, of another family than the teacher; unknown and retired names are refused."""
    mode: Literal["live", "batch"] = "batch"
    """Batch costs half and answers within a day."""
    effort: Literal["low", "medium", "high"] = "low"
    """How much the model thinks; thinking is billed as output."""
    max_tokens: int = Field(default=2048, ge=256, le=16000)
    """Longest verdict with its thinking; also the worst case that the ledger reserves."""
    unjudged: Literal["keep", "reject"] = "keep"
    """What becomes of a conversation whose verdict is nonsense: no JSON, a refusal, a reject without a true quote."""
    concurrency: int = Field(default=8, ge=1, le=64)
    """Live requests at a time."""
    api_key_env: str = Field(default="", pattern=r"^([A-Z][A-Z0-9_]*)?$")
    """Name of the environment variable that holds the key; empty for the provider's usual one."""
    base_url: str | None = None
    """Another endpoint that speaks the same protocol."""
    i_have_read_provider_terms: bool = False
    """Providers restrict training competing models on their outputs; say that you have checked yours."""

    cache: ClassVar[bool] = False  # its prefix is shorter than what providers cache


class ConversationsConfig(Section):
    """The `conversations` stage."""

    teacher: TeacherConfig = OfflineTeacherConfig()
    """Who words the conversations."""
    per_diagram: int = Field(default=4, ge=0, le=50)
    """Conversations about each diagram."""
    max_turns: int = Field(default=3, ge=1, le=8)
    """Most turns of a conversation about a diagram."""
    text_only: int = Field(default=400, ge=0, le=20000)
    """Design conversations without a picture, composed from the seed prompts."""
    families: tuple[str, ...] = ()
    """Question families to ask; empty for all."""
    shapes: tuple[str, ...] = ()
    """Answer shapes to write; empty for all."""
    max_chars: int = Field(default=8000, ge=200, le=40000)
    """Longest answer that is kept."""
    skeleton_share: float = Field(default=0.01, gt=0, le=1)
    """Largest share of all turns that may differ only in names and numbers."""
    near_duplicate: Share = 0.8
    """Jaccard similarity of word 3-grams from which the later of two answers is dropped; 1 drops exact copies only."""
    decontaminate: bool = True
    """Drop what shares a 13-gram, or half of its 8-grams, with an evaluation prompt."""
    judge: Annotated[NoJudgeConfig | JudgeConfig, Field(discriminator="kind")] = NoJudgeConfig()
    """Who looks at what passed every other check."""
