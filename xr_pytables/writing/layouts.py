"""How a variable will lie on disk: from xarray's `encoding` to an `ArrayLayout`.

Decides chunks, filters and disk dtype, and refuses what does not fit, before anything is written. Knows no file.

Tested in `tests/writing/test_encoding.py` and `tests/test_docs.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from xarray import Variable

from ..chunks import filters
from ..chunks.filters import FilterPipeline
from ..library import libhdf5 as h5
from ..library.target_file import ArrayLayout
from ..model.pytables_types import has_form
from . import words

CHUNK_BYTES: Final = 4 * 2**20
"""A chunk is at most this large, unless the encoding asks for another size."""
LARGEST_DASK_CHUNK: Final = 16 * 2**20
"""A Dask block up to this size becomes one chunk."""
GROWING_CHUNK: Final = 1024
"""Elements in a chunk of a one-dimensional array that may grow: time axes are appended to in small steps."""
MAX_CHUNK_BYTES: Final = 2**32 - 1
"""HDF5 keeps the size of a chunk in 32 bits."""
MAX_RANK: Final = 32
_LARGEST_CUT: Final = 7
_MAX_BLOSC_BYTES: Final = 2**31 - 17

COMPRESSION_KEYS: Final = frozenset({"complib", "complevel", "shuffle", "bitshuffle", "fletcher32", "zlib"})
KEYS: Final = COMPRESSION_KEYS | {"chunksizes", "contiguous", "dtype", "least_significant_digit", "ragged", "string"}
"""Keys of `encoding` that bear on the layout; those of CF (`_FillValue`, `scale_factor`, `units` ...) are xarray's."""
_READ_ONLY_KEYS: Final = frozenset({"source", "original_shape", "preferred_chunks"})
_ELSEWHERE_KEYS: Final = frozenset({"char_dim_name", "_Encoding", "_FillValue"})


def filters_as_encoding(given: object) -> dict[str, Any]:
    """A `tables.Filters` in the words of `encoding`. Raises TypeError for anything else."""
    if not words.is_filters(given):
        raise TypeError(f"filters must be a tables.Filters, not {type(given).__name__}")
    found = words.of_filters(given)
    digit = getattr(given, "least_significant_digit", None)
    return found if digit is None else {**found, "least_significant_digit": digit}


def without_checksums(layout: ArrayLayout) -> ArrayLayout:
    """The layout without `fletcher32`."""
    steps = tuple(step for step in layout.filters.filters if step.id != filters.FLETCHER32)
    return replace(layout, filters=FilterPipeline(steps))


def asks_for_checksums(encoding: Mapping[Any, Any]) -> bool:
    """Whether an `encoding=`, by variable or by group, asks for `fletcher32` anywhere."""
    return any(
        asks_for_checksums(value) if isinstance(value, Mapping) else key == "fletcher32" and bool(value)
        for key, value in encoding.items()
    )


def checked_encoding(encoding: Mapping[str, Any], *, where: str, remaining: Collection[str]) -> dict[str, Any]:
    """An `encoding=` that the user wrote, less what xarray's coders used up (all but `remaining`).

    Raises ValueError naming keys that nobody understands.
    """
    unknown = sorted(key for key in remaining if key not in KEYS | _READ_ONLY_KEYS | _ELSEWHERE_KEYS)
    if unknown:
        idle = [key for key in unknown if key in _CF_WORDS]
        if idle:
            raise ValueError(f"{where}: encoding {', '.join(map(repr, idle))} means nothing for values of this kind")
        instead = (words.instead_of(key, [*KEYS, *_CF_WORDS]) for key in unknown)
        hints = [f"Did you mean {hint}?" for hint in instead if hint]
        known = f"known are {', '.join(sorted(KEYS))} and those of CF (_FillValue, scale_factor, units ...)"
        named = ", ".join(map(repr, unknown))
        raise ValueError(f"{where}: unexpected encoding parameters {named}; {'. '.join([known, *hints])}")
    found = {key: value for key, value in encoding.items() if key in KEYS}
    if "original_shape" in encoding and found.get("complib") not in (None, "zlib"):
        found.pop("zlib", None)  # what reading left, for writers that know no other word
    return found


_CF_WORDS: Final = ("_FillValue", "missing_value", "scale_factor", "add_offset", "units", "calendar", "_Unsigned")


def advised_encoding(encoding: Mapping[str, Any], variable: Variable, unlimited: Collection[str]) -> dict[str, Any]:
    """What of a variable's own `encoding`, left there by some engine, still makes sense for it.

    Advice: an unknown key or one that no longer fits is dropped, and checksums are never turned off by it.
    """
    advice = {key: value for key, value in encoding.items() if key in KEYS and value is not None}
    if not advice.get("fletcher32", True):
        del advice["fletcher32"]
    advice.update(words.compressor_of_source(encoding)[0])
    if advice.get("complib") not in (None, "zlib"):
        advice.pop("zlib", None)  # for writers that know no other word
    if _no_compressor(advice):
        for key in ("complib", "complevel", "bitshuffle", "zlib", "shuffle"):
            advice.pop(key, None)
    chunks = advice.get("chunksizes")
    if chunks is not None:
        fits = len(chunks) == variable.ndim and all(
            chunk <= size or dim in unlimited
            for chunk, size, dim in zip(chunks, variable.shape, variable.dims, strict=False)
        )
        if not fits or encoding.get("original_shape", variable.shape) != variable.shape:
            del advice["chunksizes"]
    advice.pop("contiguous", None)  # it has no checksums
    return advice


def _no_compressor(encoding: Mapping[str, Any]) -> bool:
    return not encoding.get("zlib") and not encoding.get("complib")


def plan_layout(
    variable: Variable,
    encoding: Mapping[str, Any],
    *,
    where: str,
    unlimited: Collection[str],
    members: tuple[tuple[str, int], ...] = (),
    text: bool = False,
) -> ArrayLayout:
    """The layout of a CF-encoded variable.

    `encoding` has only the keys of `KEYS`. `text` stores variable-length strings. Raises ValueError and TypeError for
    what HDF5 cannot hold; messages begin with `where`.
    """
    dtype = None if text else variable.dtype
    itemsize = 16 if dtype is None else dtype.itemsize
    if variable.ndim > MAX_RANK:
        raise ValueError(f"{where}: {variable.ndim} dimensions; HDF5 has at most {MAX_RANK}")
    if dtype is not None and dtype.kind not in "biufcS" and not (dtype.kind == "V" and has_form(dtype)):
        raise TypeError(f"{where}: dtype {dtype} has no form in HDF5; convert it with astype() before writing")
    if dtype is not None and itemsize == 0:
        dtype, itemsize = np.dtype("S1"), 1
    grows = tuple(dim in unlimited for dim in variable.dims)
    chunkshape = chunkshape_of(variable, encoding, itemsize, grows, where)
    try:
        steps = FilterPipeline() if dtype is None else _pipeline(encoding, itemsize)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if chunkshape is None:
        asked = [key for key in ("complib", "zlib", "shuffle", "fletcher32") if encoding.get(key)]
        if asked and variable.ndim and variable.size and encoding.get("contiguous"):
            raise ValueError(f"{where}: contiguous arrays have no filters, but encoding asks for {', '.join(asked)}")
        steps = FilterPipeline()
    else:
        _check_chunk_bytes(chunkshape, itemsize, steps, where)
    return ArrayLayout(
        shape=variable.shape,
        dtype=dtype,
        maxshape=tuple(h5.UNLIMITED if grow else size for grow, size in zip(grows, variable.shape, strict=True))
        if any(grows)
        else None,
        chunkshape=chunkshape,
        filters=steps,
        fill_value=_fill_value(variable, dtype),
        members=members,
    )


def _fill_value(variable: Variable, dtype: np.dtype | None) -> object:
    """What unwritten elements hold: `_FillValue`, so that they read as missing."""
    fill = variable.attrs.get("_FillValue")
    if fill is None or dtype is None or dtype.kind not in "iufc" or np.ndim(fill):
        return None
    return fill if isinstance(fill, int | float | complex | np.number) else None


def _pipeline(encoding: Mapping[str, Any], itemsize: int) -> FilterPipeline:
    complib = encoding.get("complib")
    if encoding.get("zlib"):
        if complib not in (None, "zlib"):
            raise ValueError(f"zlib=True and complib={complib!r} contradict each other")
        complib = "zlib"
    elif complib is None and (encoding.get("complevel") or encoding.get("bitshuffle")):
        raise ValueError("complevel and bitshuffle need a complib")
    return filters.pipeline(
        complib=complib,
        complevel=encoding.get("complevel"),
        shuffle=encoding.get("shuffle"),
        bitshuffle=encoding.get("bitshuffle"),
        fletcher32=bool(encoding.get("fletcher32", True)),
        itemsize=itemsize,
    )


def _check_chunk_bytes(chunkshape: Sequence[int], itemsize: int, steps: FilterPipeline, where: str) -> None:
    size = math.prod(chunkshape) * itemsize
    blosc = any(step.id in filters.BLOSCS.values() for step in steps.filters)
    limit = _MAX_BLOSC_BYTES if blosc else MAX_CHUNK_BYTES
    if size > limit:
        raise ValueError(
            f"{where}: chunks of {tuple(chunkshape)} take {size} bytes; {'Blosc' if blosc else 'HDF5'} allows {limit}"
        )


def chunkshape_of(
    variable: Variable, encoding: Mapping[str, Any], itemsize: int, grows: Sequence[bool], where: str
) -> tuple[int, ...] | None:
    """Elements per chunk; None for contiguous storage: scalars, arrays without elements, or as asked."""
    asked = encoding.get("chunksizes")
    if encoding.get("contiguous"):
        if asked is not None or any(grows):
            raise ValueError(f"{where}: contiguous arrays have neither chunksizes nor unlimited dimensions")
        return None
    if not variable.ndim or (not variable.size and not any(grows)):
        return None
    if asked is not None:
        return _checked_chunks(asked, variable, grows, where)
    blocks = variable.chunks
    if blocks is not None:
        block = [max(sizes, default=1) or 1 for sizes in blocks]
        return tuple(shrunk(block, itemsize, LARGEST_DASK_CHUNK, grows=grows, divide=True))
    whole = [size or 1 for size in variable.shape]
    return tuple(shrunk(whole, itemsize, CHUNK_BYTES, grows=grows, divide=False))


def _checked_chunks(asked: object, variable: Variable, grows: Sequence[bool], where: str) -> tuple[int, ...]:
    if not isinstance(asked, Sequence | np.ndarray) or isinstance(asked, str):
        raise ValueError(f"{where}: chunksizes must be a sequence of integers, not {asked!r}")
    chunks = tuple(asked)
    if len(chunks) != variable.ndim or not all(
        isinstance(chunk, int | np.integer) and not isinstance(chunk, bool) and chunk > 0 for chunk in chunks
    ):
        raise ValueError(
            f"{where}: chunksizes {chunks} must be {variable.ndim} positive integers, one for each of {variable.dims}"
        )
    for chunk, size, dim, grow in zip(chunks, variable.shape, variable.dims, grows, strict=True):
        if chunk > size and not grow:
            raise ValueError(
                f"{where}: chunksizes has {chunk} for dimension {dim!r}, which has {size} elements and is not unlimited"
            )
    return tuple(int(chunk) for chunk in chunks)


def growing(layout: ArrayLayout, shape: Sequence[int], axes: Sequence[int]) -> ArrayLayout:
    """The layout of an array of that `shape`, changed such that the array can grow along `axes`.

    Chunks and filters stay, but for an array that was one chunk along such a dimension, or had no chunks.
    """
    maxshape = tuple(h5.UNLIMITED if axis in axes else limit for axis, limit in enumerate(layout.maxshape or shape))
    grows = [limit == h5.UNLIMITED for limit in maxshape]
    chunkshape, steps = layout.chunkshape, layout.filters
    itemsize = 16 if layout.dtype is None else layout.dtype.itemsize
    if chunkshape is None or any(chunkshape[axis] >= shape[axis] for axis in axes):
        whole = [size or 1 for size in shape]
        chunkshape = tuple(shrunk(whole, itemsize, CHUNK_BYTES, grows=grows, divide=False))
    if layout.chunkshape is None and layout.dtype is not None:
        steps = _pipeline({}, itemsize)
    return replace(layout, maxshape=maxshape, chunkshape=chunkshape, filters=steps)


def shrunk(block: Sequence[int], itemsize: int, limit: int, *, grows: Sequence[bool], divide: bool) -> list[int]:
    """`block` (elements), its longest dimensions cut until it takes at most CHUNK_BYTES.

    A block up to `limit` bytes stays. With `divide` each cut is a divisor, so that chunks tile the block, unless that
    would cut to pieces what has large prime factors.
    """
    chunk = list(block)
    if len(chunk) == 1 and grows[0] and chunk[0] < GROWING_CHUNK:
        return [GROWING_CHUNK]
    if math.prod(chunk) * itemsize <= limit:
        return chunk
    while math.prod(chunk) * itemsize > CHUNK_BYTES and max(chunk) > 1:
        axis = max(range(len(chunk)), key=lambda number: chunk[number])
        factor = _smallest_factor(chunk[axis]) if divide else 2
        chunk[axis] = -(-chunk[axis] // (factor if factor <= _LARGEST_CUT else 2))
    return chunk


def _smallest_factor(number: int) -> int:
    return next((factor for factor in range(2, math.isqrt(number) + 1) if number % factor == 0), number)
