"""Making a new file: its structure by HDF5, the chunks by whoever has computed them, their indexes by the last step.

    prepare     the structure and what is in memory; a whole file if there is no more
    parts_of    where blocks of Dask arrays go: `ArenaTarget`s, or files beside for what has to be put together first
    finish      puts that together, writes the indexes of all chunks, and has HDF5 check them

Each step can be repeated, by another process too: `prepare` and what HDF5 writes happen in a file that takes its name
when it is whole; what is written in place is the same bytes each time.
"""

from __future__ import annotations

import itertools
import math
import os
import posixpath
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final

import dask.array
import numpy as np

from ..chunks.encoder import Block
from ..chunks.index import MISSING, ChunkIndex, ChunkStorage
from ..disk.arenas import OwnRoom, Room, SharedRoom
from ..disk.opened_files import hdf5_lock
from ..disk.transaction import Transaction
from ..hdf5.chunk_indexes import read_index
from ..hdf5.file import File
from ..library.chunk_tree import check_with_hdf5, set_end_of_file, set_root, tree_size, write_tree
from ..library.target_file import TargetFile, planned_storage
from ..model.attributes import are_large
from ..parsing import parsing
from ..sources.local import LocalFile
from . import chunk_writer
from .alignment import Blocks, conflict
from .blocks import BlockTarget, InMemory, PutAside, Values
from .cf_encoding import before_check
from .plans import VariablePlan, WritePlan
from .progress import Done, nobody
from .structure import write_structure
from .table_indexes import ColumnIndex, create_indexes
from .targets import USUAL, ArenaTarget, Effort, Notes, OwnNotes, Place, SharedNotes, kept_open

_COLUMNS: Final = ("address", "size", "mask")


@dataclass(frozen=True)
class Part:
    """A Dask array of a new file: how it is stored, and where its blocks go."""

    path: str
    shape: tuple[int, ...]
    storage: ChunkStorage | None
    """None if HDF5 has to write the values."""
    blocks: Blocks
    target: ArenaTarget | BlockTarget

    def file_of(self, start: Place) -> str:
        """The file that says, in a write that many processes share, that the block at `start` was written."""
        if isinstance(self.target, BlockTarget):
            return self.target.path(start)
        assert isinstance(self.target.notes, SharedNotes)
        return self.target.notes.path(self.target.number, start)


def prepare(
    plan: WritePlan,
    transaction: Transaction,
    effort: Effort = USUAL,
    done: Done = nobody,
    room: SharedRoom | None = None,
) -> None:
    """Make the file with everything but the data of Dask arrays.

    It gets the name of the new file, or if there are Dask arrays that of the growing one, in which `room` begins where
    the structure ends.
    """
    transaction.check_allowed()
    if plan.makes_file and os.path.lexists(transaction.target):
        raise FileExistsError(f"{transaction.target}: somebody made this file meanwhile; it was left alone")
    making = os.path.join(transaction.folder, f"making-{uuid.uuid4().hex[:8]}.h5")
    large = any(are_large(group.attributes) for group in plan.groups if group.path == "/")
    with hdf5_lock(), TargetFile(making, create=True, large_attributes=large) as file:
        write_structure(file, plan)
    _write_memory(making, plan, effort, done)
    if not streamed(plan):
        _index_tables(making, transaction, plan.indexes)
        os.replace(making, transaction.new_file)
        return
    size = os.path.getsize(making)
    if room is not None and room.begin(size) < size:
        raise OSError(f"{transaction.folder}: another run of this step has made a shorter file")
    _take_name(making, transaction.growing_file)


def _write_memory(path: str, plan: WritePlan, effort: Effort, done: Done) -> None:
    """Write the arrays that are in memory to the file that HDF5 has just made."""
    in_memory = {
        posixpath.join(group.path, variable.name): (planned_storage(variable.layout), np.asarray(variable.data))
        for group, variable in plan
        if not is_lazy(variable)
    }
    by_hdf5 = {name: values for name, (storage, values) in in_memory.items() if storage is None}
    if by_hdf5:
        with kept_open(path) as file:
            for name, values in by_hdf5.items():
                _write_by_hdf5(file, name, InMemory(values), done)
    if len(by_hdf5) == len(in_memory):
        return
    room, budget = OwnRoom(os.path.getsize(path)), effort.budget()
    indexes, storages = {}, {}
    for name, (storage, values) in in_memory.items():
        if storage is not None:
            label = f"{path}:{name}"
            target = ArenaTarget(path, room, OwnNotes(), 0, label, storage, effort, effort.threads, budget, done)
            indexes[name], storages[name] = _written_at_once(target, values), storage
    _write_indexes(path, _Chunks(indexes, room.take(_size_of_trees(indexes, storages))), storages, room)


def streamed(plan: WritePlan) -> list[tuple[str, VariablePlan]]:
    """The variables that Dask computes, each with its path."""
    return [(posixpath.join(group.path, variable.name), variable) for group, variable in plan if is_lazy(variable)]


def is_lazy(variable: VariablePlan) -> bool:
    """Whether Dask computes the values. (A plan that is a part of a Dask graph is without them.)"""
    return variable.data is None or isinstance(variable.data, dask.array.Array)


def parts_of(
    plan: WritePlan,
    transaction: Transaction,
    room: Room,
    notes: Notes,
    effort: Effort = USUAL,
    *,
    threads: int | None = 1,
    budget: AbstractContextManager[Any] | None = None,
    done: Done = nobody,
) -> list[Part]:
    """Where the blocks of each Dask array go. What HDF5 has to write, and blocks that share chunks, go to files."""
    parts = []
    for number, (path, variable) in enumerate(streamed(plan)):
        layout, blocks = variable.layout, variable.data.chunks
        label = f"{transaction.target}:{posixpath.dirname(path)}: variable {variable.name!r}"
        storage = planned_storage(layout)
        target: ArenaTarget | BlockTarget
        if storage is None or conflict(blocks, storage.chunkshape or (), (0,) * len(blocks)):
            dtype = np.dtype(object) if layout.dtype is None else layout.dtype
            target = BlockTarget(transaction.folder, number, layout.shape, dtype, label)
        else:
            target = ArenaTarget(
                transaction.growing_file, room, notes, number, label, storage, effort, threads, budget, done
            )
        parts.append(Part(path, layout.shape, storage, blocks, target))
    return parts


def sources_of(plan: WritePlan, parts: Sequence[Part]) -> list[dask.array.Array]:
    """What Dask has to compute for the targets of `parts`. An `ArenaTarget` looks at blocks itself."""
    return [
        before_check(variable.data) if isinstance(part.target, ArenaTarget) else variable.data
        for part, (_, variable) in zip(parts, streamed(plan), strict=True)
    ]


# -- the last step -----------------------------------------------------------------------------------------


def finish(
    parts: Sequence[Part],
    transaction: Transaction,
    indexes: Mapping[str, Sequence[ColumnIndex]],
    room: Room,
    effort: Effort = USUAL,
    done: Done = nobody,
    *,
    again: bool = False,
) -> None:
    """Make the growing file, whose blocks were all stored, the new file.

    `again` says that this step may be repeated, whether its process was killed at some moment or still runs. Raises
    OSError if a block is missing, or if HDF5 does not find the chunks where they should be.
    """
    path, by_hdf5 = transaction.growing_file, [part for part in parts if part.storage is None]
    aside = {part.path: _put_aside(part, transaction) for part in by_hdf5}

    def gather() -> _Chunks:
        return _gathered(parts, transaction, room, effort, done)

    chunks = _settled(parts, transaction, gather) if again else gather()
    if again and (by_hdf5 or any(indexes.values())):  # what HDF5 leaves when it is killed cannot be gone on with
        path = os.path.join(transaction.folder, f"filling-{uuid.uuid4().hex[:8]}.h5")
        shutil.copyfile(transaction.growing_file, path)
    _write_indexes(path, chunks, {part.path: part.storage for part in parts if part.storage is not None}, room)
    if by_hdf5:
        with kept_open(path) as file:
            for part in by_hdf5:
                _write_by_hdf5(file, part.path, aside[part.path], done)
    _index_tables(path, transaction, indexes)
    os.replace(path, transaction.new_file)


@dataclass(frozen=True, eq=False)
class _Chunks:
    """Where all chunks of the arrays are that this project writes itself, and where their indexes shall be."""

    indexes: Mapping[str, ChunkIndex]
    """By path of the array."""
    trees: int
    """Where a region for the indexes begins, in bytes."""


def _gathered(parts: Sequence[Part], transaction: Transaction, room: Room, effort: Effort, done: Done) -> _Chunks:
    """What blocks are where. Blocks that share chunks are put together, and their chunks written, first."""
    indexes, storages = {}, {}
    budget = effort.budget()
    for part in parts:
        if part.storage is None:
            continue
        if isinstance(part.target, ArenaTarget):
            indexes[part.path] = _located(part.target, part.blocks)
        else:
            values = _put_aside(part, transaction)
            target = ArenaTarget(
                transaction.growing_file,
                room,
                OwnNotes(),
                0,
                part.target.label,
                part.storage,
                effort,
                effort.threads,
                budget,
                done,
            )
            indexes[part.path] = _written_at_once(target, values)
        storages[part.path] = part.storage
    return _Chunks(indexes, room.take(_size_of_trees(indexes, storages)))


def _put_aside(part: Part, transaction: Transaction) -> PutAside:
    """The blocks of an array that lie in files. Raises OSError if one is missing."""
    assert isinstance(part.target, BlockTarget)
    values = PutAside(part.target, part.blocks)
    if missing := values.missing():
        raise OSError(
            f"{transaction.target}:{part.path}: {missing} of {math.prod(values.shape)} elements were not stored; the "
            "file was not replaced. Every worker must see the folder of the file"
        )
    return values


def _written_at_once(target: ArenaTarget, values: Block) -> ChunkIndex:
    """Write all values of an array from this process; where its chunks are."""
    if math.prod(values.shape):
        target.write((0,) * target.ndim, values)
    return _located(target, tuple((size,) for size in target.shape))


def _located(target: ArenaTarget, blocks: Blocks) -> ChunkIndex:
    """Where the chunks of an array are, by the notes of all its blocks. Raises OSError if one is missing."""
    storage = target.storage
    index = _no_chunks(storage)
    address, size, mask = (each.reshape(-1) for each in (index.address, index.size, index.filter_mask))
    missing, count = [], 0
    for start, shape in places_of(blocks):
        count += 1
        chunks = target.notes.of(target.number, start, shape)
        if chunks is None:
            missing.append(start)
        elif len(chunks):
            at = np.ravel_multi_index(tuple((chunks["corner"] // storage.chunkshape).T), storage.grid)
            address[at], size[at], mask[at] = chunks["address"], chunks["size"], chunks["mask"]
    if missing:
        raise OSError(
            f"{target.label}: only {count - len(missing)} of {count} blocks were stored, not the one at {missing[0]}; "
            "the file was not replaced. Every worker must see the folder of the file"
        )
    if target.effort.write_empty_chunks and not address.all():
        raise OSError(f"{target.label}: {np.count_nonzero(address == MISSING)} chunks were not stored")
    return index


def _no_chunks(storage: ChunkStorage) -> ChunkIndex:
    grid = storage.grid
    return ChunkIndex((0,) * len(grid), np.zeros(grid, np.uint64), np.zeros(grid, np.uint32), np.zeros(grid, np.uint32))


def places_of(blocks: Blocks) -> Iterator[tuple[Place, Place]]:
    """First element and shape of the blocks that are not empty."""
    along = [
        [(first, size) for first, size in zip(itertools.accumulate(sizes, initial=0), sizes, strict=False) if size]
        for sizes in blocks
    ]
    for sides in itertools.product(*along):
        yield tuple(first for first, _ in sides), tuple(size for _, size in sides)


def _settled(parts: Sequence[Part], transaction: Transaction, gather: Callable[[], _Chunks]) -> _Chunks:
    """Where the chunks are, decided once: what the first run of this step found counts for all runs of it.

    So what any of them writes to the file, late perhaps, is what is there.
    """
    path = transaction.decision
    names = [part.path for part in parts if part.storage is not None]
    if not os.path.exists(path):
        chunks = gather()
        making = f"{path}.{uuid.uuid4().hex[:8]}"
        columns = {"trees": np.array(chunks.trees)}
        for number, name in enumerate(names):
            found = zip(_COLUMNS, _columns(chunks.indexes[name]), strict=True)
            columns |= {f"{column}{number}": each for column, each in found}
        with open(making, "xb") as file:
            np.savez(file, allow_pickle=False, **columns)
        _take_name(making, path)
    with parsing(), np.load(path, allow_pickle=False) as kept:
        indexes = {
            name: ChunkIndex(
                (0,) * kept[f"address{number}"].ndim,
                *(kept[f"{column}{number}"] for column in _COLUMNS),
            )
            for number, name in enumerate(names)
        }
        return _Chunks(indexes, int(kept["trees"]))


def _take_name(making: str, name: str) -> None:
    """Give a file its name, unless another run of the same step has made one: that one counts."""
    try:
        os.link(making, name)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        os.rename(making, name)
        return
    os.unlink(making)


def _size_of_trees(indexes: Mapping[str, ChunkIndex], storages: Mapping[str, ChunkStorage]) -> int:
    return sum(tree_size(index, storages[path]) for path, index in indexes.items())


def _write_indexes(path: str, chunks: _Chunks, storages: Mapping[str, ChunkStorage], room: Room) -> None:
    """Write the indexes of all chunks into the file at `path`, and its end; then see whether they are found."""
    at = chunks.trees
    with open(path, "r+b", buffering=0) as raw:
        descriptor = raw.fileno()
        file = File(LocalFile(descriptor, path))
        placed = {name: replace(each, header=file.resolve(name).address) for name, each in storages.items()}
        end = room.seal()
        for name, index in chunks.indexes.items():
            set_root(descriptor, placed[name].header, write_tree(descriptor, index, placed[name], at))
            at += tree_size(index, placed[name])
        set_end_of_file(descriptor, end)
    _check(path, chunks.indexes, placed)
    with hdf5_lock():
        check_with_hdf5(path, chunks.indexes, storages)


def _check(path: str, indexes: Mapping[str, ChunkIndex], storages: Mapping[str, ChunkStorage]) -> None:
    """Raise OSError if our readers do not find what was written."""
    with open(path, "rb") as raw:
        source = LocalFile(raw.fileno(), path)
        for name, index in indexes.items():
            if not all(map(np.array_equal, _columns(read_index(source, storages[name])), _columns(index))):
                raise OSError(f"{path}:{name}: the index of the chunks is not what was written")


def _columns(index: ChunkIndex) -> tuple[np.ndarray, ...]:
    return index.address, index.size, index.filter_mask


def _write_by_hdf5(file: TargetFile, path: str, values: Values, done: Done) -> None:
    start = (0,) * len(values.shape)
    chunk_writer.write_through_hdf5(file, path, values.shape, start, values, lock=hdf5_lock, done=done)


def _index_tables(path: str, transaction: Transaction, indexes: Mapping[str, Sequence[ColumnIndex]]) -> None:
    """Have PyTables index the columns of tables in the file at `path`."""
    if any(indexes.values()):
        with hdf5_lock():
            create_indexes(path, transaction.folder, indexes, ours_alone=True)
