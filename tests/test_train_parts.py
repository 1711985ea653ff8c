"""The parts that training is made of: order, memory planner, decoder families, and the CUDA kernels in Triton's interpreter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sysdesign.config.base import TinyBase
from sysdesign.config.train import LoraConfig, TrainConfig
from sysdesign.errors import ArtifactError, LimitError
from sysdesign.train import backends, memory, order
from sysdesign.train.peft_backend import target_pattern

QWEN2_VL_7B = memory.Shape(
    hidden=3584, layers=28, inner=18944, queries=3584, keys=512, heads=28, vocabulary=152064, tied=False, vision=676_000_000
)


def test_every_epoch_sees_every_sample_once_in_its_own_order() -> None:
    steps = order.steps_of(10, epochs=2, batch=4, max_steps=0, seed=1)
    seen = [i for step in steps for i in step]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]
    assert steps == order.steps_of(10, epochs=2, batch=4, max_steps=0, seed=1) != order.steps_of(10, epochs=2, batch=4, max_steps=0, seed=2)
    assert [len(step) for step in steps] == [4] * 5
    assert len(order.steps_of(10, epochs=1, batch=4, max_steps=7, seed=1)) == 7


def test_passes_hold_the_limit_and_are_even() -> None:
    lengths = [5, 9, 3, 7, 8, 2, 6, 4]
    cuts = order.passes(range(8), lengths, 16, padded=False)
    assert sorted(i for cut in cuts for i in cut) == list(range(8)) and all(sum(lengths[i] for i in cut) <= 16 for cut in cuts)
    assert [len(cut) for cut in order.passes(range(8), [10] * 8, 70, padded=False)] == [4, 4]  # not seven and one
    assert all(len(cut) * max(lengths[i] for i in cut) <= 16 for cut in order.passes(range(8), lengths, 16, padded=True))
    assert order.passes([1], lengths, 4, padded=False) == [[1]]  # longer than the limit: alone


@pytest.mark.parametrize(
    ("samples", "full", "lean", "measured_gib"),
    [(8, 0, 0, 11.36), (8, 0, 28, 18.39), (8, 28, 0, 40.68), (4, 14, 0, 15.77), (2, 0, 28, 9.36), (1, 28, 0, 10.78)],
)
def test_predicted_memory_is_at_most_a_tenth_above_what_an_h200_measured_and_never_below(
    samples: int, full: int, lean: int, measured_gib: float
) -> None:
    """Measured by experiments/benchmarks/train_h200.py, 2026-11-22: NF4, 1,519 tokens a sample, 450 of them learned from."""
    predicted = memory.peak_bytes(
        QWEN2_VL_7B,
        TrainConfig(),
        tokens=1519 * samples,
        trained=450 * samples,
        full=full,
        lean=lean,
        weights="nf4",
        fp8="no",
        vision=False,
    )
    assert measured_gib <= predicted / memory.GIB <= 1.1 * measured_gib


def test_a_plan_fits_its_card_and_gets_faster_with_room() -> None:
    def plan(room: float) -> memory.Plan:
        return memory.plan(
            QWEN2_VL_7B, TrainConfig(), lengths=[1519] * 8, trained_share=0.3, free_gib=room, fp8=False, vision=False, tflops=700
        )

    plans = [plan(room) for room in (9, 12, 16, 24, 48)]
    assert all(p.peak_gib <= room for p, room in zip(plans, (9, 12, 16, 24, 48), strict=True))
    assert [p.step_ms for p in plans] == sorted((p.step_ms for p in plans), reverse=True)
    assert plans[-1].full == 28 and len(plans[0].levels()) == 28
    with pytest.raises(LimitError, match=r"needs \d+\.\d GiB.*use a larger card"):
        plan(5)


def test_advice_after_memory_ran_out_fits_what_was_there() -> None:
    """By plan: a setting of the planner's own, or that none fits. Without one: fewer tokens a pass, at last shorter samples."""
    cfg = TrainConfig()

    def again(room: float) -> memory.Plan:
        return memory.plan(QWEN2_VL_7B, cfg, lengths=[1519] * 8, trained_share=0.3, free_gib=room, fp8=False, vision=False, tflops=700)

    used = again(70)
    told = memory.advice(used, 24.0, again)
    advised = float(told.split("max_vram_gib to ")[1].split(",")[0])
    assert 20 < advised < 24 and f"{used.peak_gib - advised:.2f} below the plan that failed" in told
    assert f"passes of {again(advised).micro_tokens} tokens, not {used.micro_tokens}" in told
    assert "free GPU memory first (4.0 GiB were left for a plan of " in memory.advice(used, 4.0, again)

    def unplanned(tokens: int) -> str:
        return memory.advice_unplanned(QWEN2_VL_7B, cfg, had_gib=24.0, micro_tokens=tokens, longest=1519)

    assert "set train.micro_tokens to 5" in unplanned(12000) and "(now 12000; the longest sample has 1519)" in unplanned(12000)
    assert "set train.micro_tokens to 1519 " in unplanned(1600) and "set train.max_length to 759 " in unplanned(1519)


def test_a_base_without_sizes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(ArtifactError, match="must give the model's sizes"):
        memory.read_shape(tmp_path)


def test_unsloth_writes_what_it_compiles_into_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for the place while it is imported (unsloth_zoo, read 2026-11); it is not installed here, so a module that asks stands in."""
    (tmp_path / "unsloth.py").write_text('import os\nplace = os.getenv("UNSLOTH_COMPILE_LOCATION", "unsloth_compiled_cache")\n')
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if not k.startswith("UNSLOTH")})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "unsloth", raising=False)
    backends.import_unsloth(tmp_path / "store")
    assert sys.modules.pop("unsloth").place == str(tmp_path / "store" / ".cache" / "unsloth")


INTERPRETED = """
import torch
from sysdesign.train import elementwise, kernels
torch.manual_seed(0)
def draw(*shape): return torch.randn(*shape)
t, h, f, r = 5, 24, 70, 3
angles = draw(t, 8).repeat(1, 2)
gate = (draw(t, 2 * f), draw(t, 2 * r), draw(f, r), draw(f, r))
cases = {
    "norm": (draw(t, h), draw(h), 1e-6), "norm_back": (draw(t, h), draw(t, h), draw(h), 1e-6),
    "norm_back_add": (draw(t, h), draw(t, h), draw(h), 1e-6, draw(t, h)),
    "rotate_qk": (draw(t, 9 * 16), angles.cos(), angles.sin(), (5, 2, 16)),
    "rotate_qk_back": (draw(t, 5, 16), draw(t, 2, 16), draw(t, 3, 16)[:, :2], angles.cos(), angles.sin()),
    "gated": gate, "gated_back": (*gate, draw(t, f), draw(t, r), draw(r, f)),
}
for name, arguments in cases.items():
    a, b = (x if isinstance(x, tuple) else (x,) for x in (getattr(kernels, name)(*arguments), getattr(elementwise, name)(*arguments)))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
        print(name)
"""


def test_kernels_compute_what_torch_computes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.split()) == 9


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_an_adapter_goes_on_linear_maps_alone_vision_and_merger_included(family: str) -> None:
    import torch
    from transformers import AutoModelForImageTextToText

    from sysdesign.models.tiny import _config, _tokenizer, chat_template

    config = _config(TinyBase(family=family), _tokenizer(["some words of text"] * 4, 512, chat_template(family)))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    pattern = target_pattern(LoraConfig(vision=True, merger=True))
    hit = {name: module for name, module in model.named_modules() if re.fullmatch(pattern, name)}
    assert all(isinstance(module, torch.nn.Linear) for module in hit.values())
    parts = {part: sum(part in name for name in hit) for part in ("language_model.layers", "visual.blocks", "merger")}
    assert (
        parts["language_model.layers"] == 7 * config.text_config.num_hidden_layers and parts["merger"] >= 2 and parts["visual.blocks"] >= 16
    )
