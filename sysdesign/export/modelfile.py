"""What was trained -> a Modelfile: the two GGUF files, and everything Ollama would otherwise guess.

Guessed by Ollama when left out: the template (by likeness to known ones), a context of 4,096 tokens (four pictures overflow it), a
repetition penalty that changes greedy answers. (Ollama docs/modelfile.md and llm/llama_server.go, read 2026-08.)
"""

from __future__ import annotations

from sysdesign.errors import InputError
from sysdesign.models.picture import PicturePolicy

OLLAMA_MINIMUM = "0.30.0"  # from here on GGUF files run in upstream llama.cpp; 0.17 answered pictures with gibberish (ollama#14388)
STOPS = ("<|im_start|>", "<|im_end|>")
# ChatML as the processor's own template writes it. No vision tags: the server puts them around each picture itself.
TEMPLATE = """\
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""


def write_modelfile(text: str, projector: str, system: str, policy: PicturePolicy, context: int, temperature: float) -> str:
    """The Modelfile; `text` and `projector` are paths relative to it. Raises InputError when the system prompt cannot be quoted."""
    if '"""' in system:
        raise InputError("prompts/student/system.v1.md", 'must not contain """', "release the next version of the prompt without it")
    lines = [
        f"# Needs Ollama {OLLAMA_MINIMUM} or newer. Pictures as in training: sides that are multiples of {policy.side} pixels,",
        f"# {policy.min_tokens} to {policy.max_tokens} tiles of {policy.side} x {policy.side}. Resize before sending.",
        f"FROM ./{text}",
        f"FROM ./{projector}",
        f'TEMPLATE """{TEMPLATE}"""',
        f'SYSTEM """{system.strip()}"""',
        *(f"PARAMETER stop {stop}" for stop in STOPS),
        f"PARAMETER num_ctx {context}",
        f"PARAMETER temperature {temperature:g}",
        "PARAMETER repeat_penalty 1",
        f"REQUIRES {OLLAMA_MINIMUM}",
    ]
    return "\n".join(lines) + "\n"
