"""The groups of an HDFStore in an open file: what `frames` asks for, read through a `File`.

Attributes, headers and the labels of columns are read when a pandas object is described; rows of pickled objects go to
the restricted decoder. Knows no xarray.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from ..errors import MissingNodeError
from ..hdf5.attributes import RawAttribute
from ..hdf5.dataset import DatasetInfo
from ..hdf5.file import File
from . import attributes, frames, leaves, safe_pickle
from .frames import Frame, StoredArray, UnknownLayoutError
from .pytables_types import as_pytables

_BLOCK: Final = 1 << 22
"""Elements that are looked through at once."""


@dataclass(frozen=True)
class PandasObject:
    """A pandas object of a file, described."""

    frame: Frame
    paths: Mapping[str, str]
    """Of the datasets that its columns lie in, by their path relative to the object's group."""
    infos: Mapping[str, DatasetInfo]
    attributes: Mapping[str, RawAttribute]
    """The user's: those of the group that are not pandas' own."""


def describe(file: File, path: str, *, allow_pickle: bool) -> PandasObject:
    """The pandas object at `path`. Raises UnknownLayoutError with the reason if the group holds none."""
    group = _FileGroup(file, path, allow_pickle)
    frame = frames.describe(group)
    arrays = {part.array for column in (*frame.index, *frame.columns) for part in _parts(column)}
    found = {name: group.find(name) for name in arrays}
    return PandasObject(
        frame,
        {name: one.path for name, one in found.items()},
        {name: one.stored.info for name, one in found.items()},
        {name: raw for name, raw in group.raw.items() if not frames.is_own_attribute(name)},
    )


def _parts(column: frames.Column) -> list[frames.Column]:
    return [column] if column.categories is None else [column, *_parts(column.categories)]


@dataclass(frozen=True)
class _Found:
    path: str
    stored: StoredArray


class _FileGroup:
    """A group of a file as `frames.describe` looks at it."""

    def __init__(self, file: File, path: str, allow_pickle: bool) -> None:
        self._file = file
        self._path = path
        self._allow_pickle = allow_pickle
        self._found: dict[str, _Found] = {}

    @cached_property
    def raw(self) -> dict[str, RawAttribute]:
        return self._file.attributes(self._file.resolve(self._path).address)

    @cached_property
    def attributes(self) -> Mapping[str, object]:
        return self._decoded(self.raw)

    def array(self, path: str) -> StoredArray | None:
        if path not in self._found:
            try:
                place = self._file.resolve(posixpath.join(self._path, path))
            except MissingNodeError:  # links into other files too: a pandas object lies in one file
                return None
            if self._file.kind(place.address) != "dataset":
                return None
            raw = self._decoded(self._file.attributes(place.address))
            stored = StoredArray(as_pytables(self._file.dataset(place.address)), raw)
            _check_layout(path, stored.info)
            self._found[path] = _Found(place.path, stored)
        return self._found[path].stored

    def find(self, path: str) -> _Found:
        """The dataset at `path`. Raises UnknownLayoutError if there is none."""
        if self.array(path) is None:
            raise UnknownLayoutError(f"there is no array {path!r}")
        return self._found[path]

    def read(self, path: str, member: str | None = None) -> np.ndarray[Any, Any]:
        found = self.find(path)
        info = found.stored.info
        if info.datatype.kind == "vlen":
            return objects(leaves.read_row(self._file, info, 0), allow_pickle=self._allow_pickle)
        _check_few(path, info)
        if member is not None:
            return leaves.read_column(self._file, info, (member,))
        return leaves.read(self._file, info)

    def has_negative(self, path: str) -> bool:
        found = self.find(path)
        info = found.stored.info
        [rows] = info.shape or ()
        if leaves.is_implausible(rows * info.datatype.itemsize, self._file.source.size):
            raise UnknownLayoutError(f"{path!r} of {rows} rows does not fit into the file")
        return any(
            (leaves.read(self._file, info, (slice(start, start + _BLOCK),)) < 0).any()
            for start in range(0, rows, _BLOCK)
        )

    def child(self, path: str) -> _FileGroup | None:
        try:
            place = self._file.resolve(posixpath.join(self._path, path))
        except MissingNodeError:
            return None
        if self._file.kind(place.address) != "group":
            return None
        return _FileGroup(self._file, place.path, self._allow_pickle)

    def _decoded(self, raw: Mapping[str, RawAttribute]) -> dict[str, object]:
        return {name: attributes.value(one, allow_pickle=self._allow_pickle) for name, one in raw.items()}


def _check_layout(path: str, info: DatasetInfo) -> None:
    if info.external or info.layout == "virtual":
        raise UnknownLayoutError(f"the data of {path!r} may lie in other files, which nobody vouches for")


def _check_few(path: str, info: DatasetInfo) -> None:
    """Labels of columns are few."""
    size = math.prod(info.shape or ())
    if not info.shape or size > frames.MAX_LABELS or size * info.datatype.itemsize > _MOST_BYTES:
        raise UnknownLayoutError(f"{path!r} of shape {info.shape} is too large to hold labels of columns")


_MOST_BYTES: Final = 1 << 30


def objects(data: bytes, *, allow_pickle: bool, items: int = 0) -> np.ndarray[Any, Any]:
    """The array that a pickled row holds; `items` is the number of elements that it is known to have.

    Raises UnsafePickleError or NotAPickleError for what the restricted decoder refuses, unless `allow_pickle` lets
    Python unpickle it; UnknownLayoutError for a pickle of something else.
    """
    try:
        value = safe_pickle.loads(data, max_items=max(4_000_000, 8 * items))
    except safe_pickle.UnsafePickleError:
        if not allow_pickle:
            raise
        value = attributes.unpickled(data)
    return frames.as_objects(value)
