"""Which tensor type each tensor of a GGUF file gets, by llama.cpp's own rules for the file types offered here.

The rules of Q4_K_M and Q5_K_M are those of `llama_tensor_get_type` in llama.cpp's src/llama-quant.cpp (read 2026-11, MIT): the head, and
half of the value and down projections, get six bits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sysdesign.export.families import Layout, Piece
from sysdesign.export.kernels import row_bytes

# quantisation -> (type of its matrices, llama.cpp's number of the file type; llama.h, read 2026-11)
FILE_TYPES: Mapping[str, tuple[str, int]] = {
    "f32": ("F32", 0), "f16": ("F16", 1), "q8_0": ("Q8_0", 7), "q4_k_m": ("Q4_K", 15), "q5_k_m": ("Q5_K", 17), "q6_k": ("Q6_K", 18),
    "bf16": ("BF16", 32),
}  # fmt: skip
_SIX_BITS = re.compile(r"blk\.(\d+)\.(attn_v|ffn_down)\.weight")


def text_type(piece: Piece, quant: str, layout: Layout) -> str:
    """The type of one tensor of the text model. Raises InputError when its rows do not fit that type."""
    chosen = _text_type(piece, quant, layout)
    row_bytes(chosen, piece.shape[-1])
    return chosen


def _text_type(piece: Piece, quant: str, layout: Layout) -> str:
    base = FILE_TYPES[quant][0]
    if len(piece.shape) == 1 or piece.name.endswith("_norm.weight"):
        return "F32"
    if not base.endswith("_K"):
        return base
    if piece.name == "output.weight" or (piece.name == "token_embd.weight" and layout.tied):
        return "Q6_K"
    match = _SIX_BITS.fullmatch(piece.name)
    if match and quant.endswith("_m") and _more_bits(int(match[1]), layout.layers):
        return "Q6_K"
    return base


def _more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def vision_type(piece: Piece) -> str:
    """The projector is small and sensitive: 16 bit, but for vectors and learned positions."""
    return "F32" if len(piece.shape) == 1 or piece.name == "v.position_embd.weight" else "F16"
