"""What a write will do, as a value: checked in full before the disk is touched.

From a Dataset, DataArray or DataTree to groups, arrays and attributes. Knows xarray's conventions and the layout on
disk; writes nothing.

Tested in `tests/writing/test_writing.py`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import dask.array
import numpy as np
import pandas as pd
from xarray import DataArray, Dataset, DataTree, Variable, conventions
from xarray.coding.strings import CharacterArrayCoder, EncodedStringCoder
from xarray.core import indexing

from ..arrays.ragged import lazy_array
from ..disk.files import FileIdentity, OpenedFile
from ..library.libhdf5 import UNLIMITED
from ..library.target_file import ArrayLayout
from ..model import attributes, frames
from ..model.attributes import EncodedAttribute
from ..model.dimensions import NON_COORDINATE_PREFIX
from ..model.forms import Form, text_of
from ..model.nodes import GroupSpec, Scale, VariableSpec
from ..sources.warning import warn
from . import cf_encoding, layouts, ragged_layout
from .alignment import aligned, conflict
from .extension_types import is_number, plain_objects, typed, without_extension_types
from .placement import (
    Mode,
    Placement,
    Region,
    check_calendar,
    check_same_coordinate,
    checked_region,
    in_order_of,
    same_units,
    warn_if_not_continued,
)
from .request import WriteRequest
from .table_indexes import ColumnIndex
from .words import compressor_of_source

# as xarray names them in netCDF files, so that open_dataarray restores the name
_DATAARRAY_NAME: Final = "__xarray_dataarray_name__"
_DATAARRAY_VARIABLE: Final = "__xarray_dataarray_variable__"
_NO_NAME: Final = "__values__"
_STREAM_BYTES: Final = 64 * 2**20
_STRINGS: Final = ("fixed", "vlen")
TextStorage = Literal["fixed", "vlen", "characters"]


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


class _Dimensions:
    """Where the scale of each dimension is, and its id: in the file, and as planned so far."""

    def __init__(self, existing: Existing) -> None:
        self._scales = {(path, name): scale for path, spec in existing.items() for name, scale in spec.scales.items()}
        numbers = [scale.number for scale in self._scales.values() if scale.number is not None]
        self._next = max(numbers, default=-1) + 1
        along = [
            (path, name) for path, spec in existing.items() for array in spec.variables for name in array.unlimited_dims
        ]
        self._growing = {found[0] for found in (self.find(path, name) for path, name in along) if found}

    def of_group(self, group: str) -> dict[str, Scale]:
        """The dimensions that `group` itself declares."""
        return {name: scale for (path, name), scale in self._scales.items() if path == group}

    def find(self, group: str, name: str) -> tuple[str, Scale] | None:
        """Path of the scale and the scale, in `group` or the nearest group above that has it."""
        while True:
            if (group, name) in self._scales:
                return posixpath.join(group, name), self._scales[group, name]
            if group == "/":
                return None
            group = posixpath.dirname(group)

    def size_of(self, scale: str) -> int:
        """Elements of the dimension of the scale at that path."""
        return self._scales[posixpath.dirname(scale), posixpath.basename(scale)].size

    def resize(self, scale: str, size: int) -> None:
        """The dimension of the scale at that path has another size from now on, and can grow."""
        key = posixpath.dirname(scale), posixpath.basename(scale)
        self._scales[key] = replace(self._scales[key], size=size)
        self._growing.add(scale)

    def grows(self, scale: str) -> bool:
        """Whether arrays that use the scale at that path are unlimited along it."""
        return scale in self._growing

    def declare(self, group: str, name: str, size: int, *, grows: bool) -> int:
        """A new dimension of `group`; its id."""
        number, self._next = self._next, self._next + 1
        self._scales[group, name] = Scale(size, number, extensible=grows)
        if grows:
            self._growing.add(posixpath.join(group, name))
        return number

    def attached(self, group: str, dims: Iterable[str]) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
        """Paths and ids of the scales of an array in `group`; no paths if some dimension has none."""
        found = [self.find(group, dim) for dim in dims]
        known = [each for each in found if each is not None]
        if len(known) < len(found):
            return (), None
        numbers = tuple(scale.number for _, scale in known if scale.number is not None)
        return tuple(path for path, _ in known), numbers if len(numbers) == len(known) else None


def plan_write(request: WriteRequest, existing: Existing, version: FileIdentity | None = None) -> WritePlan:
    """The plan for arrays. Raises TypeError and ValueError, naming group and variable, for what cannot be written.

    With `append_dim` and `region`, coordinates of the file are read (`version` is the one that `existing` is about).
    """
    obj, path, mode, encoding = request.obj, request.target, request.mode, request.encoding
    append_dim, region, unlimited_dims = request.append_dim, request.region, request.unlimited_dims
    if region is not None and isinstance(obj, DataTree):
        raise ValueError(f"{path}: region is for one group. Write each node with group= and region=")
    base = request.filter_words
    dimensions = _Dimensions(existing)
    planned, placed, has_dim = [], [], False
    if isinstance(obj, DataTree):
        _check_group_keys(obj, encoding, "encoding")
        _check_group_keys(obj, unlimited_dims, "unlimited_dims")
    for relative, dataset in _groups_of(obj, request.write_inherited_coords):
        where = posixpath.normpath(posixpath.join(request.group, relative))
        _check_group(path, where, existing)
        wishes, unlimited = _for_group(obj, relative, encoding, unlimited_dims)
        here = _Here(path, where, mode, existing.get(where), version)
        if isinstance(obj, DataTree):
            dataset = _without_formless(dataset, here)
        keeps = mode == "r+" or append_dim is not None or region is not None
        dataset = without_extension_types(dataset, wishes, here.attributes() if keeps else {}, where=str(here))
        has_dim = has_dim or append_dim in dataset.dims
        if append_dim in dataset.dims:
            _check_not_above(append_dim, here, existing)
        if append_dim is not None or region is not None:
            dataset, here, unlimited = _placed_in_file(dataset, here, append_dim, region, unlimited)
        if here.placement is not None:
            placed.append((dataset, here))
        planned.append(_plan_group(dataset, here, wishes, base, unlimited, dimensions, request))
    if append_dim is not None and not has_dim:
        raise ValueError(f"{path}: append_dim={append_dim!r} does not match any dimension of what is to be appended")
    if append_dim is not None:
        _check_all_grow(path, append_dim, planned, existing, dimensions)
    if mode != "r+":
        _check_against_file(path, planned, existing)
    for dataset, here in placed if append_dim is not None else ():
        warn_if_not_continued(dataset, str(append_dim), str(here), here.stored)
    attachments = _attachments(planned, existing, dimensions)
    return WritePlan(path, mode, tuple(planned), attachments, version, in_parts=bool(placed))


def encoded_variables(
    dataset: Dataset,
    file: str,
    path: str,
    encoding: Mapping[Any, Any],
    base: Mapping[str, Any],
    present: Mapping[str, VariableSpec] | None = None,
) -> tuple[list[tuple[Variable, VariablePlan]], dict[str, object]]:
    """The variables of a dataset as they are stored, each with what it was, and the dataset's attributes.

    For writers with another layout than one array for each variable: dimensions, names in the file and what is there
    already are not looked at, and chunks and filters are those of an array. `base` has the words of `tables.Filters`.
    `present` says what is there already and gets more values, which are encoded as those that it has. Raises as
    `plan_write` does, naming the node `path` of `file`.
    """
    here = _Here(file, path, "w", None, placement=None if present is None else Placement())
    stored = {} if present is None else present
    _check_names(dataset, here)
    _check_sizes(dataset, here)
    unknown = [name for name in encoding if name not in dataset.variables]
    if unknown:
        raise KeyError(
            f"{here}: encoding names {', '.join(map(repr, unknown))}, but the variables are "
            f"{', '.join(map(repr, dataset.variables)) or 'none'}"
        )
    dataset = without_extension_types(dataset, encoding, {n: s.attributes for n, s in stored.items()}, where=str(here))
    noted, attrs = conventions.encode_dataset_coordinates(dataset)
    originals = {
        name: _as_objects_known(
            name,
            _with_encoding(streamable(variable.copy(deep=False)), encoding.get(name), stored.get(str(name)), here),
            here,
            ragged_layout.first_values(variable),
        )
        for name, variable in noted.items()
    }
    coded, attrs = cf_encoding.encoded(
        {name: _without_width(variable) for name, variable in originals.items()},
        attrs,
        where=str(here),
        stored=stored.get,
    )
    found = []
    for name, variable in coded.items():
        original, spec = originals[name], stored.get(str(name))
        plan = _plan_variable(
            str(name),
            variable,
            original,
            base,
            here,
            frozenset(),
            strict=name in encoding,
            width=_text_width(spec),
            first=ragged_layout.first_values(original),
        )
        if spec is not None:
            _check_attributes(plan, original, spec, here)
        found.append((original, plan))
    return found, dict(attrs)


@dataclass(frozen=True)
class _Here:
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

    def target_of(self, name: str) -> VariableSpec | None:
        """The array on disk that takes the values of that variable as it is; None where it is written anew."""
        return self.variable(name) if self.mode == "r+" or self.placement is not None else None

    def stored(self, name: str) -> Variable | None:
        """The variable of that name in the file, lazy and not decoded."""
        spec = self.variable(name)
        return None if spec is None or self.version is None else _stored_variable(spec, self.version)


def _groups_of(obj: Dataset | DataArray | DataTree, write_inherited_coords: bool) -> Iterator[tuple[str, Dataset]]:
    if isinstance(obj, DataTree):
        for node in obj.subtree:
            at_root = node is obj
            yield node.relative_to(obj), node.to_dataset(inherit=write_inherited_coords or at_root)
    elif isinstance(obj, DataArray):
        yield ".", _as_dataset(obj)
    elif isinstance(obj, Dataset):
        yield ".", obj
    else:
        raise TypeError(f"only a Dataset, DataArray or DataTree can be written, not {type(obj).__name__}")


def _as_dataset(array: DataArray) -> Dataset:
    if array.name is None:
        return array.to_dataset(name=_DATAARRAY_VARIABLE)
    if array.name in array.coords or array.name in array.dims:
        dataset = array.to_dataset(name=_DATAARRAY_VARIABLE)
        dataset.attrs[_DATAARRAY_NAME] = array.name
        return dataset
    return array.to_dataset()


def filled_with_nan_by_default(
    obj: Dataset | DataArray | DataTree, encoding: Mapping[Any, Any] | None
) -> list[Hashable]:
    """Names of variables of floats of which nobody said `_FillValue`, so that it is NaN and not zero."""
    found: list[Hashable] = []
    for relative, dataset in _groups_of(obj, write_inherited_coords=False):
        asked = _for_group(obj, relative, encoding, None)[0]
        for name, variable in dataset.data_vars.items():
            said = [variable.attrs, asked[name] if isinstance(asked.get(name), Mapping) else variable.encoding]
            if variable.dtype.kind == "f" and not any({"_FillValue", "missing_value"} & set(each) for each in said):
                found.append(name)
    return found


def _for_group(
    obj: object, relative: str, encoding: Mapping[Any, Any] | None, unlimited_dims: Any
) -> tuple[Mapping[Any, Any], Iterable[Hashable] | None]:
    """The parts of `encoding` and `unlimited_dims` that are about one group."""
    if not isinstance(obj, DataTree):
        return encoding or {}, unlimited_dims
    by_path = {_tree_key(key): value for key, value in (encoding or {}).items()}
    if isinstance(unlimited_dims, Mapping):
        unlimited_dims = {_tree_key(key): value for key, value in unlimited_dims.items()}.get(relative)
    elif unlimited_dims is not None and relative != ".":
        unlimited_dims = None  # a plain list is about the top group, as in DataTree.to_netcdf
    return by_path.get(relative, {}), unlimited_dims


def _tree_key(key: object) -> str:
    return posixpath.normpath(str(key).strip("/") or ".")


def _check_group_keys(tree: DataTree, given: object, argument: str) -> None:
    known = {node.relative_to(tree) for node in tree.subtree}
    unknown = [key for key in given if _tree_key(key) not in known] if isinstance(given, Mapping) else []
    if unknown:
        raise ValueError(
            f"unexpected {argument} group name(s) provided: {', '.join(map(repr, unknown))}; "
            f"there are {', '.join(repr('/' + name.strip('.')) for name in sorted(known))}"
        )


def _plan_group(
    dataset: Dataset,
    here: _Here,
    encoding: Mapping[Any, Any],
    base: dict[str, Any],
    unlimited_dims: Iterable[Hashable] | None,
    dimensions: _Dimensions,
    request: WriteRequest,
) -> GroupPlan:
    _check_names(dataset, here)
    _check_sizes(dataset, here)
    dataset, encoding = ragged_layout.arranged(dataset, encoding, str(here))
    sizes = _sizes_in_file(dataset, here, dimensions)
    unlimited = _growing(
        dataset,
        sizes,
        _checked_unlimited(dataset, unlimited_dims, here) | _new_growing(here, dimensions),
        dimensions,
        here,
        strict=unlimited_dims is not None,
    )
    unknown = [name for name in encoding if name not in dataset.variables]
    if unknown:
        raise KeyError(  # as to_netcdf
            f"{here}: encoding names {', '.join(map(repr, unknown))}, but the variables are "
            f"{', '.join(map(repr, dataset.variables)) or 'none'}"
        )
    coordinates_noted, global_attributes = conventions.encode_dataset_coordinates(dataset)
    coordinates_noted = {
        name: _of_kind(variable, here.target_of(str(name))) for name, variable in coordinates_noted.items()
    }
    first = {name: ragged_layout.first_values(variable) for name, variable in coordinates_noted.items()}
    rows = {
        name: _rows_of(variable, encoding.get(name) or variable.encoding, here, str(name), first[name])
        for name, variable in coordinates_noted.items()
    }
    originals = {
        name: _with_encoding(
            streamable(variable.copy(deep=False), whatever_size=rows[name] is not None),
            encoding.get(name),
            here.variable(str(name)),
            here,
        )
        for name, variable in coordinates_noted.items()
    }
    originals = {
        name: _as_objects_known(name, variable, here, first[name]) if rows[name] is None else variable
        for name, variable in originals.items()
    }
    coded, global_attributes = cf_encoding.encoded(
        {name: _without_width(variable) for name, variable in originals.items() if rows[name] is None},
        global_attributes,
        where=str(here),
        stored=here.target_of,
    )
    coded = {name: coded.get(name, variable) for name, variable in originals.items()}
    plans = [
        _plan_variable(
            _NO_NAME if name is None else str(name),
            variable,
            originals[name],
            base,
            here,
            unlimited,
            strict=name in encoding,
            width=_text_width(here.target_of(str(name))),
            rows=rows[name],
            first=first[name],
        )
        for name, variable in coded.items()
    ]
    if here.placement is not None:
        plans = [
            _put(plan, original, here.variable(plan.name), here, dimensions)
            for plan, original in zip(plans, originals.values(), strict=True)
        ]
    grown, redeclared = _grown(plans, here, dimensions)
    own = _own_dimensions(plans, sizes, unlimited, dimensions, here)
    declared = dimensions.of_group(here.path)
    arranged = tuple(
        _in_own_chunks(
            _placed(plan, declared, dimensions, here, strict=bool(base) or name in encoding),
            here,
            request,
            asked="chunksizes" in encoding.get(name, ()),
        )
        for name, plan in zip(coded, plans, strict=True)
    )
    if here.mode == "r+" and here.placement is None:
        for plan, original in zip(arranged, originals.values(), strict=True):
            _check_only_values(plan, original, here.array(plan.name), dimensions, here)
    removed = () if here.placement is not None else _superseded(plans, arranged, here)
    emptied = tuple(
        DimensionPlan(name, scale.size, dimensions.grows(posixpath.join(here.path, name)), scale.number)
        for name, scale in (here.existing.scales if here.existing else {}).items()
        if name in removed
    )
    if here.placement is not None and here.existing is not None:  # those that are there stay as they are, untouched
        old = here.existing.attributes
        global_attributes = {
            name: value for name, value in global_attributes.items() if name not in old or not _equal(old[name], value)
        }
    encoded = tuple(attributes.encode(global_attributes, where=str(here), leave_out=teller_of(dataset.encoding)))
    removed = (*removed, *(each.name for each in redeclared))
    gone = {*removed, *(plan.name for plan in arranged if plan.action == "replace")}
    given_up = tuple(spec.info.address for spec in map(here.array, sorted(gone)) if spec is not None)
    return GroupPlan(here.path, encoded, own + emptied + redeclared, arranged, removed, given_up, grown)


def _of_kind(variable: Variable, present: VariableSpec | None) -> Variable:
    """A variable of objects of which none says what it is, or that has no elements: as the array in the file has it."""
    if present is None or variable.dtype.kind != "O" or variable.chunks is not None:
        return variable
    values = np.asarray(variable.data)
    if any(value is not None for value in values.reshape(-1)):
        return variable
    if present.form.is_text:
        return variable.copy(data=np.full(values.shape, "", "U1"))
    base = present.info.datatype.base
    if base is None or base.dtype is None:
        return variable
    rows = np.empty(values.shape, np.dtype(object, metadata={"vlen": np.dtype((base.dtype, base.shape))}))
    for place in np.ndindex(rows.shape):
        rows[place] = np.empty((0, *base.shape), base.dtype)
    return variable.copy(data=rows)


_NEVER_WRITTEN: Final = ("bool", "compound", "opaque", "reference", "time", "unsupported")


def _rows_of(
    variable: Variable, encoding: Mapping[str, Any], here: _Here, name: str, first: np.ndarray | None
) -> ragged_layout.Rows | None:
    """What the rows of a variable are, if it is one of rows. Raises as `ragged_layout.rows_of` and `check_rows`."""
    label, present = f"{here}: variable {name!r}", here.target_of(name)
    if present is None:
        return ragged_layout.rows_of(variable, encoding, label, first)
    kind, has_rows = present.info.datatype.kind, present.info.datatype.base is not None
    if kind in _NEVER_WRITTEN:
        raise ValueError(
            f"{label}: the array is of kind {kind!r} in the file, which is never written. Leave it out with drop_vars, "
            "or replace it with mode='a' alone"
        )
    rows = ragged_layout.rows_of(variable, {"ragged": "vlen"} if has_rows else {}, label, first)
    if has_rows:
        ragged_layout.check_rows(rows, present, label)
    return rows


def _with_encoding(variable: Variable, asked: object, present: VariableSpec | None, here: _Here) -> Variable:
    """The variable with the encoding that counts: what `encoding=` says; for `r+`, what the file has."""
    if asked is not None and not isinstance(asked, Mapping):
        raise ValueError(f"{here}: each value of encoding must be castable to dict; one is a {type(asked).__name__}")
    if asked is not None and here.placement is not None and present is not None:
        raise ValueError(
            f"{here}: variable {present.name!r} already exists, but encoding was provided. append_dim and region write "
            "values in the encoding that the array has"
        )
    if asked is not None:
        variable.encoding = {**asked, **{key: value for key, value in variable.encoding.items() if key == "source"}}
    if here.placement is not None and present is not None:
        label = f"{here}: variable {present.name!r}"
        variable = in_order_of(variable, present.dims, _named(present, here), label)
    if (here.mode == "r+" or here.placement is not None) and present is not None:
        check_calendar(variable, present, f"{here}: variable {present.name!r}")
        _check_range(variable, present, here)
        variable.encoding = _encoding_on_disk(variable, present)
    return variable


def _as_objects_known(name: Hashable, variable: Variable, here: _Here, first: np.ndarray | None = None) -> Variable:
    """A variable of objects of which xarray's encoders can tell what they are.

    `first` are the values of the first block of a Dask array. If they are numbers, all are loaded to know their type.
    """
    if first is not None and any(map(is_number, first)):
        variable = variable.copy(data=np.asarray(variable.data, object))
    return plain_objects(variable, is_text=_is_to_be_text(variable.encoding), label=f"{here}: variable {name!r}")


def _is_to_be_text(encoding: Mapping[str, Any]) -> bool:
    """Whether an encoding is one of text, so that objects of which nobody can tell are text."""
    asked = encoding.get("dtype")
    return "string" in encoding or asked is str or asked == "S1" or declared_width(asked) is not None


_CF_KEYS: Final = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned")


def _encoding_on_disk(variable: Variable, spec: VariableSpec) -> dict[str, Any]:
    """What turns values into the form that the array in the file has already."""
    keys: tuple[str, ...] = (*_CF_KEYS, *(("units", "calendar") if variable.dtype.kind in "mMO" else ()))
    found = {key: spec.attributes[key] for key in keys if key in spec.attributes}
    if variable.dtype.kind == "f":
        found.setdefault("_FillValue", None)  # else xarray would want NaN
    stored = spec.info.datatype.dtype
    if spec.form.is_text:
        return {**found, "string": "vlen" if spec.form is Form.TEXT else "fixed"}
    if spec.info.datatype.base is not None:
        return {**found, "ragged": "vlen", "dtype": spec.info.datatype.base.dtype}
    if stored is None or (stored.kind == "S" and stored.itemsize == 1):  # which asks for arrays of characters
        return found
    return {**found, "dtype": stored}


def _check_group(file: str, path: str, existing: Existing) -> None:
    """Raise ValueError where no group can be, or where the group is reached through a link."""
    parts = path.strip("/").split("/") if path != "/" else []
    for number, name in enumerate(parts):
        group = "/" + "/".join(parts[: number + 1])
        if not _is_storable(name):
            raise ValueError(f"{file}: {name!r} in {path!r} cannot be the name of a group")
        if name.startswith(("_i_", "_p_")):
            raise ValueError(f"{file}: group name {name!r} begins as only PyTables names what it hides. Rename it")
        parent = existing.get(posixpath.dirname(group))
        taken = _taken(parent, name) if parent is not None and group not in existing else None
        if taken:
            raise ValueError(f"{file}: {group!r} is {taken}, so {path!r} cannot be a group")


def _is_storable(name: str) -> bool:
    """Whether HDF5 can hold the name: UTF-8 (or what was decoded from other bytes) without NUL."""
    try:
        return b"\0" not in name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def _taken(group: GroupSpec, name: str) -> str | None:
    """What the file has under that name in the group that is not a group of its own; None for nothing."""
    path = posixpath.join(group.path, name)
    if name in group.groups:
        return "a link to a group"
    if name in group.tables:
        return "a table"
    for spec in group.variables:
        if spec.path == path:
            return "an array"
        if spec.name == name and spec.path != posixpath.join(group.path, NON_COORDINATE_PREFIX + name):
            return f"a link to the array {spec.path!r} of {spec.file}"
    if name in group.scales:
        return "a dimension"
    return next((f"something else ({node.reason})" for node in group.skipped if node.path == path), None)


def _check_sizes(dataset: Dataset, here: _Here) -> None:
    unknown = [dim for dim, size in dataset.sizes.items() if size != size]
    if unknown:
        raise ValueError(
            f"{here}: dimension {unknown[0]!r} has Dask blocks of unknown sizes. Call compute_chunk_sizes() on the "
            "Dask array before"
        )


def _growing(
    dataset: Dataset,
    sizes: Mapping[str, int],
    asked: frozenset[str],
    dimensions: _Dimensions,
    here: _Here,
    *,
    strict: bool,
) -> frozenset[str]:
    """The dimensions along which arrays shall be able to grow: where the file has a dimension, as it is there.

    Arrays along one dimension must agree. Raises ValueError if they would not, and the user (`strict`) asked for it.
    """
    grows = set()
    for name, size in sizes.items():
        found = dimensions.find(here.path, name)
        own = name in dimensions.of_group(here.path)
        coordinate = name in dataset.variables and dataset.variables[name].dims == (name,)
        if found is None or not (own or (not coordinate and found[1].size == size)):
            grows |= {name} & asked
        elif dimensions.grows(found[0]):
            grows.add(name)
        elif name in asked and strict:
            raise ValueError(
                f"{here}: dimension {name!r} is {found[0]} in the file, which cannot grow, so that unlimited_dims "
                "cannot name it. Write all of the file with mode='w', or to a group with a dimension of its own"
            )
    return frozenset(grows)


def _new_growing(here: _Here, dimensions: _Dimensions) -> frozenset[str]:
    """The dimension that is appended along, if arrays of the file have it and no scale stands for it yet."""
    append_dim = here.placement.append_dim if here.placement is not None else None
    is_new = append_dim is not None and dimensions.find(here.path, append_dim) is None
    return frozenset({append_dim} if append_dim is not None and is_new else ())


def _check_names(dataset: Dataset, here: _Here) -> None:
    for kind, names in (("variable", dataset.variables), ("dimension", dataset.sizes)):
        for name in names:
            if name is None and kind == "variable":
                continue
            if not isinstance(name, str):
                raise TypeError(f"{here}: {kind} name {name!r} must be either a string or None")
            if not name or not _is_storable(name) or name in (".", ".."):
                raise ValueError(
                    f"{here}: {name!r} cannot be the name of a {kind}: the string must be length 1 or greater, without "
                    "NUL or lone surrogates, and neither '.' nor '..'"
                )
            if name.startswith(("_i_", "_p_", NON_COORDINATE_PREFIX)):
                raise ValueError(
                    f"{here}: {kind} name {name!r} begins as only PyTables and netCDF-4 name what they hide. Rename it"
                )
            if "/" in name:
                raise ValueError(
                    f"{here}: {kind} name {name!r}: Forward slashes '/' are not allowed, they separate groups. "
                    "Rename it, or write a DataTree"
                )


def _checked_unlimited(dataset: Dataset, given: Any, here: _Here) -> frozenset[str]:
    asked, origin = given, "unlimited_dims-kwarg"
    if asked is None:
        asked, origin = dataset.encoding.get("unlimited_dims") or (), "dataset.encoding"
    wanted = {asked} if isinstance(asked, str) or not isinstance(asked, Iterable) else set(asked)
    undeclared = wanted - set(dataset.sizes)
    if undeclared:
        message = (
            f"{here}: Unlimited dimension(s) {sorted(map(str, undeclared))} declared in {origin!r}, but not part of"
        )
        message += f" current dataset dimensions {tuple(dataset.sizes)}"
        if given is not None:
            raise ValueError(message)
        if here.existing is None:  # else they are about the file that is there
            warn(message)
    return frozenset(str(dim) for dim in wanted - undeclared)


def streamable(variable: Variable, *, whatever_size: bool = False) -> Variable:
    """A large lazy variable (or any) cut into Dask blocks: xarray's encoders would load it whole."""
    small = variable.nbytes <= _STREAM_BYTES and not whatever_size
    if variable._in_memory or variable.chunks is not None or small:
        return variable
    preferred = variable.encoding.get("preferred_chunks") or {}
    wanted = tuple(preferred.get(dim, "auto") for dim in variable.dims)
    dtype = _LIKE_TEXT if variable.dtype.kind == "O" else variable.dtype  # Dask cannot guess the size of objects
    chunks = dask.array.core.normalize_chunks(wanted, variable.shape, dtype=dtype)
    return variable.chunk(dict(zip(variable.dims, chunks, strict=True)))


_LIKE_TEXT: Final = np.dtype("S64")


def _plan_variable(
    name: str,
    variable: Variable,
    original: Variable,
    base: Mapping[str, Any],
    here: _Here,
    unlimited: frozenset[str],
    *,
    strict: bool,
    width: int | None = None,
    rows: ragged_layout.Rows | None = None,
    first: np.ndarray | None = None,
) -> VariablePlan:
    label, asked = f"{here}: variable {name!r}", original.encoding
    if strict:
        wishes = {**base, **layouts.checked_encoding(asked, where=label, remaining=variable.encoding)}
    else:
        advice = layouts.advised_encoding(asked, original, unlimited & set(map(str, original.dims)))
        told = compressor_of_source(asked)[1]
        if told and "source" in asked and not base and here.target_of(name) is None:
            warn(f"{here.file}: data {told}. encoding= chooses another compressor")
        if base:
            advice = {key: value for key, value in advice.items() if key not in layouts.COMPRESSION_KEYS}
        wishes = {**advice, **base}
    wishes["dtype"] = asked.get("dtype")
    if rows is not None:
        return _plan_rows(name, variable, rows, wishes, label, unlimited)
    variable = _with_dtype(_known_as_text(variable, first, label, is_text=_is_to_be_text(asked)), label)
    variable.encoding = {key: asked[key] for key in ("dtype", "_Encoding", "char_dim_name") if key in asked}
    variable, storage = _with_text(variable, wishes, label, width)
    if storage == "characters" and len(chunks := wishes.get("chunksizes") or ()) == variable.ndim - 1:
        wishes["chunksizes"] = (*chunks, variable.shape[-1])  # a text is never cut
    variable, extra = _quantized(variable, wishes, label)
    members = enum_members(original, variable)
    if variable.dtype.kind == "f" and variable.dtype.itemsize in (2, 12, 16):
        warn(
            f"{label}: dtype {variable.dtype} is written, but netCDF-C (and so the netcdf4 engine) crashes on it; "
            "encoding={'dtype': 'float32'} or 'float64' avoids that"
        )
    try:
        layout = layouts.plan_layout(
            variable, wishes, where=label, unlimited=unlimited, members=members, text=storage == "vlen"
        )
    except OverflowError as error:
        raise ValueError(f"{label}: {error}") from None
    noted = {key: value for key, value in variable.attrs.items() if key != "_FillValue" or not _says_no_fill(value)}
    encoded = attributes.encode({**noted, **extra}, where=label, leave_out=teller_of(asked))
    if storage in ("fixed", "characters"):
        encoded.append(attributes.text_marker("utf-8" if storage == "fixed" else "characters"))
    return VariablePlan(
        name=name,
        dims=tuple(str(dim) for dim in variable.dims),
        layout=layout,
        attributes=tuple(encoded),
        data=variable.data,
    )


def teller_of(encoding: Mapping[str, Any]) -> Callable[[str], None] | None:
    """Who hears of an attribute without a form in HDF5: a warning if it was read from a file, else it is refused."""
    return warn if "source" in encoding else None


def _without_formless(dataset: Dataset, here: _Here) -> Dataset:
    """A dataset without those variables that were read and have no form, each named by a warning."""
    for name, variable in dataset.variables.items():
        if (
            variable.dtype.kind not in "OV"
            or getattr(variable.dtype, "metadata", None)
            or "source" not in variable.encoding
        ):
            continue
        alone = Dataset({name: Variable(variable.dims, variable.data, encoding=variable.encoding)})
        try:
            if ragged_layout.rows_of(variable, variable.encoding, f"{here}: variable {name!r}") is None:
                encoded_variables(alone, here.file, here.path, {}, {})
        except (TypeError, ValueError) as error:
            warn(f"{error}. It was read from a file, and is left out of the tree")
            dataset = dataset.drop_vars([name])
            growing = dataset.encoding.get("unlimited_dims") or ()
            dataset.encoding = {**dataset.encoding, "unlimited_dims": {dim for dim in growing if dim in dataset.dims}}
    return dataset


def _plan_rows(
    name: str,
    variable: Variable,
    rows: ragged_layout.Rows,
    wishes: Mapping[str, Any],
    label: str,
    unlimited: frozenset[str],
) -> VariablePlan:
    """A variable of rows of different lengths."""
    dims = tuple(str(dim) for dim in variable.dims)
    if name in dims:
        raise ValueError(f"{label}: rows of different lengths cannot be the coordinate of their dimension. Rename it")
    layout = ragged_layout.layout(variable, rows, wishes, where=label, unlimited=unlimited)
    return VariablePlan(
        name=name,
        dims=dims,
        layout=layout,
        attributes=(
            *attributes.encode(variable.attrs, where=label, leave_out=teller_of(variable.encoding)),
            *ragged_layout.marks(layout, rows),
        ),
        data=ragged_layout.stored(variable.data, layout, rows, label),
    )


def _with_dtype(variable: Variable, label: str) -> Variable:
    """A variable of objects as numbers, text or bytes. Raises TypeError or ValueError if they are neither."""
    variable = typed(variable, label)
    if variable.dtype.kind == "O" and variable.dtype.metadata is None:
        raise TypeError(f"{label}: dtype object has no form in HDF5; convert it with astype() before writing")
    if variable.dtype.names is not None and variable.ndim == 1:
        raise TypeError(f"{label}: a row of records is a table. Write its fields as variables, with layout='table'")
    return variable


def _known_as_text(variable: Variable, first: np.ndarray | None, label: str, *, is_text: bool) -> Variable:
    """A Dask array of objects marked as text, if its first values are: xarray would load all of it to find out.

    `is_text` says that it is where the first values do not tell.
    """
    if variable.dtype.kind != "O" or variable.dtype.metadata or variable.chunks is None:
        return variable  # perhaps decoded meanwhile: times
    if not is_text and (first is None or not any(isinstance(value, str) for value in first)):
        return variable
    if first is not None and not all(isinstance(value, str) or pd.isna(value) for value in first):
        return variable
    meta = np.empty((0,) * variable.ndim, np.dtype(object, metadata={"element_type": str}))
    return variable.copy(data=variable.data.map_blocks(_only_text, label, meta=meta))


def _only_text(values: np.ndarray, label: str) -> np.ndarray:
    for value in values.reshape(-1):
        if not isinstance(value, str) and not pd.isna(value):
            raise TypeError(f"{label}: is text by its first block or its encoding, but also holds {value!r}")
    texts = values.copy()
    texts[pd.isna(values)] = ""
    return texts


def _says_no_fill(value: object) -> bool:
    return value is None or isinstance(value, bool)  # 0 is a fill value like any other


def _text_width(spec: VariableSpec | None) -> int | None:
    """Bytes of each text of an array of text of fixed length; None for other arrays."""
    dtype = spec.info.datatype.dtype if spec is not None and spec.form is Form.FIXED_TEXT else None
    return None if dtype is None else dtype.itemsize


def _with_text(
    variable: Variable, wishes: Mapping[str, Any], label: str, width: int | None
) -> tuple[Variable, TextStorage | None]:
    """A variable of text or bytes in the form that is stored, and the form; None for other variables.

    Text is stored as fixed-length UTF-8 with a marker (see `attributes.TEXT_MARKER`), as variable-length strings, or
    on request (`dtype="S1"`) as netCDF's arrays of characters. `width` is that of an array in the file, in bytes,
    which blocks of text must fit.
    """
    metadata = variable.dtype.metadata or {}
    element = metadata.get("element_type", metadata.get("vlen"))
    is_text = variable.dtype.kind in "UT" or element is str
    if variable.dtype == "S1":  # single bytes are no text, and need no dimension along it
        return variable, None
    if wishes.get("dtype") in ("S1", np.dtype("S1")) and (is_text or element is bytes or variable.dtype.kind == "S"):
        coded = EncodedStringCoder().encode(variable)  # type: ignore[no-untyped-call]
        return CharacterArrayCoder().encode(coded), "characters"  # type: ignore[no-untyped-call]
    if element is bytes:
        data = np.asarray(variable.data)
        if any(item.endswith(b"\0") for item in data.reshape(-1)):
            raise ValueError(f"{label}: fixed-length bytes cannot keep a NUL at their end; use an array of integers")
        return variable.copy(data=data.astype(np.bytes_)), None
    if not is_text:
        return variable, None
    data, declared = variable.data, declared_width(wishes.get("dtype"))
    any_length = isinstance(data, dask.array.Array) and variable.dtype.kind in "OT" and declared is None
    string = wishes.get("string") or ("vlen" if wishes.get("dtype") is str or any_length else "fixed")
    if string not in _STRINGS:
        raise ValueError(f"{label}: encoding string must be one of {_STRINGS}, not {string!r}")
    if string == "vlen":
        if isinstance(data, dask.array.Array):
            return variable.copy(data=data.map_blocks(Form.TEXT.stored, label, dtype=object)), "vlen"
        return variable.copy(data=Form.TEXT.stored(np.asarray(data), label)), "vlen"
    if isinstance(data, dask.array.Array):
        width = width or declared
        if width is None and variable.dtype.kind == "U":
            # the width in bytes is known only after a look at all values: take the most that UTF-8 can need
            width = max(4 * variable.dtype.itemsize // np.dtype("U1").itemsize, 1)
        elif width is None:
            width = _longest(data)
        return variable.copy(
            data=data.map_blocks(Form.FIXED_TEXT.stored, label, width=width, dtype=f"S{width}")
        ), "fixed"
    return variable.copy(data=Form.FIXED_TEXT.stored(np.asarray(data), label, width=width or declared)), "fixed"


def _without_width(variable: Variable) -> Variable:
    """A variable of text for xarray's encoders, which would convert it to the declared width as ASCII."""
    if variable.dtype.kind not in "OUT" or declared_width(variable.encoding.get("dtype")) is None:
        return variable
    plain = variable.copy(deep=False)
    plain.encoding = {key: value for key, value in variable.encoding.items() if key != "dtype"}
    return plain


def declared_width(dtype: object) -> int | None:
    """Bytes of the longest text, if the encoding says so (`S12`; of `U12` the most that UTF-8 can need)."""
    if not isinstance(dtype, str | np.dtype):
        return None
    asked = np.dtype(dtype)
    if asked.kind == "U":
        return asked.itemsize or None
    return asked.itemsize if asked.kind == "S" and asked.itemsize > 1 else None


def _longest(data: dask.array.Array) -> int:
    """Bytes of the longest text, block by block: the data are computed once more when they are written."""
    if not data.size:
        return 1
    widths = data.map_blocks(_block_width, dtype=np.int64, chunks=tuple((1,) * n for n in data.numblocks))
    return max(int(widths.max().compute()), 1)


def _block_width(values: np.ndarray) -> np.ndarray:
    widths = [len(text_of(value).encode("utf-8", "surrogateescape")) for value in values.reshape(-1)]
    return np.full((1,) * values.ndim, max(widths, default=0), np.int64)


def _quantized(variable: Variable, wishes: Mapping[str, Any], label: str) -> tuple[Variable, dict[str, object]]:
    """Floats rounded to `least_significant_digit` decimal places, as netCDF4 and PyTables do."""
    digit = wishes.get("least_significant_digit")
    if digit is None:
        return variable, {}
    if not isinstance(digit, int | np.integer) or isinstance(digit, bool) or abs(int(digit)) > 300:
        raise ValueError(f"{label}: least_significant_digit must be an integer (at most 300), not {digit!r}")
    if variable.dtype.kind != "f":
        return variable, {}
    bits = np.ceil(np.log2(10.0 ** int(digit)))
    scale = 2.0**bits
    rounded = _rounded(variable.data, scale)
    return variable.copy(data=rounded.astype(variable.dtype)), {"least_significant_digit": np.int64(digit)}


def _rounded(values: Any, scale: float) -> Any:
    """`values` (of NumPy or Dask) to the next multiple of 1 / scale. What is too large for that has no such digits."""
    with np.errstate(over="ignore"):
        rounded = np.around(values * scale) / scale
    return np.where(np.isfinite(rounded), rounded, values)


def enum_members(original: Variable, variable: Variable) -> tuple[tuple[str, int], ...]:
    """The enumeration that the dtype of the data or of the encoding carries, as xarray's netCDF engines keep it."""
    if variable.dtype.kind not in "iu":
        return ()
    for dtype in (original.encoding.get("dtype"), original.dtype):
        metadata = dtype.metadata if isinstance(dtype, np.dtype) else None
        if metadata and "enum" in metadata:
            return tuple((str(name), int(value)) for name, value in metadata["enum"].items())
    return ()


def _own_dimensions(
    plans: Iterable[VariablePlan],
    dataset_sizes: Mapping[str, int],
    unlimited: frozenset[str],
    dimensions: _Dimensions,
    here: _Here,
) -> tuple[DimensionPlan, ...]:
    """The dimensions that this group must declare: not those that the file or a group above has already."""
    sizes: dict[str, int] = {}
    coordinates = {plan.name for plan in plans if plan.is_coordinate}
    for plan in plans:
        sizes.update(zip(plan.dims, plan.layout.shape, strict=True))
    sizes.update({dim: size for dim, size in dataset_sizes.items() if dim in unlimited and dim not in sizes})
    present = dimensions.of_group(here.path)
    own = []
    for name, size in sizes.items():
        if name in present:
            if present[name].size != size:
                raise ValueError(
                    f"{here}: Unable to update size for existing dimension {name!r} ({size} != {present[name].size}). "
                    "Write to another group, or all of it with mode='w'"
                )
            continue
        above = dimensions.find(here.path, name)
        if name in coordinates or above is None or above[1].size != size:
            own.append(
                DimensionPlan(
                    name, size, name in unlimited, dimensions.declare(here.path, name, size, grows=name in unlimited)
                )
            )
    return tuple(own)


def _placed(
    plan: VariablePlan, declared: Mapping[str, Scale], dimensions: _Dimensions, here: _Here, *, strict: bool
) -> VariablePlan:
    """The variable under its name on disk, with its scales, and with what happens to an array of that name.

    `strict` says that the user asked for a certain layout.
    """
    if plan.action in ("put", "keep"):
        return plan
    name = plan.name
    if name in declared and not plan.dims:
        raise ValueError(
            f"{here}: {name!r} is a dimension in the file; a variable without dimensions cannot take its name"
        )
    if name in declared and not plan.is_coordinate:
        name = NON_COORDINATE_PREFIX + name  # as netCDF-4 stores it: the plain name is the dimension's
    scales, numbers = dimensions.attached(here.path, plan.dims)
    present = here.array(name)
    action: Action = "create"
    if plan.action == "replace":
        action = "replace"
    elif present is not None:
        keeps_role = plan.is_coordinate == (here.existing is not None and name in here.existing.scales)
        keeps_type = plan.layout.members == present.info.datatype.members
        fits = keeps_role and keeps_type and not strict and fits_in_place(plan.layout, present)
        fits = fits and not attributes.are_large(plan.attributes)  # the array there may not be made for those
        action = "set values" if fits else "replace"
    elif here.existing is not None and name in here.existing.scales:
        action = "replace"  # a dimension gets values
    return replace(plan, name=name, scales=scales, numbers=numbers, action=action, stored=present)


def _in_own_chunks(plan: VariablePlan, here: _Here, request: WriteRequest, *, asked: bool) -> VariablePlan:
    """The variable with Dask blocks of which no two share a chunk on disk, as far as the request wants it.

    `asked` says that the user chose the chunks. Raises ValueError if the blocks do not fit those and may not be moved;
    where chunks follow from the data or are those of the file, blocks are moved without a word.
    """
    if plan.action in ("put", "keep"):  # blocks are put aside as they are
        return plan
    present = here.array(plan.name) if plan.action == "set values" else None
    chunkshape = plan.layout.chunkshape if present is None else present.info.chunkshape
    if not isinstance(plan.data, dask.array.Array) or chunkshape is None:
        return plan
    start = (0,) * plan.data.ndim
    found = conflict(plan.data.chunks, chunkshape, start)
    if found is None or not (request.safe_chunks or request.align_chunks):
        return plan
    if asked and present is None and not request.align_chunks:
        dim, size, sizes = plan.dims[found.axis], chunkshape[found.axis], plan.data.chunks[found.axis]
        raise ValueError(
            f"{here}: variable {plan.name!r}: along dimension {dim!r}, two blocks of the Dask array meet at element "
            f"{found.border}, inside of the chunk of elements {found.chunk[0]} to {found.chunk[1] - 1} (chunksizes "
            f"{size}, blocks {_shortened(sizes)}): two tasks would write to one chunk. Rechunk the data to multiples, "
            f"e.g. .chunk({{{dim!r}: {_multiple(max(sizes), size)}}}), or let "
            "align_chunks=True do that; safe_chunks=False puts shared chunks together in the end, slowly"
        )
    return replace(plan, data=plan.data.rechunk(aligned(plan.data.chunks, chunkshape, start)))


def _shortened(sizes: tuple[int, ...]) -> str:
    return str(sizes) if len(sizes) <= 6 else f"({', '.join(map(str, sizes[:6]))}, ...)"


def _multiple(size: int, chunk: int) -> int:
    """The multiple of `chunk` nearest to `size`."""
    return max(1, round(size / chunk)) * chunk


def _superseded(plans: Iterable[VariablePlan], arranged: Iterable[VariablePlan], here: _Here) -> tuple[str, ...]:
    """Names of the arrays that hold a variable of the plan now, but under another name than it will have."""
    return tuple(
        name
        for plan, placed in zip(plans, arranged, strict=True)
        for name in {plan.name, NON_COORDINATE_PREFIX + plan.name} - {placed.name}
        if here.array(name) is not None
    )


def fits_in_place(layout: ArrayLayout, spec: VariableSpec) -> bool:
    """Whether an array in the file can take values of that layout as it is."""
    datatype = spec.info.datatype
    if spec.shape != layout.shape or datatype.shape:
        return False
    if layout.dtype is None or datatype.dtype is None:
        if layout.row_dtype is not None and datatype.base is not None:
            return ragged_layout.fits(layout, datatype.base)
        return layout.dtype is None and layout.row_dtype is None and datatype.kind == "text"
    if datatype.kind in ("bool", "time") or not datatype.exact:
        return False
    if layout.dtype.kind == "S":
        return datatype.dtype.kind == "S" and layout.dtype.itemsize <= datatype.dtype.itemsize
    return datatype.dtype.newbyteorder("=") == layout.dtype.newbyteorder("=")


def _placed_in_file(
    dataset: Dataset, here: _Here, append_dim: str | None, region: object | None, unlimited: Any
) -> tuple[Dataset, _Here, Any]:
    """`dataset` as far as it is written with `append_dim` and `region`, and the group with where the values go.

    A group that has nothing yet is written as without the two, with a dimension that can grow. Raises ValueError where
    the dimension is not there.
    """
    present = here.existing
    is_new = present is None or not (present.variables or present.scales)
    if is_new:
        if region is not None:
            raise ValueError(f"{here}: there is nothing in this group that a region could be part of")
        if append_dim is not None:
            dataset = cf_encoding.with_seconds(dataset, append_dim)
        asked = [] if unlimited is None else [unlimited] if isinstance(unlimited, str) else list(unlimited)
        return dataset, here, [*asked, append_dim] if append_dim in dataset.dims else unlimited
    if append_dim is not None and append_dim not in _dimensions_of(present):
        raise ValueError(
            f"{here}: append_dim={append_dim!r} does not match any existing dataset dimensions "
            f"{sorted(_dimensions_of(present))}"
        )
    slices: Region = {}
    if region is not None:
        dataset, slices = checked_region(dataset, region, append_dim=append_dim, where=str(here), stored=here.stored)
    if append_dim is not None:
        for dim in dataset.dims:
            if dim != append_dim and dim not in slices:
                check_same_coordinate(dataset, str(dim), str(here), here.stored)
    return dataset, replace(here, placement=Placement(append_dim, slices)), unlimited


def _check_not_above(append_dim: object, here: _Here, existing: Existing) -> None:
    """Raise ValueError for a new group below one that has the dimension: it would be shorter than that."""
    above = here.path
    while here.existing is None and above != "/":
        above = posixpath.dirname(above)
        if above in existing and append_dim in _dimensions_of(existing[above]):
            raise ValueError(
                f"{here} is not in the file, and the group {above!r} has the dimension {append_dim!r} already: what "
                "the new group has before the appended values is not known. Write it with mode='a' in the full size"
            )


def _dimensions_of(group: GroupSpec | None) -> set[str]:
    if group is None:
        return set()
    return {*group.scales, *(dim for spec in group.variables for dim in spec.dims)}


def _sizes_in_file(dataset: Dataset, here: _Here, dimensions: _Dimensions) -> dict[str, int]:
    """The sizes of the dataset's dimensions; where its values are a part of what is in the file, those there."""
    sizes = {str(dim): size for dim, size in dataset.sizes.items()}
    if here.placement is None:
        return sizes
    for dim in {*here.placement.region, *filter(None, [here.placement.append_dim])} & set(sizes):
        found = dimensions.find(here.path, dim)
        if found is not None:
            sizes[dim] = found[1].size
    return sizes


def _named(spec: VariableSpec, here: _Here) -> tuple[bool, ...]:
    """For each dimension of an array, whether its name is in the file, and not made up by the reader."""
    scales = here.existing.scales if here.existing is not None else {}
    return tuple(dim in scales or not _PHONY.fullmatch(dim) for dim in spec.dims)


_PHONY: Final = re.compile(r"dim_\d+(_\d+)?")


def _put(
    plan: VariablePlan, original: Variable, spec: VariableSpec | None, here: _Here, dimensions: _Dimensions
) -> VariablePlan:
    """The variable as values for a part of the array in the file, which may grow; or for a new array."""
    placement, label = here.placement, f"{here}: variable {plan.name!r}"
    assert placement is not None  # the caller checked
    if spec is None:
        if here.mode == "r+" or placement.region:
            raise ValueError(
                f"{label}: dataset contains non-pre-existing variables, which is not allowed with region and with "
                "mode='r+'. mode='a' without them adds variables"
            )
        if placement.append_dim in plan.dims:
            raise ValueError(
                f"{label} is not in the file, so its values along {placement.append_dim!r} before the appended ones "
                "are not known. Write it with mode='a' in the full size, or drop it"
            )
        return plan
    start, shape = placement.place(plan.dims, plan.layout.shape, spec, label)
    whole = replace(plan.layout, shape=spec.shape)
    if not fits_in_place(whole, spec):
        raise ValueError(
            f"{label}: Mismatched dtypes: the array has dtype {spec.info.datatype.dtype or 'text'}, the values would "
            f"need {plan.layout.dtype or 'text'}. Convert them with astype(), or write all of it with mode='w'"
        )
    _check_attributes(plan, original, spec, here)
    stored = _stored_layout(spec, shape)
    axes = [axis for axis, (old, new) in enumerate(zip(spec.shape, shape, strict=True)) if new > old]
    name = posixpath.basename(spec.path)
    if not axes and not placement.region and here.version is not None and _has_values(plan, spec, here.version):
        return replace(plan, name=name, layout=stored, start=start, stored=spec, action="keep")
    if all(spec.info.maxshape[axis] == UNLIMITED for axis in axes):
        return replace(plan, name=name, layout=stored, start=start, stored=spec, action="put", attributes=())
    if start != tuple(old if axis in axes else 0 for axis, old in enumerate(spec.shape)) or placement.region:
        raise ValueError(
            f"{label}: the array cannot grow along {placement.append_dim!r}, so that appending makes it anew, which "
            "does not go together with region. Append without region first"
        )
    return _rewritten(replace(plan, name=name), spec, stored, axes, here)


def _has_values(plan: VariablePlan, spec: VariableSpec, version: FileIdentity) -> bool:
    """Whether the array in the file has these very values: most often coordinates that do not grow."""
    if isinstance(plan.data, dask.array.Array) or plan.data.nbytes > _STREAM_BYTES:
        return False
    if plan.layout.row_dtype is not None:
        return False  # rows are compared by writing them
    stored = _stored_variable(spec, version).values
    if spec.form is Form.FIXED_TEXT:
        stored = spec.form.stored(stored, str(plan.name))
    return bool(np.array_equal(stored, np.asarray(plan.data), equal_nan=stored.dtype.kind in "fc"))


def _stored_layout(spec: VariableSpec, shape: tuple[int, ...]) -> ArrayLayout:
    info = spec.info
    row = info.datatype.base
    return ArrayLayout(
        shape,
        info.datatype.dtype,
        info.maxshape,
        info.chunkshape,
        info.filters,
        members=info.datatype.members,
        row_dtype=None if row is None else row.dtype,
        row_shape=() if row is None else row.shape,
    )


def _rewritten(
    plan: VariablePlan, spec: VariableSpec, stored: ArrayLayout, axes: Sequence[int], here: _Here
) -> VariablePlan:
    """The array made anew, such that it can grow: what is in the file, and the new values behind it."""
    assert here.version is not None  # there is an array, so there is a file
    old = _in_blocks(_stored_variable(spec, here.version), spec)
    if spec.form is Form.FIXED_TEXT and stored.dtype is not None:
        old = old.map_blocks(spec.form.stored, str(here), width=stored.dtype.itemsize, dtype=stored.dtype)
    new = plan.data if isinstance(plan.data, dask.array.Array) else dask.array.from_array(plan.data, chunks=-1)
    fill = spec.info.fill_value if stored.dtype is not None else None
    layout = replace(
        layouts.growing(stored, spec.shape, axes),
        fill_value=np.frombuffer(fill, stored.dtype)[0] if fill and any(fill) else None,
    )
    dtype = np.dtype(object) if stored.dtype is None else stored.dtype.newbyteorder("=")
    parts = [old.astype(dtype), new.astype(dtype)]
    return replace(
        plan,
        layout=layout,
        attributes=_kept_attributes(plan, spec, here),
        data=dask.array.concatenate(parts, axis=axes[0]),
        action="replace",
    )


def _kept_attributes(plan: VariablePlan, spec: VariableSpec, here: _Here) -> tuple[EncodedAttribute, ...]:
    """The attributes of an array that is made anew: its own, and those that say how its values are stored."""
    kept = attributes.encode(spec.attributes, where=f"{here}: array {plan.name!r}")
    return (*kept, *(item for item in plan.attributes if item.name in _MARKS))


_MARKS: Final = (attributes.TEXT_MARKER, *ragged_layout.MARKS)


def _stored_variable(spec: VariableSpec, version: FileIdentity) -> Variable:
    """An array of the file, lazy and not decoded: as users read it, but rows with the elements that are stored."""
    opened = OpenedFile(spec.file, version, for_users=False)
    data = indexing.LazilyIndexedArray(lazy_array(opened, ragged_layout.with_stored_rows(spec)))
    return Variable(spec.dims, data, dict(spec.attributes), fastpath=True)


def _in_blocks(variable: Variable, spec: VariableSpec) -> dask.array.Array:
    dtype = _LIKE_TEXT if variable.dtype.kind == "O" else variable.dtype  # Dask cannot guess the size of objects
    chunks = dask.array.core.normalize_chunks("auto", variable.shape, dtype=dtype, previous_chunks=spec.chunks)
    return variable.chunk(dict(zip(variable.dims, chunks, strict=True))).data


def _grown(
    plans: Sequence[VariablePlan], here: _Here, dimensions: _Dimensions
) -> tuple[tuple[tuple[str, int], ...], tuple[DimensionPlan, ...]]:
    """Scales without values that grow with the arrays of the plan: as they are, and those to be made anew for that."""
    append_dim = here.placement.append_dim if here.placement is not None else None
    found = dimensions.find(here.path, append_dim) if append_dim is not None else None
    if found is None or append_dim is None:
        return (), ()
    sizes = {
        size
        for plan in plans
        for dim, size in zip(plan.dims, plan.layout.shape, strict=True)
        if dim == append_dim and plan.action in ("put", "replace")
    }
    scale, size = found[0], max(sizes, default=found[1].size)
    if size == found[1].size:
        return (), ()
    has_values = here.variable(append_dim) is not None
    could_grow = dimensions.grows(scale) and (has_values or found[1].extensible)
    if not could_grow and posixpath.dirname(scale) != here.path:
        raise ValueError(
            f"{here}: append_dim={append_dim!r} is {scale} in the file, of a group above, and cannot grow. Append to "
            "that group first, or write all of the file with mode='w'"
        )
    dimensions.resize(scale, size)
    if posixpath.dirname(scale) == here.path and has_values:
        return (), ()
    if could_grow:
        return ((scale, size),), ()
    return (), (DimensionPlan(append_dim, size, True, found[1].number),)


def _check_all_grow(
    path: str, append_dim: str, planned: Sequence[GroupPlan], existing: Existing, dimensions: _Dimensions
) -> None:
    """Raise ValueError if an array in the file would stay short along the dimension that others grow along."""
    written = {posixpath.join(group.path, plan.name) for group in planned for plan in group.variables}
    before = _Dimensions(existing)
    grown = {
        found[0]
        for found in (before.find(group.path, append_dim) for group in planned)
        if found and dimensions.size_of(found[0]) != found[1].size
    }
    for group_path, group in existing.items():
        found = before.find(group_path, append_dim)
        if found is None or found[0] not in grown:
            continue
        short = [spec.path for spec in group.variables if append_dim in spec.dims and spec.path not in written]
        if short:
            raise ValueError(
                f"{path}: {', '.join(map(repr, short))} has the dimension {append_dim!r} as well and is not in the "
                "dataset that is appended: it would stay short. Append to all arrays along a dimension in one call"
            )


def _check_attributes(plan: VariablePlan, original: Variable, spec: VariableSpec, here: _Here) -> None:
    """Raise ValueError if the values would mean something else under the attributes of the array in the file."""
    coded = {item.name: item.value for item in plan.attributes}
    is_time = original.dtype.kind in "mMO"
    units = spec.attributes.get("units")
    if " since " in str(units) and "units" not in coded and not is_time:
        raise ValueError(
            f"{here}: array {plan.name!r} holds times ({units!r}), the variable is of {original.dtype} without units. "
            "Convert it to times, or give it the attributes that it is to be read with"
        )
    kind = str(spec.attributes.get("dtype"))
    if kind.startswith("timedelta64") and original.dtype.kind != "m":
        raise ValueError(
            f"{here}: array {plan.name!r} holds durations ({kind}), the variable is of {original.dtype}. Convert it "
            f"with astype('{kind}'), or replace the array with mode='a' alone"
        )
    for key in (*_CF_KEYS, "units", "calendar"):
        old, new = spec.attributes.get(key), coded.get(key)
        if new is None or (key == "calendar" and is_time and old is None):
            continue
        plain = _plain(new)
        same = same_units(old, plain) if key == "units" and is_time else _same_value(old, new)
        if not same:
            raise ValueError(
                f"{here}: array {plan.name!r} is stored with {key}={old!r}, the variable would need {key}={plain!r}; "
                "what is stored is kept. Convert the variable, or replace the array with mode='a' alone"
            )


def _equal(old: object, new: object) -> bool:
    """Whether an attribute in the file has the value already."""
    try:
        one, other = np.asarray(old), np.asarray(new)
        return one.dtype.kind == other.dtype.kind and bool(np.array_equal(one, other))
    except ValueError:
        return False


def _check_only_values(
    plan: VariablePlan, original: Variable, spec: VariableSpec | None, dimensions: _Dimensions, here: _Here
) -> None:
    """For `r+`: the array is there and nothing but its values would change."""
    if spec is None:
        raise ValueError(
            f"{here}: there is no array {plan.name!r}, and mode='r+' only changes existing ones. mode='a' adds it"
        )
    if not fits_in_place(plan.layout, spec):
        raise ValueError(
            f"{here}: array {plan.name!r} has shape {spec.shape} and dtype {spec.info.datatype.dtype}, the variable "
            f"{plan.layout.shape} and {plan.layout.dtype}; mode='r+' needs the same. mode='a' replaces the array"
        )
    named = [dimensions.find(here.path, dim) is not None for dim in spec.dims]
    if any(is_named and old != new for is_named, old, new in zip(named, spec.dims, plan.dims, strict=False)):
        raise ValueError(
            f"{here}: array {plan.name!r} has the dimensions {spec.dims}, the variable {plan.dims}; mode='r+' needs "
            "the same. Transpose or rename them, or replace the array with mode='a'"
        )
    _check_attributes(plan, original, spec, here)


def _check_range(variable: Variable, spec: VariableSpec, here: _Here) -> None:
    """For `r+`: xarray would round and wrap numbers to the dtype in the file, which the user did not choose."""
    stored = spec.info.datatype.dtype
    if spec.form.is_text and variable.dtype.kind == "S":
        raise ValueError(
            f"{here}: variable {spec.name!r}: Mismatched dtypes: the array holds text, the values are bytes. Decode "
            "them with .str.decode('utf-8'), or replace the array with mode='a' alone"
        )
    if stored is not None and stored.kind in "iufc" and variable.dtype.kind in "SUT":
        raise ValueError(
            f"{here}: variable {spec.name!r}: Mismatched dtypes: the array is of {stored}, the values of "
            f"{variable.dtype}. Convert them with astype(), or replace the array with mode='a' alone"
        )
    if not any(key in spec.attributes for key in _CF_KEYS) and stored is not None and not _holds(stored, variable):
        raise ValueError(
            f"{here}: array {spec.name!r} of {stored} cannot hold the values of the variable, of {variable.dtype}. "
            "Convert it with astype(), or replace the array with mode='a'"
        )


def _holds(stored: np.dtype, variable: Variable) -> bool:
    """Whether an array of a dtype can hold numbers of that kind as they are; whether it holds each is seen later."""
    return not (stored.kind in "iu" and variable.dtype.kind == "f")


def _same_value(old: object, new: np.ndarray) -> bool:
    text = _plain(new)
    return bool(np.array_equal(np.asarray(old), np.asarray(text)) or (text != text and old != old))


def _plain(value: np.ndarray) -> Any:
    """The value of an encoded attribute as Python has it."""
    plain = value.item() if value.ndim == 0 else value.tolist()
    return plain.decode() if isinstance(plain, bytes) else plain


def _check_against_file(path: str, planned: Sequence[GroupPlan], existing: Existing) -> None:
    """Raise ValueError where what is in the file, or goes into it as well, has a name or a dimension already."""
    groups = {*existing, *(group.path for group in planned)}
    for group in planned:
        present = existing.get(group.path)
        if present is not None and frames.MARK in present.attributes and (group.variables or group.dimensions):
            raise ValueError(
                f"{path}: the group {group.path!r} holds a pandas object, which pandas could not read with more in "
                "it. Write to another group"
            )
        new = {variable.name: "variable" for variable in group.variables if variable.action == "create"}
        new |= {dimension.name: "dimension" for dimension in group.dimensions if dimension.name not in new}
        ours = {variable.name for variable in group.variables if variable.action != "create"}.union(group.removed)
        for name in {*new, *ours}:
            node = posixpath.join(group.path, name)
            if node in groups:
                raise ValueError(f"{path}: {node!r} is a group; a {new.get(name, 'variable')} cannot take its name")
        for name, kind in new.items():
            taken = _taken(present, name) if present is not None and name not in ours else None
            if taken:
                raise ValueError(
                    f"{path}:{group.path}: {name!r} is {taken} in the file; a new {kind} cannot take its name. "
                    "Rename it, or write to another group"
                )
        for spec in present.variables if present is not None else ():
            if posixpath.basename(spec.path) not in ours:
                _check_sizes_of(spec, group, path)


def _check_sizes_of(spec: VariableSpec, group: GroupPlan, file: str) -> None:
    """Raise ValueError if an array that stays has another size along a dimension that the group gets."""
    sizes = dict(zip(spec.dims, spec.shape, strict=False))
    for dimension in group.dimensions:
        if sizes.get(dimension.name, dimension.size) != dimension.size:
            raise ValueError(
                f"{file}:{group.path}: dimension {dimension.name!r} would have {dimension.size} elements, but the "
                f"array {spec.path!r}, which is there already, has {sizes[dimension.name]} along it. Rename the "
                "dimension, or write to another group"
            )


def _attachments(planned: Iterable[GroupPlan], existing: Existing, dimensions: _Dimensions) -> tuple[Attachment, ...]:
    """Arrays in the file that refer to a dimension scale which is going to be another object."""
    written = {posixpath.join(group.path, plan.name) for group in planned for plan in group.variables}
    moved = {
        posixpath.join(group.path, plan.name)
        for group in planned
        for plan in group.variables
        if plan.action == "replace"
    }
    given_up = {posixpath.join(group.path, name) for group in planned for name in group.removed}
    moved |= given_up
    found = []
    for path, group in existing.items():
        for spec in group.variables:
            scales, numbers = dimensions.attached(path, spec.dims)
            if spec.path not in written | given_up and moved & set(scales) and posixpath.dirname(spec.path) == path:
                found.append(Attachment(spec.path, scales, numbers))
    return tuple(found)
