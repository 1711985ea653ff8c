"""Training: a tiny base and a handful of rows, through the real TRL, PEFT and bitsandbytes on a CPU."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from train_world import KillAt, Killed, artifact, losses, make_base, make_dataset, run

from sysdesign.artifacts import Artifact
from sysdesign.config.train import FastConfig, PeftBackend, UnslothBackend
from sysdesign.errors import ArtifactError, LimitError, ToolError
from sysdesign.models.base import load_processor
from sysdesign.models.rows import load_split
from sysdesign.records import NullLog, write_jsonl


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("inputs")
    base = make_base(folder / "base")
    return {"base": base, "dataset": make_dataset(folder / "dataset", base)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_train_writes_an_adapter_that_peft_loads_on_the_same_base(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    report = run(tmp_path / "out", inputs)
    assert report.steps == 4 and report.samples == 10 and report.skipped == 0
    assert report.loss_last < report.loss_first and report.val_loss_best is not None
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["adapter", "history.jsonl", "processor", "train.json"]
    base = AutoModelForImageTextToText.from_pretrained(inputs["base"].path / "model")
    tuned = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter")
    assert any(float(p.abs().max()) > 0 for name, p in tuned.named_parameters() if "lora_B" in name)
    assert AutoProcessor.from_pretrained(tmp_path / "out" / "processor").image_token == "<|image_pad|>"


@pytest.mark.parametrize("weights", ["fp32", "nf4"])
def test_the_fast_path_learns_exactly_as_the_plain_one(inputs: dict[str, Artifact], tmp_path: Path, weights: str) -> None:
    plain = PeftBackend(plain=True)
    fast = PeftBackend(fast=FastConfig(packed=True, features=True))
    run(tmp_path / "plain", inputs, backend=plain, weights=weights, answers=0)
    run(tmp_path / "fast", inputs, backend=fast, weights=weights, answers=0, micro_tokens=150)
    a, b = losses(tmp_path / "plain"), losses(tmp_path / "fast")
    assert [x[:2] for x in a] == [x[:2] for x in b] and len(a) == 7
    assert max(abs(x[2] - y[2]) for x, y in zip(a, b, strict=True)) < 1e-5


class Server(KillAt):
    """Keeps what is sent to the tracking server, and ends the run."""

    def __init__(self, root: Path, step: int) -> None:
        super().__init__(step)
        self.root = root

    def file(self, path: Path, folder: str = "") -> None:
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, self.root / folder)


def test_a_killed_run_resumes_to_the_same_bits_here_and_from_what_the_tracking_server_has(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    run(tmp_path / "whole", inputs, upload_checkpoints=True)
    with pytest.raises(Killed):
        run(tmp_path / "cut", inputs, log=Server(tmp_path / "server", 3), upload_checkpoints=True)
    assert (tmp_path / "cut" / "checkpoints" / "checkpoint-2" / "seal.json").is_file()
    shutil.copytree(tmp_path / "server" / "resume", tmp_path / "elsewhere")
    assert sorted(p.name for p in (tmp_path / "elsewhere").iterdir()) == ["best", "checkpoints", "history.jsonl"]
    name = "adapter/adapter_model.safetensors"
    for place in ("cut", "elsewhere"):
        run(tmp_path / place, inputs, log=KillAt(2), upload_checkpoints=True)  # it does not do step 2 again
        assert losses(tmp_path / place) == losses(tmp_path / "whole")
        assert (tmp_path / place / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_validation_answers_are_logged_with_their_pictures_while_it_trains(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    class Kept(NullLog):
        texts: dict[str, str] = {}
        images: list[tuple[str, str, int]] = []

        def text(self, text: str, name: str) -> None:
            self.texts[name] = text

        def image(self, path: Path, key: str, step: int = 0) -> None:
            assert path.is_file()
            self.images.append((path.name, key, step))

    run(tmp_path / "out", inputs, log=Kept(), answers=2, answer_steps=2)
    assert set(Kept.texts) == {"labels.md", "answers/step-000002.md", "answers/step-000004.md"}
    assert Kept.images == [(f"val{i}.png", f"val/val{i}", step) for step in (2, 4) for i in (0, 1)]
    asked = load_split(inputs["dataset"], "val")[0].messages
    for said in (asked[-2]["content"][0]["text"], f"- reference: {asked[-1]['content'][0]['text']}", "- answer: "):
        assert said in Kept.texts["answers/step-000004.md"]
    rows = [line.split(" | ") for line in Kept.texts["labels.md"].splitlines()[2:]]
    learned = "".join(row[0].strip("| `") for row in rows if row[1].strip(" |") == "yes")
    assert learned.replace("Ġ", " ").replace("\\|", "|") == "redis cache three replicas<|im_end|>gateway<|im_end|>"
    assert any(row[0].startswith("| `<\\|image_pad\\|>` x ") for row in rows)


def test_a_checkpoint_of_other_data_or_with_changed_bytes_is_refused(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "out", inputs, log=KillAt(3))
    other = inputs | {"dataset": artifact(inputs["dataset"].path, "dataset", "e" * 64)}
    with pytest.raises(ArtifactError, match="resumes only with the settings"):
        run(tmp_path / "out", other)
    weights = tmp_path / "out" / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(ArtifactError, match="bytes it was sealed with"):
        run(tmp_path / "out", inputs)


def test_a_loss_that_is_not_finite_names_the_last_good_step(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """One word of the base is broken, and one row uses it: the run ends at the step that meets it."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(inputs["base"].path, tmp_path / "base")
    weights = tmp_path / "base" / "model" / "model.safetensors"
    tensors = load_file(weights)
    token = load_processor(inputs["base"]).tokenizer.convert_tokens_to_ids("#")
    tensors["model.embed_tokens.weight"][token] = float("inf")
    save_file(tensors, weights, metadata={"format": "pt"})
    shutil.copytree(inputs["dataset"].path, tmp_path / "dataset")
    rows = load_split(inputs["dataset"], "train")
    said = {"role": "user", "content": [{"type": "text", "text": "a # here"}]}
    write_jsonl(
        tmp_path / "dataset" / "rows" / "train.jsonl", [*rows[:-1], rows[3].model_copy(update={"messages": (said, *rows[3].messages[1:])})]
    )
    broken = {"base": artifact(tmp_path / "base", "base", "c" * 64), "dataset": artifact(tmp_path / "dataset", "dataset", "d" * 64)}
    with pytest.raises(LimitError, match=r"step \d+ was the last finite one.*lower train.learning_rate"):
        run(tmp_path / "out", broken)


def test_training_stops_early_and_keeps_the_best_adapter(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """A rate this high gets worse at once: the first validation after step 0 stays the best."""
    report = run(tmp_path / "out", inputs, max_steps=12, eval_steps=1, patience=2, learning_rate=0.5, schedule="constant", warmup_steps=0)
    assert report.steps < 12 and report.best_step is not None and report.best_step < report.steps
    again = {"eval_steps": 0, "learning_rate": 0.5, "schedule": "constant", "warmup_steps": 0, "keep_best": False}
    run(tmp_path / "short", inputs, max_steps=report.best_step, **again)
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "short" / name).read_bytes()


def test_unsloth_and_fp8_need_a_gpu(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="unsloth needs a CUDA GPU"):
        run(tmp_path / "out", inputs, backend=UnslothBackend())
    with pytest.raises(ToolError, match="runs on a GPU only"):
        run(tmp_path / "out", inputs, compute="fp8")
