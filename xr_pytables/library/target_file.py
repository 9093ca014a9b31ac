"""One HDF5 file, opened for writing: groups, arrays and attributes as PyTables and netCDF-4 both understand them.

Writes through `libhdf5`, so that adding to a file of unknown origin runs nothing from
it. Knows no xarray; the caller holds the HDF5 lock from opening to closing.

Tested in `tests/writing/test_encoding.py` and `tests/writing/test_writing.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import posixpath
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import numpy as np

from ..chunks import codecs
from ..chunks.filters import FLETCHER32, SHUFFLE, FilterPipeline
from ..chunks.index import ChunkStorage
from ..errors import HDF5Error
from ..hdf5.attributes import RawAttribute
from ..hdf5.dataset import DatasetInfo
from ..hdf5.datatype import Datatype
from ..hdf5.file import File
from ..model import attributes
from ..model.attributes import EncodedAttribute
from ..model.dimensions import NOT_A_VARIABLE
from ..sources.local import LocalFile
from . import datatypes
from . import libhdf5 as h5
from .libhdf5 import Identifier, call, opened

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT_VERSION: Final = "2.1"
"""Of PyTables' format: attributes of this version are UTF-8."""
_HEAP_SLACK: Final = 2**18
_LOCAL: Final = 0  # H5F_SCOPE_LOCAL


@dataclass(frozen=True)
class ArrayLayout:
    """How one array is stored."""

    shape: tuple[int, ...]
    dtype: np.dtype | None
    """None for values of variable length: text, or rows of `row_dtype`."""
    maxshape: tuple[int, ...] | None = None
    """UNLIMITED where it may grow; None if it may not."""
    chunkshape: tuple[int, ...] | None = None
    """None for contiguous storage."""
    filters: FilterPipeline = field(default_factory=FilterPipeline)
    fill_value: object = None
    members: tuple[tuple[str, int], ...] = ()
    """Makes an integer dtype an enumeration."""
    row_dtype: np.dtype | None = None
    """Of what rows of variable length consist of."""
    row_shape: tuple[int, ...] = ()
    """Of one element of such a row."""
    utf8: bool = False
    """Says that bytes of fixed length are UTF-8."""


class TargetFile:
    """An HDF5 file opened for writing. The caller holds the HDF5 lock for as long as it is open."""

    def __init__(
        self, path: str, *, create: bool, keep: int = 0, large_attributes: bool = False, oldest: int = 0
    ) -> None:
        """`keep` are the bytes at the beginning of the file that must stay if the disk is full.

        With `large_attributes` the root group that is made can have attributes of more than 64 KB. `oldest` is the
        oldest version of the format in which objects are made: 0 for any, 1 for that of HDF5 1.8, 2 for that of 1.10.
        """
        h5.silence_this_thread()
        self.path = path
        self._keep = keep
        raw = os.fsencode(path)
        try:
            with access_properties(oldest) as access:
                if create:
                    with opened("H5Pcreate", h5.constant("H5P_CLS_FILE_CREATE_ID_g")) as properties:
                        _track_order(properties)
                        _allow_large_attributes(properties, large_attributes)
                        self._file = opened("H5Fcreate", raw, h5.EXCLUSIVE, properties, access)
                else:
                    self._file = opened("H5Fopen", raw, h5.READ_WRITE, access)
        except HDF5Error as error:
            raise _not_opened(path, error) from None
        self.id = self._file.id
        if create:
            version = np.array(FORMAT_VERSION.encode())
            self.write_attributes("/", [EncodedAttribute(attributes.FORMAT_VERSION, version, utf8=True)])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(*(() if error is None else (HDF5Error,))):  # what went wrong first counts
            self.close()

    def close(self) -> None:
        """Write everything and close; a second call does nothing. Raises HDF5Error if the disk is full."""
        if self.id < 0:
            return
        identifier, self.id = self.id, -1  # threads that still have something to write get an error
        with _unlocked_in_the_end(identifier):
            try:
                with self._giving_way():
                    call("H5Fflush", identifier, _LOCAL)
            except HDF5Error:
                with contextlib.suppress(HDF5Error):
                    self._file.close()
                raise
            self._file.close()

    @contextlib.contextmanager
    def _giving_way(self) -> Iterator[None]:
        """If HDF5 fails to write, give up what is new in the file, and its room on the disk.

        HDF5 crashes, at exit at the latest, if it cannot write when it closes something. So what is going to be closed
        is flushed before; if that fails what is new is lost anyway, and its room lets HDF5 write the rest. (A file
        that is changed in place is then put back to what it was, by its journal.)
        """
        try:
            yield
        except HDF5Error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, self._keep)
            raise

    def open(self, path: str) -> Identifier:
        """An object by a path without links."""
        return opened("H5Oopen", self.id, h5.name_bytes(path), h5.DEFAULT)

    def address(self, path: str) -> int:
        """Where the object at `path` lies, as references say it."""
        reference = ctypes.c_uint64()
        call("H5Rcreate", ctypes.addressof(reference), self.id, h5.name_bytes(path), 0, -1)
        return reference.value

    def exists(self, path: str) -> bool:
        """Whether `path` names something; its parent must exist."""
        return path == "/" or bool(call("H5Lexists", self.id, h5.name_bytes(path), h5.DEFAULT))

    def require_group(self, path: str, *, large_attributes: bool = False) -> None:
        """Make the group at `path` and those above it, where they are missing."""
        if self.exists_with_parents(path):
            return
        self.require_group(posixpath.dirname(path))
        with opened("H5Pcreate", h5.constant("H5P_CLS_GROUP_CREATE_ID_g")) as properties:
            _track_order(properties)
            _allow_large_attributes(properties, large_attributes)
            opened("H5Gcreate2", self.id, h5.name_bytes(path), h5.DEFAULT, properties, h5.DEFAULT).close()

    def exists_with_parents(self, path: str) -> bool:
        """Whether `path` and every group above it exist."""
        return path == "/" or (self.exists_with_parents(posixpath.dirname(path)) and self.exists(path))

    def remove(self, path: str) -> None:
        """Unlink an object. HDF5 reuses its space only while the file stays open."""
        call("H5Ldelete", self.id, h5.name_bytes(path), h5.DEFAULT)

    # -- arrays ---------------------------------------------------------------------------------------------

    def create_array(self, path: str, layout: ArrayLayout, *, large_attributes: bool = False) -> None:
        """Make an array that holds its fill value; nothing is allocated for chunks before they are written."""
        with (
            _stored_type(layout) as stored,
            h5.simple_space(layout.shape, layout.maxshape) as space,
            opened("H5Pcreate", h5.constant("H5P_CLS_DATASET_CREATE_ID_g")) as properties,
        ):
            _allow_large_attributes(properties, large_attributes)
            if layout.chunkshape is not None:
                call("H5Pset_chunk", properties, len(layout.chunkshape), h5.sizes(layout.chunkshape))
                _set_filters(properties, layout.filters)
            if layout.fill_value is not None and layout.dtype is not None:
                fill = np.array(layout.fill_value).astype(layout.dtype)
                call("H5Pset_fill_value", properties, stored, fill.ctypes.data)
            opened(
                "H5Dcreate2", self.id, h5.name_bytes(path), stored, space, h5.DEFAULT, properties, h5.DEFAULT
            ).close()

    def write(self, path: str, start: Sequence[int], values: np.ndarray) -> None:
        """Put `values` at `start` (elements). Their dtype is the stored one, in either byte order; text as str."""
        if not values.size:
            return
        h5.silence_this_thread()
        with self.open(path) as dataset, opened("H5Dget_space", dataset) as space, self._giving_way():
            if start:
                call("H5Sselect_hyperslab", space, 0, h5.sizes(start), None, h5.sizes(values.shape), None)
            with h5.simple_space(values.shape) as memory_space, opened("H5Dget_type", dataset) as stored:
                if call("H5Tget_class", stored) == h5.VLEN:
                    with opened("H5Tget_super", stored) as element:
                        rows, _keep = _row_pointers(values, datatypes.describe(element))
                    self._check_room(len(rows), _keep.nbytes)
                    call("H5Dwrite", dataset, stored, memory_space, space, h5.DEFAULT, rows.ctypes.data)
                elif values.dtype.kind == "O":
                    pointers, _texts = _text_pointers(values)
                    self._check_room(len(_texts), sum(map(len, _texts)))
                    call("H5Dwrite", dataset, stored, memory_space, space, h5.DEFAULT, pointers)
                else:
                    as_stored = np.ascontiguousarray(values, datatypes.describe(stored).dtype)
                    call("H5Dwrite", dataset, stored, memory_space, space, h5.DEFAULT, as_stored.ctypes.data)
            call("H5Fflush", dataset, _LOCAL)

    def _check_room(self, count: int, size: int) -> None:
        """Raise OSError (ENOSPC) if values of variable length do not fit the disk: HDF5 (1.14) crashes if one does not.

        Each takes a header and padding in its heap besides its bytes, and 16 bytes in the array.
        """
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(self.path))).free
        if free < size + 48 * count + _HEAP_SLACK:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextlib.contextmanager
    def array(self, path: str) -> Iterator[TargetArray]:
        """The array at `path`, opened to change its shape and to write encoded chunks."""
        h5.silence_this_thread()
        with self.open(path) as dataset, self._giving_way():
            yield TargetArray(dataset)
            call("H5Fflush", dataset, _LOCAL)

    @contextlib.contextmanager
    def on_disk(self) -> Iterator[File]:
        """The file as readers see it, with all that was written so far."""
        call("H5Fflush", self.id, _LOCAL)
        with open(self.path, "rb") as raw:
            yield File(LocalFile(raw.fileno(), self.path))

    # -- attributes -----------------------------------------------------------------------------------------

    def write_attributes(self, path: str, encoded: Iterable[EncodedAttribute]) -> None:
        """Set attributes, each in place of an older one of its name. Others stay, and with them what marks them."""
        given = {attribute.name: attribute for attribute in encoded}
        with self.open(path) as node:
            marker = given.pop(attributes.JSON_MARKER, None)
            names = self._json_names(path, node, given, marker)
            for attribute in given.values():
                try:
                    _write_attribute(node, attribute)
                except HDF5Error as error:
                    raise self._explained(path, attribute, error) from None
            if names is not None and names.size:
                _write_attribute(node, EncodedAttribute(attributes.JSON_MARKER, names, utf8=True))
            elif names is not None:
                call("H5Adelete", node, h5.name_bytes(attributes.JSON_MARKER))

    def _json_names(
        self, path: str, node: int, given: Collection[str], marker: EncodedAttribute | None
    ) -> np.ndarray | None:
        """What JSON_MARKER must list when `given` and their `marker` are written to a node; None if it may stay."""
        new = [] if marker is None or marker.value is None else marker.value.tolist()
        if not call("H5Aexists", node, h5.name_bytes(attributes.JSON_MARKER)):
            return np.array(new) if new else None
        old = attributes.texts(self.stored_attributes(path).get(attributes.JSON_MARKER)) or ()
        kept = [h5.name_bytes(name) for name in old if name not in given]
        return np.array([*kept, *new], None if kept or new else "S1")

    def _explained(self, path: str, attribute: EncodedAttribute, error: HDF5Error) -> Exception:
        """What to say if an attribute cannot be written."""
        if not attributes.are_large([attribute]):
            return error
        return ValueError(
            f"{path}: attribute {attribute.name!r} takes more than 64 KB, for which HDF5 has no room in an object that "
            "was not made for it. Write all of the file with mode='w', or store the value as a variable"
        )

    def stored_attributes(self, path: str) -> dict[str, RawAttribute]:
        """All attributes of an object, as they are stored."""
        with self.on_disk() as file:
            return dict(file.attributes(file.resolve(path).address))

    def user_attributes(self, path: str) -> list[str]:
        """Names of the attributes that are neither PyTables' nor those of a convention about dimensions."""
        return [name for name in self.stored_attributes(path) if not attributes.is_reserved(name)]

    def remove_attributes(self, path: str, names: Iterable[str]) -> None:
        """Delete attributes, as far as they exist."""
        with self.open(path) as node:
            for name in names:
                raw = h5.name_bytes(name)
                if call("H5Aexists", node, raw):
                    call("H5Adelete", node, raw)

    # -- dimensions (HDF5 Dimension Scale specification; netCDF-4 file format, "Dimensions") ----------------

    def mark_scale(self, path: str, *, number: int | None, coordinate: bool, size: int) -> None:
        """Make the array at `path` the scale of the dimension with netCDF-4 id `number` (None: without one).

        `coordinate` tells a variable from an array that only stands for a dimension of `size`.
        """
        name = posixpath.basename(path) if coordinate else f"{NOT_A_VARIABLE}{size:10d}"
        self.write_attributes(
            path,
            [
                # both with their NUL: h5py and netCDF-C compare the stored size, too
                EncodedAttribute("CLASS", _with_nul("DIMENSION_SCALE")),
                EncodedAttribute("NAME", _with_nul(name)),
                *([] if number is None else [EncodedAttribute("_Netcdf4Dimid", np.array(number, "i4"))]),
            ],
        )

    def resize_scale(self, path: str, size: int) -> None:
        """Give the array at `path`, which only stands for a dimension, another size."""
        with self.array(path) as array:
            array.set_shape((size,))
        self.write_attributes(path, [EncodedAttribute("NAME", _with_nul(f"{NOT_A_VARIABLE}{size:10d}"))])

    def attach_scales(self, wanted: Iterable[tuple[str, Sequence[str], Sequence[int] | None]]) -> None:
        """Name the dimensions of arrays: of each its path, the paths of their scales, and the scales' ids (or none).

        Further scales of a dimension that has that scale stay. Writes DIMENSION_LIST for HDF5 and `_Netcdf4Coordinates`
        for netCDF-4, never REFERENCE_LIST, which plain PyTables cannot load.
        """
        named = [each for each in wanted if each[1]]
        attached = self._scales([path for path, _, _ in named])
        for path, scales, numbers in named:
            self._attach(path, scales, numbers, attached.get(path, []))

    def _attach(
        self, path: str, scales: Sequence[str], numbers: Sequence[int] | None, attached: Sequence[Sequence[int]]
    ) -> None:
        rows = []
        values = (h5.VariableLength * len(scales))()
        for number, scale in enumerate(map(self.address, scales)):
            before = attached[number] if number < len(attached) else ()
            row = [scale, *(each for each in before if each not in (0, scale) and scale in before)]
            rows.append((ctypes.c_uint64 * len(row))(*row))
            values[number] = h5.VariableLength(len(row), ctypes.addressof(rows[-1]))
        self.remove_attributes(path, ["DIMENSION_LIST", "_Netcdf4Coordinates"])
        if numbers is not None:
            self.write_attributes(path, [EncodedAttribute("_Netcdf4Coordinates", np.array(numbers, "i4"))])
        with (
            self.open(path) as node,
            opened("H5Tvlen_create", h5.constant("H5T_STD_REF_OBJ_g")) as stored,
            h5.simple_space((len(scales),)) as space,
            opened("H5Acreate2", node, b"DIMENSION_LIST", stored, space, h5.DEFAULT, h5.DEFAULT) as attribute,
        ):
            call("H5Awrite", attribute, stored, values)

    def _scales(self, paths: Iterable[str]) -> dict[str, list[list[int]]]:
        """By the path of an array that has some: for each of its dimensions the addresses of the scales."""
        having = list(filter(self._names_its_dimensions, paths))
        if not having:
            return {}
        with self.on_disk() as file:
            found = {path: file.attributes(file.resolve(path).address).get("DIMENSION_LIST") for path in having}
        return {
            path: [[reference.address for reference in row] for row in attribute.value]
            for path, attribute in found.items()
            if attribute is not None and isinstance(attribute.value, list)
        }

    def _names_its_dimensions(self, path: str) -> bool:
        with self.open(path) as node:
            return bool(call("H5Aexists", node, b"DIMENSION_LIST"))


class TargetArray:
    """One open dataset of a `TargetFile`."""

    def __init__(self, dataset: int) -> None:
        self._dataset = dataset

    def set_shape(self, shape: Sequence[int]) -> None:
        """Grow or shrink to `shape` (elements). Chunks that lie beyond it are given up, and their room is free."""
        with opened("H5Dget_space", self._dataset) as space:
            extent = h5.space_shape(space)
        if extent is None or extent[0] != tuple(shape):
            call("H5Dset_extent", self._dataset, h5.sizes(shape))

    def write_chunk(
        self,
        corner: Sequence[int],
        data: bytes | bytearray | np.ndarray,
        mask: int,
        *,
        replaces: tuple[int, int] | None = None,
    ) -> None:
        """Store an encoded chunk with its filter mask.

        `replaces` are the size (bytes) and the mask of the one that is there.
        """
        flat = np.frombuffer(data, np.uint8)
        where = h5.sizes(corner)
        if replaces is not None and replaces[0] == flat.size and replaces[1] != mask:
            # HDF5 writes a chunk of equal size in place and keeps the old mask: another size makes it take the new one
            other = np.append(flat, np.uint8(0))
            call("H5Dwrite_chunk", self._dataset, h5.DEFAULT, mask, where, other.size, other.ctypes.data)
        call("H5Dwrite_chunk", self._dataset, h5.DEFAULT, mask, where, flat.size, flat.ctypes.data)


@contextlib.contextmanager
def _unlocked_in_the_end(file: int) -> Iterator[None]:
    """Give back the lock on a file that is closed meanwhile.

    HDF5 leaves that to the end of its descriptor, which a child that was forked while the file was open has as well.
    """
    if fcntl is None:
        yield
        return
    handle = ctypes.POINTER(ctypes.c_int)()
    call("H5Fget_vfd_handle", file, h5.DEFAULT, ctypes.byref(handle))
    same = os.dup(handle[0])
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(same, fcntl.LOCK_UN)
        os.close(same)


def _not_opened(path: str, error: HDF5Error) -> OSError:
    """What a user understands of a failed open."""
    if "unable to lock file" in str(error):
        return BlockingIOError(f"{path}: another process has this file open. Close it there first ({error})")
    message = f"{path}: HDF5 cannot open it for writing: {error}"
    return OSError(message) if error.errno is None else OSError(error.errno, message)


def _allow_large_attributes(properties: int, wanted: bool) -> None:
    """Let an object that is going to be made have attributes of more than 64 KB.

    Objects that keep the order of their attributes get a header of version 2, which can keep attributes outside of
    itself ("dense"). HDF5 reads those since 1.8; others keep the header that they always had.
    """
    if wanted:
        call("H5Pset_attr_creation_order", properties, h5.CREATION_ORDER_TRACKED)


@contextlib.contextmanager
def access_properties(oldest: int = h5.EARLIEST) -> Iterator[int]:
    """How a file is opened such that all that is made in it has the oldest format that can hold it, from `oldest` on.

    That is what HDF5 1 does by itself; HDF5 2 would make files of a newer format, with other indexes of chunks.
    """
    low, high = ctypes.c_int(), ctypes.c_int()
    with opened("H5Pcreate", h5.constant("H5P_CLS_FILE_ACCESS_ID_g")) as access:
        call("H5Pget_libver_bounds", access, ctypes.byref(low), ctypes.byref(high))
        call("H5Pset_libver_bounds", access, oldest, high.value)
        yield access


def _track_order(properties: int) -> None:
    """Keep the order in which members are made; netCDF-4 asks for it in files that it shall write to."""
    call("H5Pset_link_creation_order", properties, h5.CREATION_ORDER_TRACKED | h5.CREATION_ORDER_INDEXED)


def _stored_type(layout: ArrayLayout) -> Identifier:
    if layout.row_dtype is not None:
        return datatypes.create_rows(layout.row_dtype, layout.row_shape)
    if layout.dtype is None:
        return datatypes.create_text()
    return datatypes.create(layout.dtype, utf8=layout.utf8, members=layout.members)


def _set_filters(properties: int, filters: FilterPipeline) -> None:
    for step in filters.filters:
        if call("H5Zfilter_avail", step.id) == 0:
            raise ValueError(f"the compressor {step.name!r} is not part of this build of PyTables")
        if step.id == FLETCHER32:
            call("H5Pset_fletcher32", properties)
        else:
            values = (ctypes.c_uint * max(len(step.values), 1))(*step.values)
            count = 0 if step.id == SHUFFLE else len(step.values)
            call("H5Pset_filter", properties, step.id, int(step.optional), count, values)


def why_not_encode(info: DatasetInfo) -> str | None:
    """The reason why HDF5 has to write to a dataset; None if its chunks can be encoded and written as bytes."""
    datatype = info.datatype
    if info.layout != "chunked":
        return f"its layout is {info.layout}"
    if datatype.dtype is None or not datatype.exact or datatype.shape:
        return f"elements of kind {datatype.kind!r} are converted by HDF5"
    if info.whole_chunks_filtered_only:
        return "its edge chunks are stored without the filters"
    return codecs.why_not_encode(info.filters)


def planned_storage(layout: ArrayLayout) -> ChunkStorage | None:
    """How the chunks of an array that is going to be made will be stored; None if HDF5 has to write them."""
    if layout.dtype is None or layout.chunkshape is None or codecs.why_not_encode(layout.filters):
        return None
    return ChunkStorage(
        shape=layout.shape,
        chunkshape=layout.chunkshape,
        dtype=layout.dtype,
        pipeline=layout.filters,
        fill=b"" if layout.fill_value is None else np.array(layout.fill_value).astype(layout.dtype).tobytes(),
    )


def filter_available(identifier: int) -> bool:
    """Whether HDF5 in this process has the filter."""
    return call("H5Zfilter_avail", identifier) > 0


def _text_pointers(values: np.ndarray) -> tuple[ctypes.Array[ctypes.c_char_p], list[bytes]]:
    """C strings of `values` and the bytes that must live as long as they are used. A NUL would end a string early."""
    encoded = [str(value).encode("utf-8", "surrogateescape") for value in values.reshape(-1)]
    for data in encoded:
        if b"\0" in data:
            raise ValueError(f"variable-length text cannot hold the NUL in {data!r}; string='fixed' can")
    return (ctypes.c_char_p * len(encoded))(*encoded), encoded


def _row_pointers(values: np.ndarray, base: Datatype) -> tuple[np.ndarray, np.ndarray]:
    """`hvl_t` of each row, and the elements of all rows, which must live as long as they are used."""
    rows = values.reshape(-1).tolist()
    flat = np.concatenate([np.empty((0, *base.shape), base.dtype), *rows]).astype(base.dtype, copy=False)
    pointers = np.zeros(len(rows), np.dtype([("length", np.uintp), ("pointer", np.uintp)]))
    pointers["length"] = [len(row) for row in rows]
    before = np.cumsum(pointers["length"]) - pointers["length"]
    pointers["pointer"] = flat.ctypes.data + before * np.uintp(base.itemsize)
    return pointers, flat


def _with_nul(text: str) -> np.ndarray:
    data = text.encode() + b"\0"
    return np.array(data, f"S{len(data)}")


def _write_attribute(node: int, attribute: EncodedAttribute) -> None:
    name = h5.name_bytes(attribute.name)
    if call("H5Aexists", node, name):
        call("H5Adelete", node, name)
    value = attribute.value
    if value is None:  # the empty string, as PyTables and h5netcdf write it
        with datatypes.create(np.dtype("S1"), utf8=True) as text, opened("H5Screate", h5.NULL_SPACE) as nothing:
            opened("H5Acreate2", node, name, text, nothing, h5.DEFAULT, h5.DEFAULT).close()
        return
    array = np.ascontiguousarray(value).reshape(value.shape)
    with (
        datatypes.create(array.dtype, utf8=attribute.utf8) as stored,
        h5.simple_space(array.shape) as space,
        opened("H5Acreate2", node, name, stored, space, h5.DEFAULT, h5.DEFAULT) as created,
    ):
        call("H5Awrite", created, stored, array.ctypes.data)
