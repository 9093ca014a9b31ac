"""Python's parser, for one thread at a time.

CPython 3.11 counts how deep its parser is for all threads together, and where it collects garbage another thread may
run: then it raises SystemError (python/cpython#106905). NumPy has it parse the headers of arrays, too.

Tested in `tests/test_parsing.py`.
"""

from __future__ import annotations

import ast
import contextlib
import os
import threading
from collections.abc import Iterator

_lock = threading.RLock()  # whoever is garbage may parse something when it is collected


@contextlib.contextmanager
def parsing() -> Iterator[None]:
    """Around what calls Python's parser."""
    with _lock:
        yield


def expression(text: str) -> ast.expr:
    """An expression as a tree. Raises SyntaxError, RecursionError and MemoryError."""
    with parsing():
        return ast.parse(text.strip(), mode="eval").body


def _renew_lock() -> None:
    """After a fork: a thread that is gone may have held it."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
