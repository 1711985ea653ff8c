"""Talking to a served model: one question, a terminal, a folder, and what happens to input that is not what it should be."""

from __future__ import annotations

import io
import json
import shlex
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sysdesign.chat.extract import read_boxes, read_graph
from sysdesign.chat.infer import Answered
from sysdesign.chat.pictures import prepare
from sysdesign.chat.speakers import Sources
from sysdesign.chat.stage import chat
from sysdesign.chat.terminal import split_pictures
from sysdesign.config.chat import ChatConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.errors import ConfigError, InputError, LimitError, ServiceError, SysdesignError
from sysdesign.models.picture import PicturePolicy
from sysdesign.records import read_jsonl
from tests.ollama_server import OllamaServer
from tests.test_deploy import make_export, run

POLICY = PicturePolicy()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OllamaServer]:
    """A server that serves a model under `sysdesign`."""
    with OllamaServer(tmp_path / "ollama") as ollama:
        run(ollama, make_export(tmp_path / "export"), tmp_path / "out")
        yield ollama


@pytest.fixture
def diagram(tmp_path: Path) -> Path:
    path = tmp_path / "my diagram.png"
    Image.new("RGB", (640, 480), "white").save(path)
    return path


def say(server: OllamaServer, keyboard: str = "", **settings: Any) -> str:
    cfg = ChatConfig.model_validate({"via": "ollama", "ollama": {"url": server.url, "timeout_s": 20}, **settings})
    screen = io.StringIO()
    chat(cfg, seed=0, runtime=RuntimeConfig(), sources=Sources(), keyboard=io.StringIO(keyboard), screen=screen)
    return screen.getvalue()


def echo(server: OllamaServer) -> list[list[dict[str, Any]]]:
    """Makes the model say how often it was asked; returns what it was sent."""
    heard: list[list[dict[str, Any]]] = []

    def answer(name: str, messages: list[dict[str, Any]]) -> str:
        heard.append(messages)
        return f"answer {len(heard)}"

    server.answer = answer
    return heard


def test_one_question_as_text_and_as_json(server: OllamaServer, diagram: Path) -> None:
    assert say(server, prompt="Which components?") == "Gateway\nOrders\nLedger\n"
    answer = json.loads(say(server, prompt="Which components?", image=[str(diagram)], output="json"))
    assert answer["answer"] == "Gateway\nOrders\nLedger" and answer["finish"] == "stop" and answer["output_tokens"] == 3
    assert answer["input_tokens"] > 1024, "the picture was counted"
    cut = json.loads(say(server, prompt="Which components?", output="json", max_tokens=2))
    assert cut["finish"] == "length" and cut["answer"].split() == ["Gateway", "Orders"]


def test_the_deployed_policy_and_system_prompt_come_back_from_the_server(server: OllamaServer, diagram: Path, tmp_path: Path) -> None:
    import base64

    heard = echo(server)
    say(server, prompt="What?", image=[str(diagram)])
    lead, asked = heard[0]
    assert lead == {"role": "system", "content": "You read system-design diagrams."}
    with Image.open(io.BytesIO(base64.b64decode(asked["images"][0]))) as sent:
        assert sent.size == POLICY.size(640, 480) and sent.width % 28 == sent.height % 28 == 0


def test_a_conversation_at_the_terminal(server: OllamaServer, diagram: Path, tmp_path: Path) -> None:
    heard = echo(server)
    notes = tmp_path / "notes.md"
    typed = [
        f"{shlex.quote(str(diagram))} what is this?",
        '"""and this',
        'over two lines?"""',
        "/retry",
        "/image nowhere.png",
        "/nonsense",
        f"/save {notes}",
        "/new",
        "/retry",
        "it's new",
        "/quit",
        "never asked",
    ]
    shown = say(server, "\n".join(typed) + "\n")
    assert [messages[-1]["content"] for messages in heard] == [
        "what is this?",
        "and this\nover two lines?",
        "and this\nover two lines?",
        "it's new",
    ]
    assert [sum("images" in m for m in messages) for messages in heard] == [1, 1, 1, 0], "the picture stays in the conversation until /new"
    assert [len(messages) for messages in heard] == [2, 4, 4, 2]
    assert "my diagram.png attached" in shown and shown.count("answer ") == 4
    assert (
        "nowhere.png: a picture must be readable" in shown
        and "/nonsense: is no command" in shown
        and "needs a question that was answered" in shown
    )
    saved = notes.read_text()
    assert "answer 3" in saved and "answer 2" not in saved and f"![picture]({diagram})" in saved


def test_an_error_takes_the_question_back(server: OllamaServer) -> None:
    heard = echo(server)
    shown = say(server, "x" * 200_000 + "\nshort\n")
    assert "error: prompt: a conversation must fit the model's context of 8192 tokens, so at most 65 kB of text (got '200 kB')" in shown
    assert [m["role"] for m in heard[0]] == ["system", "user"] and heard[0][-1]["content"] == "short"


@pytest.mark.parametrize("written", ["{}", "'{}'", '"{}"', "{escaped}", "file://{quoted}", "{} "])
def test_dropped_files_are_recognised(diagram: Path, written: str) -> None:
    from urllib.parse import quote

    line = written.format(diagram, escaped=str(diagram).replace(" ", "\\ "), quoted=quote(str(diagram)))
    assert split_pictures(line) == ("", [diagram])
    assert split_pictures("what's in it?") == ("what's in it?", [])
    assert split_pictures("x" * 5000) == ("x" * 5000, [])


def png_of(width: int, height: int) -> bytes:
    """A header that promises so many pixels, and next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", b"")
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("name", "data", "kind", "law"),
    [
        ("huge.png", png_of(10_000, 10_000), LimitError, "10000 x 10000, 100 megapixels"),
        ("bomb.png", png_of(30_000, 30_000), LimitError, "at most 64 megapixels"),
        ("text.png", b"not a picture at all", InputError, "must be a picture"),
        ("empty.png", b"", InputError, "an empty file"),
        ("cut.png", png_of(100, 100), InputError, "must be a whole picture"),
        ("page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", InputError, "save it as PNG"),
    ],
    ids=["100-megapixels", "bomb", "text", "empty", "cut", "svg"],
)
def test_what_is_no_picture_is_said_in_one_line(tmp_path: Path, name: str, data: bytes, kind: type[SysdesignError], law: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(kind) as caught:
        prepare(path, POLICY, tmp_path / "scratch")
    assert law in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("scratch/*"))


def test_pictures_come_upright_opaque_and_in_size(tmp_path: Path) -> None:
    sideways = Image.new("RGB", (300, 100), "red")
    exif = sideways.getexif()
    exif[0x0112] = 6  # turned by 90 degrees when it was taken
    sideways.save(tmp_path / "photo.jpg", exif=exif)
    with Image.open(prepare(tmp_path / "photo.jpg", POLICY, tmp_path)) as out:
        assert out.height > out.width and out.size == POLICY.size(100, 300)
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    with Image.open(prepare(tmp_path / "clear.png", POLICY, tmp_path)) as out:
        assert out.mode == "RGB" and out.getpixel((5, 5)) == (255, 255, 255)
        once = prepare(Path(out.filename), POLICY, tmp_path)
        with Image.open(once) as again:
            assert again.tobytes() == out.tobytes(), "a prepared picture passes unchanged"


def test_a_folder_is_answered_once_and_goes_on_after_a_kill(server: OllamaServer, tmp_path: Path) -> None:
    folder, answers = tmp_path / "pictures", tmp_path / "answers.jsonl"
    (folder / "deep").mkdir(parents=True)
    for index in range(3):
        Image.new("RGB", (100 + index, 100), "white").save(folder / "deep" / f"{index}.png")
    (folder / "broken.png").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("not asked about")
    heard = echo(server)
    settings = {"folder": str(folder), "prompt": "What is it?", "answers": str(answers)}
    assert json.loads(say(server, **settings)) == {"pictures": 4, "answered": 3, "refused": 1, "kept": 0}
    lines = list(read_jsonl(answers, Answered))
    assert [line.image for line in lines] == ["broken.png", "deep/0.png", "deep/1.png", "deep/2.png"]
    assert lines[0].answer is None and "must be a picture" in (lines[0].error or "") and lines[1].answer == "answer 1"
    assert json.loads(say(server, **settings))["kept"] == 4 and len(heard) == 3
    whole = answers.read_bytes()
    answers.write_bytes(whole[: whole.rfind(b'{"image"') + 30])  # killed while it wrote the last line
    assert json.loads(say(server, **settings)) == {"pictures": 4, "answered": 1, "refused": 0, "kept": 3}
    assert [line.image for line in read_jsonl(answers, Answered)] == [line.image for line in lines]
    server.answer = lambda name, messages: "Gateway Orders Ledger"
    run(server, make_export(tmp_path / "tuned-again", 2), tmp_path / "out")  # another model under the same name is another answer
    assert json.loads(say(server, **settings)) == {"pictures": 4, "answered": 3, "refused": 1, "kept": 0}


def test_flags_that_do_not_fit_together(server: OllamaServer) -> None:
    for settings in ({"folder": "x"}, {"web": True, "prompt": "x"}, {"image": ["x.png"]}):
        with pytest.raises(ConfigError):
            say(server, **settings)


def test_a_server_that_is_gone_or_does_not_have_the_model(server: OllamaServer, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"Ollama must serve other.*pipelines\.deploy"):
        say(server, prompt="x", ollama={"url": server.url, "model": "other"})
    with pytest.raises(ServiceError, match="ollama serve"):
        say(server, prompt="x", ollama={"url": "http://127.0.0.1:9"})


def test_what_a_model_reads_in_a_picture() -> None:
    graph = {"components": [{"name": "API", "type": "gateway"}, {"name": "DB"}], "edges": [{"src": "API", "dst": "DB"}]}
    answer = f"Here it is:\n```json\n{json.dumps(graph)}\n```"
    components, edges = read_graph(answer)
    assert [(c.name, c.type) for c in components] == [("API", "gateway"), ("DB", None)] and edges[0].dst == "DB"
    components, edges = read_graph("API -> DB\n- DB -> Cold store")
    assert [c.name for c in components] == ["API", "DB", "Cold store"] and len(edges) == 2
    components, edges = read_graph("```mermaid\ngraph LR\n  a[API] -->|gRPC| d[(Orders DB)]\n```")
    assert [c.name for c in components] == ["API", "Orders DB"] and edges[0].label == "gRPC"
    assert read_boxes('[{"bbox_2d": [1, 2, 3, 4], "label": "API"}]') == {"api": (1, 2, 3, 4)}
    assert read_graph("I see nothing {broken") == ([], [])
    assert read_boxes('{"API": [10, 20, 30, 40], "DB": [9, 9, 1, 1], "X": ["a"]}') == {"api": (10, 20, 30, 40)}
    assert read_boxes("API: (10,20),(30,40)\nDB: (50,60),(70,1200)") == {"api": (10, 20, 30, 40), "db": (50, 60, 70, 1000)}
