"""What libhdf5 says of a file, through h5py's low-level functions, and whether `hdf5.File` says the same."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5p, h5s, h5t

from xr_pytables.hdf5.attributes import Reference, Unreadable
from xr_pytables.hdf5.conversion import convert
from xr_pytables.hdf5.dataspace import UNLIMITED
from xr_pytables.hdf5.file import File
from xr_pytables.hdf5.object_header import FILL_VALUE, OLD_FILL_VALUE
from xr_pytables.sources.local import LocalFile

_CLASSES = {
    h5t.INTEGER: {"integer"}, h5t.FLOAT: {"float"}, h5t.TIME: {"time"}, h5t.STRING: {"string", "text"},
    h5t.BITFIELD: {"bitfield"}, h5t.OPAQUE: {"opaque"}, h5t.COMPOUND: {"compound", "complex"},
    h5t.REFERENCE: {"reference"}, h5t.ENUM: {"enum", "bool"}, h5t.VLEN: {"vlen"}, 11: {"complex"},
}  # fmt: skip
_PADDINGS = {h5t.STR_NULLTERM: "null-terminated", h5t.STR_NULLPAD: "null-padded", h5t.STR_SPACEPAD: "space-padded"}
_LAYOUTS = {h5d.COMPACT: "compact", h5d.CONTIGUOUS: "contiguous", h5d.CHUNKED: "chunked", h5d.VIRTUAL: "virtual"}


@contextlib.contextmanager
def opened(path) -> Iterator[File]:
    """A file, opened by the code under test."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield File(LocalFile(descriptor, str(path)))
    finally:
        os.close(descriptor)


def encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def assert_same_file(path) -> int:
    """Compare all objects of a file; how many there were."""
    with opened(path) as file, h5py.File(path, "r") as oracle:
        assert file.base_address == oracle.userblock_size
        waiting, seen = [(file.root, oracle["/"].id)], {file.root}
        while waiting:
            address, node = waiting.pop()
            assert file.kind(address) == {h5o.TYPE_GROUP: "group", h5o.TYPE_DATASET: "dataset"}.get(
                h5o.get_info(node).type, "datatype"
            )
            assert_same_attributes(file, address, node)
            if file.kind(address) == "dataset":
                assert_same_dataset(file, address, node)
            if file.kind(address) == "datatype":
                assert_same_type(file.datatype(address), node)
            if file.kind(address) != "group":
                continue
            assert_same_links(file, address, node)
            for link in file.links(address):
                if link.kind == "hard" and link.address not in seen:
                    seen.add(link.address)
                    waiting.append((link.address, h5o.open(node, encoded(link.name))))
    return len(seen)


def assert_same_links(file: File, address: int, node) -> None:
    group = h5g.open(node, b".")
    indexed = group.get_create_plist().get_link_creation_order() & h5p.CRT_ORDER_INDEXED
    names = []
    group.links.iterate(names.append, idx_type=h5_index(bool(indexed)), order=h5py.h5.ITER_INC)
    links = file.links(address)
    assert [encoded(link.name) for link in links] == names
    for link, name in zip(links, names, strict=True):
        kind = group.links.get_info(name).type
        assert link == file.link(address, link.name)
        if kind == h5l.TYPE_HARD:
            assert (link.kind, link.address) == ("hard", h5o.get_info(group, name).addr)
        elif kind == h5l.TYPE_SOFT:
            assert (link.kind, encoded(link.target)) == ("soft", group.links.get_val(name))
        else:
            assert (link.kind, tuple(encoded(link.target).split(b"\0"))) == ("external", group.links.get_val(name))
    assert file.link(address, "there is no such link") is None


def h5_index(by_creation: bool) -> int:
    return h5py.h5.INDEX_CRT_ORDER if by_creation else h5py.h5.INDEX_NAME


def assert_same_dataset(file: File, address: int, node) -> None:
    info, properties, space = file.dataset(address), node.get_create_plist(), node.get_space()
    stored, shape = element_type(node.get_type())
    assert info.datatype.shape == shape
    assert_same_type(info.datatype, stored)
    if space.get_simple_extent_type() == h5s.NULL:
        assert info.shape is None
        return
    assert info.shape == node.shape
    maxshape = tuple(UNLIMITED if length == h5s.UNLIMITED else length for length in space.get_simple_extent_dims(True))
    assert info.maxshape == maxshape
    assert info.layout == _LAYOUTS[properties.get_layout()]
    assert info.chunkshape == (properties.get_chunk() if info.layout == "chunked" else None)
    filters = [properties.get_filter(number) for number in range(properties.get_nfilters())]
    assert [(one.id, one.values, one.optional) for one in info.filters.filters] == [
        (code, values, bool(flags & 1)) for code, flags, values, _ in filters
    ]
    assert info.external == (info.layout == "contiguous" and properties.get_external_count() > 0)
    if info.layout == "contiguous" and node.get_storage_size() and not info.external:
        assert info.offset == node.get_offset()
        assert info.size == node.get_storage_size()
    assert_same_fill_value(file, info, node)
    assert_same_data(file.name, info, node)


def assert_same_fill_value(file: File, info, node) -> None:
    properties = node.get_create_plist()
    defined = properties.fill_value_defined()
    has_message = file.header(info.address).types & {OLD_FILL_VALUE, FILL_VALUE}
    if has_message:  # else zeros are assumed (IV.A.2.e), and libhdf5 calls that undefined
        assert (info.fill_value is None) == (defined == h5d.FILL_VALUE_UNDEFINED)
    datatype = info.datatype
    simple = datatype.exact and not datatype.shape and datatype.kind in ("integer", "float", "complex", "string")
    if has_message and simple and info.fill_value is not None and datatype.dtype.itemsize <= 8:
        expected = np.zeros((), datatype.dtype)
        properties.get_fill_value(expected)
        assert_same_values(file.fill_value(info), expected)
    if datatype.kind == "text" and info.fill_value is not None:
        assert file.fill_value(info)[()] == node_fill_value(node)


def node_fill_value(node) -> bytes:
    value = h5py.Dataset(node).fillvalue
    return value if isinstance(value, bytes) else (value or "").encode()


def assert_same_data(path: str, info, node) -> None:
    """Compact and contiguous data, at the place and of the type that the description gives."""
    if info.datatype.dtype is None or info.datatype.kind in ("reference", "time") or info.external:
        return
    if info.layout == "compact":
        data = info.data
    elif info.offset is not None:
        with open(path, "rb") as file:
            file.seek(info.offset)
            data = file.read(math.prod(info.shape) * info.datatype.itemsize)
    else:
        return
    stored = np.frombuffer(data, f"V{info.datatype.stored_size}")
    actual = convert(stored, info.datatype).reshape(info.shape + info.datatype.shape)
    assert_same_values(actual, h5py.Dataset(node)[()])


def assert_same_values(actual, expected) -> None:
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    if expected.dtype.kind == "O":  # references inside of compounds
        return
    if actual.dtype.names:
        assert actual.dtype.names == expected.dtype.names
        for name in actual.dtype.names:
            assert_same_values(actual[name], expected[name])
    elif actual.dtype.kind in "SVmM":
        assert actual.tobytes() == expected.tobytes()
    else:
        np.testing.assert_array_equal(actual, expected)


def element_type(stored):
    """The type without the array types around it, and their shape."""
    shape = ()
    while stored.get_class() == h5t.ARRAY:
        shape, stored = shape + stored.get_array_dims(), stored.get_super()
    return stored, shape


def assert_same_type(datatype, stored) -> None:
    assert datatype.kind in _CLASSES[stored.get_class()] | {"unsupported"}
    if stored.get_class() == h5t.STRING:
        assert (datatype.kind == "text") == stored.is_variable_str()
        assert datatype.utf8 == (stored.get_cset() == h5t.CSET_UTF8)
        assert datatype.padding == _PADDINGS[stored.get_strpad()]
    if stored.get_class() == h5t.ENUM:
        members = [stored.get_member_name(number) for number in range(stored.get_nmembers())]
        expected = [(name.decode(), stored.get_member_value(number)) for number, name in enumerate(members)]
        assert datatype.kind == "bool" or list(datatype.members) == expected
    if stored.get_class() == h5t.VLEN:
        base, shape = element_type(stored.get_super())
        assert datatype.base.shape == shape
        assert_same_type(datatype.base, base)
    if datatype.kind == "compound":
        assert [field.name.encode() for field in datatype.fields] == [
            stored.get_member_name(number) for number in range(stored.get_nmembers())
        ]
        for number, field in enumerate(datatype.fields):
            member, shape = element_type(stored.get_member_type(number))
            assert field.datatype.shape == shape
            assert_same_type(field.datatype, member)
            if datatype.dtype is not None:  # nothing of variable length, which is shorter in memory
                assert field.offset == stored.get_member_offset(number)
    if datatype.dtype is not None or stored.get_class() not in (h5t.COMPOUND, h5t.STRING):
        assert datatype.stored_size == stored.get_size()


def assert_same_attributes(file: File, address: int, node) -> None:
    found = file.attributes(address)
    names = []
    h5a.iterate(node, names.append)
    assert {encoded(name) for name in found} == set(names)
    for name, raw in found.items():
        attribute = h5a.open(node, encoded(name))
        assert_same_type(raw.datatype, element_type(attribute.get_type())[0])
        if attribute.get_space().get_simple_extent_type() == h5s.NULL:
            assert raw.value is None
            continue
        if isinstance(raw.value, Unreadable) or raw.datatype.kind == "time":
            continue
        expected = np.zeros(attribute.shape, attribute.dtype)
        if expected.size:
            is_array = attribute.get_type().get_class() == h5t.ARRAY
            attribute.read(expected, attribute.get_type() if is_array else None)
        assert_same_attribute(raw, expected, node)


def assert_same_attribute(raw, expected, node) -> None:
    flat = expected.reshape(-1).tolist() if expected.dtype.kind == "O" else []
    if isinstance(raw.value, list):
        rows = [[one] if isinstance(one, h5py.Reference) else list(one) for one in flat]
        addresses = [[address_of(reference, node) for reference in row] for row in rows]
        assert raw.value == [[Reference(address) for address in row] for row in addresses]
    elif raw.datatype.kind == "text":
        assert raw.value.reshape(-1).tolist() == [one or b"" for one in flat]
    elif raw.datatype.kind == "vlen":
        for actual, one in zip(raw.value.reshape(-1), flat, strict=True):
            np.testing.assert_array_equal(actual, one if one is not None else [])
    else:
        assert_same_values(raw.value, expected)


def address_of(reference: h5py.Reference, node) -> int:
    return h5o.get_info(h5py.h5r.dereference(reference, node)).addr if reference else 0
