"""Variables of netCDF-4 that are created without a fill value (NC_NOFILL), compared with netCDF4's own reading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr

from xr_pytables import repack, to_pytables
from xr_pytables.virtual import to_kerchunk

from ..helpers_reading import open_quietly

NUMBERS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">i2", ">f4"]
TYPES = [*NUMBERS, "S1", str]
LENGTH = 10


def name_of(kind: str | type) -> str:
    return "text" if kind is str else f"v_{kind}"


def write(path: Path, fill: bool | None, *, chunk: int = 4, types: Sequence[str | type] = TYPES) -> None:
    """Variables of each type, of which two elements are written, along a dimension of ten."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("t", None)
        file.createVariable("t", "f8", ("t",))[:] = np.arange(float(LENGTH))
        for kind in types:
            variable = file.createVariable(
                name_of(kind), kind, ("t",), fill_value=fill, chunksizes=(chunk,),
                endian="big" if str(kind)[0] == ">" else "native",
            )  # fmt: skip
            variable[:2] = np.array(["1", "2"], object if kind is str else None).astype(object if kind is str else kind)


def shown_by_netcdf(path: Path) -> dict[str, list[object]]:
    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        return {name: variable[:].tolist() for name, variable in file.variables.items()}


@pytest.mark.parametrize("fill", [False, None])
def test_what_is_behind_the_end_of_a_variable_has_the_default_fill_value(tmp_path: Path, fill: bool | None) -> None:
    write(tmp_path / "n.nc", fill)
    expected = shown_by_netcdf(tmp_path / "n.nc")
    assert expected["v_i4"][2:] == [netCDF4.default_fillvals["i4"]] * (LENGTH - 2)
    with open_quietly(tmp_path / "n.nc", decode_cf=False) as ds:
        assert {name: ds[name].values.tolist() for name in ds.variables} == expected
        assert ds["v_u8"][::-4].values.tolist() == expected["v_u8"][::-4]
        assert ds["v_f4"][9].item() == expected["v_f4"][9]


def test_files_of_others_have_no_default_fill_value(tmp_path: Path) -> None:
    """`fill_time="never"` alone makes no netCDF file; h5py shows zeros where HDF5 has nothing."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, size in (("long", 5), ("short", 2)):
            file.create_dataset(name, data=np.arange(size), maxshape=(None,), chunks=(2,), fill_time="never")
            file[name].attrs["_ARRAY_DIMENSIONS"] = ["t"]
    assert open_quietly(tmp_path / "a.h5")["short"].values.tolist() == [0, 1, 0, 0, 0]


def test_an_append_leaves_the_default_fill_value_in_the_gap(tmp_path: Path) -> None:
    path = tmp_path / "n.nc"
    write(path, False, types=NUMBERS)
    before = open_quietly(path, decode_cf=False).load()
    more = {name: ("t", np.array([3], data.dtype)) for name, data in before.data_vars.items()}
    to_pytables(xr.Dataset(more, coords={"t": [10.0]}), path, append_dim="t")
    with open_quietly(path, decode_cf=False) as ds:
        for name in more:
            assert ds[name].values.tolist() == [*before[name].values.tolist(), 3], name
    with netCDF4.Dataset(path) as file:
        assert file["v_i4"][:4].data.tolist() == before["v_i4"][:4].values.tolist()  # the chunk that was there


def test_an_open_dataset_goes_on_being_read_when_the_file_grows(tmp_path: Path) -> None:
    write(tmp_path / "n.nc", False)
    expected = shown_by_netcdf(tmp_path / "n.nc")["v_i4"]
    with open_quietly(tmp_path / "n.nc", decode_cf=False) as ds:
        with netCDF4.Dataset(tmp_path / "n.nc", "a") as file:
            file.createVariable("more", "f8", ("t",))[:] = np.arange(LENGTH)
            file["t"][LENGTH : 5 * LENGTH] = 1.0
        assert ds["v_i4"].values.tolist() == expected


def test_repack_keeps_zeros_and_the_default_fill_value(tmp_path: Path) -> None:
    """Chunks of zeros are left out elsewhere; here nothing says that they are zeros."""
    with netCDF4.Dataset(tmp_path / "n.nc", "w") as file:
        file.createDimension("t", None)
        file.createVariable("t", "f8", ("t",))[:] = np.arange(9.0)
        file.createVariable("v", "i4", ("t",), fill_value=False, chunksizes=(2,))[:4] = 0
    expected = shown_by_netcdf(tmp_path / "n.nc")["v"]
    repack(tmp_path / "n.nc", tmp_path / "r.nc", arrays=["v"], chunks=[4])
    assert expected == [0] * 4 + [netCDF4.default_fillvals["i4"]] * 5
    assert shown_by_netcdf(tmp_path / "r.nc")["v"] == expected
    assert open_quietly(tmp_path / "r.nc", decode_cf=False)["v"].values.tolist() == expected


def test_virtual_stores_show_the_same_or_leave_out(tmp_path: Path) -> None:
    names = [name_of(kind) for kind in TYPES if kind is not str]
    for chunk, left in ((2, names), (4, [])):
        write(tmp_path / "n.nc", False, chunk=chunk)
        with pytest.warns(UserWarning, match="left out") as caught:
            to_kerchunk(tmp_path / "n.nc", tmp_path / "refs.json")
        assert ("/v_i4: it is shorter than its dimension" in str(caught[0].message)) is (not left)
        expected = shown_by_netcdf(tmp_path / "n.nc")
        with xr.open_dataset(str(tmp_path / "refs.json"), engine="kerchunk", decode_cf=False) as ds:
            assert {name: ds[name].values.tolist() for name in ds.data_vars} == {name: expected[name] for name in left}
