"""Does the same configuration give the same dataset on another machine, and with other builds of the libraries that pack files?

    python -m experiments.benchmarks.dataset_digest [--diagrams FOLDER] [--packing other]

Makes the rehearsal's base, diagrams, conversations and dataset in a folder of its own, and prints one JSON line: the dataset's
content digest, as MLflow shows it, and again from the decoded files; the digests of the files themselves, which may differ
between builds; and the builds. Compare `content_sha256` of two machines. Diagrams are laid out by Graphviz where it is installed
and by the project itself where it is not, and its versions differ: `--diagrams` takes the diagrams artefact of the other machine
(its whole folder), `--packing other` packs pictures and tables with other settings than the project's.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
import zlib
from pathlib import Path


def main() -> None:
    """Run the four stages, then hash what they made both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diagrams", type=Path, help="a diagrams artefact to use instead of drawing")
    parser.add_argument("--packing", choices=("own", "other"), default="own")
    parser.add_argument("--keep", type=Path, help="keep the store in this folder")
    args = parser.parse_args()
    import PIL
    import pyarrow
    import pyarrow.parquet as parquet
    import tokenizers
    import transformers

    from sysdesign import flow
    from sysdesign.artifacts import Artifact, Store
    from sysdesign.config.root import Config
    from sysdesign.dataset.content import decoded_sha256
    from sysdesign.profiles import resolve
    from sysdesign.records import NullLog

    if args.packing == "other":
        compress, writer = zlib.compress, parquet.ParquetWriter
        zlib.compress = lambda data, level=-1: compress(data, 9)
        parquet.ParquetWriter = lambda *rest, **how: writer(*rest, **(how | {"compression": "snappy"}))
    with tempfile.TemporaryDirectory(prefix="dataset-digest-") as scratch:
        store = Store(args.keep or Path(scratch))
        config = resolve(Config, "rehearsal", {"runtime.store": str(store.root)})
        made: dict[str, Artifact] = {}
        for name in ("base", "diagrams", "conversations", "dataset"):
            if name == "diagrams" and args.diagrams:
                given = store.load(args.diagrams)
                shutil.copytree(args.diagrams, store.folder(name, given.key), dirs_exist_ok=True)
            stage = flow.find_stage(name)
            function = getattr(__import__(f"sysdesign.{name}.stage", fromlist=[name]), name)
            made[name] = flow.run(stage, function, config, store, {read: made[read] for read in stage.reads}, NullLog()).artifact
        dataset = made["dataset"]
        found = {
            "content_sha256": dataset.manifest.report["content_sha256"], "decoded_sha256": decoded_sha256(dataset.path),
            "files": {name: artifact.digest[:12] for name, artifact in made.items()},
            "rows": sum(dataset.manifest.report[f"rows_{split}"] for split in ("train", "val", "test")),
            "pictures": dataset.manifest.report["pictures"], "graphviz": shutil.which("dot") is not None,
            "python": platform.python_version(), "zlib": zlib.ZLIB_RUNTIME_VERSION, "pillow": PIL.__version__,
            "pyarrow": pyarrow.__version__, "transformers": transformers.__version__, "tokenizers": tokenizers.__version__,
        }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
