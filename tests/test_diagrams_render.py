"""Pictures: boxes lie where the ink is, nothing is clipped or covered, and input that cannot be drawn is refused in one line."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sysdesign.config.diagrams import DiagramsConfig
from sysdesign.diagrams import facts, fonts, layout, light
from sysdesign.diagrams.degrade import degrade
from sysdesign.diagrams.generate import generate
from sysdesign.diagrams.icons import icon, icon_name
from sysdesign.diagrams.labels import Labelled, merged, overlap, place_labels
from sysdesign.diagrams.render import Rendered, render
from sysdesign.diagrams.scene import compose
from sysdesign.diagrams.styles import HELD_OUT, STYLES, TRAINED
from sysdesign.diagrams.vocabulary import TECHNOLOGIES, TYPE_ICONS
from sysdesign.errors import InputError, LimitError, SysdesignError, ToolError
from sysdesign.graph import Architecture, Component, Edge, Zone
from sysdesign.prompts import seed_prompts

PROMPTS = seed_prompts()
ENGINES = ["python", *(["dot"] if layout.dot_problem() is None else [])]
SHOW = ("component.technology", "component.replicas", "component.service_ms", "edge.protocol", "edge.payload_kb", "flow.peak_qps")


def _system(index: int, largest: int = 12) -> Architecture:
    return generate(DiagramsConfig(max_components=largest), PROMPTS, 21, index)


def _draw(graph: Architecture, out: Path, style: str = "drawio", **options: object) -> Rendered:
    return render(graph, style, out, **{"show": SHOW, "seed": 1, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("style", STYLES)
def test_every_box_holds_its_ink_and_nothing_is_clipped_or_covered(style: str, engine: str, tmp_path: Path) -> None:
    from PIL import Image

    for index in (0, 5):
        graph = _system(index)
        drawn = _draw(graph, tmp_path / "p.png", style, layout=engine)
        with Image.open(tmp_path / "p.png") as opened:
            picture = opened.convert("RGB")
        assert picture.size == (drawn.width, drawn.height)
        for _, (x0, y0, x1, y1) in drawn.texts:
            assert x0 >= 0 and y0 >= 0 and x1 <= drawn.width and y1 <= drawn.height
        by_text = {}
        for text, box in drawn.texts:
            by_text.setdefault(text, []).append(box)
        for c in graph.components:
            box = drawn.boxes.components[c.id]
            inside = [b for b in by_text[c.name] if b[0] >= box[0] - 1 and b[2] <= box[2] + 1 and b[1] >= box[1] - 1 and b[3] <= box[3] + 1]
            assert inside, f"{c.name} is not inside its own box"
            # the outline, or the icon above the name, is drawn in the upper part of the box
            strip = picture.crop((round(box[0]), round(box[1]) - 1, round(box[2]), round(inside[0][1])))
            assert len(strip.getcolors(100_000) or [1, 1]) > 1, f"{c.name}: nothing drawn at the top of its box"
            zone = c.zone
            while zone:
                outer = drawn.boxes.zones[zone]
                assert outer[0] <= box[0] and outer[1] <= box[1] and outer[2] >= box[2] and outer[3] >= box[3]
                zone = next(z.parent for z in graph.zones if z.id == zone)
        boxes = list(drawn.boxes.components.items())
        assert not [(a, b) for i, (a, first) in enumerate(boxes) for b, second in boxes[i + 1 :] if overlap(first, second) > 4]
        for at, e in enumerate(graph.edges):
            route = drawn.boxes.edges[at]
            for point, end in ((route.path[0], e.src), (route.path[-1], e.dst)):
                x0, y0, x1, y1 = drawn.boxes.components[end]
                assert x0 - 9 <= point[0] <= x1 + 9 and y0 - 9 <= point[1] <= y1 + 9, f"arrow {at} does not touch {end}"
            assert (route.label is not None) == bool(facts.edge_texts(e, set(SHOW), {}))
            if route.label:
                assert all(overlap(route.label, box) <= 4 for box in drawn.boxes.components.values())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    index=st.integers(0, 400), style=st.sampled_from(sorted(STYLES)), density=st.floats(0, 1), damage=st.sampled_from((None, "perspective"))
)
def test_a_picture_keeps_every_limit_or_is_refused(tmp_path: Path, index: int, style: str, density: float, damage: str | None) -> None:
    graph = _system(index, 25)
    show = {kind for bundle in facts.choose(graph, density, random.Random(index)) for kind in bundle}
    try:
        drawn = render(graph, style, tmp_path / "p.png", show=show, seed=index, degraded=damage, layout=ENGINES[-1])
    except LimitError as err:
        assert "must" in str(err)
        return
    assert drawn.width * drawn.height <= 1_003_520 and max(drawn.width, drawn.height) <= 3.01 * min(drawn.width, drawn.height)
    assert drawn.min_font_px >= 10.5
    assert all(0 <= b[0] <= b[2] <= drawn.width and 0 <= b[1] <= b[3] <= drawn.height for b in drawn.boxes.components.values())


def _laid(*paths: list[tuple[float, float]], label: tuple[float, float] | None = None) -> layout.Placed:
    """A layout of arrows alone; the first has a label at `label`."""
    routes = [layout.Route(path, label if index == 0 else None) for index, path in enumerate(paths)]
    return layout.Placed(400, 400, {}, {}, routes)


@pytest.mark.parametrize(
    ("paths", "ends", "pairs"),
    [
        ([[(10, 10), (200, 10)], [(100, 10), (300, 10)]], [("a", "b"), ("c", "d")], 1),
        ([[(10, 10), (200, 10)], [(100, 13), (300, 13)]], [("a", "b"), ("c", "d")], 1),  # closer than one can see
        ([[(10, 10), (200, 10)], [(100, 10), (300, 10)]], [("a", "b"), ("b", "c")], 1),  # a chain: which way does it go on?
        ([[(10, 10), (200, 10)], [(100, 10), (300, 10)]], [("a", "b"), ("a", "d")], 0),  # a fork
        ([[(10, 10), (200, 10)], [(100, 10), (300, 10)]], [("a", "b"), ("c", "b")], 0),  # a meeting
        ([[(10, 10), (200, 10)], [(100, 25), (300, 25)]], [("a", "b"), ("c", "d")], 0),  # side by side
        ([[(10, 10), (200, 200)], [(10, 200), (200, 10)]], [("a", "b"), ("c", "d")], 0),  # a crossing
        ([], [], 0),
    ],
)  # fmt: skip
def test_arrows_in_one_line_are_counted(paths: list, ends: list, pairs: int) -> None:
    assert merged(_laid(*paths), ends) == pairs


def test_a_label_stays_where_it_can_only_mean_its_own_arrow() -> None:
    sizes = layout.Sizes({}, {}, [(40.0, 16.0), None])
    own, other = [(20.0, 100.0), (380.0, 100.0)], [(20.0, 150.0), (380.0, 150.0)]

    def placed(at: tuple[float, float]) -> tuple[float, float] | None:
        lay = _laid(own, other, label=at)
        assert place_labels(lay, sizes) == Labelled()
        return lay.routes[0].label

    assert placed((200.0, 88.0)) == (200.0, 88.0)  # beside its arrow: kept
    for misleading in ((200.0, 140.0), (200.0, 150.0), (200.0, 60.0)):  # nearer to the other, on the other, adrift
        at = placed(misleading)
        assert at is not None and at[1] == 100.0
    lay = _laid(own, own, label=None)
    assert place_labels(lay, sizes) == Labelled(crossed=1)  # nowhere to go: the caller tries another layout


def test_no_arrow_of_a_picture_runs_in_anothers_line_and_no_label_hangs_at_another(tmp_path: Path) -> None:
    for index, style in enumerate(sorted(STYLES)):
        graph = _system(30 + index, 16)
        drawn = _draw(graph, tmp_path / "p.png", style, layout=ENGINES[-1])
        lay = _laid(*(list(route.path) for route in drawn.boxes.edges))
        assert merged(lay, [(e.src, e.dst) for e in graph.edges]) == 0


def test_handwriting_is_drawn_larger_than_letters_that_are_taller(tmp_path: Path) -> None:
    assert fonts.as_large_as("dejavu", 10.5) == 10.5 and fonts.as_large_as("hand", 10.5) == 11.5
    graph = _system(7, 25)
    limit = {"max_pixels": 320_000, "show": ()}
    smallest = {}
    for style in ("dark", "whiteboard"):
        try:
            smallest[style] = _draw(graph, tmp_path / "p.png", style, **limit).min_font_px
        except LimitError as err:
            smallest[style] = float(str(err).split("at least ")[1].split(" px")[0])
    assert smallest["dark"] >= 10.5 and smallest["whiteboard"] >= 11.5


def test_perspective_moves_boxes_with_the_ink(tmp_path: Path) -> None:
    from PIL import Image, ImageDraw

    from sysdesign.records import Boxes

    picture = Image.new("RGB", (600, 400), "white")
    ImageDraw.Draw(picture).rectangle((200, 100, 299, 179), fill=(200, 0, 0))
    moved, boxes, shrink = degrade(picture, Boxes(components={"a": (200.0, 100.0, 300.0, 180.0)}), "perspective", random.Random(4))
    red = moved.point(lambda v: v).split()[0].point(lambda v: 255 if 190 <= v <= 210 else 0)
    green = moved.split()[1].point(lambda v: 255 if v < 40 else 0)
    found = Image.composite(red, Image.new("L", moved.size), green).getbbox()
    assert found is not None and 0.85 < shrink < 1
    assert all(abs(a - b) <= 2.5 for a, b in zip(found, boxes.components["a"], strict=True))


@pytest.mark.parametrize("kind", ["jpeg", "blur", "low_contrast"])
def test_other_damage_keeps_boxes_and_changes_pixels(kind: str, tmp_path: Path) -> None:
    clean = _draw(_system(2), tmp_path / "a.png")
    worn = _draw(_system(2), tmp_path / "b.png", degraded=kind)
    assert worn.boxes == clean.boxes and (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_the_same_call_gives_the_same_bytes(tmp_path: Path) -> None:
    for style in STYLES:
        _draw(_system(3), tmp_path / "a.png", style)
        _draw(_system(3), tmp_path / "b.png", style)
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_held_out_style_shares_no_font_page_or_spline_with_the_others() -> None:
    held = STYLES[HELD_OUT]
    for name in TRAINED:
        assert (held.family, held.page, held.splines, held.bracket) != (
            STYLES[name].family,
            STYLES[name].page,
            STYLES[name].splines,
            STYLES[name].bracket,
        )
        assert held.family != STYLES[name].family and held.page != STYLES[name].page and held.splines != STYLES[name].splines


def test_every_icon_is_in_the_diagrams_package() -> None:
    for kind, known in TECHNOLOGIES.items():
        for technology, _, _ in known:
            assert icon(icon_name(kind, technology), 24).getbbox() is not None
    assert all(icon(name, 24).size == (24, 24) for name in TYPE_ICONS.values())
    assert icon_name("sql", "Something Unheard Of") == TYPE_ICONS["sql"]
    with pytest.raises(ToolError, match="must be in the `diagrams` package"):
        icon("aws.database:NoSuchThing", 24)


def _named(*names: str, **more: object) -> Architecture:
    parts = tuple(Component(id=f"c{n}", name=name, type="service") for n, name in enumerate(names))
    edges = tuple(Edge(src=f"c{n}", dst=f"c{n + 1}") for n in range(len(names) - 1))
    return Architecture(title="T", domain="d", seed_id="s", components=parts, edges=edges, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "name",
    ["x" * 300, "word " * 60 + "end", "Платёжный шлюз", "Υπηρεσία Ω", "Größe × 3 → ≤ µ", "Zürich naïve Łódź", "Cafe\u0301", "a\nb\tc",
    "<b>&\"quoted\"\\n</b>"],
)  # fmt: skip
def test_long_and_non_latin_labels_are_drawn_whole(style: str, name: str, tmp_path: Path) -> None:
    drawn = _draw(_named(name[:300], "Other"), tmp_path / "p.png", style, show=())
    box = drawn.boxes.components["c0"]
    inside = [text for text, b in drawn.texts if b[0] >= box[0] - 1 and b[2] <= box[2] + 1 and b[1] >= box[1] - 1 and b[3] <= box[3] + 1]
    assert "".join("".join(inside[:-1]).split()) == "".join(fonts.clean(name[:300]).split())
    assert drawn.min_font_px >= 10


@pytest.mark.parametrize("name", ["支付网关", "خدمة الدفع", "שירות", "भुगतान", "쿠폰 서비스", "cart 🛒", "bell\u0007", "zero\u200bwidth"])
def test_letters_that_no_packaged_font_draws_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    for graph in (_named(name, "Other"), _named("Other", zones=(Zone(id="z", name=name, kind="vpc"),))):
        with pytest.raises(InputError, match=r"every letter must be in a packaged font.*U\+") as caught:
            _draw(graph, tmp_path / "p.png", show=())
        assert "\n" not in str(caught.value) and not (tmp_path / "p.png").exists()


def test_wrong_calls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="style: must be one of"):
        _draw(_named("A", "B"), tmp_path / "p.png", "cubist")
    with pytest.raises(InputError, match="must name fact kinds"):
        _draw(_named("A", "B"), tmp_path / "p.png", show=("component.colour",))
    with pytest.raises(InputError, match="degraded: must be jpeg"):
        _draw(_named("A", "B"), tmp_path / "p.png", degraded="fire")
    circle = _named("A", "B").model_copy(update={"edges": (Edge(src="c0", dst="c1"), Edge(src="c1", dst="c0"))})
    with pytest.raises(InputError, match="run in a circle"):
        _draw(circle, tmp_path / "p.png")
    inside = _named("A").model_copy(update={"zones": (Zone(id="z", name="Z", kind="vpc", parent="z"),)})
    with pytest.raises(InputError, match="lies inside itself"):
        _draw(inside, tmp_path / "p.png")


@pytest.mark.parametrize("engine", ENGINES)
def test_odd_but_possible_graphs_are_drawn(engine: str, tmp_path: Path) -> None:
    alone = _named("Only one")
    back = _named("A", "B").model_copy(
        update={"edges": (Edge(src="c0", dst="c1"), Edge(src="c1", dst="c0", mode="async"), Edge(src="c0", dst="c1", mode="async"))}
    )
    empty = _named(
        "A", "B", zones=(Zone(id="z", name="Nothing in it", kind="vpc"), Zone(id="y", name="Nor here", kind="subnet", parent="z"))
    )
    split = _named(*(f"Part {n}" for n in range(6))).model_copy(update={"edges": ()})
    for graph in (alone, back, empty, split):
        drawn = _draw(graph, tmp_path / "p.png", layout=engine)
        assert set(drawn.boxes.components) == {c.id for c in graph.components} and set(drawn.boxes.zones) == {z.id for z in graph.zones}


def _fake_dot(folder: Path, says: str, code: int = 0) -> None:
    folder.mkdir()
    (folder / "dot").write_text(f"#!/bin/sh\necho '{says}' >&2\nexit {code}\n")
    (folder / "dot").chmod(0o755)


@pytest.mark.parametrize(
    ("says", "code", "reason"),
    [
        (None, 0, "must be on the PATH"), ("dot - graphviz version 2.26.3 (0)", 0, "at least 2.40, not 2.26"),
        ("what?", 0, "must name a version"),
        ("broken", 3, "must work"),
    ],
)  # fmt: skip
def test_a_missing_or_old_graphviz_falls_back_or_says_what_to_install(
    says: str | None, code: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if says is not None:
        _fake_dot(tmp_path / "bin", says, code)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    layout.dot_problem.cache_clear()
    try:
        assert layout.engine("auto") == "python"
        with pytest.raises(ToolError, match="apt-get install graphviz") as caught:
            layout.engine("dot")
        assert reason in str(caught.value)
        assert _draw(_system(1), tmp_path / "p.png").engine == "python"
    finally:
        monkeypatch.undo()
        layout.dot_problem.cache_clear()


@pytest.mark.skipif(layout.dot_problem() is not None, reason="Graphviz is not installed")
def test_graphviz_without_its_drawing_parts_lays_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for index, splines in enumerate(("spline", "ortho", "polyline")):
        graph = _system(40 + index, 20)
        sizes = compose(graph, STYLES["dark"], SHOW).sizes
        placed = []
        for environment in (light.environment, lambda: None):
            monkeypatch.setattr(light, "environment", environment)
            placed.append(layout.place(graph, sizes, direction="LR", splines=splines, using="dot"))
        assert placed[0] == placed[1]


@pytest.mark.skipif(layout.dot_problem() is not None, reason="Graphviz is not installed")
def test_a_list_of_parts_that_is_tidied_away_stops_nothing() -> None:
    graph = _system(2)
    sizes = compose(graph, STYLES["dark"], SHOW).sizes
    before = layout.place(graph, sizes, direction="LR", splines="spline", using="dot")
    made = light.environment()
    if made is None:
        pytest.skip("this Graphviz lists its parts in another way")
    folder = Path(made["GVBINDIR"])
    shutil.rmtree(folder)
    assert layout.place(graph, sizes, direction="LR", splines="spline", using="dot") == before
    again = light.environment()
    assert again is not None and Path(again["GVBINDIR"]) != folder and Path(again["GVBINDIR"]).is_dir()
    light.discard()
    assert not Path(again["GVBINDIR"]).exists()


@pytest.mark.skipif(layout.dot_problem() is not None, reason="Graphviz is not installed")
def test_graphviz_starts_as_it_is_where_its_parts_are_listed_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "config"
    listed.write_text("a list of another kind\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "dot").write_text(f"#!/bin/sh\necho 'The plugin configuration file: {listed} was successfully loaded.' >&2\n")
    (tmp_path / "bin" / "dot").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    light.environment.cache_clear()
    try:
        assert light.environment() is None
    finally:
        light.environment.cache_clear()


def test_a_missing_font_says_which_and_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_HERE", tmp_path)
    for cached in (fonts.font, fonts.family_for, fonts.width, fonts._folder, fonts._lacks):
        cached.cache_clear()
    try:
        with pytest.raises(ToolError, match=r"font arimo-latin.*must be a readable font file") as caught:
            _draw(_named("A", "B"), tmp_path / "p.png")
        assert isinstance(caught.value, SysdesignError) and "git checkout" in str(caught.value)
    finally:
        for cached in (fonts.font, fonts.family_for, fonts.width, fonts._folder, fonts._lacks):
            cached.cache_clear()
