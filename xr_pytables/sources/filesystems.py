"""Objects by URL, in any file system that fsspec knows: which client serves them, and one that serves all.

Tested in `tests/sources/test_object_stores.py`.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ..errors import FileChangedError, RemoteError
from .http import HTTPClient
from .obstore_objects import StoreClient
from .obstore_urls import store_of
from .remote import Answer, Client, ObjectVersion, TemporaryError
from .s3 import S3Client
from .url import shown, without_secrets

_TAGS: Final = ("ETag", "etag", "md5Hash", "content_md5")
_NUMBERS: Final = ("generation", "version_id", "VersionId")
_TIMES: Final = ("mtime", "LastModified", "last_modified", "updated", "created")
"""What file systems call the same."""
_NOT_THERE: Final = (404, 410)
"""Statuses of HTTP."""
_MIXING: Final = frozenset({"blockcache", "cached", "filecache"})
"""Protocols of what keeps parts of files, or replaces its copies, without a look at which version they are of."""


@dataclass(frozen=True)
class UrlTarget:
    """A URL, or a chain of them, with the options of fsspec. Never shows the options."""

    url: str = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return shown(self.url)

    @property
    def key(self) -> str:
        return self.url

    def client(self) -> Client:
        with naming_the_url(self.url):
            store = store_of(self.url, self.options)
        return StoreClient(*store) if store is not None else client_of(*filesystem_of(self.url, self.options))

    def beside(self, path: str) -> UrlTarget:
        return UrlTarget(_beside(self.url, path, self.name), self.options)


@dataclass(frozen=True)
class FilesystemTarget:
    """A path in one of fsspec's file systems, as its file objects know it."""

    filesystem: Any = field(repr=False)
    path: str = field(repr=False)

    @property
    def name(self) -> str:
        protocol = self.filesystem.protocol
        scheme = protocol if isinstance(protocol, str) else protocol[0]
        return shown(self.path if "://" in self.path else f"{scheme}://{self.path}")

    @property
    def key(self) -> str:
        return f"{type(self.filesystem).__name__} {self.path}"

    def client(self) -> Client:
        # made from its options again: one that is asynchronous, or of the process before a fork, cannot be used
        return client_of(self.filesystem.__reduce__()[0](*self.filesystem.__reduce__()[1]), self.path)

    def beside(self, path: str) -> FilesystemTarget:
        return FilesystemTarget(self.filesystem, _beside(self.path, path, self.name))


def filesystem_of(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The file system of fsspec that has a URL, and the path in it. Raises errors that name the URL."""
    from fsspec.core import url_to_fs  # not everybody reads from a network

    with naming_the_url(url):
        found: tuple[Any, str] = url_to_fs(url, **options)
    return found


@contextmanager
def naming_the_url(url: str) -> Iterator[None]:
    """Whatever a file system raises (zipfile.BadZipFile, tarfile.ReadError ...) as an error that names the URL."""
    try:
        yield
    except Exception as error:
        kinds = FileNotFoundError, PermissionError, ImportError, ValueError, TypeError
        kind = next((kind for kind in kinds if isinstance(error, kind)), RemoteError)
        raise kind(f"{shown(url)}: {without_secrets(str(error), url)}") from None


def _beside(url: str, path: str, name: str) -> str:
    if "::" in url or "?" in url or not path or path.startswith("/") or "://" in path or ".." in path.split("/"):
        raise FileNotFoundError(f"{name}: external links of such a file are followed below its own folder alone")
    return posixpath.join(posixpath.dirname(url), path)


def client_of(filesystem: Any, path: str) -> Client:
    """Who asks for the bytes at a path of a file system."""
    kind, protocols = type(filesystem), _protocols(filesystem)
    if "http" in protocols and hasattr(kind, "set_session"):
        return HTTPClient(filesystem, path)
    if "s3" in protocols and hasattr(kind, "_call_s3"):
        return S3Client(filesystem, path)
    return AnyClient(filesystem, path)


def _protocols(filesystem: Any) -> tuple[str, ...]:
    found = type(filesystem).protocol  # one that wraps another shows the attributes of that
    return (found,) if isinstance(found, str) else tuple(found)


def _of_the_server(error: FileNotFoundError) -> BaseException | None:
    """Why a file was not found, if not for its absence: fsspec says the same where a server cannot be reached."""
    cause = error.__cause__
    unreachable = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
    status = getattr(cause, "status", None)
    return cause if unreachable or (isinstance(status, int) and status not in _NOT_THERE) else None


class AnyClient:
    """One file of any file system, which may know nothing of versions: what it says of the file is asked for before the
    first bytes, and again behind all others.

    Some make a copy of the file, which stays what it is. Of a file in an archive, which is listed but once, the version
    is that of the archive, too.
    """

    def __init__(self, filesystem: Any, path: str) -> None:
        self._filesystem, self._path = filesystem, path
        protocols = _protocols(filesystem)
        for protocol in _MIXING.intersection(protocols):
            raise ValueError(
                f"{without_secrets(shown(path), path)}: {protocol}:: may mix two versions of a file that is replaced. "
                "cache_dir= keeps what was read by version; simplecache:: copies the whole file"
            )
        self._copies = "simplecache" in protocols
        inner = filesystem.fs if "dir" in protocols else filesystem  # as asynchronous as what it wraps
        self._is_async = bool(type(inner).async_impl)
        archive = vars(filesystem).get("of")  # what fsspec's archives are read from
        known = isinstance(getattr(archive, "path", None), str) and not self._copies
        self._archive = AnyClient(archive.fs, archive.path) if archive is not None and known else None
        self._pool: ThreadPoolExecutor | None = None
        self._found: ObjectVersion | None = None
        """Of the copy."""

    async def get(self, offset: int, count: int, version: ObjectVersion | None) -> Answer:
        try:
            if self._copies and self._found is None:  # the copy is made of what is there, and stays
                self._found = await self._now_there()
            before = version or self._found or await self._now_there()
            count = max(min(count, before.size - offset), 0)
            data = await self._call("cat_file", start=offset, end=offset + count) if count else b""
            after = self._found or await self._now_there()
        except (IsADirectoryError, PermissionError, RemoteError):
            raise
        except Exception as error:  # whatever a file system raises
            why = _of_the_server(error) if isinstance(error, FileNotFoundError) else error
            if why is None:
                raise
            raise TemporaryError(f"{type(why).__name__}: {without_secrets(str(why), self._path)}") from None
        if not before.same_version(after):
            raise FileChangedError(f"the file was replaced since it was opened (then {before}; now {after})")
        return Answer(data, after)

    async def _now_there(self) -> ObjectVersion:
        found = self._version(await self._call("info"))
        if self._archive is None or self._archive._copies:
            return found
        around = await self._archive._now_there()
        return replace(found, modified=f"{found.modified} in an archive of {around}".strip())

    async def _call(self, what: str, **arguments: Any) -> Any:
        if self._is_async:
            self._forget()
            return await getattr(self._filesystem, f"_{what}")(self._path, **arguments)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(8, thread_name_prefix="xr_pytables-fsspec")
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: self._now(what, arguments))

    def _now(self, what: str, arguments: dict[str, Any]) -> Any:
        self._forget()
        return getattr(self._filesystem, what)(self._path, **arguments)

    def _forget(self) -> None:
        """What the file system remembers of a listing is no news."""
        self._filesystem.invalidate_cache(self._filesystem._parent(self._path))

    def _version(self, info: Mapping[str, Any]) -> ObjectVersion:
        if info.get("type") == "directory":
            raise IsADirectoryError("this is a folder, not an HDF5 file")
        size = info.get("size")
        if not isinstance(size, int):
            raise RemoteError("the file system does not say how large the file is")
        tag, number, modified = (
            next((str(info[key]) for key in keys if info.get(key)), "") for keys in (_TAGS, _NUMBERS, _TIMES)
        )
        return ObjectVersion(size, tag, number, modified)
