"""What the messages of a dataset's header say together, as one value.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..chunks.filters import FilterPipeline
from .damage import Damaged
from .data_layout import IndexParameters, Layout, LayoutClass
from .dataspace import Extent
from .datatype import Datatype
from .fill_value import FillValue
from .metadata import UNDEFINED

if TYPE_CHECKING:
    from .external_files import ExternalFile
    from .virtual import Mapping

_MAX_ZEROS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What the bytes of one dataset are and where they lie. Shapes are in elements, without the atom's own."""

    datatype: Datatype
    shape: tuple[int, ...] | None
    """None for a null dataspace (h5py's Empty)."""
    maxshape: tuple[int, ...]
    """UNLIMITED in dimensions that may grow."""
    layout: LayoutClass
    chunkshape: tuple[int, ...] | None
    filters: FilterPipeline
    address: int
    """Of the object header, in bytes from the base address."""
    offset: int | None
    """Of contiguous data, in bytes from the start of the file; None where nothing is allocated."""
    fill_value: bytes | None
    """One element as stored, the descriptor of a variable-length one; None where it is undefined, or zeros are meant
    of which there would be more than a mebibyte."""
    whole_chunks_filtered_only: bool = False
    """H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS: chunks over the edge are stored as they are."""
    size: int = 0
    """Bytes of contiguous data that are allocated."""
    data: bytes = b""
    """All elements of a compact dataset, as stored."""
    index: IndexParameters | None = None
    """How to find the chunks of a chunked dataset."""
    external_files: tuple[ExternalFile, ...] = ()
    """Where contiguous data lie that are not in this file."""
    mappings: tuple[Mapping, ...] = ()
    """Where the elements of a virtual dataset come from."""
    fill_off: bool = False
    """It has no fill value of its own, and HDF5 writes none (H5D_FILL_TIME_NEVER)."""

    @property
    def external(self) -> bool:
        """Whether the raw data lie in other files, which the dataset names."""
        return bool(self.external_files)


def like(info: DatasetInfo, address: int, base: int, data: int) -> DatasetInfo:
    """The dataset with its header at `address` whose messages are those of `info`, but for the address of its `data` or
    of their index. Both have some, or none have."""
    offset, index, where = info.offset, info.index, None if data == UNDEFINED else data
    if index is not None:
        index = IndexParameters(index.kind, where, index.version, index.k)
    elif info.layout == "contiguous":
        offset = None if where is None else base + where
    return DatasetInfo(
        info.datatype,
        info.shape,
        info.maxshape,
        info.layout,
        info.chunkshape,
        info.filters,
        address,
        offset,
        info.fill_value,
        info.whole_chunks_filtered_only,
        info.size,
        info.data,
        index,
        fill_off=info.fill_off,
    )


def describe(
    address: int,
    base: int,
    datatype: Datatype,
    extent: Extent,
    layout: Layout,
    *,
    filters: FilterPipeline,
    fill: FillValue,
    external_files: tuple[ExternalFile, ...],
    mappings: tuple[Mapping, ...],
) -> DatasetInfo:
    """The dataset with its header at `address` in a file whose addresses count from `base`.

    Raises Damaged where its messages contradict one another.
    """
    shape, maxshape = extent
    itemsize = datatype.itemsize
    needed = 0 if shape is None else itemsize * math.prod(shape)
    offset, size = None, 0
    if layout.kind == "chunked":
        _check_chunk(layout.chunk, maxshape, itemsize)
    elif layout.kind == "compact":
        if len(layout.data) < needed:
            raise Damaged(f"a compact dataset of {len(layout.data)} bytes, expected {needed}")
    elif layout.kind == "contiguous" and layout.address is not None and not external_files:
        offset, size = base + layout.address, needed if layout.size is None else layout.size
        if size < needed:
            raise Damaged(f"contiguous data of {size} bytes, expected {needed}")
    return DatasetInfo(
        datatype,
        shape,
        maxshape,
        layout.kind,
        layout.chunk[:-1] if layout.kind == "chunked" else None,
        filters,
        address,
        offset,
        _one_element(fill, itemsize),
        layout.whole_chunks_filtered_only,
        size,
        layout.data[:needed],
        layout.index,
        external_files,
        mappings,
        fill == "never",
    )


def _check_chunk(chunk: tuple[int, ...], maxshape: tuple[int, ...], itemsize: int) -> None:
    if len(chunk) != len(maxshape) + 1 or chunk[-1] != itemsize:
        raise Damaged(
            f"chunks of {chunk} (elements along each dimension, bytes of an element) in a dataset of "
            f"{len(maxshape)} dimensions with elements of {itemsize} bytes"
        )


def _one_element(fill: FillValue, itemsize: int) -> bytes | None:
    if fill == "undefined":
        return None
    if fill in ("default", "never"):
        return bytes(itemsize) if itemsize <= _MAX_ZEROS else None
    if len(fill) != itemsize:
        raise Damaged(f"a fill value of {len(fill)} bytes for elements of {itemsize} bytes")
    return fill if isinstance(fill, bytes) else None
