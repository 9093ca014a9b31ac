"""New files: blocks go straight into them from wherever they are computed, and each step can be repeated."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dask
import dask.array
import h5py
import numpy as np
import pytest
import xarray as xr
from dask.callbacks import Callback
from hypothesis import given, settings
from hypothesis import strategies as st

from xr_pytables import to_pytables
from xr_pytables.chunks.index import ChunkIndex, ChunkStorage
from xr_pytables.disk.arenas import SharedRoom
from xr_pytables.disk.transaction import Transaction
from xr_pytables.library.target_file import TargetArray, TargetFile
from xr_pytables.writing import execution, new_file, plan
from xr_pytables.writing.blocks import BlockTarget
from xr_pytables.writing.lazy_blocks import put
from xr_pytables.writing.request import WriteRequest
from xr_pytables.writing.targets import USUAL, ArenaTarget, Effort, SharedNotes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.h5"


def read(path: Path) -> xr.Dataset:
    with xr.open_dataset(path, engine="pytables") as dataset:
        return dataset.load()


def some(chunks: object = (4, 3)) -> xr.Dataset:
    values = np.arange(60.0).reshape(10, 6)
    return xr.Dataset({"v": (("y", "x"), dask.array.from_array(values, chunks=chunks))})


class Job:
    """A write by many processes, step by step: after `Job(...)`, all blocks are stored and nothing is committed."""

    def __init__(
        self, path: Path, dataset: xr.Dataset, encoding: dict[str, object] | None = None, effort: Effort = USUAL
    ) -> None:
        planned = plan.plan_write(WriteRequest(dataset, path, encoding=encoding, safe_chunks=False), {})
        self.plan, self.effort = planned.without_data(), effort
        self.transaction = Transaction.beside(str(path))
        self.room, notes = SharedRoom(self.transaction.folder), SharedNotes(self.transaction.folder)
        self.parts = new_file.parts_of(planned, self.transaction, self.room, notes, effort)
        self.begin = lambda: execution.begin_delayed(planned.without_lazy_data(), self.transaction, effort)
        self.begin()
        arrays = [variable.data for _, variable in new_file.streamed(planned)]
        dask.compute(put(arrays, [part.target for part in self.parts]))

    def commit(self) -> None:
        execution.commit_delayed(None, self.plan, self.transaction, self.parts, self.effort, False)
        self.transaction.forget()  # as the Delayed does when it was computed

    def notes(self) -> list[Path]:
        return sorted(Path(self.transaction.folder).glob("block-*.seg"))


def test_blocks_are_encoded_where_they_are_computed_and_written_once(path, monkeypatch):
    monkeypatch.setattr(TargetFile, "write", None)  # nothing is left for HDF5
    monkeypatch.setattr(TargetArray, "write_chunk", None)
    job = Job(path, some(), {"v": {"chunksizes": (2, 3), "complib": "blosc2:lz4"}})
    assert len(job.notes()) == 6
    size = os.path.getsize(job.transaction.growing_file)
    job.commit()
    assert path.stat().st_size - size < 20_000  # the index, and no chunk
    xr.testing.assert_equal(read(path), some())
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("compute", [True, False])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_all_programs_read_the_same_of_every_kind_of_array(path, scheduler, compute):
    rng = np.random.default_rng(0)
    text = np.array([f"text {n}" * (n % 5) for n in range(12)], object)
    dataset = xr.Dataset(
        {
            "packed": (("t", "x"), dask.array.from_array(rng.random((12, 30)), chunks=(5, 30))),
            "shared": (("t", "x"), dask.array.from_array(rng.random((12, 30)), chunks=(5, 7))),
            "text": ("t", dask.array.from_array(text, chunks=5)),
            "flat": (("t", "x"), dask.array.from_array(rng.random((12, 30)), chunks=(4, 10))),
            "scalar": dask.array.from_array(np.float32(3)),
            "empty": (("t", "none"), dask.array.zeros((12, 0), chunks=(4, 1))),
            "memory": ("x", np.arange(30)),
        }
    )
    encoding = {
        "packed": {"chunksizes": (5, 8), "complib": "blosc:zstd"},
        "shared": {"chunksizes": (4, 8), "zlib": True},
        "flat": {"contiguous": True},
        "text": {"string": "vlen"},
    }
    with dask.config.set(scheduler=scheduler, num_workers=2):
        written = to_pytables(dataset, path, encoding=encoding, safe_chunks=False, compute=compute)
        if not compute:
            written.compute()
    for engine in ("pytables", "netcdf4", "h5netcdf"):
        with xr.open_dataset(path, engine=engine) as found:
            for name, variable in dataset.variables.items():
                np.testing.assert_array_equal(found[name].values, variable.compute().values, err_msg=f"{engine} {name}")
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["shared"][:], dataset.shared.values)
    assert os.listdir(path.parent) == [path.name]


def test_a_delayed_write_computes_nothing_twice_and_nothing_as_a_whole(path):
    seen = []
    data = dask.array.map_blocks(
        lambda block_info=None: seen.append(block_info[None]["chunk-location"]) or np.ones(3),
        chunks=((3, 3, 3),), dtype="f8", meta=np.empty(0),
    )  # fmt: skip
    to_pytables(xr.Dataset({"v": ("x", data)}), path, compute=False).compute(scheduler="synchronous")
    assert sorted(seen) == [(0,), (1,), (2,)]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_any_blocks_and_chunks_come_back(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "file.h5"
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    chunks = []
    for length in shape:
        cuts = sorted(data.draw(st.sets(st.integers(1, length), max_size=3)) | {length})
        chunks.append(tuple(np.diff([0, *cuts]).tolist()))
    values = np.random.default_rng(0).integers(0, 3, shape).astype(data.draw(st.sampled_from([">f8", "i2", "S3"])))
    words = {"chunksizes": tuple(data.draw(st.integers(1, length)) for length in shape)}
    if complib := data.draw(st.sampled_from([None, "zlib", "blosc:lz4", "blosc2:zstd"])):
        words |= {"complib": complib}
    dataset = xr.Dataset({"v": (("y", "x"), dask.array.from_array(values, chunks=tuple(chunks)))})
    Job(path, dataset, {"v": words}, Effort(write_empty_chunks=data.draw(st.booleans()))).commit()
    with xr.open_dataset(path, engine="pytables", decode_cf=False) as found:
        np.testing.assert_array_equal(found.v.values, values)


def test_chunks_of_the_fill_value_are_left_out(path):
    values = np.zeros((6, 4))
    values[2:4] = 1
    dataset = xr.Dataset({"v": (("y", "x"), dask.array.from_array(values, chunks=(2, 4)))})
    encoding = {"v": {"chunksizes": (2, 2), "_FillValue": 0.0}}
    for compute in (True, False):
        written = to_pytables(dataset, path, encoding=encoding, write_empty_chunks=False, compute=compute)
        if not compute:
            written.compute()
        with h5py.File(path) as file:
            assert file["v"].id.get_num_chunks() == 2
            np.testing.assert_array_equal(file["v"][:], values)


def test_blocks_that_share_chunks_are_put_together_in_the_last_step(path):
    job = Job(path, some(((3, 7), 6)), {"v": {"chunksizes": (4, 6), "zlib": True}})
    assert isinstance(job.parts[0].target, BlockTarget)
    job.commit()
    xr.testing.assert_equal(read(path), some())


@pytest.mark.parametrize("processes", [1, 2])
def test_holes_are_less_than_a_twentieth_of_the_file(path, processes):
    values = np.random.default_rng(0).random((1600, 2000)).astype("f4")
    # blocks of 290 KB: each of another process than the one before may end within a page, which nobody else gets
    dataset = xr.Dataset({"v": (("y", "x"), dask.array.from_array(values, chunks=(40, 2000)))})
    with dask.config.set(scheduler="processes", num_workers=processes):
        to_pytables(dataset, path, encoding={"v": {"chunksizes": (10, 1000), "complib": "blosc:lz4"}})
    with h5py.File(path) as file:
        stored = file["v"].id.get_storage_size()
    assert path.stat().st_size < 1.05 * stored


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flip", "cut", "swap", "remove"])
def test_a_damaged_note_is_an_error_and_the_old_file_stays(path, damage):
    old = xr.Dataset({"old": 1})
    to_pytables(old, path)
    job = Job(path, some(), {})
    first, second, *_ = job.notes()
    data = first.read_bytes()
    if damage == "flip":
        first.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    elif damage == "cut":
        first.write_bytes(data[:-5])
    elif damage == "swap":
        second.write_bytes(data)
    else:
        second.unlink()
    message = {
        "flip": "the checksum of what begins at",
        "cut": "is damaged: it has no end",
        "swap": r"is about the block of \(4, 3\) at \(0, 0\), expected that of \(4, 3\) at \(0, 3\)",
        "remove": r"file\.h5:/: variable 'v': only 5 of 6 blocks were stored, not the one at \(0, 3\)",
    }[damage]
    with pytest.raises(OSError, match=message):
        job.commit()
    xr.testing.assert_equal(read(path), old)
    to_pytables(xr.Dataset({"new": 1}), path)  # which clears away what is left
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("reader", ["ours", "HDF5"])
@pytest.mark.parametrize("wrong", ["address", "size", "filter_mask"])
def test_an_index_that_readers_do_not_confirm_is_never_committed(path, monkeypatch, wrong, reader):
    old = xr.Dataset({"old": 1})
    to_pytables(old, path)
    job = Job(path, some(), {"v": {"chunksizes": (2, 3), "zlib": True}})
    real = new_file.write_tree

    def differs(fd: int, index: ChunkIndex, storage: ChunkStorage, at: int) -> int:
        column = getattr(index, wrong).copy()
        column[0, 0] += 1
        return real(fd, replace(index, **{wrong: column}), storage, at)

    monkeypatch.setattr(new_file, "write_tree", differs)
    if reader == "HDF5":
        monkeypatch.setattr(new_file, "_check", lambda *args: None)
    message = {"ours": "the index of the chunks is not what was written", "HDF5": "HDF5 does not find"}[reader]
    with pytest.raises(OSError, match=f"/v: {message}"):
        job.commit()
    xr.testing.assert_equal(read(path), old)


def test_the_last_whole_copy_of_a_block_counts_and_one_only(path):
    job = Job(path, some(), {})
    target = job.parts[0].target
    expected = some().load()
    expected.v[:4, :3] = -1.0
    target[slice(0, 4), slice(0, 3)] = expected.v[:4, :3].values  # a task runs again, and gives something else
    with pytest.raises(TypeError):  # and once more, but fails
        target[slice(0, 4), slice(0, 3)] = np.full((4, 3), {})
    assert len(job.notes()) == 6
    job.commit()
    xr.testing.assert_equal(read(path), expected)


def test_an_empty_block_does_not_replace_the_block_that_begins_at_the_same_place(path):
    job = Job(path, some(), {})
    job.parts[0].target[slice(0, 0), slice(0, 3)] = np.zeros((0, 3))
    job.commit()
    xr.testing.assert_equal(read(path), some())


def test_a_graph_that_failed_takes_no_old_block_when_it_is_computed_again(path):
    run = 1

    def made(block: np.ndarray) -> np.ndarray:
        if run == 1 and block[0, 0] == 27.0:
            raise ArithmeticError("as asked")
        return block * run

    dataset = some().assign(v=lambda ds: ds.v.copy(data=ds.v.data.map_blocks(made, dtype="f8", meta=np.zeros((0, 0)))))
    written = to_pytables(dataset, path, compute=False)
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(ArithmeticError):
            written.compute()
        assert not path.exists()
        run = 2
        written.compute()
    xr.testing.assert_equal(read(path), some() * 2)


def test_a_worker_that_is_late_finds_the_folder_gone_and_writes_nothing(path):
    job = Job(path, some(), {})
    job.commit()
    before = path.read_bytes()
    with pytest.raises(FileNotFoundError):
        job.parts[0].target[slice(0, 4), slice(0, 3)] = np.zeros((4, 3))
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == before


@pytest.mark.parametrize("moment", ["before it takes room", "before it writes", "before it says so"])
def test_a_worker_that_was_frozen_goes_on_after_the_commit_and_changes_nothing(path, monkeypatch, moment):
    """Another worker got its block meanwhile; and what was written is read, and appended to, before it wakes up."""
    job = Job(path, some(), {"v": {"chunksizes": (4, 3)}})
    target, frozen, wakes = job.parts[0].target, threading.Event(), threading.Event()

    def pause(real):
        def paused(*args: object, **words: object) -> object:
            if threading.current_thread() is zombie:
                frozen.set()
                assert wakes.wait(60)
            return real(*args, **words)

        return paused

    where, name = {
        "before it takes room": (SharedRoom, "take"),
        "before it writes": (sys.modules["xr_pytables.writing.targets"], "write_in_a_row"),
        "before it says so": (SharedNotes, "add"),
    }[moment]
    errors: list[BaseException] = []

    def late() -> None:
        try:
            target[slice(0, 4), slice(0, 3)] = np.full((4, 3), -1.0)
        except BaseException as error:
            errors.append(error)

    zombie = threading.Thread(target=late)
    monkeypatch.setattr(where, name, pause(getattr(where, name)))
    zombie.start()
    assert frozen.wait(60)
    job.commit()
    to_pytables(xr.Dataset({"more": ("z", np.arange(5000))}), path, mode="a")
    wakes.set()
    zombie.join()
    assert [type(error) for error in errors] == [FileNotFoundError]
    xr.testing.assert_equal(read(path)[["v"]].drop_vars("x", errors="ignore"), some())
    assert (read(path).more == np.arange(5000)).all()
    assert os.listdir(path.parent) == [path.name]


class KilledError(BaseException):
    """Stands for the end of a process: nothing that follows is done."""


STEPS = [
    "np.savez", "os.link", "_write_indexes", "write_tree", "set_root", "set_end_of_file", "check_with_hdf5",
    "os.replace",
]  # fmt: skip
ONLY_BY_HDF5 = ["shutil.copyfile", "_write_by_hdf5"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("step", "text"), [(step, False) for step in STEPS] + [(s, True) for s in STEPS + ONLY_BY_HDF5]
)
def test_a_commit_that_was_killed_is_repeated(path, monkeypatch, step, text, when):
    """At any step, for a file of chunks alone, and for one to which HDF5 writes as well."""
    dataset = some()
    if text:
        values = np.array(["a", "", "é", "b", "c"] * 2, object)
        dataset["text"] = ("y", dask.array.from_array(values, chunks=4))
    to_pytables(xr.Dataset({"old": 1}), path)
    job = Job(path, dataset, {"v": {"chunksizes": (2, 3), "zlib": True}})
    owner, _, name = step.rpartition(".")
    where = {"": new_file, "np": np, "os": os, "shutil": shutil}[owner]
    real = getattr(where, name)

    def dies(*args: object, **words: object) -> None:
        if when == "after":
            real(*args, **words)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(where, name, dies)
        patch.setattr(Transaction, "abandon", lambda transaction: None)  # a dead process does not
        with pytest.raises(KilledError):
            job.commit()
    assert list(read(path)) == ["old"]
    job.commit()
    xr.testing.assert_equal(read(path), dataset.load())
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("step", ["mark_commit", "commit", "remove"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_that_was_killed_at_its_end_is_repeated(path, monkeypatch, exists, step, when):
    if exists:
        to_pytables(xr.Dataset({"old": 1}), path)
    job, real = Job(path, some()), getattr(Transaction, step)

    def dies(*args: object, **words: object) -> None:
        if when == "after":
            real(*args, **words)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, step, dies)
        patch.setattr(Transaction, "abandon", lambda transaction: None)
        with pytest.raises(KilledError):
            job.commit()
    job.commit()
    xr.testing.assert_equal(read(path), some())
    assert os.listdir(path.parent) == [path.name]


def test_a_commit_that_goes_on_twice_writes_the_same(path, monkeypatch):
    """Its worker was taken for dead, but lives: all that it does to the file that is committed is what is there."""
    job = Job(path, some(), {"v": {"chunksizes": (2, 3), "zlib": True}})
    real, frozen, wakes = new_file.write_tree, threading.Event(), threading.Event()

    def paused(*args: object) -> int:
        if threading.current_thread() is zombie:
            frozen.set()
            assert wakes.wait(60)
        return real(*args)

    def late() -> None:
        with contextlib.suppress(OSError):
            job.commit()

    monkeypatch.setattr(new_file, "write_tree", paused)
    zombie = threading.Thread(target=late)
    zombie.start()
    assert frozen.wait(60)
    job.parts[0].target[slice(0, 4), slice(0, 3)] = np.full((4, 3), 5.0)  # a block comes again, too late
    job.commit()
    committed = path.read_bytes()
    wakes.set()
    zombie.join()
    assert path.read_bytes() == committed
    xr.testing.assert_equal(read(path), some())


def test_a_step_that_begins_twice_makes_one_file(path):
    job = Job(path, some(), {})
    job.begin()
    job.commit()
    xr.testing.assert_equal(read(path), some())


def test_a_commit_that_failed_does_not_succeed_by_being_repeated(path):
    to_pytables(xr.Dataset({"old": 1}), path)
    job = Job(path, some(), {})
    for each in job.notes():
        each.unlink()
    for _ in range(2):  # no block was stored, and a scheduler tries again
        with pytest.raises(OSError, match=r"only 0 of 6 blocks|No such file"):
            job.commit()
    assert list(read(path)) == ["old"]
    to_pytables(xr.Dataset({"new": 1}), path)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_a_full_disk_leaves_the_old_file_and_the_process_can_write_again(path, scheduler):
    to_pytables(xr.Dataset({"old": 1}), path)
    code = f"""
        import resource, signal, dask, numpy as np, xarray as xr
        from xr_pytables import to_pytables
        if __name__ == "__main__":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
            data = dask.array.random.random(100_000, chunks=10_000)
            with dask.config.set(scheduler={scheduler!r}, num_workers=2):
                try:
                    to_pytables(xr.Dataset({{"v": ("x", data)}}), {str(path)!r})
                except OSError as error:
                    print(error.errno)
                to_pytables(xr.Dataset({{"v": ("x", data[:20_000])}}), {str(path.with_name("small.h5"))!r})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "27"  # EFBIG: as ENOSPC, but without the need to fill a disk
    assert list(read(path)) == ["old"]
    assert read(path.with_name("small.h5")).v.size == 20_000
    assert sorted(os.listdir(path.parent)) == ["file.h5", "small.h5"]


# -- the structure first ----------------------------------------------------------------------------------------------


def several() -> xr.Dataset:
    texts = np.array(["a", "bé"] * 5, object)
    return some().assign(
        text=("y", dask.array.from_array(texts, chunks=4)),
        packed=("y", dask.array.arange(10.0, chunks=5)),
        plain=("y", dask.array.arange(10, chunks=10)),
        lat=("x", np.arange(6.0), {"units": "m"}),
    )


FORMS = {"packed": {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -1}, "plain": {"contiguous": True}}


def test_the_structure_is_there_before_the_values(path):
    later = to_pytables(several(), path, encoding=FORMS, compute=False, structure_first=True)
    assert os.listdir(path.parent) == [path.name]
    with h5py.File(path) as file:
        assert {name: file[name].shape for name in ("v", "packed")} == {"v": (10, 6), "packed": (10,)}
        assert file["v"].id.get_num_chunks() == 0
    early = read(path)
    assert list(early) == list(several())
    assert early.lat.identical(several().lat)
    assert early.v.isnull().all()
    assert early.packed.isnull().all()
    assert early.plain.values.tolist() == [0] * 10
    assert early.text.values.tolist() == [""] * 10
    later.compute()
    xr.testing.assert_identical(read(path), several().compute())
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("form", ["array", "tree", "memory", "empty"])
def test_the_structure_first_of_any_object(path, form):
    whole = {
        "array": lambda: some().v.rename("v"),
        "tree": lambda: xr.DataTree.from_dict({"/": several(), "/g": some().isel(y=slice(4)).rename(y="z")}),
        "memory": lambda: several().compute(),
        "empty": lambda: xr.Dataset(attrs={"title": "t"}),
    }[form]()
    to_pytables(whole, path, group="/here", compute=False, structure_first=True, write_inherited_coords=False).compute()
    found = xr.open_datatree(path, group="/here", engine="pytables").load()
    if form != "tree":
        whole = xr.DataTree(whole.to_dataset() if form == "array" else whole)
    xr.testing.assert_identical(found.compute(), whole.compute())


def test_processes_that_know_nothing_of_each_other_fill_what_has_its_structure(path):
    """All at once, and parts that share chunks."""
    template = some(chunks=(10, 6)).assign(v=lambda ds: ds.v * 0)
    to_pytables(
        template, path, encoding={"v": {"chunksizes": (4, 3), "zlib": True}}, compute=False, structure_first=True
    )
    code = """
        import sys, numpy as np, xarray as xr
        from xr_pytables import to_pytables
        path, first = sys.argv[1], int(sys.argv[2])
        part = xr.Dataset({"v": (("y", "x"), np.arange(60.0).reshape(10, 6)[first : first + 2])})
        print("ready", flush=True)
        input()
        to_pytables(part, path, region={"y": slice(first, first + 2)}, wait=300)
    """
    running = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), path, str(first)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in (0, 2, 4, 8)
    ]
    for each in running:
        assert each.stdout.readline() == "ready\n"
    for each in running:
        each.stdin.write("go\n")
        each.stdin.flush()
    for each in running:
        each.communicate()
    assert [each.returncode for each in running] == [0] * 4
    found = read(path)
    assert found.v.isel(y=slice(6, 8)).isnull().all()  # nobody wrote those
    to_pytables(some().isel(y=slice(6, 8)), path, region={"y": slice(6, 8)})
    xr.testing.assert_equal(read(path), some().compute())
    assert os.listdir(path.parent) == [path.name]


def test_values_that_come_after_those_of_others_are_refused(path):
    later = to_pytables(some(), path, compute=False, structure_first=True)
    to_pytables(some().isel(y=[0]) * 2, path, region={"y": slice(0, 1)})
    with pytest.raises(OSError, match="was changed or removed by somebody else since this write was planned"):
        later.compute()
    xr.testing.assert_equal(read(path).isel(y=[0]), some().isel(y=[0]).compute() * 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "structure_first=True is about compute=False"),
        (
            {"compute": False, "mode": "a"},
            r"file\.h5: structure_first=True makes a new file.*not with mode='a'",
        ),
        ({"compute": False, "append_dim": "y"}, "structure_first=True makes a new file"),
        ({"compute": False, "layout": "table"}, "and layout='table'. Without it the structure comes with the values"),
    ],
)
def test_a_structure_comes_first_in_a_new_file_of_arrays_only(path, words, message):
    with pytest.raises(ValueError, match=message):
        to_pytables(some(), path, structure_first=True, **words)
    assert os.listdir(path.parent) == []


def test_a_structure_replaces_no_file_that_its_values_may_come_from(path):
    to_pytables(xr.Dataset({"v": ("x", [1, 2, 3])}), path)
    with xr.open_dataset(path, engine="pytables", chunks={"x": 3}) as source:
        with pytest.raises(FileExistsError, match=r"file\.h5: structure_first=True takes the place of no file"):
            to_pytables(source * 10, path, compute=False, structure_first=True)
        assert source.v.values.tolist() == [1, 2, 3]
    assert os.listdir(path.parent) == [path.name]


def test_a_structure_that_cannot_be_written_leaves_nothing(path, monkeypatch):
    monkeypatch.setattr(Transaction, "commit", lambda *args, **words: (_ for _ in ()).throw(ArithmeticError))
    with pytest.raises(ArithmeticError):
        to_pytables(some(), path, compute=False, structure_first=True)
    assert os.listdir(path.parent) == []


# -- processes --------------------------------------------------------------------------------------------------------


def dies_once(block: np.ndarray, marker: str) -> np.ndarray:
    if block[0, 0] == 24.0:
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return block
        os._exit(1)
    return block


@contextlib.contextmanager
def cluster(workers: int = 2) -> Iterator[object]:
    distributed = pytest.importorskip("distributed")
    with (
        dask.config.set({"distributed.admin.log-format": "", "logging.distributed": "critical"}),
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=100
        ) as made,
        distributed.Client(made) as client,
    ):
        yield client


# on a busy machine a cluster that lost a worker closes late, and says so
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("compute", [True, False])
def test_a_worker_that_dies_does_no_harm(path, tmp_path_factory, compute):
    marker = str(tmp_path_factory.mktemp("marker") / "died")
    dataset = some().assign(v=lambda ds: ds.v.copy(data=ds.v.data.map_blocks(dies_once, marker, dtype="f8")))
    with cluster():
        written = to_pytables(dataset, path, encoding={"v": {"complib": "blosc:zstd"}}, compute=compute)
        if not compute:
            written.compute()
    assert os.path.exists(marker)
    xr.testing.assert_equal(read(path), some())
    assert os.listdir(path.parent) == [path.name]


def test_memory_is_a_chunk_or_two(path):
    """Blocks of 4 MB in chunks of 0.5 MB, 16 MB in all: neither the worker nor the last step holds a block more."""
    values = dask.array.zeros(2_000_000, chunks=500_000)
    job = Job(path, xr.Dataset({"v": ("x", values)}), {"v": {"chunksizes": (62_500,)}})
    target, block = job.parts[0].target, np.ones(500_000)
    assert isinstance(target, ArenaTarget)
    peaks = []
    for step in (lambda: target.__setitem__((slice(500_000, 1_000_000),), block), job.commit):
        tracemalloc.start()
        step()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 2.5e6, [f"{peak / 1e6:.1f} MB" for peak in peaks]
    assert read(path).v.sum() == 500_000


def test_blocks_that_share_chunks_need_memory_for_some_chunks(path):
    values = dask.array.ones(2_000_000, chunks=499_999)
    job = Job(path, xr.Dataset({"v": ("x", values)}), {"v": {"chunksizes": (62_500,)}})
    tracemalloc.start()
    job.commit()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6, f"{peak / 1e6:.1f} MB"
    assert read(path).v.sum() == 2_000_000


def numbers_of(block_id: tuple[int, ...] = ()) -> np.ndarray:
    return np.arange(5, dtype="f4") + 5 * block_id[0]


@pytest.mark.parametrize("encoding", [{}, {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -1}], ids=str)
def test_a_block_is_made_checked_and_stored_in_one_task(path, encoding):
    """Tasks of their own would each wait for a scheduler."""
    data = dask.array.map_blocks(numbers_of, chunks=((5,) * 8,), dtype="f4", meta=np.empty(0, "f4"))
    done = []
    with Callback(pretask=lambda key, graph, state: done.append(key)), dask.config.set(scheduler="synchronous"):
        to_pytables(xr.Dataset({"v": ("x", data)}), path, encoding={"v": {**encoding, "chunksizes": (5,)}})
    assert len(done) - 8 <= 1, done  # one more ends the graph
    assert read(path)["v"].values.tolist() == list(range(40))
