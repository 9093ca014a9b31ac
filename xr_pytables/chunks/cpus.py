"""How many CPUs this process may use.

Tested in `tests/chunks/test_memory.py` and `tests/writing/test_encoding.py`.
"""

from __future__ import annotations

import os


def usable_cpus() -> int:
    """Those that it may run on, fewer than the machine has in a container or under `taskset`."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1
