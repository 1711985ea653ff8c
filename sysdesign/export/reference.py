"""One transformers model whose weights are exchanged -> log-probabilities of the live adapter, the merge, and each GGUF file's weights.

The model is loaded once. The adapter runs on it as PEFT runs it; then its parameters are overwritten block by block, from the same
merge that wrote the files, and from the files themselves, dequantised by the gguf package: code that shares nothing with the kernels
that quantised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sysdesign.errors import ArtifactError
from sysdesign.export.certificate import Answer
from sysdesign.export.families import Layout, Piece
from sysdesign.export.gguf_file import BLOCK
from sysdesign.export.merge import Merge
from sysdesign.export.presence import Presence, presence
from sysdesign.export.weights import canonical

ENDS = ("<|im_end|>", "<|endoftext|>")  # llama.cpp ends an answer at either


class Reference:
    """Holds the model. `ids`: token ids of each prompt, pictures expanded."""

    def __init__(self, folder: Path, processor: Path, adapter: Path, *, device: str, precision: str, merge: Merge, layout: Layout) -> None:
        """Loads the base and the adapter; with `merge.dequantised` the base is first brought to the 4-bit form training saw."""
        import torch
        from peft import PeftModel
        from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        self._merge, self._layout = merge, layout
        self.processor: Any = AutoProcessor.from_pretrained(processor)
        where = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=getattr(torch, precision), attn_implementation="eager")
        model.generation_config = GenerationConfig()  # a published one repeats itself less: those are not the likeliest tokens
        self._model = model.to(where).eval()
        if merge.dequantised:
            self._fill_from_merge(only_base=True)
        self._model = PeftModel.from_pretrained(self._model, adapter, autocast_adapter_dtype=False).eval()

    def become_merged(self) -> None:
        """The adapter goes; the parameters become the merge's."""
        if hasattr(self._model, "unload"):
            self._model = self._model.unload()
        self._fill_from_merge(only_base=False)

    def become(self, text: Path, projector: Path) -> None:
        """The parameters become those of two GGUF files, dequantised."""
        for path, pieces in ((text, self._layout.text_pieces), (projector, self._layout.vision_pieces)):
            self._fill_from_gguf(path, {piece.name: piece for piece in pieces})

    def presence(self, path: Path) -> Presence:
        """How much of the adapter is in a text model or a projector."""
        pieces = (*self._layout.text_pieces, *self._layout.vision_pieces)
        return presence(path, {piece.name: piece for piece in pieces}, self._merge)

    @property
    def vision_was_tuned(self) -> bool:
        """Whether the adapter changes the projector's file."""
        return any(name.startswith("visual.") for name in self._merge.adapter.pairs)

    def prompt(self, messages: Sequence[Mapping[str, Any]], images: Sequence[Path]) -> tuple[str, Any]:
        """The prompt as this side's template writes it, and the processor's tensors for it."""
        with _opened(images) as pictures:
            text = self.processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
            return text, self.processor(text=[text], images=pictures or None, return_tensors="pt")

    def log_probabilities(self, inputs: Any, tokens: Sequence[int]) -> np.ndarray:
        """(len(tokens), vocabulary) float32: what this side gives at each place, when all tokens before it are `tokens`."""
        import torch

        device = self._model.device
        forced = torch.tensor([list(tokens)], dtype=torch.int64)
        length = inputs["input_ids"].shape[1]
        given = {name: value.to(device) for name, value in inputs.items()}
        given["input_ids"] = torch.cat([inputs["input_ids"], forced], dim=1).to(device)
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        if "mm_token_type_ids" in inputs:
            given["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(forced)], dim=1).to(device)
        with torch.inference_mode():
            logits = self._model(**given, logits_to_keep=len(tokens) + 1).logits[0, :-1].float()
        assert logits.shape[0] == len(tokens) and given["input_ids"].shape[1] == length + len(tokens)
        return np.asarray(torch.log_softmax(logits, dim=-1).cpu().numpy())

    def greedy(self, inputs: Any, tokens: int, never: Sequence[int]) -> tuple[str, bool]:
        """This side's own greedy answer of at most `tokens` tokens, none of them in `never`, and whether it ended by itself."""
        import torch
        from transformers import GenerationConfig

        tokenizer = self.processor.tokenizer
        ends = sorted({tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(ENDS))} - {None, tokenizer.unk_token_id})
        cfg = GenerationConfig(
            max_new_tokens=tokens, do_sample=False, eos_token_id=ends, pad_token_id=ends[0], suppress_tokens=list(never) or None
        )
        given = {name: value.to(self._model.device) for name, value in inputs.items()}
        with torch.inference_mode():
            said = self._model.generate(**given, generation_config=cfg)[0, inputs["input_ids"].shape[1] :].tolist()
        return tokenizer.decode(said, skip_special_tokens=True), bool(said) and said[-1] in ends

    def _parameters(self) -> Iterator[tuple[str, Any]]:
        for name, parameter in self._model.named_parameters():
            yield canonical(name), parameter

    def _fill_from_merge(self, only_base: bool) -> None:
        import torch

        merge = self._merge
        for name, parameter in self._parameters():
            if name not in merge.weights or (only_base and name not in merge.adapter.pairs):
                continue
            flat = parameter.data.reshape(parameter.shape[0], -1)
            step = max(1, BLOCK // flat.shape[1])
            for start in range(0, flat.shape[0], step):
                stop = min(start + step, flat.shape[0])
                rows = merge.base_rows(name, start, stop) if only_base else merge.rows(name, start, stop)
                flat[start:stop] = torch.from_numpy(rows).to(flat)

    def _fill_from_gguf(self, path: Path, pieces: Mapping[str, Piece]) -> None:
        import torch
        from gguf import GGUFReader
        from gguf.quants import dequantize

        parameters = dict(self._parameters())
        found = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
        if found.keys() != pieces.keys():
            raise ArtifactError(
                str(path), "must hold the tensors that were planned", "export again", sorted(found.keys() ^ pieces.keys())[:3]
            )
        for name, piece in pieces.items():
            data, kind = found[name].data, found[name].tensor_type
            target = parameters[piece.source].data
            target = target[:, :, piece.plane] if piece.plane is not None else target[piece.start : piece.start + piece.shape[0]]
            step = max(1, BLOCK // max(1, int(np.prod(piece.shape[1:]))))
            for start in range(0, piece.shape[0], step):
                values = dequantize(np.array(data[start : start + step]), kind).reshape(-1, *piece.shape[1:])
                target[start : start + step] = torch.from_numpy(values).to(target)


def text_ids(ids: Sequence[int], placeholder: int, around: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Token ids without pictures and their start and end marks, and the number of picture tokens."""
    return tuple(i for i in ids if i != placeholder and i not in around), sum(i == placeholder for i in ids)


def compare_form(text: str) -> str:
    """A processor's prompt with every picture as `<picture>`."""
    from sysdesign.export.asked import PICTURE

    return text.replace("<|vision_start|><|image_pad|><|vision_end|>", PICTURE)


def agree_on_prompt(text: str, ids: Sequence[int], answer: Answer, marks: tuple[int, Sequence[int]]) -> tuple[bool, bool, int]:
    """(same text, same token ids, this side's number of picture tokens)."""
    own, pictures = text_ids(ids, *marks)
    return compare_form(text) == answer.prompt, own == answer.text_tokens, pictures


@contextmanager
def _opened(images: Sequence[Path]) -> Iterator[list[Any]]:
    from PIL import Image

    pictures = []
    for path in images:
        with Image.open(path) as picture:
            pictures.append(picture.convert("RGB"))
    yield pictures
