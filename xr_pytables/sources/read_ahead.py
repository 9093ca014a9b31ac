"""Who reads an array chunk by chunk, as Dask does, gets the neighbours of a chunk with it, once that has proved right.

The chunks of an array are grouped into windows: runs of chunks that lie side by side in the file, some MiB long. When a
quarter of a window was read in pieces, the rest of it is fetched together. After two windows of which everything was
used, the first piece of a window brings all of it; one of which less than half was used ends that. So what is fetched
in vain is bounded by what was wanted.

Tested in `tests/sources/test_read_ahead.py`.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

from .ranges import LEAST, MOST, Run, merged

_SHARE: Final = 4  # of a window: one in so many bytes was read before the rest is fetched
_PIECES: Final = 2  # reads before: one that wants a large part of a window may be all that there is
_PROOF: Final = 2  # windows that were used whole
_HELD: Final = 1 << 26  # bytes of windows that wait to be used
_HOLE: Final = 1 << 16  # bytes of a window that were read already, and are read again rather than asked for around


class Window:
    """Some chunks side by side, and what has become of them."""

    __slots__ = ("answers", "count", "ranges", "reads", "seen", "seen_bytes")

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        """`ranges` are (offset, count) of the chunks, ascending."""
        self.ranges = dict.fromkeys(ranges)
        self.count = sum(count for _, count in ranges)
        self.seen = set[tuple[int, int]]()
        self.seen_bytes = 0
        self.reads = 0
        """How often some of it was wanted."""
        self.answers: list[tuple[Run, Future[bytes]]] = []
        """What was fetched ahead, if it was."""

    def see(self, extent: tuple[int, int]) -> None:
        if extent not in self.seen:
            self.seen.add(extent)
            self.seen_bytes += extent[1]

    def find(self, extent: tuple[int, int]) -> tuple[Run, Future[bytes]] | None:
        offset, count = extent
        for run, answer in self.answers:
            if run.offset <= offset and offset + count <= run.offset + run.count:
                return run, answer
        return None


class Windows:
    """The chunks of an array in windows. Belongs to one source, whose lock guards it."""

    def __init__(self, ranges: Sequence[tuple[int, int]], gap: int) -> None:
        """`ranges` are (offset, count) of all chunks, in any order."""
        runs = merged(ranges, gap, MOST)
        self._windows = [Window(sorted({ranges[i] for i in run.members})) for run in runs]
        self._starts = [run.offset for run in runs]

    def of(self, extent: tuple[int, int]) -> Window | None:
        """The window that has this chunk."""
        number = bisect_right(self._starts, extent[0]) - 1
        window = self._windows[number] if number >= 0 else None
        return window if window is not None and extent in window.ranges else None


class ReadAhead:
    """Answers from windows that were fetched ahead, and decides which ones to fetch. Safe from several threads."""

    def __init__(self, ask: Callable[[int, int], Future[bytes]]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._waiting: OrderedDict[int, Window] = OrderedDict()
        self._held = 0
        self._proofs = 0

    def found(self, windows: Windows, ranges: Sequence[tuple[int, int]]) -> dict[int, tuple[Run, Future[bytes]]]:
        """Which of the chunks `ranges` come with windows, by their numbers: the run that has them, and its answer."""
        served = {}
        touched: dict[int, Window] = {}
        with self._lock:
            for number, extent in enumerate(ranges):
                window = windows.of(extent)
                if window is None:
                    continue
                touched[id(window)] = window
                if not window.answers and extent not in window.seen:
                    self._consider(window, extent)
                answer = window.find(extent)
                if answer is not None:
                    served[number] = answer
                window.see(extent)
                if window.answers and window.seen_bytes == window.count:
                    self._proofs += 1
                    self._drop(window)
            for window in touched.values():
                window.reads += 1
            while self._held > _HELD:
                self._drop(next(iter(self._waiting.values())))
        return served

    def _consider(self, window: Window, extent: tuple[int, int]) -> None:
        """Fetch what was not read of a window, if there is more of it than `extent`, and a reason to."""
        in_pieces = window.reads >= _PIECES and (window.seen_bytes + extent[1]) * _SHARE >= window.count
        if not in_pieces and self._proofs < _PROOF:
            return
        rest = [one for one in window.ranges if one not in window.seen]
        if len(rest) > 1:
            window.answers = [(run, self._ask(run.offset, run.count)) for run in merged(rest, _HOLE, LEAST)]
            self._waiting[id(window)] = window
            self._held += window.count

    def _drop(self, window: Window) -> None:
        if self._waiting.pop(id(window), None) is None:
            return
        self._held -= window.count
        if 2 * window.seen_bytes < window.count:
            self._proofs = 0
        window.answers = []

    def failed(self, answer: Future[bytes]) -> None:
        """Forget a window whose answer is an error: the next read asks again."""
        with self._lock:
            for window in list(self._waiting.values()):
                if any(one is answer for _, one in window.answers):
                    self._drop(window)
                    window.seen.clear()
                    window.seen_bytes = 0
