"""`ds.pytables.to_file(...)`: writing as a method of xarray's objects.

Registered when this module is imported, which the package does where xarray is there already, and the engine does.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import xarray as xr

if TYPE_CHECKING:
    from dask.delayed import Delayed
    from tables import Filters

Mode = Literal["w", "w-", "x", "a", "r+"]


class WriteOptions(TypedDict, total=False):
    """The arguments of `to_pytables` that are given by keyword alone."""

    group: str
    encoding: Mapping[Any, Any] | None
    filters: Filters | None
    unlimited_dims: Iterable[Hashable] | Mapping[str, Iterable[Hashable]] | None
    append_dim: Hashable | None
    region: Mapping[str, slice | Literal["auto"]] | Literal["auto"] | None
    safe_chunks: bool
    align_chunks: bool
    write_empty_chunks: bool
    checksums: bool
    write_inherited_coords: bool
    layout: Literal["arrays", "table", "pandas"]
    index: Iterable[str] | Mapping[str, str]
    data_columns: bool | Iterable[Hashable]
    compute: bool
    structure_first: bool
    fsync: bool
    threads: int | None
    wait: float
    progress: bool
    storage_options: Mapping[str, Any] | None


@xr.register_dataset_accessor("pytables")  # type: ignore[no-untyped-call]
@xr.register_dataarray_accessor("pytables")  # type: ignore[no-untyped-call]
@xr.register_datatree_accessor("pytables")  # type: ignore[no-untyped-call]
class PyTablesAccessor:
    """What this package adds to a Dataset, DataArray or DataTree."""

    def __init__(self, obj: xr.Dataset | xr.DataArray | xr.DataTree) -> None:
        self._obj = obj

    def to_file(
        self, path: str | os.PathLike[str], mode: Mode | None = None, **options: Unpack[WriteOptions]
    ) -> Delayed | None:
        """Write the object to an HDF5 file that PyTables, netCDF4, h5netcdf and h5py can read.

        The same as `xr_pytables.to_pytables(obj, path, mode=mode, ...)`, which says what the arguments are: `group`,
        `encoding`, `filters`, `unlimited_dims`, `append_dim`, `region`, `safe_chunks`, `align_chunks`,
        `write_empty_chunks`, `checksums`, `write_inherited_coords`, `layout`, `index`, `data_columns`, `compute`,
        `structure_first`, `fsync`, `threads`, `wait`, `progress`, `storage_options`.
        """
        from .writing.writer import to_pytables  # imports tables

        return to_pytables(self._obj, path, mode=mode, **options)
