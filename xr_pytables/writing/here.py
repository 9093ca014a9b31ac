"""The group that is being planned: what is in the file already, and where values go.

Tested in `tests/writing/test_writing.py`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import dask.array
import numpy as np
from xarray import Variable
from xarray.core import indexing

from ..arrays.ragged import lazy_array
from ..disk.files import FileIdentity
from ..disk.opened_files import OpenedFile
from ..model.dimensions import NON_COORDINATE_PREFIX
from ..model.specs import GroupSpec, VariableSpec
from . import ragged_layout
from .placement import Mode, Placement

STREAM_BYTES: Final = 64 * 2**20


@dataclass(frozen=True)
class Here:
    """The group that is being planned."""

    file: str
    path: str
    mode: Mode
    existing: GroupSpec | None
    version: FileIdentity | None = None
    placement: Placement | None = None
    """Where the values go in arrays that the group has already; None if they replace all."""

    def __str__(self) -> str:
        return f"{self.file}:{self.path}"

    def array(self, name: str) -> VariableSpec | None:
        """The array of that name on disk."""
        if self.existing is None:
            return None
        wanted = posixpath.join(self.path, name)
        return next((spec for spec in self.existing.variables if spec.path == wanted), None)

    def attributes(self) -> dict[str, Mapping[str, Any]]:
        """The attributes of the variables on disk."""
        return {str(spec.name): spec.attributes for spec in self.existing.variables} if self.existing else {}

    def variable(self, name: str) -> VariableSpec | None:
        """The array on disk that holds the variable of that name."""
        found = self.array(NON_COORDINATE_PREFIX + name)
        return found if found is not None and found.name == name else self.array(name)

    @property
    def keeps_arrays(self) -> bool:
        """Whether arrays on disk take the values of their variables as they are."""
        return self.mode == "r+" or self.placement is not None

    def target_of(self, name: str) -> VariableSpec | None:
        """The array on disk that takes the values of that variable as it is; None where it is written anew."""
        return self.variable(name) if self.keeps_arrays else None

    def stored(self, name: str) -> Variable | None:
        """The variable of that name in the file, lazy and not decoded."""
        spec = self.variable(name)
        return None if spec is None or self.version is None else stored_variable(spec, self.version)


def streamable(variable: Variable, *, whatever_size: bool = False) -> Variable:
    """A large lazy variable (or any) cut into Dask blocks: xarray's encoders would load it whole."""
    small = variable.nbytes <= STREAM_BYTES and not whatever_size
    if variable._in_memory or variable.chunks is not None or small:
        return variable
    preferred = variable.encoding.get("preferred_chunks") or {}
    wanted = tuple(preferred.get(dim, "auto") for dim in variable.dims)
    dtype = LIKE_TEXT if variable.dtype.kind == "O" else variable.dtype  # Dask cannot guess the size of objects
    chunks = dask.array.core.normalize_chunks(wanted, variable.shape, dtype=dtype)
    return variable.chunk(dict(zip(variable.dims, chunks, strict=True)))


LIKE_TEXT: Final = np.dtype("S64")


def are_named(spec: VariableSpec, here: Here) -> tuple[bool, ...]:
    """For each dimension of an array, whether its name is in the file, and not made up by the reader."""
    rows = f"{posixpath.basename(spec.path)}_row" if spec.info.datatype.kind == "vlen" else ""
    return tuple(is_named(dim, here.existing, made_up=rows) for dim in spec.dims)


def is_named(dim: str, group: GroupSpec | None, *, made_up: str = "") -> bool:
    """Whether the name of a dimension of an array in a group is in the file, and not made up by the reader.

    `made_up` is one that the reader would give to the rows of the array.
    """
    return (group is not None and dim in group.scales) or not (_PHONY.fullmatch(dim) or dim == made_up)


_PHONY: Final = re.compile(r"dim_\d+(_\d+)?")


def stored_variable(spec: VariableSpec, version: FileIdentity) -> Variable:
    """An array of the file, lazy and not decoded: as users read it, but rows with the elements that are stored."""
    opened = OpenedFile(spec.file, version, for_users=False)
    data = indexing.LazilyIndexedArray(lazy_array(opened, ragged_layout.with_stored_rows(spec)))
    return Variable(spec.dims, data, dict(spec.attributes), fastpath=True)


def in_blocks(variable: Variable, spec: VariableSpec) -> dask.array.Array:
    dtype = LIKE_TEXT if variable.dtype.kind == "O" else variable.dtype  # Dask cannot guess the size of objects
    chunks = dask.array.core.normalize_chunks("auto", variable.shape, dtype=dtype, previous_chunks=spec.chunks)
    return variable.chunk(dict(zip(variable.dims, chunks, strict=True))).data
