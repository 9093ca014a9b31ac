"""What libhdf5 reads of a file: `python -m tests.fuzz.oracle`, a path a line, an answer a line.

Damaged files crash it and make it loop; its parent starts another.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import warnings

import h5py
import numpy as np

from .trials import MOST_ELEMENTS, answers, digest

CPU_SECONDS = 3


def values_of(path: str) -> dict[str, list[object]]:
    """By path of an array or a field: dtype, shape and a checksum of what h5py reads."""
    found: dict[str, list[object]] = {}

    def visit(name: str, node: object) -> None:
        if not isinstance(node, h5py.Dataset) or node.shape is None or node.size > MOST_ELEMENTS:
            return
        try:
            add(found, f"/{name}", node[()])
        except (OSError, ValueError, TypeError, RuntimeError, KeyError, OverflowError, MemoryError, SystemError):
            return

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except Exception:
        pass
    return found


def add(found: dict[str, list[object]], name: str, values: object) -> None:
    array = np.asarray(values)
    if array.dtype.names:
        for field in array.dtype.names:
            add(found, f"{name}/{field}" if name.count("/") < 9 else name, array[field])
    elif array.dtype.kind in "iufcSbO" and not (array.dtype.kind == "O" and not all_text(array)):
        found[name] = digest(array)


def all_text(array: np.ndarray) -> bool:
    return all(isinstance(one, bytes) for one in array.flat)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
    warnings.simplefilter("ignore")
    to_parent = answers()
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # ends the process
        found = values_of(json.loads(line)["path"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(found), file=to_parent, flush=True)


if __name__ == "__main__":
    main()
