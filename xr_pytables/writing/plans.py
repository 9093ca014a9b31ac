"""What a write will do, as values.

Made by `plan`, `table_plan` and `frame_plan`, and carried out by `execution`.

Tested in `tests/writing/test_writing.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import dask.array

from ..disk.files import FileIdentity
from ..library.target_file import ArrayLayout
from ..model.attributes import EncodedAttribute
from ..model.specs import GroupSpec, VariableSpec
from ..where.table_index import IndexSpec
from . import layouts
from .placement import Mode
from .table_indexes import ColumnIndex

Action = Literal["create", "replace", "set values", "put", "keep"]
"""Whether an array is new, takes the place of another object, gets new values and attributes, or stays as it is: but
for values in a part of it ("put"), along which it may grow, or wholly, as it has these values already ("keep")."""


@dataclass(frozen=True)
class VariablePlan:
    """One array to write."""

    name: str
    """On disk."""
    dims: tuple[str, ...]
    layout: ArrayLayout
    attributes: tuple[EncodedAttribute, ...]
    """Of an array that gets values in a part ("put"): only those that change with them."""
    data: Any = field(repr=False, compare=False)
    """A NumPy or Dask array of the stored dtype (`str` objects for variable-length text)."""
    scales: tuple[str, ...] = ()
    """Path of the dimension scale of each dimension."""
    numbers: tuple[int, ...] | None = None
    """netCDF-4 ids of the dimensions; None if the file has scales without ids."""
    action: Action = "create"
    start: tuple[int, ...] = ()
    """Where the data begin in the array, in elements; empty if they fill all of it."""
    stored: VariableSpec | None = field(default=None, repr=False, compare=False)
    """The array in the file that takes the values, or that is replaced; None if there is none."""
    keeps_attributes: bool = False
    """The array that is replaced leaves its attributes to the new one."""

    @property
    def leaves_chunks_out(self) -> bool:
        """Whether the array in the file grows by chunks of which some get no values."""
        old, new = self.stored.shape if self.stored is not None else (), self.layout.shape
        chunks = self.layout.chunkshape or new
        grown = [
            axis
            for axis, (before, now) in enumerate(zip(old, new, strict=False))
            if -(-now // chunks[axis]) > -(-before // chunks[axis])
        ]
        beside = [
            (first // chunk, -(-(first + size) // chunk)) != (0, -(-now // chunk))
            for axis, (first, size, now, chunk) in enumerate(
                zip(self.start, self.data.shape, new, chunks, strict=False)
            )
            if axis not in grown
        ]
        return bool(grown) and any(beside)

    @property
    def is_table(self) -> bool:
        """Whether its elements are records."""
        return self.layout.dtype is not None and self.layout.dtype.names is not None

    @property
    def is_coordinate(self) -> bool:
        """Whether it holds the values of the dimension of its name."""
        return self.dims == (self.name,)


@dataclass(frozen=True)
class DimensionPlan:
    """One dimension that a group declares."""

    name: str
    size: int
    unlimited: bool = False
    number: int | None = None
    """netCDF-4 id."""


@dataclass(frozen=True)
class GroupPlan:
    """One group to write."""

    path: str
    attributes: tuple[EncodedAttribute, ...]
    dimensions: tuple[DimensionPlan, ...]
    """Those that the group itself declares anew; others are in the file or come from the groups above it."""
    variables: tuple[VariablePlan, ...]
    removed: tuple[str, ...] = ()
    """Names of arrays in the file that give way, because their variable is stored under another name now."""
    given_up: tuple[int, ...] = ()
    """Addresses of the headers of arrays that are replaced or removed."""
    grown: tuple[tuple[str, int], ...] = ()
    """Path and new size of scales in the file without values, whose dimension grows."""


@dataclass(frozen=True)
class Attachment:
    """An array that is in the file already and whose dimensions must be named anew."""

    path: str
    scales: tuple[str, ...]
    numbers: tuple[int, ...] | None


@dataclass(frozen=True)
class LongerIndex:
    """An index of a table that goes on with its rows."""

    spec: IndexSpec
    arrays: Mapping[str, VariableSpec]
    """All of its arrays, by name: those too that only PyTables' sorting needs."""


@dataclass(frozen=True)
class WritePlan:
    """Everything that one call of `to_pytables` will do to one file."""

    path: str
    mode: Mode
    groups: tuple[GroupPlan, ...]
    attachments: tuple[Attachment, ...] = ()
    version: FileIdentity | None = None
    """The version of the file that is changed; None if the file is made anew."""
    indexes: Mapping[str, tuple[ColumnIndex, ...]] = field(default_factory=dict)
    """By the path of a table: the indexes that PyTables makes of its columns. Those that it has are removed."""
    longer: Mapping[str, tuple[LongerIndex, ...]] = field(default_factory=dict)
    """By the path of a table: all indexes that it has, which go on with its rows."""
    in_parts: bool = False
    """Whether values go to parts of arrays that are in the file: `append_dim` or `region`."""

    def __iter__(self) -> Iterator[tuple[GroupPlan, VariablePlan]]:
        return ((group, variable) for group in self.groups for variable in group.variables)

    @property
    def makes_file(self) -> bool:
        """Whether there must not be a file yet."""
        return self.mode in ("w-", "x") or (self.mode == "a" and self.version is None)

    def without_lazy_data(self) -> WritePlan:
        """The plan without the arrays of Dask, once their values are put aside."""
        groups = tuple(
            replace(
                group,
                variables=tuple(
                    replace(variable, data=None) if isinstance(variable.data, dask.array.Array) else variable
                    for variable in group.variables
                ),
            )
            for group in self.groups
        )
        return replace(self, groups=groups)

    def without_checksums(self) -> WritePlan:
        """The plan with new arrays that have no checksums."""
        groups = tuple(
            replace(
                group,
                variables=tuple(
                    replace(variable, layout=layouts.without_checksums(variable.layout))
                    if variable.action in ("create", "replace")
                    else variable
                    for variable in group.variables
                ),
            )
            for group in self.groups
        )
        return replace(self, groups=groups)

    def without_data(self) -> WritePlan:
        """What is left to know when the new file is made."""
        return replace(self, groups=(), attachments=())


Existing = Mapping[str, GroupSpec]
"""What is in the file already, by the path of the group."""
