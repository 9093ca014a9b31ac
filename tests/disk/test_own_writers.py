"""What this process itself writes and has not flushed is read, not taken for missing."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import tables
import xarray as xr

import xr_pytables
from xr_pytables.disk import own_writers
from xr_pytables.disk.opened_files import hdf5_lock

from ..helpers_reading import assert_same, plain_file, run_python


def open_it(path: Path, **kwargs: object) -> xr.Dataset:
    return xr.open_dataset(path, engine="pytables", **kwargs)


def test_rows_that_this_process_did_not_flush_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # PyTables keeps the name as it was given
    with plain_file("u.h5", "w") as file:
        array = file.create_earray("/", "e", tables.Float64Atom(), (0,), chunkshape=(1000,))
        text = file.create_vlarray("/", "v", tables.VLUnicodeAtom())
        table = file.create_table("/", "t", np.dtype([("x", "f8")]))
        file.flush()
        array.append(np.full(3000, 7.0))
        text.append("é")
        for number in range(5):
            table.row["x"] = number
            table.row.append()
        ds = open_it(tmp_path / "u.h5")
        assert_same(ds["e"], np.full(3000, 7.0))
        assert ds["v"].values.tolist() == ["é"]
        assert_same(open_it(tmp_path / "u.h5", group="/t")["x"], np.arange(5.0))
        array[:] = 8.0
        assert_same(open_it(tmp_path / "u.h5")["e"], np.full(3000, 8.0))
        table.append([(5.0,)])
        assert "6" in str(xr_pytables.tree(tmp_path / "u.h5"))


def test_what_external_links_lead_to_is_flushed_too(tmp_path: Path) -> None:
    with plain_file(tmp_path / "a.h5", "w") as file:
        file.create_external_link("/", "far", f"{tmp_path}/b.h5:/e")
    with plain_file(tmp_path / "b.h5", "w") as file:
        array = file.create_earray("/", "e", tables.Float64Atom(), (0,), chunkshape=(1000,))
        file.flush()
        array.append(np.full(10, 7.0))
        assert_same(open_it(tmp_path / "a.h5")["far"], np.full(10, 7.0))


def test_files_of_others_and_files_in_memory_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with plain_file(path, "w") as file:
        file.create_array("/", "x", [1])
    flushed: list[str] = []
    options = {"driver": "H5FD_CORE", "driver_core_backing_store": 0}
    with plain_file(tmp_path / "b.h5", "w") as other, plain_file(tmp_path / "memory.h5", "w", **options) as memory:
        other.flush = lambda: flushed.append("other")
        memory.flush = lambda: flushed.append("memory")
        assert open_it(path)["x"].values.tolist() == [1]
    assert not flushed


def test_a_handle_that_cannot_be_flushed_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("no space")

    with plain_file(tmp_path / "a.h5", "w") as file:
        file.create_array("/", "x", [1])
        file.flush()
        file.flush, flush = fail, file.flush
        with pytest.raises(OSError, match=r"a\.h5: this process has the file open for writing \(tables\).*no space"):
            open_it(tmp_path / "a.h5")
        file.flush = flush


def test_a_handle_that_another_thread_is_closing_is_passed_by(tmp_path: Path) -> None:
    def fail() -> None:
        raise tables.HDF5ExtError("invalid file identifier")

    with plain_file(tmp_path / "a.h5", "w") as file:
        file.create_array("/", "x", [1])
    with plain_file(tmp_path / "b.h5", "w") as other:
        other.fileno = fail
        assert open_it(tmp_path / "a.h5")["x"].values.tolist() == [1]


def test_handles_of_h5py_are_flushed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("x", (10,), "i8", chunks=(10,))
        dataset[:] = 7
        assert np.full(10, 7).tobytes() not in path.read_bytes()
        with hdf5_lock():
            own_writers.flush(str(path))
        assert np.full(10, 7).tobytes() in path.read_bytes()


def test_no_library_is_imported_to_look() -> None:
    code = """
        import sys
        from xr_pytables.disk import own_writers
        own_writers.flush("x")
        print(*{"tables", "h5py"} & {*sys.modules})
    """
    assert not run_python(code).strip()
