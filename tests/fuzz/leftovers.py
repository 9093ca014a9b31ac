"""What is tried besides files of HDF5: journals, segments, saved indexes and conditions, all of which may be anybody's.

Each corpus file is one of them, sound; the trial puts beside it what it is about.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import fsspec
import numpy as np
import xarray as xr

from xr_pytables import save_index, to_pytables
from xr_pytables.disk import journal
from xr_pytables.writing import changes
from xr_pytables.writing.segment import Segment, SegmentWriter

from .trials import CONDITIONS, Findings, digest, query

MORE_CONDITIONS = (
    "(a + 2*a - 1 >= 3) & ~(s != b'ab') | (b ** 2 / 3 < sqrt(a))",
    "(a in [1, 2, 3]) & (s not in [b'a'])",
    "where(a > 1, b, -1e300) >= 0x7f",
)


def makers() -> dict[str, Callable[[Path], object]]:
    """What makes each corpus file, by its name."""
    found: dict[str, Callable[[Path], object]] = {
        "change.journal": write_journal,
        "of.index": lambda path: path.write_text(json.dumps(indexed()[1])),
    }
    for kind in ("numbers", "text", "rows"):
        found[f"{kind}.segment"] = functools.partial(write_segment, kind=kind)
    for number, condition in enumerate((*CONDITIONS, *MORE_CONDITIONS)):
        found[f"{number}.condition"] = functools.partial(Path.write_text, data=condition)
    return found


def prepare() -> None:
    """Make what the trials need, before anybody watches them."""
    half_changed(), indexed(), table()


def values() -> xr.Dataset:
    return xr.Dataset({"v": ("t", np.arange(64, dtype="i4")), "w": (("t", "x"), np.ones((64, 3)))})


@functools.cache
def half_changed() -> tuple[bytes, bytes, bytes]:
    """A file before an append, in the middle of it, and the journal that is there then."""
    found = []

    def interrupted(self: journal.Journal, **options: object) -> None:
        found.extend(Path(name).read_bytes() for name in (self.target, self.path))
        raise KeyboardInterrupt

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(journal.Journal, "commit", interrupted),
        mock.patch.multiple(changes, SMALL_FILE=0, LARGEST_SHARE=1.0),  # which are changed in a copy
    ):
        path = Path(folder) / "a.h5"
        to_pytables(values(), path, unlimited_dims=["t"], encoding={"v": {"chunksizes": (8,)}})
        old = path.read_bytes()
        with contextlib.suppress(KeyboardInterrupt):
            to_pytables(values().isel(t=slice(3)), path, append_dim="t")
        assert path.read_bytes() == old  # rolled back
    changed, left = found
    return old, changed, left


def write_journal(path: Path) -> None:
    """A journal; behind it the file before and in the middle of the change, which differ from process to process."""
    old, changed, left = half_changed()
    path.write_bytes(left + old + changed + struct.pack("<III", len(old), len(changed), zlib.crc32(old + changed)))


def repaired(data: bytes) -> bytes:
    """A journal whose header says that all is well."""
    count = sum(struct.unpack_from("<II", data, 48)) * journal._ENTRY.size if len(data) >= journal._HEADER.size else 0
    tables = data[journal._HEADER.size : journal._HEADER.size + min(count, len(data))]
    rest = data[journal._SUMMED_FROM : journal._HEADER.size - 8] + struct.pack("<I4x", zlib.crc32(tables))
    header = data[: journal._SUMMED_FROM - 4] + struct.pack("<I", zlib.crc32(rest)) + rest
    return header + data[len(header) :]


def try_journal(path: Path, rng: random.Random) -> Findings:
    """Open the file that a writer left half changed: it is the old one then, or nothing was done to it."""
    found, target, data = Findings(), path.with_suffix(".h5"), path.read_bytes()
    (old, changed, _), known = half_changed(), False
    if len(data) > 12:
        before, during, checksum = struct.unpack("<III", data[-12:])
        files = data[-12 - before - during : -12]
        known = before + during < len(data) and zlib.crc32(files) == checksum
        if known:
            data, old, changed = data[: -12 - before - during], files[:before], files[before:]
    target.write_bytes(changed)
    made_good = rng.random() < 0.5
    beside = Path(journal.path_of(str(target)))
    beside.write_bytes(repaired(data) if made_good else data)
    try:
        with found.refusal(target):
            xr.open_dataset(target, engine="pytables").load().close()
            found.opened = True
        left = target.read_bytes()
        if known and not made_good and left not in (old, changed):
            found.bad.append(("wrong value", "a journal that is not sound was put back"))
        if len(left) > 2 * len(changed):
            found.bad.append(("memory", f"the file has {len(left)} bytes now"))
    finally:
        beside.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
    return found


def write_segment(path: Path, kind: str) -> None:
    rows = np.empty(4, object)
    rows[:] = [np.arange(n, dtype="i2") for n in range(4)]
    parts = {"numbers": np.arange(12.0).reshape(4, 3), "text": np.array(["a", "bü", "", "d"], object), "rows": rows}[
        kind
    ]
    with SegmentWriter(str(path), (0,) * parts.ndim, parts.shape) as writer:
        writer.add_values((0,) * parts.ndim, parts)


def try_segment(path: Path, rng: random.Random) -> Findings:
    """Read what a worker is said to have left: its values, or an error."""
    found = Findings()
    sound = path.with_suffix(".sound")
    write_segment(sound, path.name.rpartition("-")[2].partition(".")[0])
    with found.refusal(path):
        read = [digest(each.values) for each in Segment.of(str(path))]
        found.opened = True
        if read != [digest(each.values) for each in Segment.of(str(sound))]:
            found.bad.append(("wrong value", "a segment that is not sound was read"))
    sound.unlink()
    return found


@functools.cache
def indexed() -> tuple[xr.Dataset, dict[str, object]]:
    """What an object in memory holds, and its saved index."""
    with tempfile.TemporaryDirectory() as folder:
        to_pytables(values(), os.path.join(folder, "a.h5"))
        fsspec.filesystem("memory").pipe("/a.h5", Path(folder, "a.h5").read_bytes())
        save_index("memory://a.h5", os.path.join(folder, "index.json"))
        with open(os.path.join(folder, "index.json")) as file:
            return values(), json.load(file)


def try_index(path: Path, rng: random.Random) -> Findings:
    """Open an object by a saved index that may say anything."""
    found = Findings()
    indexed()
    with found.refusal(path):
        try:
            with xr.open_dataset("memory://a.h5", engine="pytables", index=str(path)) as dataset:
                dataset.load()
            found.opened = True
        except (OSError, ValueError) as error:
            if "memory://a.h5" not in str(error):  # either the index is refused, or what it says of the object
                raise
            found.refusals += 1
            found.look_at(str(error))
    return found


@functools.cache
def table() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        rows = xr.Dataset({
            "a": ("t_row", np.arange(300) % 50), "b": ("t_row", np.linspace(0, 1, 300)),
            "s": ("t_row", (np.arange(300) % 9).astype("S4")),
        })  # fmt: skip
        path = Path(folder) / "a.h5"
        to_pytables(rows, path, group="/t", layout="table", index=["a"])
        return path.read_bytes()


def try_condition(path: Path, rng: random.Random) -> Findings:
    """Ask a table for rows by what may be no condition."""
    found, target = Findings(), path.with_suffix(".h5")
    target.write_bytes(table())
    query(target, path.read_bytes().decode("utf-8", "surrogateescape"), found)
    found.opened = not found.refusals
    target.unlink()
    return found
