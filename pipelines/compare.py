"""Compare finished evaluations question by question: --runs all, or folders of evaluate artefacts separated by commas."""

from __future__ import annotations

import sys
from pathlib import Path

from pipelines.command import errors_as_lines, open_store, parse
from sysdesign.config.root import Config
from sysdesign.errors import InputError
from sysdesign.profiles import resolve

OWN = {
    "runs": "`all` in the store, or artefact folders; the first is the one that others are held against. [all]",
    "out": "Folder for comparison.html and comparison.json. [comparison]",
}


def main() -> None:
    """Find the evaluations, write the page, print the scores."""
    with errors_as_lines():
        profile, flags = parse(sys.argv[1:], __doc__ or "", ("runtime",), OWN)
        wanted, out = flags.pop("runs", "all"), Path(flags.pop("out", "comparison"))
        store = open_store(resolve(Config, profile, flags))
        if wanted == "all":
            folders = sorted(store.root.glob("evaluate-*"), key=lambda path: path.stat().st_mtime)
        else:
            folders = [path if path.is_dir() else store.root / path for path in map(Path, wanted.split(","))]
        missing = [str(path) for path in folders if not path.is_dir()]
        if missing:
            raise InputError("--runs", "must name folders of evaluate artefacts", f"there are: {_known(store.root)}", missing[0])
        from sysdesign.evaluate.compare import compare

        report = compare({path.name: path for path in folders}, out)
        for name, score in sorted(report.scores.items(), key=lambda item: -item[1]):
            print(f"{score:.3f}  {name}")
        print(f"{report.note()} Page: {out / 'comparison.html'}")


def _known(root: Path) -> str:
    return ", ".join(path.name for path in sorted(root.glob("evaluate-*"))) or "none yet; run mlflow run . --env-manager=local"


if __name__ == "__main__":
    main()
