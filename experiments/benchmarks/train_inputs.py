"""What the training benchmarks train on: a base of the 7B's shape with random weights, and samples with one picture each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXT_TOKENS, LEARNED, PICTURE = 511, 450, (784, 1008)


def build_base(folder: Path, tiny: bool, layers: int = 28) -> None:
    """A model folder of the 7B shape with random weights, and a processor whose special tokens sit at their published places."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    from sysdesign.models import tiny as maker

    tokenizer = maker._tokenizer(["gateway calls the orders service " * 8] * 40, 600, maker.chat_template("qwen2_vl"))
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")}
    text: dict[str, Any] = {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": layers, "num_attention_heads": 28, "num_key_value_heads": 4,
        "vocab_size": 152064, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }  # fmt: skip
    vision = {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14}
    if tiny:
        text |= {
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 1024,
        }
        text["rope_parameters"]["mrope_section"] = [8, 12, 12]
        vision = {"depth": 2, "embed_dim": 64, "hidden_size": 256, "num_heads": 4, "mlp_ratio": 2, "patch_size": 14}
    text |= {
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=False,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = Qwen2VLForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    maker._processor("qwen2_vl", tokenizer).save_pretrained(folder)


def make_samples(
    folder: Path, processor: Any, count: int, tiny: bool, text_tokens: int = TEXT_TOKENS, picture: tuple[int, int] = PICTURE
) -> list[Any]:
    import numpy as np
    import torch
    from PIL import Image
    from transformers import AutoConfig, AutoModelForImageTextToText

    from sysdesign.train.samples import Sample

    with torch.device("meta"):
        empty = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder, local_files_only=True)).model
    width, height = (112, 140) if tiny else picture
    text = 40 if tiny else text_tokens
    special = {name: processor.tokenizer.convert_tokens_to_ids(name) for name in ("<|image_pad|>", "<|vision_start|>", "<|vision_end|>")}
    grid = (1, height // 14, width // 14)
    samples = []
    for index in range(count):
        draw = np.random.default_rng([index, text])
        path = folder / f"picture-{index}-{width}.png"
        if not path.exists():
            Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
        words = draw.integers(0, 256, text).astype(np.int64)
        picture_ids = [special["<|vision_start|>"], *[special["<|image_pad|>"]] * (grid[1] * grid[2] // 4), special["<|vision_end|>"]]
        ids = np.concatenate([words[:20], np.array(picture_ids), words[20 : text - 2]])
        labels = np.full_like(ids, -100)
        learned = min(LEARNED, text // 2 if tiny else text - 60)
        labels[-learned:] = ids[-learned:]
        positions, _ = empty.get_rope_index(
            torch.from_numpy(ids)[None],
            mm_token_type_ids=torch.from_numpy((ids == special["<|image_pad|>"]).astype(np.int32))[None],
            image_grid_thw=torch.tensor([grid]),
        )
        samples.append(Sample(f"s{index}", ids, labels, positions[:, 0].numpy(), (path,), (grid,)))
    return samples
