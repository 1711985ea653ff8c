"""The dataset stage: rows equal what the real processor makes, splits share nothing, bytes depend on nothing but the inputs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dataset_world as world
import pytest

from sysdesign import flow
from sysdesign.artifacts import Artifact, Store, digest_of, hash_files
from sysdesign.config.dataset import DatasetConfig, PictureConfig, UserData
from sysdesign.config.root import Config
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.dataset.content import decoded_sha256
from sysdesign.dataset.explain import explain
from sysdesign.dataset.layout import pack
from sysdesign.dataset.leaks import Headline
from sysdesign.dataset.pictures import Picture
from sysdesign.dataset.proof import prove
from sysdesign.dataset.report import DatasetReport
from sysdesign.dataset.splits import split_topologies
from sysdesign.dataset.stage import dataset
from sysdesign.errors import ArtifactError, InputError
from sysdesign.models.base import load_processor
from sysdesign.models.rows import IGNORED, Unfit, encode, iter_split, load_probes, load_split, question_of, require_compiled
from sysdesign.profiles import resolve
from sysdesign.prompts import headline_prompts
from sysdesign.records import Conversation, NullLog, Rejected, Row, Turn, read_jsonl

SMALL = PictureConfig(min_tokens=64, max_tokens=100)
CFG = DatasetConfig(picture=SMALL, max_tokens=1024, probe_count=12)
Inputs = dict[str, Artifact]


def run(cfg: DatasetConfig, out: Path, inputs: Inputs, workers: int = 2) -> tuple[Artifact, DatasetReport]:
    out.mkdir(parents=True, exist_ok=True)
    report = dataset(cfg, seed=3, out=out, log=NullLog(), runtime=RuntimeConfig(workers=workers), **inputs)
    return world.artifact("dataset", out), report


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("world")
    return {
        "base": world.tiny_base(folder / "base"),
        "diagrams": world.diagrams(folder / "diagrams", 36),
        "conversations": world.conversations(folder / "conversations", world.talks(120, 36)),
    }


@pytest.fixture(scope="session")
def made(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, DatasetReport]:
    return run(CFG, tmp_path_factory.mktemp("made") / "out", inputs)


def test_every_row_is_what_the_processor_makes_of_it(made: tuple[Artifact, DatasetReport], inputs: Inputs) -> None:
    processor = load_processor(inputs["base"])
    rows = load_split(made[0], "train")
    assert len(rows) == made[1].rows_train > 50
    for row in rows[:40]:
        encoded = encode(row, processor, made[0].path)
        ids, labels = encoded["input_ids"], encoded["labels"]
        counted = (row.n_tokens, row.n_image_tokens, row.n_trained_tokens)
        assert (len(ids), int((ids == processor.image_token_id).sum()), int((labels != IGNORED).sum())) == counted
        if row.images:
            assert encoded["pixel_values"].shape[0] == 4 * row.n_image_tokens
        answers = [m["content"][0]["text"] for m in row.messages if m["role"] == "assistant"]
        learned = processor.tokenizer.decode(labels[labels != IGNORED])
        assert learned == "".join(answer + "<|im_end|>" for answer in answers), "every answer with its end mark, and nothing else"


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_other_families_compile_with_their_own_picture_grid(family: str, inputs: Inputs, tmp_path: Path) -> None:
    base = world.tiny_base(tmp_path / "base", family=family)
    talks = world.conversations(tmp_path / "talks", world.talks(36, 36))
    found, report = run(CFG, tmp_path / "out", {**inputs, "base": base, "conversations": talks})
    compiled = json.loads((found.path / "compile.json").read_text())
    side = 32 if family == "qwen3_vl" else 28
    assert compiled["picture"]["side"] == side and len(compiled["checked_whole"]) == 24 and report.rejected == 0
    assert all(one["width"] % side == one["height"] % side == 0 for one in compiled["sizes"])


def test_splits_share_no_topology_and_no_picture_and_the_held_out_style_is_only_tested(made: tuple[Artifact, DatasetReport]) -> None:
    seen = {split: load_split(made[0], split) for split in ("train", "val", "test")}
    for kind in ("topology", "images"):
        sets = {split: {getattr(row, kind) for row in rows} - {None, ()} for split, rows in seen.items()}
        assert (
            all(sets.values()) and not sets["train"] & sets["test"] and not sets["val"] & sets["test"] and not sets["train"] & sets["val"]
        )
    assert {row.style for row in seen["test"]} > {"chalk"} and not any(row.style == "chalk" for row in seen["train"] + seen["val"])
    assert all(row.graph for row in seen["test"] if row.diagram_id) and not any(row.graph for row in seen["train"])
    proof = json.loads((made[0].path / "compile.json").read_text())["leaks"]
    assert proof["shared_topologies"] == proof["shared_pictures"] == proof["shared_texts"] == proof["rows_like_a_prompt"] == 0
    assert proof["headline_prompts"] == 30 and "13 words" in proof["ngram_law"]
    assert made[1].leaks.model_dump(mode="json") == proof, "the manifest holds the report, and the report the proof"


@pytest.mark.parametrize("file", ["rows/train.jsonl", "probes.jsonl"])
def test_the_proof_reads_the_finished_files(file: str, made: tuple[Artifact, DatasetReport], tmp_path: Path) -> None:
    shutil.copytree(made[0].path, tmp_path / "set")
    path, prompts = tmp_path / "set" / file, [(prompt.id, prompt.prompt) for prompt in headline_prompts()]
    pictures = {picture.name: picture for picture in read_jsonl(made[0].path / "pictures.jsonl", Picture)}
    assert prove(tmp_path / "set", pictures, {"chalk"}, prompts, "0", 0).rows_like_a_prompt == 0
    row = json.loads(path.read_text().splitlines()[0])
    row["messages"][-1]["content"][0]["text"] += f" {prompts[4][1].upper()}"
    with path.open("a") as lines:
        lines.write(json.dumps(row | {"id": "late"}) + "\n")
    with pytest.raises(ArtifactError, match=f"late .*{prompts[4][0]}"):
        prove(tmp_path / "set", pictures, {"chalk"}, prompts, "0", 0)


def test_probes_are_single_scorable_questions_spread_over_graphs(made: tuple[Artifact, DatasetReport]) -> None:
    probes = load_probes(made[0])
    assert len(probes) == made[1].probes == 12 and len({probe.graph_sha256 for probe in probes}) == made[1].probe_graphs > 3
    for probe in probes:
        assert probe.split == "test" and probe.check and probe.check.kind != "text" and probe.graph and probe.n_tokens
        assert [m["role"] for m in probe.messages] == ["system", "user", "assistant"]
        assert [m["role"] for m in question_of(probe)] == ["system", "user"]


def test_another_processor_or_an_uncompiled_set_is_refused(made: tuple[Artifact, DatasetReport], inputs: Inputs, tmp_path: Path) -> None:
    require_compiled(made[0], load_processor(inputs["base"]))
    other = load_processor(inputs["base"])
    other.chat_template = other.chat_template.replace("helpful", "harmful")
    with pytest.raises(ArtifactError, match="compiled against this base's processor"):
        require_compiled(made[0], other)
    with pytest.raises(ArtifactError, match="compiled before it is used"):
        require_compiled(world.artifact("dataset", tmp_path), other)


def test_pictures_are_stored_once_aligned_and_listed_with_their_source(made: tuple[Artifact, DatasetReport]) -> None:
    from PIL import Image

    stored = sorted(path.name for path in (made[0].path / "images").iterdir())
    listed = [json.loads(line) for line in (made[0].path / "pictures.jsonl").read_text().splitlines()]
    assert sorted(entry["name"] for entry in listed) == stored and len(stored) == made[1].pictures <= 36
    for name in stored:
        with Image.open(made[0].path / "images" / name) as image:
            assert image.width % 28 == image.height % 28 == 0 and 64 <= image.width * image.height // 784 <= 100


def test_parquet_holds_the_same_rows(made: tuple[Artifact, DatasetReport]) -> None:
    from datasets import Dataset

    for split in ("train", "val", "test"):
        table = Dataset.from_parquet(str(made[0].path / "hf" / split / "data.parquet"), cache_dir=str(made[0].path.parent / "cache"))
        rows = load_split(made[0], split)
        assert table["id"][:] == [row.id for row in rows] and table["n_tokens"][:] == [row.n_tokens for row in rows]
        assert table[0]["messages"][1]["role"] == "user" and json.loads(table[0]["facts"])[0]["name"] == "replicas"


def test_the_same_inputs_give_the_same_bytes_whatever_packs_them_the_same_content_and_one_changed_pixel_another(
    made: tuple[Artifact, DatasetReport], inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib
    import zlib

    from PIL import Image

    again, _ = run(CFG, tmp_path / "again", inputs, workers=1)
    assert again.digest == made[0].digest
    with monkeypatch.context() as other:  # another build of zlib: other bytes for the same pixels
        compress = zlib.compress
        other.setattr("sysdesign.dataset.pictures.zlib.compress", lambda data, level: compress(data, level + 5))
        elsewhere, report = run(CFG, tmp_path / "elsewhere", inputs)
    assert elsewhere.digest != made[0].digest and report.content_sha256 == made[1].content_sha256 == decoded_sha256(elsewhere.path)
    shutil.copytree(inputs["diagrams"].path, tmp_path / "diagrams")
    path = tmp_path / "diagrams" / "images" / "d00000.png"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    with Image.open(path) as image:
        red, green, blue = image.getpixel((7, 7))
        image.putpixel((7, 7), (red, green, blue ^ 1))
        image.save(path, compress_level=1)
    lines = tmp_path / "diagrams" / "diagrams.jsonl"
    lines.write_text(lines.read_text().replace(before, hashlib.sha256(path.read_bytes()).hexdigest()))
    _, changed = run(CFG, tmp_path / "changed", {**inputs, "diagrams": world.artifact("diagrams", tmp_path / "diagrams")})
    assert changed.content_sha256 != made[1].content_sha256


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import dataset_world as world
from sysdesign.records import NullLog
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.config.dataset import DatasetConfig
from sysdesign.dataset.stage import dataset
inputs = {{name: world.artifact(name, Path(path)) for name, path in {inputs!r}.items()}}
out = Path({out!r})
dataset(DatasetConfig.model_validate_json({cfg!r}), seed=3, out=out, log=NullLog(), runtime=RuntimeConfig(), **inputs)
"""


def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_bytes(inputs: Inputs, tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    many = {**inputs, "conversations": world.conversations(tmp_path / "many", world.talks(1100, 36, words=6))}
    out, first = tmp_path / "out", tmp_path / "out" / ".scratch" / "parts" / "conversation-000000.jsonl"
    out.mkdir()
    paths = {name: str(found.path) for name, found in many.items()}
    script = KILLED.format(root=str(root), tests=str(root / "tests"), inputs=paths, out=str(out), cfg=CFG.model_dump_json())
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONHASHSEED": "7"})
    while not first.exists() and child.poll() is None:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "killed in the middle, not finished"
    kept = first.stat().st_mtime_ns
    assert not (out / "compile.json").exists()
    whole, report = run(CFG, tmp_path / "whole", many)
    resumed, again = run(CFG, out, many)
    assert report == again and resumed.digest == whole.digest and kept
    assert not (out / ".scratch").exists() and digest_of(hash_files(out)) == resumed.digest


def test_a_row_is_explained_back_to_its_seed(made: tuple[Artifact, DatasetReport], inputs: Inputs) -> None:
    row = next(row for row in iter_split(made[0], "test") if row.diagram_id)
    told = explain(row.id, made[0], inputs["conversations"], inputs["diagrams"])
    assert row.conversation_id in told and str(row.diagram_id) in told and row.seed_id in told and "by rule `sum`" in told
    with pytest.raises(InputError, match="for example"):
        explain("k00000", made[0], inputs["conversations"], inputs["diagrams"])


def test_a_rejected_row_is_explained_back_to_its_seed_too(made: tuple[Artifact, DatasetReport], inputs: Inputs, tmp_path: Path) -> None:
    cut, _ = run(CFG.model_copy(update={"max_tokens": made[1].median}), tmp_path / "some", inputs)
    dropped = next(iter(read_jsonl(cut.path / "rejected.jsonl", Rejected)))
    told = explain(dropped.id, cut, inputs["conversations"], inputs["diagrams"])
    assert "`too_long`" in told and f"## Conversation {dropped.id}" in told and "## Seed prompt" in told


def test_the_explain_command_finds_the_dataset_of_a_configuration(
    inputs: Inputs, tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    own = tmp_path / "own" / "rows.jsonl"
    own.parent.mkdir()
    own.write_text(json.dumps({"messages": _talk("Mine?")}) + "\n\n{}\n")
    store, found = Store(tmp_path / "store"), Inputs()
    flags = {"dataset.max_tokens": "1024", "dataset.extra.paths": json.dumps([str(own)]), "runtime.store": str(store.root)}
    config = resolve(Config, "rehearsal", flags)
    for name in ("base", "diagrams", "conversations"):
        stage = flow.STAGES[name]
        key = flow.address(stage, config, {read: found[read] for read in stage.reads})
        with store.work(name, key, 1) as work:
            shutil.copytree(inputs[name].path, work, dirs_exist_ok=True)
            about = inputs[name].manifest.model_dump(include={"version", "seed", "config", "inputs", "prompts", "report", "seconds"})
            found[name] = store.commit(work, stage=name, key=key, **about)
    made = flow.run(flow.STAGES["dataset"], dataset, config, store, found, NullLog()).artifact
    row = next(row for row in iter_split(made, "train") if row.diagram_id)
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    shown = command("explain", "--row", row.id, *words)
    assert shown.returncode == 0 and shown.stdout == explain(row.id, made, found["conversations"], found["diagrams"]), shown.stderr
    unknown = command("explain", "--row", "nobody", *words)
    assert unknown.returncode == InputError.exit_code and "for example" in unknown.stderr and "Traceback" not in unknown.stderr
    mine = explain("extra0-2", made, found["conversations"], found["diagrams"])
    assert "Rejected" in mine and "no_messages" in mine and f"`{own}`, row 2" in mine


def test_the_card_shows_counts_providers_and_pictures(made: tuple[Artifact, DatasetReport]) -> None:
    card = (made[0].path / "card.md").read_text()
    for part in ("| train |", "- offline: 120 rows", "![k", "| conversation | 120 | 0 | 0 | 120 | 0 |", made[1].content_sha256):
        assert part in card
    images = [line.split("(")[-1].rstrip(")") for line in card.splitlines() if line.startswith("![")]
    assert images and all((made[0].path / image).is_file() for image in images)


def test_longer_rows_are_rejected_never_cut_and_no_row_is_an_error(
    made: tuple[Artifact, DatasetReport], inputs: Inputs, tmp_path: Path
) -> None:
    limit = made[1].median
    cut, _ = run(CFG.model_copy(update={"max_tokens": limit}), tmp_path / "some", inputs)
    dropped = list(read_jsonl(cut.path / "rejected.jsonl", Rejected))
    assert {one.reason for one in dropped} == {"too_long"} and max(row.n_tokens for row in load_split(cut, "train")) <= limit
    with pytest.raises(InputError, match="too_long"):
        run(CFG.model_copy(update={"max_tokens": 128}), tmp_path / "none", inputs)


def test_a_picture_that_the_processor_would_resize_stops_the_run(inputs: Inputs, tmp_path: Path) -> None:
    from sysdesign.dataset.compiling import Compiler

    processor = load_processor(inputs["base"])
    processor.image_processor.size = {"shortest_edge": 3136, "longest_edge": 28 * 28 * 32}
    rows = [row for row in load_split(run(CFG, tmp_path / "out", inputs)[0], "train") if row.images]
    from sysdesign.dataset.draft import Draft

    listed = {p.name: p for p in read_jsonl(tmp_path / "out" / "pictures.jsonl", Picture)}
    draft = Draft(rows[0], (listed[Path(rows[0].images[0]).name],))
    with pytest.raises(ArtifactError, match="as it is"):
        Compiler(processor, 28, 1024, tmp_path / "out").compile([draft])


def test_your_own_rows_and_replay_join_train_within_their_share(inputs: Inputs, tmp_path: Path) -> None:
    own, general = tmp_path / "own.jsonl", tmp_path / "general.jsonl"
    own.write_text("".join(json.dumps({"messages": _talk(f"Own {n}?")}) + "\n" for n in range(10)))
    general.write_text("".join(json.dumps({"conversations": _sharegpt(f"General {n}?")}) + "\n" for n in range(200)))
    cfg = CFG.model_copy(
        update={"extra": UserData(paths=(str(own),)), "replay": UserData(paths=(str(general),), max_rows=150), "replay_share": 0.1}
    )
    made, report = run(cfg, tmp_path / "out", inputs)
    rows = [*load_split(made, "train"), *load_split(made, "val")]
    assert sum(row.family == "extra" for row in rows) == 10
    share = sum(row.family == "replay" for row in rows) / report.rows_train
    assert 0.04 < share <= 0.1 and not any(row.provider == "user" for row in load_split(made, "test"))
    first = next(row for row in rows if row.family == "replay")
    assert first.messages[0]["role"] == "user", "replay keeps its own form"
    assert next(row for row in rows if row.family == "extra").messages[0]["role"] == "system"
    funnel = json.loads((made.path / "compile.json").read_text())["funnel"]
    kept = sum(row.family == "replay" for row in rows)
    assert funnel["replay0"] == {"read": 150, "rejected": 0, "not_drawn": 150 - kept, "kept": kept, "beyond_max_rows": 50}
    assert report.not_read == 50 and "50 beyond max_rows" in report.note()
    assert f"| replay0 (general.jsonl) | 150 | 0 | {150 - kept} | {kept} | 50 |" in (made.path / "card.md").read_text()


def test_rows_like_a_held_out_prompt_are_dropped() -> None:
    prompt = next(p for p in headline_prompts() if len(p.prompt.split()) > 20)
    headline = Headline([(prompt.id, prompt.prompt)])
    with pytest.raises(Unfit, match="headline_text"):
        headline.check(_row("So: " + " ".join(prompt.prompt.split()[:16]).upper()))
    headline.check(_row(" ".join(reversed(prompt.prompt.split()))))


def test_topologies_split_by_share_and_small_sets_keep_a_training_split() -> None:
    found = split_topologies([f"t{n}" for n in range(100)], {"t1", "t2"}, 0.06, 0.12, 0)
    assert [list(found.values()).count(split) for split in ("train", "val", "test")] == [80, 6, 14]
    assert found["t1"] == found["t2"] == "test"
    assert sorted(split_topologies(["a", "b", "c"], (), 0.1, 0.1, 0).values()) == ["test", "train", "val"]
    assert list(split_topologies(["a"], (), 0.1, 0.1, 0).values()) == ["train"]


def test_packing_loses_no_row_and_passes_no_limit() -> None:
    tokens = [7, 3, 9, 1, 1, 5, 10, 4]
    bins = pack(tokens, 10)
    assert sorted(row for one in bins for row in one) == list(range(8)) and all(sum(tokens[row] for row in one) <= 10 for one in bins)
    assert len(bins) == 4


def _talk(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": f"An answer to {question}"}]


def _sharegpt(question: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": f"A reply to {question}"}]


def _row(text: str) -> Row:
    talk = Conversation(
        id="x", seed_id="s", provider="offline", teacher="t", turns=(Turn(question=text, answer="a", family="f", structure="s"),)
    )
    content = [{"type": "text", "text": talk.turns[0].question}]
    return Row(
        id="x",
        split="train",
        conversation_id="x",
        seed_id="s",
        provider="offline",
        family="f",
        messages=({"role": "user", "content": content},),
    )
