"""The words of other writers in `encoding=`: h5py's, netCDF4's, zarr's and PyTables' own, as ours where they mean one
thing.

`in_our_words` is for what a user wrote; `compressor_of_source` for what a reader left. Knows no variable and no file.

Tested in `tests/writing/test_words.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from ..chunks.filters import BLOSC, BLOSC2, BLOSC_CODES, BZIP2, DEFLATE, LZF, SZIP, ZSTD

_FILTERS_OF_TABLES: Final = ("complib", "complevel", "shuffle", "bitshuffle", "fletcher32")
_COMPLIBS: Final[dict[object, str]] = {
    "gzip": "zlib", "zlib": "zlib", "deflate": "zlib", "bzip2": "bzip2", DEFLATE: "zlib", BZIP2: "bzip2",
    "blosc_lz": "blosc:blosclz", "blosc_lz4": "blosc:lz4", "blosc_lz4hc": "blosc:lz4hc", "blosc_zlib": "blosc:zlib",
    "blosc_zstd": "blosc:zstd",
}  # fmt: skip
"""By what h5py and netCDF4 call `compression`. Blosc's words are those of netCDF-C."""
_NEAREST: Final = {"zstd": "blosc:zstd", "lzf": "blosc:lz4", "szip": "zlib"}
"""For compressors that PyTables cannot write."""
_NUMBERS: Final = {ZSTD: "zstd", LZF: "lzf", SZIP: "szip"}
_GZIP_LEVELS: Final = range(10)
_SWITCHES: Final = ("zlib", "szip", "zstd", "bzip2", "blosc")
"""With which netCDF4's reader says what there is; all but `zlib` are no words of ours."""

_HINTS: Final = {
    "compressor": "complib='blosc:zstd'",
    "compressors": "complib='blosc:zstd'",
    "codecs": "complib='blosc:zstd'",
    "filters": "complib='blosc:zstd', or to_pytables(filters=tables.Filters(...)) for all variables,",
    "blosc": "complib='blosc:zstd'",
    "blosc_shuffle": "shuffle=True or bitshuffle=True",
    "zstd": "complib='blosc:zstd'",
    "bzip2": "complib='bzip2'",
    "gzip": "complib='zlib'",
    "szip": "complib='zlib'",
    "lzf": "complib='blosc:lz4'",
    "chunks": "chunksizes=(...)",
    "chunkshape": "chunksizes=(...)",
    "chunk_shape": "chunksizes=(...)",
    "shards": "chunksizes=(...)",
    "fill_value": "_FillValue",
    "fillvalue": "_FillValue",
    "quantize_mode": "least_significant_digit",
    "significant_digits": "least_significant_digit (digits after the decimal point)",
    "bitround": "least_significant_digit (digits after the decimal point)",
    "scale": "scale_factor",
    "offset": "add_offset",
    "scaleoffset": "scale_factor and dtype",
    "nodata": "_FillValue",
    "endian": "dtype='<f4' or '>f4', say,",
    "byteorder": "dtype='<f4' or '>f4', say,",
    "maxshape": "to_pytables(unlimited_dims=[...])",
    "write_empty_chunks": "to_pytables(write_empty_chunks=...)",
    "szip_coding": "complib='zlib'",
    "szip_pixels_per_block": "complib='zlib'",
    "serializer": "dtype",
    "object_codec": "string='vlen' or 'fixed'",
}


def instead_of(key: str, known: Iterable[str]) -> str | None:
    """Our words for a key of other writers, or for one that was misspelt."""
    if key in _HINTS:
        return f"{_HINTS[key]} instead of {key!r}"
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"{near[0]!r} instead of {key!r}" if near else None


def in_our_words(encoding: Mapping[Any, Any], where: str) -> dict[Any, Any]:
    """The `encoding=` of one variable, with keys of others as ours.

    What means nothing (`szip=False`) is left out; what is no word of anybody stays, for who checks it. Raises
    ValueError, beginning with `where`, for what contradicts itself, and for what means more than one thing here.
    """
    found = dict(encoding)

    def put(word: str, value: object, key: str) -> None:
        if found.get(word) is not None and found[word] != value:
            raise ValueError(f"{where}: {word}={found[word]!r} and {key} contradict each other")
        found[word] = value

    try:
        for key in ("chunks", "chunkshape", "chunk_shape"):
            if _are_chunks(found.get(key)):
                chunks = found.pop(key)
                put("chunksizes", tuple(np.atleast_1d(chunks).tolist()), f"{key}={chunks!r}")
        filters = found.get("filters")
        if is_filters(filters):
            del found["filters"]
            for word, value in of_filters(filters).items():
                put(word, value, "filters=Filters(...)")
        if isinstance(found.get("blosc"), Mapping):
            blosc = found.pop("blosc")
            put("compression", blosc.get("compressor"), f"blosc={blosc!r}")
            found.setdefault("blosc_shuffle", blosc.get("shuffle"))
        for key in _SWITCHES[1:]:
            if key in found and not found[key]:
                del found[key]  # as readers say what there is not
        if found.get("bzip2") is True:
            del found["bzip2"]
            put("complib", "bzip2", "bzip2=True")
        _compression(found, put)
    except _UnclearError as error:
        raise ValueError(f"{where}: {error}") from None
    return found


class _UnclearError(Exception):
    """What the user wrote has no one meaning here."""


def _are_chunks(value: object) -> bool:
    sizes = [value] if isinstance(value, int | np.integer) else value
    if not isinstance(sizes, Sequence | np.ndarray) or isinstance(sizes, str):
        return False
    return all(isinstance(size, int | np.integer) and not isinstance(size, bool) for size in sizes)


def is_filters(value: object) -> bool:
    """Whether it is a `tables.Filters`."""
    return all(hasattr(value, word) for word in _FILTERS_OF_TABLES)


def of_filters(filters: Any) -> dict[str, Any]:
    """A `tables.Filters` in the words of `encoding`."""
    found = {word: getattr(filters, word) for word in _FILTERS_OF_TABLES}
    found["complevel"] = int(found["complevel"])
    if not found["fletcher32"]:  # the default of tables.Filters, not somebody's wish to go without checksums
        del found["fletcher32"]
    return found


def _compression(found: dict[Any, Any], put: Callable[[str, object, str], None]) -> None:
    """h5py's and netCDF4's `compression`, `compression_opts` and `blosc_shuffle`."""
    absent = object()
    asked, options = found.pop("compression", absent), found.pop("compression_opts", None)
    shuffle = found.pop("blosc_shuffle", None)
    said = f"compression={asked!r}"
    if asked is absent or asked is None or asked is False:
        pass
    elif asked in (BLOSC, BLOSC2) and isinstance(options, Sequence | np.ndarray) and len(options) >= 7:  # hdf5plugin
        family = "blosc" if asked == BLOSC else "blosc2"
        names = {code: name for name, code in BLOSC_CODES.items()}
        put("complib", f"{family}:{names.get(options[6], options[6])}", said)
        put("complevel", int(options[4]), f"compression_opts={options!r}")
        shuffle, options = int(options[5]), None
    elif asked is True or (isinstance(asked, int) and asked in _GZIP_LEVELS):
        put("complib", "zlib", said)
        if asked is not True:
            put("complevel", int(asked), said)
    elif asked in _COMPLIBS:
        put("complib", _COMPLIBS[asked], said)
    elif asked == "unknown" and "original_shape" in found:
        pass  # what h5netcdf leaves of a filter that it has no name for
    else:
        name = _NUMBERS.get(asked, asked)
        near = _NEAREST.get(str(name))
        known = ", ".join(repr(word) for word in _COMPLIBS if isinstance(word, str))
        way = f"Did you mean complib={near!r}?" if near else f"Known are {known}; or write complib='blosc:zstd'"
        raise _UnclearError(f"PyTables cannot write compression={asked!r}. {way}")
    if options is not None:
        is_level = isinstance(options, int | np.integer) and not isinstance(options, bool)
        if not is_level or (found.get("complib") is None and not found.get("zlib")):
            raise _UnclearError(
                f"compression_opts={options!r} has no meaning here. Did you mean complevel=5, with a complib?"
            )
        put("complevel", int(options), f"compression_opts={options!r}")
    if shuffle is not None:
        if int(shuffle) not in (0, 1, 2):
            raise _UnclearError(f"blosc_shuffle={shuffle!r} must be 0, 1 (shuffle) or 2 (bitshuffle)")
        if found.get("shuffle") is None or "original_shape" in found:
            found["shuffle"] = int(shuffle) == 1
        put("bitshuffle", int(shuffle) == 2, f"blosc_shuffle={shuffle!r}")


def compressor_of_source(encoding: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The compressor that a reader found, in our words; and, if PyTables cannot write it, what to tell of it.

    Advice: what contradicts itself or is unknown is nothing.
    """
    if encoding.get("complib"):
        return {}, None
    if isinstance(blosc := encoding.get("blosc"), Mapping):
        complib = _COMPLIBS.get(blosc.get("compressor"))
        shuffle = blosc.get("shuffle")
        words = {"complib": complib, "shuffle": shuffle == 1, "bitshuffle": shuffle == 2}
        return (words, None) if complib else ({}, None)
    if encoding.get("bzip2"):
        return {"complib": "bzip2"}, None
    compression = encoding.get("compression")
    for name, near in _NEAREST.items():
        if encoding.get(name) or compression == name:
            level = encoding.get("complevel")
            found = {"complib": near, "complevel": min(int(level), 9) if level else None}  # those of zstd go on to 22
            return found, f"were compressed with {name}, which PyTables cannot write: {near} takes its place"
    if compression == "unknown":
        return {}, "were compressed with a filter that their reader has no name for: they are written uncompressed"
    return {}, None


def check_dtype(encoding: Mapping[Any, Any], where: str) -> None:
    """Raise ValueError, or TypeError, for a `dtype` that NumPy does not know."""
    asked = encoding.get("dtype")
    if asked is None:
        return
    try:
        np.dtype(asked)
    except (TypeError, ValueError, SyntaxError) as error:
        near = difflib.get_close_matches(str(asked).lower(), _DTYPES, n=1, cutoff=0.5)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{where}: encoding has dtype={asked!r}, which is no type of NumPy{hint}") from None


_DTYPES: Final = (
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64", "complex64",
    "complex128", "bool", "S1",
)  # fmt: skip
