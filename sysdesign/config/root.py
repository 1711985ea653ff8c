"""The whole configuration: a seed, one section a stage, and the runtime that is never hashed."""

from __future__ import annotations

from pydantic import Field

from sysdesign.config.base import BaseConfig, HubBase
from sysdesign.config.chat import ChatConfig
from sysdesign.config.conversations import ConversationsConfig
from sysdesign.config.dataset import DatasetConfig
from sysdesign.config.deploy import DeployConfig
from sysdesign.config.diagrams import DiagramsConfig
from sysdesign.config.evaluate import EvaluateConfig
from sysdesign.config.export import ExportConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.config.section import Section
from sysdesign.config.train import TrainConfig


class Config(Section):
    """Defaults are the full-size job; profiles in `conf/` are sparse overlays."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    """Every random choice of every stage follows from it."""
    base: BaseConfig = HubBase()
    diagrams: DiagramsConfig = DiagramsConfig()
    conversations: ConversationsConfig = ConversationsConfig()
    dataset: DatasetConfig = DatasetConfig()
    train: TrainConfig = TrainConfig()
    export: ExportConfig = ExportConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    deploy: DeployConfig = DeployConfig()
    chat: ChatConfig = ChatConfig()
    runtime: RuntimeConfig = RuntimeConfig()
