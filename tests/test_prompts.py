"""The hand-written prompts: the lock, the seeds, and no words shared between what trains and what judges."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sysdesign import prompts
from sysdesign.errors import InputError
from sysdesign.prompts import headline_prompts, lock_new, prompt_hashes, read_prompt, read_yaml, seed_prompts

SEEDS = seed_prompts()
HEADLINE = {prompt.id[:3]: prompt for prompt in headline_prompts()}
TEXTS = ("student/system.v1.md", "conversations/teacher.v3.md", "conversations/judge.v1.md", "evaluate/judge.v1.md")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prompts folder of this test's own, with one released file."""
    (tmp_path / "topic").mkdir()
    (tmp_path / "topic/one.v1.md").write_text("hello\n", encoding="utf-8")
    (tmp_path / "lock.json").write_text("{}")
    monkeypatch.setattr(prompts, "PROMPTS", tmp_path)
    assert lock_new() == ["topic/one.v1.md"]
    return tmp_path


# --- the lock ---------------------------------------------------------------------------------------------------------------------


def test_every_prompt_is_locked_and_nothing_else() -> None:
    files = {path.relative_to(prompts.PROMPTS).as_posix() for path in prompts.PROMPTS.rglob("*.*") if path.suffix in (".md", ".yaml")}
    locked = json.loads((prompts.PROMPTS / "lock.json").read_text())
    assert files == set(locked)
    assert prompt_hashes(files) == locked
    assert all(re.fullmatch(r"[a-z]+/[a-z_-]+\.v\d+\.(md|yaml)", name) for name in files)


def _breaks(folder: Path, how: str) -> None:
    path = folder / "topic/one.v1.md"
    match how:
        case "tampered":
            path.write_text("hello!\n")
        case "missing":
            path.unlink()
        case "a folder":
            path.unlink()
            path.mkdir()
        case "not UTF-8":
            path.write_bytes(b"caf\xe9\n")
            (folder / "lock.json").write_text("{}")
            lock_new()
        case "not locked":
            (folder / "lock.json").write_text("{}")
        case "lock gone":
            (folder / "lock.json").unlink()
        case "lock nonsense":
            (folder / "lock.json").write_text("[1")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("tampered", ["topic/one.v1.md", "sha256", "git checkout", "python -m sysdesign.prompts lock"]),
        ("missing", ["topic/one.v1.md", "readable", "No such file", "git checkout"]),
        ("a folder", ["topic/one.v1.md", "readable", "git checkout"]),
        ("not UTF-8", ["topic/one.v1.md", "UTF-8", "0xe9"]),
        ("not locked", ["topic/one.v1.md", "lock.json", "python -m sysdesign.prompts lock"]),
        ("lock gone", ["lock.json", "readable"]),
        ("lock nonsense", ["lock.json", "git checkout prompts/lock.json"]),
    ],
)
def test_an_unusable_prompt_is_one_line_that_says_what_to_do(folder: Path, how: str, words: list[str]) -> None:
    assert read_prompt("topic/one.v1.md") == "hello\n"
    _breaks(folder, how)
    with pytest.raises(InputError) as raised:
        read_prompt("topic/one.v1.md")
    assert "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value), raised.value


def test_locking_adds_new_files_and_never_accepts_a_changed_one(folder: Path) -> None:
    before = (folder / "lock.json").read_text()
    (folder / "topic/one.v2.md").write_text("hello again\n")
    assert lock_new() == ["topic/one.v2.md"]
    assert json.loads(before).items() <= json.loads((folder / "lock.json").read_text()).items()
    (folder / "topic/one.v1.md").write_text("hello!\n")
    kept = (folder / "lock.json").read_text()
    with pytest.raises(InputError, match="immutable"):
        lock_new()
    assert (folder / "lock.json").read_text() == kept


def test_yaml_that_does_not_parse_or_fit_is_one_line(folder: Path) -> None:
    (folder / "topic/bad.v1.yaml").write_text("- id: [unclosed\n")
    (folder / "topic/odd.v1.yaml").write_text("- {id: x, title: y}\n")
    lock_new()
    for call in (lambda: read_yaml("topic/bad.v1.yaml"), lambda: seed_prompts("topic/odd.v1.yaml")):
        with pytest.raises(InputError) as raised:
            call()
        assert "prompts/topic/" in str(raised.value) and "\n" not in str(raised.value)


def test_the_lock_command_answers() -> None:
    done = subprocess.run([sys.executable, "-m", "sysdesign.prompts"], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m sysdesign.prompts lock")


# --- the seeds --------------------------------------------------------------------------------------------------------------------


def test_fifty_seeds_over_many_domains_patterns_and_levels() -> None:
    assert len(SEEDS) == len({s.id for s in SEEDS}) == len({s.title for s in SEEDS}) == len({s.prompt for s in SEEDS}) == 50
    assert len({s.domain for s in SEEDS}) >= 45
    assert {s.difficulty for s in SEEDS} == {1, 2, 3, 4, 5}
    assert min(Counter(s.pattern for s in SEEDS).values()) >= 3 and len({s.pattern for s in SEEDS}) == 12
    assert min(Counter(skill for s in SEEDS for skill in s.skills).values()) >= 3


@pytest.mark.parametrize("seed", SEEDS, ids=lambda s: s.id)
def test_a_seed_is_whole(seed: prompts.SeedPrompt) -> None:
    sentences = len(re.findall(r"[.?!](?:\s|$)", seed.prompt))
    assert 3 <= sentences <= 8, seed.prompt
    assert sum(bool(re.search(r"\d", line)) for line in seed.requirements.non_functional) >= 1
    assert len(seed.skills) == len(set(seed.skills))
    assert len({part.technology for part in seed.components}) == len(seed.components)
    assert seed.scale.read_write_ratio == pytest.approx(seed.scale.read_qps_peak / seed.scale.write_qps_peak)
    stored_tb = seed.scale.write_qps_peak / seed.scale.peak_to_average * 86_400 * seed.scale.object_kb * seed.scale.retention_days / 1e9
    assert 0.0001 < stored_tb < 200_000, f"{stored_tb} TB"


# --- apart from each other ----------------------------------------------------------------------------------------------------------


def _grams(text: str, n: int = 8) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def test_no_headline_prompt_shares_eight_words_in_a_row_with_the_training_side() -> None:
    trained = set().union(*(_grams(s.model_dump_json()) for s in SEEDS), *(_grams(read_prompt(name)) for name in TEXTS[:2]))
    for prompt in HEADLINE.values():
        assert not _grams(prompt.prompt) & trained, prompt.id


def test_no_headline_prompt_repeats_a_domain_or_another_prompt() -> None:
    assert not {p.domain for p in HEADLINE.values()} & {s.domain for s in SEEDS}
    assert len({p.domain for p in HEADLINE.values()}) == 30
    seen: dict[tuple[str, ...], str] = {}
    for prompt in HEADLINE.values():
        for gram in _grams(prompt.prompt):
            assert seen.setdefault(gram, prompt.id) == prompt.id
    named = {c.name for p in HEADLINE.values() if p.graph for c in p.graph.components}
    assert not named & {part.technology for s in SEEDS for part in s.components}


def test_instructions_are_short_and_free_of_what_would_break_a_modelfile() -> None:
    system = read_prompt("student/system.v1.md")
    assert len(system.split()) < 150 and '"""' not in system
    judge = read_prompt("evaluate/judge.v1.md")
    weights = [int(found) for found in re.findall(r"^\d\. .*?\((\d+)\)\.", judge, re.MULTILINE)]
    assert len(weights) == 8 and sum(weights) == 100
    for name in TEXTS[1:]:
        assert "One JSON object and nothing around it" in read_prompt(name)
