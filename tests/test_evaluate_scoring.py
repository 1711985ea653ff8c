"""Scorers punish exactly the fault that is there, read numbers and names as people write them, and never invent a score."""

from __future__ import annotations

import json
from typing import Any

import pytest

from experiments.benchmarks.evaluate_scorers import cases, verdict
from sysdesign.evaluate.names import match_names, mentioned
from sysdesign.evaluate.numbers import arithmetic, stated
from sysdesign.evaluate.rubric import grade
from sysdesign.evaluate.scoring import score
from sysdesign.models.structure import boxes, edges, graph
from sysdesign.prompts import Rubric, RubricNumber
from sysdesign.records import Check
from tests.test_evaluate import architecture


def test_500_answers_with_one_fault_each_score_what_the_fault_demands() -> None:
    complaints = [complaint for case in cases(500, seed=3) if (complaint := verdict(case))]
    assert not complaints, complaints[:3]


@pytest.mark.parametrize(("text", "unit", "value"), [
    ("12k req/s", "qps", 12_000), ("It is 12,000 requests a second.", "requests/s", 12_000),
    ("1.2 million requests per second", "qps", 1_200_000),
    ("0.0465 s", "ms", 46.5), ("$1,200 a month", "USD/month", 1_200), ("0.98", "%", 0.98), ("62%", "ratio", 0.62), ("1.5 GB", "MB", 1_500),
    ("The db takes 80 % of 500 qps, so 400 qps", "qps", 400), ("Rate: 300 qps + 200 qps = 500 qps", "qps", 500), ("-5 ms", "ms", -5),
    ("pricing-db-2 has three replicas", "replicas", 3), ("Step 1: 3 parts.\nStep 2: 4 parts.\nSo 7 parts.", None, 7),
    ('{"answer": 7, "unit": "ms", "calls": 3}', "ms", 7), ("Answer: 4. It was 9 before.", None, 4),
    ("The latency is 12 ms.", "qps", None), ("none", None, None),
])  # fmt: skip
def test_numbers_are_read_with_their_units(text: str, unit: str | None, value: float | None) -> None:
    assert stated(text, unit) == (None if value is None else pytest.approx(value))


def test_a_list_of_every_number_is_no_answer() -> None:
    check = Check(kind="number", expected=7.0)
    assert score(check, ", ".join(str(n) for n in range(1, 20))).value == 0.0


def test_equations_are_computed_again() -> None:
    assert arithmetic("3 x 40 = 120; 1,200 / 3 = 500, (2+3)*4 = 20 and 1 - 0.8 = 20 %. The year 2024 = good.") == (3, 4)


def test_names_forgive_slips_but_not_numbers() -> None:
    assert match_names(["orders-db", "Usr Service", "shard-2"], ["Orders DB", "User Service", "Shard 1"]) == {0: 0, 1: 1}
    assert mentioned("The Order Service calls Order Service Cache.", ["Order Service", "Order Service Cache"]) == [
        "Order Service",
        "Order Service Cache",
    ]


def test_mermaid_arrows_and_tables_are_the_same_graph() -> None:
    found = graph('```mermaid\nflowchart LR\n subgraph v [Main VPC]\n a["Web App"] -->|HTTP| b[(Orders DB)]\n end\n b -.-> c((Mail))\n```')
    assert found is not None and found.components == ("Web App", "Orders DB", "Mail")
    assert found.zones == {"Web App": "Main VPC", "Orders DB": "Main VPC"} and found.edges[0].label == "HTTP"
    told = [
        edges(text) for text in ("Web App -> Orders DB", "| from | to |\n|---|---|\n| Web App | Orders DB |", '[["Web App", "Orders DB"]]')
    ]
    assert all(e is not None and [(x.src, x.dst) for x in e] == [("Web App", "Orders DB")] for e in told)
    assert edges("I see nothing.") is None and graph("{}") is None


def test_boxes_are_read_in_three_spellings() -> None:
    box = (10.0, 20.0, 110.0, 220.0)
    for text in (
        "<|object_ref_start|>API<|object_ref_end|><|box_start|>(10,20),(110,220)<|box_end|>",
        '[{"bbox_2d": [10, 20, 110, 220], "label": "API"}]',
        "API: (10, 20, 110, 220)",
    ):
        assert boxes(text) == {"API": box}


@pytest.mark.parametrize("check", [Check(kind="text"), Check(kind="boxes", expected={"A": None}), Check(kind="number")])
def test_what_cannot_be_scored_has_no_score(check: Check) -> None:
    assert score(check, "anything").value is None


@pytest.mark.parametrize(("kind", "expected"), [
    ("number", 3.0), ("set", ["A"]), ("choice", "yes"), ("edges", [["A", "B"]]), ("graph", {"components": [{"name": "A"}], "edges": []}),
    ("boxes", {"A": [0, 0, 9, 9]}), ("reject", "Cache"),
])  # fmt: skip
def test_hostile_answers_score_without_an_error(kind: Any, expected: Any) -> None:
    for text in (
        "",
        "\x00",
        "[" * 3_000,
        "{" * 3_000,
        "(" * 500 + "1" + ")" * 500 + " = 1",
        "-> " * 500,
        "1e400",
        "٣",
        "\u202e" * 50,
        "```json\n",
        "NaN",
        "[[[1]]]",
        '{"components": 3, "edges": [7]}',
    ):
        assert score(Check(kind=kind, expected=expected), text).value in (0.0, 1.0)  # fmt: skip


def test_the_rubric_rewards_what_is_named_and_caps_wrong_arithmetic() -> None:
    rubric = Rubric(
        required_components=("cache",),
        required_numbers=(RubricNumber(name="peak", value=600, unit="req/s"),),
        must_mention=(("idempotency",),),
    )
    assert grade("", rubric, category="design").value == 0.0
    thin = grade("Use a database.", rubric, category="design").value
    full = grade("Peak 600 req/s. 200 x 3 = 600. A Redis cache. Idempotency keys.", rubric, category="design")
    wrong = grade("Peak 600 req/s. 200 x 3 = 700. A Redis cache. Idempotency keys.", rubric, category="design")
    assert thin < full.value and wrong.grades[2] <= 2 and wrong.value <= full.value


DENIED = Check(kind="reject", expected="Edge Cache")
GRAPH = architecture(0)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("There is no Edge Cache in this picture.", 1),
        ("The Edge Cache is not drawn.", 1),
        ("It is not shown.", 1),
        ("No such component is drawn.", 1),
        ("None.", 1),
        ("There is no Payment Router component.", 0),
        (f"{GRAPH.components[0].name} does not show one.", 0),
        ("No.", 0),
        ("The Edge Cache holds 40 GB.", 0),
    ],
)
def test_a_denial_counts_for_what_was_asked_and_nothing_else(said: str, right: int) -> None:
    assert score(DENIED, said, graph=GRAPH).value == right


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("An arrow leads from Gateway to Orders.", 1),
        ("Yes.", 1),
        ("It does.", 1),
        ("Gateway does not call Orders.", 0),
        ("cor go role Pcomm server orvenovey clock users five five new new new", 0),
        ("The picture diagrow from Service.", 0),
    ],
)
def test_noise_is_no_yes(said: str, value: int) -> None:
    asked = "Is there an arrow from Gateway to Orders in this picture?"
    assert score(Check(kind="choice", expected="yes"), said, question=asked).value == value
    if not value and "not" not in said:
        assert score(Check(kind="choice", expected="no"), said, question=asked).value == 0, "nor a no"


def test_a_graph_without_types_has_none_of_them_right() -> None:
    wanted = {"components": [{"name": "A", "type": "sql"}, {"name": "B", "type": "lb"}], "edges": [{"src": "A", "dst": "B"}]}
    told = json.dumps({"components": [{"name": "A"}, {"name": "B"}], "edges": [{"src": "A", "dst": "B"}]})
    found = score(Check(kind="graph", expected=wanted), told)
    assert found.parts["type_accuracy"] == 0 and found.value is not None and found.value < 0.7


def test_what_says_nothing_is_empty_and_an_empty_list_is_an_answer() -> None:
    none = Check(kind="set", expected=[])
    assert [score(none, said).parts["empty"] for said in ("", " \n", "!", "...", "[]", "none", "7")] == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert score(none, "[]").value == 1.0 and score(none, "!").value == 0.0
