"""How a model is asked, scored and judged, and what it takes to be promoted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sysdesign.config.section import Section


class Gate(Section):
    """The numbers a promotion stands on. They belong to the experiment, not to the result: set them before looking."""

    margin: float = Field(default=0.03, ge=0, le=1)
    """The gain in probe score that the lower confidence bound must exceed."""
    alpha: float = Field(default=0.05, gt=0, le=0.5)
    """Chance of promoting a model that is not better, over all attempts on one probe set together."""
    worthwhile_gain: float = Field(default=0.10, gt=0, le=1)
    """The true gain that the probe set should be able to show; the power statement is about this gain."""
    power: float = Field(default=0.80, gt=0.5, lt=1)
    """Wanted chance to promote a model that has the worthwhile gain."""
    non_inferiority: float = Field(default=0.05, ge=0, le=1)
    """How much worse the headline prompts may score, at the confidence bound."""
    hallucination: float = Field(default=0.02, ge=0, le=1)
    """How much the rate of invented components may rise, at the confidence bound."""
    format_validity: float = Field(default=0.95, ge=0, le=1)
    """Share of asked-for JSON, edge lists and boxes that must parse."""
    min_probes: int = Field(default=300, ge=1)
    """Fewer scored probes than this never promote."""
    min_graphs: int = Field(default=75, ge=2)
    """Fewer held-out graphs than this never promote."""
    draws: int = Field(default=20_000, ge=1_000, le=1_000_000)
    """Bootstrap resamples."""
    max_attempts: int = Field(default=8, ge=1, le=100)
    """Evaluations on one probe set after which it is spent and a new one is needed."""

    @model_validator(mode="after")
    def _worth_showing(self) -> Gate:
        if self.worthwhile_gain <= self.margin:
            raise ValueError(f"worthwhile_gain {self.worthwhile_gain} must be above margin {self.margin}, or no probe set could show it")
        return self


class NoJudge(Section):
    """Free answers are scored by rules alone, and the report says that no judge was run."""

    kind: Literal["none"] = "none"


class ChatJudge(Section):
    """A language model compares the two answers to every headline prompt, in both orders; a paid one spends from the ledger."""

    kind: Literal["anthropic", "openai", "chat"]
    model: str
    """Exact model id; its price must be known unless kind is chat."""
    base_url: str | None = None
    """Address ending in /v1 of a local server (chat), or another endpoint of the provider."""
    key_env: str = ""
    """Name of the environment variable that holds the API key; empty for a local server."""
    family: str = ""
    """Maker of a local judge model; no judge may be of the teacher's family."""
    max_tokens: int = Field(default=4096, ge=64, le=16_384)
    """Longest verdict, thinking included."""


class EvaluateConfig(Section):
    """Base and tuned model on the same questions with the same settings."""

    through: Literal["llamacpp", "transformers"] = "llamacpp"
    """Ask the files that will ship, or the adapter on the base through transformers."""
    quant: str = Field(default="", pattern=r"^[a-z0-9_]*$")
    """Which GGUF to ask, as in model-<quant>.gguf; empty when the export holds only one."""
    max_probes: int = Field(default=0, ge=0, le=100_000)
    """Ask at most this many probes, spread evenly over their graphs; 0 asks all."""
    probe_tokens: int = Field(default=768, ge=1, le=32_768)
    """Longest answer to a probe."""
    headline_tokens: int = Field(default=2048, ge=1, le=32_768)
    """Longest answer to a headline prompt."""
    context_tokens: int = Field(default=8192, ge=512, le=131_072)
    """Context of the server: prompt, picture and answer."""
    controls: int = Field(default=60, ge=0, le=100_000)
    """Probes repeated without the picture, with the graph as text, with permuted names, and with an absent component."""
    group: int = Field(default=8, ge=1, le=512)
    """Conversations a batch (transformers)."""
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Weights through transformers."""
    gate: Gate = Gate()
    """What it takes to be promoted."""
    judge: Annotated[NoJudge | ChatJudge, Field(discriminator="kind")] = NoJudge()
    """Who compares free answers."""
    library_scores: bool = True
    """Also run Hugging Face `evaluate` with these scores as modules, and ROUGE-L for reading; importing it takes 10 to 30 s."""
    report_probes: int = Field(default=60, ge=0, le=2_000)
    """Probes shown in full in the report, those that differ most first."""
