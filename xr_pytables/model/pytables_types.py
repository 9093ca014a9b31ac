"""Types as users mean them: PyTables' bool, which is a bit field of 8 bits, its strings, which NUL fills up though they
say that it ends them, and times in the units of xarray.

Tested in `tests/model/test_odd_types.py` and `tests/test_reading.py`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from ..hdf5.dataset import DatasetInfo
from ..hdf5.datatype import Datatype, of_fields


@lru_cache(1024)
def with_truth(datatype: Datatype) -> Datatype:
    """The type with bool in place of bit fields of 8 bits, and padding by NUL; of members and elements, too."""
    if datatype.kind == "bitfield" and datatype.dtype == np.uint8:
        return replace(datatype, kind="bool", dtype=np.dtype(bool))
    if datatype.kind == "string" and datatype.padding == "null-terminated":
        return replace(datatype, padding="null-padded")
    if datatype.kind == "vlen" and datatype.base is not None:
        return replace(datatype, base=with_truth(datatype.base))
    if datatype.kind == "compound":
        fields = tuple(field._replace(datatype=with_truth(field.datatype)) for field in datatype.fields)
        return replace(of_fields(fields, datatype.stored_size), shape=datatype.shape)
    return datatype


def as_pytables(info: DatasetInfo) -> DatasetInfo:
    """A dataset of PyTables as PyTables means it."""
    datatype = with_truth(info.datatype)
    return info if datatype is info.datatype else replace(info, datatype=datatype)


def as_shown(dtype: np.dtype) -> np.dtype | None:
    """The dtype with one of xarray's units (s, ms, us, ns) that holds the same times; None if there is none."""
    unit = np.datetime_data(dtype)[0]
    shown = {"h": "s", "m": "s", "D": "s", "W": "s", "s": "s", "ms": "ms", "us": "us", "ns": "ns"}.get(unit)
    return np.dtype(f"{dtype.kind}8[{shown}]") if shown else None


def has_form(dtype: np.dtype) -> bool:
    """Whether HDF5 has a type for `dtype` (see `datatypes.create`), of which elements are not empty."""
    if dtype.fields is not None:
        return bool(dtype.names) and all(has_form(field[0].base) for field in dtype.fields.values())
    return dtype.kind in "biufcSVmM" and dtype.itemsize > 0
