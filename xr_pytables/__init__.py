"""Large HDF5 arrays of PyTables, lazily and safely in xarray and Dask.

Reading: `xr.open_dataset(path, engine="pytables")`, also `open_datatree`, `open_groups`, `open_mfdataset`.
Writing: `xr_pytables.to_pytables(obj, path)`, `xr_pytables.save_mfdataset(datasets, paths)`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from .backend import PyTablesBackendEntrypoint
    from .disk.journal import recover
    from .errors import (
        FileBusyError,
        FileChangedError,
        ForeignJournalError,
        FormatError,
        MissingNodeError,
        NeedsRecoveryError,
        RemoteError,
    )
    from .indexes import save_index
    from .listing import tree
    from .model.attributes import OpaqueBytes
    from .tools.converting import convert
    from .tools.differences import diff
    from .tools.repacking import repack
    from .tools.verifying import verify
    from .writing.many_files import save_mfdataset
    from .writing.shared_write import SharedWrite, begin_write
    from .writing.writer import to_pytables

__all__ = [
    "FileBusyError",
    "FileChangedError",
    "ForeignJournalError",
    "FormatError",
    "MissingNodeError",
    "NeedsRecoveryError",
    "OpaqueBytes",
    "PyTablesBackendEntrypoint",
    "RemoteError",
    "SharedWrite",
    "__version__",
    "begin_write",
    "convert",
    "diff",
    "recover",
    "repack",
    "save_index",
    "save_mfdataset",
    "to_pytables",
    "tree",
    "verify",
]

_HOMES = {
    "FileBusyError": "errors",
    "FileChangedError": "errors",
    "ForeignJournalError": "errors",
    "FormatError": "errors",
    "MissingNodeError": "errors",
    "NeedsRecoveryError": "errors",
    "OpaqueBytes": "model.attributes",
    "PyTablesBackendEntrypoint": "backend",
    "convert": "tools.converting",
    "diff": "tools.differences",
    "RemoteError": "errors",
    "recover": "disk.journal",
    "repack": "tools.repacking",
    "save_index": "indexes",
    "SharedWrite": "writing.shared_write",
    "begin_write": "writing.shared_write",
    "save_mfdataset": "writing.many_files",
    "to_pytables": "writing.writer",
    "tree": "listing",
    "verify": "tools.verifying",
}


def __getattr__(name: str) -> object:
    """Import on first use: xarray imports this package to look at its engine, and `tables` takes half a second."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # only here, with the reason above

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if "xarray" in sys.modules:  # without it nothing is imported: the command line must be quick
    from . import accessor  # noqa: F401 - registers `obj.pytables`
