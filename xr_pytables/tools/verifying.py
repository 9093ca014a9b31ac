"""Whether a file is sound: every header, index, chunk and value in it is read and checked.

What is checked: superblock, headers, links and attributes of all objects that links lead to; that each index lists its
chunks once, in order, within the array, and that no two pieces of data share bytes; of each chunk the filter mask, the
checksum and the decoded size; values of variable length in their heaps; that arrays agree with their dimension
scales. Every byte of data is read, also where there is no checksum to tell whether it is right: `unprotected_bytes`
says of how many that goes.

Nothing is executed and libhdf5 is not called, so files of strangers and damaged ones can be given.

Tested in `tests/tools/test_verifying.py`.
"""

from __future__ import annotations

import itertools
import math
import os
import posixpath
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from ..chunks import codecs, team
from ..chunks.codecs import Workspace
from ..chunks.filters import DEFLATE, FLETCHER32, FilterPipeline
from ..chunks.index import DAMAGED, MISSING, ChunkStorage
from ..chunks.vlen import DESCRIPTOR, read_values
from ..disk.door import Visit, located
from ..errors import ChunkError, FormatError, MissingNodeError, TooManyChunksError
from ..hdf5.attributes import RawAttribute, Unreadable
from ..hdf5.chunk_entries import is_after
from ..hdf5.chunk_indexes import listed_chunks, read_index
from ..hdf5.dataset import DatasetInfo
from ..hdf5.dataspace import UNLIMITED
from ..hdf5.datatype import Datatype
from ..hdf5.file import File
from ..hdf5.links import Link
from ..sources.place import Place
from ..sources.remote import Fetched, Remote
from ..sources.source import Source, printable
from ..sources.url import shown
from ..where.index_check import contradictions
from ..writing.progress import bar, check_available

Done = Callable[[int], None]
_AT_ONCE: Final = 1 << 22  # bytes that one task reads
_PROTECTING: Final = frozenset({FLETCHER32, DEFLATE, 307})
"""Filters with a checksum of their own: zlib has Adler-32, bzip2 CRC-32; Blosc has none."""
_ALL_ONES: Final = (1 << 32) - 1


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong with a file."""

    path: str
    """Of the node; `/` for the file as a whole."""
    what: str
    """`file`, `header`, `links`, `attribute`, `index`, `chunk`, `data`, `values` or `dimensions`."""
    message: str
    chunk: tuple[int, ...] | None = None
    """The first element of the chunk that is damaged."""
    offset: int | None = None
    """Where its bytes lie in the file."""

    def __str__(self) -> str:
        where = self.what if self.chunk is None else f"chunk at {self.chunk}"
        where += "" if self.offset is None else f" (byte {self.offset} of the file)"
        return printable(f"{self.path}: {where}: {self.message}")


@dataclass(frozen=True)
class Report:
    """What `verify` found."""

    file: str
    damage: tuple[Damage, ...]
    unchecked: Mapping[str, str]
    """Arrays whose data could not be looked at, and why: a filter that is not known, data in other files, too many
    chunks."""
    groups: int = 0
    arrays: int = 0
    attributes: int = 0
    chunks: int = 0
    stored_bytes: int = 0
    """Of data, all of which were read."""
    unprotected_bytes: int = 0
    """Those that no checksum covers: damage to them may go unseen."""

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damage

    def as_dict(self) -> dict[str, object]:
        """The report as what JSON can hold."""
        return {"file": self.file, "sound": self.sound, **asdict(self), "unchecked": dict(self.unchecked)}


def verify(
    path: str | os.PathLike[str] | bytes | BinaryIO,
    *,
    group: str = "/",
    threads: int | None = None,
    progress: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    store: object = None,
) -> Report:
    """Read and check everything in a file, or in a `group` of it.

    Parameters
    ----------
    path
        An HDF5 file of any program: its path or URL, its bytes, a file object, an open object of PyTables.
    group
        Path of a group, or of one array: only what is in it is checked.
    storage_options, store
        Those of `xr.open_dataset`, for objects in stores.
    threads
        How many threads may decode chunks. Default: one per CPU.
    progress
        Show a bar of the bytes that are read (by tqdm, an extra: `xr-pytables[progress]`).

    Returns
    -------
    Report
        `report.sound` says whether all is well, `report.damage` names what is not. Damage never raises.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        For the file itself.
    MissingNodeError
        If there is no such group in a file that is otherwise sound so far.
    FileBusyError
        If somebody is writing to the file.
    """
    if progress:
        check_available()
    place, where = located(path, group, storage_options=storage_options, store=store)
    name = os.path.basename(shown(place.path))
    return _checked(place, where, threads=threads, bar=lambda size: bar(size, name, shown=progress))


def checked_file(
    path: str | os.PathLike[str],
    *,
    group: str = "/",
    threads: int | None = None,
    bar: Callable[[int], AbstractContextManager[Done]],
) -> Report:
    """`verify` with any kind of bar: `bar(size)` is told of the bytes that were read while it lasts."""
    return _checked(*located(path, group), threads=threads, bar=bar)


def _checked(
    place: Place, where: str, *, threads: int | None, bar: Callable[[int], AbstractContextManager[Done]]
) -> Report:
    with Visit() as visit:
        try:
            file = visit.file(place)
        except FormatError as error:
            told = str(error).removeprefix(f"{printable(place.path)}: ")
            return Report(place.path, (Damage("/", "file", told),), {})
        survey = _Survey(file, where)
        size = sum(array.size for array in survey.arrays)
        with bar(size) as done:
            for array in survey.arrays:
                array.check(survey, threads, done)
        survey.check_table_indexes()
        visit.check_unchanged()
        return survey.report()


# -- what there is -----------------------------------------------------------------------------------------


class _Survey:
    """The objects of a file, their headers, links, attributes and indexes checked; and what is wrong so far."""

    def __init__(self, file: File, group: str) -> None:
        self.file = file
        self.damage: list[Damage] = []
        self.unchecked: dict[str, str] = {}
        self.arrays: list[_Array] = []
        self.groups = self.attributes = self.chunks = self.stored = self.unprotected = 0
        self.lock = threading.Lock()
        self._infos: dict[int, DatasetInfo] = {}
        self._wanted = group
        if file.superblock.open_for_writing:
            self.tell("/", "file", "the program that wrote it did not close it; h5clear may help")
        for path, address in self._objects():
            if posixpath.commonpath([path, group]) == group:
                self._look_at(path, address)
        self._check_overlaps()
        self._check_dimensions()

    def tell(self, path: str, what: str, message: object, **where: Any) -> None:
        prefix = f"{self.file.name}: "
        with self.lock:
            self.damage.append(Damage(path, what, str(message).removeprefix(prefix), **where))

    def report(self) -> Report:
        order = {array.path: number for number, array in enumerate(self.arrays)}
        return Report(
            self.file.path,
            tuple(sorted(self.damage, key=lambda one: (order.get(one.path, -1), one.chunk or ()))),
            self.unchecked,
            self.groups,
            len(self._infos),
            self.attributes,
            self.chunks,
            self.stored,
            self.unprotected,
        )

    def _objects(self) -> Iterator[tuple[str, int]]:
        """All objects that hard links lead to, by a path of each."""
        start = "/", self.file.root
        if self._wanted != "/":
            try:
                start = self.file.resolve(self._wanted)
            except MissingNodeError:
                raise
            except FormatError as error:
                self.tell(self._wanted, "links", error)
                return
            self._wanted = start[0]
        seen, level = {start[1]}, [start]
        while level:
            self.file.prefetch(address for _, address in level)
            below = []
            for path, address in level:
                yield path, address
                for name, target in self._children(path, address):
                    if target not in seen:
                        seen.add(target)
                        below.append((posixpath.join(path, name), target))
            level = below

    def _children(self, path: str, address: int) -> Iterator[tuple[str, int]]:
        try:
            if self.file.kind(address) != "group":
                return
        except FormatError:  # told by whoever looks at it
            return
        try:
            links = self.file.links(address)
        except FormatError as error:
            self.tell(path, "links", error)
            return
        for link in links:
            if not self._is_found(address, link):
                self.tell(path, "links", f"whoever looks for {link.name!r} by its name does not find it")
            if link.kind == "hard":
                yield link.name, link.address
            elif link.kind == "unknown":
                self.tell(path, "links", f"the link {link.name!r} is of an unknown kind")

    def _is_found(self, group: int, link: Link) -> bool:
        """Whether an index of names leads to a link that the group lists."""
        try:
            return link.kind == "unknown" or self.file.link(group, link.name) == link
        except FormatError:
            return False

    def _look_at(self, path: str, address: int) -> None:
        try:
            kind = self.file.kind(address)
            if kind == "unknown":
                self.tell(path, "header", f"the object at address {address} is neither group nor array nor type")
            elif kind == "group":
                self.groups += 1
            elif kind == "datatype":
                self.file.datatype(address)
            else:
                self._infos[address] = self.file.dataset(address)
                self.arrays.append(_Array(path, self._infos[address]))
        except FormatError as error:
            self.tell(path, "header", error)
            return
        try:
            attributes = self.file.attributes(address)
        except FormatError as error:
            self.tell(path, "attribute", error)
            return
        self.attributes += len(attributes)
        for name, attribute in attributes.items():
            if isinstance(attribute.value, Unreadable) and attribute.value.damaged:
                self.tell(path, "attribute", f"{name!r}: {attribute.value.reason}")
        if address in self._infos:
            self.arrays[-1].scales = attributes.get("DIMENSION_LIST")
            self.arrays[-1].locate(self)

    def check_table_indexes(self) -> None:
        """That indexes which PyTables keeps of tables agree with them, where both are sound."""
        damaged = {damage.path for damage in self.damage}
        for array in self.arrays:
            folder, name = posixpath.split(array.path)
            indexes = posixpath.join(folder, f"_i_{name}")
            if array.path not in damaged and not any(path.startswith(f"{indexes}/") for path in damaged):
                try:
                    for column, reason in contradictions(self.file, array.path, array.info):
                        self.tell(posixpath.join(indexes, column), "index", f"it contradicts {array.path!r}: {reason}")
                except FormatError as error:
                    self.tell(indexes, "index", error)

    # -- what several objects must agree on -----------------------------------------------------------------

    def _check_overlaps(self) -> None:
        """No two pieces of raw data share a byte."""
        found = [(array, *array.extents()) for array in self.arrays]
        sizes = [len(offset) for _, offset, _ in found]
        if not sum(sizes):
            return
        offset = np.concatenate([offset for _, offset, _ in found])
        end = offset + np.concatenate([size for _, _, size in found])
        owner = np.repeat(np.arange(len(found)), sizes)
        order = np.argsort(offset, kind="stable")
        reach = np.maximum.accumulate(end[order])
        for second in np.flatnonzero(offset[order][1:] < reach[:-1])[:100]:
            one, other = self.arrays[owner[order[second]]], self.arrays[owner[order[second + 1]]]
            place = int(offset[order[second + 1]])
            self.tell(other.path, "index", f"its data share bytes with those of {one.path!r}", offset=place)

    def _check_dimensions(self) -> None:
        for array in self.arrays:
            listed = None if array.scales is None else array.scales.value
            shape = array.info.shape
            if not isinstance(listed, list) or shape is None:
                continue
            if len(listed) != len(shape):
                self.tell(array.path, "dimensions", f"{len(listed)} dimensions have scales, the array has {len(shape)}")
                continue
            for axis, references in enumerate(listed):
                for reference in references:
                    self._check_scale(array, axis, reference.address)

    def _check_scale(self, array: _Array, axis: int, address: int) -> None:
        try:
            if self.file.kind(address) != "dataset":
                raise FormatError(f"the object at address {address} is no array")
            scale = self._infos.get(address) or self.file.dataset(address)
        except FormatError as error:
            self.tell(array.path, "dimensions", f"the scale of dimension {axis}: {error}")
            return
        size, grows = (array.info.shape or ())[axis], UNLIMITED in (array.info.maxshape[axis], *scale.maxshape)
        if scale.shape is not None and len(scale.shape) == 1 and scale.shape[0] != size and not grows:
            self.tell(array.path, "dimensions", f"dimension {axis} has {size} elements, its scale {scale.shape[0]}")


# -- arrays ------------------------------------------------------------------------------------------------


class _Array:
    """One array: where its data lie, and whether they are right."""

    def __init__(self, path: str, info: DatasetInfo) -> None:
        self.path, self.info = path, info
        self.scales: RawAttribute | None = None
        self.place = self.bytes = np.empty(0, np.int64)
        self.mask = np.empty(0, np.uint32)
        self.corners: list[NDArray[np.int64]] = []
        self.reason: str | None = None
        """Why the data are not looked at."""

    @property
    def size(self) -> int:
        """Stored bytes that will be read."""
        return int(self.bytes.sum()) if self.reason is None else 0

    def extents(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.place, self.bytes

    def locate(self, survey: _Survey) -> None:
        """Find the data, and check what says where they are."""
        info, file = self.info, survey.file
        if info.external or info.layout == "virtual":
            self.reason = "its data lie in other files"
        elif info.layout == "contiguous" and info.offset is not None:
            if info.offset + info.size > file.source.size:
                message = f"{info.size} bytes of data lie beyond the end of the file ({file.source.size} bytes)"
                survey.tell(self.path, "data", message, offset=info.offset)
            else:
                self.place, self.bytes = np.array([info.offset]), np.array([info.size])
        elif info.layout == "chunked":
            try:
                self._locate_chunks(survey, self._storage(file.base_address))
                self.reason = codecs.why_not(info.filters) if len(self.place) else None
            except TooManyChunksError as error:
                self.reason = error.reason
            except FormatError as error:
                survey.tell(self.path, "index", error)
        if self.reason is not None:
            survey.unchecked[self.path] = self.reason

    def _storage(self, base: int) -> ChunkStorage:
        """The elements as bytes without a meaning."""
        info = self.info
        return ChunkStorage(
            shape=info.shape or (),
            chunkshape=info.chunkshape,
            dtype=np.dtype(f"V{info.datatype.itemsize}"),
            pipeline=info.filters,
            header=info.address,
            base=base,
        )

    def _locate_chunks(self, survey: _Survey, storage: ChunkStorage) -> None:
        info, source = self.info, survey.file.source
        assert info.chunkshape is not None  # it is chunked
        self._check_listing(survey, storage)
        index = read_index(source, storage)
        at = np.nonzero(index.address != MISSING)
        corners = [along * chunk for along, chunk in zip(at, info.chunkshape, strict=True)]
        address, size = index.address[at], index.size[at].astype(np.int64)
        outside = (address == DAMAGED) | (address + size.astype(np.uint64) > np.uint64(source.size))
        for number in np.flatnonzero(outside)[:100]:
            corner = tuple(int(along[number]) for along in corners)
            message = f"its {size[number]} bytes lie beyond the end of the file ({source.size} bytes)"
            if address[number] == DAMAGED:
                message = "the index says an impossible address"
            survey.tell(self.path, "chunk", message, chunk=corner)
        order = np.flatnonzero(~outside)
        order = order[np.argsort(address[order], kind="stable")]
        self.place, self.bytes = address[order].astype(np.int64), size[order]
        self.mask, self.corners = index.filter_mask[at][order], [along[order] for along in corners]

    def _check_listing(self, survey: _Survey, storage: ChunkStorage) -> None:
        """Of indexes that list chunks: in order, each once, all within the array."""
        listing = listed_chunks(survey.file.source, storage)
        if listing is None or not len(listing):
            return
        beyond = (listing >= np.array(storage.grid, np.uint64)).any(axis=1)
        for row in listing[beyond][:100]:
            survey.tell(self.path, "index", f"it lists a chunk {tuple(map(int, row))} of a grid of {storage.grid}")
        for number in np.flatnonzero(~is_after(listing[1:], listing[:-1]))[:100]:
            chunk = tuple(map(int, listing[number + 1]))
            survey.tell(self.path, "index", f"it lists chunk {chunk} of the grid twice, or not in order")

    # -- data -----------------------------------------------------------------------------------------------

    def check(self, survey: _Survey, threads: int | None, done: Done) -> None:
        """Read all data and decode them."""
        info = self.info
        if info.layout == "compact":
            self._check_values(survey, info.data)
        elif info.layout == "contiguous" and len(self.place):
            self._check_contiguous(survey, done)
        elif self.reason is None and len(self.place):
            tasks = list(self._tasks())
            checker = _Chunks(self, survey, done)
            team.run(iter(tasks), checker.check, threads, count=len(tasks))
        with survey.lock:
            survey.chunks += len(self.corners[0]) if self.corners else 0
            survey.stored += self.size

    def _tasks(self) -> Iterator[slice]:
        group = (np.cumsum(self.bytes) - 1) // _AT_ONCE
        bounds = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(group)]
        for begin, end in itertools.pairwise(bounds):
            yield slice(begin, end)

    def _check_contiguous(self, survey: _Survey, done: Done) -> None:
        """Read the bytes, and the values that they refer to. Nothing tells whether plain numbers are right."""
        itemsize = max(self.info.datatype.itemsize, 1)
        step = max(1, _AT_ONCE // itemsize) * itemsize
        begin, size = int(self.place[0]), int(self.bytes[0])
        for start in range(0, size, step):
            count = min(step, size - start)
            try:
                self._check_values(survey, survey.file.source.read(begin + start, count), offset=begin + start)
            except FormatError as error:
                survey.tell(self.path, "data", error, offset=begin + start)
            done(count)
        with survey.lock:
            survey.unprotected += size

    def _check_values(self, survey: _Survey, elements: bytes | NDArray[np.uint8], **where: Any) -> None:
        """The values of variable length that stored elements refer to."""
        for descriptors, itemsize in _descriptors(self.info.datatype, elements):
            try:
                read_values(survey.file.source, descriptors, itemsize, base=survey.file.base_address, threads=1)
            except FormatError as error:
                survey.tell(self.path, "values", error, **where)


def _descriptors(datatype: Datatype, elements: bytes | NDArray[np.uint8]) -> Iterator[tuple[NDArray[Any], int]]:
    """The different descriptors in stored elements, and the size of what each counts in bytes."""
    columns = [((), datatype), *datatype.columns()]
    for path, column in columns:
        if column.kind not in ("text", "vlen") or not datatype.itemsize:
            continue
        count = len(elements) // datatype.itemsize
        stored: NDArray[Any] = np.frombuffer(elements, np.uint8)[: count * datatype.itemsize]
        shown = stored.view(datatype.view_of(path)) if path else stored
        for name in path:
            shown = shown[name]
        unique = np.unique(np.ascontiguousarray(shown).reshape(-1).view(f"V{DESCRIPTOR.itemsize}"))
        yield unique.view(DESCRIPTOR), 1 if column.base is None else column.base.itemsize


class _Chunks:
    """Checks the chunks of one array, from several threads."""

    def __init__(self, array: _Array, survey: _Survey, done: Done) -> None:
        info = array.info
        self.array, self.survey, self.done = array, survey, done
        self.nbytes = math.prod(info.chunkshape or ()) * info.datatype.itemsize
        self.has_values = info.datatype.kind in ("text", "vlen") or any(
            column.kind in ("text", "vlen") for _, column in info.datatype.columns()
        )

    def check(self, part: slice, workspace: Workspace) -> None:
        array = self.array
        source: Source = self.survey.file.source
        ranges = list(zip(array.place[part].tolist(), array.bytes[part].tolist(), strict=True))
        if isinstance(source, Remote):
            source = Fetched(source, [(offset, size) for offset, size in ranges if offset + size <= source.size])
        unprotected = 0
        for i, (offset, size) in enumerate(ranges, part.start):
            mask = int(array.mask[i])
            where: dict[str, Any] = {"chunk": tuple(int(along[i]) for along in array.corners), "offset": offset}
            try:
                raw = np.frombuffer(source.read(offset, size), np.uint8)
                check_mask(mask, array.info.filters, whole_only=array.info.whole_chunks_filtered_only)
                data = codecs.decode_chunk(raw, mask, array.info.filters, self.nbytes, workspace=workspace)
            except (FormatError, MemoryError) as error:
                self.survey.tell(array.path, "chunk", str(error) or "there is no memory for its claimed size", **where)
                continue
            if self.has_values:
                array._check_values(self.survey, data, **where)
            unprotected += size * (not _is_protected(mask, array.info.filters))
        with self.survey.lock:
            self.survey.unprotected += unprotected
        self.done(sum(size for _, size in ranges))


def check_mask(mask: int, pipeline: FilterPipeline, *, whole_only: bool = False) -> None:
    """Raise ChunkError for a filter mask that no writer makes: it leaves out a filter that is not optional.

    All ones leave out everything, as programs say that store chunks of their own.
    """
    if mask in (0, _ALL_ONES) or whole_only:
        return
    filters = pipeline.filters
    if mask >> len(filters):
        raise ChunkError(
            f"the filter mask {mask:#x} is about {mask.bit_length()} filters, the array has {len(filters)}"
        )
    for number, step in enumerate(filters):
        if mask >> number & 1 and not step.optional and mask != (1 << len(filters)) - 1:
            raise ChunkError(f"the filter mask {mask:#x} leaves out {step.name or step.id}, which is not optional")


def _is_protected(mask: int, pipeline: FilterPipeline) -> bool:
    return any(step.id in _PROTECTING and not mask >> number & 1 for number, step in enumerate(pipeline.filters))
