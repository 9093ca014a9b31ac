"""What is fetched ahead of who reads chunk by chunk, and that little is fetched in vain."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest

from xr_pytables.errors import RemoteError
from xr_pytables.sources import read_ahead
from xr_pytables.sources.filesystems import UrlTarget
from xr_pytables.sources.read_ahead import ReadAhead, Windows
from xr_pytables.sources.remote import RemotePlace, Transfer

from ..helpers_server import running, status

DATA = np.random.default_rng(0).bytes(1 << 25)
CHUNK = 1 << 19
CHUNKS = [(i * CHUNK, CHUNK) for i in range(64)]  # four windows of 16


class Asked:
    """Whom a ReadAhead asks: gives the bytes at once, and keeps a list."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []

    def __call__(self, offset: int, count: int) -> Future[bytes]:
        self.ranges.append((offset, count))
        answer: Future[bytes] = Future()
        answer.set_result(DATA[offset : offset + count])
        return answer


def read(ahead: ReadAhead, windows: Windows, *numbers: int) -> list[int]:
    """Read chunks one by one; the numbers of those that came with a window. All of these have the right bytes."""
    served = []
    for number in numbers:
        for run, answer in ahead.found(windows, [CHUNKS[number]]).values():
            offset, count = CHUNKS[number]
            assert answer.result()[offset - run.offset :][:count] == DATA[offset : offset + count]
            served.append(number)
    return served


def test_the_rest_of_a_window_comes_once_a_quarter_of_it_was_read():
    ask = Asked()
    ahead, windows = ReadAhead(ask), Windows(CHUNKS, 1 << 19)
    assert read(ahead, windows, 0, 1, 2) == []
    assert ask.ranges == []
    assert read(ahead, windows, *range(3, 16)) == list(range(3, 16))
    assert ask.ranges == [(3 * CHUNK, 4 * CHUNK), (7 * CHUNK, 4 * CHUNK), (11 * CHUNK, 4 * CHUNK), (15 * CHUNK, CHUNK)]


def test_any_order_will_do():
    ask = Asked()
    ahead, windows = ReadAhead(ask), Windows(CHUNKS[::-1], 1 << 19)
    assert read(ahead, windows, *range(15, 12, -1)) == []
    assert read(ahead, windows, *range(12, -1, -1)) == list(range(12, -1, -1))
    assert sorted(ask.ranges)[0] == (0, 4 * CHUNK)
    assert sum(count for _, count in ask.ranges) == 13 * CHUNK


def test_after_two_whole_windows_the_first_chunk_brings_the_next():
    ask = Asked()
    ahead, windows = ReadAhead(ask), Windows(CHUNKS, 1 << 19)
    read(ahead, windows, *range(32))
    assert read(ahead, windows, 40) == [40]
    assert ask.ranges[-4:] == [(i * CHUNK, 4 * CHUNK) for i in (32, 36, 40, 44)]


def test_a_window_that_was_not_used_ends_that(monkeypatch):
    monkeypatch.setattr(read_ahead, "_HELD", 9 << 20)
    ask = Asked()
    ahead, windows = ReadAhead(ask), Windows(CHUNKS, 1 << 19)
    read(ahead, windows, *range(32), 32)
    other = Windows(CHUNKS, 1 << 19)
    read(ahead, other, 0)  # makes the unused one leave
    assert read(ahead, windows, 48) == []


def test_reads_here_and_there_fetch_nothing_ahead():
    ask = Asked()
    ahead, windows = ReadAhead(ask), Windows(CHUNKS, 1 << 19)
    assert read(ahead, windows, *(i for i in range(64) if i % 16 < 3)) == []
    assert read(ahead, windows, 0, 0, 0, 1, 1) == []  # again the same
    assert ask.ranges == []


def test_one_read_of_many_chunks_brings_no_others():
    ask = Asked()
    assert ReadAhead(ask).found(Windows(CHUNKS, 1 << 19), CHUNKS[:10]) == {}
    assert ask.ranges == []


def test_chunks_that_are_unknown_to_the_windows_are_left_alone():
    ahead, windows = ReadAhead(Asked()), Windows(CHUNKS, 1 << 19)
    assert ahead.found(windows, [(5, 10), (CHUNK, CHUNK - 1), (1 << 30, 5)]) == {}
    assert ReadAhead(Asked()).found(Windows([], 0), [(5, 10)]) == {}


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_a_remote_array_read_in_pieces_takes_few_requests(order):
    with running(objects={"a.h5": DATA}) as server:
        source = RemotePlace.of(UrlTarget(server.url()), Transfer(pause=0.0)).open(None).source
        index = Windows([], 0)  # anything that lives
        server.asked.clear()
        for offset, count in CHUNKS if order == "ascending" else CHUNKS[::-1]:
            windows = source.windows(index, lambda: CHUNKS)
            ((number, data),) = source.arriving([(offset, count)], windows)
            assert (number, bytes(data)) == (0, DATA[offset : offset + count])
        assert len(server.asked) == 2 * (3 + 4) + 2 * 4
        assert server.bytes_asked == len(DATA)


def test_an_error_of_a_window_is_forgotten():
    with running(objects={"a.h5": DATA}) as server:
        source = RemotePlace.of(UrlTarget(server.url()), Transfer(pause=0.0, tries=1)).open(None).source
        windows = Windows(CHUNKS, 1 << 19)
        for extent in CHUNKS[:3]:
            list(source.arriving([extent], windows))
        server.always = status(503)
        with pytest.raises(RemoteError, match="503"):
            list(source.arriving([CHUNKS[3]], windows))
        server.always = None
        ((_, data),) = source.arriving([CHUNKS[3]], windows)
        assert bytes(data) == DATA[3 * CHUNK : 4 * CHUNK]
