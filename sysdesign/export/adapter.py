"""A PEFT adapter folder -> the low-rank update of each linear map, ready to be added to the base's rows.

Only what is understood exactly is accepted: a plain LoRA on linear maps. Everything else (DoRA, saved modules, trained biases)
would be lost in silence by adding B @ A, so it is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sysdesign.errors import InputError
from sysdesign.export.weights import Reader, Stored, canonical, read_header, whole

_MEND = "train again; export understands plain LoRA on linear maps"
# settings of PEFT 0.21 that change what the update is, and the values under which it is plain B @ A * scale; starts such as PiSSA and
# LoftQ also change the base's weights, so that the published ones are the wrong ones to add to
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",), "bias": ("none", None), "use_dora": (False, None), "use_qalora": (False, None), "use_bdlora": (False, None, {}),
    "modules_to_save": (None, []), "fan_in_fan_out": (False, None), "lora_bias": (False, None), "trainable_token_indices": (None, {}, []),
    "layer_replication": (None, []), "target_parameters": (None, []), "alora_invocation_tokens": (None, []), "arrow_config": (None,),
    "monteclora_config": (None,), "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"), "velora_config": (None,),
}  # fmt: skip


@dataclass(frozen=True)
class Update:
    """`weight += scale * b @ a`. `a`: (rank, in) float32, already scaled; `b`: (out, rank) float32."""

    a: np.ndarray
    b: np.ndarray

    def rows(self, start: int, stop: int, out: np.ndarray) -> np.ndarray:
        """The update of rows `start` to `stop`, written into the flat buffer `out`."""
        delta = out[: (stop - start) * self.a.shape[1]].reshape(stop - start, self.a.shape[1])
        return np.matmul(self.b[start:stop], self.a, out=delta)


@dataclass(frozen=True)
class Adapter:
    """Pairs of stored matrices by canonical weight name, and the scale of each."""

    pairs: Mapping[str, tuple[Stored, Stored]]
    scales: Mapping[str, float]

    def update(self, name: str, reader: Reader) -> Update | None:
        """The update of weight `name`, or None where the adapter leaves it alone. A few megabytes for a 7B model's largest map."""
        if name not in self.pairs:
            return None
        a, b = (whole(reader, part) for part in self.pairs[name])
        return Update(np.multiply(a, np.float32(self.scales[name])), b)


NO_ADAPTER = Adapter({}, {})


def open_adapter(folder: Path, base: Mapping[str, Stored]) -> Adapter:
    """The adapter in `folder` (adapter_config.json, adapter_model.safetensors), checked against the base's names and shapes.

    Raises InputError: not a plain LoRA, a pair without its half, a module the base does not have, a shape that does not fit.
    """
    where = folder / "adapter_config.json"
    try:
        config = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise InputError(str(where), f"must be readable JSON ({err})", "run the train stage") from None
    for key, plain in _PLAIN.items():
        if key in config and config[key] not in plain:
            raise InputError(f"{where}: {key}", "changes the update in a way that a merge would lose", _MEND, config[key])
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise InputError(str(file), "the adapter's weights must be there", "run the train stage")
    halves: dict[str, dict[str, Stored]] = {}
    for name, stored in read_header(file).items():
        match = re.fullmatch(r"(.+)\.lora_([AB])(?:\.default)?\.weight", name)
        if match is None:
            raise InputError(f"{file}: {name}", "an adapter holds lora_A and lora_B matrices only", _MEND)
        halves.setdefault(canonical(match[1]) + ".weight", {})[match[2]] = stored
    if not halves:
        raise InputError(str(file), "must change at least one module", _MEND)
    return Adapter(
        {name: _checked(name, half, base, file) for name, half in halves.items()},
        {name: _scale(half["A"], config) for name, half in halves.items()},
    )


def _checked(name: str, half: Mapping[str, Stored], base: Mapping[str, Stored], file: Path) -> tuple[Stored, Stored]:
    if half.keys() != {"A", "B"}:
        raise InputError(f"{file}: {name}", "needs both lora_A and lora_B", _MEND, sorted(half))
    if name not in base:
        do = "export with the base that the adapter was trained on"
        raise InputError(f"{file}: {name}", "the adapter changes a module that the base does not have", do)
    a, b, weight = half["A"].shape, half["B"].shape, base[name].shape
    if len(a) != 2 or len(b) != 2 or len(weight) != 2 or a[0] != b[1] or (b[0], a[1]) != weight:
        do = "export with the base that the adapter was trained on"
        raise InputError(f"{file}: {name}", f"lora_B {b} times lora_A {a} must have the weight's shape", do, weight)
    return half["A"], half["B"]


def _scale(a: Stored, config: Mapping[str, Any]) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA (Kalajdzievski, arXiv 2312.03732); patterns name single modules."""
    module = re.sub(r"^base_model\.model\.|\.lora_A(\.default)?\.weight$", "", a.name)
    alpha = float(_pattern(config.get("alpha_pattern"), module, config["lora_alpha"]))
    rank = int(_pattern(config.get("rank_pattern"), module, config["r"]))
    if rank != a.shape[0]:
        raise InputError(f"adapter: {module}", f"the configuration says rank {rank}", _MEND, a.shape[0])
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that, as a regular expression, matches the end of the module's name."""
    matching = (value for pattern, value in (patterns or {}).items() if re.match(rf"(.*\.)?({pattern})$", module))
    return next(matching, default)
