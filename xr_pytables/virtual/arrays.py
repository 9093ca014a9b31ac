"""Arrays of a file as Zarr would have them: type, chunks, codecs, and where the chunks lie; or the reason why not.

Values alone; `kerchunk` and `manifests` write them down in their two forms.

Tested in `tests/virtual/test_virtual.py`.
"""

from __future__ import annotations

import bz2
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..chunks import codecs, libblosc2
from ..chunks.codecs import ChunkType
from ..chunks.filters import BLOSC, BLOSC2, BZIP2, DEFLATE, FLETCHER32, SHUFFLE, Filter, FilterPipeline
from ..chunks.index import DAMAGED, MISSING, ChunkIndex, ChunkStorage
from ..errors import FormatError
from ..hdf5.chunk_indexes import read_index
from ..hdf5.file import File
from ..model import leaves
from ..model.forms import Form
from ..model.specs import GroupSpec, VariableSpec

_BLOCK: Final = 1 << 26  # bytes of a contiguous array in one virtual chunk, where it can be divided
_ZSTD: Final = 32015
_MOST_INLINE: Final = 1 << 26  # bytes of one variable that are put into the references themselves

Key = tuple[int, ...]
"""Grid coordinates of a chunk."""


class NotVirtualError(Exception):
    """A variable cannot be an array of Zarr; the message says why."""


@dataclass(frozen=True, eq=False)
class VirtualArray:
    """One variable."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    """As stored, byte order included."""
    fill: Any
    """What elements have that nobody wrote: a number or bytes of `dtype`; None for zeros."""
    attributes: Mapping[str, object]
    filters: tuple[Filter, ...] = ()
    """Of all chunks alike."""
    column: tuple[int, int, int] | None = None
    """Of a column of a table: (first byte, bytes) in a row, and the bytes of a row."""
    places: Mapping[Key, tuple[int, int]] = field(default_factory=dict, repr=False)
    """(offset, bytes) of the chunks in the file."""
    inline: Mapping[Key, bytes] = field(default_factory=dict, repr=False)
    """Other chunks, as they would be stored with these filters."""
    odd: Mapping[Key, tuple[int, int]] = field(default_factory=dict, repr=False)
    """Where those lie that are inline because some of `all_filters` were skipped for them; the rest is nowhere."""
    all_filters: tuple[Filter, ...] = ()
    """Of the array; `filters` lacks those that most chunks skip."""
    masks: tuple[tuple[int, int], ...] | None = None
    """(stored bytes, filter mask) of chunks that skip some of all filters, if their sizes tell them from the others."""
    row_fill: bytes = b""
    """Of a column: a row that nobody wrote; empty for zeros."""
    is_text: bool = False
    """Bytes that mean text in UTF-8."""

    @property
    def nbytes(self) -> int:
        """Of one chunk without filters; of a column, of the whole rows."""
        size = self.dtype.itemsize if self.column is None else self.column[2]
        count = math.prod(self.chunks) if self.column is None else self.chunks[0]
        return size * count

    def standard(self) -> list[dict[str, Any]] | None:
        """The filters as codecs that numcodecs has, with its names; None if it lacks one."""
        if self.column is not None:
            return None
        found = []
        for step in self.filters:
            words = _STANDARD.get(step.id)
            if words is None:
                return None
            found.append(words(step, self.dtype.itemsize))
        return found

    def own(self, *, masks: bool = False) -> dict[str, Any]:
        """The configuration of `chunk_codec.HDF5Filters` for it; with `masks` for the odd chunks, too."""
        steps = self.all_filters if masks else self.filters
        found: dict[str, Any] = {"filters": [[step.id, list(step.values)] for step in steps], "nbytes": self.nbytes}
        if self.column is not None:
            found["column"] = list(self.column)
        if masks and self.masks:
            found["masks"] = [list(pair) for pair in self.masks]
        return found

    def never_written(self) -> bytes:
        """A chunk that nobody wrote as it would be stored. Raises NotVirtualError where that is not possible."""
        # a scalar lacks byte order and the NULs of a string
        fill = b"" if self.fill is None else np.asarray(self.fill, self.dtype).tobytes()
        element = self.row_fill if self.column is not None else fill
        if self.nbytes > _BLOCK:
            raise NotVirtualError(f"chunks of {self.nbytes} bytes were never written, and are not of zeros")
        data = element * (self.nbytes // len(element)) if element else bytes(self.nbytes)
        return encoded(np.frombuffer(data, np.uint8), self.filters)

    @property
    def grid(self) -> tuple[int, ...]:
        """Chunks along each dimension."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))


_STANDARD: Final[dict[int, Any]] = {
    DEFLATE: lambda step, size: {"id": "zlib", "level": step.values[0] if step.values else 4},
    SHUFFLE: lambda step, size: {"id": "shuffle", "elementsize": step.values[0] if step.values else size},
    FLETCHER32: lambda step, size: {"id": "fletcher32"},
    BZIP2: lambda step, size: {"id": "bz2", "level": max(step.values[0], 1) if step.values else 9},
    BLOSC: lambda step, size: {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0},
    _ZSTD: lambda step, size: {"id": "zstd", "level": step.values[0] if step.values else 3},
}
"""What numcodecs undoes as HDF5 does. (A Blosc buffer says itself how it was made.)"""


def virtual_arrays(file: File, spec: GroupSpec) -> Iterator[tuple[str, VirtualArray | str]]:
    """Each variable of a group by name: the array, or why it cannot be one."""
    for variable in spec.variables:
        name = str(variable.name)
        try:
            if "/" in name:
                raise NotVirtualError("there is a slash in its name")
            check_name(name)
            yield name, virtual_array(file, variable)
        except (NotVirtualError, FormatError) as error:
            yield name, str(error)


def check_name(name: str) -> None:
    """Raise NotVirtualError for the name of a variable, or the path of a group, that is another in Zarr."""
    if "\\" in name:
        raise NotVirtualError("there is a backslash in its name, which Zarr takes for a slash")


def virtual_array(file: File, spec: VariableSpec) -> VirtualArray:
    """One variable. Reads its chunk index, and chunks that are stored with other filters than the others.

    Raises NotVirtualError and what reading raises.
    """
    info, datatype = spec.info, spec.datatype
    _check_type(file, spec)
    column = _column(spec)
    assert datatype.dtype is not None  # checked
    storage = leaves.storage_of(info, file.base_address, shape=spec.shape, chunks=spec.chunks)
    if column is not None:
        storage = leaves.rows_of(info, file.base_address)
    fill = _fill(spec, column)
    found = VirtualArray(
        name=str(spec.name),
        dims=spec.dims,
        shape=spec.shape,
        chunks=tuple(max(length, 1) for length in (spec.chunks or spec.shape)),
        dtype=_dtype(spec),
        fill=fill,
        attributes=spec.attributes,
        column=column,
        row_fill=(info.fill_value or b"") if column is not None else b"",
        is_text=spec.form is Form.FIXED_TEXT,
    )
    if 0 in spec.shape:
        return found
    if info.layout == "compact":
        values = np.ascontiguousarray(leaves.read_compact(info, storage))
        if column is not None:
            raise NotVirtualError("it is a column of a table in an object header")
        return replace(found, inline={(0,) * len(spec.shape): values.tobytes()})
    if storage.chunkshape is None:
        return _contiguous(found, storage)
    why = codecs.why_not(info.filters)
    if why is not None:
        raise NotVirtualError(why)
    return _chunked(file, found, storage)


def _check_type(file: File, spec: VariableSpec) -> None:
    if spec.file != file.path:
        raise NotVirtualError(f"it is in another file, {spec.file}")
    if spec.info.external or spec.info.layout == "virtual":
        raise NotVirtualError("its data lie in other files")
    cuts = zip(spec.info.shape or (), spec.shape, spec.chunks or (), strict=False)
    if spec.info.fill_off and any(size < length and size % chunk for size, length, chunk in cuts):
        raise NotVirtualError("it is shorter than its dimension, and nothing fills the rest of its last chunk")
    datatype = spec.datatype
    if datatype.kind in ("vlen", "text"):
        raise NotVirtualError("its values have a variable length, and lie in heaps of the file, not in its chunks")
    if spec.decoding is not None or spec.categories is not None:
        raise NotVirtualError("it is a column of a pandas object, whose values are made from several nodes")
    if spec.reverse or spec.form not in (Form.SAME, Form.FIXED_TEXT):
        raise NotVirtualError(f"its stored values become others when they are read ({_change(spec)})")
    ends = datatype.kind == "string" and datatype.stored_size > 1 and datatype.padding != "null-padded"
    if datatype.dtype is None or not datatype.exact or datatype.dtype.kind not in "biufcSV" or ends:
        raise NotVirtualError(f"its type ({datatype.dtype or datatype.kind}) has no equal in Zarr")
    too_long = datatype.dtype.itemsize > {"f": 8, "c": 16}.get(datatype.dtype.kind, datatype.dtype.itemsize)
    if too_long or datatype.dtype.kind == "V" or spec.dtype.kind in "mM":
        raise NotVirtualError(f"its type ({spec.dtype}) has no equal in Zarr")


def _change(spec: VariableSpec) -> str:
    return "its dimensions are in reverse" if spec.reverse else spec.form.value


def _dtype(spec: VariableSpec) -> np.dtype[Any]:
    found = spec.datatype.dtype
    assert found is not None
    return found


def _column(spec: VariableSpec) -> tuple[int, int, int] | None:
    """Where a column of a table lies in its rows."""
    if not spec.member:
        return None
    if spec.item:
        raise NotVirtualError("it is part of a column of several values")
    if len(spec.info.shape or ()) != 1 or spec.info.datatype.shape:
        raise NotVirtualError("it is a column of records in several dimensions")
    view = spec.info.datatype.view_of(spec.member)
    offset, inner = 0, view
    for name in spec.member:
        assert inner.fields is not None  # a view of nested fields
        inner, shift = inner.fields[name][:2]
        offset += shift
    return offset, inner.itemsize, spec.info.datatype.stored_size


def _fill(spec: VariableSpec, column: tuple[int, int, int] | None) -> Any:
    """The fill value of HDF5 as a number or bytes."""
    stored, dtype = spec.info.fill_value or b"", _dtype(spec)
    if column is not None:
        first, width, row = column
        stored = stored[first : first + width] if len(stored) == row else b""
    if len(stored) < dtype.itemsize:
        return None
    if len(stored) % dtype.itemsize or stored != stored[: dtype.itemsize] * (len(stored) // dtype.itemsize):
        raise NotVirtualError("its fill value has several numbers")
    return np.frombuffer(stored[: dtype.itemsize], dtype)[0]


def _contiguous(found: VirtualArray, storage: ChunkStorage) -> VirtualArray:
    """One chunk, or several of whole rows where they divide the array."""
    if storage.offset is None:
        return found
    if found.column is not None:
        row = found.column[2]
        rows = _divisor(found.shape[0], max(_BLOCK // row, 1))
        chunks = (rows, *found.shape[1:])
        size = rows * row
    else:
        row = found.dtype.itemsize * math.prod(found.shape[1:])
        rows = _divisor(found.shape[0], max(_BLOCK // max(row, 1), 1)) if found.shape else 1
        chunks = (rows, *found.shape[1:]) if found.shape else ()
        size = rows * row
    rest = (0,) * (len(found.shape) - 1)
    number = found.shape[0] // rows if found.shape else 1
    places = {((i, *rest) if found.shape else ()): (storage.offset + i * size, size) for i in range(number)}
    return replace(found, chunks=chunks, places=places)


def _divisor(number: int, most: int) -> int:
    """The largest divisor that is not above `most`, unless that would make many tiny chunks: then the number itself."""
    for parts in range(-(-number // most), 64 * -(-number // most)):
        if parts and number % parts == 0:
            return number // parts
    return number


def _chunked(file: File, found: VirtualArray, storage: ChunkStorage) -> VirtualArray:
    index = read_index(file.source, storage)
    pipeline = storage.pipeline
    skipped = (1 << len(pipeline.filters)) - 1
    stored = (index.address != MISSING) & (index.address != DAMAGED)
    if (index.address == DAMAGED).any():
        raise NotVirtualError("its chunk index is damaged")
    masks = index.filter_mask & np.uint32(skipped)
    common = _commonest(masks[stored])
    kept = tuple(step for i, step in enumerate(pipeline.filters) if not common >> i & 1)
    array = replace(found, filters=kept, all_filters=pipeline.filters)
    beyond = (0,) * (len(found.shape) - index.address.ndim)
    places: dict[Key, tuple[int, int]] = {}
    odd: list[Key] = []
    for key in zip(*(axis.tolist() for axis in np.nonzero(stored)), strict=True):
        if masks[key] == common:
            places[(*key, *beyond)] = int(index.address[key]), int(index.size[key])
        else:
            odd.append(key)
    inline = {(*key, *beyond): _recoded(file, array, storage, index, key) for key in odd}
    if sum(map(len, inline.values())) > _MOST_INLINE:
        raise NotVirtualError("too many of its chunks are stored with other filters than the rest")
    extents = {(*key, *beyond): (int(index.address[key]), int(index.size[key])) for key in odd}
    return replace(array, places=places, inline=inline, odd=extents, masks=_masks(index, masks, stored))


def _masks(
    index: ChunkIndex, masks: NDArray[np.uint32], stored: NDArray[np.bool_]
) -> tuple[tuple[int, int], ...] | None:
    """The mask of each stored size that has one, where chunks of one size all have the same."""
    found: dict[int, int] = {}
    for size, mask in zip(index.size[stored].tolist(), masks[stored].tolist(), strict=True):
        if found.setdefault(size, mask) != mask:
            return None
    return tuple((size, mask) for size, mask in found.items() if mask)


def _commonest(masks: NDArray[np.uint32]) -> int:
    if not masks.size:
        return 0
    values, counts = np.unique(masks, return_counts=True)
    return int(values[np.argmax(counts)])


def _recoded(file: File, array: VirtualArray, storage: ChunkStorage, index: ChunkIndex, key: Key) -> bytes:
    """A chunk as it would be stored with the filters that the others have."""
    raw = np.frombuffer(file.source.read(int(index.address[key]), int(index.size[key])), np.uint8)
    data = codecs.decode_chunk(raw, int(index.filter_mask[key]), storage.pipeline, storage.chunk_nbytes)
    return encoded(np.array(data), array.filters)


def encoded(data: NDArray[np.uint8], filters: tuple[Filter, ...]) -> bytes:
    """A chunk with all of the filters applied. Raises NotVirtualError for one that only HDF5 applies."""
    for step in filters:
        data = np.frombuffer(_encoded(step, data), np.uint8)
    return data.tobytes()


def _encoded(step: Filter, data: NDArray[np.uint8]) -> Any:
    """One filter applied, whether it gains anything or not."""
    if step.id == DEFLATE:
        return zlib.compress(data.tobytes(), 1)
    if step.id == BZIP2:
        return bz2.compress(data.tobytes(), 1)
    if step.id == BLOSC:
        from numcodecs import blosc  # it starts threads

        return blosc.compress(data.tobytes(), b"lz4", 1, 0)
    if step.id == BLOSC2:
        return libblosc2.compress_frame(data, libblosc2.Compression(1, 1, 0, 1, 0), ())
    try:
        pipeline = FilterPipeline((replace(step, optional=False),))
        found, mask = codecs.encode_chunk(data, pipeline, ChunkType((data.size,), np.dtype("u1")))
    except FormatError as error:
        raise NotVirtualError(f"a chunk is stored with other filters than the rest, and {error}") from None
    assert not mask  # it is not optional
    return found
