"""Serve a model through Ollama or llama.cpp, checked by a question with a picture.

Without --model it is what this profile exported; with --model models:/sysdesign@champion it is that registered version.
"""

from __future__ import annotations

import sys

from pipelines.command import ROOT, errors_as_lines, line, open_store, parse, run_stage
from sysdesign.config.root import Config
from sysdesign.profiles import resolve

OWN = {"model": "A registered version, models:/sysdesign@champion or models:/sysdesign/3; empty: what this profile exported."}


def main() -> None:
    """Find the export, serve it, and record on a registered version where it runs."""
    with errors_as_lines():
        profile, flags = parse(sys.argv[1:], __doc__ or "", ("seed", "deploy", "runtime"), OWN)
        uri = flags.pop("model", "")
        config = resolve(Config, profile, flags)
        from sysdesign.tracking import registry, runs

        client, store = runs.connect(ROOT), open_store(config)
        with runs.run(client, f"deploy {uri or profile}", tags={"sysdesign.stage": "deploy", "sysdesign.profile": profile}) as log:
            given = served = None
            if uri:
                despite, models = config.deploy.despite_certificate, store.root / ".work" / "models"
                folder, served = registry.fetch_to_serve(client, uri, models, despite_certificate=despite)
                given = {"export": store.load(folder)}
            outcome, _ = run_stage("deploy", config, profile, store, log, alone=True, inputs=given, served=served)
        print(line(outcome))


if __name__ == "__main__":
    main()
