"""Conversations and diagrams -> train, val and test rows, each proved against the processor of the base that will be tuned."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path

from sysdesign.artifacts import Artifact
from sysdesign.config.dataset import DatasetConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.dataset.assemble import FUNNEL, SPLITS, Tally, assemble
from sysdesign.dataset.card import card
from sysdesign.dataset.compiling import Compiler
from sysdesign.dataset.content import content_sha256
from sysdesign.dataset.diagrams import DiagramIndex
from sysdesign.dataset.draft import Splits
from sysdesign.dataset.gather import conversation_source, gather, store_pictures, user_sources
from sysdesign.dataset.layout import Layout, lay_out_split
from sysdesign.dataset.leaks import Headline, LeakProof
from sysdesign.dataset.pictures import Picture, PictureStore
from sysdesign.dataset.proof import prove
from sysdesign.dataset.report import DatasetReport
from sysdesign.dataset.splits import split_topologies
from sysdesign.errors import InputError
from sysdesign.models.base import FAMILIES, load_processor, read_base
from sysdesign.models.picture import PicturePolicy
from sysdesign.models.rows import fingerprint
from sysdesign.prompts import HEADLINE, headline_prompts, prompt_hashes, read_prompt
from sysdesign.records import MetricLog, write_jsonl

SYSTEM = "student/system.v1.md"


def dataset(
    cfg: DatasetConfig,
    *,
    seed: int,
    out: Path,
    log: MetricLog,
    runtime: RuntimeConfig,
    conversations: Artifact,
    diagrams: Artifact,
    base: Artifact,
) -> DatasetReport:
    """Compile every row against the base's processor and chat template, and split without leaks.

    Reads: `conversations.jsonl`; `diagrams.jsonl`, `headline.jsonl` and pictures; the base's processor (no weights); the student's
    system prompt and the headline prompts; the files of `cfg.extra` and `cfg.replay`.
    Writes: `rows/<split>.jsonl`, `hf/<split>/data.parquet`, `images/`, `pictures.jsonl`, `probes.jsonl`, `rejected.jsonl`,
    `compile.json`, `packing.json` (training rows of each full-length sequence), `card.md`. A killed run goes on with the pictures
    and chunks it has.
    Raises: InputError when no training row is left or a file of yours cannot be read, ArtifactError when the processor would
    resize a picture that the policy aligned.
    """
    from tqdm import tqdm

    scratch = out / ".scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    about = read_base(base)
    processor = load_processor(base)
    policy = PicturePolicy(side=FAMILIES[about.family].side, min_tokens=cfg.picture.min_tokens, max_tokens=cfg.picture.max_tokens)
    index = DiagramIndex(diagrams.path / "diagrams.jsonl")
    exam = DiagramIndex(diagrams.path / "headline.jsonl") if (diagrams.path / "headline.jsonl").exists() else None
    store = PictureStore(out, scratch / "pictures.jsonl", policy)
    workers = runtime.workers or len(os.sched_getaffinity(0))
    with tqdm(total=len(index), desc="pictures", unit="picture", disable=None) as bar:
        drawn = store_pictures(index, diagrams.path, store, workers, bar.update)
        shown = store_pictures(exam, diagrams.path, store, workers, bar.update) if exam else {}
    splits = _splits(cfg, index, exam, seed)
    prompts = [(prompt.id, prompt.prompt) for prompt in headline_prompts()]
    system = read_prompt(SYSTEM).strip()
    compiler = Compiler(processor, policy.side, cfg.max_tokens, out)
    beyond: Counter[str] = Counter()
    sources = [
        conversation_source(conversations.path / "conversations.jsonl", index, drawn, splits, system),
        *user_sources("extra", cfg, store, system, seed, beyond),
        *user_sources("replay", cfg, store, system, seed, beyond),
    ]
    with tqdm(desc="rows", unit="row", disable=None) as bar:
        parts = gather(sources, scratch / "parts", compiler, Headline(prompts), bar.update)
    pictures = {picture.name: picture for picture in store.all()}
    judged = {p.name for p in shown.values() if isinstance(p, Picture)}
    judged |= {p.name for info in index if splits.topologies[info.topology] == "test" and isinstance(p := drawn[info.id], Picture)}
    tally = assemble(parts, out, pictures, judged, cfg.replay_share, cfg.probe_count, seed)
    for source, count in beyond.items():
        tally.funnel.setdefault(source, Counter())["beyond_max_rows"] = count
    if not tally.tokens["train"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in tally.rejected.most_common(5)) or "there were none"
        law = f"at least one training row must be left ({reasons})"
        raise InputError("conversations.jsonl", law, "see rejected.jsonl; make more conversations, or raise dataset.max_tokens", 0)
    for row in tally.sample:
        compiler.check_whole(row)
    held_out_styles = {info.style for info in index if info.held_out_style}
    dropped = sum(tally.rejected[reason] for reason in ("headline_text", "headline_topology"))
    proof = prove(out, pictures, held_out_styles, prompts, prompt_hashes([HEADLINE])[HEADLINE], dropped)
    layouts: dict[str, Layout] = {
        split: lay_out_split(tally.tokens[split], tally.image_tokens[split], tally.trained_tokens[split], cfg.max_tokens, split == "train")
        for split in SPLITS
    }
    used = _keep_used(out, store)
    content = content_sha256(out, (picture.pixels_sha256 for picture in used))
    funnel = conversations.path / "funnel.json"
    upstream = json.loads(funnel.read_text(encoding="utf-8")) if funnel.is_file() else {}
    compiled = {
        "processor_sha256": fingerprint(processor),
        "base": about.model_dump(mode="json", exclude={"name"} if about.kind == "folder" else None),
        "picture": policy.model_dump(mode="json"),
        "max_tokens": cfg.max_tokens,
        "system_sha256": hashlib.sha256(system.encode()).hexdigest(),
        "sizes": [{"width": width, "height": height, "tokens": n} for (width, height), n in sorted(_sizes(used, policy).items())],
        "splits": {split: layout.model_dump(mode="json", exclude={"packed"}) for split, layout in layouts.items()},
        "leaks": proof.model_dump(mode="json"),
        "funnel": {source: {step: steps[step] for step in FUNNEL} for source, steps in tally.funnel.items()},
        "rejected": dict(sorted(tally.rejected.items())),
        "checked_whole": [row.id for row in tally.sample],
    }
    (out / "compile.json").write_text(json.dumps(compiled, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (out / "packing.json").write_text(json.dumps(layouts["train"].packed, separators=(",", ":")) + "\n", encoding="utf-8")
    (out / "card.md").write_text(card(cfg, about, policy, tally, layouts, proof, len(used), content, upstream), encoding="utf-8")
    shutil.rmtree(scratch)
    report = _report(layouts, tally, len(used), proof, beyond.total(), content)
    log.metrics(report.metrics())
    log.file(out / "card.md")
    log.file(out / "compile.json")
    return report


def _splits(cfg: DatasetConfig, index: DiagramIndex, exam: DiagramIndex | None, seed: int) -> Splits:
    held_out = {info.topology for info in index if info.held_out_style}
    topologies = split_topologies((info.topology for info in index), held_out, cfg.val_share, cfg.test_share, seed)
    barred = {info.topology for info in exam} if exam else set()
    return Splits(topologies, barred, cfg.val_share, cfg.test_share, seed)


def _keep_used(out: Path, store: PictureStore) -> list[Picture]:
    """Drop pictures that no written row shows, and list the others with the source each was made from."""
    names: set[str] = set()
    for split in SPLITS:
        with (out / "rows" / f"{split}.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                names.update(name.removeprefix("images/") for name in json.loads(line).get("images", ()))
    used = [picture for picture in store.all() if picture.name in names]
    for path in (out / "images").iterdir():
        if path.name not in names:
            path.unlink()
    write_jsonl(out / "pictures.jsonl", used)
    return used


def _sizes(pictures: list[Picture], policy: PicturePolicy) -> dict[tuple[int, int], int]:
    return {(p.width, p.height): (p.width // policy.side) * (p.height // policy.side) for p in pictures}


def _report(layouts: dict[str, Layout], tally: Tally, pictures: int, proof: LeakProof, not_read: int, content: str) -> DatasetReport:
    train = layouts["train"]
    return DatasetReport(
        rows_train=train.rows, rows_val=layouts["val"].rows, rows_test=layouts["test"].rows,
        probes=tally.probes, probe_graphs=tally.probe_graphs,
        pictures=pictures, rejected=sum(tally.rejected.values()), tokens=sum(layout.tokens for layout in layouts.values()),
        longest=max(layout.longest for layout in layouts.values()), median=train.median,
        image_share=round(train.image_tokens / train.tokens, 4), trained_share=round(train.trained_tokens / train.tokens, 4),
        packed_sequences=train.bins, shared_with_test=proof.shared_topologies + proof.shared_pictures,
        not_read=not_read, content_sha256=content, leaks=proof,
    )  # fmt: skip
