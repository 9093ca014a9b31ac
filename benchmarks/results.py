"""What a benchmark measured, kept as JSON for the plots of the documentation: machine, versions, and rows of speeds."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path

from xr_pytables.chunks.cpus import usable_cpus

_PACKAGES = ("xr-pytables", "xarray", "dask", "numpy", "tables", "h5py", "h5netcdf", "netCDF4", "zarr", "hidefix")


def processor() -> str:
    """As the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def keep(path: Path, name: str, settings: str, rows: list[dict[str, object]]) -> None:
    """Put the rows of a benchmark into the file, in place of those that it had of that name."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    known = json.loads(path.read_text()) if path.exists() else {}
    known[name] = {
        "settings": settings,
        "machine": f"{usable_cpus()} CPUs, {processor()}, {platform.system()}",
        "python": platform.python_version(),
        "versions": versions,
        "rows": rows,
    }
    path.write_text(json.dumps(known, indent=1) + "\n")
