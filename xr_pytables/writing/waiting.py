"""Trying again while others have a file: how long, and at which moments."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from ..errors import FileChangedError

_T = TypeVar("_T")
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.5


@dataclass(frozen=True)
class Patience:
    """Until when a write waits for others."""

    until: float
    """By `time.monotonic`."""

    @classmethod
    def of(cls, wait: float) -> Patience:
        """From now on, `wait` seconds. Raises ValueError for what is no such time."""
        if isinstance(wait, bool) or not isinstance(wait, int | float) or not wait >= 0:
            raise ValueError(f"wait must be a number of seconds, 0 or more, not {wait!r}")
        return cls(time.monotonic() + wait)

    def go_through(self, step: Callable[[], _T]) -> _T:
        """What `step` gives, tried again while somebody has the file or has changed it; then what it raises.

        Of several who wait any may be next, so pauses are of random length.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                return step()
            except (BlockingIOError, FileChangedError):
                left = self.until - time.monotonic()
                if left <= 0:
                    raise
            time.sleep(min(left, pause * (0.5 + random.random())))
            pause = min(2 * pause, _LONGEST_PAUSE)


NONE: Final = Patience(0.0)
"""Does not wait."""
