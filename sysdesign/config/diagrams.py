"""How many architecture diagrams are made, how large and tangled they are, and in which styles they are drawn."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sysdesign.config.section import Section

Share = Annotated[float, Field(ge=0, le=1)]


class StyleMix(Section):
    """Relative weights of the styles that training may see; the held-out style has its own share."""

    icons: float = Field(default=0.3, ge=0)
    """Provider icons, as the `diagrams` library draws them."""
    drawio: float = Field(default=0.25, ge=0)
    """Boxes, cylinders and right-angled arrows, as in draw.io."""
    dark: float = Field(default=0.2, ge=0)
    """Dark flowcharts, as Mermaid draws them."""
    whiteboard: float = Field(default=0.25, ge=0)
    """Hand-drawn strokes and handwriting."""

    @model_validator(mode="after")
    def _some_weight(self) -> StyleMix:
        if not self.icons + self.drawio + self.dark + self.whiteboard > 0:
            raise ValueError("at least one style needs a weight above 0")
        return self


class DiagramsConfig(Section):
    """The `diagrams` stage."""

    count: int = Field(default=500, ge=1, le=20000)
    """Diagrams to make; the pictures of the evaluation prompts come on top."""
    styles: StyleMix = StyleMix()
    """Relative weights of the styles."""
    held_out_share: Share = 0.12
    """Share drawn in the style that training never sees."""
    degraded_share: Share = 0.1
    """Share of the other pictures that is degraded: JPEG, blur, perspective, low contrast."""
    anonymous_share: Share = 0.15
    """Share with meaningless names and unusual wiring, which background knowledge cannot answer."""
    min_components: int = Field(default=5, ge=2, le=40)
    """Smallest system."""
    max_components: int = Field(default=25, ge=2, le=40)
    """Largest system."""
    max_depth: int = Field(default=4, ge=1, le=8)
    """Longest chain of services that call each other."""
    max_fan_out: int = Field(default=5, ge=1, le=12)
    """Most services that one component calls."""
    max_nesting: int = Field(default=3, ge=0, le=4)
    """Deepest nesting of drawn zones; 0 draws none."""
    extra_edges: Share = 0.15
    """Edges beyond the plain design, as a share of the components: more of them cross."""
    fact_density: Share = 0.6
    """How many of the numbers are drawn: 0 names and arrows only, 1 as many as stay legible."""
    max_pixels: int = Field(default=1_003_520, ge=50_000, le=4_000_000)
    """Largest picture; 1280 x 28 x 28 is what the model is shown at most."""
    max_aspect: float = Field(default=3.0, ge=1, le=8)
    """Longest side over shortest."""
    min_font_px: float = Field(default=10.5, ge=6, le=24)
    """Smallest text, for fonts with tall lowercase letters (others are larger); who cannot keep it shows fewer facts, or is rejected."""
    layout: Literal["auto", "dot", "python"] = "auto"
    """Who places the boxes: Graphviz, our own, or Graphviz where it is installed."""

    @model_validator(mode="after")
    def _sizes(self) -> DiagramsConfig:
        if self.min_components > self.max_components:
            raise ValueError(f"min_components {self.min_components} is above max_components {self.max_components}")
        return self
