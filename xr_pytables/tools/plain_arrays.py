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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..model.frames import TIME_ZONE
from ..sources.url import shown

_ROWS: Final = 100_000
"""Of a table in text that are parsed at once."""
_EXACT: Final = 1 << 53
"""Integers up to this one are exact as float64."""
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
    missing: tuple[Mapped | None, ...]
    """Which values of each piece are missing; None where none is."""
    dtype: np.dtype[Any]
    attrs: Mapping[str, Any]
    """What the values mean: `_FillValue` is in the place of missing integers."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(piece.shape[0] for piece in self.pieces),)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        (rows,) = key if isinstance(key, tuple) else (key,)
        begin, end, _ = rows.indices(self.shape[0])
        parts, at = [], 0
        for piece, missing in zip(self.pieces, self.missing, strict=True):
            start, stop = max(begin - at, 0), min(end - at, piece.shape[0])
            if start < stop:
                part = piece[start:stop].astype(self.dtype)
                if missing is not None:
                    part[missing[start:stop]] = self.attrs.get("_FillValue", np.nan)
                parts.append(part)
            at += piece.shape[0]
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)


def open_csv(path: str, folder: str, wanted: Collection[str] | None) -> dict[str, Joined]:
    """The columns of a table in text, with names in its first line; put aside in `folder`, a piece at a time.

    Types are those that pandas finds in a whole column, for which the text is read twice.
    """
    import pandas as pd  # only tables need it

    try:
        # without names, so that pandas neither makes any up nor takes a column for an index
        lines = pd.read_csv(path, header=None, nrows=2, dtype=str, keep_default_na=False)
        header = lines.iloc[0].tolist()
        _check_names([name for name in header if name], path)
        types = _csv_types(path)
        renamed = _names_of_index(header, list(types))
        known = {renamed.get(name, name): name for name in types}  # to pandas
        names = chosen_names(list(known), wanted, path)
        chosen = {known[name]: types[known[name]] for name in names}
        with pd.read_csv(path, chunksize=_ROWS, usecols=list(chosen), dtype=chosen) as pieces:
            return _columns(({name: piece[known[name]] for name in names} for piece in pieces), folder, path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a table in CSV: {str(error).strip()}") from None


def _names_of_index(header: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """By the names in `columns` that pandas makes up: those of its `reset_index` for the ones in front that have none.

    So `DataFrame.to_csv` writes an index, or its levels, without a name.
    """
    levels = next((number for number, name in enumerate(header) if name), 0)
    names = ["index"] if levels == 1 and "index" not in header else [f"level_{number}" for number in range(levels)]
    return {made_up: name for made_up, name in zip(columns, names, strict=False) if name not in header}


def _csv_types(path: str) -> dict[str, Any]:
    """The type of each column, for pandas: what it would find in all rows together; and integers though some miss."""
    import pandas as pd  # only tables need it

    kinds: dict[str, set[str]] = {}
    with pd.read_csv(path, chunksize=_ROWS, low_memory=False) as pieces:
        for piece in pieces:
            for name, column in piece.items():
                kinds.setdefault(str(name), set()).update(_kinds(column))
    types = {name: _csv_type(found) for name, found in kinds.items()}
    for name in [name for name, kind in types.items() if kind == "Int64"]:
        try:
            with (
                np.errstate(invalid="ignore"),
                pd.read_csv(path, chunksize=_ROWS, usecols=[name], dtype={name: "Int64"}) as pieces,
            ):
                for _ in pieces:
                    pass
        except (ValueError, TypeError, OverflowError):  # written as a float, beyond integers
            types[name] = np.float64
    return types


def _kinds(column: Any) -> set[str]:
    """What is in a piece of a column: NumPy's letters for kinds, `missing`, `negative`, `large`: no float holds it."""
    present = column.dropna()
    found = {"missing"} if len(present) < len(column) else set()
    if not len(present):
        return found
    if present.dtype.kind == "O" and all(isinstance(value, bool) for value in present):
        return found | {"b"}
    if present.dtype.kind not in "iuf":
        return found | {present.dtype.kind if present.dtype.kind == "b" else "O"}
    if present.dtype.kind == "f" and (not found or (present % 1).any()):
        return found | {"f"}
    least, most = int(present.min()), int(present.max())
    found |= {word for word, holds in (("negative", least < 0), ("large", max(-least, most) >= _EXACT)) if holds}
    return found | {present.dtype.kind.replace("f", "i")}  # which pandas makes floats where some miss


def _csv_type(kinds: set[str]) -> Any:
    numbers = kinds & {"i", "u", "f"}
    if not kinds or "O" in kinds or ("b" in kinds and numbers):
        return str
    if "b" in kinds:
        return "boolean" if "missing" in kinds else np.bool_
    if "f" in kinds or not numbers:
        return np.float64
    if "u" in kinds:
        return str if kinds & {"missing", "negative"} else np.uint64
    if "missing" in kinds:
        return "Int64" if "large" in kinds else np.float64
    return np.int64


def open_parquet(path: str, folder: str, wanted: Collection[str] | None) -> dict[str, Joined]:
    """The columns of a table in Parquet, those of an index of pandas among them; put aside in `folder`, in pieces."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ModuleNotFoundError(
            f"{path}: Parquet needs pyarrow, which is not installed. Get it by: pip install 'xr-pytables[convert]'"
        )
    import pandas as pd  # only tables need it
    import pyarrow as pa  # type: ignore[import-untyped]  # an extra
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    nullable = {
        pa.int8(): pd.Int8Dtype(), pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(), pa.uint8(): pd.UInt8Dtype(), pa.uint16(): pd.UInt16Dtype(),
        pa.uint32(): pd.UInt32Dtype(), pa.uint64(): pd.UInt64Dtype(), pa.bool_(): pd.BooleanDtype(),
    }  # fmt: skip
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            _check_names(schema.names, path)
            names = chosen_names(schema.names, wanted, path)
            zones = {name: str(zone) for name in names if (zone := getattr(schema.field(name).type, "tz", None))}
            empty = not file.metadata.num_rows
            batches = [schema.empty_table()] if empty else file.iter_batches(batch_size=_ROWS, columns=names)
            frames = (
                batch.select(names).to_pandas(ignore_metadata=True, types_mapper=nullable.get, date_as_object=False)
                for batch in batches
            )
            return _columns((_of_arrow(frame, schema) for frame in frames), folder, path, zones)
    except pa.ArrowInvalid as error:
        raise FormatError(f"{path}: not a Parquet file, or a damaged one: {error}") from None


def _of_arrow(frame: Any, schema: Any) -> dict[str, Any]:
    """Columns that pyarrow made, with what it makes too wide or without a type as it should be."""
    import pyarrow as pa  # an extra

    found = {}
    for name, column in frame.items():
        kind = schema.field(name).type
        if pa.types.is_date(kind):
            column = column.astype("M8[s]")
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
            column = column.where(column.notna(), b"")
        found[name] = column
    return found


def chosen_names(names: Sequence[str], wanted: Collection[str] | None, path: str) -> list[str]:
    """The names that are wanted, in their order. Raises KeyError for one that is not there."""
    for name in wanted or ():
        if name not in names:
            raise KeyError(f"{shown(path)}: there is no array {name!r}; there are {', '.join(map(repr, names))}")
    return [name for name in names if wanted is None or name in wanted]


def _check_names(names: Sequence[str], path: str) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ValueError(f"{path}: several columns are called {name!r}. Give each a name of its own")


def _columns(
    pieces: Iterable[Mapping[Any, Any]], folder: str, path: str, zones: Mapping[str, str] | None = None
) -> dict[str, Joined]:
    """Columns by name, each piece of them in a file of its own. `zones` are those of times."""
    found: dict[str, list[tuple[Mapped, Mapped | None]]] = {}
    for number, piece in enumerate(pieces):
        for place, (name, column) in enumerate(piece.items()):
            values, missing = _plain_column(column, f"{path}: column {name!r}")
            file = os.path.join(folder, f"{number}-{place}")
            parts = _put_aside(f"{file}.npy", values), None if missing is None else _put_aside(f"{file}m.npy", missing)
            found.setdefault(str(name), []).append(parts)
    if not found:
        raise ValueError(f"{path}: a table without columns, of which no array can be made")
    columns = {}
    for name, pairs in found.items():
        files, masks = tuple(values for values, _ in pairs), tuple(missing for _, missing in pairs)
        dtype, attrs = _common(files), dict[str, Any]({TIME_ZONE: zones[name]} if zones and name in zones else {})
        if any(mask is not None for mask in masks):
            dtype, fill = _with_missing(dtype, files, f"{path}: column {name!r}")
            attrs = {} if fill is None else {"_FillValue": fill}
        columns[name] = Joined(files, masks, dtype, attrs)
    return columns


def _put_aside(file: str, values: NDArray[Any]) -> Mapped:
    np.save(file, values, allow_pickle=False)
    return open_npy(file)


def _with_missing(dtype: np.dtype[Any], pieces: Sequence[Mapped], told: str) -> tuple[np.dtype[Any], np.generic | None]:
    """The type of integers or booleans of which some are missing, and what is in their place; None for NaN.

    Integers that a float holds are floats, as pandas has them; others stay, as the writer does with nullable ones.
    """
    if dtype.kind == "b":
        return np.dtype("i1"), np.int8(-128)
    limits = [(int(values.min()), int(values.max())) for piece in pieces if (values := piece[:]).size]
    least, most = min(low for low, _ in limits), max(high for _, high in limits)
    if max(-least, most) <= _EXACT:
        return np.dtype("f8"), None
    smallest, largest = np.iinfo(dtype).min, np.iinfo(dtype).max
    if dtype.kind == "i" and float(least) > smallest:  # as floats, in which readers look for it
        return dtype, dtype.type(smallest)
    if float(most) < float(largest):
        return dtype, dtype.type(largest)
    raise ValueError(f"{told}: its integers leave none to stand for the missing ones. Fill these in before")


def _plain_column(column: Any, told: str) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """A column of pandas as NumPy has it, and which integers or booleans are missing if some are.

    Text has a width, missing text is empty, and missing floats are NaN.
    """
    import pandas as pd  # only tables need it

    dtype = column.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "biufcmMSU":
        return np.asarray(column), None
    if isinstance(dtype, pd.DatetimeTZDtype):
        return np.asarray(column.dt.tz_convert("UTC").dt.tz_localize(None)), None
    missing = np.asarray(column.isna(), bool)
    if isinstance(dtype, pd.CategoricalDtype) and not missing.any():
        return _plain_column(column.astype(dtype.categories.dtype), told)
    if hasattr(dtype, "numpy_dtype"):
        values = column.to_numpy(dtype.numpy_dtype, na_value=0)
        return values, missing if missing.any() else None
    values = np.array(column, object)
    kinds = {type(value) for value in values[~missing]} or {str}
    if kinds == {bytes}:
        if any(value.endswith(b"\0") for value in values):
            raise ValueError(f"{told} has bytes that end in NUL, which NumPy's do not keep. Leave it out (--vars)")
        return np.asarray(list(values), bytes), None
    if kinds != {str}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"{told} has values of type {names}, of which no array can be made. Leave it out (--vars)")
    values[missing] = ""
    return np.asarray(list(values), str) if len(values) else np.empty(0, "U1"), None


def _common(pieces: Sequence[Mapped]) -> np.dtype[Any]:
    """A type that holds the values of all pieces of a column, of which text has several widths."""
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
