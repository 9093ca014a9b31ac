"""Numbers of any layout become what libhdf5 makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from h5py import h5t
from hypothesis import assume, given
from hypothesis import strategies as st

from xr_pytables.hdf5.conversion import convert
from xr_pytables.hdf5.datatype import decode_datatype

from ..helpers_properties import examples


def described(stored: h5t.TypeID):
    """The code under test's description of a type, from the bytes that HDF5 would write."""
    return decode_datatype(stored.encode()[2:])  # in front: what is encoded, and a version


def as_libhdf5_reads(stored: h5t.TypeID, data: bytes, dtype: np.dtype) -> np.ndarray:
    """The elements converted to `dtype` by libhdf5."""
    count = len(data) // stored.get_size()
    buffer = np.zeros(count * max(stored.get_size(), dtype.itemsize), np.uint8)
    buffer[: len(data)] = np.frombuffer(data, np.uint8)
    h5t.convert(stored, h5t.py_create(dtype), count, buffer)
    return buffer[: count * dtype.itemsize].view(dtype)


def assert_converted_alike(stored: h5t.TypeID, data: bytes) -> None:
    datatype = described(stored)
    assert datatype.stored_size == stored.get_size()
    actual = convert(np.frombuffer(data, f"V{stored.get_size()}"), datatype)
    expected = as_libhdf5_reads(stored, data, datatype.dtype)
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


@st.composite
def integers(draw) -> h5t.TypeID:
    stored = draw(st.sampled_from([h5t.STD_I32LE, h5t.STD_I32BE, h5t.STD_U32LE, h5t.STD_U32BE])).copy()
    stored.set_size(draw(st.integers(1, 8)))
    bits = 8 * stored.get_size()
    precision = draw(st.integers(2, bits))
    stored.set_precision(precision)
    stored.set_offset(draw(st.integers(0, bits - precision)))
    # libhdf5 swaps the bytes of such and forgets that not all of their bits count
    whole_bytes = stored.get_order() == h5t.ORDER_BE and not stored.get_offset() and stored.get_size() in (1, 2, 4, 8)
    assume(not whole_bytes or precision == bits)
    return stored


@given(stored=integers(), seed=st.integers(0, 1000))
@examples(150)
def test_integers_of_any_size_precision_and_offset(stored, seed):
    assert_converted_alike(stored, np.random.default_rng(seed).bytes(stored.get_size() * 20))


@st.composite
def floats(draw) -> h5t.TypeID:
    size = draw(st.sampled_from([1, 2, 3, 4, 8]))
    exponent = draw(st.integers(2, min(8 * size - 2, 11)))
    mantissa = draw(st.integers(1, min(8 * size - 1 - exponent, 52)))
    gap = draw(st.integers(0, 8 * size - 1 - exponent - mantissa))
    stored = draw(st.sampled_from([h5t.IEEE_F64LE, h5t.IEEE_F64BE])).copy()
    stored.set_fields(gap + mantissa + exponent, gap + mantissa, exponent, gap, mantissa)
    stored.set_precision(gap + mantissa + exponent + 1)
    stored.set_size(size)
    stored.set_ebias(draw(st.integers(1, (1 << exponent) - 2)))
    return stored


@given(stored=floats(), seed=st.integers(0, 1000))
@examples(150)
def test_floats_of_any_layout(stored, seed):
    assert_converted_alike(stored, np.random.default_rng(seed).bytes(stored.get_size() * 30))


@pytest.mark.parametrize(
    "fields", [(31, 23, 8, 0, 23, 4, 129), (63, 55, 8, 0, 55, 8, 129), (63, 52, 11, 0, 52, 8, 1025)]
)
def test_floats_of_vax(fields):
    stored = h5t.IEEE_F64LE.copy()
    stored.set_fields(*fields[:5])
    stored.set_precision(8 * fields[5])
    stored.set_size(fields[5])
    stored.set_ebias(fields[6])
    stored.set_order(h5t.ORDER_VAX)
    assert_converted_alike(stored, np.random.default_rng(0).bytes(stored.get_size() * 50))


@pytest.mark.parametrize("fields", [(15, 7, 8, 0, 7, 2, 127), (7, 3, 4, 0, 3, 1, 7), (7, 2, 5, 0, 2, 1, 15)])
def test_small_floats(fields):
    """bfloat16, and the two of 8 bits."""
    stored = h5t.IEEE_F32LE.copy()
    stored.set_fields(*fields[:5])
    stored.set_size(fields[5])
    stored.set_ebias(fields[6])
    every = np.arange(1 << 8 * stored.get_size()).astype(f"u{stored.get_size()}").tobytes()
    assert_converted_alike(stored, every)


def test_80_bit_floats_in_the_other_byte_order():
    stored = h5t.NATIVE_LDOUBLE.copy()
    stored.set_order(h5t.ORDER_BE)
    datatype = described(stored)
    numbers = np.array([1.5, -2.25, 1e300, 0.1], "g")
    assert not datatype.exact
    np.testing.assert_array_equal(convert(numbers.byteswap().view("V16"), datatype), numbers)


def test_members_of_a_compound_are_converted_where_they_are_odd():
    short = h5t.STD_I16LE.copy()
    short.set_precision(9)
    record = h5t.create(h5t.COMPOUND, 12)
    record.insert(b"odd", 2, h5t.array_create(short, (2,)))
    record.insert(b"plain", 8, h5t.IEEE_F32BE)
    datatype = described(record)
    assert (datatype.exact, datatype.dtype) == (False, np.dtype([("odd", "i2", (2,)), ("plain", ">f4")]))
    data = np.zeros(
        3, np.dtype({"names": ["odd", "plain"], "formats": [("<i2", (2,)), ">f4"], "offsets": [2, 8], "itemsize": 12})
    )
    data["odd"], data["plain"] = [[1, -1], [255, 256], [0x7E03, -256]], [1, 2, 3]
    found = convert(data.view("V12"), datatype)
    np.testing.assert_array_equal(found["odd"], [[1, -1], [255, -256], [3, -256]])
    np.testing.assert_array_equal(found["plain"], [1, 2, 3])
    assert datatype.view_of(["plain"]) == np.dtype(
        {"names": ["plain"], "formats": [">f4"], "offsets": [8], "itemsize": 12}
    )


@pytest.mark.parametrize("bias", [1, 127, 250])
def test_floats_of_another_bias_keep_their_range(bias):
    """Eight bits of an exponent fit into float32 where they mean its exponents only."""
    stored = h5t.IEEE_F32LE.copy()
    stored.set_ebias(bias)
    data = np.array([1.5, -3e38, 1.2e-38, 0.0], "f4")
    datatype = described(stored)
    assert datatype.dtype == ("f4" if bias == 127 else "f8")
    expected = data.astype("f8") * 2.0 ** (127 - bias)
    np.testing.assert_array_equal(convert(data.view("V4"), datatype), expected)
