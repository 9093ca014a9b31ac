"""Elements of a dataset read at once: what has to be known of the data when a file is opened.

Labels of columns, sizes, pickled objects: little, and for one use. What users ask for is read by the lazy arrays, by
way of the same `storage_of`.

Tested in `tests/model/test_hdfstore.py`, `tests/arrays/test_tables.py` and `tests/arrays/test_leaf_arrays.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..chunks import reading, vlen
from ..chunks.index import ChunkStorage, Selection, plan_selection
from ..chunks.vlen import DESCRIPTOR
from ..errors import FormatError
from ..hdf5.chunk_indexes import read_index
from ..hdf5.conversion import convert
from ..hdf5.dataset import DatasetInfo
from ..hdf5.datatype import Datatype
from ..hdf5.file import File
from ..sources.source import Source


def storage_of(
    info: DatasetInfo, base: int, *, shape: Sequence[int] | None = None, chunks: Sequence[int] | None = None
) -> ChunkStorage:
    """Where the elements of a dataset are, in the words of the bytes side.

    `shape` and `chunks` are those that readers see, the atom's dimensions included; by default those of the file.
    """
    datatype, rank = info.datatype, len(info.shape or ())
    if chunks is None and info.chunkshape is not None:
        chunks = (*info.chunkshape, *datatype.shape)
    return ChunkStorage(
        shape=tuple(shape) if shape is not None else (*(info.shape or ()), *datatype.shape),
        chunkshape=None if chunks is None else tuple(chunks),
        dtype=DESCRIPTOR if datatype.kind in ("text", "vlen") else datatype.stored_dtype,
        pipeline=info.filters,
        header=info.address,
        base=base,
        offset=info.offset,
        fill=info.fill_value or b"",
        rank=rank,
    )


def rows_of(info: DatasetInfo, base: int) -> ChunkStorage:
    """Where the rows of a table are, as elements of bytes without a meaning."""
    return ChunkStorage(
        shape=info.shape or (0,),
        chunkshape=info.chunkshape,
        dtype=np.dtype(f"V{info.datatype.stored_size}"),
        pipeline=info.filters,
        header=info.address,
        base=base,
        offset=info.offset,
        fill=info.fill_value or b"",
    )


_PLAUSIBLE: Final = 1 << 24
_FROM_ONE_BYTE: Final = 1 << 14


def is_implausible(nbytes: int, file_size: int) -> bool:
    """Whether a file of that size would have to be compressed as no data are to hold that many bytes of values.

    What is read although nobody has asked for it (coordinates, labels, whole tables that are searched) must not take
    time and memory by a number that a file says.
    """
    return nbytes > max(_PLAUSIBLE, _FROM_ONE_BYTE * file_size)


def read_compact(info: DatasetInfo, storage: ChunkStorage) -> NDArray[Any]:
    """All elements of a dataset whose data lie in its header, as stored."""
    if len(info.data) != storage.element_size * math.prod(storage.shape[: storage.rank]):
        return np.full(storage.shape, storage.fill_values(), storage.dtype)  # nothing was ever written
    return np.frombuffer(info.data, storage.dtype).reshape(storage.shape)


def picked(values: NDArray[Any], selection: Selection) -> NDArray[Any]:
    """The selected elements of an array in memory (outer indexing)."""
    for axis in reversed(range(len(selection))):
        values = values[(slice(None),) * axis + (selection[axis],)]
    return values


def read_stored(source: Source, info: DatasetInfo, storage: ChunkStorage, selection: Selection = ()) -> NDArray[Any]:
    """The selected elements (slices; missing ones select all) as they are in the file."""
    whole = (*selection, *(slice(None) for _ in storage.shape[len(selection) :]))
    if info.layout == "compact":
        return picked(read_compact(info, storage), whole)
    plans = plan_selection(storage, whole)
    nbytes = storage.dtype.itemsize * math.prod([plan.length for plan in plans])
    if is_implausible(nbytes, source.size):
        raise FormatError(f"{source.name}: {nbytes} bytes in a file of {source.size} are not read to open it")
    out = np.empty([plan.length for plan in plans], storage.dtype)
    label = f"{source.name}, the dataset at address {info.address}"
    if storage.chunkshape is None:
        reading.read_contiguous(source, storage, whole, out, label=label)
    else:
        reading.read_into(
            source, storage, read_index(source, storage, label=label), whole, out, plans=plans, label=label
        )
    return out


def read(file: File, info: DatasetInfo, selection: Selection = ()) -> NDArray[Any]:
    """The selected elements (slices; missing ones select all), in native byte order where they have one."""
    stored = read_stored(file.source, info, storage_of(info, file.base_address), selection)
    return native(stored, info.datatype)


def native(stored: NDArray[Any], datatype: Datatype) -> NDArray[Any]:
    """Stored elements as `datatype.dtype` in native byte order."""
    values = stored if datatype.exact else convert(stored, datatype)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def read_column(file: File, info: DatasetInfo, member: Sequence[str], rows: slice = slice(None)) -> NDArray[Any]:
    """The column `member` of the selected rows of a table, its own dimensions behind the rows; text as `bytes`."""
    from ..chunks import row_blocks  # late, as only tables have rows

    storage, column = rows_of(info, file.base_address), _column(info.datatype, member)
    chosen = range(storage.shape[0])[rows]
    variable = column.kind in ("text", "vlen")
    out = np.empty((len(chosen), *column.shape), DESCRIPTOR if variable else column.stored_dtype)
    wanted = [row_blocks.Wanted(info.datatype.view_of(member), tuple(member), out.view(column.stored_dtype))]
    if info.layout == "compact":
        wanted[0].place(read_compact(info, storage), rows, slice(None))
    elif out.size:
        label = f"{file.name}, the table at address {info.address}"
        index = None if storage.chunkshape is None else read_index(file.source, storage, label=label)
        row_blocks.read_columns(file.source, storage, index, rows, wanted, label=label)
    return texts(file.source, out, file.base_address) if column.kind == "text" else native(out, column)


def _column(datatype: Datatype, member: Sequence[str]) -> Datatype:
    return next(column for path, column in datatype.columns() if path == tuple(member))


def texts(
    source: Source, descriptors: NDArray[Any], base: int, *, threads: int | None = None, label: str = ""
) -> NDArray[Any]:
    """The `bytes` that descriptors of variable-length text refer to, up to their first NUL as HDF5 has them."""
    flat = np.ascontiguousarray(descriptors).reshape(-1)
    unique, places = np.unique(flat.view(f"V{DESCRIPTOR.itemsize}"), return_inverse=True)
    once = unique.view(DESCRIPTOR)
    data = vlen.read_values(source, once, 1, base=base, threads=threads, label=label).tobytes()
    stops = np.cumsum(vlen.lengths(once)).tolist()
    pieces = np.empty(len(once), object)
    pieces[:] = [data[start:stop].split(b"\0", 1)[0] for start, stop in zip([0, *stops], stops, strict=False)]
    found: NDArray[Any] = pieces[places].reshape(descriptors.shape)
    return found


def read_row(file: File, info: DatasetInfo, row: int) -> bytes:
    """One row of a one-dimensional dataset of variable-length bytes (PyTables: of objects)."""
    base = info.datatype.base
    if base is None or base.stored_size != 1 or len(info.shape or ()) != 1:
        raise TypeError("only rows of bytes are read")
    descriptors = read_stored(file.source, info, storage_of(info, file.base_address), (slice(row, row + 1),))
    if not len(descriptors):
        raise FormatError(f"{file.name}: the dataset at address {info.address} has no row {row}")
    return vlen.read_values(file.source, descriptors, 1, base=file.base_address).tobytes()
