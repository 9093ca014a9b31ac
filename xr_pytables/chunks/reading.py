"""Reading selections of a dataset past HDF5: fetch, decode and place, in several threads at once.

Takes a `Source`, a `ChunkStorage` and a `ChunkIndex`; knows integers and buffers, no PyTables node, no lock and
no HDF5 call. The lazy arrays call it. Here is what a read has to fetch (`read_into`, `read_points`,
`read_contiguous`) and how it gets the bytes; `decoder` decodes and places one chunk, and `team` has the threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ChunkError
from ..sources.remote import Remote
from ..sources.source import Source
from . import libblosc2, team
from .codecs import Workspace
from .decoder import CACHED, ChunkDecoder, Piece, all_slices, extent, piece_length, positions, take_pieces
from .dense import Dense
from .index import (
    DAMAGED,
    MISSING,
    AxisPlan,
    ChunkIndex,
    ChunkStorage,
    Selection,
    chosen_elements,
    cut,
    full_selection,
    plan_selection,
    prefix,
    run_starts,
)
from .libblosc2 import Box, Bytes

_BATCH: Final = 1 << 20  # bytes: chunks that lie side by side are read together up to this size
_GAP: Final = 4096  # bytes between two chunks that are read along (B-tree nodes lie between chunks)
_HEAD: Final = 4096  # bytes of a Blosc2 frame that hold its header and the places of some hundred blocks
_LARGE_STEP: Final = 1 << 18  # bytes of a chunk that surely take longer to read than to have a helper
_STEPS_IN_PART: Final = 6  # of a chunk of which a part is read: its header, the places of blocks, the blocks
_MAX_EXPANSION: Final = 16  # no filter stores more than this many times the size of a chunk (and 64 KiB)

_LARGE_REMOTE: Final = 1 << 20  # bytes of a chunk behind a network that may be read in part
_SMALL_SHARE: Final = 4  # it is, if less than one in so many bytes is wanted

_MAX_PIECES: Final = 4096  # along one dimension, kept as objects


def read_into(
    source: Source,
    storage: ChunkStorage,
    index: ChunkIndex,
    selection: Selection,
    out: NDArray[Any],
    *,
    plans: list[AxisPlan] | None = None,
    threads: int | None = None,
    label: str = "",
) -> None:
    """Fill `out` with the selected elements of a chunked dataset, reading each touched chunk once.

    `out` has the shape of the selection (as NumPy's outer indexing gives it) and the dtype `storage.dtype` in native
    byte order; it may be strided. Missing chunks give the fill value. `index` has to cover the touched chunks. `plans`
    is `plan_selection(storage, selection)`, if the caller has it already.

    At most `threads` threads work on it (None: one per usable CPU; 1: only the caller), the caller being one of them.
    Holds no lock; safe from several threads as long as each has its own `out`. Needs memory for two decoded chunks per
    thread. Raises ChunkError, naming `label` and the chunk, for bytes that are not a sound chunk; `out` is then partly
    filled.
    """
    plans = plan_selection(storage, selection) if plans is None else plans
    full = _all_dimensions(out, selection, tuple([plan.length for plan in plans]))
    if not out.size:
        return
    along = [plan.chunks for plan in plans[: storage.rank]]
    grid = tuple(map(len, along))

    def name(number: int) -> str:
        where = _unravel(number, grid)
        corner = (int(a[i]) * c for a, i, c in zip(along, where, storage.chunkshape or (), strict=False))
        return f"{prefix(label)}chunk at {tuple(corner)}"

    if max(grid, default=1) == 1:  # the usual block of Dask; to plan it with arrays takes longer than to read it
        chunks = _Chunks.one(index, [int(axis[0]) for axis in along], source, storage, name)
    else:
        chunks = _Chunks.stored(index.at(np.ix_(*along)), source, storage, name)
    if len(chunks.starts) < math.prod(grid):
        full[...] = _fill_of(storage, plans)
    places = _with_pieces(plans)
    decoder = ChunkDecoder(storage)

    def place(number: int, chunk: _StoredChunk, workspace: Workspace) -> None:
        inside, outside = places(_unravel(number, grid))
        target = full[outside] if all_slices(outside) else None
        if target is not None:
            chunk.into(inside, target, workspace)
            return
        scattered = np.empty([piece_length(piece) for piece in inside], full.dtype)
        chunk.into(inside, scattered, workspace)
        full[np.ix_(*(positions(piece) for piece in outside))] = scattered

    _read_chunks(source, chunks, index, decoder, place, name, threads, out.nbytes)


def read_points(
    source: Source,
    storage: ChunkStorage,
    index: ChunkIndex,
    points: Sequence[NDArray[np.integer[Any]]],
    out: NDArray[Any],
    *,
    threads: int | None = None,
    label: str = "",
) -> None:
    """Fill `out` with the elements at `points`: arrays of equal length, one per dimension (pointwise indexing).

    `out` is 1-D, one element per point. Points may repeat and come in any order; each touched chunk is read once.
    Otherwise as `read_into`. Raises IndexError for a point outside.
    """
    if len(points) != len(storage.shape) or storage.chunkshape is None:
        raise IndexError(f"{len(points)} point arrays for {len(storage.shape)} dimensions of a chunked dataset")
    elements = [_wrapped(p, n) for p, n in zip(points, storage.shape, strict=True)]
    if out.shape != elements[0].shape:
        raise ValueError(f"the output has shape {out.shape}, the points {elements[0].shape}")
    if not out.size:
        return
    rank = storage.rank
    coordinates = tuple(e // c for e, c in zip(elements[:rank], storage.chunkshape, strict=False))
    number = np.ravel_multi_index(coordinates, storage.grid)
    order = np.argsort(number, kind="stable")
    starts = run_starts(number[order])
    bounds = [*starts.tolist(), len(order)]
    touched = tuple(c[order[starts]] for c in coordinates)
    found = index.at(touched)
    chunkshape = storage.chunkshape

    def name(i: int) -> str:
        corner = tuple(int(axis[i]) * c for axis, c in zip(touched, chunkshape, strict=False))
        return f"{prefix(label)}chunk at {corner}"

    chunks = _Chunks.stored(found, source, storage, name)
    if len(chunks.starts) < found.address.size:
        out[...] = _fill_at(storage, elements)
    local = [e % c for e, c in zip(elements, chunkshape, strict=True)]

    def place(i: int, chunk: _StoredChunk, workspace: Workspace) -> None:
        mine = order[bounds[i] : bounds[i + 1]]
        inside = [axis[mine] for axis in local]
        box = tuple((int(axis.min()), int(axis.max()) + 1) for axis in inside)
        block = chunk.fetch(box, workspace)
        out[mine] = block[tuple(axis - start for axis, (start, _) in zip(inside, box, strict=True))]

    _read_chunks(source, chunks, index, ChunkDecoder(storage), place, name, threads, out.nbytes)


ChunkUser = Callable[[int, Callable[[int, int, NDArray[Any] | None], NDArray[Any]]], None]
"""Called with the place of a chunk among those asked for, and a function of (start, stop, out) that gives its rows
`start` to `stop`: in `out` if there is one, else in memory that is valid until the caller returns."""


def each_chunk(
    source: Source,
    storage: ChunkStorage,
    index: ChunkIndex,
    numbers: NDArray[np.int64],
    use: ChunkUser,
    *,
    threads: int | None = None,
    label: str = "",
) -> NDArray[np.int64]:
    """Call `use` for each of the chunks `numbers` of a one-dimensional dataset that is stored, from several threads.

    Returns the places among `numbers` of the chunks that are missing, for which `use` was not called. Otherwise as
    `read_into`.
    """
    found = index.at((numbers,))
    length = (storage.chunkshape or (0,))[0]

    def name(i: int) -> str:
        return f"{prefix(label)}chunk at {(int(numbers[i]) * length,)}"

    chunks = _Chunks.stored(found, source, storage, name)

    def place(i: int, chunk: _StoredChunk, workspace: Workspace) -> None:
        def rows(start: int, stop: int, out: NDArray[Any] | None) -> NDArray[Any]:
            if out is None:
                return chunk.fetch(((start, stop),), workspace)
            chunk.into([slice(start, stop)], out, workspace)
            return out

        use(i, rows)

    wanted = len(numbers) * storage.chunk_nbytes
    _read_chunks(source, chunks, index, ChunkDecoder(storage), place, name, threads, wanted)
    return np.flatnonzero(found.address == MISSING)


def read_contiguous(
    source: Source,
    storage: ChunkStorage,
    selection: Selection,
    out: NDArray[Any],
    *,
    threads: int | None = None,
    label: str = "",
) -> None:
    """Fill `out` with the selected elements of a contiguous dataset, reading little more than them.

    Arguments as for `read_into`. A dataset without allocated bytes gives the fill value. Raises ChunkError if the file
    is too short for the dataset.
    """
    selection = full_selection(storage, selection)
    chosen = [chosen_elements(one, length) for one, length in zip(selection, storage.shape, strict=True)]
    inside: list[Piece] = [slice(one[0], one[-1] + 1, one.step) for one in chosen if isinstance(one, range) and one]
    plans = plan_selection(storage, selection) if len(inside) < len(chosen) else []  # of arrays, which it checks
    full = _all_dimensions(out, selection, tuple(map(len, chosen)))
    if not out.size:
        return
    if storage.offset is None:
        full[...] = _fill_of(storage, plans or plan_selection(storage, selection))
        return
    nbytes, size = storage.dtype.itemsize * math.prod(storage.shape), source.size
    if storage.offset + nbytes > size:
        raise ChunkError(
            f"{prefix(label)}{nbytes} bytes of data at {storage.offset} lie beyond the end of the file ({size} bytes)"
        )
    dense = Dense(source, storage.offset, storage.dtype, storage.shape, label)
    pieces = [plan.piece(0) for plan in plans]
    outside = [piece for _, piece in pieces]
    target = full if all_slices(outside) else np.empty(full.shape, full.dtype)
    dense.read([piece for piece, _ in pieces] or inside, target, threads=threads)
    if target is not full:
        full[np.ix_(*(positions(piece) for piece in outside))] = target


# ---------------------------------------------------------------------------------------------------------------------
# selections


def _unravel(number: int, grid: tuple[int, ...]) -> list[int]:
    """`np.unravel_index` for one number, which is quicker in Python."""
    where = []
    for length in reversed(grid):
        number, i = divmod(number, length)
        where.append(i)
    return where[::-1]


def _all_dimensions(out: NDArray[Any], selection: Selection, expected: tuple[int, ...]) -> NDArray[Any]:
    """`out` with a dimension of length 1 for each that an integer of the selection dropped (a view of that shape)."""
    kept: list[Any] = [slice(None) if isinstance(one, slice) or np.ndim(one) else None for one in selection]
    full = out[(*kept, ...)] if None in kept else out
    if full.shape != expected:
        raise ValueError(f"the output has shape {out.shape}; the selection (integers count 1) has {expected}")
    return full


def _with_pieces(
    plans: list[AxisPlan],
) -> Callable[[list[int]], tuple[tuple[Piece, ...], tuple[Piece, ...]]]:
    """A function from the position of a touched chunk to its (elements inside, places in the output)."""
    along = [_pieces(plan) for plan in plans]
    beyond = [0] * len(plans)  # dimensions of the atom are not in the grid: one chunk

    def pieces(where: list[int]) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
        both = [axis(i) for axis, i in zip(along, where + beyond[len(where) :], strict=True)]
        inside, outside = zip(*both, strict=True)
        return inside, outside

    return pieces


def _pieces(plan: AxisPlan) -> Callable[[int], tuple[Piece, Piece]]:
    """`plan.piece`; from a list if it is not a long one, as each is asked for once per chunk across the dimension."""
    if len(plan.chunks) > _MAX_PIECES:
        return plan.piece
    return [plan.piece(i) for i in range(len(plan.chunks))].__getitem__


def _wrapped(points: NDArray[np.integer[Any]], length: int) -> NDArray[np.int64]:
    wrapped = points.astype(np.int64)
    wrapped[wrapped < 0] += length
    if len(wrapped) and not (wrapped.min() >= 0 and wrapped.max() < length):
        raise IndexError(f"a point lies outside of {length} elements")
    return wrapped


def _fill_of(storage: ChunkStorage, plans: list[AxisPlan]) -> NDArray[Any]:
    """The fill value, broadcasting against a selection: of the atom's numbers those that are selected."""
    fill = storage.fill_values()
    if not fill.ndim:
        return fill
    pieces = [plan.piece(0) for plan in plans[storage.rank :]]
    selected = np.empty([plan.length for plan in plans[storage.rank :]], fill.dtype)
    selected[np.ix_(*(positions(outside) for _, outside in pieces))] = take_pieces(
        fill, [inside for inside, _ in pieces], [0] * len(pieces)
    )
    return selected


def _fill_at(storage: ChunkStorage, points: list[NDArray[np.int64]]) -> NDArray[Any]:
    fill = storage.fill_values()
    return fill[tuple(points[storage.rank :])] if fill.ndim else fill


_Name = Callable[[int], str]
"""What messages call a chunk, by its place in the touched grid."""


class _Chunks(NamedTuple):
    """The stored chunks of a read, in the order of their addresses."""

    numbers: list[int]
    """Places in the touched grid."""
    starts: list[int]
    """In bytes from the start of the file."""
    sizes: list[int]
    masks: list[int]

    @classmethod
    def stored(cls, found: ChunkIndex, source: Source, storage: ChunkStorage, name: _Name) -> _Chunks:
        """Leave out the missing ones. Raises ChunkError for a chunk beyond the file or of an absurd size."""
        address = found.address.reshape(-1)
        number = np.flatnonzero(address != MISSING)
        number = number[np.argsort(address[number], kind="stable")]
        address, size = address[number], found.size.reshape(-1)[number].astype(np.uint64)
        end = source.size
        bad = _is_absurd(address, size, np.uint64(end), storage)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise _absurd(name(int(number[first])), int(address[first]), int(size[first]), end, storage)
        mask = found.filter_mask.reshape(-1)[number]
        return cls(number.tolist(), address.tolist(), size.tolist(), mask.tolist())

    @classmethod
    def one(cls, index: ChunkIndex, chunk: list[int], source: Source, storage: ChunkStorage, name: _Name) -> _Chunks:
        """The same for the chunk with these grid coordinates."""
        address, size, mask = index.entry(chunk)
        if address == MISSING:
            return cls([], [], [], [])
        end = source.size
        if _is_absurd(address, size, end, storage):
            raise _absurd(name(0), address, size, end, storage)
        return cls([0], [address], [size], [mask])

    def batches(self, limit: int, alone: list[bool]) -> list[tuple[int, int]]:
        """(begin, end) of chunks to read in one go: side by side in the file, near `limit` bytes together."""
        if len(self.starts) == 1:
            return [(0, 1)]
        address = np.array(self.starts)
        gap = address[1:] - (address + self.sizes)[:-1]
        apart = np.array(alone)
        breaks = (gap < 0) | (gap > _GAP) | apart[1:] | apart[:-1]
        begins = np.flatnonzero(np.concatenate([[True], breaks]))
        return cut(address, begins, limit)


def _is_absurd(address: Any, size: Any, end: Any, storage: ChunkStorage) -> Any:
    """Whether a chunk lies beyond the end of the file or is larger than any filter makes it (numbers or arrays)."""
    limit = _MAX_EXPANSION * storage.chunk_nbytes + 65536
    return (size > end) | (address > end - size) | (size > limit)


def _absurd(name: str, address: int, size: int, end: int, storage: ChunkStorage) -> ChunkError:
    place = "nowhere (the index is damaged)" if address == DAMAGED else f"at {address}"
    return ChunkError(
        f"{name}: the index has a chunk of {size} bytes {place}, in a file of {end} bytes and for "
        f"chunks of {storage.chunk_nbytes} bytes"
    )


# ---------------------------------------------------------------------------------------------------------------------
# from batches of chunks to places


class _StoredChunk(NamedTuple):
    """One chunk on its way: its bytes, or where they can be read."""

    decoder: ChunkDecoder
    mask: int
    raw: Bytes | None
    keep: Bytes
    """Bytes that scratch memory must not overwrite, as other chunks of the batch are in them."""
    dense: Dense | None = None
    """Where the chunk is, if it is stored without filters."""
    frame: _StoredFrame | None = None
    """Where the chunk is, if it is a large b2nd frame."""

    def into(self, inside: Sequence[Piece], target: NDArray[Any], workspace: Workspace) -> None:
        if self.dense is not None:
            self.dense.read(inside, target, workspace=workspace)
        else:
            raw = self._bytes(tuple([extent(piece) for piece in inside]), workspace)
            self.decoder.into(raw, self.mask, inside, target, workspace, self.keep)

    def fetch(self, box: Box, workspace: Workspace) -> NDArray[Any]:
        if self.dense is None:
            raw = self._bytes(box, workspace)
            return self.decoder.fetch(raw, self.mask, box, workspace, self.keep)
        block = np.empty([stop - start for start, stop in box], self.decoder.dtype)
        self.into([slice(*bounds) for bounds in box], block, workspace)
        return block

    def _bytes(self, box: Box, workspace: Workspace) -> Bytes:
        if self.frame is not None:
            return self.frame.read(box, self.decoder.chunkshape, workspace)
        assert self.raw is not None  # one of the three is given
        return self.raw


class _StoredFrame(NamedTuple):
    """A chunk that is nothing but a Blosc2 frame of `size` bytes at `address`."""

    source: Source
    address: int
    size: int

    def read(self, box: Box, chunkshape: tuple[int, ...], workspace: Workspace) -> Bytes:
        """The frame's bytes; of its blocks at least those that the box touches (the others are left undefined)."""
        data = workspace.take(self.size)
        wanted = math.prod(stop - start for start, stop in box)
        if 2 * wanted > math.prod(chunkshape) or not self._read_blocks(box, chunkshape, data):
            self._fill(data, 0, self.size)
        return data

    def _read_blocks(self, box: Box, chunkshape: tuple[int, ...], data: Bytes) -> bool:
        head = min(_HEAD, self.size)
        self._fill(data, 0, head)
        try:
            frame = libblosc2.Frame.of(data)
            if frame.shape != chunkshape or frame.chunk is None:
                return False
            begin = libblosc2.pointer(frame.chunk) - libblosc2.pointer(data)
            spans = libblosc2.block_spans(frame, box, head - begin)
        except ValueError:  # more than its beginning is needed to tell, or to say what is wrong with it
            return False
        for start, stop in spans or ():
            self._fill(data, begin + start, begin + stop)
        return spans is not None

    def _fill(self, data: Bytes, start: int, stop: int) -> None:
        if self.source.read_into(data[start:stop], self.address + start) != stop - start:
            raise ChunkError(f"the file ends before {self.address + stop}")


def _read_chunks(
    source: Source,
    chunks: _Chunks,
    index: ChunkIndex,
    decoder: ChunkDecoder,
    place: Callable[[int, _StoredChunk, Workspace], None],
    name: _Name,
    threads: int | None,
    wanted: int,
) -> None:
    """Read the chunks, several at once where they are small neighbours, and hand each to `place`.

    `wanted` is the size in bytes of what is asked for of all of them together.
    """
    numbers, starts, sizes, masks = chunks.numbers, chunks.starts, chunks.sizes, chunks.masks
    if not numbers:
        return
    skipped = decoder.all_skipped
    raw_chunk = [mask & skipped == skipped for mask in masks]
    # read in part, if a part is wanted: raw data, and b2nd frames that no checksum covers
    alone = [
        size > CACHED // 4 and (raw or (decoder.only_blosc2 and not mask & 1))
        for raw, mask, size in zip(raw_chunk, masks, sizes, strict=True)
    ]
    limit = min(_BATCH, max(sum(sizes) // (4 * team.usable_cpus()), 1))
    batches = chunks.batches(limit, alone)
    nothing = np.empty(0, np.uint8)

    if isinstance(source, Remote):
        # what is wanted of each, as a share: of large chunks, parts are worth a request of their own
        little = wanted * _SMALL_SHARE < decoder.nbytes * len(numbers)
        in_part = [one and little and size > _LARGE_REMOTE for one, size in zip(alone, sizes, strict=True)]
        whole = [i for i, one in enumerate(in_part) if not one]
        _read_arriving(source, chunks, index, whole, decoder, place, name, threads)
        batches = [(i, i + 1) for i, one in enumerate(in_part) if one]
        if not batches:
            return

    def read(batch: tuple[int, int], workspace: Workspace) -> None:
        begin, end = batch
        i = begin
        try:
            if alone[begin] and not raw_chunk[begin]:
                frame = _StoredFrame(source, starts[begin], sizes[begin])
                place(numbers[begin], _StoredChunk(decoder, masks[begin], None, nothing, frame=frame), workspace)
                return
            if alone[begin]:
                _check_raw_size(sizes[begin], decoder)
                dense = Dense(source, starts[begin], decoder.dtype, decoder.chunkshape, "")
                place(numbers[begin], _StoredChunk(decoder, masks[begin], None, nothing, dense), workspace)
                return
            first = starts[begin]
            stored = workspace.take(starts[end - 1] + sizes[end - 1] - first)
            if source.read_into(stored, first) != stored.size:
                raise ChunkError(f"the file ends before {first + stored.size}")
            keep = stored if end - begin > 1 else nothing
            for i in range(begin, end):
                raw = stored[starts[i] - first :][: sizes[i]]
                place(numbers[i], _StoredChunk(decoder, masks[i], raw, keep), workspace)
        except ChunkError as error:
            raise ChunkError(f"{name(numbers[i])}: {error}") from error

    if len(batches) > 1 and (threads is None or threads > 1):
        partly = all(alone)
        if (wanted // len(numbers) if partly else decoder.nbytes) < _LARGE_STEP:
            first, *batches = batches
            steps = (first[1] - first[0]) * (_STEPS_IN_PART if partly else 1)
            threads = threads if team.helpers_pay(first, read, steps) else 1
    lanes = min(threads or team.usable_cpus(), team.usable_cpus()) if len(batches) > 1 else 1
    team.run(_apart(batches, lanes), read, threads, count=len(batches))


def _read_arriving(
    source: Remote,
    chunks: _Chunks,
    index: ChunkIndex,
    which: list[int],
    decoder: ChunkDecoder,
    place: Callable[[int, _StoredChunk, Workspace], None],
    name: _Name,
    threads: int | None,
) -> None:
    """Ask for the chosen chunks, many at once, and hand each to `place` as it comes, while others are under way."""
    nothing = np.empty(0, np.uint8)

    def use(arrived: tuple[int, memoryview], workspace: Workspace) -> None:
        i = which[arrived[0]]
        raw = np.frombuffer(arrived[1], np.uint8)
        try:
            if chunks.masks[i] & decoder.all_skipped == decoder.all_skipped:
                _check_raw_size(raw.size, decoder)
            place(chunks.numbers[i], _StoredChunk(decoder, chunks.masks[i], raw, nothing), workspace)
        except ChunkError as error:
            raise ChunkError(f"{name(chunks.numbers[i])}: {error}") from error

    ranges = [(chunks.starts[i], chunks.sizes[i]) for i in which]
    arriving = source.arriving(ranges, source.windows(index, lambda: _all_chunks(index, source.size)))
    team.run(arriving, use, threads, count=len(which))


def _all_chunks(index: ChunkIndex, end: int) -> list[tuple[int, int]]:
    """(address, size) of the chunks that an index has in the file."""
    address, size = index.address.reshape(-1), index.size.reshape(-1).astype(np.uint64)
    stored = (address != MISSING) & (size <= end) & (address <= np.uint64(end) - np.minimum(size, np.uint64(end)))
    return list(zip(address[stored].tolist(), size[stored].tolist(), strict=True))


def _apart(batches: list[tuple[int, int]], lanes: int) -> Iterator[tuple[int, int]]:
    """The batches in such an order that `lanes` of them that are under way together are far from each other.

    Neighbours lie side by side in the output as well: two threads would touch the same fresh pages of memory at the
    same moment, and the system would clear each of them twice.
    """
    length = max(-(-len(batches) // max(lanes, 1)), 1)
    for i in range(length):
        yield from batches[i::length]


def _check_raw_size(size: int, decoder: ChunkDecoder) -> None:
    if size != decoder.nbytes:
        raise ChunkError(f"{size} bytes are stored without filters, expected {decoder.nbytes}")
