"""Objects in a store of `obstore`: S3, Google, Azure, HTTP, memory, by one library and with conditions on each request.

Tested in `tests/sources/test_object_stores.py`.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import FileChangedError, RemoteError
from .remote import Answer, Client, ObjectVersion, TemporaryError
from .source import printable

if TYPE_CHECKING:
    from obstore import GetOptions


_state = {"used": False, "lost": False}
"""Whether obstore has threads, and whether a fork has left them behind: requests would wait for ever, or crash."""


def _after_fork() -> None:
    _state["lost"] = _state["used"]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True)
class StoreTarget:
    """A path in a store."""

    store: Any = field(repr=False)
    path: str

    @property
    def name(self) -> str:
        return printable(f"{type(self.store).__name__}:{self.path}")

    @property
    def key(self) -> str:
        return f"{self.store!r} {self.path}"

    def client(self) -> Client:
        return StoreClient(self.store, self.path)

    def beside(self, path: str) -> StoreTarget:
        if path.startswith("/") or ".." in path.split("/"):
            raise FileNotFoundError(
                f"{self.name}: external links of such a file are followed below its own folder alone"
            )
        return StoreTarget(self.store, posixpath.join(posixpath.dirname(self.path), path))


class StoreClient:
    """One object of a store."""

    def __init__(self, store: Any, path: str) -> None:
        self._store, self._path = store, path

    async def get(self, offset: int, count: int, version: ObjectVersion | None) -> Answer:
        import obstore  # an extra: whoever has a store has it
        from obstore import exceptions

        if _state["lost"]:
            raise RemoteError(
                "obstore does not work in a process that was forked off from one that used it. Start processes with "
                "'spawn' or 'forkserver'"
            )
        _state["used"] = True
        options: GetOptions = {"range": (offset, offset + count)}
        if version is not None and version.number:
            options["version"] = version.number
        elif version is not None and version.tag.startswith('"'):
            options["if_match"] = version.tag
        try:
            result = await obstore.get_async(self._store, self._path, options=options)
            data, meta, (first, _) = bytes(await result.bytes_async()), result.meta, result.range
        except exceptions.PreconditionError:
            raise FileChangedError("the object was replaced since it was opened") from None
        except FileNotFoundError:
            raise
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise PermissionError(first_line(error)) from None
        except (exceptions.NotSupportedError, exceptions.InvalidPathError) as error:
            raise RemoteError(first_line(error)) from None
        except exceptions.BaseError as error:
            raise TemporaryError(first_line(error)) from None
        if first != offset:
            raise RemoteError(f"the store sent bytes from {first} on instead")
        found = ObjectVersion(meta["size"], meta["e_tag"] or "", meta["version"] or "", str(meta["last_modified"]))
        return Answer(data, found)


def first_line(error: Exception) -> str:
    """What is wrong; more lines would show how the store is set up."""
    return printable(str(error).partition("\n")[0].partition("?")[0])
