"""What cannot be opened says so: the right exception, naming the file and the node, with the way out."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tables
import xarray as xr

from xr_pytables import PyTablesBackendEntrypoint, to_pytables

from .helpers_reading import plain_file

OPENERS = [xr.open_dataset, xr.open_datatree, xr.open_groups]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file.h5"
    with plain_file(path, "w") as file:
        file.create_array("/g", "a", np.arange(6).reshape(2, 3), createparents=True)
        file.create_array("/", "b", [1, 2])
    return path


@pytest.mark.parametrize("opener", OPENERS)
def test_missing_file(opener: object, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing_here\.h5"):
        opener(tmp_path / "nothing_here.h5", engine="pytables")


@pytest.mark.parametrize("opener", OPENERS)
def test_folder(opener: object, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=f"{tmp_path}.*folder"):
        opener(tmp_path, engine="pytables")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe: this is not a regular file"):
        xr.open_dataset(tmp_path / "pipe", engine="pytables")


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"time,value\n1,2\n" * 100, "no HDF5 signature"),
        (b"\x89HDF", "no HDF5 signature"),
        (b"CDF\x01" + bytes(100), "no HDF5 signature"),
        (b"\x89HDF\r\n\x1a\n", "the superblock at address 0: the bytes are damaged or cut off"),
        (b"\x89HDF\r\n\x1a\n" + bytes(5000), "the superblock at address 0: addresses of 0 and lengths of 0 bytes"),
    ],
)
def test_file_that_is_not_hdf5(opener: object, content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "bad.h5").write_bytes(content)
    with pytest.raises(OSError, match=rf"{tmp_path}/bad\.h5: .*{reason}"):
        opener(tmp_path / "bad.h5", engine="pytables")


def test_truncated_file(path: Path) -> None:
    size = path.stat().st_size
    os.truncate(path, size - 100)
    with pytest.raises(
        OSError, match=rf"file\.h5: .*a damaged or truncated HDF5 file of {size - 100} bytes, .*has {size} bytes"
    ):
        xr.open_dataset(path, engine="pytables")


def test_hdf5_file_that_pytables_did_not_write_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["a"] = np.arange(4)
    with xr.open_dataset(tmp_path / "h.h5", engine="pytables") as ds:
        assert ds["a"].values.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("group", ["missing", "/g/missing", "g/a/b", "missing/deeper"])
def test_missing_group_names_file_and_node_and_what_there_is(opener: object, group: str, path: Path) -> None:
    with pytest.raises(OSError, match=rf"{path}: there is no '/.*(missing|b)'") as caught:
        opener(path, engine="pytables", group=group)
    hint = {"missing": "'/' has 'b', 'g'", "/g/missing": "'/g' has 'a'", "g/a/b": "'/g/a' is an array, not a group"}
    assert hint.get(group, "'/' has 'b', 'g'") in str(caught.value)


def test_missing_group_among_many_lists_only_some(tmp_path: Path) -> None:
    with plain_file(tmp_path / "f.h5", "w") as file:
        for number in range(30):
            file.create_group("/", f"g{number:02}")
    with pytest.raises(OSError, match=r"'/' has 'g00', .*'g07', \.\.\.$"):
        xr.open_dataset(tmp_path / "f.h5", engine="pytables", group="g99")
    with pytest.raises(OSError, match="'/g00' is empty"):
        xr.open_dataset(tmp_path / "f.h5", engine="pytables", group="g00/x")


@pytest.mark.parametrize("group", [5, b"/g", ["/g"], ("g",), Path("/g")])
def test_group_that_is_no_text(group: object, path: Path) -> None:
    with pytest.raises(ValueError, match=r"group must be a string or None, not (int|bytes|list|tuple|PosixPath)"):
        xr.open_dataset(path, engine="pytables", group=group)


@pytest.mark.parametrize("group", [None, "/", ""])
def test_root_has_several_names(group: str | None, path: Path) -> None:
    with xr.open_dataset(path, engine="pytables", group=group) as ds:
        assert list(ds.variables) == ["b"]


@pytest.mark.parametrize("group", ["g", "/g", "g/", "/g/", "//g", "./g"])
def test_group_may_be_written_with_or_without_slashes(group: str, path: Path) -> None:
    with xr.open_dataset(path, engine="pytables", group=group) as ds:
        assert list(ds.variables) == ["a"]


@pytest.mark.parametrize("thing", [None, 5, 3.5, object()])
def test_what_is_no_path(thing: object) -> None:
    with pytest.raises(TypeError, match="path"):
        xr.open_dataset(thing, engine="pytables")


def test_path_with_a_tilde_is_expanded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(path.parent))
    with xr.open_dataset("~/file.h5", engine="pytables") as ds:
        assert ds.encoding["source"] == str(path)


def test_path_without_text_form(tmp_path: Path, path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff.h5"
    os.rename(path, odd)
    with xr.open_dataset(os.fsdecode(odd), engine="pytables") as ds:
        assert ds["b"].values.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        ({"phony_dims": "any"}, ValueError, "phony_dims must be 'size', 'leaf', 'sort' or 'access', not 'any'"),
        ({"external_links": "all"}, ValueError, "external_links must be 'near', 'any' or 'never', not 'all'"),
        ({"external_links": True}, ValueError, "external_links must be"),
        ({"dims": {"x", "y"}}, TypeError, "dims must map names of arrays .* not set"),
        ({"dims": ["x", "y"]}, ValueError, r"dims=\('x', 'y'\) is for one array of 2 dimensions; there are: none"),
        ({"dims": {"nothing": ("x",)}}, ValueError, r"dims names 'nothing', but there is no such array; .*'b'"),
        ({"dims": {"b": ("x", "y")}}, ValueError, r"'/b' has shape \(2,\), so dims\['b'\] needs 1 .*\('x', 'y'\)"),
        ({"dims": {"b": ""}}, ValueError, r"dims\['b'\] must be a name or a sequence of names, not \(''"),
        ({"dims": {"b": (5,)}}, ValueError, r"dims\['b'\] must be a name or a sequence of names"),
        ({"nonsense": 1}, TypeError, "nonsense"),
    ],
)
def test_arguments_that_do_not_fit(
    argument: dict[str, object], error: type[Exception], message: str, path: Path
) -> None:
    with pytest.raises(error, match=message):
        xr.open_dataset(path, engine="pytables", **argument)


def test_dims_with_different_sizes_name_the_arrays(tmp_path: Path) -> None:
    with plain_file(tmp_path / "f.h5", "w") as file:
        file.create_array("/", "a", [1, 2])
        file.create_array("/", "b", [1, 2, 3])
    with pytest.raises(ValueError, match=r"f\.h5.*dimension 'x' different sizes: 2 in /a; 3 in /b"):
        xr.open_dataset(tmp_path / "f.h5", engine="pytables", dims={"a": ("x",), "b": ("x",)})


def test_dims_that_repeat_a_name(path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs 2 different names; it has \('x', 'x'\)"):
        xr.open_dataset(path, engine="pytables", group="g", dims={"a": ("x", "x")})


def test_leaf_that_cannot_be_shown_is_an_error_if_asked_for(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["null"] = h5py.Empty("f4")
        file["type"] = np.dtype("f8")
    with pytest.raises(ValueError, match=r"h\.h5: '/null' cannot be opened: it has a null dataspace"):
        xr.open_dataset(tmp_path / "h.h5", engine="pytables", group="null")
    with pytest.raises(ValueError, match=r"h\.h5: '/type' is a committed datatype, not a group or an array"):
        xr.open_dataset(tmp_path / "h.h5", engine="pytables", group="type")


def test_chunk_that_cannot_be_decoded_names_file_and_node(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with plain_file(path, "w") as file:
        leaf = file.create_carray("/", "a", obj=np.arange(1000), filters=tables.Filters(fletcher32=True))
        address = leaf.chunk_info((0,)).offset
    data = bytearray(path.read_bytes())
    data[address + 5] ^= 1
    path.write_bytes(data)
    with xr.open_dataset(path, engine="pytables") as ds, pytest.raises(OSError, match=r"f\.h5:/a"):
        ds["a"].load()


def test_file_open_for_writing_elsewhere_is_busy(path: Path) -> None:
    code = "import sys, tables; f = tables.open_file(sys.argv[1], 'a'); print(flush=True); sys.stdin.read(); f.close()"
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        writer.stdout.readline()
        try:
            with pytest.raises(BlockingIOError, match=rf"{path}: .*another process .*writing"):
                xr.open_dataset(path, engine="pytables")
        finally:
            writer.communicate("")
    with xr.open_dataset(path, engine="pytables") as ds:
        assert ds["b"].values.tolist() == [1, 2]


# -- guessing ----------------------------------------------------------------------------------------------


def test_guess_can_open_knows_files_of_pytables_by_their_bytes(path: Path, tmp_path: Path) -> None:
    guess = PyTablesBackendEntrypoint().guess_can_open
    renamed = tmp_path / "no_suffix"
    renamed.write_bytes(path.read_bytes())
    assert guess(path)
    assert guess(str(renamed))
    with plain_file(tmp_path / "block.h5", "w", user_block_size=512) as file:
        file.create_array("/", "a", [1])
    assert guess(tmp_path / "block.h5")
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["a"] = [1]
    (tmp_path / "text.h5").write_text("PYTABLES_FORMAT_VERSION")
    for other in ("h.h5", "text.h5", "missing.h5", "."):
        assert not guess(tmp_path / other)
    for thing in (path.read_bytes(), io.BytesIO(path.read_bytes()), 5, None, "https://example.org/a.h5"):
        assert not guess(thing)


def test_engine_is_guessed_for_files_of_pytables(path: Path, tmp_path: Path) -> None:
    os.rename(path, tmp_path / "data.pytables")
    with xr.open_dataset(tmp_path / "data.pytables") as ds:
        assert ds["b"].values.tolist() == [1, 2]


def descriptors_of(path):
    """How many this process has open, where the system tells; others come and go with the garbage collector."""
    found = Path("/proc/self/fd")
    return sum(os.path.realpath(each) == os.path.realpath(path) for each in found.iterdir()) if found.exists() else 0


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("name", ["fstat", "preadv", "stat", "pread"])
def test_what_the_system_cannot_read_is_said_of_the_file(tmp_path, monkeypatch, name, number):
    """A disk that fails, a file of NFS that was removed on the server."""
    path = tmp_path / "a.h5"
    to_pytables(xr.Dataset({"v": ("t", np.arange(5000.0))}), path)
    dataset = xr.open_dataset(path, engine="pytables", cache=False)
    original = getattr(os, name)

    def failing(what, *arguments, **options):
        if isinstance(what, int):  # a descriptor
            raise OSError(number, os.strerror(number))
        return original(what, *arguments, **options)

    monkeypatch.setattr("xr_pytables.sources.local.pread" if name == "pread" else f"os.{name}", failing)
    before = descriptors_of(path)
    tried = [dataset["v"].load] if name != "pread" else []
    tried += [lambda: xr.open_dataset(path, engine="pytables")] if name != "preadv" else []
    for read in tried:
        with pytest.raises(OSError, match=re.escape(str(path))) as raised:
            read()
        assert raised.value.errno == number
    monkeypatch.undo()
    assert descriptors_of(path) == before
    assert dataset["v"].values.sum() == np.arange(5000.0).sum()
