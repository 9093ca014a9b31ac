"""Files for object stores: written on this machine, and put where they belong when they are whole.

Tested in `tests/writing/test_upload.py`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from ..sources.url import shown, without_secrets

_WHOLE: Final = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""Protocols of stores in which an object is there as a whole or not at all."""


@contextmanager
def uploaded(url: str, *, mode: str | None, compute: bool, options: Mapping[str, Any] | None) -> Iterator[str]:
    """A path on this machine for the block to write to. If it ends well, the file is the object at `url` after it.

    `mode` is `"w"` or `"w-"` (`"x"`), with which an object that is there already, or comes meanwhile, is a
    FileExistsError. Raises ValueError for what cannot be done in a store, before the block runs.
    """
    from ..sources.filesystems import filesystem_of  # not everybody writes to a network

    name = shown(url)
    if mode not in (None, "w", "w-", "x"):
        raise ValueError(
            f"{name}: a file in an object store is written whole, and cannot be changed (mode={mode!r}). Change a copy "
            "on this machine, and upload that"
        )
    if not compute:
        raise ValueError(f"{name}: compute=False writes files on this machine alone")
    filesystem, path = filesystem_of(url, options or {})
    protocol = type(filesystem).protocol
    if not _WHOLE.intersection((protocol,) if isinstance(protocol, str) else protocol):
        raise ValueError(
            f"{name}: whoever reads there could find half of a file. Write a local file, and copy it: only "
            f"{', '.join(sorted(_WHOLE))} take objects as a whole"
        )
    if url.endswith("/") or not path.strip("/") or ("/" not in path and protocol != "memory"):
        raise ValueError(f"{name}: this names no object but a folder, or a bucket. Add the name of the file")
    new = mode in ("w-", "x")
    if new and filesystem.exists(path):
        raise _exists(name)
    with tempfile.TemporaryDirectory(prefix="xr_pytables-") as folder:
        local = os.path.join(folder, "file.h5")  # the names of objects may be longer than those of files
        try:
            yield local
        except Exception as error:
            error.add_note(f"{local} was to become {name}, which is as before")
            raise
        try:
            filesystem.put_file(local, path, mode="create" if new else "overwrite")
        except FileExistsError:
            raise _exists(name) from None
        except NotImplementedError:
            raise ValueError(f"{name}: this store cannot refuse an object that is there: mode={mode!r}") from None
        except Exception as error:  # whatever a file system raises
            kind = PermissionError if isinstance(error, PermissionError) else OSError
            told = f"{name}: the file was written, and cannot be uploaded: {without_secrets(str(error), url)}"
            raise kind(told) from None


def _exists(name: str) -> FileExistsError:
    return FileExistsError(f"{name}: the object already exists. mode='w' replaces it")
