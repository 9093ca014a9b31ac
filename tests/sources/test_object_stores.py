"""Object stores by their own protocols: S3 by s3fs, any file system of fsspec, any store of obstore."""

from __future__ import annotations

import datetime
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import obstore
import obstore.store
import pytest
import xarray as xr
from fsspec.implementations.memory import MemoryFileSystem
from moto.server import ThreadedMotoServer

from xr_pytables import FileChangedError, RemoteError, to_pytables, tree
from xr_pytables.sources.filesystems import AnyClient, FilesystemTarget, UrlTarget, client_of
from xr_pytables.sources.http import HTTPClient
from xr_pytables.sources.obstore_objects import StoreTarget
from xr_pytables.sources.remote import RemotePlace, Transfer
from xr_pytables.sources.s3 import S3Client

from ..helpers_server import running

DATA = np.random.default_rng(0).bytes(3_000_000)
FIELD = np.random.default_rng(1).random((500, 600))
QUICK = Transfer(pause=0.0, tries=2)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server that speaks S3's protocol."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def options(endpoint: str) -> dict[str, object]:
    return {
        "key": "someone",
        "secret": "geheim",
        "client_kwargs": {"endpoint_url": endpoint},
    }


@pytest.fixture
def bucket(options: dict[str, object]) -> Iterator[fsspec.AbstractFileSystem]:
    """A file system with an empty bucket of that name."""
    s3 = fsspec.filesystem("s3", **options)
    s3.mkdir("bucket")
    yield s3
    s3.rm("bucket", recursive=True)


def opened(options: dict[str, object], url: str = "s3://bucket/a.bin"):
    return RemotePlace.of(UrlTarget(url, options), QUICK).open(None)


# -- S3 -----------------------------------------------------------------------------------------------------


def test_s3_gives_any_range(bucket, options):
    bucket.pipe_file("bucket/a.bin", DATA)
    source = opened(options).source
    assert source.size == len(DATA)
    assert source.read(0, 100) == DATA[:100]
    assert source.read(1_500_000, 1_400_000) == DATA[1_500_000:2_900_000]
    assert dict(source.arriving([(2_000_000, 300_000)])) == {0: DATA[2_000_000:2_300_000]}
    assert source.version.tag == bucket.info("bucket/a.bin")["ETag"]


def test_a_small_object_comes_with_the_head(bucket, options):
    bucket.pipe_file("bucket/a.bin", DATA[:1000])
    source = opened(options).source
    assert source.size == 1000
    assert source.read(0, 1000) == DATA[:1000]


def test_s3_notices_a_replaced_object(bucket, options):
    bucket.pipe_file("bucket/a.bin", DATA)
    source = opened(options).source
    bucket.pipe_file("bucket/a.bin", DATA[::-1])
    with pytest.raises(FileChangedError, match=r"s3://bucket/a\.bin: bytes .* was replaced since it was opened .*412"):
        source.read(2_000_000, 10)
    bucket.rm("bucket/a.bin")
    with pytest.raises(FileChangedError, match="removed since it was opened"):
        source.read(2_900_000, 10)


def test_a_version_that_was_asked_for_stays(bucket, options):
    bucket.call_s3("put_bucket_versioning", Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
    aware = {**options, "version_aware": True}
    bucket.pipe_file("bucket/a.bin", DATA)
    number = fsspec.filesystem("s3", **aware).info("bucket/a.bin")["VersionId"]
    source = opened(aware, f"s3://bucket/a.bin?versionId={number}").source
    bucket.pipe_file("bucket/a.bin", DATA[::-1])
    assert source.read(2_000_000, 10) == DATA[2_000_000:2_000_010]
    listed = bucket.call_s3("list_object_versions", Bucket="bucket")["Versions"]
    for one in listed:
        bucket.call_s3("delete_object", Bucket="bucket", Key=one["Key"], VersionId=one["VersionId"])


def test_what_is_not_there(bucket, options):
    with pytest.raises(FileNotFoundError, match=r"s3://bucket/a\.bin: there is no such object"):
        opened(options)


def test_no_credentials_are_shown(bucket, options):
    bucket.pipe_file("bucket/a.bin", DATA)
    found = opened(options)
    told = f"{found.source!r} {found.version()} {RemotePlace.of(UrlTarget('s3://bucket/a.bin', options), QUICK)!r}"
    assert "geheim" not in told
    assert "someone" not in told


@pytest.mark.parametrize(("chain", "error"), [("", RemoteError), ("blockcache::", ValueError)])
def test_no_credentials_in_a_url_are_shown(options, chain: str, error: type[Exception]):
    with pytest.raises(error) as caught:
        opened({"s3": options} if chain else options, f"{chain}s3://someone:geheim@bucket/a.bin")
    assert "bucket" in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_nobody_there(options):
    nowhere = {
        **options,
        "client_kwargs": {"endpoint_url": "http://127.0.0.1:1"},
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    with pytest.raises(RemoteError, match=r"s3://bucket/a\.bin: bytes 0 to 1048575: .*tried 1 times") as caught:
        RemotePlace.of(UrlTarget("s3://bucket/a.bin", nowhere), Transfer(tries=1)).open(None)
    assert "geheim" not in str(caught.value)


def test_datasets_open_from_s3(bucket, options, tmp_path: Path):
    to_pytables(xr.Dataset({"v": (("y", "x"), FIELD)}), tmp_path / "a.h5")
    bucket.put_file(str(tmp_path / "a.h5"), "bucket/a.h5")
    with xr.open_dataset("s3://bucket/a.h5", engine="pytables", storage_options=options, chunks={}) as ds:
        assert np.array_equal(ds["v"], FIELD)
    assert [array.name for array in tree("s3://bucket/a.h5", storage_options=options).groups[0].arrays] == ["v"]
    with fsspec.open("s3://bucket/a.h5", **options) as file, xr.open_dataset(file, engine="pytables") as ds:
        assert np.array_equal(ds["v"], FIELD)


def test_obstore_reads_s3_too(bucket, endpoint):
    bucket.pipe_file("bucket/a.bin", DATA)
    store = obstore.store.S3Store(
        "bucket", endpoint=endpoint, access_key_id="someone", secret_access_key="geheim", region="us-east-1",
        client_options={"allow_http": True},
    )  # fmt: skip
    source = RemotePlace.of(StoreTarget(store, "a.bin"), QUICK).open(None).source
    assert source.read(1_500_000, 1_400_000) == DATA[1_500_000:2_900_000]
    bucket.pipe_file("bucket/a.bin", DATA[::-1])
    with pytest.raises(FileChangedError, match=r"S3Store:a\.bin: bytes .* was replaced"):
        source.read(1_200_000, 10)


# -- obstore ------------------------------------------------------------------------------------------------


def test_a_store_of_obstore():
    store = obstore.store.MemoryStore()
    obstore.put(store, "in/a.bin", DATA)
    source = RemotePlace.of(StoreTarget(store, "in/a.bin"), QUICK).open(None).source
    assert source.read(2_999_990, 10) == DATA[-10:]
    obstore.put(store, "in/a.bin", DATA[::-1])
    with pytest.raises(FileChangedError, match="was replaced since it was opened"):
        source.read(1_200_000, 10)
    obstore.delete(store, "in/a.bin")
    with pytest.raises(FileNotFoundError, match=r"MemoryStore:in/a\.bin: there is no such object"):
        RemotePlace.of(StoreTarget(store, "in/a.bin"), QUICK).open(None)
    with pytest.raises(FileNotFoundError, match="below its own folder"):
        StoreTarget(store, "in/a.bin").beside("../b.bin")
    assert StoreTarget(store, "in/a.bin").beside("b.bin").path == "in/b.bin"


# -- any file system ----------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/stores/a.bin", DATA)
    yield memory
    memory.rm("/stores", recursive=True)


def test_any_file_system_gives_any_range(memory):
    source = opened({}, "memory://stores/a.bin").source
    assert source.read(1_500_000, 1_400_000) == DATA[1_500_000:2_900_000]


def test_any_file_system_notices_a_replaced_file(memory):
    source = opened({}, "memory://stores/a.bin").source
    memory.pipe_file("/stores/a.bin", DATA[::-1])
    memory.store["/stores/a.bin"].created += datetime.timedelta(seconds=1)  # however coarse the clock is
    with pytest.raises(FileChangedError, match="was replaced since it was opened"):
        source.read(2_000_000, 10)


def test_a_file_system_that_breaks(memory, monkeypatch):
    source = opened({}, "memory://stores/a.bin").source

    def cat_file(self, path, start=None, end=None):
        raise KeyError("broken")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    with pytest.raises(RemoteError, match="KeyError: 'broken'; tried 2 times"):
        source.read(2_000_000, 10)


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("zip://a.h5::memory://stores/a.bin", RemoteError, "not a zip file"),
        ("tar://a.h5::memory://stores/a.bin", RemoteError, ""),
        ("reference://a.h5", TypeError, "'fo'"),
    ],
)
def test_file_systems_that_cannot_be_made_are_named(memory, url, error, message):
    with pytest.raises(error, match=f"^{url}: .*{message}"):
        xr.open_dataset(url, engine="pytables")


@pytest.mark.parametrize("around", ["local", "memory", "http"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_is_replaced_is_noticed(memory, kind: str, around: str, tmp_path: Path):
    archives = []
    for data in (DATA, DATA[::-1]):
        (tmp_path / "a.bin").write_bytes(data)
        shutil.make_archive(str(tmp_path / "made"), kind, tmp_path, "a.bin")
        archives.append((tmp_path / f"made.{kind}").read_bytes())
    with running(objects={"x": archives[0]}) as server:
        where = {"local": f"file://{tmp_path}/x", "memory": "memory://stores/x", "http": server.url("x")}[around]
        fsspec.filesystem("memory").pipe_file("/stores/x", archives[0])
        (tmp_path / "x").write_bytes(archives[0])
        source = opened({}, f"{kind}://a.bin::{where}").source
        assert source.read(1_500_000, 1_400_000) == DATA[1_500_000:2_900_000]
        server.objects["x"] = archives[1]
        (tmp_path / "x").write_bytes(archives[1])
        memory.pipe_file("/stores/x", archives[1])
        memory.store["/stores/x"].created += datetime.timedelta(seconds=1)  # however coarse the clock is
        os.utime(tmp_path / "x", (1, 1))
        with pytest.raises(FileChangedError, match=r"in an archive of .* bytes"):
            source.read(1_200_000, 10)


@pytest.mark.parametrize("chain", ["blockcache::", "cached::", "filecache::", "zip://a.h5::filecache::"])
def test_caches_that_know_no_versions_are_refused(memory, chain: str):
    with zipfile.ZipFile(memory.open("/stores/a.zip", "wb"), "w") as archive:
        archive.writestr("a.h5", DATA)
    with pytest.raises(ValueError, match=r"stores/a\.zip: \w+:: may mix two versions .* cache_dir= keeps"):
        xr.open_dataset(f"{chain}memory://stores/a.zip", engine="pytables")


def test_a_copy_in_another_process_is_of_the_same_version(memory, tmp_path: Path):
    target = UrlTarget("simplecache::memory://stores/a.bin", {"simplecache": {"cache_storage": str(tmp_path)}})
    place = RemotePlace.of(target, Transfer(pause=0.0, tries=2))
    opened = place.open(None)
    assert opened.source.read(1_200_000, 10) == DATA[1_200_000:1_200_010]
    memory.pipe_file("/stores/a.bin", DATA[::-1])
    memory.store["/stores/a.bin"].created += datetime.timedelta(seconds=1)  # however coarse the clock is
    assert opened.source.read(2_200_000, 10) == DATA[2_200_000:2_200_010]  # the copy stays
    elsewhere = UrlTarget(target.url, {"simplecache": {"cache_storage": str(tmp_path / "another")}})
    with pytest.raises(FileChangedError, match="was replaced since it was opened"):
        RemotePlace.of(elsewhere, place.transfer).open(opened.version()).source.read(2_200_000, 10)


def test_a_folder_of_local_files(tmp_path: Path):
    (tmp_path / "a.bin").write_bytes(DATA)
    source = opened({}, f"dir://a.bin::file://{tmp_path}").source
    assert source.read(1_500_000, 1_400_000) == DATA[1_500_000:2_900_000]


def test_a_folder_is_no_file(memory):
    with pytest.raises(IsADirectoryError, match="memory://stores: this is a folder, not an HDF5 file"):
        opened({}, "memory://stores")


def test_each_file_system_has_its_client(endpoint, options):
    assert isinstance(client_of(*fsspec.core.url_to_fs("http://127.0.0.1:1/a.h5")), HTTPClient)
    assert isinstance(client_of(*fsspec.core.url_to_fs("s3://a/b.h5", **options)), S3Client)
    assert isinstance(client_of(*fsspec.core.url_to_fs("memory://a/b.h5")), AnyClient)
    copies = client_of(*fsspec.core.url_to_fs("simplecache::http://127.0.0.1:1/a.h5"))
    assert isinstance(copies, AnyClient)
    assert copies._copies


def test_targets_of_file_systems_are_named_by_their_urls(memory, options):
    assert FilesystemTarget(memory, "/stores/a.bin").name == "memory:///stores/a.bin"
    assert FilesystemTarget(fsspec.filesystem("http"), "http://me:pw@h/a.h5").name == "http://h/a.h5"
    assert FilesystemTarget(fsspec.filesystem("s3", **options), "a/b.h5").name == "s3://a/b.h5"
    assert FilesystemTarget(memory, "/stores/a.bin").beside("x/b.bin").path == "/stores/x/b.bin"
    for url in ("zip://a.h5::b.zip", "http://h/a.h5?sig=1"):
        with pytest.raises(FileNotFoundError, match="below its own folder"):
            UrlTarget(url).beside("b.h5")
