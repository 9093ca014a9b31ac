"""The structure of a plan in an open file: groups, dimensions, attributes, and arrays without values.

Tested in `tests/writing/test_writing.py`.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Collection
from typing import Final

import numpy as np

from ..library.libhdf5 import UNLIMITED
from ..library.moved_references import lead_to_new
from ..library.object_copy import copy_attributes
from ..library.target_file import ArrayLayout, TargetFile
from ..model.attributes import COMPACT_BYTES, EncodedAttribute, are_large, is_reserved, text
from .layouts import GROWING_CHUNK
from .plans import DimensionPlan, GroupPlan, VariablePlan, WritePlan


def write_structure(file: TargetFile, plan: WritePlan) -> None:
    """Everything but values. `r+` leaves all of it as it is.

    Raises ValueError for what can only be known now: an object in the file cannot hold an attribute.
    """
    if plan.mode == "r+":
        assert not any(variable.action in ("create", "replace") for _, variable in plan)  # nobody would make those
        return
    given_up = _given_up(file, plan)
    try:
        for group in plan.groups:
            _write_group(file, group, {*filter(plan.indexes.get, plan.indexes), *plan.longer})
        if given_up:
            lead_to_new(file, given_up)
    except ValueError as error:
        raise ValueError(f"{plan.path}:{error}") from None
    written = [
        (posixpath.join(group.path, variable.name), variable.scales, variable.numbers)
        for group, variable in plan
        if not variable.is_coordinate and variable.action not in ("put", "keep")
    ]
    file.attach_scales([*written, *((each.path, each.scales, each.numbers) for each in plan.attachments)])


def _write_group(file: TargetFile, group: GroupPlan, indexed: Collection[str]) -> None:
    """The group, its dimensions, and its arrays without values.

    Indexes of a table as it was are removed, but of the tables `indexed`: there they go on, or others take their room.
    """
    file.require_group(group.path, large_attributes=are_large(group.attributes))
    if group.attributes:
        file.write_attributes(group.path, group.attributes)
    for name in group.removed:
        file.remove(posixpath.join(group.path, name))
    values_of = {variable.name: variable for variable in group.variables if variable.is_coordinate}
    for dimension in group.dimensions:
        if dimension.name not in values_of:
            path = posixpath.join(group.path, dimension.name)
            file.create_array(path, _empty_scale(dimension))
            file.mark_scale(path, number=dimension.number, coordinate=False, size=dimension.size)
    for path, size in group.grown:
        file.resize_scale(path, size)
    for variable in group.variables:
        path, index = (posixpath.join(group.path, name) for name in (variable.name, f"_i_{variable.name}"))
        if variable.is_table and path not in indexed and file.exists(index):
            file.remove(index)
        if variable.action == "put" and variable.attributes:
            file.write_attributes(path, variable.attributes)
        if variable.action in ("put", "keep"):
            continue
        if variable.action == "set values":
            file.remove_attributes(path, file.user_attributes(path))
        elif variable.keeps_attributes:
            _make_anew(file, path, variable)
        else:
            if variable.action == "replace":
                file.remove(path)
            file.create_array(path, variable.layout, large_attributes=are_large(variable.attributes))
        file.write_attributes(path, variable.attributes)
        if variable.is_coordinate and variable.action != "set values":
            number = variable.numbers[0] if variable.numbers else None
            file.mark_scale(path, number=number, coordinate=True, size=variable.layout.shape[0])


def _given_up(file: TargetFile, plan: WritePlan) -> dict[int, str]:
    """Address and path of each object that is going to be removed; without those that keep a name (hard links)."""
    paths = {posixpath.join(group.path, name) for group in plan.groups for name in group.removed}
    paths |= {posixpath.join(group.path, variable.name) for group, variable in plan if variable.action == "replace"}
    if not paths:
        return {}
    with file.on_disk() as stored:
        addresses = {path: stored.resolve(path).address for path in sorted(paths)}
        names = Counter(addresses.values())
        return {address: path for path, address in addresses.items() if stored.link_count(address) == names[address]}


def _make_anew(file: TargetFile, path: str, variable: VariablePlan) -> None:
    """An array in the place of another one, with its title and all attributes that are not about how it is stored."""
    stored, layout = file.stored_attributes(path), variable.layout
    large = any(getattr(attribute.value, "nbytes", 0) > COMPACT_BYTES for attribute in stored.values())
    kind, title = text(stored.get("CLASS")), text(stored.get("TITLE"))
    growing = [axis for axis, size in enumerate(layout.maxshape or ()) if size == UNLIMITED]
    is_earray = kind in _ARRAYS and len(growing) == 1 and not variable.is_coordinate  # which is a scale for HDF5
    with file.open(path) as old:
        file.remove(path)
        file.create_array(path, layout, large_attributes=large)
        with file.open(path) as new:
            kept = () if variable.is_coordinate else ("DIMENSION_LIST",)
            copy_attributes(old, new, but=lambda name: is_reserved(name) and name not in kept)
    found: dict[str, object] = {}
    if is_earray:
        found = {"CLASS": b"EARRAY", "VERSION": b"1.1", "EXTDIM": np.int32(growing[0])}
    if title and (is_earray or kind == "VLARRAY"):
        found["TITLE"] = title.encode()
    elif title and "title" not in stored:  # where it is none of PyTables' any more, as users see it
        found["title"] = title.encode()
    file.write_attributes(path, [EncodedAttribute(name, np.array(value), utf8=True) for name, value in found.items()])


_ARRAYS: Final = ("ARRAY", "CARRAY", "EARRAY")
"""PyTables' classes of arrays."""


def _empty_scale(dimension: DimensionPlan) -> ArrayLayout:
    """An array that stands for a dimension without values; nothing of it is ever allocated."""
    if not dimension.unlimited:
        return ArrayLayout((dimension.size,), np.dtype("f4"))
    return ArrayLayout((dimension.size,), np.dtype("f4"), maxshape=(UNLIMITED,), chunkshape=(GROWING_CHUNK,))
