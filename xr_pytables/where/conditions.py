"""Conditions on the rows of a table, as `Table.where` of PyTables has them: checked, compiled, evaluated on blocks.

A condition comes as text, and numexpr turns text into code with `eval`. So the text is parsed here first, and only a
tree of the nodes that are listed below, with names that are known, ever reaches numexpr: nothing of it can be run as
Python. Knows columns by name and dtype; knows no file.

Tested in `tests/where/test_queries.py`.
"""

from __future__ import annotations

import ast
import math
import operator
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numexpr
import numpy as np
from numpy.typing import NDArray

from ..parsing import expression
from .spellings import OPERATORS, instead, is_list, listed

FUNCTIONS: Final = frozenset(
    "abs arccos arccosh arcsin arcsinh arctan arctan2 arctanh ceil complex conj contains copysign cos cosh exp expm1 "
    "floor fmod hypot imag isfinite isinf isnan log log10 log1p log2 maximum minimum real round sign signbit sin sinh "
    "sqrt tan tanh trunc where".split()
)
"""Functions of numexpr that give one value for each row, as far as the installed version has them."""
MAX_LENGTH: Final = 10_000  # characters: more would only serve to exhaust the parser
_MAX_POWER: Final = 64

_ARITHMETIC: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}
_UNARY: Final[dict[type[ast.unaryop], Callable[[Any], Any]]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
Operator = Literal["<", "<=", "==", ">=", ">", "!="]
_COMPARISONS: Final[dict[type[ast.cmpop], Operator]] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Eq: "==", ast.GtE: ">=", ast.Gt: ">", ast.NotEq: "!=",
}  # fmt: skip
_COMPARE: Final[dict[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Eq: operator.eq,
    ast.GtE: operator.ge, ast.Gt: operator.gt, ast.NotEq: operator.ne,
}  # fmt: skip
_BY_SYMBOL: Final = {symbol: _COMPARE[kind] for kind, symbol in _COMPARISONS.items()}
_TURNED: Final[dict[Operator, Operator]] = {"<": ">", "<=": ">=", "==": "==", ">=": "<=", ">": "<", "!=": "!="}


@dataclass(frozen=True)
class Comparison:
    """A column against a constant: what an index can answer."""

    column: str
    operator: Operator
    value: Any
    """A number (never NaN), a bool or bytes."""

    def is_met_by(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """For each of the column's values whether it is true."""
        met: NDArray[np.bool_] = _BY_SYMBOL[self.operator](values, np.asarray(self.value))
        return met


@dataclass(frozen=True)
class AllOf:
    """Rows that meet both parts; None where no index can answer."""

    parts: tuple[Indexable, Indexable]


@dataclass(frozen=True)
class AnyOf:
    """Rows that meet one of the parts."""

    parts: tuple[Indexable, Indexable]


Indexable = Comparison | AllOf | AnyOf | None
"""What of a condition indexes can answer: every row that meets the condition meets this, too."""


@dataclass(frozen=True, eq=False)
class Condition:
    """A checked and compiled condition."""

    text: str
    columns: tuple[str, ...]
    """Names of the columns that it needs."""
    indexable: Indexable
    _dtypes: tuple[np.dtype[Any], ...]
    """What each column is converted to."""
    _constants: tuple[NDArray[Any], ...]
    """Those that numexpr needs."""
    _by_numpy: tuple[_TextComparison | _Membership, ...]
    _used: tuple[int, ...]
    """Places of the columns that numexpr needs."""
    _function: Any

    def evaluate(self, columns: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
        """For each row whether it meets the condition; `columns` are in the order of `self.columns`."""
        rows = len(columns[0])
        arrays = [_converted(column, dtype) for column, dtype in zip(columns, self._dtypes, strict=True)]
        computed_here = [part.evaluate(arrays) for part in self._by_numpy]
        with _lock:
            computed = self._function(*[arrays[place] for place in self._used], *self._constants, *computed_here)
        met: NDArray[np.bool_] = np.broadcast_to(computed, (rows,))
        return met


@dataclass(frozen=True, eq=False)
class _TextComparison:
    """Text against text, which NumPy compares as the bytes are ordered.

    (numexpr takes them for `char`, so that on most machines those above 127 come before all others, and rows are found
    by an index that are not found without.)
    """

    left: int | NDArray[Any]
    """The place of a column, or a constant."""
    compare: Callable[[Any, Any], Any]
    right: int | NDArray[Any]

    def evaluate(self, columns: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
        left, right = (columns[side] if isinstance(side, int) else side for side in (self.left, self.right))
        met: NDArray[np.bool_] = np.asarray(self.compare(left, right))
        return met


@dataclass(frozen=True, eq=False)
class _Membership:
    """Whether values are among some."""

    column: int
    """Its place."""
    values: NDArray[Any]
    """Exactly as they are, so that a column of float32 has no element 0.1."""
    inside: bool

    def evaluate(self, columns: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
        return np.isin(columns[self.column], self.values, invert=not self.inside)


_lock = threading.Lock()
"""numexpr's virtual machine has one set of threads and parameters for the process."""


def _renew_lock() -> None:
    """After a fork: a thread that is gone may have held it."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def compile_condition(
    text: str, dtypes: Mapping[str, np.dtype[Any] | str], condvars: Mapping[str, object] | None = None
) -> Condition:
    """Check a condition on the columns `dtypes` and compile it.

    A column that cannot be in a condition comes as text, the reason why. `condvars` gives values to further names, and
    takes precedence over columns. Types are those of numexpr, as in PyTables: small integers count as int32, uint32 as
    int64, numbers with a point as float64. Raises ValueError saying what is wrong, TypeError for what is not text.
    """
    if not isinstance(text, str):
        raise TypeError(f"where must be text, not {type(text).__name__}")
    fail = _Failure(text, dtypes)
    if len(text) > MAX_LENGTH:
        raise ValueError(f"where has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    names = _Names(dtypes, _checked_condvars(condvars or {}), condvars or {}, fail)
    try:
        tree = expression(text)
        return _compiled(text, _checked(tree, names, fail), names, fail)
    except SyntaxError as error:
        meant = instead(text)
        hint = f"; {OPERATORS}: {meant!r}" if meant else ""
        raise fail(f"it cannot be parsed ({error.msg}){hint}") from None
    except (RecursionError, MemoryError):
        raise ValueError("where is nested too deeply") from None


@dataclass(frozen=True)
class _Failure:
    """Makes errors that say what there is."""

    text: str
    columns: Mapping[str, np.dtype[Any] | str]

    def __call__(self, reason: str) -> ValueError:
        usable = [name for name, dtype in self.columns.items() if not isinstance(dtype, str)]
        shown = ", ".join(map(repr, usable)) or "none"
        return ValueError(f"where={self.text[:200]!r}: {reason}. Columns that a condition can use: {shown}")


def _checked_condvars(condvars: Mapping[str, object]) -> dict[str, NDArray[Any]]:
    if not isinstance(condvars, Mapping):
        raise TypeError(f"condvars must map names to values, not {type(condvars).__name__}")
    return {name: _constant_array(name, value) for name, value in condvars.items() if not is_list(value)}


def _constant_array(name: str, value: object) -> NDArray[Any]:
    """A constant as an array of a type that numexpr has."""
    array = np.asarray(value.encode() if isinstance(value, str) else value)
    if array.shape:
        raise ValueError(f"condvars[{name!r}] must be a single value, not an array of shape {array.shape}")
    if array.dtype.kind == "U":
        return np.asarray(str(array).encode())
    target = numexpr_dtype(array.dtype)
    if isinstance(target, str):
        raise ValueError(f"condvars[{name!r}] cannot be in a condition: {target}")
    return array.astype(target)


def numexpr_dtype(dtype: np.dtype[Any]) -> np.dtype[Any] | str:
    """The type as which numexpr computes with a column (as PyTables chooses it), or why it cannot."""
    kind, size = dtype.kind, dtype.itemsize
    if kind in "bS":
        return dtype
    if kind == "u" and size == 8:
        return "numexpr has no unsigned 64-bit integers"
    if kind in "iu":
        return np.dtype("i4") if size < 4 or (kind == "i" and size == 4) else np.dtype("i8")
    if kind == "f" and size <= 8:
        return np.dtype("f4") if size <= 4 else np.dtype("f8")
    if kind == "c" and size <= 16:
        return np.dtype("c16")
    return f"numexpr has no type {dtype}"


def _converted(column: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(column, dtype)


class _Names:
    """The names in a condition, and the plain ones that they get for numexpr (its functions hide others)."""

    def __init__(
        self,
        dtypes: Mapping[str, np.dtype[Any] | str],
        condvars: Mapping[str, NDArray[Any]],
        given: Mapping[str, object],
        fail: _Failure,
    ) -> None:
        self.dtypes, self.condvars, self.given, self.fail = dtypes, condvars, given, fail
        self.columns: dict[str, str] = {}
        """Plain names by name of the column."""
        self.constants: dict[str, NDArray[Any]] = {}
        """Values by plain name."""

    def plain(self, name: str) -> str:
        if name in self.condvars:
            return self.constant(self.condvars[name])
        if name in self.given:
            raise ValueError(
                f"condvars[{name!r}] must be a single value, not an array of shape {np.shape(list(self.given[name]))}; "  # type: ignore[call-overload]
                f"or stand behind 'in': 'column in {name}'"
            )
        dtype = self.dtypes.get(name)
        if dtype is None:
            raise self.fail(f"there is no column {name!r}")
        if isinstance(dtype, str):
            raise self.fail(f"column {name!r} cannot be in a condition: {dtype}")
        return self.columns.setdefault(name, f"column{len(self.columns)}")

    def constant(self, value: NDArray[Any]) -> str:
        name = f"constant{len(self.constants)}"
        self.constants[name] = value
        return name

    def is_text(self, plain: str) -> bool:
        """Whether a plain name is that of a column of text or of a constant that is text."""
        column = self.column_of(plain)
        dtype = self.constants[plain].dtype if column is None else self.dtypes[column]
        return not isinstance(dtype, str) and dtype.kind == "S"

    def operand(self, plain: str) -> int | NDArray[Any]:
        """The place of a column among all, or a constant."""
        column = self.column_of(plain)
        return self.constants[plain] if column is None else list(self.columns).index(column)

    def column_of(self, plain: str) -> str | None:
        return next((name for name, its in self.columns.items() if its == plain), None)


def _checked(node: ast.expr, names: _Names, fail: _Failure) -> ast.expr:
    """A new tree of allowed nodes only: names replaced by plain ones, operations on constants carried out."""

    def again(child: ast.expr) -> ast.expr:
        return _checked(child, names, fail)

    if isinstance(node, ast.Constant):
        return _checked_constant(node.value, names, fail)
    if isinstance(node, ast.Name):
        return ast.Name(names.plain(node.id), ast.Load())
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _folded(ast.BinOp(again(node.left), node.op, again(node.right)), fail)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return ast.UnaryOp(node.op, again(node.operand))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        if isinstance(node.operand, ast.Constant) and isinstance(node.operand.value, int | float | complex):
            return again(ast.Constant(_UNARY[type(node.op)](node.operand.value)))  # -2**63 has no positive counterpart
        operand = again(node.operand)
        if isinstance(operand, ast.Constant):
            return ast.Constant(_UNARY[type(node.op)](operand.value))
        return ast.UnaryOp(node.op, operand)
    if isinstance(node, ast.Compare):
        if len(node.ops) != 1:
            meant = instead(ast.unparse(node))
            raise fail(
                "comparisons cannot be chained: write (0 < a) & (a < 1); & and | bind closer than <, so that their "
                f"parts need brackets{f'. Did you mean {meant!r}?' if meant else ''}"
            )
        if isinstance(node.ops[0], ast.In | ast.NotIn) and (values := listed(node, names.given)) is not None:
            return _checked_membership(node, values, names, fail)
        if type(node.ops[0]) in _COMPARISONS:
            return ast.Compare(again(node.left), list(node.ops), [again(node.comparators[0])])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id not in FUNCTIONS or node.func.id not in numexpr.expressions.functions:
            raise fail(f"there is no function {node.func.id!r}")
        return ast.Call(ast.Name(node.func.id, ast.Load()), [again(argument) for argument in node.args], [])
    if isinstance(node, ast.BoolOp) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)):
        why, meant = _WHY_NOT[type(node)], instead(fail.text)
        raise fail(f"{why}: {meant!r}" if meant else why)
    raise fail(_WHY_NOT.get(type(node), f"{ast.unparse(node)[:80]!r} is nothing that a condition can have"))


_WHY_NOT: Final[dict[type[ast.AST], str]] = {
    ast.BoolOp: "write & for 'and', | for 'or', and brackets around their parts",
    ast.UnaryOp: "write ~ for 'not'",
    ast.Attribute: "nested columns cannot be in a condition",
    ast.List: "a list stands behind 'in' or 'not in', without columns in it: number in [1, 2, 5]",
}


def _checked_membership(node: ast.Compare, values: list[object], names: _Names, fail: _Failure) -> ast.expr:
    """A column, the operator, and the name of a constant that holds the values."""
    if not isinstance(node.left, ast.Name) or node.left.id in names.given:
        raise fail(f"only a column can stand before 'in', not {ast.unparse(node.left)[:80]!r}")
    plain, dtype = names.plain(node.left.id), names.dtypes[node.left.id]
    assert not isinstance(dtype, str)  # else there is no plain name
    try:
        chosen = _choices(values, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise fail(f"column {node.left.id!r} of {dtype} cannot be in this list: {error}") from None
    return ast.Compare(ast.Name(plain, ast.Load()), list(node.ops), [ast.Name(names.constant(chosen), ast.Load())])


def _choices(values: list[object], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Those of the values that a column can have, exactly. Raises TypeError for what it can never be compared with."""
    if dtype.kind == "S":
        texts = [value.encode() if isinstance(value, str) else value for value in values]
        _check_all(texts, bytes, "text")
        return np.array(texts, "S") if texts else np.empty(0, "S1")
    if dtype.kind == "c":
        _check_all(values, int | float | complex, "a number")
        return np.array([value for value in values if _is_as_float(value)], "c16")
    _check_all(values, int | float, "a number")
    numbers: list[Any] = [value for value in values if value == value]  # NaN equals nothing
    if dtype.kind == "f":
        return np.array([value for value in numbers if _is_as_float(value)], "f8")
    integers = [int(value) for value in numbers if not isinstance(value, float) or value.is_integer()]
    return np.array([value for value in integers if -(2**63) <= value < 2**63], "i8")


def _is_as_float(number: Any) -> bool:
    """Whether a float is what the number is: others would be rounded to one. Floats and complex numbers are."""
    try:
        return not isinstance(number, int) or float(number) == number
    except OverflowError:
        return False


def _check_all(values: list[Any], kind: Any, called: str) -> None:
    for value in values:
        if not isinstance(value, kind):
            raise TypeError(f"{value!r} is not {called}")


def _checked_constant(value: object, names: _Names, fail: _Failure) -> ast.expr:
    if isinstance(value, str | bytes):  # by name: the text of a constant never becomes part of what is compiled
        data = value.encode() if isinstance(value, str) else value
        return ast.Name(names.constant(np.asarray(data)), ast.Load())
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise fail(f"{value if abs(value) < 10**40 else 'an integer'} is beyond 64 bits")
    if isinstance(value, bool | int | float | complex):
        return ast.Constant(value)
    raise fail(f"{value!r} is no constant that a condition can have")


def _folded(node: ast.BinOp, fail: _Failure) -> ast.expr:
    """The value of an operation on constants. Python would compute any power, for hours."""
    left, right = node.left, node.right
    if not (isinstance(left, ast.Constant) and isinstance(right, ast.Constant)):
        return node
    a: Any = left.value  # numbers: see _checked_constant
    b: Any = right.value
    if isinstance(node.op, ast.Pow | ast.LShift) and abs(b) > _MAX_POWER:
        raise fail(f"{ast.unparse(node)[:80]!r} is too large")
    try:
        value = _ARITHMETIC[type(node.op)](a, b)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise fail(f"{ast.unparse(node)[:80]!r}: {error}") from None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise fail(f"{ast.unparse(node)[:80]!r} is beyond 64 bits")
    if value != value:  # NaN has no name that numexpr knows
        raise fail(f"{ast.unparse(node)[:80]!r} is not a number")
    return ast.Constant(value)


class _ByNumPy(ast.NodeTransformer):
    """Takes comparisons of texts, and lists, out of a checked tree: a name stands for the result of each."""

    def __init__(self, names: _Names) -> None:
        self._names = names
        self.found: dict[str, _TextComparison | _Membership] = {}
        """By plain name."""

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        sides = [node.left, node.comparators[0]]
        operands = [self._names.operand(side.id) for side in sides if isinstance(side, ast.Name)]
        if isinstance(node.ops[0], ast.In | ast.NotIn):
            column, values = operands
            assert isinstance(column, int)
            assert not isinstance(values, int)
            return self._name_of(_Membership(column, values, isinstance(node.ops[0], ast.In)))
        plain = [side.id for side in sides if isinstance(side, ast.Name) and self._names.is_text(side.id)]
        if len(plain) < len(sides):
            return self.generic_visit(node)  # type: ignore[return-value]
        left, right = operands
        return self._name_of(_TextComparison(left, _COMPARE[type(node.ops[0])], right))

    def _name_of(self, part: _TextComparison | _Membership) -> ast.Name:
        name = f"numpy{len(self.found)}"
        self.found[name] = part
        return ast.Name(name, ast.Load())


def _compiled(text: str, tree: ast.expr, names: _Names, fail: _Failure) -> Condition:
    if not names.columns:
        raise fail("it names no column")
    dtypes = tuple(_numexpr_dtype_of(names.dtypes[name]) for name in names.columns)
    arrays = [np.zeros(1, dtype) for dtype in dtypes]
    indexable, by_numpy = _indexable(tree, names), _ByNumPy(names)
    tree = by_numpy.visit(tree)
    source, needed = ast.unparse(tree), {part.id for part in ast.walk(tree) if isinstance(part, ast.Name)}
    used = tuple(place for place, plain in enumerate(names.columns.values()) if plain in needed)
    constants = {plain: array for plain, array in names.constants.items() if plain in needed}
    inputs = dict(zip(names.columns.values(), arrays, strict=True))
    inputs = {plain: array for plain, array in inputs.items() if plain in needed} | constants
    inputs |= {plain: one.evaluate(arrays) for plain, one in by_numpy.found.items()}
    signature = [(plain, _numexpr_type(array.dtype)) for plain, array in inputs.items()]
    try:
        # as PyTables compiles it: the optimizations of numexpr round powers otherwise
        function = numexpr.NumExpr(source, signature, optimization="none")
        with _lock:
            result = function(*inputs.values())
    except (NotImplementedError, TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
        raise fail(f"numexpr cannot compute it ({error}); & and | need brackets around comparisons") from None
    if result.dtype != np.bool_:
        raise fail(f"it gives {result.dtype}, not true or false for each row")
    columns, found = tuple(names.columns), tuple(by_numpy.found.values())
    return Condition(text, columns, indexable, dtypes, tuple(constants.values()), found, used, function)


def _numexpr_dtype_of(dtype: np.dtype[Any] | str) -> np.dtype[Any]:
    assert not isinstance(dtype, str)  # the names were checked
    target = numexpr_dtype(dtype)
    assert not isinstance(target, str)
    return target


def _numexpr_type(dtype: np.dtype[Any]) -> type:
    """What numexpr's signatures call a type."""
    types = numexpr.necompiler
    known: dict[str, type] = {
        "b1": bool, "i4": types.int_, "i8": types.long_, "f4": float, "f8": types.double, "c16": complex,
    }  # fmt: skip
    return known.get(f"{dtype.kind}{dtype.itemsize}", bytes)


# -- what indexes can answer ----------------------------------------------------------------------------------


def _indexable(node: ast.expr, names: _Names) -> Indexable:
    if isinstance(node, ast.Name):
        return _truth(node, names, True)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert) and isinstance(node.operand, ast.Name):
        return _truth(node.operand, names, False)
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
        return _any_of(node, names)
    if isinstance(node, ast.Compare):
        symbol = _COMPARISONS[type(node.ops[0])]
        left, right = node.left, node.comparators[0]
        return _comparison(left, symbol, right, names) or _comparison(right, _TURNED[symbol], left, names)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
        left_part, right_part = _indexable(node.left, names), _indexable(node.right, names)
        if isinstance(node.op, ast.BitOr):
            return AnyOf((left_part, right_part)) if left_part and right_part else None
        return AllOf((left_part, right_part)) if left_part or right_part else None
    return None


_MOST_LOOKUPS: Final = 64
"""Values of a list that are looked up in an index one by one."""


def _any_of(node: ast.Compare, names: _Names) -> Indexable:
    """A list that is no longer than is worth it, as comparisons of which one is true."""
    assert isinstance(node.left, ast.Name)
    assert isinstance(node.comparators[0], ast.Name)
    column, values = names.column_of(node.left.id), names.constants[node.comparators[0].id]
    if isinstance(node.ops[0], ast.NotIn) or column is None or not 1 <= len(values) <= _MOST_LOOKUPS:
        return None
    parts: list[Indexable] = [Comparison(column, "==", value) for value in np.unique(values)]
    if values.dtype.kind == "c":
        return None
    while len(parts) > 1:  # in pairs of pairs, not one in the other
        pairs = [parts[number : number + 2] for number in range(0, len(parts), 2)]
        parts = [AnyOf((pair[0], pair[1])) if len(pair) == 2 else pair[0] for pair in pairs]
    return parts[0]


def _truth(node: ast.Name, names: _Names, value: bool) -> Comparison | None:
    column = names.column_of(node.id)
    dtype = names.dtypes[column] if column is not None else None
    return Comparison(column, "==", value) if column is not None and dtype == np.bool_ else None


def _comparison(left: ast.expr, symbol: Operator, right: ast.expr, names: _Names) -> Comparison | None:
    if not isinstance(left, ast.Name) or symbol == "!=":
        return None
    column = names.column_of(left.id)
    if column is None:
        return None
    value: Any = None
    if isinstance(right, ast.Constant):
        value = right.value
    elif isinstance(right, ast.Name) and right.id in names.constants:
        value = names.constants[right.id][()]
    if value is None or isinstance(value, complex | np.complexfloating):
        return None
    if isinstance(value, float | np.floating) and math.isnan(value):
        return None
    dtype = names.dtypes[column]
    single = not isinstance(dtype, str) and dtype.kind == "f" and dtype.itemsize < 8
    if single and isinstance(value, int | np.integer) and int(np.float32(value)) != value:
        return None  # numexpr compares with the nearest float32, an index would not
    return Comparison(column, symbol, value)


def comparisons(indexable: Indexable) -> Iterator[Comparison]:
    """All comparisons in it."""
    if isinstance(indexable, Comparison):
        yield indexable
    elif indexable is not None:
        for part in indexable.parts:
            yield from comparisons(part)
