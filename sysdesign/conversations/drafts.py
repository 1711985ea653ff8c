"""Diagrams and seed prompts -> the offline teacher's conversations: the result itself, or what a live teacher words anew."""

from __future__ import annotations

import difflib
import random

from sysdesign.config.conversations import ConversationsConfig
from sysdesign.conversations import essays
from sysdesign.conversations.families.catalogue import FAMILIES
from sysdesign.conversations.offline import OfflineTeacher
from sysdesign.conversations.structures import SHAPES
from sysdesign.errors import ConfigError
from sysdesign.prompts import SeedPrompt
from sysdesign.records import Conversation, DiagramRecord


def draft(
    cfg: ConversationsConfig, names: tuple[str, ...], seed: int, records: list[DiagramRecord], seeds: tuple[SeedPrompt, ...]
) -> list[Conversation]:
    """All conversations in diagram order, then the text-only ones; a pure function of the settings, the seed and the inputs."""
    turns = len(records) * cfg.per_diagram * (1 + cfg.max_turns) / 2 + cfg.text_only
    teacher = OfflineTeacher(names, max_turns=cfg.max_turns, skeleton_cap=max(2, int(cfg.skeleton_share * turns * 0.8)), shapes=cfg.shapes)
    made: list[Conversation] = []
    for record in records:
        asked: set[str] = set()
        for index in range(cfg.per_diagram):
            found = teacher.converse(record, f"{record.id}-q{index}", random.Random(f"{seed}/{record.id}/{index}"), asked)
            if found is not None:
                made.append(found)
    for index in range(cfg.text_only):
        prompt, round_ = seeds[index % len(seeds)], index // len(seeds)
        # neighbouring seeds start at different plans, so that a short run sees every plan
        plan = round_ + index % len(seeds)
        made.append(essays.converse(prompt, plan, f"{prompt.id}-t{round_}", random.Random(f"{seed}/{prompt.id}/{round_}"), cfg.max_turns))
    return made


def chosen_families(cfg: ConversationsConfig) -> tuple[str, ...]:
    """The families to ask, all by default. Raises ConfigError: an unknown family or answer shape."""
    for name in cfg.families:
        if name not in FAMILIES:
            near = difflib.get_close_matches(name, FAMILIES, 1)
            do = f"did you mean {near[0]}?" if near else f"choose among {', '.join(FAMILIES)}"
            raise ConfigError("conversations.families", "must name question families", do, name)
    for shape in cfg.shapes:
        if shape not in SHAPES:
            raise ConfigError("conversations.shapes", "must name answer shapes", f"choose among {', '.join(SHAPES)}", shape)
    return cfg.families or tuple(FAMILIES)
