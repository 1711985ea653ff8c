"""Servers and keys that the configuration names -> findings: Ollama, providers' keys, the clock. A key is never shown or logged."""

from __future__ import annotations

import datetime
import os
import threading
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from sysdesign.config.conversations import ClaudeTeacherConfig, JudgeConfig, OfflineTeacherConfig, OpenAITeacherConfig
from sysdesign.config.evaluate import ChatJudge
from sysdesign.config.root import Config
from sysdesign.doctor.findings import Finding, bad, ok, warn
from sysdesign.errors import SysdesignError
from sysdesign.graph import Record

OLDEST_OLLAMA = (0, 30, 0)  # earlier ones garble pictures for this model (ollama issue 14388)
WAIT_S = 2.0
KEY_WAIT_S = 15.0
SKEW_S = 300  # a larger difference breaks signed uploads and the order of runs


class Paid(Record):
    """Somebody who is asked through an API."""

    who: str
    kind: Literal["anthropic", "openai", "chat"]
    model: str
    key_env: str
    base_url: str | None


def ollama(config: Config) -> Finding:
    """Answers at its address and is new enough."""
    import httpx

    url = config.deploy.ollama.url.rstrip("/")
    start = "ollama serve (install: https://ollama.com/download), or set deploy.ollama.url"
    try:
        version = str(httpx.get(f"{url}/api/version", timeout=WAIT_S, trust_env=False).json()["version"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        if config.deploy.to == "ollama":
            return bad("ollama", f"does not answer at {url}", start)
        return warn("ollama", f"does not answer at {url}; deploy then uses the packaged llama.cpp", start)
    numbers = tuple(int(part) for part in version.split("-")[0].split("+")[0].split(".") if part.isdigit())
    if numbers < OLDEST_OLLAMA and numbers != (0, 0, 0):  # 0.0.0 is a build from source
        says = f"{version} at {url}; {'.'.join(map(str, OLDEST_OLLAMA))} is the oldest that sees pictures rightly"
        mend = "curl -fsSL https://ollama.com/install.sh | sh (macOS, Windows: https://ollama.com/download)"
        return bad("ollama", says, mend) if config.deploy.to == "ollama" else warn("ollama", says, mend)
    return ok("ollama", f"{version} at {url}")


def keys(config: Config) -> list[Finding]:
    """One finding for each API that the configuration asks."""
    return [_key(paid) for paid in paid_ones(config)] or [ok("api keys", "this configuration asks no API")]


def paid_ones(config: Config) -> list[Paid]:
    """Teacher and judge, where they are somebody's API."""
    found: list[Paid] = []
    teacher, judge = config.conversations.teacher, config.evaluate.judge
    if not isinstance(teacher, OfflineTeacherConfig):
        kind: Any = "anthropic" if isinstance(teacher, ClaudeTeacherConfig) else "openai"
        if isinstance(teacher, OpenAITeacherConfig) and teacher.api == "chat":
            kind = "chat"
        found.append(Paid(who="teacher", kind=kind, model=teacher.model, key_env=teacher.api_key_env, base_url=teacher.base_url))
    if isinstance(sieving := config.conversations.judge, JudgeConfig):
        maker, env = ("openai", "OPENAI_API_KEY") if sieving.kind == "openai" else ("anthropic", "ANTHROPIC_API_KEY")
        key_env = sieving.api_key_env or env
        found.append(Paid(who="conversations judge", kind=maker, model=sieving.model, key_env=key_env, base_url=sieving.base_url))
    if isinstance(judge, ChatJudge):
        found.append(Paid(who="judge", kind=judge.kind, model=judge.model, key_env=judge.key_env, base_url=judge.base_url))
    return found


def _key(paid: Paid) -> Finding:
    name = f"{paid.who} key"
    key = os.environ.get(paid.key_env, "") if paid.key_env else ""
    if paid.kind == "chat":
        return _local_server(paid)
    if not key:
        return bad(
            name,
            f"{paid.key_env or 'its variable'} is not set",
            f"export {paid.key_env or 'KEY'}=... (a .env file is ignored by git), or take another {paid.who}",
        )
    if key != key.strip() or any(letter.isspace() for letter in key) or key.strip("\"'") != key:
        return bad(
            name,
            f"{paid.key_env} holds spaces or quotes around the key",
            f"export {paid.key_env}=$(tr -d '[:space:]\\042\\047' <<< \"${paid.key_env}\")",
        )
    said: list[SysdesignError | Exception | int] = []
    asking = threading.Thread(target=lambda: said.append(_count(paid)), daemon=True)
    asking.start()
    asking.join(KEY_WAIT_S)
    if not said:
        return warn(
            name, f"{paid.key_env} is set; the provider did not answer in {KEY_WAIT_S:.0f} s", "look at your network, then run this again"
        )
    if isinstance(said[0], int):
        return ok(name, f"{paid.key_env} is set and accepted for {paid.model}")
    told = str(said[0]).replace(key, "***").splitlines()[0][:240]
    return bad(name, f"{paid.key_env} is set, but {told}", "make a new key on the provider's page, or choose another model")


def _count(paid: Paid) -> int | Exception:
    """Tokens of a word: the cheapest question that needs a good key, and one that providers do not bill."""
    from sysdesign.models.paid import Request, open_provider

    try:
        provider = open_provider(paid.kind, paid.model, key_env=paid.key_env, base_url=paid.base_url)
        try:
            return provider.count(Request(prefix="", text="ping", max_tokens=16))
        finally:
            provider.close()
    except Exception as error:  # SDKs have their own families; a finding must come out of any
        return error


def _local_server(paid: Paid) -> Finding:
    import httpx

    name = f"{paid.who} server"
    try:
        answer = httpx.get(f"{(paid.base_url or '').rstrip('/')}/models", timeout=WAIT_S, trust_env=False)
        names = [str(model["id"]) for model in answer.json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return bad(name, f"nothing answers at {paid.base_url}/models", "start the server, for example: ollama serve")
    if paid.model not in names and f"{paid.model}:latest" not in names:
        return bad(name, f"{paid.base_url} has no model {paid.model}", f"ollama pull {paid.model}")
    return ok(name, f"{paid.model} at {paid.base_url}")


def clock(newest_known: datetime.date, server_date: str | None) -> Finding:
    """Not before what is known to have happened, and near the tracking server's when there is one."""
    now = datetime.datetime.now(datetime.UTC)
    mend = "sudo timedatectl set-ntp true (macOS: sudo sntp -sS time.apple.com)"
    if now.date() < newest_known - datetime.timedelta(days=1):
        return bad("clock", f"says {now:%Y-%m-%d}, before the project's own data of {newest_known}", mend)
    if server_date:
        try:
            skew = abs((parsedate_to_datetime(server_date) - now).total_seconds())
        except (ValueError, TypeError):
            skew = 0.0
        if skew > SKEW_S:
            return warn("clock", f"{skew / 60:.0f} min away from the tracking server's", mend)
    return ok("clock", f"{now:%Y-%m-%d %H:%M} UTC")
