"""Small files with every kind of structure, written by h5py in each version of the format, and by others."""

from __future__ import annotations

import h5py
import netCDF4
import numpy as np
import pandas as pd
import tables
from h5py import h5d, h5p, h5s, h5t

from ..helpers_reading import plain_file

VERSIONS = {
    "earliest": "earliest",
    "1.8": ("v108", "v108"),
    "1.10": ("v110", "v110"),
    "1.12": ("v112", "v112"),
    "1.14": ("v114", "v114"),
    "2.0": ("latest", "latest"),
}
RECORD = np.dtype([("a", "i4"), ("b", ">f8", (2, 3)), ("c", [("x", "u1"), ("y", "S3")]), ("d", h5py.string_dtype())])
SPARSE = np.dtype({"names": ["q", "r"], "formats": ["<i2", ">f8"], "offsets": [4, 9], "itemsize": 300})


def write_with_h5py(path, version: str, *, track_order: bool = False, userblock: int = 0) -> None:
    with h5py.File(path, "w", libver=VERSIONS[version], userblock_size=userblock, track_order=track_order) as file:
        write_links(file)
        write_types(file)
        write_layouts(file, version)
        write_attributes(file, version)


def write_links(file: h5py.File) -> None:
    for name in ("z", "y", "x"):
        file.create_dataset(f"group/{name}", data=np.arange(3))
    for number in range(300):
        file[f"dense/soft {number * 77 % 300}"] = h5py.SoftLink(f"/nowhere/{number}")
    file["soft"], file["dangling"] = h5py.SoftLink("/group/y"), h5py.SoftLink("no/ü")
    file["external"] = h5py.ExternalLink("other file.h5", "/a/b")
    file["hard"], file["ünï"] = file["group/z"], file["group"]
    file.id.links.create_soft(b"not utf-8 \xff", b"/group/\xfe")


def write_types(file: h5py.File) -> None:
    group = file.create_group("types")
    for name in ("i1", "u1", "<i2", ">i2", "<u4", ">i8", "<f2", ">f2", "<f4", ">f8", "<c8", ">c16", "S7", "V9", "g"):
        group.create_dataset(f"dtype {name}", data=np.arange(3).astype(name) if name != "V9" else np.zeros(3, name))
    group.create_dataset("text", data=["a", "bü", "c" * 300], dtype=h5py.string_dtype(), fillvalue="fill ü")
    group.create_dataset("ascii text", data=["a"], dtype=h5py.string_dtype("ascii"))
    group.create_dataset("utf-8", shape=(2,), dtype=h5py.string_dtype("utf-8", 5))
    group.create_dataset("rows", shape=(3,), dtype=h5py.vlen_dtype("i4"))
    group.create_dataset("enum", data=[1, -3], dtype=h5py.enum_dtype({"A": 1, "Bß": -3}, ">i2"))
    group.create_dataset("bool", data=[True, False])
    group.create_dataset("references", shape=(2,), dtype=h5py.ref_dtype)
    group.create_dataset("regions", shape=(2,), dtype=h5py.regionref_dtype)
    times = h5py.opaque_dtype("M8[s]")
    group.create_dataset("times", data=np.array(["2020-01-01"], "M8[s]").astype(times), dtype=times)
    group.create_dataset("record", shape=(4,), dtype=RECORD, chunks=(2,))
    group.create_dataset("sparse", data=np.ones(4, SPARSE))
    group.create_dataset("array", shape=(4,), dtype=np.dtype((">i4", (2, 3))), maxshape=(None,))
    group["committed"] = np.dtype([("a", "f8")])
    group.create_dataset("of committed", data=np.ones(2, [("a", "f8")]), dtype=group["committed"])
    group["of committed"].attrs.create("x", np.ones((), [("a", "f8")]), dtype=group["committed"])
    group.create_dataset("scalar", data=3.0)
    group.create_dataset("null", data=h5py.Empty("f8"))
    for name, stored in odd_numbers().items():
        h5d.create(group.id, name.encode(), stored, h5s.create_simple((3,)))
    space_padded = h5t.C_S1.copy()
    space_padded.set_size(5)
    space_padded.set_strpad(h5t.STR_SPACEPAD)
    h5d.create(group.id, b"space padded", space_padded, h5s.create_simple((3,)))
    h5d.create(group.id, b"bitfield", h5t.STD_B16BE, h5s.create_simple((3,)))
    h5d.create(group.id, b"time", h5t.UNIX_D32LE, h5s.create_simple((3,)))


def odd_numbers() -> dict[str, h5t.TypeID]:
    short = h5t.STD_I32BE.copy()
    short.set_precision(13)
    short.set_offset(5)
    brain = h5t.IEEE_F32LE.copy()
    brain.set_fields(15, 7, 8, 0, 7)
    brain.set_size(2)
    return {"13 bits": short, "bfloat16": brain}


def write_layouts(file: h5py.File, version: str) -> None:
    group = file.create_group("layouts")
    chunked = {"shape": (10, 20), "chunks": (3, 5)}
    group.create_dataset(
        "filters", **chunked, maxshape=(None, 40), dtype=">f4", compression="gzip", shuffle=True, fletcher32=True,
        fillvalue=3.5,
    )  # fmt: skip
    group.create_dataset("fixed array", **chunked, data=np.arange(200).reshape(10, 20))
    group.create_dataset("tree", **chunked, maxshape=(None, None), data=np.ones((10, 20)))
    group.create_dataset("tree, nothing stored", **chunked, maxshape=(None, None), dtype="f4")
    group.create_dataset("extensible", shape=(100,), chunks=(3,), maxshape=(None,), data=np.arange(100))
    group.create_dataset("single", data=np.ones((4, 4)), chunks=(4, 4))
    group.create_dataset("single filtered", data=np.ones((4, 4)), chunks=(4, 4), compression=1, scaleoffset=3)
    group.create_dataset(
        "outside", shape=(8,), dtype="i2", external=[("raw 1.bin", 3, 8), ("raw 2.bin", 0, h5s.UNLIMITED)]
    )
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_layout(h5d.COMPACT)
    compact = h5d.create(group.id, b"compact", h5t.NATIVE_INT32, h5s.create_simple((5,)), properties)
    compact.write(h5s.ALL, h5s.ALL, np.arange(5, dtype="i4"))
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_chunk((4,))
    properties.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5d.FILL_TIME_NEVER)
    h5d.create(group.id, b"implicit", h5t.NATIVE_INT32, h5s.create_simple((15,)), properties)
    if version not in ("earliest", "1.8"):
        layout = h5py.VirtualLayout((4, 10), dtype="i4")
        for number in range(4):
            layout[number, ::2] = h5py.VirtualSource(f"source {number}.h5", "a/b", (10,))[1:6]
        group.create_virtual_dataset("virtual", layout, fillvalue=-1)


def write_attributes(file: h5py.File, version: str) -> None:
    group = file.create_group("attributes")
    attrs = group.attrs
    attrs["text"], attrs["bytes"], attrs["empty text"] = "text ü", np.bytes_("bytes"), ""
    attrs["texts"] = ["x", "yü", ""]
    attrs["numbers"], attrs["null"] = np.arange(6, dtype=">i2").reshape(2, 3), h5py.Empty("i4")
    attrs["true"], attrs["complex"] = True, 1 + 2j
    attrs["reference"] = file["group"].ref
    rows = np.empty(2, object)
    rows[:] = [np.arange(2, dtype="i4"), np.arange(5, dtype="i4")]
    attrs.create("rows", rows, dtype=h5py.vlen_dtype("i4"))
    rows[:] = [np.array([file["group"].ref, file.ref], object), np.array([file["types"].ref], object)]
    attrs.create("rows of references", rows, dtype=h5py.vlen_dtype(h5py.ref_dtype))
    attrs.create("record", np.array([(1, 2.0)], [("a", "i4"), ("b", ">f8")]))
    attrs.create("array", np.ones((2, 3), "f4"), dtype=np.dtype(("f4", (3,))))
    attrs["large"] = np.arange(5000.0)
    dense = file.create_group("dense attributes")
    for number in range(100):
        dense.attrs[f"attribute {number * 77 % 100}"] = np.arange(number)
    if version != "earliest":
        dense.attrs["huge"] = np.arange(20000.0)


def write_with_pytables(path) -> None:
    with plain_file(path, "w") as file:
        file.create_array("/", "array", [[1, 2], [3, 4]])
        file.create_array("/", "strings", [b"a", b"bcd"])
        file.create_earray("/", "earray", tables.Float32Atom(), (0, 3)).append(np.ones((4, 3), "f4"))
        filters = tables.Filters(5, "blosc2:zstd", fletcher32=True)
        file.create_carray("/", "carray", tables.Int16Atom(shape=(2,), dflt=7), (5, 6), filters=filters)
        file.create_vlarray("/group", "objects", tables.ObjectAtom(), createparents=True).append({"a": 1})
        file.create_vlarray("/group", "rows", tables.Int32Atom(shape=(2,))).append(np.ones((3, 2), "i4"))
        description = {
            "a": tables.Int32Col(), "b": tables.BoolCol(dflt=True),
            "n": {"x": tables.StringCol(5), "t": tables.Time64Col()},
            "e": tables.EnumCol(["q", "r"], "q", "uint8"), "c": tables.ComplexCol(16, shape=(2,)),
        }  # fmt: skip
        table = file.create_table("/group", "table", description)
        table.append(np.zeros(5, table.dtype))
        file.create_soft_link("/", "soft", "/group/table")
        file.create_external_link("/", "external", "other.h5:/a")
        file.root._v_attrs.object, file.root._v_attrs.numbers = {"k": [1]}, np.arange(3)


def write_with_pandas(path) -> None:
    frame = pd.DataFrame({"a": range(5), "b": list("abcde"), "t": pd.date_range("2020", periods=5)})
    frame.to_hdf(path, key="table", format="table", data_columns=["a"])
    frame[["a"]].to_hdf(path, key="fixed", mode="a")


def write_with_netcdf4(path) -> None:
    with netCDF4.Dataset(path, "w") as file:
        for name, size in (("y", 3), ("x", None), ("bare", 4)):
            file.createDimension(name, size)
        file.createVariable("y", "f8", ("y",))[:] = np.arange(3)
        variable = file.createVariable("v", "i2", ("x", "y"), zlib=True, fill_value=-9)
        variable[:] = np.ones((5, 3))
        variable.units, variable.valid_range = "K", np.array([0, 9], "i2")
        file.createVariable("text", str, ("y",))[:] = np.array(["a", "bb", "ü"], object)
        group = file.createGroup("group")
        kind = group.createEnumType("u1", "weather", {"clear": 0, "rain": 1})
        group.createVariable("enum", kind, ("y",))[:] = 1
        rows = group.createVLType("i4", "rows")
        group.createVariable("ragged", rows, ("y",))[0] = np.arange(3, dtype="i4")
        compound = group.createCompoundType(np.dtype([("a", "i4"), ("b", "f8")]), "pair")
        group.createVariable("compound", compound, ("y",))
