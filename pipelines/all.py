"""The main job: every stage in order, from seed prompts to a registered model that answers, in one MLflow parent run."""

from __future__ import annotations

import sys
from pathlib import Path

from pipelines.command import ROOT, errors_as_lines, line, open_store, parse, run_stage
from sysdesign.config.root import Config
from sysdesign.flow import STAGES, find_stage
from sysdesign.profiles import resolve

OWN = {"until": "The last stage to run, such as dataset on a laptop before a rented machine goes on; empty: all of them."}


def main() -> None:
    """Run or reuse each stage as a child run; ends with what was registered and how to talk to it."""
    with errors_as_lines():
        profile, flags = parse(sys.argv[1:], __doc__ or "", ("seed", *STAGES, "runtime"), OWN)
        last = find_stage(flags.pop("until", "") or list(STAGES)[-1]).name
        everything(resolve(Config, profile, flags), profile, last)


def everything(config: Config, profile: str, last: str) -> None:
    """The stages up to and with `last`."""
    from sysdesign.tracking import lineage, registry, runs

    client = runs.connect(ROOT)
    store = open_store(config)
    with runs.run(client, f"all ({profile})", tags={"sysdesign.stage": "all", "sysdesign.profile": profile}) as parent:
        parent.params({"profile": profile, "seed": config.seed})
        print(f"run {parent.run}, artefacts in {_near(store.root)}", flush=True)
        notes, model = [], ""
        for name in list(STAGES)[: list(STAGES).index(last) + 1]:
            with runs.run(client, name, parent=parent.run, tags={"sysdesign.profile": profile}) as log:
                outcome, inputs = run_stage(name, config, profile, store, log, alone=False)
            lineage.summarise(parent, outcome, inputs)
            if name == "evaluate":
                model = registry.show(parent, config.runtime.registered_model, outcome.artifact)
                if not registry.is_champion(client, model):  # what serves people stays until something better is promoted
                    config = config.model_copy(update={"deploy": config.deploy.model_copy(update={"to": "llamacpp"})})
            print(line(outcome), flush=True)
            notes.append(f"- **{name}**{' (in the store)' if outcome.cached else ''}: {outcome.artifact.manifest.note}")
        parent.tags({"mlflow.note.content": "\n".join(notes)})
    if model:
        print(f"\nregistered: {model}   ask it: python -m pipelines.chat   compare runs: mlflow ui", flush=True)


def _near(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    main()
