"""A web server as others run it: nginx, which XR_PYTABLES_NGINX names where it is not installed (see `.ci/nginx`)."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xr_pytables import FileChangedError, RemoteError, to_pytables
from xr_pytables.sources.filesystems import UrlTarget
from xr_pytables.sources.remote import RemotePlace, Transfer

from ..helpers_reading import open_quietly
from ..helpers_threads import WATCHDOG

NGINX = os.environ.get("XR_PYTABLES_NGINX") or shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
DATA = np.random.default_rng(0).bytes(5_000_000)
FIELD = np.random.default_rng(1).random((500, 600))
CONFIGURATION = """
daemon off; master_process off; pid pid; error_log error.log;
events {{ }}
http {{
    log_format asked '$request_method "$http_range" "$http_if_match" $status';
    access_log asked.log asked;
    client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;
    gzip on; gzip_types application/octet-stream; gzip_min_length 1;
    server {{
        listen 127.0.0.1:{port};
        root files;
        location /whole/ {{ alias files/; max_ranges 0; }}
        location /slow/ {{ alias files/; limit_rate 1; }}
        location /secret/ {{ alias files/; auth_basic "files"; auth_basic_user_file users; }}
        location /moved/ {{ rewrite ^/moved/(.*)$ http://localhost:{port}/$1 redirect; }}
        location /loop/ {{ return 302 /loop/; }}
        location /broken/ {{ return 503; }}
    }}
}}
"""

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx: .ci/nginx FOLDER gets one on Debian")


class Nginx:
    """A server with the files of a folder."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "files").mkdir()
        (folder / "users").write_text("me:{PLAIN}geheim\n")
        (folder / "nginx.conf").write_text(CONFIGURATION.format(port=self.port))
        self.files, self.log = folder / "files", folder / "asked.log"
        self.process = subprocess.Popen(
            [str(NGINX), "-p", str(folder), "-c", "nginx.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        ends = time.monotonic() + WATCHDOG
        while time.monotonic() < ends:
            assert self.process.poll() is None, (folder / "error.log").read_text()
            with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.01)
        raise TimeoutError("nginx does not listen")

    def url(self, path: str, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.port}/{path}"

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()

    def end(self) -> None:
        self.process.kill()
        self.process.wait(WATCHDOG)


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    to_pytables(xr.Dataset({"v": (("y", "x"), FIELD)}), tmp_path / "a.h5", encoding={"v": {"chunksizes": (50, 600)}})
    server = Nginx(tmp_path)
    try:
        shutil.move(tmp_path / "a.h5", server.files / "a.h5")
        (server.files / "a.bin").write_bytes(DATA)
        yield server
    finally:
        server.end()


def place(url: str, **transfer: float) -> RemotePlace:
    return RemotePlace.of(UrlTarget(url), Transfer(**{"pause": 0.0, "tries": 2, **transfer}))


def test_datasets_are_read_with_conditions(nginx: Nginx) -> None:
    with open_quietly(nginx.url("a.h5"), chunks={}) as ds:
        assert np.array_equal(ds["v"], FIELD)
    first, *others = nginx.asked()
    assert first == 'GET "bytes=0-1048575" "-" 206'
    assert others
    for line in others:
        assert line.startswith('GET "bytes=')
        assert '" "-" ' not in line  # each says which version it wants
        assert line.endswith(" 206")


def test_ranges_that_lie_apart_come_by_one_request(nginx: Nginx) -> None:
    source = place(nginx.url("a.bin")).open(None).source
    ranges = [(1_500_000 + 700_000 * i, 1000) for i in range(5)]
    assert source.read_many(ranges) == [DATA[offset : offset + count] for offset, count in ranges]
    _, second = nginx.asked()
    assert re.fullmatch(r'GET "bytes=\d+-\d+(, \d+-\d+){4}" ".+" 206', second), second


def test_a_replaced_file_is_an_error(nginx: Nginx) -> None:
    source = place(nginx.url("a.bin")).open(None).source
    assert source.read(3_000_000, 10) == DATA[3_000_000:3_000_010]
    (nginx.files / "b.bin").write_bytes(DATA[::-1])
    os.utime(nginx.files / "b.bin", (1, 1))
    (nginx.files / "b.bin").replace(nginx.files / "a.bin")
    with pytest.raises(FileChangedError, match=r"a\.bin: bytes .* was replaced since it was opened .*412"):
        source.read(2_000_000, 10)
    (nginx.files / "a.bin").unlink()
    with pytest.raises(FileChangedError, match="was removed since it was opened"):
        source.read(4_000_000, 10)


def test_a_server_that_sends_files_as_a_whole(nginx: Nginx, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match=r"it knows no ranges\. Put 'simplecache::' before"):
        place(nginx.url("whole/a.bin")).open(None)
    copied = f"simplecache::{nginx.url('whole/a.h5')}"
    with open_quietly(copied, storage_options={"simplecache": {"cache_storage": str(tmp_path / "copies")}}) as ds:
        assert np.array_equal(ds["v"], FIELD)


def test_redirects_are_followed_and_circles_are_not(nginx: Nginx) -> None:
    source = place(nginx.url("moved/a.bin")).open(None).source
    assert source.read(2_000_000, 1_000_000) == DATA[2_000_000:3_000_000]
    with pytest.raises(RemoteError, match=r"loop/a\.bin: bytes 0 to 1048575: TooManyRedirects"):
        place(nginx.url("loop/a.bin")).open(None)


def test_passwords_are_sent_and_not_shown(nginx: Nginx) -> None:
    source = place(nginx.url("secret/a.bin", user="me:geheim@")).open(None).source
    assert source.read(2_000_000, 10) == DATA[2_000_000:2_000_010]
    with pytest.raises(
        PermissionError, match=r"secret/a\.bin: bytes .*the server says 401.*storage_options="
    ) as caught:
        place(nginx.url("secret/a.bin", user="me:falsch@")).open(None)
    assert "falsch" not in str(caught.value)
    options = {"client_kwargs": {"headers": {"Authorization": "Basic bWU6Z2VoZWlt"}}}
    assert RemotePlace.of(UrlTarget(nginx.url("secret/a.bin"), options), Transfer()).open(None).source.size == len(DATA)


@pytest.mark.parametrize(
    ("path", "message"),
    [("slow/a.bin", r"no answer within 0\.2 seconds; tried 2 times"), ("broken/a.bin", "says 503 .*; tried 2 times")],
)
def test_a_server_that_is_too_slow_or_overloaded_is_given_up(nginx: Nginx, path: str, message: str) -> None:
    with pytest.raises(RemoteError, match=message):
        place(nginx.url(path), timeout=0.2).open(None)


def test_a_server_that_dies_is_an_error(nginx: Nginx) -> None:
    source = place(nginx.url("a.bin")).open(None).source
    nginx.end()
    with pytest.raises(RemoteError, match=r"a\.bin: bytes .*; tried 2 times"):
        source.read(2_000_000, 10)
