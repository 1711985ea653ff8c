"""A folder of pictures and one question -> a JSONL file of answers, one line a picture; a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from sysdesign.chat.pictures import SUFFIXES, prepare_bytes
from sysdesign.chat.speakers import Speaker
from sysdesign.errors import InputError, LimitError
from sysdesign.graph import Record
from sysdesign.models.chat import Message
from sysdesign.models.stream import gather
from sysdesign.records import append_jsonl, recover_jsonl


class Answered(Record):
    """One picture: an answer, or why there is none."""

    image: str  # relative to the folder
    sha256: str
    model: str
    version: str = ""  # of the model: a name goes on when the model behind it changes
    prompt: str
    answer: str | None = None
    error: str | None = None
    finish: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float | None = None


class Tally(Record):
    """What a run over a folder did."""

    pictures: int
    answered: int  # in this run
    refused: int  # in this run: unreadable or too large
    kept: int  # answered by an earlier run


def infer(speaker: Speaker, folder: Path, prompt: str, answers: Path, *, max_tokens: int, seed: int) -> Tally:
    """Ask `prompt` about every picture below `folder`, in order of path, and append to `answers`.

    A picture is asked about again only if its bytes, the prompt or the model changed. A file that is no picture is a line with an error.
    Raises InputError when there are no pictures, ServiceError when the server goes away: the lines so far are kept.
    """
    from tqdm import tqdm

    if not folder.is_dir():
        raise InputError(str(folder), "must be a folder of pictures", "check --chat.folder")
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not pictures:
        raise InputError(str(folder), f"must hold pictures ({', '.join(sorted(SUFFIXES))})", "check --chat.folder")
    answers.parent.mkdir(parents=True, exist_ok=True)
    done = {_asked(line) for line in recover_jsonl(answers, Answered)}
    answered = refused = kept = 0
    with tempfile.TemporaryDirectory(prefix="sysdesign-infer-") as scratch, tqdm(pictures, unit="picture", desc=folder.name) as bar:
        for path in bar:
            data = path.read_bytes()
            line = Answered(
                image=path.relative_to(folder).as_posix(), sha256=hashlib.sha256(data).hexdigest(), model=speaker.name,
                version=speaker.version, prompt=prompt,
            )  # fmt: skip
            if _asked(line) in done:
                kept += 1
                continue
            try:
                picture = prepare_bytes(data, line.image, speaker.policy, Path(scratch))
            except (InputError, LimitError) as err:
                append_jsonl(answers, line.model_copy(update={"error": str(err)}))
                refused += 1
                continue
            lead = [Message(role="system", text=speaker.system)] if speaker.system else []
            said = gather(speaker.say([*lead, Message(role="user", text=prompt, images=(picture,))], max_tokens, seed, 0.0))
            picture.unlink()
            got = {"answer": said.text} | said.model_dump(include={"finish", "input_tokens", "output_tokens", "seconds"})
            append_jsonl(answers, line.model_copy(update=got))
            answered += 1
    return Tally(pictures=len(pictures), answered=answered, refused=refused, kept=kept)


def _asked(line: Answered) -> tuple[str, ...]:
    return line.image, line.sha256, line.prompt, line.model, line.version
