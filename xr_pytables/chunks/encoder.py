"""Encoding blocks of an array as the chunks that HDF5 stores: cut, pad, swap bytes and filter, outside HDF5.

A block is an array and the place of its first element. The chunks that it covers whole are encoded in threads and
handed on as bytes; the rest of it is named, for HDF5 to merge into chunks that other blocks share. Knows no file: who
takes the bytes decides where they go.

Tested in `tests/writing/test_encoding.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from . import team
from .codecs import ChunkType, Workspace, encode_chunk
from .index import ChunkStorage
from .libblosc2 import Bytes

_BATCH_BYTES: Final = 2**20  # small chunks are encoded and handed on together
Box = tuple[tuple[int, int], ...]
"""First element and the one after the last along each dimension."""


@dataclass(frozen=True, eq=False)
class EncodedChunk:
    """One chunk as it is stored."""

    corner: tuple[int, ...]
    """Its first element."""
    data: bytes | bytearray | Bytes
    """Valid until the thread that made it encodes the next ones."""
    mask: int
    """Bit *i* set: filter *i* was not applied."""


@dataclass(frozen=True)
class Cover:
    """The chunks that a block covers whole, and the boxes that remain of it."""

    corners: tuple[range, ...]
    """First elements of the chunks along each dimension; all combinations are covered."""
    rest: tuple[Box, ...]
    """Disjoint parts of the block, each in chunks that the block does not cover."""

    @property
    def count(self) -> int:
        """Number of whole chunks."""
        return math.prod(map(len, self.corners))


def cover(start: Sequence[int], shape: Sequence[int], storage: ChunkStorage) -> Cover:
    """What a block of `shape` at `start` (elements) covers. A chunk over the edge is whole up to the edge."""
    box: Box = tuple((first, first + length) for first, length in zip(start, shape, strict=True))
    sides = zip(box, storage.chunkshape or (), storage.shape, strict=True)
    corners = tuple(_whole(side, chunk, length) for side, chunk, length in sides)
    if not all(corners):
        return Cover(tuple(range(0) for _ in box), (box,) if math.prod(shape) else ())
    rest: list[Box] = []
    for axis, (corner, chunk, length) in enumerate(zip(corners, storage.chunkshape or (), storage.shape, strict=True)):
        inner = (corner[0], min(corner[-1] + chunk, length))
        around = ((box[axis][0], inner[0]), (inner[1], box[axis][1]))
        rest += [(*box[:axis], side, *box[axis + 1 :]) for side in around if side[0] < side[1]]
        box = (*box[:axis], inner, *box[axis + 1 :])
    return Cover(corners, tuple(rest))


def _whole(side: tuple[int, int], chunk: int, length: int) -> range:
    """First elements of the chunks of an axis of `length` that lie between two elements."""
    first, last = -(-side[0] // chunk), side[1] // chunk if side[1] < length else -(-length // chunk)
    return range(first * chunk, last * chunk, chunk)


def encode_block(
    block: NDArray[Any],
    start: Sequence[int],
    storage: ChunkStorage,
    put: Callable[[Sequence[EncodedChunk]], None],
    *,
    threads: int | None = None,
    budget: AbstractContextManager[Any] | None = None,
    leave_out: bool = False,
) -> tuple[Box, ...]:
    """Encode the chunks that `block` covers whole and give them to `put`; the parts of the block that are left.

    `put` gets some chunks at a time, from several threads at once, and is done with their bytes when it returns. The
    calling thread works itself, with up to `threads` - 1 helpers where CPUs are idle; whoever encodes holds `budget`
    meanwhile. With `leave_out`, chunks of nothing but the fill value are not handed on. Needs memory for one batch
    (a chunk, or up to 1 MiB of smaller ones) decoded and encoded in each thread. Raises ChunkError.
    """
    covered = cover(start, block.shape, storage)
    if not covered.count:
        return covered.rest
    encoder = _Encoder(block, tuple(start), storage, leave_out)
    batch = max(1, _BATCH_BYTES // max(storage.chunk_nbytes, 1))
    held = budget if budget is not None else nullcontext()

    def work(corners: list[tuple[int, ...]], workspace: Workspace) -> None:
        with held:
            encoded = encoder.encode(corners, workspace)
        if encoded:
            put(encoded)

    tasks = _batches(itertools.product(*covered.corners), batch)
    team.run(tasks, work, threads, count=-(-covered.count // batch))
    return covered.rest


def _batches(corners: Iterator[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    while batch := list(itertools.islice(corners, size)):
        yield batch


class _Encoder:
    """Cuts chunks out of one block and encodes them; used by several threads."""

    def __init__(self, block: NDArray[Any], start: tuple[int, ...], storage: ChunkStorage, leave_out: bool) -> None:
        self.block = block
        self.start = start
        self.storage = storage
        self.chunkshape = storage.chunkshape or ()
        self.type = ChunkType(self.chunkshape, storage.dtype)
        self.fill = storage.fill_values()
        self.leave_out = leave_out

    def encode(self, corners: list[tuple[int, ...]], workspace: Workspace) -> list[EncodedChunk]:
        """The chunks at these corners, less those that are left out."""
        size = self.storage.chunk_nbytes
        room = workspace.take(size * len(corners))
        encoded = []
        for number, corner in enumerate(corners):
            data = self._flat(self._part(corner), room[number * size : (number + 1) * size])
            if self.leave_out and is_fill(data, self.fill):
                continue
            encoded.append(EncodedChunk(corner, *encode_chunk(data, self.storage.pipeline, self.type)))
        return encoded

    def _part(self, corner: tuple[int, ...]) -> NDArray[Any]:
        """The elements of the chunk that the array has."""
        return self.block[
            tuple(
                slice(first - begin, min(first + chunk, length) - begin)
                for first, begin, chunk, length in zip(
                    corner, self.start, self.chunkshape, self.storage.shape, strict=True
                )
            )
        ]

    def _flat(self, part: NDArray[Any], room: Bytes) -> Bytes:
        """The bytes of the whole chunk as stored: those of the block itself, or in `room`."""
        whole = part.shape == self.chunkshape
        if whole and part.dtype == self.storage.dtype and part.flags.c_contiguous:
            return part.reshape(-1).view(np.uint8)
        chunk = room.view(self.storage.dtype).reshape(self.chunkshape)
        if not whole:
            chunk[...] = self.fill
        chunk[tuple(map(slice, part.shape))] = part
        return room


def is_fill(data: Bytes, fill: NDArray[Any]) -> bool:
    """Whether a chunk holds nothing but the fill value: bit by bit, but any NaN for a NaN."""
    if fill.dtype.kind == "f" and np.isnan(fill):
        return bool(np.isnan(data.view(fill.dtype)).all())
    wanted = np.frombuffer(fill.tobytes(), np.uint8)
    elements = data.reshape(-1, wanted.size)
    return bool((elements[0] == wanted).all() and (elements == wanted).all())
