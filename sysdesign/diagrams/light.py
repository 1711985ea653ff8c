"""Graphviz without what only drawing needs: a plugin list with the layout alone, because loading Cairo costs more than most layouts.

Half of the 12 ms that `dot` takes for a diagram goes into libraries that measure text and draw (experiments/LOG.md); our graphs hold no
text. Where the short list cannot be made, or does not answer as the full one does, `dot` is started as it is.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

NEEDED = ("libgvplugin_core", "libgvplugin_dot_layout")
_PROBE = 'digraph g { node [label="" fixedsize=true width=1.5]; subgraph cluster_a { a } a -> b; a -> c }'
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # gone with the process, if that is not killed


@lru_cache(maxsize=1)
def environment() -> dict[str, str] | None:
    """The environment in which `dot` starts light; None where it must start as it is."""
    try:
        listed = subprocess.run(["dot", "-v"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False).stderr
        found = re.search(r"plugin configuration file:\s*(\S+)\s+was successfully loaded", listed)
        if found is None:
            return None
        full = Path(found[1])
        blocks = re.split(r"\n(?=\S*libgvplugin)", full.read_text(encoding="utf-8"))
        kept = [str(full.parent / block) for block in blocks if block.startswith(NEEDED)]
        if len(kept) != len(NEEDED):
            return None
        folder = tempfile.TemporaryDirectory(prefix="graphviz-")
        _FOLDERS.append(folder)
        Path(folder.name, full.name).write_text("\n".join(kept) + "\n", encoding="utf-8")
        light = os.environ | {"GVBINDIR": folder.name}
        return light if _answer(light) == _answer(None) else None
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def discard() -> None:
    """Remove what `environment` made; it makes another when asked again."""
    environment.cache_clear()
    while _FOLDERS:
        _FOLDERS.pop().cleanup()


def _answer(env: dict[str, str] | None) -> tuple[int, str]:
    done = subprocess.run(["dot", "-Tjson0"], input=_PROBE, capture_output=True, text=True, timeout=20, check=False, env=env)
    return done.returncode, done.stdout
