"""Ragged arrays and variable-length text: equal to plain PyTables and h5py, read without HDF5, lazily, safely."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import tables
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables import OpaqueBytes
from xr_pytables.arrays.ragged import VariableLengthArray
from xr_pytables.chunks import vlen
from xr_pytables.errors import ChunkError
from xr_pytables.sources.local import LocalFile

from ..helpers_properties import examples
from ..helpers_reading import assert_same, open_quietly, open_raw, plain_file, run_python

COLOURS = tables.Enum({"red": 4, "green": -2, "blue": 7})


def lazy_array(dataset: xr.Dataset, name: str) -> VariableLengthArray:
    """What the engine made for a variable, under xarray's wrappers."""
    data = dataset[name].variable._data
    while not isinstance(data, VariableLengthArray):
        data = data.array
    return data


ATOMS: dict[str, Any] = {
    "bool": tables.BoolAtom,
    "int8": tables.Int8Atom,
    "uint16": tables.UInt16Atom,
    "int32": tables.Int32Atom,
    "float16": tables.Float16Atom,
    "float64": tables.Float64Atom,
    "complex128": lambda **kw: tables.ComplexAtom(16, **kw),
    "S1": lambda **kw: tables.StringAtom(1, **kw),
    "S7": lambda **kw: tables.StringAtom(7, **kw),
    "enum": lambda **kw: tables.EnumAtom(COLOURS, "red", "int16", **kw),
}
FILTERS = [
    None,
    tables.Filters(3, "zlib"),
    tables.Filters(3, "zlib", shuffle=False),
    tables.Filters(5, "blosc:zstd"),
    tables.Filters(1, "bzip2"),
]


def values_of(atom: tables.Atom, count: int, random: np.random.Generator) -> np.ndarray:
    """`count` elements of an atom, arbitrary ones."""
    base, shape = atom.dtype.base.newbyteorder("="), (count, *atom.shape)
    if isinstance(atom, tables.EnumAtom):
        return random.choice([4, -2, 7], shape).astype(base)
    if base.kind == "b":
        return random.integers(0, 2, shape).astype(bool)
    if base.kind == "S":
        letters = np.frombuffer(b"ab\xff. Z", "S1")
        return random.choice(letters, (*shape, base.itemsize)).view(base).reshape(shape)
    return (random.standard_normal(shape) * 100).astype(base)


@st.composite
def ragged_files(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "atom": draw(st.sampled_from(sorted(ATOMS))),
        "shape": draw(st.sampled_from([(), (2,), (3, 2)])),
        "sizes": draw(st.lists(st.integers(0, 6) | st.sampled_from([0, 1, 700]), max_size=12)),
        "chunk": draw(st.integers(1, 8)),
        "filters": draw(st.sampled_from(range(len(FILTERS)))),
        "byteorder": draw(st.sampled_from(["little", "big"])),
        "seed": draw(st.integers(0, 2**16)),
    }


def write(path: Path, made: dict[str, Any]) -> list[np.ndarray]:
    atom = ATOMS[made["atom"]](shape=made["shape"])
    random = np.random.default_rng(made["seed"])
    # PyTables stores others in another byte order than the type that it stores with them
    order = "little" if atom.kind in ("enum", "complex") or atom.shape else made["byteorder"]
    with plain_file(path, "w") as file:
        leaf = file.create_vlarray(
            "/", "v", atom, chunkshape=made["chunk"], filters=FILTERS[made["filters"]], byteorder=order
        )
        for size in made["sizes"]:
            leaf.append(values_of(atom, size, random))
        return leaf.read()


@examples(60)
@given(made=ragged_files(), data=st.data())
def test_any_rows_and_selection_equal_plain_pytables(tmp_path: Path, made: dict[str, Any], data: st.DataObject) -> None:
    path = tmp_path / "v.h5"
    rows = write(path, made)
    count = len(rows)
    expected = np.empty(count, object)
    for number, row in enumerate(rows):
        expected[number] = row
    with open_raw(path) as ds:
        assert ds["v"].dims == ("v_row",)
        assert ds["v"].shape == (count,)
        selection: Any = data.draw(
            st.slices(count) | (st.lists(st.integers(-count, count - 1), max_size=5) if count else st.just([])),
            label="selection",
        )
        found = ds["v"][selection].values
        chosen = expected[np.array(selection, int) if isinstance(selection, list) else selection]
        assert len(found) == len(chosen)
        for actual, row in zip(found, chosen, strict=True):
            assert_same(actual, row)
    with open_raw(path, ragged="flat") as ds:
        joined = np.concatenate(rows) if rows else np.empty((0, *made["shape"]), ATOMS[made["atom"]]().dtype.base)
        assert ds["v_row_size"].values.tolist() == made["sizes"]
        assert ds["v_row_size"].attrs == {"sample_dimension": "v_sample"}
        assert ds["v"].dims[0] == "v_sample"
        part = data.draw(st.slices(len(joined)), label="values")
        assert_same(ds["v"][part].values, joined[part])
        if len(joined):
            at = data.draw(st.lists(st.integers(0, len(joined) - 1), max_size=4), label="points")
            assert_same(ds["v"][np.array(at, int)].values, joined[np.array(at, int)])


def test_one_row_is_an_array(tmp_path: Path) -> None:
    rows = write(tmp_path / "v.h5", {"atom": "int32", "shape": (), "sizes": [3, 0, 5], "chunk": 2, "filters": 0,
                                     "byteorder": "little", "seed": 1})  # fmt: skip
    with open_raw(tmp_path / "v.h5") as ds:
        assert_same(ds["v"][2].values.item(), rows[2])
        assert_same(ds["v"][1].item(), rows[1])
        assert ds["v"].encoding["ragged"] == "vlen"
        assert ds["v"].encoding["chunksizes"] == (2,)


@pytest.mark.parametrize("ragged", ["object", "flat"])
def test_rows_are_read_without_hdf5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ragged: str) -> None:
    made = {"atom": "float64", "shape": (), "sizes": [3, 700, 0, 2] * 5, "chunk": 3, "filters": 3,
            "byteorder": "little", "seed": 1}  # fmt: skip
    rows = write(tmp_path / "v.h5", made)
    with h5py.File(tmp_path / "v.h5", "a") as file:
        file.create_dataset("text", data=["a", "", "Grüße"], dtype=h5py.string_dtype(), chunks=(2,))
    with open_raw(tmp_path / "v.h5", ragged=ragged) as ds:
        ds["v"][0].load()  # compares one chunk with what HDF5 says of it
        found = np.concatenate(list(ds["v"].values)) if ragged == "object" else ds["v"].values
        assert_same(found, np.concatenate(rows))
        assert ds["text"].values.tolist() == ["a", "", "Grüße"]


def test_opening_reads_no_row_and_sizes_need_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "v.h5", {"atom": "int8", "shape": (), "sizes": [3, 0, 5], "chunk": 2, "filters": 0,
                              "byteorder": "little", "seed": 1})  # fmt: skip
    with plain_file(tmp_path / "v.h5", "a") as file:
        file.create_vlarray("/", "o", tables.ObjectAtom()).append([1])
    with h5py.File(tmp_path / "v.h5", "a") as file:
        file.create_dataset("text", data=["a", "b"], dtype=h5py.string_dtype())

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a row was read")

    monkeypatch.setattr(vlen, "read_values", refuse)
    with xr.open_dataset(tmp_path / "v.h5", engine="pytables") as ds:
        assert set(ds) == {"v", "o", "text"}
    with xr.open_dataset(tmp_path / "v.h5", engine="pytables", ragged="flat") as ds:
        assert ds["v_row_size"].values.tolist() == [3, 0, 5]
        assert ds.sizes["v_sample"] == 8


def test_times_are_times(tmp_path: Path) -> None:
    with plain_file(tmp_path / "t.h5", "w") as file:
        file.create_vlarray("/", "seconds", tables.Time32Atom()).append([0, 86400])
        file.create_vlarray("/", "fine", tables.Time64Atom()).append([1.5, -0.25, 1409529600.000001])
    whole = np.array(["1970-01-01", "1970-01-02"], "M8[s]")
    fine = np.array(["1970-01-01T00:00:01.5", "1969-12-31T23:59:59.75", "2014-09-01T00:00:00.000001"], "M8[us]")
    with xr.open_dataset(tmp_path / "t.h5", engine="pytables") as ds:
        assert_same(ds["seconds"].values[0], whole)
        assert_same(ds["fine"].values[0], fine)
    with xr.open_dataset(tmp_path / "t.h5", engine="pytables", ragged="flat") as ds:
        assert ds["seconds"].dtype.kind == "M"
        np.testing.assert_array_equal(ds["seconds"].values, whole)
        np.testing.assert_array_equal(ds["fine"].values, fine)


def test_enumerations_keep_their_names(tmp_path: Path) -> None:
    with plain_file(tmp_path / "e.h5", "w") as file:
        file.create_vlarray("/", "e", tables.EnumAtom(COLOURS, "red", "int16")).append([4, 7, -2])
    for ragged in ("object", "flat"):
        with xr.open_dataset(tmp_path / "e.h5", engine="pytables", ragged=ragged) as ds:
            assert dict(zip(ds["e"].attrs["flag_meanings"].split(), ds["e"].attrs["flag_values"], strict=True)) == {
                "red": 4, "green": -2, "blue": 7,
            }  # fmt: skip


PSEUDO = {
    "vlstring": (tables.VLStringAtom, [b"ab", b"", b"\xff\x00x", b"Gr\xc3\xbc\xc3\x9fe" * 3000]),
    "vlunicode": (tables.VLUnicodeAtom, ["ab", "", "Grüße", "🦘" * 3000]),
    "object": (tables.ObjectAtom, [[1, 2], None, {"a": (1.5, "x")}, np.arange(4.0), "text"]),
}


@pytest.mark.parametrize("name", sorted(PSEUDO))
@pytest.mark.parametrize("ragged", ["object", "flat"])
def test_text_bytes_and_objects_in_rows(tmp_path: Path, name: str, ragged: str) -> None:
    atom, rows = PSEUDO[name]
    with plain_file(tmp_path / "p.h5", "w") as file:
        leaf = file.create_vlarray("/", "p", atom())
        for row in rows:
            leaf.append(row)
        plain = leaf.read()
    with xr.open_dataset(tmp_path / "p.h5", engine="pytables", ragged=ragged) as ds:
        assert ds["p"].shape == (len(rows),)
        for actual, expected in zip(ds["p"].values, plain, strict=True):
            assert type(actual) is type(expected)
            np.testing.assert_array_equal(actual, expected)
        np.testing.assert_array_equal(ds["p"][1:3].values, np.array(plain[1:3], object))


def test_bytes_in_rows_as_text_on_request(tmp_path: Path) -> None:
    with plain_file(tmp_path / "p.h5", "w") as file:
        leaf = file.create_vlarray("/", "p", tables.VLStringAtom())
        leaf.append("Grüße".encode())
        leaf.append(b"\xff")
    with xr.open_dataset(tmp_path / "p.h5", engine="pytables", string="text") as ds:
        assert ds["p"].values.tolist() == ["Grüße", "\udcff"]


def test_strings_as_the_file_says_or_as_asked(tmp_path: Path) -> None:
    with plain_file(tmp_path / "s.h5", "w") as file:
        file.create_array("/", "fixed", np.array(["Grüße".encode(), b"\xff"]))
        file.create_vlarray("/", "rows", tables.StringAtom(3)).append([b"ab", b"\xc3\xbc"])
    with h5py.File(tmp_path / "s.h5", "a") as file:
        file["vlen"] = ["a", "ü"]
        file.create_dataset("marked", data=[b"a", "ü".encode()], dtype=h5py.string_dtype(length=2))
    expected: dict[str | None, dict[str, list[Any]]] = {
        None: {
            "fixed": ["Grüße".encode(), b"\xff"], "rows": [b"ab", b"\xc3\xbc"], "vlen": ["a", "ü"],
            "marked": ["a", "ü"],
        },
        "text": {"fixed": ["Grüße", "\udcff"], "rows": ["ab", "ü"], "vlen": ["a", "ü"], "marked": ["a", "ü"]},
        "bytes": {
            "fixed": ["Grüße".encode(), b"\xff"], "rows": [b"ab", b"\xc3\xbc"], "vlen": [b"a", b"\xc3\xbc"],
            "marked": [b"a", b"\xc3\xbc"],
        },
    }  # fmt: skip
    for string, values in expected.items():
        with xr.open_dataset(tmp_path / "s.h5", engine="pytables", string=string) as ds:
            assert ds["rows"].values[0].tolist() == values["rows"]
            assert {name: ds[name].values.tolist() for name in ("fixed", "vlen", "marked")} == {
                name: values[name] for name in ("fixed", "vlen", "marked")
            }
        with xr.open_dataset(tmp_path / "s.h5", engine="pytables", string=string, ragged="flat") as ds:
            assert ds["rows"].values.tolist() == values["rows"]


def test_objects_that_could_run_code_stay_bytes(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    with plain_file(tmp_path / "o.h5", "w") as file:
        leaf = file.create_vlarray("/", "o", tables.ObjectAtom())
        for row in ([1], Attack(), Attack(), "x"):
            leaf.append(row)
    with xr.open_dataset(tmp_path / "o.h5", engine="pytables") as ds:
        with pytest.warns(UserWarning, match=r"o\.h5:/o: 2 of 4 rows are shown undecoded.*allow_pickle") as told:
            values = ds["o"].values
        assert len(told) == 1
        assert values[0] == [1]
        assert values[3] == "x"
        assert isinstance(values[1], OpaqueBytes)
        assert values[1].data.startswith(b"\x80")
    assert not (tmp_path / "pwned").exists()
    with xr.open_dataset(tmp_path / "o.h5", engine="pytables", allow_pickle=True) as ds:
        ds["o"][1:2].load()
    assert (tmp_path / "pwned").exists()


def test_rows_in_files_with_a_user_block(tmp_path: Path) -> None:
    with plain_file(tmp_path / "u.h5", "w", user_block_size=512) as file:
        leaf = file.create_vlarray("/", "v", tables.Int64Atom())
        leaf.append([1, 2])
        leaf.append([3])
    with open_raw(tmp_path / "u.h5") as ds:
        assert [row.tolist() for row in ds["v"].values] == [[1, 2], [3]]


def test_ragged_arrays_of_h5py_of_any_rank_and_layout(tmp_path: Path) -> None:
    kind = h5py.vlen_dtype(np.dtype("i4"))
    rows = np.empty((3, 4), object)
    for number, where in enumerate(np.ndindex(3, 4)):
        rows[where] = np.arange(number, dtype="i4")
    expected = {}
    with h5py.File(tmp_path / "h.h5", "w") as file:
        for name, shape, chunks in (
            ("contiguous", (12,), None),
            ("plane", (3, 4), (2, 3)),
            ("plain_plane", (3, 4), None),
            ("never_written", (5,), None),
            ("missing_chunks", (12,), (5,)),
        ):
            dataset = file.create_dataset(name, shape, dtype=kind, chunks=chunks)
            expected[name] = rows.reshape(-1)[: np.prod(shape)].reshape(shape).copy()
            if name == "never_written":
                expected[name][:] = [np.empty(0, "i4") for _ in range(5)]
            elif name == "missing_chunks":
                dataset[5:8] = rows.reshape(-1)[5:8]
                for number in (*range(5), *range(8, 12)):
                    expected[name][number] = np.empty(0, "i4")
            else:
                dataset[...] = expected[name]
        scalar = file.create_dataset("scalar", (), dtype=kind)
        scalar[()] = np.array([7, 8], "i4")
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        h5py.h5d.create(
            file.id, b"compact", h5py.h5t.py_create(kind, logical=True), h5py.h5s.create_simple((2,)), compact
        )
        file["compact"][:] = expected["compact"] = rows.reshape(-1)[2:4].copy()
    with open_raw(tmp_path / "h.h5") as ds:
        assert ds["scalar"].values.item().tolist() == [7, 8]
        for name, wanted in expected.items():
            assert ds[name].shape == wanted.shape
            for where in np.ndindex(*wanted.shape):
                assert_same(ds[name].values[where], wanted[where])
        part = ds["plane"][::2, [3, 0]].values
        assert [[row.size for row in line] for line in part] == [[3, 0], [11, 8]]
    with open_raw(tmp_path / "h.h5", ragged="flat") as ds:
        assert ds["plane"].dtype == object  # CF has no ragged arrays of two dimensions
        assert ds["contiguous"].sizes == {"contiguous_sample": sum(range(12))}


@pytest.mark.parametrize("grows", [True, False])
def test_chunks_of_newer_formats(tmp_path: Path, grows: bool) -> None:
    texts = [f"text {number}" * (number % 4) for number in range(50)]
    with h5py.File(tmp_path / "new.h5", "w", libver=("v110", "v110")) as file:
        file.create_dataset(
            "t", data=texts, dtype=h5py.string_dtype(), chunks=(7,), maxshape=(None if grows else 50,),
            compression="gzip",
        )  # fmt: skip
    with open_raw(tmp_path / "new.h5") as ds:
        lazy = lazy_array(ds, "t")
        assert ds["t"].values.tolist() == texts
        assert isinstance(lazy, VariableLengthArray)
        assert ds["t"][40:3:-5].values.tolist() == texts[40:3:-5]
        assert ds["t"][11].item() == texts[11]


def test_text_behind_any_filter(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "lzf.h5", "w") as file:
        file.create_dataset("t", data=["a", "b"], dtype=h5py.string_dtype(), chunks=(2,), compression="lzf")
    with open_raw(tmp_path / "lzf.h5") as ds:
        assert ds["t"].values.tolist() == ["a", "b"]


@pytest.mark.parametrize("complib", ["blosc:zstd", "blosc:lz4"])
def test_single_rows_of_a_compressed_vlarray(tmp_path: Path, complib: str) -> None:
    """PyTables writes an item size of Blosc that does not divide a row's descriptor."""
    rows = [np.arange(float(number % 5 + 1)) + number for number in range(1000)]
    with tables.open_file(tmp_path / "v.h5", "w") as file:
        array = file.create_vlarray("/", "v", tables.Float64Atom(), filters=tables.Filters(5, complib))
        for row in rows:
            array.append(row)
    with open_raw(tmp_path / "v.h5") as ds:
        for number in range(0, 1000, 7):
            np.testing.assert_array_equal(ds["v"][number].item(), rows[number])


def test_text_ends_at_its_first_nul(tmp_path: Path) -> None:
    write(tmp_path / "v.h5", {"atom": "int8", "shape": (), "sizes": [], "chunk": 2, "filters": 0,
                              "byteorder": "little", "seed": 1})  # fmt: skip
    with h5py.File(tmp_path / "n.h5", "w") as file:
        file.create_dataset("t", data=[b"ab\xff"], dtype=h5py.string_dtype("ascii"))
    data = (tmp_path / "n.h5").read_bytes()
    (tmp_path / "n.h5").write_bytes(data.replace(b"ab\xff", b"a\0\xff"))
    with open_raw(tmp_path / "n.h5") as ds:
        assert ds["t"].values.tolist() == ["a"]
    (tmp_path / "n.h5").write_bytes(data)
    with open_raw(tmp_path / "n.h5") as ds:
        assert ds["t"].values.tolist() == ["ab\udcff"]
    with open_raw(tmp_path / "n.h5", string="bytes") as ds:
        assert ds["t"].values.tolist() == [b"ab\xff"]


def test_rows_pickle_and_go_through_dask(tmp_path: Path) -> None:
    made = {"atom": "int32", "shape": (), "sizes": list(range(20)), "chunk": 3, "filters": 1,
            "byteorder": "little", "seed": 1}  # fmt: skip
    rows = write(tmp_path / "v.h5", made)
    with open_raw(tmp_path / "v.h5", ragged="flat") as flat, open_raw(tmp_path / "v.h5") as ds:
        again = pickle.loads(pickle.dumps((flat, ds)))
        assert_same(again[0]["v"][7:99].values, np.concatenate(rows)[7:99])
        assert_same(again[1]["v"].values[4], rows[4])
    with open_raw(tmp_path / "v.h5", chunks={}) as ds:
        assert ds["v"].chunks == ((3,) * 6 + (2,),)
        assert [row.tolist() for row in ds["v"].compute().values] == [row.tolist() for row in rows]
    with open_raw(tmp_path / "v.h5", ragged="flat", chunks={"v_sample": 50}) as ds:
        assert_same((ds["v"] + 1).values, np.concatenate(rows) + 1)


@pytest.mark.parametrize("ragged", ["object", "flat"])
def test_rows_that_are_appended_later_are_not_seen(tmp_path: Path, ragged: str) -> None:
    rows = write(tmp_path / "v.h5", {"atom": "int8", "shape": (), "sizes": [3, 0, 5], "chunk": 2, "filters": 0,
                                     "byteorder": "little", "seed": 1})  # fmt: skip
    with open_raw(tmp_path / "v.h5", ragged=ragged) as ds:
        with plain_file(tmp_path / "v.h5", "a") as file:
            for _ in range(3000):
                file.root.v.append([1, 2])
        found = np.concatenate(list(ds["v"].values)) if ragged == "object" else ds["v"].values
        assert_same(found, np.concatenate(rows))


def test_attributes_that_would_change_numbers_stay_with_rows(tmp_path: Path) -> None:
    with plain_file(tmp_path / "v.h5", "w") as file:
        leaf = file.create_vlarray("/", "v", tables.Int16Atom())
        leaf.append([1, -1])
        leaf.attrs._FillValue, leaf.attrs.scale_factor, leaf.attrs.note = np.int16(-1), 0.5, "é"
        days = file.create_vlarray("/", "days", tables.Int16Atom())
        days.append([1])
        days.attrs.units = "days since 2014-09-01"
    with xr.open_dataset(tmp_path / "v.h5", engine="pytables") as ds:
        assert ds["v"].attrs == {"_FillValue": -1, "scale_factor": 0.5, "note": "é"}
        assert ds["v"].values[0].tolist() == [1, -1]
        assert ds["days"].values[0].tolist() == [1]
    with xr.open_dataset(tmp_path / "v.h5", engine="pytables", ragged="flat") as ds:
        np.testing.assert_array_equal(ds["v"].values, [0.5, np.nan])
        np.testing.assert_array_equal(ds["days"].values, np.array(["2014-09-02"], "M8[ns]"))


def test_the_variable_of_row_sizes_takes_no_name_of_another(tmp_path: Path) -> None:
    with plain_file(tmp_path / "v.h5", "w") as file:
        file.create_vlarray("/", "v", tables.Int16Atom()).append([1, -1])
        file.create_array("/", "v_row_size", [3.0])
    with open_raw(tmp_path / "v.h5", ragged="flat") as ds:
        assert set(ds) == {"v", "v_row_size", "v_row_size_"}
        assert ds["v_row_size"].values.tolist() == [3.0]
        assert ds["v_row_size_"].values.tolist() == [2]


@pytest.mark.parametrize("name", ["ragged", "string"])
def test_bad_arguments_name_what_there_is(tmp_path: Path, name: str) -> None:
    write(tmp_path / "v.h5", {"atom": "int8", "shape": (), "sizes": [3], "chunk": 2, "filters": 0,
                              "byteorder": "little", "seed": 1})  # fmt: skip
    with pytest.raises(ValueError, match=f"^{name} must be '"):
        open_raw(tmp_path / "v.h5", **{name: "no"})


def test_golden_file_of_every_kind_of_rows() -> None:
    with xr.open_dataset(Path(__file__).parents[1] / "data" / "rows.h5", engine="pytables") as ds:
        found = {name: ds[name].values for name in ds}
    expected: dict[str, list[Any]] = {
        "numbers": [[1, 2, 3], [], [4]],
        "pairs": [[[0.5, 1.5]], [[2.5, 3.5], [4.5, 5.5]]],
        "strings": [[b"ab", b"cde"], [b""]],
        "truth": [[True, False]],
        "waves": [[1 + 2j]],
        "colours": [[4, -2, 4]],
        "seconds": [[np.datetime64("2014-09-01", "s").item()]],
        "times": [[np.datetime64("2014-09-01T00:00:00.25", "us").item()]],
    }
    for name, rows in expected.items():
        assert [row.tolist() for row in found[name]] == rows
    assert found["vlstring"].tolist() == [b"ab", b"\xff"]
    assert found["vlunicode"].tolist() == ["Grüße", ""]
    assert found["objects"][:2].tolist() == [[1, "two"], {"a": None}]
    assert found["objects"][2].tolist() == [0, 1, 2]
    assert [[row.tolist() for row in line] for line in found["plane"]] == [[[], [0]], [[0, 1], [0, 1, 2]]]
    assert found["text"].tolist() == ["a", "", "Grüße"]
    assert found["paths"].tolist() == ["/numbers", ""]


def test_row_sizes_that_cannot_be_read_cost_the_others_nothing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        unknown = {"compression": 305, "compression_opts": (1,), "allow_unknown_filter": True}
        rows = file.create_dataset("v", (2,), h5py.vlen_dtype(np.dtype("i4")), chunks=(2,), **unknown)
        rows.id.write_direct_chunk((0,), b"x" * 99)
        file["x"] = [1.5]
    with pytest.warns(UserWarning, match=r"f\.h5:/v: .*HDF5 filter 305.* shown as rows"):
        ds = open_raw(tmp_path / "f.h5", ragged="flat")
    assert ds["x"].values.tolist() == [1.5]
    assert ds["v"].dims == ("v_row",)
    ds.close()


def test_row_sizes_of_more_than_the_file_has_are_no_shape(tmp_path: Path) -> None:
    heap_file(tmp_path / "v.h5", 2000)
    data = bytearray((tmp_path / "v.h5").read_bytes())
    with open_raw(tmp_path / "v.h5") as ds:
        descriptors, _ = lazy_array(ds, "v").fetch((slice(36, 37),))
    at = bytes(data).index(descriptors.tobytes())
    data[at : at + 4] = b"\xff\xff\xff\x7f"
    (tmp_path / "v.h5").write_bytes(data)
    with pytest.warns(UserWarning, match=r"v\.h5:/v: rows of \d+ bytes cannot be in a file"):
        ds = open_raw(tmp_path / "v.h5", ragged="flat")
    assert ds["v"][35].item().tolist() == list(range(35))
    with pytest.raises(ChunkError, match="cannot be in a file"):
        ds["v"].load()
    ds.close()


# -- heaps -------------------------------------------------------------------------------------------------


def heap_file(path: Path, rows: int = 4000) -> list[list[int]]:
    with plain_file(path, "w") as file:
        leaf = file.create_vlarray("/", "v", tables.Int32Atom(), chunkshape=50)
        expected = [list(range(number % 37)) for number in range(rows)]
        for row in expected:
            leaf.append(row)
    return expected


def test_damaged_heaps_are_errors_and_never_endless(tmp_path: Path) -> None:
    path, damaged = tmp_path / "v.h5", tmp_path / "damaged.h5"
    heap_file(path)
    data = bytearray(path.read_bytes())
    places = [at for at in range(len(data)) if data[at : at + 4] == b"GCOL"]
    assert len(places) > 5
    random = np.random.default_rng(5)
    wrong = 0
    for _ in range(150):
        broken = bytearray(data)
        start = int(random.choice(places))
        # the header of the collection, or that of one of its first objects
        at = start + int(random.integers(0, 16) if random.random() < 0.3 else random.integers(16, 400))
        broken[at] = int(random.choice([0, 255, broken[at] ^ 1 << int(random.integers(0, 8))]))
        damaged.write_bytes(broken)
        with contextlib.suppress(ChunkError), open_raw(damaged) as ds:
            wrong += 1
            ds["v"].load()
            wrong -= 1
    assert wrong > 20


@pytest.mark.parametrize(
    ("descriptor", "message"),
    [
        ((2**32 - 1, 96, 1), "cannot be in a file"),
        ((1, 2**63, 1), "beyond the end"),
        ((1, 8, 1), "no sound heap collection"),
        ((1, 2048, 2**20), "beyond the end"),
    ],
)
def test_descriptors_of_nothing_are_errors(tmp_path: Path, descriptor: tuple[int, ...], message: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(4096))
    with open(path, "rb") as file, pytest.raises(ChunkError, match=f"^here: .*{message}"):
        vlen.read_values(LocalFile(file.fileno(), "here"), np.array([descriptor], vlen.DESCRIPTOR), 4, label="here")


def test_values_share_no_object_beyond_the_size_of_the_file(tmp_path: Path) -> None:
    """A small file cannot ask for more memory than it has bytes."""
    path = tmp_path / "f"
    path.write_bytes(bytes(4096))
    many = np.zeros(10**6, vlen.DESCRIPTOR)
    many["length"], many["address"], many["index"] = 500, 96, 1
    with open(path, "rb") as file, pytest.raises(ChunkError, match="cannot be in a file of 4096 bytes"):
        vlen.read_values(LocalFile(file.fileno(), "here"), many, 4)


@pytest.mark.parametrize("threads", [1, None])
@pytest.mark.parametrize("itemsize", [1, 2, 3, 4, 8, 16])
def test_rows_in_any_order_and_of_any_width(tmp_path: Path, itemsize: int, threads: int | None) -> None:
    """Many collections (looked at together), large objects (one by one), rows not in the order of the heap."""
    random = np.random.default_rng(itemsize)
    sizes = np.concatenate([random.integers(0, 40, 4000), [70_000, 0, 5]])
    random.shuffle(sizes)
    expected = [random.integers(0, 255, size * itemsize).astype("u1") for size in sizes]
    with plain_file(tmp_path / "v.h5", "w") as file:
        leaf = file.create_vlarray("/", "v", tables.StringAtom(itemsize), chunkshape=1000)
        for row in expected:
            leaf.append(row.view(f"S{itemsize}"))
    with open_raw(tmp_path / "v.h5") as ds:
        lazy = lazy_array(ds, "v")
        descriptors, _ = lazy.fetch((slice(None),))
    order = random.permutation(len(sizes))
    with open(tmp_path / "v.h5", "rb") as file:
        found = vlen.read_values(LocalFile(file.fileno(), "here"), descriptors[order], itemsize, threads=threads)
    np.testing.assert_array_equal(found, np.concatenate([expected[number] for number in order]))
    assert vlen.lengths(descriptors).tolist() == sizes.tolist()


def test_hostile_text_never_stops_the_process(tmp_path: Path) -> None:
    """Damaged heaps behind text: an error in a process of its own, within the time."""
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file.create_dataset("t", data=[f"text {number}" for number in range(300)], dtype=h5py.string_dtype())
    data = bytearray((tmp_path / "t.h5").read_bytes())
    at = data.index(b"GCOL") + 16
    data[at : at + 16] = bytes(16)  # free space of no bytes: HDF5 1.14 goes on there for ever
    (tmp_path / "t.h5").write_bytes(data)
    told = run_python(
        """
        import sys, xarray as xr
        try:
            xr.open_dataset(sys.argv[1], engine="pytables").load()
        except OSError as error:
            print(error)
        """,
        tmp_path / "t.h5",
    )
    assert "heap collection" in told


def test_a_damaged_array_of_text_costs_the_others_nothing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file.create_dataset("t", data=["a", "b"], dtype=h5py.string_dtype())
        file["x"] = [1.5]
    data = (tmp_path / "t.h5").read_bytes()
    (tmp_path / "t.h5").write_bytes(data.replace(b"GCOL", b"GONE"))
    with xr.open_dataset(tmp_path / "t.h5", engine="pytables") as ds:
        assert ds["x"].values.tolist() == [1.5]
        with pytest.raises(OSError, match=r"t\.h5:/t: there is no sound heap collection"):
            ds["t"].load()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (h5py.vlen_dtype(h5py.string_dtype()), "rows of elements of kind 'text'"),
        (h5py.vlen_dtype(h5py.ref_dtype), "rows of elements of kind 'reference'"),
        (h5py.vlen_dtype(h5py.vlen_dtype(np.dtype("i4"))), "rows of elements of kind 'vlen'"),
        (np.dtype((h5py.vlen_dtype(np.dtype("i4")), (2,))), "an array type of rows"),
    ],
)
def test_rows_that_cannot_be_shown_are_named(tmp_path: Path, kind: np.dtype, reason: str) -> None:
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file["x"] = [1.5]
        space = h5py.h5s.create_simple((2,))
        h5py.h5d.create(file.id, b"r", h5py.h5t.py_create(kind, logical=True), space)
    with pytest.warns(UserWarning, match=f"/r: its type is not supported: {reason}"):
        ds = xr.open_dataset(tmp_path / "r.h5", engine="pytables")
    assert ds["x"].values.tolist() == [1.5]
    assert set(open_quietly(tmp_path / "r.h5")) == {"x"}
    ds.close()


# -- what nobody wrote ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("libver", ["earliest", "v110"])
@pytest.mark.parametrize("chunks", [(3,), None])
def test_text_that_nobody_wrote_has_its_fill_value(tmp_path: Path, libver: str, chunks: tuple[int] | None) -> None:
    path = tmp_path / "t.h5"
    with h5py.File(path, "w", libver=(libver, "v110")) as file:
        file.create_dataset("s", (8,), h5py.string_dtype(), chunks=chunks, fillvalue="keine", compression=None)
        file.create_dataset("none", (8,), h5py.string_dtype(), chunks=chunks)
        if chunks:
            file["s"][1], file["s"][7] = "é", "z"
        expected = {name: file[name].asstr()[:].tolist() for name in file}
    ds = open_raw(path)
    assert {name: ds[name].values.tolist() for name in ds} == expected
    assert ds["s"][5].item() == "keine"
    assert ds["s"][::-3].values.tolist() == expected["s"][::-3]


def test_text_of_a_netcdf_file_is_filled_up_to_the_length_of_its_dimension(tmp_path: Path) -> None:
    path = tmp_path / "f.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("t", None)
        text = file.createVariable("s", str, ("t",), fill_value="N/A", chunksizes=(2,))
        file.createVariable("i", "i4", ("t",))[0:60_000] = 1
        text[0] = "A"
    ds = open_raw(path)
    assert ds["s"].values.tolist() == ["A"] + ["N/A"] * 59_999
    with netCDF4.Dataset(path) as file:
        assert ds["s"].values[:4].tolist() == file["s"][:4].tolist()
    assert xr.open_dataset(path, engine="pytables")["s"].isnull().sum() == 59_999  # as xarray decodes it


def test_a_fill_value_that_the_header_garbles_is_an_error_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("s", (8,), h5py.string_dtype(), chunks=(3,), fillvalue="keine")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"\x10\x00\x00\x00\x05\x00\x00\x00")  # the size of the value, then the length of the text
    for change in (b"\x00", b"\xff", b"\x0f"):
        (tmp_path / "x.h5").write_bytes(bytes(raw[:at]) + change + bytes(raw[at + 1 :]))
        try:
            values = open_quietly(tmp_path / "x.h5")["s"].values
        except (OSError, KeyError):
            continue
        assert set(values) <= {"", "keine"}
