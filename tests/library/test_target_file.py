"""Files that are open for writing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ..helpers_reading import run_python


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_file_is_free_when_it_is_closed_though_a_child_was_forked_meanwhile(tmp_path: Path) -> None:
    code = """
        import os, signal, sys, warnings
        warnings.simplefilter("ignore")
        import h5py
        import xarray as xr
        from xr_pytables import to_pytables
        from xr_pytables.writing import changes
        path, children, apply = sys.argv[1], [], changes._apply
        def forking(*arguments):
            children.append(os.fork())
            if not children[-1]:
                signal.pause()
            apply(*arguments)
        to_pytables(xr.Dataset({"a": ("n", [1, 2])}), path, append_dim="n")
        changes._apply = forking
        try:
            for value in (3, 4):
                to_pytables(xr.Dataset({"a": ("n", [value])}), path, append_dim="n")
            h5py.File(path, "r+").close()
            print(xr.open_dataset(path, engine="pytables")["a"].values.tolist(), len(children))
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
    """
    assert run_python(code, tmp_path / "file.h5").split("\n")[0] == "[1, 2, 3, 4] 2"
    assert os.listdir(tmp_path) == ["file.h5"]
