"""How fast, how varied and how well checked are the conversations?

    python -m experiments.benchmarks.conversations [diagrams]

1. 2,000 conversations for 500 diagrams: CPU-seconds, rejects, copies, variety.
2. 500 answers, each with foreign components in thirteen styles (`conversation_names.py`), put in for a drawn one and added, and with a
   number changed: what share does the check of one turn catch, and how often does it object to the answer as it was?
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from conversation_samples import diagrams

from experiments.benchmarks.conversation_names import KEPT, SEEN, STYLES, Half, added, invented, swapped
from experiments.benchmarks.conversation_prose import APART, LOOKED_AT
from sysdesign.config.conversations import ConversationsConfig
from sysdesign.conversations.checks import problem
from sysdesign.conversations.drafts import draft
from sysdesign.conversations.families.catalogue import FAMILIES
from sysdesign.conversations.names import foreign_names
from sysdesign.conversations.sieve import names_elsewhere, sieve
from sysdesign.conversations.slots import NUMBER, printed_numbers
from sysdesign.prompts import headline_prompts, seed_prompts
from sysdesign.records import Conversation, DiagramRecord, Turn

Pairs = Sequence[tuple[Conversation, Turn]]
BLOCKS = ("extract_graph", "locate", "what_is_at")


def renumbered(turn: Turn, diagram: DiagramRecord, rng: random.Random) -> Turn | None:
    """The answer with one printed number changed; None when it prints none."""
    numbers = [m for m in NUMBER.finditer(turn.answer) if printed_numbers(m.group(0))]
    names = [(m.start(), m.end()) for c in diagram.graph.components for m in re.finditer(re.escape(c.name), turn.answer)]
    numbers = [m for m in numbers if not any(a <= m.start() < b for a, b in names) and not re.match(r"\d+[.):] ", turn.answer[m.start() :])]
    if not numbers:
        return None
    match = rng.choice(numbers)
    old = match.group(1)
    value = float(old.replace(",", ""))
    new = old
    while float(new.replace(",", "")) == value:
        changed = value * rng.choice((0.5, 0.9, 1.1, 1.3, 2, 10)) + rng.choice((0, 0, 1))
        new = f"{changed:.{len(old.partition('.')[2])}f}"
    return _with(turn, turn.answer[: match.start(1)] + new + turn.answer[match.end(1) :])


def renamed(turn: Turn, diagram: DiagramRecord, half: Half, rng: random.Random) -> dict[str, Turn]:
    """By way and style: the answer with a name put in for a drawn one, and with a name more."""
    drawn, found = [c.name for c in diagram.graph.components], {}
    legend = " ".join(drawn + [c.technology for c in diagram.graph.components if c.technology]).lower()
    for style in STYLES:
        name = invented(half, style, rng)
        if name.lower() in turn.question.lower() or name.lower() in legend:
            continue
        if (answer := swapped(turn.answer, drawn, name, rng)) is not None:
            found[f"swapped {style}"] = _with(turn, answer)
        found[f"added {style}"] = _with(turn, added(turn.answer, half, name, rng))
    return found


def _alarms(text: str, turns: Pairs, known: Mapping[str, DiagramRecord], elsewhere: Collection[str], rng: random.Random) -> Iterator[str]:
    """What the names check finds in prose that mentions only three drawn names, of five diagrams."""
    for conversation, _ in rng.sample(list(turns), k=5):
        names = [c.name for c in known[conversation.diagram_id or ""].graph.components]
        drawn = dict(zip("ABC", rng.sample(names, k=3), strict=True))
        yield from foreign_names(text.format(**drawn), names, elsewhere)


def _with(turn: Turn, answer: str) -> Turn:
    return turn.model_copy(update={"answer": answer})


def main(count: int = 500) -> None:
    """Print both tables."""
    records, seeds, cfg = diagrams(count), seed_prompts(), ConversationsConfig(text_only=0)
    known, prompts, sources = {r.id: r for r in records}, headline_prompts(), {s.id: s for s in seeds}
    start = time.process_time()
    made = draft(cfg, tuple(FAMILIES), 0, records, seeds)
    drafted = time.process_time()
    result = sieve(made, known, sources, prompts, cfg)
    done = time.process_time()
    print(
        f"{len(made)} conversations, {sum(len(c.turns) for c in made)} turns about {count} diagrams: {drafted - start:.1f} CPU-s to write, "
    )
    print(f"{done - drafted:.1f} CPU-s to check; rejected {result.reasons}; near copies {result.near_copies / len(made):.2%}; ")
    print(
        f"distinct-2 {result.distinct_2:.3f}; largest skeleton {result.largest_skeleton} of {sum(len(c.turns) for c in result.kept)} turns"
    )

    for reject in result.rejected if "-v" in sys.argv else ():
        print(reject.reason, reject.detail)
    whole = ConversationsConfig()
    with_text = sieve(draft(whole, tuple(FAMILIES), 0, records, seeds), known, sources, prompts, whole)
    print(f"with {whole.text_only} text-only: kept {len(with_text.kept)}, {with_text.reasons}, distinct-2 {with_text.distinct_2:.3f}")

    rng, elsewhere = random.Random(7), names_elsewhere(records)
    turns = [(c, t) for c in made for t in c.turns[:1] if t.family not in BLOCKS]
    chosen = rng.sample(turns, k=min(500, len(turns)))
    alarms = [turn for c, turn in chosen if problem(turn, known[c.diagram_id or ""], elsewhere, 8000) is not None]
    print(f"false alarms: {len(alarms)} of {len(chosen)}")
    for turn in alarms if "-v" in sys.argv else ():
        print("alarm |", turn.answer[:400].replace("\n", " / "))
    for prose_name, prose in (("looked at", LOOKED_AT), ("kept apart", APART)):
        alarmed = [(text, names) for text in prose for names in _alarms(text, chosen, known, elsewhere, rng)]
        print(f"free prose, {prose_name}: objections to {len({t for t, _ in alarmed})} of {len(prose)} answers")
        for _, names in alarmed if "-v" in sys.argv and prose is LOOKED_AT else ():
            print("prose |", names)
    for half_name, half in (("words looked at", SEEN), ("words kept apart", KEPT)):
        caught, tried = Counter[str](), Counter[str]()
        for conversation, turn in chosen:
            diagram = known[conversation.diagram_id or ""]
            for way, bad in renamed(turn, diagram, half, rng).items():
                found = problem(bad, diagram, elsewhere, 8000)
                for group in (way.split()[0], way, "in all"):
                    tried[group] += 1
                    caught[group] += found is not None
                if found is None and half is SEEN and "-v" in sys.argv:
                    print(way, "|", bad.answer[:400].replace("\n", " / "))
        print(f"names, {half_name}: " + "; ".join(f"{g} {caught[g]} of {tried[g]} ({caught[g] / tried[g]:.1%})" for g in sorted(tried)))
    changed = [(c, bad) for c, turn in chosen if (bad := renumbered(turn, known[c.diagram_id or ""], rng)) is not None]
    slipped = [bad for c, bad in changed if problem(bad, known[c.diagram_id or ""], elsewhere, 8000) is None]
    print(f"numbers: {len(changed) - len(slipped)} of {len(changed)} caught ({1 - len(slipped) / len(changed):.1%})")
    for bad in slipped if "-v" in sys.argv else ():
        print("number |", bad.answer[:400].replace("\n", " / "))


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:] if a != "-v"))
