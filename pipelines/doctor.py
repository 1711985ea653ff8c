"""What is missing on this machine for a profile, one line each with the command that mends it; code 0 when nothing has to be mended first.

--json true prints the same for a program.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

# The doctor must speak on a machine where nothing is installed yet.
if absent := [name for name in ("pydantic", "yaml", "filelock", "httpx", "psutil") if find_spec(name) is None]:
    print(f"bad   packages           {', '.join(absent)} missing - uv pip install -r requirements.txt (or pip install -r requirements.txt)")
    sys.exit(5)

import json
from pathlib import Path

from pipelines.command import ROOT, errors_as_lines, parse
from sysdesign.config.root import Config
from sysdesign.doctor.checkup import Needs, checkup
from sysdesign.doctor.findings import line, verdict
from sysdesign.errors import ConfigError
from sysdesign.profiles import resolve

OWN = {"json": "Print JSON. [false]"}


def main(argv: list[str]) -> None:
    """Look, print, and end with the verdict's code."""
    with errors_as_lines():
        words = [f"{word}=true" if word == "--json" and argv[n + 1 : n + 2] in ([], ["--profile"]) else word for n, word in enumerate(argv)]
        profile, flags = parse(words, __doc__ or "", tuple(Config.model_fields), OWN)
        as_json = flags.pop("json", "false").lower()
        if as_json not in ("true", "false"):
            raise ConfigError("--json", "is true or false", "write --json true", as_json)
        config = resolve(Config, profile, flags)
        found = checkup(config, profile, ROOT, lambda: needs(profile, flags, ROOT))
        last, code = verdict(found)
        if as_json == "true":
            print(json.dumps({"findings": [finding.model_dump() for finding in found], "verdict": last, "code": code}, indent=2))
        else:
            print("\n".join([*(line(finding) for finding in found), last]))
        sys.exit(code)


def needs(profile: str, flags: dict[str, str], root: Path) -> Needs:
    """Disk, memory and GPU memory that the profile still takes, from its plan."""
    from sysdesign.plan.planner import make_plan

    bill = make_plan(profile, lambda names: resolve(Config, names, flags), root).chosen
    here = [entry.estimate.ram_gib for entry in bill.lines if not entry.cached and (bill.machine.own or not entry.machine_usd)]
    training = next(entry for entry in bill.lines if entry.estimate.stage == "train")
    return bill.disk_gb, max(here, default=0.5), 0.0 if training.cached else training.estimate.vram_gib


if __name__ == "__main__":
    main(sys.argv[1:])
