"""The filter pipeline of a chunked dataset, as values.

Where HDF5 filter ids, PyTables' `complib` names and xarray's `encoding` keys meet. Knows no file, no codec and no
PyTables object: `codecs` undoes and applies the filters, `libhdf5` asks HDF5 for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DEFLATE = 1
SHUFFLE = 2
FLETCHER32 = 3
SZIP = 4
NBIT = 5
SCALEOFFSET = 6
LZO = 305
BZIP2 = 307
BLOSC = 32001
BLOSC2 = 32026


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

    def to_encoding(self) -> dict[str, bool | int | str]:
        """The pipeline in xarray's words: `complib`, `complevel`, `shuffle`, `bitshuffle`, `fletcher32` (and `zlib`).

        A filter without such a word (szip, lzf, scaleoffset ...) is not mentioned.
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
                found["zlib"] = step.id == DEFLATE
            elif step.id in (BLOSC, BLOSC2) and len(values) >= 6:
                found.update(complib=_blosc_name(step), complevel=values[4])
                found.update(shuffle=values[5] == 1, bitshuffle=values[5] == 2)
        return found


_PLAIN_NAMES: Final = {DEFLATE: "zlib", BZIP2: "bzip2", LZO: "lzo"}
BLOSC_CODES: Final = {"blosclz": 0, "lz4": 1, "lz4hc": 2, "zlib": 4, "zstd": 5}
"""Compressor codes of Blosc 1 and 2, the seventh client value of their filters."""


def _blosc_name(step: Filter) -> str:
    family = "blosc" if step.id == BLOSC else "blosc2"
    codes = {code: name for name, code in BLOSC_CODES.items()}
    name = codes.get(step.values[6]) if len(step.values) > 6 else None
    return f"{family}:{name}" if name else family
