"""Ctrl-C at any moment: the file is the old or the new one, nothing is left, and nothing stays locked.

Python handles signals where functions begin, so KeyboardInterrupt is raised there, in the first, second, third ... that
a write calls. In a process of its own: what stays locked would stop the others.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .helpers_reading import run_python

INTERRUPT = """
import faulthandler, gc, os, shutil, signal, sys, threading, time, warnings
from pathlib import Path
import numpy as np, xarray as xr
from xarray.backends.locks import HDF5_LOCK
from xr_pytables import to_pytables
from xr_pytables.writing import changes

faulthandler.dump_traceback_later(280, exit=True)
warnings.simplefilter("error")
way, folder = sys.argv[1], Path(sys.argv[2])
path, original = folder / "file.h5", folder.parent / "original.h5"
WATCHED = ("xr_pytables", "contextlib.py", "locks.py")
CRITICAL = ("journal.py", "transaction.py", "changes.py", "targets.py", "files.py", "locks.py")
if way in ("in place", "signal"):
    changes.SMALL_FILE, changes.LARGEST_SHARE = 0, 1.0

def steps(start, stop):
    n = np.arange(start, stop)
    return xr.Dataset({"v": (("t", "x"), n[:, None] * 10.0 + np.arange(90))}, coords={"t": n})

def write():
    if way == "new":
        to_pytables(steps(0, 5), path)
    else:
        to_pytables(steps(6, 8), path, append_dim="t")

class Interrupt:
    "Raises KeyboardInterrupt in the call of that number."
    def __init__(self, number):
        self.number, self.calls, self.critical = number, 0, []
    def __call__(self, frame, event, argument):
        if event == "call" and any(one in frame.f_code.co_filename for one in WATCHED):
            # what is raised in the first two is only printed; the third has no way but to begin
            by_xarray = "file_manager" in frame.f_back.f_code.co_filename  # how it keeps files is its own affair
            if by_xarray or frame.f_code.co_name in ("__del__", "<genexpr>", "_remove"):
                return None
            if any(frame.f_code.co_filename.endswith(one) for one in CRITICAL):
                self.critical.append(self.calls)
            self.calls += 1
            if self.calls - 1 == self.number:
                if way != "signal":
                    raise KeyboardInterrupt
                os.kill(os.getpid(), signal.SIGINT)  # which the main thread gets, while another one changes the file
        return None

def run(number):
    interrupt = Interrupt(number)
    if way == "new":
        path.unlink(missing_ok=True)
    else:
        shutil.copyfile(original, path)
    (threading.settrace if way == "signal" else sys.settrace)(interrupt)
    try:
        write()
        time.sleep(0)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
        threading.settrace(None)
    return interrupt

def read():
    with xr.open_dataset(path, engine="pytables") as found:
        return found.load()

def descriptors():
    # HDF5 may keep a file open that is gone: between getting a handle and keeping it; and xarray keeps files to read
    found = map(target_of, os.listdir("/proc/self/fd"))
    return sorted(one for one in found if one and not one.endswith("(deleted)") and not one.startswith(str(folder)))

def target_of(number):
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:  # that of the list itself
        return ""

to_pytables(steps(0, 6), original, unlimited_dims=["t"], encoding={"v": {"chunksizes": (4, 30)}})
counted = run(-1)
new = read()
new.close()
old = steps(0, 6)
numbers = sorted({*range(0, counted.calls, max(1, counted.calls // 15)), *counted.critical[::int(sys.argv[3])]})
gc.collect()
before, outcomes, hidden = descriptors(), {"old": 0, "new": 0}, 0
for number in numbers:
    run(number)
    gc.collect()
    assert not HDF5_LOCK.lock.locked(), f"call {number} leaves HDF5's lock taken"
    if way == "new" and not path.exists():
        outcomes["old"] += 1
    else:
        found = read()
        which = "new" if found.identical(new) else "old"
        assert which == "new" or (way != "new" and found.identical(old)), f"call {number}: {found}"
        outcomes[which] += 1
    write() if way == "new" else to_pytables(steps(9, 10), path, append_dim="t")  # nothing is locked or in the way
    left = sorted(one for one in os.listdir(folder) if one != "file.h5")
    # where the last function of a write had just begun, its folder stays this process's until it ends
    assert all(one.startswith(".file.h5.xrpt-") and "journal" not in one for one in left), f"{number} leaves {left}"
    hidden += len(left)
    for one in left:
        shutil.rmtree(folder / one)
    read().close()
    gc.collect()
    assert descriptors() == before, f"call {number} leaves descriptors open: {descriptors()}"
assert hidden <= 2, hidden
print(len(numbers), outcomes["old"], outcomes["new"])
"""


@pytest.mark.parametrize("way", ["new", "copy", "in place", "signal"])
def test_ctrl_c_in_any_function_leaves_the_old_or_the_new_file_and_nothing_locked(way: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    tried, old, new = map(int, run_python(INTERRUPT, way, folder, 6 if way == "signal" else 10).split())
    assert tried > 20
    assert old + new == tried
    # where the main thread gets the signal, the thread that changes the file may be through before it is told to stop
    assert old > 10 or way == "signal"


FULL = """
import faulthandler, gc, os, resource, shutil, signal, sys, warnings
from pathlib import Path
import numpy as np, xarray as xr
from xr_pytables import to_pytables
from xr_pytables.writing import changes

faulthandler.dump_traceback_later(280, exit=True)
warnings.simplefilter("error")
way, folder = sys.argv[1], Path(sys.argv[2])
path, original = folder / "file.h5", folder.parent / "original.h5"
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if way == "in place":
    changes.SMALL_FILE, changes.LARGEST_SHARE = 0, 1.0

def steps(start, stop):
    n = np.arange(start, stop)
    return xr.Dataset({"v": (("t", "x"), n[:, None] * 10.0 + np.arange(900))}, coords={"t": n})

def write():
    if way == "new":
        to_pytables(steps(0, 12), path)
    elif way == "replace":
        to_pytables(steps(1, 12), path)
    else:
        to_pytables(steps(6, 18), path, append_dim="t")

def read():
    with xr.open_dataset(path, engine="pytables") as found:
        return found.load()

to_pytables(steps(0, 6), original, unlimited_dims=["t"], encoding={"v": {"chunksizes": (4, 300)}})
shutil.copyfile(original, path)
old = read()
write()
new, size = read(), max(path.stat().st_size, original.stat().st_size)
refused = 0
for limit in sorted({*np.linspace(0, size + 8192, int(sys.argv[3])).astype(int).tolist(), 1, 512, size, size - 1}):
    path.unlink() if way == "new" else shutil.copyfile(original, path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write()
    except OSError as error:
        assert path.name in str(error), error
        refused += 1
        failed = True
    else:
        failed = False
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if failed and way == "new":
        assert not path.exists()
    else:
        assert read().identical(old if failed else new), limit
    assert os.listdir(folder) == ([] if failed and way == "new" else ["file.h5"]), (limit, os.listdir(folder))
    path.unlink(missing_ok=True)
    shutil.copyfile(original, path)
    write()  # the process can go on
print(refused)
"""


@pytest.mark.parametrize("way", ["new", "replace", "copy", "in place"])
def test_a_disk_that_is_full_at_any_byte_leaves_the_old_file(way: str, tmp_path: Path) -> None:
    """As a limit for the size of files, which hits what is written at that place, and not before."""
    folder = tmp_path / "folder"
    folder.mkdir()
    assert int(run_python(FULL, way, folder, 8)) >= 4
