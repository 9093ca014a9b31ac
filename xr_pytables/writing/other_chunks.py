"""Chunked arrays that are not Dask's, of cubed say: their own framework computes them, block by block, into files.

Everything else in `writing` knows Dask alone. So a write gets Dask arrays that read those files, and is planned with
them before there are any. The values are on disk twice for a while, and never in memory together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import dask.array
import numpy as np
from xarray import DataArray, Dataset, DataTree, Variable
from xarray.namedarray.parallelcompat import get_chunked_array_type

from ..disk.transaction import Transaction
from .blocks import BlockTarget, PutAside
from .lazy_blocks import part, sides_of

_Obj = TypeVar("_Obj", bound=Dataset | DataArray | DataTree)


@dataclass(frozen=True)
class _Aside:
    """An array that is not Dask's, and where its blocks go."""

    data: Any
    manager: Any
    """A ChunkManagerEntrypoint; not all types of its methods are said right."""
    target: BlockTarget

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Sizes of the blocks along each dimension."""
        return tuple(tuple(map(int, sizes)) for sizes in self.manager.chunks(self.data))

    def read(self) -> dask.array.Array:
        """The same values, once they are computed."""
        values = PutAside(self.target, self.chunks)
        return dask.array.map_blocks(
            _block_of,
            values,
            chunks=self.chunks,
            dtype=self.target.dtype,
            meta=np.empty((0,) * self.target.ndim, self.target.dtype),
        )

    def stored(self) -> Any:
        """An array with an element for each block, whose computation stores them."""

        def store(block: np.ndarray, block_id: tuple[int, ...]) -> np.ndarray:
            target[part(sides, block_id)] = block
            return np.ones((1,) * len(block_id), bool)

        chunks, target = self.chunks, self.target
        sides = sides_of(chunks)
        return self.manager.map_blocks(store, self.data, dtype=bool, chunks=tuple((1,) * len(each) for each in chunks))


def _block_of(values: PutAside, block_info: Any = None) -> np.ndarray:
    location = block_info[None]["array-location"]
    if any(first == last for first, last in location):  # which is not stored
        return np.empty([last - first for first, last in location], values.target.dtype)
    return values.read(tuple(slice(first, last) for first, last in location))


@dataclass(frozen=True)
class OtherChunks:
    """What others than Dask have to compute for a write."""

    folder: Transaction
    arrays: Sequence[_Aside]

    @contextlib.contextmanager
    def computed(self) -> Iterator[None]:
        """While this lasts the values can be read."""
        if not self.arrays:
            yield
            return
        with self.folder.begun():
            with self.folder.naming_the_target():
                for manager in {id(each.manager): each.manager for each in self.arrays}.values():
                    manager.compute(*(each.stored() for each in self.arrays if each.manager is manager))
            yield


def in_dask(obj: _Obj, path: str) -> tuple[_Obj, OtherChunks]:
    """The object with Dask arrays alone, which can be computed once the others are; files go beside `path`."""
    folder, asides = Transaction.beside(path), list[_Aside]()
    if next(_others(obj), None) is None:
        return obj, OtherChunks(folder, ())
    obj = cast(_Obj, obj.copy(deep=False))
    for number, variable in enumerate(_others(obj)):
        data = variable.data
        label = f"{path}: an array along {variable.dims}"
        target = BlockTarget(folder.folder, number, tuple(map(int, data.shape)), np.dtype(data.dtype), label)
        asides.append(_Aside(data, get_chunked_array_type(data), target))
        variable.data = asides[-1].read()
    return obj, OtherChunks(folder, asides)


def check_dask(obj: object) -> None:
    """Raise ValueError if others than Dask would have to compute for a Delayed, which is Dask's."""
    for variable in _others(obj):
        raise ValueError(
            f"compute=False makes a graph of Dask, but an array along {variable.dims} is of "
            f"{type(variable.data).__module__.partition('.')[0]}. Write it with compute=True, or block by block with "
            "begin_write"
        )


def _others(obj: object) -> Iterator[Variable]:
    if isinstance(obj, DataTree):
        found = [variable for node in obj.subtree for variable in node.dataset.variables.values()]
    elif isinstance(obj, Dataset):
        found = list(obj.variables.values())
    elif isinstance(obj, DataArray):
        found = [obj.variable, *obj.coords.variables.values()]
    else:
        found = []
    for variable in found:
        if variable.chunks is not None and not isinstance(variable.data, dask.array.Array):
            yield variable
