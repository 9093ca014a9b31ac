"""pandas' HDFStore files: every layout, equal to what pandas reads, lazily and without unpickling.

Golden files of several versions of pandas are in data/hdfstore, with what that pandas read back from them.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import gzip
import json
import operator
import pickle
import re
import runpy
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import tables
import xarray as xr
from h5py import h5d, h5s, h5t
from hypothesis import given, reject
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xr_pytables import to_pytables
from xr_pytables.arrays import frame_arrays
from xr_pytables.arrays.frame_arrays import FrameArray
from xr_pytables.chunks import reading, row_blocks
from xr_pytables.disk.door import Visit
from xr_pytables.disk.files import FileIdentity
from xr_pytables.disk.opened_files import OpenedFile
from xr_pytables.errors import FileChangedError
from xr_pytables.model import frames
from xr_pytables.model.nodes import NodeReader
from xr_pytables.model.specs import ReadOptions
from xr_pytables.where.queries import RowQuery, find_rows, plan_query

from ..helpers_properties import examples
from ..helpers_reading import open_quietly, plain_file

DATA = Path(__file__).parents[1] / "data" / "hdfstore"
VERSIONS = sorted(folder.name for folder in DATA.glob("pandas-*"))
FORMATS = ["fixed", "compressed", "table"]
PANDAS_READS_INTEGERS = {
    ("pandas-1.5.3", "table"): {"index/dates", "index/timedeltas", "index/timedeltas_freq"},
    ("pandas-2.2.3", "table"): {"index/dates", "index/timedeltas", "index/timedeltas_freq"},
    ("pandas-3.1.1", "table"): {"index/dates"},
}
"""Cases in which pandas forgets what the index was, though the file says it: what we read is what was stored."""
made = runpy.run_path(str(DATA / "make_files.py"))


@functools.cache
def expected_of(version: str) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((DATA / version / "expected.json").read_text())
    return expected


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder, found = tmp_path_factory.mktemp("stores"), {}
    for version in VERSIONS:
        for packed in (DATA / version).glob("*.h5.gz"):
            name = packed.name.removesuffix(".h5.gz")
            found[version, name] = folder / f"{version}-{name}.h5"
            found[version, name].write_bytes(gzip.decompress(packed.read_bytes()))
    return found


def cases(formats: list[str]) -> list[Any]:
    return [
        pytest.param(version, name, key, id=f"{version}-{name}-{key}")
        for version in VERSIONS
        for name in formats
        for key in expected_of(version)[name]
    ]


def opened(path: Path, key: str, **kwargs: Any) -> xr.Dataset:
    return xr.open_dataset(path, engine="pytables", group=key, **kwargs)


# -- golden files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "name", "key"), cases(FORMATS))
@pytest.mark.filterwarnings("ignore:.*is called 'index' like the index")
def test_golden_files_read_as_pandas_reads_them(
    stores: dict[tuple[str, str], Path], version: str, name: str, key: str
) -> None:
    stored_right = "fixed" if key in PANDAS_READS_INTEGERS.get((version, name), ()) else name
    expected = expected_of(version)[stored_right][key]
    ds = opened(stores[version, name], key)
    if key == "frames/column_named_index":
        ds = ds.rename({"index": "was_column"}).rename(level_0="index").rename_vars(was_column="index_")
        expected = {**expected, "columns": described(pd.DataFrame(columns=["index_", "a"]))["columns"]}
    assert_like(ds, expected)


def column_labels(axis: dict[str, Any]) -> list[Any]:
    """Of columns: for each the plain form of its label, or of the labels of its levels."""
    levels = [list(map(tuple, zip_described(level))) for level in axis["levels"]]
    return [["list", list(labels)] for labels in zip(*levels, strict=True)] if axis["multi"] else levels[0]


def zip_described(level: dict[str, Any]) -> list[Any]:
    """The values of a described array as elements of an object array are described."""
    dtype = level["dtype"]
    if dtype == "object":
        return list(level["values"])
    if dtype == "period":
        return [("period", str(period)) for period in pd.PeriodIndex.from_ordinals(level["values"], freq=level["freq"])]
    if dtype.startswith("M8"):
        times = pd.DatetimeIndex(np.array(level["values"]).view(dtype))
        if "zone" in level:
            times = times.tz_localize("UTC").tz_convert(level["zone"])
        return [("timestamp", time.isoformat()) for time in times]
    return [({"f": "float", "i": "int"}[dtype[0]], value) for value in level["values"]]


def label_of(described: Any) -> Any:
    kind, value = described
    if kind == "list":
        return tuple(label_of(item) for item in value)
    if kind in ("timestamp", "period"):
        return getattr(pd, kind.capitalize())(value)
    return {"int": int, "float": float, "str": str}[kind](value)


def assert_described(variable: xr.DataArray, expected: dict[str, Any]) -> None:
    """The variable has the values, the dtype and the zone or frequency of what pandas read."""
    values, wanted, dtype = variable.values, expected["values"], expected["dtype"]
    assert len(values) == len(wanted)
    if dtype == "period":
        assert values.dtype == "i8"
        assert values.tolist() == wanted
        assert variable.attrs == {"freq": expected["freq"]}
        return
    if dtype == "object" and wanted and (wanted[0] or [""])[0] == "date" and values.dtype != object:
        assert values.dtype == "M8[s]"  # an index of dates; among other objects they stay dates
        wanted = [datetime.date.fromisoformat(value) for _, value in wanted]
        assert values.astype("M8[D]").tolist() == wanted
        return
    if dtype in ("object", "category"):
        inner = expected.get("categories", "object")
        if values.dtype != object:
            assert inner != "object"
            values = values.astype(object) if values.dtype.kind not in "mM" else pd.Index(values).astype(object)
        plain = [made["plain"](value) for value in np.asarray(values, object).tolist()]
        assert plain == [as_float(value) if inner[0] in "iu" else value for value in wanted]
        return
    assert values.dtype == np.dtype(dtype)
    if values.dtype.kind in "mM":
        assert values.view("i8").tolist() == [made["NAT"] if value is None else value for value in wanted]
        assert variable.attrs == ({"time_zone": expected["zone"]} if "zone" in expected else {})
        return
    assert not variable.attrs
    if values.dtype.kind in "fc":
        assert [repr(value) for value in values.astype("c16" if values.dtype.kind == "c" else "f8").tolist()] == wanted
    else:
        assert values.tolist() == wanted


def as_float(described: Any) -> Any:
    """Categories of integers are floats, since one may be missing."""
    return None if described is None else ["float", repr(float(described[1]))]


def assert_like(ds: xr.Dataset, expected: dict[str, Any]) -> None:
    """The dataset has the index, the columns and the values of an object that `make_files.expected` described."""
    assert_index(ds, expected)
    names = [expected["name"]] if expected["series"] else column_labels(expected["columns"])
    assert list(ds.data_vars) == ["values" if name is None else label_of(name) for name in names]
    for variable, column in zip(ds.data_vars.values(), expected["data"], strict=True):
        assert_described(variable, column)


def assert_index(ds: xr.Dataset, expected: dict[str, Any]) -> None:
    levels = expected["index"]["levels"]
    assert len(ds.coords) == len(levels)
    for number, (variable, level) in enumerate(zip(ds.coords.values(), levels, strict=True)):
        wanted = expected["index"]["names"][number]
        default = f"level_{number}" if expected["index"]["multi"] else "index"
        assert variable.name == (default if wanted is None else label_of(wanted))
        assert_described(variable, level)


# -- any object --------------------------------------------------------------------------------------------


UNITS = ["s", "ms", "us", "ns"]
INTEGERS = st.integers(-(2**31), 2**31)
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=5).filter(str.strip)


@st.composite
def times(draw: st.DrawFn, size: int, kind: str) -> pd.Index:
    values = draw(st.lists(st.none() | INTEGERS, min_size=size, max_size=size))
    raw = np.array([made["NAT"] if value is None else value for value in values], "i8")
    unit = draw(st.sampled_from(UNITS))
    if kind == "m":
        return pd.TimedeltaIndex(raw.view(f"m8[{unit}]"))
    zone = draw(st.sampled_from([None, None, "UTC", "Europe/Berlin", "Asia/Kolkata"]))
    found = pd.DatetimeIndex(raw.view(f"M8[{unit}]"))
    return found if zone is None else found.tz_localize("UTC").tz_convert(zone)


@st.composite
def columns(draw: st.DrawFn, size: int, format: str) -> Any:
    """Values of one column."""
    kinds = ["i8", "f8", "u1", "f4", "?", "text", "times", "lags"] + (["category"] if format == "table" else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "text":
        return pd.Series(draw(st.lists(st.none() | TEXTS, min_size=size, max_size=size)), dtype="str")
    if kind == "times":
        return draw(times(size, "M"))
    if kind == "lags":
        return draw(times(size, "m"))
    if kind == "category":
        return pd.Categorical(draw(st.lists(st.none() | st.sampled_from("abcd"), min_size=size, max_size=size)))
    return draw(arrays(kind, size))


@st.composite
def indexes(draw: st.DrawFn, size: int, format: str) -> pd.Index:
    name = draw(st.sampled_from([None, "i", "a name"]))
    kinds = ["range", "i8", "f8", "text", "times", "lags", "multi", "category", "periods", "dates"]
    kind = draw(st.sampled_from(kinds + (["objects"] if format == "fixed" else [])))  # a table makes text of objects
    if kind == "range":
        return pd.RangeIndex(size, name=name)
    if kind == "objects":
        objects = st.one_of(TEXTS, INTEGERS, st.floats(allow_nan=False), st.dates().map(pd.Timestamp), st.booleans())
        return pd.Index(draw(st.lists(objects, min_size=size, max_size=size)), dtype=object, name=name)
    if kind == "dates":
        return pd.Index(draw(st.lists(st.dates(), min_size=size, max_size=size)), dtype=object, name=name)
    if kind == "category":
        labels = draw(st.sampled_from([list("abcd"), [1, 2, 3]]))
        chosen = draw(st.lists(st.sampled_from(labels), min_size=size, max_size=size))
        return pd.CategoricalIndex(chosen, categories=labels, name=name)
    if kind == "periods":
        ordinals = draw(st.lists(st.integers(-1000, 1000), min_size=size, max_size=size))
        return pd.PeriodIndex.from_ordinals(ordinals, freq=draw(st.sampled_from(["D", "M", "Y", "h"])), name=name)
    if kind == "text":
        return pd.Index(draw(st.lists(TEXTS, min_size=size, max_size=size)), dtype="str", name=name)
    if kind in ("times", "lags"):
        return draw(times(size, "M" if kind == "times" else "m")).rename(name)
    if kind == "multi":
        first = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
        second = draw(st.lists(TEXTS, min_size=size, max_size=size))
        return pd.MultiIndex.from_arrays([first, second], names=draw(st.sampled_from([[None, None], ["p", "q"]])))
    return pd.Index(draw(arrays(kind, size)), name=name)


@st.composite
def objects(draw: st.DrawFn, format: str) -> pd.DataFrame | pd.Series:
    size = draw(st.integers(0 if format == "fixed" else 1, 12))
    index = draw(indexes(size, format))
    count = draw(st.integers(1, 4))
    labels = draw(st.sampled_from([["w", "x", "y", "z"], ["w w", "x", "ü", "z"]]))[:count]
    made_columns = {name: draw(columns(size, format)) for name in labels}
    frame = pd.DataFrame({name: np.asarray(v) if isinstance(v, pd.Series) else v for name, v in made_columns.items()})
    frame.index = index
    return frame[labels[0]] if draw(st.booleans()) and count == 1 else frame


@pytest.mark.parametrize("format", ["fixed", "table"])
@given(data=st.data())
@examples(40)
def test_any_object_reads_as_pandas_reads_it(tmp_path: Path, format: str, data: st.DataObject) -> None:
    stored = data.draw(objects(format))
    path = tmp_path / "any.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas on names and pickles
        try:
            stored.to_hdf(path, key="df", mode="w", format=format)
            read = pd.read_hdf(path, "df")
        except (ValueError, TypeError, OverflowError):  # what pandas cannot store, or read back
            reject()
    if format == "table" and isinstance(stored.index[0], datetime.date):  # pandas forgets what they were
        read.index = stored.index
    expected = made["expected"](read)
    with opened(path, "df") as ds:
        assert_like(ds, expected)


@pytest.mark.parametrize("format", ["fixed", "table"])
@given(data=st.data())
@examples(40)
def test_any_selection_equals_that_of_the_loaded_dataset(tmp_path: Path, format: str, data: st.DataObject) -> None:
    path = tmp_path / "selected.h5"
    if not path.exists():
        mixed_frame(50).to_hdf(path, key="df", mode="w", format=format, data_columns=["text"])
    row = st.integers(-50, 49)
    rows = data.draw(
        st.one_of(
            row,
            st.slices(50),
            st.lists(row, max_size=8).map(lambda chosen: np.array(chosen, int)),
            st.lists(row, min_size=4, max_size=4).map(
                lambda chosen: xr.DataArray(np.array(chosen).reshape(2, 2), dims=("a", "b"))
            ),
        )
    )
    with opened(path, "df") as lazy, opened(path, "df") as whole:
        whole.load()
        xr.testing.assert_identical(lazy.isel(row=rows).load(), whole.isel(row=rows))


def mixed_frame(rows: int) -> pd.DataFrame:
    numbers = np.arange(rows)
    frame = pd.DataFrame(
        {
            "i": numbers, "x": numbers / 4, "y": -numbers / 2,
            "text": [None if number % 7 == 3 else f"text {number}" for number in numbers],
            "t": pd.date_range("2020-01-01", periods=rows, freq="h", tz="Europe/Berlin"),
        },
        index=pd.Index(numbers * 10, name="row"),
    )  # fmt: skip
    frame.loc[20, "t"] = pd.NaT
    return frame


# -- laziness and who reads --------------------------------------------------------------------------------


def array_of(variable: xr.DataArray) -> FrameArray:
    """The lazy array at the bottom of a variable that was not read yet."""
    inner = variable.variable._data
    while not isinstance(inner, FrameArray):
        inner = inner.array
    return inner


@pytest.fixture
def decoded_chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the chunks of rows that were decoded past HDF5."""
    found: list[int] = []
    each_chunk = reading.each_chunk

    def counted(fd: int, storage: Any, index: Any, numbers: Any, use: Any, **kwargs: Any) -> Any:
        found.extend(numbers.tolist())
        return each_chunk(fd, storage, index, numbers, use, **kwargs)

    monkeypatch.setattr(row_blocks.reading, "each_chunk", counted)
    return found


@pytest.mark.parametrize("format", ["fixed", "table"])
def test_columns_share_the_decoded_rows_and_a_part_decodes_a_part(
    tmp_path: Path, format: str, decoded_chunks: list[int]
) -> None:
    frame = pd.DataFrame({name: np.arange(200_000.0) + len(name) for name in ("a", "bb", "ccc")})
    frame.to_hdf(tmp_path / "f.h5", key="df", mode="w", format=format, complib="blosc:zstd", complevel=1, index=False)
    with opened(tmp_path / "f.h5", "df", drop_variables="index") as ds:
        assert not decoded_chunks
        rows = array_of(ds["a"]).spec.chunks[0]
        chunks = -(-200_000 // rows)
        assert chunks > 3
        first = ds["a"].isel(index=slice(0, 10)).values
        assert decoded_chunks == [0]
        assert first.tolist() == frame["a"][:10].tolist()
        decoded_chunks.clear()
        for name in ds:
            np.testing.assert_array_equal(ds[name].values, frame[name])
        assert sorted(decoded_chunks) == list(range(1, chunks))  # each once for three columns; the first was kept


def test_nothing_but_labels_is_read_on_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.h5"
    frame = mixed_frame(20).assign(o=pd.Series([1, "a"] * 10, dtype=object).values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame.to_hdf(path, key="df", mode="w")

    def refuse(self: object, *args: object) -> None:
        raise AssertionError("values were read")

    with monkeypatch.context() as patch:
        patch.setattr(FrameArray, "_read", refuse)
        with opened(path, "df", drop_variables="row") as ds:
            assert list(ds) == ["i", "x", "y", "text", "t", "o"]
            repr(ds)


def test_dask_processes_and_pickles_read_the_same(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    frame = mixed_frame(100)
    frame.to_hdf(path, key="df", mode="w", format="table")
    with opened(path, "df", chunks={"row": 30}) as ds:
        assert ds.chunks["row"] == (30, 30, 30, 10)
        whole = ds.compute()
        assert_like(pickle.loads(pickle.dumps(ds)).compute(scheduler="processes", num_workers=1), described(frame))
        assert_like(whole, described(frame))
    with opened(path, "df") as ds:
        assert_like(pickle.loads(pickle.dumps(ds)), described(frame))


def described(obj: pd.DataFrame | pd.Series) -> dict[str, Any]:
    found: dict[str, Any] = made["expected"](obj)
    return found


def test_objects_are_one_dask_block(tmp_path: Path) -> None:
    mixed_frame(50).to_hdf(tmp_path / "f.h5", key="df", mode="w")
    with opened(tmp_path / "f.h5", "df", chunks={}) as ds:
        assert ds["text"].chunks == ((50,),)


# -- trees and names ---------------------------------------------------------------------------------------


def test_a_tree_shows_each_object_as_one_node(stores: dict[tuple[str, str], Path]) -> None:
    for version in VERSIONS:
        for name in FORMATS:
            expected = expected_of(version)[name]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a column called index
                groups = xr.open_groups(stores[version, name], engine="pytables")
            with_variables = {path.strip("/") for path, group in groups.items() if group.variables}
            assert with_variables == {key for key in expected if key != "frames/nothing"} | (
                {"frames/nothing"} & expected.keys()
            )
            assert groups["/nested/inner"].attrs == {"metadata": {"made": "by hand", "version": 1}, "units": "m"}
            assert all(not group.attrs for path, group in groups.items() if path != "/nested/inner")
            for group in groups.values():
                group.close()


@pytest.mark.parametrize(
    "calib", [pd.Series(range(3)), pd.Series(range(4), index=[5, 6, 7, 8]), pd.Series(range(4))], ids=str
)
def test_a_key_below_another_is_a_tree_only_if_their_indexes_are_the_same(tmp_path: Path, calib: pd.Series) -> None:
    path = tmp_path / "f.h5"
    with pd.HDFStore(path, "w") as store:
        store["run"], store["run/calib"] = pd.Series(range(4)), calib
    groups = xr.open_groups(path, engine="pytables")
    assert groups["/run/calib"]["index"].values.tolist() == calib.index.tolist()
    if calib.index.equals(pd.RangeIndex(4)):
        with xr.open_datatree(path, engine="pytables") as tree:
            assert tree["run/calib/values"].values.tolist() == calib.tolist()
        return
    with pytest.raises(
        ValueError, match=r"f\.h5: its groups do not .* xr\.open_groups\. .* '/run/calib' is not aligned"
    ):
        xr.open_datatree(path, engine="pytables")


def test_a_tree_opens_lazily_with_any_labels(stores: dict[tuple[str, str], Path]) -> None:
    with xr.open_datatree(stores["pandas-3.1.1", "fixed"], engine="pytables", group="/labels") as tree:
        assert ("a", 1) in tree["tuple_labels"].data_vars
        assert next(iter(tree["pose_labels"].data_vars)) == ("DLC_resnet50", "nose", "x")
        assert pd.Timestamp("2020-03-28") in tree["datetime_labels"].data_vars


def test_a_column_keeps_its_name_and_the_index_gives_way(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    frame = pd.DataFrame({"index": [1, 2], "k": [3, 4]}, index=pd.Index(["p", "q"], name="k"))
    frame.to_hdf(path, key="named", mode="w")
    frame.rename_axis(None).to_hdf(path, key="unnamed")
    with pytest.warns(UserWarning, match="a column is called 'k' like the index: the index is shown as 'k_1'"):
        ds = opened(path, "named")
    assert (list(ds.data_vars), list(ds.coords), ds["k_1"].values.tolist()) == (["index", "k"], ["k_1"], ["p", "q"])
    with pytest.warns(UserWarning, match="the index is shown as 'level_0'"):
        assert list(opened(path, "unnamed").coords) == ["level_0"]


def test_columns_of_the_same_name_are_all_shown(tmp_path: Path) -> None:
    frame = pd.DataFrame([[1, 2.5], [3, 4.5]], columns=["a", "a"])
    frame.to_hdf(tmp_path / "f.h5", key="df", mode="w", format="table")
    with pytest.warns(UserWarning, match="another column is called 'a' too: it is shown as 'a_1'"):
        ds = opened(tmp_path / "f.h5", "df")
    assert {tuple(ds[name].values.tolist()) for name in ("a", "a_1")} == {(1, 3), (2.5, 4.5)}


@pytest.mark.parametrize("name", [0, 1.5, ("a", 1)])
def test_an_index_that_is_not_called_by_text_is_called_by_its_text(tmp_path: Path, name: Any) -> None:
    frame = pd.DataFrame({"v": [1.0, 2.0]}, index=pd.Index([5, 6], name=name))
    for format in ("fixed", "table"):
        frame.to_hdf(tmp_path / "f.h5", key="df", mode="w", format=format)
        ds = opened(tmp_path / "f.h5", "df")
        assert ds["v"].dims == (str(name),)
        assert ds[str(name)].values.tolist() == [5, 6]


def test_dropped_columns_of_any_name(stores: dict[tuple[str, str], Path]) -> None:
    path = stores["pandas-3.1.1", "fixed"]
    assert list(opened(path, "labels/tuple_labels", drop_variables=[("a", 1), "index"]).variables) == [
        ("a", 2), ("b", 1),
    ]  # fmt: skip
    assert list(opened(path, "labels/integer_labels", drop_variables=[1]).variables) == [0, 2, "index"]


def test_dims_cannot_name_what_pandas_named(stores: dict[tuple[str, str], Path]) -> None:
    with pytest.raises(ValueError, match=r"dims names 'v', but there is no such array"):
        opened(stores["pandas-3.1.1", "fixed"], "index/range", dims={"v": ("x",)})


def test_multiindex_goes_back_to_pandas(stores: dict[tuple[str, str], Path]) -> None:
    for name in ("fixed", "table"):
        path = stores["pandas-3.1.1", name]
        frame = pd.read_hdf(path, "index/multi_times")
        ds = opened(path, "index/multi_times").set_index(index=["time", "depth"])
        pd.testing.assert_frame_equal(ds.to_dataframe(), frame)
        xr.testing.assert_identical(ds.unstack("index").load(), frame.to_xarray())


# -- what cannot be read -----------------------------------------------------------------------------------


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


@pytest.fixture
def attacked(tmp_path: Path) -> tuple[Path, Path]:
    """A store in which one row of objects would run code, and the file that it would make."""
    path, marker = tmp_path / "attacked.h5", tmp_path / "executed"
    frame = pd.DataFrame({"n": [1, 2], "o": pd.Series([1, "a"], dtype=object)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame.to_hdf(path, key="df", mode="w")
    with plain_file(path, "a") as file:
        [block] = [node for node in file.list_nodes("/df") if isinstance(node, tables.VLArray)]
        name = block._v_name
        block.remove()
        replaced = file.create_vlarray("/df", name, tables.ObjectAtom())
        replaced.append(np.array([[Payload(marker)], [2]], object))
    return path, marker


def test_objects_that_would_run_code_cost_their_column_only(attacked: tuple[Path, Path]) -> None:
    path, marker = attacked
    ds = opened(path, "df")
    assert ds["n"].values.tolist() == [1, 2]
    with pytest.raises(ValueError, match=rf"{path}:/df/block\d_values: column 'o' cannot be read: .*exec"):
        ds["o"].load()
    assert not marker.exists()


def test_allow_pickle_unpickles_objects(attacked: tuple[Path, Path]) -> None:
    path, marker = attacked
    assert opened(path, "df", allow_pickle=True)["o"].values.tolist() == [None, 2]
    assert marker.exists()


ATTRIBUTES = {
    "fixed": [
        ("/df", name) for name in ("pandas_type", "encoding", "errors", "nblocks", "axis1_variety", "units")
    ] + [
        (f"/df/{leaf}", name)
        for leaf in ("axis0", "axis1", "block0_items", "block0_values")
        for name in ("kind", "name", "freq", "tz", "index_class", "nan_rep", "value_type", "shape", "transposed")
    ],
    "table": [
        ("/df", name)
        for name in ("pandas_type", "info", "levels", "index_cols", "values_cols", "non_index_axes", "nan_rep", "units")
    ] + [
        ("/df/table", f"{column}_{name}")
        for column in ("index", "values_block_0", "text")
        for name in ("kind", "dtype", "meta", "nan_rep")
    ],
}  # fmt: skip


@pytest.mark.parametrize("format", ["fixed", "table"])
def test_no_attribute_runs_code_or_costs_the_file(tmp_path: Path, format: str) -> None:
    marker, path = tmp_path / "executed", tmp_path / "odd.h5"
    odd: list[Any] = [None, 7, -1, 2.5, "", "no such thing", b"\xff", [], [1], (0,), {"a": 1}, [[], []], 10**9]
    odd += [np.array([1, 2]), "datetime64[fortnight]", "period[no]", "zlib", [(0, "index", 1)], [(1, "index")]]
    odd += ["dateutil//dev/zero", "/dev/zero", "../../dev/zero"]
    mixed_frame(5)[["i", "text"]].to_hdf(path, key="df", mode="w", format=format, data_columns=["text"])
    pd.Series([1.0]).to_hdf(path, key="other")
    count = 0
    with plain_file(path, "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, (node, name) in enumerate(ATTRIBUTES[format]):
            for value in [Payload(marker), *(odd[(number + turn) % len(odd)] for turn in range(0, len(odd), 5))]:
                file.copy_node("/df", "/", f"df{count}", recursive=True)
                file.set_node_attr(node.replace("/df", f"/df{count}"), name, value)
                count += 1
    marker.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        groups = xr.open_groups(path, engine="pytables")
        assert set(groups) >= {"/", "/df", "/other", *(f"/df{number}" for number in range(count))}
        assert groups["/other"]["values"].values.tolist() == [1.0]
        for group in groups.values():
            for variable in group.variables:
                with contextlib.suppress(ValueError):
                    group[variable].load()
            group.close()
    assert not marker.exists()


def test_what_is_no_known_object_is_a_plain_group_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"

    def broken(change: Callable[[tables.File], object], reason: str, format: str = "fixed") -> xr.Dataset:
        mixed_frame(4)[["i", "x"]].to_hdf(path, key="df", mode="w", format=format)
        with plain_file(path, "a") as file:
            change(file)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")  # also that a group holds only a table
            ds = opened(path, "df")
        told = [str(one.message) for one in said if "marked as a pandas object" in str(one.message)]
        assert len(told) == 1
        assert re.search(f":/df: marked as a pandas object, but shown as a plain group: {reason}", told[0])
        return ds

    ds = broken(lambda file: file.set_node_attr("/df", "pandas_type", "wide"), "pandas objects of type 'wide'")
    assert ds["block0_values"].shape == (4, 1)
    assert ds.attrs["pandas_type"] == "wide"
    broken(lambda file: file.remove_node("/df/block1_values"), "there is no array 'block1_values'")
    broken(lambda file: file.remove_node("/df/axis1"), "there is no array 'axis1'")
    broken(lambda file: file.set_node_attr("/df/axis1", "kind", "datetime"), "an index of kind 'datetime'")
    broken(lambda file: file.set_node_attr("/df", "encoding", "rot13"), "the text encoding 'rot13' is not known")
    broken(lambda file: file.set_node_attr("/df", "nblocks", 10**8), "an attribute that counts holds '100000000'")

    def of_shape(*shape: int) -> Callable[[tables.File], object]:
        def change(file: tables.File) -> None:
            file.remove_node("/df/block0_values")
            if 0 in shape:
                file.create_earray("/df", "block0_values", tables.Float64Atom(), shape)
            else:
                file.create_array("/df", "block0_values", np.zeros(shape))

        return change

    said_to_be_times = r"column 'x' is said to be times, and 'block1_values' holds elements of kind 'float'"
    broken(lambda file: file.set_node_attr("/df/block1_values", "value_type", "datetime64[ns]"), said_to_be_times)
    broken(lambda file: file.set_node_attr("/df/axis1", "kind", "string"), "column 'row' is said to be text")
    for shape in ((3, 1), (4, 0), (0, 1), (4, 1, 1), (4, 0, 1)):
        told = re.escape(str(shape))
        broken(of_shape(*shape), rf"'block0_values' has shape {told} for an index of 4 rows and 1 columns")
    broken(of_shape(), "an index or block is a scalar")
    broken(lambda file: file.set_node_attr("/df", "values_cols", ["no"]), "its table has no column 'no'", "table")
    broken(lambda file: file.set_node_attr("/df", "index_cols", [(1, "index")]), "its columns are stored as", "table")
    ds = broken(lambda file: file.remove_node("/df/table"), "there is no array 'table'", "table")
    assert not ds.variables


def test_categories_in_circles_end(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    pd.DataFrame({"c": pd.Categorical(["a", "b"])}).to_hdf(path, key="df", mode="w", format="table")
    with plain_file(path, "a") as file:
        [column] = file.list_nodes("/df/meta")
        file.remove_node(column._v_pathname, "meta", recursive=True)
        file.create_hard_link(column._v_pathname, "meta", "/df")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        opened(path, "df")
    assert "marked as a pandas object, but shown as a plain group" in " ".join(str(one.message) for one in said)


def test_names_and_zones_that_cannot_be_decoded_are_told(tmp_path: Path) -> None:
    path, marker = tmp_path / "f.h5", tmp_path / "executed"
    mixed_frame(4)[["i"]].to_hdf(path, key="df", mode="w", format="table")
    with plain_file(path, "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.set_node_attr("/df", "info", Payload(marker))
    marker.unlink(missing_ok=True)
    with pytest.warns(
        UserWarning, match="'info' cannot be decoded: the name of the index and time zones are not known"
    ):
        ds = opened(path, "df")
    assert ds["index"].values.tolist() == [0, 10, 20, 30]
    assert not marker.exists()


def test_a_frame_that_is_stored_by_columns_is_a_plain_group(tmp_path: Path) -> None:
    with pd.HDFStore(tmp_path / "f.h5", "w") as store:
        store.append("df", pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}), axes=["columns"])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ds = opened(tmp_path / "f.h5", "df")
    assert "its columns are stored as rows" in " ".join(str(one.message) for one in said)
    assert not ds.variables


def test_codes_beyond_the_categories_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    frame = pd.DataFrame({"v": [1.0, 2.0]}, index=pd.MultiIndex.from_tuples([(1, "a"), (2, "b")], names=["n", "s"]))
    frame.to_hdf(path, key="df", mode="w")
    with plain_file(path, "a") as file:
        file.root.df.axis1_label1[:] = [0, 7]
    ds = opened(path, "df")
    assert ds["n"].values.tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"/df/axis1_label1: column 's' cannot be read: .*out of bounds"):
        ds["s"].load()


def test_many_categories_are_read_as_far_as_they_are_needed(
    stores: dict[tuple[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_arrays, "MAX_KEPT_CATEGORIES", 1)
    expected = expected_of("pandas-3.1.1")
    assert_like(opened(stores["pandas-3.1.1", "table"], "categories/all"), expected["table"]["categories/all"])
    for key in ("index/multi_missing", "index/multi_times"):
        assert_like(opened(stores["pandas-3.1.1", "fixed"], key), expected["fixed"][key])


def test_other_arrays_of_the_group_are_shown_unless_they_are_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    mixed_frame(4)[["i", "x"]].to_hdf(path, key="df", mode="w")
    with plain_file(path, "a") as file:
        file.create_array("/df", "extra", np.arange(3))
        file.create_array("/df", "x", np.arange(3))
    with pytest.warns(UserWarning, match="the array '/df/x' is not shown: a pandas object uses its names"):
        ds = opened(path, "df")
    assert list(ds.variables) == ["i", "x", "extra", "row"]
    assert ds["x"].dtype == float


# -- files that change -------------------------------------------------------------------------------------


def test_an_object_stays_as_it_was_opened_while_rows_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    frame = mixed_frame(30)
    frame.to_hdf(path, key="df", mode="w", format="table")
    with opened(path, "df") as ds:
        frame.to_hdf(path, key="df", format="table", append=True)
        assert_like(ds, described(frame))
    with opened(path, "df") as ds:
        assert ds.sizes == {"row": 60}


def test_a_replaced_object_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    frame = mixed_frame(30)
    frame.to_hdf(path, key="df", mode="w")
    with opened(path, "df") as ds:
        frame.assign(i=1).to_hdf(path, key="df")
        for name in ("i", "text"):
            with pytest.raises(FileChangedError):
                ds[name].load()


# -- writing -----------------------------------------------------------------------------------------------


def test_an_object_is_written_as_a_dataset_and_comes_back(tmp_path: Path) -> None:
    frame = mixed_frame(30).dropna()
    frame.to_hdf(tmp_path / "f.h5", key="df", mode="w", format="table")
    with opened(tmp_path / "f.h5", "df") as ds:
        to_pytables(ds, tmp_path / "g.h5")
        with xr.open_dataset(tmp_path / "g.h5", engine="pytables") as back:
            xr.testing.assert_equal(back.load(), ds.load())
            assert back["t"].attrs == {"time_zone": "Europe/Berlin"}


def test_nothing_is_written_into_the_group_of_an_object(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    mixed_frame(3).to_hdf(path, key="df", mode="w")
    before = path.read_bytes()
    ds = xr.Dataset({"new": ("n", [1, 2])})
    with pytest.raises(ValueError, match="the group '/df' holds a pandas object"):
        to_pytables(ds, path, mode="a", group="/df")
    assert path.read_bytes() == before
    to_pytables(ds, path, mode="a", group="/beside")
    pd.testing.assert_frame_equal(pd.read_hdf(path, "df"), mixed_frame(3))


# -- conditions --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def queried(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    path = tmp_path_factory.mktemp("queried") / "f.h5"
    rows = 4000
    numbers = np.arange(rows)
    frame = pd.DataFrame(
        {
            "a": numbers % 7, "x": numbers * 0.5, "y": -numbers * 0.5,
            "s": [None if number % 5 == 0 else f"k{number % 3}" for number in numbers],
            "t": pd.date_range("2020-01-01", periods=rows, freq="h", tz="Europe/Berlin"),
            "d": pd.to_timedelta(numbers, "s"),
        },
        index=pd.date_range("2020-01-01", periods=rows, freq="h", name="time"),
    )  # fmt: skip
    frame.iloc[3, frame.columns.get_loc("t")] = pd.NaT
    frame.to_hdf(path, key="df", mode="w", format="table", data_columns=["a", "s", "t", "d"])
    return path, frame


CONDITIONS = {
    "a == 3": lambda f: f.a == 3,
    "(a == 3) & (s == 'k1')": lambda f: (f.a == 3) & (f.s == "k1"),
    "s != 'k1'": lambda f: f.s != "k1",
    "~(s == 'k1')": lambda f: ~(f.s == "k1"),
    "s < 'k1'": lambda f: f.s < "k1",
    "s >= 'k'": lambda f: f.s >= "k",
    "s == 'nan'": lambda f: f.s == "nan",
    "time >= '2020-05-01'": lambda f: f.index >= "2020-05-01",
    "index < '2020-02-01 12:00'": lambda f: f.index < "2020-02-01 12:00",
    "'2020-02-01' > time": lambda f: f.index < "2020-02-01",
    "t <= '2020-01-02'": lambda f: f.t <= pd.Timestamp("2020-01-02", tz="Europe/Berlin"),
    "t == '2020-01-02T00:00+01:00'": lambda f: f.t == pd.Timestamp("2020-01-02", tz="Europe/Berlin"),
    "t != '2020-01-02'": lambda f: f.t != pd.Timestamp("2020-01-02", tz="Europe/Berlin"),
    "d > '1h'": lambda f: f.d > pd.Timedelta("1h"),
    "(x > 10.5) & (y > -20)": lambda f: (f.x > 10.5) & (f.y > -20),
    "(x > limit) & (s == which) & (time < day)": lambda f: (f.x > 7) & (f.s == "k2") & (f.index < "2020-03-01"),
}


@pytest.mark.parametrize("where", CONDITIONS)
def test_conditions_find_the_rows_that_pandas_finds_in_memory(queried: tuple[Path, pd.DataFrame], where: str) -> None:
    path, frame = queried
    met = np.asarray(CONDITIONS[where](frame), bool)
    condvars = {"limit": 7, "which": "k2", "day": pd.Timestamp("2020-03-01")} if "limit" in where else None
    with opened(path, "df", where=where, condvars=condvars) as ds:
        assert ds["time_number"].values.tolist() == np.flatnonzero(met).tolist()
        assert "time_number" in ds.coords
        assert_like(ds.drop_vars("time_number"), described(frame[met]))


def test_conditions_use_the_indexes_of_the_table(queried: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    path, _ = queried
    with Visit() as visit:
        file = visit.file(str(path))
        described = NodeReader(file, ReadOptions(), visit.file).dataset("/df")
        planned = plan_query(described, RowQuery("(time > '2020-06-01') & (x > 3)"), file)
    assert set(planned.indexes) == {"time"}
    assert planned.not_used == {"x": "it is part of a column of several values"}
    found = find_rows(planned, OpenedFile(str(path), FileIdentity.of(str(path))))
    assert found.used == ("time",)
    assert found.looked_at < 1000


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (
            "nope > 1",
            "there is no column 'nope'. Columns that a condition can use: 'time', 'a', 'x', 'y', 's', 't', 'd'",
        ),
        ("t > 5", "column 't' of times cannot be compared with 5: it is a number; write text"),
        ("time > 'soon'", "column 'time' of times cannot be compared with 'soon'"),
        ("time > '2020-01-01T00:00Z'", "the column has no time zone"),
        ("s == 5", "column 's' of text cannot be compared with 5"),
        ("s + 'x' == 'k'", "column 's' of text can only be compared with a constant"),
        ("t == time", "column 't' of times can only be compared with a constant"),
        ("a > 1 and x > 1", "write & for 'and'"),
        ("0 < a < 3", "(0 < a) & (a < 3)"),
        ("__import__('os').system('true')", "is nothing that a condition can have"),
        ("a >", "it cannot be parsed"),
    ],
)
def test_bad_conditions_name_the_columns(queried: tuple[Path, pd.DataFrame], where: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        opened(queried[0], "df", where=where)


def test_conditions_on_other_indexes(stores: dict[tuple[str, str], Path]) -> None:
    path = stores["pandas-3.1.1", "table"]
    for key, where, rows in (
        ("index/multi", "(number == 1) & (letter == 'b')", [1]),
        ("index/periods_month", "month >= '2020-02'", [1, 2]),
        ("index/dates", "index < '2000-01-01'", [1, 2]),
        ("index/strings", "name == 'ö'", [1]),
        ("index/integers", "number > 0", [0, 2]),
        ("frames/latin", "index == 'ö'", [1]),
        ("labels/named_labels", "b > 2", [1]),
    ):
        found = opened(path, key, where=where)
        [dim] = found.sizes
        assert found.coords[f"{dim}_number"].values.tolist() == rows, key
    with pytest.raises(ValueError, match="column 'text' of categories cannot be in a condition"):
        opened(path, "categories/text", where="text == 'a'")


def numbers_of(times: Any) -> list[Fraction | None]:
    """Nanoseconds since 1970, or of durations, exactly; None for missing ones."""
    array = np.atleast_1d(times)
    nanoseconds = {"D": 86400 * 10**9, "s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}[np.datetime_data(array.dtype)[0]]
    return [
        None if missing else Fraction(number * nanoseconds)
        for number, missing in zip(array.astype("i8").tolist(), np.isnat(array).tolist(), strict=True)
    ]


NANOSECONDS = np.array([1 - 2**63, 2 - 2**63, -(2**63), -1, 0, 10**9, 10**9 + 1, 86400 * 10**9, 2**63 - 1])
SECONDS = np.array([-(10**12), -(2**63), -1, 0, 1, 2, 86400, 10**12, 2])
TIMES = np.array(["0001-01-01", "1677-09-22", "1970-01-01", "1970-01-02", "9999-12-31"], "M8[s]")
FINE_TIMES = np.array(
    ["1677-09-21T00:12:43.145224193", "1969-12-31T23:59:59.5", "1970-01-01T00:00:01.000000001"], "M8[ns]"
)
DURATIONS = np.array([-(10**13), -1, 0, 1, 86400, 10**13], "m8[s]")
FINE_DURATIONS = np.array([1 - 2**63, -(10**9) // 2, 10**9 + 1, 2**63 - 1], "m8[ns]")


@pytest.mark.parametrize("data_columns", [True, None])
@pytest.mark.parametrize(
    ("column", "constants"),
    [
        (NANOSECONDS.view("M8[ns]"), [*TIMES, *FINE_TIMES]),
        (SECONDS.view("M8[s]"), [*TIMES, *FINE_TIMES]),
        (pd.DatetimeIndex(NANOSECONDS[2:].view("M8[ns]"), tz="UTC"), [*TIMES, *FINE_TIMES]),
        (NANOSECONDS.view("m8[ns]"), [*DURATIONS, *FINE_DURATIONS]),
        (SECONDS.view("m8[s]"), [*DURATIONS, *FINE_DURATIONS]),
    ],
    ids=["times in ns", "times in s", "times with a zone", "durations in ns", "durations in s"],
)
def test_any_time_can_be_compared_with_a_column_that_cannot_hold_it(
    tmp_path: Path, column: Any, constants: list[Any], data_columns: bool | None
) -> None:
    """Finer than its unit, and beyond its range; missing times meet no comparison but `!=` and `not in`."""
    frame = pd.DataFrame({"t": column, "n": np.arange(len(column))})
    frame.to_hdf(tmp_path / "f.h5", key="df", format="table", data_columns=data_columns)
    stored = numbers_of(column if isinstance(column, np.ndarray) else column.tz_localize(None).to_numpy())

    def check(where: str, x: Any, met: list[bool]) -> None:
        with opened(tmp_path / "f.h5", "df", where=where, condvars={"x": x}) as ds:
            assert ds["n"].values.tolist() == np.flatnonzero(met).tolist(), (where, x)

    for one in constants:
        [number] = numbers_of(one)
        for symbol, compare in {"<": operator.lt, "<=": operator.le, "==": operator.eq, ">=": operator.ge,
                                ">": operator.gt}.items():  # fmt: skip
            check(f"t {symbol} x", one, [value is not None and compare(value, number) for value in stored])
        check("t != x", one, [value != number for value in stored])
    among = [number for one in constants for number in numbers_of(one)]
    check("t in x", constants, [value in among for value in stored])
    check("t not in x", constants, [value not in among for value in stored])


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_times_as_datasets_show_them_are_utc_and_others_wall_time(tmp_path: Path, zone: str) -> None:
    times = pd.date_range("2020-01-01", periods=30, freq="h", tz=zone)
    pd.DataFrame({"z": times}).to_hdf(tmp_path / "f.h5", key="df", format="table", data_columns=True)

    def rows(where: str, x: Any) -> list[int]:
        with opened(tmp_path / "f.h5", "df", where=where, condvars={"x": x}) as ds:
            return ds["index"].values.tolist()

    with opened(tmp_path / "f.h5", "df") as ds:
        shown = ds["z"].load()
    np.testing.assert_array_equal(shown.values, times.tz_convert("UTC").tz_localize(None).to_numpy())
    for x in (shown[7], shown.values[7], shown.values[7].astype("M8[s]"), np.array(shown.values[7]), times[7],
              times[7].tz_convert("Asia/Tokyo"), str(times[7])):  # fmt: skip
        assert (rows("z == x", x), rows("z >= x", x), rows("z in [x]", x)) == ([7], list(range(7, 30)), [7])
    for x in (shown[3:6], shown.values[3:6], list(shown.values[3:6]), list(shown[3:6]), times[3:6]):
        assert rows("z in x", x) == [3, 4, 5]
    wall = times.tz_localize(None)
    for x in (str(wall[7]), wall[7], wall[7].to_pydatetime()):
        assert (rows("z == x", x), rows("x > z", x), rows("z in [x]", x)) == ([7], list(range(7)), [7])
    for x in (wall[3:6], list(wall[3:6]), pd.Series(wall[3:6])):
        assert rows("z in x", x) == [3, 4, 5]
    with opened(tmp_path / "f.h5", "df", where=f"z == Timestamp('{wall[7]}')") as ds:
        assert ds["index"].values.tolist() == [7]


@pytest.mark.parametrize(
    ("where", "x", "met"),
    [
        ("d == x", np.timedelta64(2, "m"), [1]),
        ("d > x", np.timedelta64(90, "s"), [1, 3]),
        ("d == x", pd.Timedelta("2min"), [1]),
        ("x > d", datetime.timedelta(minutes=2), [0]),
        ("d == x", xr.DataArray(np.timedelta64(2, "m")), [1]),
        ("d == x", np.array(np.timedelta64(120, "s")), [1]),
        ("d in [x, '3h']", np.timedelta64(60_000, "ms"), [0, 3]),
        ("d in x", np.array([60, 120], "m8[s]"), [0, 1]),
        ("d in x", xr.DataArray(np.array([60, 120], "m8[s]"), dims="q"), [0, 1]),
        ("d not in x", pd.to_timedelta(["60s", "2m"]), [2, 3]),
        ("d in x", [np.timedelta64(1, "m"), datetime.timedelta(hours=3)], [0, 3]),
        ("n == x", xr.DataArray(2), [2]),
        ("n in x", xr.DataArray([1, 2], dims="q"), [1, 2]),
        ("s == x", xr.DataArray("b"), [1]),
        ("s in x", xr.DataArray(["a", "b"], dims="q"), [0, 1]),
        ("s != x", "nan", [0, 1, 2, 3]),
    ],
)
def test_values_of_any_kind_in_condvars(tmp_path: Path, where: str, x: Any, met: list[int]) -> None:
    frame = pd.DataFrame(
        {"d": pd.to_timedelta(["1min", "2min", None, "3h"]), "n": range(4), "s": ["a", "b", None, "d"]}
    )
    frame.to_hdf(tmp_path / "f.h5", key="df", format="table", data_columns=["d", "s"])
    with opened(tmp_path / "f.h5", "df", where=where, condvars={"x": x}) as ds:
        assert ds["n"].values.tolist() == met


@pytest.mark.parametrize("where", ["s == x", "s != x", "s in [x]", "s not in [x, 'a']"])
@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (None, "it is missing"),
        (pd.NA, "it is missing"),
        (pd.NaT, "it is missing"),
        (np.nan, "it is a number; write text"),
        (pd.Timestamp("2020-01-01"), "it is no text; write text"),
        (datetime.date(2020, 1, 1), "it is no text; write text"),
    ],
    ids=str,
)
def test_what_is_no_text_is_not_compared_with_text(tmp_path: Path, where: str, x: Any, reason: str) -> None:
    frame = pd.DataFrame({"s": ["None", "<NA>", "NaT", "2020-01-01", None]})
    frame.to_hdf(tmp_path / "f.h5", key="df", format="table", data_columns=True)
    with pytest.raises(ValueError, match=re.escape(f"column 's' of text cannot be compared with {x!r}: {reason}")):
        opened(tmp_path / "f.h5", "df", where=where, condvars={"x": x})


def test_periods_and_dates_are_compared_as_what_they_are(tmp_path: Path) -> None:
    months = pd.PeriodIndex(["2020-01", "NaT", "2020-03"], freq="M", name="month")
    pd.DataFrame({"n": range(3)}, index=months).to_hdf(tmp_path / "p.h5", key="df", format="table")
    dates = pd.Index([datetime.date(2020, 1, day) for day in (1, 2, 3)], name="day")
    pd.DataFrame({"n": range(3)}, index=dates).to_hdf(tmp_path / "d.h5", key="df", format="table")

    def rows(name: str, where: str, **condvars: Any) -> list[int]:
        with opened(tmp_path / name, "df", where=where, condvars=condvars or None) as ds:
            return ds["n"].values.tolist()

    march = pd.Period("2020-03", "M")
    assert (rows("p.h5", "month < '2020-03'"), rows("p.h5", "month <= x", x=march)) == ([0], [0, 2])
    assert (rows("p.h5", "month != x", x=march), rows("p.h5", "month not in [x]", x=march)) == ([0, 1], [0, 1])
    for where, x, message in (
        ("month == x", pd.Period("2020", "Y"), "its frequency is 'Y-DEC', that of the column 'M'"),
        ("month in x", [pd.Period("2020-03-01", "D")], "its frequency is 'D', that of the column 'M'"),
        ("month < x", pd.NaT, "column 'month' of periods cannot be compared with NaT: it is missing"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            rows("p.h5", where, x=x)
    for where, expected in {
        "day < '2020-01-02T12:00'": [0, 1],
        "day >= '2020-01-02T00:00:00.000000001'": [2],
        "day == '2020-01-02T12'": [],
        "day != '2020-01-02'": [0, 2],
        "day in ['2020-01-02', '2020-01-03T01:00']": [1],
        "day < '9999-01-01'": [0, 1, 2],
    }.items():
        assert rows("d.h5", where) == expected
    assert rows("d.h5", "day <= x", x=np.datetime64("2020-01-02T23:00")) == [0, 1]
    assert rows("d.h5", "day < x", x=np.datetime64("20000-01-01")) == [0, 1, 2]
    for where in ("day > '2020-01-01T00:00Z'", "day in ['2020-01-01T00:00Z']"):
        with pytest.raises(ValueError, match=r"column 'day' of dates .* the column has no time zone"):
            rows("d.h5", where)


def test_rows_of_any_object_by_number_and_conditions_need_a_table(stores: dict[tuple[str, str], Path]) -> None:
    for name in ("fixed", "table"):
        path = stores["pandas-3.1.1", name]
        ds = opened(path, "frames/many_rows", start=10, stop=20, step=4)
        assert ds["row"].values.tolist() == [20, 28, 36]
        assert ds["b"].values.tolist() == [11, 15, 19]
    with pytest.raises(ValueError, match=":/frames/mixed is stored in pandas' fixed format"):
        opened(stores["pandas-3.1.1", "fixed"], "frames/mixed", where="i > 1")


# -- objects without rows, and odd ones ----------------------------------------------------------------------

ONE_ROW: dict[str, Any] = {
    "integers": pd.Index([3]),
    "text": pd.Index(["x"]),
    "objects": pd.Index(["x"], dtype=object),
    "dates": pd.Index([datetime.date(2020, 1, 1)]),
    "times": pd.DatetimeIndex(["2020-01-01"]),
    "times with a zone": pd.DatetimeIndex(["2020-01-01"], tz="Europe/Berlin"),
    "time deltas": pd.TimedeltaIndex(["1D"]),
    "periods": pd.PeriodIndex(["2020-01"], freq="M"),
    "categories": pd.CategoricalIndex(["a"]),
    "levels": pd.MultiIndex.from_arrays([["a"], [1]], names=["run", "n"]),
    "levels of times": pd.MultiIndex.from_arrays([pd.DatetimeIndex(["2020-01-01"]), ["x"]], names=["when", "who"]),
}
COLUMNS_OF_ONE_ROW: dict[str, Any] = {
    "f": [1.0], "i": [1], "b": [True], "s": ["x"], "t": pd.to_datetime(["2020-01-01"]), "d": pd.to_timedelta(["1D"]),
    "z": pd.to_datetime(["2020-01-01"]).tz_localize("UTC"),
}  # fmt: skip


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("kind", ["frame", "series"])
@pytest.mark.parametrize("index", ONE_ROW)
def test_fixed_objects_without_rows_are_what_they_are(tmp_path: Path, index: str, kind: str, rows: int) -> None:
    frame = pd.DataFrame(COLUMNS_OF_ONE_ROW, index=ONE_ROW[index])
    parts = {"k": frame[["f", "i"]]} if kind == "frame" else {name: frame[name] for name in frame}
    if kind == "frame":
        parts |= {"whole": frame, "alone": frame[["t"]]}
    for name, part in parts.items():
        part[:rows].to_hdf(tmp_path / "e.h5", key=name)
    with xr.open_datatree(tmp_path / "e.h5", engine="pytables") as tree:  # a warning would be an error
        for name, part in parts.items():
            names = [part.name] if isinstance(part, pd.Series) else list(part.columns)
            levels = [level or "index" for level in part.index.names]
            assert set(map(str, tree[name].ds.variables)) == {*levels, *names}
            assert {variable.shape for variable in tree[name].ds.variables.values()} == {(rows,)}
            for column in {"f", "i", "t"} & set(names):
                dtype = frame[column].dtype
                assert tree[name][column].dtype == dtype


def test_tuples_among_objects_are_read_one_by_one_and_in_blocks(tmp_path: Path) -> None:
    frame = pd.DataFrame({"pairs": [(1, 2), (3, 4)], "lists": [[1], [2, 3]]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that pandas pickles it
        frame.to_hdf(tmp_path / "t.h5", key="k")
    for chunks in (None, {}, 1):
        with opened(tmp_path / "t.h5", "k", chunks=chunks) as ds:
            assert ds["pairs"].values.tolist() == [(1, 2), (3, 4)]
            assert ds["pairs"][1].values.item() == (3, 4)
            assert ds["lists"].values.tolist() == [[1], [2, 3]]


def test_blocks_of_numbers_that_numpy_has_no_dtype_for(tmp_path: Path) -> None:
    """Another program stored them anew, as bfloat16."""
    path = tmp_path / "a.h5"
    frame = pd.DataFrame({"x": [1.0, -2.5, 3.0], "y": [0.5, 0.25, 256.0]})
    frame.to_hdf(path, key="f")
    short = h5t.IEEE_F32LE.copy()
    short.set_fields(15, 7, 8, 0, 7)
    short.set_size(2)
    with h5py.File(path, "a") as file:
        attributes = dict(file["f/block0_values"].attrs)
        del file["f/block0_values"]
        h5d.create(file["f"].id, b"block0_values", short, h5s.create_simple((3, 2)))
        file["f/block0_values"][:] = frame.to_numpy("f4")
        file["f/block0_values"].attrs.update(attributes)
    with open_quietly(path, group="f") as ds:
        for name in ("x", "y"):
            assert ds[name].values.tolist() == frame[name].tolist()
            assert ds[name][1].values == frame[name][1]
            assert ds[name][[2, 0]].values.tolist() == frame[name][[2, 0]].tolist()


@pytest.mark.parametrize("data_columns", [None, True])
@pytest.mark.parametrize("nan_rep", ["", "_missing_"])
def test_missing_text_is_what_the_table_says(tmp_path: Path, nan_rep: str, data_columns: Any) -> None:
    path = tmp_path / "a.h5"
    frame = pd.DataFrame({"s": ["a", "", None, "nan"], "c": pd.Categorical(["", "b", None, "b"]), "n": range(4)})
    frame.to_hdf(path, key="f", format="table", nan_rep=nan_rep, data_columns=data_columns)
    by_pandas = pd.read_hdf(path, "f")
    assert by_pandas["s"].isna().tolist() == [False, not nan_rep, True, False]
    with open_quietly(path, group="f") as ds:
        for name in ("s", "c"):
            shown = pd.Series(ds[name].values).fillna("(missing)")
            assert shown.tolist() == by_pandas[name].astype(object).fillna("(missing)").tolist()
    for where, met in (("s == ''", by_pandas["s"] == ""), ("s != 'a'", by_pandas["s"] != "a")):
        with open_quietly(path, group="f", where=where) as ds:
            assert ds["n"].values.tolist() == np.flatnonzero(met).tolist()


@pytest.mark.parametrize("odd", [0, -5, 3652060, 2**62])
def test_ordinals_of_no_date_are_an_error(odd):
    first = datetime.date(2014, 9, 1)
    decoding, dtype = frames.Decoding("ordinals"), np.dtype("M8[s]")
    found = frames.decode(np.array([first.toordinal(), 1, 3652059]), decoding, dtype)
    assert found.tolist() == [datetime.datetime(*day) for day in ((2014, 9, 1), (1, 1, 1), (9999, 12, 31))]
    with pytest.raises(ValueError, match=f"^{odd} is the ordinal of no date$"):
        frames.decode(np.array([first.toordinal(), odd]), decoding, dtype)
