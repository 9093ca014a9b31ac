"""One file that processes fill which no graph holds together: each part counts once, and nothing is torn."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import dask.array
import h5py
import netCDF4
import numpy as np
import pytest
import tables
import xarray as xr

from xr_pytables import SharedWrite, begin_write, to_pytables
from xr_pytables.disk import arenas


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.h5"


def template(chunks: object = (4, 6)) -> xr.Dataset:
    values = dask.array.zeros((12, 6), chunks=chunks)
    return xr.Dataset({"v": (("t", "x"), values, {"units": "m"})}, {"x": np.arange(6.0)})


def part(first: int, count: int = 4) -> xr.Dataset:
    return xr.Dataset({"v": (("t", "x"), np.arange(first * 6.0, (first + count) * 6).reshape(count, 6))})


def whole() -> np.ndarray:
    return part(0, 12).v.values


WORDS = {"v": {"chunksizes": (2, 3), "complib": "blosc:zstd"}}
WORKER = """
    import pickle, sys
    import numpy as np, xarray as xr
    write, first = pickle.loads(bytes.fromhex(sys.argv[1])), int(sys.argv[2])
    values = np.arange(first * 6.0, (first + 4) * 6).reshape(4, 6)
    print("ready", flush=True)
    input()
    write.write(xr.Dataset({"v": (("t", "x"), values)}), {"t": slice(first, first + 4)})
"""


def started(write: SharedWrite, first: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(WORKER), pickle.dumps(write).hex(), str(first)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(process: subprocess.Popen[str]) -> int:
    process.communicate("go\n", timeout=60)
    return process.returncode


def test_processes_of_their_own_fill_one_file_that_all_programs_read(path):
    to_pytables(xr.Dataset({"old": 1}), path)
    write = begin_write(template(), path, encoding=WORDS)
    running = [started(write, first) for first in (0, 4, 8, 4)]  # one part by two of them
    for each in running:
        assert each.stdout.readline() == "ready\n"
    for each in running:
        each.stdin.write("go\n")
        each.stdin.flush()
    assert [each.wait(60) for each in running] == [0] * 4
    for each in running:
        each.stdin.close()
        each.stdout.close()
    assert list(xr.open_dataset(path, engine="pytables")) == ["old"]
    write.commit()
    assert os.listdir(path.parent) == [path.name]
    with xr.open_dataset(path, engine="pytables") as ours, h5py.File(path) as theirs, netCDF4.Dataset(path) as file:
        for found in (ours.v.values, theirs["v"][:], file["v"][:]):
            np.testing.assert_array_equal(found, whole())
        assert ours.v.attrs == {"units": "m"}
        assert ours.x.values.tolist() == list(range(6))
        assert theirs["v"].chunks == (2, 3)


def test_a_killed_process_leaves_its_part_to_be_written_by_another(path, monkeypatch):
    write = begin_write(template(), path, encoding=WORDS)
    dead = started(write, 4)
    assert dead.stdout.readline() == "ready\n"
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    real = arenas.pwrite

    def cut(*args: object) -> int:
        raise KeyboardInterrupt  # in the middle of a block

    write.write(part(0), {"t": slice(0, 4)})
    monkeypatch.setattr(arenas, "pwrite", cut)
    with pytest.raises(KeyboardInterrupt):
        write.write(part(4), {"t": slice(4, 8)})
    monkeypatch.setattr(arenas, "pwrite", real)
    write.write(part(8), {"t": slice(8, 12)})
    assert write.missing() == [("/v", (4, 0))]
    with pytest.raises(OSError, match=r"file\.h5: 1 blocks were not written yet, not the one of /v that begins at"):
        write.commit()
    assert not path.exists()
    assert go(started(write, 4)) == 0
    write.commit(fsync=False)
    np.testing.assert_array_equal(xr.load_dataset(path, engine="pytables").v, whole())


def test_the_last_whole_copy_of_a_block_counts(path):
    write = begin_write(template(), path)
    write.write(part(0, 12) * 0 - 1)
    write.write(part(0, 8), {"t": slice(0, 8)})
    write.write(part(8), {"t": slice(8, None)})
    write.commit()
    np.testing.assert_array_equal(xr.load_dataset(path, engine="pytables").v, whole())


def test_blocks_that_share_chunks_are_put_together_in_the_end(path):
    write = begin_write(template((3, 6)), path, encoding={"v": {"chunksizes": (4, 6), "zlib": True}})
    for first in (9, 0, 6, 3):
        write.write(part(first, 3), {"t": slice(first, first + 3)})
    write.commit()
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["v"][:], whole())


def test_values_are_packed_and_checked_as_in_one_write(path):
    packed = {"v": {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -1, "chunksizes": (4, 6)}}
    given = template()
    given["when"] = ("t", dask.array.zeros(12, chunks=4, dtype="M8[s]"))
    given.when.encoding = {"units": "hours since 2000-01-01", "dtype": "int32"}
    write = begin_write(given, path, encoding=packed)
    values = part(0, 12).assign(
        when=("t", np.datetime64("2000-01-02", "s") + np.arange(12) * np.timedelta64(3600, "s"))
    )
    values.v[3, 3] = np.nan
    with pytest.raises(ValueError, match="16384"):
        write.write(part(0, 12) * 0 + 16384.0)
    write.write(values)
    write.commit()
    with h5py.File(path) as file:
        assert file["v"].dtype == "i2"
        assert file["when"].dtype == "i4"
        assert file["when"][:3].tolist() == [24, 25, 26]
    xr.testing.assert_equal(xr.load_dataset(path, engine="pytables")[["v", "when"]].drop_vars("x"), values)


def test_arguments_say_what_the_file_is_like(path):
    words = {"unlimited_dims": ["t"], "checksums": False, "write_empty_chunks": False, "group": "/g"}
    write = begin_write(template(), path, filters=tables.Filters(3, "zlib"), mode="w-", **words)
    write.write(part(0), {"t": slice(0, 4)})
    write.write(part(4, 8) * np.nan, {"t": slice(4, 12)})
    write.commit()
    with h5py.File(path) as file:
        array = file["g/v"]
        assert (array.maxshape, array.compression, array.fletcher32) == ((None, 6), "gzip", False)
        assert array.id.get_num_chunks() < 3
        np.testing.assert_array_equal(array[:4], whole()[:4])
    with pytest.raises(FileExistsError):
        begin_write(template(), path, mode="x")


def test_a_data_array_and_its_parts(path):
    write = begin_write(template().v, path)
    write.write(part(0, 12).v)
    write.commit()
    np.testing.assert_array_equal(xr.load_dataarray(path, engine="pytables"), whole())


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({"t": slice(0, 3)}, r"along dimension 't' the part of 4 elements for 0 to 3 is not whole blocks of the templ"),
        ({"t": slice(2, 6)}, "Write whole blocks, or chunk the template otherwise"),
        ({"y": slice(0, 4)}, r"region has the dimension 'y', the variable has \('t', 'x'\)"),
        (None, "along dimension 't' the part of 4 elements for 0 to 12"),
    ],
)
def test_parts_that_are_no_blocks_are_refused(path, region, message):
    write = begin_write(template(), path)
    with pytest.raises(ValueError, match=message):
        write.write(part(0), region)
    with pytest.raises(ValueError, match=r"the template has no Dask array 'w' to write; it has v"):
        write.write(part(0).rename(v="w"), {"t": slice(0, 4)})
    assert len(write.missing()) == 3
    write.abandon()
    assert os.listdir(path.parent) == []


def test_only_new_files_and_only_while_it_lasts(path):
    to_pytables(part(0, 12), path)
    with pytest.raises(ValueError, match=r"mode must be one of 'w', 'w-', 'x', not 'a'.*region="):
        begin_write(template(), path, mode="a")
    write = begin_write(template(), path)
    write.abandon()
    for step in (lambda: write.write(part(0), {"t": slice(0, 4)}), write.commit, write.missing):
        with pytest.raises(FileNotFoundError, match="was committed or given up, or this process does not see the"):
            step()
    assert os.listdir(path.parent) == [path.name]
    np.testing.assert_array_equal(xr.load_dataset(path, engine="pytables").v, whole())


# -- parts in another form than the template's ------------------------------------------------------------------


def written(template, part, region=None, **how):
    """A part through a file of its own in the working folder."""
    write = begin_write(template, "c.h5", **how)
    try:
        write.write(part, region)
    except BaseException:
        write.abandon()
        raise
    write.commit(fsync=False)
    return xr.load_dataset("c.h5", engine="pytables")


def lazy(dims, shape, dtype):
    return xr.Dataset({"a": (dims, dask.array.zeros(shape, chunks=2, dtype=dtype))})


@pytest.mark.parametrize("how", [{}, {"encoding": {"a": {"units": "minutes since 2000-01-01", "dtype": "i8"}}}])
def test_times_mean_the_same_in_every_part(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    times = np.array(["2010-01-01T03:30", "2010-01-01T10:30", "2011-05-05", "2012-01-01"], "M8[ns]")
    write = begin_write(lazy("t", 4, "M8[ns]"), "c.h5", **how)
    for start in (0, 2):
        write.write(xr.Dataset({"a": ("t", times[start : start + 2])}), {"t": slice(start, start + 2)})
    write.commit(fsync=False)
    np.testing.assert_array_equal(xr.load_dataset("c.h5", engine="pytables").a.values, times)
    np.testing.assert_array_equal(xr.load_dataset("c.h5", engine="netcdf4").a.values, times)


def test_durations_mean_the_same_in_every_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    days = np.array([1, 2], "m8[D]").astype("m8[ns]")
    found = written(lazy("t", 2, "m8[ns]"), xr.Dataset({"a": ("t", days)})).a
    np.testing.assert_array_equal(found.values, days)


def test_times_that_the_units_of_the_template_cannot_hold_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    times = np.array(["2000-01-01T01", "2000-01-01T02:00:00.5"], "M8[ns]")
    how = {"encoding": {"a": {"units": "seconds since 2000-01-01", "dtype": "int64"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # xarray says that it takes finer units
        with pytest.raises(ValueError, match=r"c\.h5.*'a'"):
            written(lazy("t", 2, "M8[ns]"), xr.Dataset({"a": ("t", times)}), **how)


@pytest.mark.parametrize(
    ("template", "part", "said"),
    [
        (lazy(("t", "x"), (2, 2), "f8"), (("x", "t"), np.zeros((2, 2))), "the part has the dimensions"),
        (lazy(("t", "x"), (2, 2), "f8"), (("q", "x"), np.zeros((2, 2))), "the part has the dimensions"),
        (lazy("t", 2, "f8"), ("t", np.array(["2010-01-01", "2011-01-01"], "M8[ns]")), "units="),
        (lazy("t", 2, "?"), ("t", np.array([7, 1])), "dtype="),
        (lazy("t", 2, "S4"), ("t", np.array(["ab", "c"])), "_xr_pytables_text="),
        (lazy("t", 2, "f8"), ("t", np.array([b"ab", b"c"])), "fixed-length strings, the template says numbers"),
    ],
)
def test_parts_that_would_be_stored_otherwise_are_refused(tmp_path, monkeypatch, template, part, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"variable 'a': .*{said}"):
        written(template, xr.Dataset({"a": part}))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("dtype", "values", "said"),
    [
        ("i2", np.array([1, 70000]), "70000 does not fit: int16"),
        ("S2", np.array([b"a", b"abc"]), r"b'abc' does not fit"),
    ],
)
def test_values_of_a_part_that_the_template_cannot_hold_are_named(tmp_path, monkeypatch, dtype, values, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=rf"c\.h5:/: variable 'a': {said}.* was announced; announce one that holds all values"
    ):
        written(lazy("t", 2, dtype), xr.Dataset({"a": ("t", values)}))


def test_text_of_any_length_in_memory_for_text_in_dask(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = np.array(["ä", "b"], object)
    template = xr.Dataset({"a": ("t", dask.array.from_array(text, chunks=1))})
    assert written(template, xr.Dataset({"a": ("t", text)})).a.values.tolist() == ["ä", "b"]


@pytest.mark.parametrize("kind", ["U2", "S2"])
def test_parts_of_text_in_characters(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    text = np.array(["ab", "c"], kind)
    computed = []
    blocks = dask.array.from_array(text, chunks=1).map_blocks(lambda b: computed.append(1) or b, meta=text[:0])
    write = begin_write(xr.Dataset({"a": ("t", blocks)}), "c.h5", encoding={"a": {"dtype": "S1"}})
    assert not computed
    for number in range(2):  # the second is shorter
        write.write(xr.Dataset({"a": ("t", text[number : number + 1])}), {"t": slice(number, number + 1)})
    with pytest.raises(TypeError, match=r"c\.h5: variable 'a': the array holds text, and 5 is none"):
        write.write(xr.Dataset({"a": ("t", [5])}), {"t": slice(0, 1)})
    write.commit()
    for engine in ("pytables", "netcdf4"):
        with xr.open_dataset("c.h5", engine=engine) as ds:
            assert ds["a"].values.tolist() == text.tolist()


def test_a_part_without_a_name_and_a_region_that_is_no_slice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    part = xr.DataArray([1.0, 2.0], dims="t")
    assert written(lazy("t", 2, "f8"), part).a.values.tolist() == [1, 2]
    with pytest.raises(TypeError, match="region must be slices by dimension"):
        written(lazy("t", 2, "f8"), part, {"t": [0, 1]})


# -- tasks of others, where they are installed ------------------------------------------------------------------

OTHERS = """
    import dask, dask.array, numpy as np, xarray as xr
    from xr_pytables import begin_write, to_pytables

    template = xr.Dataset({"v": (("t", "x"), dask.array.zeros((6, 10), chunks=(2, 10)))})
    write = begin_write(template, "shared.h5", encoding={"v": {"complib": "blosc:zstd"}})

    def job(number, write):
        part = xr.Dataset({"v": (("t", "x"), np.full((2, 10), number + 1.0))})
        write.write(part, {"t": slice(2 * number, 2 * number + 2)})
"""
BEAM = """
    import apache_beam as beam

    with beam.Pipeline() as pipeline:
        pipeline | beam.Create(range(3)) | beam.Map(job, write)
    write.commit()
"""
RAY = """
    import ray
    from ray.util.dask import ray_dask_get

    ray.init(num_cpus=2, include_dashboard=False)
    ray.get([ray.remote(job).remote(number, write) for number in range(3)])
    write.commit()
    with dask.config.set(scheduler=ray_dask_get):
        to_pytables(template + 5, "dask.h5")
"""


@pytest.mark.parametrize(("package", "code", "files"), [("apache_beam", BEAM, 1), ("ray", RAY, 2)])
def test_tasks_of_beam_and_ray_fill_a_file(tmp_path: Path, package: str, code: str, files: int) -> None:
    pytest.importorskip(package)
    script = textwrap.dedent(OTHERS) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.h5"))) == files
    read = xr.open_dataset(tmp_path / "shared.h5", engine="pytables")["v"]
    assert read[:, 0].values.tolist() == [1, 1, 2, 2, 3, 3]
    if files == 2:
        assert (xr.open_dataset(tmp_path / "dask.h5", engine="pytables")["v"] == 5).all()
