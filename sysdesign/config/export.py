"""What is shipped: which GGUF files, merged how, and how equal they must be to what was trained."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from sysdesign.config.section import Section

Quant = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]


class ParityConfig(Section):
    """The certificate: the same prompts through transformers and through llama.cpp. One limit broken and nothing is registered."""

    prompts: int = Field(default=8, ge=0, le=512)
    """Test prompts compared, half of them with a picture: at least 2; 0 writes no certificate."""
    tokens: int = Field(default=48, ge=1, le=512)
    """Greedy tokens of each answer that are compared, its end among them, and scored."""
    f16: bool = True
    """Also certify an F16 file; when none ships it is written for the certificate and removed, which takes 2 bytes a weight of disk."""
    top: int = Field(default=64, ge=1, le=200_000)
    """Log-probabilities compared at each token: the likeliest so many."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the transformers side; a 7B model takes 33 GB in float32."""
    merged: float = Field(default=1.0e-3, gt=0)
    """Largest difference of log-probability between the live adapter and the merged weights."""
    exact: float = Field(default=0.05, gt=0)
    """Largest difference between merged weights and an f32 or f16 file in llama.cpp, in float32."""
    runtime: float = Field(default=0.5, gt=0)
    """Largest difference between a quantised file in llama.cpp and the same, dequantised, weights in transformers; of every comparison
    whose transformers side computes in bfloat16."""
    kl: float = Field(default=5.0e-3, gt=0)
    """Largest mean Kullback-Leibler divergence of either of the two comparisons above."""
    quantised_kl: float = Field(default=0.5, gt=0)
    """Largest mean divergence between the shipped quantisation and the merged weights: what quantising itself costs."""
    presence: float = Field(default=0.1, gt=0, le=0.5)
    """How far the adapter's share in each file may be from 1; a merge that changed nothing has share 0."""
    agreement: float = Field(default=0.9, ge=0, le=1)
    """Smallest share of equal greedy tokens where the weights are the same; in float32 f32 and f16 files must agree wholly but for ties."""
    tie: float = Field(default=0.02, ge=0)
    """Two tokens whose log-probabilities differ by less than this are a tie: either may win."""
    score_drop: float = Field(default=0.5, ge=0, le=1)
    """How far the mean task score of any file may lie below the live adapter's; a few prompts measure coarsely, evaluation finely."""

    @field_validator("prompts")
    @classmethod
    def _both_kinds(cls, prompts: int) -> int:
        if prompts == 1:
            raise ValueError("must be 0 or at least 2: a certificate needs a prompt with a picture and one without (got 1)")
        return prompts


class ExportConfig(Section):
    """From base and adapter to files that Ollama and llama.cpp serve."""

    quantisations: tuple[Quant, ...] = ("q4_k_m",)
    """Text models written, one file each; k-quants need widths that are multiples of 256."""
    ship: Quant = "q4_k_m"
    """The one the Modelfile names and evaluation asks."""
    base_gguf: bool = True
    """Also write the untuned base as the shipped quantisation, so that both are judged in the same runtime."""
    keep_merged: bool = False
    """Also write the merged weights as safetensors, for other serving stacks."""
    shard_gb: float = Field(default=5.0, gt=0, le=50)
    """Size of one file of the merged weights, in GB."""
    merge: Literal["sixteen_bit", "dequantised"] = "sixteen_bit"
    """Add the adapter to the published weights, or to their 4-bit form as training saw them."""
    context: int = Field(default=8192, ge=512, le=131072)
    """Context length written into the Modelfile; one picture takes 1,024 tokens or more."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Sampling temperature written into the Modelfile."""
    parity: ParityConfig = ParityConfig()
    """The certificate's size and limits."""

    @model_validator(mode="after")
    def _shipped_is_written(self) -> Self:
        if self.ship not in self.quantisations:
            raise ValueError(f"ship must be one of quantisations {list(self.quantisations)} (got {self.ship!r})")
        if len(set(self.quantisations)) != len(self.quantisations):
            raise ValueError(f"quantisations must differ (got {list(self.quantisations)})")
        return self
