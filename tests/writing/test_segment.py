"""What workers say of blocks in files: checked when it is read, and damaged ones are never taken."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from xr_pytables.errors import SegmentError
from xr_pytables.writing.segment import Segment, SegmentWriter


def make_segment(path: Path, count: int = 4) -> list[tuple[object, ...]]:
    """A segment with a record of each kind, and what they are."""
    rows = np.empty((1, 2), object)
    rows[0, 0], rows[0, 1] = np.arange(3.0), np.zeros(0)
    chunks = np.array(
        [((4, 2), 4096, 77, 1)], [("corner", "<i8", (2,)), ("address", "<u8"), ("size", "<u4"), ("mask", "<u4")]
    )
    records = [
        ((4, 0), np.arange(6, dtype=">i4").reshape(2, 3)),
        ((6, 0), np.array([["a", "", "ü"]], object)),
        ((7, 0), rows),
        ((4, 2), chunks),
    ]
    with SegmentWriter(str(path), (4, 0), (4, 3)) as segment:
        for start, values in records[:count]:
            segment.add_values(start, values)
    return records[:count]


def test_a_segment_holds_what_was_put_in(tmp_path):
    expected = make_segment(tmp_path / "a.seg")
    segment = Segment.of(str(tmp_path / "a.seg"))
    assert (segment.start, segment.shape) == ((4, 0), (4, 3))
    for item, (start, wanted) in zip(segment, expected, strict=True):
        assert item.start == start
        assert item.values.dtype == wanted.dtype
        assert repr(item.values.tolist()) == repr(wanted.tolist())
    assert os.listdir(tmp_path) == ["a.seg"]


def test_no_damage_to_a_segment_goes_unnoticed(tmp_path):
    """Cut off anywhere, or any one byte changed."""
    path = tmp_path / "a.seg"
    make_segment(path, 2)
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
    assert len(list(Segment.of(str(path)))) == 2


def test_an_error_leaves_no_segment(tmp_path):
    with pytest.raises(RuntimeError), SegmentWriter(str(tmp_path / "a.seg"), (0,), (1,)) as segment:  # noqa: PT012
        segment.add_values((0,), np.zeros(1))
        raise RuntimeError
    with pytest.raises(FileNotFoundError):
        SegmentWriter(str(tmp_path / "missing" / "a.seg"), (0,), (1,))
    assert not os.listdir(tmp_path)
