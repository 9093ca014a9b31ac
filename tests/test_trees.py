"""DataTrees from Dask: each group with its own encoding, dimensions and attributes, empty ones too."""

from __future__ import annotations

from pathlib import Path

import dask
import dask.array
import h5netcdf
import netCDF4
import numpy as np
import pytest
import xarray as xr

from xr_pytables import to_pytables


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tree.h5"


def tree() -> xr.DataTree:
    """A coordinate above, used lazily below; a group of nothing; a group of attributes only; a group between."""
    values = dask.array.arange(24, chunks=6).reshape(6, 4).rechunk((2, 4)).astype("f8")
    return xr.DataTree.from_dict(
        {
            "/": xr.Dataset(coords={"x": np.arange(4.0)}, attrs={"title": "all", "version": 2}),
            "/run": xr.Dataset({"t": (("time", "x"), values, {"units": "K"})}, attrs={"run": 7, "ok": True}),
            "/run/fine": xr.Dataset({"t": (("time", "x"), values + 1)}, {"time": np.arange(6)}),
            "/empty": xr.Dataset(),
            "/notes": xr.Dataset(attrs={"by": "nobody", "nested": {"a": [1, None]}}),
            "/between/last": xr.Dataset({"n": 1}),
        }
    )


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
@pytest.mark.parametrize("compute", [True, False])
def test_a_lazy_tree_comes_back(path, scheduler, compute):
    encoding = {
        "/run": {"t": {"complib": "blosc:lz4", "chunksizes": (1, 4)}},
        "run/fine": {"t": {"complib": "zlib", "fletcher32": False}},
    }
    with dask.config.set(scheduler=scheduler, num_workers=2):
        result = to_pytables(tree(), path, encoding=encoding, unlimited_dims={"/run/fine": ["time"]}, compute=compute)
        if not compute:
            result.compute()
    with xr.open_datatree(path, engine="pytables") as found:
        xr.testing.assert_identical(found.load(), tree().load())
        assert list(found.subtree_with_keys)[-1][0] == "between/last"
        run, fine = found["run/t"].encoding, found["run/fine/t"].encoding
        assert (run["complib"], run["chunksizes"], run["fletcher32"]) == ("blosc:lz4", (1, 4), True)
        assert (fine["complib"], fine["chunksizes"], fine["fletcher32"]) == ("zlib", (2, 4), False)
        assert found["run/fine"].encoding["unlimited_dims"] == {"time"}
        assert found["run"].encoding["unlimited_dims"] == set()
        # the coordinate is stored once, where it is
        assert "x" not in found["run"].to_dataset(inherit=False).coords


def test_netcdf_readers_see_the_groups(path):
    to_pytables(tree(), path, encoding={"/run": {"t": {"zlib": True}}})
    for module in (netCDF4.Dataset, h5netcdf.File):
        with module(path, "r") as file:
            assert set(file.groups) == {"run", "empty", "notes", "between"}
            assert file.groups["run"].variables["t"].dimensions == ("time", "x")
            np.testing.assert_array_equal(file.groups["run"].variables["t"][:], np.arange(24.0).reshape(6, 4))
            assert not file.groups["empty"].variables
    with netCDF4.Dataset(path) as file:
        assert file["notes"].getncattr("by") == "nobody"
        assert file["run"].getncattr("run") == 7


def test_blocks_that_share_chunks_are_refused_naming_the_group(path):
    with pytest.raises(ValueError, match=r"tree\.h5:/run: variable 't': along dimension 'time', two blocks"):
        to_pytables(tree(), path, encoding={"/run": {"t": {"chunksizes": (3, 4)}}})
    to_pytables(tree(), path, encoding={"/run": {"t": {"chunksizes": (3, 4)}}}, align_chunks=True)
    with xr.open_datatree(path, engine="pytables") as found:
        assert found["run/t"].encoding["chunksizes"] == (3, 4)
        xr.testing.assert_identical(found.load(), tree().load())


def test_a_tree_goes_into_a_group(path):
    to_pytables(tree(), path)
    to_pytables(tree() * 2, path, mode="a", group="/twice")
    with xr.open_datatree(path, engine="pytables") as found:
        np.testing.assert_array_equal(found["twice/run/t"], 2 * found["run/t"])
        assert found["twice/empty"].to_dataset().identical(xr.Dataset(coords={"x": found["twice/x"].variable}))


def test_a_coordinate_that_cannot_be_read_costs_no_other_group(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    good = xr.Dataset({"a": ("time", [1.0, 2.0])}, {"time": [10, 20]})
    bad = xr.Dataset({"b": ("x", [3.0, 4.0])}, {"x": [987654321, 20]})
    to_pytables(xr.DataTree.from_dict({"/good": good, "/bad": bad}), path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(np.int64(987654321).tobytes())] ^= 1  # its checksum is wrong now
    path.write_bytes(raw)
    with pytest.warns(UserWarning, match=r"t\.h5:/bad: coordinates that cannot be read are left out: 'x': .*checksum"):
        tree = xr.open_datatree(path, engine="pytables")
    xr.testing.assert_equal(tree["good"].to_dataset(), good)
    assert tree["bad"]["b"].values.tolist() == [3.0, 4.0]
    assert "x" not in tree["bad"].coords


@pytest.mark.parametrize("cause", ["sizes", "indexes"])
@pytest.mark.parametrize("chunks", [None, {}])
def test_groups_that_do_not_align_are_refused_naming_the_file_and_the_way_out(
    path: Path, cause: str, chunks: dict[str, int] | None
) -> None:
    for group, x in (("/run", [0, 1, 2]), ("/run/calib", [5, 6, 7] if cause == "indexes" else [0, 1])):
        to_pytables(xr.Dataset({"v": ("x", x)}, {"x": x}), path, group=group, mode="a" if group != "/run" else "w")
    with pytest.raises(ValueError, match=r"tree\.h5: its groups do not make one tree") as caught:
        xr.open_datatree(path, engine="pytables", chunks=chunks)
    assert type(caught.value) is ValueError
    for told in (
        "group=",
        "xr.open_groups",
        "xarray says: group '/run/calib' is not aligned with its parents:\nGroup:",
    ):
        assert told in str(caught.value)
    groups = xr.open_groups(path, engine="pytables")
    assert [groups[name]["v"].values.tolist() for name in ("/run", "/run/calib")] == [
        [0, 1, 2],
        [5, 6, 7] if cause == "indexes" else [0, 1],
    ]
    with xr.open_datatree(path, engine="pytables", group="/run/calib") as found:
        assert found["v"].values.tolist() == groups["/run/calib"]["v"].values.tolist()


def test_groups_whose_indexes_differ_are_a_tree_without_indexes(path: Path) -> None:
    for group, x in (("/run", [0, 1, 2]), ("/run/calib", [5, 6, 7])):
        to_pytables(xr.Dataset({"v": ("x", x)}, {"x": x}), path, group=group, mode="a" if group != "/run" else "w")
    for chunks in (None, {}):
        with xr.open_datatree(path, engine="pytables", create_default_indexes=False, chunks=chunks) as found:
            assert found["run/calib/x"].values.tolist() == [5, 6, 7]
            assert found["run/x"].values.tolist() == [0, 1, 2]
            assert not found["run/calib"].xindexes
    with pytest.raises(ValueError, match=r"^group '/run/calib' is not aligned"):  # by the user's own doing
        xr.open_datatree(path, engine="pytables", create_default_indexes=False).map_over_datasets(
            lambda ds: ds.assign_coords(x=ds["x"].values) if "x" in ds.coords else ds
        )


@pytest.mark.parametrize("coordinate", ["none", "empty", "short", "long"])
def test_arrays_of_groups_are_as_long_as_a_growing_dimension_above(tmp_path: Path, coordinate: str) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("t", None)
        if coordinate != "none":
            file.createVariable("t", "f8", ("t",))[: {"empty": 0, "short": 3, "long": 6}[coordinate]] = 1
        group = file.createGroup("g")
        group.createVariable("a", "i4", ("t",))[0:2] = [5, 6]
        group.createVariable("text", str, ("t",))[0] = "q"
        file.createGroup("g/h").createVariable("b", "i4", ("t",))[0:4] = [1, 2, 3, 4]
        own = file.createGroup("k")
        own.createDimension("u", None)
        own.createVariable("c", "i4", ("u",))[0:1] = 7
    with (
        xr.open_datatree(tmp_path / "a.nc", engine="pytables", decode_cf=False) as found,
        xr.open_datatree(tmp_path / "a.nc", engine="netcdf4", decode_cf=False) as expected,
    ):
        assert found.groups == expected.groups
        for path in found.groups:
            assert found[path].sizes == expected[path].sizes
            for name, variable in expected[path].dataset.variables.items():
                np.testing.assert_array_equal(found[path][name], variable)
