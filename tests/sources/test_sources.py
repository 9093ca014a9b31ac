"""Every source reads the same bytes, says what is missing, and may be asked by several threads at once."""

from __future__ import annotations

import io
import mmap
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from xr_pytables.errors import FormatError
from xr_pytables.sources.buffer import Buffer
from xr_pytables.sources.file_object import FileObject
from xr_pytables.sources.local import LocalFile
from xr_pytables.sources.pieces import Piece, Pieces

DATA = np.random.default_rng(0).bytes(10_000)


class Halting(io.BytesIO):
    """Gives seven bytes at most, as a pipe or a socket may."""

    def read(self, count=-1):
        return super().read(min(count, 7))


def in_pieces(data):
    return Pieces(
        [Piece(Buffer(b"xx" + data[:4000]), 2, 4000), Piece(Buffer(b""), 0, 0), Piece(Buffer(data), 4000, 6000)], "p"
    )


@pytest.fixture(params=["local", "local without preadv", "buffer", "mmap", "file object", "short reads", "pieces"])
def source(request, tmp_path, monkeypatch):
    kind = request.param
    made = {
        "buffer": Buffer,
        "short reads": lambda data: FileObject(Halting(data)),
        "file object": as_file,
        "pieces": in_pieces,
    }
    if kind in made:
        yield made[kind](DATA)
        return
    path = tmp_path / "a.bin"
    path.write_bytes(DATA)
    descriptor = os.open(path, os.O_RDONLY)
    if kind == "mmap":
        with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped:
            buffer = Buffer(mapped, str(path))
            yield buffer
            del buffer._view
    else:
        if "without" in kind:
            monkeypatch.delattr(os, "preadv")
        yield LocalFile(descriptor, str(path))
    os.close(descriptor)


def as_file(data):
    return FileObject(io.BytesIO(data), "a.bin")


def test_reads_any_range(source):
    assert source.size == len(DATA)
    assert source.read(0, 10) == DATA[:10]
    assert source.read(9_990, 10) == DATA[-10:]
    assert source.read(10_000, 0) == b""
    assert source.read_many([(5, 3), (0, 2), (5, 3)]) == [DATA[5:8], DATA[:2], DATA[5:8]]


@pytest.mark.parametrize(("offset", "count"), [(9_999, 2), (10_001, 0), (-1, 2), (0, -1), (1 << 70, 1)])
def test_says_what_the_file_does_not_have(source, offset, count):
    with pytest.raises(FormatError, match=f"{count} bytes at offset {offset} .* 10000 bytes") as raised:
        source.read(offset, count)
    assert str(raised.value).startswith(source.name)


def test_fills_arrays_up_to_the_end(source):
    out = np.zeros((4, 5), np.uint8)
    assert source.read_into(out, 100) == 20
    assert out.tobytes() == DATA[100:120]
    assert source.read_into(out.reshape(-1), 9_990) == 10
    assert out.tobytes() == DATA[-10:] + DATA[110:120]
    assert source.read_into(bytearray(3), 20_000) == 0


def test_many_threads_read_at_once(source):
    ranges = [(i * 37 % 9_000, 100 + i) for i in range(400)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: source.read(*one), ranges))
    assert found == [DATA[offset : offset + count] for offset, count in ranges]


def test_a_file_that_became_shorter_is_an_error(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(DATA)
    with path.open("r+b") as file:
        source = LocalFile(file.fileno(), "a.bin")
        file.truncate(100)
        with pytest.raises(FormatError, match=r"a\.bin: 50 bytes at offset 90"):
            source.read(90, 50)
