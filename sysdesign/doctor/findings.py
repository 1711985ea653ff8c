"""One thing that was looked at -> one line: how it is, and the command that mends it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from sysdesign.graph import Record

State = Literal["ok", "warn", "bad"]
EXIT = 5  # as ToolError: something is missing


class Finding(Record):
    """`warn`: works without it, or only a later step needs it. `mend` is a command or an edit; empty when all is well."""

    name: str
    state: State
    says: str
    mend: str = ""


def ok(name: str, says: str) -> Finding:
    return Finding(name=name, state="ok", says=says)


def warn(name: str, says: str, mend: str) -> Finding:
    return Finding(name=name, state="warn", says=says, mend=mend)


def bad(name: str, says: str, mend: str) -> Finding:
    return Finding(name=name, state="bad", says=says, mend=mend)


def line(finding: Finding) -> str:
    """One line, whatever the finding says."""
    said = " ".join(f"{finding.says}{f' - {finding.mend}' if finding.mend else ''}".split())
    return f"{finding.state:5} {finding.name:18} {said}"


def verdict(findings: Iterable[Finding]) -> tuple[str, int]:
    """The last line, and the exit code: 0 when nothing is bad."""
    found = list(findings)
    wrong, weak = (sum(f.state == state for f in found) for state in ("bad", "warn"))
    if wrong:
        return f"{wrong} of {len(found)} must be mended first", EXIT
    return f"ready: {len(found) - weak} of {len(found)} are well" + (f", {weak} can wait" if weak else ""), 0
