"""What a caller may catch: exceptions of one module, each an OSError, the public ones by the package's name."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pickle
from pathlib import Path

import h5py
import pytest
import xarray as xr

import xr_pytables
from xr_pytables import errors

PACKAGE = Path(importlib.util.find_spec("xr_pytables").origin).parent
ALL = {name: one for name, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, Exception)}


def test_all_are_failures_of_the_system_or_of_what_it_holds() -> None:
    assert [name for name, one in ALL.items() if not issubclass(one, OSError)] == []
    assert [name for name, one in ALL.items() if not one.__doc__] == []


def test_the_public_ones_have_the_package_as_their_home() -> None:
    public = {name for name in xr_pytables.__all__ if name.endswith("Error")}
    assert {"FileBusyError", "FileChangedError", "FormatError", "MissingNodeError", "RemoteError"} <= public
    assert [name for name in public if getattr(xr_pytables, name) is not ALL[name]] == []


def test_no_other_module_makes_an_error_of_the_system() -> None:
    """A subclass of OSError outside would be one that callers cannot find. (A subclass of one here may add to it.)"""
    of_the_system = {"OSError", "IOError", "BlockingIOError"}
    found = [
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and of_the_system & {base.id for base in node.bases if isinstance(base, ast.Name)}
    ]
    assert found == []


def test_why_chunks_are_too_many_comes_along_between_processes() -> None:
    error = pickle.loads(pickle.dumps(errors.TooManyChunksError("a.h5: 9 chunks: read less", "9 chunks")))
    assert (str(error), error.reason) == ("a.h5: 9 chunks: read less", "9 chunks")


def test_they_can_be_caught(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = [1]
    with pytest.raises(xr_pytables.MissingNodeError, match="there is no '/b'"):
        xr.open_dataset(tmp_path / "a.h5", engine="pytables", group="/b")
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:100])
    with pytest.raises(xr_pytables.FormatError, match=r"b\.h5"):
        xr.open_dataset(tmp_path / "b.h5", engine="pytables")
