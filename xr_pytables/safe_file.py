"""One HDF5 file, opened for reading such that nothing in it is executed and nothing in it can crash.

Everything goes through `libhdf5`: type, space and layout of a dataset are looked at before a byte of it is read, links
are followed one by one and never by HDF5 itself, attributes are raw values that nobody unpickles. Not one PyTables
node is made: loading a node runs the pickles in its attributes and crashes on legal files of other writers. Knows no
xarray; the caller holds the HDF5 lock from opening to closing.
"""

from __future__ import annotations

import ctypes
import math
import os
import posixpath
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self

import numpy as np

from . import datatypes
from . import libhdf5 as h5
from .chunks.filters import FilterPipeline
from .datatypes import Datatype
from .libhdf5 import HDF5Error, Identifier, call, opened

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
MAX_ATTRIBUTE_BYTES: Final = 1 << 28
MAX_SOFT_LINKS: Final = 64


class MissingNodeError(OSError):
    """A path names no object of the file, or a link on the way leads nowhere."""


@dataclass(frozen=True)
class ExternalTarget:
    """Where an external link leads: `path` inside the file `file` (as written in the link)."""

    file: str
    path: str


class ExternalLinkError(MissingNodeError):
    """A path passes through an external link; `target` says where it goes on."""

    def __init__(self, message: str, target: ExternalTarget) -> None:
        super().__init__(message)
        self.target = target


@dataclass(frozen=True, slots=True)
class Link:
    """One entry of a group."""

    name: str
    kind: Literal["hard", "soft", "external", "unknown"]
    target: str = ""
    """Where a soft or external link leads, as written in the file (external: file and path with a NUL between)."""
    address: int = h5.UNDEFINED_ADDRESS
    """Of the header of a hard link's object."""


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What the bytes of one dataset are and where they lie. Shapes are in elements, without the atom's own."""

    datatype: Datatype
    shape: tuple[int, ...] | None
    """None for a null dataspace (h5py's Empty)."""
    maxshape: tuple[int, ...]
    """UNLIMITED in dimensions that may grow."""
    layout: Literal["compact", "contiguous", "chunked", "virtual", "unknown"]
    chunkshape: tuple[int, ...] | None
    filters: FilterPipeline
    address: int
    """Of the object header, in bytes from the base address."""
    offset: int | None
    """Of contiguous data, in bytes from the start of the file; None where nothing is allocated."""
    fill_value: bytes | None
    """One element as stored; None where it has no fixed size or is undefined."""
    external: bool = False
    """The raw data lie in other files, which the dataset names."""
    whole_chunks_filtered_only: bool = False
    """H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS: chunks over the edge are stored as they are."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An object reference: the address of an object header."""

    address: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An attribute that no reader here can decode, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class RawAttribute:
    """An attribute as stored: a NumPy array (0-d for a scalar), text, references, or the reason it is not readable.

    Fixed-length strings come as `S` arrays, variable-length strings as object arrays of `bytes`.
    """

    value: np.ndarray | list[list[Reference]] | Unreadable | None
    """None for a null dataspace. An array may be read-only."""
    datatype: Datatype


_Layout = Literal["compact", "contiguous", "chunked", "virtual", "unknown"]
_LAYOUTS: dict[int, _Layout] = {
    h5.COMPACT: "compact",
    h5.CONTIGUOUS: "contiguous",
    h5.CHUNKED: "chunked",
    h5.VIRTUAL: "virtual",
}


def describe_dataset(dataset: int, address: int) -> DatasetInfo:
    """What an opened dataset with its header at `address` is; no data, no attribute is read."""
    with opened("H5Dget_type", dataset) as stored, opened("H5Dget_space", dataset) as space:
        datatype = datatypes.describe(stored)
        extent = h5.space_shape(space)
        with opened("H5Dget_create_plist", dataset) as properties:
            layout: _Layout = _LAYOUTS.get(call("H5Pget_layout", properties), "unknown")
            chunkshape, partial = None, False
            if layout == "chunked":
                chunkshape, partial = h5.chunkshape(properties), _filters_whole_chunks_only(properties)
            filters = h5.filter_pipeline(properties)
            external = layout == "contiguous" and call("H5Pget_external_count", properties) > 0
            fill_value = _fill_value(properties, stored, datatype)
    shape, maxshape = extent if extent else (None, ())
    offset = _contiguous_offset(dataset) if layout == "contiguous" and not external else None
    return DatasetInfo(
        datatype=datatype,
        shape=shape,
        maxshape=maxshape,
        layout=layout,
        chunkshape=chunkshape,
        filters=filters,
        address=address,
        offset=offset,
        fill_value=fill_value,
        external=external,
        whole_chunks_filtered_only=partial,
    )


def _contiguous_offset(dataset: int) -> int | None:
    """Where contiguous data begin in the file, in bytes; None where nothing is allocated."""
    offset = call("H5Dget_offset", dataset)
    # HDF5 adds the size of the user block, a power of two, even to the address that stands for none
    may_be_undefined = offset == h5.UNDEFINED_ADDRESS or not offset & (offset + 1)
    return None if may_be_undefined and not call("H5Dget_storage_size", dataset) else offset


def _filters_whole_chunks_only(properties: int) -> bool:
    options = ctypes.c_uint()
    call("H5Pget_chunk_opts", properties, ctypes.byref(options))
    return bool(options.value & 2)


def _fill_value(properties: int, stored: int, datatype: Datatype) -> bytes | None:
    if datatype.dtype is None or not datatype.exact or datatype.kind == "reference":  # HDF5 answers none for those
        return None
    call("H5Pfill_value_defined", properties, _DEFINED_POINTER)
    if not _DEFINED.value:
        return None
    size = datatype.itemsize
    buffer = _SCRATCH if size <= len(_SCRATCH) else ctypes.create_string_buffer(size)
    call("H5Pget_fill_value", properties, stored, buffer)
    return ctypes.string_at(buffer, size)


# used again and again, under the lock
_SCRATCH = ctypes.create_string_buffer(65536)
_DEFINED = ctypes.c_int()
_DEFINED_POINTER = ctypes.byref(_DEFINED)


def read_hyperslab(
    dataset: int, info: DatasetInfo, start: Sequence[int], count: Sequence[int], step: Sequence[int]
) -> np.ndarray:
    """`count` elements from `start` in steps of `step` (>= 1), one number per dimension of the dataspace.

    Returns a new array of shape `count` plus the atom's, in native byte order for types that HDF5 converts and in
    the stored order for others. HDF5 decodes, one chunk after the other. Raises HDF5Error, and TypeError for elements
    of variable length: HDF5 1.14 may search a damaged heap for ever.
    """
    datatype = info.datatype
    size = math.prod(count)
    with opened("H5Dget_type", dataset) as stored, opened("H5Dget_space", dataset) as space:
        if datatype.dtype is None:
            raise TypeError(f"elements of kind {datatype.kind!r} cannot be read as an array")
        out = np.empty((*count, *datatype.shape), datatype.dtype)
        if not size:
            return out
        with _memory_type(datatype, stored) as memory_type, _selected(space, start, count, step) as memory_space:
            call("H5Dread", dataset, memory_type, memory_space, space, h5.DEFAULT, out.ctypes.data)
    return out


def read_column(
    dataset: int, info: DatasetInfo, member: Sequence[str], start: int, count: int, step: int
) -> np.ndarray:
    """The column `member` of `count` rows of a table from `start` in steps of `step` (>= 1), without the others.

    Shape and byte order as `read_hyperslab` has them, the column's own dimensions behind the rows.
    """
    datatype, path = info.datatype, []
    for name in member:
        path.append(datatype)
        datatype = next(field.datatype for field in datatype.fields if field.name == name)
    shape = (*(size for compound in path[1:] for size in compound.shape), *datatype.shape)
    out = np.empty((count, *shape), object if datatype.kind == "text" else datatype.dtype)
    if not out.size:
        return out
    with opened("H5Dget_type", dataset) as stored, opened("H5Dget_space", dataset) as space, ExitStack() as open_types:
        stored_types = [stored]
        for compound, name in zip(path, member, strict=True):
            stored_types.append(open_types.enter_context(_member_type(stored_types[-1], compound, name)))
        memory_type = open_types.enter_context(_memory_type(datatype, stored_types[-1]))
        for compound, name in zip(reversed(path), reversed(member), strict=True):
            memory_type = open_types.enter_context(_only_member(name, memory_type))
            if compound.shape and compound is not path[0]:
                memory_type = open_types.enter_context(
                    opened("H5Tarray_create2", memory_type, len(compound.shape), h5.sizes(compound.shape))
                )
        with _selected(space, [start], [count], [step]) as memory_space:
            if datatype.kind != "text":
                call("H5Dread", dataset, memory_type, memory_space, space, h5.DEFAULT, out.ctypes.data)
                return out
            pointers = (ctypes.c_void_p * out.size)()
            call("H5Dread", dataset, memory_type, memory_space, space, h5.DEFAULT, pointers)
            out.reshape(-1)[:] = [ctypes.string_at(pointer) if pointer else b"" for pointer in pointers]
            call("H5Dvlen_reclaim", memory_type, memory_space, h5.DEFAULT, pointers)
    return out


def _member_type(stored: int, compound: Datatype, name: str) -> Identifier:
    """The stored type of a member of a compound, or of the compounds in an array."""
    number = next(number for number, field in enumerate(compound.fields) if field.name == name)
    if not compound.shape:
        return opened("H5Tget_member_type", stored, number)
    with opened("H5Tget_super", stored) as element:
        return opened("H5Tget_member_type", element, number)


def _only_member(name: str, datatype: int) -> Identifier:
    """A compound of one member."""
    compound = opened("H5Tcreate", h5.COMPOUND, call("H5Tget_size", datatype))
    call("H5Tinsert", compound.id, h5.name_bytes(name), 0, datatype)
    return compound


def _memory_type(datatype: Datatype, stored: int) -> AbstractContextManager[int]:
    """The type to read into: the stored one (no conversion, NumPy swaps bytes) or the native one HDF5 converts to."""
    if datatype.exact or datatype.dtype is None:
        return nullcontext(stored)
    native = datatypes.create(datatype.dtype)
    if not datatype.shape:
        return native
    with native as element:
        return opened("H5Tarray_create2", element, len(datatype.shape), h5.sizes(datatype.shape))


def _selected(space: int, start: Sequence[int], count: Sequence[int], step: Sequence[int]) -> Identifier:
    """Select in `space`; the matching memory space."""
    if start:
        call("H5Sselect_hyperslab", space, 0, h5.sizes(start), h5.sizes(step), h5.sizes(count), None)
    return h5.simple_space(count)


def read_bytes_row(dataset: int, info: DatasetInfo, row: int) -> bytes:
    """One row of a one-dimensional dataset of variable-length bytes (PyTables: of objects). Raises HDF5Error."""
    base = info.datatype.base
    if base is None or base.dtype is None or base.dtype.itemsize != 1 or len(info.shape or ()) != 1:
        raise TypeError("only rows of bytes are read")
    value = (h5.VariableLength * 1)()
    with (
        opened("H5Dget_type", dataset) as stored,
        opened("H5Dget_space", dataset) as space,
        _selected(space, [row], [1], [1]) as memory_space,
    ):
        call("H5Dread", dataset, stored, memory_space, space, h5.DEFAULT, value)
        try:
            return ctypes.string_at(value[0].pointer, value[0].length) if value[0].length else b""
        finally:
            call("H5Dvlen_reclaim", stored, memory_space, h5.DEFAULT, value)


class SafeFile:
    """An HDF5 file opened for reading. The caller holds the HDF5 lock for as long as it is open.

    `path` must be absolute: HDF5 resolves names against the working folder each time it needs one. `alias` is
    another path to open in its place: one that leads to a file which has no name any more.
    """

    def __init__(self, path: str, *, alias: str | None = None) -> None:
        h5.silence_this_thread()
        self.path = path
        try:
            with opened("H5Pcreate", h5.constant("H5P_CLS_FILE_ACCESS_ID_g")) as properties:
                if alias is not None:  # HDF5's default driver asks for the real path of a link, and there is none
                    call("H5Pset_fapl_stdio", properties)
                self._file = opened("H5Fopen", os.fsencode(alias or path), h5.READ_ONLY, properties)
        except HDF5Error as error:
            raise explained(path, error) from None
        self.id = self._file.id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def base_address(self) -> int:
        """Size of the user block: addresses in the file count from here, in bytes."""
        size = ctypes.c_uint64()
        with opened("H5Fget_create_plist", self.id) as properties:
            call("H5Pget_userblock", properties, ctypes.byref(size))
        return size.value

    def open(self, path: str) -> Identifier:
        """An object by a path without links (see `resolve`)."""
        return opened("H5Oopen", self.id, h5.name_bytes(path), h5.DEFAULT)

    def open_at(self, address: int) -> Identifier:
        """An object by the address of its header: without the search for its name."""
        return opened("H5Oopen_by_token", self.id, h5.Token(address, 0))

    def links(self, group: int) -> Iterator[Link]:
        """The entries of an opened group: in order of creation where the file keeps it, else by name."""
        info, link = h5.GroupInfo(), h5.LinkInfo()
        call("H5Gget_info", group, ctypes.byref(info))
        order = h5.INDEX_CREATION_ORDER if _keeps_creation_order(group, info) else h5.INDEX_NAME
        buffer = ctypes.create_string_buffer(1024)
        for number in range(info.link_count):
            where = (group, b".", order, h5.INCREASING, number)
            length = call("H5Lget_name_by_idx", *where, buffer, len(buffer), h5.DEFAULT)
            if length >= len(buffer):
                buffer = ctypes.create_string_buffer(length + 1)
                call("H5Lget_name_by_idx", *where, buffer, len(buffer), h5.DEFAULT)
            raw = buffer.value
            if b"/" in raw or raw in (b"", b"."):  # HDF5 would take it for a path and follow links on it
                yield Link(raw.decode("utf-8", "surrogateescape"), "unknown")
                continue
            call("H5Lget_info_by_idx2", *where, ctypes.byref(link), h5.DEFAULT)
            yield _link(group, raw, link)

    def paths(self, most: int = 1_000_000) -> dict[int, str]:
        """A path of each object that hard links lead to, by the address of its header; of several the shortest."""
        found, groups = {}, deque[tuple[str, int]]()
        with self.open("/") as root:
            groups.append(("/", h5.object_address(root)))
        found[groups[0][1]] = "/"
        while groups and len(found) < most:
            path, address = groups.popleft()
            with self.open_at(address) as node:
                if call("H5Iget_type", node) != h5.GROUP_ID:
                    continue
                for link in self.links(node):
                    if link.kind == "hard" and link.address not in found:
                        found[link.address] = posixpath.join(path, link.name)
                        groups.append((found[link.address], link.address))
        return found

    def resolve(self, path: str) -> str:
        """The path of the same object without soft links.

        Raises MissingNodeError where it leads nowhere or in circles, ExternalLinkError where it leaves the file.
        """
        done, todo = "/", _components(path)
        followed = 0
        while todo:
            name = todo.pop(0)
            here = posixpath.join(done, name)
            link = self._link_at(here)
            if link is None:
                way = f" (on the way of the links from {path!r})" if followed else ""
                raise MissingNodeError(f"{self.path}: there is no {here!r}{way}{self._suggestion(done)}")
            if link.kind == "hard":
                done = here
            elif link.kind == "soft":
                followed += 1
                if followed > MAX_SOFT_LINKS:
                    raise MissingNodeError(f"{self.path}: the soft link {here!r} leads in circles")
                if link.target.startswith("/"):
                    done = "/"
                todo = _components(link.target) + todo
            elif link.kind == "external":
                file, _, inside = link.target.partition("\0")
                target = ExternalTarget(file, posixpath.join("/", inside, *todo))
                raise ExternalLinkError(f"{self.path}: {here!r} is an external link to {file}:{target.path}", target)
            else:
                raise MissingNodeError(f"{self.path}: {here!r} is a link of a kind that is unknown here")
        return done

    def _link_at(self, path: str) -> Link | None:
        raw, info = h5.name_bytes(path), h5.LinkInfo()
        parent = posixpath.dirname(path)
        with self.open(parent) as group:
            if call("H5Iget_type", group) != h5.GROUP_ID:
                return None
        if not call("H5Lexists", self.id, raw, h5.DEFAULT):
            return None
        call("H5Lget_info2", self.id, raw, ctypes.byref(info), h5.DEFAULT)
        return _link(self.id, raw, info)

    def _suggestion(self, group_path: str, most: int = 8) -> str:
        with self.open(group_path) as group:
            if call("H5Iget_type", group) != h5.GROUP_ID:
                return f"; {group_path!r} is an array, not a group"
            names = [link.name for link, _ in zip(self.links(group), range(most + 1), strict=False)]
        listed = ", ".join(map(repr, names[:most])) + (", ..." if len(names) > most else "")
        return f"; {group_path!r} has {listed}" if names else f"; {group_path!r} is empty"


def read_attributes(node: int) -> dict[str, RawAttribute]:
    """All attributes of an opened object, by name (bytes that are not UTF-8 as surrogates).

    Written flat: a file of many arrays has thousands of attributes, and most of the time to open it goes here.
    """
    opened_ids: list[int] = []
    try:
        for number in range(call("H5Aget_num_attrs", node)):
            where = (node, b".", h5.INDEX_NAME, h5.NATIVE_ORDER, number)
            opened_ids.append(call("H5Aopen_by_idx", *where, h5.DEFAULT, h5.DEFAULT))
        names = [_attribute_name(attribute) for attribute in opened_ids]
        not_needed = _LONG_AND_UNUSED | ({"_Netcdf4Coordinates"} if "DIMENSION_LIST" in names else set())
        return {
            name: _NOT_READ if name in not_needed else _read_attribute(attribute)
            for name, attribute in zip(names, opened_ids, strict=True)
        }
    finally:
        for attribute in opened_ids:
            call("H5Aclose", attribute)


def _attribute_name(attribute: int) -> str:
    length = call("H5Aget_name", attribute, len(_NAME), _NAME)
    if length < len(_NAME):
        return _NAME.value.decode("utf-8", "surrogateescape")
    longer = ctypes.create_string_buffer(length + 1)
    call("H5Aget_name", attribute, len(longer), longer)
    return longer.value.decode("utf-8", "surrogateescape")


_NAME = ctypes.create_string_buffer(256)  # used again and again, under the lock
_LONG_AND_UNUSED: Final = frozenset({"REFERENCE_LIST"})
"""A scale's back references, one for each variable of the file: quadratic to read, and DIMENSION_LIST says the same."""
_NOT_READ: Final = RawAttribute(
    Unreadable("it is not needed"), Datatype("unsupported", None, reason="it is not needed")
)


def _keeps_creation_order(group: int, info: h5.GroupInfo) -> bool:
    return bool(info.max_creation_order > 0 and info.link_count > 1 and _creation_order_indexed(group))


def _creation_order_indexed(group: int) -> bool:
    flags = ctypes.c_uint()
    try:
        with opened("H5Gget_create_plist", group) as properties:
            call("H5Pget_link_creation_order", properties, ctypes.byref(flags))
    except HDF5Error:
        return False
    return bool(flags.value & h5.CREATION_ORDER_INDEXED)


def _link(location: int, raw: bytes, info: h5.LinkInfo) -> Link:
    name = posixpath.basename(raw.decode("utf-8", "surrogateescape"))
    if info.type == h5.HARD_LINK:
        return Link(name, "hard", address=int(info.value.address))
    if info.type not in (h5.SOFT_LINK, h5.EXTERNAL_LINK):
        return Link(name, "unknown")
    size = int(info.value.address)  # the union's other member
    value = ctypes.create_string_buffer(size + 1)
    call("H5Lget_val", location, raw, value, size, h5.DEFAULT)
    if info.type == h5.SOFT_LINK:
        return Link(name, "soft", value.value.decode("utf-8", "surrogateescape"))
    # external: one byte of version and flags, then two C strings (HDF5 file format IV.A.2.g, user-defined link)
    file, _, path = value.raw[1:size].rstrip(b"\0").partition(b"\0")
    return Link(name, "external", os.fsdecode(file) + "\0" + path.decode("utf-8", "surrogateescape"))


def _components(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _read_attribute(attribute: int) -> RawAttribute:
    stored = call("H5Aget_type", attribute)
    try:
        space = call("H5Aget_space", attribute)
        try:
            datatype = datatypes.describe(stored)
            extent = h5.space_shape(space)
            if extent is None:
                return RawAttribute(None, datatype)
            shape = extent[0]
            size = math.prod(shape)
            if size * datatype.itemsize > MAX_ATTRIBUTE_BYTES:
                return RawAttribute(Unreadable(f"{size} elements are too many for an attribute"), datatype)
            return RawAttribute(_attribute_value(attribute, stored, space, datatype, shape, size), datatype)
        except (HDF5Error, ValueError, MemoryError) as error:  # one odd attribute never costs the others
            return RawAttribute(Unreadable(str(error)), Datatype("unsupported", None, reason=str(error)))
        finally:
            call("H5Sclose", space)
    finally:
        call("H5Tclose", stored)


def _attribute_value(
    attribute: int, stored: int, space: int, datatype: Datatype, shape: tuple[int, ...], size: int
) -> np.ndarray | list[list[Reference]] | Unreadable:
    if datatype.kind == "text":
        pointers = (ctypes.c_void_p * max(size, 1))()
        texts = np.empty(size, object)
        if size:
            call("H5Aread", attribute, stored, pointers)
            texts[:] = [ctypes.string_at(pointer) if pointer else b"" for pointer in pointers]
            call("H5Dvlen_reclaim", stored, space, h5.DEFAULT, pointers)
        return texts.reshape(shape)
    if datatype.kind == "vlen" and datatype.base is not None:
        return _vlen_attribute(attribute, stored, space, datatype.base, shape, size)
    if datatype.dtype is None:
        return Unreadable(datatype.reason or f"attributes of kind {datatype.kind!r} are not supported")
    if not datatype.exact:
        out = np.empty((*shape, *datatype.shape), datatype.dtype)
        with _memory_type(datatype, stored) as memory_type:
            call("H5Aread", attribute, memory_type, out.ctypes.data)
        return out
    room = size * (datatype.itemsize if datatype.shape else datatype.dtype.itemsize)
    buffer = _SCRATCH if room <= len(_SCRATCH) else ctypes.create_string_buffer(room)
    if room:
        call("H5Aread", attribute, stored, buffer)
    values = np.frombuffer(ctypes.string_at(buffer, room), datatype.dtype)
    if datatype.kind == "reference":
        if datatype.dtype.itemsize != 8:
            return Unreadable("region references are not supported")
        return [[Reference(address)] for address in values.view("<u8").tolist()]
    return values.reshape(shape + datatype.shape)


def _vlen_attribute(
    attribute: int, stored: int, space: int, base: Datatype, shape: tuple[int, ...], size: int
) -> np.ndarray | list[list[Reference]] | Unreadable:
    if base.dtype is None or not base.exact or base.shape:
        return Unreadable(f"variable-length values of kind {base.kind!r} are not supported")
    values = (h5.VariableLength * max(size, 1))()
    if size:
        call("H5Aread", attribute, stored, values)
    try:
        rows = []
        for value in values[:size]:
            raw = ctypes.string_at(value.pointer, value.length * base.dtype.itemsize) if value.length else b""
            rows.append(np.frombuffer(raw, "<u8" if base.kind == "reference" else base.dtype))
    finally:
        if size:
            call("H5Dvlen_reclaim", stored, space, h5.DEFAULT, values)
    if base.kind == "reference":
        return [[Reference(int(address)) for address in row] for row in rows]
    out = np.empty(size, object)
    for number, row in enumerate(rows):
        out[number] = row
    return out.reshape(shape)


def explained(path: str, error: HDF5Error) -> OSError:
    """What a user understands of a failed open. Existence and kind of `path` were checked by the caller."""
    reason = str(error)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        has_signature = _find_signature(file.read(4096 + 8))
    if "unable to lock file" in reason:
        return BlockingIOError(
            f"{path}: another process has this file open for writing. Close it there first ({reason})"
        )
    if not size:
        return OSError(f"{path}: the file is empty, not an HDF5 file")
    if not has_signature:
        return OSError(f"{path}: not an HDF5 file (no HDF5 signature)")
    return OSError(f"{path}: a damaged or truncated HDF5 file of {size} bytes ({reason})")


def _find_signature(head: bytes) -> bool:
    """The signature may stand at 0, 512, 1024, 2048 ... (HDF5 file format II.A)."""
    return any(head[at : at + 8] == SIGNATURE for at in (0, 512, 1024, 2048, 4096))
