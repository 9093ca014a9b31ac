"""Writing to object stores: the whole file or nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import dask.array
import fsspec
import numpy as np
import pytest
import xarray as xr
from fsspec.implementations.memory import MemoryFileSystem
from moto.server import ThreadedMotoServer

from xr_pytables import begin_write, save_mfdataset, to_pytables

FIELD = np.random.default_rng(0).random((50, 60))
DATASET = xr.Dataset({"v": (("y", "x"), FIELD)})


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders are made; nothing is left there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    memory = fsspec.filesystem("memory")
    memory.makedirs("/upload", exist_ok=True)
    yield memory
    memory.rm("/upload", recursive=True)


@pytest.mark.usefixtures("memory")
def test_a_dataset_comes_back_from_a_store() -> None:
    encoding = {"v": {"complib": "zlib", "chunksizes": (10, 20)}}
    to_pytables(DATASET.chunk(y=10), "memory://upload/a.h5", group="/g", encoding=encoding)
    with xr.open_dataset("memory://upload/a.h5", engine="pytables", group="/g") as ds:
        xr.testing.assert_identical(ds.load(), DATASET)
        assert ds["v"].encoding["chunksizes"] == (10, 20)


def test_w_replaces_and_w_minus_refuses(memory: MemoryFileSystem) -> None:
    to_pytables(DATASET, "memory://upload/a.h5", mode="w-")
    for mode in ("w-", "x"):
        with pytest.raises(FileExistsError, match=r"memory://upload/a\.h5: the object already exists"):
            to_pytables(DATASET * 0, "memory://upload/a.h5", mode=mode)
    with xr.open_dataset("memory://upload/a.h5", engine="pytables") as ds:
        assert np.array_equal(ds["v"], FIELD)
    to_pytables(DATASET + 1, "memory://upload/a.h5")
    with xr.open_dataset("memory://upload/a.h5", engine="pytables") as ds:
        assert np.array_equal(ds["v"], FIELD + 1)


def test_an_object_that_comes_meanwhile_is_not_replaced(memory: MemoryFileSystem) -> None:
    def block(values: np.ndarray) -> np.ndarray:
        memory.pipe_file("/upload/a.h5", b"of somebody else")
        return values

    data = xr.Dataset({"v": (("y", "x"), DATASET.chunk(y=50)["v"].data.map_blocks(block, meta=FIELD[:0, :0]))})
    with pytest.raises(FileExistsError, match="the object already exists"):
        to_pytables(data, "memory://upload/a.h5", mode="w-")
    assert memory.cat_file("/upload/a.h5") == b"of somebody else"


@pytest.mark.parametrize("error", [OSError, RuntimeError])
def test_a_failed_write_or_upload_leaves_the_old_object(
    error: type[Exception], memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe_file("/upload/a.h5", b"old")
    with pytest.raises(ValueError, match="have no form in HDF5"):
        to_pytables(xr.Dataset({"v": ("x", np.array([object()], object))}), "memory://upload/a.h5")

    def put_file(self: object, *args: object, **kwargs: object) -> None:
        raise error("the line is down")

    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
    with pytest.raises(OSError, match=r"a\.h5: the file was written, and cannot be uploaded: the line is down"):
        to_pytables(DATASET, "memory://upload/a.h5")
    assert memory.cat_file("/upload/a.h5") == b"old"


def test_a_store_that_cannot_refuse_says_so(memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    def put_file(self: object, *args: object, **kwargs: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
    with pytest.raises(ValueError, match="this store cannot refuse an object that is there: mode='x'"):
        to_pytables(DATASET, "memory://upload/a.h5", mode="x")


@pytest.mark.parametrize(
    ("url", "arguments", "message"),
    [
        ("memory://upload/a.h5", {"mode": "a"}, r"is written whole, and cannot be changed \(mode='a'\)"),
        ("memory://upload/a.h5", {"append_dim": "y"}, "cannot be changed"),
        ("memory://upload/a.h5", {"region": {"y": slice(3)}}, "cannot be changed"),
        ("memory://upload/a.h5", {"compute": False}, "compute=False writes files on this machine alone"),
        ("http://me:geheim@127.0.0.1:1/a.h5", {}, r"http://127\.0\.0\.1:1/a\.h5: whoever reads there could find half"),
        ("nowhere://a.h5", {}, "Protocol not known"),
        ("local.h5", {"storage_options": {"anon": True}}, "storage_options has no effect on a path on this machine"),
    ],
)
def test_what_cannot_be_done_in_a_store_is_refused(url: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_pytables(DATASET, url, **arguments)


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "s3://bucket/folder/", "memory://upload/", "memory://"])
def test_a_url_without_a_name_is_refused_before_anything_is_computed(url: str) -> None:
    def block(values: np.ndarray) -> np.ndarray:
        raise AssertionError("computed")

    field = dask.array.from_array(FIELD).map_blocks(block, dtype=float, meta=np.empty((0, 0)))
    with pytest.raises(ValueError, match=rf"^{url}: this names no object but a folder"):
        to_pytables(xr.Dataset({"v": (("y", "x"), field)}), url)


def test_many_files_and_shared_writes_are_local(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^memory://upload/a\.h5: save_mfdataset writes local files; to_pytables writes"
    ):
        save_mfdataset([DATASET], ["memory://upload/a.h5"])
    with pytest.raises(ValueError, match=r"^memory://upload/a\.h5: begin_write writes local files; to_pytables writes"):
        begin_write(DATASET, "memory://upload/a.h5")
    save_mfdataset([DATASET], [(tmp_path / "a.h5").as_uri()])
    shared = begin_write(DATASET.chunk(y=50), (tmp_path / "b.h5").as_uri())
    shared.write(DATASET, {"y": slice(0, 50)})
    shared.commit()
    for name in ("a.h5", "b.h5"):
        with xr.open_dataset(tmp_path / name, engine="pytables") as ds:
            assert np.array_equal(ds["v"], FIELD)


def test_names_longer_than_those_of_files(memory: MemoryFileSystem) -> None:
    url = f"memory://upload/{'n' * 300}.h5"
    to_pytables(DATASET, url)
    with xr.open_dataset(url, engine="pytables") as ds:
        assert np.array_equal(ds["v"], FIELD)


def test_a_write_that_fails_names_the_object(memory: MemoryFileSystem) -> None:
    with pytest.raises(ValueError, match="no form in HDF5") as caught:
        to_pytables(xr.Dataset({"a": ("x", [object()])}), "memory://upload/a.h5")
    assert caught.value.__notes__[0].endswith("file.h5 was to become memory://upload/a.h5, which is as before")
    assert not memory.exists("/upload/a.h5")
    with pytest.raises(TypeError, match=r"^reference://a: .*'fo'"):
        to_pytables(DATASET, "reference://a")


def test_file_urls_are_paths(tmp_path: Path) -> None:
    to_pytables(DATASET, (tmp_path / "a b.h5").as_uri())
    with xr.open_dataset(tmp_path / "a b.h5", engine="pytables") as ds:
        assert np.array_equal(ds["v"], FIELD)


@pytest.mark.parametrize("name", ["a#1.h5", "a?1.h5"])
def test_file_urls_have_no_query_and_no_fragment(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"precious")
    to_pytables(DATASET, f"file://{tmp_path}/{name}")
    assert (tmp_path / "a").read_bytes() == b"precious"
    with xr.open_dataset(f"file://localhost{tmp_path}/{name}", engine="pytables") as ds:
        assert np.array_equal(ds["v"], FIELD)
        assert ds.encoding["source"] == str(tmp_path / name)


def test_file_urls_of_other_machines_are_refused(tmp_path: Path) -> None:
    for url in ("file://a.h5", f"file://host{tmp_path}/a.h5"):
        for use in (lambda url: to_pytables(DATASET, url), lambda url: xr.open_dataset(url, engine="pytables")):
            with pytest.raises(ValueError, match=f"{url}: a file on this machine is file:///path"):
                use(url)
    assert not (tmp_path / "a.h5").exists()


def test_s3_gets_the_whole_file_or_nothing() -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {"key": "someone", "secret": "geheim", "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
        fsspec.filesystem("s3", **options).mkdir("upload")
        to_pytables(DATASET, "s3://upload/a.h5", storage_options=options)
        with xr.open_dataset("s3://upload/a.h5", engine="pytables", storage_options=options) as ds:
            assert np.array_equal(ds["v"], FIELD)
        with pytest.raises(FileExistsError, match=r"s3://upload/a\.h5: the object already exists"):
            to_pytables(DATASET, "s3://upload/a.h5", mode="w-", storage_options=options)
        with pytest.raises(
            OSError, match=r"s3://nobucket/a\.h5: the file was written, and cannot be uploaded"
        ) as caught:
            to_pytables(DATASET, "s3://nobucket/a.h5", storage_options=options)
        assert "geheim" not in str(caught.value)
    finally:
        server.stop()
