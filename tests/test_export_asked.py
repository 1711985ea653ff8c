"""What llama.cpp's server says about a model whose numbers overflow is one line, not a traceback."""

from __future__ import annotations

from typing import Any

import pytest

from sysdesign.errors import ArtifactError
from sysdesign.export import asked


def test_probabilities_that_are_no_numbers_are_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    step = {"id": 5, "logprob": None, "top_logprobs": [{"id": 5, "logprob": None}]}  # JSON has no NaN: the server writes null
    said: dict[str, Any] = {
        "props": {"media_marker": "<m>"},
        "apply-template": {"prompt": "hello"},
        "tokenize": {"tokens": [1, 2]},
        "completions": {
            "choices": [{"message": {"content": "!!"}, "logprobs": {"content": [step]}}],
            "usage": {"completion_tokens": 1, "prompt_tokens": 2},
        },
    }
    monkeypatch.setattr(asked, "_call", lambda url, body: said[url.rpartition("/")[2]])
    with pytest.raises(ArtifactError, match="must have finite probabilities.*lower learning rate"):
        asked.ask("http://127.0.0.1:1/v1", [{"role": "user", "content": "hello"}], [], tokens=4, top=1, never=[])
