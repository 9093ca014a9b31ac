"""References, records, opaque bytes and other types that HDF5 has: shown equal to h5py's, or named with the reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from xr_pytables import to_pytables
from xr_pytables.arrays.leaf_arrays import PyTablesArray

from ..helpers_reading import assert_same, open_quietly, open_raw, plain_file


def lazy_array(dataset: xr.Dataset, name: str) -> PyTablesArray:
    data = dataset[name].variable._data
    while not isinstance(data, PyTablesArray):
        data = data.array
    return data


# -- references --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user_block", [0, 512])
def test_references_are_the_paths_of_what_they_refer_to(tmp_path: Path, user_block: int) -> None:
    path = tmp_path / "r.h5"
    with h5py.File(path, "w", userblock_size=user_block) as file:
        file["/deep/er/data"] = np.arange(12).reshape(3, 4)
        file["other"] = 1.0
        refs = file.create_dataset("refs", (2, 3), dtype=h5py.ref_dtype, chunks=(1, 2))
        refs[0, 0], refs[0, 2], refs[1, 1] = file["deep"].ref, file["/deep/er/data"].ref, file["/"].ref
        regions = file.create_dataset("regions", (3,), dtype=h5py.regionref_dtype)
        regions[0] = file["/deep/er/data"].regionref[1:2, ::2]
        regions[2] = file["other"].regionref[...]
        file.create_dataset("one", data=file["other"].ref, dtype=h5py.ref_dtype)
        file.create_dataset("never_written", (2,), dtype=h5py.ref_dtype)
        lost = file.create_dataset(None, data=[1])
        file.create_dataset("lost", data=[lost.ref], dtype=h5py.ref_dtype)
        file["keeps_it_alive"] = lost
        del file["keeps_it_alive"]
    with open_raw(path) as ds:
        assert ds["refs"].values.tolist() == [["/deep", "", "/deep/er/data"], ["", "/", ""]]
        assert ds["refs"][1, ::-1].values.tolist() == ["", "/", ""]
        assert ds["regions"].values.tolist() == ["/deep/er/data", "", "/other"]
        assert ds["one"].item() == "/other"
        assert ds["never_written"].values.tolist() == ["", ""]
        assert ds["lost"].item().startswith("<an object at ")
        target = xr.open_dataarray(path, engine="pytables", group=ds["refs"][0, 2].item())
        np.testing.assert_array_equal(target, np.arange(12).reshape(3, 4))


# -- records -----------------------------------------------------------------------------------------------

RECORD = np.dtype([("a", "<i4"), ("b", ">f8", (2,)), ("c", [("d", "S3"), ("e", "?")])])
PADDED = np.dtype({"names": ["x", "y"], "formats": ["u1", "<f4"], "offsets": [1, 8], "itemsize": 16})


@pytest.mark.parametrize("dtype", [RECORD, PADDED], ids=["nested", "padded"])
@pytest.mark.parametrize(
    ("shape", "chunked"), [((), False), ((3, 4), False), ((2, 1, 3), False), ((3, 4), True), ((2, 1, 3), True)]
)
def test_records_of_any_rank_but_one_are_structured_arrays(
    tmp_path: Path, dtype: np.dtype, shape: tuple[int, ...], chunked: bool
) -> None:
    random = np.random.default_rng(3)
    values = np.zeros(shape, dtype)
    for name in dtype.names or ():
        if dtype[name].names is None:
            values[name] = random.integers(0, 100, values[name].shape)
    if "c" in (dtype.names or ()):
        values["c"]["d"], values["c"]["e"] = b"ab", True
    with h5py.File(tmp_path / "r.h5", "w") as file:
        chunks = {"chunks": (1, *shape[1:]), "compression": "gzip", "shuffle": True} if chunked else {}
        file.create_dataset("r", data=values, dtype=dtype, **chunks)
        file["x"] = [1.5]
    with xr.open_dataset(tmp_path / "r.h5", engine="pytables") as ds:
        assert ds["r"].shape == shape
        assert ds["r"].dtype.names == dtype.names
        found = ds["r"].values
        for name in dtype.names or ():
            assert found[name].dtype.isnative
            np.testing.assert_array_equal(found[name], values[name])
        if shape:
            part = ds["r"][-1].values
            np.testing.assert_array_equal(part[dtype.names[0]], values[-1][dtype.names[0]])


# -- opaque bytes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "shown"), [("s", "s"), ("ms", "ms"), ("us", "us"), ("ns", "ns"), ("D", "s"), ("h", "s"), ("15m", "s")]
)
@pytest.mark.parametrize("kind", ["M8", "m8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_opaque_times_of_h5py_are_times(tmp_path: Path, kind: str, unit: str, shown: str, order: str) -> None:
    values = np.array([0, 1, -5, 16_000], f"{kind}[{unit}]")
    values[1] = "NaT"
    stored = values.astype(f"{order}{kind}[{unit}]")
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file.create_dataset("t", data=stored.astype(h5py.opaque_dtype(stored.dtype)), chunks=(3,))
    with xr.open_dataset(tmp_path / "t.h5", engine="pytables") as ds:
        assert ds["t"].dtype == f"{kind}[{shown}]"
        np.testing.assert_array_equal(ds["t"].values, values)
        np.testing.assert_array_equal(ds["t"][::-2].values, values[::-2])


@pytest.mark.parametrize("unit", ["D", "s", "ms", "ns"])
def test_opaque_columns_are_read_written_and_appended(tmp_path: Path, unit: str) -> None:
    times = np.array([1, 2, "NaT"], f">M8[{unit}]")
    fields = [
        ("n", "i4"),
        ("t", h5py.opaque_dtype(times.dtype)),
        ("raw", "V3"),
        ("in", [("d", h5py.opaque_dtype("<m8[s]"))]),
    ]
    rows = np.zeros(3, fields)
    rows["n"], rows["t"], rows["raw"], rows["in"]["d"] = [5, 6, 7], times, [b"abc", b"\0\0d", b"x\0\0"], [1, -1, 2**40]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("t", data=rows, dtype=fields, chunks=(2,))
    ds = xr.open_dataset(tmp_path / "a.h5", engine="pytables", group="/t").load()
    np.testing.assert_array_equal(ds["n"], rows["n"])
    np.testing.assert_array_equal(ds["t"], times)
    assert ds["raw"].values.tolist() == rows["raw"].tolist()
    np.testing.assert_array_equal(ds["in.d"], rows["in"]["d"])
    ours = tmp_path / "b.h5"
    to_pytables(ds[["raw", "n"]], ours, layout="table", group="/t")
    to_pytables(ds[["raw", "n"]], ours, layout="table", group="/t", append_dim="t_row")
    again = xr.load_dataset(ours, engine="pytables", group="/t")
    assert again["raw"].values.tolist() == 2 * rows["raw"].tolist()


def test_other_opaque_bytes_stay_bytes(tmp_path: Path) -> None:
    values = np.array([b"ab\0", b"\0\0c"], "V3")
    with h5py.File(tmp_path / "o.h5", "w") as file:
        file.create_dataset("o", data=values)
        months = np.array([1, 2], "M8[M]")
        file.create_dataset("months", data=months.astype(h5py.opaque_dtype(months.dtype)))
    with xr.open_dataset(tmp_path / "o.h5", engine="pytables") as ds:
        assert_same(ds["o"].values, values)
        assert ds["months"].dtype == "V8"  # xarray has no such unit
        np.testing.assert_array_equal(ds["months"].values.view("<M8[M]"), months)


# -- others ------------------------------------------------------------------------------------------------


def test_bitfields_and_odd_enumerations(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "e.h5", "w") as file:
        space = h5py.h5s.create_simple((3,))
        for name, kind in (("bits16", h5py.h5t.STD_B16LE), ("bits64", h5py.h5t.STD_B64BE)):
            dataset = h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space))
            values = np.array([1, 2, 65535], "u2" if name == "bits16" else ">u8")
            dataset.id.write(h5py.h5s.ALL, h5py.h5s.ALL, values, kind)
        names = {"_hidden": 1, "two words": 2, "a/b": 3, "ü": 4}
        file.create_dataset("enum", data=np.array([1, 4, 2], "i4"), dtype=h5py.enum_dtype(names, "i4"))
        file.create_dataset("truth", data=np.array([True, False, True]))
    with xr.open_dataset(tmp_path / "e.h5", engine="pytables") as ds:
        assert_same(ds["bits16"].values, np.array([1, 2, 65535], "u2"))
        assert_same(ds["bits64"].values, np.array([1, 2, 65535], "u8"))
        assert ds["enum"].dtype.metadata == {"enum": names}
        assert_same(ds["enum"].values, np.array([1, 4, 2], "i4"))
        meanings = ds["enum"].attrs["flag_meanings"].split(" ")
        assert dict(zip(meanings, ds["enum"].attrs["flag_values"].tolist(), strict=True)) == {
            "_hidden": 1, "two_words": 2, "a/b": 3, "ü": 4,
        }  # fmt: skip
        assert_same(ds["truth"].values, np.array([True, False, True]))


def wide_integer(file: h5py.File) -> None:
    kind = h5py.h5t.STD_I64LE.copy()
    kind.set_size(16)
    kind.set_precision(128)
    h5py.h5d.create(file.id, b"odd", kind, h5py.h5s.create_simple((2,)))


def timed_records(file: h5py.File) -> None:
    kind = h5py.h5t.create(h5py.h5t.COMPOUND, 8)
    kind.insert(b"t", 0, h5py.h5t.UNIX_D64LE)
    h5py.h5d.create(file.id, b"odd", kind, h5py.h5s.create_simple((2, 2)))


def lost_source() -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((2,), "i4")
    layout[...] = h5py.VirtualSource("gone.h5", "data", (2,))
    return layout


REASONS: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "128-bit integers": (wide_integer, "128-bit integers"),
    "times in records": (timed_records, "records whose member 't' is a time"),
    "references in records": (
        lambda file: file.create_dataset("odd", (2, 2), np.dtype([("r", h5py.ref_dtype)])),
        "records whose member 'r' is a reference",
    ),
    "text in records": (
        lambda file: file.create_dataset("odd", (2, 2), np.dtype([("s", h5py.string_dtype())])),
        "a compound whose member 's' is text",
    ),
    "rows in records": (
        lambda file: file.create_dataset("odd", (2, 2), np.dtype([("v", h5py.vlen_dtype("i4"))])),
        "a compound whose member 'v' is vlen",
    ),
    "no dataspace": (lambda file: file.create_dataset("odd", data=h5py.Empty("f4")), "null dataspace"),
    "external": (
        lambda file: file.create_dataset("odd", (2,), "i4", external=[("raw.bin", 0, 8)]),
        "its data lie in the file raw.bin, but there is no file",
    ),
    "virtual": (
        lambda file: file.create_virtual_dataset("odd", lost_source()),
        "its source gone.h5:data, but there is no file",
    ),
    "dangling soft link": (lambda file: file.__setitem__("odd", h5py.SoftLink("/nowhere")), "there is no '/nowhere'"),
    "soft link in circles": (lambda file: file.__setitem__("odd", h5py.SoftLink("/odd")), "leads in circles"),
    "dangling external link": (
        lambda file: file.__setitem__("odd", h5py.ExternalLink("none.h5", "/x")),
        "there is no file",
    ),
}


@pytest.mark.parametrize("what", sorted(REASONS))
def test_a_node_that_cannot_be_shown_is_named_and_costs_the_others_nothing(tmp_path: Path, what: str) -> None:
    make, reason = REASONS[what]
    with h5py.File(tmp_path / "f.h5", "w") as file:
        make(file)
        file["x"] = [1.5, 2.5]
        file.attrs["note"] = "é"
    with pytest.warns(UserWarning, match="1 node.* not shown: /odd: ") as told:
        ds = xr.open_dataset(tmp_path / "f.h5", engine="pytables")
    assert reason in str(told[0].message)
    assert len(told) == 1
    assert ds["x"].values.tolist() == [1.5, 2.5]
    assert ds.attrs == {"note": "é"}
    ds.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_dataset(tmp_path / "f.h5", engine="pytables", drop_variables="odd") as ds:
            assert set(ds) == {"x"}
    assert set(open_quietly(tmp_path / "f.h5")) == {"x"}


# -- attributes that xarray's decoders refuse --------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scale_factor", np.array([1.0, 2.0])),
        ("scale_factor", "two"),
        ("add_offset", "two"),
        ("_FillValue", "nothing"),
        ("_FillValue", np.array([1.0, 2.0])),
        ("units", "days since the flood"),
        ("calendar", 5),
        ("coordinates", np.array([1, 2])),
        ("grid_mapping", 3.5),
        ("bounds", np.array([1, 2])),
        ("_Unsigned", 3),
        ("dtype", 3),
    ],
)
@pytest.mark.parametrize("decode_coords", [True, "all"])
def test_an_attribute_of_a_wrong_type_costs_nothing_else(
    tmp_path: Path, key: str, value: object, decode_coords: object
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.array([1, 2, 3])
        file["x"].attrs["units"] = "days since 2014-09-01"
        file["x"].attrs[key] = value
        file["good"] = np.array([1, -1, 3], "i2")
        file["good"].attrs["scale_factor"], file["good"].attrs["_FillValue"] = 0.5, np.int16(-1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ds = xr.open_dataset(tmp_path / "a.h5", engine="pytables", decode_coords=decode_coords)
    np.testing.assert_array_equal(ds["good"].values, [0.5, np.nan, 1.5])
    ds["x"].load()
    told = [one for one in told if "multiple fill values" not in str(one.message)]  # xarray knows what to do
    assert all("attributes that were not applied" in str(one.message) for one in told)
    if told:
        assert f"{key}" in str(told[0].message)
        assert "a.h5" in str(told[0].message)
        np.testing.assert_array_equal(ds["x"].attrs[key], value)
    ds.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xr.open_dataset(tmp_path / "a.h5", engine="pytables", decode_cf=False).close()


def test_decoders_that_fit_nothing_still_raise(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.array([1, 2, 3])
    with pytest.raises(TypeError, match="use_cftime"):
        xr.open_dataset(tmp_path / "a.h5", engine="pytables", decode_times=xr.coders.CFDatetimeCoder(), use_cftime=True)


# -- strings and bits that others pad and pack ---------------------------------------------------------------


def padded_string(width: int, *, utf8: bool = False) -> h5py.h5t.TypeStringID:
    datatype = h5py.h5t.C_S1.copy()
    datatype.set_size(width)
    datatype.set_strpad(h5py.h5t.STR_SPACEPAD)
    if utf8:
        datatype.set_cset(h5py.h5t.CSET_UTF8)
    return datatype


@pytest.mark.parametrize("chunked", [False, True])
def test_what_is_behind_the_nul_that_ends_a_string_is_no_part_of_it(tmp_path: Path, chunked: bool) -> None:
    """Programs in C write buffers with whatever was in memory behind the NUL; h5py and netCDF stop there, too."""
    path = tmp_path / "s.h5"
    values = np.array([b"ab\0cd\1", b"abcdef", b"\0xyz", b"a\0\0\0\0b"], "S6")
    ended = h5py.h5t.C_S1.copy()
    ended.set_size(6)
    ended.set_strpad(h5py.h5t.STR_NULLTERM)
    text = ended.copy()
    text.set_cset(h5py.h5t.CSET_UTF8)
    with h5py.File(path, "w") as file:
        layout, space = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5s.create_simple((4,))
        if chunked:
            layout.set_chunk((3,))
        for name, stored in ((b"bytes", ended), (b"text", text)):
            data = h5py.h5d.create(file.id, name, stored, space, layout)
            data.write(h5py.h5s.ALL, h5py.h5s.ALL, values, mtype=stored)
            h5py.h5a.create(data, b"all", stored, space).write(values, mtype=stored)
            one = h5py.h5a.create(data, b"one", stored, h5py.h5s.create(h5py.h5s.SCALAR))
            one.write(values[:1].reshape(()), mtype=stored)
        rows = h5py.h5t.create(h5py.h5t.COMPOUND, 10)
        rows.insert(b"s", 0, ended)
        rows.insert(b"i", 6, h5py.h5t.STD_I32LE)
        table = h5py.h5d.create(file.id, b"t", rows, space)
        records = np.rec.fromarrays([values, np.arange(4, dtype="<i4")], names="s,i")
        table.write(h5py.h5s.ALL, h5py.h5s.ALL, records, mtype=rows)
    with h5py.File(path) as file:
        expected = file["bytes"][:].tolist()
    assert expected == [b"ab", b"abcdef", b"", b"a"]
    words = [value.decode() for value in expected]
    with open_quietly(path) as ds:
        assert ds["bytes"].values.tolist() == expected
        assert ds["bytes"][::-2].values.tolist() == expected[::-2]
        assert ds["text"].values.tolist() == words
        for name in ("bytes", "text"):
            assert (ds[name].attrs["all"], ds[name].attrs["one"]) == (words, words[0])
    with open_quietly(path, group="/t") as ds:
        assert ds["s"].values.tolist() == expected
    assert open_quietly(path, group="/t", where="s == 'ab'")["i"].values.tolist() == [0]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("padding", [h5py.h5t.STR_NULLTERM, h5py.h5t.STR_SPACEPAD])
def test_strings_in_records_end_as_strings_do(tmp_path: Path, padding: int, chunked: bool) -> None:
    path, ends = tmp_path / "s.h5", padding == h5py.h5t.STR_NULLTERM
    word = padded_string(4)
    word.set_strpad(padding)
    inner = h5py.h5t.create(h5py.h5t.COMPOUND, 9)
    inner.insert(b"s", 0, word)
    inner.insert(b"p", 4, h5py.h5t.array_create(word, (1,)))
    inner.insert(b"u", 8, h5py.h5t.STD_U8LE)
    outer = h5py.h5t.create(h5py.h5t.COMPOUND, 12)
    outer.insert(b"r", 1, inner)
    fields = [("s", "S4"), ("p", "S4", (1,)), ("u", "u1")]
    values = np.zeros((2, 2), {"names": ["r"], "formats": [fields], "offsets": [1], "itemsize": 12})
    values["r"]["s"] = values["r"]["p"][..., 0] = [[b"a\0b", b"a  "], [b"abcd", b"\0 \0z"]]
    values["r"]["u"] = [[1, 2], [3, 4]]
    with h5py.File(path, "w") as file:
        layout, space = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5s.create_simple((2, 2))
        if chunked:
            layout.set_chunk((2, 1))
        stored = h5py.h5d.create(file.id, b"n", outer, space, layout)
        stored.write(h5py.h5s.ALL, h5py.h5s.ALL, values, mtype=outer)
        h5py.h5a.create(stored, b"all", outer, space).write(values, mtype=outer)
    expected = [[b"a", b"a  "], [b"abcd", b""]] if ends else [[b"a\0b", b"a"], [b"abcd", b"\0 \0z"]]
    with open_quietly(path) as ds:
        for found in (ds["n"].values["r"], ds["n"].attrs["all"]["r"]):
            assert found["s"].tolist() == found["p"][..., 0].tolist() == expected
            assert found["u"].tolist() == [[1, 2], [3, 4]]
        assert ds["n"][1, ::-1].values["r"]["s"].tolist() == expected[1][::-1]


def test_nul_in_bytes_of_pytables_stays(tmp_path: Path) -> None:
    """They say that NUL ends them, and PyTables reads all of them."""
    path, values = tmp_path / "s.h5", np.array([b"ab\0cd", b"\0x"], "S6")
    with plain_file(path, "w") as file:
        file.create_carray("/", "a", obj=values)
        records = np.rec.fromarrays([values], names="s")
        file.create_table("/", "t", records)
        file.root._v_attrs["rows"] = np.asarray(records)
    with plain_file(path) as file:
        assert file.root.a[:].tolist() == file.root.t.cols.s[:].tolist() == values.tolist()
    assert open_quietly(path)["a"].values.tolist() == values.tolist()
    assert open_quietly(path).attrs["rows"]["s"].tolist() == values.tolist()
    assert open_quietly(path, group="/t")["s"].values.tolist() == values.tolist()
    to_pytables(xr.Dataset({"v": ("x", values)}, attrs={"inside": "a\0b"}), path)
    assert open_quietly(path)["v"].values.tolist() == values.tolist()
    assert open_quietly(path).attrs == {"inside": "a\0b"}


@pytest.mark.parametrize("chunked", [False, True])
def test_spaces_that_pad_a_string_are_no_part_of_it(tmp_path: Path, chunked: bool) -> None:
    path = tmp_path / "s.h5"
    values = np.array([b"ab    ", b"abcdef", b"      ", b" a  b "], "S6")
    with h5py.File(path, "w") as file:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        if chunked:
            layout.set_chunk((3,))
        for name, utf8 in (("bytes", False), ("text", True)):
            stored = padded_string(6, utf8=utf8)
            data = h5py.h5d.create(file.id, name.encode(), stored, h5py.h5s.create_simple((4,)), layout)
            data.write(h5py.h5s.ALL, h5py.h5s.ALL, values, mtype=stored)
        rows = h5py.h5t.create(h5py.h5t.COMPOUND, 10)
        rows.insert(b"s", 0, padded_string(6))
        rows.insert(b"i", 6, h5py.h5t.STD_I32LE)
        table = h5py.h5d.create(file.id, b"t", rows, h5py.h5s.create_simple((4,)))
        records = np.rec.fromarrays([values, np.arange(4, dtype="<i4")], names="s,i")
        table.write(h5py.h5s.ALL, h5py.h5s.ALL, records, mtype=rows)
    expected = [b"ab", b"abcdef", b"", b" a  b"]
    with open_quietly(path) as ds:
        assert ds["bytes"].values.tolist() == expected
        assert ds["bytes"][3].item() == b" a  b"
        assert ds["text"].values.tolist() == [value.decode() for value in expected]
    with open_quietly(path, group="/t") as ds:
        assert ds["s"].values.tolist() == expected
    for where, found in (("s == 'ab'", [0]), ("s == ''", [2]), ("s >= 'ab'", [0, 1])):
        assert open_quietly(path, group="/t", where=where)["i"].values.tolist() == found


def test_eight_bits_are_bool_to_pytables_only(tmp_path: Path) -> None:
    values = np.array([0, 1, 2, 255], "u1")
    bits, path = h5py.h5t.STD_B8LE, tmp_path / "b.h5"
    with h5py.File(path, "w") as file:
        data = h5py.h5d.create(file.id, b"bits", bits, h5py.h5s.create_simple((4,)))
        data.write(h5py.h5s.ALL, h5py.h5s.ALL, values, mtype=bits)
        attribute = h5py.h5a.create(data, b"mask", bits, h5py.h5s.create_simple((4,)))
        attribute.write(values, mtype=bits)
        rows = h5py.h5t.create(h5py.h5t.COMPOUND, 3)
        rows.insert(b"one", 0, bits)
        rows.insert(b"two", 1, h5py.h5t.array_create(bits, (2,)))
        record = np.array([(7, [8, 9])] * 3, [("one", "u1"), ("two", "u1", (2,))])
        for name, shape in ((b"table", (3,)), (b"records", (3, 1))):
            data = h5py.h5d.create(file.id, name, rows, h5py.h5s.create_simple(shape))
            data.write(h5py.h5s.ALL, h5py.h5s.ALL, record.reshape(shape), mtype=rows)
        file["truth"] = np.array([True, False])
        assert_same(file["bits"][:], values)  # h5py reads it so
    with open_quietly(path) as ds:
        assert_same(ds["bits"], values)
        assert_same(ds["bits"].attrs["mask"], values)
        assert_same(ds["truth"], np.array([True, False]))
        assert_same(ds["records"].values["two"], record["two"].reshape(3, 1, 2))
        with h5py.File(path, "a") as file:
            file["more"] = np.zeros(10_000)
        assert_same(ds["bits"], values)
    with open_quietly(path, group="/table") as ds:
        assert_same(ds["one"], record["one"])
        assert_same(ds["two"], record["two"])
    assert open_quietly(path, group="/table", where="one > 6", start=1).sizes["table_row"] == 2
    with plain_file(tmp_path / "p.h5", "w") as file:
        file.create_array("/", "a", np.array([True, False])).attrs.flag = np.bool_(True)
    with open_quietly(tmp_path / "p.h5") as ds:
        assert_same(ds["a"], np.array([True, False]))
        assert ds["a"].attrs["flag"] is np.True_
