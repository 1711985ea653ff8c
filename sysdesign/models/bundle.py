"""A folder that an export wrote -> what a server or client needs of it: two GGUF files, the Modelfile's settings, the picture policy.

The Modelfile is the one source: what Ollama would be told is what llama.cpp and the chat are told. The picture policy travels
beside it in `export.json`, because a client that resizes pictures in another way shows the model something it was not trained on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sysdesign.errors import ArtifactError
from sysdesign.graph import Record
from sysdesign.models.picture import PicturePolicy

REPORT, CERTIFICATE = "export.json", "parity.json"


class Bundle(Record):
    """Files and settings of one servable model."""

    folder: Path
    text: Path
    projector: Path
    template: str
    system: str
    parameters: dict[str, Any]  # as Ollama's create takes them: `stop` is a list, numbers are numbers
    requires: str | None
    policy: PicturePolicy

    @property
    def context(self) -> int:
        """Tokens of context the model is served with."""
        return int(self.parameters.get("num_ctx", 8192))

    @property
    def stop(self) -> tuple[str, ...]:
        return tuple(self.parameters.get("stop", ()))


def open_bundle(folder: Path) -> Bundle:
    """The bundle of an export folder (an artefact, or a registered version as fetched from the registry).

    Reads `Modelfile`, `export.json` and the ends of both GGUF files. Raises ArtifactError when a file is missing, cut short or
    not what the Modelfile says.
    """
    mend = "export again: python -m pipelines.export"
    modelfile = folder / "Modelfile"
    try:
        said = parse_modelfile(modelfile.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as err:
        raise ArtifactError(str(modelfile), f"must be a readable Modelfile ({err})", mend) from None
    froms = said["from"]
    if len(froms) != 2:
        raise ArtifactError(str(modelfile), "names two files, the text model and the vision projector", mend, froms)
    files = [folder / name for name in froms]
    kinds = [check_gguf(file, mend) for file in files]
    if sorted(kinds) != ["projector", "text"]:
        raise ArtifactError(str(modelfile), "names one text model and one vision projector", mend, kinds)
    report = folder / REPORT
    try:
        policy = PicturePolicy.model_validate(json.loads(report.read_text(encoding="utf-8"))["picture"])
    except (OSError, ValueError, KeyError, ValidationError) as err:
        raise ArtifactError(str(report), f"must hold the picture policy under `picture` ({type(err).__name__})", mend) from None
    text, projector = files if kinds == ["text", "projector"] else reversed(files)
    return Bundle(
        folder=folder, text=text, projector=projector, template=said["template"], system=said["system"], parameters=said["parameters"],
        requires=said["requires"], policy=policy,
    )  # fmt: skip


def certified(folder: Path) -> bool | None:
    """Whether the parity certificate of an export says that its files behave like what was trained; None without a certificate."""
    path = folder / CERTIFICATE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ArtifactError(str(path), f"must be a readable certificate ({error})", "run export again") from error
    passed = found.get("passed") if isinstance(found, dict) else None
    return passed if isinstance(passed, bool) else None


def uncertified(where: str) -> ArtifactError:
    """The error of serving what a certificate found to differ from what was trained."""
    do = "read parity.html, then export and evaluate again; or, knowing what differs, --deploy.despite_certificate true"
    return ArtifactError(where, "must have passed its parity certificate to serve people", do, "failed")


def template_with_policy(bundle: Bundle) -> str:
    """The chat template with the picture policy as a comment, which Ollama keeps and shows: so any client can read it there."""
    return f"{{{{/* picture {bundle.policy.model_dump_json()} */}}}}{bundle.template}"


def policy_in_template(template: str) -> PicturePolicy | None:
    """The policy that `template_with_policy` put there, also in a Modelfile that holds the template; None when there is none."""
    found = re.search(r"\{\{/\* picture (\{[^}]*\}) \*/\}\}", template)
    try:
        return PicturePolicy.model_validate_json(found[1]) if found else None
    except ValidationError:
        return None


def parse_modelfile(text: str) -> dict[str, Any]:
    """`from` (list of paths), `template`, `system`, `parameters`, `requires` of a Modelfile.

    Values may be bare to the end of the line, "quoted", or over several lines between triple quotes. Raises ValueError on an
    instruction that is unknown or not closed. (Format: Ollama's docs/modelfile.md, read 2026-08.)
    """
    found: dict[str, Any] = {"from": [], "template": "", "system": "", "parameters": {}, "requires": None}
    for command, value in _instructions(text):
        match command:
            case "FROM":
                found["from"].append(value.removeprefix("./"))
            case "TEMPLATE" | "SYSTEM":
                found[command.lower()] = value
            case "REQUIRES":
                found["requires"] = value
            case "LICENSE" | "MESSAGE":
                pass  # shown by Ollama, of no effect on answers to our own conversations
            case "PARAMETER":
                name, _, raw = value.partition(" ")
                plain = _unquote(raw.strip())
                if name == "stop":
                    found["parameters"].setdefault("stop", []).append(plain)
                else:
                    found["parameters"][name] = _number(plain)
            case _:
                raise ValueError(f"unknown instruction {command!r}")
    return found


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    pattern = re.compile(r"[ \t]*(?:(#[^\n]*)|([A-Za-z]+)[ \t]+)?")
    while position < len(text):
        start = pattern.match(text, position)
        assert start is not None  # every part is optional
        position = start.end()
        if start.group(2) is None:
            position = max(position, text.find("\n", position) + 1 or len(text))
            continue
        if text.startswith('"""', position):
            end = text.find('"""', position + 3)
            if end < 0:
                raise ValueError(f'{start.group(2)}: """ is not closed')
            value, position = text[position + 3 : end], end + 3
        else:
            end = text.find("\n", position)
            end = len(text) if end < 0 else end
            value, position = text[position:end].strip(), end
            value = value if start.group(2).upper() == "PARAMETER" else _unquote(value)
        yield start.group(2).upper(), value


def _unquote(value: str) -> str:
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] == '"' else value


def _number(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def check_gguf(file: Path, mend: str) -> str:
    """`text` or `projector`, for a GGUF file whose every tensor lies inside it. Raises ArtifactError otherwise."""
    from gguf import GGUFReader

    if not file.is_file():
        raise ArtifactError(str(file), "the file that the Modelfile names must exist", mend)
    with file.open("rb") as data:
        magic = data.read(4)
    if magic != b"GGUF":
        raise ArtifactError(str(file), "must be a GGUF file", mend, magic)
    try:
        reader = GGUFReader(file)
        kind, architecture = (reader.get_field(key) for key in ("general.type", "general.architecture"))
        said = [str(field.contents()) for field in (kind, architecture) if field is not None]
    except Exception as err:  # the reader raises whatever numpy or struct raise where the bytes end
        size = f"{file.stat().st_size} bytes"
        raise ArtifactError(
            str(file), f"must be a whole GGUF file; it is cut short or damaged ({type(err).__name__})", mend, size
        ) from None
    return "projector" if {"mmproj", "projector", "clip"} & set(said) else "text"


def sha256_file(path: Path) -> str:
    """64 hex digits over the bytes of a file."""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
