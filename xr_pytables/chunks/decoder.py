"""One chunk, from stored bytes to selected elements in their places.

Knows the filters' client data through `codecs` and Blosc's blocks through `libblosc2`; no file and no thread.
`reading` brings the bytes. A chunk that is wanted whole and lies whole in the output is decoded there. Any other is
decoded in pieces that stay in the processor's cache until their rows are in place, where its filters allow that.

Tested in `tests/chunks/test_reading_chunks.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ChunkError
from . import codecs, libblosc2
from .codecs import Workspace
from .filters import BLOSC, BLOSC2, FLETCHER32, SHUFFLE, FilterPipeline
from .index import ChunkStorage
from .libblosc2 import Box, Bytes

CACHED: Final = 1 << 19
"""Bytes that are decoded, or read, before they are put in their places: half of a usual second-level cache."""

Piece = slice | NDArray[np.int64]
"""Elements along one dimension: a slice with a positive step, or ascending positions."""


def all_slices(pieces: Sequence[Piece]) -> bool:
    return all([isinstance(piece, slice) for piece in pieces])  # noqa: C419 - a list is quicker for so few


def piece_length(piece: Piece) -> int:
    return len(range(piece.start, piece.stop, piece.step or 1)) if isinstance(piece, slice) else len(piece)


def positions(piece: Piece) -> NDArray[np.int64]:
    return np.arange(piece.start, piece.stop, piece.step or 1) if isinstance(piece, slice) else piece


def extent(piece: Piece) -> tuple[int, int]:
    """(start, stop) of what a piece reaches over."""
    return (piece.start, piece.stop) if isinstance(piece, slice) else (int(piece[0]), int(piece[-1]) + 1)


def is_box(pieces: Sequence[Piece]) -> bool:
    return all([isinstance(piece, slice) and (piece.step or 1) == 1 for piece in pieces])  # noqa: C419 - as above


def take_pieces(block: NDArray[Any], pieces: Sequence[Piece], corner: Sequence[int]) -> NDArray[Any]:
    """The outer product of the pieces out of a block whose first element is at `corner`."""
    for axis, (piece, start) in enumerate(zip(pieces, corner, strict=True)):
        if isinstance(piece, slice):
            moved: Piece = slice(piece.start - start, piece.stop - start, piece.step)
        else:
            moved = piece - start
        block = block[(slice(None),) * axis + (moved,)]
    return block


class ChunkDecoder:
    """What the chunks of one dataset have in common. Made for each read, used by all its threads."""

    def __init__(self, storage: ChunkStorage) -> None:
        assert storage.chunkshape is not None
        self.dtype = storage.dtype
        self.chunkshape = storage.chunkshape
        self.nbytes = storage.chunk_nbytes
        self.items = math.prod(storage.chunkshape)
        self.pipeline = storage.pipeline
        filters = storage.pipeline.filters
        self.all_skipped = (1 << len(filters)) - 1
        # a Blosc buffer behind nothing but checksums can be decoded in part
        self.blosc = filters[0].id if filters and filters[0].id in (BLOSC, BLOSC2) else 0
        self.only_blosc2 = self.blosc == BLOSC2 and len(filters) == 1
        if any(step.id != FLETCHER32 for step in filters[1:]) or libblosc2.library() is None:
            self.blosc = 0
        shuffle = filters[0].values[0] if filters and filters[0].id == SHUFFLE and filters[0].values else 0
        # size of the elements if their bytes are all that is left to put in order; 0 if not
        self.shuffled = shuffle if 1 < shuffle <= libblosc2.MAX_TYPESIZE and self.dtype.itemsize % shuffle == 0 else 0

    def into(
        self, raw: Bytes, mask: int, inside: Sequence[Piece], target: NDArray[Any], workspace: Workspace, keep: Bytes
    ) -> None:
        """Decode a chunk and put the selected elements into `target`, which has their shape."""
        if target.size == self.items and is_box(inside):
            self._whole(raw, mask, target, workspace, keep)
            return
        box = tuple([extent(piece) for piece in inside])
        frame = self._frame(raw, mask)
        if frame is not None and is_box(inside):
            self._blocks(frame, box, target)
            return
        if is_box(inside) and self._in_pieces(raw, mask, box, target, workspace, keep):
            return
        block = self.fetch(raw, mask, box, workspace, keep)
        target[...] = take_pieces(block, inside, [start for start, _ in box])

    def _whole(self, raw: Bytes, mask: int, target: NDArray[Any], workspace: Workspace, keep: Bytes) -> None:
        """Decode all of a chunk: into the target itself if it is contiguous, else by blocks or by scratch memory."""
        swapped = is_swapped(self.dtype, target.dtype)
        if target.flags.c_contiguous and swapped is not None:
            flat = target.reshape(-1).view(np.uint8)
            codecs.decode_chunk(raw, mask, self.pipeline, self.nbytes, flat, workspace=workspace, keep=(keep,))
            if swapped:
                target.byteswap(inplace=True)
            return
        frame = self._frame(raw, mask)
        if frame is not None:
            self._blocks(frame, tuple([(0, length) for length in self.chunkshape]), target)
            return
        if self._in_pieces(raw, mask, tuple([(0, length) for length in self.chunkshape]), target, workspace, keep):
            return
        data = codecs.decode_chunk(raw, mask, self.pipeline, self.nbytes, workspace=workspace, keep=(keep,))
        target[...] = data.view(self.dtype).reshape(self.chunkshape)

    def fetch(self, raw: Bytes, mask: int, box: Box, workspace: Workspace, keep: Bytes) -> NDArray[Any]:
        """The elements of a box of a chunk, as stored; valid until the workspace is used again."""
        frame = self._frame(raw, mask)
        if frame is not None:
            block = np.empty([stop - start for start, stop in box], self.dtype)
            self._blocks(frame, box, block)
            return block
        start, shape = _rows(box, self.chunkshape)
        size = math.prod(shape) * self.dtype.itemsize
        if self.blosc and not mask & 1 and 2 * size <= self.nbytes:
            data = self._part(raw, mask, start * self.dtype.itemsize, size, workspace, keep)
        else:
            data = codecs.decode_chunk(raw, mask, self.pipeline, self.nbytes, workspace=workspace, keep=(keep,))
            data = data[start * self.dtype.itemsize :][:size]
        rows = data.view(self.dtype).reshape(shape)
        return rows[tuple(_within(b, n, c) for b, n, c in zip(box, shape, self.chunkshape, strict=True))]

    def _stored(self, raw: Bytes, mask: int) -> Bytes:
        """The bytes under the checksums, which are verified."""
        for i in reversed(range(1, len(self.pipeline.filters))):
            if not mask >> i & 1:
                raw = codecs.verified(raw)
        return raw

    def _frame(self, raw: Bytes, mask: int) -> libblosc2.Frame | None:
        """The b2nd frame of which blocks can be decoded one by one; None if the chunk is not stored so."""
        if self.blosc != BLOSC2 or mask & 1:
            return None
        try:
            frame = libblosc2.Frame.of(self._stored(raw, mask))
        except ValueError as error:
            raise ChunkError(f"blosc2: {error}") from error
        return frame if frame.shape == self.chunkshape and frame.chunk is not None else None

    def _blocks(self, frame: libblosc2.Frame, box: Box, target: NDArray[Any]) -> None:
        try:
            libblosc2.read_blocks(frame, self.dtype, box, target)
        except ValueError as error:
            raise ChunkError(f"blosc2: {error}") from error

    def _part(self, raw: Bytes, mask: int, start: int, size: int, workspace: Workspace, keep: Bytes) -> Bytes:
        """Bytes `start` to `start + size` of a chunk in a Blosc 1 buffer or a Blosc2 frame without shape."""
        stored = self._stored(raw, mask)
        try:
            chunk = self._blosc_chunk(stored)
            header = libblosc2.BufferHeader.of(chunk) if chunk is not None else None
            # Blosc's items need not be the array's elements: those that reach over the part are decoded as well
            typesize = header.typesize if header is not None else 0
            first = start // typesize * typesize if typesize else 0
            last = -(-(start + size) // typesize) * typesize if typesize else 0
            if chunk is None or header is None or not typesize or last > self.nbytes:
                data = codecs.decode_chunk(raw, mask, self.pipeline, self.nbytes, workspace=workspace, keep=(keep,))
                return data[start : start + size]
            if header.nbytes != self.nbytes or header.stored > chunk.size:
                raise ValueError(f"the header tells of {header.nbytes} bytes, expected {self.nbytes}")
            out = workspace.take(last - first, raw, keep)
            libblosc2.decompress_part(chunk, header, first, out)
        except ValueError as error:
            raise ChunkError(f"blosc: {error}") from error
        return out[start - first :][:size]

    # -- in pieces ------------------------------------------------------------------------------------------

    def _in_pieces(
        self, raw: Bytes, mask: int, box: Box, target: NDArray[Any], workspace: Workspace, keep: Bytes
    ) -> bool:
        """Decode what holds a box piece by piece, and place the rows of each piece before the next one is decoded.

        (With a fast codec, to copy a whole decoded chunk out of the memory takes as long as to decode it.) False, and
        nothing is done, where the filters do not allow it or it would not pay.
        """
        axis, first, last = self._rows_of(box)
        row = math.prod(self.chunkshape[axis:]) * self.dtype.itemsize
        wanted = math.prod(stop - start for start, stop in box) * self.dtype.itemsize
        if not axis or 2 * wanted < (last + 1 - first) * row:
            return False
        source = self._pieces(raw, mask, row, workspace, keep)
        if source is None:
            return False
        begin = first * row // source.step * source.step
        buffer = workspace.take(source.step + row, *source.busy, raw, keep)
        base = begin  # of the chunk's bytes, the one that is first in the buffer
        for position in range(begin, (last + 1) * row, source.step):
            end = min(position + source.step, self.nbytes)
            source.read(position, buffer[position - base : end - base])
            low, high = max(first, -(-base // row)), min(last + 1, end // row)
            if low < high:
                rows = buffer[low * row - base : high * row - base].view(self.dtype)
                self._place(rows.reshape(high - low, *self.chunkshape[axis:]), low, axis, box, target)
            rest = max(base, end // row * row)  # the rows before are in place, or not wanted
            buffer[: end - rest] = buffer[rest - base : end - base]
            base = rest
        return True

    def _rows_of(self, box: Box) -> tuple[int, int, int]:
        """The rows in which a box is decoded: (their first dimension, number of the first row and of the last).

        A row is the largest part of the chunk that fits the cache and is one run of bytes.
        """
        axis, size = len(self.chunkshape), self.dtype.itemsize
        while axis and size * self.chunkshape[axis - 1] <= CACHED:
            axis -= 1
            size *= self.chunkshape[axis]
        first = last = 0
        for (start, stop), length in zip(box[:axis], self.chunkshape, strict=False):
            first, last = first * length + start, last * length + stop - 1
        return axis, first, last

    def _pieces(self, raw: Bytes, mask: int, row: int, workspace: Workspace, keep: Bytes) -> _Pieces | None:
        """How to decode parts of a chunk; None if only all of it can be decoded."""
        if self.blosc and not mask & 1:
            return self._blosc_pieces(raw, mask)
        if self.shuffled and not mask & 1:
            inner = FilterPipeline(self.pipeline.filters[1:])
            data = codecs.decode_chunk(raw, mask >> 1, inner, self.nbytes, workspace=workspace, keep=(keep,))
            step = min(max(CACHED // row, 1) * row, self.nbytes)
            return self._shuffled_pieces(data, step, workspace.take(step, data, raw, keep))
        return None

    def _blosc_pieces(self, raw: Bytes, mask: int) -> _Pieces | None:
        stored = self._stored(raw, mask)
        try:
            chunk = self._blosc_chunk(stored)
            header = libblosc2.BufferHeader.of(chunk) if chunk is not None else None
        except ValueError as error:
            raise ChunkError(f"blosc: {error}") from error
        if chunk is None or header is None or header.nbytes != self.nbytes or header.stored > chunk.size:
            return None  # decoding the whole chunk will say what is wrong
        block = header.blocksize
        if block < 1 or not header.typesize or block % header.typesize or self.nbytes % header.typesize:
            return None

        def read(start: int, out: Bytes) -> None:
            try:
                libblosc2.decompress_part(chunk, header, start, out)
            except ValueError as error:
                raise ChunkError(f"blosc: {error}") from error

        return _Pieces((chunk,), min(max(CACHED // block, 1) * block, self.nbytes), read)

    def _blosc_chunk(self, stored: Bytes) -> Bytes | None:
        """The compressed buffer of bytes in their own order: what is stored (Blosc 1), or in a frame without shape."""
        if self.blosc == BLOSC:
            return stored
        frame = libblosc2.Frame.of(stored)
        return frame.chunk if frame.shape is None else None

    def _shuffled_pieces(self, data: Bytes, step: int, tile: Bytes) -> _Pieces:
        """Pieces of a chunk of which only the shuffle is left to undo; `tile` has room for one piece."""
        size = self.shuffled
        planes = data.reshape(size, -1)  # first the first bytes of all elements, then the second ones ...

        def read(start: int, out: Bytes) -> None:
            part = tile[: out.size]
            part.reshape(size, -1)[...] = planes[:, start // size : (start + out.size) // size]
            libblosc2.unshuffle(part, out, size)

        return _Pieces((data, tile), step, read)

    def _place(self, rows: NDArray[Any], first: int, axis: int, box: Box, target: NDArray[Any]) -> None:
        """Put consecutive rows (`first` is the number of the first) into `target`, which has the shape of the box."""
        length, (start, stop) = self.chunkshape[axis - 1], box[axis - 1]
        inner = tuple([slice(*bounds) for bounds in box[axis:]])
        for outer in range(first // length, (first + len(rows) - 1) // length + 1):
            where = np.unravel_index(outer, self.chunkshape[: axis - 1]) if axis > 1 else ()
            if not all(low <= i < high for i, (low, high) in zip(where, box, strict=False)):
                continue
            offset = outer * length - first
            low, high = max(start, -offset), min(stop, len(rows) - offset)
            if low < high:
                place = [int(i) - begin for i, (begin, _) in zip(where, box, strict=False)]
                along: tuple[int | slice, ...] = (*place, slice(low - start, high - start))
                target[along] = rows[(slice(low + offset, high + offset), *inner)]


class _Pieces(NamedTuple):
    """How to decode a chunk in parts: `read(start, out)` gives `out.size` bytes from `start`, a multiple of `step`."""

    busy: tuple[Bytes, ...]
    """What it reads from: scratch memory must not overwrite it."""
    step: int
    """In bytes. All parts but the last have this size."""
    read: Callable[[int, Bytes], None]


def _rows(box: Box, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """The smallest stretch of a C-ordered array that holds a box: (first element, shape of the stretch).

    Dimensions in which the box has one element are passed; the next one is cut, those behind it are whole.
    """
    start, stride = 0, math.prod(shape)
    for axis, ((low, high), length) in enumerate(zip(box, shape, strict=True)):
        stride //= length
        start += low * stride
        if high - low > 1:
            return start, (1,) * axis + (high - low, *shape[axis + 1 :])
    return start, (1,) * len(shape)


def _within(bounds: tuple[int, int], rows: int, length: int) -> slice:
    """Where a box lies along a dimension of its stretch: all of a cut dimension, its own place in a whole one."""
    start, stop = bounds
    return slice(start, stop) if rows == length else slice(0, rows)


def is_swapped(stored: np.dtype[Any], target: np.dtype[Any]) -> bool | None:
    """Whether stored bytes become `target` by swapping their order (False: they are alike; None: neither)."""
    if stored == target:
        return False
    if stored.kind in "iufc" and stored.newbyteorder("=") == target:
        return True
    return None
