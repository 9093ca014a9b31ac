"""Arrays read through the engine equal what plain PyTables reads: every atom, layout, filter, selection, attribute."""

from __future__ import annotations

import datetime
import itertools
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import tables
import xarray as xr
from hypothesis import assume, given
from hypothesis import strategies as st

from xr_pytables import OpaqueBytes

from .helpers_properties import examples
from .helpers_reading import assert_same, open_quietly, open_raw, plain_file, run_python

COLOURS = tables.Enum({"red": 4, "green": -2, "blue": 7})
ATOMS = {
    "bool": tables.BoolAtom,
    **{f"int{bits}": getattr(tables, f"Int{bits}Atom") for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": getattr(tables, f"UInt{bits}Atom") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": getattr(tables, f"Float{bits}Atom") for bits in (16, 32, 64)},
    "complex64": lambda **kw: tables.ComplexAtom(8, **kw),
    "complex128": lambda **kw: tables.ComplexAtom(16, **kw),
    "S1": lambda **kw: tables.StringAtom(1, **kw),
    "S7": lambda **kw: tables.StringAtom(7, **kw),
    "enum8": lambda **kw: tables.EnumAtom(COLOURS, "red", "int8", **kw),
    "enum32": lambda **kw: tables.EnumAtom(COLOURS, "blue", "int32", **kw),
    "time32": tables.Time32Atom,
}
LONG = {name: getattr(tables, name) for name in ("Float96Atom", "Float128Atom") if hasattr(tables, name)}
if LONG:
    width = np.dtype("longdouble").itemsize
    ATOMS["longdouble"] = getattr(tables, f"Float{8 * width}Atom")
    ATOMS["clongdouble"] = lambda **kw: tables.ComplexAtom(2 * width, **kw)

FILTERS = [
    None,
    {"complib": "zlib", "complevel": 1, "shuffle": False},
    {"complib": "zlib", "complevel": 6, "shuffle": True, "fletcher32": True},
    {"complib": "bzip2", "complevel": 2},
    *({"complib": f"blosc:{codec}", "complevel": 5} for codec in ("blosclz", "lz4", "lz4hc", "zlib", "zstd")),
    {"complib": "blosc", "complevel": 3, "shuffle": False, "bitshuffle": True},
    *({"complib": f"blosc2:{codec}", "complevel": 5} for codec in ("blosclz", "lz4", "lz4hc", "zlib", "zstd")),
    {"complib": "blosc2:lz4", "complevel": 1, "shuffle": False, "bitshuffle": True},
    {"complib": "blosc2:zstd", "complevel": 1, "fletcher32": True},
    {"complevel": 0, "fletcher32": True},
]


def made_up(dtype: np.dtype, shape: tuple[int, ...], seed: int, atom: tables.Atom | None = None) -> np.ndarray:
    """Arbitrary values of all bit patterns that mean something for the type, in native byte order."""
    random = np.random.default_rng(seed)
    dtype = np.dtype(dtype).newbyteorder("=")
    if isinstance(atom, tables.EnumAtom):
        return random.choice([4, -2, 7], shape).astype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    if dtype.kind in "fc":
        values = (random.standard_normal(shape) * 100).astype(dtype)
        if dtype.kind == "c":
            values = values + (random.standard_normal(shape) * 1j).astype(dtype)
        special = random.integers(0, 12, shape)
        values = np.where(special == 0, dtype.type(np.nan), np.where(special == 1, dtype.type(-np.inf), values))
        return np.asarray(values, dtype)
    letters = np.array(list("ab\xff. Z".encode("latin-1")), "u1").view("S1")
    count = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(random.choice(letters, count).tobytes(), dtype).reshape(shape)


def badly_written(atom: tables.Atom, byteorder: str) -> bool:
    """Whether PyTables stores the values in another byte order than the type that it stores with them."""
    return byteorder == "big" and (
        (atom.kind == "enum" and atom.dtype.base.itemsize > 1) or (atom.kind == "complex" and bool(atom.shape))
    )


@dataclass(frozen=True)
class Stored:
    """What a leaf is made with."""

    kind: str
    atom_name: str
    atom_shape: tuple[int, ...]
    shape: tuple[int, ...]
    chunkshape: tuple[int, ...] | None
    extdim: int | None
    filters: int
    byteorder: str
    written: float
    """Which part of a chunked array is written at all."""
    seed: int

    def atom(self) -> tables.Atom:
        return ATOMS[self.atom_name](shape=self.atom_shape)

    def write(self, path: Path) -> None:
        atom = self.atom()
        values = made_up(atom.dtype.base, (*self.shape, *self.atom_shape), self.seed, atom)
        filters = tables.Filters(**FILTERS[self.filters]) if FILTERS[self.filters] else None
        with plain_file(path, "w") as file:
            if self.kind == "array":
                leaf = file.create_array("/", "a", atom=atom, shape=self.shape, byteorder=self.byteorder)
                if values.size:
                    leaf[...] = values
            elif self.kind == "carray":
                leaf = file.create_carray(
                    "/", "a", atom, self.shape, filters=filters, chunkshape=self.chunkshape, byteorder=self.byteorder
                )
                rows = round(self.shape[0] * self.written)
                if rows:
                    leaf[:rows] = values[:rows]
            else:
                start = tuple(0 if axis == self.extdim else size for axis, size in enumerate(self.shape))
                leaf = file.create_earray(
                    "/", "a", atom, start, filters=filters, chunkshape=self.chunkshape, byteorder=self.byteorder
                )
                if values.size:
                    leaf.append(values)
            leaf.attrs.note = "é"


@st.composite
def stored_leaves(draw: st.DrawFn) -> Stored:
    kind = draw(st.sampled_from(["array", "carray", "earray"]))
    lowest = 0 if kind == "array" else 1
    shape = tuple(draw(st.lists(st.integers(lowest, 6), min_size=lowest, max_size=4)))
    chunkshape, extdim, filters = None, None, draw(st.integers(0, len(FILTERS) - 1))
    if kind != "array":
        own = st.tuples(*(st.integers(1, 8) for _ in shape))
        is_blosc2 = "blosc2" in str((FILTERS[filters] or {}).get("complib"))  # for which PyTables chooses megabytes
        chunkshape = draw(own if is_blosc2 else st.none() | own)
    if kind == "earray":
        extdim = draw(st.integers(0, len(shape) - 1))
        shape = tuple(draw(st.integers(0, 6)) if axis == extdim else size for axis, size in enumerate(shape))
    return Stored(
        kind=kind,
        atom_name=draw(st.sampled_from(sorted(ATOMS))),
        atom_shape=draw(st.sampled_from([(), (), (), (2,), (3, 2)])),
        shape=shape,
        chunkshape=chunkshape,
        extdim=extdim,
        filters=filters,
        byteorder=draw(st.sampled_from(["little", "big"])),
        written=draw(st.sampled_from([1.0, 1.0, 0.5, 0.0])),
        seed=draw(st.integers(0, 2**32)),
    )


def slices(size: int) -> st.SearchStrategy[slice]:
    start = st.none() | st.integers(-size, size + 2)  # xarray's lazy arrays get x[-size-1::-1] wrong
    stop = st.none() | st.integers(-size - 2, size + 2)
    return st.builds(slice, start, stop, st.none() | st.sampled_from([1, 2, 3, -1, -2, -5]))


def outer_index(size: int) -> st.SearchStrategy[object]:
    choices: list[st.SearchStrategy[object]] = [slices(size), st.lists(st.booleans(), min_size=size, max_size=size)]
    if size:
        position = st.integers(-size, size - 1)
        choices += [position, st.lists(position, max_size=5).map(lambda chosen: np.array(chosen, int))]
    return st.one_of(choices)


@st.composite
def selections(draw: st.DrawFn, sizes: dict[str, int]) -> dict[str, object]:
    """Indexers for `isel`: basic, outer or vectorised."""
    chosen = {dim: size for dim, size in sizes.items() if draw(st.booleans())}
    if draw(st.integers(0, 3)) or not all(chosen.values()):
        return {dim: draw(outer_index(size)) for dim, size in chosen.items()}
    count = draw(st.integers(0, 4))
    return {
        dim: xr.Variable("point", np.array([draw(st.integers(-size, size - 1)) for _ in range(count)], int))
        for dim, size in chosen.items()
    }


@examples(400)
@given(stored=stored_leaves(), data=st.data())
def test_any_leaf_and_selection_equals_plain_pytables(
    stored: Stored, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assume(not badly_written(stored.atom(), stored.byteorder))
    path = tmp_path_factory.mktemp("leaf") / "leaf.h5"
    stored.write(path)
    with plain_file(path) as file:
        leaf = file.root.a
        expected = np.asarray(leaf.read())
        filters, extdim = leaf.filters, leaf.extdim
        chunkshape = leaf.chunkshape and tuple(map(int, (*leaf.chunkshape, *leaf.atom.shape)))
    with open_raw(path) as ds:
        array = ds["a"]
        assert array.attrs["note"] == "é"
        assert array.dtype == stored.atom().dtype.base.newbyteorder("=")
        assert array.encoding.get("chunksizes") == chunkshape
        assert array.encoding["original_shape"] == expected.shape
        assert ds.encoding["unlimited_dims"] == (set() if extdim < 0 else {array.dims[extdim]})
        if chunkshape:
            assert array.encoding.get("complib") == filters.complib
            assert array.encoding.get("complevel", 0) == filters.complevel
            assert array.encoding["fletcher32"] == filters.fletcher32
            if filters.complib:
                assert array.encoding["shuffle"] == filters.shuffle
                assert array.encoding.get("bitshuffle", False) == filters.bitshuffle
        oracle = xr.Variable(array.dims, expected)
        assert_same(array.variable.isel(), expected)
        for _ in range(2):
            selection = data.draw(selections(dict(array.sizes)))
            assert_same(ds["a"].variable.isel(selection), oracle.isel(selection))


@examples(60)
@given(
    seconds=st.lists(
        st.floats(-(2.0**31) + 1, 2.0**31 - 1).map(lambda x: round(x, 6)) | st.integers(-(2**31) + 1, 2**31 - 1),
        min_size=1,
        max_size=8,
    ),
    byteorder=st.sampled_from(["little", "big"]),
    in_carray=st.booleans(),
    step=st.sampled_from([1, -1, 2]),
)
def test_time64_is_datetime64_equal_to_the_seconds_pytables_reads(
    seconds: list[float], byteorder: str, in_carray: bool, step: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("time") / "time.h5"
    values = np.array(seconds, "f8")
    with plain_file(path, "w") as file:
        if in_carray:
            file.create_carray("/", "t", tables.Time64Atom(), values.shape, byteorder=byteorder)[:] = values
        else:
            file.create_earray("/", "t", tables.Time64Atom(), (0,), byteorder=byteorder).append(values)
    with plain_file(path) as file:
        expected = np.round(file.root.t[:] * 1e6).astype("i8").astype("M8[us]")
    with xr.open_dataset(path, engine="pytables") as ds:
        assert ds["t"].dtype.kind == "M"
        np.testing.assert_array_equal(ds["t"][::step].values, expected[::step])
        np.testing.assert_array_equal(expected.astype("i8") / 1e6, values)


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_time32_is_datetime64_in_seconds(byteorder: str, tmp_path: Path) -> None:
    values = np.array([[0, 1], [-5, 2**31 - 1]], "i4")
    with plain_file(tmp_path / "t.h5", "w") as file:
        file.create_carray("/", "t", tables.Time32Atom(), (2, 2), byteorder=byteorder)[:] = values
    with xr.open_dataset(tmp_path / "t.h5", engine="pytables") as ds:
        np.testing.assert_array_equal(ds["t"].values, values.astype("M8[s]"))
    with xr.open_dataset(tmp_path / "t.h5", engine="pytables", decode_times=False) as ds:
        assert_same(ds["t"], values)
        assert ds["t"].attrs["units"] == "seconds since 1970-01-01"


def test_multidimensional_time64_atom_keeps_its_dimensions(tmp_path: Path) -> None:
    values = np.array([[[0.5, -0.25]], [[1e9, -1e9 + 1e-6]]])
    with plain_file(tmp_path / "t.h5", "w") as file:
        file.create_carray("/", "t", tables.Time64Atom(shape=(2,)), shape=(2, 1))[:] = values
    with xr.open_dataset(tmp_path / "t.h5", engine="pytables") as ds:
        assert ds["t"].shape == (2, 1, 2)
        np.testing.assert_array_equal(ds["t"].values.astype("M8[us]").astype("i8"), np.round(values * 1e6))


@pytest.mark.parametrize(
    ("name", "byteorder", "atom_shape"),
    [
        (name, byteorder, atom_shape)
        for name, byteorder, atom_shape in itertools.product(sorted(ATOMS), ["little", "big"], [(), (2, 3)])
        # of these PyTables writes the native bytes and declares them big-endian
        if not (ATOMS[name]().kind == "complex" and byteorder == "big" and atom_shape)
    ],
)
def test_every_atom_reads_as_pytables_reads_it(
    name: str, byteorder: str, atom_shape: tuple[int, ...], tmp_path: Path
) -> None:
    atom = ATOMS[name](shape=atom_shape)
    values = made_up(atom.dtype.base, (5, 2, *atom_shape), 1, atom)
    with plain_file(tmp_path / "a.h5", "w") as file:
        file.create_array("/", "array", atom=atom, shape=(5, 2), byteorder=byteorder)[:] = values
        file.create_carray("/", "carray", atom, (5, 2), chunkshape=(2, 2), byteorder=byteorder)[:] = values
        file.create_earray("/", "earray", atom, (0, 2), byteorder=byteorder).append(values)
        file.create_array("/", "scalar", atom=ATOMS[name](), shape=(), byteorder=byteorder)[...] = values.ravel()[0]
    with plain_file(tmp_path / "a.h5") as file, open_raw(tmp_path / "a.h5") as ds:
        for leaf in ("array", "carray", "earray", "scalar"):
            expected = np.asarray(file.get_node("/", leaf).read())
            assert_same(ds[leaf], expected)
            if expected.dtype.kind != "S" and not badly_written(atom, byteorder):
                np.testing.assert_array_equal(expected, values if leaf != "scalar" else values.ravel()[0])


@pytest.mark.parametrize("fill", [0, 7, -3])
def test_missing_chunk_gives_fill_value(fill: int, tmp_path: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w") as file:
        leaf = file.create_carray("/", "a", tables.Int16Atom(dflt=fill), (10, 10), chunkshape=(3, 4))
        leaf[4, 5] = 99
    expected = np.full((10, 10), fill, "i2")
    expected[3:6, 4:8] = fill
    expected[4, 5] = 99
    with xr.open_dataset(tmp_path / "a.h5", engine="pytables") as ds:
        assert_same(ds["a"], expected)
        assert_same(ds["a"][9], expected[9])
        assert "_FillValue" not in ds["a"].encoding
        assert "_FillValue" not in ds["a"].attrs


def test_array_of_10_to_the_15_elements_is_sliced_without_reading_it(tmp_path: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w") as file:
        leaf = file.create_carray("/", "a", tables.Float32Atom(), (10**5, 10**5, 10**5), chunkshape=(4, 4, 4))
        leaf[99_999, 50_000, 1] = 5
    with xr.open_dataset(tmp_path / "a.h5", engine="pytables", chunks=None) as ds:
        assert ds["a"].size == 10**15
        assert_same(ds["a"][-1, 50_000, 3::-1], np.array([0, 0, 5, 0], "f4"))


def test_chunks_follow_the_chunkshape_and_never_exceed_the_shape(tmp_path: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w") as file:
        file.create_carray("/", "small", tables.Int8Atom(), (5, 7), chunkshape=(2, 100))
        file.create_array("/", "contiguous", np.arange(6))
    with xr.open_dataset(tmp_path / "a.h5", engine="pytables", chunks={}) as ds:
        assert ds["small"].chunks == ((2, 2, 1), (7,))
        assert ds["contiguous"].chunks == ((6,),)
        assert ds["small"].encoding["preferred_chunks"] == {"dim_5": 2, "dim_7": 7}
        numbers = [*ds["small"].encoding["chunksizes"], *ds["small"].encoding["preferred_chunks"].values()]
        assert {type(number) for number in numbers} == {int}
        assert_same(ds["small"].compute(), np.zeros((5, 7), "i1"))


def test_contiguous_array_is_cut_into_runs_of_whole_rows(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", (40, 1024, 1024), "u4")  # takes no space before it is written
    with xr.open_dataset(tmp_path / "a.h5", engine="pytables", chunks={}) as ds:
        assert ds["a"].chunks == ((16, 16, 8), (1024,), (1024,))


# -- attributes --------------------------------------------------------------------------------------------

NATIVE_ATTRIBUTES = {
    "int": 5,
    "negative": -(2**40),
    "float": 2.5,
    "complex": 1 + 2j,
    "bool": True,
    "text": "Grüße",
    "empty": "",
    "blank": "  x  ",
    "full_stop": "A sentence.",
    "bytes": b"raw",
    "np_int8": np.int8(-3),
    "np_uint64": np.uint64(2**64 - 1),
    "np_float32": np.float32(1.5),
    "np_bool": np.bool_(False),
    "ints": np.arange(4, dtype="i2"),
    "floats": np.linspace(0, 1, 6).reshape(2, 3),
    "one_element": np.array([3]),
    "bools": np.array([True, False]),
    "complexes": np.array([1j, 2], "c8"),
    "byte_strings": np.array([b"a", b"bcd"]),
    "zero_d": np.array(7.0),
    "structured": np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
}
PICKLED_ATTRIBUTES = {
    "none": None,
    "list": [1, "two", 3.0],
    "tuple": (1, (2, 3)),
    "dict": {"a": [1, 2], "b": None},
    "set": {1, 2},
    "texts": np.array(["a", "é"]),
    "big": 2**80,
    "day": datetime.date(2020, 2, 3),
    "moment": datetime.datetime(2020, 2, 3, 4, 5, 6),
    "datetimes": np.array(["2020-01-01", "1970-01-01"], "M8[ns]"),
    "slice": slice(1, 5, 2),
}


def same_value(actual: object, expected: object) -> bool:
    if isinstance(expected, np.ndarray):
        same_shape = isinstance(actual, np.ndarray) and actual.shape == expected.shape
        return same_shape and actual.dtype == expected.dtype and actual.tobytes() == expected.tobytes()
    return type(actual) is type(expected) and actual == expected


@pytest.mark.parametrize("place", ["root", "group", "array"])
def test_attributes_equal_those_plain_pytables_reads(place: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with plain_file(path, "w") as file:
        group = file.create_group("/", "g")
        array = file.create_array(group, "a", np.arange(3))
        node = {"root": file.root, "group": group, "array": array}[place]
        for name, value in {**NATIVE_ATTRIBUTES, **PICKLED_ATTRIBUTES}.items():
            node._v_attrs[name] = value
    with open_raw(path, group="/" if place == "root" else "/g") if place != "root" else open_quietly(path) as ds:
        attributes = ds["a"].attrs if place == "array" else ds.attrs
    assert set(attributes) == {*NATIVE_ATTRIBUTES, *PICKLED_ATTRIBUTES}
    with plain_file(path) as file:
        node = file.get_node({"root": "/", "group": "/g", "array": "/g/a"}[place])
        for name in attributes:
            plain, ours = node._v_attrs[name], attributes[name]
            if isinstance(plain, np.str_):
                plain = str(plain)
            elif isinstance(plain, np.ndarray) and plain.shape == ():  # pickled
                plain = plain[()]
            assert same_value(ours, plain), (name, ours, plain)


def test_attributes_are_what_was_written(tmp_path: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w") as file:
        array = file.create_array("/", "a", [1])
        for name, value in {**NATIVE_ATTRIBUTES, **PICKLED_ATTRIBUTES}.items():
            array.attrs[name] = value
    with xr.open_dataset(tmp_path / "a.h5", engine="pytables") as ds:
        for name, value in {**NATIVE_ATTRIBUTES, **PICKLED_ATTRIBUTES}.items():
            found = ds["a"].attrs[name]
            assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value, name


def test_title_that_the_user_set_is_shown_as_title(tmp_path: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w", title="The file") as file:
        file.create_group("/", "g", title="The group")
        file.create_array("/g", "a", [1], title="The array")
        file.create_array("/g", "untitled", [1])
    with open_quietly(tmp_path / "a.h5") as root, open_quietly(tmp_path / "a.h5", group="g") as group:
        assert root.attrs == {"title": "The file"}
        assert group.attrs == {"title": "The group"}
        assert group["a"].attrs == {"title": "The array"}
        assert group["untitled"].attrs == {}


def test_own_attribute_title_wins_over_the_system_title(tmp_path: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w", title="system") as file:
        file.root._v_attrs.title = "own"
        file.create_array("/", "a", [1])
    with open_raw(tmp_path / "a.h5") as ds:
        assert ds.attrs == {"title": "own"}


def test_system_attributes_are_hidden(tmp_path: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w", filters=tables.Filters(1, "zlib")) as file:
        file.create_array("/", "array", [1])
        file.create_carray("/", "carray", obj=np.arange(3))
        file.create_earray("/", "earray", obj=np.arange(3))
        file.create_array("/", "listed", [1, 2])
    with open_raw(tmp_path / "a.h5") as ds:
        assert ds.attrs == {}
        assert {name: ds[name].attrs for name in ds} == dict.fromkeys(["array", "carray", "earray", "listed"], {})


@pytest.mark.parametrize("dtype", [">i4", ">u8", ">f8", ">f4", "<i2", ">c16"])
def test_big_endian_attributes_have_their_values(dtype: str, tmp_path: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w") as file:
        file.create_array("/", "a", [1])
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["a"].attrs.create("scalar", 258, dtype=dtype)
        file["a"].attrs.create("array", [1, 2, 3], dtype=dtype)
    with xr.open_dataset(tmp_path / "a.h5", engine="pytables") as ds:
        assert ds["a"].attrs["scalar"] == 258
        assert_same(ds["a"].attrs["array"], np.array([1, 2, 3], dtype))


def test_attributes_of_h5py_are_read_where_plain_pytables_loses_them(tmp_path: Path) -> None:
    colours = h5py.enum_dtype({"red": 1, "green": 2}, "i1")
    with h5py.File(tmp_path / "h.h5", "w") as file:
        array = file.create_dataset("a", data=[1, 2])
        array.attrs["true"] = True
        array.attrs["truths"] = np.array([True, False])
        array.attrs.create("colour", 2, dtype=colours)
        array.attrs["vlen_text"] = "Grüße"
        array.attrs.create("vlen_texts", ["a", "", "é"], dtype=h5py.string_dtype())
        array.attrs["fixed"] = np.bytes_(b"fixed")
        array.attrs.create("padded", b"ab   ", dtype=h5py.string_dtype("ascii", 5))
        array.attrs["one"] = np.array([3])
        array.attrs["null_text"] = h5py.Empty(h5py.string_dtype())
        array.attrs["null_fixed"] = h5py.Empty("S5")
        array.attrs["null_float"] = h5py.Empty("f4")
        ragged = np.empty(2, object)
        ragged[:] = [np.array([1, 2], "i4"), np.array([], "i4")]
        array.attrs.create("ragged", ragged, dtype=h5py.vlen_dtype("i4"))
        array.attrs.create("compound", np.array((1, 2.5), [("a", ">i2"), ("b", "f4")]))
    with xr.open_dataset(tmp_path / "h.h5", engine="pytables") as ds:
        found = ds["a"].attrs
    assert found["true"] == np.True_
    assert_same(found["truths"], np.array([True, False]))
    assert found["colour"] == 2
    assert found["vlen_text"] == "Grüße"
    assert list(found["vlen_texts"]) == ["a", "", "é"]
    assert found["fixed"] == "fixed"
    assert found["padded"] == "ab   "
    assert found["one"] == 3
    assert found["null_text"] == found["null_fixed"] == ""
    assert found["null_float"].size == 0
    assert [row.tolist() for row in found["ragged"]] == [[1, 2], []]
    assert found["compound"]["a"] == 1
    assert found["compound"]["b"] == 2.5


def test_reference_attributes_are_named_in_one_warning(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        array = file.create_dataset("a", data=[1, 2])
        array.attrs["object"] = array.ref
        array.attrs["region"] = array.regionref[0:1]
        array.attrs["kept"] = 1
    with pytest.warns(UserWarning, match="not shown") as caught, open_raw(tmp_path / "h.h5") as ds:
        assert ds["a"].attrs == {"kept": 1}
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "h.h5:/a" in message
    assert "'object'" in message
    assert "'region'" in message


GOOD_ONLY_FOR_REAL = b"cfractions\nFraction\n(I3\nI4\ntR."
OF_A_MISSING_MODULE = b"cno_such_module_anywhere\nThing\n(tR."


def file_with_pickle(path: Path, data: bytes) -> None:
    with plain_file(path, "w") as file:
        file.create_array("/", "a", [1])
    with h5py.File(path, "r+") as file:
        file["a"].attrs["odd"] = np.bytes_(data)
        file.attrs["odd_too"] = np.bytes_(data)


def test_undecodable_pickle_is_opaque_bytes_with_one_warning(tmp_path: Path) -> None:
    file_with_pickle(tmp_path / "a.h5", GOOD_ONLY_FOR_REAL)
    with pytest.warns(UserWarning, match="undecoded") as caught, open_raw(tmp_path / "a.h5") as ds:
        assert isinstance(ds["a"].attrs["odd"], OpaqueBytes)
        assert ds["a"].attrs["odd"].data == GOOD_ONLY_FOR_REAL
        assert ds.attrs["odd_too"].data == GOOD_ONLY_FOR_REAL
        assert "undecoded pickle" in repr(ds)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "'odd'" in message
    assert "'odd_too'" in message
    assert "allow_pickle=True" in message
    assert "Fraction" in message


def test_opaque_bytes_survive_pickling_and_copies(tmp_path: Path) -> None:
    file_with_pickle(tmp_path / "a.h5", GOOD_ONLY_FOR_REAL)
    with open_quietly(tmp_path / "a.h5") as ds:
        again = pickle.loads(pickle.dumps(ds.copy(deep=True)))
        assert again.attrs["odd_too"] == ds.attrs["odd_too"]


def test_allow_pickle_unpickles_for_real(tmp_path: Path) -> None:
    from fractions import Fraction

    file_with_pickle(tmp_path / "a.h5", GOOD_ONLY_FOR_REAL)
    with xr.open_dataset(tmp_path / "a.h5", engine="pytables", allow_pickle=True) as ds:
        assert ds["a"].attrs["odd"] == Fraction(3, 4)
        assert ds.attrs["odd_too"] == Fraction(3, 4)


def test_allow_pickle_keeps_a_pickle_of_a_missing_module_opaque(tmp_path: Path) -> None:
    file_with_pickle(tmp_path / "a.h5", OF_A_MISSING_MODULE)
    with (
        pytest.warns(UserWarning, match="no_such_module_anywhere"),
        open_raw(tmp_path / "a.h5", allow_pickle=True) as ds,
    ):
        assert ds["a"].attrs["odd"].data == OF_A_MISSING_MODULE


def test_text_that_ends_in_a_full_stop_stays_text_outside_pytables_files(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["a"] = [1]
        file["a"].attrs["ascii"] = np.bytes_(b"N.")
        file["a"].attrs["text"] = "N."
    with open_raw(tmp_path / "h.h5") as ds:
        assert ds["a"].attrs == {"ascii": "N.", "text": "N."}


def test_enum_gives_flag_attributes_and_metadata(tmp_path: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w") as file:
        file.create_carray("/", "a", tables.EnumAtom(COLOURS, "red", "int16"), obj=np.array([4, 7], "i2"), shape=(2,))
    with xr.open_dataset(tmp_path / "a.h5", engine="pytables") as ds:
        attributes = ds["a"].attrs
        meanings = dict(zip(attributes["flag_meanings"].split(), attributes["flag_values"].tolist(), strict=True))
        assert meanings == {"red": 4, "green": -2, "blue": 7}
        assert attributes["flag_values"].dtype == np.dtype("i2")
        assert ds["a"].encoding["dtype"].metadata["enum"] == meanings


# -- which variables there are -----------------------------------------------------------------------------


def test_open_dataarray_load_dataset_and_groups_agree_with_pytables(tmp_path: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w") as file:
        file.create_array("/deep/er", "a", np.arange(6).reshape(2, 3), createparents=True)
    expected = np.arange(6).reshape(2, 3)
    path = tmp_path / "a.h5"
    assert_same(xr.load_dataset(path, engine="pytables", group="deep/er")["a"], expected)
    with xr.open_dataarray(path, engine="pytables", group="/deep/er/a") as array:
        assert array.name == "a"
        assert_same(array, expected)
    groups = xr.open_groups(path, engine="pytables")
    assert list(groups) == ["/", "/deep", "/deep/er"]
    assert_same(groups["/deep/er"]["a"], expected)
    with xr.open_datatree(path, engine="pytables") as tree:
        assert_same(tree.deep.er.a, expected)
        assert_same(tree["/deep/er/a"], expected)
    with xr.open_datatree(path, engine="pytables", group="/deep") as tree:
        assert [node.path for node in tree.subtree] == ["/", "/er"]


def make_unshown(file: tables.File) -> None:
    """One node of each kind that is not shown as a variable of its group."""
    file.create_table("/", "table", np.zeros(2, [("a", "i4")]))
    file.create_vlarray("/", "ragged", tables.Int32Atom())
    file.create_vlarray("/", "objects", tables.ObjectAtom())
    file.create_array("/", "shown", [1, 2])


def test_one_warning_names_every_node_that_is_not_shown_with_its_reason(tmp_path: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w") as file:
        make_unshown(file)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["opaque"] = np.zeros(2, "V5")
        file.create_dataset("references", data=[file["shown"].ref], dtype=h5py.ref_dtype)
        file["compound"] = np.zeros((2, 2), [("a", "i4")])
        file["null"] = h5py.Empty("f4")
        file["type"] = np.dtype("i4")
        file["dangling"] = h5py.SoftLink("/nowhere")
    with (
        pytest.warns(UserWarning, match="not shown") as caught,
        xr.open_dataset(tmp_path / "a.h5", engine="pytables") as ds,
    ):
        assert "shown" in ds
    assert len(caught) == 1
    message = str(caught[0].message)
    shown = set(ds.variables)
    for name in "opaque references compound null dangling".split():
        assert name in shown or f"/{name}: " in message, name
    for reason in ("null dataspace", "'/nowhere'"):
        assert reason in message
    assert __file__ == caught[0].filename


@pytest.mark.parametrize("opener", [xr.open_dataset, xr.open_datatree, xr.open_groups])
def test_dropped_variables_are_not_even_looked_at(opener: object, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kept"] = [1, 2]
        file["opaque"] = np.zeros(2, "V5")
        file["dangling"] = h5py.SoftLink("/nowhere")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = opener(tmp_path / "a.h5", engine="pytables", drop_variables=["opaque", "dangling", "not there"])
    assert list((opened["/"] if isinstance(opened, dict) else opened).variables) == ["kept"]


def test_one_dropped_variable_may_be_given_as_text(tmp_path: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w") as file:
        file.create_array("/", "a", [1])
        file.create_array("/", "ab", [1])
    with open_raw(tmp_path / "a.h5", drop_variables="ab") as ds:
        assert list(ds.variables) == ["a"]


def test_group_of_groups_only_warns_with_their_paths(tmp_path: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w") as file:
        file.create_array("/one/two", "a", [1], createparents=True)
        file.create_group("/one", "other")
    with (
        pytest.warns(UserWarning, match=r"holds no arrays.*'/one/other', '/one/two'.*open_datatree"),
        xr.open_dataset(tmp_path / "a.h5", engine="pytables", group="one") as ds,
    ):
        assert not ds.variables


def test_hidden_nodes_of_pytables_are_not_shown(tmp_path: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w") as file:
        file.create_array("/", "a", [1])
        file.enable_undo()
        file.mark()
        file.create_array("/", "b", [1])
    with xr.open_datatree(tmp_path / "a.h5", engine="pytables") as tree:
        assert [node.path for node in tree.subtree] == ["/"]
        assert set(tree.variables) == {"a", "b"}


def test_names_that_are_no_identifiers_are_read(tmp_path: Path) -> None:
    names = ["with space", "Größe", "0", "class", "a.b", "a\nb", "🛰"]
    with plain_file(tmp_path / "a.h5", "w") as file:
        for number, name in enumerate(names):
            file.create_array("/", name, [number])
            file.create_array(f"/g{name}", "x", [number], createparents=True)
    with open_raw(tmp_path / "a.h5") as ds:
        assert {name: int(ds[name][0]) for name in ds} == {name: number for number, name in enumerate(names)}
    for number, name in enumerate(names):
        with open_raw(tmp_path / "a.h5", group=f"g{name}") as ds:
            assert int(ds["x"][0]) == number


# -- attributes that are not what CF says they are -----------------------------------------------------------

ODD: dict[str, object] = {
    "text": "0.1", "array": np.array([1.0, 2.0]), "one": np.array([2.0]), "texts": np.array([b"a", b"b"]),
    "complex": 1j,
    "bool": True, "nan": np.nan, "big": 2**40, "negative": -5, "bytes": np.bytes_("x"), "nothing": h5py.Empty("f4"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("value", ODD)
def test_an_attribute_of_a_wrong_type_costs_no_variable(tmp_path: Path, value: str) -> None:
    data = {"i": np.arange(3, dtype="i2"), "u": np.arange(3, dtype="u1"), "f": np.arange(3.0), "c": np.arange(3) * 1j,
            "s": np.array([b"a", b"b", b"c"]), "b": np.array([True, False, True]), "v": ["a", "b", "c"]}  # fmt: skip
    for key in ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "units", "calendar", "dtype",
                "_Encoding", "coordinates", "valid_range", "flag_values", "bounds", "grid_mapping"):  # fmt: skip
        path = tmp_path / f"{key}.h5"
        with h5py.File(path, "w") as file:
            for name, values in data.items():
                file.create_dataset(name, data=values, dtype=h5py.string_dtype() if name == "v" else None)
                file[name].attrs[key] = ODD[value]
            file["good"] = np.arange(3.0)
            file["good"].attrs["scale_factor"] = 2.0
        for kwargs in ({}, {"decode_coords": "all"}, {"chunks": {}}):
            ds = xr.open_dataset(path, engine="pytables", **kwargs)
            assert set(ds.variables) == {*data, "good"}
            assert ds.load()["good"].values.tolist() == [0, 2, 4]


def test_a_scale_that_is_text_is_not_applied_and_said(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(3, dtype="i2")
        file["a"].attrs["scale_factor"], file["a"].attrs["_FillValue"] = "0.1", np.int16(2)
    with pytest.warns(UserWarning, match=r"s\.h5:/: attributes that were not applied: scale_factor='0.1' of 'a'"):
        ds = xr.open_dataset(path, engine="pytables")
    np.testing.assert_array_equal(ds["a"], [0, 1, np.nan])
    assert ds["a"].attrs == {"scale_factor": "0.1"}


def test_reading_needs_neither_libhdf5_nor_pytables(tmp_path: Path) -> None:
    """In a process in which `import tables` fails: every golden file, eagerly read, and listed."""
    code = """
        import sys, warnings
        sys.modules["tables"] = None
        warnings.simplefilter("ignore")
        import xarray as xr
        import xr_pytables
        for path in sys.argv[1:]:
            with xr.open_datatree(path, engine="pytables") as tree:
                tree.load()
            assert xr_pytables.tree(path).groups
        assert not any("hdf5extension" in name or "h5py" in name for name in sys.modules)
        print(len(sys.argv) - 1)
    """
    golden = sorted(path for path in (Path(__file__).parent / "data").rglob("*") if path.suffix in (".h5", ".mat"))
    assert len(golden) > 8
    assert run_python(code, *golden) == f"{len(golden)}\n"
