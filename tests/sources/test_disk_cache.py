"""What is kept on disk of objects behind a network: only if asked for, bounded, of one version, safe from others."""

from __future__ import annotations

import os
import pickle
import stat
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xr_pytables import save_index, to_pytables, tree
from xr_pytables.errors import FileChangedError
from xr_pytables.sources import disk_cache
from xr_pytables.sources.disk_cache import BLOCK, DiskCache, KeptBlocks
from xr_pytables.sources.filesystems import UrlTarget
from xr_pytables.sources.remote import HEAD, PROBE, ObjectVersion, Remote, RemotePlace, Transfer

from ..helpers_reading import open_quietly, run_python
from ..helpers_server import Server, running, status

DATA = np.random.default_rng(0).bytes(5_000_000)
FIELD = np.random.default_rng(1).random((500, 600))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "here"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    to_pytables(xr.Dataset({f"v{i}": (("y", "x"), FIELD + i) for i in range(3)}), tmp_path / "a.h5")
    objects = {"a.h5": (tmp_path / "a.h5").read_bytes(), "a.bin": DATA}
    (tmp_path / "a.h5").unlink()
    with running(objects=objects) as server:
        yield server


def place(server: Server, folder: Path, most: int = 10**9) -> RemotePlace:
    return RemotePlace.of(UrlTarget(server.url("a.bin")), Transfer(pause=0.0, cache=DiskCache(str(folder), most)))


def opened(server: Server, folder: Path, most: int = 10**9) -> Remote:
    source = place(server, folder, most).open(None).source
    server.asked.clear()
    return source


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_second_time_one_small_request_tells_that_nothing_has_changed(server: Server, folder: Path) -> None:
    for number in range(2):
        with open_quietly(server.url(), cache_dir=folder, cache=False) as ds:
            for i in range(3):
                assert np.array_equal(ds[f"v{i}"], FIELD + i)
        if number:
            assert server.asked == [("a.h5", 0, PROBE)]
        server.asked.clear()
    with xr.open_datatree(server.url(), engine="pytables", cache_dir=str(folder)) as dt:
        assert np.array_equal(dt["v1"], FIELD + 1)
    assert server.asked == [("a.h5", 0, PROBE)]


def test_lists_and_saved_indexes_are_made_of_what_is_kept(server: Server, folder: Path, tmp_path: Path) -> None:
    out, plain = tmp_path / "a.json", tmp_path / "plain.json"
    save_index(server.url(), plain)
    expected = repr(tree(server.url()).groups)
    for made in (lambda: tree(server.url(), cache_dir=folder), lambda: save_index(server.url(), out, cache_dir=folder)):
        made()
        assert files(folder)
        server.asked.clear()
        listed = made()
        assert sum(count for _, _, count in server.asked) <= 2 * PROBE
        if listed is not None:
            assert repr(listed.groups) == expected
    assert out.read_bytes() == plain.read_bytes()
    with pytest.raises(ValueError, match="cache_bytes has no effect without cache_dir"):
        tree(server.url(), cache_bytes=100)
    with pytest.raises(ValueError, match="cache_dir must be the path of a folder, not 5"):
        save_index(server.url(), out, cache_dir=5)


def test_nothing_is_kept_on_disk_unless_asked_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    with open_quietly(server.url()) as ds:
        ds.load()
    assert list(tmp_path.iterdir()) == []


def test_any_range_is_that_of_the_object(server: Server, folder: Path) -> None:
    random = np.random.default_rng(2)
    for _ in range(3):
        source = opened(server, folder)
        for count in (1, 10, BLOCK, 70_000, 700_000, 3_000_000):
            offset = int(random.integers(0, len(DATA) - count))
            assert source.read(offset, count) == DATA[offset : offset + count]
            ranges = [(offset, count), (len(DATA) - 7, 7)]
            assert {i: bytes(data) for i, data in source.arriving(ranges)} == {
                0: DATA[offset : offset + count],
                1: DATA[-7:],
            }
    server.always = status(503)
    assert source.read(0, 100) == DATA[:100]


def test_places_that_lie_apart_are_asked_for_together(server: Server, folder: Path) -> None:
    ranges = [(1_500_000 + 700_000 * i, 1000) for i in range(5)]
    for asked in ([HEAD, *[BLOCK] * 5], [PROBE]):
        source = place(server, folder).open(None).source
        assert source.read_many(ranges) == [DATA[offset : offset + count] for offset, count in ranges]
        assert [count for _, _, count in server.asked] == asked
        assert len(server.headers) == min(len(asked), 2)
        server.asked.clear()
        server.headers.clear()


def test_what_is_there_in_part_is_asked_for_in_part(server: Server, folder: Path) -> None:
    opened(server, folder).ask(2_000_000, 100_000)
    source = opened(server, folder)
    assert source.ask(1_900_000, 300_000) == DATA[1_900_000:2_200_000]
    assert len(server.asked) == 2
    assert server.bytes_asked < 300_000
    server.asked.clear()
    assert source.ask(1_900_000, 300_000) == DATA[1_900_000:2_200_000]
    assert server.asked == []


def test_another_version_is_another_object(server: Server, folder: Path) -> None:
    old = opened(server, folder)
    old.ask(2_000_000, 10)
    server.objects["a.bin"] = DATA[::-1]
    new = opened(server, folder)
    assert new.ask(2_000_000, 10) == DATA[::-1][2_000_000:2_000_010]
    assert old.ask(2_000_000, 10) == DATA[2_000_000:2_000_010]  # of the version that was opened, from disk
    with pytest.raises(FileChangedError):
        old.ask(4_000_000, 10)


@pytest.mark.parametrize("told", ["date", "nothing"])
def test_what_no_one_can_tell_from_another_version_is_not_kept(
    server: Server, folder: Path, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.has_tags = False
    if told == "nothing":
        monkeypatch.setattr("xr_pytables.sources.http._version", lambda size, _: ObjectVersion(size))
    opened(server, folder).ask(2_000_000, 10)
    assert bool(files(folder)) == (told == "date")


@pytest.mark.parametrize("damage", ["flipped", "cut off", "empty", "removed"])
def test_damaged_files_are_asked_for_again(server: Server, folder: Path, damage: str) -> None:
    opened(server, folder).ask(2_000_000, 300_000)
    for path in files(folder):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        if damage == "removed":
            path.unlink()
        else:
            path.write_bytes(data if damage == "flipped" else data[: len(data) // 2] if damage == "cut off" else b"")
    source = opened(server, folder)
    for _ in range(2):
        assert source.ask(2_000_000, 300_000) == DATA[2_000_000:2_300_000]
    assert len(server.asked) >= 1
    server.asked.clear()
    assert opened(server, folder).ask(2_000_000, 300_000) == DATA[2_000_000:2_300_000]
    assert server.asked == []


def test_what_was_used_longest_ago_goes_first(server: Server, folder: Path) -> None:
    most = 2 << 20
    source = opened(server, folder, most)
    for i in range(20):
        source.ask(HEAD + i * 3 * BLOCK, 3 * BLOCK)
        for number, path in enumerate(sorted(files(folder), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, ns=(number, number))  # however coarse the clock is
        assert sum(path.stat().st_size for path in files(folder)) <= most + most // 16 + 4 * BLOCK
    assert opened(server, folder, most).ask(HEAD + 19 * 3 * BLOCK, 3 * BLOCK)
    assert server.asked == []
    assert opened(server, folder, most).ask(HEAD, 3 * BLOCK) == DATA[HEAD : HEAD + 3 * BLOCK]
    assert len(server.asked) == 1
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_what_others_put_beside_and_among_the_blocks_stays(folder: Path) -> None:
    cache = DiskCache(str(folder), 100)
    cache.prepare()
    one, other = "0a" * 20, "f9" * 20
    theirs = [
        "mine", "thesis/chapter/one.txt", "thesis/chapter/0-1", f"{one}/{other}/0-1", "xr-pytables-blocks/0-1",
        "xr-pytables-blocks/thesis/chapter/0-1", f"xr-pytables-blocks/{one}/chapter/0-1",
        f"xr-pytables-blocks/{'0g' * 20}/{other}/0-1", f"xr-pytables-blocks/{one}0/{other}/0-1",
        *(f"xr-pytables-blocks/{one}/{other}/{name}" for name in ("a.txt", "0-1.txt", "00-1", "0-0", "\u0663-1", ".a")),
        f"xr-pytables-blocks/{one}/{other}/deeper/0-1",
    ]  # fmt: skip
    ours = [f"xr-pytables-blocks/{one}/{other}/{name}" for name in ("0-1", f".{'0a' * 16}")]
    alone = f"xr-pytables-blocks/{other}/{one}/3-1"
    for name in [*theirs, *ours, alone]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(1000))
    (folder / "xr-pytables-blocks" / one / "empty").mkdir()
    cache.note(1)
    assert files(folder) == sorted(folder / name for name in theirs)
    assert (folder / "xr-pytables-blocks" / one / "empty").is_dir()
    assert not (folder / "xr-pytables-blocks" / other).exists()  # nothing else is in it


def test_what_others_put_beside_the_blocks_does_not_count(server: Server, folder: Path) -> None:
    most = 1 << 20
    DiskCache(str(folder)).prepare()
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "0-1").write_bytes(bytes(2 * most))
    opened(server, folder, most).ask(2_000_000, 10)
    assert opened(server, folder, most).ask(2_000_000, 10) == DATA[2_000_000:2_000_010]
    assert server.asked == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "folder"])
def test_what_is_no_file_but_called_like_one_is_not_opened(server: Server, folder: Path, kind: str) -> None:
    opened(server, folder).ask(2_000_000, 10)
    for path in files(folder):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        else:
            end = folder / f"pipe-{path.name}"
            os.mkfifo(end if kind == "link to a pipe" else path)
            if kind == "link to a pipe":
                path.symlink_to(end)
    assert opened(server, folder).ask(2_000_000, 10) == DATA[2_000_000:2_000_010]
    assert len(server.asked) == 1


def test_names_of_blocks_that_the_object_has_not_mean_nothing(tmp_path: Path) -> None:
    kept = DiskCache(str(tmp_path)).of("a", ("tag",), 10 * BLOCK - 5)
    assert kept is not None
    kept.write(3, DATA[: 7 * BLOCK - 5])
    (file,) = files(tmp_path)
    for name in ("0-999999999", "0-11", "10-1", f"{10**200}-1", f"1-{10**200}"):
        (file.parent / name).write_bytes(file.read_bytes())
    again = DiskCache(str(tmp_path)).of("a", ("tag",), 10 * BLOCK - 5)
    assert again is not None
    assert again.read(range(12)) == kept.read(range(10))
    assert sorted(again.read(range(12))) == list(range(3, 10))
    assert len(files(tmp_path)) == 6


def test_a_full_disk_costs_nothing_but_the_copy(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(server, folder)
    before = files(folder)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_cache.os, "replace", full)
    assert source.ask(2_000_000, 10) == DATA[2_000_000:2_000_010]
    assert files(folder) == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows other owners and modes")
def test_the_folder_is_the_users_alone(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(server, folder)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in (folder, *folder.rglob("*")) if path.is_dir())
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files(folder))
    folder.chmod(0o755)
    with pytest.raises(
        PermissionError, match=r"nobody else may enter \(the mode is 755, expected 700\)\. Name another"
    ):
        xr.open_dataset(server.url(), engine="pytables", cache_dir=folder)
    folder.chmod(0o700)
    monkeypatch.setattr(disk_cache.os, "getuid", lambda: os.stat(folder).st_uid + 1)
    with pytest.raises(PermissionError, match="must belong to this user"):
        xr.open_dataset(server.url(), engine="pytables", cache_dir=folder)


def test_no_name_on_disk_tells_of_the_url(server: Server, folder: Path) -> None:
    url = server.url("a.bin", user="me:geheim@") + "?sig=signed"
    RemotePlace.of(UrlTarget(url), Transfer(cache=DiskCache(str(folder)))).open(None)
    names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    assert names
    assert not [name for name in names for secret in ("geheim", "signed", "a.bin", "127") if secret in name]
    assert str(folder) in repr(DiskCache(str(folder)))


def test_threads_and_processes_share_a_folder(server: Server, folder: Path) -> None:
    code = """
import sys
import numpy as np, xarray as xr
with xr.open_dataset(sys.argv[1], engine="pytables", cache_dir=sys.argv[2], cache_bytes=3_000_000) as ds:
    print(float(sum(ds[f"v{i}"].sum() for i in range(3))))
"""
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: run_python(code, server.url(), folder), range(3)))
    assert [float(text) for text in found] == pytest.approx([3 * FIELD.sum() + 3 * FIELD.size] * 3)
    with open_quietly(server.url(), cache_dir=folder) as ds, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda i: np.array_equal(ds[f"v{i % 3}"], FIELD + i % 3), range(24)))


def test_a_pickled_dataset_keeps_in_the_same_folder(server: Server, folder: Path) -> None:
    with open_quietly(server.url(), cache_dir=folder, cache=False) as ds:
        ds["v1"].load()
        copy = pickle.loads(pickle.dumps(ds))
    server.asked.clear()
    assert np.array_equal(copy["v1"], FIELD + 1)
    assert server.asked == []


def test_with_a_saved_index_chunks_are_kept(server: Server, folder: Path, tmp_path: Path) -> None:
    save_index(server.url(), tmp_path / "a.json")
    for _ in range(2):
        server.asked.clear()
        with open_quietly(server.url(), cache_dir=folder, index=tmp_path / "a.json") as ds:
            assert np.array_equal(ds["v2"], FIELD + 2)
    assert server.asked == [("a.h5", 0, PROBE)]


@pytest.mark.parametrize("where", ["file", "file/a", "kept"])
def test_a_file_in_the_way_is_an_error(where: str, server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "kept").mkdir(mode=0o700)
    (tmp_path / "kept" / "xr-pytables-blocks").touch()
    with pytest.raises(OSError, match=rf"cache_dir must be a folder, or a path .*\. Name another: .*{where[-1]}"):
        xr.open_dataset(server.url(), engine="pytables", cache_dir=tmp_path / where)


def test_blocks_side_by_side_are_one_file(tmp_path: Path) -> None:
    kept = DiskCache(str(tmp_path)).of("a", ("tag",), 10 * BLOCK - 5)
    assert isinstance(kept, KeptBlocks)
    kept.write(3, DATA[: 7 * BLOCK - 5])
    assert [path.name for path in files(tmp_path)] == ["3-7"]
    assert kept.read(range(10)) == {3 + i: DATA[i * BLOCK : min((i + 1) * BLOCK, 7 * BLOCK - 5)] for i in range(7)}
    assert kept.read(range(5, 6)) == {5: DATA[2 * BLOCK : 3 * BLOCK]}
    assert kept.read(range(3)) == {}
    assert DiskCache(str(tmp_path)).of("a", ("", ""), 10) is None
