"""What is done with a changed file, and what came of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import random
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import xarray as xr

from xr_pytables import tree
from xr_pytables.model import safe_pickle

MOST_ELEMENTS = 200_000
"""Of an array that is read: a damaged shape may say any number, and reading so many is what the user asked for."""
CONDITIONS = ("a == 7", "(a > 490) & (b < 0.5)", "s == b'7'", "a < 3")


class Findings:
    """What one trial found out: read or refused, and what must never be."""

    def __init__(self) -> None:
        self.opened = False
        self.refusals = 0
        self.warned = 0
        self.bad: list[tuple[str, str]] = []
        """(verdict, detail): a bare exception, an inner contradiction, a control character in a message."""
        self.values: dict[str, list[object]] = {}
        """By path of an array: dtype, shape and a checksum of what was read."""

    @contextlib.contextmanager
    def refusal(self, path: Path) -> Iterator[None]:
        """OSError, ValueError and MemoryError that name the file are refusals; all else that is raised is bare."""
        try:
            yield
        except (OSError, ValueError, MemoryError) as error:
            self.refusals += 1
            if path.name not in str(error):
                self.bad.append(("bare exception", described(error)))
            self.look_at(str(error))
        except Exception as error:
            self.bad.append(("bare exception", described(error)))

    def look_at(self, message: str) -> None:
        if any(ord(sign) < 32 and sign != "\n" for sign in message):
            self.bad.append(("control characters", repr(message)[:500]))


def answers() -> IO[str]:
    """Where answers go, and nothing else: what libraries of filters print goes to the errors."""
    sys.stdout.flush()
    to_parent = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(to_parent, "w")


def described(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-1500:]


def try_file(path: Path, rng: random.Random) -> Findings:
    """Open, list, print and read all of it, in several ways."""
    found = Findings()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decoding: dict[str, Any] = {} if rng.random() < 0.3 else {"decode_cf": False}
        with found.refusal(path):
            groups = xr.open_groups(path, engine="pytables", chunks=None, **decoding)
            found.opened = True
            for group, dataset in groups.items():
                read_dataset(path, group, dataset, found, rng, compare=bool(decoding))
        if ".table." in path.name:
            for condition in CONDITIONS:
                query(path, condition, found)
        if rng.random() < 0.2:
            with found.refusal(path):
                str(tree(path))
    found.warned = len(caught)
    for warning in caught:
        if not issubclass(warning.category, xr.SerializationWarning):  # xarray's own, with units as they are
            found.look_at(str(warning.message))
        if not issubclass(warning.category, UserWarning | RuntimeWarning):
            found.bad.append(("bare warning", f"{warning.category.__name__}: {warning.message}"))
    return found


def read_dataset(
    path: Path, group: str, dataset: xr.Dataset, found: Findings, rng: random.Random, *, compare: bool
) -> None:
    repr(dataset)
    for name in dataset.variables:
        variable = dataset.variables[name]
        if variable.size > MOST_ELEMENTS or variable.nbytes > 2**25:
            continue
        part = None
        with found.refusal(path):
            if rng.random() < 0.3:
                part = variable.isel({dim: slice(1, None, 2) for dim in variable.dims}).values
        with found.refusal(path):
            values = variable.values
            repr(variable)
            if part is not None and not same(part, values[(*(slice(1, None, 2),) * values.ndim, ...)]):
                found.bad.append(("inconsistent", f"{group}:{name} differs when only a part is read"))
            if compare:
                found.values[f"{group.rstrip('/')}/{name}"] = digest(values)
    with contextlib.suppress(RecursionError):
        pickle.dumps(dataset.attrs)
    dataset.close()


def query(path: Path, condition: str, found: Findings) -> None:
    """The rows that an index finds must meet the condition, and be as many as without it."""
    with found.refusal(path):
        rows = xr.open_dataset(path, engine="pytables", group="/t", where=condition, decode_cf=False)
        found.values[f"where {condition}"] = digest(rows["t_row"].values)
        rows.close()


def same(first: np.ndarray, second: np.ndarray) -> bool:
    first, second = np.asarray(first), np.asarray(second)
    if first.dtype.kind == "O":
        return repr(first.tolist()) == repr(second.tolist())
    return first.dtype == second.dtype and first.shape == second.shape and content(first) == content(second)


def content(values: np.ndarray) -> bytes:
    """The bytes that mean something: a long double of 16 bytes has 10, and whatever was in memory behind them."""
    if values.dtype.kind in "fc" and values.dtype.itemsize in (16, 32) and values.dtype != np.complex128:
        return np.ascontiguousarray(values).reshape(-1).view("u1").reshape(-1, 16)[:, :10].tobytes()
    return values.tobytes()


def digest(values: np.ndarray) -> list[object]:
    """What two libraries must agree on: text and bytes are one, and so are characters and the text that they make."""
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    if native.dtype.kind in "OS":
        texts = [one if isinstance(one, bytes) else str(one).encode("utf-8", "surrogateescape") for one in native.flat]
        return ["text", hashlib.sha1(b"".join(text.rstrip(b"\0") for text in texts)).hexdigest()]
    if native.dtype.kind == "b":
        native = native.astype("u1")
    if native.dtype.kind in "fc":
        native = np.where(native != native, np.nan, native)  # one NaN for all
    return [native.dtype.str, list(native.shape), hashlib.sha1(content(native)).hexdigest()]


def try_pickle(path: Path, rng: random.Random) -> Findings:
    """Decode it: a value, or one of the two errors."""
    found = Findings()
    try:
        repr(safe_pickle.loads(path.read_bytes(), max_items=100_000))
        found.opened = True
    except (safe_pickle.NotAPickleError, safe_pickle.UnsafePickleError) as error:
        found.refusals += 1
        found.look_at(str(error))
    except Exception as error:
        found.bad.append(("bare exception", described(error)))
    return found


def try_code(path: Path, rng: random.Random) -> Findings:
    """Run it: how the tests of this harness do what must never be."""
    found = Findings()
    with found.refusal(path):
        exec(path.read_text())
    return found


def trial_of(name: str) -> Any:
    from . import leftovers  # late: it needs what is above

    return {
        ".pickle": try_pickle, ".py": try_code, ".journal": leftovers.try_journal, ".segment": leftovers.try_segment,
        ".index": leftovers.try_index, ".condition": leftovers.try_condition,
    }.get(Path(name).suffix, try_file)  # fmt: skip


# -- execution ------------------------------------------------------------------------------------------------

ALWAYS_BAD = {
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class", "socket.connect",
    "os.mkdir", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate", "os.putenv",
    "shutil.rmtree", "shutil.copyfile", "shutil.move", "ctypes.dlopen",
}  # fmt: skip
KNOWN_PLACES = (
    sys.prefix,
    sys.base_prefix,
    str(Path(__file__).parents[2]),
    "/proc/self",
    "/sys/",
    "/usr/share/zoneinfo/",
    "<string>",
)
"""Where Python itself reads: modules, for tracebacks and lazy imports; time zones; what its tokenizer refuses."""


class Watch:
    """Notes what a trial does that only code of the file could want: Python tells of it (`sys.addaudithook`)."""

    def __init__(self, folder: Path) -> None:
        self.events: list[str] = []
        self._on, self._own, self._places = False, "", (str(folder), *KNOWN_PLACES)
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._on or (self._own and self._is_own(event, args)):
            return
        if event == "open":
            path, mode, flags = args
            writes = bool(flags & 3) if mode is None else any(sign in mode for sign in "wax+")
            if isinstance(path, str | bytes) and (writes or not self._is_known(path)):
                self.events.append(f"open {path!r} {mode} {flags}")
        elif event == "import":
            package = args[0].partition(".")[0]
            if package not in sys.modules and package not in sys.stdlib_module_names:
                self.events.append(f"import {args[0]}")
        elif event in ALWAYS_BAD and not (event == "ctypes.dlopen" and self._is_known(args[0])):
            self.events.append(f"{event} {args!r}"[:300])

    def _is_own(self, event: str, args: tuple[Any, ...]) -> bool:
        return event == "os.truncate" or any(isinstance(path, str) and self._own in path for path in args[:2])

    def _is_known(self, path: object) -> bool:
        text = path.decode("utf-8", "replace") if isinstance(path, bytes) else str(path)
        return text.startswith(self._places)

    @contextlib.contextmanager
    def watching(self, path: Path) -> Iterator[None]:
        """Trials that put files beside that at `path` may write to those called like it."""
        self.events.clear()
        self._on, self._own = True, "" if trial_of(path.name) in (try_file, try_pickle, try_code) else path.stem
        try:
            yield
        finally:
            self._on = False
