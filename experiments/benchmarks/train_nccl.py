"""Does a sweep's trial on several GPUs do what it does on one? On a host with two cards through NCCL; on a CPU the same code through gloo.

Four parts; what each finds goes into OUT/train_nccl.json as soon as it is known, and a part that fails does not stop the next:

curves  the train stage on the rehearsal's data with one device and with two, the same global batch. One device is also run with
        one sample a pass: the same sum in another order. Two devices may differ from one by as much as that, times `SLACK`.
ends    a process that is killed in the middle of a sum ends all of them, with its reason, in seconds.
sweep   `python -m pipelines.sweep` with two devices a trial: asked while it trains, pruned, its driver killed with SIGKILL in the middle of
        a trial, and the same command again.
speed   tokens a second of one and two devices, 7B shape with random weights in NF4: equal global batch, and equal batch a device.

    python -m experiments.benchmarks.train_nccl OUT [--only curves,sweep] [--tiny]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("NCCL_NVLS_ENABLE", "0")

DEVICES = 2
SLACK = 5.0  # two orders of a sum say little about how far a third may lie
SPEC: dict[str, Any] = {
    "question": "Does a trial on two devices train, answer, fall behind and go on after a kill?",
    "name": "two-devices",
    "profile": "rehearsal",
    "objective": {"metric": "probe/score", "direction": "maximize", "probes": 48, "probe_tokens": 16, "group": 16},
    "budget": {"trials": 4},
    "pruning": {"kind": "asha", "factor": 2, "probes": 24},
    "sampler": "random",
    "seed": 1,  # draws a good rate, a hopeless one, a good one, and the first one's values again
    "space": {
        "train.lora.rank": {"kind": "choice", "values": [8, 16, 32]},
        "train.learning_rate": {"kind": "choice", "values": [5.0e-3, 1.0e-6]},
    },
    "fixed": {
        "train.max_steps": 72, "train.eval_steps": 24, "train.save_steps": 24, "train.answers": 0, "train.warmup_steps": 2,
        "train.batch": 4,
    },
}  # fmt: skip
Part = Callable[["Bench", dict[str, Any]], None]  # fills what it finds in, as it finds it


class Bench:
    """Where things lie, and on what they run. `tiny`: as little as shows that the code runs."""

    def __init__(self, out: Path, scratch: Path, tiny: bool) -> None:
        import torch

        self.out, self.scratch, self.tiny = out, scratch, tiny
        self.cuda = torch.cuda.device_count() >= DEVICES
        self.device = "cuda" if self.cuda else "cpu"

    def shared(self) -> dict[str, Any]:
        """Base and dataset of the rehearsal, made once, in the store that the sweep's trials use as well."""
        from pipelines.command import open_store
        from pipelines.trial import make
        from sysdesign.config.root import Config
        from sysdesign.profiles import resolve
        from sysdesign.records import NullLog

        config = resolve(Config, "rehearsal", {"runtime.store": str(self.scratch / "store")})
        stages = ("base", "diagrams", "conversations", "dataset")
        made = {name: make(name, config, open_store(config), "rehearsal", NullLog()).artifact for name in stages}
        return {name: made[name] for name in ("base", "dataset")}

    def train(self, name: str, devices: int, inputs: Mapping[str, Any], log: Any = None, **settings: Any) -> Path:
        """One run of the train stage in a folder of that name, gone on with if it was begun."""
        from sysdesign.config.runtime import RuntimeConfig
        from sysdesign.config.train import TrainConfig
        from sysdesign.records import NullLog
        from sysdesign.train.stage import train

        out = self.scratch / "runs" / name
        out.mkdir(parents=True, exist_ok=True)
        runtime = RuntimeConfig(device=self.device, devices=devices, store=str(self.scratch / "store"))  # type: ignore[arg-type]
        try:
            train(TrainConfig.model_validate(settings), seed=3, out=out, log=log or NullLog(), runtime=runtime, **inputs)
        finally:
            self.free()
        return out

    def free(self) -> None:
        """Leave the cards empty: a run in this process has held the first one."""
        import torch

        gc.collect()
        if self.cuda and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def moments(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "history.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line.get("kind", "train") == kind]


def curve(folder: Path) -> list[float]:
    """Losses of the steps, then of the validations."""
    return [round(m["loss"], 7) for kind in ("train", "val") for m in moments(folder, kind)]


def distance(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


class Killed(BaseException):
    """Like a signal: nothing in the stage may catch it."""


def curves(bench: Bench, found: dict[str, Any]) -> None:
    from sysdesign.records import NullLog

    class KillAt(NullLog):
        def metrics(self, values: Any, step: int | None = None) -> None:
            if step == steps * 2 // 3 and "train/loss" in values:
                raise Killed

    steps = 6 if bench.tiny else 24
    settings: dict[str, Any] = {"batch": 8, "max_steps": steps, "warmup_steps": 2, "learning_rate": 1e-3, "answers": 1, "answer_tokens": 4}
    settings |= {"eval_steps": steps // 2, "save_steps": steps // 2, "lora": {"rank": 16, "alpha": 32}}
    plain = {"backend": {"kind": "peft", "plain": True}, "weights": "fp32", "compute": "fp32" if bench.cuda else "auto"}
    inputs = bench.shared()
    for name, more in ({"plain-fp32": plain, "fast-bf16-nf4": {}} if bench.cuda else {"plain-fp32": plain}).items():
        begun = time.monotonic()
        run, about = partial(bench.train, inputs=inputs), settings | more
        one = curve(run(f"{name}-one", 1, **about))
        spread = distance(one, curve(run(f"{name}-pass", 1, **about | {"micro_tokens": 1})))  # a pass holds one sample at least
        two = curve(run(f"{name}-two", DEVICES, **about))
        allowed = SLACK * max(spread, 1e-5)
        found[name] = {"one": one, "two": two, "spread of one device": spread, "allowed": allowed, "two from one": distance(one, two)}
        found[name] |= {"same": distance(one, two) <= allowed, "seconds": round(time.monotonic() - begun, 1)}
    try:
        run(f"{name}-killed", DEVICES, log=KillAt(), **about)
    except Killed:
        seals = sorted(p.parent.name for p in (bench.scratch / "runs" / f"{name}-killed").glob("checkpoints/*/seal.json"))
        resumed = distance(two, curve(run(f"{name}-killed", DEVICES, **about)))
        found["killed and resumed"] = {"checkpoints": seals, "from two": resumed, "same": resumed <= allowed}


def _second_dies(rank: Any, log: Any, *, cuda: bool) -> None:
    import torch

    numbers = torch.ones(1 << 20, device="cuda" if cuda else "cpu")
    rank.sum(numbers)
    log.metrics({"at": time.time()})
    if rank.index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    rank.sum(numbers)
    float(numbers[0])  # waits for the device


def ends(bench: Bench, found: dict[str, Any]) -> None:
    from sysdesign.records import NullLog
    from sysdesign.train import ranks

    heard: list[float] = []

    class Log(NullLog):
        def metrics(self, values: Any, step: int | None = None) -> None:
            heard.append(values["at"])

    found["said"] = "nothing: the sum went on without a process"
    try:
        ranks.spread(partial(_second_dies, cuda=bench.cuda), DEVICES, cuda=bench.cuda, log=Log(), meeting=bench.scratch / "meeting")
    except Exception as error:
        found |= {"said": str(error), "seconds after the kill": round(time.time() - heard[0], 1), "in use after it, MiB": used(bench)}


def session(leader: int) -> list[int]:
    """Processes of that session that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(sid) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


def used(bench: Bench) -> list[int]:
    """MiB of each card that somebody holds."""
    if not bench.cuda:
        return []
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return [int(line) for line in subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()]


def sweep(bench: Bench, found: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    from sysdesign.sweep.trial import Tail

    bench.shared()
    store, tracking = bench.scratch / "store", f"sqlite:///{bench.scratch}/mlflow.db"
    (bench.scratch / "two-devices.yaml").write_text(json.dumps(SPEC), encoding="utf-8")
    command = [sys.executable, "-m", "pipelines.sweep", "--spec", str(bench.scratch / "two-devices.yaml"), "--runtime.store", str(store)]
    command += ["--runner.gpus", str(DEVICES)] if bench.cuda else ["--runtime.devices", str(DEVICES)]
    env = os.environ | {"MLFLOW_TRACKING_URI": tracking, "PYTHONUNBUFFERED": "1"}
    first = store / ".sweeps" / "two-devices" / "trials" / "0000"

    def start(name: str) -> subprocess.Popen[bytes]:
        with (bench.out / f"sweep-{name}.txt").open("wb") as said:
            return subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=subprocess.STDOUT)

    begun, driver, journal, at = time.monotonic(), start("killed"), Tail(first / "events.jsonl"), 0
    while at < 30 and driver.poll() is None:  # past the checkpoint of step 24
        at = max([at, *(event.step or 0 for event in journal.news())])
        time.sleep(0.02)
    leaders = [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if str(first).encode() in _bytes(p)]
    found["processes at the kill"] = sum(len(session(leader)) for leader in leaders)
    driver.kill()
    killed = time.monotonic()
    while any(session(leader) for leader in leaders) and time.monotonic() < killed + 60:
        time.sleep(0.05)
    found["all of them gone after s"] = round(time.monotonic() - killed, 2)
    found |= {"in use after it, MiB": used(bench), "code of the killed driver": driver.wait()}
    journal.news()
    found["code"] = start("resumed").wait()
    found["seconds"] = round(time.monotonic() - begun, 1)
    with (bench.out / "sweep-trials.txt").open("wb") as said:
        for output in sorted(first.parent.glob("*/output.txt")):
            said.write(f"\n{output.parent.name}\n".encode() + output.read_bytes()[-20_000:])
    found["first step after the kill"] = min(event.step or 0 for event in journal.news() if "train/loss" in event.metrics)
    client = MlflowClient(tracking)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=100)
    found["runs not finished"] = sum(run.info.status != "FINISHED" for run in runs)
    for run in sorted((r for r in runs if "sweep.trial" in r.data.tags), key=lambda r: r.data.tags["sweep.trial"]):
        tags, steps = run.data.tags, [entry.step for entry in client.get_metric_history(run.info.run_id, "train/loss")]
        found[f"trial {tags['sweep.trial'].rpartition(':')[2]}"] = {
            "end": tags["sweep.state"], "reason": tags["sweep.reason"], "score": run.data.metrics.get("probe/score"), "steps": len(steps),
            "steps logged twice": len(steps) - len(set(steps)), "seconds": run.data.metrics["cost/trial_seconds"],
            "asked": len(client.get_metric_history(run.info.run_id, "probe/interim_score")), "processes": _processes(run, store),
        }  # fmt: skip


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _processes(run: Any, store: Path) -> int | None:
    folder = run.data.tags.get("sweep.artifact.train")
    return json.loads((store / folder / "train.json").read_text(encoding="utf-8"))["machine"]["processes"] if folder else None


def speed(bench: Bench, found: dict[str, Any]) -> None:
    from experiments.benchmarks.train_curves import make_inputs  # puts its folder, with a `diagrams.py` in it, on the path
    from sysdesign.artifacts import Artifact, Manifest

    def artifact(stage: str) -> Artifact:
        about = {"stage": stage, "version": 1, "key": stage, "digest": stage, "seed": 0, "config": {}, "inputs": {}, "prompts": {}}
        about |= {"report": {}, "files": (), "created": "", "seconds": 0}
        return Artifact(stage, stage, stage, folder / stage, Manifest.model_validate(about))

    folder = bench.scratch / "speed"
    make_inputs(folder, bench.tiny, layers=3 if bench.tiny else 28, scale=1 if bench.tiny else 2)
    inputs = {name: artifact(name) for name in ("base", "dataset")}
    settings = {"max_steps": 4 if bench.tiny else 10, "warmup_steps": 1, "eval_steps": 0, "save_steps": 0, "answers": 0, "keep_best": False}
    batch = 4 if bench.tiny else 16
    for name, devices, samples in (
        ("one", 1, batch),
        ("two, the same batch", DEVICES, batch),
        ("two, twice the batch", DEVICES, 2 * batch),
    ):
        begun = time.monotonic()
        steps = moments(bench.train(f"speed-{name}", devices, inputs, **settings | {"batch": samples}))[3:]
        rate = statistics.median(step["tokens"] / step["seconds"] for step in steps)
        found[name] = {"batch": samples, "tokens_per_s": round(rate), "ms": round(1e3 * statistics.median(s["seconds"] for s in steps), 1)}
        found[name] |= {"losses": [round(s["loss"], 4) for s in steps], "whole run, s": round(time.monotonic() - begun, 1)}
        found[name]["times one"] = round(rate / found["one"]["tokens_per_s"], 3)


PARTS: dict[str, Part] = {"curves": curves, "ends": ends, "sweep": sweep, "speed": speed}


def _end(number: int, frame: object) -> None:
    raise TimeoutError("ended from outside")  # what was found so far is written down


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _end)
    import torch

    # weights of 15 GiB: where there is room in memory, they are written there
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as scratch:
        bench, begun = Bench(args.out, Path(scratch), args.tiny), time.monotonic()
        names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] or ["cpu"]
        found: dict[str, Any] = {"devices": names, "torch": torch.__version__, "through": "nccl" if bench.cuda else "gloo"}
        for name in args.only.split(","):
            found[name] = {}
            try:
                PARTS[name](bench, found[name])
            except Exception:
                found[name]["error"] = traceback.format_exc()[-3000:]
            found["seconds"] = round(time.monotonic() - begun, 1)
            (args.out / "train_nccl.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(json.dumps({name: found[name]}, indent=1), flush=True)


if __name__ == "__main__":
    main()
