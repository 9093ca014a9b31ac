"""Lazy arrays whose values lie elsewhere: virtual datasets, and raw data in files of their own.

What belongs where was found out when the file was opened; each of the files is read in the version that it had then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from xarray.core import indexing

from ..chunks import memory, reading
from ..chunks.index import ChunkStorage, Selection
from ..disk.opened_files import OpenedFile
from ..model import leaves
from ..model.forms import Form
from ..model.mappings import Grid, Part, aligned, coordinates, ordinals
from ..model.specs import VariableSpec
from ..sources.pieces import Piece, Pieces
from ..sources.place import Opened, Version
from .leaf_arrays import PyTablesArray, check_unchanged_since, converted, selected_shape
from .ragged import lazy_array


def array_of(files: Mapping[str, OpenedFile], spec: VariableSpec, *, threads: int | None = None) -> PyTablesArray:
    """The lazy array that fits a variable, wherever its values are; `files` are all that were opened, by path."""
    file = files[spec.file]
    if spec.parts:
        return VirtualArray(file, spec, [array_of(files, part.source, threads=threads) for part in spec.parts])
    if spec.raw_files:
        return RawFilesArray(file, spec, [files[raw.path] for raw in spec.raw_files], threads=threads)
    return lazy_array(file, spec, threads=threads)


class VirtualArray(PyTablesArray):
    """A virtual dataset: elements of other arrays, and its fill value where there are none."""

    __slots__ = ("_sources",)

    def __init__(self, file: OpenedFile, spec: VariableSpec, sources: Sequence[PyTablesArray]) -> None:
        """`sources` are the arrays of `spec.parts`."""
        super().__init__(file, spec)
        self._sources = sources

    def _getitem(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return self._adapted(key, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: Selection) -> np.ndarray:
        out = memory.empty(selected_shape(key, self.shape), self.dtype)
        positions = [np.atleast_1d(np.arange(size)[index]) for index, size in zip(key, self.shape, strict=True)]
        whole = out.reshape([len(along) for along in positions])
        whole[...] = self._fill_value()
        for part, source in zip(self.spec.parts, self._sources, strict=True):
            _place(part, source, positions, whole)
        return out

    def _fill_value(self) -> Any:
        """Of elements that no source has, as the user sees it."""
        datatype, stored = self.spec.info.datatype, self.spec.info.fill_value
        if self.dtype.kind == "O":  # text
            return b"" if self.spec.form is Form.TEXT_BYTES else ""
        if stored is None:
            return np.zeros((), self.dtype)
        values = np.frombuffer(stored, datatype.stored_dtype).reshape(datatype.shape)
        return converted(leaves.native(values, datatype), self.spec)


def _place(part: Part[VariableSpec], source: PyTablesArray, positions: Sequence[np.ndarray], out: np.ndarray) -> None:
    """Put the values of those elements of a part that are at `positions` where they belong in `out`."""
    rank = len(positions) - len(source.spec.datatype.shape)
    outer, inner = positions[:rank], list(positions[rank:])
    taken, placed = part.taken, part.placed
    axes = aligned(taken, placed) if isinstance(taken, Grid) and isinstance(placed, Grid) else None
    key: indexing.ExplicitIndexer
    if axes is None:
        where, numbers = ordinals(placed, outer)
        at = [along.reshape(along.shape + (1,) * len(inner)) for along in coordinates(taken, numbers)]
        behind = np.ix_(*inner) if inner else ()
        shape, key = numbers.shape, indexing.VectorizedIndexer((*at, *behind))
    else:
        assert isinstance(taken, Grid)
        assert isinstance(placed, Grid)
        inside, ranks = zip(*(placed.ranks(axis, along) for axis, along in enumerate(outer)), strict=True)
        where = np.ix_(*inside)
        # the one element of a dimension that the source lacks may be asked for several times
        shape = tuple(
            len(own) if length != 1 else min(len(own), 1) for own, length in zip(ranks, placed.lengths, strict=True)
        )
        first = np.zeros(1, np.int64)
        along = [taken.positions(axis, first if own is None else ranks[own]) for axis, own in enumerate(axes)]
        key = indexing.OuterIndexer(tuple(map(_as_slice, (*along, *inner))))
    if 0 not in shape:
        out[where] = source[key].reshape(shape + tuple(map(len, inner))).astype(out.dtype, copy=False)


def _as_slice(positions: np.ndarray) -> slice | np.ndarray:
    """The same positions as a slice, if they are evenly spaced: what comes in runs is read in runs."""
    if len(positions) < 2:
        return slice(int(positions[0]), int(positions[0]) + 1) if len(positions) else slice(0, 0)
    steps = np.diff(positions)
    if steps[0] < 1 or (steps != steps[0]).any():
        return positions
    return slice(int(positions[0]), int(positions[-1]) + 1, int(steps[0]))


class RawFilesArray(PyTablesArray):
    """A contiguous dataset whose bytes lie in other files, which have no format."""

    __slots__ = ("_raw_files",)

    def __init__(
        self, file: OpenedFile, spec: VariableSpec, raw_files: Sequence[OpenedFile], *, threads: int | None = None
    ) -> None:
        """`raw_files` are those of `spec.raw_files`."""
        super().__init__(file, spec, threads=threads)
        self._raw_files = raw_files

    def _fetch(
        self, descriptor: Opened, version: Version, storage: ChunkStorage, key: Selection, out: np.ndarray
    ) -> None:
        with ExitStack() as stack:
            opened = [stack.enter_context(file.descriptor()) for file in self._raw_files]
            pieces = [
                Piece(one.source, raw.offset, raw.size) for one, raw in zip(opened, self.spec.raw_files, strict=True)
            ]
            source = Pieces(pieces, self.label())
            reading.read_contiguous(source, storage, key, out, threads=self.threads, label=self.label())
            for one, file in zip(opened, self._raw_files, strict=True):
                check_unchanged_since(file.identity, one.version(), self.spec)
