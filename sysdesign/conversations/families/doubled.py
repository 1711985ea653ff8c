"""Follow-ups that change the system in words: the same question again after the load was multiplied."""

from __future__ import annotations

from dataclasses import dataclass

from sysdesign.conversations.pen import Pen
from sysdesign.conversations.view import View


@dataclass(frozen=True)
class Changed:
    """The system after the change, and the words that announce it (a grammar line that opens the next question)."""

    view: View
    said: str


def more_load(view: View, pen: Pen) -> Changed:
    """All peak loads multiplied; the picture still shows the old ones, so the new ones are stated."""
    factor = pen.rng.choice((1.5, 2, 2, 3, 4, 5, 10))
    flows = tuple(f.model_copy(update={"peak_qps": f.peak_qps * factor, "avg_qps": f.avg_qps * factor}) for f in view.graph.flows)
    changed = View(
        view.graph.model_copy(update={"flows": flows}),
        [key for key in view.visible if not (key.startswith("flow:") and key.endswith("_qps"))],
        view.boxes,
        view.size,
    )
    times = {1.5: "[grows by half|is 1.5 times as high]", 2: "[doubles|is twice as high]", 3: "[triples|is three times as high]"}
    grown = times.get(factor, f"[grows {pen.n(factor)}-fold|is {pen.n(factor)} times as high]")
    return Changed(changed, f"[Now|Then|Next year|On launch day|Suppose] the [load|peak load|traffic] {grown}. ")
