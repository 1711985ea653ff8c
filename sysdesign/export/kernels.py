"""Float32 rows -> bytes of a GGUF tensor type, by llama.cpp's own quantiser inside the xllamacpp wheel.

The kernels are called through ctypes, which gives up Python's lock: threads over row blocks use all cores. k-quants are never
written again here: a quantiser that differs in one rounding is a different model.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from sysdesign.errors import InputError, ToolError

# GGML's numbers for tensor types, values a block and bytes a block (llama.cpp ggml.h and ggml-common.h, read 2026-11)
TYPES = {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210),
    "BF16": (30, 1, 2),
}  # fmt: skip
F16_MAX = 65504.0


def row_bytes(type_name: str, row: int) -> int:
    """Bytes of one row of `row` values. Raises InputError when the row is not a whole number of blocks."""
    _, block, size = TYPES[type_name]
    if row % block:
        do = "choose q8_0 or f16 in export.quantisations" if block == 256 else "choose f16 in export.quantisations"
        raise InputError("export.quantisations", f"{type_name} needs rows that are multiples of {block} values", do, row)
    return row // block * size


def quantise(type_name: str, rows: np.ndarray, out: np.ndarray) -> int:
    """Write `rows` ((n, row) float32, contiguous) as `type_name` into `out` (flat uint8); returns the number of bytes."""
    n, row = rows.shape
    written = _kernel()(TYPES[type_name][0], rows.ctypes.data, out.ctypes.data, 0, n, row, None)
    if written != n * row_bytes(type_name, row):
        raise ToolError("xllamacpp", f"its quantiser must write {n * row_bytes(type_name, row)} bytes of {type_name}", _MEND, written)
    return int(written)


_MEND = "pip install 'xllamacpp>=2026.10,<2027'"


@cache
def _kernel() -> Callable[..., int]:
    """`ggml_quantize_chunk(type, src, dst, start, nrows, n_per_row, imatrix) -> bytes written` (ggml.h)."""
    found = importlib.util.find_spec("xllamacpp")
    if found is None or not found.submodule_search_locations:
        raise ToolError("xllamacpp", "must be installed: it holds llama.cpp's quantiser", _MEND)
    libraries = sorted(Path(found.submodule_search_locations[0]).glob("xllamacpp*.so"))
    try:
        kernel = ctypes.CDLL(str(libraries[0])).ggml_quantize_chunk
    except (IndexError, OSError, AttributeError) as err:
        law = f"its library must load and hold ggml_quantize_chunk ({err})"
        raise ToolError("xllamacpp", law, f"{_MEND}; apt install libgomp1") from None
    kernel.restype = ctypes.c_size_t
    kernel.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    return kernel
