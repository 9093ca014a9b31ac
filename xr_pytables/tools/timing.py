"""How long xarray's engines that are installed take with a file. Each has a process of its own: some may crash.

Run as a module it is such a process.

Tested in `tests/commands/test_bench.py`.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import xarray as xr

from .opening import blocks, chunks_of, opened

ENGINES: Final = {"pytables": "xr_pytables", "h5netcdf": "h5netcdf", "netcdf4": "netCDF4"}
"""xarray's engines for HDF5 files, and the package of each."""
_BLOCK: Final = 1 << 24  # bytes that are read at once
_OPTIONS: Final[dict[str, dict[str, Any]]] = {"h5netcdf": {"phony_dims": "access"}}
Array = tuple[str, str]
"""Group and name."""


@dataclass(frozen=True)
class Timing:
    """What one engine took, in seconds: the best of some rounds."""

    engine: str
    open: float | None = None
    """Opening every group with an array that is read."""
    block: float | None = None
    """Reading the first block of each of them."""
    all: float | None = None
    """Reading all of them."""
    nbytes: int = 0
    """Of values that were read."""
    problem: str = ""
    """Why there are no times."""


def installed() -> list[str]:
    """The engines that there are."""
    return [engine for engine, package in ENGINES.items() if importlib.util.find_spec(package) is not None]


def largest_arrays(file: str, node: str, nbytes: int) -> list[Array]:
    """The largest arrays of numbers in a file, until they have `nbytes` together."""
    with opened(file, node, raw=True) as groups:
        found = [
            (variable.nbytes, node.rstrip("/") + group, str(name))
            for group, dataset in groups.items()
            for name, variable in dataset.variables.items()
            if variable.dtype.kind in "iufc" and variable.size
        ]
    chosen, total = [], 0
    for size, group, name in sorted(found, reverse=True):
        if total >= nbytes:
            break
        chosen.append((group.rstrip("/") or "/", name))
        total += size
    return chosen


def timed(file: str, engine: str, arrays: Sequence[Array], rounds: int) -> Timing:
    """The times of one engine, in a process of its own."""
    request = json.dumps([file, engine, arrays, rounds])
    done = subprocess.run([sys.executable, "-m", __name__, request], capture_output=True, text=True)
    if done.returncode:
        return Timing(engine, problem=f"its process ended with {done.returncode}")
    return Timing(**json.loads(done.stdout.splitlines()[-1]))


def _measured(file: str, engine: str, arrays: Sequence[Array], rounds: int) -> Timing:
    whole = sum(_read(file, engine, arrays, all_blocks=False))  # with what is imported on first use
    took: dict[str, list[float]] = {"open": [], "block": [], "all": []}
    for _ in range(rounds):
        took["open"].append(_seconds(lambda: _close(_open(file, engine, arrays))))
        took["block"].append(_seconds(lambda: sum(_read(file, engine, arrays, all_blocks=False))))
        begin = time.perf_counter()
        whole = sum(_read(file, engine, arrays, all_blocks=True))
        took["all"].append(time.perf_counter() - begin)
    best = {what: min(times) for what, times in took.items()}
    return Timing(engine, best["open"], best["block"], best["all"], whole)


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _open(file: str, engine: str, arrays: Sequence[Array]) -> dict[str, xr.Dataset]:
    decoders: dict[str, Any] = {"decode_cf": False, "create_default_indexes": False, "cache": False}
    options = _OPTIONS.get(engine, {})
    groups = dict.fromkeys(group for group, _ in arrays)
    return {group: xr.open_dataset(file, engine=engine, group=group, **decoders, **options) for group in groups}


def _read(file: str, engine: str, arrays: Sequence[Array], *, all_blocks: bool) -> Iterator[int]:
    """Read arrays block by block; the bytes of each."""
    groups = _open(file, engine, arrays)
    by_text = {group: {str(name): one for name, one in found.variables.items()} for group, found in groups.items()}
    for group, name in arrays:
        variable = by_text[group][name]
        for box in blocks(variable.shape, chunks_of(variable), variable.dtype.itemsize, _BLOCK):
            yield variable[box].values.nbytes
            if not all_blocks:
                break
    _close(groups)


def _close(groups: dict[str, xr.Dataset]) -> None:
    for dataset in groups.values():
        dataset.close()


def main(request: str) -> None:
    """What the process of one engine does: print its times as JSON."""
    file, engine, arrays, rounds = json.loads(request)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _measured(file, engine, [tuple(array) for array in arrays], rounds)
    except Exception as error:  # of any kind: it is another package that fails
        found = Timing(engine, problem=f"{type(error).__name__}: {error}")
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main(sys.argv[1])
