"""Types within types, attributes and layouts of any kind, in each version of the format, as libhdf5 has them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from h5py import h5t
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables.hdf5.file import File
from xr_pytables.sources.buffer import Buffer

from ..helpers_properties import examples
from .helpers_corpus import VERSIONS
from .helpers_oracle import assert_same_attributes, assert_same_type, element_type

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
NUMBERS = ["<i1", "<i2", ">i4", "<u8", "<f2", ">f4", "<f8", "<c8", ">c16", "?", "S3", "V5"]


@st.composite
def compounds(draw, inner) -> h5t.TypeID:
    members = draw(st.dictionaries(NAMES, inner, min_size=1, max_size=4))
    gaps = draw(st.lists(st.integers(0, 300), min_size=len(members), max_size=len(members)))
    record = h5t.create(h5t.COMPOUND, sum(gaps) + sum(member.get_size() for member in members.values()))
    place = 0
    for (name, member), gap in zip(members.items(), gaps, strict=True):
        record.insert(name.encode(), place + gap, member)
        place += gap + member.get_size()
    return record


@st.composite
def enumerations(draw) -> h5t.TypeID:
    members = draw(st.dictionaries(NAMES, st.integers(-128, 127), min_size=1, max_size=5))
    values = list(dict.fromkeys(members.values()))
    enum = h5t.enum_create(draw(st.sampled_from([h5t.STD_I8LE, h5t.STD_I32BE])))
    for name, value in zip(members, values, strict=False):
        enum.enum_insert(name.encode(), value)
    return enum


@st.composite
def strings(draw) -> h5t.TypeID:
    text = h5t.C_S1.copy()
    text.set_size(draw(st.sampled_from([1, 7, 300, h5t.VARIABLE])))
    text.set_cset(draw(st.sampled_from([h5t.CSET_ASCII, h5t.CSET_UTF8])))
    text.set_strpad(draw(st.sampled_from([h5t.STR_NULLTERM, h5t.STR_NULLPAD, h5t.STR_SPACEPAD])))
    return text


SIMPLE = st.one_of(
    st.sampled_from(NUMBERS).map(lambda code: h5t.py_create(np.dtype(code))),
    st.sampled_from([h5t.STD_REF_OBJ, h5t.STD_B16LE, h5t.UNIX_D32BE]),
    strings(),
    enumerations(),
)
TYPES = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        compounds(inner),
        st.builds(h5t.array_create, inner, st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)),
        st.builds(h5t.vlen_create, inner),
    ),
    max_leaves=5,
)


@pytest.mark.parametrize("version", ["earliest", "1.8", "1.12", "2.0"])
@given(stored=TYPES)
@examples(40)
def test_nested_types(version, stored):
    with h5py.File("none.h5", "w", driver="core", backing_store=False, libver=VERSIONS[version]) as oracle:
        stored.copy().commit(oracle.id, b"a")
        oracle.flush()
        file = File(Buffer(oracle.id.get_file_image()))
        found = file.datatype(file.resolve("/a").address)
        expected, shape = element_type(h5t.open(oracle.id, b"a"))
        assert found.shape == shape
        assert_same_type(found, expected)


ARRAYS = st.tuples(
    st.sampled_from(["i1", ">i2", "<u4", "f2", ">f8", "c8", "?", "S4"]),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.integers(0, 2**31),
)


@pytest.mark.parametrize("version", ["earliest", "1.10", "2.0"])
@given(attributes=st.dictionaries(NAMES, st.one_of(ARRAYS, st.lists(st.text(), max_size=3), st.text()), max_size=12))
@examples(25)
def test_attributes(version, attributes):
    with h5py.File("none.h5", "w", driver="core", backing_store=False, libver=VERSIONS[version]) as oracle:
        for name, value in attributes.items():
            if isinstance(value, tuple):
                code, shape, seed = value
                value = np.random.default_rng(seed).integers(0, 100, shape).astype(code)
            elif isinstance(value, str):
                value = value.replace("\0", "")
            else:
                value = np.array([text.replace("\0", "") for text in value], h5py.string_dtype())
            oracle.attrs[name] = value
        oracle.flush()
        file = File(Buffer(oracle.id.get_file_image()))
        assert_same_attributes(file, file.root, oracle["/"].id)
