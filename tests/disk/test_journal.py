"""Changes in place: the journal, who may see a file meanwhile, and how it is put back."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import dask
import dask.array
import h5py
import netCDF4
import numpy as np
import pytest
import tables
import xarray as xr
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import xr_pytables
from xr_pytables import (
    FileBusyError,
    FileChangedError,
    ForeignJournalError,
    NeedsRecoveryError,
    cli,
    recover,
    to_pytables,
)
from xr_pytables.disk import journal
from xr_pytables.disk.journal import Journal
from xr_pytables.disk.opened_files import hdf5_lock
from xr_pytables.errors import HDF5Error
from xr_pytables.hdf5.file import File
from xr_pytables.sources.local import LocalFile
from xr_pytables.writing import changes
from xr_pytables.writing import extents as extents_of_files
from xr_pytables.writing.extents import others, raw_extents, together, without

from ..helpers_properties import examples
from ..helpers_reading import USERS, as_user, needs_users


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.h5"


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change files of any size in place."""
    monkeypatch.setattr(changes, "SMALL_FILE", 0)
    monkeypatch.setattr(changes, "LARGEST_SHARE", 1.0)


def open_ours(path, **kwargs) -> xr.Dataset:
    with xr.open_dataset(path, engine="pytables", **kwargs) as dataset:
        return dataset.load()


def steps(start: int, stop: int) -> xr.Dataset:
    n = np.arange(start, stop)
    return xr.Dataset({"v": (("t", "x"), n[:, None] * 1000.0 + np.arange(900))}, coords={"t": n})


def make(path: Path, rows: int = 10) -> None:
    to_pytables(steps(0, rows), path, unlimited_dims=["t"], encoding={"v": {"chunksizes": (4, 300), "complib": "zlib"}})


def nothing() -> None:
    """A check that finds nothing."""


# -- which way is taken ------------------------------------------------------------------------------------


def test_large_files_are_changed_in_place_and_small_ones_copied(path):
    make(path)
    inode = path.stat().st_ino
    to_pytables(steps(10, 11), path, append_dim="t")
    assert path.stat().st_ino != inode
    large = xr.Dataset({"large": ("n", np.random.default_rng(0).random(2**20))})
    to_pytables(large, path, mode="a")
    inode = path.stat().st_ino
    to_pytables(steps(11, 13), path, append_dim="t")
    to_pytables(steps(2, 3)[["v"]].drop_vars("t") * 0, path, region={"t": slice(2, 3)})
    to_pytables(xr.Dataset({"more": ("y", [1, 2])}), path, mode="a")
    to_pytables(xr.Dataset({"more": ("y", [3, 4])}), path, mode="r+")
    assert path.stat().st_ino == inode
    expected = steps(0, 13)
    expected["v"][2] = 0
    xr.testing.assert_identical(open_ours(path), expected.assign(large=large.large, more=("y", [3, 4])))
    to_pytables(large * 2, path, mode="a", encoding={"large": {"complib": "zlib"}})  # all of it would have to be saved
    assert path.stat().st_ino != inode


def test_a_journal_saves_all_but_raw_data(path):
    make(path, 10)
    size = path.stat().st_size
    with open(path, "rb") as raw:
        extents = raw_extents(File(LocalFile(raw.fileno(), str(path))))
        saved = others(size, extents, changed=(), rewritten=())
        (header,) = [address for address, rows in extents.items() if len(rows) == 9 + 1]  # the last one is a node
        some = others(size, extents, changed=(), rewritten=[int(extents[header][0, 0])])
        whole = others(size, extents, changed=[header], rewritten=())
    with tables.open_file(path) as file, pytest.warns(tables.exceptions.DataTypeWarning):
        chunks = [file.root.v.chunk_info((t, x)) for t in (0, 4, 8) for x in (0, 300, 600)]
        time_chunk = file.root.t.chunk_info((0,))
    inside = np.zeros(size, bool)
    for offset, count in saved:
        assert not inside[offset : offset + count].any()
        inside[offset : offset + count] = True
    for chunk in (*chunks, time_chunk):
        assert not inside[chunk.offset : chunk.offset + chunk.size].any()
    nodes = [tuple(rows[-1]) for rows in extents.values() if len(rows)]
    for offset, count in nodes:
        assert path.read_bytes()[offset : offset + 5] == b"TREE\1"
        assert not inside[offset : offset + count].any()
    assert inside.sum() + sum(chunk.size for chunk in chunks) + time_chunk.size + sum(n for _, n in nodes) == size
    kept = sum(chunk.size for chunk in chunks) + extents[header][-1, 1]
    assert sum(n for _, n in whole) == sum(n for _, n in saved) + kept
    assert sum(n for _, n in some) == sum(n for _, n in saved) + extents[header][0, 1]


def test_all_kinds_of_leaves_are_known_to_the_journal(path):
    with tables.open_file(path, "w") as file:
        file.create_array("/", "plain", obj=np.arange(10_000))
        file.create_table("/a/b", "table", obj=np.zeros(5000, "i4,f8"), createparents=True)
        ragged = file.create_vlarray("/", "ragged", atom=tables.Int32Atom())
        ragged.append(np.arange(1000))
        file.create_carray("/", "carray", obj=np.arange(10_000.0), filters=tables.Filters(1, "zlib"))
    with open(path, "rb") as raw:
        extents = raw_extents(File(LocalFile(raw.fileno(), str(path))))
        saved = others(path.stat().st_size, extents, changed=(), rewritten=())
    assert sum(n for _, n in saved) < 40_000 < path.stat().st_size - 100_000


# -- the journal itself ------------------------------------------------------------------------------------


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A file that is no HDF5 at all."""
    path = tmp_path / "plain"
    path.write_bytes(bytes(range(256)) * 40)
    return path


def test_rolling_back_restores_bytes_size_and_time(plain):
    before, status = plain.read_bytes(), plain.stat()
    change = Journal.begin(str(plain), [(10, 20), (5000, 1000)], fsync=True, check=nothing)
    assert change.read(12, 5) == before[12:17]
    assert change.read(5500, 500) == before[5500:6000]
    with pytest.raises(ValueError, match="were not saved"):
        change.read(4999, 5)
    data = bytearray(before)
    data[10:30], data[5000:6000] = bytes(20), bytes(1000)
    plain.write_bytes(data + b"more")
    change.roll_back()
    assert plain.read_bytes() == before
    assert (plain.stat().st_mtime_ns, plain.stat().st_size) == (status.st_mtime_ns, status.st_size)
    assert os.listdir(plain.parent) == ["plain"]


def test_commit_keeps_the_change(plain):
    change = Journal.begin(str(plain), [(0, 4)], fsync=True, check=nothing)
    with open(plain, "r+b") as file:
        file.write(b"new!")
    change.commit()
    assert plain.read_bytes()[:4] == b"new!"
    assert os.listdir(plain.parent) == ["plain"]
    assert recover(plain) is False


def abandoned(target: Path, ranges, edit: bytes, at: int, size: int | None = None) -> bytes:
    """Change the file as a process that dies right after; the bytes of its journal."""
    change = Journal.begin(str(target), ranges, fsync=True, check=nothing)
    with open(target, "r+b") as file:
        file.seek(at)
        file.write(edit)
        if size is not None:
            file.truncate(size)
    change._close()  # as the system does for a dead process
    return Path(journal.path_of(str(target))).read_bytes()


@pytest.mark.parametrize("size", [None, 6000, 20_000])
def test_recover_puts_a_dead_writers_file_back(plain, size):
    before = plain.read_bytes()
    abandoned(plain, [(100, 50), (6000, 4240)], b"x" * 50, 100, size)
    assert recover(plain) is True
    assert plain.read_bytes() == before
    assert recover(plain) is False
    assert os.listdir(plain.parent) == ["plain"]


def test_recover_takes_the_url_of_a_local_file(plain):
    before = plain.read_bytes()
    abandoned(plain, [(100, 50)], b"x" * 50, 100, None)
    assert recover(plain.as_uri()) is True
    assert plain.read_bytes() == before


def test_a_journal_cut_anywhere_means_that_nothing_was_touched(plain):
    whole = abandoned(plain, [(100, 50), (6000, 240)], b"", 0)
    before, path = plain.read_bytes(), Path(journal.path_of(str(plain)))
    header = journal._HEADER.size
    for length in range(0, len(whole), 7):
        for torn in (bytes(header) + whole[header:length], whole[: min(length, header - 1)]):
            path.write_bytes(torn)
            journal.check(str(plain))  # readers go on
            assert recover(plain) is False
            assert plain.read_bytes() == before
            assert not path.exists()


def test_a_damaged_journal_is_never_used(plain):
    whole = abandoned(plain, [(100, 50), (6000, 240)], b"x" * 50, 100)
    changed, path = plain.read_bytes(), Path(journal.path_of(str(plain)))
    for place in range(journal._HEADER.size, len(whole)):
        if place > journal._HEADER.size + 120 and place % 13:
            continue
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        try:
            assert recover(plain) is True  # padding
        except NeedsRecoveryError as error:
            assert "damaged" in str(error)  # noqa: PT017
            assert plain.read_bytes() == changed
            assert path.read_bytes() == damaged
        else:
            assert plain.read_bytes() != changed
            plain.write_bytes(changed)


def test_a_journal_of_a_newer_version_is_left_alone(plain):
    whole = bytearray(abandoned(plain, [(100, 50)], b"x" * 50, 100))
    whole[8] = 9
    Path(journal.path_of(str(plain))).write_bytes(whole)
    with pytest.raises(NeedsRecoveryError, match="version 9"):
        recover(plain)


@pytest.mark.parametrize("samples", [True, False])
def test_a_journal_about_another_file_is_left_alone(plain, samples):
    abandoned(plain, [(100, 50)] if samples else [(0, 10_240)], b"x" * 50, 100)
    other = plain.with_name("other")
    other.write_bytes(b"\1" * 10_240)
    os.replace(other, plain)
    with pytest.raises(NeedsRecoveryError, match="is about another file than this one"):
        recover(plain)
    assert plain.read_bytes() == b"\1" * 10_240


def test_a_file_that_was_copied_with_its_journal_can_be_recovered(plain, tmp_path):
    before = plain.read_bytes()
    abandoned(plain, [(100, 50)], b"x" * 50, 100)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.copy(plain, folder)
    shutil.copy(journal.path_of(str(plain)), folder)
    assert recover(folder / "plain") is True
    assert (folder / "plain").read_bytes() == before


@needs_users
def test_who_may_not_write_to_a_journal_learns_whether_its_writer_lives(shared_folder: Path) -> None:
    plain = shared_folder / "plain"
    plain.write_bytes(bytes(range(256)) * 40)
    change = Journal.begin(str(plain), [(10, 20)], fsync=False, check=nothing)
    os.chmod(journal.path_of(str(plain)), 0o444)
    plain.chmod(0o644)
    asked = f"""
        try:
            recover({str(plain)!r})
        except OSError as error:
            print(type(error).__name__, error)
    """
    assert "FileBusyError" in (said := as_user(1001, asked))
    assert "somebody is changing the file right now" in said
    change._close()  # as if its process had died
    assert "NeedsRecoveryError" in (said := as_user(1001, asked))
    assert "its writer died in the middle of a change" in said
    assert "call xr_pytables.recover(path)" in said
    assert recover(str(plain))
    assert as_user(1001, asked) == ""


def test_a_journal_that_cannot_be_removed_is_no_reason_to_wait_for_ever(plain, monkeypatch):
    Path(journal.path_of(str(plain))).write_bytes(b"")
    monkeypatch.setattr(journal, "_PATIENCE", 0.1)
    monkeypatch.setattr(journal, "_settle", lambda target, path: False)
    with pytest.raises(FileBusyError, match="or cannot be removed"):
        Journal.begin(str(plain), [(0, 1)], fsync=False, check=nothing)


def test_a_symbolic_link_leads_to_the_journal(plain):
    abandoned(plain, [(100, 50)], b"x" * 50, 100)
    link = plain.with_name("link")
    link.symlink_to(plain)
    assert recover(link) is True


def test_no_room_for_the_journal(plain, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 60, 40))
    with pytest.raises(OSError, match="needs 50 bytes of free space, and there are 40") as caught:
        Journal.begin(str(plain), [(100, 50)], fsync=True, check=nothing)
    assert caught.value.errno == 28
    assert os.listdir(plain.parent) == ["plain"]


def test_two_that_begin_at_the_same_time_exclude_each_other(plain):
    won, busy, barrier = [], [], threading.Barrier(8)

    def begin() -> None:
        barrier.wait()
        try:
            won.append(Journal.begin(str(plain), [(0, 10)], fsync=False, check=nothing))
        except FileBusyError as error:
            busy.append(error)

    for _ in range(10):
        threads = [threading.Thread(target=begin) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert len(busy) == 7
        won.pop().discard()
        busy.clear()
    assert os.listdir(plain.parent) == ["plain"]


# -- who is believed ---------------------------------------------------------------------------------------


PLANT = """
    from xr_pytables.disk import journal
    with open({target!r}, "rb") as file:
        data = file.read()[:-8] + bytes(8)
    known = os.stat({target!r})
    saved = journal._Saved(0, len(data), journal.zlib.crc32(data))
    contents = journal._Contents(len(data), known.st_mtime_ns, known.st_dev, known.st_ino, (saved,), ())
    with open(journal.path_of({target!r}), "wb") as file:
        file.write(contents.encoded() + data)
    os.chmod(journal.path_of({target!r}), {mode})
"""
READ = """
    warnings.simplefilter("ignore")
    print(xr.open_dataset({target!r}, engine="pytables")["v"].values[0, 1])
"""


def planted(path: Path, *, by: int, owner: int, mode: int, journal_mode: int = 0o666) -> bytes:
    """A valid journal that a user made beside a file of another; the bytes of the file."""
    make(path)
    path.chmod(mode)
    os.chown(path, owner, owner)
    as_user(by, PLANT.format(target=str(path), mode=journal_mode))
    return path.read_bytes()


@needs_users
@pytest.mark.parametrize("reader", [USERS[0], 0])
def test_a_journal_of_somebody_who_could_not_write_to_the_file_is_ignored(shared_folder: Path, reader: int) -> None:
    path = shared_folder / "file.h5"
    before = planted(path, by=USERS[1], owner=USERS[0], mode=0o644)
    assert as_user(reader, READ.format(target=str(path))) == "1.0\n"
    with pytest.warns(
        UserWarning, match=r"file\.h5: the journal .*xrpt-journal is of the user 1002, .* It was ignored"
    ):
        assert xr_pytables.tree(path).groups
    with pytest.raises(ForeignJournalError, match="is of the user 1002, who may not write to the file"):
        to_pytables(steps(10, 11), path, append_dim="t")
    assert path.read_bytes() == before


@needs_users
def test_a_journal_of_somebody_else_who_could_write_to_the_file_is_not_put_back(shared_folder: Path) -> None:
    path = shared_folder / "file.h5"
    before = planted(path, by=USERS[1], owner=USERS[0], mode=0o666)
    for attempt in (lambda: open_ours(path), lambda: recover(path), lambda: to_pytables(steps(0, 1), path)):
        with pytest.raises(NeedsRecoveryError, match="is of the user 1002, neither you nor the owner of the file"):
            attempt()
    assert path.read_bytes() == before
    as_user(USERS[1], f"recover({str(path)!r})")  # believes itself
    assert path.read_bytes() == before[:-8] + bytes(8)


@needs_users
def test_a_journal_that_others_could_write_to_is_not_put_back(shared_folder: Path) -> None:
    path = shared_folder / "file.h5"
    before = planted(path, by=USERS[0], owner=USERS[0], mode=0o644)
    with pytest.raises(NeedsRecoveryError, match="others may write to it who may not write to the file"):
        open_ours(path)
    assert path.read_bytes() == before
    os.chmod(journal.path_of(str(path)), 0o644)
    assert recover(path)


def test_a_journal_with_a_second_name_is_not_put_back(plain: Path) -> None:
    abandoned(plain, [(100, 50)], b"x" * 50, 100)
    os.link(journal.path_of(str(plain)), plain.with_name("kept"))
    with pytest.raises(NeedsRecoveryError, match="it has another name as well"):
        recover(plain)
    assert plain.read_bytes()[100:150] == b"x" * 50


def test_a_journal_is_not_put_back_into_what_took_the_place_of_the_file(plain: Path) -> None:
    place = journal.path_of(str(plain))
    abandoned(plain, [(100, 50)], b"x" * 50, 100)
    secret = plain.with_name("secret")
    secret.write_bytes(before := plain.read_bytes())
    plain.unlink()
    plain.symlink_to(secret)
    with pytest.raises(NeedsRecoveryError, match="cannot be written to"):
        journal._settle(str(plain), place)
    assert secret.read_bytes() == before


def make_socket(path: str) -> None:
    with contextlib.chdir(os.path.dirname(path)), socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.basename(path))


NO_FILES = {
    "a symbolic link": lambda path: os.symlink("file.h5", path),
    "a folder": os.mkdir,
    "a named pipe": os.mkfifo,
    "a socket": make_socket,
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_plain_file_is_no_journal(path: Path, kind: str) -> None:
    make(path)
    before = path.read_bytes()
    NO_FILES[kind](journal.path_of(str(path)))
    with pytest.warns(
        UserWarning, match=rf"what has the name of its journal, .*, is {kind}\. Remove it\. It was ignored"
    ):
        xr.testing.assert_identical(open_ours(path), steps(0, 10))
    with pytest.warns(UserWarning, match=kind):
        assert xr_pytables.tree(path).groups
    for mode in ("w", "a", "r+"):
        with pytest.raises(ForeignJournalError, match=rf"file\.h5: what has the name of its journal, .* is {kind}"):
            to_pytables(steps(0, 10) * 2, path, mode=mode)
    assert path.read_bytes() == before
    assert len(os.listdir(path.parent)) == 2


ABSURD = {
    "offset": {"saved": [(2**63 - 1, 50)]},
    "offset that wraps": {"saved": [(2**64 - 10, 50)]},
    "count": {"saved": [(100, 2**62)]},
    "size": {"size": 2**62},
    "negative when signed": {"size": 2**64 - 1},
    "size beyond what is saved": {"size": 10_241},
    "size before what is saved": {"size": 120},
    "overlapping": {"saved": [(100, 25), (110, 25)]},
    "nothing": {"saved": [(100, 50), (200, 0)]},
    "samples": {"samples": [(2**60, 4096)]},
    "large samples": {"samples": [(0, 10_000)]},
}


@pytest.mark.parametrize("what", ABSURD)
def test_absurd_numbers_in_a_journal_are_damage(plain: Path, what: str) -> None:
    whole = abandoned(plain, [(100, 50)], b"x" * 50, 100)
    before, path = plain.read_bytes(), journal.path_of(str(plain))
    found = {"size": 10_240, "saved": [(100, 50)], "samples": [], **ABSURD[what]}
    status = plain.stat()
    entries = [
        tuple(journal._Saved(*each, zlib.crc32(whole[-50:])) for each in found[key]) for key in ("saved", "samples")
    ]
    contents = journal._Contents(found["size"], status.st_mtime_ns, status.st_dev, status.st_ino, *entries)
    Path(path).write_bytes(contents.encoded() + whole[-50:])
    with pytest.raises(NeedsRecoveryError, match="the journal is damaged"):
        recover(plain)
    assert plain.read_bytes() == before


def test_absurd_numbers_of_ranges_take_no_memory(plain: Path) -> None:
    abandoned(plain, [(100, 50)], b"x" * 50, 100)
    header = bytearray(journal._HEADER.pack(journal.MAGIC, 1, 0, 10_240, 0, 0, 0, 2**32 - 1, 2**32 - 1, 0))
    header[12:16] = zlib.crc32(header[16:]).to_bytes(4, "little")
    with open(journal.path_of(str(plain)), "r+b") as file:
        file.write(header)
        file.truncate(1 << 38)
    tracemalloc.start()
    with pytest.raises(NeedsRecoveryError, match="the journal is damaged"):
        recover(plain)
    assert tracemalloc.get_traced_memory()[1] < 1 << 27
    tracemalloc.stop()


# -- opening a file that is being changed, or was left half changed ----------------------------------------


def test_a_live_writer_makes_the_file_busy(path, in_place, monkeypatch):
    make(path)
    lazy, seen = xr.open_dataset(path, engine="pytables", chunks={}), []
    apply = changes._apply

    def watched(*arguments):
        apply(*arguments)
        for attempt in (
            lambda: open_ours(path),
            lambda: xr.open_datatree(path, engine="pytables"),
            lambda: to_pytables(steps(11, 12), path, append_dim="t"),
            lambda: to_pytables(steps(11, 12), path),
            lambda: recover(path),
            lambda: lazy.load(scheduler="synchronous"),
        ):
            with pytest.raises(FileBusyError, match="somebody is changing the file right now"):
                attempt()
            seen.append(attempt)

    monkeypatch.setattr(changes, "_apply", watched)
    to_pytables(steps(10, 11), path, append_dim="t")
    assert len(seen) == 6
    xr.testing.assert_identical(open_ours(path), steps(0, 11))


HALF_DONE = """
import os, sys
from xr_pytables.writing import changes
from xr_pytables import to_pytables
sys.path.insert(0, {root!r})
from tests.disk.test_journal import steps
changes.SMALL_FILE, changes.LARGEST_SHARE = 0, 1.0
apply = changes._apply
def half(*arguments):
    apply(*arguments)
    os._exit(9)  # HDF5 has written part of its metadata
changes._apply = half
to_pytables(steps(10, 15), sys.argv[1], append_dim="t")
"""


def leave_half_done(path: Path) -> None:
    code = HALF_DONE.format(root=str(Path(__file__).parents[2]))
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert os.path.exists(journal.path_of(str(path)))


HOW = ["open_dataset", "open_datatree", "tree", "info", "external link", "append", "mode w", "recover"]


@pytest.mark.parametrize("how", HOW)
def test_whoever_opens_a_half_changed_file_puts_it_back(path, how):
    make(path)
    before = path.read_bytes()
    leave_half_done(path)
    assert path.read_bytes() != before
    if how == "open_dataset":
        xr.testing.assert_identical(open_ours(path), steps(0, 10))
    elif how == "open_datatree":
        xr.testing.assert_identical(xr.open_datatree(path, engine="pytables").to_dataset().load(), steps(0, 10))
    elif how == "tree":
        assert xr_pytables.tree(path).groups[0].arrays[1].shape == (10,)
    elif how == "info":
        result = CliRunner().invoke(cli.main, ["info", str(path)])
        assert "v (t: 10, x: 900)" in result.output
    elif how == "external link":
        with tables.open_file(path.with_name("links.h5"), "w") as file:
            file.create_external_link("/", "there", "file.h5:/v")
        linked = xr.open_dataarray(path.with_name("links.h5"), engine="pytables", group="/there")
        np.testing.assert_array_equal(linked.values, steps(0, 10)["v"])
        path.with_name("links.h5").unlink()
    elif how == "append":
        to_pytables(steps(10, 12), path, append_dim="t")
        xr.testing.assert_identical(open_ours(path), steps(0, 12))
    elif how == "mode w":
        to_pytables(steps(5, 7), path)
        xr.testing.assert_identical(open_ours(path), steps(5, 7))
    else:
        assert xr_pytables.recover(path) is True
    if how not in ("append", "mode w"):
        assert path.read_bytes() == before
    assert not os.path.exists(journal.path_of(str(path)))
    to_pytables(steps(20, 21), path)
    assert os.listdir(path.parent) == ["file.h5"]  # the folder of the dead writer, too


def test_a_lazy_dataset_reads_on_after_its_file_was_put_back(path):
    make(path)
    lazy = xr.open_dataset(path, engine="pytables", cache=False)
    assert lazy["v"][0, 0] == 0
    leave_half_done(path)
    xr.testing.assert_identical(lazy.compute(), steps(0, 10))


def test_a_reader_that_may_not_write_says_who_can_help(request):
    folder = Path(tempfile.mkdtemp())
    request.addfinalizer(lambda: shutil.rmtree(folder))
    folder.chmod(0o755)
    path = folder / "file.h5"
    make(path)
    leave_half_done(path)
    code = f"""
        import os, xarray as xr, xr_pytables.backend, xr_pytables.store
        os.setuid(65534)
        try:
            xr.open_dataset({str(path)!r}, engine="pytables")
        except OSError as error:
            print(type(error).__name__, error)
    """
    if os.getuid():
        pytest.skip("only root can become somebody else")
    hot = journal.path_of(str(path))
    os.chmod(hot, 0o644)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("NeedsRecoveryError"), done.stderr
    assert "xr_pytables.recover(path)" in done.stdout
    os.chmod(hot, 0o600)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("NeedsRecoveryError"), done.stderr
    xr.testing.assert_identical(open_ours(path), steps(0, 10))


@pytest.mark.parametrize("other", ["h5py reads", "tables writes", "h5py writes"])
def test_a_file_that_others_have_open_is_not_changed(path, in_place, other, monkeypatch):
    make(path)
    before = path.read_bytes()
    if other == "tables writes":
        with tables.open_file(path, "a"), pytest.raises(FileBusyError):
            to_pytables(steps(10, 11), path, append_dim="t")
    elif other == "h5py reads":
        with h5py.File(path), pytest.raises(FileBusyError):
            to_pytables(steps(10, 11), path, append_dim="t")
    else:  # it comes when the journal is already written
        begin = Journal.begin

        def begin_late(*args, **kwargs):
            change = begin(*args, **kwargs)
            opened.append(h5py.File(path, "a"))
            return change

        opened: list[h5py.File] = []
        monkeypatch.setattr(Journal, "begin", begin_late)
        with pytest.raises(FileBusyError):
            to_pytables(steps(10, 11), path, append_dim="t")
        opened[0].close()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["file.h5"]


# -- what goes wrong in the writer -------------------------------------------------------------------------


class TaskFailedError(Exception):
    pass


def failing(block):
    raise TaskFailedError


def interrupted(block):
    raise KeyboardInterrupt


@pytest.mark.parametrize("arguments", [{"append_dim": "t"}, {"region": {"t": slice(0, 2)}}], ids=str)
@pytest.mark.parametrize(("task", "error"), [(failing, TaskFailedError), (interrupted, KeyboardInterrupt)])
def test_a_failing_task_leaves_the_file_untouched(path, in_place, arguments, task, error):
    make(path)
    before, status = path.read_bytes(), path.stat()
    broken = steps(10, 12).chunk({"x": 300})
    if "region" in arguments:
        broken = broken.drop_vars("t")
    broken["v"] = broken["v"].copy(data=broken["v"].data.map_blocks(task, dtype="f8", meta=np.empty((0, 0))))
    with pytest.raises(error), dask.config.set(scheduler="synchronous"):
        to_pytables(broken, path, **arguments)
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert os.listdir(path.parent) == ["file.h5"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), MemoryError])
@pytest.mark.parametrize("step", ["write", "write_structure"])
def test_an_error_in_the_middle_of_the_change_undoes_it(path, in_place, monkeypatch, error, step):
    make(path)
    before, status = path.read_bytes(), path.stat()
    where = changes.chunk_writer if step == "write" else changes
    original = getattr(where, step)

    def fails(*args, **kwargs):
        original(*args, **kwargs)
        raise error

    monkeypatch.setattr(where, step, fails)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        to_pytables(steps(10, 19), path, append_dim="t")
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert os.listdir(path.parent) == ["file.h5"]
    xr.testing.assert_identical(open_ours(path), steps(0, 10))


@pytest.mark.parametrize(("step", "where"), [("write", r"file\.h5:/\w+"), ("write_structure", r"file\.h5")])
def test_what_hdf5_cannot_change_is_named(path, in_place, monkeypatch, step, where):
    """As arrays of which HDF5 2.0 made the header."""
    make(path)
    before = path.read_bytes()

    def fails(*args, **kwargs):
        raise HDF5Error("bad version number for layout message (H5Oopen)")

    monkeypatch.setattr(changes.chunk_writer if step == "write" else changes, step, fails)
    with pytest.raises(HDF5Error, match=rf"{where}: the HDF5 of PyTables \(.*\) cannot change it: bad version number"):
        to_pytables(steps(10, 19), path, append_dim="t")
    assert path.read_bytes() == before


def test_a_lazy_dataset_of_the_old_version_never_mixes(path, in_place):
    make(path)
    lazy = xr.open_dataset(path, engine="pytables", cache=False)
    for start, stop in ((10, 11), (11, 13), (13, 30)):
        to_pytables(steps(start, stop), path, append_dim="t")
        try:
            found = lazy.compute()
        except FileChangedError:
            continue
        xr.testing.assert_identical(found, steps(0, 10))
    to_pytables(steps(0, 1)[["v"]].drop_vars("t") * -1, path, region={"t": slice(0, 1)})
    fresh = open_ours(path)
    assert fresh["v"][0, 5] == -5


@pytest.mark.parametrize("mode", ["a", "r+"])
def test_write_to_the_file_that_is_read_from_in_place(path, in_place, mode):
    make(path)
    inode = path.stat().st_ino
    lazy = xr.open_dataset(path, engine="pytables", chunks={})
    to_pytables(lazy[["v"]] + 1 if mode == "r+" else (lazy + 1)[["v"]].rename(v="w"), path, mode=mode)
    assert path.stat().st_ino == inode
    np.testing.assert_array_equal(open_ours(path)["v" if mode == "r+" else "w"], steps(0, 10)["v"] + 1)


@pytest.mark.parametrize("fsync", [True, False])
def test_fsync_is_called_before_and_after_the_change_as_asked(path, in_place, monkeypatch, fsync):
    make(path)
    synced = []
    original = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")) or original(fd))
    to_pytables(steps(10, 11), path, append_dim="t", fsync=fsync)
    names = [os.path.basename(name) for name in synced]
    hot, folder = ".file.h5.xrpt-journal", path.parent.name
    assert names == ([hot, hot, folder, "file.h5", folder] if fsync else [])


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_a_delayed_change_in_place_is_made_once(path, in_place, scheduler):
    make(path)
    delayed = to_pytables(steps(10, 16).chunk({"t": 2}), path, append_dim="t", compute=False)
    xr.testing.assert_identical(open_ours(path), steps(0, 10))
    with dask.config.set(scheduler=scheduler):
        delayed.compute()
    xr.testing.assert_identical(open_ours(path), steps(0, 16))
    assert os.listdir(path.parent) == ["file.h5"]


@pytest.mark.parametrize("way", ["copy", "journal"])
def test_a_repeated_commit_changes_nothing_more(path, monkeypatch, way):
    """As when a worker dies between the commit and its report."""
    make(path)
    monkeypatch.setattr(changes, "SMALL_FILE", 0 if way == "journal" else 2**40)
    monkeypatch.setattr(changes, "LARGEST_SHARE", 1.0)
    kept = []
    conclude = changes.Transaction._conclude
    monkeypatch.setattr(changes.Transaction, "_conclude", lambda transaction: kept.append(transaction))
    original, wholes = changes._change_delayed, []
    monkeypatch.setattr(changes, "_change_delayed", lambda ready, whole: (wholes.append(whole), original(ready, whole)))
    with dask.config.set(scheduler="synchronous"):
        to_pytables(steps(10, 12).chunk(), path, append_dim="t", compute=False).compute()
    assert len(kept) == 1
    after = path.read_bytes()
    monkeypatch.setattr(changes.Transaction, "_conclude", conclude)
    for _ in range(2):
        original(None, wholes[0])
        assert path.read_bytes() == after
        assert [os.listdir(folder) for folder in path.parent.glob(".*")] == [["concluded"]]
    kept[0].forget()
    assert os.listdir(path.parent) == ["file.h5"]


KILLED = """
import os, signal, sys
import numpy as np, xarray as xr
from xr_pytables.writing import changes
from xr_pytables.library import target_file
from xr_pytables import to_pytables
from xr_pytables.disk.journal import Journal

path, moment = sys.argv[1:]
changes.SMALL_FILE, changes.LARGEST_SHARE = 0, 1.0
owner, name, comes_first = {
    "the journal is whole": (Journal, "begin", True),
    "the first chunk is written": (target_file.TargetArray, "write_chunk", True),
    "all is written": (Journal, "commit", False),
    "it is final": (Journal, "commit", True),
}[moment]
real = getattr(owner, name)

def killed(*arguments, **options):
    if comes_first:
        real(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

n = np.arange(10, 17)
rows = xr.Dataset({"v": (("t", "x"), n[:, None] * 1000.0 + np.arange(900))}, coords={"t": n})
setattr(owner, name, killed)
to_pytables(rows, path, append_dim="t")
"""


@pytest.mark.parametrize(
    ("moment", "touched", "rows"),
    [
        ("the journal is whole", False, 10),
        ("the first chunk is written", True, 10),
        ("all is written", True, 10),
        ("it is final", True, 17),
    ],
)
def test_real_kills_lose_nothing(path, moment, touched, rows):
    make(path)
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), moment], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (path.read_bytes() != before) == touched
    assert os.path.exists(journal.path_of(str(path))) == (rows == 10)
    xr.testing.assert_identical(open_ours(path), steps(0, rows))
    assert (path.read_bytes() == before) == (rows == 10)
    to_pytables(steps(rows, rows + 1), path, append_dim="t")
    xr.testing.assert_identical(open_ours(path), steps(0, rows + 1))
    assert os.listdir(path.parent) == ["file.h5"]


# -- chunks that are not full ------------------------------------------------------------------------------

CODECS = [None, "zlib", "bzip2", "blosc:lz4", "blosc:zstd", "blosc:blosclz", "blosc2:lz4", "blosc2:zstd"]


@pytest.mark.parametrize("complib", CODECS)
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("fletcher32", [True, False])
def test_chunks_that_are_not_full_are_read_by_everybody(path, complib, shuffle, fletcher32):
    encoding = {"v": {"chunksizes": (4, 300), "complib": complib, "shuffle": shuffle, "fletcher32": fletcher32}}
    to_pytables(steps(0, 2).drop_vars("t"), path, unlimited_dims=["t"], encoding=encoding)
    for row in range(2, 11):
        to_pytables(steps(row, row + 1).drop_vars("t"), path, append_dim="t")
        expected = steps(0, row + 1)["v"].values
        np.testing.assert_array_equal(open_ours(path)["v"], expected)
        with pytest.warns(tables.exceptions.DataTypeWarning), tables.open_file(path) as file:
            np.testing.assert_array_equal(file.root.v[:], expected)
            np.testing.assert_array_equal(file.root.v[row, 250:350], expected[row, 250:350])
    with pytest.warns(tables.exceptions.DataTypeWarning), tables.open_file(path, "a") as file:
        chunk = file.root.v.chunk_info((8, 0))
        before = shuffle and (not complib or complib in ("zlib", "bzip2"))  # Blosc shuffles by itself
        frames = complib in ("blosc2:lz4", "blosc2:zstd") and not fletcher32  # PyTables wants nothing else there
        assert chunk.filter_mask == (0 if frames else bool(complib) << before)
        assert chunk.size == 4 * 300 * 8 + 4 * fletcher32 + 272 * frames
        if complib is not None:
            assert file.root.v.chunk_info((4, 0)).size < chunk.size
        file.root.v.append(steps(11, 13)["v"].values)
    np.testing.assert_array_equal(open_ours(path)["v"], steps(0, 13)["v"])
    if complib in (None, "zlib"):
        with h5py.File(path) as file, netCDF4.Dataset(path) as other:
            np.testing.assert_array_equal(file["v"][:], steps(0, 13)["v"])
            np.testing.assert_array_equal(other["v"][:], steps(0, 13)["v"])


@pytest.mark.parametrize("complib", CODECS)
def test_other_programs_append_noise_to_chunks_that_are_not_full(path, complib):
    """HDF5 keeps the filter mask of a chunk that it writes again with the same size: noise does not compress."""
    noise = np.random.default_rng(0).integers(0, 2**63, (9, 50))
    encoding = {"v": {"chunksizes": (4, 50), "complib": complib, "shuffle": True}}
    to_pytables(xr.Dataset({"v": (("t", "x"), noise[:1])}), path, unlimited_dims=["t"], encoding=encoding)
    to_pytables(xr.Dataset({"v": (("t", "x"), noise[1:2])}), path, append_dim="t")
    for row in range(2, 9):
        if row % 2:
            to_pytables(xr.Dataset({"v": (("t", "x"), noise[row : row + 1])}), path, append_dim="t")
        else:
            with pytest.warns(tables.exceptions.DataTypeWarning), tables.open_file(path, "a") as file:
                file.root.v.append(noise[row : row + 1])
        np.testing.assert_array_equal(open_ours(path)["v"], noise[: row + 1])
        with pytest.warns(tables.exceptions.DataTypeWarning), tables.open_file(path) as file:
            np.testing.assert_array_equal(file.root.v[:], noise[: row + 1])


def test_a_chunk_that_grows_stays_in_its_place_and_gives_its_room_to_the_next(path, in_place):
    make(path, 9)
    places, sizes = [], []
    for row in range(9, 30):
        to_pytables(steps(row, row + 1), path, append_dim="t")
        with pytest.warns(tables.exceptions.DataTypeWarning), tables.open_file(path) as file:
            places.append(file.root.v.chunk_info((row // 4 * 4, 300)).offset)
            sizes.append(path.stat().st_size)
    assert set(places[:3]) == set(places)
    assert len(set(places)) == 1
    assert sizes[-1] - sizes[4] < 6 * 3 * 3000  # six rows of encoded chunks, not of plain ones of 9600 bytes


def test_a_file_whose_end_becomes_free_can_be_changed_again(path, in_place):
    """HDF5 cuts off what is free at the end: a chunk that became smaller was there."""
    rng, values = np.random.default_rng(0), np.zeros((12, 50))
    to_pytables(xr.Dataset({"v": (("t", "x"), values)}), path, encoding={"v": {"chunksizes": (4, 50), "zlib": True}})
    sizes = []
    for number in range(40):
        row = int(rng.integers(12))
        values[row] = rng.random(50) if rng.random() < 0.5 else number
        part = xr.Dataset({"v": (("t", "x"), values[row : row + 1])})
        to_pytables(part, path, region={"t": slice(row, row + 1)}, fsync=False)
        sizes.append(path.stat().st_size)
        np.testing.assert_array_equal(open_ours(path)["v"], values)
    assert (np.diff(sizes) < 0).sum() > 2


def test_equal_size_with_another_mask(path):
    """HDF5 overwrites a chunk of the same size without taking the new filter mask."""
    data = np.random.default_rng(0).integers(0, 256, (2, 64), "u1")
    to_pytables(xr.Dataset({"v": (("t", "x"), data)}), path, encoding={"v": {"chunksizes": (1, 64), "complib": "zlib"}})
    from xr_pytables.library.target_file import TargetFile

    plain = np.arange(64, dtype="u1")
    with pytest.warns(tables.exceptions.DataTypeWarning), tables.open_file(path) as file:
        old = file.root.v.chunk_info((0, 0))
    stored = np.append(plain, np.frombuffer(np.uint32(0).tobytes(), "u1"))
    stored = np.resize(stored, old.size)
    other = 0b111 if old.filter_mask != 0b111 else 0
    with hdf5_lock(), TargetFile(str(path), create=False) as file, file.array("/v") as array:
        array.write_chunk((0, 0), stored, other, replaces=(old.size, old.filter_mask))
    with pytest.warns(tables.exceptions.DataTypeWarning), tables.open_file(path) as file:
        assert file.root.v.chunk_info((0, 0)).filter_mask == other
        assert file.root.v.chunk_info((0, 0)).size == old.size


@pytest.mark.parametrize("complib", [None, "zlib"])
def test_a_full_disk_leaves_a_file_that_was_changed_in_place_as_it_was(path, complib):
    code = f"""
        import os, numpy as np, xarray as xr, dask.array, xr_pytables
        target = {str(path)!r}
        rng = np.random.default_rng(0)
        old = xr.Dataset({{"v": (("t", "x"), rng.random((5, 130_000)))}})
        xr_pytables.to_pytables(old, target, unlimited_dims="t", encoding={{"v": {{"complib": {complib!r}}}}})
        before, status = open(target, "rb").read(), os.stat(target)
        more = rng.random((8, 130_000))
        for data in (more, dask.array.from_array(more, chunks=(1, -1))):
            try:
                xr_pytables.to_pytables(xr.Dataset({{"v": (("t", "x"), data)}}), target, append_dim="t")
            except OSError as error:
                assert "No space left" in str(error) or "free space" in str(error), error
            else:
                raise AssertionError
            assert open(target, "rb").read() == before
            assert os.stat(target).st_mtime_ns == status.st_mtime_ns
            assert os.listdir(os.path.dirname(target)) == [os.path.basename(target)]
        xr_pytables.to_pytables(xr.Dataset({{"v": (("t", "x"), more[:1])}}), target, append_dim="t")
        assert os.stat(target).st_ino == status.st_ino
        assert xr.load_dataset(target, engine="pytables").sizes["t"] == 6
        print("done")
    """
    small_disk = 'mount -t tmpfs -o size=10m none "$0" 2>/dev/null || exit 77; exec "$1" -c "$2"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", small_disk]
    if shutil.which("unshare") is None:
        pytest.skip("makes a small disk with unshare")
    done = subprocess.run(
        [*command, str(path.parent), sys.executable, textwrap.dedent(code)], check=False, capture_output=True, text=True
    )
    if not done.stdout and done.returncode in (1, 77) and "Traceback" not in done.stderr:
        pytest.skip("this system lets nobody mount a small disk")
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("done\n", "")


# on a busy machine a cluster that lost a worker closes late, and says so
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("compute", [True, False])
def test_a_worker_that_dies_does_no_harm(path, in_place, compute):
    distributed = pytest.importorskip("distributed")
    make(path)
    marker = str(path.with_name("died"))

    def die_once(values):
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:  # this or the other worker died already
            return values
        os._exit(1)

    piece = steps(10, 22).chunk({"t": 2, "x": 500})
    piece["v"] = piece["v"].copy(data=piece["v"].data.map_blocks(die_once, dtype="f8", meta=np.empty((0, 0))))
    with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=":0"):
        delayed = to_pytables(piece, path, append_dim="t", compute=compute)
        if not compute:
            delayed.compute()
    assert os.path.exists(marker)
    xr.testing.assert_identical(open_ours(path), steps(0, 22))
    assert sorted(os.listdir(path.parent)) == ["died", "file.h5"]


def test_what_is_no_raw_data_is_known_after_each_append_without_a_walk(tmp_path, monkeypatch):
    """And is what a walk through all indexes finds: more would be saved for nothing, less would be lost in a crash."""
    monkeypatch.setattr(changes, "SMALL_FILE", 0)
    monkeypatch.setattr(changes, "LARGEST_SHARE", 1.0)
    path, random = tmp_path / "file.h5", np.random.default_rng(0)

    def steps(first: int, count: int) -> xr.Dataset:
        values = random.integers(0, 9, (count, 5, 7)).astype("f4")
        return xr.Dataset(
            {"v": (("t", "y", "x"), values), "w": ("t", values[:, 0, 0])}, coords={"t": np.arange(first, first + count)}
        )

    words = {"v": {"chunksizes": (4, 3, 7), "zlib": True}, "w": {"chunksizes": (3,)}, "t": {"chunksizes": (8,)}}
    to_pytables(steps(0, 6), path, encoding=words, unlimited_dims=["t"])
    extents_of_files._known.clear()
    walks = 0
    real = raw_extents

    def counted(file: File) -> object:
        nonlocal walks
        walks += 1
        return real(file)

    monkeypatch.setattr(extents_of_files, "raw_extents", counted)
    length = 6
    for turn in range(120):
        if turn % 5 == 4:
            first = int(random.integers(length - 2))
            part = steps(first, 2).drop_vars("t")
            to_pytables(part, path, region={"t": slice(first, first + 2)}, fsync=False)
        else:
            count = int(random.integers(1, 6))
            to_pytables(steps(length, count), path, append_dim="t", fsync=False)
            length += count
        with open(path, "rb") as raw:
            fresh = others(
                path.stat().st_size, real(File(LocalFile(raw.fileno(), str(path)))), changed=(), rewritten=()
            )
        assert list(extents_of_files._known.values())[-1] == fresh
    assert walks == 1
    with h5py.File(path, "a") as file:  # another program
        file["v"].attrs["note"] = "x"
    to_pytables(steps(length, 1), path, append_dim="t")
    assert walks == 2


@st.composite
def trees(draw):
    """An array whose chunk tree has nodes of four children, and changes of it: (axis to append along, or None)."""
    shape = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))
    chunks = tuple(draw(st.integers(1, 2)) for _ in shape)
    early, stored = draw(st.booleans()), draw(st.sampled_from([0.0, 0.3, 1.0]))
    axes = draw(st.lists(st.sampled_from([None, *range(len(shape))]), min_size=1, max_size=5))
    return shape, chunks, early, stored, axes, draw(st.integers(0, 99))


def make_with_small_nodes(path: Path, values: np.ndarray, chunks: tuple[int, ...], early: bool, order: list) -> None:
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    library = ctypes.CDLL(h5py.h5p.__file__)  # h5py has no such method
    assert library.H5Pset_istore_k(ctypes.c_int64(creation.id), ctypes.c_uint(2)) >= 0
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_LATEST)
    kind = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kind.set_chunk(chunks)
    if early:
        kind.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    else:
        kind.set_deflate(1)
    with h5py.File(h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_TRUNC, creation, access)) as file:
        space = h5py.h5s.create_simple(values.shape, (h5py.h5s.UNLIMITED,) * values.ndim)
        for name in ("v", "w"):  # the other one stays as it is
            array = h5py.Dataset(h5py.h5d.create(file.id, name.encode(), h5py.h5t.NATIVE_INT32, space, kind))
            for axis in range(values.ndim):
                array.dims[axis].label = f"{name}{axis}"
            for at in order:
                part = tuple(slice(n * chunk, (n + 1) * chunk) for n, chunk in zip(at, chunks, strict=True))
                array[part] = values[part]


@examples(60)
@given(trees())
def test_a_change_touches_nothing_that_the_journal_has_not_saved(tmp_path_factory, case):
    """Of the nodes of chunk trees it has those that HDF5 writes to, and no others."""
    shape, chunks, early, stored, axes, seed = case
    path, random = tmp_path_factory.mktemp("nodes") / "file.h5", np.random.default_rng(seed)
    values, order = np.zeros(shape, "i4"), []
    for at in random.permutation(list(np.ndindex(*(-(-n // c) for n, c in zip(shape, chunks, strict=True))))).tolist():
        if random.random() < stored:
            part = tuple(slice(n * chunk, (n + 1) * chunk) for n, chunk in zip(at, chunks, strict=True))
            values[part] = random.integers(1, 99, values[part].shape)
            order.append(at)
    make_with_small_nodes(path, values, chunks, early, order)
    whole, begun = values.copy(), []
    real = Journal.begin

    def begin(target: str, ranges: journal.Ranges, **options: Any) -> Journal:
        begun.append((path.read_bytes(), ranges))
        return real(target, ranges, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "SMALL_FILE", 0)
        patch.setattr(changes, "LARGEST_SHARE", 1.0)
        patch.setattr(changes.Journal, "begin", begin)
        for axis in axes:
            dims, shape = tuple(f"v{axis}" for axis in range(values.ndim)), whole.shape
            if axis is None:
                low = [int(random.integers(n)) for n in shape]
                part = tuple(slice(a, int(random.integers(a, n)) + 1) for a, n in zip(low, shape, strict=True))
                whole[part] = random.integers(1, 99, whole[part].shape)
                where = {"region": dict(zip(dims, part, strict=True))}
            else:
                count = int(random.integers(1, 7))
                new = random.integers(1, 99, (*shape[:axis], count, *shape[axis + 1 :])).astype("i4")
                whole = np.concatenate([whole, new], axis=axis)
                part = tuple(slice(n if one == axis else 0, None) for one, n in enumerate(shape))
                where = {"append_dim": dims[axis]}
            to_pytables(xr.Dataset({"v": (dims, whole[part])}), path, fsync=False, **where)
            (before, ranges), after = begun.pop(), path.read_bytes()
            for offset, count in ranges:
                before, after = (all_[:offset] + bytes(count) + all_[offset + count :] for all_ in (before, after))
            assert before == after[: len(before)]
            with open(path, "rb") as raw:
                extents = raw_extents(File(LocalFile(raw.fileno(), str(path))))
            fresh = others(path.stat().st_size, extents, changed=(), rewritten=())
            assert without(fresh, list(extents_of_files._known.values())[-1]) == []
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["v"][:], whole)
        np.testing.assert_array_equal(file["w"][:], values)


def test_ranges_are_joined_and_cut():
    assert together([(0, 5), (10, 2)], [(5, 1), (12, 4)], []) == [(0, 6), (10, 6)]
    assert together([(0, 9), (20, 3)], [(2, 3), (8, 4), (20, 1), (22, 1)]) == [(0, 12), (20, 3)]
    assert without([(0, 6), (10, 6)], [(12, 2), (0, 1), (3, 3), (15, 1)]) == [(1, 2), (10, 2), (14, 1)]
    assert without([(0, 6)], [(0, 6)]) == []
    assert without([(4, 4), (10, 2), (20, 9)], [(0, 2), (3, 2), (7, 4), (13, 5), (19, 2), (28, 9), (40, 1)]) == [
        (5, 2), (11, 1), (21, 7),
    ]  # fmt: skip
