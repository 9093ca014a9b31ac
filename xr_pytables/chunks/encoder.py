"""Encoding blocks of an array as the chunks that HDF5 stores: cut, pad, swap bytes and filter, outside HDF5.

A block is an array, or what reads parts of one, and the place of its first element. It consists of whole chunks, which
are encoded in threads and handed on as bytes. Knows no file: who takes the bytes decides where they go.

Tested in `tests/writing/test_encoding.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from . import team
from .codecs import ChunkType, Workspace, encode_parts
from .index import ChunkStorage
from .libblosc2 import Bytes

_BATCH_BYTES: Final = 2**20  # small chunks are encoded and handed on together


class Block(Protocol):
    """What is cut into chunks: an array, or what reads parts of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """In elements."""

    def __getitem__(self, box: tuple[slice, ...], /) -> NDArray[Any]:
        """A part; from any thread."""


@dataclass(frozen=True, eq=False)
class EncodedChunk:
    """One chunk as it is stored."""

    corner: tuple[int, ...]
    """Its first element."""
    parts: tuple[Bytes, ...]
    """Its bytes, one behind the other; valid until the thread that made it encodes the next ones."""
    mask: int
    """Bit *i* set: filter *i* was not applied."""


def whole_chunks(start: Sequence[int], shape: Sequence[int], storage: ChunkStorage) -> tuple[range, ...]:
    """First elements, along each dimension, of the chunks of a block of `shape` at `start` (elements).

    Raises ValueError if it does not consist of whole chunks. One over the edge of the array is whole up to the edge.
    """
    corners = []
    for first, count, chunk, length in zip(start, shape, storage.chunkshape or (), storage.shape, strict=True):
        end = first + count
        if first % chunk or (end % chunk and end != length):
            raise ValueError(
                f"a block of {tuple(shape)} at {tuple(start)} shares chunks of {storage.chunkshape} with other blocks"
            )
        corners.append(range(first, end, chunk))
    return tuple(corners)


def encode_block(
    block: Block,
    start: Sequence[int],
    storage: ChunkStorage,
    put: Callable[[Sequence[EncodedChunk]], None],
    *,
    threads: int | None = None,
    budget: AbstractContextManager[Any] | None = None,
    leave_out: bool = False,
) -> None:
    """Encode the chunks of `block`, which begins at `start` (elements), and give them to `put`.

    `put` gets some chunks at a time, from several threads at once, and is done with their bytes when it returns. The
    calling thread works itself, with up to `threads` - 1 helpers where CPUs are idle; whoever encodes holds `budget`
    meanwhile. With `leave_out`, chunks of nothing but the fill value are not handed on, unless PyTables wants all that
    the array has (`ChunkStorage.holds_frames`). Needs memory for one batch (a chunk, or up to 1 MiB of smaller ones)
    decoded and encoded in each thread. Raises ChunkError, and ValueError for a block that does not consist of whole
    chunks.
    """
    corners = whole_chunks(start, block.shape, storage)
    count = math.prod(map(len, corners))
    if not count:
        return
    encoder = _Encoder(block, tuple(start), storage, leave_out)
    batch = max(1, _BATCH_BYTES // max(storage.chunk_nbytes, 1))
    held = budget if budget is not None else nullcontext()

    def work(corners: list[tuple[int, ...]], workspace: Workspace) -> None:
        with held:
            encoded = encoder.encode(corners, workspace)
        if encoded:
            put(encoded)

    team.run(_batches(itertools.product(*corners), batch), work, threads, count=-(-count // batch))


def _batches(corners: Iterator[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    while batch := list(itertools.islice(corners, size)):
        yield batch


class _Encoder:
    """Cuts chunks out of one block and encodes them; used by several threads."""

    def __init__(self, block: Block, start: tuple[int, ...], storage: ChunkStorage, leave_out: bool) -> None:
        self.block = block
        self.start = start
        self.storage = storage
        self.chunkshape = storage.chunkshape or ()
        self.type = ChunkType(self.chunkshape, storage.dtype)
        self.fill = storage.fill_values()
        self.leave_out = leave_out and not storage.holds_frames

    def encode(self, corners: list[tuple[int, ...]], workspace: Workspace) -> list[EncodedChunk]:
        """The chunks at these corners, less those that are left out."""
        size = self.storage.chunk_nbytes
        room = workspace.take(size * len(corners))
        encoded = []
        for number, corner in enumerate(corners):
            data = self._flat(self._part(corner), room[number * size : (number + 1) * size])
            if self.leave_out and is_fill(data, self.fill):
                continue
            encoded.append(EncodedChunk(corner, *encode_parts(data, self.storage.pipeline, self.type)))
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
