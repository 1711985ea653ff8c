"""Seed prompts -> text-only conversations: a whole design and its follow-ups, single sections, or a sizing question.

Eight plans a seed, each used once per round with another scale or another selection, so that no two answers are near copies.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from sysdesign.conversations.asked import Facts
from sysdesign.conversations.families import design
from sysdesign.conversations.families.estimates import estimate_number
from sysdesign.conversations.offline import TEACHER
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.structures import answer, fitting, stated
from sysdesign.prompts import SeedPrompt
from sysdesign.records import Check, Conversation, Turn

_SECTIONS: dict[str, tuple[str, ...]] = {
    "scope": (
        "[Before any design|First]: what are the requirements of '{t}', and what stays out?",
        "[Scope|Write the scope of] '{t}': functional, measurable non-functional, out of scope.",
        "What must '{t}' do, how well, and what [do we leave out|is not part of it]?",
        "[List|Give] the functional and non-functional requirements [for|of] '{t}'.",
    ),
    "api": (
        "[Propose|Give|Sketch] the API [of|for] '{t}'.",
        "Which endpoints and events does '{t}' [need|expose]?",
        "What [are the contracts|does the interface look like] for '{t}'?",
    ),
    "data_model": (
        "[What is|Give me|Sketch] the data model of '{t}', with keys and stores{e}",
        "Which entities does '{t}' keep, how are they [found|keyed], and where do they live?",
        "[Choose|Pick] stores and keys for '{t}'.",
    ),
    "parts": (
        "Which components [make up|does one need for] '{t}', and what [does each do|is each for]?",
        "[Draw|Describe] the high-level design of '{t}'[ in request order|].",
        "[Walk me through|Lay out] the architecture of '{t}', naming what is asynchronous.",
    ),
    "deep_dive": (
        "In '{t}', [how do you handle|explain|go deep on]: {x}?",
        "{x} in '{t}': [what goes wrong naively and what works|how is it solved]?",
        "[The interviewer asks|Deep dive]: {x}, for '{t}'. [Your answer|What do you do]?",
    ),
    "failures": (
        "What [breaks first|can fail] in '{t}', how [is it noticed|do you see it], and what [happens then|is done]?",
        "[List|Go through] the failure modes of '{t}' with detection and mitigation.",
        "[How does|In which ways does] '{t}' fail, and what [limits|contains] the damage?",
    ),
    "tradeoffs": (
        "Which trade-offs [shape|did you make in] '{t}', and [what would change them|when would you decide otherwise]?",
        "[Defend|Justify] the main choices [of|in] '{t}' against their alternatives.",
        "Where could one [reasonably|] decide differently in '{t}', and when?",
    ),
}  # fmt: skip
_PLANS = (
    "full",
    "estimate",
    "deep_dive",
    "data_model",
    "failures",
    "parts",
    "estimate_later",
    "tradeoffs",
    "focused",
    "api",
    "deep_dive",
    "scope",
)
_FOLLOW = {
    "full": ("deep_dive", "failures", "estimate"),
    "focused": ("deep_dive", "tradeoffs", "estimate"),
    "data_model": ("api",),
    "parts": ("failures", "tradeoffs"),
    "scope": ("parts",),
    "api": ("data_model",),
    "failures": ("tradeoffs",),
}


def converse(seed: SeedPrompt, round_: int, conversation_id: str, rng: random.Random, max_turns: int) -> Conversation:
    """The conversation of that round: the plan and its dive are fixed by `round_`, the wording by `rng`."""
    plan = _PLANS[round_ % len(_PLANS)]
    factor = 1.0 if not plan.startswith("estimate") else rng.choice((0.1, 0.25, 0.5, 2, 3, 4, 5, 8, 10))
    turns = [_turn(plan, seed, rng, factor, round_, opening=True)]
    follow: Sequence[str] = _FOLLOW.get(plan, ())
    for name in follow:
        if len(turns) >= max_turns or rng.random() < 0.45:
            continue
        turns.append(_turn(name, seed, rng, factor, round_ + 1, opening=False))
    return Conversation(id=conversation_id, seed_id=seed.id, provider="offline", teacher=TEACHER, turns=tuple(turns))


def _turn(name: str, seed: SeedPrompt, rng: random.Random, factor: float, round_: int, opening: bool) -> Turn:
    pen = Pen(rng)
    if name.startswith("estimate"):
        asked = estimate_number(seed, pen, factor)
        shape = rng.choice([s for s in fitting(asked) if s not in ("short",)])
        text = answer(asked, shape, pen)
        return Turn(
            question=pen.say(asked.ask),
            answer=text,
            family=asked.family,
            structure=shape,
            facts=stated(asked.facts, text),
            check=asked.check,
        )
    facts = Facts("arithmetic on the stated scale")
    if name in ("full", "focused"):
        question = design.asked_scale(seed, pen)
        focus: tuple[str, ...] | None = None
        if name == "focused":
            focus, wish = design.FOCUS[rng.randrange(len(design.FOCUS))]
            question += " " + pen.say(wish)
        text = design.full_design(seed, pen, facts, focus)
        return Turn(
            question=question,
            answer=text,
            family="full_design",
            structure="essay",
            facts=stated(facts.all(), text),
            check=Check(kind="text"),
        )
    dive = round_ % len(seed.deep_dives)
    text = {
        "scope": lambda: design.scope(seed, pen),
        "api": lambda: design.api(seed, pen),
        "data_model": lambda: design.data_model(seed, pen),
        "parts": lambda: design.parts(seed, pen),
        "deep_dive": lambda: design.deep_dives(seed, pen, dive),
        "failures": lambda: design.failures(seed, pen),
        "tradeoffs": lambda: design.tradeoffs(seed, pen),
    }[name]()
    words = {"t": pen.name(seed.title), "x": pen.name(design.first(seed.deep_dives[dive].topic)), "e": "?" if rng.random() < 0.5 else "."}
    question = pen.say([line.format(**words) for line in _SECTIONS[name]])
    if not opening:
        question = pen.say(("", "[Next|And|Now]: ", "[Go on|Good]. ")) + question
    elif rng.random() < 0.5:
        question += pen.say((" [The brief|Background|What they want]: ",)) + seed.prompt.strip()
    return Turn(question=question, answer=text, family=f"design_{name}", structure="section", check=Check(kind="text"))
