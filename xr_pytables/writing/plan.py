"""What a write will do, as a value: checked in full before the disk is touched.

From a Dataset, DataArray or DataTree to groups, arrays and attributes. Knows xarray's conventions and the layout on
disk; writes nothing.

Tested in `tests/writing/test_writing.py`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import dask.array
from xarray import DataArray, Dataset, DataTree, Variable, conventions

from ..disk.files import FileIdentity
from ..model import attributes, frames
from ..model.dimensions import NON_COORDINATE_PREFIX
from ..model.specs import GroupSpec, Scale, VariableSpec
from ..sources.warning import warn
from . import cf_encoding, ragged_layout
from .agreement import check_attributes, check_only_values, fits_in_place, is_equal
from .alignment import aligned, conflict
from .extension_types import without_extension_types
from .group_dimensions import (
    Dimensions,
    attachments_of,
    check_all_grow,
    check_not_above,
    check_sizes,
    checked_unlimited,
    dimensions_of,
    growing_dims,
    grown_scales,
    newly_growing,
    own_dimensions,
    sizes_in_file,
)
from .here import Here, streamable
from .placement import Placement, warn_if_not_continued
from .plans import Action, DimensionPlan, Existing, GroupPlan, VariablePlan, WritePlan
from .present_arrays import placed_in_file, put_into
from .request import WriteRequest, tree_key
from .text_layout import text_width, without_width
from .variable_plan import as_objects_known, known_rows, of_known_kind, plan_variable, teller_of, with_encoding

# as xarray names them in netCDF files, so that open_dataarray restores the name
_DATAARRAY_NAME: Final = "__xarray_dataarray_name__"
_DATAARRAY_VARIABLE: Final = "__xarray_dataarray_variable__"
_NO_NAME: Final = "__values__"


def plan_write(request: WriteRequest, existing: Existing, version: FileIdentity | None = None) -> WritePlan:
    """The plan for arrays. Raises TypeError and ValueError, naming group and variable, for what cannot be written.

    With `append_dim` and `region`, coordinates of the file are read (`version` is the one that `existing` is about).
    """
    obj, path, mode, encoding = request.obj, request.target, request.mode, request.encoding
    append_dim, region, unlimited_dims = request.append_dim, request.region, request.unlimited_dims
    if region is not None and isinstance(obj, DataTree):
        raise ValueError(f"{path}: region is for one group. Write each node with group= and region=")
    base = request.filter_words
    dimensions = Dimensions(existing)
    planned, placed = [], []
    groups = list(_groups_of(obj, request.write_inherited_coords))
    if append_dim is not None:
        _check_some_group_has(append_dim, groups, request, existing)
    for relative, dataset in groups:
        where = posixpath.normpath(posixpath.join(request.group, relative))
        _check_group(path, where, existing)
        wishes, unlimited = _for_group(obj, relative, encoding, unlimited_dims)
        here = Here(path, where, mode, existing.get(where), version)
        if isinstance(obj, DataTree):
            dataset = _without_formless(dataset, here)
        keeps = mode == "r+" or append_dim is not None or region is not None
        dataset = without_extension_types(dataset, wishes, here.attributes() if keeps else {}, where=str(here))
        if append_dim is not None and append_dim in dataset.dims:
            check_not_above(append_dim, here, existing, dimensions)
        if append_dim is not None or region is not None:
            dataset, here, unlimited = placed_in_file(dataset, here, append_dim, region, unlimited, dimensions)
        if here.placement is not None:
            placed.append((dataset, here))
        planned.append(_plan_group(dataset, here, wishes, base, unlimited, dimensions, request))
    if append_dim is not None:
        check_all_grow(path, append_dim, planned, existing, dimensions)
    if mode != "r+":
        _check_against_file(path, planned, existing)
    for dataset, here in placed if append_dim is not None else ():
        warn_if_not_continued(dataset, str(append_dim), str(here), here.stored)
    attachments = attachments_of(planned, existing, dimensions)
    plan = WritePlan(path, mode, tuple(planned), attachments, version, in_parts=bool(placed))
    if append_dim is not None:
        warn_of_missing_chunks(plan, lambda variable: variable.leaves_chunks_out)
    return plan


def warn_of_missing_chunks(plan: WritePlan, lacks: Callable[[VariablePlan], bool]) -> None:
    """Warn of arrays of which PyTables, but nobody else, reads wrong values until all of their chunks are written.

    `lacks` says of a variable that frames are made for whether some are missing when the write is done.
    """
    names = [
        repr(posixpath.join(group.path, one.name))
        for group, one in plan
        if one.layout.filters.makes_frames(len(one.layout.shape)) and lacks(one)
    ]
    if names:
        warn(
            f"{plan.path}: until all chunks of {', '.join(names)} are written, PyTables shows values of others where "
            "one is missing: it reads arrays with Blosc2 and no checksum past HDF5. Without fletcher32=False (or "
            "checksums=False) it does not"
        )


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
    here = Here(file, path, "w", None, placement=None if present is None else Placement())
    stored = {} if present is None else present
    _check_names(dataset, here)
    check_sizes(dataset, here)
    _check_known(encoding, dataset, here)
    dataset = without_extension_types(dataset, encoding, {n: s.attributes for n, s in stored.items()}, where=str(here))
    noted, attrs = conventions.encode_dataset_coordinates(dataset)
    originals = {
        name: as_objects_known(
            name,
            with_encoding(streamable(variable.copy(deep=False)), encoding.get(name), stored.get(str(name)), here),
            here,
            ragged_layout.first_values(variable),
        )
        for name, variable in noted.items()
    }
    coded, attrs = cf_encoding.encoded(
        {name: without_width(variable) for name, variable in originals.items()},
        attrs,
        where=str(here),
        stored=stored.get,
    )
    found = []
    for name, variable in coded.items():
        original, spec = originals[name], stored.get(str(name))
        plan = plan_variable(
            str(name),
            variable,
            original,
            base,
            here,
            frozenset(),
            strict=name in encoding,
            width=text_width(spec),
            first=ragged_layout.first_values(original),
        )
        if spec is not None:
            check_attributes(plan, original, spec, here)
        found.append((original, plan))
    return found, dict(attrs)


def _check_some_group_has(
    append_dim: str, groups: Iterable[tuple[str, Dataset]], request: WriteRequest, existing: Existing
) -> None:
    """Raise ValueError if nothing that is to be appended has the dimension; in a tree, one group with it is enough."""
    if any(append_dim in dataset.dims for _, dataset in groups):
        return
    paths = [posixpath.normpath(posixpath.join(request.group, relative)) for relative, _ in groups]
    there = {dim for path in paths for dim in dimensions_of(existing.get(path))}
    what = "any dimension of what is to be appended"
    if there and append_dim not in there:
        what = f"any existing dataset dimensions {sorted(there)}"
    raise ValueError(f"{request.target}:{paths[0]}: append_dim={append_dim!r} does not match {what}")


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
        way = (
            "layout='pandas' writes it as pandas does, and its to_xarray() is a Dataset or DataArray"
            if hasattr(obj, "to_xarray")
            else "xr.Dataset({'name': (('y', 'x'), values)}) makes a Dataset of arrays"
        )
        raise TypeError(f"only a Dataset, DataArray or DataTree can be written, not {type(obj).__name__}. {way}")


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
    by_path = {tree_key(key): value for key, value in (encoding or {}).items()}
    if isinstance(unlimited_dims, Mapping):
        unlimited_dims = {tree_key(key): value for key, value in unlimited_dims.items()}.get(relative)
    elif unlimited_dims is not None and relative != ".":
        unlimited_dims = None  # a plain list is about the top group, as in DataTree.to_netcdf
    return by_path.get(relative, {}), unlimited_dims


def _check_known(encoding: Mapping[Any, Any], dataset: Dataset, here: Here) -> None:
    """Raise KeyError, as `to_netcdf` does, for an encoding of a variable that there is not."""
    unknown = [name for name in encoding if name not in dataset.variables]
    if unknown:
        raise KeyError(
            f"{here}: encoding names {', '.join(map(repr, unknown))}, but the variables are "
            f"{', '.join(map(repr, dataset.variables)) or 'none'}"
        )


def _plan_group(
    dataset: Dataset,
    here: Here,
    encoding: Mapping[Any, Any],
    base: dict[str, Any],
    unlimited_dims: Iterable[Hashable] | None,
    dimensions: Dimensions,
    request: WriteRequest,
) -> GroupPlan:
    _check_names(dataset, here)
    check_sizes(dataset, here)
    dataset, encoding = ragged_layout.arranged(dataset, encoding, str(here))
    sizes = sizes_in_file(dataset, here, dimensions)
    unlimited = growing_dims(
        dataset,
        sizes,
        checked_unlimited(dataset, unlimited_dims, here) | newly_growing(here, dimensions),
        dimensions,
        here,
        strict=unlimited_dims is not None,
    )
    _check_known(encoding, dataset, here)
    coordinates_noted, global_attributes = conventions.encode_dataset_coordinates(dataset)
    coordinates_noted = {
        name: of_known_kind(variable, here.target_of(str(name))) for name, variable in coordinates_noted.items()
    }
    first = {name: ragged_layout.first_values(variable) for name, variable in coordinates_noted.items()}
    rows = {
        name: known_rows(variable, encoding.get(name) or variable.encoding, here, str(name), first[name])
        for name, variable in coordinates_noted.items()
    }
    originals = {
        name: with_encoding(
            streamable(variable.copy(deep=False), whatever_size=rows[name] is not None),
            encoding.get(name),
            here.variable(str(name)),
            here,
        )
        for name, variable in coordinates_noted.items()
    }
    originals = {
        name: as_objects_known(name, variable, here, first[name]) if rows[name] is None else variable
        for name, variable in originals.items()
    }
    coded, global_attributes = cf_encoding.encoded(
        {name: without_width(variable) for name, variable in originals.items() if rows[name] is None},
        global_attributes,
        where=str(here),
        stored=here.target_of,
    )
    coded = {name: coded.get(name, variable) for name, variable in originals.items()}
    plans = [
        plan_variable(
            _NO_NAME if name is None else str(name),
            variable,
            originals[name],
            base,
            here,
            unlimited,
            strict=name in encoding,
            width=text_width(here.target_of(str(name))),
            rows=rows[name],
            first=first[name],
        )
        for name, variable in coded.items()
    ]
    if here.placement is not None:
        plans = [
            put_into(plan, original, here.variable(plan.name), here, dimensions)
            for plan, original in zip(plans, originals.values(), strict=True)
        ]
    grown, redeclared = grown_scales(plans, here, dimensions)
    own = own_dimensions(plans, sizes, unlimited, dimensions, here)
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
            check_only_values(plan, original, here.array(plan.name), dimensions, here)
    removed = () if here.placement is not None else _superseded(plans, arranged, here)
    emptied = tuple(
        DimensionPlan(name, scale.size, dimensions.grows(posixpath.join(here.path, name)), scale.number)
        for name, scale in (here.existing.scales if here.existing else {}).items()
        if name in removed
    )
    if here.placement is not None and here.existing is not None:  # those that are there stay as they are, untouched
        old = here.existing.attributes
        global_attributes = {
            name: value
            for name, value in global_attributes.items()
            if name not in old or not is_equal(old[name], value)
        }
    encoded = tuple(attributes.encode(global_attributes, where=str(here), leave_out=teller_of(dataset.encoding)))
    anew = (each.name for each in own if dimensions.waits(here.path, each.name) and each.name not in coded)
    removed = (*removed, *anew, *(each.name for each in redeclared))
    gone = {*removed, *(plan.name for plan in arranged if plan.action == "replace")}
    given_up = tuple(spec.info.address for spec in map(here.array, sorted(gone)) if spec is not None)
    return GroupPlan(here.path, encoded, own + emptied + redeclared, arranged, removed, given_up, grown)


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
    if name in group.datatypes:
        return "a committed datatype"
    for spec in group.variables:
        if spec.path == path:
            return "an array"
        if spec.name == name and spec.path != posixpath.join(group.path, NON_COORDINATE_PREFIX + name):
            return f"a link to the array {spec.path!r} of {spec.file}"
    if name in group.scales:
        return "a dimension"
    return next((f"something else ({node.reason})" for node in group.skipped if node.path == path), None)


def _check_names(dataset: Dataset, here: Here) -> None:
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


def _without_formless(dataset: Dataset, here: Here) -> Dataset:
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


def _placed(
    plan: VariablePlan, declared: Mapping[str, Scale], dimensions: Dimensions, here: Here, *, strict: bool
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
        datatype = present.info.datatype
        keeps_type = plan.layout.members == datatype.members and (here.keeps_arrays or datatype.kind != "time")
        fits = keeps_role and keeps_type and not strict and fits_in_place(plan.layout, present)
        fits = fits and not attributes.are_large(plan.attributes)  # the array there may not be made for those
        # r+ makes no array, and `check_only_values` asks for one that fits
        action = "set values" if fits or here.mode == "r+" else "replace"
    elif here.existing is not None and name in here.existing.scales:
        action = "replace"  # a dimension gets values
    return replace(plan, name=name, scales=scales, numbers=numbers, action=action, stored=present)


def _in_own_chunks(plan: VariablePlan, here: Here, request: WriteRequest, *, asked: bool) -> VariablePlan:
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


def _superseded(plans: Iterable[VariablePlan], arranged: Iterable[VariablePlan], here: Here) -> tuple[str, ...]:
    """Names of the arrays that hold a variable of the plan now, but under another name than it will have."""
    return tuple(
        name
        for plan, placed in zip(plans, arranged, strict=True)
        for name in {plan.name, NON_COORDINATE_PREFIX + plan.name} - {placed.name}
        if here.array(name) is not None
    )


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
        written = {variable.stored.info.address for variable in group.variables if variable.stored}
        for spec in present.variables if present is not None else ():
            if posixpath.basename(spec.path) not in ours and spec.info.address not in written:
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
