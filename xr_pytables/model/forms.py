"""How the elements of an array are stored, and how they are shown: two verbs of one value for each kind.

Reading, conditions and writing ask the same value, so that what one of them shows the others take back. NumPy only;
`meanings` says which form the elements of an HDF5 type have.

Tested in `tests/model/test_forms.py`.
"""

from __future__ import annotations

import enum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_MICROSECONDS: Final = 1_000_000


class Form(enum.Enum):
    """What becomes of stored elements."""

    SAME = "same"
    """Numbers, bytes of fixed length, records: only their byte order changes."""
    TIME64 = "time64"
    """PyTables' Time64: 32 bits of seconds since 1970, 32 bits of microseconds (its src/typeconv.c)."""
    FIXED_TEXT = "fixed text"
    """UTF-8 of a fixed number of bytes."""
    TEXT = "text"
    """UTF-8 of any length."""
    TEXT_BYTES = "text bytes"
    """The same, shown as bytes."""
    ELEMENTS = "elements"
    """Rows of any number of elements, which have a form of their own."""
    BYTE_ROWS = "byte rows"
    """PyTables' `vlstring`: rows of bytes."""
    TEXT_ROWS = "text rows"
    """The same, shown as text."""
    UTF32_ROWS = "utf-32 rows"
    """PyTables' `vlunicode`: rows of code points of four bytes."""
    OBJECTS = "objects"
    """PyTables' `object`: a pickle in each row, of which the restricted decoder makes what it knows."""
    PICKLES = "pickles"
    """The same, unpickled with all that follows from it."""
    PATHS = "paths"
    """References, shown as the paths of what they refer to."""
    UTF16 = "utf-16"
    """MATLAB's text: columns of code units."""

    @property
    def is_text(self) -> bool:
        """Whether each element is a text, of fixed length or any."""
        return self in (Form.TEXT, Form.FIXED_TEXT)

    @property
    def holds_objects(self) -> bool:
        """Whether each row is a pickle."""
        return self in (Form.OBJECTS, Form.PICKLES)

    def shown(self, stored: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Stored elements, those of any length as `bytes`, as the user sees them: `dtype` in native byte order."""
        if self in (Form.TEXT_BYTES, Form.PATHS):  # whoever reads these knows what becomes of them
            return stored
        if self.is_text:
            texts = np.empty(stored.shape, object)
            texts.reshape(-1)[:] = [data.decode("utf-8", "surrogateescape") for data in stored.reshape(-1)]
            return texts
        native = np.asarray(stored).astype(dtype, copy=False)
        if self is Form.TIME64:
            seconds, microseconds = _halves(native)
            joined: NDArray[Any] = seconds * _MICROSECONDS + microseconds
            return joined
        return native

    def stored(self, shown: NDArray[Any], label: str, *, width: int | None = None) -> NDArray[Any]:
        """The reverse, for what is written. `width` is that of fixed text in bytes; by default the longest's.

        Text of any length stays `str`, which the library encodes. Raises ValueError, which begins with `label`, for
        what the form cannot hold.
        """
        if self is Form.TIME64:
            return _time64(shown, label)
        if self is Form.FIXED_TEXT:
            return _fixed_text(shown, label, width)
        if self is Form.TEXT:
            return _texts(shown, label)
        return shown

    def shown_row(self, data: bytes, byteorder: str = "<") -> bytes | str:
        """One row of bytes or text, or one text of any length; `byteorder` is that of a code point."""
        if self in (Form.TEXT, Form.TEXT_BYTES):
            data = data.split(b"\0", 1)[0]  # where HDF5 ends it
        if self is Form.UTF32_ROWS:
            return data.decode("utf-32-be" if byteorder == ">" else "utf-32-le", "replace")
        return data.decode("utf-8", "surrogateescape") if self in (Form.TEXT, Form.TEXT_ROWS) else data

    def stored_row(self, shown: object, label: str) -> NDArray[Any]:
        """The elements of one row of bytes or text; a missing one is empty. Raises TypeError for anything else."""
        kind: type[bytes | str] = bytes if self is Form.BYTE_ROWS else str
        value = kind() if shown is None else shown
        if not isinstance(value, kind):
            raise TypeError(f"{label}: {value!r} is no {kind.__name__}, as the first of its values is")
        if isinstance(value, str):
            return np.frombuffer(value.encode("utf-32-le", "surrogatepass"), "<u4")
        return np.frombuffer(value, "u1")


def time64_seconds(stored: NDArray[Any]) -> NDArray[Any]:
    """PyTables' Time64 as it shows them itself, in conditions too: seconds since 1970."""
    seconds, microseconds = _halves(stored)
    return seconds + microseconds * 1e-6


def text_of(value: Any) -> str:
    """A value among texts as text; a missing one is the empty text, as xarray has it."""
    if isinstance(value, str):
        return str(value)
    import pandas as pd  # late: it takes longer to import than a file to look at

    return "" if pd.isna(value) else str(value)


def utf8(text: str, label: str) -> bytes:
    """Raises ValueError for half a character."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(
            f"{label}: {text!r} cannot be encoded: it holds half of a character (a lone surrogate). Repair the text"
        ) from None


def _halves(stored: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Seconds and microseconds."""
    return stored >> 32, (stored & 0xFFFFFFFF).astype("i4")


def _time64(microseconds: NDArray[Any], label: str) -> NDArray[Any]:
    seconds, rest = np.divmod(microseconds.astype(np.int64), _MICROSECONDS)
    if seconds.size and (seconds.min() < -(2**31) or seconds.max() >= 2**31):
        raise ValueError(f"{label}: a Time64 of PyTables holds times from 1901 to 2038, and no missing ones (NaT)")
    joined: NDArray[Any] = (seconds << 32) | rest
    return joined


def _fixed_text(values: NDArray[Any], label: str, width: int | None) -> NDArray[Any]:
    encoded = [utf8(text_of(value), label) for value in values.reshape(-1)]
    for data in encoded:
        if data.endswith(b"\0"):
            raise ValueError(f"{label}: fixed-length text cannot keep a NUL at its end")
    longest = max(map(len, encoded), default=1) or 1
    if width is not None and longest > width:
        text = max(encoded, key=len).decode("utf-8", "surrogateescape")
        raise ValueError(
            f"{label}: a text of {longest} bytes does not fit the {width} bytes that the array, or its encoding, has "
            f"for one: {text!r}. Write all of it anew with mode='a' and a wider dtype in encoding, or string='vlen'"
        )
    return np.array(encoded, dtype=f"S{width or longest}").reshape(values.shape)


def _texts(values: NDArray[Any], label: str) -> NDArray[Any]:
    texts = np.empty(values.shape, object)
    texts.reshape(-1)[:] = [text_of(value) for value in values.reshape(-1)]
    for text in texts.reshape(-1):
        utf8(text, label)
        if "\0" in text:
            raise ValueError(f"{label}: variable-length text cannot hold the NUL in {text!r}; string='fixed' can")
    return texts
