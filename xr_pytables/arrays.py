"""Lazy arrays over the leaves of a file: what xarray indexes and Dask cuts into blocks.

An array is a path, the identity of a file and a `VariableSpec`, so it pickles and travels. It holds no HDF5 handle:
each read opens what it needs and closes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from .files import FileChangedError, FileIdentity, OpenedFile
from .libhdf5 import HDF5Error, object_address
from .nodes import VariableSpec
from .safe_file import DatasetInfo, describe_dataset, read_hyperslab

_BasicKey = tuple[int | np.integer[Any] | slice, ...]


class PyTablesArray(BackendArray):
    """One leaf as an array that reads what is asked for, when it is asked for."""

    __slots__ = ("dtype", "file", "shape", "spec")

    def __init__(self, file: OpenedFile, spec: VariableSpec) -> None:
        self.file = file
        self.spec = spec
        self.shape = spec.shape
        self.dtype = spec.dtype

    def __repr__(self) -> str:
        return f"PyTablesArray({self.spec.file}:{self.spec.path}, shape={self.shape}, dtype={self.dtype})"

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        array: np.ndarray = indexing.explicit_indexing_adapter(
            _with_plain_empty_slices(key, self.shape), self.shape, indexing.IndexingSupport.BASIC, self._read
        )
        return array

    def _read(self, key: _BasicKey) -> np.ndarray:
        """The selected elements, through HDF5 and under its lock."""
        spec, rank = self.spec, len(self.spec.info.shape or ())
        ranges = [_range(index, size) for index, size in zip(key[:rank], self.shape, strict=False)]
        with self.file.descriptor() as descriptor, self.file.safe_file(descriptor) as file:
            before = FileIdentity.of(descriptor)
            try:
                with file.open(spec.path) as dataset:
                    if not before.same_version(self.file.identity):
                        check_only_grown(
                            spec, describe_dataset(dataset, object_address(dataset)), self.file.identity, before
                        )
                    stored = read_hyperslab(
                        dataset,
                        spec.info,
                        [chosen.start for chosen in ranges],
                        [len(chosen) for chosen in ranges],
                        [chosen.step for chosen in ranges],
                    )
            except HDF5Error as error:
                raise OSError(f"{spec.file}:{spec.path}: cannot be read: {error}") from None
            check_unchanged_since(before, FileIdentity.of(descriptor), spec)
        dropped = tuple(0 if not isinstance(index, slice) else slice(None) for index in key[:rank])
        return converted(stored[(*dropped, *key[rank:], ...)], spec)  # the ellipsis keeps it an array


def _with_plain_empty_slices(key: indexing.ExplicitIndexer, shape: tuple[int, ...]) -> indexing.ExplicitIndexer:
    """`key` with 0:0 for each slice that selects nothing: xarray's adapter fails on those with a negative step."""
    plain = (
        slice(0, 0) if isinstance(index, slice) and not range(size)[index] else index
        for index, size in zip(key.tuple, shape, strict=True)
    )
    return type(key)(tuple(plain))


def _range(index: int | np.integer[Any] | slice, size: int) -> range:
    """The elements that an index selects, in ascending order; xarray reverses where the step is negative."""
    if isinstance(index, slice):
        chosen = range(size)[index]
        return chosen if len(chosen) else range(0, 0, 1)
    position = int(index) + (size if index < 0 else 0)
    return range(position, position + 1)


def converted(stored: np.ndarray, spec: VariableSpec) -> np.ndarray:
    """Stored elements as the user sees them: native byte order, times as integers, text as str."""
    if spec.conversion in ("text", "fixed text"):
        texts = np.empty(stored.shape, object)
        texts.reshape(-1)[:] = [data.decode("utf-8", "surrogateescape") for data in stored.reshape(-1)]
        return texts
    native = np.asarray(stored).astype(spec.dtype, copy=False)
    if spec.conversion == "time64":  # seconds << 32 | microseconds (PyTables, src/typeconv.c)
        microseconds: np.ndarray = (native >> 32) * 1_000_000 + (native & 0xFFFFFFFF).astype("i4")
        return microseconds
    return native


def check_only_grown(spec: VariableSpec, now: DatasetInfo, opened: FileIdentity, current: FileIdentity) -> None:
    """Accept a file that was extended in place since it was opened; raise FileChangedError for any other change."""
    old = spec.info
    where = f"{spec.file}:{spec.path}"
    if current.size <= opened.size:
        raise FileChangedError(
            f"{where}: the file was changed in place since it was opened (then {opened.size} bytes, now "
            f"{current.size}). Open it again"
        )
    same = (old.datatype, old.layout, old.chunkshape, old.filters, old.address) == (
        now.datatype, now.layout, now.chunkshape, now.filters, now.address,
    )  # fmt: skip
    grown = now.shape is not None and all(a <= b for a, b in zip(old.shape or (), now.shape, strict=True))
    if not same or not grown:
        raise FileChangedError(
            f"{where}: the array was changed since it was opened (then {old.shape}, now {now.shape}). Open it again"
        )


def check_unchanged_since(before: FileIdentity, after: FileIdentity, spec: VariableSpec) -> None:
    """Raise FileChangedError if somebody wrote to the file while it was read."""
    if not before.same_version(after):
        raise FileChangedError(f"{spec.file}:{spec.path}: the file was changed while it was read. Read it again")
