"""Blocks that workers put aside: encoded there, checked when they are written, and damaged ones never taken."""

from __future__ import annotations

import os
import threading
import tracemalloc
from pathlib import Path

import dask
import dask.array
import numpy as np
import pytest
import tables
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables import to_pytables
from xr_pytables.chunks.encoder import EncodedChunk
from xr_pytables.disk.transaction import Transaction
from xr_pytables.library.target_file import TargetFile
from xr_pytables.writing import plan, targets, writer
from xr_pytables.writing.segment import Segment, SegmentError, SegmentWriter, Values
from xr_pytables.writing.targets import SpoolTarget

from ..helpers_properties import examples


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.h5"


def read(path: Path) -> xr.Dataset:
    with xr.open_dataset(path, engine="pytables") as dataset:
        return dataset.load()


def make_segment(path: Path) -> list[tuple[object, ...]]:
    """A segment with one record of each kind, and what they are."""
    values, text = np.arange(6, dtype=">i4").reshape(2, 3), np.array([["a", "", "ü"]], object)
    with SegmentWriter(str(path), (4, 0), (4, 3)) as segment:
        segment.add_chunks([EncodedChunk((4, 0), b"\x01\x02\x03", 5), EncodedChunk((4, 2), bytearray(range(200)), 0)])
        segment.add_values((6, 0), values)
        segment.add_values((7, 0), text)
    return [((4, 0), b"\x01\x02\x03", 5), ((4, 2), bytes(range(200)), 0), ((6, 0), values), ((7, 0), text)]


def plain(segment: Segment) -> list[tuple[object, ...]]:
    return [
        (item.start, item.values) if isinstance(item, Values) else (item.corner, bytes(item.data), item.mask)
        for item in segment
    ]


def test_a_segment_holds_what_was_put_in(tmp_path):
    expected = make_segment(tmp_path / "a.seg")
    segment = Segment.of(str(tmp_path / "a.seg"))
    assert (segment.start, segment.shape) == ((4, 0), (4, 3))
    found = plain(segment)
    assert found[:2] == expected[:2]
    for (start, values), (other, wanted) in zip(found[2:], expected[2:], strict=True):
        assert start == other
        assert values.dtype == wanted.dtype
        np.testing.assert_array_equal(values, wanted)
    assert os.listdir(tmp_path) == ["a.seg"]


def test_no_damage_to_a_segment_goes_unnoticed(tmp_path):
    """Cut off anywhere, or any one byte changed."""
    path = tmp_path / "a.seg"
    make_segment(path)
    whole = path.read_bytes()
    damaged = [whole[:size] for size in range(len(whole))]
    # the eight bytes in front only tell people what the file is
    damaged += [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(8, len(whole))]
    damaged += [whole + b"\0", whole + whole]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(SegmentError, match=r"a\.seg: the block that a worker put aside is damaged: "):
            list(Segment.of(str(path)))
    path.write_bytes(whole)
    assert len(list(Segment.of(str(path)))) == 4


def test_an_error_leaves_no_segment(tmp_path):
    with pytest.raises(RuntimeError), SegmentWriter(str(tmp_path / "a.seg"), (0,), (1,)) as segment:  # noqa: PT012
        segment.add_values((0,), np.zeros(1))
        raise RuntimeError
    with pytest.raises(FileNotFoundError):
        SegmentWriter(str(tmp_path / "missing" / "a.seg"), (0,), (1,))
    assert not os.listdir(tmp_path)


def test_threads_may_fill_one_segment(tmp_path):
    with SegmentWriter(str(tmp_path / "a.seg"), (0,), (400,)) as segment:
        threads = [
            threading.Thread(
                target=lambda first=first: [
                    segment.add_chunks([EncodedChunk((first + n,), bytes([n] * (n + 1)), n)]) for n in range(100)
                ]
            )
            for first in (0, 100, 200, 300)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = {item.corner[0]: (item.data, item.mask) for item in Segment.of(str(tmp_path / "a.seg"))}
    assert found == {first + n: (bytes([n] * (n + 1)), n) for first in (0, 100, 200, 300) for n in range(100)}


# -- as the writer uses them ------------------------------------------------------------------------------------------


class Spooled:
    """A write with everything put aside and nothing committed."""

    def __init__(self, path: Path, dataset: xr.Dataset, encoding: dict[str, object]) -> None:
        version, groups = writer._existing(str(path), "w")
        planned = plan.plan_write(
            dataset,
            str(path),
            mode="w",
            group="/",
            encoding=encoding,
            filters=None,
            unlimited_dims=None,
            write_inherited_coords=False,
            existing=groups,
            version=version,
            blocks=plan.BlockRules(safe=False),
        )
        self.transaction = Transaction.beside(str(path))
        self.transaction.begin_shared()
        writer.prepare(planned, self.transaction)
        streamed = writer._streamed(planned)
        self.spooled = writer._spool_targets(streamed, self.transaction)
        arrays = [variable.data for _, variable in streamed]
        dask.array.store(arrays, [target for target, _ in self.spooled], lock=False)

    def commit(self) -> None:
        targets.unspool(self.transaction.new_file, self.transaction.target, self.spooled)
        self.transaction.commit(fsync=False)

    def segments(self) -> list[Path]:
        return sorted(Path(self.transaction.folder).glob("*.seg"))


def some(chunks: object = (4, 3)) -> xr.Dataset:
    values = np.arange(60.0).reshape(10, 6)
    return xr.Dataset({"v": (("y", "x"), dask.array.from_array(values, chunks=chunks))})


def test_workers_put_encoded_chunks_aside(path):
    job = Spooled(path, some(), {"v": {"chunksizes": (2, 3), "complib": "blosc2:lz4"}})
    assert len(job.segments()) == 6
    records = [item for segment in job.segments() for item in Segment.of(str(segment))]
    assert {type(item) for item in records} == {EncodedChunk}
    assert sorted(item.corner for item in records) == [(y, x) for y in range(0, 10, 2) for x in (0, 3)]
    job.commit()
    xr.testing.assert_equal(read(path), some())


def test_blocks_that_share_chunks_are_put_aside_as_they_are_and_merged(path):
    job = Spooled(path, some(((3, 7), 6)), {"v": {"chunksizes": (4, 6), "zlib": True}})
    first, second = [list(Segment.of(str(segment))) for segment in job.segments()]
    assert [type(item) for item in first] == [Values]
    assert [(type(item), item.corner if isinstance(item, EncodedChunk) else item.start) for item in second] == [
        (EncodedChunk, (4, 0)),
        (EncodedChunk, (8, 0)),
        (Values, (3, 0)),
    ]
    job.commit()
    xr.testing.assert_equal(read(path), some())


@pytest.mark.parametrize("damage", ["flip", "cut", "swap", "remove"])
def test_a_damaged_segment_is_an_error_and_the_old_file_stays(path, damage):
    old = xr.Dataset({"old": 1})
    to_pytables(old, path)
    job = Spooled(path, some(), {})
    first, second, *_ = job.segments()
    data = first.read_bytes()
    if damage == "flip":
        first.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    elif damage == "cut":
        first.write_bytes(data[:-5])
    elif damage == "swap":
        second.write_bytes(data)
    else:
        second.unlink()
    message = {
        "flip": "the checksum of what begins at",
        "cut": "is damaged: it has no end",
        "swap": r"holds the block of \(4, 3\) at \(0, 0\), expected that of \(4, 3\) at \(0, 3\)",
        "remove": r"file\.h5:/v: only 5 of 6 blocks were stored, not the one at \(0, 3\)",
    }[damage]
    with pytest.raises(OSError, match=message):
        job.commit()
    xr.testing.assert_equal(read(path), old)


def test_the_last_whole_copy_of_a_block_counts_and_one_only(path):
    job = Spooled(path, some(), {})
    target: SpoolTarget = job.spooled[0][0]
    expected = some().load()
    expected.v[:4, :3] = -1.0
    target[slice(0, 4), slice(0, 3)] = expected.v[:4, :3].values  # a task runs again, and gives something else
    with pytest.raises((TypeError, ValueError), match="object"):  # and once more, but fails
        target[slice(0, 4), slice(0, 3)] = np.full((4, 3), {})
    assert len(job.segments()) == 6
    job.commit()
    xr.testing.assert_equal(read(path), expected)


def test_a_graph_that_failed_takes_no_old_block_when_it_is_computed_again(path):
    run = 1

    def made(block: np.ndarray) -> np.ndarray:
        if run == 1 and block[0, 0] == 27.0:
            raise ArithmeticError("as asked")
        return block * run

    dataset = some().assign(v=lambda ds: ds.v.copy(data=ds.v.data.map_blocks(made, dtype="f8", meta=np.zeros((0, 0)))))
    written = to_pytables(dataset, path, compute=False)
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(ArithmeticError):
            written.compute()
        assert not path.exists()
        run = 2
        written.compute()
    xr.testing.assert_equal(read(path), some() * 2)


def test_a_worker_that_is_late_finds_the_folder_gone_and_writes_nothing(path):
    job = Spooled(path, some(), {})
    job.commit()
    job.transaction.remove()
    with pytest.raises(FileNotFoundError):
        job.spooled[0][0][slice(0, 4), slice(0, 3)] = np.zeros((4, 3))
    assert os.listdir(path.parent) == [path.name]


@examples(30)
@given(st.data())
def test_any_blocks_and_chunks_come_back_through_segments(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "file.h5"
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    chunks = []
    for length in shape:
        cuts = sorted(data.draw(st.sets(st.integers(1, length), max_size=3)) | {length})
        chunks.append(tuple(np.diff([0, *cuts]).tolist()))
    values = np.random.default_rng(0).integers(0, 3, shape).astype(data.draw(st.sampled_from([">f8", "i2", "S3"])))
    words = {"chunksizes": tuple(data.draw(st.integers(1, length)) for length in shape)}
    if complib := data.draw(st.sampled_from([None, "zlib", "blosc:lz4", "blosc2:zstd"])):
        words |= {"complib": complib}
    dataset = xr.Dataset({"v": (("y", "x"), dask.array.from_array(values, chunks=tuple(chunks)))})
    Spooled(path, dataset, {"v": words}).commit()
    with xr.open_dataset(path, engine="pytables", decode_cf=False) as found:
        np.testing.assert_array_equal(found.v.values, values)


def test_memory_for_segments_is_a_chunk_or_two(path):
    """Blocks of 4 MB in chunks of 0.5 MB, 16 MB in all: neither the worker nor the last step holds a block more."""
    values = dask.array.zeros(2_000_000, chunks=500_000)
    words = {"chunksizes": (62_500,)}
    job = Spooled(path, xr.Dataset({"v": ("x", values)}), {"v": words})
    target: SpoolTarget = job.spooled[0][0]
    block = np.ones(500_000)
    peaks = []
    for step in (lambda: target.__setitem__((slice(500_000, 1_000_000),), block), job.commit):
        tracemalloc.start()
        step()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 2.5e6, [f"{peak / 1e6:.1f} MB" for peak in peaks]
    assert read(path).v.sum() == 500_000


def test_values_set_by_other_processes_are_encoded_there_too(path, monkeypatch):
    filters = tables.Filters(complevel=3, complib="blosc2:lz4", fletcher32=True)
    with tables.open_file(path, "w") as file:
        file.create_carray("/", "v", obj=np.zeros((10, 6)), chunkshape=(4, 3), filters=filters)
    monkeypatch.setattr(TargetFile, "write", None)  # nothing is left for it
    dataset = some().rename(y="dim_10", x="dim_6")
    with dask.config.set(scheduler="processes", num_workers=1):
        to_pytables(dataset, path, mode="r+")
    xr.testing.assert_equal(read(path), dataset)


def dies_once(block: np.ndarray, marker: str) -> np.ndarray:
    if block[0, 0] == 24.0:
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return block
        os._exit(1)
    return block


# on a busy machine a cluster that lost a worker closes late, and says so
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("compute", [True, False])
def test_a_worker_that_dies_does_no_harm(path, tmp_path_factory, compute):
    distributed = pytest.importorskip("distributed")
    marker = str(tmp_path_factory.mktemp("marker") / "died")
    dataset = some().assign(v=lambda ds: ds.v.copy(data=ds.v.data.map_blocks(dies_once, marker, dtype="f8")))
    with (
        dask.config.set({"distributed.admin.log-format": "", "logging.distributed": "critical"}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=100
        ) as cluster,
        distributed.Client(cluster),
    ):
        written = to_pytables(dataset, path, encoding={"v": {"complib": "blosc:zstd"}}, compute=compute)
        if not compute:
            written.compute()
    assert os.path.exists(marker)
    xr.testing.assert_equal(read(path), some())
    assert os.listdir(path.parent) == [path.name]
