"""What all lazy arrays of this package share: which keys they take, what they say where memory does not suffice, and
that they can be read without blocking an event loop.

Tested in `tests/arrays/test_leaf_arrays.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing


class LazyArray(BackendArray):
    """An array of a file that is read when elements of it are asked for."""

    __slots__ = ()
    shape: tuple[int, ...]

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        """The selected elements. Raises IndexError and MemoryError, naming file and node."""
        label = self.label()
        plain = _checked_key(key, self.shape, label)
        try:
            return self._getitem(plain)
        except MemoryError as error:
            if isinstance(error.__cause__, MemoryError):
                raise  # the array inside has named itself
            told = str(error) or "there is not enough memory"
            raise MemoryError(f"{label}: {told}. Read it in parts: select some, or open with chunks={{}}") from error

    def label(self) -> str:
        """File and node, as messages name them."""
        raise NotImplementedError

    def _getitem(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        """The elements of a key that lies within the array."""
        raise NotImplementedError

    async def async_getitem(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        """The same as `self[key]`, read in a thread (`Dataset.load_async`)."""
        import asyncio  # it takes some milliseconds, and few need it

        return await asyncio.to_thread(self.__getitem__, key)


def _checked_key(key: indexing.ExplicitIndexer, shape: tuple[int, ...], where: str) -> indexing.ExplicitIndexer:
    """`key` with 0:0 for what selects nothing: xarray's adapter fails on slices with a negative step, and before 2026.2
    on empty arrays.

    Raises IndexError, which begins with `where`, for what lies outside of `shape`: whoever reads would take it for a
    place that has the fill value, or read something else.
    """
    plain: list[Any] = []
    for axis, (index, size) in enumerate(zip(key.tuple, shape, strict=True)):
        if isinstance(index, slice):
            if index.stop == -1 and index.step is not None and index.step < 0:  # xarray before 2026.2 says so for None
                index = slice(index.start, None, index.step)
            plain.append(index if range(size)[index] else slice(0, 0))
            continue
        if isinstance(key, indexing.OuterIndexer) and not np.size(index):
            plain.append(slice(0, 0))
            continue
        extremes = (index.min(), index.max()) if isinstance(index, np.ndarray) and index.size else ()
        for position in (index,) if not isinstance(index, np.ndarray) else extremes:
            if not -size <= position < size:
                raise IndexError(f"{where}: index {position} is out of bounds for dimension {axis} of {size} elements")
        plain.append(index)
    return type(key)(tuple(plain))
