"""Draws the README's picture of the pipeline with the project's own renderer: `python -m experiments.reports.pictures`."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from sysdesign.diagrams.render import render
from sysdesign.graph import Architecture, Component, Edge, Zone

HERE = Path(__file__).parent
LAPTOP, RENTED, SERVING = "laptop", "rented", "serving"

PIPELINE = Architecture(
    title="mlflow run .",
    domain="machine learning",
    seed_id="pipeline",
    zones=(
        Zone(id=LAPTOP, name="laptop", kind="trust"),
        Zone(id=RENTED, name="rented GPU", kind="trust"),
        Zone(id=SERVING, name="laptop again", kind="trust"),
    ),
    components=(
        Component(id="prompts", name="Seed prompts", type="object", zone=LAPTOP),
        Component(id="diagrams", name="diagrams", type="worker", zone=LAPTOP),
        Component(id="conversations", name="conversations", type="worker", zone=LAPTOP),
        Component(id="dataset", name="dataset", type="worker", zone=LAPTOP),
        Component(id="base", name="base", type="model", zone=RENTED),
        Component(id="train", name="train", type="worker", zone=RENTED),
        Component(id="export", name="export", type="worker", zone=RENTED),
        Component(id="evaluate", name="evaluate", type="worker", zone=RENTED),
        Component(id="mlflow", name="MLflow", type="warehouse"),
        Component(id="deploy", name="deploy", type="worker", zone=SERVING),
        Component(id="chat", name="chat", type="client", zone=SERVING),
    ),
    edges=(
        Edge(src="prompts", dst="diagrams"),
        Edge(src="diagrams", dst="conversations"),
        Edge(src="conversations", dst="dataset"),
        Edge(src="dataset", dst="train"),
        Edge(src="base", dst="train"),
        Edge(src="train", dst="export"),
        Edge(src="export", dst="evaluate"),
        Edge(src="evaluate", dst="mlflow", protocol="version"),
        Edge(src="mlflow", dst="deploy", protocol="champion"),
        Edge(src="deploy", dst="chat"),
    ),
)


def main() -> None:
    """Write `pipeline.png` beside this file."""
    drawn = render(PIPELINE, "drawio", HERE / "pipeline.png", show={"edge.protocol"}, seed=0, max_aspect=5.0, max_pixels=2_000_000)
    lowest = max(box[3] for box in drawn.boxes.zones.values())
    with Image.open(HERE / "pipeline.png") as picture:  # without the legend, which explains nothing here
        picture.crop((0, 0, drawn.width, int(lowest) + 8)).save(HERE / "pipeline.png", optimize=True)


if __name__ == "__main__":
    main()
