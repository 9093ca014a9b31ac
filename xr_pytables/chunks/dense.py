"""Arrays that lie in a file as they are: contiguous datasets, and chunks without filters.

Knows sources, offsets and runs of bytes; `reading` says what to read. Long runs go from the file straight to their
places, in one system call for many of them where the system has `preadv`; of short ones, stretches are read and copied
from.

Tested in `tests/chunks/test_reading_chunks.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ChunkError, FormatError
from ..sources.local import LocalFile
from ..sources.ranges import part_size, parts
from ..sources.remote import Fetched, Remote
from ..sources.source import Source
from . import scatter, team
from .codecs import Workspace
from .decoder import CACHED, Piece, extent, is_box, is_swapped, piece_length, positions, take_pieces
from .index import cut, prefix
from .libblosc2 import Bytes, pointer

_SLAB: Final = CACHED  # bytes of raw data read into scratch at once
_PIECE: Final = 1 << 23  # bytes of raw data that one thread reads into the output at once
_SHORT: Final = 1 << 12  # bytes of a run that Python reads as fast without help
_AT_ONCE: Final = 1 << 12  # such runs, each an object for a moment
_ROW: Final = 512  # bytes of the shortest row that is read to its place on its own
_NEAR: Final = 1 << 13  # bytes between such rows of which more are read together
_FETCHED: Final = 1 << 25  # bytes that are fetched over a network before they are put to their places
_SKIP: Final = scatter.MAX_GAP  # bytes: reading through a smaller gap is cheaper than another system call


class Dense(NamedTuple):
    """An array of C order that lies in the file as it is, at `offset`."""

    source: Source
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    label: str

    def read(
        self,
        inside: Sequence[Piece],
        target: NDArray[Any],
        *,
        workspace: Workspace | None = None,
        threads: int | None = None,
    ) -> None:
        """Read the outer product of the pieces into `target`, which has its shape.

        Long runs, and rows that are not too short, go straight into the target. Short ones that lie close together are
        read with the gaps between them, short ones far apart are read one by one. With `workspace` the calling thread
        does it alone.
        """
        if not self.shape:
            inside, target = [slice(0, 1)], target.reshape(1)
            Dense(self.source, self.offset, self.dtype, (1,), self.label).read(
                inside, target, workspace=workspace, threads=threads
            )
            return
        outer, first, run = self._runs(inside)
        if isinstance(self.source, Remote):
            self._read_remote(self.source, inside, outer, first, run, target)
            return
        gap = self._gap(inside, outer, run)
        far = gap is None or gap > _SKIP
        near = gap is not None and gap <= _NEAR
        swapped = is_swapped(self.dtype, target.dtype)
        straight = target.flags.c_contiguous and (run >= _SLAB or far)
        if straight and swapped is not None:
            self._read_runs(inside[:outer], first, run, target.reshape(-1).view(np.uint8), workspace, threads)
            if swapped:
                target.byteswap(inplace=True)
        elif swapped is False and (far or near) and self._scatter(inside, outer, target, workspace, threads):
            pass
        elif far and run < _SLAB and swapped is not None:
            whole = np.empty(target.shape, target.dtype)
            self.read(inside, whole, workspace=workspace, threads=threads)
            target[...] = whole
        else:
            self._read_slabs(inside, target, workspace, threads)

    def _read_remote(
        self, source: Remote, inside: Sequence[Piece], outer: int, first: int, run: int, target: NDArray[Any]
    ) -> None:
        """Long runs go to their places as they come; what has shorter ones is fetched some steps at a time."""
        swapped = is_swapped(self.dtype, target.dtype)
        if not outer and target.flags.c_contiguous and swapped is not None:
            flat, pieces = target.reshape(-1).view(np.uint8), parts(self.offset + first, run, part_size(run))
            for number, data in source.arriving(pieces):
                at = pieces[number][0] - pieces[0][0]
                flat[at : at + len(data)] = np.frombuffer(data, np.uint8)
            if swapped:
                target.byteswap(inplace=True)
            return
        strides = self._strides()
        if not outer:
            outer, first, run = 1, 0, strides[0]
        while outer > 1 and self._is_near(inside[:outer], outer, run, source.gap):
            low, high = extent(inside[outer - 1])
            outer -= 1
            first, run = first + low * strides[outer], (high - low - 1) * strides[outer] + run
        near = outer == 1 and self._is_near(inside[:1], 1, run, source.gap)
        count, (low, high) = piece_length(inside[0]), extent(inside[0])
        size = strides[0] * (high - low) // count if near else run * math.prod(map(piece_length, inside[1:outer]))
        step = max(_FETCHED // max(size, 1), 1)
        for begin in range(0, count, step):
            some = [_sub(inside[0], begin, min(begin + step, count)), *inside[1:]]
            low, high = extent(some[0])
            ranges = (
                [(self.offset + first + low * strides[0], (high - low - 1) * strides[0] + run)]
                if near
                else [(offset + first, run) for offset in self._offsets(some[:outer])]
            )
            fetched = Fetched(source, ranges)
            Dense(fetched, self.offset, self.dtype, self.shape, self.label).read(some, target[begin : begin + step])

    def _is_near(self, inside: Sequence[Piece], outer: int, run: int, most: int) -> bool:
        """Whether the runs along the innermost of the outer dimensions lie no further apart than `most` bytes."""
        piece = inside[outer - 1]
        if piece_length(piece) == 1:
            return True
        steps = piece.step or 1 if isinstance(piece, slice) else int(np.diff(piece).max(initial=1))
        return steps * self._strides()[outer - 1] - run <= most

    def _strides(self) -> list[int]:
        strides = [self.dtype.itemsize]
        for length in reversed(self.shape[1:]):
            strides.append(strides[-1] * length)
        return strides[::-1]

    def _begin(self, inside: Sequence[Piece]) -> int:
        """Where the first of these elements is in the file; of dimensions that are left out, that is element 0."""
        starts = [extent(piece)[0] * stride for piece, stride in zip(inside, self._strides(), strict=False)]
        return self.offset + sum(starts)

    def _runs(self, inside: Sequence[Piece]) -> tuple[int, int, int]:
        """The longest runs of wanted bytes: (number of outer dimensions, first byte within an outer step, bytes)."""
        strides = self._strides()
        axis = len(self.shape)
        while axis and is_box(inside[axis - 1 : axis]):
            axis -= 1
            start, stop = extent(inside[axis])
            if (start, stop) != (0, self.shape[axis]):
                return axis, start * strides[axis], (stop - start) * strides[axis]
        return axis, 0, strides[axis - 1] if axis else strides[0] * self.shape[0]

    def _gap(self, inside: Sequence[Piece], outer: int, run: int) -> int | None:
        """Bytes from the end of one run to the next, in the innermost of the outer dimensions that has a next one."""
        for axis in reversed(range(outer)):
            piece = inside[axis]
            if piece_length(piece) > 1:
                step = piece.step or 1 if isinstance(piece, slice) else int(np.diff(piece).max(initial=1))
                return step * self._strides()[axis] - run
        return None

    def _read_runs(
        self,
        outer: Sequence[Piece],
        first: int,
        run: int,
        target: Bytes,
        workspace: Workspace | None,
        threads: int | None,
    ) -> None:
        if run == target.size <= _PIECE:  # one map, or one series: nothing to plan, nobody to ask
            self._fill(self._begin(outer) + first, target)
            return
        if run <= _SHORT:
            self._read_short(outer, first, run, target)
            return

        def pieces() -> Iterator[tuple[int, int, int]]:
            place = 0
            for offset in self._offsets(outer):
                for begin in range(0, run, _PIECE):
                    size = min(_PIECE, run - begin)
                    yield offset + first + begin, place, size
                    place += size

        def read(piece: tuple[int, int, int], workspace: Workspace) -> None:
            offset, place, size = piece
            self._fill(offset, target[place : place + size])

        team.run(pieces(), read, 1 if run < _SLAB else threads, count=-(-target.size // _PIECE), workspace=workspace)

    def _read_short(self, outer: Sequence[Piece], first: int, run: int, target: Bytes) -> None:
        offsets, place = self._offsets(outer), 0
        while some := [offset + first for offset in itertools.islice(offsets, _AT_ONCE)]:
            size = run * len(some)
            try:
                found = self.source.read_many([(offset, run) for offset in some])
            except FormatError:
                raise self._cut_off(max(some) + run) from None
            target[place : place + size] = np.frombuffer(b"".join(found), np.uint8)
            place += size

    def _scatter(
        self,
        inside: Sequence[Piece],
        outer: int,
        target: NDArray[Any],
        workspace: Workspace | None,
        threads: int | None,
    ) -> bool:
        """Read rows that are runs of bytes in the file and in the target to their places at once.

        `outer` dimensions divide the runs of the file. False, and nothing is done, where that is not possible or the
        rows are too short for it to pay.
        """
        axis = max(outer, _first_contiguous(target))
        row, shape = math.prod(target.shape[axis:]) * self.dtype.itemsize, target.shape[:axis]
        source = self.source
        if row < _ROW or not is_box(inside) or not isinstance(source, LocalFile) or not scatter.available():
            return False
        strides = self._strides()
        begin = self._begin(inside)
        memory, count = pointer(target), math.prod(shape)
        step = max(_PIECE // row, 1)

        def read(first: int, workspace: Workspace) -> None:
            last = min(first + step, count)
            where = np.unravel_index(np.arange(first, last), shape)
            starts, places = np.full(last - first, begin), np.full(last - first, memory)
            for position, in_file, in_memory in zip(where, strides, target.strides, strict=False):
                starts += position * in_file
                places += position * in_memory
            done = scatter.read_rows(source.descriptor, starts, places, row)
            for i in range(done, last - first):  # the system gave up early: one by one, to the end or an error
                whole = target[(*[position[i] for position in where], ...)]  # of one element, too, a view
                self._fill(int(starts[i]), whole.reshape(-1).view(np.uint8))

        team.run(iter(range(0, count, step)), read, threads, count=-(-count // step), workspace=workspace)
        return True

    def _offsets(self, outer: Sequence[Piece]) -> Iterator[int]:
        """Where each combination of the outer positions begins in the file."""
        if not outer:
            yield self.offset
            return
        strides = self._strides()
        last = positions(outer[-1]) * strides[len(outer) - 1] + self.offset
        for where in itertools.product(*(positions(piece).tolist() for piece in outer[:-1])):
            start = sum(i * stride for i, stride in zip(where, strides, strict=False))
            yield from (last + start).tolist()

    def _read_slabs(
        self, inside: Sequence[Piece], target: NDArray[Any], workspace: Workspace | None, threads: int | None
    ) -> None:
        axis, strides = self._slab_axis(inside), self._strides()
        row, inner = strides[axis], self.shape[axis + 1 :]
        batches = _row_batches(positions(inside[axis]), row)

        def slabs() -> Iterator[tuple[tuple[int, ...], int, int, int]]:
            ranges = [range(piece_length(piece)) for piece in inside[:axis]]
            for where, offset in zip(itertools.product(*ranges), self._offsets(inside[:axis]), strict=True):
                for begin, end in batches:
                    yield where, offset, begin, end

        def read(slab: tuple[tuple[int, ...], int, int, int], own: Workspace) -> None:
            where, offset, begin, end = slab
            rows = _sub(inside[axis], begin, end)
            low, high = extent(rows)
            data = own.take((high - low) * row, target)
            self._fill(offset + low * row, data)
            block = data.view(self.dtype).reshape(high - low, *inner)
            wanted = take_pieces(block, [rows, *inside[axis + 1 :]], [low] + [0] * len(inner))
            place: tuple[int | slice, ...] = (*where, slice(begin, end))
            target[place] = wanted

        team.run(slabs(), read, threads, count=len(batches) * math.prod(target.shape[:axis]), workspace=workspace)

    def _slab_axis(self, inside: Sequence[Piece]) -> int:
        """The outermost dimension whose rows are small enough, and wanted enough, to be read whole."""
        strides, axis = self._strides(), len(self.shape) - 1
        wanted = strides[axis]
        while axis and strides[axis - 1] <= _SLAB:
            start, stop = extent(inside[axis])
            wanted = strides[axis] * (stop - start)
            if strides[axis - 1] - wanted > max(_SKIP, wanted):
                break
            axis -= 1
        return axis

    def _fill(self, offset: int, buffer: Bytes) -> None:
        if self.source.read_into(buffer, offset) != buffer.size:
            raise self._cut_off(offset + buffer.size)

    def _cut_off(self, end: int) -> ChunkError:
        return ChunkError(f"{prefix(self.label)}the file ends before {end}")


def _first_contiguous(array: NDArray[Any]) -> int:
    """The first dimension from which on the elements are one run of bytes."""
    axis, expected = array.ndim, array.itemsize
    while axis and (array.strides[axis - 1] == expected or array.shape[axis - 1] == 1):
        axis -= 1
        expected *= array.shape[axis]
    return axis


def _row_batches(rows: NDArray[np.int64], size: int) -> list[tuple[int, int]]:
    """(begin, end) into ascending `rows` of `size` bytes each: together below a slab, without a large gap."""
    limit = max(_SLAB // size, 1)
    begins = np.flatnonzero(np.concatenate([[True], (np.diff(rows) - 1) * size > _SKIP]))
    return cut(rows, begins, limit)


def _sub(piece: Piece, begin: int, end: int) -> Piece:
    """Elements `begin` to `end` of a piece."""
    if not isinstance(piece, slice):
        return piece[begin:end]
    step = piece.step or 1
    return slice(piece.start + begin * step, piece.start + (end - 1) * step + 1, step)
