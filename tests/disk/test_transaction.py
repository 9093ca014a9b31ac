"""Files in the making: who may see them, and who may replace a file at all."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import xarray as xr

from xr_pytables import begin_write, save_mfdataset, to_pytables
from xr_pytables.disk import folders
from xr_pytables.disk.folders import joined, remove_stale
from xr_pytables.disk.transaction import Transaction, in_folder
from xr_pytables.writing import changes, execution
from xr_pytables.writing.targets import Effort

from ..helpers_reading import USERS, as_user, needs_users


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.h5"


@pytest.fixture
def umask() -> None:
    """The usual one, by which files are readable by all, whatever the tests are run under."""
    old = os.umask(0o022)
    yield
    os.umask(old)


def others(path: Path) -> int:
    """What group and others may do."""
    return stat.S_IMODE(path.lstat().st_mode) & 0o077


def seen_by_others(folder: Path, target: Path) -> list[str]:
    """Files below a folder, but the target, that somebody else could look into."""
    return [
        str(found)
        for found in folder.rglob("*")
        if stat.S_ISREG(found.lstat().st_mode)
        and found != target
        and others(found)
        and not any(map(_is_closed, found.parents))
    ]


def _is_closed(folder: Path) -> bool:
    return ".xrpt-" in folder.name and not others(folder)


def looking(folder: Path, target: Path, seen: list[list[str]]) -> xr.Dataset:
    """Data that look around while they are computed."""

    def block(values: np.ndarray) -> np.ndarray:
        seen.append([str(each) for each in folder.rglob("*")])
        assert not seen_by_others(folder, target)
        return values + 1

    lazy = dask.array.zeros(10, chunks=5).map_blocks(block, dtype=float, meta=np.empty(0))
    return xr.Dataset({"a": ("x", lazy)})


WRITES = {
    "w": {},
    "a": {"mode": "a"},
    "r+": {"mode": "r+"},
    "append": {"append_dim": "x"},
    "region": {"region": {"x": slice(0, 10)}},
    "delayed": {"compute": False},
    "delayed append": {"append_dim": "x", "compute": False},
}


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("how", WRITES)
def test_files_in_the_making_are_as_private_as_the_target(path: Path, how: str, link: bool) -> None:
    to_pytables(xr.Dataset({"a": ("x", np.zeros(10))}), path, unlimited_dims=["x"])
    path.chmod(0o600)
    target = path
    if link:
        target = path.with_name("link.h5")
        target.symlink_to(path)
    seen: list[list[str]] = []
    with dask.config.set(scheduler="synchronous"):  # so that a block is there when the next one looks
        delayed = to_pytables(looking(path.parent, path, seen), target, **WRITES[how])
        if delayed is not None:
            delayed.compute()
    assert any(len(each) > 2 for each in seen)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert xr.load_dataset(path, engine="pytables")["a"].values[-1] == 1


@pytest.mark.usefixtures("umask")
def test_a_journal_is_as_private_as_its_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "SMALL_FILE", 0)
    monkeypatch.setattr(changes, "LARGEST_SHARE", 1.0)
    to_pytables(xr.Dataset({"a": ("x", np.zeros(10_000))}), path, unlimited_dims=["x"])
    path.chmod(0o640)
    apply, seen = changes._apply, []

    def looked(*arguments: object) -> None:
        seen.extend(others(each) for each in path.parent.glob(".*journal"))
        apply(*arguments)

    monkeypatch.setattr(changes, "_apply", looked)
    to_pytables(xr.Dataset({"a": ("x", [1.0])}), path, append_dim="x")
    assert seen == [0o040]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_permissions_of_any_new_file(path: Path, mask: int) -> None:
    old = os.umask(mask)
    try:
        to_pytables(xr.Dataset({"a": 1}), path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@needs_users
def test_owner_and_group_stay_where_they_may(shared_folder: Path) -> None:
    path = shared_folder / "file.h5"
    to_pytables(xr.Dataset({"a": 1}), path)
    os.chown(path, *USERS)
    path.chmod(0o640)
    to_pytables(xr.Dataset({"a": 2}), path)  # as root
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (*USERS, 0o640)


@needs_users
def test_another_group_does_not_get_the_permissions_of_the_group(shared_folder: Path) -> None:
    path = shared_folder / "file.h5"
    to_pytables(xr.Dataset({"a": 1}), path)
    os.chown(path, USERS[0], USERS[1])  # of a group that its owner is not in
    path.chmod(0o664)
    as_user(USERS[0], f"to_pytables(xr.Dataset({{'a': 2}}), {str(path)!r})")
    status = path.stat()
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (USERS[0], 0o644)
    assert xr.load_dataset(path, engine="pytables")["a"] == 2


TRY = """
    ds = xr.Dataset({{"a": ("x", np.ones(3))}})
    target = {target!r}
    for options in ({{}}, {{"mode": "w"}}, {{"mode": "a"}}, {{"mode": "r+"}}, {{"append_dim": "x"}},
                    {{"region": {{"x": slice(0, 3)}}}}, {{"compute": False}}, {{"mode": "x"}}):
        try:
            to_pytables(ds, target, **options)
            print("written with", options)
        except OSError as error:
            print(type(error).__name__, target in str(error), ".xrpt" in str(error))
    try:
        xr_pytables.save_mfdataset([ds], [target])
        print("written")
    except OSError as error:
        print(type(error).__name__, target in str(error), ".xrpt" in str(error))
"""
REFUSED = 7 * ["PermissionError True False"] + ["FileExistsError True False", "PermissionError True False"]


@needs_users
def test_a_file_without_write_permission_stays(shared_folder: Path) -> None:
    path = shared_folder / "file.h5"
    to_pytables(xr.Dataset({"a": ("x", np.zeros(3))}), path, unlimited_dims=["x"])
    os.chown(path, USERS[0], USERS[0])
    path.chmod(0o444)
    before = path.read_bytes(), path.stat().st_ino
    assert as_user(USERS[0], TRY.format(target=str(path))).splitlines() == REFUSED
    assert (path.read_bytes(), path.stat().st_ino) == before
    assert os.listdir(path.parent) == ["file.h5"]
    to_pytables(xr.Dataset({"a": 1}), path)  # root may, as ever


@needs_users
def test_a_folder_without_write_permission_is_named_with_the_file(shared_folder: Path) -> None:
    path = shared_folder / "file.h5"
    folder = path.parent / "closed"
    folder.mkdir()
    inside = folder / "file.h5"
    to_pytables(xr.Dataset({"a": ("x", np.zeros(3))}), inside, unlimited_dims=["x"])
    inside.chmod(0o666)
    folder.chmod(0o555)
    assert as_user(USERS[0], TRY.format(target=str(inside))).splitlines() == REFUSED


@needs_users
def test_permission_that_was_taken_away_meanwhile_counts(shared_folder: Path) -> None:
    path = shared_folder / "file.h5"
    code = """
        target = sys.argv[2] if len(sys.argv) > 2 else {target!r}
        to_pytables(xr.Dataset({{"a": 1}}), target)
        for options in ({{}}, {{"mode": "a"}}):
            later = to_pytables(xr.Dataset({{"a": 2}}), target, compute=False, **options)
            os.chmod(target, 0o444)
            try:
                later.compute()
            except PermissionError as error:
                print(target in str(error), xr.load_dataset(target, engine="pytables")["a"].item())
            os.chmod(target, 0o644)
    """
    assert as_user(USERS[0], code.format(target=str(path))) == "True 1\n" * 2


def test_a_disk_that_is_full_is_told_in_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(
        OSError, match=r"file\.h5: no folder can be made beside it .*: No space left on device"
    ) as caught:
        Transaction.beside(str(path)).begin()
    assert caught.value.errno == 28


def test_many_files_are_checked_before_the_first_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to_pytables(xr.Dataset({"a": 1}), path)

    def refuse(self: Transaction) -> None:
        if self.target.endswith("b.h5"):
            raise PermissionError(13, f"{self.target}: the file may not be written to")

    monkeypatch.setattr(Transaction, "check_allowed", refuse)
    with pytest.raises(PermissionError, match=r"b\.h5"):
        save_mfdataset([xr.Dataset({"a": 2})] * 2, [path, path.with_name("b.h5")])
    assert xr.load_dataset(path, engine="pytables")["a"] == 1


# -- shared folders ---------------------------------------------------------------------------------------------------

GRAPH = """
    import os, sys, numpy as np, xarray as xr, dask.array
    from xr_pytables import to_pytables
    path, end = sys.argv[1:]

    def fails(block, block_info=None):
        if block_info[None]["chunk-location"] == (1,):
            if end == "killed":
                os.kill(os.getpid(), 9)
            raise ArithmeticError
        return block

    data = dask.array.ones(4, chunks=2).map_blocks(fails, dtype="f8", meta=np.empty(0))
    try:
        to_pytables(xr.Dataset({"v": ("x", data)}), path, compute=False).compute(scheduler="synchronous")
    except ArithmeticError:
        print(sum(name.startswith(".") for name in os.listdir(os.path.dirname(path))))
"""


@pytest.mark.parametrize("exists", [True, False])
def test_a_graph_that_fails_leaves_no_folder_when_its_process_ends(path: Path, exists: bool) -> None:
    if exists:
        to_pytables(xr.Dataset({"old": 1}), path)
    code = textwrap.dedent(GRAPH)
    done = subprocess.run([sys.executable, "-c", code, path, "fails"], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"  # it could be computed again
    assert os.listdir(path.parent) == [path.name] * exists


def test_the_folder_of_a_graph_whose_process_was_killed_is_removed_by_the_next_writer(path: Path) -> None:
    code = textwrap.dedent(GRAPH)
    done = subprocess.run([sys.executable, "-c", code, path, "killed"], capture_output=True, check=False)
    assert done.returncode == -9
    assert len(os.listdir(path.parent)) == 1
    to_pytables(xr.Dataset({"new": 1}), path)
    assert os.listdir(path.parent) == [path.name]


CALLS_OF_A_FOLDER = """
    import os, sys
    from xr_pytables.disk import folders, transaction as tested
    path, how, moment = sys.argv[1], sys.argv[2], int(sys.argv[3])
    calls = 0

    def dying_at_the_moment(function):
        def call(*args, **keywords):
            global calls
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), 9)
            return function(*args, **keywords)
        return call

    for module, names in ((os, ("mkdir", "open", "rename", "unlink", "link", "rmdir")), (folders.fcntl, ("flock",))):
        for name in names:
            setattr(module, name, dying_at_the_moment(getattr(module, name)))
    transaction = tested.Transaction.beside(path)
    if how == "begin":
        transaction.end(transaction.begin())
    else:
        transaction.begin_shared()
        if how == "abandon":
            transaction.abandon()
            transaction.begin_shared()
        transaction.remove()
"""


@pytest.mark.parametrize("how", ["begin", "shared", "abandon"])
def test_whoever_is_killed_at_any_moment_leaves_nothing_that_the_next_writer_does_not_remove(
    path: Path, how: str
) -> None:
    code = textwrap.dedent(CALLS_OF_A_FOLDER)
    for moment in range(1, 100):
        done = subprocess.run([sys.executable, "-c", code, path, how, str(moment)], capture_output=True, check=False)
        assert done.returncode in (0, -9), done.stderr
        remove_stale(str(path))
        remove_stale(str(path))  # of a folder whose removal was interrupted, too
        assert os.listdir(path.parent) == [], moment
        if done.returncode == 0:
            break
    assert 5 < moment < 99


def test_the_removal_of_a_stale_folder_can_be_interrupted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transaction = Transaction.beside(str(path))
    os.close(transaction.begin())  # as if its process had ended
    Path(transaction.new_file).touch()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda folder, **_: os.unlink(os.path.join(folder, "owner")))
        remove_stale(str(path))
    assert len(os.listdir(path.parent)) == 1
    remove_stale(str(path))
    assert os.listdir(path.parent) == []


def test_a_folder_that_is_taken_for_stale_before_it_is_locked_is_made_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction, flock, times = Transaction.beside(str(path)), folders.fcntl.flock, []

    def late(descriptor: int, kind: int) -> None:
        if len(times) < 3:
            times.append(kind)
            with monkeypatch.context() as patch:
                patch.setattr(folders.fcntl, "flock", flock)
                remove_stale(str(path))
        flock(descriptor, kind)

    monkeypatch.setattr(folders.fcntl, "flock", late)
    owner = transaction.begin()
    assert len(times) == 3
    assert os.listdir(path.parent) == [os.path.basename(transaction.folder)]
    assert os.listdir(transaction.folder) == ["owner"]
    assert remove_stale(str(path)) == []
    transaction.end(owner)
    assert os.listdir(path.parent) == []


def test_a_folder_stays_as_long_as_one_of_its_processes_lives(path: Path) -> None:
    transaction = Transaction.beside(str(path))
    transaction.begin_shared()
    transaction.join()
    transaction.join()
    code = textwrap.dedent("""
        import pickle, sys
        transaction = pickle.loads(bytes.fromhex(sys.argv[1]))
        transaction.join()
        print("joined", flush=True)
        input()
    """)
    command = [sys.executable, "-c", code, pickle.dumps(transaction).hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "joined\n"
        assert remove_stale(str(path)) == []
        joined.leave(transaction.folder)  # as if this process had ended
        assert remove_stale(str(path)) == []
        assert sorted(os.listdir(transaction.folder)) == ["owner"]
        other.kill()
        other.communicate()
    assert remove_stale(str(path)) == [transaction.folder]
    transaction.join()  # of what is gone: whoever stores says so
    assert os.listdir(path.parent) == []


def test_a_process_keeps_no_descriptor_of_what_others_have_finished(path: Path) -> None:
    def open_locks() -> int:
        return sum("owner" in os.readlink(f"/proc/self/fd/{name}") for name in listed())

    def listed() -> list[str]:
        return [name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")]

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    before = open_locks()
    for _ in range(3):
        transaction = Transaction.beside(str(path))
        transaction.begin_shared()
        transaction.join()
        assert open_locks() == before + 1
        shutil.rmtree(transaction.folder)  # by another process
    joined.leave(transaction.folder)
    assert open_locks() == before


def test_a_child_gives_up_no_lock_of_its_parent(path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    code = textwrap.dedent("""
        import os, sys
        from xr_pytables.disk.folders import remove_stale
        from xr_pytables.disk.transaction import Transaction
        transaction = Transaction.beside(sys.argv[1])
        transaction.begin_shared()
        transaction.join()
        transaction.look_after()
        child = os.fork()
        if not child:
            sys.exit(len(remove_stale(transaction.target)))
        print(os.waitpid(child, 0)[1], os.path.exists(transaction.folder))
    """)
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout == "0 True\n"
    assert os.listdir(path.parent) == []


def test_what_a_job_array_fills_is_not_taken_for_stale(path: Path) -> None:
    """Between two of its jobs no process may live."""
    write = begin_write(xr.Dataset({"v": ("x", dask.array.zeros(4, chunks=2))}), path)
    to_pytables(xr.Dataset({"meanwhile": 1}), path)
    write.write(xr.Dataset({"v": ("x", np.arange(4.0))}))
    write.commit()
    assert xr.load_dataset(path, engine="pytables").v.values.tolist() == [0, 1, 2, 3]
    assert os.listdir(path.parent) == [path.name]


# -- what is left of a graph that was computed, for tasks that run again ---------------------------------------


@pytest.mark.parametrize("append", [False, True])
def test_a_graph_that_was_computed_leaves_a_sign_as_long_as_it_lives(path: Path, append: bool) -> None:
    rows = xr.Dataset({"a": ("t", np.arange(10.0))}).chunk(t=3)
    to_pytables(rows, path, unlimited_dims=["t"])
    made = to_pytables(rows, path, **({"append_dim": "t"} if append else {}), compute=False)
    dask.compute(made)
    content, (folder,) = path.read_bytes(), path.parent.glob(".*")
    assert os.listdir(folder) == ["concluded"]
    begin, last = _steps(made)
    begin()  # as if the results of these were lost with a worker
    last()
    assert os.listdir(folder) == ["concluded"]
    assert path.read_bytes() == content
    del made
    assert os.listdir(path.parent) == ["file.h5"]


def _steps(made: Any) -> list[Callable[[], None]]:
    """The first and the last step of the graph, to be called."""
    (transaction,) = made._transactions
    plan, effort = SimpleNamespace(), Effort()
    whole = changes._Whole(plan, transaction, {}, False, effort)
    if any(str(key).startswith("_change_delayed") for key in made.__dask_keys__()):
        return [lambda: changes._begin_delayed(plan, transaction), lambda: changes._change_delayed(None, whole)]
    return [
        lambda: execution.begin_delayed(plan, transaction),
        lambda: execution.commit_delayed(None, plan, transaction, [], effort, False),
    ]


def test_a_graph_that_is_computed_again_writes_again(path: Path) -> None:
    source = np.arange(10.0)
    array = dask.array.from_delayed(dask.delayed(lambda: source.copy(), pure=False)(), (10,), "f8")
    made = to_pytables(xr.Dataset({"a": ("t", array)}), path, compute=False)
    for compute in (made.compute, lambda: dask.compute(made), made.compute):
        source += 1
        compute()
        assert xr.open_dataset(path, engine="pytables")["a"].values.tolist() == source.tolist()
    assert os.listdir(path.parent) == ["file.h5"]


def test_the_next_writer_removes_the_sign_of_one_that_is_done(path: Path) -> None:
    rows = xr.Dataset({"a": ("t", np.arange(10.0))}).chunk(t=3)
    made = to_pytables(rows, path, compute=False)
    dask.compute(made)
    assert len(os.listdir(path.parent)) == 2
    to_pytables(rows * 2, path)
    assert os.listdir(path.parent) == ["file.h5"]
    assert made is not None


def test_many_files_leave_nothing_when_they_are_computed(path: Path) -> None:
    rows = xr.Dataset({"a": ("t", np.arange(10.0))}).chunk(t=3)
    paths = [path.with_name(f"{number}.h5") for number in range(3)]
    save_mfdataset([rows, rows * 2, rows * 3], paths, compute=False).compute()
    assert sorted(os.listdir(path.parent)) == ["0.h5", "1.h5", "2.h5"]


def test_a_file_of_the_folder_that_is_gone_tells_who_is_late(tmp_path):
    folder = tmp_path / f".file.h5{folders._MARK}1234"
    folder.mkdir()
    said = rf"{tmp_path}/file\.h5: process {os.getpid()} on .* is late: the write is over, .*growing\.h5 is gone"
    with pytest.raises(FileNotFoundError, match=said), in_folder(str(folder)):
        os.open(folder / "growing.h5", os.O_WRONLY)
    with pytest.raises(FileNotFoundError, match=r"^it says so itself$"), in_folder(str(folder)):
        raise FileNotFoundError("it says so itself")
