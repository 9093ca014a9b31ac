"""Ragged arrays and text that are written: equal for this engine, plain PyTables and h5py, from any scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import dask.array
import h5py
import numpy as np
import pytest
import tables
import xarray as xr

from xr_pytables import to_pytables

from ..helpers_reading import assert_same, plain_file


def ragged(rows: list[Any]) -> np.ndarray:
    found = np.empty(len(rows), object)
    for number, row in enumerate(rows):
        found[number] = row
    return found


def some_rows(dtype: str, shape: tuple[int, ...] = (), count: int = 9) -> list[np.ndarray]:
    random = np.random.default_rng(2)
    rows = []
    for number in range(count):
        values = random.integers(0, 50, (number % 4, *shape))
        rows.append(values.astype(dtype))
    return rows


@pytest.mark.parametrize("dtype", ["i1", "u2", ">i4", "i8", "f4", "f8", "c16", "?", "S3"])
@pytest.mark.parametrize("shape", [(), (2, 3)])
@pytest.mark.parametrize("lazy", [False, True])
def test_rows_become_a_vlarray(tmp_path: Path, dtype: str, shape: tuple[int, ...], lazy: bool) -> None:
    rows = some_rows(dtype, shape)
    data: Any = ragged(rows)
    if lazy:
        data = dask.array.from_array(data, chunks=4)
    ds = xr.Dataset({"v": ("row", data, {"note": "é"}), "x": ("row", np.arange(9.0))})
    to_pytables(ds, tmp_path / "v.h5")
    with xr.open_dataset(tmp_path / "v.h5", engine="pytables") as back:
        assert back["v"].dims == ("row",)
        assert back["v"].attrs == {"note": "é"}
        for actual, expected in zip(back["v"].values, rows, strict=True):
            assert_same(actual, expected)
    with plain_file(tmp_path / "v.h5") as file:
        leaf = file.root.v
        assert type(leaf) is tables.VLArray
        for actual, expected in zip(leaf.read(), rows, strict=True):
            np.testing.assert_array_equal(actual, expected)
    with h5py.File(tmp_path / "v.h5") as file:
        assert [len(row) for row in file["v"][:]] == [len(row) for row in rows]
        assert file["v"].dims[0][0].name == "/row"


def test_plain_pytables_appends_to_rows_that_can_grow(tmp_path: Path) -> None:
    ds = xr.Dataset({"v": ("row", ragged(some_rows("i4")))})
    to_pytables(ds, tmp_path / "v.h5", unlimited_dims="row")
    with plain_file(tmp_path / "v.h5", "a") as file:
        file.root.v.append([7, 8])
    with xr.open_dataset(tmp_path / "v.h5", engine="pytables") as back:
        assert back["v"].values[-1].tolist() == [7, 8]
        assert back.encoding["unlimited_dims"] == {"row"}


def test_text_and_bytes_in_rows_come_back_as_pytables_makes_them(tmp_path: Path) -> None:
    with plain_file(tmp_path / "p.h5", "w") as file:
        for name, atom, values in (
            ("s", tables.VLStringAtom(), [b"ab", b"", b"\xff\x00"]),
            ("u", tables.VLUnicodeAtom(), ["ab", "", "Grüße"]),
        ):
            leaf = file.create_vlarray("/", name, atom)
            for value in values:
                leaf.append(value)
    with xr.open_dataset(tmp_path / "p.h5", engine="pytables") as ds:
        to_pytables(ds, tmp_path / "q.h5")
    with plain_file(tmp_path / "q.h5") as file:
        assert file.root.s.read() == [b"ab", b"", b"\xff\x00"]
        assert file.root.u.read() == ["ab", "", "Grüße"]
    with xr.open_dataset(tmp_path / "q.h5", engine="pytables") as ds:
        assert ds["s"].values.tolist() == [b"ab", b"", b"\xff\x00"]
        assert ds["u"].values.tolist() == ["ab", "", "Grüße"]


def test_what_was_read_as_rows_is_written_as_rows_without_being_loaded(tmp_path: Path) -> None:
    rows = some_rows("f4", (2,), 50)
    with plain_file(tmp_path / "p.h5", "w") as file:
        leaf = file.create_vlarray("/", "v", tables.Float32Atom(shape=(2,)), chunkshape=8)
        for row in rows:
            leaf.append(row)
    with xr.open_dataset(tmp_path / "p.h5", engine="pytables", cache=False) as ds:
        to_pytables(ds, tmp_path / "q.h5")
        assert not ds["v"].variable._in_memory
    with xr.open_dataset(tmp_path / "q.h5", engine="pytables") as back:
        assert back["v"].encoding["chunksizes"] == (8,)
        for actual, expected in zip(back["v"].values, rows, strict=True):
            assert_same(actual, expected)


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_rows_from_every_scheduler(tmp_path: Path, scheduler: str) -> None:
    rows = some_rows("i8", (), 30)
    ds = xr.Dataset({"v": ("row", dask.array.from_array(ragged(rows), chunks=7)),
                     "w": ("row", dask.array.from_array(ragged([row * 2 for row in rows]), chunks=30))})  # fmt: skip
    with dask.config.set(scheduler=scheduler):
        to_pytables(ds, tmp_path / "v.h5")
        to_pytables(ds, tmp_path / "d.h5", compute=False).compute()
    for name in ("v.h5", "d.h5"):
        with xr.open_dataset(tmp_path / name, engine="pytables") as back:
            for actual, expected in zip(back["v"].values, rows, strict=True):
                assert_same(actual, expected)
            assert [row.tolist() for row in back["w"].values] == [(row * 2).tolist() for row in rows]


# -- between rows and flat values --------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_flat_values_become_rows_on_request(tmp_path: Path, lazy: bool, shape: tuple[int, ...]) -> None:
    rows = some_rows("f8", shape, 20)
    values, sizes = np.concatenate(rows), np.array([len(row) for row in rows])
    ds = xr.Dataset(
        {
            "v": (("sample", "k")[: 1 + len(shape)], dask.array.from_array(values, chunks=7) if lazy else values),
            "count": ("row", sizes, {"sample_dimension": "sample"}),
            "x": ("row", np.arange(20.0)),
        },
        attrs={"a": 1},
    )
    to_pytables(ds, tmp_path / "flat.h5")
    with xr.open_dataset(tmp_path / "flat.h5", engine="pytables") as back:
        xr.testing.assert_identical(back.load(), ds.compute())
    to_pytables(ds, tmp_path / "rows.h5", encoding={"v": {"ragged": "vlen"}})
    with xr.open_dataset(tmp_path / "rows.h5", engine="pytables") as back:
        assert set(back) == {"v", "x"}
        assert back["v"].dims == ("row",)
        assert back.attrs == {"a": 1}
        for actual, expected in zip(back["v"].values, rows, strict=True):
            assert_same(actual, expected)
    with xr.open_dataset(tmp_path / "rows.h5", engine="pytables", ragged="flat") as back:
        assert_same(back["v"].values, values)
        assert back["v_row_size"].values.tolist() == sizes.tolist()
        to_pytables(back, tmp_path / "again.h5")
    with xr.open_dataset(tmp_path / "again.h5", engine="pytables") as back:
        assert_same(back["v"].values, values)
        assert back["v_row_size"].attrs["sample_dimension"] == "v_sample"


@pytest.mark.parametrize("lazy", [False, True])
def test_rows_become_flat_values_on_request(tmp_path: Path, lazy: bool) -> None:
    rows = some_rows("i2", (2,), 20)
    data = dask.array.from_array(ragged(rows), chunks=6) if lazy else ragged(rows)
    ds = xr.Dataset({"v": ("row", data, {"units": "m"})}, {"row": np.arange(20)})
    to_pytables(ds, tmp_path / "f.h5", encoding={"v": {"ragged": "flat", "complib": "zlib"}})
    with xr.open_dataset(tmp_path / "f.h5", engine="pytables") as back:
        assert back["v"].dims == ("v_sample", "v_1")
        assert_same(back["v"].values, np.concatenate(rows))
        assert back["v"].attrs == {"units": "m"}
        assert back["v"].encoding["zlib"]
        assert back["v_row_size"].values.tolist() == [len(row) for row in rows]
        assert back["v_row_size"].dims == ("row",)


@pytest.mark.parametrize(
    ("rows", "encoding", "error", "message"),
    [
        ([np.array(["2014-09-01"], "M8[s]")], {}, TypeError, "rows of dtype datetime64"),
        ([np.array(["a"])], {}, TypeError, "rows of dtype <U1 have no form"),
        ([np.zeros(2), np.zeros((2, 2))], {}, ValueError, "different shapes"),
        ([np.zeros(2), np.zeros(1, "V3")], {}, TypeError, "its rows have types that do not go together"),
        ([np.zeros(2), np.zeros(1)], {"ragged": "no"}, ValueError, "ragged must be one of"),
        ([np.zeros(2), 5.5j], {}, Exception, "v"),
    ],
)
def test_rows_without_a_form_are_refused_before_the_disk_is_touched(
    tmp_path: Path, rows: list[Any], encoding: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        to_pytables(
            xr.Dataset({"v": ("row", ragged(rows))}), tmp_path / "v.h5", encoding={"v": encoding} if encoding else None
        )
    assert list(tmp_path.iterdir()) == []


def test_rows_need_their_sizes(tmp_path: Path) -> None:
    ds = xr.Dataset({"v": ("sample", np.arange(4.0))})
    with pytest.raises(ValueError, match=r"'v': ragged='vlen' needs one variable of row sizes"):
        to_pytables(ds, tmp_path / "v.h5", encoding={"v": {"ragged": "vlen"}})
    ds["n"] = ("row", [1, 2], {"sample_dimension": "sample"})
    with pytest.raises(ValueError, match="whose sum is 4"):
        to_pytables(ds, tmp_path / "v.h5", encoding={"v": {"ragged": "vlen"}})
    with pytest.raises(ValueError, match=r"v.h5:/: variable 'v': ragged='flat' needs an array of rows"):
        to_pytables(
            xr.Dataset({"v": ("x", np.array(["a", "b"], object))}),
            tmp_path / "v.h5",
            encoding={"v": {"ragged": "flat"}},
        )


def test_rows_are_replaced_and_set_in_place(tmp_path: Path) -> None:
    first, second = some_rows("i4"), [row + 1 for row in some_rows("i4")]
    to_pytables(xr.Dataset({"v": ("row", ragged(first))}), tmp_path / "v.h5")
    for mode, rows in (("r+", second), ("a", first)):
        to_pytables(xr.Dataset({"v": ("row", ragged(rows))}), tmp_path / "v.h5", mode=mode)
        with xr.open_dataset(tmp_path / "v.h5", engine="pytables") as back:
            assert [row.tolist() for row in back["v"].values] == [row.tolist() for row in rows]
    with pytest.raises(ValueError, match="rows that are arrays of int32, the values are arrays of float64"):
        to_pytables(xr.Dataset({"v": ("row", ragged(some_rows("f8")))}), tmp_path / "v.h5", mode="r+")


def test_a_row_of_another_type_in_a_later_block_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "v.h5").write_bytes(b"old")
    data = dask.array.from_array(ragged([np.array([1]), np.array([1.5])]), chunks=1)
    with pytest.raises(TypeError, match="a row has dtype float64, which int64 cannot hold"):
        to_pytables(xr.Dataset({"v": ("row", data)}), tmp_path / "v.h5")
    assert (tmp_path / "v.h5").read_bytes() == b"old"


# -- text from Dask ----------------------------------------------------------------------------------------


class Blocks:
    """Counts how many blocks of a Dask array exist at once, and how often each is made."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, block: np.ndarray, block_info: Any = None) -> np.ndarray:
        self.made.append(block_info[0]["chunk-location"][0] if block_info else -1)
        return block


TEXTS = ["a", "Grüße", "", "🦘" * 5, "x" * 40, "b", "c", "d"]


@pytest.mark.parametrize("kind", ["object", "StringDType"])
@pytest.mark.parametrize(
    ("encoding", "string"),
    [({}, "vlen"), ({"string": "vlen"}, "vlen"), ({"string": "fixed"}, "fixed"), ({"dtype": "S40"}, "fixed")],
)
@pytest.mark.filterwarnings("error")
def test_text_of_any_length_is_written_block_by_block(
    tmp_path: Path, kind: str, encoding: dict[str, Any], string: str
) -> None:
    values = np.array(TEXTS, object if kind == "object" else np.dtypes.StringDType())
    blocks = Blocks()
    with dask.config.set(scheduler="sync"):
        data = dask.array.from_array(values, chunks=2).map_blocks(blocks, dtype=values.dtype)
        blocks.made.clear()
        to_pytables(xr.Dataset({"t": ("x", data)}), tmp_path / "t.h5", encoding={"t": encoding} if encoding else None)
    passes = 2 if encoding == {"string": "fixed"} else 1
    # the first block tells what it is; xarray's encoders look at its first element for times
    assert len(blocks.made) - blocks.made.count(0) == 3 * passes
    assert blocks.made.count(0) <= passes + 3
    with xr.open_dataset(tmp_path / "t.h5", engine="pytables") as ds:
        assert ds["t"].encoding["string"] == string
        assert ds["t"].values.tolist() == TEXTS
    with xr.open_dataset(tmp_path / "t.h5", engine="h5netcdf") as ds:
        found = ds["t"].values.tolist()
        assert [text.decode() if isinstance(text, bytes) else text for text in found] == TEXTS


def test_text_longer_than_declared_is_refused(tmp_path: Path) -> None:
    for data in (np.array(TEXTS, object), dask.array.from_array(np.array(TEXTS, object), chunks=3)):
        with pytest.raises(ValueError, match=r"'t': a text of 40 bytes does not fit the 39 bytes"):
            to_pytables(xr.Dataset({"t": ("x", data)}), tmp_path / "t.h5", encoding={"t": {"dtype": "S39"}})
    assert not (tmp_path / "t.h5").exists()


def test_missing_text_is_empty_and_numbers_among_text_are_refused(tmp_path: Path) -> None:
    for missing in (None, np.nan):
        data = dask.array.from_array(np.array(["a", missing, "b"], object), chunks=2)
        to_pytables(xr.Dataset({"t": ("x", data)}), tmp_path / "t.h5")
        with xr.open_dataset(tmp_path / "t.h5", engine="pytables") as ds:
            assert ds["t"].values.tolist() == ["a", "", "b"]
    data = dask.array.from_array(np.array(["a", "b", 5], object), chunks=2)
    with pytest.raises(TypeError, match=r"'t': is text by its first block or its encoding, but also holds 5"):
        to_pytables(xr.Dataset({"t": ("x", data)}), tmp_path / "u.h5")
    assert not (tmp_path / "u.h5").exists()


def test_rows_are_appended_and_set_in_a_region(tmp_path: Path) -> None:
    def dataset(*rows: list[int]) -> xr.Dataset:
        return xr.Dataset({"v": ("row", ragged([np.array(row, "i4") for row in rows]))})

    path = tmp_path / "v.h5"
    to_pytables(dataset([1], [2, 3]), path, unlimited_dims=["row"])
    to_pytables(dataset([4, 5, 6], []), path, append_dim="row")
    to_pytables(dataset([9, 9]), path, region={"row": slice(1, 2)})
    with xr.open_dataset(path, engine="pytables") as ds:
        assert [row.tolist() for row in ds["v"].values] == [[1], [9, 9], [4, 5, 6], []]
    with plain_file(path) as file:
        assert [row.tolist() for row in file.root.v.read()] == [[1], [9, 9], [4, 5, 6], []]


@pytest.mark.parametrize("how", [{"append_dim": "row"}, {"region": {"row": slice(0, 2)}}, {"mode": "r+"}], ids=str)
@pytest.mark.parametrize("maker", ["ours", "pytables", "h5py"])
def test_rows_of_truth_values_take_more_of_them(tmp_path: Path, maker: str, how: dict[str, Any]) -> None:
    def dataset(*rows: list[bool]) -> xr.Dataset:
        return xr.Dataset({"v": ("row", ragged([np.array(row, bool) for row in rows]))})

    path, old, new = tmp_path / "v.h5", [[True, False, True], []], [[False, False], [True]]
    if maker == "ours":
        to_pytables(dataset(*old), path)
    elif maker == "pytables":
        with plain_file(path, "w") as file:
            rows = file.create_vlarray("/", "v", tables.BoolAtom())
            rows.attrs._ARRAY_DIMENSIONS = ["row"]
            for row in old:
                rows.append(row)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("v", (2,), h5py.vlen_dtype(bool), maxshape=(None,))[:] = ragged(
                list(map(np.array, old))
            )
            file["v"].attrs["_ARRAY_DIMENSIONS"] = ["row"]
    to_pytables(dataset(*new), path, **how)
    with xr.open_dataset(path, engine="pytables") as ds:
        found = ds["v"].values
    assert {row.dtype for row in found} == {np.dtype(bool)}
    assert [row.tolist() for row in found] == (old + new if "append_dim" in how else new)
    with pytest.raises(ValueError, match=r"variable 'v': Mismatched dtypes"):
        to_pytables(xr.Dataset({"v": ("row", ragged([np.array([2]), np.array([3])]))}), path, **how)
