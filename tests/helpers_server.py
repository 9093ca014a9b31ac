"""A web server on this machine that gives ranges of objects, keeps a log, and goes wrong as it is told."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from xr_pytables.sources.http import _ONE_RANGE_EACH

from .helpers_threads import WATCHDOG

Fault = Callable[["Handler"], bool]
"""Called for each GET; True if it has answered."""


@dataclass
class Server:
    """Objects by path; may change while it runs."""

    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    """Path, offset and count of each range that a GET asks for; -1 and -1 for one of all."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of each GET."""
    faults: list[Fault] = field(default_factory=list)
    """The next requests go to these, one each."""
    always: Fault | None = None
    has_ranges: bool = True
    has_several: bool = True
    """Whether one answer may have several ranges; otherwise it has all of the object, as with most servers."""
    has_tags: bool = True
    weak_tags: bool = False
    heeds_conditions: bool = True
    modified: float = 1_700_000_000.0
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    _tags: dict[int, str] = field(default_factory=dict)

    def url(self, path: str = "a.h5", user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.port}/{path}"

    def tag(self, data: bytes) -> str:
        if not self.has_tags:
            return ""
        if id(data) not in self._tags:
            self._tags[id(data)] = hashlib.md5(data).hexdigest()
        return f'{"W/" if self.weak_tags else ""}"{self._tags[id(data)]}"'

    @property
    def bytes_asked(self) -> int:
        return sum(count for _, _, count in self.asked)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HTTPServer
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    @property
    def name(self) -> str:
        """Of the object that is asked for."""
        return unquote(self.path.partition("?")[0].lstrip("/"))

    def extents(self, size: int) -> list[tuple[int, int]]:
        """The first and the last byte of each range that is asked for."""
        asked = self.headers.get("x-ms-range") or self.headers.get("Range", "")
        found = re.findall(r"(?:bytes=|, )(\d+)-(\d*)", asked)
        return [(int(first), min(int(last or size), size - 1)) for first, last in found]

    def extent(self, size: int) -> tuple[int, int]:
        """The same of the only one."""
        (found,) = self.extents(size)
        return found

    def answer(self, *, body: bool) -> None:
        state = self.server.state
        path = self.name
        data = state.objects.get(path)
        extents = self.extents(len(data)) if data is not None else []
        with state.lock:
            if body:
                state.asked += [(path, first, last - first + 1) for first, last in extents] or [(path, -1, -1)]
                state.headers.append(dict(self.headers))
            fault = state.always or (state.faults.pop(0) if body and state.faults else None)
        if fault is not None and fault(self):
            return
        if data is None:
            self.plain(404)
            return
        wanted = self.headers.get("If-Match")
        if wanted and state.heeds_conditions and (state.weak_tags or wanted != state.tag(data)):
            self.plain(412)
            return
        if not extents or not state.has_ranges or (len(extents) > 1 and not state.has_several):
            self.send(200, data, len(data), {}, body)
        elif len(extents) > 1:
            parts = several(data, extents)
            self.send(206, parts, len(parts), {"Content-Type": "multipart/byteranges; boundary=THIS"}, body)
        elif extents[0][0] > extents[0][1]:
            self.plain(416, {"Content-Range": f"bytes */{len(data)}"})
        else:
            first, last = extents[0]
            told = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
            self.send(206, memoryview(data)[first : last + 1], last - first + 1, told, body)

    def plain(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send(status, b"", 0, headers or {}, True)

    def send(self, status: int, data: bytes | memoryview, length: int, headers: dict[str, str], body: bool) -> None:
        state = self.server.state
        whole = state.objects.get(self.name, b"")
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if state.has_tags:
            self.send_header("ETag", state.tag(whole))
        self.send_header("Last-Modified", formatdate(state.modified, usegmt=True))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data)


def several(data: bytes, extents: list[tuple[int, int]]) -> bytes:
    """Parts of an object as one answer (RFC 9110, 14.6)."""
    parts = [
        b"\r\n--THIS\r\nContent-Type: application/x-hdf5\r\nContent-Range: bytes %d-%d/%d\r\n\r\n"
        % (first, last, len(data))
        + data[first : last + 1]
        for first, last in extents
    ]
    return b"".join([*parts, b"\r\n--THIS--\r\n"])


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    state: Server


@contextlib.contextmanager
def running(**settings: object) -> Iterator[Server]:
    """A server at a free port."""
    state = Server(**settings)
    _ONE_RANGE_EACH.clear()  # another server may have had this port
    server = _HTTPServer(("127.0.0.1", 0), Handler)
    server.state, state.port = state, server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join(WATCHDOG)
        server.server_close()


# -- faults -------------------------------------------------------------------------------------------------


def fine(handler: Handler) -> bool:
    """No fault at all: for lists of them."""
    return False


def status(number: int, **headers: str) -> Fault:
    """Answer with a status and nothing else."""

    def fault(handler: Handler) -> bool:
        handler.plain(number, {name.replace("_", "-"): value for name, value in headers.items()})
        return True

    return fault


def cut(handler: Handler) -> bool:
    """Half of the answer, then the connection ends."""
    data = handler.server.state.objects[handler.name]
    first, last = handler.extent(len(data))
    told = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
    count = last - first + 1
    handler.send(206, memoryview(data)[first : first + count // 2], count, told, True)
    handler.close_connection = True
    return True


def shifted(handler: Handler) -> bool:
    """Another range than the one that was asked for, and it says so."""
    data = handler.server.state.objects[handler.name]
    first, last = handler.extent(len(data))
    handler.send(
        206, data[first + 1 : last + 1], last - first, {"Content-Range": f"bytes {first + 1}-{last}/{len(data)}"}, True
    )
    return True


def short(handler: Handler) -> bool:
    """Fewer bytes than the range has, by an answer that is in itself whole."""
    data = handler.server.state.objects[handler.name]
    first, last = handler.extent(len(data))
    handler.send(206, data[first:last], last - first, {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, True)
    return True


def unsaid(handler: Handler) -> bool:
    """A range, of which the answer does not say which."""
    data = handler.server.state.objects[handler.name]
    first, last = handler.extent(len(data))
    handler.send(206, data[first : last + 1], last - first + 1, {}, True)
    return True
