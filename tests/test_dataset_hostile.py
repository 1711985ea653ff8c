"""Broken and hostile rows: each is rejected with its reason, the good ones around it are kept, and nothing crashes the stage."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dataset_world as world
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sysdesign.config.dataset import DatasetConfig, PictureConfig, UserData
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.dataset.compiling import BATCH_BYTES, Compiler
from sysdesign.dataset.draft import Draft
from sysdesign.dataset.gather import _chunks
from sysdesign.dataset.lines import parse_object, read_lines
from sysdesign.dataset.pictures import PictureStore
from sysdesign.dataset.stage import dataset
from sysdesign.dataset.userdata import draft_user_row
from sysdesign.models.base import load_processor
from sysdesign.models.picture import PicturePolicy
from sysdesign.models.rows import Unfit, load_split
from sysdesign.records import NullLog, Rejected, read_jsonl

SMALL = PictureConfig(min_tokens=64, max_tokens=100)
LIMITS = UserData(max_line_bytes=20_000, max_image_bytes=200_000, max_image_pixels=1_000_000)


def png(size: tuple[int, int] = (300, 220), kind: str = "PNG", shade: int = 90) -> bytes:
    stored = io.BytesIO()
    Image.effect_noise(size, shade).convert("RGB").save(stored, format=kind)
    return stored.getvalue()


def bomb() -> bytes:
    """A PNG of a few kilobytes that claims 60,000 x 60,000 pixels."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = b"".join(
        struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d))
        for t, d in ((b"IHDR", head), (b"IDAT", b""), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + body


def ask(text: Any = "What is drawn?", answer: Any = "A gateway.", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}], **more}


def shown(source: Any) -> dict[str, Any]:
    return ask([{"type": "image", "image": source}, {"type": "text", "text": f"What is in {str(source)[:20]!r}?"}])


def url(source: Any) -> dict[str, Any]:
    return ask([{"type": "image_url", "image_url": {"url": source}}, {"type": "text", "text": "What is it?"}])


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


BROKEN: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "not JSON": (b"{'messages': []}", "bad_json"),
    "cut short": (b'{"messages": [{"role": "user", "content": "Wh', "bad_json"),
    "two objects on a line": (b"{} {}", "bad_json"),
    "nested a thousand deep": (b'{"messages": ' + b"[" * 9000 + b"]" * 9000 + b"}", "bad_json"),
    "NaN": (b'{"messages": NaN}', "bad_json"),
    "a number of 5,000 digits": (b'{"messages": ' + b"9" * 5000 + b"}", "bad_json"),
    "Latin-1": (b'{"messages": "\xe9"}', "not_utf8"),
    "UTF-16": ('{"messages": []}'.encode("utf-16"), "not_utf8"),
    "a list": (b"[1, 2]", "not_an_object"),
    "a text": (b'"hello"', "not_an_object"),
    "null": (b"null", "not_an_object"),
    "a line of 30 kB": (json.dumps(ask("x" * 30_000)).encode(), "line_too_long"),
    "no messages": ({"prompt": "What?", "completion": "That."}, "no_messages"),
    "empty messages": ({"messages": []}, "no_messages"),
    "messages as a text": ({"messages": "What?"}, "no_messages"),
    "messages of texts": ({"messages": ["What?", "That."]}, "bad_message"),
    "201 messages": ({"messages": [{"role": "user", "content": "a"}] * 201}, "too_many_messages"),
    "content of null": (ask(None), "bad_message"),
    "content of a number": (ask(42), "bad_message"),
    "an unknown role": ({"messages": [{"role": "wizard", "content": "a"}]}, "unknown_role"),
    "a tool's message": ({"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}, "unknown_role"),
    "no role": ({"messages": [{"content": "a"}]}, "unknown_role"),
    "an audio part": (ask([{"type": "audio", "text": "a"}]), "unknown_part"),
    "a part of null": (ask([None]), "unknown_part"),
    "an empty question": (ask("  \n "), "empty_text"),
    "an empty answer": (ask(answer=""), "empty_text"),
    "a NUL": (ask("a\0b"), "bad_text"),
    "a lone surrogate": (b'{"messages": [{"role": "user", "content": "a\\ud800"}, {"role": "assistant", "content": "b"}]}', "bad_text"),
    "an escape sequence": (ask("a\x1b[2J"), "bad_text"),
    "only a question": ({"messages": [{"role": "user", "content": "a"}]}, "no_trained_token"),
    "ends with a question": ({"messages": [*ask()["messages"], {"role": "user", "content": "And?"}]}, "ends_with_question"),
    "the answer first": ({"messages": ask()["messages"][::-1]}, "role_order"),
    "two questions in a row": ({"messages": [ask()["messages"][0], *ask()["messages"]]}, "role_order"),
    "a late system message": ({"messages": [*ask()["messages"], {"role": "system", "content": "a"}]}, "role_order"),
    "an end mark in the answer": (ask(answer="No.<|im_end|>\n<|im_start|>user\nYes?"), "special_token"),
    "a picture mark in the question": (ask("What is <|image_pad|>?"), "special_token"),
    "an answer that begins with a line break": (ask(answer="\nA gateway."), "mask_boundary"),
    "longer than the limit": (ask(answer="gateway " * 1500), "too_long"),
    "far longer than the limit": (ask(answer="gateway " * 2200), "too_long"),
    "more places than pictures": ({**ask("<image><image>What?"), "images": ["good.png"]}, "image_count"),
    "more pictures than places": ({**ask("<image>What?"), "images": ["good.png", "good2.png"]}, "image_count"),
    "17 pictures": ({**ask("What?"), "images": ["good.png"] * 17}, "too_many_pictures"),
    "a picture in the answer": (ask(answer=[{"type": "image", "image": "good.png"}, {"type": "text", "text": "b"}]), "image_in_answer"),
    "no such picture": (shown("missing.png"), "picture_missing"),
    "a folder as picture": (shown("folder"), "picture_missing"),
    "a named pipe as picture": (shown("pipe.png"), "picture_missing"),
    "a number as picture": (shown(7), "picture_missing"),
    "a name with NUL": (shown("a\0.png"), "picture_missing"),
    "a name of 5,000 letters": (shown("a" * 5000), "picture_missing"),
    "out by dots": (shown("../secret.png"), "path_outside"),
    "an absolute path": (shown("/etc/passwd"), "path_outside"),
    "out by a link": (shown("link.png"), "path_outside"),
    "out by a linked folder": (shown("linked/secret.png"), "path_outside"),
    "a device": (shown("/dev/zero"), "path_outside"),
    "https": (url("https://example.com/a.png"), "remote_picture"),
    "file URL": (url("file:///etc/passwd"), "remote_picture"),
    "a data URL of text": (url("data:text/html;base64,PGI+"), "picture_unreadable"),
    "a data URL of bad base64": (url("data:image/png;base64,@@@"), "picture_unreadable"),
    "a data URL of noise": (url(data_url(b"noise")), "picture_unreadable"),
    "a cut picture": (shown("cut.png"), "picture_unreadable"),
    "a text named .png": (shown("text.png"), "picture_unreadable"),
    "an SVG": (shown("drawing.svg"), "picture_unreadable"),
    "an empty picture": (shown("empty.png"), "picture_unreadable"),
    "a pixel bomb": (shown("bomb.png"), "picture_bomb"),
    "two megapixels": (shown("large.png"), "picture_bomb"),
    "a file too large": (shown("heavy.png"), "picture_too_large"),
    "a single pixel": (shown("dot.png"), "picture_small"),
    "a thread of 1000 x 10": (shown("thread.png"), "picture_shape"),
    "the row before, again": (ask("Good 0?", "Yes 0."), "duplicate"),
}  # fmt: skip
GOOD: list[dict[str, Any]] = [
    ask("Good 0?", "Yes 0."),
    shown("good.png"),
    {**ask("<image>\nWhat is the first?"), "images": ["good.png"]},
    {**ask("What is shown here?"), "images": ["good2.jpg"]},
    {"conversations": [{"from": "human", "value": "Compare.\n<image>"}, {"from": "gpt", "value": "Alike."}], "image": "sub/good3.png"},
    url(data_url(png((40, 40), shade=30))),
    ask("Which tag shows a picture?", "<img>, not <image>."),
    {"system": "Be brief.", **ask("Good 7?")},
    {"messages": [{"role": "system", "content": "Be kind."}, *ask("Good 8?")["messages"], *ask("Good 9?", "Two turns.")["messages"]]},
    ask("Ünïcode: 数据库, 🚀?", "Yes: é, not e\u0301."),
]


def hostile_folder(folder: Path) -> Path:
    """The pictures that the rows above name."""
    inside = folder / "inside"
    (inside / "folder").mkdir(parents=True)
    (inside / "sub").mkdir()
    (folder / "secret.png").write_bytes(png())
    for name, data in {
        "good.png": png(), "good2.png": png(shade=91), "good2.jpg": png(kind="JPEG", shade=92), "sub/good3.png": png((64, 64)),
        "cut.png": png()[:900],
        "text.png": b"hello", "empty.png": b"", "bomb.png": bomb(), "dot.png": png((1, 1)), "thread.png": png((1000, 10)),
        "large.png": png((2000, 1000), shade=0), "heavy.png": png((600, 600)), "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }.items():  # fmt: skip
        (inside / name).write_bytes(data)
    os.mkfifo(inside / "pipe.png")
    (inside / "link.png").symlink_to(folder / "secret.png")
    (inside / "linked").symlink_to(folder)
    return inside


def interleaved() -> tuple[list[bytes], dict[str, tuple[str, str]]]:
    """Lines with a good row before every seventh broken one, and for the id of each broken row its name and reason."""
    lines, where, good = [], {}, iter(GOOD)
    for number, (name, (row, reason)) in enumerate(BROKEN.items()):
        if number % 6 == 0 and (kept := next(good, None)) is not None:
            lines.append(json.dumps(kept).encode())
        lines.append(row if isinstance(row, bytes) else json.dumps(row).encode())
        where[f"extra0-{len(lines)}"] = (name, reason)
    lines += [json.dumps(row).encode() for row in good]
    return lines, where


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run over all broken rows, with good ones between them."""
    folder = tmp_path_factory.mktemp("hostile")
    inside = hostile_folder(folder)
    lines, where = interleaved()
    (inside / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n\n".join(lines) + b"\r\n")
    cfg = DatasetConfig(picture=SMALL, max_tokens=1024, extra=LIMITS.model_copy(update={"paths": (str(inside / "rows.jsonl"),)}))
    out = folder / "out"
    out.mkdir()
    inputs = {
        "base": world.tiny_base(folder / "base"),
        "diagrams": world.diagrams(folder / "diagrams", 12),
        "conversations": world.conversations(folder / "talks", world.talks(24, 12)),
    }
    dataset(cfg, seed=1, out=out, log=NullLog(), runtime=RuntimeConfig(), **inputs)
    rejected = {one.id: one for one in read_jsonl(out / "rejected.jsonl", Rejected)}
    made = world.artifact("dataset", out)
    rows = [row for split in ("train", "val") for row in load_split(made, split) if row.family == "extra"]
    return {"where": where, "rejected": rejected, "rows": rows}


def test_the_corpus_is_large_enough() -> None:
    assert len(BROKEN) >= 60


def test_every_broken_row_has_its_reason_and_every_good_one_is_kept(outcome: dict[str, Any]) -> None:
    wrong = {
        name: (reason, outcome["rejected"].get(row_id))
        for row_id, (name, reason) in outcome["where"].items()
        if row_id not in outcome["rejected"] or outcome["rejected"][row_id].reason != reason
    }
    unexpected = [one for row_id, one in outcome["rejected"].items() if row_id not in outcome["where"]]
    assert not wrong and not unexpected
    assert len(outcome["rows"]) == len(GOOD)
    assert len(outcome["rejected"]) == len(BROKEN)


def test_a_broken_artefact_is_rejected_row_by_row(tmp_path: Path) -> None:
    drawn = world.diagrams(tmp_path / "diagrams", 12)
    images = drawn.path / "images"
    (images / "d00000.png").unlink()
    (images / "d00001.png").write_bytes((images / "d00001.png").read_bytes()[:500])
    shutil.copy(images / "d00003.png", images / "d00002.png")
    shutil.copy(drawn.path / "diagrams.jsonl", drawn.path / "headline.jsonl")
    lines = (drawn.path / "headline.jsonl").read_text().splitlines()
    (drawn.path / "headline.jsonl").write_text(lines[5] + "\n")
    talks = world.conversations(tmp_path / "talks", world.talks(24, 12))
    path = talks.path / "conversations.jsonl"
    rows = path.read_text().splitlines()
    stray = json.loads(rows[6]) | {"id": "stray", "diagram_id": "d99999"}
    path.write_text(
        "\n".join(
            [
                *rows,
                json.dumps(stray),
                '{"id": "x"}',
                "{",
                rows[6].replace("how many", "How many"),
                json.dumps(stray | {"id": "t", "turns": []}),
            ]
        )
    )
    out = tmp_path / "out"
    out.mkdir()
    cfg = DatasetConfig(picture=SMALL, max_tokens=1024)
    base = world.tiny_base(tmp_path / "base")
    dataset(cfg, seed=1, out=out, log=NullLog(), runtime=RuntimeConfig(), conversations=talks, diagrams=drawn, base=base)
    reasons = {one.reason for one in read_jsonl(out / "rejected.jsonl", Rejected)}
    assert reasons == {
        "picture_missing", "picture_unreadable", "picture_changed", "headline_topology", "no_diagram", "schema", "duplicate_id", "no_turns",
    }  # fmt: skip


def test_a_file_that_is_no_file_is_named(tmp_path: Path) -> None:
    from sysdesign.errors import InputError

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path / "pipe", tmp_path):
        with pytest.raises(InputError, match="JSONL file"):
            list(read_lines(path, 1000))


def test_a_line_without_end_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"x" * 5_000_000 + b"\n{}\n")
    found = list(read_lines(path, 1000))
    assert isinstance(found[0], Unfit) and found[0].reason == "line_too_long" and found[1:] == [b"{}"]


def test_long_texts_are_tokenised_in_bounded_batches_and_hopeless_ones_not_at_all(tmp_path: Path) -> None:
    processor = load_processor(world.tiny_base(tmp_path / "base"))

    class Watched:
        """The tokenizer, with a note of how many bytes each call got."""

        def __init__(self, inner: Any) -> None:
            self.inner, self.sizes = inner, list[int]()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def __call__(self, texts: list[str], **how: Any) -> Any:
            self.sizes.append(sum(len(text.encode()) for text in texts))
            return self.inner(texts, **how)

    def draft(number: int, size: int) -> Draft:
        return draft_user_row(
            ask(f"Long {number}?", "\u00fc gateway " * (size // 11)), "r", "extra", tmp_path, LIMITS, store, "Be.", 0.1, 0
        )

    store = PictureStore(tmp_path / "out", tmp_path / "journal.jsonl", PicturePolicy(min_tokens=4, max_tokens=9))
    drafts = [draft(n, 130_000 if n % 2 else 100) for n in range(40)]
    plain = Compiler(processor, 28, 131_072, tmp_path)
    alone = [plain.compile([one])[0] for one in drafts]
    watched = Watched(processor.tokenizer)
    processor.tokenizer = watched
    together = Compiler(processor, 28, 131_072, tmp_path)
    assert together.compile(drafts) == alone
    assert len(watched.sizes) == 3 and max(watched.sizes) <= BATCH_BYTES < sum(watched.sizes)
    with pytest.raises(Unfit, match=r"too_long: .*not tokenised"):
        Compiler(processor, 28, 1024, tmp_path).check_size(drafts[1])
    Compiler(processor, 28, 1024, tmp_path).check_size(drafts[0])


def test_a_chunk_of_long_lines_is_bounded_in_bytes() -> None:
    lines = [b"x" * 3_000_000, Unfit("line_too_long", ""), b"y" * 6_000_000, b"z"] + [b"w"] * 600
    chunks = list(_chunks(lines))
    assert [len(chunk) for chunk in chunks] == [3, 500, 101] and [line for chunk in chunks for _, line in chunk] == lines
    assert [number for chunk in chunks for number, _ in chunk] == list(range(1, 605))


KEYS = ("role", "content", "from", "value", "type", "text", "image", "image_url", "url", "messages", "images", "conversations", "system")
WORTH_TRYING = ("<image>", "good.png", "user", "gpt", "../x.png", "data:image/png;base64,AAAA", "http://127.0.0.1/a.png")
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | st.sampled_from(WORTH_TRYING),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
)
message = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]) | json_like,
        "content": st.sampled_from(["<image>What?", "That."]) | json_like,
    }
)
row = st.fixed_dictionaries(
    {"messages": st.lists(message, max_size=5) | json_like}, optional={"images": json_like, "image": json_like, "system": json_like}
)


turn = st.fixed_dictionaries(
    {
        "question": st.text(max_size=9) | json_like,
        "answer": st.text(max_size=9) | json_like,
        "family": st.just("count"),
        "structure": st.just("x"),
    },
    optional={
        "facts": json_like,
        "check": st.fixed_dictionaries({"kind": st.sampled_from(["number", "set", "boxes"]), "expected": json_like}),
    },
)
conversation = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["k1", "new"]) | json_like, "diagram_id": st.sampled_from([None, "d00001", "d00008", "d9"]) | json_like,
        "seed_id": st.just("seed-01") | json_like, "provider": st.just("offline") | json_like, "teacher": st.just("t"),
        "turns": st.lists(turn, max_size=3) | json_like,
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], Draft]:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "good.png").write_bytes(png((60, 60)))
    store = PictureStore(folder / "out", folder / "journal.jsonl", PicturePolicy(min_tokens=4, max_tokens=9))

    def draft(line: bytes) -> Draft:
        return draft_user_row(parse_object(line), "r", "extra", folder, LIMITS, store, "Be brief.", 0.1, 0)

    return draft


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(line=st.binary(max_size=200) | st.builds(lambda value: json.dumps(value).encode(), row | json_like))
def test_any_line_becomes_a_draft_or_a_reason(line: bytes, bench: Callable[[bytes], Draft]) -> None:
    try:
        draft = bench(line)
    except Unfit as unfit:
        assert unfit.reason.isidentifier()
    else:
        roles = [m["role"] for m in draft.row.messages]
        assert roles[0] == "system" and roles[-1] == "assistant" and draft.row.model_dump_json()


@pytest.fixture(scope="module")
def small_inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    return {
        "base": world.tiny_base(folder / "base"),
        "diagrams": world.diagrams(folder / "diagrams", 12),
        "conversations": world.conversations(folder / "talks", world.talks(12, 12)),
    }


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    extra=st.lists(
        st.binary(max_size=200) | st.builds(lambda value: json.dumps(value).encode(), row | json_like), min_size=60, max_size=200
    ),
    replay=st.lists(st.builds(lambda value: json.dumps(value).encode(), row), max_size=30),
    talks=st.lists(st.builds(lambda value: json.dumps(value).encode(), conversation | json_like), max_size=30),
)
def test_any_files_go_through_the_whole_stage(
    extra: list[bytes], replay: list[bytes], talks: list[bytes], small_inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "good.png").write_bytes(png((60, 60)))
    for name, lines in (("extra", extra), ("replay", replay)):
        (folder / f"{name}.jsonl").write_bytes(b"\n".join(lines))
    told = folder / "talks"
    told.mkdir()
    (told / "conversations.jsonl").write_bytes(
        (small_inputs["conversations"].path / "conversations.jsonl").read_bytes() + b"\n".join(line.replace(b"\n", b"") for line in talks)
    )
    own = {name: LIMITS.model_copy(update={"paths": (str(folder / f"{name}.jsonl"),), "max_rows": 150}) for name in ("extra", "replay")}
    cfg = DatasetConfig(picture=SMALL, max_tokens=1024, **own)
    out = folder / "out"
    out.mkdir()
    inputs = {**small_inputs, "conversations": world.artifact("conversations", told)}
    report = dataset(cfg, seed=1, out=out, log=NullLog(), runtime=RuntimeConfig(), **inputs)
    funnel = json.loads((out / "compile.json").read_text())["funnel"]
    filled = [len([line for line in (folder / f"{name}.jsonl").read_bytes().split(b"\n") if line.strip()]) for name in ("extra", "replay")]
    assert [sum(funnel.get(f"{name}0", {}).get(step, 0) for step in ("read", "beyond_max_rows")) for name in ("extra", "replay")] == filled
    assert all(steps["read"] == steps["rejected"] + steps["not_drawn"] + steps["kept"] for steps in funnel.values())
    assert len(list(read_jsonl(out / "rejected.jsonl", Rejected))) == report.rejected == sum(steps["rejected"] for steps in funnel.values())
    shutil.rmtree(folder)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=300), at=st.integers(8, 2000), kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
def test_a_damaged_picture_is_stored_or_refused(data: bytes, at: int, kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    store = PictureStore(folder, folder.with_suffix(".jsonl"), PicturePolicy(min_tokens=4, max_tokens=9))
    whole = png((60, 50), kind)
    try:
        stored = store.add(whole[:at] + data + whole[at + len(data) :])
    except Unfit as unfit:
        assert unfit.reason.startswith("picture_")
    else:
        assert (folder / "images" / stored.name).is_file() and stored.width % 28 == 0
