"""The judge behind the chat seam, comparison of evaluations, the registry's verdict, leaks and controls."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sysdesign.config.evaluate import ChatJudge, EvaluateConfig
from sysdesign.errors import ArtifactError, ConfigError, InputError, LimitError
from sysdesign.evaluate.compare import compare
from sysdesign.evaluate.contestants import Contestant
from sysdesign.evaluate.controls import control_items, describe
from sysdesign.evaluate.judge import Judgement, judge, kappa, open_judge
from sysdesign.evaluate.leaks import find_leaks
from sysdesign.evaluate.measure import EvaluateReport, Standing
from sysdesign.evaluate.scoring import score
from sysdesign.ledger import Ledger
from sysdesign.models.chat import Message
from sysdesign.models.scripted import Scripted
from sysdesign.prompts import read_yaml
from sysdesign.records import Row, write_jsonl
from tests.export_inputs import artifact
from tests.provider_server import Faults, ProviderServer
from tests.test_conversations_live import MODELS, url
from tests.test_evaluate import CFG, contestant, headline, knowing, probes, run


def grades(text: str, grade: int) -> dict[str, object]:
    return {"grades": {"5": {"grade": grade, "quote": " ".join(text.split()[:4])}}, "errors": []}


def sides(messages: Sequence[Message]) -> tuple[str, str]:
    found = re.search(r"ANSWER A:\n(.*)\n\nANSWER B:\n(.*)", messages[-1].text, re.DOTALL)
    assert found
    return found[1], found[2]


def prefers_longer(messages: Sequence[Message]) -> str:
    a, b = sides(messages)
    return json.dumps({"A": grades(a, 4 if len(a) > len(b) else 1), "B": grades(b, 4 if len(b) > len(a) else 1), "winner": "tie"})


def prefers_first(messages: Sequence[Message]) -> str:
    a, b = sides(messages)
    return json.dumps({"A": grades(a, 4), "B": grades(b, 1)})


def oracle(messages: Sequence[Message]) -> str:
    """Agrees with every labelled pair, and prefers "good" elsewhere."""
    a, b = sides(messages)
    from sysdesign.evaluate.judge import plain

    for pair in read_yaml("evaluate/judge_pairs.v1.yaml"):
        for first, second, label in (
            (pair["a"], pair["b"], pair["label"]),
            (pair["b"], pair["a"], {"a": "b", "b": "a"}.get(pair["label"], "tie")),
        ):
            if (plain(first), plain(second)) == (a, b):
                return json.dumps({"A": grades(a, 3 + (label == "a")), "B": grades(b, 3 + (label == "b"))})
    return json.dumps({"A": grades(a, 4 if "good" in a else 1), "B": grades(b, 4 if "good" in b else 1)})


def test_a_judge_that_sees_only_positions_decides_nothing(tmp_path: Path) -> None:
    items = headline(tmp_path)
    texts = {item.id: f"an answer about {item.id}" for item in items}
    found = judge(Scripted(prefers_first), items, texts, {i: t + " and more" for i, t in texts.items()}, {}, max_tokens=2_000)
    assert found.ties == len(items) and found.won == len(items) / 2
    assert found.agreement is not None and found.agreement < 0.6 and not found.counts


def test_length_does_not_win_the_labelled_pairs(tmp_path: Path) -> None:
    short, long = ({"h-design": text, "h-number": text} for text in ("a b c d", "x y z w v"))
    found = judge(Scripted(prefers_longer), headline(tmp_path), short, long, {}, max_tokens=2_000)
    assert found.won == 2 and found.pairs == 20 and found.agreement is not None and found.agreement < 0.3 and not found.counts


def test_a_judge_that_agrees_counts_and_facts_override_it(tmp_path: Path) -> None:
    items = headline(tmp_path)
    plain, good = {i.id: "plain words only here" for i in items}, {i.id: "good words stand here" for i in items}
    found = judge(Scripted(oracle), items, plain, good, {}, max_tokens=2_000)
    assert found.counts and found.won == 2 and found.agreement == 1.0 and found.calls == 2 * (2 + 20)
    capped = judge(Scripted(oracle), items, plain, good, {"h-number": (1.0, 0.0)}, max_tokens=2_000)
    assert capped.by_item["h-number"] == "tuned" and capped.by_item["h-design"] == "tuned"  # capped at 2, still above 1
    same = judge(Scripted(oracle), items, good, good, {"h-number": (1.0, 0.0)}, max_tokens=2_000)
    assert same.by_item == {"h-design": "tie", "h-number": "base"}


def test_nonsense_and_invented_quotes_earn_nothing(tmp_path: Path) -> None:
    items = headline(tmp_path)
    texts = {item.id: "an answer" for item in items}
    mad = judge(Scripted(lambda messages: "I prefer B!"), items, texts, texts, {}, max_tokens=2_000)
    assert not mad.usable and mad.nonsense == mad.calls and mad.decided == 0
    silent = judge(Scripted(lambda messages: ""), items, texts, texts, {}, max_tokens=2_000)
    assert not silent.usable and silent.agreement is None and silent.calls == 40  # two tries a labelled pair, and no headline prompt after
    liar = json.dumps(
        {"A": {"grades": {"5": {"grade": 4, "quote": "never said"}}}, "B": {"grades": {"5": {"grade": 1, "quote": "an answer"}}}}
    )
    found = judge(Scripted(lambda messages: liar), items[:1], texts, texts, {}, max_tokens=2_000)
    assert found.by_item == {"h-design": "tie"}  # the unquoted 4 is worth 0, in both positions


def test_the_report_says_what_a_judge_was_worth(tmp_path: Path) -> None:
    items = probes(tmp_path, 6)
    cfg = EvaluateConfig(**(CFG.model_dump() | {"judge": {"kind": "chat", "model": "m", "base_url": "http://x/v1"}}))
    run(
        tmp_path,
        [contestant("base", knowing(items)), contestant("tuned", knowing(items))],
        items,
        cfg=cfg,
        judge_with=lambda: Scripted(lambda m: "no"),
    )
    page = (tmp_path / "out/report.html").read_text()
    assert "unusable replies" in page and "No judge was run" not in page


def test_a_judge_of_the_teachers_family_or_without_a_budget_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "k")
    cfg = ChatJudge(kind="anthropic", model="claude-haiku-5-5", key_env="A_KEY")
    with pytest.raises(ConfigError, match="another family"):
        open_judge(cfg, store=tmp_path, budget_usd=1, teachers=frozenset({"anthropic"}))
    with pytest.raises(LimitError, match="budget"):
        open_judge(cfg, store=tmp_path, budget_usd=0, teachers=frozenset({"offline"}))


def test_a_judge_that_could_bill_without_a_price_is_refused(tmp_path: Path) -> None:
    cfg = ChatJudge(kind="chat", model="m", base_url="https://models.example.com/v1")
    with pytest.raises(ConfigError, match="no cap"):
        open_judge(cfg, store=tmp_path, budget_usd=1, teachers=frozenset())
    near = ChatJudge(kind="chat", model="m", base_url="http://127.0.0.1:1/v1", family=" Anthropic ")
    with pytest.raises(ConfigError, match="another family"):
        open_judge(near, store=tmp_path, budget_usd=1, teachers=frozenset({"anthropic"}))


@pytest.mark.parametrize("maker", ["anthropic", "openai"])
def test_a_paid_judge_spends_from_the_ledger_and_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maker: str) -> None:
    monkeypatch.setenv("A_KEY", "test-key")
    items = headline(tmp_path)
    plain, good = {i.id: "plain words only here" for i in items}, {i.id: "good words stand here" for i in items}

    def judged(budget_usd: float, store: Path = tmp_path) -> Judgement:
        cfg = ChatJudge(kind=maker, model=MODELS[maker], key_env="A_KEY", base_url=url(server, maker))  # type: ignore[arg-type]
        model = open_judge(cfg, store=store, budget_usd=budget_usd, teachers=frozenset({"offline"}))
        try:
            return judge(model, items, plain, good, {}, max_tokens=2_000)
        finally:
            model.close()

    with ProviderServer(Faults(reply=lambda text: oracle([Message(role="user", text=text)]))) as server:
        with pytest.raises(LimitError, match="the cap is"):
            judged(0.002)
        assert 0 < len(server.account.served) < 2 * 22
        assert judged(1.0) == judged(1.0) and judged(1.0).counts
        assert set(server.account.served.values()) == {1} and len(server.account.served) == 2 * 22
        ledger = Ledger(tmp_path / "ledger.sqlite3", 10**9)
        assert server.account.billed <= ledger.totals().settled <= server.account.billed + 2 * 22  # each rounded up to a micro-dollar
        ledger.close()
        server.faults.reply = lambda text: ""
        assert not judged(1.0, tmp_path / "other").usable


def test_kappa_is_agreement_beyond_chance() -> None:
    assert kappa(["a", "b", "a", "b"], ["a", "b", "a", "b"]) == 1.0
    assert kappa(["a", "a", "b", "b"], ["a", "b", "a", "b"]) == 0.0


def test_evaluations_are_compared_on_what_all_were_asked(tmp_path: Path) -> None:
    items = probes(tmp_path, 10)
    folders = {}
    for name, wrong in (("first", 6), ("second", 2), ("third", 0)):
        place = tmp_path / name
        place.mkdir()
        asked = items if name != "third" else items[:-3]
        script = knowing(items, wrong=lambda item, wrong=wrong: int(re.findall(r"\d+", item.id)[0]) < wrong)
        run(place, [contestant("base", knowing(items)), contestant("tuned", script)], asked)
        folders[name] = place / "out"
    found = compare(folders, tmp_path / "comparison")
    assert found.probes == len(items) - 3 and found.scores["third"] == 1.0 and found.scores["first"] < found.scores["second"]
    assert found.differences["third"].mean > found.differences["second"].mean > 0
    page = (tmp_path / "comparison/comparison.html").read_text()
    assert "second" in page and "<script" not in page
    with pytest.raises(InputError, match="two evaluations"):
        compare({"first": folders["first"]}, tmp_path)
    with pytest.raises(ArtifactError, match="evaluation"):
        compare({"first": folders["first"], "x": tmp_path}, tmp_path / "comparison")


def test_the_verdict_knows_the_attempt_and_faces_the_champion(tmp_path: Path) -> None:
    items = probes(tmp_path, 12)
    base, knows = contestant("base", knowing(items, wrong=lambda item: True)), contestant("tuned", knowing(items))
    weak = knowing(items, wrong=lambda item: item.id.endswith(("count", "callees")))

    def verdict(models: list[Contestant], **known: Any) -> EvaluateReport:
        return run(tmp_path, models, items, standing=Standing(**known), cache=tmp_path / str(len(list(tmp_path.iterdir()))))

    assert verdict([base, knows, contestant("champion", weak)], version="1").verdict == "promote"
    assert verdict([base, knows, contestant("champion", knowing(items))], version="1").verdict == "inconclusive"
    assert verdict([base, contestant("tuned", weak), contestant("champion", knowing(items))], version="1").verdict == "reject"
    unheard = verdict([base, knows], version="7", missing="version 7 could not be asked")
    assert unheard.verdict == "inconclusive" and unheard.reasons == ("version 7 could not be asked",)
    seen: list[str] = []

    def ninth(questions: str) -> int:
        seen.append(questions)
        return 9

    spent = verdict([base, knows], attempt=ninth)
    assert spent.verdict == "inconclusive" and seen == [spent.questions]
    held, page = json.loads((tmp_path / "out/verdict.json").read_text()), (tmp_path / "out/report.html").read_text()
    assert held["attempt"] == 9 and "Attempt 9" in page and "badge inconclusive" in page and spent.note().startswith("**inconclusive**")


def test_a_probe_set_that_leaks_is_found(tmp_path: Path) -> None:
    items, prompts = probes(tmp_path, 3), headline(tmp_path)
    seen = items[0].graph
    assert seen is not None
    phrase = "w0 w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13"
    prompts[0] = prompts[0].model_copy(update={"messages": (Message(role="user", text=phrase),)})
    said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"Please: {phrase.upper()}!"}]}]
    row = Row(
        id="r1",
        split="train",
        conversation_id="c",
        seed_id="s",
        provider="offline",
        family="f",
        messages=tuple(said),
        graph_sha256=seen.sha256(),
    )
    write_jsonl(tmp_path / "rows/train.jsonl", [row])
    write_jsonl(tmp_path / "rows/val.jsonl", [])
    found = {leak.id: leak.reason for leak in find_leaks(artifact(tmp_path, "dataset", "d" * 64), [*items, *prompts])}
    assert found["p0-count"] == "same graph" and found["h-design"] == "13 words in a row" and "p1-count" not in found
    wired = row.model_copy(update={"graph_sha256": None, "topology": seen.topology()})
    write_jsonl(tmp_path / "rows/train.jsonl", [wired])
    found = {leak.id: leak.reason for leak in find_leaks(artifact(tmp_path, "dataset", "d" * 64), items)}
    assert found["p1-count"] == "same wiring"


def test_controls_keep_the_question_and_move_the_truth(tmp_path: Path) -> None:
    items = probes(tmp_path, 4)
    made = control_items(items, 12, seed=3)
    kinds = {item.control for item in made}
    assert kinds == {"no_picture", "graph_as_text", "names_permuted", "absent_component"}
    assert all(not item.images for item in made if item.control != "absent_component") and made == control_items(items, 12, seed=3)
    permuted = next(item for item in made if item.control == "names_permuted" and item.check and item.check.kind == "set")
    original = next(item for item in items if item.id == permuted.of)
    assert permuted.check and original.check and set(permuted.check.expected) != set(original.check.expected)
    # whoever reads the permuted text gets the permuted truth: the callees of the one that is asked about
    subject = re.search(r"What does the (.+) call\?", permuted.question)
    assert subject is not None
    called = re.findall(rf"^{re.escape(subject[1])} -> (.+): ", permuted.question, re.MULTILINE)
    assert score(permuted.check, "- " + "\n- ".join(called), graph=permuted.graph).value == 1.0
    absent = next(item for item in made if item.control == "absent_component")
    assert absent.graph is not None and absent.check is not None and absent.check.expected not in describe(absent.graph)
