"""Foreign names: in every style and place they are found, and ordinary prose is left alone."""

from __future__ import annotations

import random

import pytest
from conversation_samples import diagrams

from experiments.benchmarks.conversation_names import KEPT, STYLES
from experiments.benchmarks.conversation_prose import LOOKED_AT
from experiments.benchmarks.conversations import renamed
from sysdesign.config.conversations import ConversationsConfig
from sysdesign.conversations.checks import problem
from sysdesign.conversations.drafts import draft
from sysdesign.conversations.families.catalogue import FAMILIES
from sysdesign.conversations.names import foreign_names
from sysdesign.conversations.sieve import names_elsewhere
from sysdesign.conversations.words import rank
from sysdesign.prompts import seed_prompts


def test_names_that_no_list_holds_are_caught_and_plain_prose_is_not() -> None:
    """A sample of `experiments/benchmarks/conversations.py`, whose words the checks do not share."""
    drawn = diagrams(30)
    made = draft(ConversationsConfig(text_only=0), tuple(FAMILIES), 0, drawn, seed_prompts())
    rng, elsewhere, by_id = random.Random(3), names_elsewhere(drawn), {d.id: d for d in drawn}
    turns = [(by_id[c.diagram_id], c.turns[0]) for c in made if c.diagram_id and c.turns[0].family not in ("extract_graph", "locate")]
    bad = [b for d, t in rng.sample(turns, k=60) for b in renamed(t, d, KEPT, rng).values() if problem(b, d, elsewhere, 8000) is None]
    assert len(bad) <= 0.02 * 60 * 2 * len(STYLES), [b.answer for b in bad]
    assert not [t.answer for d, t in turns if problem(t, d, elsewhere, 8000) is not None]
    names = {"A": "Ursa", "B": "Order DB", "C": "Edge LB"}
    assert not [name for text in LOOKED_AT for name in foreign_names(text.format(**names), names.values())]


@pytest.mark.parametrize(
    "name",
    [
        "Ledger Sync",
        "kafka-2",
        "PaymentsDB",
        "ledger-sync",
        "ledger_sync",
        "ledgersync",
        "kafka",
        "ledger sync",
        "the ledger sync",
        "Kestrel",
        "ledger-v2",
        "Consul",
    ],
)
@pytest.mark.parametrize(
    "text",
    ["Put {} in front of Order DB.", "It waits for {}, then for Order DB.", '{{"components": ["Order DB", "{}"]}}',
     "| component | rate |\n| --- | --- |\n| Order DB | 5 |\n| {} | 7 |"],
)  # fmt: skip
def test_a_foreign_name_is_found_in_prose_tables_and_json(name: str, text: str) -> None:
    assert foreign_names(text.format(name), ["Order DB", "API Gateway"])


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("requests", 2),
        ("multiplied", 2),
        ("hopefully", 2),
        ("staleness", 1),
        ("neighbours", 2),
        ("kafka", 0),
        ("ledgersync", 0),
        ("redis", 0),
    ],
)
def test_how_plain_a_word_is(word: str, expected: int) -> None:
    assert rank(word) == expected
