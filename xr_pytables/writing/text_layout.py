"""Text and bytes in the form in which they are stored.

Tested in `tests/writing/test_encoding.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import dask.array
import numpy as np
import pandas as pd
from xarray import Variable
from xarray.coding.strings import CharacterArrayCoder, EncodedStringCoder

from ..model.forms import Form, text_of
from ..model.specs import VariableSpec

_STRINGS: Final = ("fixed", "vlen")
TextStorage = Literal["fixed", "vlen", "characters"]


def is_to_be_text(encoding: Mapping[str, Any]) -> bool:
    """Whether an encoding is one of text, so that objects of which nobody can tell are text."""
    asked = encoding.get("dtype")
    return "string" in encoding or asked is str or asked == "S1" or declared_width(asked) is not None


def known_as_text(variable: Variable, first: np.ndarray | None, label: str, *, is_text: bool) -> Variable:
    """A Dask array of objects marked as text, if its first values are: xarray would load all of it to find out.

    `is_text` says that it is where the first values do not tell.
    """
    if variable.dtype.kind != "O" or variable.dtype.metadata or variable.chunks is None:
        return variable  # perhaps decoded meanwhile: times
    if not is_text and (first is None or not any(isinstance(value, str) for value in first)):
        return variable
    if first is not None and not all(isinstance(value, str) or pd.isna(value) for value in first):
        return variable
    meta = np.empty((0,) * variable.ndim, np.dtype(object, metadata={"element_type": str}))
    return variable.copy(data=variable.data.map_blocks(_only_text, label, meta=meta))


def _only_text(values: np.ndarray, label: str) -> np.ndarray:
    for value in values.reshape(-1):
        if not isinstance(value, str) and not pd.isna(value):
            raise TypeError(f"{label}: is text by its first block or its encoding, but also holds {value!r}")
    texts = values.copy()
    texts[pd.isna(values)] = ""
    return texts


def text_width(spec: VariableSpec | None) -> int | None:
    """Bytes of each text of an array of text of fixed length; None for other arrays."""
    dtype = spec.info.datatype.dtype if spec is not None and spec.form is Form.FIXED_TEXT else None
    return None if dtype is None else dtype.itemsize


def with_text(
    variable: Variable, wishes: Mapping[str, Any], label: str, width: int | None
) -> tuple[Variable, TextStorage | None]:
    """A variable of text or bytes in the form that is stored, and the form; None for other variables.

    Text is stored as fixed-length UTF-8 with a marker (see `attributes.TEXT_MARKER`), as variable-length strings, or
    on request (`dtype="S1"`) as netCDF's arrays of characters. `width` is that of an array in the file, in bytes,
    which blocks of text must fit.
    """
    metadata = variable.dtype.metadata or {}
    element = metadata.get("element_type", metadata.get("vlen"))
    is_text = variable.dtype.kind in "UT" or element is str
    if variable.dtype == "S1":  # single bytes are no text, and need no dimension along it
        return variable, None
    if wishes.get("dtype") in ("S1", np.dtype("S1")) and (is_text or element is bytes or variable.dtype.kind == "S"):
        if is_text and isinstance(variable.data, dask.array.Array):
            coded = _in_blocks_of_bytes(variable, label)  # xarray would compute them
        else:
            coded = EncodedStringCoder().encode(variable)  # type: ignore[no-untyped-call]
        return CharacterArrayCoder().encode(coded), "characters"  # type: ignore[no-untyped-call]
    if element is bytes:
        data = np.asarray(variable.data)
        if any(item.endswith(b"\0") for item in data.reshape(-1)):
            raise ValueError(f"{label}: fixed-length bytes cannot keep a NUL at their end; use an array of integers")
        return variable.copy(data=data.astype(np.bytes_)), None
    if not is_text:
        return variable, None
    data, declared = variable.data, declared_width(wishes.get("dtype"))
    any_length = isinstance(data, dask.array.Array) and variable.dtype.kind in "OT" and declared is None
    string = wishes.get("string") or ("vlen" if wishes.get("dtype") is str or any_length else "fixed")
    if string not in _STRINGS:
        raise ValueError(f"{label}: encoding string must be one of {_STRINGS}, not {string!r}")
    if string == "vlen":
        if isinstance(data, dask.array.Array):
            return variable.copy(data=data.map_blocks(Form.TEXT.stored, label, dtype=object)), "vlen"
        return variable.copy(data=Form.TEXT.stored(np.asarray(data), label)), "vlen"
    if isinstance(data, dask.array.Array):
        width = width or declared or _most_bytes(data)
        blocks = data.map_blocks(Form.FIXED_TEXT.stored, label, width=width, dtype=f"S{width}")
        return variable.copy(data=blocks), "fixed"
    return variable.copy(data=Form.FIXED_TEXT.stored(np.asarray(data), label, width=width or declared)), "fixed"


def _most_bytes(data: dask.array.Array) -> int:
    """As many as each text can need in UTF-8: of text of fixed length known without a look at all values."""
    return _longest(data) if data.dtype.kind != "U" else max(4 * data.dtype.itemsize // np.dtype("U1").itemsize, 1)


def _in_blocks_of_bytes(variable: Variable, label: str) -> Variable:
    """Text in Dask as xarray's `EncodedStringCoder` makes it bytes."""
    width, encoding = _most_bytes(variable.data), dict(variable.encoding)
    charset = encoding.pop("_Encoding", "utf-8")
    data = variable.data.map_blocks(in_bytes, width, charset, label, dtype=f"S{width}")
    return Variable(variable.dims, data, {**variable.attrs, "_Encoding": charset}, encoding)


def is_in_characters(variable: Variable, present: VariableSpec) -> bool:
    """Whether an array holds the texts or bytes of a variable as netCDF's characters, with a dimension more."""
    is_text = variable.dtype.kind in "SUTO" and present.info.datatype.dtype == "S1"
    return is_text and present.characters and len(present.shape) == variable.ndim + 1


def as_characters(variable: Variable, present: VariableSpec, label: str) -> Variable:
    """Texts or bytes as the characters of an array in the file: as many of each, and in its `_Encoding`."""
    width, charset = present.shape[-1], str(present.attributes.get("_Encoding", "utf-8"))
    dims, data = (*variable.dims, present.dims[-1]), variable.data
    if not isinstance(data, dask.array.Array):
        return Variable(dims, _characters(np.asarray(data), width, charset, label), variable.attrs)
    chunks = (*data.chunks, (width,))
    meta = np.empty((0,) * len(chunks), "S1")
    blocks = data.map_blocks(_characters, width, charset, label, new_axis=data.ndim, chunks=chunks, meta=meta)
    return Variable(dims, blocks, variable.attrs)


def _characters(values: np.ndarray, width: int, charset: str, label: str) -> np.ndarray:
    return in_bytes(values, width, charset, label).reshape(*values.shape, 1).view("S1")[..., :width]


def in_bytes(values: np.ndarray, width: int, charset: str, label: str) -> np.ndarray:
    """Texts or bytes as `width` bytes each. Raises ValueError for what has no form in them."""
    texts = values.reshape(-1).tolist()
    encoded = [value if isinstance(value, bytes) else _encoded(value, charset, label) for value in texts]
    for data in encoded:
        if len(data) > width or data.endswith(b"\0"):
            raise ValueError(
                f"{label}: {data!r} has no form in the {width} characters that the array has for each text. Shorten "
                "it, or write all of the array anew"
            )
    return np.array(encoded, f"S{max(width, 1)}").reshape(values.shape)


def _encoded(value: object, charset: str, label: str) -> bytes:
    if not isinstance(value, str) and not pd.isna(value):
        raise TypeError(f"{label}: the array holds text, and {value!r} is none. Convert it with astype(str)")
    text = text_of(value)
    try:
        return text.encode(charset)
    except (LookupError, UnicodeEncodeError) as error:
        raise ValueError(f"{label}: {text!r} has no form in the array's _Encoding={charset!r}: {error}") from None


def without_width(variable: Variable) -> Variable:
    """A variable of text for xarray's encoders, which would convert it to the declared width as ASCII."""
    if variable.dtype.kind not in "OUT" or declared_width(variable.encoding.get("dtype")) is None:
        return variable
    plain = variable.copy(deep=False)
    plain.encoding = {key: value for key, value in variable.encoding.items() if key != "dtype"}
    return plain


def declared_width(dtype: object) -> int | None:
    """Bytes of the longest text, if the encoding says so (`S12`; of `U12` the most that UTF-8 can need)."""
    if not isinstance(dtype, str | np.dtype):
        return None
    asked = np.dtype(dtype)
    if asked.kind == "U":
        return asked.itemsize or None
    return asked.itemsize if asked.kind == "S" and asked.itemsize > 1 else None


def _longest(data: dask.array.Array) -> int:
    """Bytes of the longest text, block by block: the data are computed once more when they are written."""
    if not data.size:
        return 1
    widths = data.map_blocks(_block_width, dtype=np.int64, chunks=tuple((1,) * n for n in data.numblocks))
    return max(int(widths.max().compute()), 1)


def _block_width(values: np.ndarray) -> np.ndarray:
    widths = [len(text_of(value).encode("utf-8", "surrogateescape")) for value in values.reshape(-1)]
    return np.full((1,) * values.ndim, max(widths, default=0), np.int64)
