"""Filters of HDF5 and of others that PyTables does not write: N-bit, scale-offset, lzf, szip and plug-ins, by h5py."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables.chunks import codecs, packed_bits, plugins
from xr_pytables.chunks.codecs import decode_chunk, why_not
from xr_pytables.chunks.filters import Filter, FilterPipeline
from xr_pytables.errors import ChunkError

from ..helpers_properties import examples


def pipeline_of(dataset: h5py.Dataset) -> FilterPipeline:
    created = dataset.id.get_create_plist()
    found = [created.get_filter(i) for i in range(created.get_nfilters())]
    return FilterPipeline(tuple(Filter(number, values, name.decode()) for number, _, values, name in found))


def check(path: Path) -> None:
    """Decode each chunk of all datasets, and compare the bytes with what HDF5 reads without converting them."""
    with h5py.File(path) as file:
        assert len(file)
        for name in file:
            check_dataset(file[name])


def check_dataset(dataset: h5py.Dataset) -> None:
    stored, pipeline = dataset.id.get_type(), pipeline_of(dataset)
    assert why_not(pipeline) is None
    size = stored.get_size()
    whole = np.zeros(dataset.shape, f"V{size}")
    dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, whole, stored)
    nbytes = size * int(np.prod(dataset.chunks))
    for where in itertools.product(*(range(0, n, c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))):
        if dataset.id.get_chunk_info_by_coord(where).byte_offset is None:
            continue
        mask, raw = dataset.id.read_direct_chunk(where)
        found = decode_chunk(np.frombuffer(raw, np.uint8), mask, pipeline, nbytes)
        expected = whole[tuple(slice(i, i + c) for i, c in zip(where, dataset.chunks, strict=True))]
        part = found.view(f"V{size}").reshape(dataset.chunks)[tuple(map(slice, expected.shape))]
        assert part.tobytes() == expected.tobytes()


# ---------------------------------------------------------------------------------------------------------------------
# N-bit


def packed(base: Any, precision: int, offset: int) -> Any:
    kind = base.copy()
    kind.set_precision(precision)
    kind.set_offset(offset)
    return kind


def create(file: h5py.File, name: str, stored: Any, shape: tuple[int, ...], *more: int) -> h5py.Dataset:
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk(tuple(max(n // 2, 1) for n in shape))
    created.set_filter(h5py.h5z.FILTER_NBIT)
    for number in more:
        created.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (4,) if number == h5py.h5z.FILTER_DEFLATE else ())
    h5py.h5d.create(file.id, name.encode(), stored, h5py.h5s.create_simple(shape), created)
    return file[name]


@examples(60)
@given(data=st.data())
def test_nbit_of_any_integer(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    size = data.draw(st.sampled_from([1, 2, 4, 8]))
    order = data.draw(st.sampled_from(["LE", "BE"]))
    sign = data.draw(st.sampled_from("IU"))
    base = getattr(h5py.h5t, f"STD_{sign}{8 * size}{order}")
    precision = data.draw(st.integers(4 * size + 1, 8 * size))  # HDF5 refuses less
    offset = data.draw(st.integers(0, 8 * size - precision))
    count = data.draw(st.integers(1, 100))
    values = np.random.default_rng(0).integers(-(1 << 62), 1 << 62, count)
    path = tmp_path_factory.mktemp("nbit") / "a.h5"
    with h5py.File(path, "w") as file:
        dataset = create(file, "a", packed(base, precision, offset), (count,))
        kind = f"{'i' if sign == 'I' else 'u'}8"
        limit = 1 << min(precision - 1 if sign == "I" else precision, 62)
        dataset.id.write(h5py.h5s.ALL, h5py.h5s.ALL, (values % limit).astype(kind), h5py.h5t.py_create(np.dtype(kind)))
    check(path)


def test_nbit_of_floats_arrays_and_compounds(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    short = packed(h5py.h5t.STD_I32LE, 17, 3)
    half = h5py.h5t.IEEE_F32LE.copy()
    half.set_fields(26, 20, 6, 7, 13)
    half.set_offset(7)
    half.set_precision(20)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        one = create(file, "array", h5py.h5t.array_create(short, (3, 2)), (40,))
        one.id.write(h5py.h5s.ALL, h5py.h5s.ALL, random.integers(0, 9, (40, 3, 2), "i4"),
                     h5py.h5t.array_create(h5py.h5t.NATIVE_INT32, (3, 2)))  # fmt: skip
        two = create(file, "float", half, (6, 8), h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32)
        two.id.write(h5py.h5s.ALL, h5py.h5s.ALL, random.normal(size=(6, 8)).astype("f4"), h5py.h5t.NATIVE_FLOAT)
        whole = create(file, "full", h5py.h5t.STD_I16BE, (30,))
        whole[...] = np.arange(30)
        kind = h5py.h5t.create(h5py.h5t.COMPOUND, 48)
        inner = h5py.h5t.create(h5py.h5t.COMPOUND, 8)
        inner.insert(b"x", 1, packed(h5py.h5t.STD_U16BE, 9, 6))
        inner.insert(b"y", 4, packed(h5py.h5t.STD_I32BE, 30, 1))
        text = h5py.h5t.C_S1.copy()
        text.set_size(5)
        kind.insert(b"a", 0, short)
        kind.insert(b"b", 4, half)
        kind.insert(b"c", 9, text)
        kind.insert(b"d", 16, inner)
        kind.insert(b"e", 24, h5py.h5t.array_create(packed(h5py.h5t.STD_U16LE, 9, 2), (3,)))
        kind.insert(b"f", 32, packed(h5py.h5t.STD_I64LE, 59, 4))
        three = create(file, "compound", kind, (50,))
        rows = random.integers(0, 256, 50 * 48, "u1")
        three.id.write(h5py.h5s.ALL, h5py.h5s.ALL, rows, kind)
    check(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((8, 0, 10), "only 3 client data"),
        ((8, 0, 10, 1, 4, 0, 33, 0), "33 bits from bit 0 on of 4 bytes"),
        ((8, 0, 10, 1, 4, 7, 8, 0), "byte order 7"),
        ((8, 0, 10, 1, 4, 0, 8), "cut off|unpack"),
        ((8, 0, 11, 1, 4, 0, 8, 0), "11 elements of 8 bits"),
        ((8, 0, 10, 7, 4, 0, 8, 0), "type of class 7"),
        ((8, 0, 10, 2, 4, 1, 3, 0, 8, 0), "arrays of 4 bytes of elements of 3"),
        ((8, 0, 10, 3, 4, 1, 2, 1, 4, 0, 8, 0), "member at 2 of a compound of 4"),
        ((8, 0, 10, 3, 4, 2, 0, 1, 2, 0, 8, 0), "cut off"),
        ((99, 0, 10, 3, 4, 1, *(0, 3, 4, 1) * 40), "nested too deeply"),
    ],
)
def test_client_data_of_nbit_that_make_no_sense(values: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        packed_bits.unpack_nbit(np.zeros(10, np.uint8), values, np.zeros(40, np.uint8))


# ---------------------------------------------------------------------------------------------------------------------
# scale-offset


@examples(60)
@given(data=st.data())
def test_scaleoffset_of_any_number(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    kind = data.draw(st.sampled_from([f"{o}{k}{s}" for o in "<>" for k in "iu" for s in (1, 2, 4, 8)] + ["<f4", ">f8"]))
    dtype = np.dtype(kind)
    random, count = np.random.default_rng(data.draw(st.integers(0, 9))), data.draw(st.integers(1, 90))
    if dtype.kind == "f":
        values, scale = random.normal(0, 10.0 ** data.draw(st.integers(-3, 5)), count), data.draw(st.integers(0, 5))
    else:
        scale = data.draw(st.sampled_from([0, 0, 3, 8 * dtype.itemsize]))
        info = np.iinfo(dtype)
        width = data.draw(st.integers(0, 8 * dtype.itemsize - 2))
        start = int(random.integers(int(info.min) // 2, int(info.max) // 2))
        values = start + random.integers(0, 1 << width, count, endpoint=True)
        values = np.clip(values.astype(object), int(info.min), int(info.max))
    fill = data.draw(st.sampled_from([None, 0, 7]))
    more = data.draw(st.sampled_from([{}, {"compression": "gzip"}, {"compression": "gzip", "shuffle": True}]))
    path = tmp_path_factory.mktemp("scale") / "a.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(
            "a", (count,), dtype, chunks=(max(count // 2, 1),), scaleoffset=scale, fillvalue=fill, **more
        )
        where = slice(0, data.draw(st.integers(1, count)))  # the others of the last chunk stay the fill value
        dataset[where] = np.asarray(values, dtype)[where]
    check(path)


@pytest.mark.parametrize("fill", [True, False])
def test_scaleoffset_without_a_fill_value_and_of_equal_numbers(tmp_path: Path, fill: bool) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk((10,))
        created.set_scaleoffset(h5py.h5z.SO_INT, 0)
        if not fill:
            undefined = ctypes.CDLL(h5py.h5p.__file__).H5Pset_fill_value
            undefined.argtypes = (ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
            assert undefined(created.id, h5py.h5t.STD_I32LE.id, None) >= 0
        h5py.h5d.create(file.id, b"a", h5py.h5t.STD_I32LE, h5py.h5s.create_simple((40,)), created)
        file["a"][:20] = 7
        file["a"][20:] = np.arange(20) - 5
    check(tmp_path / "a.h5")


def scaleoffset(**changes: int) -> tuple[int, ...]:
    names = ("kind", "scale", "count", "float", "size", "signed", "order", "filled")
    values = dict(zip(names, (2, 0, 10, 0, 4, 1, 0, 0), strict=True), **changes)
    return (*values.values(), *[0] * 12)


@pytest.mark.parametrize(
    ("values", "data", "message"),
    [
        (scaleoffset(kind=1), b"", "of kind 1"),
        (scaleoffset(float=1), b"", "of kind 2"),
        (scaleoffset(size=3), b"", "numbers of 3 bytes"),
        (scaleoffset(count=11), b"", "11 numbers of 4 bytes are not 40 bytes"),
        (scaleoffset(), bytes(20), "too few for the header"),
        (scaleoffset(), b"\x09" + bytes(20), "10 numbers of 9 bits in 21 bytes"),
        (scaleoffset(), b"\x21" + bytes(200), "10 numbers of 33 bits"),
        (scaleoffset(order=256), bytes(60), "no flags: .*256"),
        (scaleoffset(filled=51), bytes(60), "no flags: .*51"),
        (scaleoffset(filled=1)[:9][:8], b"", "fill value of the scale-offset filter is cut off"),
        ((2, 0, 10), b"", "only 3 client data"),
    ],
)
def test_scaleoffset_that_makes_no_sense(values: tuple[int, ...], data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        packed_bits.unpack_scaleoffset(np.frombuffer(data, np.uint8), values, np.zeros(40, np.uint8))


# ---------------------------------------------------------------------------------------------------------------------
# lzf, szip, plug-ins


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzf"},
        {"compression": "lzf", "shuffle": True, "fletcher32": True},
        {"compression": "szip"},
        {"compression": "szip", "compression_opts": ("ec", 16)},
        dict(hdf5plugin.Zstd()),
        dict(hdf5plugin.LZ4()),
        dict(hdf5plugin.Bitshuffle()),
        dict(hdf5plugin.Bitshuffle(cname="zstd")),
        dict(hdf5plugin.Zfp(reversible=True)),
        {**hdf5plugin.Zstd(), "shuffle": True, "fletcher32": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["<i4", "<f8"])
def test_filters_of_others(tmp_path: Path, options: dict[str, Any], dtype: str) -> None:
    values = (np.arange(5000).reshape(50, 100) // 7).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", data=values, chunks=(20, 30), **options)
    check(tmp_path / "a.h5")


def test_damage_in_filters_of_others(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 9, 3000, "i4")
    random = np.random.default_rng(1)
    for options in ({"compression": "lzf"}, {"compression": "szip"}, dict(hdf5plugin.Zstd())):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            dataset = file.create_dataset("a", data=values, chunks=(3000,), **options)
            file.flush()
            _, raw = dataset.id.read_direct_chunk((0,))
            pipeline = pipeline_of(dataset)
        name = codecs.find_codec(pipeline.filters[0].id).name
        with pytest.raises(ChunkError, match=f"{name} (cannot decode|decodes to)"):
            decode_chunk(np.frombuffer(raw[: len(raw) // 2], np.uint8), 0, pipeline, 12_000)
        for _ in range(20):
            data = np.frombuffer(raw, np.uint8).copy()
            data[random.integers(0, len(data), 3)] ^= 255
            try:
                assert decode_chunk(data, 0, pipeline, 12_000).size == 12_000
            except ChunkError:
                continue


@pytest.mark.parametrize("dtype", ["u1", "<i2", "<i4", ">f8"])
@pytest.mark.parametrize("last", [0, 0x55, 0xAA])
def test_szip_chunks_that_are_cut_off_are_errors(tmp_path: Path, dtype: str, last: int) -> None:
    """And never what was in the memory before; whatever the last byte is, it is read."""
    values = (np.arange(640) % 19).astype(dtype)
    values.view("u1")[-1] = last
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("a", data=values, chunks=(640,), compression="szip")
        file.flush()
        _, raw = dataset.id.read_direct_chunk((0,))
        pipeline = pipeline_of(dataset)
    for before in (0, last):
        out = np.full(values.nbytes, before, np.uint8)
        decode_chunk(np.frombuffer(raw, np.uint8), 0, pipeline, values.nbytes, out)
        np.testing.assert_array_equal(out.view(dtype), values)
    for size in range(0, len(raw) - 16, 7):
        with pytest.raises(ChunkError, match="szip cannot decode"):
            decode_chunk(np.frombuffer(raw[:size], np.uint8), 0, pipeline, values.nbytes)


def test_plugins_need_no_hdf5(tmp_path: Path) -> None:
    """In a process without any copy of HDF5; the package with the plug-ins is not imported either."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("a", data=np.arange(1000), chunks=(1000,), **hdf5plugin.Zstd())
        file.flush()
        _, raw = dataset.id.read_direct_chunk((0,))
        values = pipeline_of(dataset).filters[0].values
    (tmp_path / "raw").write_bytes(raw)
    code = f"""
        import sys, threading
        import numpy as np
        from xr_pytables.chunks import plugins
        raw = np.fromfile({str(tmp_path / "raw")!r}, np.uint8)
        plugin = plugins.find(32015)
        def decode(out):
            for _ in range(50):
                plugin.decode(raw, {values!r}, out)
        outs = [np.empty(8000, np.uint8) for _ in range(4)]
        threads = [threading.Thread(target=decode, args=(out,)) for out in outs]
        [thread.start() for thread in threads], [thread.join() for thread in threads]
        assert all(out.view("i8").tolist() == list(range(1000)) for out in outs)
        assert not {{"h5py", "tables", "hdf5plugin", "netCDF4"}} & set(sys.modules)
        assert not any("libhdf5" in line for line in open("/proc/self/maps")) if sys.platform == "linux" else True
    """
    environment = {name: value for name, value in os.environ.items() if name != "HDF5_PLUGIN_PATH"}  # netCDF4 sets it
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, env=environment)


def test_plugins_of_a_folder_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.so").write_bytes(b"no library")
    zstd = next(Path(hdf5plugin.PLUGINS_PATH).glob("libh5zstd.*"))
    (tmp_path / zstd.name).write_bytes(zstd.read_bytes())
    monkeypatch.setenv("HDF5_PLUGIN_PATH", f"{tmp_path / 'missing'}:{tmp_path}")
    found = plugins.find(32015)
    assert found is not None
    assert found.path == str(tmp_path / zstd.name)
    assert plugins.find(12345) is None
    monkeypatch.setattr(plugins.importlib.util, "find_spec", lambda name: None)
    assert plugins.find(32013) is None


def test_zfp_that_is_cut_off_goes_on_with_zeros(tmp_path: Path) -> None:
    """Its plug-in reads on behind the end of what it is given, and tells of nothing."""
    values = np.random.default_rng(0).integers(0, 2**31, 3000, "i4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("a", data=values, chunks=(3000,), **hdf5plugin.Zfp(reversible=True))
        file.flush()
        _, raw = dataset.id.read_direct_chunk((0,))
        pipeline = pipeline_of(dataset)
    for length in (0, 1, 100, len(raw) // 2, len(raw) - 1):
        cut = np.frombuffer(raw[:length], np.uint8)
        with_zeros = np.concatenate([cut, np.zeros(30_000, np.uint8)])
        found = [decode_chunk(data, 0, pipeline, 12_000).copy() for data in (cut, with_zeros)]
        np.testing.assert_array_equal(*found)
