"""The filter pipeline of a chunked dataset, as values.

Where HDF5 filter ids, PyTables' `complib` names and xarray's `encoding` keys meet. Knows no file, no codec and no
PyTables object: `codecs` undoes and applies the filters, `libhdf5` asks HDF5 for them.

Tested in `tests/chunks/test_codecs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

DEFLATE = 1
SHUFFLE = 2
FLETCHER32 = 3
SZIP = 4
NBIT = 5
SCALEOFFSET = 6
LZO = 305
BZIP2 = 307
LZF = 32000
BLOSC = 32001
BLOSC2 = 32026
ZSTD = 32015


@dataclass(frozen=True)
class Filter:
    """One step of a pipeline: the registered HDF5 filter `id` and its client data `values` (uint32 each)."""

    id: int
    values: tuple[int, ...] = ()
    name: str = ""
    optional: bool = True


@dataclass(frozen=True)
class FilterPipeline:
    """The filters of a leaf in the order in which they are applied on writing (undone from the last to the first).

    Bit *i* of a chunk's `filter_mask` says that filter *i* was skipped for that chunk.
    """

    filters: tuple[Filter, ...] = ()

    def makes_frames(self, rank: int) -> bool:
        """Whether each chunk of an array of `rank` dimensions has to be there, and to be a b2nd frame.

        Of arrays of two dimensions and more with no filter but Blosc2, PyTables (3.8 to 3.11) reads slices past HDF5.
        It looks neither at whether a chunk is stored nor at its filter mask: for one that is missing it gives the
        values of another, and one that is not encoded can end its process.
        """
        return rank > 1 and len(self.filters) == 1 and self.filters[0].id == BLOSC2

    def to_encoding(self) -> dict[str, bool | int | str]:
        """The pipeline in xarray's words: `complib`, `complevel`, `shuffle`, `bitshuffle`, `fletcher32` (and `zlib`).

        A filter without such a word (szip, lzf, scaleoffset ...) is not mentioned. `zlib` is there with every
        compressor: writers that do not know `complib` know that one, and some fail if they find a level alone.
        """
        found: dict[str, bool | int | str] = {"shuffle": False, "fletcher32": False}
        for step in self.filters:
            values = step.values
            if step.id == SHUFFLE:
                found["shuffle"] = True
            elif step.id == FLETCHER32:
                found["fletcher32"] = True
            elif step.id in (DEFLATE, BZIP2, LZO):
                found.update(complib=_PLAIN_NAMES[step.id], complevel=values[0] if values else 0)
            elif step.id in (BLOSC, BLOSC2) and len(values) >= 6:
                found.update(complib=_blosc_name(step), complevel=values[4])
                found.update(shuffle=values[5] == 1, bitshuffle=values[5] == 2)
            elif step.id in _WORDS_OF_NETCDF:
                found[_WORDS_OF_NETCDF[step.id]] = True
        return {**found, "zlib": bool(found["complevel"])} if "complib" in found else found


_WORDS_OF_NETCDF: Final = {SZIP: "szip", LZF: "lzf", ZSTD: "zstd"}
"""With which readers of netCDF files say of compressors that PyTables cannot write that they are there."""
_PLAIN_NAMES: Final = {DEFLATE: "zlib", BZIP2: "bzip2", LZO: "lzo"}
BLOSC_CODES: Final = {"blosclz": 0, "lz4": 1, "lz4hc": 2, "zlib": 4, "zstd": 5}
"""Compressor codes of Blosc 1 and 2, the seventh client value of their filters."""


def of_level_0(step: Filter) -> Filter:
    """A filter of Blosc or Blosc2 that does not compress."""
    before = (*step.values[:4], *(0,) * (4 - len(step.values)))
    return replace(step, values=(*before, 0, *step.values[5:]))


OF_CONSTANT_SIZE: Final = (SHUFFLE, FLETCHER32)
"""Filters that make the same number of bytes of every chunk."""
BLOSCS: Final = {"blosc": BLOSC, "blosc2": BLOSC2}
DEFAULT_LEVEL: Final = 4
"""Compression level where a compressor is asked for without one (as netCDF4 has it for zlib)."""


def pipeline(
    *,
    complib: str | None,
    complevel: int | None,
    shuffle: bool | None,
    bitshuffle: bool | None,
    fletcher32: bool,
    itemsize: int,
) -> FilterPipeline:
    """The pipeline that PyTables makes of these words, as client data for `H5Pset_filter`.

    `complib` as in `tables.Filters` (None or level 0: no compression); `shuffle` None means yes, if there is a
    compressor and elements are longer than a byte. Raises ValueError naming what does not fit.
    """
    if complevel is not None and (isinstance(complevel, bool) or not 0 <= int(complevel) <= 9):
        raise ValueError(f"complevel must be from 0 to 9, not {complevel!r}")
    level = DEFAULT_LEVEL if complevel is None else int(complevel)
    if complib is None or level == 0:
        if bitshuffle:
            raise ValueError("bitshuffle needs complib='blosc:...' or 'blosc2:...' and a complevel above 0")
        return FilterPipeline((_step(SHUFFLE, "shuffle"),) * bool(shuffle) + _checksum(fletcher32))
    wants_shuffle = itemsize > 1 and not bitshuffle if shuffle is None else bool(shuffle)
    family, _, inner = complib.partition(":")
    if family in BLOSCS and (not inner or inner in BLOSC_CODES):
        if wants_shuffle and bitshuffle:
            raise ValueError("shuffle and bitshuffle cannot both be on")
        mode = 2 if bitshuffle else int(wants_shuffle)
        values = (0, 0, 0, 0, level, mode, BLOSC_CODES[inner or "blosclz"])
        return FilterPipeline((Filter(BLOSCS[family], values, family), *_checksum(fletcher32)))
    if complib not in _PLAIN_NAMES.values():
        instead = f". Did you mean 'blosc:{complib}' or 'blosc2:{complib}' instead?" if complib in BLOSC_CODES else ""
        instead = ". Did you mean 'zlib' instead?" if complib in ("gzip", "deflate") else instead
        known = [*_PLAIN_NAMES.values(), *(f"{name}:{code}" for name in BLOSCS for code in BLOSC_CODES)]
        raise ValueError(f"complib {complib!r} is unknown; known are {', '.join(known)}{instead}")
    if bitshuffle:
        raise ValueError(f"bitshuffle needs complib='blosc:...' or 'blosc2:...', not {complib!r}")
    identifier = next(number for number, name in _PLAIN_NAMES.items() if name == complib)
    shuffled = (_step(SHUFFLE, "shuffle"),) * wants_shuffle
    return FilterPipeline((*shuffled, Filter(identifier, (level,), complib), *_checksum(fletcher32)))


def _step(identifier: int, name: str) -> Filter:
    return Filter(identifier, (), name)


def _checksum(wanted: bool) -> tuple[Filter, ...]:
    # not optional: a chunk whose checksum was left out would not be protected
    return (Filter(FLETCHER32, (), "fletcher32", optional=False),) * bool(wanted)


def _blosc_name(step: Filter) -> str:
    family = "blosc" if step.id == BLOSC else "blosc2"
    codes = {code: name for name, code in BLOSC_CODES.items()}
    name = codes.get(step.values[6]) if len(step.values) > 6 else None
    return f"{family}:{name}" if name else family
