"""The stage's inner half on scripted models that know, or do not know, the truth: files, verdict, resume, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sysdesign.config.evaluate import EvaluateConfig, Gate
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.errors import ArtifactError, LimitError, ServiceError
from sysdesign.evaluate.ask import BY_PICTURE, addresses, ask
from sysdesign.evaluate.contestants import Contestant
from sysdesign.evaluate.controls import control_items
from sysdesign.evaluate.items import Item, fingerprint, slices_of
from sysdesign.evaluate.leaks import Leak
from sysdesign.evaluate.measure import EvaluateReport, measure, metric_names, scorable
from sysdesign.graph import Architecture, Component, Edge, Zone
from sysdesign.models.chat import ChatModel, Message, TooLong
from sysdesign.models.scripted import Scripted
from sysdesign.prompts import Rubric
from sysdesign.records import Check

GATE = Gate(min_probes=20, min_graphs=10, draws=2_000)
CFG = EvaluateConfig(controls=4, gate=GATE, report_probes=6, library_scores=False)
RUNTIME = RuntimeConfig(device="cpu", workers=1)


def architecture(number: int) -> Architecture:
    """A gateway that calls two services, each with a store; replicas differ by `number`."""
    parts = [("gateway", "Gateway", "gateway"), ("orders", "Orders", "service"), ("users", "Users", "service"), ("db", "Orders DB", "sql")]
    return Architecture(
        title=f"Shop {number}",
        domain="shop",
        seed_id="none",
        components=tuple(
            Component(id=i, name=name, type=kind, replicas=1 + (number + k) % 5, zone="vpc") for k, (i, name, kind) in enumerate(parts)
        ),
        edges=(Edge(src="gateway", dst="orders"), Edge(src="gateway", dst="users"), Edge(src="orders", dst="db", mode="async")),
        zones=(Zone(id="vpc", name="Main VPC", kind="vpc"),),
    )


def picture(folder: Path) -> Path:
    from PIL import Image

    path = folder / "picture.png"
    if not path.exists():
        Image.new("RGB", (56, 56), "white").save(path)
    return path


def probes(folder: Path, graphs: int) -> list[Item]:
    """Three questions about each graph: a number, a set, the graph itself."""
    made = []
    for number in range(graphs):
        graph = architecture(number)
        names = {c.id: c.name for c in graph.components}
        own = graph.component("orders").replicas
        drawn = {
            "components": [{"name": c.name, "type": c.type} for c in graph.components],
            "edges": [{"src": names[e.src], "dst": names[e.dst]} for e in graph.edges],
        }
        asked = [
            ("count", "How many replicas has Orders?", Check(kind="number", expected=own), str(own)),
            ("callees", "What does the Gateway call?", Check(kind="set", expected=["Orders", "Users"]), "- Orders\n- Users"),
            ("extraction", "Give the graph as JSON.", Check(kind="graph", expected=drawn), json.dumps(drawn)),
        ]  # fmt: skip
        made += [
            Item(
                id=f"p{number}-{family}", set="probe", cluster=f"g{number}", slices=slices_of(graph, family, "drawio", False),
                check=check, graph=graph,
                reference=reference, messages=(Message(role="user", text=f"{question} (picture {number})", images=(picture(folder),)),),
            )
            for family, question, check, reference in asked
        ]  # fmt: skip
    return made


def headline(folder: Path, more: int = 0) -> list[Item]:
    """A free question, one with a number, and `more` with a number each: two alone bound nothing."""
    rubric = Rubric(required_components=("cache", "queue"), must_mention=(("idempotency", "idempotent"),))
    free = Item(
        id="h-design", set="headline", cluster="h-design", slices={"family": "design", "domain": "shop"}, rubric=rubric,
        messages=(Message(role="user", text="Design a shop."),),
    )  # fmt: skip
    numbers = ["h-number", *(f"h-number-{k}" for k in range(1, more + 1))]
    asked = [
        probe.model_copy(update={"id": name, "set": "headline", "cluster": name})
        for name, probe in zip(numbers, probes(folder, more + 1)[::3], strict=True)
    ]
    return [free, *asked]


def knowing(items: Sequence[Item], wrong: Callable[[Item], bool] = lambda item: False) -> Callable[[Sequence[Message]], str]:
    """A script that gives the reference answer of the probe it is asked, except where `wrong`."""
    known = {item.question: item for item in items}

    def answer(messages: Sequence[Message]) -> str:
        item = known.get(messages[-1].text)
        if item is None:
            return "The diagram does not show that. GET /orders, a Redis cache, a queue, idempotency keys."
        return "I see 77 things: Foo and Bar." if wrong(item) else item.reference

    return answer


def contestant(role: str, script: Callable[[Sequence[Message]], str], opened: list[str] | None = None) -> Contestant:
    @contextmanager
    def open_model(threads: int) -> Iterator[ChatModel]:
        if opened is not None:
            opened.append(role)
        yield Scripted(script, name=role)

    return Contestant(role=role, name=f"{role} script", digest=f"digest-{role}", size=0, open=open_model, ships=role == "tuned")


def run(folder: Path, models: Sequence[Contestant], items: Sequence[Item], **changes: Any) -> EvaluateReport:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    arguments: dict[str, Any] = {
        "cfg": CFG, "seed": 7, "out": out, "runtime": RUNTIME, "models": models, "probes": items, "headline": headline(folder, 6),
        "leaks": [],
        "unscorable": [], "parity": True, "lineage": {"dataset": "d"}, "questions": fingerprint(items), "cache": folder / "cache",
    } | changes  # fmt: skip
    return measure(arguments.pop("cfg"), **arguments)


def test_a_model_that_knows_is_promoted_and_everything_is_written(tmp_path: Path) -> None:
    items = probes(tmp_path, 12)
    report = run(
        tmp_path,
        [contestant("base", knowing(items, wrong=lambda i: i.id.endswith(("count", "extraction")))), contestant("tuned", knowing(items))],
        items,
    )
    assert report.verdict == "promote", report.reasons
    verdict = json.loads((tmp_path / "out/verdict.json").read_text())
    assert verdict["lineage"]["dataset"] == "d" and verdict["lineage"]["questions"] == report.questions
    assert report.values["eval/score"] == 1.0 and report.values["eval/gain"] > 0.5
    assert report.values["eval/component_f1_base"] == 0.0
    assert {n for n in report.values if "_base" not in n} - {"eval/probes", "eval/graphs"} <= metric_names(CFG)
    lines = (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    assert {json.loads(line).get("control") for line in lines} >= {None, "no_picture", "graph_as_text", "absent_component"}
    page = (tmp_path / "out/report.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http-equiv", "") and "No judge was run" in page


def test_equal_models_are_not_promoted(tmp_path: Path) -> None:
    items = probes(tmp_path, 12)
    report = run(tmp_path, [contestant("base", knowing(items)), contestant("tuned", knowing(items))], items)
    assert report.verdict == "reject" and report.values["eval/gain"] == 0.0


def test_a_model_that_answers_nothing_is_rejected(tmp_path: Path) -> None:
    items = probes(tmp_path, 12)
    report = run(tmp_path, [contestant("base", knowing(items)), contestant("tuned", lambda messages: "")], items)
    assert report.verdict == "reject"
    assert any("empty" in reason for reason in report.reasons)
    assert report.values["eval/empty"] == 1.0 and report.values["eval/score"] == 0.0


@pytest.mark.parametrize(("change", "reason"), [
    ({"parity": None}, "no parity certificate"),
    ({"cfg": CFG.model_copy(update={"gate": Gate(draws=2_000)})}, "at least 300 of 75"),
])  # fmt: skip
def test_a_missing_part_is_inconclusive(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    items = probes(tmp_path, 12)
    models = [contestant("base", knowing(items, wrong=lambda i: True)), contestant("tuned", knowing(items))]
    report = run(tmp_path, models, items, **change)
    assert report.verdict == "inconclusive" and any(reason in line for line in report.reasons)


def test_a_failed_certificate_rejects(tmp_path: Path) -> None:
    items = probes(tmp_path, 12)
    report = run(
        tmp_path, [contestant("base", knowing(items, wrong=lambda i: True)), contestant("tuned", knowing(items))], items, parity=False
    )
    assert report.verdict == "reject" and "the parity certificate failed" in report.reasons


def test_leaks_are_left_out_and_block_promotion(tmp_path: Path) -> None:
    items = probes(tmp_path, 12)
    models = [contestant("base", knowing(items, wrong=lambda i: True)), contestant("tuned", knowing(items))]
    report = run(tmp_path, models, items, leaks=[Leak(id=items[0].id, reason="same graph", row="r1")])
    assert report.verdict == "inconclusive" and report.probes == len(items) - 1
    with pytest.raises(ArtifactError, match="at least one probe"):
        run(tmp_path, models, items, leaks=[Leak(id=item.id, reason="same graph", row="r1") for item in items])


def test_a_model_that_goes_away_resumes_where_it_stopped(tmp_path: Path) -> None:
    items = probes(tmp_path, 4)
    calls: list[str] = []
    healthy = knowing(items)

    def dying(messages: Sequence[Message]) -> str:
        if len(calls) == 5:
            raise ServiceError("server", "must answer", "start it")
        calls.append(messages[-1].text)
        return healthy(messages)

    with pytest.raises(ServiceError):
        run(tmp_path, [contestant("base", dying)], items, headline=[])
    again: list[str] = []

    def counting(messages: Sequence[Message]) -> str:
        again.append(messages[-1].text)
        return healthy(messages)

    run(tmp_path, [contestant("base", counting), contestant("tuned", counting)], items, headline=[])
    everything = 2 * (len(items) + len(control_items(items, CFG.controls, 7)))
    assert len(again) == everything - 5
    opened: list[str] = []
    models = [contestant("base", counting, opened), contestant("tuned", counting, opened)]
    first = (tmp_path / "out/scores.json").read_bytes()
    run(tmp_path, models, items, headline=[])
    assert opened == [] and (tmp_path / "out/scores.json").read_bytes() == first  # nothing asked, nothing loaded, nothing changed


def test_probes_that_fail_their_own_reference_are_named(tmp_path: Path) -> None:
    items = probes(tmp_path, 2)
    bad = items[0].model_copy(update={"reference": "It has 99 of them."})
    kept, left_out = scorable([bad, *items[1:]])
    assert len(kept) == len(items) - 1 and left_out[0]["id"] == bad.id and "99" in left_out[0]["why"]


def test_the_page_escapes_answers(tmp_path: Path) -> None:
    items = probes(tmp_path, 3)
    nasty = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    run(tmp_path, [contestant("base", knowing(items)), contestant("tuned", lambda messages: nasty)], items)
    page = (tmp_path / "out/report.html").read_text()
    assert "<script>alert" not in page and "<img src=x" not in page and "&lt;script&gt;" in page


def test_a_question_that_does_not_fit_is_counted_and_the_others_are_asked(tmp_path: Path) -> None:
    items = probes(tmp_path, 4)
    healthy = knowing(items)

    def short(messages: Sequence[Message]) -> str:
        if "(picture 2)" in messages[-1].text:
            raise TooLong("server", "the question must fit the context", "give the server a larger context", "9 of 8 tokens")
        return healthy(messages)

    run(tmp_path, [contestant("base", healthy), contestant("tuned", short)], items, headline=[])
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert scores["unasked"]["base"] == 0 and scores["unasked"]["tuned"] >= 3
    page = (tmp_path / "out/report.html").read_text()
    assert "Questions that did not fit the context" in page and "does not fit the context: 9 of 8 tokens" in page

    def full(messages: Sequence[Message]) -> str:
        raise TooLong("server", "the question must fit the context", "give the server a larger context", "9 of 8 tokens")

    with pytest.raises(LimitError, match=r"context_tokens.*none of the 12 probes fits for the tuned model"):
        run(tmp_path, [contestant("base", healthy), contestant("tuned", full)], items, headline=[], cache=tmp_path / "other")


def test_a_model_that_answers_one_question_at_a_time_sees_each_picture_once(tmp_path: Path) -> None:
    items, seen = probes(tmp_path, 3), []
    for number, item in enumerate(items):  # the pictures alternate
        own = tmp_path / f"{number % 3}.png"
        own.write_bytes(picture(tmp_path).read_bytes())
        items[number] = item.model_copy(update={"messages": (item.messages[-1].model_copy(update={"images": (own,)}),)})

    def looking(messages: Sequence[Message]) -> str:
        seen.append(messages[-1].images)
        return "3"

    model, limits = Scripted(looking, name="m"), {"probe": 8, "headline": 8}
    settings: dict[str, object] = {"prompt": BY_PICTURE}
    asked = ask(model, "digest", items, cache=tmp_path / "cache", settings=settings, limits=limits, seed=0, label="m")
    assert len(asked.answers) == len(items) == 9
    assert sum(a != b for a, b in pairwise(seen)) == 2
    keys = addresses("digest", items, settings, limits)
    gone = tmp_path / "cache" / keys[4][:2] / f"{keys[4]}.json"
    gone.unlink()
    seen.clear()
    ask(model, "digest", items, cache=tmp_path / "cache", settings=settings, limits=limits, seed=0, label="m")
    assert seen == [items[4].images] * 3, "all questions about that picture again, no other"
    assert addresses("digest", items[:3], settings, limits)[0] in keys and addresses("digest", items[6:], settings, limits)[2] not in keys


def test_asking_fewer_probes_or_leaving_leaks_out_keeps_the_count_of_attempts(tmp_path: Path) -> None:
    items = probes(tmp_path, 6)
    models = [contestant("base", knowing(items)), contestant("tuned", knowing(items))]
    whole = run(tmp_path, models, items)
    fewer = run(tmp_path, models, items[:-3], questions=fingerprint(items), leaks=[Leak(id=items[0].id, reason="same graph", row="r")])
    assert whole.questions == fewer.questions
    lineage = json.loads((tmp_path / "out/verdict.json").read_text())["lineage"]
    assert lineage["asked"] == fingerprint(items[1:-3]) != lineage["questions"]


def test_answers_through_transformers_never_promote_the_files(tmp_path: Path) -> None:
    items = probes(tmp_path, 12)
    base = contestant("base", knowing(items, wrong=lambda i: True))
    adapter = replace(contestant("tuned", knowing(items)), ships=False)
    for through, says in (("transformers", "through transformers"), ("llamacpp", "another file was asked")):
        report = run(tmp_path, [base, adapter], items, cfg=CFG.model_copy(update={"through": through}))
        assert report.verdict == "inconclusive" and len(report.reasons) == 1 and says in report.reasons[0]


def test_a_base_that_names_nothing_has_no_rate_of_inventions_and_blocks_nothing(tmp_path: Path) -> None:
    items = probes(tmp_path, 12)
    report = run(tmp_path, [contestant("base", lambda messages: "Hm."), contestant("tuned", knowing(items))], items)
    assert report.verdict == "promote" and any("not measured" in reason for reason in report.reasons)
    assert "waived</td><td>Invented components" in (tmp_path / "out/report.html").read_text()
    assert "eval/hallucination_base" not in report.values and report.values["eval/hallucination"] == 0.0
    silent = run(tmp_path / "out", [contestant("base", knowing(items)), contestant("tuned", lambda messages: "Hm.")], items)
    assert silent.verdict == "reject" and "eval/hallucination" not in silent.values
