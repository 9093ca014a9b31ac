"""Imports point down, and each side knows only what it may know."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(importlib.util.find_spec("xr_pytables").origin).parent

# from the bottom to the top: a module imports only from lines above its own
BYTES_SIDE = [
    {
        "_version",
        "cpus",
        "filters",
        "fitting",
        "fletcher32",
        "libblosc2",
        "packed_bits",
        "plugins",
        "progress",
        "sources",
    },
    {"chunk_index", "memory", "scatter"},
    {"codecs"},
    {"team", "chunk_decoder"},
    {"chunk_encode", "dense", "global_heap"},
    {"chunk_io"},
    {"conditions", "row_blocks", "segment"},
    {"blocks"},
]
HDF5_SIDE = [
    {"hdf5"},
    {"journal", "libhdf5", "own_writers", "pytables_types", "safe_pickle"},
    {"datatypes", "leaves", "transaction"},
    {"attributes", "extents", "frames"},
    {"columns", "dimensions", "hdfstore", "matlab"},
    {"nodes", "target_file"},
    {"frame_queries", "table_index", "table_indexes", "time_queries"},
]
XARRAY_SIDE = [
    {"alignment", "files"},
    {"door"},
    {"arrays", "layouts", "targets"},
    {"extension_types", "table_arrays", "views", "placement", "chunk_writer"},
    {"queries", "ragged"},
    {"frame_arrays"},
    {"cf_encoding", "store", "ragged_layout", "decoding"},
    {"plan"},
    {"backend", "structure", "table_plan"},
    {"changes"},
    {"writer"},
    {"many_files"},
]
EDGE = [{"listing"}, {"__init__", "cli"}, {"__main__"}]
ORDER = [*BYTES_SIDE, *HDF5_SIDE, *XARRAY_SIDE, *EDGE]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


# folders: what of ours a module in it may import, besides modules of the same folder; each knows third parties' NumPy
FOLDERS = {
    "sources": set(),
    "hdf5": {"chunk_index", "filters", "sources"},
}
FOLDER_MODULES = sorted(f"{folder}/{path.stem}" for folder in FOLDERS for path in (PACKAGE / folder).glob("*.py"))
UNKNOWN_TO_FOLDERS = {"tables", "xarray", "dask", "ctypes", "h5py", "pandas", "blosc2", "numcodecs"}


def imports(module: str) -> tuple[set[str], set[str]]:
    """Modules of this package, and top-level packages of others, that a module imports anywhere in its text.

    For a module of a folder: folders and modules outside of its own.
    """
    own, others = set(), set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if "/" in module and isinstance(node, ast.ImportFrom) and node.level == 1:
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            own |= {node.module.partition(".")[0]} if node.module else {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module.partition(".")[0])
            assert node.module.partition(".")[0] != "xr_pytables", f"{module}: use relative imports"
        elif isinstance(node, ast.Import):
            others |= {name.name.partition(".")[0] for name in node.names}
    return own, others


def names_in(side: list[set[str]]) -> list[str]:
    return sorted(set().union(*side) & set(MODULES))


def test_every_module_has_its_place():
    assert set(MODULES) <= set(LEVEL), "name the new module in ORDER"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    upward = {name for name in imports(module)[0] if LEVEL[name] >= LEVEL[module]}
    if module == "__init__":
        assert not upward
        return
    assert not upward, f"{module} imports {upward}"


@pytest.mark.parametrize("module", names_in(BYTES_SIDE))
def test_bytes_side_knows_neither_xarray_nor_pytables(module):
    assert not imports(module)[1] & {"xarray", "tables", "dask"}


@pytest.mark.parametrize("module", names_in(HDF5_SIDE))
def test_hdf5_side_does_not_know_xarray(module):
    assert not imports(module)[1] & {"xarray", "dask"}


@pytest.mark.parametrize("module", MODULES)
def test_no_second_hdf5_library(module):
    assert not imports(module)[1] & {"h5py", "netCDF4", "h5netcdf", "pyfive"}


@pytest.mark.parametrize("module", FOLDER_MODULES)
def test_folders_know_only_what_is_below_them(module):
    own, others = imports(module)
    assert {name.partition(".")[0] for name in own} <= FOLDERS[module.partition("/")[0]]
    assert not others & UNKNOWN_TO_FOLDERS


@pytest.mark.parametrize("module", [module for module in FOLDER_MODULES if module.startswith("hdf5/")])
def test_the_format_is_read_without_names_of_files(module):
    assert not imports(module)[1] & {"os", "pathlib", "io", "mmap"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_within_a_folder_make_no_circle(folder):
    graph = {}
    for path in (PACKAGE / folder).glob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        siblings = [node for node in nodes if node.level == 1]
        graph[path.stem] = {node.module or name.name for node in siblings for name in node.names}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_looking_the_engine_up_does_not_import_tables():
    code = "import sys, xr_pytables.backend; assert 'tables' not in sys.modules, 'tables was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
