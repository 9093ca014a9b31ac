"""Objects on web servers, asked for by the session of fsspec's file system, with the options that it knows.

Tested in `tests/sources/test_remote.py`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..errors import FileChangedError, RemoteError
from .remote import Answer, ObjectVersion, TemporaryError
from .url import without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aiohttp

_TEMPORARY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_RANGE_OF_PART: Final = re.compile(rb"(?i:\r\ncontent-range): *bytes (\d{1,19})-(\d{1,19})/(\d{1,19}) *\r\n")
_MOST_UNASKED: Final = 1 << 16  # bytes of an answer that are read to see whether it is too long
_NO_SEVERAL: Final = frozenset({200, 206})
"""Statuses of servers that do not send several ranges at once."""
_REFUSED: Final = frozenset({400, 403, 416, 501})
"""Statuses of servers that refuse whoever asks for several, and of other troubles with an object."""
_ONE_RANGE_EACH: Final = set[str]()
"""The hosts of which that is known."""


class HTTPClient:
    """One URL."""

    def __init__(self, filesystem: Any, url: str) -> None:
        self._filesystem, self._url = filesystem, url
        self._host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
        self._refused = False
        """Whether several ranges were; if one is not after that, it is because there were several."""

    async def get(self, offset: int, count: int, version: ObjectVersion | None) -> Answer:
        async with self._response([(offset, count)], version) as response:
            self._refuse(response.status, response.reason, response.headers, version)
            size, length = self._extent(response.status, response.headers, offset, count)
            found = await _body(response, length + _MOST_UNASKED)
            if len(found) > length:
                raise RemoteError(f"the server sent {len(found)} bytes or more where it said {length}")
            if self._refused:
                _ONE_RANGE_EACH.add(self._host)
            return Answer(found, _version(size, response.headers))

    async def get_several(self, ranges: Sequence[tuple[int, int]], version: ObjectVersion) -> list[Answer] | None:
        if self._host in _ONE_RANGE_EACH:
            return None
        async with self._response(ranges, version) as response:
            if response.status != 206 or response.content_type != "multipart/byteranges":
                if response.status in _NO_SEVERAL:
                    _ONE_RANGE_EACH.add(self._host)
                self._refused = response.status in _REFUSED
                return None
            body = await _body(response, sum(count for _, count in ranges) + _MOST_UNASKED)
            parts = list(_byte_ranges(body))
            return [_part(parts, *one, response.headers) for one in ranges]

    @asynccontextmanager
    async def _response(
        self, ranges: Sequence[tuple[int, int]], version: ObjectVersion | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        import aiohttp  # an extra, which fsspec asks for with a sentence of its own

        session = await self._filesystem.set_session()
        options = dict(self._filesystem.kwargs)
        headers = dict(options.pop("headers", None) or {})
        asked = ", ".join(f"{offset}-{offset + count - 1}" for offset, count in ranges)
        headers |= {"Range": f"bytes={asked}", "Accept-Encoding": "identity"}
        if version is not None and version.tag.startswith('"'):  # a weak tag matches nothing (RFC 9110, 13.1.1)
            headers["If-Match"] = version.tag
        try:
            async with session.get(self._filesystem.encode_url(self._url), headers=headers, **options) as response:
                yield response
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            raise TemporaryError(self._told(error)) from None

    def _told(self, error: BaseException) -> str:
        text = without_secrets(str(error), self._url)
        return f"{type(error).__name__}: {text}" if text else type(error).__name__

    def _refuse(self, status: int, reason: str, headers: Mapping[str, str], version: ObjectVersion | None) -> None:
        if status in (200, 206):
            return
        told = f"the server says {status} {without_secrets(str(reason), self._url)}"
        if status in _TEMPORARY:
            after = headers.get("Retry-After", "")
            raise TemporaryError(told, float(after) if after.isdecimal() else 0.0)
        if status == 412 or (status == 416 and version is not None):
            raise FileChangedError(f"the object was replaced since it was opened ({told})")
        if status == 416:
            size = headers.get("Content-Range", "").removeprefix("bytes */")  # RFC 9110, 15.5.17
            if size == "0":
                raise RemoteError("the object is empty, and no HDF5 file")
            of = f" of an object of {size} bytes" if size.isdecimal() else ": the object may be empty"
            raise RemoteError(f"{told} where its first bytes were asked for{of}")
        if status in (404, 410):
            raise FileNotFoundError(told)
        if status in (401, 403):
            raise PermissionError(f"{told}. storage_options= takes what it needs: headers, client_kwargs with auth")
        raise RemoteError(told)

    def _extent(self, status: int, headers: Mapping[str, str], offset: int, count: int) -> tuple[int, int]:
        """(bytes of the object, bytes that the answer should have)."""
        if headers.get("Content-Encoding", "identity") not in ("identity", ""):
            raise RemoteError(f"the server sends the object encoded ({headers['Content-Encoding']!r}), not as it is")
        if status == 200:
            told = headers.get("Content-Length", "")
            size = int(told) if told.isdecimal() else -1
            if offset == 0 and 0 <= size <= count:
                return size, size
            raise RemoteError(
                "the server sends all of the object where a range was asked for: it knows no ranges. Put "
                "'simplecache::' before the URL to copy the whole file first"
            )
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if found is None or found[3] == "*":
            raise RemoteError("the server does not say which range of how many bytes it sends (Content-Range)")
        first, last, size = int(found[1]), int(found[2]), int(found[3])
        if first != offset or not first <= last < min(size, offset + count):
            raise RemoteError(f"the server sends bytes {first} to {last} of {size} instead")
        return size, last - first + 1


async def _body(response: aiohttp.ClientResponse, most: int) -> bytes:
    """What a response brings, or its first bytes where that is more than `most`."""
    pieces, got = [], 0
    async for piece in response.content.iter_chunked(1 << 18):
        pieces.append(piece)
        got += len(piece)
        if got > most:
            break
    return b"".join(pieces)


class _Part(NamedTuple):
    """Some bytes of an object, in an answer that has several parts."""

    first: int
    size: int
    """Bytes of the object."""
    data: memoryview


def _byte_ranges(body: bytes) -> Iterator[_Part]:
    """The parts of an answer of type multipart/byteranges (RFC 9110, 14.6), up to one that is not as long as told."""
    at = 0
    while (end := body.find(b"\r\n\r\n", at)) >= 0 and (told := _RANGE_OF_PART.search(body, at, end + 2)) is not None:
        first, last, size = map(int, told.groups())
        at = end + 4 + max(last - first + 1, 0)
        if not body.startswith(b"\r\n--", at):  # where it ends, there is what separates parts
            return
        yield _Part(first, size, memoryview(body)[end + 4 : at])


def _part(parts: Iterable[_Part], offset: int, count: int, headers: Mapping[str, str]) -> Answer:
    """The answer to one of the ranges. A server may send near ones as one, and in any order (RFC 9110, 15.3.7.2)."""
    for part in parts:
        start = offset - part.first
        if start >= 0 and start + count <= len(part.data):
            return Answer(bytes(part.data[start : start + count]), _version(part.size, headers))
    raise RemoteError(f"bytes {offset} to {offset + count - 1} are not in the server's answer")


def _version(size: int, headers: Mapping[str, str]) -> ObjectVersion:
    tag = headers.get("ETag", "")
    return ObjectVersion(size, tag=tag, modified=headers.get("Last-Modified", ""))
