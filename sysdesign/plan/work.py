"""A configuration -> how much work it is: pictures, conversations, rows, tokens, questions, bytes. No time and no money yet."""

from __future__ import annotations

import math
from pathlib import Path

from sysdesign.config.base import HubBase
from sysdesign.config.root import Config
from sysdesign.errors import ConfigError
from sysdesign.graph import Record
from sysdesign.plan.points import Points
from sysdesign.train.memory import Shape, read_shape
from sysdesign.train.order import steps_of

HEADLINE = 30  # evaluation prompts
HEADLINE_PICTURES = 18
CONTROL_VARIANTS = 3.5  # of each control probe: no picture, graph as text, permuted, and one absent component a graph
BYTES_A_TOKEN = 4.0
ROW_TOKENS = 200  # system prompt and chat markup


class Work(Record):
    """Amounts, means unless said."""

    shape: Shape
    tiny: bool
    pictures: int
    conversations: int  # with and without a picture
    turns: float  # of a conversation with a picture
    rows_train: int
    rows_val: int
    picture_tokens: int
    row_tokens: float
    longest_row: int
    trained_share: float
    steps: int
    steps_per_val: int
    asked: int  # questions to each of the two models
    asked_with_picture: int
    pictures_read: int  # distinct ones: a server that is asked about one picture after the other reads each once
    answer_tokens: float

    @property
    def parameters(self) -> float:
        """Of the language model."""
        return self.shape.linear * self.shape.layers + self.shape.vocabulary * self.shape.hidden * (1 if self.shape.tied else 2)

    @property
    def weight_bytes(self) -> float:
        """On the hub, in 16 bit."""
        return 2 * (self.parameters + self.shape.vision)


def work_of(config: Config, points: Points) -> Work:
    """Raises ConfigError for a hub model whose sizes are unknown here."""
    talks, bounds = config.conversations, config.dataset.picture
    with_picture, text_only = config.diagrams.count * talks.per_diagram, talks.text_only
    held_out = config.diagrams.held_out_share
    test = held_out + (1 - held_out) * config.dataset.test_share
    val = (1 - test) * config.dataset.val_share
    count = with_picture + text_only
    turns = 1 + points.request("extra_turns") * (talks.max_turns - 1)
    shown = min(bounds.max_tokens, max(bounds.min_tokens, (bounds.min_tokens + bounds.max_tokens) // 2))
    said = turns * points.request("said_bytes_turn")
    essay = points.request("said_bytes_text_only")
    with_tokens, without = ROW_TOKENS + shown + said / BYTES_A_TOKEN, ROW_TOKENS + essay / BYTES_A_TOKEN
    row = (with_picture * with_tokens + text_only * without) / max(count, 1)
    learned = with_picture * turns * points.request("answer_bytes_turn") + text_only * points.request("answer_bytes_text_only")
    longest = min(config.dataset.max_tokens, round(ROW_TOKENS + bounds.max_tokens + points.request("longest_said_bytes") / BYTES_A_TOKEN))
    rows_train = max(1, round(count * (1 - test - val)))
    train = config.train
    steps = len(steps_of(rows_train, epochs=train.epochs, batch=train.batch, max_steps=train.max_steps, seed=0))
    probes = min(config.dataset.probe_count, config.evaluate.max_probes or config.dataset.probe_count)
    controls = min(config.evaluate.controls, probes)
    asked = probes + HEADLINE + round(controls * CONTROL_VARIANTS)
    shows = probes + HEADLINE_PICTURES + controls // 3
    long_answers = HEADLINE * config.evaluate.headline_tokens * 0.5
    short_answers = (asked - HEADLINE) * min(config.evaluate.probe_tokens, 120)
    return Work(
        shape=shape_of(config, points), tiny=config.base.kind == "tiny", pictures=config.diagrams.count + HEADLINE_PICTURES,
        conversations=count, turns=turns, rows_train=rows_train, rows_val=round(count * val), picture_tokens=shown, row_tokens=row,
        longest_row=longest, trained_share=min(1.0, learned / BYTES_A_TOKEN / max(count, 1) / row), steps=steps,
        steps_per_val=train.eval_steps or steps, asked=asked, asked_with_picture=shows,
        pictures_read=min(shows, max(1, round(config.diagrams.count * test)) + HEADLINE_PICTURES),
        answer_tokens=(long_answers + short_answers) / asked,
    )  # fmt: skip


def shape_of(config: Config, points: Points) -> Shape:
    """Sizes of the base: of a local folder from its config.json, of the hub's from the table, of the tiny one from its settings."""
    base = config.base
    if not isinstance(base, HubBase):
        width, heads = base.hidden, max(1, base.hidden // 64)
        return Shape(
            hidden=width, layers=base.layers, inner=2 * width, queries=width, keys=width // 2, heads=heads, vocabulary=base.vocabulary,
            tied=False, vision=300_000,
        )  # fmt: skip
    if (Path(base.name) / "config.json").is_file():
        return read_shape(Path(base.name))
    if base.name not in points.shapes:
        do = f"plan with one of {', '.join(points.shapes)}, or give a local folder"
        raise ConfigError("base.name", "must be a model whose sizes are known, to be planned before it is fetched", do, base.name)
    return points.shapes[base.name]


def request_tokens(config: Config, points: Points) -> tuple[int, int, int]:
    """(prefix, own, reply) tokens of the mean request to a live teacher, without pictures."""
    talks, teacher = config.conversations, config.conversations.teacher
    low, high = config.diagrams.min_components, config.diagrams.max_components
    components = (low + high) / 2 * points.request("components")
    turns = 1 + points.request("extra_turns") * (talks.max_turns - 1)
    pictured = config.diagrams.count * talks.per_diagram
    share = pictured / max(pictured + talks.text_only, 1)
    own = share * (components * points.request("component_bytes") + turns * points.request("turn_bytes"))
    own += (1 - share) * points.request("text_only_bytes")
    said = share * turns * points.request("said_bytes_turn") + (1 - share) * points.request("said_bytes_text_only")
    thinking = points.request(f"thinking_{getattr(teacher, 'effort', 'low')}")
    reply = (said * points.request("wording") + turns * 45) / BYTES_A_TOKEN + thinking
    prefix = points.request("prefix_bytes") / BYTES_A_TOKEN
    return round(prefix), math.ceil(own / BYTES_A_TOKEN) + 10, round(min(reply, getattr(teacher, "max_tokens", reply)))
