"""What all lazy arrays of this package share: they can be read without blocking an event loop.

Tested in `tests/arrays/test_leaf_arrays.py`.
"""

from __future__ import annotations

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing


class LazyArray(BackendArray):
    """An array of a file that is read when elements of it are asked for."""

    __slots__ = ()

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        """The selected elements."""
        raise NotImplementedError

    async def async_getitem(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        """The same as `self[key]`, read in a thread (`Dataset.load_async`)."""
        import asyncio  # it takes some milliseconds, and few need it

        return await asyncio.to_thread(self.__getitem__, key)
