"""Room in a file: no two ever get the same bytes, whatever dies, freezes or comes late."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from xr_pytables.disk import arenas
from xr_pytables.disk.arenas import OwnRoom, SharedRoom, write_at

MANY = """
    import sys, threading
    from xr_pytables.disk.arenas import SharedRoom
    room, taken = SharedRoom(sys.argv[1]), []
    def take(number):
        taken.extend((size, room.take(size)) for size in (100, 5000, 70_000, 1, 300_000) * 20)
    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    input()
    for each in threads: each.start()
    for each in threads: each.join()
    print(taken)
"""


def check_apart(taken: list[tuple[int, int]], start: int) -> None:
    """No two regions of (size, place) overlap."""
    end = start
    for place, size in sorted((place, size) for size, place in taken):
        assert place >= end
        end = place + size


def test_threads_and_processes_never_get_the_same_bytes(tmp_path):
    room = SharedRoom(str(tmp_path))
    assert room.begin(5000) == 8192
    command = [sys.executable, "-c", textwrap.dedent(MANY), str(tmp_path)]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    taken = []
    for each in running:
        each.stdin.write("go\n")
        each.stdin.flush()
    for each in running:
        taken += eval(each.communicate()[0])
    assert len(taken) == 2 * 4 * 100
    check_apart(taken, 8192)
    end = room.seal()
    needed = sum(size for size, _ in taken)
    assert max(place + size for size, place in taken) <= end
    assert needed > 0.9 * (end - 8192)


def test_threads_of_one_process_leave_no_holes():
    room, taken = OwnRoom(5000), []
    threads = [
        threading.Thread(target=lambda: taken.extend((800, room.take(800)) for _ in range(500))) for _ in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    check_apart(taken, 5000)
    assert room.seal() == 5000 + 8 * 500 * 800


def test_small_regions_share_pages_within_a_process_only(tmp_path, monkeypatch):
    room = SharedRoom(str(tmp_path))
    room.begin(0)
    assert [room.take(1000) for _ in range(5)] == [0, 1000, 2000, 3000, 4000]
    ours = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as a child that was forked has another number
    assert [room.take(1000) for _ in range(2)] == [8192, 9192]
    monkeypatch.setattr(os, "getpid", lambda: ours)
    assert [room.take(size) for size in (3000, 5000, 192)] == [5000, 12_288, 17_288]


def test_a_file_that_grows_is_taken_ahead_in_proportion(tmp_path):
    room = SharedRoom(str(tmp_path))
    room.begin(0)
    room.take(256 * 40_960)
    places = [room.take(4096) for _ in range(10)]
    assert places == [256 * 40_960 + 4096 * number for number in range(10)]
    assert len(os.listdir(tmp_path)) == 3  # the chain, and two regions


def test_what_comes_next_is_taken_with_the_first_and_no_hole_is_large(tmp_path):
    room = SharedRoom(str(tmp_path))
    room.begin(0)
    assert [room.take(40_960, 4 * 40_960, certain=True) for _ in range(5)] == [40_960 * n for n in range(5)]
    assert len(os.listdir(tmp_path)) == 2  # the chain, and one region
    room.take(10_000_000 - 5 * 40_960)
    place = room.take(4096, 10_000_000)  # a thirtieth of what there is, at most
    assert 10_000_000 * 1.03 < room.seal() < 10_000_000 * 1.033
    assert place < 10_010_000


def test_several_writers_share_what_may_be_a_hole(tmp_path, monkeypatch):
    room = SharedRoom(str(tmp_path))
    room.begin(0)
    room.take(4_000_000)
    for number in range(-3, 0):
        monkeypatch.setattr(os, "getpid", lambda number=number: number)
        room.take(4_000_000)
    room.take(4096)  # on the way to the end each meets those that came after it
    for number in range(-3, 0):
        monkeypatch.setattr(os, "getpid", lambda number=number: number)
        room.take(4096, 10_000_000)
    assert room.seal() < 16_000_000 * 1.06


def test_whoever_is_late_is_refused(tmp_path):
    room = SharedRoom(str(tmp_path))
    room.begin(4096)
    room.take(5000)
    assert [room.seal(), room.seal()] == [4096 + 8192] * 2
    assert room.take(3000) == 4096 + 5000  # what is ours stays ours
    with pytest.raises(FileNotFoundError, match="was finished by others"):
        room.take(5000)


def test_the_first_who_begins_counts(tmp_path):
    room = SharedRoom(str(tmp_path))
    assert [room.begin(100), room.begin(9000)] == [4096, 4096]


def test_a_chain_that_was_cleared_away_is_forgotten(tmp_path):
    room = SharedRoom(str(tmp_path))
    room.begin(0)
    assert [room.take(10), room.take(10)] == [0, 16]
    for name in os.listdir(tmp_path):
        (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError):
        room.take(10)
    room.begin(0)
    assert room.take(10) == 0


def test_a_file_system_without_symbolic_links_is_named(tmp_path, monkeypatch):
    def refuses(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuses)
    with pytest.raises(OSError, match=r"only where the file system has symbolic links. Use Dask's threads"):
        SharedRoom(str(tmp_path)).begin(0)


def test_short_writes_go_on(tmp_path: Path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(arenas, "pwrite", lambda fd, data, at: real(fd, data[:3], at))
    descriptor = os.open(tmp_path / "a", os.O_CREAT | os.O_WRONLY)
    write_at(descriptor, b"0123456789", 2)
    os.close(descriptor)
    assert (tmp_path / "a").read_bytes() == b"\0\0" + b"0123456789"
