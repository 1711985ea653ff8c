"""The real llama.cpp server from PyPI on a real, tiny model: deployment, chat, folder and page's side of it, and bad input."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sysdesign.chat.infer import Answered
from sysdesign.chat.speakers import Sources, open_speaker
from sysdesign.chat.stage import chat
from sysdesign.config.chat import ChatConfig
from sysdesign.config.deploy import DeployConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.deploy.serving import serve_bundle
from sysdesign.errors import LimitError, ServiceError
from sysdesign.models import llamacpp, stream
from sysdesign.models.bundle import open_bundle, sha256_file
from sysdesign.models.chat import Message
from sysdesign.records import read_jsonl
from tests.real_bundle import write_bundle
from tests.test_deploy import write_gguf

ABSENT = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def diagram(tmp_path: Path) -> Path:
    path = tmp_path / "diagram.png"
    Image.radial_gradient("L").resize((640, 480)).save(path)
    return path


def digests(bundle: Path) -> dict[str, str]:
    opened = open_bundle(bundle)
    return {file.name: sha256_file(file) for file in (opened.text, opened.projector)}


def say(sources: Sources, **settings: Any) -> str:
    screen = io.StringIO()
    cfg = ChatConfig.model_validate({"ollama": {"url": ABSENT}, "max_tokens": 8, **settings})
    chat(cfg, seed=0, runtime=RuntimeConfig(device="cpu", workers=1), sources=sources, keyboard=io.StringIO(), screen=screen)
    return screen.getvalue()


def test_without_ollama_a_question_with_a_picture_is_answered(tmp_path: Path, bundle: Path) -> None:
    cfg = DeployConfig.model_validate({"ollama": {"url": ABSENT}, "golden": {"min_found": 0, "max_tokens": 8}})
    report = serve_bundle(cfg, open_bundle(bundle), digests(bundle), "d" * 64, out=tmp_path, seed=0, threads=1)
    assert report.server == "llama.cpp" and report.health.answer and report.health.image_tokens == 82
    assert json.loads((tmp_path / "deployment.json").read_text())["health"]["image_tokens"] == 82
    assert "deploy/image_tokens" in report.metrics() and "llama.cpp" in report.note()
    strict = cfg.model_copy(update={"golden": cfg.golden.model_copy(update={"min_found": 1.0})})
    with pytest.raises(ServiceError, match="must name 100% of the golden picture"):
        serve_bundle(strict, open_bundle(bundle), digests(bundle), "d" * 64, out=tmp_path, seed=0, threads=1)


def test_a_projector_that_is_none_is_a_line_and_not_a_crash(tmp_path: Path, bundle: Path) -> None:
    shutil.copytree(bundle, tmp_path / "export")
    write_gguf(tmp_path / "export" / "gguf" / "mmproj-f16.gguf", "mmproj", 512)  # a whole file, but no vision tower
    cfg = DeployConfig.model_validate({"to": "llamacpp", "golden": {"min_found": 0}})
    with pytest.raises(ServiceError, match=r"llama\.cpp must be able to load it") as caught:
        serve_bundle(cfg, open_bundle(tmp_path / "export"), digests(tmp_path / "export"), "d" * 64, out=tmp_path / "out", seed=0, threads=1)
    assert "\n" not in str(caught.value)


def test_chat_and_folder_through_llamacpp(tmp_path: Path, bundle: Path, diagram: Path) -> None:
    sources = Sources(bundle=bundle)
    answer = json.loads(say(sources, prompt="What is it?", image=[str(diagram)], output="json"))
    assert answer["model"] == "model-q8_0 in llama.cpp" and answer["answer"] and answer["input_tokens"] > 64
    (tmp_path / "pictures").mkdir()
    for index in range(2):
        Image.new("RGB", (300, 200 + index), "white").save(tmp_path / "pictures" / f"{index}.png")
    settings = {"folder": str(tmp_path / "pictures"), "prompt": "What?", "answers": str(tmp_path / "answers.jsonl"), "via": "llamacpp"}
    assert json.loads(say(sources, **settings))["answered"] == 2
    assert all(line.answer is not None and (line.input_tokens or 0) > 64 for line in read_jsonl(tmp_path / "answers.jsonl", Answered))


def test_a_prompt_of_200_kb_and_one_that_only_the_tokenizer_can_refuse(bundle: Path) -> None:
    with open_speaker(ChatConfig(via="llamacpp"), Sources(bundle=bundle), RuntimeConfig()) as speaker:
        assert speaker.context == 4096
        for size, law in ((200_000, "at most 32 kB of text (got '200 kB')"), (30_000, "must fit the model's context of 4096 tokens")):
            with pytest.raises(LimitError) as caught:
                stream.gather(speaker.say([Message(role="user", text="xyz " * (size // 4))], 4, 0, 0.0))
            assert law in str(caught.value) and "\n" not in str(caught.value)
        assert stream.gather(speaker.say([Message(role="user", text="still there?")], 4, 0, 0.0)).output_tokens


def test_a_server_that_dies_in_the_middle_is_an_error(bundle: Path) -> None:
    opened = open_bundle(bundle)
    with llamacpp.serve(opened.text, opened.projector, context=4096) as url:
        to = stream.Endpoint(dialect="openai", url=url, model="x", context=4096)
        pieces = stream.stream(to, [Message(role="user", text="Gateway Orders Ledger")], max_tokens=3000, seed=0)
        next(pieces)
    with pytest.raises(ServiceError, match="until the end|last word"):
        stream.gather(pieces)


def test_base_and_adapter_stream_through_transformers(tmp_path: Path, bundle: Path, diagram: Path) -> None:
    base, policy = bundle.parent / "base", open_bundle(bundle).policy
    answer = json.loads(say(Sources(base=base, policy=policy), via="hub", prompt="What?", image=[str(diagram)], output="json"))
    assert answer["input_tokens"] > 64 and answer["output_tokens"] <= 8

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(1)  # a random adapter says one word on some draws, and one word is one piece
    tuned = AutoModelForImageTextToText.from_pretrained(base)
    get_peft_model(tuned, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)).save_pretrained(tmp_path / "adapter")
    question = [Message(role="user", text="Gateway Orders")]
    sources = Sources(base=base, adapter=tmp_path / "adapter", policy=policy)
    with open_speaker(ChatConfig(via="adapter"), sources, RuntimeConfig(device="cpu")) as speaker:
        pieces = speaker.say(question, 24, 0, 0.0)
        streamed = [next(pieces)]
        while True:
            try:
                streamed.append(next(pieces))
            except StopIteration as done:
                reply = done.value
                break
        assert len(streamed) > 1 and "".join(streamed) == reply.text and reply.output_tokens <= 24
        assert stream.gather(speaker.say(question, 24, 1, 0.0)).text == reply.text
        assert stream.gather(speaker.say(question, 24, 1, 5.0)).text != reply.text
        left = speaker.say(question, 4000, 0, 0.0)
        next(left)
        left.close()  # stops generating: the next question is not kept waiting
        assert stream.gather(speaker.say(question, 4, 0, 0.0)).output_tokens
