"""Generator, validator and stage: graphs are possible, numbers are plausible, and the same seed gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sysdesign.config.diagrams import DiagramsConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.diagrams import facts
from sysdesign.diagrams.draw import PARTS, draw
from sysdesign.diagrams.generate import generate
from sysdesign.diagrams.plan import plan
from sysdesign.diagrams.stage import diagrams
from sysdesign.errors import InputError, LimitError
from sysdesign.graph import Architecture, Component, Edge, Flow, Replication, Zone
from sysdesign.graph_rules import problems, validate
from sysdesign.prompts import seed_prompts
from sysdesign.records import DiagramRecord, NullLog, Rejected, read_jsonl

PROMPTS = seed_prompts()
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

configs = st.builds(
    lambda low, more, depth, fan, nest, extra, odd: DiagramsConfig(
        min_components=low, max_components=low + more, max_depth=depth, max_fan_out=fan, max_nesting=nest, extra_edges=extra,
        anonymous_share=odd
    ),
    st.integers(2, 25), st.integers(0, 15), st.integers(1, 8), st.integers(1, 12), st.integers(0, 4), st.floats(0, 1),
    st.sampled_from((0.0, 0.3, 1.0)),
)  # fmt: skip


@quick
@given(cfg=configs, seed=st.integers(0, 2**31), index=st.integers(0, 200))
def test_every_generated_graph_is_possible_connected_and_the_same_again(cfg: DiagramsConfig, seed: int, index: int) -> None:
    graph = generate(cfg, PROMPTS, seed, index)
    assert problems(graph) == []
    assert graph == generate(cfg, PROMPTS, seed, index)
    touched = {end for e in graph.edges for end in (e.src, e.dst)}
    assert touched == {c.id for c in graph.components}
    assert all(any(e.via_cache == c.id for e in graph.edges) for c in graph.components if c.hit_ratio is not None)
    assert {z.id for z in graph.zones} >= {c.zone for c in graph.components if c.zone}
    assert graph.flows and all(f.peak_qps >= f.avg_qps for f in graph.flows)


@quick
@given(cfg=configs, index=st.integers(0, 200))
def test_json_round_trip_keeps_identity_and_topology(cfg: DiagramsConfig, index: int) -> None:
    graph = generate(cfg, PROMPTS, 5, index)
    for text in (graph.canonical_json(), graph.model_dump_json(), json.dumps(json.loads(graph.canonical_json()), indent=3)):
        again = Architecture.model_validate_json(text)
        assert (again, again.sha256(), again.topology()) == (graph, graph.sha256(), graph.topology())
    shuffled = graph.model_copy(update={"components": graph.components[::-1]})
    assert shuffled.topology() == graph.topology() and (len(graph.components) < 2 or shuffled.sha256() != graph.sha256())


def test_five_hundred_graphs_have_distinct_topologies_and_the_shares_asked_for() -> None:
    jobs = plan(DiagramsConfig(), PROMPTS, seed=7)
    assert len(jobs) == 500 and len({j.topology for j in jobs}) >= 480
    assert sum(j.style == "blueprint" for j in jobs) == 60  # 12 %
    assert sum(j.degraded is not None for j in jobs) == 44  # 10 % of the other 440
    assert not any(j.degraded for j in jobs if j.style == "blueprint")
    sizes = [len(j.graph.components) for j in jobs]
    assert min(sizes) <= 7 and max(sizes) == 25
    nonsense = [j for j in jobs if j.graph.domain == "nonsense"]
    assert 50 <= len(nonsense) <= 100


@quick
@given(index=st.integers(0, 300), density=st.floats(0, 1), seed=st.integers(0, 99))
def test_visible_keys_name_facts_that_exist_and_that_the_words_show(index: int, density: float, seed: int) -> None:
    graph = generate(DiagramsConfig(), PROMPTS, 11, index)
    show = {kind for bundle in facts.choose(graph, density, random.Random(seed)) for kind in bundle}
    assert show <= facts.KINDS
    keys = facts.visible(graph, show)
    assert len(keys) == len(set(keys))
    names = {c.id: c.name for c in graph.components}
    for c in graph.components:
        words = ", ".join(facts.component_texts(c, show))
        if f"{c.id}.replicas" in keys:
            assert f"x{c.replicas}" in words
        if f"{c.id}.capacity_qps" in keys:
            assert f"{facts.number(c.capacity_qps or 0)} rps" in words
        if f"{c.id}.technology" in keys and c.technology != c.name:
            assert (c.technology or "") in facts.subtitle(c, show)
    for at, e in enumerate(graph.edges):
        words = ", ".join(facts.edge_texts(e, show, names))
        if f"edge:{at}.payload_kb" in keys:
            assert f"{facts.number(e.payload_kb or 0)} KB" in words
        if f"edge:{at}.calls_per_request" in keys and e.calls_per_request == 1:
            assert any("1 call a request" in line for line in facts.legend(graph, show))
    for f in graph.flows:
        if f"flow:{f.id}.peak_qps" in keys:
            assert any(f"peak {facts.number(f.peak_qps)} rps" in line and names[f.entry] in line for line in facts.legend(graph, show))


def _small(**change: object) -> Architecture:
    plain: dict = {
        "title": "T", "domain": "d", "seed_id": "s",
        "components": (Component(id="a", name="A", type="service"), Component(id="b", name="B", type="cache", hit_ratio=0.9),
        Component(id="c", name="C", type="sql")),
        "edges": (Edge(src="a", dst="b"), Edge(src="a", dst="c", via_cache="b")),
    }  # fmt: skip
    return Architecture(**{**plain, **change})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"edges": (Edge(src="a", dst="x"),)}, "ends at 'x', which does not exist"),
        ({"edges": (Edge(src="a", dst="a"),)}, "is a loop"),
        ({"edges": (Edge(src="a", dst="b"), Edge(src="b", dst="c"), Edge(src="c", dst="a"))}, "run in a circle: a -> b -> c -> a"),
        ({"edges": (Edge(src="a", dst="b"), Edge(src="a", dst="b"))}, "drawn 2 times"),
        ({"edges": (Edge(src="a", dst="c", via_cache="b"),)}, "which 'a' never asks"),
        ({"edges": (Edge(src="a", dst="b", via_cache="c"),)}, "not a cache"),
        ({"edges": (Edge(src="a", dst="c", alt_group="g"),)}, "a choice needs two"),
        ({"zones": (Zone(id="z", name="Z", kind="vpc", parent="z"),)}, "zone 'z' lies inside itself"),
        (
            {"zones": (Zone(id="y", name="Y", kind="vpc", parent="z"), Zone(id="z", name="Z", kind="vpc", parent="y"))},
            "zone 'y' lies inside itself",
        ),
        ({"components": (Component(id="a", name="A", type="sql", zone="q"),), "edges": ()}, "lies in zone 'q', which does not exist"),
        ({"components": (Component(id="a", name="A", type="sql", hit_ratio=0.5),), "edges": ()}, "only a cache or CDN has a hit ratio"),
        ({"components": (Component(id="a", name="A", type="sql", azs=("a", "b")),), "edges": ()}, "1 replica(s) in 2 availability zones"),
        (
            {
                "components": (
                    Component(id="a", name="A", type="sql", stateful=True, replication=Replication(mode="sync", n=2, w=3, r=1)),
                ),
                "edges": (),
            },
            "more nodes",
        ),
        (
            {"components": (Component(id="a", name="A", type="sql"), Component(id="b", name="a ", type="sql")), "edges": ()},
            "is used 2 times",
        ),
        ({"components": (), "edges": ()}, "at least one component"),
        ({"flows": (Flow(id="f", name="F", entry="a", avg_qps=10, peak_qps=5),)}, "below its average"),
        ({"flows": (Flow(id="f", name="F", entry="zz", avg_qps=1, peak_qps=5),)}, "enters at 'zz'"),
    ],
)
def test_an_impossible_graph_is_refused_with_its_reason(change: dict, reason: str) -> None:
    with pytest.raises(InputError, match="an architecture must be possible") as caught:
        validate(_small(**change))
    assert reason in str(caught.value)


def test_every_reason_is_named_at_once_and_asynchronous_circles_are_fine() -> None:
    broken = _small(edges=(Edge(src="a", dst="x"), Edge(src="b", dst="b")), zones=(Zone(id="z", name="Z", kind="vpc", parent="z"),))
    with pytest.raises(InputError) as caught:
        validate(broken)
    assert all(part in str(caught.value) for part in ("'x', which does not exist", "is a loop", "inside itself"))
    validate(_small(edges=(Edge(src="a", dst="b"), Edge(src="b", dst="a", mode="async"))))


def _bytes(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("diagrams") / "out"
    report = diagrams(DiagramsConfig(count=14, max_components=12), seed=3, out=out, log=NullLog(), runtime=RuntimeConfig(workers=1))
    assert report.count == 14 and report.min_font_px >= 10 and report.pixels_max <= 1_003_520
    assert "Graphviz" in report.note() or "our own layout" in report.note()
    assert report.metrics()["diagrams/count"] == 14.0
    return out


def test_the_stage_writes_records_that_agree_with_their_pictures(made: Path) -> None:
    from PIL import Image

    records = list(read_jsonl(made / "diagrams.jsonl", DiagramRecord))
    headline = list(read_jsonl(made / "headline.jsonl", DiagramRecord))
    assert [r.id for r in records] == [f"d{n:05d}" for n in range(14)] and headline
    assert {r.id for r in records}.isdisjoint(r.id for r in headline)
    for record in [*records, *headline]:
        with Image.open(made / record.image) as opened:
            opened.load()
            assert opened.size == (record.width, record.height)
        assert record.width * record.height <= 1_003_520 and max(record.width, record.height) <= 3.01 * min(record.width, record.height)
        assert record.min_font_px >= 10 and record.graph_sha256 == record.graph.sha256() and record.topology == record.graph.topology()
        assert hashlib.sha256((made / record.image).read_bytes()).hexdigest() == record.image_sha256
        assert set(record.boxes.components) == {c.id for c in record.graph.components}
        assert set(record.boxes.zones) == {z.id for z in record.graph.zones}
        assert [e.index for e in record.boxes.edges] == list(range(len(record.graph.edges)))
        assert record.held_out_style == (record.style == "blueprint")
    assert not (made / PARTS).exists()
    assert (made / "contact_sheet.png").stat().st_size > 10_000
    text = (made / "card.md").read_text()
    assert "| style | count |" in text and "| facts drawn in | pictures |" in text


def test_evaluation_pictures_show_every_fact_their_question_needs(made: Path) -> None:
    from sysdesign.prompts import headline_prompts

    drawn = {r.id: r for r in read_jsonl(made / "headline.jsonl", DiagramRecord)}
    asked = [p for p in headline_prompts() if p.graph is not None]
    assert set(drawn) == {p.id for p in asked}
    for prompt in asked:
        assert prompt.graph is not None
        assert drawn[prompt.id].visible == facts.visible(prompt.graph, prompt.show)
        assert drawn[prompt.id].degraded is None


def test_bytes_depend_on_the_seed_alone_not_on_workers(made: Path, tmp_path: Path) -> None:
    cfg = DiagramsConfig(count=14, max_components=12)
    diagrams(cfg, seed=3, out=tmp_path / "two", log=NullLog(), runtime=RuntimeConfig(workers=2))
    assert _bytes(tmp_path / "two") == _bytes(made)


def test_a_killed_run_goes_on_without_drawing_again(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = DiagramsConfig(count=6, max_components=8, layout="python")
    out = tmp_path / "out"
    drawn: list[str] = []

    def dying(job, folder):  # type: ignore[no-untyped-def]
        if len(drawn) == 4:
            raise KeyboardInterrupt
        drawn.append(job.id)
        return draw(job, folder)

    monkeypatch.setattr("sysdesign.diagrams.stage.headline_prompts", lambda: ())
    monkeypatch.setattr("sysdesign.diagrams.draw.draw", dying)
    with pytest.raises(KeyboardInterrupt):
        diagrams(cfg, seed=4, out=out, log=NullLog(), runtime=RuntimeConfig(workers=1))
    torn = out / "images" / f"{drawn[1]}.png"
    torn.write_bytes(torn.read_bytes()[:1000])  # as a full disk would leave it
    again: list[str] = []

    def counting(job, folder):  # type: ignore[no-untyped-def]
        again.append(job.id)
        return draw(job, folder)

    monkeypatch.setattr("sysdesign.diagrams.draw.draw", counting)
    diagrams(cfg, seed=4, out=out, log=NullLog(), runtime=RuntimeConfig(workers=1))
    assert sorted(again) == sorted({f"d{n:05d}" for n in range(6)} - set(drawn) | {drawn[1]})
    fresh = tmp_path / "fresh"
    monkeypatch.setattr("sysdesign.diagrams.draw.draw", draw)
    diagrams(cfg, seed=4, out=fresh, log=NullLog(), runtime=RuntimeConfig(workers=1))
    assert _bytes(fresh) == _bytes(out)


def test_the_smallest_systems_have_something_to_call() -> None:
    for size in (2, 3):
        cfg = DiagramsConfig(min_components=size, max_components=size, anonymous_share=0, max_nesting=0)
        for index in range(120):
            graph = generate(cfg, PROMPTS, 0, index)
            assert {"gateway", "service", "function", "worker"} & {c.type for c in graph.components}


def test_an_illegible_picture_is_rejected_with_its_reason_and_settings_are_blamed_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = DiagramsConfig(count=1, min_components=14, max_components=14, max_pixels=50_000, fact_density=0, layout="python")
    job = plan(cfg, PROMPTS, 1)[0]
    (tmp_path / PARTS).mkdir()
    result = draw(job, tmp_path)
    assert isinstance(result, Rejected) and "at least 11 px" in result.detail and result.reason == "illegible"
    monkeypatch.setattr("sysdesign.diagrams.stage.headline_prompts", lambda: ())
    with pytest.raises(LimitError, match="graphs must be legible"):
        diagrams(cfg, seed=1, out=tmp_path / "out", log=NullLog(), runtime=RuntimeConfig(workers=1))


@pytest.mark.parametrize(
    "change",
    [
        {"count": 0}, {"min_components": 9, "max_components": 8}, {"held_out_share": 1.2}, {"layout": "neato"}, {"unknown": 1},
        {"styles": {"icons": 0, "drawio": 0, "dark": 0, "whiteboard": 0}},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=r"."):
        DiagramsConfig(**change)
