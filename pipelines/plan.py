"""What it will take, before anything runs: minutes, memory and dollars of every stage, what is made already, all cards side by side.

Ends with code 7 when the expected total is above runtime.budget_usd, so that a script can ask first. --json true prints the same for a
program, --sources true every figure with its source.
"""

from __future__ import annotations

import sys

from pipelines.command import ROOT, errors_as_lines, parse
from sysdesign.config.root import Config
from sysdesign.errors import ConfigError
from sysdesign.profiles import resolve

OWN = {
    "json": "Print JSON. [false]",
    "sources": "Print every figure with its source. [false]",
}
OVER_BUDGET = 7  # as LimitError


def main(argv: list[str]) -> None:
    """Plan a profile and print it."""
    with errors_as_lines():
        profile, flags = parse(_bare(argv), __doc__ or "", tuple(Config.model_fields), OWN)
        asked = {name: _truth(name, flags.pop(name, "false")) for name in OWN}
        from sysdesign.plan.planner import make_plan
        from sysdesign.plan.points import read_points
        from sysdesign.plan.table import OVER, as_json, sources, text, verdict

        points = read_points()
        if asked["sources"]:
            print(sources(points))
            return
        plan = make_plan(profile, lambda names: resolve(Config, names, flags), ROOT)
        print(as_json(plan, points) if asked["json"] else text(plan, points))
        if verdict(plan) == OVER:
            sys.exit(OVER_BUDGET)


def _bare(argv: list[str]) -> list[str]:
    """`--json` alone means true; so does `--sources`."""
    words = []
    for place, word in enumerate(argv):
        alone = word in ("--json", "--sources") and (place + 1 == len(argv) or argv[place + 1].startswith("--"))
        words.append(f"{word}=true" if alone else word)
    return words


def _truth(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ConfigError(f"--{name}", "is true or false", f"write --{name} true", value)
    return value.lower() == "true"


if __name__ == "__main__":
    main(sys.argv[1:])
