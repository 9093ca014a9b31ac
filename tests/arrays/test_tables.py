"""Tables as datasets of their columns: what is shown, that it equals plain PyTables, who reads it and how often."""

from __future__ import annotations

import gc
import importlib.util
import pickle
import threading
import warnings
from pathlib import Path
from typing import Any

import dask
import h5py
import numpy as np
import pytest
import tables
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables import FileChangedError
from xr_pytables.arrays import table_arrays
from xr_pytables.arrays.table_arrays import ColumnArray
from xr_pytables.chunks import codecs, row_blocks
from xr_pytables.disk.files import FileIdentity
from xr_pytables.disk.opened_files import OpenedFile
from xr_pytables.hdf5.datatype import Datatype, Field
from xr_pytables.model.specs import VariableSpec

from ..helpers_properties import examples
from ..helpers_reading import assert_same, open_quietly, open_raw, plain_file, run_python
from ..helpers_threads import WATCHDOG

FILTERS = {
    "none": None,
    "zlib": tables.Filters(5, "zlib", shuffle=True, fletcher32=True),
    "blosc": tables.Filters(5, "blosc:zstd"),
    "blosc2": tables.Filters(5, "blosc2:zstd"),
    "bzip2": tables.Filters(1, "bzip2"),
}


class Event(tables.IsDescription):
    energy = tables.Float64Col(pos=0)
    name = tables.StringCol(6, pos=1)
    image = tables.Float32Col(shape=(2, 3), pos=2)
    triggered = tables.BoolCol(pos=3)
    amplitude = tables.ComplexCol(16, pos=4)
    kind = tables.EnumCol({"signal": 1, "noise": 2}, "noise", "uint8", pos=5)

    class position(tables.IsDescription):  # noqa: N801 - the name of a column
        _v_pos = 6
        x = tables.Int16Col()
        y = tables.UInt64Col()

        class error(tables.IsDescription):  # noqa: N801
            sigma = tables.Float32Col(shape=(2,))

    when = tables.Time64Col(pos=7)
    second = tables.Time32Col(pos=8)


def rows_of(count: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    rows = np.zeros(count, tables.dtype_from_descr(Event))
    rows["energy"] = np.where(rng.random(count) < 0.1, np.nan, rng.normal(size=count))
    rows["name"] = [b"n%d" % number for number in rng.integers(0, 100, count)]
    rows["image"] = rng.normal(size=(count, 2, 3))
    rows["triggered"] = rng.random(count) < 0.5
    rows["amplitude"] = rng.normal(size=count) + 1j * np.arange(count)
    rows["kind"] = rng.integers(1, 3, count)
    rows["position"]["x"] = rng.integers(-(2**15), 2**15, count)
    rows["position"]["y"] = rng.integers(0, 2**64, count, dtype="u8")
    rows["position"]["error"]["sigma"] = rng.random((count, 2))
    rows["when"] = np.arange(count) * 1000.25
    rows["second"] = np.arange(count) * 7
    return rows


def make_events(path: Path, count: int = 1000, *, chunk: int = 64, filters: object = None, **attributes: Any) -> Path:
    with plain_file(path, "w") as file:
        table = file.create_table("/", "events", Event, filters=filters, chunkshape=chunk)
        table.append(rows_of(count))
        for name, value in attributes.items():
            table.attrs[name] = value
    return path


def columns_of(rows: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of a record array as the engine names them, as stored."""
    found: dict[str, np.ndarray] = {}
    for name in rows.dtype.names:
        if rows[name].dtype.names:
            found.update({f"{name}.{inner}": column for inner, column in columns_of(rows[name]).items()})
        else:
            found[name] = rows[name]
    return found


def plain_columns(path: Path, where: str = "/events") -> dict[str, np.ndarray]:
    with plain_file(path) as file:
        return columns_of(file.get_node(where).read())


def open_events(path: Path, **kwargs: Any) -> xr.Dataset:
    return xr.open_dataset(path, engine="pytables", group="/events", **kwargs)


def array_of(variable: xr.DataArray) -> ColumnArray:
    """The lazy array of ours behind an opened variable."""
    inner = variable.variable._data
    while not isinstance(inner, ColumnArray):
        inner = inner.array
    return inner


@pytest.mark.parametrize("filters", FILTERS)
def test_columns_equal_plain_pytables_and_are_read_past_hdf5(filters: str, tmp_path: Path) -> None:
    path = make_events(tmp_path / "a.h5", filters=FILTERS[filters])
    expected = plain_columns(path)
    with open_events(path, decode_times=False) as ds:
        assert list(ds) == list(expected)
        for name, column in expected.items():
            if name == "when":
                column = np.round(column * 1e6).astype("i8")
            assert_same(ds[name], column)
        assert ds["position.error.sigma"].dims == ("events_row", "dim_2")
        assert ds["image"].dims == ("events_row", "dim_2", "dim_3")


def test_times_enumerations_and_extendable_rows(tmp_path: Path) -> None:
    path = make_events(tmp_path / "a.h5", 5)
    with open_events(path) as ds:
        assert ds["when"].dtype.kind == ds["second"].dtype.kind == "M"
        assert ds["when"].values[3] == np.datetime64("1970-01-01T00:50:00.75")
        assert ds["second"].values[2] == np.datetime64("1970-01-01T00:00:14")
        assert ds["kind"].attrs["flag_meanings"] == "noise signal"
        assert ds["kind"].attrs["flag_values"].tolist() == [2, 1]
        assert ds.encoding["unlimited_dims"] == {"events_row"}


SELECTIONS = st.one_of(
    st.integers(-7, 6),
    st.slices(7),
    st.lists(st.integers(-7, 6), max_size=6).map(lambda chosen: np.array(chosen, int)),
)


@st.composite
def descriptions(draw: st.DrawFn, depth: int = 0) -> dict[str, object]:
    """A description of a table: columns of all kinds, in either order of bytes, some of them nested."""
    simple = st.sampled_from(
        ["i1", "<i2", ">i4", "<i8", "u1", ">u2", "<u4", ">u8", "f2", "<f4", ">f8", "?", "c8", "S3"]
    )
    columns: dict[str, object] = {}
    for number in range(draw(st.integers(1, 4))):
        if depth < 2 and draw(st.integers(0, 4)) == 0:
            columns[f"c{number}"] = draw(descriptions(depth + 1))
        else:
            columns[f"c{number}"] = (draw(simple), draw(st.sampled_from([(), (), (2,), (2, 3)])))
    return columns


def as_dtype(description: dict[str, object], *, gap: int) -> np.dtype:
    """The record type of a description, with `gap` bytes before each member and at the end."""
    names, formats, offsets, at = [], [], [], 0
    for name, column in description.items():
        member = as_dtype(column, gap=gap) if isinstance(column, dict) else np.dtype(column)
        names.append(name)
        formats.append(member)
        offsets.append(at + gap)
        at += gap + member.itemsize
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": at + gap})


def filled(dtype: np.dtype, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random bytes of sound values (no byte of a bool above 1)."""
    rows = np.zeros(count, dtype)
    for name, column in columns_of(rows).items():
        if column.dtype.kind == "b":
            column[...] = rng.random(column.shape) < 0.5
        elif column.dtype.kind == "S":
            column[...] = rng.integers(97, 123, column.shape).astype("u1").view("S1")
        else:
            column[...] = rng.integers(0, 120, column.shape).astype(column.dtype)
        assert name
    return rows


@examples(60)
@given(
    description=descriptions(),
    gap=st.sampled_from([0, 0, 1, 5]),
    chunk=st.sampled_from([1, 3, 7, 20, None]),
    compression=st.sampled_from([None, "gzip"]),
    key=SELECTIONS,
    seed=st.integers(0, 100),
)
def test_any_compound_and_selection_equals_numpy(
    description: dict[str, object], gap: int, chunk: int | None, compression: str | None, key: object, seed: int,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Compounds with padding, on which plain PyTables corrupts its memory: h5py writes them, NumPy is the oracle."""
    rows = filled(as_dtype(description, gap=gap), 7, np.random.default_rng(seed))
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        chunks = None if chunk is None else (chunk,)
        file.create_dataset(
            "events", data=rows, chunks=chunks, compression=compression if chunks else None,
            maxshape=None if chunks is None else (None,), shuffle=bool(compression and chunks),
        )  # fmt: skip
    with open_quietly(path, group="/events", decode_cf=False) as ds:
        expected = columns_of(rows)
        assert list(ds) == list(expected)
        for name, column in expected.items():
            lazy = ds[name].variable
            assert_same(lazy[key], column[key, ...])
            if column.ndim > 1:
                assert_same(lazy[key, ..., -1], column[..., -1][key, ...])
                assert_same(lazy[..., [1, 0]], column[..., [1, 0]])


@examples(40)
@given(description=descriptions(), chunk=st.sampled_from([1, 3, 20]), complib=st.sampled_from(list(FILTERS)),
       order=st.sampled_from(["little", "big"]), key=SELECTIONS)  # fmt: skip
def test_any_description_and_selection_equals_plain_pytables(
    description: dict[str, object], chunk: int, complib: str, order: str, key: object, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    with plain_file(path, "w") as file:
        dtype = as_dtype(description, gap=0).newbyteorder("=")
        description_ = tables.description.descr_from_dtype(dtype)[0]
        table = file.create_table(
            "/", "events", description_, filters=FILTERS[complib], chunkshape=chunk, byteorder=order
        )
        rows = filled(table.dtype, 7, np.random.default_rng(5))
        table.append(rows)
    with open_quietly(path, group="/events", decode_cf=False) as ds:
        for name, column in plain_columns(path).items():
            if order == "big" and column.dtype.kind == "c" and column.ndim > 1:  # PyTables does not swap these (3.11.1)
                column = columns_of(rows)[name]
            assert_same(ds[name].variable[key], column[key, ...])


def test_points_of_a_column_with_a_shape(tmp_path: Path) -> None:
    path = make_events(tmp_path / "a.h5")
    image = plain_columns(path)["image"]
    rng = np.random.default_rng(0)
    rows, y, x = rng.integers(-1000, 1000, 50), rng.integers(-2, 2, 50), rng.integers(0, 3, 50)
    with open_events(path) as ds:
        pointwise = ds["image"].variable[xr.Variable("p", rows), xr.Variable("p", y), xr.Variable("p", x)]
        assert_same(pointwise, image[rows, y, x])
        assert_same(ds["image"].variable[xr.Variable("p", rows), 1], image[rows, 1])


@pytest.mark.parametrize("chunked", [True, False])
def test_a_fixed_item_of_a_column(chunked: bool, tmp_path: Path) -> None:
    """How one column of a pandas block is described: a spec with `item`."""
    path = tmp_path / "a.h5"
    rows = rows_of(300)
    with h5py.File(path, "w") as file:
        file.create_dataset("events", data=rows, chunks=(64,) if chunked else None)
    with open_quietly(path, group="/events") as ds:
        whole = array_of(ds["image"])
        spec = whole.spec
        one = VariableSpec(
            **{
                **{name: getattr(spec, name) for name in VariableSpec.__dataclass_fields__},
                "item": (1,), "shape": (300, 3), "dims": (spec.dims[0], spec.dims[2]),
                "chunks": (64, 3) if chunked else None,
            }
        )  # fmt: skip
        array = table_arrays.open_array(whole.file, one)
        variable = xr.Variable(one.dims, xr.core.indexing.LazilyIndexedArray(array))
        assert_same(variable, rows["image"][:, 1])
        assert_same(variable[5:200:7, 2], rows["image"][5:200:7, 1, 2])
        points = xr.Variable("p", [3, 299, 3])
        assert_same(variable[points, xr.Variable("p", [0, 1, 2])], rows["image"][[3, 299, 3], 1, [0, 1, 2]])


def test_columns_behind_any_filter(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    rows = rows_of(300)
    with h5py.File(path, "w") as file:
        file.create_dataset("events", data=rows, chunks=(64,), compression="lzf")
    with open_quietly(path, group="/events", decode_cf=False) as ds:
        assert_same(ds["energy"][::-3], rows["energy"][::-3])


def test_text_and_odd_numbers_in_rows_are_read_and_unknown_members_left_out(tmp_path: Path) -> None:
    """h5py's str columns are pointers into a heap: no part of the row has a place of its own then."""
    path = tmp_path / "a.h5"
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        dtype = np.dtype([("number", "i4"), ("label", text), ("ragged", h5py.vlen_dtype("f4")), ("pair", text, (2,))])
        data = file.create_dataset("events", (3,), dtype, chunks=(2,))
        values = np.zeros(3, dtype)
        values["number"], values["label"] = [1, 2, 3], ["ä", "", "three"]
        for row in range(3):
            values["ragged"][row] = np.zeros(row, "f4")
        data["number", "label"] = values[["number", "label"]]
    with pytest.warns(UserWarning, match="/events/ragged: a column of variable-length arrays is not shown") as caught:
        ds = xr.open_dataset(path, engine="pytables", group="/events")
    assert len(caught) == 1
    with ds:
        assert ds["number"].values.tolist() == [1, 2, 3]
        assert ds["label"].values.tolist() == ["ä", "", "three"]
        assert ds["label"][1:].values.tolist() == ["", "three"]
        assert ds["pair"].values.tolist() == [["", ""]] * 3


def test_a_compact_and_an_empty_table(tmp_path: Path) -> None:
    path = make_events(tmp_path / "a.h5", 0)
    with open_events(path) as ds:
        assert dict(ds.sizes) == {"events_row": 0, "dim_2": 2, "dim_3": 3}
        assert ds.load()["image"].shape == (0, 2, 3)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.COMPACT)
        rows = np.array([(1, 2.5), (3, 4.5)], [("a", ">i2"), ("b", "f8")])
        stored = h5py.h5t.py_create(rows.dtype)
        space = h5py.h5s.create_simple((2,))
        h5py.h5d.create(file.id, b"events", stored, space, properties).write(h5py.h5s.ALL, h5py.h5s.ALL, rows)
    with open_quietly(tmp_path / "b.h5", group="/events") as ds:
        assert ds["a"].values.tolist() == [1, 3]
        assert ds["b"].values.tolist() == [2.5, 4.5]


def test_chunks_that_nobody_wrote_have_the_fill_value(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    dtype = np.dtype([("a", "i4"), ("b", ">f8", (2,))])
    fill = np.array((7, (1.5, 2.5)), dtype)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("events", (100,), dtype, chunks=(10,), fillvalue=fill)
        data[20:30] = np.zeros(10, dtype)
        expected = data[()]
        file.create_dataset("nothing", (100,), dtype)
    with open_quietly(path, group="/events") as ds:
        for name in ("a", "b"):
            assert_same(ds[name], expected[name])
            assert_same(ds[name][15:25], expected[name][15:25])
    with open_quietly(path, group="/nothing") as ds:
        assert_same(ds["b"], np.zeros((100, 2)))


def test_rows_larger_than_any_block(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    dtype = np.dtype([("wide", "f8", (300_000,)), ("id", "i4")])
    rows = np.zeros(4, dtype)
    rows["wide"] = np.arange(4)[:, np.newaxis]
    rows["id"] = [5, 6, 7, 8]
    with h5py.File(path, "w") as file:
        file.create_dataset("events", data=rows, chunks=(1,), compression="gzip", compression_opts=1)
        file.create_dataset("flat", data=rows)
    for name in ("events", "flat"):
        with open_quietly(path, group=name, chunks={}) as ds:
            assert ds["id"].chunks is not None
            assert ds["id"].values.tolist() == [5, 6, 7, 8]
            assert ds["wide"][:, 299_999].values.tolist() == [0, 1, 2, 3]


# -- names ----------------------------------------------------------------------------------------------------


def test_row_dimension_is_named_by_the_leaf_the_file_or_the_user(tmp_path: Path) -> None:
    path = make_events(tmp_path / "a.h5", 5)
    with open_events(path) as ds:
        assert ds["energy"].dims == ("events_row",)
    with open_events(path, dims={"events": ["event"], "image": ("event", "y", "x")}) as ds:
        assert (ds["energy"].dims, ds["image"].dims) == (("event",), ("event", "y", "x"))
        assert ds["position.error.sigma"].dims == ("event", "dim_2")
    with open_events(path, dims={"/events": ["event"]}, phony_dims="leaf") as ds:
        assert ds["image"].dims == ("event", "image_1", "image_2")
    with plain_file(path, "a") as file:
        file.root.events.attrs._ARRAY_DIMENSIONS = np.array([b"shot"])
    with open_events(path) as ds:
        assert ds["energy"].dims == ("shot",)
        assert "_ARRAY_DIMENSIONS" not in ds.attrs


def test_wrong_names_of_dimensions_are_refused(tmp_path: Path) -> None:
    path = make_events(tmp_path / "a.h5", 5)
    with pytest.raises(ValueError, match=r"dims\['events'\] must be one name, for the rows of the table '/events'"):
        open_events(path, dims={"events": ("a", "b")})
    with pytest.raises(ValueError, match=r"dims\['image'\] needs 3 different names"):
        open_events(path, dims={"image": ("a", "b")})
    with pytest.raises(ValueError, match="dims names 'nothing', but there is no such array"):
        open_events(path, dims={"nothing": ("a",)})


def test_a_column_that_is_named_as_the_rows_becomes_their_coordinate(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with plain_file(path, "w") as file:
        file.create_table("/", "t", np.array([(5, 1.0), (7, 2.0)], [("index", "i8"), ("v", "f8")]))
        file.create_table("/", "u", np.zeros(2, [("u_row", "f8", (2,))]))
    with open_quietly(path, group="/t", dims={"t": ["index"]}) as ds:
        assert ds.indexes["index"].tolist() == [5, 7]
        assert ds["v"].sel(index=7).item() == 2.0
    with open_quietly(path, group="/u") as ds:
        assert ds["u_row"].dims == ("u_row_", "dim_2")


def test_columns_can_be_dropped(tmp_path: Path) -> None:
    path = make_events(tmp_path / "a.h5", 5)
    with open_events(path, drop_variables=["image", "position.x"]) as ds:
        assert "image" not in ds
        assert "position.x" not in ds
        assert "position.y" in ds


def test_members_with_a_slash_or_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    inner = np.dtype([("b", "i4")])
    with h5py.File(path, "w") as file:
        file["t"] = np.zeros(2, [("a/b", "i4"), ("a", inner)])
    with pytest.warns(UserWarning, match="/t/a.b: another column has the same name"):
        ds = xr.open_dataset(path, engine="pytables", group="/t")
    assert list(ds) == ["a.b"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert list(xr.open_datatree(path, engine="pytables")["t"].data_vars) == ["a.b"]


# -- attributes -----------------------------------------------------------------------------------------------


def test_attributes_of_columns_and_of_the_table(tmp_path: Path) -> None:
    units = {"energy_UNIT": "TeV", "energy_DESC": "of the shower", "nothing_UNIT": "m", "CTAFIELD_1_DESC": "a name"}
    path = make_events(tmp_path / "a.h5", 3, run=7, comment="text", **units, **{"image@long_name": "camera"})
    with open_events(path) as ds:
        assert ds["energy"].attrs == {"units": "TeV", "description": "of the shower"}
        assert ds["name"].attrs == {"description": "a name"}
        assert ds["image"].attrs == {"long_name": "camera"}
        assert ds.attrs == {"run": 7, "comment": "text", "nothing_UNIT": "m"}


def test_a_title_is_shown_and_what_pytables_keeps_for_itself_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with plain_file(path, "w") as file:
        table = file.create_table("/", "events", Event, title="what was seen")
        table.append(rows_of(10))
        table.cols.energy.create_index()
        table.autoindex = False
    with open_events(path) as ds:
        assert ds.attrs == {"title": "what was seen"}
    with xr.open_datatree(path, engine="pytables") as tree:
        assert list(tree.children) == ["events"]


def test_encoding_tells_how_a_column_is_stored(tmp_path: Path) -> None:
    path = make_events(tmp_path / "a.h5", 1000, filters=tables.Filters(4, "blosc2:lz4", fletcher32=True))
    with open_events(path) as ds:
        encoding = ds["image"].encoding
        assert encoding["chunksizes"] == (64, 2, 3)
        assert (encoding["complib"], encoding["complevel"], encoding["fletcher32"]) == ("blosc2:lz4", 4, True)
        assert encoding["dtype"] == np.float32
        assert not encoding["contiguous"]


def test_dask_blocks_are_whole_chunks_of_a_bounded_size(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with plain_file(path, "w") as file:
        table = file.create_table("/", "events", {"a": tables.Float64Col(shape=(64,)), "b": tables.Int8Col()},
                                  chunkshape=100)  # fmt: skip
        table.append(np.zeros(70_000, table.dtype))
    with open_events(path, chunks={}) as ds:
        rows = ds["b"].chunks[0][0]
        assert rows % 100 == 0
        assert 15 * 2**20 < rows * 513 <= 16 * 2**20
        assert ds["a"].chunks == (ds["b"].chunks[0], (64,))


# -- where tables are -----------------------------------------------------------------------------------------


def test_tables_are_children_in_trees_and_groups(tmp_path: Path) -> None:
    path = make_events(tmp_path / "a.h5", 3)
    with plain_file(path, "a") as file:
        file.create_group("/", "g")
        file.create_table("/g", "inner", np.array([(1,)], [("a", "i4")]))
        file.create_array("/g", "array", [1, 2])
        file.create_soft_link("/", "link", "/g/inner")
    with xr.open_datatree(path, engine="pytables") as tree:
        assert set(tree.groups) == {"/", "/events", "/g", "/g/inner", "/link"}
        assert tree["g/inner/a"].values.tolist() == tree["link/a"].values.tolist() == [1]
        assert tree["g/array"].values.tolist() == [1, 2]
        assert tree["events/energy"].shape == (3,)
    groups = xr.open_groups(path, engine="pytables")
    assert set(groups) == {"/", "/events", "/g", "/g/inner", "/link"}
    assert xr.open_dataset(path, engine="pytables", group="/link")["a"].values.tolist() == [1]
    with xr.open_datatree(path, engine="pytables", group="/g/inner") as tree:
        assert tree["a"].values.tolist() == [1]


def test_a_group_says_where_its_tables_are(tmp_path: Path) -> None:
    path = make_events(tmp_path / "a.h5", 3)
    with pytest.warns(UserWarning, match=r"'/' holds no arrays, only tables: '/events'\. Open one with group=") as told:
        assert not xr.open_dataset(path, engine="pytables").variables
    assert len(told) == 1
    with plain_file(path, "a") as file:
        file.create_group("/", "g")
    with pytest.warns(UserWarning, match="only groups: '/g'; tables: '/events'"):
        xr.open_dataset(path, engine="pytables")
    with plain_file(path, "a") as file:
        file.create_array("/", "array", [1])
    with pytest.warns(UserWarning, match="'/' also has tables: '/events'") as told:
        xr.open_dataset(path, engine="pytables")
    assert len(told) == 1
    xr.open_dataset(path, engine="pytables", drop_variables="events")


def test_a_new_variable_cannot_take_the_place_of_a_table(tmp_path: Path) -> None:
    from xr_pytables import to_pytables

    path = make_events(tmp_path / "a.h5", 3)
    with pytest.raises(ValueError, match="'events' is a table in the file"):
        to_pytables(xr.Dataset({"events": ("x", [1])}), path, mode="a")
    with pytest.raises(ValueError, match="'/events' is a table, so '/events' cannot be a group"):
        to_pytables(xr.Dataset({"a": ("x", [1])}), path, mode="a", group="/events")
    to_pytables(xr.Dataset({"a": ("x", [1])}), path, mode="a")
    assert_same(open_events(path)["energy"], rows_of(3)["energy"])


# -- decoded rows are shared ----------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the chunks that are decoded while the test runs; nothing is kept from before."""
    sizes: list[int] = []
    original = codecs.decode_chunk

    def counting(raw: Any, mask: int, pipeline: Any, nbytes: int, *args: Any, **kwargs: Any) -> Any:
        sizes.append(nbytes)
        return original(raw, mask, pipeline, nbytes, *args, **kwargs)

    monkeypatch.setattr(codecs, "decode_chunk", counting)
    monkeypatch.setattr(row_blocks, "_cache", row_blocks.RowCache(row_blocks.CACHE_BYTES))
    return sizes


@pytest.mark.parametrize("chunks", [None, {}, {"events_row": 128}])
def test_columns_computed_together_decode_each_chunk_once(
    chunks: dict[str, int] | None, decoded: list[int], tmp_path: Path
) -> None:
    path = make_events(tmp_path / "a.h5", filters=FILTERS["zlib"])
    rows = rows_of(1000)
    with open_events(path, chunks=chunks) as ds:
        three = ds[["energy", "image", "position.x"]].compute()
    assert len(decoded) == 16  # chunks of the table
    assert_same(three["image"], rows["image"])
    assert_same(three["position.x"], rows["position"]["x"])


def test_decoded_rows_are_dropped_with_the_file_and_never_served_for_another_version(
    decoded: list[int], tmp_path: Path
) -> None:
    path = make_events(tmp_path / "a.h5", filters=FILTERS["zlib"])
    ds = open_events(path, decode_times=False)
    ds["energy"].load()
    cache = row_blocks._cache
    assert cache.held > 0
    assert len(cache.entries) == 16
    with plain_file(path, "a") as file:
        file.root.events.append(rows_of(1))
    assert_same(ds["position.x"], rows_of(1000)["position"]["x"])  # only grown: read on, decoded again
    assert len(decoded) == 32
    with plain_file(path, "a") as file:
        file.root.events.modify_column(0, 1, 1, column=[-1.0], colname="energy")
    changed = open_events(path, decode_times=False)
    assert changed["energy"][0].item() == -1.0
    with plain_file(path, "a") as file:
        file.root.events.modify_column(1, 2, 1, column=[-2.0], colname="energy")
    with pytest.raises(FileChangedError):
        changed["triggered"].load()
    ds.close()
    changed.close()
    del ds, changed
    gc.collect()
    assert (cache.held, len(cache.entries)) == (0, 0)


def test_a_read_larger_than_the_cache_is_not_kept(
    decoded: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = make_events(tmp_path / "a.h5", filters=FILTERS["zlib"])
    monkeypatch.setattr(row_blocks, "CACHE_BYTES", 16 * 1024)
    with open_events(path, decode_times=False) as ds:
        assert_same(ds["energy"], rows_of(1000)["energy"])
        assert not row_blocks._cache.entries
        assert_same(ds["image"][:64], rows_of(1000)["image"][:64])
        assert len(row_blocks._cache.entries) == 1


def test_cache_stays_within_its_bound_and_rests_where_nobody_comes_back() -> None:
    cache = row_blocks.RowCache(10 * 8)
    decoded: list[int] = []
    table = (0, "/t", 0)

    def read(*numbers: int) -> None:
        def decode(wanted: np.ndarray, take: Any) -> None:
            for number in wanted.tolist():
                decoded.append(numbers[number])
                take(number, np.full(1, numbers[number], "u8"))

        got = {}
        cache.read([(table, number) for number in numbers], 8, decode, lambda number, rows: got.update({number: rows}))
        assert [got[number][0] for number in range(len(numbers))] == list(numbers)
        assert cache.held <= cache.limit

    read(1, 2)
    read(2, 3)
    assert decoded == [1, 2, 3]
    for number in range(100, 200):  # one column through a large table
        read(number)
    assert not any((table, number) in cache.entries for number in range(190, 200))  # given up
    read(195)  # somebody comes back
    read(195, 196)
    read(195, 196)
    assert decoded[-2:] == [195, 196]
    assert decoded.count(195) == 2


def test_threads_that_want_the_same_rows_decode_them_once(
    decoded: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = make_events(tmp_path / "a.h5", filters=FILTERS["zlib"])
    begun, go = threading.Event(), threading.Event()
    counting = codecs.decode_chunk

    def waiting(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        assert go.wait(WATCHDOG)
        return counting(*args, **kwargs)

    monkeypatch.setattr(codecs, "decode_chunk", waiting)
    results: dict[str, np.ndarray] = {}
    with open_events(path, decode_times=False) as ds:
        workers = [
            threading.Thread(target=lambda name=name: results.update({name: ds[name].values}))
            for name in ("energy", "image")
        ]
        workers[0].start()
        assert begun.wait(WATCHDOG)
        workers[1].start()
        go.set()
        for worker in workers:
            worker.join(WATCHDOG)
    assert len(decoded) == 16
    assert_same(results["energy"], rows_of(1000)["energy"])
    assert_same(results["image"], rows_of(1000)["image"])


def test_a_damaged_chunk_is_an_error_for_all_who_wait_and_is_named(decoded: list[int], tmp_path: Path) -> None:
    path = make_events(tmp_path / "a.h5", filters=FILTERS["zlib"])
    with plain_file(path) as file:
        where = file.root.events.chunk_info((128,))
    with path.open("r+b") as file:
        file.seek(where.offset + 5)
        file.write(b"\xff" * 20)
    with open_events(path) as ds:
        for _ in range(2):
            with pytest.raises(OSError, match=r"/events: chunk at \(128,\)"):
                ds["energy"].load()
        assert_same(ds["energy"][:128], rows_of(1000)["energy"][:128])
        with dask.config.set(scheduler="threads"), pytest.raises(OSError, match=r"chunk at \(128,\)"):
            dask.compute(ds.chunk({"events_row": 64})[["energy", "image"]])


def test_columns_pickle_and_travel_to_processes(tmp_path: Path) -> None:
    path = make_events(tmp_path / "a.h5", filters=FILTERS["blosc"])
    with open_events(path) as ds:
        assert_same(pickle.loads(pickle.dumps(ds))["image"], rows_of(1000)["image"])
    with open_events(path, chunks={"events_row": 500}) as ds, dask.config.set(scheduler="processes", num_workers=2):
        assert ds["position.x"].sum().compute().item() == int(rows_of(1000)["position"]["x"].sum())


def test_a_fork_finds_a_cache_that_nobody_holds(tmp_path: Path) -> None:
    path = make_events(tmp_path / "a.h5", filters=FILTERS["zlib"])
    code = """
        import os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads is what is tested
        import xarray as xr
        from xr_pytables.chunks import row_blocks
        ds = xr.open_dataset(sys.argv[1], engine="pytables", group="/events")
        ds["energy"].load()
        row_blocks._cache.lock.acquire()
        child = os.fork()
        if not child:
            assert ds["image"].load().shape == (1000, 2, 3)
            os._exit(0)
        print(os.waitpid(child, 0)[1])
    """
    assert run_python(code, path) == "0\n"


def test_a_table_that_grew_is_read_as_it_was_opened(tmp_path: Path) -> None:
    path = make_events(tmp_path / "a.h5", 1000)
    with open_events(path) as ds:
        with plain_file(path, "a") as file:
            file.root.events.append(rows_of(500))
        assert_same(ds["image"], rows_of(1000)["image"])
        assert_same(ds["energy"], rows_of(1000)["energy"])


# -- values ---------------------------------------------------------------------------------------------------


def test_a_column_is_described_without_a_file() -> None:
    """What another module needs to read a column: a spec is a plain value."""
    number = Datatype("float", np.dtype(">f4"), 4, shape=(3,))
    inner = Datatype("compound", None, 16, fields=(Field("b", 2, 12, number),))
    outer = Datatype("compound", None, 24, fields=(Field("a", 4, 16, inner),))
    assert dict(outer.columns()) == {("a", "b"): number}
    view = outer.view_of(("a", "b"))
    assert view.itemsize == 24
    assert view.fields["a"][1] == 4
    assert view["a"].fields["b"][0].shape == (3,)
    with pytest.raises(KeyError):
        outer.view_of(("x",))
    assert pickle.loads(pickle.dumps(outer)) == outer


def test_repr_of_a_column(tmp_path: Path) -> None:
    path = make_events(tmp_path / "a.h5", 3)
    with open_events(path) as ds:
        assert "'position.x', shape=(3,), dtype=int16" in repr(array_of(ds["position.x"]))
    assert OpenedFile(str(path), FileIdentity.of(str(path)))


def test_opening_raw_shows_time_columns_as_integers(tmp_path: Path) -> None:
    path = make_events(tmp_path / "a.h5", 3)
    ds = open_raw(path, group="/events")
    assert ds["when"].values.tolist() == [0, 1000250000, 2000500000]


# -- golden files, and those that PyTables itself is tested with ----------------------------------------------

DATA = Path(__file__).parents[1] / "data"


def golden_rows() -> np.ndarray:
    """What `make_tables.py` says is in the golden files."""
    spec = importlib.util.spec_from_file_location("make_tables", DATA / "make_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows: np.ndarray = module.expected_rows()
    return rows


@pytest.mark.parametrize("path", sorted(DATA.glob("table_*.h5")), ids=lambda path: path.name)
def test_golden_files_are_read_as_they_were_written(path: Path) -> None:
    rows = golden_rows()
    with open_quietly(path, group="/t") as ds:
        expected = columns_of(rows)
        assert set(ds) == set(expected)
        for name, column in expected.items():
            assert_same(ds[name], column)
            assert_same(ds[name][::-7], column[::-7])
        if "h5py" not in path.name:
            assert ds["energy"].attrs == {"units": "TeV"}
            assert (ds.attrs["run"], ds.attrs["title"]) == (7, "golden")
    with open_quietly(path, group="/t", where="((energy > 70) & (code < 0)) | (name == b'n7')") as found:
        mask = ((rows["energy"] > 70) & (rows["code"] < 0)) | (rows["name"] == b"n7")
        assert found["t_row"].values.tolist() == np.flatnonzero(mask).tolist()


def test_golden_files_are_small_and_say_what_made_them() -> None:
    files = sorted(DATA.glob("table_*.h5"))
    assert len(files) == 5
    for path in files:
        assert path.stat().st_size < 100_000
        with h5py.File(path) as file:
            assert b"HDF5" in np.bytes_(file.attrs["made_with"])


SAMPLES = sorted((Path(tables.__file__).parent / "tests").glob("*.h5"))
GAPS = "nested-type-with-gaps.h5"
"""Plain PyTables reads beyond its memory here."""


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_tables_of_the_files_that_pytables_is_tested_with(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        groups = xr.open_groups(path, engine="pytables", decode_times=False)
    compared = 0
    if path.name == GAPS:
        assert any(name.endswith("nestedtype") or ds.variables for name, ds in groups.items())
        return
    with plain_file(path) as file:
        for table in file.walk_nodes("/", "Table"):
            if "lzo" in path.name:  # not part of this build
                continue
            ds = groups[table._v_pathname]
            for name, column in columns_of(table.read()).items():
                if table.coltypes.get(name) == "time64" or (column.dtype.kind == "f" and ds[name].dtype.kind == "i"):
                    assert_same(ds[name], np.round(column * 1e6).astype("i8"))
                elif name in ds:
                    assert_same(ds[name], column)
                compared += 1
    if path.name in ("times-nested-be.h5", "python2.h5", "indexes_2_1.h5", "Table2_1_zlib_nrv2e_shuffle.h5"):
        assert compared
