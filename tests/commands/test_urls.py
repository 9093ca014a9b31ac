"""Commands with URLs: what they say of a file on a server is what they say of the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xr_pytables import RemoteError, to_pytables, verify

from ..helpers_reading import plain_file
from ..helpers_server import Server, running, status
from ..tools.test_verifying import chunk_places, flipped
from .helpers_commands import run

FIELD = np.arange(400.0).reshape(20, 20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.h5"
    encoding = {"v": {"chunksizes": (5, 5), "complib": "zlib", "fletcher32": True}}
    to_pytables(xr.Dataset({"v": (("y", "x"), FIELD)}, {"y": np.arange(20)}, {"title": "sea"}), path, encoding=encoding)
    with plain_file(path, "a") as file:
        file.create_vlarray("/deep", "rows", file.root.v.atom, createparents=True).append([1.0, 2.0])
    return path


@pytest.fixture
def server(path: Path) -> Iterator[Server]:
    with running(objects={"a.h5": path.read_bytes()}) as server:
        yield server


def same(server: Server, path: Path, *arguments: str, node: str = "") -> str:
    """What a command prints of the URL, which is what it prints of the path."""
    remote, local = (
        run(arguments[0], f"{where}{node}", *arguments[1:]) for where in (server.url(user="me:geheim@"), path)
    )
    assert (remote.exit_code, remote.output.replace(server.url(), str(path))) == (local.exit_code, local.output)
    assert "geheim" not in remote.output
    return remote.output


def test_info(server: Server, path: Path) -> None:
    assert "v (y: 20, x: 20)" in same(server, path, "info")
    assert "rows" in same(server, path, "info", node=":/deep")
    assert "2.0" in same(server, path, "info", "-v", "v[0, :3]")
    assert "title" in same(server, path, "info", "--header")
    assert '"v"' in same(server, path, "info", "--json")
    assert "there is no array 'w'" in same(server, path, "info", "-v", "w")


def test_verify(server: Server, path: Path) -> None:
    assert "sound: 2 groups" in same(server, path, "verify")
    flipped(path, chunk_places(path, "v")[(5, 5)][0] + 3)
    server.objects["a.h5"] = path.read_bytes()
    assert "DAMAGED in 1 place" in same(server, path, "verify")
    assert verify(server.url()).damage == verify(path).damage
    server.always = status(400)
    failed = run("verify", server.url(user="me:geheim@"))
    assert failed.exit_code == 2
    assert "the server says 400" in failed.output
    assert "geheim" not in failed.output
    with pytest.raises(RemoteError, match="the server says 400"):
        verify(server.url())


def test_verify_asks_for_chunks_together(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((500, 500))
    to_pytables(xr.Dataset({"v": (("y", "x"), values)}), tmp_path / "a.h5", encoding={"v": {"chunksizes": (10, 500)}})
    with running(objects={"a.h5": (tmp_path / "a.h5").read_bytes()}) as server:
        assert verify(server.url()).sound
        assert len(server.asked) <= 4


def test_diff(server: Server, path: Path) -> None:
    assert run("diff", path, server.url()).exit_code == 0
    to_pytables(xr.Dataset({"v": (("y", "x"), FIELD + 1)}, {"y": np.arange(20)}, {"title": "sea"}), path)
    result = run("diff", path, server.url(user="me:geheim@"))
    assert result.exit_code == 1
    assert "v" in result.output
    assert "geheim" not in result.output


def test_convert(server: Server, tmp_path: Path) -> None:
    result = run("convert", server.url(user="me:geheim@") + ":/v", tmp_path / "v.npy")
    assert (result.exit_code, result.output) == (0, "")
    assert np.array_equal(np.load(tmp_path / "v.npy"), FIELD)
    assert run("convert", server.url(), tmp_path / "b.h5").exit_code == 0
    with xr.open_dataset(tmp_path / "b.h5", engine="pytables") as ds:
        assert np.array_equal(ds["v"], FIELD)
    refused = run("convert", tmp_path / "b.h5", server.url("c.h5", user="me:geheim@"))
    assert refused.exit_code == 2
    assert "files are converted to this machine alone. Upload the result" in refused.output
    missing = run("convert", server.url("nope.h5", user="me:geheim@"), tmp_path / "c.h5")
    assert missing.exit_code == 2
    assert "nope.h5: there is no such object" in missing.output
    assert "geheim" not in refused.output + missing.output


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("repack", "a path on this machine is needed here, not a URL"),
        ("bench", "a path on this machine is needed here, not a URL"),
        ("recover", "No such file"),
    ],
)
def test_what_is_for_files_on_this_machine_says_so(server: Server, command: str, message: str) -> None:
    result = run(command, server.url(user="me:geheim@"))
    assert result.exit_code == 2
    assert message in result.output
    assert "geheim" not in result.output


@pytest.mark.parametrize("command", [["info"], ["info", "-v", "v[0, :3]"], ["verify"]])
def test_options_of_a_store_are_those_of_fsspec(server: Server, command: list[str]) -> None:
    """In its files or in variables, which Python's programs of the kind share."""
    options = json.dumps({"headers": {"X-Key": "of-mine"}})
    ran = subprocess.run(
        [sys.executable, "-m", "xr_pytables", command[0], server.url(), *command[1:]],
        env=os.environ | {"FSSPEC_HTTP": options}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert {headers.get("X-Key") for headers in server.headers} == {"of-mine"}
    assert "of-mine" not in ran.stdout + ran.stderr
