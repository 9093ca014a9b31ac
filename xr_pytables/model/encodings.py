"""How a variable is stored, in the words of `to_pytables(encoding=)`, and what one Dask block of it holds.

Tested in `tests/test_reading.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from .forms import Form
from .specs import VariableSpec

CONTIGUOUS_CHUNK_BYTES: Final = 64 * 2**20
"""How much of a contiguous array one Dask chunk holds by default."""
ROW_BLOCK_BYTES: Final = 16 * 2**20
"""How much of a table, all its columns counted, one Dask chunk of a column stands for by default: what the columns
that are computed together decode once."""


def encoding(spec: VariableSpec) -> dict[str, Any]:
    """How the variable is stored, in the words of `to_pytables(encoding=)`."""
    if spec.form is Form.UTF16:
        return {"source": spec.file}
    if spec.reverse:
        flipped = replace(spec, reverse=False, shape=spec.shape[::-1], dims=spec.dims[::-1])
        return encoding(replace(flipped, chunks=None if spec.chunks is None else spec.chunks[::-1]))
    if spec.decoding is not None:
        return _column_encoding(spec)
    found: dict[str, Any] = {
        "source": spec.file,
        "original_shape": spec.shape,
        "contiguous": spec.chunks is None and 0 not in spec.shape,  # netCDF has dimensions of size 0 as unlimited ones
    }
    if spec.form is Form.PATHS:
        return found
    if spec.form.is_text:  # not dtype=str: for that, xarray loads all text when it opens a file
        found["string"] = "vlen" if spec.form is Form.TEXT else "fixed"
    elif spec.info.datatype.dtype is None:  # of variable length
        found["ragged"] = "vlen"
    elif spec.dtype.kind not in "mM":  # opaque times: others write times as numbers
        found["dtype"] = spec.dtype if spec.dtype.metadata else spec.datatype.dtype
    if spec.member:
        rows = rows_at_once(spec)
        if rows < spec.shape[0]:
            found["preferred_chunks"] = {spec.dims[0]: rows, **dict(zip(spec.dims[1:], spec.shape[1:], strict=True))}
        if spec.chunks is not None:
            found.update(chunksizes=spec.chunks, **_filter_words(spec))
        return found
    if spec.chunks is None:
        blocks = contiguous_blocks(spec.shape, spec.dtype.itemsize)
        if math.prod(blocks) < math.prod(spec.shape):
            found["preferred_chunks"] = dict(zip(spec.dims, blocks, strict=True))
        return found
    found["chunksizes"] = spec.chunks
    found["preferred_chunks"] = {
        dim: max(1, min(chunk, size)) for dim, chunk, size in zip(spec.dims, spec.chunks, spec.shape, strict=True)
    }
    found.update(_filter_words(spec))
    return found


def _filter_words(spec: VariableSpec) -> dict[str, bool | int | str]:
    """The filters; of text without the checksum: others write it with variable length, which takes none."""
    words = spec.info.filters.to_encoding()
    return {word: value for word, value in words.items() if word != "fletcher32" or spec.dtype.kind != "O"}


def _column_encoding(spec: VariableSpec) -> dict[str, Any]:
    """Of a column of a pandas object. A Dask block takes what is read together: rows of whole chunks."""
    found: dict[str, Any] = {"source": spec.file, "original_shape": spec.shape}
    if spec.decoding is not None and spec.decoding.kind == "objects":  # one pickle for all rows
        return found
    rows = rows_at_once(spec)
    if rows < spec.shape[0]:
        found["preferred_chunks"] = dict.fromkeys(spec.dims, rows)
    if spec.chunks is not None:
        found.update(chunksizes=spec.chunks, **_filter_words(spec))
    return found


def rows_at_once(spec: VariableSpec) -> int:
    """Rows of one Dask block of a column: whole chunks, and of all columns together about 16 MiB."""
    info = spec.info
    size = info.datatype.itemsize * math.prod((info.shape or ())[1:])
    chunk = info.chunkshape[0] if info.chunkshape else 1
    return max(1, ROW_BLOCK_BYTES // max(size * chunk, 1)) * chunk


def contiguous_blocks(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Blocks of about 64 MiB for an array without chunks: whole rows where possible, each one run of bytes."""
    blocks = list(shape)
    for axis, size in enumerate(shape):
        rest = math.prod(shape[axis + 1 :]) * itemsize
        blocks[axis] = max(1, min(size, CONTIGUOUS_CHUNK_BYTES // max(rest, 1)))
        if rest <= CONTIGUOUS_CHUNK_BYTES:
            break
    return tuple(blocks)
