"""What the sieve counted -> a page that a person reads before using the conversations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from sysdesign.conversations.sieve import Sieved


def card(result: Sieved, note: str, seed: int, verdicts: Mapping[str, int], audit: Mapping[str, int]) -> str:
    """Markdown: where the texts come from, what was dropped and why, how varied the rest is, one sample a family."""
    turns = [t for c in result.kept for t in c.turns]
    families, structures = Counter(t.family for t in turns), Counter(t.structure for t in turns)
    providers = Counter(c.provider for c in result.kept)
    lines = [
        "# Conversations",
        "",
        note,
        "",
        f"Seed {seed}. Written by: {', '.join(f'{name} ({count})' for name, count in providers.items())}. The terms of a "
        "provider apply to "
        "the rows it wrote; rows of the offline teacher are free of them.",
        "",
        "## Funnel",
        "",
        "| step | left |",
        "| --- | --- |",
        *(f"| {step} | {left} |" for step, left in result.funnel.items()),
        "",
        *(["| reason | rejected |", "| --- | --- |", *(f"| {r} | {n} |" for r, n in result.reasons.items()), ""] if result.reasons else []),
        *([f"Verdicts of the judge: {', '.join(f'{name} {count}' for name, count in verdicts.items())}.", ""] if verdicts else []),
        *([f"Audit of a live teacher: {', '.join(f'{name} {count}' for name, count in audit.items())}.", ""] if audit else []),
        "## Variety",
        "",
        f"Distinct-2 of the answers {result.distinct_2:.3f}; the most used skeleton answers {result.largest_skeleton} of "
        f"{len(turns)} turns; "
        f"{result.near_copies} near copies were dropped.",
        "",
        "| shape | turns |",
        "| --- | --- |",
        *(f"| {name} | {count} |" for name, count in structures.most_common()),
        "",
        "## Families",
        "",
        "| family | turns | sample question |",
        "| --- | --- | --- |",
    ]
    samples: dict[str, str] = {}
    for turn in turns:
        if turn.family not in samples or len(turn.question) < len(samples[turn.family]):
            samples[turn.family] = turn.question
    for name, count in families.most_common():
        sample = samples[name].replace("|", "/").replace("\n", " ")
        lines.append(f"| {name} | {count} | {sample if len(sample) <= 160 else sample[:157] + '...'} |")
    return "\n".join(lines) + "\n"
