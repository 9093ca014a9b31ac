"""What the tests of threads and processes share: whether others run meanwhile, found out without a clock."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

WATCHDOG: Final = 300.0
"""Seconds until what waits for ever fails. Long, because a busy machine is slow: no outcome may depend on it."""

_NEVER = 1e5  # seconds


@contextmanager
def nobody_takes_the_gil() -> Iterator[None]:
    """Inside, a thread runs only when another gives the GIL up by itself: in a call that releases it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_NEVER)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def gives_way_in(function: str, work: Callable[[], object], *, tries: int | None = None) -> bool:
    """Whether other threads run while `work` is in a call that `function`, by its name, makes.

    `work` is repeated until they do, as the system may let them wait for longer than one call takes: at most `tries`
    times, or until the watchdog barks.
    """
    worker, seen, ends = threading.get_ident(), set[str](), threading.Event()

    def look() -> None:
        while not ends.wait(1e-4):
            seen.add(sys._current_frames()[worker].f_code.co_name)

    with nobody_takes_the_gil():
        thread = threading.Thread(target=look)
        thread.start()
        try:
            deadline = time.monotonic() + WATCHDOG
            for number in itertools.count():
                if number == tries or time.monotonic() > deadline:
                    return False
                work()
                if function in seen:
                    return True
        finally:
            ends.set()
            thread.join()
