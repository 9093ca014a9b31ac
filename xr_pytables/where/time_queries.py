"""Conditions that compare columns with times, as conditions on the numbers that the columns hold.

A column of times is one of PyTables (Time32, Time64) or integers or floats with CF's `units`: "days since 2000-01-01".
A constant that is a time, or text where a time is needed, becomes the number that stands for it. Where nothing can be
converted, the condition is refused: numbers of another meaning would be compared. Touches no file.

Tested in `tests/where/test_queries.py`.
"""

from __future__ import annotations

import ast
import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
import pandas as pd

from ..model.forms import Form
from ..model.specs import VariableSpec
from ..parsing import expression
from ..time_units import NANOSECONDS, OF_WORD
from .conditions import MAX_LENGTH
from .spellings import as_list, is_list, listed

_UNITS: Final = re.compile(r"\s*(\w+)\s+since\s+(\S.*?)\s*")
_LEAST: Final = -(2**63)
"""What stands for missing times in integers, and no condition can name."""
_BEYOND: Final = 2**63 - Fraction(1, 2)
"""No integer that a condition can name is above this, or below its negative."""
_CALENDARS: Final = ("standard", "gregorian", "proleptic_gregorian")
_REFORM: Final = pd.Timestamp("1582-10-15")
"""From here on the standard calendar is the Gregorian one."""
_TURNED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE, ast.Eq: ast.Eq, ast.NotEq: ast.NotEq,
}  # fmt: skip


def with_numbers(
    where: str, condvars: Mapping[str, object] | None, columns: Mapping[str, VariableSpec]
) -> tuple[str, Mapping[str, object] | None]:
    """The condition and its variables with numbers in place of times.

    Raises ValueError, naming the column, for times that it cannot be compared with. What cannot be parsed is left to
    the reader of conditions.
    """
    clocks = {name: spec for name, spec in columns.items() if _is_clock(spec)}
    given = condvars if isinstance(condvars, Mapping) else {}
    times = {name for name, value in given.items() if _is_time(value)}
    if not (clocks or times) or not isinstance(where, str) or len(where) > MAX_LENGTH:
        return where, condvars
    try:
        tree = expression(where)
        rewriter = _Rewriter(columns, clocks, given, times)
        rewritten = rewriter.visit(tree)
        if not rewriter.changed:
            return where, condvars
        return ast.unparse(rewritten), {name: value for name, value in given.items() if name not in times}
    except (SyntaxError, RecursionError, MemoryError):
        return where, condvars


def _is_clock(spec: VariableSpec) -> bool:
    return spec.datatype.kind in ("time", "integer", "float") and bool(
        _UNITS.fullmatch(str(spec.attributes.get("units", "")))
    )


def _is_time(value: object) -> bool:
    if isinstance(value, datetime.date | np.datetime64):  # Timestamp and datetime are dates
        return True
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_is_time, value))
    dtype = getattr(value, "dtype", None)
    return isinstance(dtype, np.dtype) and dtype.kind == "M"


class _Rewriter(ast.NodeTransformer):
    """Puts numbers in the place of times."""

    def __init__(
        self,
        columns: Mapping[str, VariableSpec],
        clocks: Mapping[str, VariableSpec],
        condvars: Mapping[str, object],
        times: set[str],
    ) -> None:
        self._columns = columns
        self._clocks = clocks
        self._condvars = condvars
        self._times = times
        self.changed = False

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self._times:
            what = "has times" if is_list(self._condvars[node.id]) else "is a time"
            raise ValueError(f"condvars[{node.id!r}] {what}, which can only be compared with a column of times")
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        values = listed(node, self._condvars)
        if values is not None and isinstance(node.left, ast.Name) and node.left.id not in self._condvars:
            return self._among(node, node.left.id, values)
        if len(node.ops) == 1 and type(node.ops[0]) in _TURNED:
            left, operator, right = node.left, type(node.ops[0]), node.comparators[0]
            for column, symbol, other in ((left, operator, right), (right, _TURNED[operator], left)):
                value = self._constant(other)
                if value is None or not isinstance(column, ast.Name) or column.id in self._condvars:
                    continue
                if column.id in self._clocks:
                    self.changed = True
                    return _compared(column.id, self._clocks[column.id], symbol, value)
                if _is_time(value):
                    raise ValueError(_no_times(column.id, self._columns))
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        if names & self._times:
            return self._in_seconds(node, names)
        return node

    def _among(self, node: ast.Compare, name: str, values: list[object]) -> ast.expr:
        if name not in self._clocks:
            if any(map(_is_time, values)):
                raise ValueError(_no_times(name, self._columns))
            return node
        if any(isinstance(value, str) or _is_time(value) for value in values):
            self.changed = True
            return as_list(node, _numbers(name, self._clocks[name], values))
        return node

    def _constant(self, node: ast.expr) -> object:
        """A time or a text that is compared with; None for all else, numbers among it."""
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(node, ast.Name):
            value = self._condvars.get(node.id)  # type: ignore[assignment]
        return value if isinstance(value, str) or _is_time(value) else None

    def _in_seconds(self, node: ast.Compare, names: set[str]) -> ast.expr:
        """Where times are part of an operation, they are what PyTables' columns of time have: seconds since 1970."""
        for name in sorted(names - self._condvars.keys()):
            spec = self._columns.get(name)
            if spec is not None and spec.datatype.kind != "time":
                raise ValueError(_no_times(name, self._columns) if name not in self._clocks else (
                    f"column {name!r} holds times in {spec.attributes['units']!r}: compare it with a time alone"
                ))  # fmt: skip
        self.changed = True
        return _Seconds({name: self._condvars[name] for name in self._times}).visit(node)  # type: ignore[no-any-return]


class _Seconds(ast.NodeTransformer):
    def __init__(self, times: Mapping[str, object]) -> None:
        self._times = times

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id not in self._times:
            return node
        return ast.Constant(_seconds(_timestamp(self._times[node.id])))


def _no_times(name: str, columns: Mapping[str, VariableSpec]) -> str:
    usable = ", ".join(repr(other) for other, spec in columns.items() if _is_clock(spec))
    return f"column {name!r} holds no times, so a time cannot be compared with it. Columns of times: {usable or 'none'}"


def _compared(name: str, spec: VariableSpec, operator: type[ast.cmpop], value: object) -> ast.expr:
    if operator is ast.NotEq:
        return ast.UnaryOp(ast.Invert(), _compared(name, spec, ast.Eq, value))
    compared: ast.expr = _comparison(name, spec, operator, value)
    for missing in _missing(spec):  # meets no comparison, as in NumPy
        present = is_not_least(name) if missing == _LEAST else _plain(name, ast.NotEq, missing)
        compared = ast.BinOp(compared, ast.BitAnd(), present)
    return compared


def _numbers(name: str, spec: VariableSpec, values: list[object]) -> list[int | float | bytes]:
    """The numbers that stand for times of a list, of those that the column can hold. A number is taken as it is."""
    found: list[int | float | bytes] = []
    for value in values:
        if isinstance(value, int | float):
            found.append(value)
            continue
        constant = _comparison(name, spec, ast.Eq, value).comparators[0]
        if isinstance(constant, ast.Constant) and constant.value not in _missing(spec):
            found.append(constant.value)  # type: ignore[arg-type]
    return found


def _missing(spec: VariableSpec) -> list[int | float]:
    """The numbers that stand for missing times in a column. (Missing integers are the least one, said or not.)"""
    found: list[int | float] = (
        [_LEAST] if spec.datatype.dtype is not None and spec.datatype.dtype.newbyteorder("=") == "i8" else []
    )
    for key in ("_FillValue", "missing_value"):
        value = spec.attributes.get(key)
        number = value.item() if isinstance(value, np.number) else value
        if isinstance(number, int | float) and number == number and number not in found:
            found.append(number)
    return found


def _comparison(name: str, spec: VariableSpec, operator: type[ast.cmpop], value: object) -> ast.Compare:
    """The comparison with the number that stands for a time. Raises ValueError if there is none."""
    try:
        return _with_number(name, spec, operator, _timestamp(value))
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"column {name!r} of times cannot be compared with {value!r}: {error}") from None


def _with_number(name: str, spec: VariableSpec, operator: type[ast.cmpop], time: pd.Timestamp) -> ast.Compare:
    if spec.form is Form.TIME64:
        return _plain(name, operator, _seconds(time))
    clock = _Clock.of(spec)
    number = Fraction(nanoseconds(time) - nanoseconds(clock.begin), clock.nanoseconds)
    if spec.datatype.kind == "float":
        return _plain(name, operator, float(number))
    return with_fraction(name, operator, number)


def with_fraction(name: str, operator: type[ast.cmpop], number: Fraction) -> ast.Compare:
    """The comparison (any but `!=`) of a column of integers with any number, beyond what they can hold, too."""
    number = min(max(number, -_BEYOND), _BEYOND)
    if number.denominator == 1:
        return _plain(name, operator, int(number))
    if operator is ast.Eq:  # no integer is between two
        return ast.Compare(ast.Name(name, ast.Load()), [ast.NotEq()], [ast.Name(name, ast.Load())])
    below, above = (ast.LtE, ast.Gt) if number > 0 else (ast.Lt, ast.GtE)  # than the integer towards zero
    return _plain(name, below if operator in (ast.Lt, ast.LtE) else above, int(number))


def is_not_least(name: str) -> ast.Compare:
    """Whether integers are not the least one of 64 bits."""
    return _plain(name, ast.GtE, _LEAST + 1)


def _plain(name: str, operator: type[ast.cmpop], value: int | float) -> ast.Compare:
    return ast.Compare(ast.Name(name, ast.Load()), [operator()], [ast.Constant(value)])


@dataclass(frozen=True)
class _Clock:
    """How a column counts time."""

    nanoseconds: int
    """Of one unit."""
    begin: pd.Timestamp
    """What zero stands for, in UTC."""

    @classmethod
    def of(cls, spec: VariableSpec) -> _Clock:
        """Raises ValueError for units and calendars that have no exact numbers here."""
        units, calendar = str(spec.attributes["units"]), spec.attributes.get("calendar", "standard")
        found = _UNITS.fullmatch(units)
        unit = OF_WORD.get(found[1].lower().removesuffix("s")) if found else None
        if found is None or unit is None:
            raise ValueError(f"its units {units!r} are not known here; compare it with a number")
        begin = _timestamp(found[2])
        if str(calendar).lower() not in _CALENDARS or (calendar != "proleptic_gregorian" and begin < _REFORM):
            raise ValueError(f"its times count in {units!r} of the calendar {calendar!r}; compare it with a number")
        packed = [key for key in ("scale_factor", "add_offset") if key in spec.attributes]
        if packed:
            raise ValueError(f"its times have the attribute {packed[0]!r}; compare it with a number")
        return cls(NANOSECONDS[unit], begin)


def _timestamp(value: object) -> pd.Timestamp:
    """A time in UTC without a zone. Raises ValueError for what is missing or none."""
    if getattr(value, "shape", ()) != ():
        raise ValueError("it is no single time")
    plain: Any = value if isinstance(value, str | datetime.date | np.datetime64) else np.asarray(value)[()]
    time = pd.Timestamp(plain)
    if time is pd.NaT:
        raise ValueError("it is missing")
    return time if time.tz is None else time.tz_convert("UTC").tz_localize(None)


def nanoseconds(time: pd.Timestamp | pd.Timedelta) -> int:
    """Of a duration, or since 1970; exact for times far from it, too."""
    return int(time.asm8.view("i8")) * NANOSECONDS[time.unit]


def _seconds(time: pd.Timestamp) -> float:
    """Since 1970, computed as PyTables computes those of a Time64 column, so that equal times are equal numbers."""
    whole, rest = divmod(nanoseconds(time), 10**9)
    return whole + rest / 1000 * 1e-6
