"""What may differ between two runs of the same experiment without changing any byte of its outputs: never hashed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sysdesign.config.section import Section


class RuntimeConfig(Section):
    """Machine, money and manners."""

    store: str = Field(default="artifacts", min_length=1)
    """Folder of artefacts, relative to the project."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run."""
    devices: int = Field(default=1, ge=1, le=64)
    """GPUs of this machine that training uses together, a process each; on a CPU, processes."""
    workers: int = Field(default=0, ge=0, le=1024)
    """Processes for parallel work; 0 means all cores."""
    offline: bool = False
    """Never ask the Hugging Face hub."""
    yes: bool = False
    """Go on without asking when a step costs money."""
    budget_usd: float = Field(default=0.0, ge=0)
    """Hard cap on API calls and a rented machine's minutes together, in US dollars; 0 forbids paid calls and counts no minutes."""
    gpu_usd_per_hour: float = Field(default=0.0, ge=0)
    """Rent of this machine; 0 when it is yours."""
    registered_model: str = Field(default="sysdesign", pattern=r"^[^/:]+$")
    """Name in the MLflow model registry."""
    push: Literal["auto", "always", "never"] = "auto"
    """Upload whole artefacts to the tracking server; auto: when the server is another machine."""
    lock_timeout_s: float = Field(default=10.0, ge=0, le=86400)
    """How long to wait for another run that is making the same artefact."""
