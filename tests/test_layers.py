"""Imports point down, and each side knows only what it may know."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(importlib.util.find_spec("xr_pytables").origin).parent

# from the bottom to the top: a module imports only from lines above its own
BYTES_SIDE = [
    {"_version", "cpus", "filters", "libblosc2", "progress"},
    {"arenas", "chunk_index", "memory", "scatter"},
    {"chunk_tree", "codecs"},
    {"team", "chunk_decoder"},
    {"chunk_encode", "dense", "global_heap"},
    {"chunk_io"},
    {"conditions", "row_blocks", "segment"},
    {"blocks"},
]
HDF5_SIDE = [
    {"journal", "libhdf5", "safe_pickle"},
    {"datatypes", "transaction"},
    {"safe_file"},
    {"attributes", "extents", "frames"},
    {"columns", "dimensions", "hdfstore", "matlab"},
    {"nodes", "target_file"},
    {"frame_queries", "table_index", "table_indexes"},
]
XARRAY_SIDE = [
    {"alignment", "files"},
    {"arrays", "layouts", "targets", "waiting"},
    {"table_arrays", "views", "placement", "chunk_writer"},
    {"frame_arrays", "queries", "ragged"},
    {"store", "ragged_layout", "decoding"},
    {"plan"},
    {"backend", "structure", "table_plan"},
    {"changes", "new_file"},
    {"writer"},
    {"many_files"},
]
EDGE = [{"listing"}, {"__init__", "cli"}, {"__main__"}]
# the checksum of HDF5 is the one function of libhdf5 that the bytes side calls: it touches no state and needs no lock
CHECKSUM = ("codecs", "libhdf5")
ORDER = [*BYTES_SIDE, *HDF5_SIDE, *XARRAY_SIDE, *EDGE]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def imports(module: str) -> tuple[set[str], set[str]]:
    """Modules of this package, and top-level packages of others, that a module imports anywhere in its text."""
    own, others = set(), set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            own |= {node.module} if node.module else {name.name for name in node.names}
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
    upward = {name for name in imports(module)[0] if LEVEL[name] >= LEVEL[module] and (module, name) != CHECKSUM}
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


def test_looking_the_engine_up_does_not_import_tables():
    code = "import sys, xr_pytables.backend; assert 'tables' not in sys.modules, 'tables was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
