"""The base of every configuration section: frozen, closed, and documented field by field for `--help`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Unknown fields are refused; the docstring under a field is its help.

    Not pydantic's strict mode: PyYAML reads `1e-4` as a string, and flags arrive as strings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False)
