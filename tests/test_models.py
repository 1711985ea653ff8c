"""One contract for everything that talks: the same assertions over a script, a llama.cpp server and transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sysdesign.errors import ArtifactError, ServiceError, ToolError
from sysdesign.models.batch import Batched, reply_all
from sysdesign.models.chat import ChatModel, Message, TooLong
from sysdesign.models.llamacpp import serve
from sysdesign.models.local import Local
from sysdesign.models.openai_http import LLAMACPP, OpenAiHttp, data_url
from sysdesign.models.scripted import Scripted
from tests.real_bundle import write_bundle

TEXT = [Message(role="system", text="You read system-design diagrams."), Message(role="user", text="List the names of all components.")]
KINDS = ("scripted", "openai_http", "local")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    write_bundle(path)
    return path


@pytest.fixture(scope="module")
def models(folder: Path) -> Iterator[Callable[[str], ChatModel]]:
    """Opens each model once; the server stops with the module."""
    opened: dict[str, ChatModel] = {}
    with ExitStack() as stack:

        def get(kind: str) -> ChatModel:
            if kind not in opened:
                if kind == "scripted":
                    opened[kind] = Scripted(
                        lambda messages: f"{len(messages)} messages, {sum(len(m.images) for m in messages)} pictures " + "and so on " * 20
                    )
                elif kind == "local":
                    opened[kind] = Local(folder / "base", device="cpu", group=2)
                else:
                    gguf = folder / "export" / "gguf"
                    url = stack.enter_context(serve(gguf / "model-q8_0.gguf", gguf / "mmproj-f16.gguf", context=1024, threads=1, gpu=False))
                    opened[kind] = OpenAiHttp(url, "sysdesign", extra=LLAMACPP)
            return opened[kind]

        yield get
        for model in opened.values():
            model.close()
            model.close()  # twice is safe


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    path = tmp_path_factory.mktemp("picture") / "grey.png"
    Image.new("RGB", (224, 224), "grey").save(path)  # 64 tokens of 28 pixels: the least that the policy of the bundle allows
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_of_a_chat_model(kind: str, models: Callable[[str], ChatModel], picture: Path) -> None:
    model = models(kind)
    assert model.name
    with_picture = [*TEXT[:-1], TEXT[-1].model_copy(update={"images": (picture,)})]
    for messages in (TEXT, with_picture):
        first = model.reply(messages, max_tokens=8, seed=0)
        assert first.text == model.reply(messages, max_tokens=8, seed=1).text  # greedy: the seed changes nothing
        assert first.output_tokens is not None and first.output_tokens <= 8
        assert first.finish in ("stop", "length") and (first.finish == "stop" or first.output_tokens == 8)
        assert first.input_tokens is not None and first.input_tokens > 0
    asked = [model.reply(messages, max_tokens=4, seed=0).input_tokens or 0 for messages in (TEXT, with_picture)]
    assert kind == "scripted" or asked[1] >= asked[0] + 64  # the picture is seen, and not shrunk


@pytest.mark.parametrize("kind", KINDS)
def test_many_conversations_come_back_in_order_and_unmixed(kind: str, models: Callable[[str], ChatModel], picture: Path) -> None:
    model = models(kind)
    conversations = [
        [Message(role="user", text=f"Question {number} about the gateway " + "and more " * number, images=(picture,) if number % 2 else ())]
        for number in range(5)
    ]
    together = list(reply_all(model, conversations, max_tokens=6, seed=0))
    assert [index for index, _ in together] == list(range(5))
    alone = [model.reply(conversation, max_tokens=6, seed=0).text for conversation in conversations]
    assert [reply.text for _, reply in together] == alone


def test_batched_is_recognised() -> None:
    assert not isinstance(Scripted(["a"]), Batched)


def test_a_script_that_runs_out_says_so() -> None:
    model = Scripted(["only one"])
    assert model.reply(TEXT, max_tokens=5, seed=0).text == "only one"
    with pytest.raises(ServiceError, match="once for each line"):
        model.reply(TEXT, max_tokens=5, seed=0)


def test_unreachable_refusing_and_keyless_servers_are_one_line(
    models: Callable[[str], ChatModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServiceError, match="must answer here"):
        OpenAiHttp("http://127.0.0.1:9/v1", "x", timeout_s=2).reply(TEXT, max_tokens=1, seed=0)
    server = models("openai_http")
    assert isinstance(server, OpenAiHttp)
    with pytest.raises(TooLong, match="must fit the context.*exceeds the available context size"):
        server.reply([Message(role="user", text="too long " * 3_000)], max_tokens=1, seed=0)
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ServiceError, match="NO_SUCH_KEY"):
        OpenAiHttp("http://127.0.0.1:9/v1", "x", key_env="NO_SUCH_KEY")
    with pytest.raises(ServiceError, match="readable"):
        data_url(tmp_path / "none.png")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="must hold a loadable model"):
        Local(tmp_path)


def test_cuda_on_a_machine_without_one_is_named(folder: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ToolError, match="GPU"):
        Local(folder / "base", device="cuda")
