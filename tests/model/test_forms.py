from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables.model.forms import Form, text_of, time64_seconds

_LEAST, _MOST = -(2**31) * 10**6, (2**31 - 1) * 10**6 + 999_999
"""Microseconds that a Time64 holds."""
_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(st.lists(st.integers(_LEAST, _MOST)))
def test_what_time64_stores_it_shows_again(times: list[int]) -> None:
    values = np.array(times, "i8")
    stored = Form.TIME64.stored(values, "a")
    assert (stored >> 32).tolist() == [time // 10**6 for time in times]
    assert (stored & 0xFFFFFFFF).tolist() == [time % 10**6 for time in times]
    assert Form.TIME64.shown(stored, np.dtype("i8")).tolist() == times
    np.testing.assert_allclose(time64_seconds(stored), values / 1e6, rtol=0, atol=1e-6)


@pytest.mark.parametrize("time", [_LEAST - 1, _MOST + 1, np.iinfo("i8").min])  # the last is NaT
def test_time64_refuses_what_it_cannot_hold(time: int) -> None:
    with pytest.raises(ValueError, match="here: a Time64 of PyTables holds times from 1901 to 2038"):
        Form.TIME64.stored(np.array([0, time]), "here")


@given(st.lists(_TEXTS, min_size=1))
def test_what_fixed_text_stores_it_shows_again(texts: list[str]) -> None:
    stored = Form.FIXED_TEXT.stored(np.array(texts, object), "a")
    assert stored.dtype == f"S{max(1, *(len(text.encode()) for text in texts))}"
    shown = Form.FIXED_TEXT.shown(stored, np.dtype(object))
    assert shown.tolist() == texts
    again = Form.FIXED_TEXT.stored(shown, "a", width=stored.dtype.itemsize)
    assert again.dtype == stored.dtype
    assert again.tolist() == stored.tolist()


def test_fixed_text_keeps_the_shape_and_the_width_asked_for() -> None:
    stored = Form.FIXED_TEXT.stored(np.array([["a", "é"]]), "a", width=5)
    assert (stored.dtype, stored.shape) == (np.dtype("S5"), (1, 2))
    assert Form.FIXED_TEXT.shown(stored, np.dtype(object)).tolist() == [["a", "é"]]


@pytest.mark.parametrize(
    ("form", "value", "message"),
    [
        (Form.FIXED_TEXT, "long", "here: a text of 4 bytes does not fit the 3 bytes"),
        (Form.FIXED_TEXT, "a\0", "here: fixed-length text cannot keep a NUL at its end"),
        (Form.FIXED_TEXT, "\ud800", "here: .* half of a character"),
        (Form.TEXT, "\ud800", "here: .* half of a character"),
        (Form.TEXT, "a\0b", "here: variable-length text cannot hold the NUL"),
    ],
)
def test_text_that_cannot_be_stored_is_refused(form: Form, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        form.stored(np.array(["ok", value], object), "here", width=3)


@given(st.lists(_TEXTS))
def test_text_of_any_length_is_shown_as_it_was(texts: list[str]) -> None:
    stored = Form.TEXT.stored(np.array(texts, object), "a")
    assert stored.tolist() == texts
    encoded = np.empty(len(texts), object)
    encoded[:] = [text.encode() for text in texts]
    assert Form.TEXT.shown(encoded, np.dtype(object)).tolist() == texts
    assert Form.TEXT_BYTES.shown(encoded, np.dtype(object)).tolist() == encoded.tolist()


def test_missing_texts_are_empty() -> None:
    assert [text_of(value) for value in ("a", np.str_("b"), None, np.nan, 1.5)] == ["a", "b", "", "", "1.5"]
    assert Form.TEXT.stored(np.array(["a", None, np.nan], object), "a").tolist() == ["a", "", ""]


@given(st.binary(max_size=20))
def test_rows_of_bytes_are_shown_as_they_were(row: bytes) -> None:
    stored = Form.BYTE_ROWS.stored_row(row, "a")
    assert stored.dtype == "u1"
    assert Form.BYTE_ROWS.shown_row(stored.tobytes()) == row
    assert Form.TEXT_ROWS.shown_row(row).encode("utf-8", "surrogateescape") == row


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_rows_of_code_points_are_shown_as_they_were(row: str) -> None:
    stored = Form.UTF32_ROWS.stored_row(row, "a")
    assert stored.tolist() == [ord(character) for character in row]
    assert Form.UTF32_ROWS.shown_row(stored.tobytes()) == row
    assert Form.UTF32_ROWS.shown_row(stored.astype(">u4").tobytes(), ">") == row


def test_rows_that_are_something_else_are_refused() -> None:
    assert Form.BYTE_ROWS.stored_row(None, "a").size == Form.UTF32_ROWS.stored_row(None, "a").size == 0
    with pytest.raises(TypeError, match="here: 'a' is no bytes"):
        Form.BYTE_ROWS.stored_row("a", "here")
    with pytest.raises(TypeError, match="here: b'a' is no str"):
        Form.UTF32_ROWS.stored_row(b"a", "here")


def test_a_text_ends_where_hdf5_ends_it() -> None:
    assert Form.TEXT.shown_row(b"ab\0c") == "ab"
    assert Form.TEXT_BYTES.shown_row(b"ab\0c") == b"ab"
    assert Form.TEXT_ROWS.shown_row(b"ab\0c") == "ab\0c"


@pytest.mark.parametrize("kind", ["i2", "f4", "c8", "S3", "b1"])
def test_other_elements_only_change_their_byte_order(kind: str) -> None:
    values = np.arange(6).astype(kind).reshape(2, 3)
    stored = values.astype(values.dtype.newbyteorder(">"))
    shown = Form.SAME.shown(stored, values.dtype)
    assert shown.dtype == values.dtype
    np.testing.assert_array_equal(shown, values)
    assert Form.SAME.stored(values, "a") is values


@pytest.mark.parametrize("form", Form)
def test_forms_are_pickled_as_themselves(form: Form) -> None:
    assert pickle.loads(pickle.dumps(form)) is form
    assert pickle.loads(pickle.dumps(form.shown)).__self__ is form
