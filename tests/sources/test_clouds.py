"""Google Cloud Storage and Azure by URL, at a server on this machine that answers as theirs do for reading.

By obstore in all runs; by gcsfs and adlfs where they are installed.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xr_pytables import FileChangedError, RemoteError, to_pytables
from xr_pytables.sources import obstore_objects, obstore_urls
from xr_pytables.sources.filesystems import AnyClient, UrlTarget
from xr_pytables.sources.obstore_objects import StoreClient
from xr_pytables.sources.obstore_urls import store_of
from xr_pytables.sources.remote import RemotePlace, Transfer

from ..helpers_reading import open_quietly
from ..helpers_server import Handler, Server, running, status

DATA = np.random.default_rng(0).bytes(3_000_000)
FIELD = np.random.default_rng(1).random((500, 600))
QUICK = Transfer(pause=0.0, tries=2)
SECRET = base64.b64encode(b"geheim").decode()
Cloud = tuple[str, dict[str, object]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    to_pytables(xr.Dataset({"v": (("y", "x"), FIELD)}), tmp_path / "a.h5")
    file = (tmp_path / "a.h5").read_bytes()
    with running() as server:
        for root in ("bucket", "account/container", "download/storage/v1/b/bucket/o"):
            server.objects |= {f"{root}/a b.bin": DATA, f"{root}/a.h5": file}
        yield server


@pytest.fixture(params=["gs", "az"])
def cloud(request: pytest.FixtureRequest, server: Server) -> Cloud:
    """The URL of a bucket, and the options with which it is found on this machine."""
    if request.param == "gs":
        return "gs://bucket", {"token": "anon", "endpoint_url": server.url("").rstrip("/")}
    return "az://container", {"connection_string": connection(server)}


def connection(server: Server) -> str:
    endpoint = server.url("account")
    return f"DefaultEndpointsProtocol=http;AccountName=account;AccountKey={SECRET};BlobEndpoint={endpoint};"


def replace(server: Server) -> None:
    for name in server.objects:
        if name.endswith("a b.bin"):
            server.objects[name] = DATA[::-1]
    server.modified += 1


# -- by obstore ---------------------------------------------------------------------------------------------


def test_any_range_by_one_request_with_a_condition(cloud: Cloud, server: Server) -> None:
    bucket, options = cloud
    source = RemotePlace.of(UrlTarget(f"{bucket}/a b.bin", options), QUICK).open(None).source
    assert source.size == len(DATA)
    assert source.read(1_500_000, 1_400_000) == DATA[1_500_000:2_900_000]
    assert [{name.lower(): text for name, text in one.items()}.get("if-match") for one in server.headers] == [
        None,
        server.tag(DATA),
    ]
    replace(server)
    with pytest.raises(FileChangedError, match=r"a b\.bin: bytes .* was replaced since it was opened"):
        source.ask(2_000_000, 10)


def test_datasets_open(cloud: Cloud) -> None:
    bucket, options = cloud
    with open_quietly(f"{bucket}/a.h5", storage_options=options, chunks={}) as ds:
        assert np.array_equal(ds["v"], FIELD)
        assert ds.encoding["source"] == f"{bucket}/a.h5"


@pytest.mark.parametrize(
    ("fault", "error"),
    [(503, RemoteError), (400, RemoteError), (403, PermissionError), (401, PermissionError), (404, FileChangedError)],
)
def test_what_goes_wrong_is_told_without_secrets(cloud: Cloud, server: Server, fault: int, error: type) -> None:
    bucket, options = cloud
    place = RemotePlace.of(UrlTarget(f"{bucket}/a b.bin", options), QUICK)
    source = place.open(None).source
    server.always = status(fault)
    with pytest.raises(error, match=r"a b\.bin: bytes 2000000 to 2000009: ") as caught:
        source.ask(2_000_000, 10)
    for secret in ("geheim", SECRET):
        assert secret not in f"{caught.value!r} {source!r} {place!r} {place.open.__self__.target!r}"
    server.always = None
    server.has_ranges = False
    with pytest.raises(RemoteError, match="range"):
        source.ask(2_000_000, 10)


@pytest.mark.parametrize(
    ("url", "options", "bucket", "path", "config"),
    [
        ("gs://b/x/a.h5", {"token": "anon", "project": "p"}, "b", "x/a.h5", {"skip_signature": True}),
        (
            "gcs://b/a.h5",
            {"token": {"type": "service_account", "a": 1}},
            "b",
            "a.h5",
            {"service_account_key": '{"type": "service_account", "a": 1}'},
        ),
        ("gs://b/a.h5", {"token": __file__}, "b", "a.h5", {"application_credentials": __file__}),
        (
            "abfs://c@acc.dfs.core.windows.net/x/a.h5",
            {"account_key": SECRET},
            "c",
            "x/a.h5",
            {"account_name": "acc", "account_key": SECRET},
        ),
        (
            "az://c/a.h5",
            {"account_name": "acc", "sas_token": "?sv=1"},
            "c",
            "a.h5",
            {"account_name": "acc", "sas_key": "sv=1"},
        ),
        (
            "abfss://c/a.h5",
            {"account_name": "acc", "anon": True},
            "c",
            "a.h5",
            {"account_name": "acc", "skip_signature": True},
        ),
        (
            "az://c/a.h5",
            {"connection_string": "AccountName=acc;SharedAccessSignature=sv=1&sig=x==;EndpointSuffix=core.windows.net"},
            "c",
            "a.h5",
            {"account_name": "acc", "sas_key": "sv=1&sig=x=="},
        ),
    ],
)
def test_options_that_say_how_to_sign_are_those_of_obstore(
    url: str, options: dict, bucket: str, path: str, config: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(obstore_urls, "_store", lambda *args: asked.append(args))
    assert store_of(url, options) == (None, path)
    assert asked == [(url.startswith("g"), bucket, tuple(sorted(config.items())))]


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("gs://b/a.h5", {}),
        ("az://c/a.h5", {"account_name": "acc"}),
    ],
)
def test_without_credentials_it_is_taken_where_nothing_else_is_installed(
    url: str, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obstore_urls, "_store", lambda *args: args)
    for missing in (True, False):
        monkeypatch.setattr(obstore_urls, "_is_unknown", lambda _, missing=missing: missing)
        assert (store_of(url, options) is not None) == missing


def test_what_fsspec_knows_is_not_unknown() -> None:
    assert not obstore_urls._is_unknown("memory")
    assert obstore_urls._is_unknown("dropbox")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("gs://b/a.h5", {"token": "anon", "requester_pays": True}),
        ("gs://b/a.h5", {"token": "browser"}),
        ("gs://b/a.h5#17", {"token": "anon"}),
        ("gs://b/a//b.h5", {"token": "anon"}),
        ("gs://b/../b.h5", {"token": "anon"}),
        ("simplecache::gs://b/a.h5", {"token": "anon"}),
        ("az://c/a.h5", {"account_name": "acc", "credential": object()}),
        ("az://c/a.h5", {"account_key": SECRET}),
        ("az://c/a.h5", {"connection_string": "AccountName=acc;AccountKey=x;EndpointSuffix=core.chinacloudapi.cn"}),
        ("s3://b/a.h5", {"anon": True}),
        ("https://host/a.h5", {}),
        ("memory://a.h5", {}),
    ],
)
def test_all_else_is_left_to_fsspec(url: str, options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    assert store_of(url, options) is None


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("az://c/a.h5", {"account_name": "acc", "account_key": "ge heim!"}, "Invalid Access Key"),
        ("az://c/a.h5", {"account_name": "acc", "sas_token": "geheim&&="}, "Missing component in SAS"),
        ("gs://b/a.h5", {"token": {"type": "service_account", "private_key": "geheim"}}, "GCP credential error"),
    ],
)
def test_options_that_make_no_store_are_told_without_secrets(url: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{url}: storage_options make no store: .*{message}") as caught:
        xr.open_dataset(url, engine="pytables", storage_options=options)
    assert "heim" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
def test_a_fork_is_told_that_obstore_does_not_work_there(
    cloud: Cloud, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, options = cloud
    source = RemotePlace.of(UrlTarget(f"{bucket}/a b.bin", options), QUICK).open(None).source
    monkeypatch.setattr(obstore_objects, "_state", dict(obstore_objects._state))
    obstore_objects._after_fork()  # as the child does: a real one could hang here if this did not work
    with pytest.raises(RemoteError, match="obstore does not work in a process that was forked off"):
        source.ask(2_000_000, 10)


# -- by fsspec's file systems -------------------------------------------------------------------------------


def test_gcsfs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it would ask by gRPC which kind a bucket is
    pytest.importorskip("gcsfs", reason="gcsfs is not installed")

    def tell(handler: Handler) -> bool:
        """What Google's JSON API says of an object."""
        if not handler.name.startswith("storage/v1/b/bucket/o/"):
            return False
        data = server.objects[f"bucket/{handler.name.rpartition('/o/')[2]}"]
        when = datetime.datetime.fromtimestamp(server.modified, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        told = {
            "kind": "storage#object",
            "name": "a b.bin",
            "bucket": "bucket",
            "size": str(len(data)),
            "updated": when,
        }
        body = json.dumps(told).encode()
        handler.send(200, body, len(body), {"Content-Type": "application/json"}, True)
        return True

    server.always = tell
    options = {"token": "anon", "endpoint_url": server.url("").rstrip("/"), "access": "read_only"}
    _reads_and_notices("gs://bucket/a b.bin", options, server)


def test_adlfs(server: Server) -> None:
    pytest.importorskip("adlfs", reason="adlfs is not installed")
    options = {"connection_string": connection(server), "blocksize": 1 << 20}
    _reads_and_notices("az://container/a b.bin", options, server)


def _reads_and_notices(url: str, options: dict[str, object], server: Server) -> None:
    source = RemotePlace.of(UrlTarget(url, options), QUICK).open(None).source
    assert isinstance(source._asking._client, AnyClient)
    assert source.read(1_500_000, 1_400_000) == DATA[1_500_000:2_900_000]
    replace(server)
    with pytest.raises(FileChangedError, match="was replaced since it was opened"):
        source.ask(2_000_000, 10)


def test_the_client_is_that_of_obstore(cloud: Cloud) -> None:
    bucket, options = cloud
    assert isinstance(UrlTarget(f"{bucket}/a.h5", options).client(), StoreClient)
