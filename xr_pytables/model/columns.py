"""The columns of a table: which a compound type has, and what the table's attributes say of each.

A Table of PyTables is a 1-D dataset of a compound type, as is what h5py and C programs write for records. Knows types,
attributes and names; knows no file and no data.

Tested in `tests/arrays/test_tables.py`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from ..hdf5.attributes import RawAttribute
from ..hdf5.dataset import DatasetInfo
from ..hdf5.datatype import Datatype
from . import attributes

OF_COLUMN: Final = "@"
"""Between the name of a column and that of its attribute, in an attribute of the table."""
_DIMENSIONS: Final = "_ARRAY_DIMENSIONS"
_BY_SUFFIX: Final = {"UNIT": "units", "DESC": "description"}
"""ctapipe up to 0.11 (and others): `<column>_UNIT`."""
_BY_POSITION: Final = re.compile(r"CTAFIELD_(\d+)_(\w+)\Z")
"""ctapipe since 0.12: `CTAFIELD_<number of the column>_UNIT`."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    member: tuple[str, ...]
    """The names that lead to it in the compound."""
    datatype: Datatype
    """Of one value; its shape is that of the column without the rows."""
    raw: Mapping[str, RawAttribute] = field(repr=False)


class Columns(NamedTuple):
    """A table as columns, and what of it cannot be one."""

    row_dim: str
    shown: tuple[Column, ...]
    left_out: tuple[tuple[str, str], ...]
    """Name and reason."""
    raw: Mapping[str, RawAttribute] = field(repr=False)
    """The attributes that are about the table as a whole."""


def is_table(info: DatasetInfo) -> bool:
    """Whether a dataset is shown as a dataset of its columns."""
    return info.datatype.kind == "compound" and not info.datatype.shape and len(info.shape or ()) == 1


def describe_columns(
    path: str,
    info: DatasetInfo,
    raw: Mapping[str, RawAttribute],
    *,
    row_dim: str | None = None,
    drop: frozenset[str] = frozenset(),
) -> Columns:
    """The columns of the table at `path` with the attributes `raw`, without those that `drop` names.

    Nested columns `a/b` are named `a.b`. The rows' dimension is `row_dim`, else what the file records, else
    `<leaf>_row`.
    """
    found: dict[str, tuple[tuple[str, ...], Datatype]] = {}
    left_out = []
    for member, datatype in info.datatype.columns():
        name = ".".join(member).replace("/", ".")
        if name in drop:
            continue
        reason = _why_left_out(datatype) if name not in found else "another column has the same name"
        if reason:
            left_out.append((name, reason))
        else:
            found[name] = member, datatype
    of_table, of_columns = _by_column(raw, list(found), [field.name for field in info.datatype.fields])
    dim = row_dim or _recorded_row_dim(raw) or f"{posixpath.basename(path)}_row"
    while dim in found and found[dim][1].shape:  # a variable of two dimensions cannot have the name of one of them
        dim += "_"
    shown = [
        Column(name, member, datatype, {_DIMENSIONS: _names(dim, datatype), **of_columns[name]})
        for name, (member, datatype) in found.items()
    ]
    return Columns(dim, tuple(shown), tuple(left_out), of_table)


def _why_left_out(datatype: Datatype) -> str | None:
    if datatype.kind == "unsupported":
        return f"its type is not supported: {datatype.reason}"
    if datatype.kind in ("vlen", "reference"):
        return f"a column of {_KINDS[datatype.kind]} is not shown"
    return None


_KINDS: Final = {"vlen": "variable-length arrays", "reference": "references"}


def _by_column(
    raw: Mapping[str, RawAttribute], names: Sequence[str], positions: Sequence[str]
) -> tuple[dict[str, RawAttribute], dict[str, dict[str, RawAttribute]]]:
    """The attributes of the table as a whole, and those of each column."""
    of_table: dict[str, RawAttribute] = {}
    of_columns: dict[str, dict[str, RawAttribute]] = {name: {} for name in names}
    for name, attribute in raw.items():
        owner, own_name = owner_of(name, of_columns, positions)
        if owner is None:
            of_table[name] = attribute
        else:
            of_columns[owner][own_name] = attribute
    return of_table, of_columns


def owner_of(name: str, columns: Container[str], positions: Sequence[str]) -> tuple[str | None, str]:
    """Whose attribute it is, and what it is called there."""
    at = name.find(OF_COLUMN)
    while at >= 0:  # both names may hold the sign
        if name[:at] in columns and name[at + 1 :]:
            return name[:at], name[at + 1 :]
        at = name.find(OF_COLUMN, at + 1)
    column, separator, suffix = name.rpartition("_")
    if separator and column in columns and suffix in _BY_SUFFIX:
        return column, _BY_SUFFIX[suffix]
    numbered = _BY_POSITION.match(name)
    if numbered and int(numbered[1]) < len(positions) and positions[int(numbered[1])] in columns:
        return positions[int(numbered[1])], _BY_SUFFIX.get(numbered[2], numbered[2].lower())
    return None, name


def _recorded_row_dim(raw: Mapping[str, RawAttribute]) -> str | None:
    for convention in (_DIMENSIONS, "DIMENSION_LABELS"):
        names = attributes.names(raw.get(convention))
        if names and len(names) == 1 and names[0]:
            return names[0]
    return None


def _names(row_dim: str, datatype: Datatype) -> RawAttribute:
    """What a column says of its dimensions if the file says nothing: the rows' only."""
    names = [row_dim.encode("utf-8", "surrogateescape"), *(b"" for _ in datatype.shape)]
    return RawAttribute(np.array(names), Datatype("string", np.dtype("S1"), 1, utf8=True))
