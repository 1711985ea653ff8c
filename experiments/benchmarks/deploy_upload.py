"""How a 1 GB model reaches Ollama over a connection that drops in the middle: bytes sent, seconds, memory.

    python -m experiments.benchmarks.deploy_upload [--gb 1.0] [--folder DIR]

Against the strict stand-in of the tests: it takes a blob whole or not at all, as Ollama does, and cuts the text model's first
upload half-way. Then a second deployment, which must send nothing, and one with new weights that fail their health check.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import gguf
import numpy as np

from sysdesign.config.deploy import DeployConfig
from sysdesign.deploy.serving import serve_bundle
from sysdesign.errors import ServiceError
from sysdesign.models.bundle import open_bundle, sha256_file
from tests.ollama_server import OllamaServer
from tests.test_deploy import make_export


def write_large(path: Path, size: int, seed: int) -> None:
    """A GGUF file of `size` bytes of random weights."""
    writer = gguf.GGUFWriter(str(path), "qwen2vl")
    writer.add_type("model")
    writer.add_tensor("blk.0.weight", np.random.default_rng(seed).integers(-128, 128, size, dtype=np.int8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--folder", default=None)
    args = parser.parse_args()
    size = int(args.gb * 1e9)
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder = Path(scratch)
        exports = [make_export(folder / f"export-{index}") for index in (1, 2)]
        for index, export in enumerate(exports):
            maker = multiprocessing.Process(target=write_large, args=(export / "gguf" / "model-q8_0.gguf", size, index))
            maker.start()  # a process of its own: the memory measured below is the deployment's
            maker.join()
        base_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        with OllamaServer(folder / "ollama", drop_uploads_after=[size // 2]) as server:
            cfg = DeployConfig.model_validate({"to": "ollama", "ollama": {"url": server.url}})

            def deploy(export: Path, what: str) -> None:
                server.requests.clear()
                start = time.perf_counter()
                bundle = open_bundle(export)
                digests = {file.name: sha256_file(file) for file in (bundle.text, bundle.projector)}
                hashed = time.perf_counter() - start
                try:
                    report = serve_bundle(cfg, bundle, digests, "d" * 64, out=folder / "out", seed=0)
                    said = f"serves {report.version}, {report.uploaded_files} files sent, changed {report.changed}"
                except ServiceError as err:
                    said = f"refused: {str(err)[:110]}"
                sent = sum(received for method, path, received in server.requests if method == "POST" and "blobs" in path) / 1e6
                tries = sum(method == "POST" and "blobs" in path for method, path, _ in server.requests)
                took = time.perf_counter() - start
                print(f"{what:34} {took:6.1f} s (hashing {hashed:.1f} s)  {sent:8.1f} MB received in {tries} uploads  {said}", flush=True)

            deploy(exports[0], "first, cut in the middle")
            live = server.digest("sysdesign")
            deploy(exports[0], "again")
            server.answer = lambda name, messages: "ggggggg"
            deploy(exports[1], "new weights, unhealthy")
            assert server.digest("sysdesign") == live
            print(f"the serving model is unchanged: {live[:12]}; names: {', '.join(server.names())}")
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak memory of client and server together: {peak_mb:.0f} MB (before the first deployment: {base_mb:.0f} MB)")


if __name__ == "__main__":
    main()
