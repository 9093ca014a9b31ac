"""A bar that shows how much of a write is done, in bytes and bytes per second; in notebooks too, by tqdm.

Off unless asked for, and then tqdm must be there: it is an extra. Knows numbers of bytes and nothing of files.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final

Done = Callable[[int], None]
"""Takes the bytes (of data, not on disk) that were written since the last call; from any thread."""
_INTERVAL: Final = 0.2  # seconds between two looks at what other processes have done


def nobody(nbytes: int) -> None:
    """A `Done` that shows nothing."""


def check_available() -> None:
    """Raise ModuleNotFoundError, naming the extra, if there is nothing to show a bar with."""
    try:
        import tqdm.auto  # noqa: F401 - an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "progress=True needs tqdm, which is not installed. Install it with: pip install 'xr-pytables[progress]'"
        ) from error


@contextlib.contextmanager
def bar(total: int, title: str, *, shown: bool) -> Iterator[Done]:
    """A bar for `total` bytes while the `with` block lasts; nothing at all unless `shown`."""
    if not shown:
        yield nobody
        return
    from tqdm.auto import tqdm  # an extra, and slow to import

    lock = threading.Lock()
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, unit_divisor=1024) as shown_bar:

        def done(nbytes: int) -> None:
            with lock:  # tqdm counts without one
                shown_bar.update(nbytes)

        yield done


@contextlib.contextmanager
def watched(count: Callable[[], int], done: Done) -> Iterator[None]:
    """Tell `done` of what other processes do: `count` gives the bytes so far. Looks again and again, and at the end."""
    if done is nobody:
        yield
        return
    ended = threading.Event()
    told = 0

    def look() -> None:
        nonlocal told
        with contextlib.suppress(OSError):  # the folder that is looked at may be gone
            now = count()
            done(now - told)
            told = now

    def look_again() -> None:
        while not ended.wait(_INTERVAL):
            look()

    thread = threading.Thread(target=look_again, name="xr_pytables progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        look()
