"""The base stage: tiny models of three families that every later tool accepts, and hub models pinned or refused with the way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dataset_world import artifact
from pydantic import ValidationError

from sysdesign.artifacts import hash_files
from sysdesign.base.stage import base
from sysdesign.config.base import BaseConfig, HubBase, TinyBase
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.errors import ConfigError, ServiceError
from sysdesign.models.base import FAMILIES, base_folder, load_processor, read_base
from sysdesign.models.picture import PIXELS_PER_TOKEN_SIDE
from sysdesign.records import NullLog


def make(cfg: BaseConfig, out: Path, seed: int = 0, **runtime: bool) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    base(cfg, seed=seed, out=out, log=NullLog(), runtime=RuntimeConfig(**runtime))
    return out


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_tiny_model_loads_sees_and_speaks(family: str, tmp_path: Path) -> None:
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText

    made = artifact("base", make(TinyBase(family=family), tmp_path / "base"))
    processor = load_processor(made)
    model = AutoModelForImageTextToText.from_pretrained(base_folder(made), dtype=torch.float32)
    assert sum(p.numel() for p in model.parameters()) < 4_000_000
    side = FAMILIES[family].side
    picture = Image.effect_noise((side * 9, side * 8), 60).convert("RGB")
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many replicas?"}]}]
    text = processor.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert text.endswith("<|im_start|>assistant\n") and text.count("<|vision_start|><|image_pad|><|vision_end|>") == 1
    inputs = processor(text=[text], images=[picture], return_tensors="pt")
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == 72
    with torch.no_grad():
        logits = model(**inputs).logits
        blind = model(**{**inputs, "pixel_values": torch.zeros_like(inputs["pixel_values"])}).logits
    assert torch.isfinite(logits).all() and 0.5 < float(logits.std()) < 2
    assert float((logits[0, -1] - blind[0, -1]).abs().max()) > 1e-3, "the answer must depend on the picture"
    assert processor.tokenizer.encode("<|im_end|>") == [model.generation_config.eos_token_id[0]]
    assert "\\p{N}| ?[^" in (base_folder(made) / "tokenizer.json").read_text(), (
        "llama.cpp knows the tokenizer by Qwen2's rule for splitting"
    )


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (make(TinyBase(), tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert hash_files(first) == hash_files(again)
    assert read_base(artifact("base", first)).revision != read_base(artifact("base", other)).revision


def test_with_recency_half_of_the_heads_look_at_what_was_just_said(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForImageTextToText

    folder = make(TinyBase(recency=True), tmp_path) / "model"
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tokens = torch.randint(20, 300, (1, 400), generator=torch.Generator().manual_seed(0))
    seen = model(input_ids=tokens, output_attentions=True).attentions[0][0, :, -1]  # heads x 400, from the last token
    near = seen[:, -20:].sum(1)
    assert near[:2].min() > 0.5 and near[2:].max() < 0.3
    with pytest.raises(ValidationError, match="which qwen3_vl does not have"):
        TinyBase(recency=True, family="qwen3_vl")


def test_a_local_folder_is_pinned_by_its_bytes_and_checked_for_its_family(tmp_path: Path) -> None:
    folder = make(TinyBase(), tmp_path / "tiny") / "model"
    made = artifact("base", make(HubBase(name=str(folder)), tmp_path / "local"))
    assert base_folder(made) == folder and read_base(made).kind == "folder" and len(read_base(made).revision) == 64
    with pytest.raises(ConfigError, match="set --base.family qwen2_vl"):
        make(HubBase(name=str(folder), family="qwen3_vl"), tmp_path / "wrong")


def test_without_a_network_the_hub_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="hf download Qwen/Qwen2-VL-7B-Instruct"):
        make(HubBase(), tmp_path, offline=True)


def test_a_hub_model_in_the_cache_is_pinned_to_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from huggingface_hub import constants

    commit = "a" * 40
    cache = tmp_path / "hub"
    repository = cache / "models--someone--model"
    shutil.copytree(make(TinyBase(), tmp_path / "tiny") / "model", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    made = artifact("base", make(HubBase(name="someone/model"), tmp_path / "out", offline=True))
    assert json.loads((made.path / "base.json").read_text())["revision"] == commit
    assert base_folder(made) == repository / "snapshots" / commit
    (repository / "snapshots" / commit / "model.safetensors").unlink()
    assert load_processor(made).image_token_id > 0, "the processor does not need the weights"
    with pytest.raises(ServiceError, match="hf download"):
        base_folder(made)


def test_the_families_of_config_and_picture_policy_are_the_same() -> None:
    assert {name: family.side for name, family in FAMILIES.items()} == PIXELS_PER_TOKEN_SIDE
