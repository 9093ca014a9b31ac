"""URLs as they may be shown: without user, password, and what signs a request.

Tested in `tests/sources/test_remote.py`.
"""

from __future__ import annotations

import os
from urllib.parse import unquote
from urllib.request import url2pathname

from .source import printable


def is_url(text: str) -> bool:
    """Whether the text is a URL, or a chain of them as fsspec has it."""
    return "://" in text


def local_path(url: str) -> str | None:
    """The path that a URL of a local file means; None for other URLs. Raises ValueError for another machine."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("file", "local"):
        return None
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise ValueError(
            f"{shown(url)}: a file on this machine is {scheme}:///path, where {host!r} names another machine"
        )
    return url2pathname(slash + path)


def only_local(path: str | os.PathLike[str], who: str) -> str | os.PathLike[str]:
    """A path, or that of a URL of a local file. Raises ValueError for other URLs, of which `who` makes no files."""
    if not isinstance(path, str) or not is_url(path):
        return path
    local = local_path(path)
    if local is None:
        raise ValueError(f"{shown(path)}: {who} writes local files; to_pytables writes one to an object store")
    return local


def local_argument(given: str | os.PathLike[str], name: str) -> str:
    """The absolute path that an argument is, or that of a URL of a local file. Raises ValueError for other URLs."""
    path = os.fspath(given)
    if is_url(path):
        local = local_path(path)
        if local is None:
            raise ValueError(f"{name} must be a local path, not {shown(path)}")
        path = local
    return os.path.abspath(os.path.expanduser(path))


def shown(url: str) -> str:
    """A URL, or a chain, without what must not be seen."""
    return printable("::".join(_shown(part) for part in url.split("::")))


def _shown(part: str) -> str:
    scheme, separator, rest = part.partition("://")
    if not separator:
        return part
    rest, _, fragment = rest.partition("#")
    rest, query, _ = rest.partition("?")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}{'?...' if query else ''}{'#...' if fragment else ''}"


def without_secrets(text: str, url: str) -> str:
    """A message of a library, in which parts of the URL may stand that must not be seen."""
    for part in url.split("::"):
        for secret in _secrets(part):
            text = text.replace(secret, "...")
    return printable(text)


def _secrets(part: str) -> list[str]:
    """What stands before the host and behind the path, the longest text first. The scheme may have been taken off."""
    rest = part.partition("://")[2] or part
    user = rest.partition("/")[0].rpartition("@")[0]
    password = user.partition(":")[2]
    found = [user, password, unquote(password), rest.partition("?")[2], rest.partition("#")[2]]
    return sorted({secret for secret in found if secret}, key=len, reverse=True)
