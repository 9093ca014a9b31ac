"""What a file holds, as a value: every group, array and table, how it is stored, and what is not shown and why.

`tree` asks the nodes as the engine does; notebooks and the command line print what it returns. Reads headers and
attributes, never data.
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

import numpy as np

from .chunks import codecs
from .disk.door import Visit, checked_transfer, located
from .errors import FormatError
from .hdf5.chunk_indexes import read_index
from .hdf5.dataset import DatasetInfo
from .hdf5.file import File
from .model.encodings import encoding
from .model.forms import Form
from .model.leaves import storage_of
from .model.nodes import NodeReader
from .model.options import read_options
from .model.specs import GroupSpec, Skipped, VariableSpec
from .sources.source import printable
from .value_text import one_line, plain


@dataclass(frozen=True)
class ListedArray:
    """One array, or one column of a table."""

    name: str
    kind: str
    """In the words of PyTables: Array, CArray, EArray, VLArray, or column; else `text` (any length), `references`."""
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    """As it is stored, before xarray decodes anything."""
    chunks: tuple[int, ...] | None
    """Elements per chunk; None if it is not chunked."""
    filters: dict[str, object] = field(default_factory=dict)
    """Those that are on, in the words of `to_pytables(encoding=)`."""
    unlimited_dims: tuple[str, ...] = ()
    attributes: Mapping[str, object] = field(default_factory=dict)
    """By name."""
    stored_bytes: int | None = None
    """In the file; None for columns (see their table), for links to other files, and where it says nothing (values of
    variable length lie elsewhere)."""
    ratio: float | None = None
    """Bytes in memory to bytes in the file: what compression gains."""
    lacks: str = ""
    """Which filter cannot be undone here, and what brings it; empty if values can be read."""

    def __str__(self) -> str:
        sizes = ", ".join(f"{dim}: {size}" for dim, size in zip(self.dims, self.shape, strict=True))
        told = [
            self.dtype,
            "contiguous" if self.chunks is None else f"chunks {self.chunks}",
            *(word if value is True else f"{word} {value}" for word, value in self.filters.items()),
            *([f"ratio {self.ratio:.1f}"] if self.ratio is not None and self.filters else []),
            *(f"grows along {dim}" for dim in self.unlimited_dims),
            *([f"cannot be read here: {self.lacks}"] if self.lacks else []),
        ]
        return f"{self.name} ({sizes})  {self.kind}, {', '.join(told)}"


@dataclass(frozen=True)
class ListedGroup:
    """One group, or one table."""

    group: str
    """Path from where the list begins."""
    kind: str
    """`group`, `table` or `pandas object`."""
    attributes: Mapping[str, object]
    """By name."""
    arrays: tuple[ListedArray, ...]
    skipped: tuple[Skipped, ...] = ()
    problems: tuple[str, ...] = ()
    """Sentences about what is read differently from what the file says."""
    stored_bytes: int | None = None
    """Of a table."""
    ratio: float | None = None


@dataclass(frozen=True)
class FileTree:
    """The groups of a file with what is in them; prints as a list, and as HTML in notebooks."""

    path: str
    groups: tuple[ListedGroup, ...]

    def __repr__(self) -> str:
        return "\n".join(printable(line) for line in (f"<FileTree of {self.path}>", *self.lines()))

    def lines(self, *, values: bool = False) -> Iterator[str]:
        """The list as text, with whatever signs the file's names have; with the `values` of attributes, if asked."""
        for group in self.groups:
            what = "" if group.kind == "group" else f"  ({group.kind})"
            names = f"  [{', '.join(group.attributes)}]" if group.attributes and not values else ""
            yield printable(group.group + what + names)
            if values:
                yield from _values(group.attributes, "  @")
            for array in group.arrays:
                yield printable(f"  {array}")
                if values:
                    yield from _values(array.attributes, "    @")
            for node in group.skipped:
                yield printable(f"  not shown: {node.path}: {node.reason}")
            for problem in group.problems:
                yield printable(f"  mind: {problem}")

    def as_dicts(self) -> list[dict[str, object]]:
        """The list as what JSON can hold."""
        found: list[dict[str, object]] = [plain(asdict(group)) for group in self.groups]
        return found

    def _repr_html_(self) -> str:
        parts = [f"<b>{_escaped(os.path.basename(self.path))}</b>"]
        for group in self.groups:
            count = f"{len(group.arrays)} {'arrays' if group.kind == 'group' else 'columns'}"
            ratio = "" if group.ratio is None else f", ratio {group.ratio:.1f}"
            name = f"{_escaped(group.group)} <i>{_escaped(group.kind)}, {count}{ratio}</i>"
            parts.append(f"<details open><summary>{name}</summary>")
            if group.arrays:
                parts.append("<table><tr>" + "".join(f"<th>{word}</th>" for word in _HEADINGS) + "</tr>")
                parts.extend(_row(array) for array in group.arrays)
                parts.append("</table>")
            told = [*(f"not shown: {node.path}: {node.reason}" for node in group.skipped), *group.problems]
            if told:
                parts.append("<ul>" + "".join(f"<li>{_escaped(line)}</li>" for line in told) + "</ul>")
            parts.append("</details>")
        return "\n".join(parts)


def _values(attributes: Mapping[str, object], indent: str) -> Iterator[str]:
    for name, value in attributes.items():
        yield f"{indent}{name} = {one_line(value)}"


_HEADINGS = ("name", "kind", "dims", "dtype", "chunks", "filters", "ratio")


def _row(array: ListedArray) -> str:
    sizes = ", ".join(f"{dim}: {size}" for dim, size in zip(array.dims, array.shape, strict=True))
    words = [word if value is True else f"{word} {value}" for word, value in array.filters.items()]
    filters = ", ".join([*words, *([f"cannot be read here: {array.lacks}"] if array.lacks else [])])
    chunks = "" if array.chunks is None else str(array.chunks)
    ratio = "" if array.ratio is None else f"{array.ratio:.1f}"
    cells = (array.name, array.kind, sizes, array.dtype, chunks, filters, ratio)
    return "<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in cells) + "</tr>"


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def tree(
    path: str | os.PathLike[str] | bytes | BinaryIO,
    *,
    group: str = "/",
    external_links: str = "near",
    storage_options: Mapping[str, Any] | None = None,
    store: object = None,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
) -> FileTree:
    """What the file at `path` holds, from `group` on: groups, arrays, tables, and what the engine does not show.

    `path`, `group`, `external_links`, `storage_options`, `store`, `cache_dir` and `cache_bytes` are those of
    `xr.open_dataset`. Nothing in the file is executed. Raises OSError for a missing or broken file or group.
    """
    transfer = checked_transfer(cache_dir=cache_dir, cache_bytes=cache_bytes)
    place, where = located(path, group, storage_options=storage_options, store=store, transfer=transfer)
    options = read_options(
        dims=None, phony_dims="size", external_links=external_links, allow_pickle=False, drop_variables=None
    )
    with Visit() as visit:
        file = visit.file(place)
        specs = NodeReader(file, options, visit.linked, visit.raw).tree(where)
        listed = tuple(_listed(relative, spec, file) for relative, spec in specs)
        visit.check_unchanged()
    return FileTree(place.path, listed)


def _listed(relative: str, spec: GroupSpec, file: File) -> ListedGroup:
    is_table = bool(spec.row_dim) and not spec.is_pandas_object
    stored, ratio = _stored(spec.variables[0], file) if is_table and spec.variables else (None, None)
    return ListedGroup(
        group=relative,
        kind="table" if is_table else "pandas object" if spec.is_pandas_object else "group",
        attributes=dict(spec.attributes),
        arrays=tuple(_listed_array(variable, file) for variable in spec.variables),
        skipped=spec.skipped,
        problems=spec.problems,
        stored_bytes=stored,
        ratio=ratio,
    )


def _listed_array(spec: VariableSpec, file: File) -> ListedArray:
    how = encoding(spec)
    dims, shape = (spec.dims[::-1], spec.shape[::-1]) if spec.reverse else (spec.dims, spec.shape)
    shares = bool(spec.member) or spec.decoding is not None  # what is stored with other columns
    stored, ratio = (None, None) if shares else _stored(spec, file)
    chunks = spec.chunks[::-1] if spec.chunks is not None and spec.reverse else spec.chunks
    words = ("complib", "complevel", "shuffle", "bitshuffle", "fletcher32")
    return ListedArray(
        name=str(spec.name),
        kind=_kind(spec),
        dims=dims,
        shape=shape,
        dtype=_dtype(spec),
        chunks=chunks,
        filters={word: how[word] for word in words if how.get(word)},
        unlimited_dims=spec.unlimited_dims,
        attributes=dict(spec.attributes),
        stored_bytes=stored,
        ratio=ratio,
        lacks=codecs.why_not(spec.info.filters) or "",
    )


def _kind(spec: VariableSpec) -> str:
    if spec.member or spec.decoding is not None:
        return "column"
    if spec.info.layout == "virtual" or spec.raw_files:
        return "virtual" if spec.info.layout == "virtual" else "external"
    kind = spec.info.datatype.kind
    if kind in ("vlen", "text", "reference"):
        return {"vlen": "VLArray", "text": "text", "reference": "references"}[kind]
    if spec.chunks is None:
        return "Array"
    return "EArray" if spec.unlimited_dims else "CArray"


def _dtype(spec: VariableSpec) -> str:
    if spec.rows is not None:
        return f"rows of {spec.rows.dtype}{list(spec.rows.shape) if spec.rows.shape else ''}"
    names = {Form.BYTE_ROWS: "bytes", Form.OBJECTS: "objects", Form.PICKLES: "objects", Form.PATHS: "paths"}
    if spec.form in names:
        return names[spec.form]
    return "str" if spec.dtype.kind == "O" else str(spec.dtype)


def _stored(spec: VariableSpec, file: File) -> tuple[int | None, float | None]:
    """Bytes that the leaf takes in the file, and how many times more in memory."""
    info = spec.info
    if spec.file != file.path or info.datatype.kind in ("vlen", "text"):
        return None, None
    try:
        stored = _stored_bytes(info, file)
    except FormatError:
        return None, None
    whole = math.prod(info.shape or ()) * info.datatype.itemsize
    return stored, whole / stored if stored and whole else None


def _stored_bytes(info: DatasetInfo, file: File) -> int:
    if info.layout != "chunked":
        return info.size or len(info.data)
    return int(read_index(file.source, storage_of(info, file.base_address)).size.sum(dtype=np.int64))
