"""Values that say where chunks are, and how selections meet them."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables.chunks.index import ChunkIndex, ChunkStorage, bounding_region, plan_axis, plan_selection

from ..helpers_properties import examples


def test_a_value_that_pickles_and_prints() -> None:
    storage = ChunkStorage((10, 4, 3), (2, 4, 3), np.dtype(">f4"), fill=b"\x00\x00\x00\x00", rank=1)
    assert pickle.loads(pickle.dumps(storage)) == storage
    assert (storage.grid, storage.element_size, storage.chunk_nbytes) == ((5,), 48, 96)
    assert "chunkshape=(2, 4, 3)" in repr(storage)
    with pytest.raises(ValueError, match="does not fit shape"):
        ChunkStorage((10,), (2, 2), np.dtype("f4"))
    with pytest.raises(ValueError, match="divides the atom"):
        ChunkStorage((10, 4), (2, 2), np.dtype("f4"), rank=1)
    with pytest.raises(ValueError, match="a fill value of 3 bytes"):
        ChunkStorage((10,), (2,), np.dtype("f4"), fill=b"abc").fill_values()
    index = ChunkIndex((0,), np.zeros(5, np.uint64), np.zeros(5, np.uint32), np.zeros(5, np.uint32))
    assert repr(pickle.loads(pickle.dumps(index))) == "ChunkIndex(origin=(0,), shape=(5,), stored=0 of 5)"
    with pytest.raises(IndexError, match="outside of the part"):
        index.at((np.array([4, 5]),))


# ---------------------------------------------------------------------------------------------------------------------
# selections


@given(data=st.data())
@examples(60)
def test_pieces_put_together_are_the_selection(data: st.DataObject) -> None:
    length, chunk = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 12))
    selection = data.draw(
        st.one_of(
            st.integers(-length, length - 1),
            st.slices(length).filter(lambda s: (s.step or 1) > 0),
            st.lists(st.integers(-length, length - 1), max_size=12).map(lambda chosen: np.array(chosen, np.int64)),
        )
    )
    plan = plan_axis(selection, length, chunk)
    array = np.arange(length) * 10
    expected = np.atleast_1d(array[selection])
    out = np.full(plan.length, -1)
    for i, number in enumerate(plan.chunks.tolist()):
        inside, places = plan.piece(i)
        piece = array[number * chunk : (number + 1) * chunk][inside]
        assert len(piece)
        out[places] = piece
    np.testing.assert_array_equal(out, expected)
    touched = expected // 10 // chunk
    assert plan.chunks.tolist() == sorted(set(touched.tolist()))
    assert plan.bounds == ((int(expected.min()) // 10, int(expected.max()) // 10 + 1) if len(expected) else (0, 0))


def test_the_plan_of_a_selection_and_its_bounding_region() -> None:
    storage = ChunkStorage((100, 50, 3), (10, 7, 3), np.dtype("f4"), rank=2)
    selection = (np.array([99, 3, 55]), slice(8, 30))
    assert [plan.chunks.tolist() for plan in plan_selection(storage, selection)[:2]] == [[0, 5, 9], [1, 2, 3, 4]]
    assert bounding_region(storage, plan_selection(storage, selection)) == ((3, 100), (8, 30))


@pytest.mark.parametrize(
    ("selection", "error"),
    [
        (10, IndexError), (-11, IndexError), (np.array([0, 10]), IndexError), (slice(None, None, -1), ValueError),
        (np.zeros((2, 2), int), ValueError), (np.array([0.5]), ValueError),
    ],
)  # fmt: skip
def test_selections_that_make_no_sense(selection: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        plan_axis(selection, 10, 3)
