"""Attribute values: from the raw form in the file to Python, and from Python to what HDF5 can hold.

Knows PyTables' habits (system attributes, pickles) and this project's own (JSON text for what HDF5 lacks). Decodes
pickles with `safe_pickle` only. Knows no dataset and no xarray.

Tested in `tests/test_reading.py`, `tests/writing/test_writing.py` and `tests/test_attacks.py`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from ..hdf5.attributes import MAX_ATTRIBUTE_BYTES, RawAttribute, Unreadable
from ..hdf5.conversion import without_padding
from ..hdf5.datatype import Datatype
from .pytables_types import as_shown, has_form, with_truth

FORMAT_VERSION: Final = "PYTABLES_FORMAT_VERSION"
JSON_MARKER: Final = "_xr_pytables_json"
"""Names of the attributes of the same node whose text is JSON."""
ESCAPE: Final = "_xr_pytables_attribute_"
"""Prefix of a user's attribute whose own name means something to HDF5, netCDF-4 or PyTables."""
PANDAS_MARKER: Final = "pandas_type"
"""On the group of a pandas object."""
TEXT_MARKER: Final = "_xr_pytables_text"
"""On an array of fixed-length strings: they are text (`utf-8`), or single characters of texts (`characters`)."""
COMPACT_BYTES: Final = 60_000
"""What fits an object header message with name and type: its length is a 16-bit number."""
MAX_BYTES: Final = MAX_ATTRIBUTE_BYTES
"""What this package reads again."""

# tables.attributeset.issysattrname
_PYTABLES_NAMES: Final = frozenset(
    "CLASS VERSION TITLE NROWS EXTDIM ENCODING FLAVOR FILTERS AUTO_INDEX DIRTY NODE_TYPE NODE_TYPE_VERSION "
    "PSEUDOATOM".split()
)
_PYTABLES_CLASSES: Final = frozenset(
    "GROUP ARRAY CARRAY EARRAY VLARRAY TABLE IMAGE UNIMPLEMENTED UNKNOWN INDEX INDEXARRAY CACHEARRAY LASTROWARRAY "
    "DINDEX TINDEX CINDEX".split()
)
_FIELD_NAME = re.compile(r"FIELD_\d+_(NAME|FILL)\Z")
_CONVENTION_NAMES: Final = frozenset(
    {
        "DIMENSION_LIST",
        "REFERENCE_LIST",
        "DIMENSION_LABELS",
        "_Netcdf4Dimid",
        "_Netcdf4Coordinates",
        "_nc3_strict",
        "_NCProperties",
        "_ARRAY_DIMENSIONS",
        JSON_MARKER,
        TEXT_MARKER,
        FORMAT_VERSION,
    }
)
_OF_MATLAB: Final = frozenset({"MATLAB_empty", "MATLAB_int_decode", "MATLAB_global", "H5PATH"})
"""How MATLAB stores an array: what is shown is no more stored so."""
_RESERVED: Final = _CONVENTION_NAMES | (_PYTABLES_NAMES - {"TITLE"}) | {"NAME"}


@dataclass(frozen=True)
class OpaqueBytes:
    """An attribute's pickle that was not decoded, because decoding it could run code."""

    data: bytes
    reason: str

    def __repr__(self) -> str:
        return f"<{len(self.data)} bytes of an undecoded pickle: {self.reason}>"


class Attributes(NamedTuple):
    """What a node's attributes say to a user, and what was left out."""

    values: dict[str, object]
    problems: tuple[str, ...] = field(default=())
    """One sentence for each attribute that is not shown, or shown undecoded."""


def text(raw: RawAttribute | None) -> str | None:
    """A scalar string attribute as text; None for anything else."""
    if raw is None or not isinstance(raw.value, np.ndarray) or raw.datatype.kind not in ("string", "text"):
        return None
    if raw.value.size != 1:
        return None
    return _decoded(bytes(raw.value.reshape(-1)[0]), raw.datatype)


def numbers(raw: RawAttribute | None) -> tuple[int, ...] | None:
    """An attribute of integers, of any shape, flat; None for anything else."""
    if raw is None or not isinstance(raw.value, np.ndarray) or raw.value.dtype.kind not in "iu":
        return None
    return tuple(int(number) for number in raw.value.reshape(-1))


def texts(raw: RawAttribute | None) -> tuple[str, ...] | None:
    """An attribute of strings, of any shape, flat; None for anything else."""
    if raw is None or not isinstance(raw.value, np.ndarray) or raw.datatype.kind not in ("string", "text"):
        return None
    return tuple(_decoded(bytes(value), raw.datatype) for value in raw.value.reshape(-1))


def names(raw: RawAttribute | None) -> tuple[str | None, ...] | None:
    """An attribute that lists names, None for one that is missing or empty; None for an attribute of anything else.

    PyTables pickles a list that is set by its own means: then the restricted decoder reads it.
    """
    found: Sequence[object] | None = texts(raw)
    if found and raw is not None and isinstance(raw.value, np.ndarray) and raw.datatype.kind == "string":
        whole = raw.value.tobytes() if not raw.value.shape else b""
        listed = _string(whole, raw.datatype, by_pytables=True, allow_pickle=False)
        if isinstance(listed, np.ndarray) and listed.ndim == 1:
            listed = listed.tolist()
        if isinstance(listed, OpaqueBytes) or not isinstance(listed, str | bytes | list | tuple):
            return None
        found = listed if isinstance(listed, list | tuple) else found
    if found is None:
        return None
    decoded = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in found]
    if not all(name is None or isinstance(name, str) for name in decoded):
        return None
    return tuple(str(name) if name else None for name in decoded)


def value(raw: RawAttribute, *, allow_pickle: bool = False) -> object:
    """One attribute of a file by PyTables, as `read` gives it; Unreadable for what nobody can decode."""
    return _value(raw, by_pytables=True, allow_pickle=allow_pickle)


def format_version(root: Mapping[str, RawAttribute]) -> tuple[int, ...] | None:
    """The version of the PyTables format that the root group names; None for files of other writers."""
    version = text(root.get(FORMAT_VERSION))
    if version is None or not re.fullmatch(r"\d+(\.\d+)*", version):
        return None
    return tuple(int(part) for part in version.split("."))


def read(raw: Mapping[str, RawAttribute], *, by_pytables: bool, allow_pickle: bool = False) -> Attributes:
    """The user's attributes of a node.

    System attributes of PyTables, of dimension scales and of this project are left out; a TITLE that the user set is
    kept as `title`. `by_pytables` says that the file has PyTables' format version: only there an ASCII string that
    ends in "." may be a pickle. Pickles are decoded without importing or calling what they name; what this refuses
    is kept as OpaqueBytes, or unpickled for real with `allow_pickle`.
    """
    values: dict[str, object] = {}
    problems: list[str] = []
    coded = set(texts(raw[JSON_MARKER]) or ()) if JSON_MARKER in raw else set()
    kind = text(raw.get("CLASS"))
    system, scale = kind in _PYTABLES_CLASSES, kind == "DIMENSION_SCALE"
    for name, attribute in raw.items():
        if name in _OF_MATLAB and not raw.keys().isdisjoint({"MATLAB_class", "H5PATH"}):
            continue
        if name in _CONVENTION_NAMES or ((system or scale) and _is_hidden(name, system=system, scale=scale)):
            continue
        shown = name.removeprefix(ESCAPE)
        if name in coded:
            values[shown] = _from_json(attribute, values_on_failure=problems, name=shown)
            continue
        value = _value(attribute, by_pytables=by_pytables, allow_pickle=allow_pickle)
        rows = attribute.value if name == "MATLAB_fields" else None
        if isinstance(rows, np.ndarray) and rows.dtype.kind == "O":
            value = [np.asarray(letters).tobytes().decode("utf-8", "replace") for letters in rows.reshape(-1)]
        if isinstance(value, Unreadable):
            problems.append(f"attribute {name!r} is not shown: {value.reason}")
            continue
        if isinstance(value, OpaqueBytes):
            problems.append(f"attribute {name!r} is shown undecoded: {value.reason}")
        values[shown] = value
    if system and "title" not in values:
        title = text(raw.get("TITLE"))
        if title:
            values["title"] = title
    return Attributes(values, tuple(problems))


def _is_hidden(name: str, *, system: bool, scale: bool) -> bool:
    if scale and name in ("CLASS", "NAME"):
        return True
    return system and (name in _PYTABLES_NAMES or bool(_FIELD_NAME.match(name)))


def _value(attribute: RawAttribute, *, by_pytables: bool, allow_pickle: bool) -> object:
    value, datatype = attribute.value, attribute.datatype
    if value is None:
        return "" if datatype.kind in ("string", "text") else np.empty(0, datatype.dtype or float)
    if isinstance(value, list):
        return Unreadable("it holds object references")
    if isinstance(value, Unreadable):
        return value
    if datatype.kind == "string" and value.shape == ():
        return _string(value.tobytes(), datatype, by_pytables=by_pytables, allow_pickle=allow_pickle)
    if datatype.kind == "text" or (datatype.kind == "string" and (datatype.utf8 or not by_pytables)):
        decoded = [_decoded(bytes(item), datatype, whole=by_pytables) for item in value.reshape(-1)]
        if value.shape == () or (not by_pytables and value.shape == (1,)):
            return decoded[0]
        return decoded if value.ndim == 1 else np.array(decoded, object).reshape(value.shape)
    if by_pytables:
        value = value.view(with_truth(datatype).dtype or value.dtype) if datatype.kind == "bitfield" else value
    if value.dtype.kind == "V":
        value = without_padding(value, with_truth(datatype) if by_pytables else datatype)
    if value.dtype.kind == "V" or not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    # netCDF libraries write every scalar as an array of one element
    if value.shape == () or (not by_pytables and value.shape == (1,)):
        return value.reshape(-1)[0]
    return value.copy()


def _string(data: bytes, datatype: Datatype, *, by_pytables: bool, allow_pickle: bool) -> object:
    # PyTables stores pickles as ASCII; text it stores as UTF-8
    if by_pytables and not datatype.utf8 and data.endswith(b".") and data not in (b"0.", b"."):
        from . import safe_pickle  # late, as most files have no pickle

        try:
            value = safe_pickle.loads(data)
            return value[()] if isinstance(value, np.ndarray) and value.shape == () else value
        except safe_pickle.NotAPickleError:
            pass
        except safe_pickle.UnsafePickleError as error:
            if not allow_pickle:
                return OpaqueBytes(data, f"{error}; allow_pickle=True would run it, if you trust the file")
            return unpickled(data)
    if datatype.utf8 or not by_pytables:
        return _decoded(data, datatype, whole=by_pytables)
    return np.bytes_(data.rstrip(b"\0"))  # a width of zero is no HDF5 type


def unpickled(data: bytes) -> object:
    """What a pickle makes if it is run: only for data that the user trusts."""
    import pickle  # late, as users seldom allow it

    try:
        return pickle.loads(data)
    except Exception as error:  # whatever the code that the pickle names does; the rest of the file stays readable
        return OpaqueBytes(data, f"unpickling it fails: {type(error).__name__}: {error}")


def _decoded(data: bytes, datatype: Datatype, *, whole: bool = False) -> str:
    """`whole`: also what is behind the first NUL of text that ends at it, where NUL is padding for the writer."""
    if datatype.kind == "string":
        ends = datatype.padding == "null-terminated" and not whole
        data = data.split(b"\0", 1)[0] if ends else data.rstrip(b"\0")
        if datatype.space_padded:
            data = data.rstrip(b" ")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _from_json(attribute: RawAttribute, *, values_on_failure: list[str], name: str) -> object:
    stored = text(attribute)
    try:
        return json.loads(stored or "", object_hook=_with_bytes)
    except (ValueError, RecursionError) as error:  # not JSON; an integer too long, or lists too deep, for Python
        values_on_failure.append(f"attribute {name!r} is shown as text: it is marked as JSON, but {error}")
        return stored


def is_reserved(name: str) -> bool:
    """Whether an attribute of that name means something to HDF5, netCDF-4, PyTables or this project."""
    own = name in (JSON_MARKER, TEXT_MARKER)  # about the user's own attributes and values: rewritten with them
    return not own and (name in _RESERVED or name == "TITLE" or bool(_FIELD_NAME.match(name)))


_JSON_BYTES: Final = "_xr_pytables_bytes"
"""Key of an object that stands for bytes, as base64 text."""


def _with_bytes(item: dict[str, object]) -> object:
    coded = item.get(_JSON_BYTES)
    if len(item) != 1 or not isinstance(coded, str):
        return item
    try:
        return base64.b64decode(coded, validate=True)
    except ValueError:
        return item


@dataclass(frozen=True)
class EncodedAttribute:
    """An attribute as it will be stored."""

    name: str
    value: np.ndarray | None
    """An array (0-d for a scalar) of numbers or `S` strings; None for the empty string (a null dataspace)."""
    utf8: bool = False


def encode(
    attributes: Mapping[str, object] | Iterable[tuple[str, object]],
    *,
    where: str,
    leave_out: Callable[[str], None] | None = None,
    means_something: Callable[[str], bool] = lambda name: False,
) -> list[EncodedAttribute]:
    """How HDF5 will hold `attributes`: natively where it can, else as JSON text that `read` restores.

    Names that mean something are stored with a prefix: those that do everywhere, and those of which
    `means_something` says that they do in this node.

    Native: numbers, complex, strings, bytes, records, times, arrays of them, lists of numbers or of strings. JSON:
    None, bool, dict, other lists and tuples. Values with neither form are left out if `leave_out` is there to be told
    why; else they raise TypeError, as names do that are not strings. Raises ValueError for empty names and for more
    than MAX_BYTES. Messages begin with `where`.
    """
    encoded, coded = [], []
    for name, value in dict(attributes).items():
        if not isinstance(name, str):
            raise TypeError(f"{where}: attribute name {name!r} is not a string")
        if not name or "\0" in name:
            raise ValueError(f"{where}: attribute name {name!r} is empty or holds a NUL")
        if len(name.encode("utf-8", "surrogatepass")) > COMPACT_BYTES:
            raise ValueError(f"{where}: attribute name {name[:40]!r}... of {len(name)} letters is too long for HDF5")
        is_taken = name in _RESERVED or name.startswith(ESCAPE) or _FIELD_NAME.match(name) or means_something(name)
        stored_name = ESCAPE + name if is_taken else name
        native = _native(value)
        if isinstance(native, _NoNativeForm):
            try:
                native = _encoded_text(_to_json(value, where=where, name=name))
            except TypeError as error:
                if leave_out is None:
                    raise
                leave_out(f"{error}. It was read from a file, and is left out")
                continue
            coded.append(stored_name)
        elif stored_name == "TITLE" and not isinstance(value, str):  # PyTables cannot open a file with such a TITLE
            stored_name = ESCAPE + name
        array, utf8 = native
        if array is not None and array.nbytes > MAX_BYTES:
            raise ValueError(
                f"{where}: attribute {name!r} takes {array.nbytes} bytes; at most {MAX_BYTES} are read again. Store it "
                "as a variable"
            )
        encoded.append(EncodedAttribute(stored_name, array, utf8))
    if coded:
        names = np.array([name.encode() for name in coded])
        encoded.append(EncodedAttribute(JSON_MARKER, names, utf8=True))
    return encoded


def are_large(encoded: Iterable[EncodedAttribute]) -> bool:
    """Whether one of the attributes does not fit an object header, so that the object must be made for it."""
    return any(attribute.value is not None and attribute.value.nbytes > COMPACT_BYTES for attribute in encoded)


def text_marker(form: str) -> EncodedAttribute:
    """The attribute that tells text from bytes: `utf-8`, or `characters` along the last dimension."""
    return EncodedAttribute(TEXT_MARKER, np.array(form.encode()), utf8=True)


class _NoNativeForm:
    pass


_Native = tuple[np.ndarray | None, bool]


def _is_masked(value: object) -> bool:
    """Whether an element of it, or a member of one, is masked."""
    return isinstance(value, np.ma.MaskedArray) and bool(np.ma.flatten_mask(np.ma.getmaskarray(value)).any())


def _native(value: object) -> _Native | _NoNativeForm:
    if _is_masked(value):
        return _NoNativeForm()
    if isinstance(value, str):
        return _encoded_text(value)
    if isinstance(value, bytes):
        if not value or value.endswith((b".", b"\0")):  # might be taken for a pickle; padding is lost
            return _NoNativeForm()
        return (np.array(value, f"S{len(value)}"), False)
    if value is None or isinstance(value, bool | np.bool_ | dict):
        return _NoNativeForm()
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        return _encoded_texts(np.array([item.encode() for item in value]))
    if isinstance(value, list | tuple) and not _is_flat_numbers(value):
        return _NoNativeForm()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        return _NoNativeForm()
    if array.dtype.kind == "U" or (array.dtype.kind in "OT" and all(isinstance(item, str) for item in array.flat)):
        coded = [str(item).encode() for item in array.flat]
        return _encoded_texts(np.array(coded or [b""]).reshape(array.shape)) if array.size else _NoNativeForm()
    if array.dtype.kind in "mM":
        shown = as_shown(array.dtype) or np.dtype("M8[s]")
        array = array.astype(shown) if np.can_cast(array.dtype, shown, "safe") else np.empty(0)
    if array.dtype.kind not in "iufcSVmM" or not array.size or not has_form(array.dtype):
        return _NoNativeForm()
    if array.dtype == np.float16:  # netCDF-C crashes on it, and the value is the same
        array = array.astype(np.float32)
    return (array, False)


def _is_flat_numbers(value: list[object] | tuple[object, ...]) -> bool:
    numeric = (int, float, complex, np.number)
    return bool(value) and all(isinstance(item, numeric) and not isinstance(item, bool) for item in value)


def _encoded_text(value: str) -> _Native:
    data = value.encode("utf-8", "surrogateescape")
    return (np.array(data, f"S{len(data)}") if data else None, True)


def _encoded_texts(values: np.ndarray) -> _Native | _NoNativeForm:
    # a width of zero is no HDF5 type, and netCDF-C misreads trailing NULs
    return (values.astype("S1") if values.dtype.itemsize == 0 else values, True)


def _to_json(value: object, *, where: str, name: str) -> str:
    def plain(item: object) -> object:
        if _is_masked(item):
            raise TypeError("it has masked elements: give them values with .filled()")
        if isinstance(item, bytes):
            return {_JSON_BYTES: base64.b64encode(item).decode()}
        if isinstance(item, np.generic | np.ndarray) and item.dtype.kind in "biufU":
            return item.tolist()
        raise TypeError(f"no JSON form for {type(item).__name__}")

    try:
        return json.dumps(value, default=plain, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{where}: attribute {name!r} of type {type(value).__name__} has no form in HDF5 ({error}). "
            "Give a number, a string, an array, or what JSON can hold"
        ) from None
