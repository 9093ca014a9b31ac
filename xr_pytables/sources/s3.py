"""Objects in S3 and what speaks its protocol, asked for by s3fs, with the options that it knows.

Tested in `tests/sources/test_object_stores.py`.
"""

from __future__ import annotations

import re
from typing import Any, Final

from ..errors import FileChangedError, RemoteError
from .remote import Answer, ObjectVersion, TemporaryError
from .url import without_secrets

_TEMPORARY: Final = frozenset({408, 429, 500, 502, 503, 504})
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class S3Client:
    """One object by an `s3fs.S3FileSystem`."""

    def __init__(self, filesystem: Any, path: str) -> None:
        self._filesystem, self._path = filesystem, path
        self._bucket, self._key, self._number = filesystem.split_path(path)

    async def get(self, offset: int, count: int, version: ObjectVersion | None) -> Answer:
        number = (version.number if version is not None else "") or self._number
        asked: dict[str, str] = {"Range": f"bytes={offset}-{offset + count - 1}"}
        if number:
            asked["VersionId"] = number
        elif version is not None and version.tag:
            asked["IfMatch"] = version.tag
        try:
            response = await self._filesystem._call_s3("get_object", Bucket=self._bucket, Key=self._key, **asked)
            async with response["Body"] as body:
                data = await body.read()
        except Exception as error:  # whatever botocore and its transport raise
            raise _understood(error, version, without_secrets(str(error), self._path)) from None
        found = _CONTENT_RANGE.fullmatch(response.get("ContentRange") or "")
        size = int(found[3]) if found else int(response["ContentLength"])
        if (int(found[1]) if found else 0) != offset:
            raise RemoteError(f"the store sent {response.get('ContentRange') or 'all of the object'} instead")
        return Answer(
            data, ObjectVersion(size, response.get("ETag", ""), number, str(response.get("LastModified", "")))
        )


def _understood(error: Exception, version: ObjectVersion | None, text: str) -> Exception:
    """The error of a client, with its text, as one of ours."""
    cause: BaseException | None = error
    status, code = 0, ""
    while cause is not None and not status:
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            code = str(response.get("Error", {}).get("Code", ""))
        cause = cause.__cause__
    told = f"the store says {status} {code}" if status else f"{type(error).__name__}: {text}"
    if status == 412 or (status == 416 and version is not None):
        return FileChangedError(f"the object was replaced since it was opened ({told})")
    if status == 416:
        return RemoteError("the object is empty, and no HDF5 file")
    if status == 404 or isinstance(error, FileNotFoundError):
        return FileNotFoundError(told)
    if status in (401, 403) or isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        return PermissionError(f"{told}. storage_options= takes what it needs: anon, key, secret, profile")
    if status in _TEMPORARY or not status:
        return TemporaryError(told)
    return RemoteError(told)
