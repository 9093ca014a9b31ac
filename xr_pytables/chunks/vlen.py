"""Values of variable length: rows of a VLArray, variable-length text, read from HDF5's global heaps without HDF5.

A dataset of such values holds descriptors of 16 bytes: how many elements, and which object of which collection of the
heap has them. Takes a source and an array of descriptors; finds and copies many values at once, with
NumPy, in threads, without HDF5's lock. Unlike HDF5 1.14, which can search a damaged collection for ever, it checks
every number before it goes on. Section numbers refer to the HDF5 File Format Specification, version 3.0.

Tested in `tests/arrays/test_ragged.py`.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ChunkError
from ..sources.remote import Remote
from ..sources.source import Source
from . import team
from .codecs import Workspace
from .index import UNDEFINED, run_starts

DESCRIPTOR: Final = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
"""One variable-length value in a dataset (VIII.B, with addresses of 8 bytes): elements, collection, object in it."""

_COLLECTION: Final = np.dtype([("signature", "S4"), ("version", "u1"), ("reserved", "V3"), ("size", "<u8")])
_OBJECT: Final = np.dtype([("index", "<u2"), ("references", "<u2"), ("reserved", "<u4"), ("size", "<u8")])
_HEADER: Final = 16  # bytes of the header of a collection, and of an object
_SMALLEST: Final = 4096  # bytes of a collection, unless one object needs more
_MAX_OBJECTS: Final = 1 << 16  # of a collection: their numbers have 16 bits
_TASK: Final = 1 << 22  # bytes of collections that one thread reads at once
_GAP: Final = 1 << 14  # bytes: reading through a smaller gap is cheaper than another system call
_FEW: Final = 32  # collections: so few are walked one by one in Python
_LONG: Final = 1024  # bytes: values of such a mean length are copied one by one


def lengths(descriptors: NDArray[Any]) -> NDArray[np.int64]:
    """Number of elements of each value: nothing but the descriptors is read for that."""
    nothing = (descriptors["address"] == 0) | (descriptors["address"] == UNDEFINED)
    return np.where(nothing, 0, descriptors["length"]).astype(np.int64)


def read_values(
    source: Source,
    descriptors: NDArray[Any],
    itemsize: int,
    *,
    base: int = 0,
    threads: int | None = None,
    label: str = "",
) -> NDArray[np.uint8]:
    """The bytes of all values, one behind the other in the order of `descriptors` (1-D, of `DESCRIPTOR`).

    An element takes `itemsize` bytes; addresses count from `base`, the size of the user block. Each descriptor must
    occur once: that bounds the size of the result by that of the file. Each touched collection is read once, by at most
    `threads` threads (None: one per usable CPU). Holds no lock. Raises ChunkError, naming `label`, for descriptors and
    collections that no sound file contains.
    """
    where = f"{label}: " if label else ""
    counts = lengths(descriptors) * itemsize
    size = source.size
    if (counts > size).any() or counts.sum() > size:
        raise ChunkError(f"{where}values of {counts.sum()} bytes cannot be in a file of {size} bytes")
    out = np.empty(int(counts.sum()), np.uint8)
    starts = np.cumsum(counts) - counts
    used = np.flatnonzero(counts)
    order = used[np.argsort(descriptors["address"][used], kind="stable")]
    wanted = _Wanted(
        descriptors["address"][order].astype(np.uint64),
        descriptors["index"][order].astype(np.int64),
        counts[order],
        starts[order],
    )
    end = size - base
    if len(order) and (wanted.address[-1] > max(end - _HEADER, 0) or (wanted.index >= _MAX_OBJECTS).any()):
        raise ChunkError(f"{where}a value is said to lie beyond the end of the file ({size} bytes)")
    file = _File(source, base, end, where)

    def copy(part: slice, _: Workspace) -> None:
        _copy(file, wanted.part(part), out)

    tasks = list(_tasks(wanted))
    team.run(iter(tasks), copy, threads, count=len(tasks))
    return out


class _File(NamedTuple):
    source: Source
    base: int
    end: int
    """Bytes from the base to the end."""
    where: str
    """What messages begin with."""

    def read(self, buffer: NDArray[np.uint8], address: int) -> None:
        """Fill `buffer` with the bytes at `address`, zeros behind the end of the file."""
        count = self.source.read_into(buffer, address + self.base)
        buffer[count:] = 0


@dataclass(frozen=True, eq=False)
class _Wanted:
    """Values in the order of the addresses of their collections."""

    address: NDArray[np.uint64]
    index: NDArray[np.int64]
    count: NDArray[np.int64]
    """Bytes of the value."""
    to: NDArray[np.int64]
    """Where in the output it begins."""

    def part(self, part: slice | NDArray[np.intp]) -> _Wanted:
        return _Wanted(self.address[part], self.index[part], self.count[part], self.to[part])


def _tasks(wanted: _Wanted) -> Iterator[slice]:
    """Parts of about `_TASK` bytes, none of which ends within a collection."""
    if not len(wanted.address):
        return
    begins = run_starts(wanted.address)
    sizes = np.maximum(np.add.reduceat(wanted.count, begins), _SMALLEST)
    group = (np.cumsum(sizes) - sizes) // _TASK
    bounds = [*begins[run_starts(group)].tolist(), len(wanted.address)]
    for begin, end in itertools.pairwise(bounds):
        yield slice(begin, end)


def _copy(file: _File, wanted: _Wanted, out: NDArray[np.uint8]) -> None:
    """Put the values of some collections where they belong in the output."""
    begins = run_starts(wanted.address)
    addresses = wanted.address[begins].astype(np.int64)
    collection = np.repeat(np.arange(len(begins)), np.diff(np.append(begins, len(wanted.address))))
    # an object takes its header and is padded to 8 bytes
    needed = _HEADER + np.add.reduceat(_HEADER + (wanted.count + 7 & ~7), begins)
    data, starts, available = _read_collections(file, addresses, np.maximum(needed, _SMALLEST))
    sizes = _checked_sizes(file, data, starts, addresses)
    at = _in_order(data, starts, starts + np.minimum(sizes, available), collection, wanted)
    rest = np.flatnonzero(at < 0)
    if len(rest):
        touched = np.unique(collection[rest])
        more = touched[sizes[touched] > available[touched]]  # those of which only the beginning was read
        if len(more):
            extra, places, available[more] = _read_collections(file, addresses[more], sizes[more])
            starts[more] = places + data.size
            data = np.concatenate([data, extra])
        ends = starts + np.minimum(sizes, available)
        at[rest] = _looked_up(file, data, starts, ends, collection[rest], wanted.part(rest))
    _gather(data, at, wanted.count, out, wanted.to)


def _in_order(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    collection: NDArray[np.int64],
    wanted: _Wanted,
) -> NDArray[np.int64]:
    """Where the values begin that lie one behind the other from the start of their collection; -1 for others.

    That is how HDF5 fills a collection with the rows of one array. Each object says its number and size, so that a row
    of objects with the expected ones is known to be what a walk from one to the next finds.
    """
    key = collection * _MAX_OBJECTS + wanted.index
    order = np.argsort(key, kind="stable")
    number, index, count = collection[order], wanted.index[order], wanted.count[order]
    step = _HEADER + (count + 7 & ~7)
    before = np.cumsum(step) - step
    first = run_starts(number)
    lengths_of_runs = np.diff(np.append(first, len(number)))
    at = starts[number] + _HEADER + before - np.repeat(before[first], lengths_of_runs)
    sound = at + _HEADER + count <= ends[number]
    header = _records(data, np.where(sound, at, 0), _OBJECT)
    sound &= (header["index"] == index) & (header["size"] == count.astype(np.uint64))
    wrong = np.cumsum(~sound)
    sound = wrong == np.repeat(wrong[first] - ~sound[first], lengths_of_runs)  # and all before it
    found = np.full(len(key), -1, np.int64)
    found[order[sound]] = at[sound] + _HEADER
    return found


def _looked_up(
    file: _File,
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    collection: NDArray[np.int64],
    wanted: _Wanted,
) -> NDArray[np.int64]:
    """Where values begin, wherever they lie in their collections. Raises ChunkError for those that are not there."""
    touched, number = np.unique(collection, return_inverse=True)
    found, at, size = _objects(data, starts[touched], (ends - starts)[touched])
    key = number * _MAX_OBJECTS + wanted.index
    place = np.minimum(np.searchsorted(found, key), max(len(found) - 1, 0))
    bad = np.ones(len(key), bool)
    if len(found):
        bad = (found[place] != key) | (size[place] < wanted.count)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise ChunkError(
            f"{file.where}the heap collection at {wanted.address[first]} has no object {wanted.index[first]} of "
            f"{wanted.count[first]} bytes: the file is damaged"
        )
    return at[place]


def _read_collections(
    file: _File, addresses: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """At least `sizes` bytes at each address (ascending; less at the end of the file), read together where near.

    Returns the bytes, where in them each collection begins, and how many bytes of the buffer follow from there.
    """
    stops = np.minimum(addresses + sizes, file.end)
    reach = np.maximum.accumulate(stops)
    breaks = np.concatenate([[True], addresses[1:] > reach[:-1] + _GAP])
    run = np.cumsum(breaks) - 1
    begins = np.flatnonzero(breaks)
    ends = reach[np.append(begins[1:], len(addresses)) - 1]
    lengths_of_runs = ends - addresses[begins]
    places = np.cumsum(lengths_of_runs) - lengths_of_runs
    data = np.empty(int(lengths_of_runs.sum()), np.uint8)
    where = list(zip(addresses[begins].tolist(), lengths_of_runs.tolist(), places.tolist(), strict=True))
    if isinstance(file.source, Remote):
        for (_, length, place), found in zip(
            where, file.source.read_many([(at + file.base, length) for at, length, _ in where]), strict=True
        ):
            data[place : place + length] = np.frombuffer(found, np.uint8)
    else:
        for address, length, place in where:
            file.read(data[place : place + length], address)
    starts = places[run] + addresses - addresses[begins][run]
    return data, starts, (places + lengths_of_runs)[run] - starts


def _checked_sizes(
    file: _File, data: NDArray[np.uint8], starts: NDArray[np.int64], addresses: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The sizes of the collections. Raises ChunkError for what is none, or overlaps another or the end of the file."""
    headers = _records(data, starts, _COLLECTION)
    ends = np.append(addresses[1:], file.end)
    size = headers["size"]
    bad = (headers["signature"] != b"GCOL") | (headers["version"] != 1) | (size < 2 * _HEADER)
    bad |= size > (ends - addresses).astype(np.uint64)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise ChunkError(f"{file.where}there is no sound heap collection at {addresses[first]}: the file is damaged")
    return size.astype(np.int64)


def _records(data: NDArray[np.uint8], starts: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Records of 16 bytes at any offsets."""
    if not len(starts):
        return np.empty(0, dtype)
    at_every_byte = np.ndarray((data.size - _HEADER + 1,), dtype, data, strides=(1,))
    records: NDArray[Any] = at_every_byte[starts]
    return records


def _objects(
    data: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The objects of collections: (collection * 65536 + number of the object) in order, where it begins, its bytes.

    One object follows the other (III.E), so the first of all collections are looked at together, then the second ...
    """
    number = np.arange(len(starts))
    at, end = starts + _HEADER, starts + sizes
    keys, places, lengths_found = [], [], []
    for _ in range(_MAX_OBJECTS + 1):
        inside = at + _HEADER <= end
        number, at, end = number[inside], at[inside], end[inside]
        if len(at) < _FEW:
            break
        header = _records(data, at, _OBJECT)
        index = header["index"].astype(np.int64)
        size = np.minimum(header["size"], np.uint64(1 << 62)).astype(np.int64)
        sound = (size <= end - at - _HEADER) & (index > 0)
        keys.append((number * _MAX_OBJECTS + index)[sound])
        places.append((at + _HEADER)[sound])
        lengths_found.append(size[sound])
        at = at + _step(index, size)
    rest: list[tuple[int, int, int]] = []
    for collection, begin, stop in zip(number.tolist(), at.tolist(), end.tolist(), strict=True):
        rest.extend(_walk(data, collection, begin, stop))
    tail = np.array(rest, np.int64).reshape(-1, 3)
    key = np.concatenate([*keys, tail[:, 0]])
    order = np.argsort(key, kind="stable")
    return (
        key[order],
        np.concatenate([*places, tail[:, 1]])[order],
        np.concatenate([*lengths_found, tail[:, 2]])[order],
    )


def _step(index: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bytes to the next object. Number 0 is free space, whose size includes its header; too small a one is the end."""
    step = np.where(index > 0, _HEADER + (size + 7 & ~7), size)
    return np.where(step < _HEADER, np.int64(1 << 62), step)


def _walk(data: NDArray[np.uint8], collection: int, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The same for one collection."""
    view = data.data
    for _ in range(_MAX_OBJECTS + 1):
        if at + _HEADER > end:
            return
        index, _, _, size = struct.unpack_from("<HHIQ", view, at)
        if index and at + _HEADER + size <= end:
            yield collection * _MAX_OBJECTS + index, at + _HEADER, size
        step = _HEADER + (size + 7 & ~7) if index else size
        if step < _HEADER:
            return
        at += step


def _gather(
    data: NDArray[np.uint8],
    source: NDArray[np.int64],
    count: NDArray[np.int64],
    out: NDArray[np.uint8],
    to: NDArray[np.int64],
) -> None:
    """Copy `count` bytes each from `source` in the data to `to` in the output."""
    total = int(count.sum())
    if total > _LONG * len(count):
        for begin, length, target in zip(source.tolist(), count.tolist(), to.tolist(), strict=True):
            out[target : target + length] = data[begin : begin + length]
        return
    bits = int(np.bitwise_or.reduce(source | count | to)) | 8
    unit = bits & -bits  # the largest of 1, 2, 4, 8 that divides all of them
    items, values = (array[: array.size // unit * unit].view(f"u{unit}") for array in (data, out))
    number = count // unit
    before = np.cumsum(number) - number
    steps = np.arange(total // unit)
    picked = items[np.repeat(source // unit - before, number) + steps]
    if (to[1:] == to[:-1] + count[:-1]).all():
        begin = int(to[0]) // unit
        values[begin : begin + len(picked)] = picked
    else:
        values[np.repeat(to // unit - before, number) + steps] = picked
