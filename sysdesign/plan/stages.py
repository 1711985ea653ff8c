"""One stage, its work and a machine -> expected and worst minutes, peak memory, disk and API dollars, and whether it fits."""

from __future__ import annotations

import os
from collections.abc import Callable

from sysdesign.config.conversations import NoJudgeConfig, OfflineTeacherConfig, OpenAITeacherConfig
from sysdesign.config.evaluate import ChatJudge
from sysdesign.config.root import Config
from sysdesign.graph import Record
from sysdesign.models.prices import FREE, read_prices
from sysdesign.models.quote import Job, Quote, quote
from sysdesign.plan.points import Card, Points
from sysdesign.plan.training import training_on
from sysdesign.plan.work import HEADLINE, Work, request_tokens

GIB = 2**30
SHARE_OF_SIZE = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q6_k": 6.6, "q5_k_m": 5.7, "q4_k_m": 4.9}  # bits a weight
K_QUANTS = ("q4_k_m", "q5_k_m", "q6_k")
WORST_MEASURED, WORST_ESTIMATED = 1.5, 2.5  # times the expected minutes
VERDICT_PROMPT, VERDICT_TOKENS = 600, 60  # prompt and visible reply of one verdict on a conversation; assumed
JUDGE_TOKENS = (2200, 900)  # prompt and verdict of one comparison; assumed


class Machine(Record):
    """Where it would run. `card` None: a processor alone. `own`: nothing is rented."""

    name: str
    card: Card | None
    cores: int
    ram_gib: float
    usd: float  # an hour
    usd_high: float
    own: bool


class Estimate(Record):
    """One line of the plan."""

    stage: str
    minutes: float
    worst_minutes: float
    vram_gib: float = 0.0
    ram_gib: float = 1.0
    disk_gb: float = 0.0
    api_usd: float = 0.0
    api_worst_usd: float = 0.0
    measured: bool = False  # by this project on this kind of card; else scaled
    how: str = ""
    why_not: str = ""


def estimate(stage: str, config: Config, work: Work, machine: Machine, points: Points) -> Estimate:
    """What `stage` takes on `machine`. Raises ConfigError for a teacher or judge without a price."""
    ways: dict[str, Callable[[Config, Work, Machine, Points], Estimate]] = {
        "base": _base, "diagrams": _diagrams, "conversations": _conversations, "dataset": _dataset,
        "train": _train, "export": _export, "evaluate": _evaluate, "deploy": _deploy,
    }  # fmt: skip
    found = ways[stage](config, work, machine, points)
    start = points.cost("start_s") / 60
    return found.model_copy(update={"minutes": found.minutes + start, "worst_minutes": found.worst_minutes + 3 * start})


def this_machine_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _base(config: Config, work: Work, machine: Machine, points: Points) -> Estimate:
    if work.tiny:
        return Estimate(stage="base", minutes=0.2, worst_minutes=1, disk_gb=0.004, measured=True, how="built on the spot")
    minutes = work.weight_bytes / 1e6 / points.cost("download_mb_s") / 60
    return Estimate(
        stage="base",
        minutes=minutes,
        worst_minutes=4 * minutes,
        disk_gb=work.weight_bytes / 1e9,
        how=f"{work.weight_bytes / 1e9:.1f} GB from the hub",
    )


def _diagrams(config: Config, work: Work, machine: Machine, points: Points) -> Estimate:
    minutes = work.pictures * points.cost("diagram_cpu_s") / _workers(config, machine) / 60
    disk = work.pictures * (points.cost("picture_bytes") + points.cost("record_bytes"))
    how = f"{work.pictures} pictures on {_workers(config, machine)} cores"
    return Estimate(stage="diagrams", minutes=minutes, worst_minutes=3 * minutes, ram_gib=0.5, disk_gb=disk / 1e9, measured=True, how=how)


def _conversations(config: Config, work: Work, machine: Machine, points: Points) -> Estimate:
    minutes = work.conversations * points.cost("draft_cpu_s") / 60
    disk = work.conversations * points.cost("conversation_bytes") / 1e9
    teacher = config.conversations.teacher
    judged, judged_worst, judge_hours, by = _verdicts(config, work, points)
    if isinstance(teacher, OfflineTeacherConfig):
        how = f"{work.conversations:,} conversations by rules{by}"
        return Estimate(
            stage="conversations", minutes=minutes + judge_hours * 60, worst_minutes=3 * minutes + 4 * judge_hours * 60, disk_gb=disk,
            api_usd=judged, api_worst_usd=judged_worst, measured=not by, how=how,
        )  # fmt: skip
    price = FREE
    if not (isinstance(teacher, OpenAITeacherConfig) and teacher.api == "chat"):
        price = read_prices().price(teacher.model, "openai" if isinstance(teacher, OpenAITeacherConfig) else "anthropic")
    job = teacher_job(config, work, points)
    found: Quote = quote(price, job, in_flight=teacher.concurrency, reply_s=points.cost("api_reply_s"))
    batch = teacher.mode == "batch" and price is not FREE
    cached = teacher.cache and price.caches
    usd = (found.batch_cache if cached else found.batch) if batch else (found.live_cache if cached else found.live)
    wait, worst_wait = (points.cost("batch_hours"), 24.0) if batch else (found.hours_live, 4 * found.hours_live)
    how = f"{job.requests:,} requests to {teacher.model}, {'batch' if batch else 'live'}, {job.prefix}+{job.own} tokens in, {job.reply} out"
    how += (", the first writes the cache" if cached else "") + by
    return Estimate(
        stage="conversations", minutes=minutes + (wait + judge_hours) * 60, worst_minutes=3 * minutes + (worst_wait + 4 * judge_hours) * 60,
        disk_gb=2 * disk, api_usd=usd + judged, api_worst_usd=(found.worst_batch if batch else found.worst_live) + judged_worst, how=how,
    )  # fmt: skip


def _verdicts(config: Config, work: Work, points: Points) -> tuple[float, float, float, str]:
    """Dollars expected and at worst, hours, and words for a judge of every conversation; it reads what a teacher reads."""
    judge = config.conversations.judge
    if isinstance(judge, NoJudgeConfig):
        return 0.0, 0.0, 0.0, ""
    price = read_prices().price(judge.model, "openai" if judge.kind == "openai" else "anthropic", "conversations.judge.model")
    own = request_tokens(config, points)[1] + VERDICT_PROMPT
    reply = min(judge.max_tokens, round(VERDICT_TOKENS + points.request(f"thinking_{judge.effort}")))
    job = Job(requests=work.conversations, prefix=0, own=own, reply=reply, max_tokens=judge.max_tokens)
    found, by = quote(price, job, in_flight=judge.concurrency, reply_s=points.cost("api_reply_s")), f", judged by {judge.model}"
    if judge.mode == "batch":
        return found.batch, found.worst_batch, points.cost("batch_hours"), by
    return found.live, found.worst_live, found.hours_live, by


def teacher_job(config: Config, work: Work, points: Points) -> Job:
    """The requests that a live teacher would be sent."""
    teacher = config.conversations.teacher
    prefix, own, reply = request_tokens(config, points)
    if share := getattr(teacher, "image_share", 0.0):
        formula = read_prices().image["openai" if isinstance(teacher, OpenAITeacherConfig) else "anthropic"]
        side = int(config.diagrams.max_pixels**0.5)
        own += round(share * formula.tokens(side, side))
    return Job(requests=work.conversations, prefix=prefix, own=own, reply=reply, max_tokens=getattr(teacher, "max_tokens", 4096))


def _dataset(config: Config, work: Work, machine: Machine, points: Points) -> Estimate:
    minutes = work.conversations * points.cost("row_cpu_s") / 60
    disk = work.pictures * points.cost("picture_bytes") * 1.2 + work.conversations * 12_000
    how = f"{work.rows_train:,} training rows of {work.row_tokens:,.0f} tokens, {work.picture_tokens:,} of them picture"
    return Estimate(stage="dataset", minutes=minutes, worst_minutes=4 * minutes, ram_gib=1.5, disk_gb=disk / 1e9, measured=True, how=how)


def _train(config: Config, work: Work, machine: Machine, points: Points) -> Estimate:
    checkpoint = work.shape.adapter(config.train.lora.rank) * 14
    frozen = not (config.train.lora.vision or config.train.lora.merger)
    features = work.pictures * work.picture_tokens * 2 * work.shape.hidden if frozen and machine.card else 0
    disk = (3 * checkpoint + features) / 1e9
    tokens = work.steps * config.train.batch * work.row_tokens
    if machine.card is None or config.runtime.device == "cpu":
        rate = points.cost("tiny_tokens_s") if work.tiny else machine.cores * points.cost("cpu_gflops_core") * 1e9 / (6 * work.parameters)
        why = "" if work.tiny else f"on a processor this would take {tokens / rate / 86400:,.0f} days: choose a card"
        minutes = tokens / rate / 60
        ram = 3.0 if work.tiny else 4 * work.parameters / GIB
        how = f"{work.steps} steps at about {rate:,.0f} tokens/s"
        return Estimate(
            stage="train", minutes=minutes, worst_minutes=5 * minutes, ram_gib=ram, disk_gb=disk, measured=work.tiny, how=how, why_not=why
        )
    found = training_on(machine.card, config, work, points)
    worst = WORST_MEASURED if machine.card.measured else WORST_ESTIMATED
    return Estimate(
        stage="train", minutes=found.minutes, worst_minutes=worst * found.minutes, vram_gib=found.peak_gib, disk_gb=disk,
        ram_gib=4 + work.weight_bytes / GIB / 4, measured=machine.card.measured, why_not=found.why_not,
        how=f"{work.steps} steps, {found.tokens_per_s:,.0f} tokens/s: {found.cut}",
    )  # fmt: skip


def _export(config: Config, work: Work, machine: Machine, points: Points) -> Estimate:
    cfg, billions = config.export, (work.parameters + work.shape.vision) / 1e9
    cpu_s = 0.0
    written = 0.0
    for quant in (*cfg.quantisations, *((cfg.ship,) if cfg.base_gguf else ())):
        cpu_s += work.parameters / 1e9 * points.cost("quantise_cpu_s_billion" if quant in K_QUANTS else "copy_cpu_s_billion")
        written += work.parameters * SHARE_OF_SIZE[quant] / 8
    written += 2 * work.shape.vision + (work.weight_bytes if cfg.keep_merged else 0)
    seconds = cpu_s / max(machine.cores, 1)
    vram, ram, why = 0.0, 2.5, ""
    if cfg.parity.prompts:
        tokens = cfg.parity.prompts * (ROW_HALF + work.picture_tokens / 2)
        flops = tokens * 2 * (work.parameters + 4 * work.shape.vision)
        weights = (4 if cfg.parity.precision == "float32" else 2) * billions * 1e9 / GIB
        speed = machine.cores * points.cost("cpu_gflops_core") * 1e9
        on_card = machine.card is not None and config.runtime.device != "cpu"
        reference = 2e13 if on_card else speed
        files = len({*cfg.quantisations, *(["f16"] if cfg.parity.f16 else [])})
        seconds += flops * (2 + 2 * files) / reference + flops * files / speed
        if files > len(cfg.quantisations):  # an F16 file for the certificate alone, there until it is made
            written += work.parameters * SHARE_OF_SIZE["f16"] / 8
            seconds += work.parameters / 1e9 * points.cost("copy_cpu_s_billion") / max(machine.cores, 1)
        seconds += 3 * weights * points.cost("load_s_gib")
        ram += weights + written / GIB / 2
        vram = weights * 1.05 if on_card else 0.0
        if on_card and machine.card is not None and vram > machine.card.gib:
            half = "set export.parity.precision bfloat16" if cfg.parity.precision == "float32" and vram / 2 < machine.card.gib else ""
            why = f"the certificate's reference needs {vram:.1f} GiB: {half or 'export with --runtime.device cpu'}"
    how = f"{', '.join(cfg.quantisations)}{' and the base' if cfg.base_gguf else ''}, certificate over {cfg.parity.prompts} prompts"
    return Estimate(
        stage="export", minutes=seconds / 60, worst_minutes=WORST_ESTIMATED * seconds / 60, vram_gib=vram, ram_gib=ram,
        disk_gb=written / 1e9, measured=work.tiny, how=how, why_not=why,
    )  # fmt: skip


ROW_HALF = 250  # tokens of a parity prompt besides its picture


def _evaluate(config: Config, work: Work, machine: Machine, points: Points) -> Estimate:
    """Two operations a weight for each token read; a picture token passes four patches through the vision tower. In batches every question
    reads its picture; llama.cpp is asked about one picture after the other and reads each once (`sysdesign.evaluate.ask`).
    """
    cfg = config.evaluate
    api, api_worst, judged = _judge(config, work)
    questions = 2 * work.asked
    how = f"{questions:,} answers ({work.asked} to each model) through {cfg.through}{judged}"
    if work.tiny:
        minutes = questions * points.cost("tiny_item_s") / 60
        return Estimate(
            stage="evaluate", minutes=minutes, worst_minutes=6 * minutes, ram_gib=1.5, disk_gb=0.004, api_usd=api, api_worst_usd=api_worst,
            measured=True, how=how,
        )  # fmt: skip
    shown = work.picture_tokens * (work.pictures_read if cfg.through == "llamacpp" else work.asked_with_picture)
    flops = 2 * ((work.asked * ROW_HALF + shown) * 2 * work.parameters + shown * 4 * 2 * work.shape.vision)
    written = questions * work.answer_tokens
    if cfg.through == "transformers" and machine.card is not None and config.runtime.device != "cpu":
        wide = 4 if cfg.precision == "float32" else 2
        cache = cfg.group * cfg.context_tokens * work.shape.layers * 2 * work.shape.keys * wide / GIB
        vram = (work.parameters + work.shape.vision) * wide / GIB + cache + 1.0
        steps_s = points.cost("decode_tokens_s") * machine.card.bandwidth_gbs / 4800
        seconds = flops / (machine.card.tflops * 1e12 * 0.3) + written / (steps_s * cfg.group * 0.6)
        why = (
            f"answers in {cfg.precision} need {vram:.1f} GiB: lower evaluate.group, or use a larger card" if vram > machine.card.gib else ""
        )
        ram = 4 + work.weight_bytes / GIB / 4
    else:  # the packaged llama.cpp computes on the processor
        size = work.parameters * SHARE_OF_SIZE[config.export.ship] / 8
        seconds = flops / (machine.cores * points.cost("cpu_gflops_core") * 1e9) + written * size / (points.cost("cpu_read_gbs") * 1e9)
        vram, why, ram = 0.0, "", 2 * size / GIB + 4
        how += f" on {machine.cores} cores"
    return Estimate(
        stage="evaluate", minutes=seconds / 60, worst_minutes=WORST_ESTIMATED * seconds / 60, vram_gib=vram, ram_gib=ram, disk_gb=0.05,
        api_usd=api, api_worst_usd=api_worst, how=how, why_not=why,
    )  # fmt: skip


def _judge(config: Config, work: Work) -> tuple[float, float, str]:
    judge = config.evaluate.judge
    if not isinstance(judge, ChatJudge):
        return 0.0, 0.0, ""
    if judge.kind == "chat":
        return 0.0, 0.0, f", judged by {judge.model}"
    price = read_prices().price(judge.model, judge.kind)
    calls, (own, reply) = 2 * HEADLINE, JUDGE_TOKENS
    usd = calls * (own * price.input + reply * price.output) / 1e6
    return usd, calls * price.worst(2 * own, judge.max_tokens, batch=False) / 1e6, f", judged by {judge.model}"


def _deploy(config: Config, work: Work, machine: Machine, points: Points) -> Estimate:
    size = (work.parameters * SHARE_OF_SIZE[config.export.ship] / 8 + 2 * work.shape.vision) / 1e9
    minutes = 0.1 if work.tiny else size * 8 / 60 + 3
    return Estimate(
        stage="deploy", minutes=minutes, worst_minutes=4 * minutes, ram_gib=size * 1.2 + 1, disk_gb=2 * size, measured=work.tiny,
        how="health check, then the serving name moves",
    )  # fmt: skip


def _workers(config: Config, machine: Machine) -> int:
    return min(config.runtime.workers or machine.cores, machine.cores)
