"""Opening any file executes nothing from it and never crashes the interpreter.

Files that could do either are opened in a child process, whose crash or hang fails the test and not the session.
"""

from __future__ import annotations

import ast
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import textwrap
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import tables
import xarray as xr
from h5py import h5a, h5d, h5s, h5t

import xr_pytables
from xr_pytables import OpaqueBytes

from .helpers_reading import open_quietly, plain_file
from .helpers_threads import WATCHDOG

AS_STORED = {
    "mask_and_scale": False, "decode_times": False, "decode_timedelta": False, "decode_coords": False,
    "concat_characters": False, "use_cftime": None,
}  # fmt: skip
"""Attributes that CF gives a meaning are taken as they come: what xarray makes of odd ones is not the subject."""
READ_ALL = f"""
    import sys, warnings
    import xarray as xr
    warnings.simplefilter("ignore")
    for path in sys.argv[1:]:
        print(f"\\n{{path}}", end=" ", flush=True)
        try:
            groups = xr.open_groups(path, engine="pytables", **{AS_STORED})
        except (OSError, ValueError) as error:
            print(type(error).__name__, end=" ")
            continue
        print("opened", end=" ")
        for dataset in groups.values():
            repr(dataset)
            for name in dataset.variables:
                if dataset[name].size <= 10**6:
                    try:
                        dataset[name].load()
                    except (OSError, ValueError) as error:
                        print(type(error).__name__, end=" ")
            dataset.close()
"""


def read_all(paths: list[Path], *, patience: float = WATCHDOG) -> dict[Path, list[str]]:
    """For each file: "opened" or the exception, then the exceptions of reading arrays; or "crashed" or "hung".

    One child process reads many files, and another goes on after a crash or `patience` seconds.
    """
    found: dict[Path, list[str]] = {}
    while rest := [path for path in paths if path not in found]:
        environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
        command = [sys.executable, "-c", textwrap.dedent(READ_ALL), *map(str, rest)]
        with tempfile.TemporaryFile("w+") as output:
            try:
                done = subprocess.run(
                    command, stdout=output, stderr=subprocess.PIPE, text=True, timeout=patience, env=environment,
                    check=False,
                )  # fmt: skip
                end = f"crashed with exit status {done.returncode}: {done.stderr[:1500]}" if done.returncode else ""
            except subprocess.TimeoutExpired:
                end = "hung"
            output.seek(0)
            lines = output.read().splitlines()[1:]
        for number, line in enumerate(lines):
            found[rest[number]] = line.split()[1:]
        if end:
            found[rest[len(lines) - 1]] = [end]
    return found


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def test_the_payload_of_these_tests_runs_if_it_is_unpickled(marker: Path) -> None:
    pickle.loads(pickle.dumps(Payload(marker), 0))
    assert marker.exists()


def valid_file(path: Path) -> None:
    with plain_file(path, "w", title="T", filters=tables.Filters(1, "zlib")) as file:
        group = file.create_group("/", "g", title="group")
        file.create_array(group, "array", [1, 2, 3], title="array")
        file.create_earray(group, "earray", obj=np.arange(3.0))
        file.create_carray(group, "carray", obj=np.arange(4).reshape(2, 2))
        table = file.create_table(group, "table", np.zeros(2, [("a", "i4"), ("b", "S2")]))
        table.cols.a.create_index()
        file.create_vlarray(group, "vlarray", tables.ObjectAtom()).append([1, 2])
        file.create_vlarray(group, "strings", tables.VLStringAtom()).append(b"abc")


NODES = ["/", "/g", "/g/array", "/g/earray", "/g/carray", "/g/table", "/g/vlarray"]
NAMES = [
    "TITLE", "CLASS", "VERSION", "FILTERS", "FLAVOR", "PYTABLES_FORMAT_VERSION", "NROWS", "EXTDIM", "NODE_TYPE",
    "NODE_TYPE_VERSION", "ENCODING", "AUTO_INDEX", "DIRTY", "PSEUDOATOM", "FIELD_0_NAME", "FIELD_0_FILL",
    "DIMENSION_LIST", "DIMENSION_LABELS", "REFERENCE_LIST", "NAME", "_Netcdf4Dimid", "_Netcdf4Coordinates",
    "_ARRAY_DIMENSIONS", "_FillValue", "scale_factor", "units", "coordinates", "_xr_pytables_json", "_xr_pytables_text",
    "user",
]  # fmt: skip
FORMS = {
    "ascii": lambda data: (np.bytes_(data), h5py.string_dtype("ascii", len(data))),
    "utf-8": lambda data: (np.bytes_(data), h5py.string_dtype("utf-8", len(data))),
    "vlen": lambda data: (data.decode("ascii"), h5py.string_dtype("ascii")),
    "opaque": lambda data: (np.void(data), f"V{len(data)}"),
    "array": lambda data: ([data], f"S{len(data)}"),
}


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("form", FORMS)
def test_no_pickle_in_any_attribute_is_executed(node: str, form: str, tmp_path: Path, marker: Path) -> None:
    """Each name alone in a file of its own, then all of them in one."""
    data = pickle.dumps(Payload(marker), 0)
    valid_file(tmp_path / "valid.h5")
    valid = (tmp_path / "valid.h5").read_bytes()
    for names in [*([name] for name in NAMES), NAMES]:
        path = tmp_path / "attack.h5"
        path.write_bytes(valid)
        with h5py.File(path, "r+") as file:
            for name in names:
                value, dtype = FORMS[form](data)
                file[node].attrs.create(name, value, dtype=dtype)
        groups = open_groups_quietly(path)
        assert not marker.exists(), names
        assert set(groups) >= {"/", "/g"}, names
        for variable in groups["/g"].variables.values():
            repr(variable)
        for name in {"array", "earray", "carray"} - {node.rpartition("/")[2]}:
            assert groups["/g"][name].size in (3, 4)
            groups["/g"][name].load()
        pickle.loads(pickle.dumps(groups["/g"].attrs))
        for dataset in groups.values():
            dataset.close()
        assert not marker.exists(), names


def open_groups_quietly(path: Path) -> dict[str, xr.Dataset]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return xr.open_groups(path, engine="pytables", **AS_STORED)


def test_object_rows_are_not_executed(tmp_path: Path, marker: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w") as file:
        file.create_vlarray("/", "objects", tables.ObjectAtom()).append(Payload(marker))
        file.create_array("/", "a", [1])
    marker.unlink(missing_ok=True)
    with open_quietly(tmp_path / "a.h5") as ds:
        with pytest.warns(UserWarning, match="1 of 1 rows are shown undecoded"):
            ds.load()
        assert isinstance(ds["objects"].values[0], OpaqueBytes)
    assert not marker.exists()


def test_pickle_is_executed_only_with_allow_pickle(tmp_path: Path, marker: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w") as file:
        file.create_array("/", "a", [1]).attrs.user = Payload(marker)
    with pytest.warns(UserWarning, match="undecoded"), xr.open_dataset(tmp_path / "a.h5", engine="pytables"):
        assert not marker.exists()
    with xr.open_dataset(tmp_path / "a.h5", engine="pytables", allow_pickle=True):
        assert marker.exists()


def test_tables_open_file_is_not_used_by_the_package() -> None:
    """Plain PyTables unpickles while it opens: no module calls it, nor its classes that open files."""
    package = Path(xr_pytables.__file__).parent
    forbidden = {"open_file", "openFile", "File"}
    found = []
    for module in package.rglob("*.py"):
        # these open files of their own: see test_an_index_in_a_file_of_others_runs_nothing_from_it
        if module.name in ("recipe.py", "table_indexes.py", "longer_indexes.py"):
            continue
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in forbidden:
                found.append(f"{module.name}:{node.lineno}: .{node.func.attr}()")
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tables":
                names = [alias.name for alias in node.names if alias.name in forbidden]
                found += [f"{module.name}: from tables import {name}" for name in names]
    assert not found


def test_pickle_loads_is_called_in_one_place_behind_allow_pickle() -> None:
    package = Path(xr_pytables.__file__).parent
    calls = [
        module.name
        for module in package.rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("loads", "load", "Unpickler")
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "pickle"
    ]
    assert calls == ["attributes.py"]


# -- legal but odd -----------------------------------------------------------------------------------------

ODD_ATTRIBUTES: dict[str, object] = {
    "number": lambda node, name: node.attrs.create(name, 5),
    "float": lambda node, name: node.attrs.create(name, 2.5, dtype=">f8"),
    "numbers": lambda node, name: node.attrs.create(name, np.arange(6).reshape(2, 3)),
    "texts": lambda node, name: node.attrs.create(name, ["a", "b"], dtype=h5py.string_dtype()),
    "byte_strings": lambda node, name: node.attrs.create(name, np.array([b"a", b"b"])),
    "empty_array": lambda node, name: node.attrs.create(name, np.zeros((0, 3))),
    "null_vlen": lambda node, name: node.attrs.create(name, h5py.Empty(h5py.string_dtype())),
    "null_fixed": lambda node, name: node.attrs.create(name, h5py.Empty("S4")),
    "null_float": lambda node, name: node.attrs.create(name, h5py.Empty("f4")),
    "null_pointer": lambda node, name: unwritten(node, name, variable_text(), (2,)),
    "null_pointer_scalar": lambda node, name: unwritten(node, name, variable_text(), ()),
    "not_utf8": lambda node, name: node.attrs.create(
        name, np.bytes_(b"\xff\xfe."), dtype=h5py.string_dtype("utf-8", 3)
    ),
    "bool": lambda node, name: node.attrs.create(name, True),
    "reference": lambda node, name: node.attrs.create(name, node.ref, dtype=h5py.ref_dtype),
    "null_reference": lambda node, name: node.attrs.create(name, h5py.Reference(), dtype=h5py.ref_dtype),
    "region": lambda node, name: unwritten(node, name, h5t.STD_REF_DSETREG, ()),
    "vlen_references": lambda node, name: unwritten(node, name, h5t.vlen_create(h5t.STD_REF_OBJ), (2,)),
    "vlen_numbers": lambda node, name: unwritten(node, name, h5t.vlen_create(h5t.STD_I32LE), (2,)),
    "vlen_of_text": lambda node, name: unwritten(node, name, h5t.vlen_create(variable_text()), (2,)),
    "array_of_text": lambda node, name: unwritten(node, name, h5t.array_create(variable_text(), (500,)), (2,)),
    "array_of_vlen": lambda node, name: unwritten(
        node, name, h5t.array_create(h5t.vlen_create(h5t.STD_I8LE), (500,)), (2,)
    ),
    "padded_nested": lambda node, name: node.attrs.create(name, np.ones((), PADDED)),
    "compound_with_text": lambda node, name: node.attrs.create(
        name, np.array([("a", 1)], [("t", h5py.string_dtype()), ("n", "i4")])
    ),
    "opaque": lambda node, name: node.attrs.create(name, np.void(b"\0" * 40)),
    "enum": lambda node, name: node.attrs.create(name, 3, dtype=h5py.enum_dtype({"_odd": 3, "b c": 4}, "i8")),
    "bitfield": lambda node, name: unwritten(node, name, h5t.STD_B32BE, ()),
    "time": lambda node, name: unwritten(node, name, h5t.UNIX_D64LE, ()),
    "float16": lambda node, name: node.attrs.create(name, np.float16(1)),
    "longdouble": lambda node, name: node.attrs.create(name, np.longdouble(1)),
    "odd_float": lambda node, name: unwritten(node, name, odd_float(), (3,)),
    "odd_integer": lambda node, name: unwritten(node, name, odd_integer(), (3,)),
    "rank_32": lambda node, name: node.attrs.create(name, np.zeros((1,) * 32, "i1")),
    "rank_80": lambda node, name: unwritten(node, name, h5t.array_create(many_dimensions(), (1,) * 32), (1,) * 16),
    "deep_arrays": lambda node, name: unwritten(node, name, nested(600), ()),
    "deep_compounds": lambda node, name: unwritten(node, name, nested_compounds(600), ()),
    "large_string": lambda node, name: unwritten(node, name, fixed_text(60_000), ()),
    "full_stop": lambda node, name: node.attrs.create(name, np.bytes_(b".")),
    "none": lambda node, name: node.attrs.create(name, np.bytes_(b"N.")),
    "broken_pickle": lambda node, name: node.attrs.create(name, np.bytes_(b"(lp0\nI1\na(((.")),
    "billion_laughs": lambda node, name: node.attrs.create(name, np.bytes_(laughs())),
    "deep_json": lambda node, name: node.attrs.create(name, np.bytes_(b"[" * 60_000)),
}
PADDED = np.dtype(
    {
        "names": ["a", "b"],
        "formats": ["i1", np.dtype({"names": ["c", "d"], "formats": ["i2", "f8"], "offsets": [3, 11], "itemsize": 30})],
        "offsets": [2, 9],
        "itemsize": 57,
    }
)


def unwritten(node: h5py.HLObject, name: str, datatype: h5t.TypeID, shape: tuple[int, ...]) -> None:
    """An attribute that nobody wrote a value to: NULL where a pointer could be."""
    h5a.create(node.id, name.encode(), datatype, h5s.create_simple(shape) if shape else h5s.create(h5s.SCALAR))


def variable_text() -> h5t.TypeID:
    text = h5t.C_S1.copy()
    text.set_size(h5t.VARIABLE)
    return text


def fixed_text(size: int) -> h5t.TypeID:
    text = h5t.C_S1.copy()
    text.set_size(size)
    return text


def odd_float() -> h5t.TypeID:
    """Three bytes, mantissa first, an exponent of 5 bits."""
    odd = h5t.IEEE_F32LE.copy()
    odd.set_fields(23, 18, 5, 0, 18)
    odd.set_size(3)
    odd.set_ebias(15)
    return odd


def odd_integer() -> h5t.TypeID:
    odd = h5t.STD_I32LE.copy()
    odd.set_precision(20)
    odd.set_offset(5)
    return odd


def many_dimensions() -> h5t.TypeID:
    return h5t.array_create(h5t.STD_I8LE, (1,) * 32)


def nested(depth: int) -> h5t.TypeID:
    datatype = h5t.STD_I8LE
    for _ in range(depth):
        datatype = h5t.array_create(datatype, (1,))
    return datatype


def nested_compounds(depth: int) -> h5t.TypeID:
    datatype = h5t.STD_I8LE
    for _ in range(depth):
        outer = h5t.create(h5t.COMPOUND, 1)
        outer.insert(b"a", 0, datatype)
        datatype = outer
    return datatype


def laughs() -> bytes:
    """A pickle of a few bytes that stands for 2**60 objects."""
    return b"(lp0\n" + b"".join(b"(g%d\ng%d\nlp%d\n" % (n, n, n + 1) for n in range(60)) + b"."


SLOW_TO_MAKE = {"deep_arrays", "deep_compounds"}


@pytest.fixture(scope="module")
def odd_attributes_read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    """By kind of attribute and name of the file (it tells the node): what became of reading it."""
    folder = tmp_path_factory.mktemp("odd_attributes")
    valid_file(folder / "valid.h5")
    paths = []
    for odd, create in ODD_ATTRIBUTES.items():
        for node in ("/", "/g", "/g/array"):
            path = folder / f"{odd}-{node.replace('/', '.')}.h5"
            shutil.copy(folder / "valid.h5", path)
            with h5py.File(path, "r+", libver="latest") as file:
                for name in NAMES if odd not in SLOW_TO_MAKE else ("TITLE", "CLASS", "user"):
                    if name in file[node].attrs:
                        del file[node].attrs[name]
                    create(file[node], name)
            paths.append(path)
    found: dict[str, dict[str, list[str]]] = {}
    for path, words in read_all(paths).items():
        found.setdefault(path.name.partition("-")[0], {})[path.name] = words
    return found


@pytest.mark.parametrize("odd", ODD_ATTRIBUTES)
def test_odd_attributes_neither_crash_nor_hide_the_file(
    odd: str, odd_attributes_read: dict[str, dict[str, list[str]]]
) -> None:
    """Each kind under each system name of root, group and array; plain PyTables crashes on many of these."""
    assert len(odd_attributes_read[odd]) == 3
    assert set(map(tuple, odd_attributes_read[odd].values())) == {("opened",)}


def test_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = [1, 2]
        h5a.create(file["a"].id, b"\xff\xfe", h5t.STD_I8LE, h5s.create(h5s.SCALAR))
        h5d.create(file.id, b"\xe9t\xe9", h5t.STD_I8LE, h5s.create_simple((2,)))
        file.create_group(b"\xe9")["x"] = [3]
    with open_quietly(tmp_path / "a.h5", decode_cf=False) as ds:
        assert [name.encode("utf-8", "surrogateescape") for name in ds["a"].attrs] == [b"\xff\xfe"]
        assert [name.encode("utf-8", "surrogateescape") for name in ds.variables] == [b"a", b"\xe9t\xe9"]
        assert ds[b"\xe9t\xe9".decode("utf-8", "surrogateescape")].values.tolist() == [0, 0]
    with open_quietly(tmp_path / "a.h5", group=b"\xe9".decode("utf-8", "surrogateescape")) as ds:
        assert ds["x"].values.tolist() == [3]


ODD_DATASETS: dict[str, object] = {
    "compound_of_rank_32": lambda file: h5d.create(
        file.id, b"odd", h5t.py_create(np.dtype([("a", "i4")])), h5s.create_simple((1,) * 32)
    ),
    "scalar_compound": lambda file: file.create_dataset("odd", data=np.ones((), PADDED)),
    "padded_nested": lambda file: file.create_dataset("odd", data=np.ones(3, PADDED)),
    "numbers_of_rank_32": lambda file: file.create_dataset("odd", data=np.ones((1,) * 32)),
    "rank_64": lambda file: h5d.create(file.id, b"odd", many_dimensions(), h5s.create_simple((1,) * 32)),
    "rank_96": lambda file: h5d.create(
        file.id, b"odd", h5t.array_create(many_dimensions(), (1,) * 32), h5s.create_simple((1,) * 32)
    ),
    "string_of_4_gigabytes": lambda file: h5d.create(file.id, b"odd", fixed_text(2**32 - 1), h5s.create_simple((2,))),
    "opaque_of_4_gigabytes": lambda file: h5d.create(
        file.id, b"odd", h5t.create(h5t.OPAQUE, 2**32 - 1), h5s.create_simple((2,))
    ),
    "array_type_of_4_gigabytes": lambda file: h5d.create(
        file.id, b"odd", h5t.array_create(h5t.STD_I8LE, (2**16, 2**16)), h5s.create_simple((2,))
    ),
    "null": lambda file: file.create_dataset("odd", data=h5py.Empty("f8")),
    "null_text": lambda file: file.create_dataset("odd", data=h5py.Empty(h5py.string_dtype())),
    "unwritten_text": lambda file: file.create_dataset("odd", (3, 2), h5py.string_dtype()),
    "array_type_of_text": lambda file: h5d.create(
        file.id, b"odd", h5t.array_create(variable_text(), (300,)), h5s.create_simple((2,))
    ),
    "references": lambda file: file.create_dataset("odd", data=[file["g/array"].ref], dtype=h5py.ref_dtype),
    "null_references": lambda file: file.create_dataset("odd", (3,), h5py.ref_dtype),
    "regions": lambda file: file.create_dataset("odd", (3,), h5py.regionref_dtype),
    "vlen": lambda file: file.create_dataset("odd", (3,), h5py.vlen_dtype("i4")),
    "odd_float": lambda file: h5d.create(file.id, b"odd", odd_float(), h5s.create_simple((3,))),
    "odd_integer": lambda file: h5d.create(file.id, b"odd", odd_integer(), h5s.create_simple((3,))),
    "deep_compounds": lambda file: h5d.create(file.id, b"odd", nested_compounds(600), h5s.create_simple((2,))),
    "odd_enum": lambda file: file.create_dataset("odd", (2,), h5py.enum_dtype({"_x": 1, "TRUE": 9}, "u8")),
    "huge": lambda file: file.create_dataset("odd", (2**40, 2**20), "f8", chunks=(1, 1)),
    "no_elements": lambda file: file.create_dataset("odd", (0, 5), "f8", maxshape=(None, 5), chunks=(4, 4)),
    "fill_value_undefined": lambda file: undefined_fill(file),
    "unknown_filter": lambda file: unknown_filter(file),
}


def undefined_fill(file: h5py.File) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_fill_time(h5d.FILL_TIME_NEVER)
    h5d.create(file.id, b"odd", h5t.STD_I32BE, h5s.create_simple((3,)), properties)


def unknown_filter(file: h5py.File) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((2,))
    properties.set_filter(31_999, h5py.h5z.FLAG_OPTIONAL, tuple(range(300)))
    h5d.create(file.id, b"odd", h5t.STD_I32LE, h5s.create_simple((3,)), properties)


@pytest.fixture(scope="module")
def odd_datasets_read(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, list[str]]:
    folder = tmp_path_factory.mktemp("odd_datasets")
    valid_file(folder / "valid.h5")
    paths = []
    for odd, create in ODD_DATASETS.items():
        for libver in ("earliest", "latest"):
            path = folder / f"{odd}-{libver}.h5"
            shutil.copy(folder / "valid.h5", path)
            with h5py.File(path, "r+", libver=libver) as file:
                create(file)
            paths.append(path)
    return read_all(paths)


@pytest.mark.parametrize("odd", ODD_DATASETS)
def test_odd_datasets_neither_crash_nor_hide_the_file(odd: str, odd_datasets_read: dict[Path, list[str]]) -> None:
    found = {path: words for path, words in odd_datasets_read.items() if path.name.startswith(f"{odd}-")}
    assert len(found) == 2
    for path, words in found.items():
        assert words[0] == "opened"
        with open_quietly(path, group="g") as ds:
            assert ds["array"].values.tolist() == [1, 2, 3]


def test_values_of_readable_odd_datasets(tmp_path: Path) -> None:
    path = tmp_path / "odd.h5"
    with h5py.File(path, "w") as file:
        h5d.create(file.id, b"integer", odd_integer(), h5s.create_simple((3,)))
        file["integer"][:] = [1, -2, 2**18]
        h5d.create(file.id, b"float", odd_float(), h5s.create_simple((3,)))
        file["float"].id.write(h5s.ALL, h5s.ALL, np.array([1.5, -0.25, 1024.0], "f4"))
        file.create_dataset("text", (2,), h5py.string_dtype())
        file["text"][1] = "é"
    with xr.open_dataset(path, engine="pytables") as ds:
        assert ds["integer"].values.tolist() == [1, -2, 2**18]
        assert ds["float"].values.tolist() == [1.5, -0.25, 1024.0]
        assert ds["text"].values.tolist() == ["", "é"]


# -- other files, named inside a file ----------------------------------------------------------------------


def test_raw_data_elsewhere_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret").write_bytes(b"12345678")
    path = tmp_path / "inside" / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("raw", (8,), "u1", external=[(str(tmp_path / "secret"), 0, 8)])
        file["a"] = [1]
    with (
        pytest.warns(UserWarning, match=r"/raw: its data lie in the file .*secret, outside the folder of the file"),
        xr.open_dataset(path, engine="pytables") as ds,
    ):
        assert list(ds.variables) == ["a"]
    with pytest.raises(OSError, match=r"a\.h5: '/raw' cannot be opened: its data lie in the file .*not followed"):
        xr.open_dataset(path, engine="pytables", group="raw")


def test_sources_of_virtual_datasets_elsewhere_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["s"] = np.arange(5)
    layout = h5py.VirtualLayout((5,), "i8")
    layout[:] = h5py.VirtualSource(tmp_path / "source.h5", "s", (5,))
    path = tmp_path / "inside" / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_virtual_dataset("virtual", layout)
        file["a"] = [1]
    with (
        pytest.warns(UserWarning, match=r"/virtual: its source .*source.h5:s, outside the folder of the file"),
        xr.open_dataset(path, engine="pytables") as ds,
    ):
        assert list(ds.variables) == ["a"]


def test_slash_in_a_link_name_does_not_lead_through_an_external_link(tmp_path: Path) -> None:
    """HDF5 would take the name for a path, and open the file that the link on it names."""
    (tmp_path / "inside").mkdir()
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["s"] = [42]
    path = tmp_path / "inside" / "a.h5"
    with plain_file(path, "w") as file:
        file.create_array("/", "extXs", [1])
        file.create_array("/", "s", [7])
        file.create_external_link("/", "ext", f"{tmp_path}/secret.h5:/")
    path.write_bytes(path.read_bytes().replace(b"extXs", b"ext/s"))
    (tmp_path / "secret.h5").unlink()
    (tmp_path / "secret.h5").mkdir()  # what opens it now, fails
    with pytest.warns(UserWarning, match=r"/ext/s: a link of an unknown kind, or with a name that HDF5 forbids"):
        ds = xr.open_dataset(path, engine="pytables", external_links="never")
    assert ds["s"].values.tolist() == [7]
    assert list(ds.variables) == ["s"]
    ds.close()


# -- damaged files -----------------------------------------------------------------------------------------


def small_file(path: Path) -> bytes:
    with plain_file(path, "w", title="title") as file:
        file.create_array("/", "array", np.arange(20))
        file.create_carray("/g", "carray", obj=np.arange(50.0).reshape(5, 10), chunkshape=(2, 5), createparents=True)
        file.create_carray("/g", "packed", obj=np.arange(50), filters=tables.Filters(1, "zlib", fletcher32=True))
        file.root.array.attrs.note = [1, "two"]
    return path.read_bytes()


def small_file_of_the_latest_format(path: Path) -> bytes:
    """Checksums on all metadata. No variable-length values: HDF5 1.14 loops for ever in a damaged global heap."""
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("g/a", data=np.arange(50), chunks=(7,), compression="gzip")
        file.create_dataset("g/extendable", data=np.arange(9.0), maxshape=(None,), chunks=(4,), fletcher32=True)
        file["g"].attrs["x"] = np.arange(3)
    return path.read_bytes()


WRITERS = {"pytables": small_file, "h5py latest": small_file_of_the_latest_format}


@pytest.mark.parametrize("writer", WRITERS)
def test_file_cut_at_any_length_is_refused(writer: str, tmp_path: Path) -> None:
    whole = WRITERS[writer](tmp_path / "uncut.h5")
    paths = []
    for length in sorted({*range(0, len(whole), max(1, len(whole) // 60)), 7, 8, 95, 96, len(whole) - 1}):
        path = tmp_path / f"cut{length}.h5"
        path.write_bytes(whole[:length])
        paths.append(path)
    found = read_all([*paths, tmp_path / "uncut.h5"])
    assert found.pop(tmp_path / "uncut.h5") == ["opened"]
    assert set(map(tuple, found.values())) == {("FormatError",)}


@pytest.mark.parametrize("writer", WRITERS)
def test_flipped_bytes_give_an_error_or_data_but_no_crash(writer: str, tmp_path: Path) -> None:
    whole = WRITERS[writer](tmp_path / "whole.h5")
    random = np.random.default_rng(2)
    paths = []
    for number in range(200):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), random.choice([1, 2, 4, 16])):
            damaged[place] = random.choice([damaged[place] ^ (1 << random.integers(8)), random.integers(256), 0, 255])
        paths.append(tmp_path / f"{number}.h5")
        paths[-1].write_bytes(damaged)
    outcomes = {word for words in read_all(paths).values() for word in words}
    assert {"FormatError", "opened"} <= outcomes <= {"FormatError", "OSError", "opened", "ChunkError"}


def test_an_unreadable_attribute_of_a_group_costs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with plain_file(path, "w") as file:
        file.root._v_attrs.markers = 1
        file.create_array("/", "a", [1, 2])
    old, new = b"markers\0\x10", b"markers\0\xf0"  # a version of the datatype message that does not exist
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    with (
        pytest.warns(UserWarning, match=r"a\.h5:/: attribute 'markers' is not shown: .*version 15"),
        xr.open_dataset(path, engine="pytables") as ds,
    ):
        assert ds["a"].values.tolist() == [1, 2]
        assert ds.attrs == {}


def test_an_unreadable_attribute_of_an_array_costs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with plain_file(path, "w") as file:
        file.create_array("/", "bad", [1, 2]).attrs.markers = 1
        file.create_array("/", "good", [3, 4])
    path.write_bytes(path.read_bytes().replace(b"markers\0\x10", b"markers\0\xf0"))
    with (
        pytest.warns(UserWarning, match=r"a\.h5:/bad: attribute 'markers' is not shown: .*version 15"),
        xr.open_dataset(path, engine="pytables") as ds,
    ):
        assert {name: ds[name].values.tolist() for name in ds} == {"bad": [1, 2], "good": [3, 4]}


def test_damaged_group_costs_no_other_group_of_a_tree(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with plain_file(path, "w") as file:
        file.create_array("/bad", "a", [1, 2], createparents=True)
        file.create_array("/good", "a", [3, 4], createparents=True)
        file.create_array("/", "a", [5, 6])
    with h5py.File(path) as file:
        address = h5py.h5o.get_info(file["bad"].id).addr
    data = bytearray(path.read_bytes())
    message = data.index(b"\x11\0\x10\0", address)  # symbol table: type 17 of 16 bytes
    btree = int.from_bytes(data[message + 8 : message + 16], "little")
    assert data[btree : btree + 4] == b"TREE"
    data[btree : btree + 4] = b"BUSH"
    path.write_bytes(data)
    with (
        pytest.warns(UserWarning, match=r"1 node\(s\) are not shown: /bad: "),
        xr.open_datatree(path, engine="pytables") as tree,
    ):
        assert tree["/good/a"].values.tolist() == [3, 4]
        assert tree["/a"].values.tolist() == [5, 6]
    with pytest.raises(OSError, match="signature"):
        xr.open_dataset(path, engine="pytables", group="bad")


# -- names that a terminal would obey -----------------------------------------------------------------------

EVIL = "a\x1b[31m\u202e"


def hostile_names(folder: Path) -> Path:
    folder = folder / EVIL
    folder.mkdir()
    path = folder / "a.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group(EVIL)
        group.attrs[EVIL] = file.ref
        numbers = group.create_dataset("n" + EVIL, data=np.arange(100), chunks=(100,), fletcher32=True)
        numbers.attrs[EVIL] = file.ref
        numbers.attrs["scale_factor"] = [EVIL]
        group["soft" + EVIL] = h5py.SoftLink("/nowhere" + EVIL)
        group["out" + EVIL] = h5py.ExternalLink("gone" + EVIL, "/x")
        group.create_dataset("null" + EVIL, data=h5py.Empty("f4"))
        group.create_dataset("raw" + EVIL, (2,), "i4", external=[("raw" + EVIL, 0, 8)])
        layout = h5py.VirtualLayout((2,), "i4")
        layout[...] = h5py.VirtualSource("source" + EVIL, "x" + EVIL, (2,))
        group.create_virtual_dataset("virtual" + EVIL, layout)
        file.flush()
        offset = numbers.id.get_chunk_info(0).byte_offset
    with open(path, "r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xff")
    return path


def test_no_message_has_control_characters(tmp_path: Path) -> None:
    path = hostile_names(tmp_path)
    messages = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tree = xr.open_datatree(path, engine="pytables")
        ds = xr.open_dataset(path, engine="pytables", group=EVIL)
        for attempt in (
            lambda: ds["n" + EVIL].load(),
            lambda: tree[EVIL]["n" + EVIL].load(),
            lambda: xr.open_dataset(path, engine="pytables", group=f"{EVIL}/none"),
            lambda: xr.open_dataset(path, engine="pytables", group=f"{EVIL}/soft{EVIL}"),
            lambda: xr.open_dataset(path, engine="pytables", group=f"{EVIL}/null{EVIL}"),
            lambda: xr.open_dataset(path, engine="pytables", group=f"{EVIL}/raw{EVIL}"),
            lambda: xr.open_dataset(path, engine="pytables", group=f"{EVIL}/virtual{EVIL}"),
            lambda: xr.open_dataset(path, engine="pytables", group=EVIL, where="x > 1"),
            lambda: xr.open_dataset(path, engine="pytables", group=EVIL, dims={"x" + EVIL: ("a",)}),
        ):
            with pytest.raises(Exception) as failed:  # noqa: PT011
                attempt()
            messages.append(str(failed.value))
    messages += [str(one.message) for one in caught]
    assert len(caught) >= 2
    assert [message for message in messages if not message.isprintable()] == []
    assert sum("n" + EVIL.encode("unicode_escape").decode() in message for message in messages) >= 3


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    """No escape sequence of a name gets into a message raw, whatever is wrong with what has the name."""
    path, odd = tmp_path / "a.h5", "\x1b[31m\x07"
    with h5py.File(path, "w") as file:
        file.create_group(odd).attrs["CLASS"] = "GROUP"
        filtered = file.create_dataset(odd + "/filtered", data=np.arange(10), chunks=(10,), fletcher32=True)
        place = filtered.id.get_chunk_info(0).byte_offset
        file.create_dataset(odd + "/null" + odd, data=h5py.Empty("f8"))
        file[odd + "/away"] = h5py.ExternalLink(odd, odd)
        times = file.create_dataset(odd + "/times" + odd, data=[1.0], chunks=(1,))
        times.attrs["units"] = "days since " + odd
        file[odd].attrs.create("markers" + odd, 1)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data.replace(b"markers\x1b[31m\x07\0\0\0\x10", b"markers\x1b[31m\x07\0\0\0\xf0"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ds = xr.open_dataset(path, engine="pytables", group=odd)
    with pytest.raises(OSError, match=r"a\.h5:/\\x1b\[31m\\x07/filtered: chunk at") as error:
        ds["filtered"].load()
    ds.close()
    messages = [str(warning.message) for warning in caught] + [str(error.value)]
    assert len(messages) >= 3
    assert all(message.isprintable() for message in messages)


def test_a_damaged_chunk_of_a_coordinate_costs_only_that(tmp_path: Path) -> None:
    """xarray reads the first time to decode the others, so the damage is found when the file is opened."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        times = file.create_dataset("t", data=np.arange(10.0), chunks=(10,), fletcher32=True)
        times.attrs["units"] = "days since 2000-01-01"
        file.create_dataset("late", data=np.arange(10.0), chunks=(5,), fletcher32=True).attrs["units"] = (
            "hours since 2000-01-01"
        )
        file["x"] = [1, 2]
        place = times.id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with (
        pytest.warns(
            UserWarning, match=r"a\.h5:/: attributes that were not applied: units='days.*of 't': .*fletcher32"
        ),
        xr.open_dataset(path, engine="pytables") as ds,
    ):
        assert ds["x"].values.tolist() == [1, 2]
        assert ds["late"].values[1] == np.datetime64("2000-01-01T01")
        with pytest.raises(OSError, match=r"a\.h5:/t: chunk at"):
            ds["t"].load()
