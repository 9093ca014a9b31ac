"""Datasets written as tables: the same dataset comes back, plain PyTables reads, appends to and queries them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array
import h5py
import numpy as np
import pandas as pd
import pytest
import tables
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables import to_pytables
from xr_pytables.writing.request import WriteRequest
from xr_pytables.writing.table_plan import plan_table

from ..helpers_properties import examples
from ..helpers_reading import assert_same, column_of, plain_file, run_python

ROWS = 3000


def make_dataset(rows: int = ROWS) -> xr.Dataset:
    rng = np.random.default_rng(0)
    texts = np.array(["ä", "bb", "", "ccc"])[rng.integers(0, 4, rows)]
    return xr.Dataset(
        {
            "energy": ("event", rng.normal(size=rows), {"units": "TeV", "limits": [1, 2], "nothing": None}),
            "name": ("event", texts),
            "code": ("event", rng.integers(0, 100, rows).astype(">i4")),
            "good": ("event", rng.random(rows) > 0.5),
            "image": (("event", "y", "x"), rng.normal(size=(rows, 2, 3)).astype("f4"), {"units": "p.e."}),
            "position.x": ("event", np.arange(rows)),
            "when": ("event", pd.date_range("2000-01-01", periods=rows, freq="h")),
            "position.error.y": ("event", np.arange(rows) * 1.5),
            "raw": ("event", np.array([b"ab", b"", b"abc"])[rng.integers(0, 3, rows)]),
            "wave": ("event", rng.normal(size=rows) + 1j),
        },
        coords={"event": np.arange(rows) * 2, "run": ("event", np.arange(rows) % 7)},
        attrs={"title": "a run", "energy_UNIT": "not of the column", "list": [1, "a"]},
    )


def read(path: Path, group: str = "/events", **kwargs: Any) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return xr.open_dataset(path, engine="pytables", group=group, **kwargs)


def write(dataset: Any, path: Path, group: str = "/events", **kwargs: Any) -> Any:
    return to_pytables(dataset, path, group=group, layout="table", **kwargs)


def assert_comes_back(dataset: xr.Dataset, path: Path, group: str = "/events") -> None:
    with read(path, group) as back:
        assert set(back.variables) == set(dataset.variables)
        xr.testing.assert_identical(back.load(), dataset)


@pytest.mark.parametrize("chunks", [None, {"event": 700}, {"event": 64}, {"event": -1, "x": 1}])
@pytest.mark.parametrize("mode", ["w", "a", "w-"])
def test_a_dataset_comes_back(chunks: dict[str, int] | None, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    dataset = make_dataset()
    if mode == "a":
        to_pytables(xr.Dataset({"z": ("q", [1.5])}), path, group="/other")
    write(dataset if chunks is None else dataset.chunk(chunks), path, "/g/events", mode=mode)
    assert_comes_back(dataset, path, "/g/events")
    if mode == "a":
        assert xr.open_dataset(path, engine="pytables", group="/other")["z"].item() == 1.5


def test_plain_pytables_reads_appends_to_and_queries_it(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    dataset = make_dataset()
    write(dataset, path, filters=tables.Filters(5, "blosc:zstd", fletcher32=True), index=["energy", "position.x"])
    with plain_file(path, "a") as file:
        table = file.root.events
        assert type(table) is tables.Table
        assert (table.nrows, table.autoindex, table.filters.complib) == (ROWS, True, "blosc:zstd")
        assert table.filters.fletcher32
        assert set(table.colnames) == {*(name for name in dataset.variables if "." not in str(name)), "position"}
        rows = table.read()
        assert_same(rows["energy"], dataset["energy"])
        assert_same(rows["image"], dataset["image"])
        assert_same(rows["position"]["error"]["y"], dataset["position.error.y"])
        assert rows["good"].dtype == bool
        assert rows["name"][:2].tolist() == [text.encode() for text in dataset["name"].values[:2]]
        assert table.coldescrs["energy"].dflt == 0.0
        assert table.cols.energy.is_indexed
        assert table.cols.position.x.index.kind == "medium"
        assert len(table.read_where("energy > 1")) == int((dataset["energy"] > 1).sum())
        table.append(rows[:10])
        table.flush()
        assert len(table.read_where("energy > -100")) == ROWS + 10
    with read(path) as back:
        assert_same(back["energy"], np.concatenate([dataset["energy"], dataset["energy"][:10]]))
        assert back.encoding["unlimited_dims"] == {"event"}


@pytest.mark.parametrize("index", [(), ["energy", "code"], {"energy": "full", "code": "ultralight"}])
def test_queries_find_what_numpy_finds(index: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    dataset = make_dataset()
    write(dataset, path, index=index)
    expected = np.flatnonzero((dataset["energy"].values > 2) & dataset["good"].values | (dataset["code"].values == 5))
    with read(path, where="((energy > 2) & good) | (code == 5)") as found:
        assert found["event_number"].values.tolist() == expected.tolist()
        assert_same(found["event"], dataset["event"][expected])
        assert_same(found["image"], dataset["image"][expected])
    if isinstance(index, dict):
        with plain_file(path) as file:
            assert file.root.events.cols.energy.index.kind == "full"
            assert file.root.events.cols.code.index.kind == "ultralight"


def test_an_index_in_a_file_of_others_runs_nothing_from_it(tmp_path: Path) -> None:
    """PyTables makes the index; it must not see what else is in the file."""
    path = tmp_path / "a.h5"
    attack = b"cos\nmkdir\n(S'" + str(tmp_path / "pwned").encode() + b"'\ntR."
    with plain_file(path, "w") as file:
        file.create_group("/", "g")
    with h5py.File(path, "a") as file:
        for node in (file["/"], file["/g"]):
            node.attrs["TITLE2"] = np.bytes_(attack)
            node.attrs["FILTERS"] = np.bytes_(attack)
    dataset = make_dataset()
    write(dataset, path, "/g/events", mode="a", index={"energy": "full"})
    assert not (tmp_path / "pwned").exists()
    expected = np.flatnonzero(dataset["energy"].values > 2)
    with read(path, "/g/events", where="energy > 2") as found:
        assert found["event_number"].values.tolist() == expected.tolist()
    with h5py.File(path) as file:
        assert set(file["/g"]) == {"events", "_i_events"}
    assert os.listdir(tmp_path) == ["a.h5"]


def test_a_table_is_replaced_with_its_index(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    dataset = make_dataset()
    write(dataset, path, index=["energy"])
    smaller = dataset.isel(event=slice(5)).drop_vars("image")
    write(smaller, path, mode="a")
    assert_comes_back(smaller, path)
    with h5py.File(path) as file:
        assert list(file) == ["events"]
    write(smaller, path, mode="a", index=["code"])
    with plain_file(path) as file:
        assert file.root.events.colindexed["code"]


SCHEDULERS = ["threads", "sync", "processes"]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("compute", [True, False])
def test_every_scheduler_writes_the_same(scheduler: str, compute: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    dataset = make_dataset()
    with dask.config.set(scheduler=scheduler, num_workers=2):
        later = write(dataset.chunk({"event": 1000}), path, index=["energy"], compute=compute)
        if not compute:
            assert not path.exists()
            later.compute()
    assert_comes_back(dataset, path)
    with plain_file(path) as file:
        assert file.root.events.colindexed["energy"]
    assert os.listdir(tmp_path) == ["a.h5"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    dataset = make_dataset()
    write(dataset, path)
    before = path.read_bytes()

    def fail(block: np.ndarray) -> np.ndarray:
        raise RuntimeError("on purpose")

    broken = dataset.chunk({"event": 1000})
    broken["energy"] = broken["energy"].copy(data=broken["energy"].data.map_blocks(fail, dtype="f8", meta=np.empty(0)))
    for mode in ("w", "a"):
        with pytest.raises(RuntimeError, match="on purpose"):
            write(broken, path, mode=mode, index=["energy"])
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["a.h5"]


def test_each_block_is_computed_once_and_memory_stays_bounded(tmp_path: Path) -> None:
    code = """
        import resource, sys
        import dask, dask.array, numpy as np, xarray as xr
        from xr_pytables import to_pytables
        computed = []
        def block(start):
            computed.append(start)
            return np.arange(start, start + 500_000.0)
        def column(factor):
            parts = [dask.delayed(block)(number * 500_000 * factor) for number in range(24)]
            blocks = [dask.array.from_delayed(part, (500_000,), float) for part in parts]
            return ("row", dask.array.concatenate(blocks))
        dataset = xr.Dataset({f"c{number}": column(number + 1) for number in range(4)})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with dask.config.set(scheduler="threads", num_workers=2):
            to_pytables(dataset, sys.argv[1], group="/t", layout="table")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        assert len(computed) == 96, len(computed)
        with xr.open_dataset(sys.argv[1], engine="pytables", group="/t") as back:
            assert back["c3"][11_999_999].item() == 23 * 500_000 * 4 + 499_999
        print(grown < 250 or grown)  # of 366 MiB
    """
    assert run_python(code, tmp_path / "a.h5") == "True\n"


@st.composite
def datasets(draw: st.DrawFn) -> xr.Dataset:
    rows = draw(st.integers(0, 30))
    variables: dict[str, Any] = {}
    for number in range(draw(st.integers(1, 5))):
        dtype = np.dtype(draw(st.sampled_from("i1 <i2 >i4 <i8 u1 >u2 <u4 >u8 <f4 >f8 ? c16 S3".split())))
        inner = draw(st.sampled_from([(), (), ("y",), ("y", "x")]))
        shape = (rows, *({"y": 2, "x": 3}[dim] for dim in inner))
        values = np.random.default_rng(number).integers(0, 100, shape)
        data = values.astype("S3") if dtype.kind == "S" else values.astype(dtype)
        name = draw(st.sampled_from([f"v{number}", f"n.v{number}", f"n.m.v{number}", f"v {number}é"]))
        variables[name] = (("row", *inner), data)
    dataset = xr.Dataset(variables)
    return dataset.chunk({"row": draw(st.integers(1, 10))}) if draw(st.booleans()) and rows else dataset


@examples(60)
@given(
    dataset=datasets(),
    complib=st.sampled_from([None, "zlib", "bzip2", "blosc:lz4", "blosc2:zstd"]),
    chunk=st.sampled_from([None, 1, 7, 100]),
)
def test_any_dataset_comes_back_and_plain_pytables_reads_it(
    dataset: xr.Dataset, complib: str | None, chunk: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    first = next(iter(dataset))
    encoding: dict[str, Any] = {"complib": complib, "complevel": 3} if complib else {}
    if chunk:
        encoding["chunksizes"] = (chunk, *dataset[first].shape[1:])
    write(dataset, path, encoding={first: encoding})
    with read(path) as back:
        assert set(back) == set(dataset)
        for name in dataset:
            assert_same(back[name], dataset[name])
            assert back[name].dims == dataset[name].dims
    with plain_file(path) as file:
        rows = file.root.events.read()
        for name in dataset:
            assert_same(column_of(rows, str(name)), dataset[name])
        assert (file.root.events.filters.complib if complib else None) == complib
        if chunk:
            assert file.root.events.chunkshape == (chunk,)


# -- how it is stored -----------------------------------------------------------------------------------------


def test_encoding_of_columns_and_of_the_table(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    dataset = xr.Dataset({"t": ("row", [1.25, np.nan, 3.0]), "u": ("row", [1, 2, 3])})
    write(dataset, path, encoding={"t": {"dtype": "i2", "scale_factor": 0.25, "_FillValue": -9, "chunksizes": (50,)}})
    with plain_file(path) as file:
        assert file.root.events.cols.t[:].tolist() == [5, -9, 12]
        assert file.root.events.chunkshape == (50,)
    assert_comes_back(dataset, path)


def test_filters_come_from_where_all_columns_come_from(tmp_path: Path) -> None:
    source, path = tmp_path / "a.h5", tmp_path / "b.h5"
    write(make_dataset(), source, encoding={"energy": {"complib": "blosc2:lz4", "complevel": 7, "chunksizes": (128,)}})
    with read(source) as dataset:
        write(dataset, path)
    with plain_file(path) as file:
        assert (file.root.events.filters.complib, file.root.events.filters.complevel) == ("blosc2:lz4", 7)
        assert file.root.events.chunkshape == (128,)


def test_chunks_of_rows_are_of_a_sane_size(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(xr.Dataset({"a": ("row", np.zeros(10, "f4")), "b": (("row", "x"), np.zeros((10, 99), "f4"))}), path)
    with plain_file(path) as file:
        assert file.root.events.chunkshape == (2**18 // 400,)


def test_enumerations_stay_enumerations(tmp_path: Path) -> None:
    source, path = tmp_path / "a.h5", tmp_path / "b.h5"
    with plain_file(source, "w") as file:
        column = tables.EnumCol({"red": 4, "green": 9}, "red", "uint8")
        file.create_table("/", "events", {"color": column, "n": tables.Int32Col()}).append([(9, 1), (4, 2)])
    with read(source) as dataset:
        write(dataset, path)
    with plain_file(path) as file:
        assert file.root.events.get_enum("color") == tables.Enum({"red": 4, "green": 9})
        assert file.root.events.cols.color[:].tolist() == [9, 4]


def test_data_arrays_and_data_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    frame = pd.DataFrame({"x": [1.5, 2.5], "s": ["a", "bc"]}, index=pd.Index([10, 20], name="key"))
    write(frame.to_xarray(), path)
    pd.testing.assert_frame_equal(read(path).to_dataframe(), frame, check_dtype=False)
    array = xr.DataArray([1, 2], dims="row", name="v")
    write(array, path)
    xr.testing.assert_identical(read(path)["v"].load(), array)
    write(array.rename(None), path)
    assert list(read(path)) == ["values"]


def test_a_table_without_rows_and_one_that_is_named_as_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(make_dataset(0), path, index=["energy"])
    with read(path) as back:
        assert back.sizes["event"] == 0
        assert_same(back["image"], np.zeros((0, 2, 3), "f4"))
    dataset = xr.Dataset({"a": ("events", [1, 2])}, coords={"events": [5, 6]})
    write(dataset, path)
    assert_comes_back(dataset, path)


ATTRIBUTES = [True, None, {"a": [1, None]}, "text", "", 5.0]


@pytest.mark.parametrize("value", ATTRIBUTES, ids=repr)
def test_attributes_whose_names_mean_something_in_a_table_come_back(tmp_path: Path, value: object) -> None:
    check_names_of_attributes(tmp_path / "a.h5", value, "table")


def check_names_of_attributes(path: Path, value: object, layout: Any) -> None:
    names = ("TITLE", "title", "v_UNIT", "v@x", "info", "levels", "FIELD_0_NAME", "free")
    for name in names:
        dataset = xr.Dataset({"v": ("x", [1, 2])}, attrs={name: value, "other": True})
        to_pytables(dataset, path, group="/t", layout=layout)
        with xr.open_dataset(path, engine="pytables", group="/t") as back:
            assert back.attrs == dataset.attrs
            assert back["v"].attrs == {}
    to_pytables(dataset.assign_attrs(dict.fromkeys(names, value)), path, group="/t", layout=layout)
    with xr.open_dataset(path, engine="pytables", group="/t") as back:
        assert back.attrs == {**dict.fromkeys(names, value), "other": True}


def test_attributes_with_the_sign_between_column_and_attribute(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    dataset = xr.Dataset({"a": ("row", [1], {"b@c": 1, "units": "m"}), "b@c": ("row", [2], {"d": 2})}, attrs={"a@x": 3})
    write(dataset, path)
    assert_comes_back(dataset, path)


# -- what is refused ------------------------------------------------------------------------------------------


def nothing(dataset: xr.Dataset) -> xr.Dataset:
    return dataset


@pytest.mark.parametrize(
    ("change", "kwargs", "error", "message"),
    [
        (nothing, {"group": "/"}, ValueError, "group names the table, e.g. group='/events'"),
        (nothing, {"mode": "r+"}, ValueError, "mode='r.' sets values of arrays, not of tables"),
        (nothing, {"unlimited_dims": ["x"]}, ValueError, r"only the rows \('event'\) of a table can grow"),
        (nothing, {"index": "energy"}, TypeError, r"index must be a list of names, e.g. index=\['energy'\]"),
        (nothing, {"index": None}, TypeError, r"index must be a list of names, e.g. index=\['energy'\], not None"),
        (nothing, {"index": ["nope"]}, ValueError, "index names 'nope'; the columns are 'energy', 'name'"),
        (nothing, {"index": {"energy": "best"}}, ValueError, r"index\['energy'\] must be one of"),
        (nothing, {"index": ["image"]}, ValueError, "column 'image' has more than one value in each row"),
        (nothing, {"index": ["wave"]}, ValueError, "column 'wave' is complex, so PyTables cannot index it"),
        (nothing, {"encoding": {"nope": {}}}, KeyError, "encoding names 'nope'"),
        (nothing, {"encoding": {"energy": {"nope": 1}}}, ValueError, "unexpected encoding parameters 'nope'"),
        (nothing, {"encoding": {"name": {"string": "vlen"}}}, ValueError, "the rows of a table have a fixed length"),
        (nothing, {"encoding": {"name": {"dtype": "S1"}}}, ValueError, "arrays of characters are no column"),
        (nothing, {"encoding": {"energy": {"chunksizes": (5,)}, "code": {"chunksizes": (6,)}}}, ValueError,
         "a table has one chunksizes for all columns; encoding asks for 5 and, for 'code', 6"),
        (nothing, {"encoding": {"energy": {"complib": "nope"}}}, ValueError, "complib 'nope' is unknown"),
        (nothing, {"region": {"event": slice(3)}}, NotImplementedError, "region cannot change rows of a table"),
        (nothing, {"append_dim": "y"}, ValueError, "rows are appended along 'event', not along append_dim='y'"),
        (lambda ds: ds.transpose("x", ...), {}, ValueError, r"Call transpose\('event', ...\) before|share their first"),
        (lambda ds: ds.assign(scalar=5), {}, ValueError, r"these have .*'scalar' \(\).*drop_vars"),
        (lambda ds: ds.assign(z=("q", [1])), {}, ValueError, r"'z' \('q',\).*drop_vars"),
        (lambda ds: ds.drop_vars(list(ds.variables)), {}, ValueError, "a table needs at least one variable"),
        (lambda ds: ds.rename(energy="position"), {}, ValueError, "'position' cannot be a column and"),
        (lambda ds: ds.rename(energy="_f_x"), {}, ValueError, "variable '_f_x' cannot be a column"),
        (lambda ds: ds.rename(energy="a..b"), {}, ValueError, "variable 'a..b' cannot be a column"),
        (lambda ds: ds.rename(energy="a/b"), {}, ValueError, "Forward slashes"),
        (lambda ds: xr.DataTree(ds), {}, TypeError, "layout='table' writes a Dataset or DataArray, not DataTree"),
        (lambda ds: ds.assign(o=("event", [object()] * 3)), {}, ValueError, "variable 'o': .*unable to infer dtype"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_table_is_refused_before_the_disk_is_touched(
    change: Callable[[xr.Dataset], Any], kwargs: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    if kwargs.get("mode") == "r+":
        write(make_dataset(3), path)
    with pytest.raises(error, match=message):
        write(change(make_dataset(3)), path, **{"group": "/events", **kwargs})
    assert os.listdir(tmp_path) == (["a.h5"] if kwargs.get("mode") == "r+" else [])


def test_layout_and_index_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layout must be 'arrays', 'table' or 'pandas', not 'rows'"):
        to_pytables(make_dataset(3), tmp_path / "a.h5", layout="rows")
    with pytest.raises(ValueError, match="index needs layout='table'"):
        to_pytables(make_dataset(3), tmp_path / "a.h5", index=["energy"])


def test_a_table_takes_no_name_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    to_pytables(xr.Dataset({"array": ("x", [1, 2])}), path)
    to_pytables(xr.Dataset({"v": ("x", [1, 2])}), path, group="/g", mode="a")
    write(make_dataset(3), path, "/table", mode="a")
    before = path.read_bytes()
    for group, message in {
        "/array": "'/array' is not a table, so a table cannot take its place",
        "/x": "'/x' is not a table, so a table cannot take its place",
        "/g": "'/g' is a group; a table cannot take its name",
        "/array/t": "'/array' is an array, so it cannot hold a table",
        "/table/t": "'/table' is not a group of its own, so it cannot hold a table",
        "/_i_x": "begins as only PyTables names what it hides",
        "/_f_x": "cannot be the name of a group or table",
    }.items():
        with pytest.raises(ValueError, match=message):
            write(make_dataset(3), path, group, mode="a")
    assert path.read_bytes() == before


def test_a_plan_is_a_value(tmp_path: Path) -> None:
    request = WriteRequest(make_dataset(3), "/nowhere.h5", group="/events", layout="table", index=["energy"])
    plan = plan_table(request, {}, None)
    ((group, variable),) = list(plan)
    assert (group.path, variable.name, variable.layout.shape) == ("/", "events", (3,))
    assert variable.layout.dtype.names[:2] == ("energy", "name")
    assert plan.indexes == {"/events": (("energy", "medium", 6),)}
