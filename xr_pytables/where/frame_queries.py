"""Conditions on pandas objects in the table format, as conditions on the table that they are stored in.

A condition names columns and the index as the dataset shows them, and compares times and text with text. The table has
integers and bytes, under names of its own. This module rewrites the one into the other and touches no file; missing
values meet no comparison but `!=`, as in NumPy.

Tested in `tests/model/test_hdfstore.py`.
"""

from __future__ import annotations

import ast
import datetime
from collections.abc import Hashable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, Final

import numpy as np
import pandas as pd

from ..model.frames import FREQUENCY, TIME_ZONE, is_zone_name
from ..model.specs import GroupSpec, VariableSpec
from ..parsing import expression
from ..time_units import NANOSECONDS
from .spellings import OPERATORS, as_list, instead, listed, plain
from .time_queries import is_not_least, nanoseconds, with_fraction

_EPOCH: Final = datetime.date(1970, 1, 1).toordinal()
_TURNED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE, ast.Eq: ast.Eq, ast.NotEq: ast.NotEq,
}  # fmt: skip


def as_stored(
    frame: GroupSpec, where: str, condvars: Mapping[str, object] | None, *, written: object
) -> tuple[tuple[VariableSpec, ...], str, dict[str, object]]:
    """The columns as the table has them, under the names of the frame, and the condition and its variables for those.

    Raises ValueError for objects in the fixed format, for columns that are not there or cannot be compared, and for
    constants that are no time where one is needed; and where the condition, as it was `written`, means something else
    to pandas. Text that cannot be parsed is left to the reader of conditions.
    """
    columns = {spec.name: spec for spec in frame.variables if spec.member and spec.decoding is not None}
    if frame.variables and not columns:
        raise ValueError(
            f"{frame.label} is stored in pandas' fixed format, in which nothing can be looked up; "
            "where needs the table format (format='table' in pandas). start, stop and step work"
        )
    given = dict(condvars or {})
    if isinstance(written, str) and (meant := instead(written, of_pandas=True)):
        raise _failure(frame, columns, f"where={written[:200]!r}: {OPERATORS}: {meant!r}")
    try:
        tree = expression(where)
        rewritten = _Rewriter(frame, columns, given).visit(tree)
        where = ast.unparse(rewritten)
        used = {node.id for node in ast.walk(rewritten) if isinstance(node, ast.Name)}
        given = {name: value for name, value in given.items() if name in used}
    except (SyntaxError, RecursionError, MemoryError, AttributeError):  # not text, or nothing that can be parsed
        pass
    stored = [_plain(spec) for spec in columns.values() if spec.categories is None and _kind(spec) != "missing"]
    return tuple(stored), where, given


def _plain(spec: VariableSpec) -> VariableSpec:
    """The column as the table has it."""
    dtype = spec.datatype.dtype
    if dtype is None:
        raise TypeError(f"{spec.path}: elements of kind {spec.datatype.kind!r} are no column")
    return replace(spec, dtype=dtype.newbyteorder("="), decoding=None, categories=None, attributes={})


class _Rewriter(ast.NodeTransformer):
    """Names become those of the table, and constants what is stored for them."""

    def __init__(
        self, frame: GroupSpec, columns: Mapping[Hashable, VariableSpec], condvars: Mapping[str, object]
    ) -> None:
        self._frame = frame
        self._columns = columns
        self._condvars = condvars

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self._condvars:
            return node
        column = self._column(node)
        if _is_converted(column):
            raise self._fail(f"column {node.id!r} of {_what(column)} can only be compared with a constant")
        return _name(column)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        return ast.Call(node.func, [self.visit(argument) for argument in node.args], node.keywords)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        values = listed(node, self._condvars)
        if values is not None and isinstance(node.left, ast.Name) and node.left.id not in self._condvars:
            found = self._column(node.left)
            if _is_converted(found):
                return self._among(found, node, values)
        if len(node.ops) == 1 and type(node.ops[0]) in _TURNED:
            for column, operator, other in (
                (node.left, type(node.ops[0]), node.comparators[0]),
                (node.comparators[0], _TURNED[type(node.ops[0])], node.left),
            ):
                if isinstance(column, ast.Name) and column.id not in self._condvars:
                    found = self._column(column)
                    if _is_converted(found) and self._is_constant(other):
                        return self._compared(found, operator, self._value(other))
        return ast.Compare(self.visit(node.left), node.ops, [self.visit(one) for one in node.comparators])

    def _column(self, node: ast.Name) -> VariableSpec:
        column = self._columns.get(node.id)
        if column is None and node.id == "index":  # pandas' own name for it in conditions
            column = self._columns.get(self._frame.row_dim)
        if column is None:
            raise self._fail(f"there is no column {node.id!r}")
        if column.categories is not None or _kind(column) == "missing":
            raise self._fail(f"column {node.id!r} of categories cannot be in a condition")
        if not str(column.name).isidentifier():
            raise self._fail(f"the index is called {column.name!r}, which no condition can name")
        return column

    def _is_constant(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id in self._condvars)

    def _value(self, node: ast.expr) -> object:
        return node.value if isinstance(node, ast.Constant) else plain(self._condvars[node.id])  # type: ignore[attr-defined]

    def _compared(self, column: VariableSpec, operator: type[ast.cmpop], value: object) -> ast.expr:
        if operator is ast.NotEq:
            return ast.UnaryOp(ast.Invert(), self._compared(column, ast.Eq, value))
        stored = self._stored_of(column, value)
        compared = _comparison(column, operator, stored)
        missing = _missing_text(column)
        if missing is not None:
            return ast.BinOp(compared, ast.BitAnd(), _comparison(column, ast.NotEq, missing))
        if isinstance(stored, Fraction) and operator in (ast.Lt, ast.LtE):  # what is missing is the least integer
            return ast.BinOp(compared, ast.BitAnd(), is_not_least(str(column.name)))
        return compared

    def _among(self, column: VariableSpec, node: ast.Compare, values: list[object]) -> ast.expr:
        """A list, of which text that stands for missing is no element, nor a time that the column cannot hold."""
        equals = [_comparison(column, ast.Eq, self._stored_of(column, value)).comparators[0] for value in values]
        missing = _missing_text(column)
        found = [one.value for one in equals if isinstance(one, ast.Constant) and one.value != missing]
        return as_list(ast.Compare(_name(column), node.ops, []), found)  # type: ignore[arg-type]

    def _stored_of(self, column: VariableSpec, value: object) -> Fraction | bytes:
        try:
            return _stored(column, value)
        except (ValueError, TypeError, OverflowError, AttributeError) as error:
            reason = f"column {column.name!r} of {_what(column)} cannot be compared with {value!r}: {error}"
            raise self._fail(reason) from None

    def _fail(self, reason: str) -> ValueError:
        return _failure(self._frame, self._columns, reason)


def _failure(frame: GroupSpec, columns: Mapping[Hashable, VariableSpec], reason: str) -> ValueError:
    usable = [
        repr(name)
        for name, spec in columns.items()
        if spec.categories is None and _kind(spec) != "missing" and str(name).isidentifier()
    ]
    return ValueError(f"{frame.label}: {reason}. Columns that a condition can use: {', '.join(usable) or 'none'}")


def _comparison(column: VariableSpec, operator: type[ast.cmpop], value: Fraction | bytes) -> ast.Compare:
    if isinstance(value, Fraction):
        return with_fraction(str(column.name), operator, value)
    return ast.Compare(_name(column), [operator()], [ast.Constant(value)])


def _name(column: VariableSpec) -> ast.expr:
    return ast.Name(str(column.name), ast.Load())


def _kind(spec: VariableSpec) -> str:
    return spec.decoding.kind if spec.decoding is not None else ""


def _missing_text(spec: VariableSpec) -> bytes | None:
    """What stands for missing text."""
    decoding = spec.decoding
    if decoding is None or decoding.kind != "text" or decoding.nan_rep is None:
        return None
    return decoding.nan_rep.encode(decoding.encoding, decoding.errors)


def _is_converted(spec: VariableSpec) -> bool:
    """Whether constants are stored in another form than they are written in."""
    return _kind(spec) != "plain" or FREQUENCY in spec.attributes


def _what(spec: VariableSpec) -> str:
    if FREQUENCY in spec.attributes:
        return "periods"
    return {"text": "text", "ordinals": "dates"}.get(_kind(spec), "times")


def _stored(spec: VariableSpec, value: Any) -> Fraction | bytes:
    """What the table has in place of a constant: a fraction where a time is between two that it can hold."""
    decoding = spec.decoding
    assert decoding is not None
    if decoding.kind == "text":
        if isinstance(value, bytes):
            return value
        if not isinstance(_written(value), str):
            raise TypeError("it is missing" if pd.isna(value) else "it is no text; write text")
        return str(value).encode(decoding.encoding, decoding.errors)
    if FREQUENCY in spec.attributes:
        moment = _period(value, spec.attributes[FREQUENCY])
    elif spec.dtype.kind == "m":
        moment = pd.Timedelta(_written(value))
    else:
        moment = _time(value, spec.attributes.get(TIME_ZONE))
    if moment is pd.NaT:
        raise ValueError("it is missing")
    if isinstance(moment, pd.Period):
        return Fraction(moment.ordinal)
    if decoding.kind == "ordinals":
        return Fraction(nanoseconds(moment), NANOSECONDS["D"]) + _EPOCH
    unit, _ = np.datetime_data(spec.dtype)
    return Fraction(nanoseconds(moment), NANOSECONDS[unit])


def _period(value: Any, freq: Any) -> Any:
    period = pd.Period(_written(value), freq=freq)
    if isinstance(value, pd.Period) and value.freq != period.freq:
        raise ValueError(f"its frequency is {value.freqstr!r}, that of the column {freq!r}")
    return period


def _time(value: Any, zone: object) -> Any:
    time = pd.Timestamp(_written(value))
    if zone is None and time.tz is not None:
        raise ValueError("the column has no time zone")
    if zone is None or time.tz is not None or time is pd.NaT:
        return time
    if isinstance(value, np.datetime64):  # as datasets show times
        return time.tz_localize("UTC")
    if not is_zone_name(str(zone)):
        raise ValueError(f"the column's time zone {zone!r} is not known; write the time with its offset from UTC")
    return time.tz_localize(zone)  # wall time, as pandas takes text in memory


def _written(value: object) -> object:
    """A constant that says what it means: text, or a time; no number."""
    if isinstance(value, bool | int | float | complex | np.number) and not isinstance(value, np.timedelta64):
        raise TypeError("it is a number; write text")
    return value
