"""Which bytes of an HDF5 file are raw data of arrays: chunks, and the blocks of contiguous arrays.

Everything else may change whenever anything in the file does. Walks hard links alone and looks at every dataset, also
at those that readers do not show. Knows no xarray; the caller holds the HDF5 lock.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import libhdf5 as h5
from .chunks.index import DAMAGED, MISSING, ChunkError, ChunkStorage
from .hdf5.chunk_indexes import read_index
from .libhdf5 import HDF5Error, call, opened
from .safe_file import DatasetInfo, SafeFile, describe_dataset
from .sources.source import Source

Extents = NDArray[np.int64]
"""Rows of (offset, count) in bytes."""


def raw_extents(file: SafeFile, source: Source) -> dict[int, Extents]:
    """The raw data of each dataset, by the address of its header. `source` has the bytes of the same file.

    Datasets whose data cannot be located are left out.
    """
    base, found = file.base_address(), {}
    for dataset in _datasets(file):
        try:
            found[dataset.info.address] = _extents_of(dataset, source, base)
        except ChunkError:
            continue
    return found


@dataclass(frozen=True)
class _Dataset:
    info: DatasetInfo
    element_size: int
    """Bytes of one element in the file, whatever NumPy makes of it."""
    contiguous_size: int
    """Bytes of contiguous data."""


def _datasets(file: SafeFile) -> Iterator[_Dataset]:
    waiting, seen = ["/"], set[int]()
    while waiting:
        path = waiting.pop()
        with file.open(path) as group:
            links = list(file.links(group))
        for link in links:
            if link.kind != "hard" or link.address in seen:
                continue
            seen.add(link.address)
            try:
                with file.open_at(link.address) as node:
                    kind = call("H5Iget_type", node)
                    if kind == h5.DATASET_ID:
                        yield _dataset(node, link.address)
            except HDF5Error:
                continue
            if kind == h5.GROUP_ID:
                waiting.append(posixpath.join(path, link.name))


def _dataset(node: int, address: int) -> _Dataset:
    info = describe_dataset(node, address)
    with opened("H5Dget_type", node) as stored:
        element_size = call("H5Tget_size", stored)
    return _Dataset(info, element_size, call("H5Dget_storage_size", node) if info.layout == "contiguous" else 0)


def _extents_of(dataset: _Dataset, source: Source, base: int) -> Extents:
    info = dataset.info
    if info.layout == "contiguous" and info.offset is not None and not info.external:
        return np.array([[info.offset, dataset.contiguous_size]], np.int64)
    if info.layout != "chunked" or info.chunkshape is None or info.shape is None:
        return np.empty((0, 2), np.int64)
    element = np.dtype(f"V{dataset.element_size}")
    index = read_index(source, ChunkStorage(info.shape, info.chunkshape, element, header=info.address, base=base))
    stored = (index.address != MISSING) & (index.address != DAMAGED)
    return np.stack([index.address[stored].astype(np.int64), index.size[stored].astype(np.int64)], axis=1)


def others(
    size: int, extents: Mapping[int, Extents], *, changed: Collection[int], rewritten: Collection[int]
) -> list[tuple[int, int]]:
    """The byte ranges of a file of `size` bytes that are not raw data, or raw data that is going to change.

    The latter are all of the datasets with headers at `changed`, and of others the chunks at the offsets `rewritten`.
    """
    kept = [rows for header, rows in extents.items() if header not in changed and len(rows)]
    rows = np.concatenate(kept) if kept else np.empty((0, 2), np.int64)
    if rewritten:
        rows = rows[~np.isin(rows[:, 0], np.fromiter(rewritten, np.int64))]
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    ends = np.maximum.accumulate(np.concatenate([[0], rows.sum(axis=1)]))
    begins = np.concatenate([rows[:, 0], [size]])
    gaps = begins > ends
    return [(int(end), int(begin - end)) for end, begin in zip(ends[gaps], begins[gaps], strict=True)]
