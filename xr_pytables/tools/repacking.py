"""A file written anew: holes closed, chunks and compressors changed on request, everything else as it was.

All objects, links and attributes are made anew as HDF5 describes them, so those of PyTables and netCDF, and what no
reader here shows, are kept; references point to the new objects. Chunks whose form does not change are copied as they
are stored; those at a growing edge, which were left without compression, are compressed. The source is verified before
and the new file after.

Tested in `tests/tools/test_repacking.py`.
"""

from __future__ import annotations

import contextlib
import math
import os
import posixpath
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import tables
from numpy.typing import NDArray

from ..chunks import codecs, libblosc2, team
from ..chunks.codecs import ChunkType, Workspace
from ..chunks.encoder import EncodedChunk, encode_block
from ..chunks.filters import FLETCHER32, Filter, FilterPipeline, pipeline
from ..chunks.index import MISSING, ChunkStorage
from ..disk.door import Visit
from ..disk.files import FileIdentity, checked_path
from ..disk.opened_files import hdf5_lock
from ..disk.transaction import Transaction
from ..errors import FormatError, HDF5Error
from ..hdf5.chunk_indexes import read_index
from ..hdf5.dataset import DatasetInfo
from ..hdf5.file import File
from ..library import libhdf5 as h5
from ..library import object_copy as copying
from ..library.libhdf5 import opened
from ..library.target_file import TargetFile, filter_available
from ..model import attributes, leaves
from ..model.attributes import EncodedAttribute
from ..model.netcdf import as_netcdf, is_netcdf
from ..writing.progress import bar, check_available
from .opening import blocks, check_variables, steps
from .verifying import checked_file

Done = Callable[[int], None]
Bar = Callable[[int], AbstractContextManager[Done]]
_BLOCK: Final = 1 << 24  # bytes of an array whose form changes
_BATCH: Final = 1 << 22  # bytes of chunks that are copied at once
_WORTH: Final = 1 << 16
"""Bytes of a contiguous array from which on it becomes a chunked one, if compression is asked for."""
_CHUNK: Final = 1 << 20  # bytes of its chunks


@dataclass(frozen=True)
class Wishes:
    """What shall be different."""

    chunks: tuple[int, ...] | None = None
    complib: str | None = None
    """`none` for no compression; None: as it is."""
    complevel: int | None = None
    """0 for no compression, too."""
    fletcher32: bool | None = None
    arrays: Collection[str] | None = None
    """Paths of the arrays that this is about; None: all."""

    @property
    def about_filters(self) -> bool:
        return self.complib is not None or self.complevel is not None or self.fletcher32 is not None


@dataclass(frozen=True)
class Repacked:
    """What came of it."""

    before: int
    """Bytes of the file."""
    after: int
    changed: tuple[str, ...]
    """Arrays that are stored in another way now."""


def repack(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    *,
    chunks: Sequence[int] | None = None,
    complib: str | None = None,
    complevel: int | None = None,
    fletcher32: bool | None = None,
    arrays: Collection[str] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: bool = False,
) -> Repacked:
    """Write a file anew without the holes that deleted and replaced objects left in it.

    Parameters
    ----------
    source
        An HDF5 file, of PyTables or of any other program.
    target
        The new file. Default: it takes the place of the old one, when it is whole.
    chunks
        Elements per chunk, for chunked arrays (with `complib`, large contiguous ones too) of as many dimensions.
    complib, complevel
        The compressor as `to_pytables(encoding=)` has it, or `"none"`. Default: that which each array has.
    fletcher32
        Whether chunks have a checksum. Default: those that have one.
    arrays
        Paths of the arrays whose storage shall change. Default: all.
    overwrite
        Replace a target that is there.
    threads
        How many threads may work. Default: one per CPU.
    progress
        Show a bar of the bytes that are written (by tqdm, an extra: `xr-pytables[progress]`).

    Raises
    ------
    FormatError
        If the source is damaged: the first damage is named.
    FileExistsError, FileBusyError, FileChangedError
        If the target is there, or somebody writes to the source.
    ValueError
        For what cannot be done: an unknown compressor or array, references to regions.
    """
    if progress:
        check_available()
    wishes = Wishes(
        None if chunks is None else tuple(chunks), complib, complevel, fletcher32, None if arrays is None else [*arrays]
    )
    title = os.path.basename(os.fspath(source))
    return run(
        os.fspath(source), None if target is None else os.fspath(target), wishes, overwrite=overwrite, threads=threads,
        bar=lambda size: bar(size, title, shown=progress),
    )  # fmt: skip


def run(
    source: str, target: str | None, wishes: Wishes, *, overwrite: bool = False, threads: int | None = None, bar: Bar
) -> Repacked:
    """`repack` with any kind of bar."""
    path = checked_path(source)
    in_place = target is None or os.path.realpath(target) == os.path.realpath(path)
    transaction = Transaction.beside(path if target is None else os.path.abspath(os.path.expanduser(target)))
    transaction.check_folder()
    transaction.check_allowed()
    if not in_place and os.path.lexists(transaction.target) and not overwrite:
        raise FileExistsError(f"{transaction.target}: it is there already; overwrite=True (--force) replaces it")
    version = FileIdentity.of(path)
    _check_sound(path, threads, bar)
    with Visit() as visit:
        file = visit.file(path)
        plans = list(_planned(file, wishes))
        with transaction.begun(), transaction.naming_the_target():
            with bar(sum(plan.nbytes for plan in plans)) as done, _naming(file):
                _write(file, transaction.new_file, plans, threads, done)
            _check_sound(transaction.new_file, threads, bar)
            visit.check_unchanged()
            after = os.path.getsize(transaction.new_file)
            transaction.commit(fsync=True, exclusive=not in_place and not overwrite)
    changed = tuple(plan.path for plan in plans if plan.changes)
    return Repacked(version.size, after, changed)


@contextlib.contextmanager
def _naming(file: File) -> Iterator[None]:
    """Say of which file HDF5 complains, but for a full disk."""
    try:
        yield
    except HDF5Error as error:
        if error.errno is not None:
            raise
        raise OSError(f"{file.name}: the HDF5 of PyTables ({tables.hdf5_version}) cannot copy it: {error}") from error


def _check_sound(path: str, threads: int | None, bar: Bar) -> None:
    report = checked_file(path, threads=threads, bar=bar)
    if not report.sound:
        raise FormatError(f"{report.file}: damaged, so it is left alone: {report.damage[0]}")


# -- plan --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArrayPlan:
    """What becomes of one array."""

    path: str
    info: DatasetInfo
    chunks: tuple[int, ...] | None = None
    """New ones; None: as it is."""
    filters: FilterPipeline | None = None

    @property
    def changes(self) -> bool:
        return self.chunks is not None or self.filters is not None

    @property
    def nbytes(self) -> int:
        return math.prod(self.info.shape or ()) * self.info.datatype.itemsize


def _planned(file: File, wishes: Wishes) -> Iterator[ArrayPlan]:
    """The arrays of a file, and how each is going to be stored. Raises ValueError for what cannot be."""
    check_variables(wishes.arrays, "arrays")
    found, of_netcdf = {}, is_netcdf(file.attributes(file.root))
    for address, path in file.paths().items():
        if file.kind(address) == "dataset":
            info = file.dataset(address)
            found[path] = as_netcdf(info) if of_netcdf else info
    for path in wishes.arrays or ():
        if "/" + path.strip("/") not in found:
            raise ValueError(f"{file.name}: there is no array {path!r}; there are {', '.join(map(repr, found))}")
    if wishes.chunks is not None and any(length < 1 for length in wishes.chunks):
        raise ValueError(f"chunks {wishes.chunks}: each must be 1 or more")
    wanted = None if wishes.arrays is None else {"/" + path.strip("/") for path in wishes.arrays}
    for path, info in found.items():
        plan = ArrayPlan(path, info)
        yield plan if wanted is not None and path not in wanted else _with_wishes(plan, wishes, file)


def _with_wishes(plan: ArrayPlan, wishes: Wishes, file: File) -> ArrayPlan:
    info = plan.info
    if not info.shape or info.external or info.layout == "virtual":
        return plan
    growing = wishes.complib not in (None, "none")
    if info.layout != "chunked" and (not growing or plan.nbytes < _WORTH or _is_scale(file, info)):
        return plan
    chunks = wishes.chunks if wishes.chunks is not None and len(wishes.chunks) == len(info.shape) else None
    if chunks is not None:
        sizes = zip(chunks, info.shape, info.maxshape, strict=True)
        chunks = tuple(max(1, min(chunk, size)) if most == size else chunk for chunk, size, most in sizes)
    if info.layout != "chunked" and chunks is None:
        chunks = steps(info.shape, info.shape, info.datatype.itemsize, _CHUNK)
    if chunks == info.chunkshape:
        chunks = None
    filters = _filters(info, wishes) if wishes.about_filters else None
    filters = None if filters == info.filters else filters
    changed = filters if filters is not None or chunks is None else info.filters
    for step in () if changed is None else changed.filters:
        if not filter_available(step.id):
            raise ValueError(
                f"{file.name}:{plan.path}: the compressor {step.name!r} is not part of this build of PyTables. Choose "
                "another (complib), or leave the array as it is (arrays)"
            )
    return replace(plan, chunks=chunks, filters=filters)


def _is_scale(file: File, info: DatasetInfo) -> bool:
    return attributes.text(file.attributes(info.address).get("CLASS")) == "DIMENSION_SCALE"


def _filters(info: DatasetInfo, wishes: Wishes) -> FilterPipeline:
    """The filters that an array shall have."""
    if info.datatype.kind in ("text", "vlen"):
        return info.filters  # of where the values lie, and Blosc divides by zero there
    had = info.filters.filters
    checksum = any(step.id == FLETCHER32 for step in had) if wishes.fletcher32 is None else wishes.fletcher32
    words = info.filters.to_encoding()
    complib = wishes.complib if wishes.complib is not None else words.get("complib")
    if complib == "none" or wishes.complevel == 0:
        kept: tuple[Filter, ...] = ()
    elif complib is None or (wishes.complib is None and wishes.complevel is None):
        kept = tuple(step for step in had if step.id != FLETCHER32)
    else:
        level = wishes.complevel if wishes.complevel is not None else words.get("complevel", 4)
        bits = bool(words.get("bitshuffle")) and str(complib).startswith("blosc")
        made = pipeline(
            complib=str(complib), complevel=int(level) or 4, shuffle=None, bitshuffle=bits, fletcher32=False,
            itemsize=info.datatype.itemsize,
        )  # fmt: skip
        kept = made.filters
    last = pipeline(complib=None, complevel=None, shuffle=None, bitshuffle=None, fletcher32=checksum, itemsize=1)
    return FilterPipeline((*kept, *last.filters))


# -- execution ---------------------------------------------------------------------------------------------


def _write(file: File, target: str, plans: Sequence[ArrayPlan], threads: int | None, done: Done) -> None:
    with hdf5_lock():
        oldest = max(0, file.superblock.version - 1)  # files of the newer formats can have larger attributes
        copying.create_like(file.path, target, oldest=oldest)
        with (
            opened("H5Fopen", os.fsencode(file.path), h5.READ_ONLY, h5.DEFAULT) as source,
            TargetFile(target, create=False, oldest=oldest) as new,
        ):
            paths = _make_objects(file, source, new.id, {plan.path: plan for plan in plans})
            with new.on_disk() as made:
                references = copying.References(
                    {address: made.resolve(path).address for address, path in paths.items()}
                )
            for plan in plans:
                try:
                    _copy_data(file, source, new, plan, references, threads, done)
                except ValueError as error:
                    raise ValueError(f"{file.name}:{plan.path}: {error}") from None
            for path in paths.values():
                raw = h5.name_bytes(path)
                with opened("H5Oopen", source, raw, h5.DEFAULT) as old, new.open(path) as made_anew:
                    try:
                        copying.copy_attributes(old, made_anew, references)
                    except ValueError as error:
                        raise ValueError(f"{file.name}:{path}: an attribute: {error}") from None
            for plan in plans:
                if plan.info.layout != "chunked" and plan.changes:
                    _call_carray(new, plan.path)


def _make_objects(file: File, source: int, target: int, plans: dict[str, ArrayPlan]) -> dict[int, str]:
    """All objects without values, and all links, each group's in its order; paths by the addresses in the source."""
    paths = {file.root: "/"}
    todo = ["/"]
    while todo:
        parent = todo.pop(0)
        for link in file.links(file.resolve(parent).address):
            path = posixpath.join(parent, link.name)
            if link.kind == "soft":
                copying.link_soft(target, link.target, path)
            elif link.kind == "external":
                other, _, inside = link.target.partition("\0")
                copying.link_external(target, other, inside, path)
            elif link.kind != "hard":
                raise ValueError(f"{file.name}:{path}: a link of a kind that is unknown here cannot be copied")
            elif link.address in paths:
                copying.link_hard(target, paths[link.address], path)
            else:
                paths[link.address] = path
                _make_object(file, source, target, link.address, path, plans)
                if file.kind(link.address) == "group":
                    todo.append(path)
    return paths


def _make_object(file: File, source: int, target: int, address: int, path: str, plans: dict[str, ArrayPlan]) -> None:
    kind = file.kind(address)
    if kind == "group":
        copying.copy_group(source, target, path)
    elif kind == "datatype":
        copying.copy_type(source, target, path)
    else:
        plan = next(plan for plan in plans.values() if plan.info.address == address)
        copying.copy_array(source, target, path, chunks=plan.chunks, filters=plan.filters)


def _call_carray(new: TargetFile, path: str) -> None:
    """Tell PyTables that an Array has chunks now."""
    with new.on_disk() as file:
        kind = attributes.text(file.attributes(file.resolve(path).address).get("CLASS"))
    if kind == "ARRAY":
        words = {"CLASS": b"CARRAY", "VERSION": b"1.1"}
        new.write_attributes(path, [EncodedAttribute(name, np.array(word)) for name, word in words.items()])


def _copy_data(
    file: File,
    source: int,
    new: TargetFile,
    plan: ArrayPlan,
    references: copying.References,
    threads: int | None,
    done: Done,
) -> None:
    info = plan.info
    if info.shape is None or info.external or info.layout == "virtual":
        return
    if _through_hdf5(plan):
        if info.layout in ("chunked", "compact") or info.offset is not None:
            copying.copy_values(source, new.id, plan.path, references, done)
        return
    if plan.changes:
        _encode_anew(file, new, plan, threads, done)
    else:
        _copy_chunks(file, new, plan, threads, done)


def _through_hdf5(plan: ArrayPlan) -> bool:
    """Whether HDF5 has to copy the values: they refer to others, or the bytes of chunks are not all there is."""
    info = plan.info
    kinds = {info.datatype.kind, *(column.kind for _, column in info.datatype.columns())}
    if kinds & {"vlen", "text", "reference", "unsupported"}:
        return True
    if info.whole_chunks_filtered_only and plan.changes:
        return True
    if not plan.changes:
        return info.layout != "chunked"
    return bool(codecs.why_not(info.filters) or codecs.why_not_encode(plan.filters or info.filters))


def _elements(info: DatasetInfo, base: int) -> ChunkStorage:
    """How an array is stored, its elements as bytes without a meaning."""
    return ChunkStorage(
        shape=info.shape or (),
        chunkshape=info.chunkshape,
        dtype=np.dtype(f"V{info.datatype.itemsize}"),
        pipeline=info.filters,
        header=info.address,
        base=base,
        offset=info.offset,
        fill=info.fill_value or b"",
    )


def _encode_anew(file: File, new: TargetFile, plan: ArrayPlan, threads: int | None, done: Done) -> None:
    """Read an array block by block, and write it in its new chunks with its new filters."""
    info, path = plan.info, plan.path
    with new.on_disk() as made:
        storage = _elements(made.dataset(made.resolve(path).address), made.base_address)
    old = _elements(info, file.base_address)
    if old.chunkshape is not None and not (read_index(file.source, old).address != MISSING).any():
        return
    assert storage.chunkshape is not None  # it was made so
    sparse = info.layout == "chunked" and not info.fill_off  # what is left out has a value for every reader
    with new.array(path) as array:
        size = max(_BLOCK, storage.chunk_nbytes)  # blocks are of whole chunks
        for box in blocks(storage.shape, storage.chunkshape, storage.element_size, size):
            values = leaves.read_stored(file.source, info, old, box)
            put = _put(array)
            encode_block(values, [part.start for part in box], storage, put, threads=threads, leave_out=sparse)
            done(values.nbytes)


def _put(array: Any) -> Callable[[Sequence[EncodedChunk]], None]:
    lock = threading.Lock()

    def put(chunks: Sequence[EncodedChunk]) -> None:
        with lock:
            h5.silence_this_thread()
            for chunk in chunks:
                array.write_chunk(chunk.corner, np.concatenate(chunk.parts), chunk.mask)

    return put


def _copy_chunks(file: File, new: TargetFile, plan: ArrayPlan, threads: int | None, done: Done) -> None:
    """Copy chunks as they are stored; those that lack a filter get it, if it gains something."""
    info, storage = plan.info, _elements(plan.info, file.base_address)
    index = read_index(file.source, storage)
    at = np.nonzero(index.address != MISSING)
    corners = np.stack([along * n for along, n in zip(at, info.chunkshape or (), strict=True)], axis=1)
    address, size, mask = index.address[at].astype(np.int64), index.size[at].astype(np.int64), index.filter_mask[at]
    order = np.argsort(address, kind="stable")
    finish = not (
        info.whole_chunks_filtered_only or codecs.why_not(info.filters) or codecs.why_not_encode(info.filters)
    )
    kind = ChunkType(info.chunkshape or (), storage.dtype)
    with new.array(plan.path) as array:
        put = _put(array)

        def copy(part: NDArray[np.int64], workspace: Workspace) -> None:
            raws = file.source.read_many([(int(address[i]), int(size[i])) for i in part])
            chunks = []
            for i, raw in zip(part.tolist(), raws, strict=True):
                data, left_out = raw, int(mask[i])
                if finish and (left_out or (storage.holds_frames and libblosc2.is_plain(raw))):
                    data, left_out = _finished(raw, left_out, info.filters, kind, workspace)
                chunks.append(EncodedChunk(tuple(corners[i].tolist()), (np.frombuffer(data, np.uint8),), left_out))
            put(chunks)
            done(len(part) * storage.chunk_nbytes)

        group = np.cumsum(size[order]) // _BATCH
        parts = np.split(order, np.flatnonzero(np.diff(group)) + 1) if len(order) else []
        team.run(iter(parts), copy, threads, count=len(parts))


def _finished(
    raw: bytes, mask: int, filters: FilterPipeline, kind: ChunkType, workspace: Workspace
) -> tuple[bytes, int]:
    """A chunk with all its filters, if it is smaller so."""
    stored = np.frombuffer(raw, np.uint8)
    plain = codecs.decode_chunk(stored, mask, filters, kind.nbytes, workspace=workspace, keep=(stored,))
    data, left = codecs.encode_chunk(plain, filters, kind)
    return (bytes(data), left) if len(data) < len(raw) else (raw, mask)
