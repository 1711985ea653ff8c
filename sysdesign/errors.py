"""The one family of errors: each prints as a single line that names the place, the law, the value and the way out.

`{where}: {law} (got {value!r}) - {what to do}`. They are caught in one place, `pipelines.command`, which prints the line
without a traceback and exits with the class's code, so that scripts can tell a mistyped flag from a full disk.
"""

from __future__ import annotations

from typing import Any

_NOTHING = object()


class SysdesignError(Exception):
    """A set-up that cannot work. A bad *row* is not an error: it is data with a reason, kept in `rejected.jsonl`."""

    exit_code = 1

    def __init__(self, where: str, law: str, do: str, got: Any = _NOTHING) -> None:
        """`where`: file, field or flag; `law`: what must hold; `do`: the command or edit that mends it; `got`: the value."""
        self.where, self.law, self.do, self.got = where, law, do, None if got is _NOTHING else got
        self._value = () if got is _NOTHING else (got,)
        value = "" if got is _NOTHING else f" (got {_shorten(got)})"
        super().__init__(f"{where}: {law}{value} - {do}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuilt from its parts, so that it crosses from a worker process."""
        return type(self), (self.where, self.law, self.do, *self._value)


class ConfigError(SysdesignError):
    """A flag, profile or field that does not resolve."""

    exit_code = 2


class InputError(SysdesignError):
    """A prompt file, graph or user file that cannot be read or breaks its format."""

    exit_code = 3


class ArtifactError(SysdesignError):
    """An artefact that is missing, corrupt, tampered with or held by another run."""

    exit_code = 4


class ToolError(SysdesignError):
    """A program, library, font or device that is missing or too old."""

    exit_code = 5


class ServiceError(SysdesignError):
    """A server or provider that refused, failed or did not answer."""

    exit_code = 6


class LimitError(SysdesignError):
    """A budget, memory, disk or time limit that would be passed."""

    exit_code = 7


def _shorten(value: Any, width: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def interrupted(err: BaseException | None) -> bool:
    """Whether an interrupt is behind this error: a library that is interrupted in its clean-up raises something of its own."""
    while err is not None and not isinstance(err, KeyboardInterrupt):
        err = err.__cause__ or err.__context__
    return err is not None
