"""The page of an evaluation in a browser, wide and on a phone: everything is there, nothing sticks out, nothing is fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import browser
from tests.browser import Browser
from tests.test_evaluate import contestant, headline, knowing, probes, run

pytestmark = pytest.mark.skipif(
    bool(browser.missing()), reason=f"not installed: {browser.missing()} (apt-get install chromium chromium-driver)"
)

LONG = "ThePaymentReconciliationAndSettlementOrchestratorServiceForEurope" * 4


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three contestants with a long name in question, truth and answer; a model that says nothing."""
    place = tmp_path_factory.mktemp("pages")
    items = probes(place, 6)
    first = items[1]
    assert first.check is not None
    long = first.messages[0].model_copy(update={"text": f"What does {LONG} call?"})
    items[1] = first.model_copy(update={"check": first.check.model_copy(update={"expected": [LONG, "Users"]}), "messages": (long,)})
    base = contestant("base", knowing(items, wrong=lambda item: item.id.endswith("count")))
    talker = contestant("tuned", lambda messages: f"I see {LONG}. {'word ' * 900}")
    others = {"three": [base, talker, contestant("champion", knowing(items))], "silent": [base, contestant("tuned", lambda messages: "")]}
    found = {}
    for name, models in others.items():
        (place / name).mkdir()
        run(place / name, models, items, headline=headline(place))
        found[name] = place / name / "out/report.html"
    return found


@pytest.mark.parametrize("name", ["three", "silent"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_reads_at_both_widths(window: Browser, pages: dict[str, Path], name: str, width: int, tmp_path: Path) -> None:
    window.size(width, 900)
    window.open(pages[name].as_uri())
    window.js("for (const picture of document.images) picture.loading = 'eager'")
    window.wait("return [...document.images].every(picture => picture.complete && picture.naturalWidth > 0)")
    assert window.js("return document.images.length") > 0
    assert window.js("return document.documentElement.scrollWidth") == width, "nothing sticks out at the side"
    outside = (
        "return [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth && !e.closest('.wide'))"
    )
    assert window.js(f"{outside}.map(e => e.outerHTML.slice(0, 99))") == []
    assert window.js("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    said = window.js("return document.querySelector('main').innerText")
    for section in ("What the verdict stands on", "Scores on the probes", "By kind of question", "Controls", "Headline prompts", "Probes"):
        assert section in said, section
    for part in (
        "Attempt 1",
        "held-out graphs",
        "parity certificate",
        "seen in training",
        "Truth",
        LONG if name == "three" else "(no answer)",
    ):
        assert part in said, part
    count = 3 if name == "three" else 2
    assert window.js("return Math.min(...[...document.querySelectorAll('.answers')].map(e => e.children.length))") == count
    assert window.js("return document.querySelector('.plot').previousElementSibling.querySelectorAll('.key').length") == count
    assert window.js("return document.querySelectorAll('.bar').length") > 0
    crowded = "const rows = [...document.querySelectorAll('.plot .numbers')].map(e => e.getBoundingClientRect()); "
    assert window.js(f"{crowded}return rows.some((r, i) => i && r.top >= rows[i - 1].top && r.top < rows[i - 1].bottom + 4)") is False
    assert window.console() == []
    window.screenshot(Path(os.environ.get("PAGE_SHOTS", tmp_path)) / f"evaluation-{name}-{width}.png", whole=True)
