"""Variables whose arrays are in the file already: values that are put into them.

Tested in `tests/writing/test_appending.py`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import dask.array
import numpy as np
from xarray import Dataset, Variable

from ..disk.files import FileIdentity
from ..library.libhdf5 import UNLIMITED
from ..library.target_file import ArrayLayout
from ..model.forms import Form
from ..model.specs import VariableSpec
from . import cf_encoding, layouts, ragged_layout
from .agreement import check_attributes, fits_in_place
from .group_dimensions import Dimensions, dimensions_of
from .here import STREAM_BYTES, Here, are_named, in_blocks, stored_variable
from .placement import Placement, Region, check_same_coordinate, checked_region
from .plans import VariablePlan


def placed_in_file(
    dataset: Dataset, here: Here, append_dim: str | None, region: object | None, unlimited: Any, dimensions: Dimensions
) -> tuple[Dataset, Here, Any]:
    """`dataset` as far as it is written with `append_dim` and `region`, and the group with where the values go.

    A group that has nothing yet, or nothing with the dimension that it declares, is written as without the two, with a
    dimension that can grow. Raises ValueError where the dataset has the dimension and the group has not.
    """
    present = here.existing
    is_new = present is None or not (present.variables or present.scales)
    if is_new or (append_dim is not None and region is None and dimensions.waits(here.path, append_dim)):
        if region is not None:
            raise ValueError(f"{here}: there is nothing in this group that a region could be part of")
        if append_dim is not None:
            dataset = cf_encoding.with_seconds(dataset, append_dim)
        asked = [] if unlimited is None else [unlimited] if isinstance(unlimited, str) else list(unlimited)
        return dataset, here, [*asked, append_dim] if append_dim in dataset.dims else unlimited
    is_there = append_dim in dimensions_of(present)
    if append_dim in dataset.dims and not is_there and not _is_of_unnamed(append_dim, dataset, here):
        raise ValueError(
            f"{here}: append_dim={append_dim!r} does not match any existing dataset dimensions "
            f"{sorted(dimensions_of(present))}"
        )
    slices: Region = {}
    if region is not None:
        dataset, slices = checked_region(dataset, region, append_dim=append_dim, where=str(here), stored=here.stored)
    if append_dim is not None:
        for dim in dataset.dims:
            if dim != append_dim and dim not in slices:
                check_same_coordinate(dataset, str(dim), str(here), here.stored)
    return dataset, replace(here, placement=Placement(append_dim, slices)), unlimited


def _is_of_unnamed(dim: str | None, dataset: Dataset, here: Here) -> bool:
    """Whether a variable calls by that name a dimension of its array that the file does not name."""
    arrays = ((variable.dims, here.variable(str(name))) for name, variable in dataset.variables.items())
    return any(
        own == dim and not named
        for dims, spec in arrays
        if spec is not None
        for own, named in zip(dims, are_named(spec, here), strict=False)
    )


def put_into(
    plan: VariablePlan, original: Variable, spec: VariableSpec | None, here: Here, dimensions: Dimensions
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
    check_attributes(plan, original, spec, here)
    stored = _stored_layout(spec, shape)
    axes = [axis for axis, (old, new) in enumerate(zip(spec.shape, shape, strict=True)) if new > old]
    name = posixpath.basename(spec.path)
    if not axes and not placement.region and here.version is not None and _has_values(plan, spec, here.version):
        return replace(plan, name=name, layout=stored, start=start, stored=spec, action="keep")
    if all(spec.info.maxshape[axis] == UNLIMITED for axis in axes):
        return replace(plan, name=name, layout=stored, start=start, stored=spec, action="put", attributes=())
    if set(plan.dims) & set(placement.region):
        raise ValueError(
            f"{label}: the array cannot grow along {placement.append_dim!r}, so that appending makes it anew, which "
            "does not go together with region. Append without region first"
        )
    return _rewritten(replace(plan, name=name), spec, stored, axes, here)


def _has_values(plan: VariablePlan, spec: VariableSpec, version: FileIdentity) -> bool:
    """Whether the array in the file has these very values: most often coordinates that do not grow."""
    if isinstance(plan.data, dask.array.Array) or plan.data.nbytes > STREAM_BYTES:
        return False
    if plan.layout.row_dtype is not None:
        return False  # rows are compared by writing them
    stored = stored_variable(spec, version).values
    if spec.form in (Form.FIXED_TEXT, Form.TIME64):
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
        utf8=info.datatype.utf8,
    )


def _rewritten(
    plan: VariablePlan, spec: VariableSpec, stored: ArrayLayout, axes: Sequence[int], here: Here
) -> VariablePlan:
    """The array made anew, such that it can grow: what is in the file, and the new values behind it."""
    assert here.version is not None  # there is an array, so there is a file
    if spec.info.datatype.kind == "time":
        raise ValueError(
            f"{here}: array {plan.name!r} of PyTables' times cannot grow, and such arrays are not made. Replace it "
            "with mode='a' alone, with all of its values"
        )
    old = in_blocks(stored_variable(spec, here.version), spec)
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
        attributes=tuple(item for item in plan.attributes if item.name in ragged_layout.MARKS),
        keeps_attributes=True,
        data=dask.array.concatenate(parts, axis=axes[0]),
        action="replace",
    )
