"""Numbers into the form in which they are stored: NumPy's own arithmetic is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xr_pytables.writing.fitting import Packing, as_read, cast, checked, packed

HUNDREDTHS = Packing(np.dtype("i2"), 0.01, 280.0, -32768)


def test_packing_is_what_numpy_computes_in_double_precision():
    values = np.random.default_rng(0).normal(280, 50, (300, 70, 9)).astype("f4")
    values[::7] = np.nan
    wanted = np.rint((values[:, ::2].astype("f8") - 280.0) / 0.01)
    found = packed(values[:, ::2], HUNDREDTHS, "v")
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, np.where(np.isnan(wanted), -32768, wanted))


@pytest.mark.parametrize("value", [280 + 327.68, 280 - 327.69, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("shape", [(), (1,), (3, 70000)], ids=str)
def test_a_value_outside_of_the_packed_range_is_named(value, shape):
    values = np.full(shape, 280.0)
    values[(-1,) * len(shape)] = value
    with pytest.raises(
        ValueError, match=r"^v: .* does not fit: int16 with scale_factor=0.01 and add_offset=280"
    ) as told:
        packed(values, HUNDREDTHS, "v")
    assert f"{value}" in str(told.value)
    assert "holds -47.68 to 607.67" in str(told.value)


def test_what_would_be_packed_to_the_fill_value_is_refused():
    with pytest.raises(ValueError, match=r"-47.68 would be stored as -32768, which is the _FillValue and reads as"):
        packed(np.array([280.0, -47.68]), HUNDREDTHS, "v")
    np.testing.assert_array_equal(packed(np.array([np.nan, -47.67]), HUNDREDTHS, "v"), [-32768, -32767])


def test_missing_values_need_a_fill_value():
    with pytest.raises(ValueError, match="NaN has no form in int16 without a _FillValue"):
        packed(np.array([1.0, np.nan]), Packing(np.dtype("i2")), "v")
    np.testing.assert_array_equal(
        packed(np.array([np.nan] * 2), Packing(np.dtype("u8"), fill=2**64 - 1), "v"), 2**64 - 1
    )


@pytest.mark.parametrize("dtype", ["i1", "u2", "i4", "u4", "i8", "u8"])
def test_the_limits_of_integers_fit_and_what_is_beyond_does_not(dtype):
    limits = np.iinfo(dtype)
    for value, beyond in ((float(limits.min), -1.0), (float(limits.max), 1.0)):
        whole = float(np.nextafter(value, 0)) if not limits.min <= int(value) <= limits.max else value
        assert packed(np.array([whole]), Packing(np.dtype(dtype)), "v").tolist() == [round(whole)]
        outside = whole + beyond if abs(value) < 2**53 else np.nextafter(whole, beyond * np.inf)
        with pytest.raises(ValueError, match="does not fit"):
            packed(np.array([outside]), Packing(np.dtype(dtype)), "v")


REFUSED = {
    "finite to infinite": (
        np.array([1.0, 1e39]),
        Packing(np.dtype("f4")),
        "1e\\+39 does not fit: float32 ends at 3.4",
    ),
    "scaled to infinite": (np.array([1e30]), Packing(np.dtype("f4"), 1e-20), "1e\\+30 does not fit"),
    "beside infinite": (np.array([np.inf, -1e39]), Packing(np.dtype("f4")), "-1e\\+39 does not fit"),
    "wide integers": (np.array([1, 300]), Packing(np.dtype("i1")), "300 does not fit: int8 holds -128 to 127"),
    "negative": (np.array([-1]), Packing(np.dtype("u8")), "-1 does not fit: uint64"),
    "unsigned": (np.array([2**63], "u8"), Packing(np.dtype("i8")), "9223372036854775808 does not fit: int64"),
    "digits": (
        np.array([2**53 + 1]),
        Packing(np.dtype("f8"), exact=True),
        "9007199254740993 loses digits in float64",
    ),
    "infinite digits": (
        np.array([1, 65536]),
        Packing(np.dtype("f2"), exact=True),
        "65536 loses digits in float16",
    ),
    "scaled to the fill value": (
        np.array([1.0, 64.0]),
        Packing(np.dtype("f4"), 0.5, fill=128.0),
        "64.0 would be stored as 128",
    ),
    "rounded to the fill value": (
        np.array([1.0, 2.0**60 + 256]),
        Packing(np.dtype("f4"), fill=2.0**60),
        "1.15.* reads as missing",
    ),
    "near the fill value": (
        np.array([2**63 - 2]),
        Packing(np.dtype("i8"), fill=2**63 - 1),
        "9223372036854775806 would read as",
    ),
    "near, unsigned": (
        np.array([2**64 - 9], "u8"),
        Packing(np.dtype("u8"), fill=2**64 - 1),
        "18446744073709551607 would read",
    ),
    "complex": (np.array([1j]), Packing(np.dtype("f8")), "complex values have no form in float64"),
    "narrow complex": (np.array([1e39j]), Packing(np.dtype("c8")), "1e\\+39 does not fit"),
    "truth": (np.array([0, 1, 2]), Packing(np.dtype("i1"), truth=True), "2 is neither true nor false"),
    "enumeration": (
        np.array([1, 3]),
        Packing(np.dtype("u1"), members=(1, 2)),
        "3 is no member of the enumeration",
    ),
    "bytes": (np.array([b"ab", b"abc"]), Packing(np.dtype("S2")), "b'abc' does not fit"),
    "numbers as bytes": (np.array([1000]), Packing(np.dtype("S3")), "values of dtype int64 have no form in"),
}


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_what_cannot_be_held_is_refused(kind):
    values, form, message = REFUSED[kind]
    with pytest.raises(ValueError, match=f"^v: {message}"):
        checked(values, form, "v")


def test_what_can_be_held_is_given_back_as_it_is():
    for values, form in (
        (np.array([np.inf, np.nan, 1.5]), Packing(np.dtype("f4"))),
        (np.array([2**53, -(2**53)]), Packing(np.dtype("f8"), exact=True)),
        (np.array([2**60]), Packing(np.dtype("f4"), exact=True)),
        (np.array([2**53 + 1]), Packing(np.dtype("f8"))),
        (
            np.array([2**63 - 1, 0, 2**62]),
            Packing(np.dtype("i8"), fill=2**63 - 1),
        ),  # the fill value itself: what is missing
        (np.array([1e20, np.inf, np.nan]), Packing(np.dtype("f4"), fill=1e20)),
        (np.array([0.0, 1.0]), Packing(np.dtype("i1"), truth=True)),
        (np.array([], "f8"), Packing(np.dtype("f4"))),
        (np.array([b"abc"]), Packing(np.dtype("S3"))),
    ):
        assert checked(values, form, "v") is values


def test_blocks_that_are_not_what_dask_announced_are_cast_only_if_they_fit():
    assert cast(np.array([1.0, 2.0]), np.dtype("i2"), "v").dtype == np.int16
    assert cast(np.array([1, 0]), np.dtype(bool), "v").tolist() == [True, False]
    for values, dtype in (
        (np.array([1.5]), "i2"),
        (np.array([np.nan]), "i2"),
        (np.array([70000]), "i2"),
        (np.array([b"abc"]), "S2"),
        (np.array([2]), "?"),
        (np.array([0.5]), "?"),
    ):
        with pytest.raises(ValueError, match=r"^v: "):
            cast(values, np.dtype(dtype), "v")
    with pytest.raises(TypeError, match=r"^v: a block of dtype object came where float64 was announced"):
        cast(np.array(["a"], object), np.dtype("f8"), "v")
    with pytest.raises(TypeError, match="of dtype int64 came where timedelta64"):
        cast(np.array([1]), np.dtype("m8[s]"), "v")
    words = np.array(["a"], np.dtypes.StringDType())
    assert cast(words, words.dtype, "v") is words


def test_unsigned_says_how_integers_are_read():
    assert as_read(np.dtype("i1"), "true") == np.uint8
    assert as_read(np.dtype("u2"), "false") == np.int16
    assert as_read(np.dtype("f4"), "true") == np.float32


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    values=hnp.arrays(st.sampled_from([np.float32, np.float64]), hnp.array_shapes(max_dims=2, max_side=5)),
    dtype=st.sampled_from(["i1", "u1", "i2", "u4", "i8"]),
    scale=st.sampled_from([None, 0.1, -2.0, 1e-30]),
    offset=st.sampled_from([None, 0.0, -1e3]),
    fill=st.sampled_from([None, 0, 100]),
)
def test_packed_values_are_within_half_a_step_of_the_original_or_refused(values, dtype, scale, offset, fill):
    form = Packing(np.dtype(dtype), scale, offset, fill)
    try:
        found = packed(values, form, "v")
    except ValueError:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        back = found.astype("f8") * (1.0 if scale is None else scale) + (offset or 0.0)
        missing = np.isnan(values)
        close = np.abs(back - values) <= 0.51 * abs(scale or 1.0) + 1e-9 * np.abs(offset or 0.0) + 1e-9 * np.abs(values)
    assert close[~missing].all()
    assert not missing.any() or (found[missing] == fill).all()
    assert form.scale_factor is None or fill is None or not (found[~missing] == fill).any()
