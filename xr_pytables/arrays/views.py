"""Other views of a lazy array: its dimensions in reverse, texts in its columns, paths for its references.

Each wraps the array of a leaf and changes what is read, or the shape in which it is shown.

Tested in `tests/model/test_odd_types.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from xarray.core import indexing

from ..chunks import vlen
from ..chunks.index import Selection
from ..disk.files import hdf5_of
from ..sources.place import Opened, Version
from .lazy_array import LazyArray
from .leaf_arrays import PyTablesArray


class _View(LazyArray):
    """An array whose elements are read by way of another."""

    __slots__ = ("array", "dtype", "shape")

    def __init__(self, array: PyTablesArray) -> None:
        self.array: Any = array
        self.shape = array.shape
        self.dtype = array.dtype

    def label(self) -> str:
        return str(self.array.label())

    def _getitem(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        found: np.ndarray = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )
        return found

    def _read(self, key: Selection) -> np.ndarray:
        raise NotImplementedError


class ReversedArray(_View):
    """An array with its dimensions in reverse order, as MATLAB has them."""

    __slots__ = ()

    def __init__(self, array: PyTablesArray) -> None:
        super().__init__(array)
        self.shape = array.shape[::-1]

    def _read(self, key: Selection) -> np.ndarray:
        found: np.ndarray = self.array[indexing.OuterIndexer(key[::-1])]
        return found.transpose()


class UTF16Rows(_View):
    """MATLAB's text: one text for each column of an array of UTF-16 units; one column or none is a single text."""

    __slots__ = ()

    def __init__(self, array: PyTablesArray) -> None:
        super().__init__(array)
        length, count = array.shape
        self.shape = (count,) if length and count > 1 else ()
        self.dtype = np.dtype(object, metadata={"element_type": str})

    def _read(self, key: Selection) -> np.ndarray:
        wanted = key[0] if key else slice(0, 1)
        units = self.array[indexing.OuterIndexer((slice(None), wanted))]
        if not units.size:
            return np.array("", object) if not self.shape else np.full(units.shape[1:], "", object)
        columns = units.reshape(len(units), -1).transpose()
        texts = np.empty(len(columns), object)
        texts[:] = [column.astype("<u2").tobytes().decode("utf-16-le", "surrogatepass") for column in columns]
        if not self.shape:
            return np.array(texts[0], object)
        return texts.reshape(units.shape[1:])


class ReferenceArray(PyTablesArray):
    """An array of references as the paths of what they refer to: "" for none, the object of a reference to a region.

    The paths of all objects of the file are looked up when the first reference is read, and kept as long as it is
    open.
    """

    __slots__ = ()

    def _getitem(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        addresses = self._addresses(self.stored(key))
        paths = np.empty(addresses.shape, object)
        known = self._paths() if addresses.any() else {}
        unique, places = np.unique(addresses.reshape(-1), return_inverse=True)
        names = [known.get(address, _nameless(address)) if address else "" for address in unique.tolist()]
        paths.reshape(-1)[:] = [names[place] for place in places.reshape(-1).tolist()]
        return paths

    def _addresses(self, stored: np.ndarray) -> np.ndarray:
        """The object headers that the references lead to; 0 for none."""
        plain = np.ascontiguousarray(stored)
        if plain.dtype.itemsize == 8:
            return plain.view("<u8").reshape(stored.shape)
        # a reference to a region: an object of the global heap, which begins with the address (VIII.B)
        place = plain.view(np.dtype([("address", "<u8"), ("index", "<u4")])).reshape(-1)
        descriptors = np.zeros(place.shape, vlen.DESCRIPTOR)
        descriptors["length"] = 1
        descriptors["address"], descriptors["index"] = place["address"], place["index"]
        found = np.zeros(place.shape, "<u8")

        def read(descriptor: Opened, version: Version) -> None:
            data = vlen.read_values(
                descriptor.source,
                descriptors,
                8,
                base=self.spec.base_address,
                threads=self.threads,
                label=self.label(),
            )
            found[vlen.lengths(descriptors) > 0] = data.view("<u8")

        self._guarded(read)
        return found.reshape(stored.shape)

    def _paths(self) -> dict[int, str]:
        with self.file.descriptor() as descriptor:
            kept = descriptor.kept.get("paths")
            if kept is None:
                kept = descriptor.kept["paths"] = hdf5_of(descriptor).paths()
        assert isinstance(kept, dict)
        return kept


def _nameless(address: int) -> str:
    return f"<an object at {address} that has no path>"
