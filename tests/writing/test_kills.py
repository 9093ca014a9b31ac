"""A writer that is killed, or loses power, at any moment leaves a file with all of the old or all of the new data.

One process makes each kind of change under a library that logs every call by which it changes files and folders. The
state after each call, and in the middle of each write, is made again from the log and opened. For a loss of power, any
part of what was not yet synced may be missing.
"""

from __future__ import annotations

import copy
import os
import random
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xr_pytables import tree
from xr_pytables.disk import journal

from ..helpers_reading import plain_file

STATES_OF_LOST_POWER = 60

# what the writing process does: for each scenario a file is made before, and changed under the log
SCENARIOS = '''
import numpy as np, pandas as pd, xarray as xr
from xr_pytables.writing import changes
from xr_pytables import to_pytables

def steps(start, stop):
    """Rows of a long field. Chunks of 4 rows; no row is like another."""
    n = np.arange(start, stop)
    return xr.Dataset(
        {
            "a": (("t", "x"), (n[:, None] * 100 + np.arange(600) % 90).astype("i4")),
            "b": ("t", n * 0.5),
            "c": (("x",), np.arange(600)),
        },
        coords={"t": n},
    )

def make(path, rows=22, unlimited=True):
    encoding = {"a": {"chunksizes": (4, 300), "complib": "zlib"}, "b": {"chunksizes": (4,)}, "t": {"chunksizes": (4,)}}
    to_pytables(steps(0, rows), path, encoding=encoding, unlimited_dims=["t"] if unlimited else [])

def append_part_of_chunk(path):
    to_pytables(steps(22, 23), path, append_dim="t")

def append_over_chunks(path):
    to_pytables(steps(22, 31).chunk({"t": 2, "x": 400}), path, append_dim="t")

def append_again(path):  # the last chunks are not compressed, and become full
    to_pytables(steps(22, 27), path, append_dim="t")

def append_whole_chunks(path):
    to_pytables(steps(20, 28), path, append_dim="t")

def append_delayed(path):
    to_pytables(steps(22, 25).chunk(), path, append_dim="t", compute=False).compute()

def append_makes_anew(path):
    to_pytables(steps(22, 25), path, append_dim="t")

def table(start, stop):
    rows = np.random.default_rng(start).random(stop - start)
    return xr.Dataset({"a": ("row", rows), "b.c": ("row", np.arange(start, stop))})

def append_rows(path):
    to_pytables(table(2600, 4500).chunk(row=700), path, append_dim="row", group="/g/table", layout="table")

def append_rows_to_an_index(path):
    to_pytables(table(2600, 3300), path, append_dim="row", group="/g/indexed", layout="table")

def region(path):
    part = steps(3, 9).isel(x=slice(100, 500))[["a"]] * -1
    to_pytables(part.drop_vars("t"), path, region={"t": slice(3, 9), "x": slice(100, 500)})

def add_variables(path):
    new = xr.Dataset({"new": (("t", "y"), np.arange(22 * 9.0).reshape(22, 9))}, attrs={"note": "n" * 500})
    to_pytables(new, path, mode="a")

def add_group(path):
    to_pytables(xr.Dataset({"new": ("y", np.arange(900.0))}), path, mode="a", group="/g/h")

def replace_variable(path):
    to_pytables(xr.Dataset({"c": ("x", np.arange(600) * 0.5)}), path, mode="a")

def fine(start, stop):
    return xr.Dataset({"f": ("n", np.arange(start, stop) * 7)})

def append_splits_nodes(path):  # all nodes of the chunk tree are full
    to_pytables(fine(4096, 4099), path, append_dim="n", group="/g/fine")

def set_values(path):
    to_pytables(steps(0, 22)[["b", "c"]] * 2, path, mode="r+")

def write_anew(path):
    to_pytables(steps(5, 9), path)

def write_anew_unsynced(path):
    to_pytables(steps(5, 9), path, fsync=False)

def write_blocks_anew(path):
    encoding = {"a": {"chunksizes": (2, 300), "complib": "zlib"}}
    to_pytables(steps(5, 9).chunk({"t": 2, "x": 300}), path, encoding=encoding)

def write_anew_delayed(path):  # by steps that many processes share, with text that HDF5 writes
    dataset = steps(5, 9).chunk({"t": 2, "x": 300}).assign(text=("t", np.array(["a", "", "bc", "d"], object)))
    encoding = {"a": {"chunksizes": (2, 300), "complib": "zlib"}, "text": {"string": "vlen"}}
    to_pytables(dataset.chunk({"t": 2}), path, encoding=encoding, compute=False).compute(scheduler="synchronous")
'''
NAMES = [line.split()[1].partition("(")[0] for line in SCENARIOS.splitlines() if line.startswith("def ")]
NAMES = [name for name in NAMES if name not in ("steps", "make", "table", "fine")]
IN_COPY = {
    "append_makes_anew",
    "replace_variable",
    "write_anew",
    "write_anew_unsynced",
    "write_blocks_anew",
    "write_anew_delayed",
}
DRIVER = """
import os, sys
exec(open(sys.argv[1]).read())
root = sys.argv[2]
changes.SMALL_FILE = 0
changes.LARGEST_SHARE = 0.9
for line in sys.stdin:
    name, way = line.split()
    folder = os.path.join(root, f"{name}-{way}")
    changes.SMALL_FILE = 0 if way == "journal" else 10**9
    path = os.path.join(folder, "file.h5")
    globals()[name](path)
    print("done", flush=True)
"""


@dataclass
class Disk:
    """Files and folders as a log of calls leaves them."""

    files: dict[int, bytearray] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    def apply(self, letter: str, path: str, other: str, offset: int, data: bytes) -> None:
        if letter == "C":
            self.names[path] = offset
            self.files.setdefault(offset, bytearray())
        elif letter == "W" or letter == "T":
            self.write(self.names[path], letter, offset, data)
        elif letter in "RL":
            if path in self.folders:
                self.folders = {moved(name, path, other) for name in self.folders}
                self.names = {moved(name, path, other): number for name, number in self.names.items()}
            else:
                self.names[other] = self.names[path] if letter == "L" else self.names.pop(path)
        elif letter == "X":
            self.names[path], self.names[other] = self.names[other], self.names[path]
        elif letter == "U":
            self.names.pop(path, None)
        elif letter == "M":
            self.folders.add(path)
        elif letter == "D":
            self.folders.discard(path)

    def write(self, number: int, letter: str, offset: int, data: bytes) -> None:
        content = self.files[number]
        end = offset + len(data)
        if len(content) < end:
            content.extend(bytes(end - len(content)))
        if letter == "W":
            content[offset:end] = data
        else:
            del content[offset:]

    def unfold(self, where: Path, root: str) -> None:
        """Make the files and folders for real."""
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir()
        for name in sorted(self.folders):
            (where / os.path.relpath(name, root)).mkdir(exist_ok=True)
        for name, number in self.names.items():
            path = where / os.path.relpath(name, root)
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(self.files[number])

    def state(self) -> int:
        return hash((tuple(sorted((name, bytes(self.files[n])) for name, n in self.names.items())), len(self.folders)))


def moved(name: str, folder: str, to: str) -> str:
    """The name of what is in a folder, or the folder, when that is renamed."""
    return to + name[len(folder) :] if name == folder or name.startswith(f"{folder}/") else name


Call = tuple[str, str, str, int, bytes]


def read_log(path: Path) -> list[Call]:
    data, place, calls = path.read_bytes(), 0, []
    while place < len(data):
        one, other, count, offset = struct.unpack_from("<4Q", data, place + 1)
        letter, place = chr(data[place]), place + 33
        texts = []
        for length in (one, other):
            texts.append(data[place : place + length].decode())
            place += length
        number = len(calls) + 2 if letter == "C" else offset  # of the new file
        calls.append((letter, texts[0], texts[1], number, data[place : place + count]))
        place += count
    return calls


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that logs the calls of a process."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler to log the calls")
    made = tmp_path_factory.mktemp("library") / "log_writes.so"
    source = Path(__file__).parents[1] / "log_writes.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True)
    return made


def run_logged(library: Path, below: Path, arguments: list[object], stdin: str = "") -> tuple[str, list[Call]]:
    """What a Python process prints, and the calls by which it changes what is in a folder."""
    log = below.parent / "log"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", *map(str, arguments)],
        input=stdin, capture_output=True, text=True, check=False,
        env={**os.environ, "LD_PRELOAD": str(library), "LOG_FILE": str(log), "LOG_BELOW": str(below)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, read_log(log)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, library: Path) -> dict[str, tuple[Path, list[Call], Disk]]:
    """For each scenario: its folder, the calls, and the disk before them."""
    base = tmp_path_factory.mktemp("kills")
    root, scenarios = base / "root", base / "scenarios.py"
    scenarios.write_text(SCENARIOS)
    namespace: dict = {}
    exec(SCENARIOS, namespace)
    jobs, befores = [], {}
    for name in NAMES:
        for way in ("copy",) if name in IN_COPY else ("copy", "journal"):
            folder = root / f"{name}-{way}"
            folder.mkdir(parents=True)
            rows = 20 if name == "append_whole_chunks" else 21 if name == "append_again" else 22
            namespace["make"](folder / "file.h5", rows, name != "append_makes_anew")
            if name == "append_splits_nodes":
                arguments = {"mode": "a", "group": "/g/fine", "unlimited_dims": ["n"]}
                arguments["encoding"] = {"f": {"chunksizes": (1,)}}
                namespace["to_pytables"](namespace["fine"](0, 4096), folder / "file.h5", **arguments)
            if name == "append_again":
                namespace["to_pytables"](namespace["steps"](21, 22), folder / "file.h5", append_dim="t")
            if name == "append_rows":
                arguments = {"mode": "a", "group": "/g/table", "layout": "table"}
                arguments["encoding"] = {"a": {"chunksizes": (1000,), "complib": "zlib"}}
                namespace["to_pytables"](namespace["table"](0, 2600), folder / "file.h5", **arguments)
            if name == "append_rows_to_an_index":
                arguments = {"mode": "a", "group": "/g/indexed", "layout": "table"}
                arguments["encoding"] = {"a": {"chunksizes": (100,), "complib": "zlib"}}
                namespace["to_pytables"](namespace["table"](0, 2600), folder / "file.h5", **arguments)
                with plain_file(folder / "file.h5", "a") as file:
                    sizes = (2048, 1024, 512, 64)  # of superblocks, blocks, slices and chunks, in rows
                    file.root.g.indexed.cols.a.create_index(kind="medium", _blocksizes=sizes)
            before = Disk(folders={str(folder)})
            before.files[1] = bytearray((folder / "file.h5").read_bytes())
            before.names[str(folder / "file.h5")] = 1
            befores[f"{name}-{way}"] = before
            jobs.append(f"{name} {way}\n")
    printed, calls = run_logged(library, root, [DRIVER, scenarios, root], "".join(jobs))
    assert printed.count("done") == len(jobs)
    return {
        key: (root / key, [call for call in calls if call[1].startswith(str(root / key))], before)
        for key, before in befores.items()
    }


KEYS = [f"{name}-{way}" for name in NAMES for way in (("copy",) if name in IN_COPY else ("copy", "journal"))]


def opened(path: Path) -> xr.DataTree:
    found = xr.open_datatree(path, engine="pytables").load()
    if "/g/indexed" in found.groups:  # by the index the same rows are found as without
        values = found["/g/indexed/a"].values
        with xr.open_dataset(path, engine="pytables", group="/g/indexed", where="a > 0.9") as large:
            np.testing.assert_array_equal(large["a"].values, values[values > 0.9])
    return found


class Judge:
    """Says of a state of the disk whether it is the old or the new one."""

    def __init__(self, where: Path, root: Path, before: Disk) -> None:
        self.where, self.root = where, str(root)
        before.unfold(where, self.root)
        self.old, self.new = opened(where / "file.h5"), opened(root / "file.h5")
        assert not self.old.identical(self.new)
        self.seen: dict[int, str] = {}
        self.known: dict[bytes, str] = {}

    def verdict(self, disk: Disk) -> str:
        state = disk.state()
        if state not in self.seen:
            disk.unfold(self.where, self.root)
            tree(self.where / "file.h5")  # whoever looks at the file first puts it right
            self.seen[state] = self._of_content((self.where / "file.h5").read_bytes())
            assert not (self.where / ".file.h5.xrpt-journal").exists() or self._is_harmless()
        return self.seen[state]

    def _of_content(self, content: bytes) -> str:
        if content not in self.known:
            found = opened(self.where / "file.h5")
            self.known[content] = (
                "old" if found.identical(self.old) else "new" if found.identical(self.new) else "wrong"
            )
        return self.known[content]

    def _is_harmless(self) -> bool:
        return not journal._is_valid((self.where / ".file.h5.xrpt-journal").read_bytes()[:64])


THREADS = """
import os, random, sys, threading
folder, together = sys.argv[1], threading.Barrier(8)
shared = os.open(f"{folder}/shared", os.O_CREAT | os.O_RDWR)

def write(number):
    own = random.Random(number)
    together.wait()
    for turn in range(60):
        os.pwrite(shared, bytes([own.randrange(1, 256)]) * own.randrange(1, 5000), own.randrange(20_000))
        os.ftruncate(shared, own.randrange(15_000, 30_000))
        with open(f"{folder}/{number}", "wb", 0) as file:
            file.write(own.randbytes(own.randrange(1, 100)))
        os.rename(f"{folder}/{number}", f"{folder}/{own.randrange(3)}-renamed")

threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("done")
"""


def test_the_log_of_many_threads_is_whole_and_in_the_order_of_their_calls(library, tmp_path):
    folder, disk = tmp_path / "folder", Disk()
    folder.mkdir()
    printed, calls = run_logged(library, folder, [THREADS, folder])
    assert printed == "done\n"
    assert len(calls) == 1 + 8 * 60 * 5
    for call in calls:
        disk.apply(*call)
    made = {name: bytes(disk.files[number]) for name, number in disk.names.items()}
    assert made == {str(path): path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("key", KEYS)
def test_a_kill_after_any_call_leaves_the_old_or_the_new_file(logged, tmp_path, key):
    root, calls, before = logged[key]
    judge, disk = Judge(tmp_path / "disk", root, before), copy.deepcopy(before)
    verdicts = [judge.verdict(disk)]
    for letter, path, other, offset, data in calls:
        if letter == "W" and len(data) > 1:
            half = copy.deepcopy(disk)
            half.apply(letter, path, other, offset, data[: len(data) // 2])
            verdicts.append(judge.verdict(half))
        disk.apply(letter, path, other, offset, data)
        verdicts.append(judge.verdict(disk))
    assert bytes(disk.files[disk.names[str(root / "file.h5")]]) == (root / "file.h5").read_bytes()
    change = verdicts.index("new")
    assert verdicts == ["old"] * change + ["new"] * (len(verdicts) - change)
    written = {path for letter, path, *_ in calls if letter in "WT"}
    assert (str(root / "file.h5") in written) == key.endswith("journal"), "the other way was taken"
    assert os.listdir(root) == ["file.h5"]
    if "unsynced" in key:  # in one step that waits for no disk
        assert [letter for letter, path, other, *_ in calls if other == str(root / "file.h5")] == ["X"]
        assert "S" not in {letter for letter, *_ in calls}


@pytest.mark.parametrize("key", [key for key in KEYS if "unsynced" not in key])
def test_a_loss_of_power_leaves_the_old_or_the_new_file(logged, tmp_path, key):
    root, calls, before = logged[key]
    judge, rng = Judge(tmp_path / "disk", root, before), random.Random(key)
    for _ in range(STATES_OF_LOST_POWER):
        disk = after_power_loss(before, calls[: rng.randrange(1, len(calls) + 1)], rng)
        assert judge.verdict(disk) in ("old", "new")
    assert judge.verdict(after_power_loss(before, calls, random.Random(0), all_lost=True)) in ("old", "new")


def after_power_loss(before: Disk, calls: list[Call], rng: random.Random, all_lost: bool = False) -> Disk:
    """What a disk may hold: all that was synced, any part of the other writes, and of the names the first ones."""
    running, durable = copy.deepcopy(before), copy.deepcopy(before)
    writes: dict[int, list[tuple[str, int, bytes]]] = {}
    names: list[Call] = []
    for call in calls:
        letter, path, _, offset, data = call
        running.apply(*call)
        if letter in "WT":
            writes.setdefault(running.names[path], []).append((letter, offset, data))
        elif letter == "S" and path in running.names:
            for each in writes.pop(running.names[path], []):
                durable.write(running.names[path], *each)
        elif letter == "S":  # a folder: its names are on the disk, in the order in which they were given
            for each in names:
                durable.apply(*each)
            names = []
        else:
            names.append(call)
            if letter == "C":
                durable.files[offset] = bytearray()
    for call in names[: 0 if all_lost else rng.randrange(len(names) + 1)]:
        durable.apply(*call)
    for number, lost in writes.items():
        for each in lost:
            if not all_lost and rng.random() < 0.5:
                durable.write(number, *each)
    return durable


def test_without_the_journal_the_same_states_are_damaged(logged, tmp_path):
    root, calls, before = logged["append_over_chunks-journal"]
    judge, disk, damaged = Judge(tmp_path / "disk", root, before), copy.deepcopy(before), 0
    for call in calls:
        disk.apply(*call)
        bare = copy.deepcopy(disk)
        bare.names.pop(str(root / ".file.h5.xrpt-journal"), None)
        try:
            damaged += judge.verdict(bare) == "wrong"
        except OSError:
            damaged += 1
    assert damaged > 3
