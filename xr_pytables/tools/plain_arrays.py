"""Arrays in plain files: `.npy`, `.npz`, raw memory maps, tables in CSV and Parquet; read and written in pieces.

What is read is a lazy array with `shape`, `dtype` and `[...]`. A file is mapped for each read and let go of after it,
so that what was read does not stay in the memory of the process.

Tested in `tests/tools/test_converting.py`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError

_ROWS: Final = 100_000
"""Of a table in text that are parsed at once."""
_COPIED: Final = 1 << 20  # bytes of a compressed member at once


@dataclass(frozen=True)
class Mapped:
    """An array in a file: elements one behind the other."""

    path: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int = 0
    """Bytes before the first element."""
    fortran: bool = False
    """Whether the first index runs fastest."""

    def __getitem__(self, key: Any) -> NDArray[Any]:
        if 0 in self.shape:
            return np.asarray(np.empty(self.shape, self.dtype)[key])
        mapped: NDArray[Any] = np.memmap(
            self.path, self.dtype, "r", self.offset, self.shape, "F" if self.fortran else "C"
        )
        return np.array(mapped[key], order="C")


# -- reading -----------------------------------------------------------------------------------------------


def open_npy(path: str) -> Mapped:
    """The array in a `.npy` file. Raises FormatError for what is none, ValueError for pickled objects."""
    with open(path, "rb") as file:
        return _npy_at(file, path, path, os.path.getsize(path))


def _npy_at(file: IO[bytes], path: str, told: str, end: int) -> Mapped:
    """The array whose header begins at the position of an open file, up to the byte `end`; messages call it `told`."""
    begin = file.tell()
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:  # names in UTF-8: only NumPy's own functions for whole files know these
            assert not begin
            mapped = np.lib.format.open_memmap(path, "r")
            shape, fortran, dtype = mapped.shape, not mapped.flags.c_contiguous, mapped.dtype
            file.seek(mapped.offset)
    except (ValueError, EOFError) as error:
        raise FormatError(f"{told}: not a .npy file, or a damaged one: {error}") from None
    if dtype.hasobject:
        raise ValueError(f"{told}: pickled objects, which are not read: unpickling can run code")
    array = Mapped(path, dtype, tuple(map(int, shape)), file.tell(), bool(fortran))
    needed = _check_size(array, told, min(end, os.fstat(file.fileno()).st_size))
    if needed < end:
        raise FormatError(
            f"{told}: {end - needed} bytes follow the array of shape {array.shape} and type {dtype}, and would be left "
            "out. Of several arrays saved to one file numpy.load reads one after the other; save each to its own"
        )
    return array


def _check_size(array: Mapped, told: str, size: int) -> int:
    """The byte at which an array ends. Raises FormatError if the file has fewer."""
    needed = array.offset + int(np.prod(array.shape, dtype=object)) * array.dtype.itemsize
    if needed > size:
        raise FormatError(
            f"{told}: an array of shape {array.shape} and type {array.dtype} needs {needed} bytes, the file has {size}"
        )
    return needed


def open_npz(path: str, folder: str) -> dict[str, Mapped]:
    """The arrays in a `.npz` file by name. Compressed ones, and those with UTF-8 in names, are unpacked in `folder`."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            for number, member in enumerate(archive.infolist()):
                name, told = member.filename.removesuffix(".npy"), f"{path}:{member.filename}"
                file.seek(member.header_offset + 26)
                begin = file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
                if member.compress_type == zipfile.ZIP_STORED and file.read(7)[6:] <= b"\2":
                    file.seek(begin)
                    found[name] = _npy_at(file, path, told, begin + member.file_size)
                    continue
                unpacked = os.path.join(folder, f"{number}.npy")
                with archive.open(member) as packed, open(unpacked, "w+b") as out:
                    shutil.copyfileobj(packed, out, _COPIED)
                    out.seek(0)
                    found[name] = _npy_at(out, unpacked, told, member.file_size)
    except (zipfile.BadZipFile, struct.error) as error:
        raise FormatError(f"{path}: not a .npz file, or a damaged one: {error}") from None
    return found


def open_raw(path: str, shape: Sequence[int] | None, dtype: str | None, offset: int, order: str) -> Mapped:
    """A file of nothing but elements, from `offset` to its end. One length may be -1: as many as there are.

    Raises FormatError for a file that is too short, ValueError for one with more bytes, which nobody said to leave out,
    and for what makes no sense.
    """
    if dtype is None:
        raise ValueError(f"{path}: a file of raw elements needs dtype (--dtype), and shape (--shape) if it is not flat")
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise ValueError(f"dtype {dtype!r} is none that NumPy knows: {error}") from None
    if kind.hasobject or not kind.itemsize:
        raise ValueError(f"dtype {dtype!r} says nothing of stored bytes")
    size = os.path.getsize(path)
    lengths = list(shape) if shape is not None else [-1]
    if lengths.count(-1) > 1 or any(length < -1 for length in lengths):
        raise ValueError(f"shape {tuple(lengths)} must have lengths, and -1 no more than once")
    if offset < 0:
        raise ValueError(f"offset must be a number of bytes of at least 0, not {offset}")
    if -1 in lengths:
        rest = int(np.prod([length for length in lengths if length != -1], dtype=object)) * kind.itemsize
        lengths[lengths.index(-1)] = (size - offset) // rest if rest and size > offset else 0
    array = Mapped(path, kind, tuple(lengths), offset, order == "F")
    needed = _check_size(array, path, size)
    if needed < size:
        raise ValueError(
            f"{path}: an array of shape {array.shape} and type {kind} ({kind.itemsize} bytes per element) ends at byte "
            f"{needed}, the file has {size}: {size - needed} would be left out. Correct dtype, shape or offset; for "
            "a part, give -1 for a length in shape (--shape), and select (--select)"
        )
    return array


@dataclass(frozen=True)
class Joined:
    """A column whose pieces lie in files, one behind the other."""

    pieces: tuple[Mapped, ...]
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(piece.shape[0] for piece in self.pieces),)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        (rows,) = key if isinstance(key, tuple) else (key,)
        begin, end, _ = rows.indices(self.shape[0])
        parts, at = [], 0
        for piece in self.pieces:
            start, stop = max(begin - at, 0), min(end - at, piece.shape[0])
            if start < stop:
                parts.append(piece[start:stop].astype(self.dtype))
            at += piece.shape[0]
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)


def open_csv(path: str, folder: str) -> dict[str, Joined]:
    """The columns of a table in text, with names in its first line; put aside in `folder`, a piece at a time."""
    import pandas as pd  # only tables need it

    try:
        with pd.read_csv(path, chunksize=_ROWS) as pieces:  # which reads the first line
            return _columns((dict(piece.items()) for piece in pieces), folder, path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a table in CSV: {error}") from None


def open_parquet(path: str, folder: str) -> dict[str, Joined]:
    """The columns of a table in Parquet; put aside in `folder`, a piece at a time."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ModuleNotFoundError(
            f"{path}: Parquet needs pyarrow, which is not installed. Get it by: pip install 'xr-pytables[convert]'"
        )
    import pyarrow as pa  # type: ignore[import-untyped]  # an extra
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        with pq.ParquetFile(path) as file:
            empty = not file.metadata.num_rows
            batches = [file.schema_arrow.empty_table()] if empty else file.iter_batches(batch_size=_ROWS)
            return _columns((dict(batch.to_pandas().items()) for batch in batches), folder, path)
    except pa.ArrowInvalid as error:
        raise FormatError(f"{path}: not a Parquet file, or a damaged one: {error}") from None


def _columns(pieces: Iterable[Mapping[Any, Any]], folder: str, path: str) -> dict[str, Joined]:
    """Columns by name, each piece of them in a file of its own."""
    found: dict[str, list[Mapped]] = {}
    for number, piece in enumerate(pieces):
        for place, (name, column) in enumerate(piece.items()):
            values = _plain_column(column, f"{path}: column {name!r}")
            file = os.path.join(folder, f"{number}-{place}.npy")
            np.save(file, values, allow_pickle=False)
            found.setdefault(str(name), []).append(open_npy(file))
    if not found:
        raise ValueError(f"{path}: a table without columns, of which no array can be made")
    return {name: Joined(tuple(files), _common(files)) for name, files in found.items()}


def _plain_column(column: Any, told: str) -> NDArray[Any]:
    """A column of pandas as NumPy has it: text with a width, missing text as empty, missing numbers as NaN."""
    import pandas as pd  # only tables need it

    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biufcmMSU":
        return np.asarray(column)
    if pd.api.types.is_bool_dtype(column.dtype) and not column.isna().any():
        return np.asarray(column, bool)
    if pd.api.types.is_numeric_dtype(column.dtype):
        return np.asarray(column.to_numpy("f8" if column.isna().any() else column.dtype.numpy_dtype))
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        column = column.dt.tz_convert("UTC").dt.tz_localize(None)
        return np.asarray(column)
    values = column.astype(object).where(column.notna(), "")
    if not all(isinstance(value, str) for value in values):
        kinds = sorted({type(value).__name__ for value in values})
        raise ValueError(f"{told} has values of type {', '.join(kinds)}, of which no array can be made")
    return np.asarray(list(values), str) if len(values) else np.empty(0, "U1")


def _common(pieces: Sequence[Mapped]) -> np.dtype[Any]:
    """A type that holds the values of all pieces of a column: a piece may be without a fraction, or a missing value."""
    kinds = {piece.dtype.kind for piece in pieces}
    if "U" in kinds and kinds != {"U"}:
        return np.dtype(f"U{max(32, *(piece.dtype.itemsize // 4 for piece in pieces))}")
    return np.result_type(*[piece.dtype for piece in pieces])


# -- writing -----------------------------------------------------------------------------------------------

Blocks = Callable[[], Iterator[NDArray[Any]]]
"""Gives the values of an array as blocks of whole rows, one behind the other; may be asked again."""


@dataclass(frozen=True)
class Rows:
    """An array to write: what its header says, and its values."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    blocks: Blocks


def write_npy(file: IO[bytes], array: Rows) -> None:
    """The array in NumPy's format, as `np.save` writes it."""
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    try:
        np.lib.format.write_array_header_1_0(file, header)
    except ValueError:  # it is too long for this version
        np.lib.format.write_array_header_2_0(file, header)
    for block in array.blocks():
        if block.nbytes:
            file.write(np.ascontiguousarray(block, array.dtype).reshape(-1).view(np.uint8).data)


def write_npz(file: IO[bytes], arrays: Mapping[str, Rows], *, compressed: bool) -> None:
    """Arrays by name, as `np.savez` or `np.savez_compressed` write them."""
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", kind, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                write_npy(member, array)
