"""Where a row of the dataset is from: --row ID prints its split and tokens, its conversation and teacher, its graph, its seed prompt."""

from __future__ import annotations

import sys

from pipelines.command import errors_as_lines, open_store, parse
from sysdesign.config.root import Config
from sysdesign.errors import ConfigError
from sysdesign.profiles import resolve

OWN = {"row": "Id of a row, probe or rejected row, as rows/, probes.jsonl and rejected.jsonl name it."}


def main() -> None:
    """Find the dataset of this configuration and what it was made of, then print the way back."""
    with errors_as_lines():
        profile, flags = parse(sys.argv[1:], __doc__ or "", tuple(Config.model_fields), OWN)
        row = flags.pop("row", "")
        config = resolve(Config, profile, flags)
        if not row.strip():
            raise ConfigError("--row", "must name a row", "ids are in rows/*.jsonl of the dataset artefact", row)
        from sysdesign import flow
        from sysdesign.dataset.explain import explain

        reader = flow.Stage("explain", ("dataset", "conversations", "diagrams"))
        print(explain(row, **flow.inputs_of(reader, config, open_store(config), profile)), end="")


if __name__ == "__main__":
    main()
