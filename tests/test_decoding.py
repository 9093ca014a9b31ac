"""Variables decoded as xarray decodes them, those that have nothing to decode without its decoders."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import assume, given
from hypothesis import strategies as st
from xarray.conventions import decode_cf_variables

from xr_pytables import decoding

from .helpers_properties import examples

SIZES = {"x": 2, "y": 3, "t": 2, "n": 4}
NAMES = ("a", "b", "x", "t", "t_bnds", "n")
ATTRIBUTES = {
    "units": ["K", "days", "hours since 2000-01-01", "since", "microseconds", "days accumulated"],
    "_FillValue": [np.float32("nan"), float("nan"), -1.0, 0, np.int8(7)],
    "missing_value": [float("nan"), 3],
    "scale_factor": [2.0],
    "add_offset": [np.float32(1)],
    "_Unsigned": ["true"],
    "calendar": ["standard"],
    "dtype": ["bool"],
    "coordinates": ["a b", "n", "nothing"],
    "bounds": ["t_bnds", "b"],
    "grid_mapping": ["a", "b: x a"],
    "cell_measures": ["area: b"],
    "long_name": ["of nothing special"],
}
DTYPES = ["f4", "f8", "i4", "u1", "?", "c16", "S1", "S3"]
EACH = {key: st.sampled_from(some) for key, some in ATTRIBUTES.items()}
one_attribute = st.one_of([st.fixed_dictionaries({key: some}) for key, some in EACH.items()])
attributes = st.one_of(st.just({}), one_attribute, one_attribute, st.fixed_dictionaries({}, optional=EACH))


@st.composite
def variables(draw: st.DrawFn) -> dict[str, xr.Variable]:
    found = {}
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        dims = draw(st.lists(st.sampled_from(list(SIZES)), unique=True, max_size=3))
        values = np.arange(np.prod([SIZES[dim] for dim in dims], dtype=int)).reshape([SIZES[dim] for dim in dims])
        attrs = draw(attributes)
        found[name] = xr.Variable(dims, values.astype(draw(st.sampled_from(DTYPES))), attrs, {"chunksizes": (1,)})
    return found


DECODERS = st.fixed_dictionaries(
    {
        "mask_and_scale": st.sampled_from([True, False, {"a": False}]),
        "decode_times": st.booleans(),
        "decode_coords": st.sampled_from([True, False, "all"]),
        "concat_characters": st.sampled_from([True, False, {"n": False}]),
        "drop_variables": st.sampled_from([None, "a", ["t", "x"]]),
        "decode_timedelta": st.sampled_from([None, True, False]),
    }
)


def as_values(found: Any) -> Any:
    decoded, attrs, coordinates = found
    shown = {
        name: (
            one.dims,
            one.dtype,
            list(map(str, one.values.ravel())),
            str(one.attrs),
            sorted(map(str, one.encoding.items())),
        )
        for name, one in decoded.items()
    }
    return list(shown), shown, attrs, set(coordinates)


@examples(200)
@given(variables(), DECODERS, st.sampled_from([{}, {"coordinates": "b t"}]))
def test_decoded_as_xarray_does(found: dict[str, xr.Variable], decoders: dict[str, Any], attrs: dict[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = as_values(
                decode_cf_variables({name: one.copy() for name, one in found.items()}, dict(attrs), **decoders)
            )
        except Exception:
            assume(False)
        assert as_values(decoding._decoded(found, attrs, decoders)) == expected


def variable(dtype: str = "f4", dims: tuple[str, ...] = ("x",), **attrs: object) -> xr.Variable:
    return xr.Variable(dims, np.zeros([SIZES[dim] for dim in dims], dtype), attrs)


@pytest.mark.parametrize(
    ("found", "decoders", "plain"),
    [
        ({"a": variable(units="K"), "b": variable("i4")}, {}, {"a", "b"}),
        ({"a": variable(_FillValue=np.float32("nan"))}, {"mask_and_scale": True}, {"a"}),
        ({"a": variable(_FillValue=np.float32("nan"))}, {"mask_and_scale": False}, set()),
        ({"a": variable(_FillValue=0.0), "b": variable(scale_factor=2.0)}, {}, set()),
        ({"t": variable(units="days since 2000-01-01", bounds="b"), "b": variable()}, {}, set()),
        ({"a": variable("S1", ("x", "n")), "b": variable(dims=("n",)), "c": variable(dims=("y",))}, {}, {"c"}),
        ({"a": variable(), "b": variable()}, {"drop_variables": "a"}, {"b"}),
        ({"a": variable(units="days"), "b": variable(units="since"), "c": variable(units=5)}, {}, set()),
        ({"a": variable()}, {"use_cftime": True}, set()),
    ],
)  # fmt: skip
def test_which_variables_are_passed_by(
    found: dict[str, xr.Variable], decoders: dict[str, Any], plain: set[str]
) -> None:
    assert decoding._plain(found, decoders) == plain


@pytest.mark.parametrize(
    ("attrs", "masked", "values"),
    [
        ({"scale_factor": np.int32(2), "_FillValue": np.int16(-1)}, True, [2.0, np.nan, 6.0]),
        ({"scale_factor": 2, "missing_value": np.int16(3)}, {"v": True}, [2.0, -2.0, np.nan]),
        (
            {"scale_factor": np.int32(2), "add_offset": np.int32(1), "_FillValue": np.int16(-1)},
            True,
            [3.0, np.nan, 7.0],
        ),
        ({"scale_factor": np.int32(2)}, True, [2, -2, 6]),
        ({"scale_factor": np.int32(2), "_FillValue": np.int16(-1)}, {"v": False}, [1, -1, 3]),
        ({"scale_factor": np.int32(2), "_FillValue": np.int16(-1)}, False, [1, -1, 3]),
    ],
)
def test_a_scale_that_is_an_integer_leaves_room_for_missing_values(
    attrs: dict[str, Any], masked: Any, values: list[float], tmp_path: Path
) -> None:
    """xarray's own engines fail on the first two: it looks for a NaN among integers."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("v", data=np.array([1, -1, 3], "i2")).attrs.update(attrs)
    with xr.open_dataset(path, engine="pytables", mask_and_scale=masked) as ds:
        np.testing.assert_array_equal(ds["v"].values, values)
        assert ds["v"].dtype.kind == np.asarray(values).dtype.kind


@pytest.mark.parametrize("concat_characters", [True, False])
@pytest.mark.parametrize(
    "odd", [{"units": "days since nobody knows"}, {"units": 5}, {"scale_factor": "two"}, {"missing_value": "x"}]
)
@pytest.mark.filterwarnings("ignore:variable 'odd' has multiple fill values:xarray.SerializationWarning")
def test_an_odd_attribute_costs_no_other_variable_its_fill_value(
    odd: dict[str, Any], concat_characters: bool, tmp_path: Path
) -> None:
    """xarray takes fill values out of the attributes that it gets, whatever it fails on later."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, attrs in {"a": {}, "odd": odd, "z": {}}.items():
            file.create_dataset(name, data=np.array([1, 2], "i2")).attrs.update({"_FillValue": np.int16(1), **attrs})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*attributes that were not applied")
        opened = xr.open_dataset(path, engine="pytables", concat_characters=concat_characters)
    with opened as ds:
        for name in ("a", "odd", "z"):
            np.testing.assert_array_equal(ds[name].values, [np.nan, 2.0])


@pytest.mark.parametrize("options", [{}, {"mask_and_scale": False}, {"decode_cf": False}])
def test_fill_values_of_characters_are_those_of_netcdf4(options: dict[str, Any], tmp_path: Path) -> None:
    """They are stored as text, and the values are bytes."""
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("x", 3)
        file.createDimension("n", 2)
        file.createVariable("number", "i4", ("x",))[:] = 1  # so that x is no dimension of characters
        file.createVariable("one", "S1", ("x",), fill_value=b"-")[:] = np.array([b"a", b"-", b"b"])
        file.createVariable("two", "S1", ("x", "n"), fill_value=b"-")[:] = np.array([[b"a", b"b"], [b"-", b"-"]] * 2)[
            :3
        ]
    with (
        xr.open_dataset(path, engine="pytables", **options) as ours,
        xr.open_dataset(path, engine="netcdf4", **options) as theirs,
    ):
        for name in ("one", "two"):
            assert ours[name].equals(theirs[name])
            for where in (lambda array: array.attrs, lambda array: array.encoding):
                assert where(ours[name]).get("_FillValue") == where(theirs[name]).get("_FillValue")


def test_a_dataset_is_the_same_without_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"a": variable(units="K"), "x": variable(), "y": variable(), "c": variable(dims=("y",))}
    short = decoding._dataset(found, {"c"}, {"title": "of some"})
    monkeypatch.setattr(decoding, "Dataset", lambda *args, **kwargs: xr.Dataset(*args, **kwargs))
    whole = decoding._dataset(found, {"c"}, {"title": "of some"})
    for one in (short, whole):
        assert list(one.variables) == ["a", "y", "x", "c"]
        assert set(one.coords) == {"x", "y", "c"}  # a variable named as a dimension is one too
        assert not one.xindexes
    xr.testing.assert_identical(short, whole)
