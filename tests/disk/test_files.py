"""No HDF5 handle outlives a call: files stay free for others, and a changed file is noticed.

The lock, forks, descriptors and the identity of files.
"""

from __future__ import annotations

import gc
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import h5py
import numpy as np
import pytest
import tables
import xarray as xr

import xr_pytables
from xr_pytables import FileChangedError
from xr_pytables.disk.files import FileIdentity, checked_group
from xr_pytables.disk.opened_files import hdf5_lock

from ..helpers_reading import assert_same, plain_file, run_python
from ..helpers_threads import WATCHDOG

VALUES = np.arange(600.0).reshape(60, 10)


def write(path: Path, values: np.ndarray = VALUES, **filters: object) -> None:
    """`carray` and `earray` chunked, `array` contiguous, `text` of variable length, all with `values`."""
    with plain_file(path, "w") as file:
        options = {"filters": tables.Filters(**filters), "chunkshape": (7, 4)}
        file.create_carray("/", "carray", obj=values, **options)
        file.create_earray("/", "earray", obj=values, **options)
        file.create_array("/", "array", values)
        file.create_array("/", "scalar", 5.0)
    with h5py.File(path, "r+") as file:
        file.create_dataset("text", data=["a", "é"], dtype=h5py.string_dtype())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file.h5"
    write(path, complevel=1, complib="zlib")
    return path


def touch_later(path: Path) -> None:
    """Make sure that the time of the last change differs, however coarse the file system's clock is."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def opened(path: Path, **kwargs: object) -> xr.Dataset:
    return xr.open_dataset(path, engine="pytables", **kwargs)


def assert_values(ds: xr.Dataset) -> None:
    for name in ("carray", "earray", "array"):
        assert_same(ds[name].values, VALUES)
    assert ds["text"].values.tolist() == ["a", "é"]


# -- others may use the file -------------------------------------------------------------------------------


def test_plain_pytables_can_write_while_a_lazy_dataset_is_alive(path: Path) -> None:
    with opened(path, cache=False) as ds:
        assert_values(ds)
        with tables.open_file(path, "a") as file:
            file.create_array("/", "new", [1])
            file.root.carray.attrs.note = "x"
        assert "new" not in ds
        with opened(path) as again:
            assert again["new"].values.tolist() == [1]


def test_plain_pytables_can_write_between_opening_and_the_first_read(path: Path) -> None:
    with opened(path) as ds:
        with tables.open_file(path, "a") as file:
            file.root.earray.append(np.full((500, 10), -1.0))
        assert_values(ds)


def test_file_can_be_written_by_us_while_a_lazy_dataset_is_alive(path: Path) -> None:
    with opened(path, cache=False) as ds:
        xr_pytables.to_pytables(xr.Dataset({"carray": ("x", [1, 2])}), path, mode="w")
        assert_values(ds)
        with opened(path) as again:
            assert again["carray"].values.tolist() == [1, 2]


def test_plain_pytables_may_have_the_file_open_for_reading_or_writing(path: Path) -> None:
    for mode in ("r", "a"):
        with tables.open_file(path, mode) as file, opened(path, cache=False) as ds:
            assert_values(ds)
            assert_same(file.root.carray[:], VALUES)


def test_closing_all_files_of_pytables_does_no_harm(path: Path) -> None:
    with opened(path, cache=False) as ds:
        tables.file._open_files.close_all()
        assert_values(ds)
        tables.file._open_files.close_all()
        assert_values(ds)


def test_pytables_registry_never_sees_our_files(path: Path) -> None:
    with opened(path) as ds:
        ds.load()
        assert not list(tables.file._open_files.filenames)


def test_h5py_can_write_while_a_lazy_dataset_is_alive(path: Path) -> None:
    with opened(path, cache=False) as ds:
        ds["array"].load()
        with h5py.File(path, "r+") as file:
            file["more"] = np.zeros(10_000)
        touch_later(path)
        assert_values(ds)


# -- the version that was opened, or an error --------------------------------------------------------------


def test_appended_rows_leave_the_old_view_right(path: Path) -> None:
    with opened(path, cache=False) as ds:
        for rows in (100, 1000):
            with tables.open_file(path, "a") as file:
                file.root.earray.append(np.full((rows, 10), -1.0))
            touch_later(path)
            assert ds["earray"].shape == (60, 10)
            assert_values(ds)
            assert_same(ds["earray"][-1].values, VALUES[-1])
        with opened(path) as again:
            assert again["earray"].shape == (1160, 10)


def test_replaced_file_reads_as_it_was(path: Path) -> None:
    with opened(path, cache=False) as ds:
        write(path.with_name("new.h5"), -VALUES)
        os.replace(path.with_name("new.h5"), path)
        assert_values(ds)
        with opened(path) as again:
            assert_same(again["carray"].values, -VALUES)


def test_removed_file_reads_as_it_was(path: Path) -> None:
    with opened(path, cache=False) as ds:
        path.unlink()
        assert_values(ds)


def test_replaced_file_is_noticed_when_its_descriptor_was_given_back(path: Path) -> None:
    ds = opened(path, cache=False)
    ds.close()
    write(path.with_name("new.h5"), -VALUES)
    os.replace(path.with_name("new.h5"), path)
    for name in ("carray", "array", "text"):
        with pytest.raises(FileChangedError, match=r"file\.h5: another file has taken this path"):
            ds[name].load()


def test_removed_file_is_missing_when_its_descriptor_was_given_back(path: Path) -> None:
    ds = opened(path, cache=False)
    ds.close()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"file\.h5"):
        ds["carray"].load()


def overwrite_values(path: Path) -> None:
    with tables.open_file(path, "a") as file:
        file.root.array[0, 0] = 99


def truncate_and_write_again(path: Path) -> None:
    write(path, -VALUES[:50])


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


@pytest.mark.parametrize("change", [overwrite_values, truncate_and_write_again, shrink])
@pytest.mark.parametrize("name", ["carray", "array", "text", "scalar"])
def test_file_changed_in_place_is_noticed(change: Callable[[Path], None], name: str, path: Path) -> None:
    with opened(path, cache=False) as ds:
        ds[name].values  # noqa: B018 - read once before the change: a descriptor and an index of chunks are kept
        change(path)
        touch_later(path)
        with pytest.raises(OSError, match=r"file\.h5.*(changed|damaged)") as caught:
            ds[name].values  # noqa: B018
        if change is not shrink:
            assert isinstance(caught.value, FileChangedError)


def test_array_that_was_removed_from_a_grown_file_is_noticed(path: Path) -> None:
    with opened(path, cache=False) as ds:
        with tables.open_file(path, "a") as file:
            file.remove_node("/carray")
            file.create_carray("/", "carray", obj=np.zeros((60, 10)), chunkshape=(30, 10))
            file.create_array("/", "more", np.zeros(10_000))
        touch_later(path)
        with pytest.raises(FileChangedError, match=r"file\.h5:/carray: the array was changed"):
            ds["carray"].load()
        assert_same(ds["array"].values, VALUES)


@pytest.mark.parametrize("read_before", [True, False])
@pytest.mark.parametrize("kind", ["contiguous", "compressed", "plain", "text", "table", "ragged"])
def test_a_file_that_was_written_anew_and_is_longer_now_was_not_appended_to(
    kind: str, read_before: bool, tmp_path: Path
) -> None:
    def make(values: np.ndarray) -> None:
        with plain_file(path, "w") as file:
            filters, chunk = tables.Filters(5, "zlib"), {"chunkshape": (50,)}
            if kind == "contiguous":
                file.create_array("/", "x", values)
            elif kind in ("compressed", "plain"):
                file.create_earray("/", "x", obj=values, **chunk, filters=filters if kind == "compressed" else None)
            elif kind == "table":
                file.create_table("/", "x", np.rec.fromarrays([values], names="c"), **chunk, filters=filters)
            elif kind == "ragged":
                rows = file.create_vlarray("/", "x", tables.Float64Atom(), chunkshape=(50,))
                for value in values:
                    rows.append(np.full(3, value))
            if kind == "plain":  # in another place than before
                file.move_node("/x", "/", "y")
                file.create_earray("/", "x", obj=values, chunkshape=(50,))
        if kind == "text":
            with h5py.File(path, "a") as file:
                file["x"] = [str(value) for value in values]

    path = tmp_path / "g.h5"
    make(np.arange(200.0))
    old = opened(path, cache=False) if kind != "table" else opened(path, cache=False, group="/x")
    name = "c" if kind == "table" else "x"
    expected = [np.asarray(value).tolist() for value in old[name].values] if read_before else None
    make(np.random.default_rng(0).random(5000))
    try:
        found = [np.asarray(value).tolist() for value in old[name].values]
    except FileChangedError:
        return
    if read_before:
        assert found == expected


def test_a_contiguous_array_beside_one_that_grows_is_read_on(path: Path) -> None:
    with opened(path, cache=False) as ds:
        for _ in range(3):
            with tables.open_file(path, "a") as file:
                file.root.earray.append(np.full((500, 10), -1.0))
            touch_later(path)
            assert_values(ds)


def test_chunks_that_were_written_again_are_noticed_in_a_file_that_grew(path: Path) -> None:
    with opened(path, cache=False) as ds:
        assert_values(ds)
        with tables.open_file(path, "a") as file:
            file.root.earray[:7] = np.random.default_rng(0).random((7, 10))  # compresses less: takes another place
            file.root.earray.append(np.zeros((500, 10)))
        touch_later(path)
        with pytest.raises(FileChangedError, match="chunks that were full when it was opened were written again"):
            ds["earray"].load()


def test_identity_tells_versions_and_files_apart(path: Path) -> None:
    first = FileIdentity.of(str(path))
    assert first.same_version(FileIdentity.of(str(path)))
    touch_later(path)
    second = FileIdentity.of(str(path))
    assert second.same_file(first)
    assert not second.same_version(first)
    write(path.with_name("other.h5"))
    assert not FileIdentity.of(str(path.with_name("other.h5"))).same_file(first)
    elsewhere = FileIdentity(first.size, first.modified, "another host", 1, 2)
    assert elsewhere.same_version(first)
    assert not elsewhere.same_version(second)
    assert pickle.loads(pickle.dumps(first)) == first


# -- pickling, processes, threads --------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, {}])
def test_lazy_datasets_are_pickled_without_their_data(path: Path, chunks: dict[str, int] | None) -> None:
    with opened(path, chunks=chunks) as ds:
        pickled = pickle.dumps(ds)
        again = pickle.loads(pickled)
        xr.testing.assert_identical(again.load(), ds.load())
        assert again["carray"].dims == ds["carray"].dims
    assert VALUES[5:7].tobytes() not in pickled


def test_pickled_dataset_is_read_in_another_process(path: Path) -> None:
    with opened(path, chunks={}) as ds:
        path.with_suffix(".pickle").write_bytes(pickle.dumps(ds))
    printed = run_python(
        "import pickle, sys; ds = pickle.load(open(sys.argv[1], 'rb')); print(float(ds['carray'].sum()))",
        path.with_suffix(".pickle"),
    )
    assert float(printed) == VALUES.sum()


def test_pickled_dataset_of_a_changed_file_is_an_error_in_another_process(path: Path) -> None:
    with opened(path) as ds:
        path.with_suffix(".pickle").write_bytes(pickle.dumps(ds))
    write(path.with_name("new.h5"), -VALUES)
    os.replace(path.with_name("new.h5"), path)
    code = """
        import pickle, sys, xr_pytables
        try:
            pickle.load(open(sys.argv[1], 'rb'))['carray'].load()
        except xr_pytables.FileChangedError as error:
            print(error)
    """
    assert "another file has taken this path" in run_python(code, path.with_suffix(".pickle"))


def test_relative_path_is_read_after_the_working_folder_changed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path.parent / "other").mkdir()
    write(path.parent / "other" / "file.h5", -VALUES, complevel=1, complib="blosc2")
    monkeypatch.chdir(path.parent)
    with opened("file.h5", cache=False) as ds:
        monkeypatch.chdir(path.parent / "other")
        assert_values(ds)
        ds.close()
        assert_values(ds)


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_dask_threads_read_while_another_thread_uses_plain_pytables(path: Path, scheduler: str, tmp_path: Path) -> None:
    stop, errors, rounds = threading.Event(), [], [0]

    def use_plain_pytables() -> None:
        while not rounds[0] or not stop.is_set():
            try:
                with tables.open_file(tmp_path / "own.h5", "w") as file:
                    file.create_carray("/", "a", obj=VALUES)[3:5]
            except Exception as error:
                errors.append(error)
            rounds[0] += 1

    thread = threading.Thread(target=use_plain_pytables)
    thread.start()
    try:
        with opened(path, chunks={}) as ds, dask.config.set(scheduler=scheduler, num_workers=4):
            for _ in range(10):
                assert_values(ds)
    finally:
        stop.set()
        thread.join()
    assert not errors
    assert rounds[0]


def test_many_threads_read_one_array(path: Path) -> None:
    with opened(path, cache=False) as ds, ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda row: ds["carray"][row].values, list(range(60)) * 3))
    assert_same(np.array(rows[-60:]), VALUES)


def test_open_mfdataset_in_parallel(tmp_path: Path) -> None:
    for number in range(6):
        with plain_file(tmp_path / f"{number}.h5", "w") as file:
            file.create_carray("/", "a", obj=np.full((2, 3), number), chunkshape=(1, 3))
    options = {"engine": "pytables", "combine": "nested", "concat_dim": "dim_2", "parallel": True}
    with xr.open_mfdataset(sorted(tmp_path.glob("*.h5")), **options) as ds:
        assert_same(ds["a"].values, np.repeat(np.arange(6), 2)[:, None] * np.ones((1, 3), int))


def test_more_files_than_the_cache_holds_are_read_by_threads(tmp_path: Path) -> None:
    paths = []
    for number in range(8):
        paths.append(tmp_path / f"{number}.h5")
        with plain_file(paths[-1], "w") as file:
            file.create_carray("/", "a", obj=np.full((40, 3), number), chunkshape=(1, 3))
    with xr.set_options(file_cache_maxsize=2):
        datasets = [opened(path, cache=False) for path in paths]

        def read(number: int) -> bool:
            return bool((datasets[number % 8]["a"][number % 40].values == number % 8).all())

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(read, range(600)))
        for ds in datasets:
            ds.close()


def test_closed_dataset_opens_its_file_again(path: Path) -> None:
    ds = opened(path, cache=False)
    assert_values(ds)
    ds.close()
    assert_values(ds)
    ds.close()


def open_descriptors() -> list[str]:
    folder = "/proc/self/fd"
    return sorted(os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder) if os.path.islink(f"{folder}/{fd}"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted in /proc")
@pytest.mark.parametrize("end", ["close", "collect", "fail"])
def test_no_descriptor_is_left(end: str, path: Path) -> None:
    def ours() -> list[str]:
        return [name for name in open_descriptors() if str(path.parent) in name]

    assert not ours()
    for _ in range(3):
        if end == "fail":
            with pytest.raises(OSError, match="missing"):
                opened(path, group="missing")
            continue
        ds = opened(path)
        tree = xr.open_datatree(path, engine="pytables")
        ds.load()
        tree.load()
        assert set(ours()) == {str(path)}
        if end == "close":
            ds.close()
            tree.close()
        del ds, tree
    gc.collect()
    assert not ours()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted in /proc")
def test_files_that_are_linked_to_again_and_again_are_opened_once(path: Path) -> None:
    """Those that are no HDF5 files, too, and those that have raw data of an array and arrays of their own."""

    def ours() -> list[str]:
        return [name for name in open_descriptors() if str(path.parent) in name]

    (path.parent / "junk.h5").write_bytes(b"no HDF5 file")
    with h5py.File(path.parent / "links.h5", "w") as file:
        file.create_dataset("raw", shape=(3,), dtype="u1", external=[(path.name, 1, 3)])
        file["to_raw"] = h5py.ExternalLink(path.name, "/carray")
        for number in range(3):
            file[f"to_junk{number}"] = h5py.ExternalLink("junk.h5", "/x")
    with pytest.warns(match="junk"):
        ds = opened(path.parent / "links.h5")
    assert ours() == sorted(map(str, path.parent.iterdir()))
    assert_same(ds["raw"].values, np.frombuffer(b"HDF", "u1"))
    assert_same(ds["to_raw"].values, VALUES)
    ds.close()
    assert not ours()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_child_of_a_fork_reads_though_another_thread_held_the_lock(path: Path) -> None:
    code = """
        import os, sys, threading, warnings
        warnings.simplefilter("ignore")
        import xarray as xr
        from xr_pytables.disk.opened_files import HDF5_LOCK, hdf5_lock
        ds = xr.open_dataset(sys.argv[1], engine="pytables", cache=False)
        total = float(ds["carray"].sum())
        locked, wanted = threading.Event(), threading.Event()
        class Lock:
            # the same lock, which tells when somebody asks for it
            def __init__(self, lock):
                self.lock, self.release = lock, lock.release
            def acquire(self, *arguments, **options):
                wanted.set()
                return self.lock.acquire(*arguments, **options)
            def __enter__(self):
                return self.acquire()
            def __exit__(self, *exception):
                self.release()
        def hold():
            with hdf5_lock():
                wanted.clear()
                locked.set()
                wanted.wait()
        thread = threading.Thread(target=hold)
        HDF5_LOCK.lock = Lock(HDF5_LOCK.lock)
        thread.start()
        locked.wait()
        child = os.fork()
        if not child:
            right = float(ds["carray"].sum()) == total and ds["text"].values.tolist() == ["a", "é"]
            again = xr.open_dataset(sys.argv[1], engine="pytables")
            os._exit(0 if right and float(again["array"].sum()) == total else 1)
        thread.join()
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), float(ds["earray"].sum()) == total)
    """
    assert run_python(code, path).split() == ["0", "True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_child_of_a_fork_reads_though_another_thread_looked_at_the_cache_of_files(path: Path) -> None:
    """Even where the garbage collector, the first thing in the child, closes files that nobody needs."""
    code = """
        import faulthandler, gc, os, sys, threading, warnings
        warnings.simplefilter("ignore")
        import xarray as xr
        from xarray.backends.file_manager import FILE_CACHE
        from xr_pytables.disk import opened_files
        ds = xr.open_dataset(sys.argv[1], engine="pytables", cache=False)
        total = float(ds["carray"].sum())
        used, wanted = threading.Event(), threading.Event()
        class Lock:
            # the same lock, which tells when somebody asks for it
            def __init__(self, lock):
                self.lock, self.release = lock, lock.release
            def acquire(self, *arguments, **options):
                wanted.set()
                return self.lock.acquire(*arguments, **options)
            def __enter__(self):
                return self.acquire()
            def __exit__(self, *exception):
                self.release()
        def use():
            with FILE_CACHE._lock, next(iter(opened_files._managers))._lock:
                wanted.clear()
                used.set()
                wanted.wait()
        FILE_CACHE._lock = Lock(FILE_CACHE._lock)
        thread = threading.Thread(target=use)
        thread.start()
        used.wait()
        child = os.fork()
        if not child:
            faulthandler.dump_traceback_later(200, exit=True)
            gc.collect()
            right = float(ds["carray"].sum()) == total
            again = xr.open_dataset(sys.argv[1], engine="pytables")
            os._exit(0 if right and float(again["carray"].sum()) == total else 1)
        thread.join()
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), float(ds["carray"].sum()) == total)
    """
    assert run_python(code, path).split() == ["0", "True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_children_of_forks_read_while_other_threads_read(path: Path) -> None:
    code = """
        import faulthandler, os, sys, threading, warnings
        warnings.simplefilter("ignore")
        import xarray as xr
        ds = xr.open_dataset(sys.argv[1], engine="pytables", cache=False)
        total, stop = float(ds["carray"].sum()), threading.Event()
        def read():
            while not stop.is_set():
                assert float(ds["carray"].sum()) == total
                assert ds["text"].values.tolist() == ["a", "é"]
        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        codes = []
        for _ in range(15):
            child = os.fork()
            if not child:
                faulthandler.dump_traceback_later(200, exit=True)
                right = float(ds["carray"].sum()) == total and ds["text"].values.tolist() == ["a", "é"]
                os._exit(0 if right else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        stop.set()
        for thread in threads:
            thread.join()
        print(codes)
    """
    assert run_python(code, path).strip() == str([0] * 15)


def test_the_lock_is_free_after_success_and_failure(path: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with opened(path) as ds:
        ds.load()
    for bad in (tmp_path / "bad.h5", path):
        with pytest.raises(OSError, match=r"\.h5"):
            opened(bad, group="missing")
    taken = []

    def take() -> None:
        with hdf5_lock():
            taken.append(True)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join(WATCHDOG)
    assert taken


# -- the interpreter ---------------------------------------------------------------------------------------


def test_interpreter_exit_with_lazy_datasets_warns_of_nothing(path: Path) -> None:
    code = """
        import sys, xarray as xr
        ds = xr.open_dataset(sys.argv[1], engine="pytables")
        tree = xr.open_datatree(sys.argv[1], engine="pytables", chunks={})
        lazy = xr.open_dataset(sys.argv[1], engine="pytables", cache=False)
        print(float(ds["carray"].sum()), float(tree["array"].sum()))
    """
    printed = run_python(code, path, options=("-X", "dev", "-W", "error", *IMPORTS_THAT_WARN))
    assert printed.split() == [str(VALUES.sum())] * 2


IMPORTS_THAT_WARN = ("-W", "ignore::DeprecationWarning", "-W", "ignore::ImportWarning")


def test_backend_module_does_not_import_tables() -> None:
    code = """
        import sys
        import xarray
        before = set(sys.modules)
        import xr_pytables.backend
        new = {name.split(".")[0] for name in set(sys.modules) - before}
        print(sorted(new & {"tables", "h5py", "numcodecs", "blosc2"}))
        entrypoint = xr_pytables.backend.PyTablesBackendEntrypoint()
        print(entrypoint.guess_can_open("nothing.h5"), "tables" in sys.modules)
        print("pytables" in xarray.backends.list_engines())
    """
    assert run_python(code).split() == ["[]", "False", "False", "True"]


def test_package_does_not_import_h5py_or_netcdf4() -> None:
    code = """
        import importlib, pkgutil, sys, xr_pytables
        for module in pkgutil.iter_modules(xr_pytables.__path__):
            if module.name != "__main__":
                importlib.import_module(f"xr_pytables.{module.name}")
        print([name for name in ("h5py", "netCDF4", "h5netcdf") if name in sys.modules])
    """
    assert run_python(code).strip() == "[]"


def test_a_child_that_is_born_while_chunks_are_located_reads(path: Path) -> None:
    code = """
        import os, sys, threading, xarray as xr
        from xr_pytables.arrays import leaf_arrays, frame_arrays
        from xr_pytables.model import frames
        ds = xr.open_dataset(sys.argv[1], engine="pytables", cache=False)
        inside, go = threading.Event(), threading.Event()
        real = leaf_arrays.read_index
        def slow(*args, **how):
            inside.set()
            go.wait()
            return real(*args, **how)
        leaf_arrays.read_index = slow
        thread = threading.Thread(target=lambda: ds["carray"].values)
        thread.start()
        inside.wait()
        leaf_arrays.read_index = real
        child = os.fork()
        if not child:
            print(float(ds["carray"][59, 9]), flush=True)
            os._exit(0)
        print(os.waitpid(child, 0)[1])
        go.set()
        thread.join()
    """
    assert run_python(code, path, options=("-W", "ignore")) == "599.0\n0\n"


def test_files_that_are_open_when_the_interpreter_ends_are_closed_without_a_word(path: Path) -> None:
    code = """
        import sys
        from xr_pytables.disk import files, opened_files
        kept = opened_files.OpenedFile(sys.argv[1], files.FileIdentity.of(sys.argv[1]), for_users=False)
        with kept.descriptor():
            print("open")
        sys.kept = kept
    """
    assert run_python(code, path) == "open\n"


def test_groups_are_whole_paths() -> None:
    assert [checked_group(group) for group in (None, "", "g", "/g//h/", "./g/./h")] == ["/", "/", "/g", "/g/h", "/g/h"]
    for group in ("/g/../h", "..", "../g"):
        with pytest.raises(ValueError, match=r"goes up with '\.\.', which HDF5 does not know"):
            checked_group(group)
