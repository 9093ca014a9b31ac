"""What is known of variables and groups before anything of them is read: plain values.

Made by `nodes`, and in tests without a file; each says all that is needed to read it lazily.

Tested in `tests/test_reading.py` and `tests/model/test_odd_types.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from ..hdf5.dataset import DatasetInfo
from ..hdf5.datatype import Datatype
from ..sources.source import printable
from .dimensions import PhonyDims
from .forms import Form

if TYPE_CHECKING:
    from . import frames
    from .mappings import Part

ExternalLinks = Literal["near", "any", "never"]

Ragged = Literal["object", "flat"]

Strings = Literal["as stored", "text", "bytes"]


@dataclass(frozen=True, slots=True)
class ElementSpec:
    """What the rows of a ragged array consist of."""

    dtype: np.dtype
    """As the user sees it, before xarray decodes anything: native byte order."""
    shape: tuple[int, ...] = ()
    """Of one element (PyTables: of a multi-dimensional atom)."""
    form: Form = Form.SAME
    """How a stored element becomes `dtype`."""
    attributes: dict[str, object] = field(default_factory=dict)
    """What tells xarray what the elements mean (CF), if they are the values of a variable."""


@dataclass(frozen=True, slots=True)
class RawFile:
    """A piece of a file without a format that holds a part of an array's bytes."""

    path: str
    """Absolute."""
    offset: int
    size: int
    """In bytes."""


@dataclass(frozen=True, slots=True)
class VariableSpec:
    """One array of a file: all that is needed to read it lazily. Made in tests without a file."""

    file: str
    """Absolute path of the file that holds it."""
    path: str
    """Path of the node, without links."""
    name: Hashable
    """Of the variable: text, but for columns of pandas objects, which may be called anything."""
    info: DatasetInfo
    shape: tuple[int, ...]
    """As the user sees it, in elements: the leaf's shape and then its atom's. A leaf may be shorter in dimensions that
    grow (see `dimensions.Resolved.shapes`); what is missing has its fill value."""
    dtype: np.dtype
    """As the user sees it, before xarray decodes anything: native byte order."""
    dims: tuple[str, ...]
    chunks: tuple[int, ...] | None = None
    """Elements per chunk for each dimension of `shape`; None if not chunked."""
    form: Form = Form.SAME
    """How the stored elements become `dtype`."""
    attributes: dict[str, object] = field(default_factory=dict)
    unlimited_dims: tuple[str, ...] = ()
    repeated_dims: tuple[str, ...] = ()
    """Those of `dims` that are one and the same in the file, or several such."""
    base_address: int = 0
    """Size of the file's user block, in bytes."""
    characters: bool = False
    """Whether an array of single characters is netCDF's way to store text along its last dimension."""
    reverse: bool = False
    """Whether the user sees the dimensions in reverse order (MATLAB). `shape`, `dims`, `chunks` are as in the file."""
    rows: ElementSpec | None = None
    """Of a ragged array of numbers, strings or times (`Form.ELEMENTS`): what its rows consist of."""
    ragged: Ragged = "object"
    """Whether such an array becomes one variable of rows, or the values of all rows and the size of each."""
    member: tuple[str, ...] = ()
    """Of a column of a table: the names that lead to it in the compound, one for each level; () for whole elements."""
    element: Datatype | None = None
    """Of a column: its type, whose shape begins with those of the compounds it is in; None for whole elements."""
    item: tuple[int, ...] = ()
    """Of a column with a shape: fixed positions along its first dimensions, which `shape`, `dims` and `chunks` then
    lack. `member=("values_block_0",), item=(2,)` is `values_block_0[:, 2]`."""
    decoding: frames.Decoding | None = None
    """Of a column of a pandas object: how its stored elements become values. None for all other variables."""
    categories: VariableSpec | None = None
    """Of a column of codes: what they number."""
    parts: tuple[Part[VariableSpec], ...] = ()
    """Of a virtual dataset: which of its elements are which of others."""
    raw_files: tuple[RawFile, ...] = ()
    """The files that its bytes lie in one after the other, if they are not in `file`."""

    @property
    def label(self) -> str:
        """File and node, as messages name them."""
        return printable(f"{self.file}:{self.path}")

    @property
    def datatype(self) -> Datatype:
        """The type of one stored value."""
        return self.element if self.element is not None else self.info.datatype

    @property
    def element_dtype(self) -> np.dtype:
        """Of the values before they are looked up in the categories."""
        return self.dtype if self.categories is None else np.dtype("i8")


class Skipped(NamedTuple):
    """A node that is not shown, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scale:
    """A dimension that a group declares."""

    size: int
    number: int | None
    """Its netCDF-4 dimension id, unique in the file; None where the writer gave none."""
    extensible: bool = True
    """Whether the array that stands for it can grow."""


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """One group: its variables, attributes and children."""

    file: str
    path: str
    variables: tuple[VariableSpec, ...]
    attributes: dict[str, object]
    scales: dict[str, Scale] = field(default_factory=dict)
    """The dimensions that the group's own scales declare, with or without values."""
    skipped: tuple[Skipped, ...] = ()
    problems: tuple[str, ...] = ()
    """Sentences about what was read differently from what the file says."""
    groups: tuple[str, ...] = ()
    """Names of the child groups that a tree follows."""
    coordinates: frozenset[Hashable] = frozenset()
    """Variables that are coordinates without the name of a dimension: levels of a pandas index."""
    tables: tuple[str, ...] = ()
    """Names of the tables in it, each of which is a dataset of its own."""
    datatypes: tuple[str, ...] = ()
    """Names of the committed datatypes in it, which hold no data."""
    row_dim: str = ""
    """Of a table or a pandas object: the name of its dimension of rows; empty for other groups."""
    is_pandas_object: bool = False

    @property
    def label(self) -> str:
        """File and group, as messages name them."""
        return printable(f"{self.file}:{self.path}")


@dataclass(frozen=True)
class ReadOptions:
    """The user's choices that bear on what a node becomes."""

    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    phony_dims: PhonyDims = "size"
    external_links: ExternalLinks = "near"
    allow_pickle: bool = False
    drop_variables: frozenset[Hashable] = frozenset()
    ragged: Ragged = "object"
    string: Strings = "as stored"
    pandas_objects: bool = True
    """Show the group of a pandas object as its columns; else as the arrays that it consists of."""
