"""MATLAB's files (version 7.3): what the attributes of an array say of it.

MATLAB stores arrays column by column, so HDF5 sees their dimensions in reverse. Knows types and attributes; knows no
file and no data.

Tested in `tests/test_other_programs.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from ..chunks.filters import FilterPipeline
from ..hdf5.attributes import RawAttribute
from ..hdf5.dataset import DatasetInfo
from ..hdf5.dataspace import MAX_RANK
from ..hdf5.datatype import Datatype
from . import attributes

CLASS: Final = "MATLAB_class"
EMPTY: Final = "MATLAB_empty"
_OF_OTHERS: Final = frozenset({"CLASS", "DIMENSION_LIST", "_Netcdf4Coordinates"})
"""Attributes that PyTables and the netCDF libraries put on their arrays, and MATLAB does not."""
_NUMBERS: Final = {
    "double": "f8", "single": "f4", "int8": "i1", "int16": "i2", "int32": "i4", "int64": "i8",
    "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8", "logical": "u1", "char": "u2",
}  # fmt: skip


class MatlabArray(NamedTuple):
    """An array that MATLAB wrote."""

    class_name: str
    is_empty: bool
    """The dataset holds the size of each dimension instead of values, as HDF5 of old had no arrays without elements."""

    @classmethod
    def of(cls, raw: Mapping[str, RawAttribute]) -> MatlabArray | None:
        """What the attributes of a dataset say; None if MATLAB did not write it."""
        if not raw.keys().isdisjoint(_OF_OTHERS):  # what MATLAB wrote was read and written again, in the order shown
            return None
        name = attributes.text(raw.get(CLASS))
        if name is None and "H5PATH" in raw:  # the fields of a struct array have no more than that
            name = "struct array"
        if name is None:
            return None
        return cls(name, (attributes.numbers(raw.get(EMPTY)) or (0,))[0] == 1)

    def is_text(self, info: DatasetInfo) -> bool:
        """Whether the rows of an array are texts, one UTF-16 unit an element."""
        return self.class_name == "char" and info.datatype.dtype == "u2" and len(info.shape or ()) == 2

    def is_truth(self, info: DatasetInfo) -> bool:
        """Whether the elements are true or false."""
        return self.class_name == "logical" and info.datatype.dtype == "u1"

    def without_elements(self, info: DatasetInfo, sizes: np.ndarray) -> DatasetInfo:
        """What an empty array is, in the order of HDF5; `sizes` are what its dataset holds. Of other arrays: `info`."""
        shape = tuple(int(size) for size in sizes.reshape(-1)[::-1])
        if 0 not in shape or len(shape) > MAX_RANK or max(shape) >= 2**63:
            return info
        if self.class_name == "cell":
            datatype = Datatype("reference", np.dtype("V8"), 8)
        else:
            dtype = np.dtype(_NUMBERS.get(self.class_name, "f8"))
            datatype = Datatype("float" if dtype.kind == "f" else "integer", dtype, dtype.itemsize)
        return replace(
            info,
            datatype=datatype,
            shape=shape,
            maxshape=shape,
            layout="contiguous",
            chunkshape=None,
            filters=FilterPipeline(),
            offset=None,
            fill_value=None,
            data=b"",
            index=None,
        )


def holds_sizes(info: DatasetInfo) -> bool:
    """Whether a dataset can be one that holds the sizes of an empty array."""
    datatype, shape = info.datatype, info.shape or ()
    return datatype.kind == "integer" and not datatype.shape and len(shape) == 1 and 0 < shape[0] <= MAX_RANK
