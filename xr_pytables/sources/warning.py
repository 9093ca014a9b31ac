"""Warnings that point at the line of the user's program, however deep in libraries their reason was found.

Tested in `tests/sources/test_warning.py`.
"""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Final

_LIBRARIES: Final = frozenset({"xr_pytables", "xarray", "dask", "distributed", "tables", "pandas", "numpy", "fsspec"})
"""Whose lines nobody wants to be pointed at; besides Python's own."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of what the user's program asked for.

    The line is that of the innermost frame outside of libraries; that of the outermost frame where there is none, as in
    a thread of Dask.
    """
    level, frame = 1, sys._getframe(1)
    while _is_library(frame) and frame.f_back is not None:
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level + 1)


def _is_library(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package in _LIBRARIES or (package in sys.stdlib_module_names and package != "__main__")
