"""Values of attributes and elements as text for people, and as what JSON can hold. Nothing is left raw for a terminal.

Tested in `tests/commands/test_info.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from .sources.source import printable
from .time_units import NANOSECONDS, are_whole

_MOST_SIGNS: Final = 120
_MOST_ELEMENTS: Final = 12
_SUFFIXES: Final = {"i1": "b", "u1": "ub", "i2": "s", "u2": "us", "u4": "u", "i8": "LL", "u8": "ULL", "f4": "f"}
"""What CDL puts behind numbers to tell their type; nothing for i4 and f8."""


def one_line(value: object) -> str:
    """A value in a line; of long ones the beginning, and how long they are."""
    if isinstance(value, str) and len(value) > _MOST_SIGNS:
        return f"{element(value[:_MOST_SIGNS])}... ({len(value)} characters)"
    if isinstance(value, np.ndarray) and not value.ndim:
        return element(value[()])
    if isinstance(value, np.ndarray | list | tuple):
        is_flat = not any(isinstance(one, np.ndarray | list | tuple) for one in value)
        if is_flat and len(value) > _MOST_ELEMENTS:
            return f"[{', '.join(map(element, value[:_MOST_ELEMENTS]))}, ...] ({len(value)} values)"
        return f"[{', '.join(map(one_line, value))}]"
    text = element(value)
    return text if len(text) <= 2 * _MOST_SIGNS else f"{text[: 2 * _MOST_SIGNS]}..."


def element(value: object) -> str:
    """One value: text in quotes, numbers in as few digits as tell them apart, times in ISO's form."""
    if isinstance(value, str | np.str_):
        return printable(json.dumps(str(value), ensure_ascii=False))
    if isinstance(value, np.datetime64 | np.timedelta64):
        return time(value)
    if isinstance(value, np.floating | np.integer | np.bool_ | np.complexfloating):
        return str(value)
    return printable(repr(value))


def time(value: np.datetime64 | np.timedelta64) -> str:
    """A time without the parts of a second, or of a day, that it does not have."""
    if np.isnat(value):
        return "NaT"
    unit, count = np.datetime_data(value.dtype)
    if unit not in NANOSECONDS or count != 1:  # of a pickle
        return str(value)
    if isinstance(value, np.timedelta64):
        for whole, word in (("D", "days"), ("h", "hours"), ("m", "minutes"), ("s", "seconds")):
            if are_whole(np.asarray(value), whole):
                return f"{value.astype(f'm8[{whole}]').astype(int)} {word}"
        return str(value)
    for whole in ("D", "s"):
        if are_whole(np.asarray(value), whole):
            return str(value.astype(f"M8[{whole}]"))
    return str(value).rstrip("0")


def cdl(value: object) -> str:
    """A value as CDL has it, with the suffix of its type."""
    if isinstance(value, np.ndarray | list | tuple):
        return ", ".join(map(cdl, value.flat if isinstance(value, np.ndarray) else value))
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        value = np.int64(value)
    if isinstance(value, float) and not isinstance(value, np.floating):
        value = np.float64(value)
    if isinstance(value, np.integer | np.floating):
        text = element(value)
        if isinstance(value, np.floating) and not math.isfinite(value):
            text = text.replace("nan", "NaN").replace("inf", "Infinity")
        elif isinstance(value, np.floating):
            text = text if set(text) & set(".e") else f"{text}."
        return text + _SUFFIXES.get(value.dtype.str[1:], "")
    return element(value)


def plain(value: Any) -> Any:
    """A value as what JSON can hold: numbers that JSON lacks and times as text, arrays as lists, bytes as text."""
    if isinstance(value, np.ndarray):
        return [plain(one) for one in value] if value.ndim else plain(value[()])
    if isinstance(value, np.datetime64 | np.timedelta64):
        return None if np.isnat(value) else time(value)
    if isinstance(value, np.void):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    return printable(repr(value))


def wrapped(words: Iterator[str], indent: str, width: int = 100) -> Iterator[str]:
    """Lines of words with commas between them."""
    line = indent
    first = True
    for word in words:
        if not first:
            line += ", "
        if len(line) + len(word) > width and line.strip():
            yield line.rstrip()
            line = indent
        line += word
        first = False
    yield line.rstrip()
