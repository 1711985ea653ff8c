"""This machine -> findings about Python, packages, disk, memory, GPU, Graphviz, fonts and llama.cpp. Nothing heavy is imported."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from sysdesign.config.base import HubBase
from sysdesign.config.root import Config
from sysdesign.doctor.findings import Finding, bad, ok, warn

DRIVER = 580  # the oldest driver for CUDA 13, which torch's wheels are built with (NVIDIA's compatibility table, read 2026-11)
FONTS = 6  # packaged faces
INSTALL = "uv pip install -r requirements.txt (or pip install -r requirements.txt)"


def python() -> Finding:
    """3.11 or 3.12, in an environment of its own."""
    found = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        return bad("python", f"{found}; 3.11 or 3.12 is needed", "uv venv --python 3.11 .venv && source .venv/bin/activate")
    if sys.prefix == sys.base_prefix and not os.environ.get("CONDA_PREFIX"):
        return warn("python", f"{found}, without an environment of its own", "uv venv --python 3.11 .venv && source .venv/bin/activate")
    return ok("python", found)


def packages(requirements: Path) -> Finding:
    """Every pinned package is installed in its pinned version."""
    try:
        text = requirements.read_text(encoding="utf-8")
    except OSError:
        return warn("packages", f"{requirements.name} is not there to compare with", "run this from a checkout of the project")
    missing, other, count = [], [], 0
    for name, version, marker in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)\s*;?([^\\\n]*)", text, flags=re.M):
        if not _applies(marker.strip()):
            continue
        count += 1
        try:
            there = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if there.split("+")[0] != version.split("+")[0]:
            other.append(f"{name} {there}, not {version}")
    if missing:
        return bad("packages", f"{len(missing)} of {count} are missing: {', '.join(missing[:6])}", INSTALL)
    if other:
        return warn("packages", f"{len(other)} of {count} differ: {'; '.join(other[:4])}", INSTALL)
    return ok("packages", f"{count} pinned, all there")


def _applies(marker: str) -> bool:
    """Whether a pin is for this platform and Python."""
    if not marker:
        return True
    try:
        from packaging.markers import InvalidMarker, Marker
    except ImportError:
        return False  # it comes with the packages; without it more than this pin is missing
    try:
        return Marker(marker).evaluate()
    except InvalidMarker:
        return True


def disk(store: Path, needed_gb: float) -> Finding:
    """Room for what the profile still has to make."""
    there = next(folder for folder in (store, *store.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        return bad(
            "disk",
            f"{there} cannot be written",
            "set --runtime.store to a folder of yours, or mend its owner: sudo chown -R $USER " + str(there),
        )
    free = shutil.disk_usage(there).free / 1e9
    if free < needed_gb:
        return bad(
            "disk", f"{free:.1f} GB free, the profile needs {needed_gb:.1f} GB", "free space, or set --runtime.store to another disk"
        )
    return ok("disk", f"{free:.0f} GB free, the profile needs {needed_gb:.1f} GB")


def memory(needed_gib: float) -> Finding:
    """Memory that this process may use, a container's limit included."""
    import psutil

    free = psutil.virtual_memory().available / 2**30
    limit = Path("/sys/fs/cgroup/memory.max")
    with contextlib.suppress(OSError, ValueError):  # no such limit here
        free = min(free, int(limit.read_text()) / 2**30)
    if free < needed_gib:
        swap = "sudo fallocate -l 16G /swap && sudo chmod 600 /swap && sudo mkswap /swap && sudo swapon /swap"
        mend = f"close what uses it, rent a machine (python -m pipelines.plan), or add swap: {swap}"
        return warn("memory", f"{free:.1f} GiB free, the hungriest stage takes {needed_gib:.1f} GiB", mend)
    return ok("memory", f"{free:.1f} GiB free, the hungriest stage takes {needed_gib:.1f} GiB")


def gpu(config: Config, needed_gib: float, profile: str) -> Finding:
    """A card with enough memory and a driver new enough, where the profile needs one."""
    wanted = config.runtime.device == "cuda" or (isinstance(config.base, HubBase) and config.runtime.device == "auto")
    rent = f"rent one: sky launch conf/cloud/train.yaml --env PROFILE={profile} (its price: python -m pipelines.plan --profile {profile})"
    if shutil.which("nvidia-smi") is None:
        says = "none that the driver's nvidia-smi shows"
        return (
            warn("gpu", f"{says}; as planned, training uses {needed_gib:.0f} GiB of one", rent)
            if wanted
            else ok("gpu", f"{says}, and this profile needs none")
        )
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return bad(
            "gpu",
            f"nvidia-smi does not answer ({error})",
            "restart the machine, or reinstall the driver: sudo apt-get install nvidia-driver-580",
        )
    if done.returncode != 0 or not done.stdout.strip():
        said = (done.stderr or done.stdout).strip().splitlines()
        return bad(
            "gpu",
            f"nvidia-smi failed ({said[0] if said else done.returncode})",
            "reinstall the driver: sudo apt-get install nvidia-driver-580",
        )
    name, total, free, driver = (part.strip() for part in done.stdout.splitlines()[0].split(","))
    if int(driver.split(".")[0]) < DRIVER:
        return bad(
            "gpu",
            f"{name}, driver {driver}; {DRIVER} is the oldest for CUDA 13",
            f"sudo apt-get install nvidia-driver-{DRIVER} && sudo reboot",
        )
    free_gib = int(free) / 1024
    if wanted and free_gib < needed_gib:
        says = f"{name}: {free_gib:.1f} of {int(total) / 1024:.0f} GiB free, the profile's peak is {needed_gib:.1f} GiB"
        return warn("gpu", says, "end what holds it (nvidia-smi names it), or plan for this card: python -m pipelines.plan")
    return ok("gpu", f"{name}, {free_gib:.1f} of {int(total) / 1024:.0f} GiB free, driver {driver}")


def graphviz(config: Config) -> Finding:
    """`dot` places the boxes; without it the project's own layout does."""
    mend = "sudo apt-get install graphviz (macOS: brew install graphviz; conda: conda install -c conda-forge graphviz)"
    if shutil.which("dot") is None:
        if config.diagrams.layout == "dot":
            return bad("graphviz", "dot is not on the PATH and diagrams.layout is dot", mend)
        return warn("graphviz", "dot is not on the PATH; the project's own layout is used, and other pictures result", mend)
    try:
        done = subprocess.run(["dot", "-V"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return bad("graphviz", f"dot does not run ({error})", mend)
    version = re.search(r"version ([\d.]+)", done.stderr + done.stdout)
    if done.returncode != 0 or version is None:
        return bad("graphviz", f"dot does not run ({(done.stderr or done.stdout).strip()[:80]})", mend)
    return ok("graphviz", version[1])


def fonts(folder: Path) -> Finding:
    """The packaged faces, and DejaVu inside matplotlib."""
    there = sorted(folder.glob("*.woff"))
    empty = [path.name for path in there if path.stat().st_size < 1000]
    if len(there) < FONTS or empty:
        return bad("fonts", f"{len(there) - len(empty)} of {FONTS} packaged faces are there", "git checkout sysdesign/diagrams/fonts")
    spec = find_spec("matplotlib")
    dejavu = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf" if spec and spec.origin else None
    if dejavu is None or not dejavu.is_file():
        return bad("fonts", "DejaVu, which matplotlib carries, is not there", INSTALL)
    return ok("fonts", f"{FONTS} packaged faces, DejaVu in matplotlib")


def llamacpp() -> Finding:
    """The packaged llama.cpp, and the OpenMP runtime that it loads."""
    try:
        version = importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        return bad("llama.cpp", "xllamacpp is not installed; export and evaluate ask it", INSTALL)
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libgomp.so.1")
        except OSError:
            return bad("llama.cpp", f"xllamacpp {version} cannot load libgomp.so.1", "sudo apt-get install libgomp1")
    return ok("llama.cpp", f"xllamacpp {version}")


def hub(config: Config) -> Finding:
    """Whether the base's weights are here, or may be fetched."""
    base = config.base
    if not isinstance(base, HubBase):
        return ok("base model", "built on the spot")
    home = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface") / "hub")
    snapshots = home / f"models--{base.name.replace('/', '--')}" / "snapshots"
    if (Path(base.name) / "config.json").is_file() or any(snapshots.glob("*/config.json")):
        return ok("base model", f"{base.name} is here")
    offline = config.runtime.offline or os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    if offline:
        return bad(
            "base model",
            f"{base.name} is not here and the hub is switched off",
            "unset HF_HUB_OFFLINE and --runtime.offline, then python -m pipelines.base",
        )
    return warn("base model", f"{base.name} is not here yet", "python -m pipelines.base fetches it")
