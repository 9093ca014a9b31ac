"""Objects of one open HDF5 file made anew in another: groups, types, empty datasets, links, attributes, values.

What a dataset is comes from the creation properties that HDF5 gives of it, so all that HDF5 knows of it is kept.
Object references are made to point to the new objects. The caller holds the HDF5 lock; the source must be a sound file
(see `tools.verifying`), since libhdf5 reads it.

Tested in `tests/tools/test_repacking.py`.
"""

from __future__ import annotations

import ctypes
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..chunks.filters import FLETCHER32, SHUFFLE, FilterPipeline
from ..errors import HDF5Error
from . import libhdf5 as h5
from .libhdf5 import call, opened
from .target_file import access_properties

_AT_ONCE: Final = 1 << 23  # bytes of elements in memory that HDF5 converts at once


def create_like(source: str, target: str, *, oldest: int) -> None:
    """Make the file `target` with the creation properties of `source`: user block, order of links in its root.

    `oldest` is as for `TargetFile`.
    """
    h5.silence_this_thread()
    with (
        opened("H5Fopen", os.fsencode(source), h5.READ_ONLY, h5.DEFAULT) as file,
        opened("H5Fget_create_plist", file) as properties,
        opened("H5Oopen", file, b"/", h5.DEFAULT) as root,
        access_properties(oldest) as access,
    ):
        _keep_order(root, properties)
        opened("H5Fcreate", os.fsencode(target), h5.EXCLUSIVE, properties, access).close()


def copy_group(source: int, target: int, path: str) -> None:
    """Make the group at `path` of an open file in another one, without its members."""
    raw = h5.name_bytes(path)
    with (
        opened("H5Oopen", source, raw, h5.DEFAULT) as group,
        opened("H5Pcreate", h5.constant("H5P_CLS_GROUP_CREATE_ID_g")) as properties,
    ):
        _keep_order(group, properties)
        opened("H5Gcreate2", target, raw, h5.DEFAULT, properties, h5.DEFAULT).close()


def _keep_order(group: int, properties: int) -> None:
    """Have a group that is going to be made keep the order of its links and attributes, if another one does.

    (HDF5 1.14 gives as properties of a group also where its links lie; a group that is made with them is damaged.)
    """
    flags = ctypes.c_uint()
    with opened("H5Gget_create_plist", group) as old:
        for what in ("link", "attr"):
            call(f"H5Pget_{what}_creation_order", old, ctypes.byref(flags))
            if flags.value:
                call(f"H5Pset_{what}_creation_order", properties, flags.value)


def copy_type(source: int, target: int, path: str) -> None:
    """Make the committed datatype at `path` in another file."""
    raw = h5.name_bytes(path)
    with opened("H5Oopen", source, raw, h5.DEFAULT) as committed, opened("H5Tcopy", committed) as plain:
        call("H5Tcommit2", target, raw, plain, h5.DEFAULT, h5.DEFAULT, h5.DEFAULT)


def copy_array(
    source: int, target: int, path: str, *, chunks: Sequence[int] | None = None, filters: FilterPipeline | None = None
) -> None:
    """Make the dataset at `path` in another file, without values; in `chunks` and with `filters`, if they are given."""
    raw = h5.name_bytes(path)
    with (
        opened("H5Oopen", source, raw, h5.DEFAULT) as array,
        opened("H5Dget_create_plist", array) as properties,
        opened("H5Dget_type", array) as committed,
        opened("H5Tcopy", committed) as stored,
        opened("H5Dget_space", array) as space,
    ):
        if chunks is not None:
            call("H5Pset_layout", properties, h5.CHUNKED)
            call("H5Pset_chunk", properties, len(chunks), h5.sizes(chunks))
            call("H5Pset_alloc_time", properties, h5.ALLOC_TIME_INCR)
        if filters is not None:
            call("H5Premove_filter", properties, 0)  # H5Z_FILTER_ALL
            _add_filters(properties, filters)
        opened("H5Dcreate2", target, raw, stored, space, h5.DEFAULT, properties, h5.DEFAULT).close()


def _add_filters(properties: int, filters: FilterPipeline) -> None:
    for step in filters.filters:
        if step.id == FLETCHER32:
            call("H5Pset_fletcher32", properties)
            continue
        values = (ctypes.c_uint * max(len(step.values), 1))(*step.values)
        count = 0 if step.id == SHUFFLE else len(step.values)
        call("H5Pset_filter", properties, step.id, int(step.optional), count, values)


def link_hard(target: int, old: str, path: str) -> None:
    """Give the object at `old` another path."""
    call("H5Lcreate_hard", target, h5.name_bytes(old), target, h5.name_bytes(path), h5.DEFAULT, h5.DEFAULT)


def link_soft(target: int, leads_to: str, path: str) -> None:
    """Make a soft link at `path`."""
    call("H5Lcreate_soft", h5.name_bytes(leads_to), target, h5.name_bytes(path), h5.DEFAULT, h5.DEFAULT)


def link_external(target: int, file: str, inside: str, path: str) -> None:
    """Make an external link at `path` to a path inside a file."""
    call(
        "H5Lcreate_external", h5.name_bytes(file), h5.name_bytes(inside), target, h5.name_bytes(path), h5.DEFAULT,
        h5.DEFAULT,
    )  # fmt: skip


# -- values and attributes ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class References:
    """What becomes of references in values: those to objects lead to the new ones, or nowhere."""

    moved: Mapping[int, int]
    """Addresses of the new objects by those of the old ones."""

    def to_object(self, address: int) -> int:
        """What takes the place of a reference to an object."""
        return self.moved.get(address, 0)

    def to_region(self, heap: int, number: int) -> None:
        """Raise ValueError for a reference to a region, the object `number` of a heap, that cannot stay as it is."""
        raise ValueError("references to regions are not copied here")


def copy_attributes(
    old: int, new: int, references: References | None = None, *, but: Callable[[str], bool] = lambda _: False
) -> None:
    """All attributes of an object, whatever they hold, to another one; without `references` those in them stay.

    Attributes of names that are `but` for are left out.
    """
    for number in range(call("H5Aget_num_attrs", old)):
        with _attribute(old, number) as attribute:
            _copy_attribute(attribute, new, references, but)


def _attribute(node: int, number: int) -> h5.Identifier:
    """An attribute by its place: in the order of creation where that is kept, else as HDF5 lists them."""
    where = node, b".", h5.INDEX_CREATION_ORDER, h5.INCREASING, number, h5.DEFAULT, h5.DEFAULT
    try:
        return opened("H5Aopen_by_idx", *where)
    except HDF5Error:
        return opened("H5Aopen_by_idx", node, b".", h5.INDEX_NAME, h5.NATIVE_ORDER, number, h5.DEFAULT, h5.DEFAULT)


def _copy_attribute(attribute: int, node: int, references: References | None, but: Callable[[str], bool]) -> None:
    size = call("H5Aget_name", attribute, 0, None)
    name = ctypes.create_string_buffer(size + 1)
    call("H5Aget_name", attribute, size + 1, name)
    if but(name.value.decode("utf-8", "surrogateescape")):
        return
    with (
        opened("H5Aget_type", attribute) as committed,
        opened("H5Tcopy", committed) as stored,
        opened("H5Aget_space", attribute) as space,
        opened("H5Acreate2", node, name.value, stored, space, h5.DEFAULT, h5.DEFAULT) as created,
    ):
        _copy_value(attribute, created, stored, space, references)


def _copy_value(old: int, new: int, stored: int, space: int, references: References | None) -> None:
    """The value of an attribute to another one; if they are one, only where a reference changes."""
    count = _points(space)
    if not count:
        return
    buffer = np.zeros(count * call("H5Tget_size", stored), np.uint8)
    call("H5Aread", old, stored, buffer.ctypes.data)
    try:
        if _point_to_new(stored, buffer.ctypes.data, count, references) or new != old:
            call("H5Awrite", new, stored, buffer.ctypes.data)
    finally:
        _reclaim(stored, space, buffer)


def change_attribute(node: int, name: str, references: References) -> None:
    """Have the references in an attribute lead to the new objects."""
    with (
        opened("H5Aopen", node, h5.name_bytes(name), h5.DEFAULT) as attribute,
        opened("H5Aget_type", attribute) as committed,
        opened("H5Tcopy", committed) as stored,
        opened("H5Aget_space", attribute) as space,
    ):
        _copy_value(attribute, attribute, stored, space, references)


def _points(space: int) -> int:
    if call("H5Sget_simple_extent_type", space) == h5.NULL_SPACE:
        return 0
    return int(call("H5Sget_simple_extent_npoints", space))


def _reclaim(stored: int, space: int, buffer: NDArray[np.uint8]) -> None:
    """Free what HDF5 allocated for values of variable length."""
    if _has(stored, h5.VLEN):
        call("H5Dvlen_reclaim", stored, space, h5.DEFAULT, buffer.ctypes.data)


def _has(stored: int, kind: int) -> bool:
    """Whether a type is, or holds, one of a class; text of variable length counts for VLEN."""
    if call("H5Tdetect_class", stored, kind) > 0:
        return True
    if kind != h5.VLEN:
        return False
    return any(call("H5Tis_variable_str", each) > 0 for each in _with_members(stored))


def _with_members(stored: int) -> Iterator[int]:
    """A type and the types in it."""
    yield stored
    kind = call("H5Tget_class", stored)
    if kind == h5.COMPOUND:
        for number in range(call("H5Tget_nmembers", stored)):
            with opened("H5Tget_member_type", stored, number) as member:
                yield from _with_members(member)
    elif kind in (h5.ARRAY, h5.VLEN):
        with opened("H5Tget_super", stored) as base:
            yield from _with_members(base)


def copy_values(source: int, target: int, path: str, references: References, done: Callable[[int], None]) -> None:
    """The values of the dataset at `path`, through HDF5, in blocks of rows; within one file those that change."""
    raw = h5.name_bytes(path)
    with (
        opened("H5Oopen", source, raw, h5.DEFAULT) as old,
        opened("H5Oopen", target, raw, h5.DEFAULT) as new,
        opened("H5Dget_type", old) as committed,
        opened("H5Tcopy", committed) as stored,
        opened("H5Dget_space", old) as space,
    ):
        extent = h5.space_shape(space)
        if extent is None or 0 in extent[0]:
            return
        shape, size = extent[0], call("H5Tget_size", stored)
        for start, block in _blocks(shape, size):
            buffer = np.zeros(math.prod(block) * size, np.uint8)
            if shape:
                call("H5Sselect_hyperslab", space, 0, h5.sizes(start), None, h5.sizes(block), None)
            with h5.simple_space(block) as memory:
                call("H5Dread", old, stored, memory, space, h5.DEFAULT, buffer.ctypes.data)
                try:
                    if _point_to_new(stored, buffer.ctypes.data, math.prod(block), references) or target != source:
                        call("H5Dwrite", new, stored, memory, space, h5.DEFAULT, buffer.ctypes.data)
                finally:
                    _reclaim(stored, memory, buffer)
            done(buffer.size)


def _blocks(shape: tuple[int, ...], itemsize: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(start, shape) of blocks of rows, one behind the other; rows that are too long are cut."""
    if not shape:
        yield (), ()
        return
    row = math.prod(shape[1:]) * itemsize
    step = max(1, _AT_ONCE // max(row, 1))
    for start in range(0, shape[0], step):
        length = min(step, shape[0] - start)
        if length > 1 or row <= _AT_ONCE or len(shape) == 1:
            yield (start, *(0 for _ in shape[1:])), (length, *shape[1:])
            continue
        for inner, block in _blocks(shape[1:], itemsize):
            yield (start, *inner), (1, *block)


def _point_to_new(stored: int, address: int, count: int, references: References | None) -> bool:
    """Change the references in `count` elements in memory at `address`; whether there was anything to change.

    Raises ValueError for references that cannot be changed: to regions, or the new ones of HDF5 1.12.
    """
    if references is None or not count or call("H5Tdetect_class", stored, h5.REFERENCE) <= 0:
        return False
    return _change(stored, address, count, call("H5Tget_size", stored), references)


def _change(stored: int, address: int, count: int, stride: int, references: References) -> bool:
    kind, changes = call("H5Tget_class", stored), False
    if kind == h5.REFERENCE:
        changes = _change_references(stored, address, count, stride, references)
    elif kind == h5.COMPOUND:
        for number in range(call("H5Tget_nmembers", stored)):
            with opened("H5Tget_member_type", stored, number) as member:
                if call("H5Tdetect_class", member, h5.REFERENCE) > 0:
                    offset = call("H5Tget_member_offset", stored, number)
                    changes |= _change(member, address + offset, count, stride, references)
    elif kind == h5.ARRAY:
        with opened("H5Tget_super", stored) as base:
            size = call("H5Tget_size", base)
            for place in range(call("H5Tget_size", stored) // size):
                changes |= _change(base, address + place * size, count, stride, references)
    elif kind == h5.VLEN:
        with opened("H5Tget_super", stored) as base:
            size = call("H5Tget_size", base)
            for number in range(count):
                row = h5.VariableLength.from_address(address + number * stride)
                if row.length:
                    changes |= _change(base, row.pointer, row.length, size, references)
    return changes


def _change_references(stored: int, address: int, count: int, stride: int, references: References) -> bool:
    size = call("H5Tget_size", stored)
    room = memoryview((ctypes.c_uint8 * ((count - 1) * stride + size)).from_address(address))
    if call("H5Tequal", stored, h5.constant("H5T_STD_REF_OBJ_g")) > 0:
        values: NDArray[Any] = np.ndarray((count,), np.uint64, room, strides=(stride,))
        old = values.tolist()
        new = [references.to_object(value) for value in old]
        values[:] = new
        return bool(new != old)
    if call("H5Tequal", stored, h5.constant("H5T_STD_REF_DSETREG_g")) <= 0:
        raise ValueError("references of the kind that HDF5 1.12 brought are not copied here")
    for place in range(0, count * stride, stride):
        references.to_region(*struct.unpack_from("<QI", room, place))
    return False
