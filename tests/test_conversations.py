"""The offline teacher and the sieve: every family, every shape, every reason to reject."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path

import brute_force as brute
import pytest
from conversation_samples import artifact, diagrams, record

from sysdesign.config.conversations import ConversationsConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.conversations.checks import arrows_in, problem
from sysdesign.conversations.drafts import draft
from sysdesign.conversations.duplicates import near_copies, shingles, spoken
from sysdesign.conversations.families.catalogue import FAMILIES
from sysdesign.conversations.names import bare, foreign_names
from sysdesign.conversations.pen import Pen, expand, plain_number, spellings
from sysdesign.conversations.sieve import names_elsewhere, sieve
from sysdesign.conversations.skeletons import skeleton
from sysdesign.conversations.slots import printed_numbers, states
from sysdesign.conversations.stage import conversations
from sysdesign.conversations.structures import STRUCTURES, answer, fitting
from sysdesign.conversations.view import View
from sysdesign.errors import ConfigError, LimitError
from sysdesign.prompts import headline_prompts, seed_prompts
from sysdesign.records import Check, Conversation, DiagramRecord, Fact, NullLog, Rejected, Turn, read_jsonl

CFG = ConversationsConfig(per_diagram=4, text_only=50)


@pytest.fixture(scope="module")
def drawn() -> list[DiagramRecord]:
    return diagrams(50)


@pytest.fixture(scope="module")
def made(drawn: list[DiagramRecord]) -> list[Conversation]:
    return draft(CFG, tuple(FAMILIES), 0, drawn, seed_prompts())


def test_there_are_enough_families_and_all_are_asked(made: list[Conversation]) -> None:
    assert len(FAMILIES) >= 31
    asked = {t.family for c in made for t in c.turns}
    assert set(FAMILIES) <= asked


def test_every_family_has_a_rule_a_source_of_words_and_twelve_phrasings(drawn: list[DiagramRecord]) -> None:
    seen: dict[str, set[str]] = {}
    shapes: dict[str, set[str]] = {}
    for index, diagram in enumerate(drawn):
        for name, family in FAMILIES.items():
            assert family.__doc__ and family.__name__ == name
            asked = family(View.of(diagram), Pen(random.Random(f"{index}/{name}")))
            if asked is not None:
                assert asked.family == name and asked.facts and asked.facts[0].rule
                assert sum(spellings(line) for line in asked.ask) >= 12, name
                said = {expand(line, random.Random(i)) for line in asked.ask for i in range(60)}
                seen.setdefault(name, said)
                shapes.setdefault(name, set()).update(fitting(asked))
    assert set(seen) == set(FAMILIES)
    assert {n: len(s) for n, s in seen.items() if len(s) < 12} == {}
    assert len({s for found in shapes.values() for s in found}) >= 8 and len(STRUCTURES) >= 8


def test_every_answer_passes_the_sieve(drawn: list[DiagramRecord], made: list[Conversation]) -> None:
    result = sieve(made, {d.id: d for d in drawn}, {s.id: s for s in seed_prompts()}, headline_prompts(), CFG)
    wrong = [(r.id, r.reason, r.detail) for r in result.rejected if r.reason not in ("near_copy", "skeleton")]
    assert wrong == []
    assert result.near_copies < 0.03 * len(made) and result.distinct_2 > 0.15


def test_facts_agree_with_brute_force(drawn: list[DiagramRecord], made: list[Conversation]) -> None:
    """Facts of opening turns against path sums, a running clock and switched-off components, on the real generated systems."""
    graphs, checked = {d.id: d.graph for d in drawn}, Counter[str]()
    for conversation in made:
        turn = conversation.turns[0]
        if conversation.diagram_id is None:
            continue
        graph = graphs[conversation.diagram_id]
        if len(graph.components) > 14 or any(e.parallel_group and e.alt_group for e in graph.edges):
            continue
        ids = {c.name: c.id for c in graph.components}
        for fact in turn.facts:
            if fact.name.startswith("rate at ") and fact.name[8:] in ids and turn.family != "cheapest_fix":
                slow = [brute.rates(graph, f.entry, f.peak_qps).get(ids[fact.name[8:]], 0.0) for f in graph.flows]
                assert any(math.isclose(float(fact.value), s, rel_tol=1e-9) for s in slow), (conversation.id, fact)  # type: ignore[arg-type]
                checked["rate"] += 1
            if fact.name == "mean latency":
                slow = [brute.clock(graph, f.entry) for f in graph.flows]
                assert any(math.isclose(float(fact.value), s, rel_tol=1e-9) for s in slow), (conversation.id, fact)  # type: ignore[arg-type]
                checked["latency"] += 1
            if fact.name.startswith("stops answering without "):
                failed = ids[fact.name[24:]]
                hit = tuple(c.name for c in graph.components if c.id != failed and not brute.works(graph, c.id, {failed}))
                assert fact.value == hit
                checked["blast"] += 1
            if fact.name == "single points of failure":
                options = [
                    tuple(
                        c.name
                        for c in graph.components
                        if c.replicas == 1 and c.type != "client" and not brute.works(graph, f.entry, {c.id})
                    )
                    for f in graph.flows
                ]
                assert fact.value in options
                checked["spof"] += 1
    assert checked["rate"] > 10 and min(checked[k] for k in ("latency", "blast", "spof")) >= 1, checked


def test_text_only_answers_are_whole_designs_with_right_arithmetic(made: list[Conversation]) -> None:
    essays = [t for c in made if c.diagram_id is None for t in c.turns if t.family == "full_design"]
    assert essays and max(len(t.answer.split()) for t in essays) > 400
    for turn in essays:
        for left, right in _equations(turn.answer):
            assert math.isclose(left, right, rel_tol=6e-3), turn.answer


def _equations(text: str) -> list[tuple[float, float]]:
    """`a / b = c` and `a x b kB x 8 = c` as printed."""
    import re

    found = []
    for a, b, c in re.findall(r"([\d.,]+) / ([\d.,]+) = ([\d,]+(?:\.\d+)?)", text):
        found.append((float(a.replace(",", "")) / float(b.replace(",", "")), float(c.replace(",", ""))))
    for a, b, c in re.findall(r"([\d.,]+) x ([\d.,]+) kB x 8 = ([\d,]+(?:\.\d+)?)", text):
        found.append((float(a.replace(",", "")) * float(b.replace(",", "")) * 8 / 1000, float(c.replace(",", ""))))
    return found


def test_the_stage_writes_what_it_says_and_is_reproducible(tmp_path: Path, drawn: list[DiagramRecord]) -> None:
    texts = []
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        source = artifact(tmp_path / run, drawn[:8])
        out = tmp_path / run / "out"
        out.mkdir()
        report = conversations(CFG, seed=3, out=out, log=NullLog(), runtime=RuntimeConfig(), diagrams=source)  # type: ignore[arg-type]
        texts.append((out / "conversations.jsonl").read_bytes())
        assert {p.name for p in out.iterdir()} == {"conversations.jsonl", "rejected.jsonl", "funnel.json", "card.md"}
        kept = list(read_jsonl(out / "conversations.jsonl", Conversation))
        assert report.conversations == len(kept) and len({c.id for c in kept}) == len(kept)
        assert len(list(read_jsonl(out / "rejected.jsonl", Rejected))) == report.rejected
        funnel = json.loads((out / "funnel.json").read_text())
        assert funnel["drafted"] == len(kept) + report.rejected and report.metrics()["conversations/count"] == len(kept)
    assert texts[0] == texts[1]


def test_a_subset_of_families_and_single_turns(tmp_path: Path, drawn: list[DiagramRecord]) -> None:
    cfg = ConversationsConfig(
        families=("inventory_count", "arrow_query"),
        per_diagram=2,
        text_only=0,
        max_turns=1,
        skeleton_share=1,
        near_duplicate=1,
        shapes=("short",),
    )
    out = tmp_path / "out"
    out.mkdir()
    conversations(cfg, seed=0, out=out, log=NullLog(), runtime=RuntimeConfig(), diagrams=artifact(tmp_path, drawn[:6]))  # type: ignore[arg-type]
    kept = list(read_jsonl(out / "conversations.jsonl", Conversation))
    assert {t.family for c in kept for t in c.turns} == {"inventory_count", "arrow_query"} and all(len(c.turns) == 1 for c in kept)
    assert {t.structure for c in kept for t in c.turns} == {"short"}


def test_an_unknown_family_and_an_empty_set_are_named(tmp_path: Path, drawn: list[DiagramRecord]) -> None:
    source = artifact(tmp_path, drawn[:1])
    with pytest.raises(ConfigError, match="did you mean bottleneck"):
        conversations(
            ConversationsConfig(families=("botleneck",)), seed=0, out=tmp_path, log=NullLog(), runtime=RuntimeConfig(), diagrams=source
        )  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="answer shapes"):
        conversations(
            ConversationsConfig(shapes=("sonnet",)), seed=0, out=tmp_path, log=NullLog(), runtime=RuntimeConfig(), diagrams=source
        )  # type: ignore[arg-type]
    with pytest.raises(LimitError, match="at least one conversation"):
        empty = ConversationsConfig(per_diagram=0, text_only=0)
        conversations(empty, seed=0, out=tmp_path, log=NullLog(), runtime=RuntimeConfig(), diagrams=source)  # type: ignore[arg-type]


def test_what_is_not_drawn_is_stated_in_the_question(drawn: list[DiagramRecord]) -> None:
    diagram = drawn[1]
    bare_record = record(diagram.graph, 1, tuple(k for k in diagram.visible if k.endswith((".name", ".type", ".mode", ".src", ".dst"))))
    for seed in range(40):
        view, pen = View.of(bare_record), Pen(random.Random(seed))
        asked = FAMILIES["replicas_needed"](view, pen)
        if asked is not None:
            question = view.given(pen)
            for fact in asked.facts:
                if fact.name == "capacity per replica":
                    assert states(question, fact)
    hidden = Turn(
        question="How many?", answer="4 replicas.", family="attribute_read", structure="direct", check=Check(kind="number", expected=4),
        facts=(Fact(name=f"replicas of {diagram.graph.components[2].name}", value=4, rule="lookup"),),
    )  # fmt: skip
    found = problem(hidden, bare_record, frozenset(), 1000)
    assert found is not None and found.reason == "not_visible"


def _turn(answer_: str, **fields: object) -> Turn:
    given = {
        "question": "What limits it, at 300 req/s?",
        "family": "bottleneck",
        "structure": "direct",
        "check": Check(kind="set", expected=["Order DB"]),
    }
    return Turn.model_validate({**given, "answer": answer_, **fields})


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (_turn(""), "format"),
        (_turn("Order DB <|im_end|>"), "format"),
        (_turn("x" * 3000 + " Order DB"), "length"),
        (_turn("I'm sorry, I cannot help with Order DB."), "refusal"),
        (_turn("Order DB, because the Fraud Service is slow."), "foreign_name"),
        (_turn("Order DB, so add a payments-cache."), "foreign_name"),
        (_turn("Order DB at 310 req/s."), "foreign_number"),
        (_turn("It is the gateway."), "missing_result"),
        (_turn("Order DB.", facts=(Fact(name="rate", value=412.5, rule="r"),)), "missing_fact"),
        (_turn("No.", check=Check(kind="choice", expected="yes")), "missing_result"),
        (_turn("It runs 3.", check=Check(kind="reject", expected="Cache")), "missing_result"),
    ],
)
def test_each_reason(drawn: list[DiagramRecord], turn: Turn, reason: str) -> None:
    graph = drawn[0].graph.model_copy(
        update={"components": (*drawn[0].graph.components[:2], drawn[0].graph.components[2].model_copy(update={"name": "Order DB"}))}
    )
    found = problem(turn, record(graph.model_copy(update={"edges": ()}), 0, ()), frozenset(), 2000)
    assert found is not None and found.reason == reason, found


def test_a_good_turn_has_no_problem(drawn: list[DiagramRecord]) -> None:
    graph = drawn[0].graph.model_copy(
        update={"components": (drawn[0].graph.components[0].model_copy(update={"name": "Order DB"}),), "edges": ()}
    )
    assert problem(_turn("At 300 req/s the limit is Order DB, not the tightest service."), record(graph, 0, ()), frozenset(), 2000) is None


def test_copies_are_measured_not_sketched() -> None:
    rng = random.Random(0)
    words = [f"w{i}" for i in range(400)]
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 60))) for _ in range(300)]
    texts += [t + " more" for t in texts[:40]] + [" ".join(t.split()[: len(t.split()) // 2]) for t in texts[40:80]]
    found = near_copies(texts, 0.8)
    sets = [shingles(t) for t in texts]
    kept: list[int] = []
    for i, s in enumerate(sets):
        near = any(len(s & sets[j]) / len(s | sets[j]) >= 0.8 for j in kept)
        assert near == (i in found)
        if not near:
            kept.append(i)
    assert near_copies(["a b c d", "a b c d", "a b c e"], 1.0) == {1: 0}


def test_copies_skeletons_and_leaks_are_rejected(drawn: list[DiagramRecord], made: list[Conversation]) -> None:
    first, prompt = made[0], headline_prompts()[0]
    leaked = first.model_copy(update={"id": "leak", "turns": (first.turns[0].model_copy(update={"question": prompt.prompt}),)})
    same = [first.model_copy(update={"id": f"copy{i}"}) for i in range(2)]
    short = [
        Conversation(
            id=f"s{i}", diagram_id=drawn[0].id, seed_id="x", provider="offline", teacher="t",
            turns=(
                Turn(
                    question=f"Please count number {i} {'again ' * i}", answer=f"I count {i} there.", family="f", structure="s",
                    facts=(Fact(name="n", value=i, rule="r"),),
                ),
            ),
        )
        for i in range(30)
    ]  # fmt: skip
    cfg = CFG.model_copy(update={"skeleton_share": 0.1})
    result = sieve([first, leaked, *same, *short], {d.id: d for d in drawn}, {}, headline_prompts(), cfg)
    reasons = {r.id: r.reason for r in result.rejected}
    assert reasons["leak"] == "evaluation_leak" and reasons["copy0"] == reasons["copy1"] == "near_copy"
    assert result.reasons["skeleton"] > 20 and result.largest_skeleton <= 3
    assert spoken(first) and "@" in skeleton("Order DB is at 12 %", ["Order DB"])


def test_follow_ups_answer_for_the_new_load(made: list[Conversation]) -> None:
    following = [
        t
        for c in made
        for t in c.turns[1:]
        if any(w in t.question for w in ("doubles", "triples", "times as high", "-fold", "by half", "twice"))
    ]
    assert following


def test_blocks_parse_back(made: list[Conversation]) -> None:
    blocks = [t for c in made for t in c.turns if t.family == "extract_graph"]
    assert blocks
    for turn in blocks:
        assert arrows_in(turn.answer) == {(e["src"], e["dst"]) for e in turn.check.expected["edges"]}


def test_foreign_names() -> None:
    known = ["Order DB", "API Gateway"]
    assert foreign_names("[[Order DB]] and [[Fraud DB]]", known) == ["Fraud DB"]
    assert foreign_names("The API Gateway calls Order DB over a slow queue.", known) == []
    assert foreign_names("Put a Redis before Order DB", known, {"Redis"}) == ["Redis"]
    assert foreign_names("Is the Fraud Scoring up?", known, allowed="Is the fraud scoring up?") == []
    assert bare("[[Order DB]] is full") == "Order DB is full"


def test_a_name_that_begins_another_has_its_own_box() -> None:
    boxes = {"Game Server Store": [11, 500, 98, 667], "Game Server": [109, 267, 196, 433]}
    text = "Game Server Store: (11,500),(98,667)\nGame Server: (109,267),(196,433)"
    turn = _turn(text, family="locate", check=Check(kind="boxes", expected=boxes))
    assert problem(turn, None, (), 2000) is None
    assert problem(turn.model_copy(update={"answer": text.replace("109", "110")}), None, (), 2000) is not None


def test_numbers_match_at_the_printed_precision() -> None:
    assert [p for p, _, _ in printed_numbers("1. First 1,875 req/s\n2) then 0.98 and 12.5 % of 3k")] == ["1,875", "0.98", "12.5 %", "3k"]
    assert states("at 98.003 % of the time", Fact(name="a", value=0.98003, rule="r"))
    assert not states("at 98.01 % of the time", Fact(name="a", value=0.98003, rule="r"))
    assert states("about 91.88 a second", Fact(name="a", value=91.875, rule="r"))
    assert not states("about 91.98 a second", Fact(name="a", value=91.875, rule="r"))
    assert [plain_number(v) for v in (1875.0, 91.875, 0.00123456, 0.5, 1234567.8)] == ["1875", "91.88", "0.001235", "0.5", "1234568"]


def test_the_grammar_expands_nested_choices_and_guards_names() -> None:
    assert {expand("[a|b[c|d]]", random.Random(i)) for i in range(40)} == {"a", "bc", "bd"}
    assert spellings("[a|b[c|d]] [x|y]") == 6
    pen = Pen(random.Random(0))
    assert pen.say(f"[It is] {pen.name('A [B|C] DB')}") == "It is A [B|C] DB"


def test_answers_of_every_shape_differ(drawn: list[DiagramRecord]) -> None:
    asked = next(a for d in drawn if (a := FAMILIES["bottleneck"](View.of(d), Pen(random.Random(1)))) is not None)
    texts = {shape: answer(asked, shape, Pen(random.Random(1))) for shape in fitting(asked)}
    assert len(set(texts.values())) == len(texts) >= 7
    assert isinstance(json.loads(texts["json"].strip("`").removeprefix("json")), dict)
    assert names_elsewhere(drawn)
