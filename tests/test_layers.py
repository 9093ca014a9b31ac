"""Imports point down, and each side knows only what it may know."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tables

PACKAGE = Path(importlib.util.find_spec("xr_pytables").origin).parent

# folders and the modules beside them, from the bottom to the top: what each may import of ours besides its own folder
FLOORS: dict[str, set[str]] = {
    "_version": set(),
    "errors": set(),
    "parsing": set(),
    "time_units": set(),
    "sources": set(),
    "chunks": {"sources"},
    "hdf5": {"chunks", "sources"},
    "model": {"chunks", "hdf5", "sources"},
    "disk": {"hdf5", "sources"},
    "arrays": {"chunks", "disk", "hdf5", "model", "sources"},
    "where": {"arrays", "chunks", "disk", "hdf5", "model", "parsing", "time_units"},
    "library": {"chunks", "disk", "hdf5", "model", "sources"},
    "writing": {"arrays", "chunks", "disk", "hdf5", "library", "model", "parsing", "sources", "time_units", "where"},
    "accessor": {"writing"},
    "decoding": {"sources"},
    "store": {"arrays", "decoding", "disk", "model", "sources", "where"},
    "backend": {"accessor", "decoding", "disk", "model", "store", "where"},
    "indexes": {"backend", "disk", "hdf5", "model", "sources", "store", "where"},
    "virtual": {"chunks", "disk", "hdf5", "model", "sources", "store"},
    "value_text": {"sources", "time_units"},
    "listing": {"chunks", "disk", "hdf5", "model", "sources", "store", "value_text"},
    "tools": {
        "chunks",
        "disk",
        "hdf5",
        "library",
        "listing",
        "model",
        "sources",
        "store",
        "time_units",
        "value_text",
        "where",
        "writing",
    },
    "commands": {"disk", "listing", "sources", "tools"},
    "__init__": {
        "_version",
        "accessor",
        "backend",
        "disk",
        "indexes",
        "listing",
        "model",
        "sources",
        "tools",
        "writing",
    },
    "cli": {"_version", "commands"},
    "__main__": {"cli"},
}
FOLDERS = sorted(name for name in FLOORS if (PACKAGE / name).is_dir())
MODULES = sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))

# what the folders know of others' packages
ABOVE_BYTES = {"xarray", "dask", "tables", "pandas", "h5py"}
UNKNOWN = {
    "sources": {*ABOVE_BYTES, "ctypes", "blosc2", "numcodecs"},
    "hdf5": {*ABOVE_BYTES, "ctypes", "blosc2", "numcodecs", "os", "pathlib", "io", "mmap"},  # no name of a file either
    "chunks": {"xarray", "dask", "tables"},
    "model": {"xarray", "dask", "tables", "ctypes"},
    "disk": {"dask", "tables", "h5py"},
    "library": {"xarray", "dask"},
}


def floor_of(module: str) -> str:
    return module.partition("/")[0]


def imports(module: str) -> tuple[set[str], set[str]]:
    """Modules of this package, as paths in it, and top-level packages of others, that a module imports anywhere."""
    own, others = set(), set()
    folder = [] if "/" not in module else [floor_of(module)]
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            parents = folder[: len(folder) + 1 - node.level]
            inside = [*parents, *(node.module or "").split(".")] if node.module else parents
            names = [[*inside, name.name] for name in node.names]
            own |= {"/".join(path if "/".join(path) in MODULES else inside) for path in names}
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module.partition(".")[0])
            assert node.module.partition(".")[0] != "xr_pytables", f"{module}: use relative imports"
        elif isinstance(node, ast.Import):
            others |= {name.name.partition(".")[0] for name in node.names}
    return own, others


def test_every_folder_and_module_has_its_floor():
    assert {floor_of(module) for module in MODULES} == set(FLOORS)
    assert all(list(FLOORS).index(below) < list(FLOORS).index(name) for name in FLOORS for below in FLOORS[name])


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    floor = floor_of(module)
    own = {floor if "/" in module else "", "errors"}  # of which every module may know
    assert {floor_of(name) for name in imports(module)[0]} - own <= FLOORS[floor]


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_within_a_folder_make_no_circle(folder):
    inside = [module for module in MODULES if floor_of(module) == folder]
    graph = {module: {name for name in imports(module)[0] if floor_of(name) == folder} for module in inside}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("module", MODULES)
def test_folders_know_only_what_they_need_of_others(module):
    assert not imports(module)[1] & UNKNOWN.get(floor_of(module), set())


@pytest.mark.parametrize("module", MODULES)
def test_no_second_hdf5_library(module):
    assert not imports(module)[1] & {"h5py", "netCDF4", "h5netcdf", "pyfive"}


def test_looking_the_engine_up_does_not_import_tables():
    code = "import sys, xr_pytables.backend; assert 'tables' not in sys.modules, 'tables was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_looking_at_a_file_imports_nothing_that_takes_long(tmp_path):
    path = tmp_path / "a.h5"
    with tables.open_file(path, "w") as file:
        file.create_carray("/", "a", obj=np.arange(10.0))
        file.create_table("/", "t", obj=np.zeros(3, "i4,f8"))
    code = """if True:
        import sys, xr_pytables
        groups = xr_pytables.tree(sys.argv[1]).groups
        print([len(group.arrays) for group in groups], {"xarray", "pandas", "dask", "tables"} & {*sys.modules})
    """
    done = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True)
    assert done.stdout == "[1, 2] set()\n"
