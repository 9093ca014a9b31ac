"""Names of dimensions: each convention that writers use, their order, and what happens where they contradict."""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr

from xr_pytables.hdf5.attributes import RawAttribute, Reference
from xr_pytables.hdf5.datatype import Datatype
from xr_pytables.model.dimensions import Leaf, Scales, resolve

from ..helpers_reading import assert_same, open_quietly, open_raw, plain_file


def opened_dims(path: Path, **kwargs: object) -> dict[str, tuple[str, ...]]:
    with open_raw(path, **kwargs) as ds:
        return {name: variable.dims for name, variable in ds.variables.items()}


# -- phony names -------------------------------------------------------------------------------------------


@pytest.fixture
def unnamed(tmp_path: Path) -> Path:
    path = tmp_path / "unnamed.h5"
    with plain_file(path, "w") as file:
        file.create_array("/", "a", np.zeros((3, 4)))
        file.create_array("/", "b", np.zeros((4, 3, 4, 4)))
        file.create_array("/", "scalar", 5)
        file.create_array("/g", "c", np.zeros((3, 0)), createparents=True)
    return path


def test_phony_names_are_sizes_and_repeats_are_numbered(unnamed: Path) -> None:
    assert opened_dims(unnamed) == {
        "a": ("dim_3", "dim_4"),
        "b": ("dim_4", "dim_3", "dim_4_1", "dim_4_2"),
        "scalar": (),
    }
    assert opened_dims(unnamed, group="g") == {"c": ("dim_3", "dim_0")}


def test_phony_names_by_leaf(unnamed: Path) -> None:
    assert opened_dims(unnamed, phony_dims="leaf") == {
        "a": ("a_0", "a_1"),
        "b": ("b_0", "b_1", "b_2", "b_3"),
        "scalar": (),
    }


def test_phony_names_never_make_groups_of_a_tree_conflict(unnamed: Path) -> None:
    with xr.open_datatree(unnamed, engine="pytables") as tree:
        assert dict(tree["g"].ds["c"].sizes) == {"dim_3": 3, "dim_0": 0}


def test_files_of_different_lengths_concatenate_with_phony_names_by_leaf(tmp_path: Path) -> None:
    for number, length in enumerate((2, 3)):
        with plain_file(tmp_path / f"{number}.h5", "w") as file:
            file.create_array("/", "a", np.full((length, 4), number))
    with xr.open_mfdataset(
        sorted(tmp_path.glob("*.h5")), engine="pytables", phony_dims="leaf", combine="nested", concat_dim="a_0"
    ) as ds:
        assert_same(ds["a"].compute(), np.repeat([[0], [1]], [2, 3], axis=0) * np.ones((1, 4), int))


def test_name_from_the_file_is_not_taken_for_a_phony_one(tmp_path: Path) -> None:
    with plain_file(tmp_path / "f.h5", "w") as file:
        file.create_array("/", "a", np.zeros((3, 3)))
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        file["a"].dims[0].label = "dim_3"
    assert opened_dims(tmp_path / "f.h5") == {"a": ("dim_3", "dim_3_1")}


# -- dims= -------------------------------------------------------------------------------------------------


def test_dims_argument_names_arrays_by_name_or_path(unnamed: Path) -> None:
    assert opened_dims(unnamed, dims={"a": ("y", "x"), "/b": ["x", "y", "z", "w"]}) == {
        "a": ("y", "x"),
        "b": ("x", "y", "z", "w"),
        "scalar": (),
    }


def test_dims_argument_wins_over_the_file(tmp_path: Path) -> None:
    xr.Dataset({"v": (("y", "x"), np.zeros((2, 3)))}).to_netcdf(tmp_path / "n.nc", engine="h5netcdf")
    assert opened_dims(tmp_path / "n.nc", dims={"v": ("lat", "lon")}) == {"v": ("lat", "lon")}


def test_dims_argument_works_for_trees_by_path(unnamed: Path) -> None:
    with xr.open_datatree(unnamed, engine="pytables", dims={"/g/c": ("y", "x"), "a": ("y", "z")}) as tree:
        assert tree["g/c"].dims == ("y", "x")
        assert tree["a"].dims == ("y", "z")


def test_dims_argument_works_for_one_leaf(unnamed: Path) -> None:
    assert opened_dims(unnamed, group="/g/c", dims={"c": ("y", "x")}) == {"c": ("y", "x")}


# -- conventions -------------------------------------------------------------------------------------------


def test_dimension_list_names_dimensions_after_their_scales(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        for name, size in {"y": 2, "x": 2}.items():
            file[name] = np.arange(size)
            file[name].make_scale("whatever")
        file["v"] = np.zeros((2, 2))
        file["v"].dims[0].attach_scale(file["x"])
        file["v"].dims[1].attach_scale(file["y"])
    assert opened_dims(tmp_path / "h.h5") == {"v": ("x", "y"), "x": ("x",), "y": ("y",)}


def test_dimension_with_two_scales_is_named_after_the_first(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        for name in ("time", "alternative"):
            file[name] = np.arange(3)
            file[name].make_scale(name)
        file["v"] = np.zeros(3)
        file["v"].dims[0].attach_scale(file["time"])
        file["v"].dims[0].attach_scale(file["alternative"])
    assert opened_dims(tmp_path / "h.h5")["v"] == ("time",)


def test_scale_on_only_one_axis_leaves_the_others_phony(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["x"] = np.arange(3)
        file["x"].make_scale("x")
        file["v"] = np.zeros((4, 3))
        file["v"].dims[1].attach_scale(file["x"])
    assert opened_dims(tmp_path / "h.h5")["v"] == ("dim_4", "x")


def test_netcdf4_ids_name_dimensions_without_references(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        for number, name in enumerate(("y", "x")):
            file[name] = np.arange(2)
            file[name].attrs["CLASS"] = np.bytes_(b"DIMENSION_SCALE\0")
            file[name].attrs["_Netcdf4Dimid"] = np.int32(number)
        file["v"] = np.zeros((2, 2))
        file["v"].attrs["_Netcdf4Coordinates"] = np.array([1, 0], "i4")
    assert opened_dims(tmp_path / "h.h5")["v"] == ("x", "y")


def test_array_dimensions_attribute(tmp_path: Path) -> None:
    with plain_file(tmp_path / "f.h5", "w") as file:
        file.create_array("/", "v", np.zeros((2, 3))).attrs["_ARRAY_DIMENSIONS"] = np.array([b"time", b"x"])
    with open_raw(tmp_path / "f.h5") as ds:
        assert ds["v"].dims == ("time", "x")
        assert ds["v"].attrs == {}


def test_dimension_labels(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["v"] = np.zeros((2, 3, 2))
        file["v"].dims[0].label = "höhe"
        file["v"].dims[2].label = "x"  # the middle one stays NULL
    assert opened_dims(tmp_path / "h.h5") == {"v": ("höhe", "dim_3", "x")}


def test_references_count_more_than_labels(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["x"] = np.arange(3)
        file["x"].make_scale("x")
        file["v"] = np.zeros((2, 3))
        file["v"].dims[1].attach_scale(file["x"])
        file["v"].dims[0].label, file["v"].dims[1].label = "from_label", "ignored"
    assert opened_dims(tmp_path / "h.h5")["v"] == ("from_label", "x")


def text_attribute(*values: str) -> RawAttribute:
    return RawAttribute(np.array([value.encode() for value in values], object), Datatype("text", None, 16, utf8=True))


def test_conventions_are_asked_in_order_of_trust_without_a_file() -> None:
    raw = {
        "DIMENSION_LIST": RawAttribute([[Reference(10)], [], [], []], Datatype("vlen", None, 16)),
        "_Netcdf4Coordinates": RawAttribute(np.array([7, 8, 99, 99]), Datatype("integer", np.dtype("i8"), 8)),
        "_ARRAY_DIMENSIONS": text_attribute("1", "2", "third", "4"),
        "DIMENSION_LABELS": text_attribute("first", "second", "3rd", ""),
    }
    leaf = Leaf("v", "/v", (1, 2, 3, 4), (False,) * 4, raw, file="f.h5")
    resolved = resolve(
        [leaf],
        Scales({("f.h5", 10): "a"}, {("f.h5", 7): "b", ("f.h5", 8): "c"}),
        dims={},
        phony_dims="size",
        where="f.h5",
    )
    assert resolved.names == {"v": ("a", "c", "third", "4")}
    assert resolved.problems == ()


# -- contradictions ----------------------------------------------------------------------------------------


def test_label_that_stands_for_different_sizes_gives_way_with_a_warning(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        for name, size in {"a": 2, "b": 3, "c": 3}.items():
            file[name] = np.zeros(size)
            file[name].dims[0].label = "x"
    with pytest.warns(UserWarning, match=r"h\.h5.*'x' has different sizes.*2 in /a; 3 in /b, /c.*dims=") as caught:
        assert opened_dims(tmp_path / "h.h5") == {"a": ("dim_2",), "b": ("dim_3",), "c": ("dim_3",)}
    assert len(caught) == 1


def test_scale_keeps_its_name_where_a_label_contradicts_it(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["x"] = np.arange(4)
        file["x"].make_scale("x")
        file["v"] = np.zeros(3)
        file["v"].dims[0].label = "x"
    with pytest.warns(UserWarning, match="'x' has different sizes"):
        assert opened_dims(tmp_path / "h.h5") == {"v": ("dim_3",), "x": ("x",)}


def test_repeated_name_within_one_array_is_kept_once_with_a_warning(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["x"] = np.arange(3)
        file["x"].make_scale("x")
        file["covariance"] = np.zeros((3, 3))
        for axis in (0, 1):
            file["covariance"].dims[axis].attach_scale(file["x"])
    with pytest.warns(UserWarning, match="'/covariance' has dimension 'x' more than once"):
        assert opened_dims(tmp_path / "h.h5") == {"covariance": ("x", "dim_3"), "x": ("x",)}


@pytest.mark.parametrize("by", ["scale", "attribute", "label"])
def test_a_name_of_a_scalar_gives_way_with_a_warning(tmp_path: Path, by: str) -> None:
    path = tmp_path / "h.h5"
    with h5py.File(path, "w") as file:
        file["q"], file["scal"], file["other"] = np.zeros(3), 5.0, np.arange(4)
        if by == "scale":
            file["scal"].make_scale("s")
            file["q"].dims[0].attach_scale(file["scal"])
        elif by == "attribute":
            file["q"].attrs["_ARRAY_DIMENSIONS"] = ["scal"]
        else:
            file["q"].dims[0].label = "scal"
    message = r"h\.h5: dimension 'scal' has the name of the scalar /scal \(3 in /q\), so these get made-up names; dims="
    for opener in (xr.open_dataset, xr.open_datatree):
        with pytest.warns(UserWarning, match=message), opener(path, engine="pytables") as ds:
            assert (ds["q"].dims, ds["scal"].item(), ds["other"].values.tolist()) == (("dim_3",), 5.0, [0, 1, 2, 3])
    assert opened_dims(path, dims={"q": ("x",)})["q"] == ("x",)
    assert opened_dims(path, group="/q") == {"q": ("scal",)}  # where the scalar is not
    with pytest.raises(
        ValueError, match=r"h\.h5: dims gives dimension 'scal' the name of the scalar /scal: 4 in /other$"
    ):
        open_raw(path, dims={"q": ["x"], "other": ["scal"]})


def test_a_dimension_of_netcdf_beside_a_scalar_of_its_name_gives_way(tmp_path: Path) -> None:
    path = tmp_path / "n.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("x", 4)
        file.createVariable("x", "f4", ())[...] = 5
        file.createVariable("v", "f8", ("x",))[:] = np.arange(4.0)
    message = r"n\.nc: dimension 'x' has the name of the scalar /_nc4_non_coord_x \(4 in /x, /v\), so these get"
    for opener in (xr.open_dataset, xr.open_datatree):
        with pytest.warns(UserWarning, match=message), opener(path, engine="pytables") as ds:
            assert (ds["v"].dims, ds["v"].values.tolist(), ds["x"].item()) == (("dim_4",), [0.0, 1.0, 2.0, 3.0], 5.0)


@pytest.mark.parametrize("phony_dims", ["size", "leaf", "sort", "access"])
def test_a_made_up_name_is_none_that_stands_for_something_else(tmp_path: Path, phony_dims: str) -> None:
    """For a scalar, or for a dimension of another size."""
    made_up = {"size": "dim_3", "leaf": "a_0"}.get(phony_dims, "phony_dim_0")
    for number, meaning in enumerate((5.0, np.zeros(4))):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["a"], file["b" if number else made_up] = np.zeros(3), meaning
            if number:
                file["b"].dims[0].label = made_up
        expected = f"{made_up}_1" if phony_dims in ("size", "leaf") else "dim_3"
        dims = opened_dims(tmp_path / f"{number}.h5", phony_dims=phony_dims)
        assert dims == {"a": (expected,), "b" if number else made_up: (made_up,) if number else ()}


def test_wrong_number_of_names_is_told_and_not_used(tmp_path: Path) -> None:
    with plain_file(tmp_path / "f.h5", "w") as file:
        file.create_array("/", "v", np.zeros((2, 3))).attrs["_ARRAY_DIMENSIONS"] = np.array([b"time"])
    with pytest.warns(UserWarning, match=r"'/v' has shape \(2, 3\) but 1 dimension names"):
        assert opened_dims(tmp_path / "f.h5") == {"v": ("dim_2", "dim_3")}


def test_two_variables_of_one_name_are_both_kept(tmp_path: Path) -> None:
    """netCDF-4 stores a variable `x` that is no coordinate as `_nc4_non_coord_x`; another writer may have both."""
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["x"] = [1, 2]
        file["_nc4_non_coord_x"] = [3, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_raw(tmp_path / "h.h5") as ds:
            assert sorted(variable.values.tolist() for variable in ds.variables.values()) == [[1, 2], [3, 4]]


def test_scales_of_another_file_do_not_name_dimensions(tmp_path: Path) -> None:
    """Both files have a scale at the same address and with the same id, and the names differ."""
    for file_name, scale in (("main.h5", "lat"), ("other.h5", "time")):
        with h5py.File(tmp_path / file_name, "w") as file:
            file[scale] = np.arange(3)
            file[scale].make_scale(scale)
            file[scale].attrs["_Netcdf4Dimid"] = np.int32(0)
            variable = file.create_dataset(f"of_{scale}", data=np.zeros(3))
            variable.dims[0].attach_scale(file[scale])
    with h5py.File(tmp_path / "main.h5", "r+") as file:
        file["linked"] = h5py.ExternalLink("other.h5", "/of_time")
    dims = opened_dims(tmp_path / "main.h5")
    assert dims["of_lat"] == ("lat",)
    assert dims["linked"] != ("lat",)


# -- files of other libraries ------------------------------------------------------------------------------


def assert_opens_as_with(path: Path, engine: str, **kwargs: object) -> None:
    """Dimensions, coordinates, values, dtypes and attributes are those that `engine` gives."""
    with (
        xr.open_dataset(path, engine=engine, **kwargs) as expected,
        xr.open_dataset(path, engine="pytables", **kwargs) as actual,
    ):
        xr.testing.assert_identical(actual.load(), expected.load())
        for name in expected.variables:
            if (
                expected[name].dtype.kind != "U"
            ):  # text stays of any length here, and is not read before it is asked for
                assert actual[name].dtype == expected[name].dtype, name
        assert actual.encoding["unlimited_dims"] == set(expected.encoding["unlimited_dims"])


def cf_dataset() -> xr.Dataset:
    values = np.array([[1.5, np.nan, -2.0], [0.0, 3.25, 7.5]])
    return xr.Dataset(
        {
            "temperature": (("time", "x"), values, {"units": "K", "long_name": "Größe"}),
            "packed": (("time", "x"), values),
            "without_coordinate": (("level", "other"), np.arange(8, dtype="i2").reshape(4, 2)),
            "square": (("level", "level2"), np.zeros((4, 4), "u1")),
            "scalar": ((), 3.5),
            "text": (("x",), np.array(["a", "größer", ""], object)),
            "truth": (("x",), [True, False, True]),
            "single": (("one",), [5]),
        },
        coords={
            "time": ("time", np.array(["2000-01-01", "2000-01-02T12"], "M8[ns]")),
            "x": ("x", [10.0, 20.0, 30.0]),
            "label": ("x", np.arange(3)),
        },
        attrs={"title": "A file.", "number": 5, "list": [1, 2, 3], "text": "x"},
    )


ENCODING = {"packed": {"dtype": "i2", "scale_factor": 0.25, "add_offset": 1.0, "_FillValue": -999}}


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
@pytest.mark.parametrize("unlimited", [[], ["time"], ["time", "level"]])
def test_netcdf_file_opens_as_with_its_own_engine(engine: str, unlimited: list[str], tmp_path: Path) -> None:
    path = tmp_path / "n.nc"
    cf_dataset().to_netcdf(path, engine=engine, encoding=ENCODING, unlimited_dims=unlimited)
    assert_opens_as_with(path, engine)
    assert_opens_as_with(path, engine, decode_cf=False)
    assert_opens_as_with(path, engine, mask_and_scale=False, decode_times=False)


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
def test_characters_are_put_together_as_with_the_file_s_own_engine(engine: str, tmp_path: Path) -> None:
    ds = xr.Dataset({"name": (("x",), np.array([b"ab", b"c"], "S2")), "letter": (("x",), np.array([b"a", b"b"]))})
    ds.to_netcdf(tmp_path / "n.nc", engine=engine)
    assert_opens_as_with(tmp_path / "n.nc", engine)
    assert_opens_as_with(tmp_path / "n.nc", engine, concat_characters=False)


def test_enumeration_of_netcdf4_is_integers_with_flags(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "n.nc", "w") as file:
        file.createDimension("x", 3)
        clouds = file.createEnumType("i1", "cloud_t", {"clear": 0, "cloudy": 1})
        file.createVariable("cloud", clouds, ("x",))[:] = [0, 1, 0]
    with xr.open_dataset(tmp_path / "n.nc", engine="pytables") as ds:
        assert ds["cloud"].dims == ("x",)
        assert ds["cloud"].values.tolist() == [0, 1, 0]
        assert ds["cloud"].attrs["flag_meanings"] == "clear cloudy"


def test_dimensions_of_enclosing_groups_are_found(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "n.nc", "w") as file:
        file.createDimension("x", 2)
        file.createDimension("y", 2)
        file.createVariable("x", "f8", ("x",))[:] = [1, 2]
        inner = file.createGroup("outer").createGroup("inner")
        inner.createDimension("z", 2)
        inner.createVariable("v", "i4", ("y", "z", "x"))[:] = np.arange(8).reshape(2, 2, 2)
    for engine in ("netcdf4", "h5netcdf", "pytables"):
        with xr.open_dataset(tmp_path / "n.nc", engine=engine, group="outer/inner") as ds:
            assert ds["v"].dims == ("y", "z", "x"), engine
            assert_same(ds["v"], np.arange(8, dtype="i4").reshape(2, 2, 2))
    with (
        xr.open_datatree(tmp_path / "n.nc", engine="pytables") as tree,
        xr.open_datatree(tmp_path / "n.nc", engine="netcdf4") as expected,
    ):
        xr.testing.assert_identical(tree.load(), expected.load())
    assert opened_dims(tmp_path / "n.nc", group="outer/inner/v") == {"v": ("y", "z", "x")}


def test_variables_shorter_than_their_unlimited_dimension_are_filled_up_as_netcdf_does(tmp_path: Path) -> None:
    path = tmp_path / "n.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("time", None)
        file.createDimension("x", 2)
        file.createVariable("time", "f8", ("time",))[:] = np.arange(5.0)
        file.createVariable("short", "i4", ("time", "x"))[:3] = np.arange(6).reshape(3, 2)
        file.createVariable("own", "f4", ("time",), fill_value=-7.0)[:2] = [1, 2]
        file.createVariable("never", "f8", ("time", "x"))
        file.createVariable("full", "i2", ("time",))[:] = np.arange(5)
    assert_opens_as_with(path, "netcdf4")
    assert_opens_as_with(path, "netcdf4", decode_cf=False)
    for step in (slice(4, None), slice(None, None, -1), [4, 0, 2], 3, slice(1, 4, 2)):
        with (
            xr.open_dataset(path, engine="netcdf4") as expected,
            xr.open_dataset(path, engine="pytables") as actual,
        ):
            xr.testing.assert_identical(actual.isel(time=step).load(), expected.isel(time=step).load())


def test_variable_named_as_a_dimension_that_it_does_not_describe(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "n.nc", "w") as file:
        file.createDimension("x", 2)
        file.createDimension("y", 3)
        file.createVariable("y", "f8", ("x",))[:] = [1, 2]
        file.createVariable("v", "f8", ("x", "y"))[:] = 1
    assert_opens_as_with(tmp_path / "n.nc", "netcdf4")


def test_two_dimensional_coordinate_variable(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "n.nc", "w") as file:
        file.createDimension("x", 2)
        file.createDimension("y", 3)
        file.createVariable("x", "f8", ("x", "y"))[:] = np.arange(6).reshape(2, 3)
        file.createVariable("v", "f8", ("y", "x"))[:] = 1
    assert opened_dims(tmp_path / "n.nc") == {"x": ("x", "y"), "v": ("y", "x")}


def test_only_dimension_scales_are_hidden(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "n.nc", "w") as file:
        file.createDimension("empty", 3)
        file.createDimension("used", 2)
        file.createVariable("v", "i1", ("used",))[:] = 1
    with open_raw(tmp_path / "n.nc") as ds:
        assert list(ds.variables) == ["v"]
        assert dict(ds.sizes) == {"used": 2}


@pytest.mark.parametrize("names", [["t", "x"], ("t", "x"), np.array(["t", "x"]), ["t", None], np.array([b"t", b"x"])])
def test_names_that_plain_pytables_set_as_a_list(tmp_path: Path, names: object) -> None:
    path = tmp_path / "d.h5"
    with plain_file(path, "w") as file:
        file.create_array("/", "h", np.zeros((2, 3))).attrs._ARRAY_DIMENSIONS = names
        table = file.create_table("/", "r", np.dtype([("a", "f8")]))
        table.attrs._ARRAY_DIMENSIONS = ["row"]
        table.append([(1.0,)])
    with open_quietly(path) as ds:
        assert ds["h"].dims == ("t", "dim_3" if list(names)[1] is None else "x")
    with xr.open_dataset(path, engine="pytables", group="/r") as ds:
        assert ds["a"].dims == ("row",)


@pytest.mark.parametrize("value", [{"a": 1}, 5, [1, 2], [["t"]], b"cos\nsystem\n(S'true'\ntR."])
def test_what_is_no_list_of_names_names_nothing(tmp_path: Path, value: object) -> None:
    path = tmp_path / "d.h5"
    with plain_file(path, "w") as file:
        file.create_array("/", "h", np.zeros(3)).attrs._ARRAY_DIMENSIONS = value
    with xr.open_dataset(path, engine="pytables") as ds:
        assert ds["h"].dims == ("dim_3",)


# -- scales wherever they lie --------------------------------------------------------------------------------


def test_a_scale_names_dimensions_from_any_group(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        scale = file.create_dataset("coords/freq", data=np.arange(4.0))
        scale.make_scale("freq")
        for name in ("obs/data", "obs/deep/data", "data"):
            file.create_dataset(name, (4, 3), float).dims[0].attach_scale(scale)
        hidden = file.create_dataset("coords/hidden", (3,), float)
        hidden.make_scale("This is a netCDF dimension but not a netCDF variable.         3")
        file["obs/data"].dims[1].attach_scale(hidden)
        file.create_dataset("obs/table", (4,), [("a", "i4")]).dims[0].attach_scale(scale)
    with open_quietly(path, group="obs") as ds:
        assert ds["data"].dims == ("freq", "hidden")
    assert opened_dims(path, group="obs/data") == {"data": ("freq", "hidden")}
    assert opened_dims(path, group="obs/deep") == {"data": ("freq", "dim_3")}
    assert opened_dims(path, group="obs/table") == {"a": ("freq",)}
    with open_quietly(path) as ds:
        assert ds["data"].dims == ("freq", "dim_3")
    with xr.open_datatree(path, engine="pytables") as tree:
        assert tree["obs"]["data"].dims == ("freq", "hidden")
        assert tree["coords"]["freq"].dims == ("freq",)
        assert tree["obs/table"]["a"].dims == ("freq",)


def test_a_scale_without_a_shape_is_a_name_and_no_variable(tmp_path: Path) -> None:
    path = tmp_path / "n.h5"
    with h5py.File(path, "w") as file:
        file["x"] = h5py.Empty("f4")
        file["x"].attrs["CLASS"], file["x"].attrs["NAME"] = np.bytes_("DIMENSION_SCALE"), np.bytes_("x")
        data = file.create_dataset("a", data=np.arange(3.0))
        row = np.empty(1, object)
        row[0] = np.array([file["x"].ref], h5py.ref_dtype)
        data.attrs.create("DIMENSION_LIST", row, dtype=h5py.vlen_dtype(h5py.ref_dtype))
    assert opened_dims(path) == {"a": ("x",)}
    assert opened_dims(path, group="/a") == {"a": ("x",)}


def test_compounds_of_netcdf_keep_the_dimension_of_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "c.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("station", 3)
        inner = file.createGroup("g")
        kind = file.createCompoundType(np.dtype([("a", "i4"), ("b", "f8")]), "kind")
        for group in (file, inner):
            group.createVariable("obs", kind, ("station",))[:] = np.array([(1, 2.0)] * 3, [("a", "i4"), ("b", "f8")])
    for group in ("/obs", "/g/obs"):
        assert opened_dims(path, group=group) == {"a": ("station",), "b": ("station",)}


# -- dims= ---------------------------------------------------------------------------------------------------


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.h5"
    with plain_file(path, "w") as file:
        file.create_array("/ocean", "sst", np.zeros((5, 3, 4)), createparents=True)
        for name, size in (("time", 5), ("lat", 3), ("other", 4)):
            file.create_array("/ocean", name, np.arange(float(size)))
    return path


@pytest.mark.parametrize("key", ["sst", "/ocean/sst", "ocean/sst"])
def test_an_array_that_is_called_and_as_long_as_a_given_dimension_is_its_coordinate(plain: Path, key: str) -> None:
    with xr.open_dataset(plain, engine="pytables", group="ocean", dims={key: ("time", "lat", "lon")}) as ds:
        assert ds["time"].dims == ("time",)
        assert ds["lat"].dims == ("lat",)
        assert set(ds.indexes) == {"time", "lat"}
        assert ds["other"].dims == ("dim_4",)


def test_one_name_is_that_of_the_one_dimension(plain: Path) -> None:
    dims = {"lat": "y", "sst": ("time", "y", "x")}
    assert opened_dims(plain, group="ocean", dims=dims)["lat"] == ("y",)
    with pytest.raises(ValueError, match=r"'/ocean/sst' has shape \(5, 3, 4\), so dims\['sst'\] needs 3"):
        open_raw(plain, group="ocean", dims={"sst": "time"})


def test_names_alone_are_those_of_the_one_array_that_they_fit(plain: Path) -> None:
    for group in ("/ocean/sst", "/ocean"):
        with xr.open_dataset(plain, engine="pytables", group=group, dims=("time", "lat", "x")) as ds:
            assert ds["sst"].dims == ("time", "lat", "x")
    array = xr.open_dataarray(plain, engine="pytables", group="/ocean/lat", dims="y")
    assert array.dims == ("y",)
    with pytest.raises(ValueError, match=r"plain\.h5: dims=\('y',\) is for one array of 1 dimensions; there are: '/oc"):
        open_raw(plain, group="ocean", dims=["y"])
    with pytest.raises(ValueError, match="there are: none"):
        open_raw(plain, group="ocean/sst", dims=["y"])
    with pytest.raises(TypeError, match="dims must map names"):
        open_raw(plain, dims=5)


@pytest.mark.parametrize("seed", range(6))
def test_sorted_and_accessed_names_are_those_of_h5netcdf(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    path, groups = tmp_path / "p.h5", ["/", "/a", "/a/b", "/c", "/b/x"]
    with h5py.File(path, "w") as file:
        for name in groups:
            group = file.require_group(name)
            for number in range(random.integers(0, 4)):
                shape = tuple(random.integers(2, 5, random.integers(0, 4)))
                group[f"v{random.integers(100)}_{number}"] = np.zeros(shape)
            if random.random() < 0.4:
                scale = group.create_dataset("s", (3,), "f8", maxshape=(None,) if random.random() < 0.5 else (3,))
                scale.make_scale("s")
                if random.random() < 0.5:
                    group.create_dataset("w", (3,), "f8").dims[0].attach_scale(scale)
    for mode in ("sort", "access"):
        for name in groups:
            ds = open_quietly(path, group=name, phony_dims=mode)
            with xr.open_dataset(path, engine="h5netcdf", group=name, phony_dims=mode) as expected:
                assert {n: v.dims for n, v in ds.variables.items()} == {
                    n: v.dims for n, v in expected.variables.items()
                }
        expected = xr.open_groups(path, engine="h5netcdf", phony_dims=mode)
        found = xr.open_groups(path, engine="pytables", phony_dims=mode)
        for name, group in expected.items():
            assert {n: v.dims for n, v in found[name].variables.items()} == {
                n: v.dims for n, v in group.variables.items()
            }
            group.close()
