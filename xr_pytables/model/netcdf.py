"""What variables of netCDF-4 hold where nobody wrote to them, if they have no fill value.

Tested in `tests/model/test_netcdf.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from ..hdf5.attributes import RawAttribute
from ..hdf5.dataset import DatasetInfo

_DEFAULT_FILLS: Final[dict[str, int | float]] = {
    "i1": -127, "i2": -32767, "i4": -2147483647, "i8": -9223372036854775806,
    "u1": 255, "u2": 65535, "u4": 4294967295, "u8": 18446744073709551614, "f4": 15 * 2.0**119, "f8": 15 * 2.0**119,
}  # fmt: skip
"""NC_FILL_BYTE and so on; that of characters is NUL, as HDF5's."""


def is_netcdf(root: Mapping[str, RawAttribute]) -> bool:
    """Whether a library of netCDF-4 made the file with these attributes of its root group."""
    return "_NCProperties" in root


def as_netcdf(info: DatasetInfo) -> DatasetInfo:
    """A dataset of a netCDF file as its library shows it.

    A variable that is created without a fill value (NC_NOFILL) ends for HDF5 where it was written to. Up to the length
    of its dimension it has the default fill value of its type (netCDF-C, nc4_get_fill_value), as others have.
    """
    dtype = info.datatype.dtype
    fill = _DEFAULT_FILLS.get(dtype.str[1:]) if info.fill_off and dtype is not None and info.datatype.exact else None
    return info if fill is None or info.datatype.shape else replace(info, fill_value=np.array(fill, dtype).tobytes())
