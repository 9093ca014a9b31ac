"""Reading and writing at places of a file, with and without what POSIX systems have for it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from xr_pytables.sources import positioned

WITHOUT_POSIX = """
import os, sys
for name in ("pread", "preadv", "pwrite", "pwritev", "register_at_fork", "sched_getaffinity", "posix_fallocate",
             "posix_fadvise", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "geteuid", "getuid", "chown",
             "fchmod", "fork", "mkfifo"):
    if hasattr(os, name):
        delattr(os, name)
os.process_cpu_count = os.cpu_count  # as Python has it where there is no affinity
os.supports_dir_fd = set()  # which shutil looks at
sys.modules["fcntl"] = None  # what an import of it finds on Windows
"""


@pytest.mark.parametrize("names", [("pread", "pwrite"), ("_pread", "_pwrite")])
def test_places_are_read_and_written(tmp_path: Path, names: tuple[str, str]) -> None:
    pread, pwrite = (getattr(positioned, name) for name in names)
    descriptor = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR | positioned.BINARY)
    try:
        assert pwrite(descriptor, b"\r\n0123456789", 0) == 12
        assert pwrite(descriptor, memoryview(b"ab"), 4) == 2
        assert pread(descriptor, 5, 1) == b"\n01ab"
        assert pread(descriptor, 9, 10) == b"89"
        assert pread(descriptor, 9, 20) == b""
    finally:
        os.close(descriptor)


def test_threads_do_not_disturb_each_other_where_they_share_a_position(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(range(256)) * 64)
    descriptor = os.open(path, os.O_RDONLY | positioned.BINARY)
    wrong: list[int] = []

    def read(start: int) -> None:
        places = range(start, 256 * 64 - 1, 7)
        wrong.extend(at for at in places if positioned._pread(descriptor, 1, at) != bytes([at % 256]))

    threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(descriptor)
    assert not wrong


def test_one_call_of_the_system_fills_a_buffer_with_and_without_preadv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    descriptor = os.open(tmp_path / "f", os.O_RDONLY | positioned.BINARY)
    for _ in range(2):
        buffer = bytearray(4)
        assert positioned.read_once(descriptor, memoryview(buffer), 3) == 4
        assert buffer == b"3456"
        monkeypatch.delattr(os, "preadv", raising=False)
    os.close(descriptor)


def test_files_are_written_read_and_changed_without_what_windows_lacks(tmp_path: Path) -> None:
    code = (
        WITHOUT_POSIX
        + """
import dask.array, numpy as np, xarray as xr
from xr_pytables import to_pytables, tree
path = sys.argv[1]
values = np.random.default_rng(0).random((60, 50))
for data in (values, dask.array.from_array(values, chunks=(20, 50))):
    ds = xr.Dataset({"v": (("y", "x"), data)})
    to_pytables(ds, path, unlimited_dims="y", encoding={"v": {"complib": "blosc:zstd", "chunksizes": (20, 25)}})
    with xr.open_dataset(path, engine="pytables") as found:
        np.testing.assert_array_equal(found["v"], values)
to_pytables(xr.Dataset({"v": (("y", "x"), values)}), path, append_dim="y")
to_pytables(xr.Dataset({"v": (("y", "x"), values[:5])}), path, region={"y": slice(0, 5)})
to_pytables(xr.Dataset({"w": ("z", np.arange(3))}), path, group="/g", mode="a")
rows = xr.Dataset({"n": ("row", np.arange(100)), "e": ("row", np.arange(100.0))})
to_pytables(rows, path + ".table.h5", group="/t", layout="table", index=["n"])
with xr.open_dataset(path + ".table.h5", engine="pytables", group="/t", where="n in [3, 5]") as found:
    assert found["e"].values.tolist() == [3.0, 5.0]
with xr.open_datatree(path, engine="pytables", chunks={}) as found:
    assert found["v"].shape == (120, 50)
    np.testing.assert_array_equal(found["v"][60:], values)
    assert found["g/w"].values.tolist() == [0, 1, 2]
assert not hasattr(os, "pread")
print(len(tree(path).groups), sorted(os.listdir(os.path.dirname(path))))
"""
    )
    path = tmp_path / "without.h5"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2 ['without.h5', 'without.h5.table.h5']"
