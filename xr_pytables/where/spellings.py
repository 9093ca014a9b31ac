"""What people write in conditions besides what PyTables has: lists behind `in`, `Timestamp(...)`, words of pandas and
SQL.

Knows the syntax of conditions and nothing of columns. Tested in `tests/where/test_spellings.py`.
"""

from __future__ import annotations

import ast
import functools
import io
import itertools
import tokenize
from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd

from ..parsing import expression

_WORDS: Final = {"=": "==", "AND": "and", "OR": "or", "NOT": "not", "IN": "in"}
_LOOSE: Final = {"&": " and ", "|": " or "}
"""What pandas' conditions have them for: there they bind less than comparisons."""
_MEMBERSHIP: Final = (ast.In, ast.NotIn)


def with_timestamps(where: str, condvars: Mapping[str, object] | None) -> tuple[str, Mapping[str, object] | None]:
    """The condition with each `Timestamp('...')` as a further variable.

    Raises ValueError for one that is no time. What cannot be parsed, or is no condition at all, is left as it is.
    """
    if not isinstance(where, str) or "Timestamp" not in where or not isinstance(condvars, Mapping | None):
        return where, condvars
    try:
        tree = expression(where)
        rewriter = _Timestamps(dict(condvars or {}))
        rewritten = rewriter.visit(tree)
        return ast.unparse(rewritten), rewriter.condvars
    except (SyntaxError, RecursionError, MemoryError):
        return where, condvars


class _Timestamps(ast.NodeTransformer):
    def __init__(self, condvars: dict[str, object]) -> None:
        self.condvars = condvars

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if ast.unparse(node.func) not in ("Timestamp", "pd.Timestamp", "pandas.Timestamp"):
            return self.generic_visit(node)  # type: ignore[return-value]
        argument = node.args[0] if len(node.args) == 1 and not node.keywords else None
        if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
            raise ValueError(f"{ast.unparse(node)[:80]!r}: write the time as one text, Timestamp('2014-09-01 12:00')")
        try:
            time = pd.Timestamp(argument.value)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{ast.unparse(node)[:80]!r} is no time: {error}") from None
        name = next(name for name in map("timestamp{}".format, itertools.count()) if name not in self.condvars)
        self.condvars[name] = time
        return ast.Name(name, ast.Load())


def is_list(value: object) -> bool:
    """Whether a variable of a condition stands for several values."""
    return isinstance(value, list | tuple | set | frozenset | range) or getattr(value, "ndim", 0) == 1


def listed(node: ast.Compare, condvars: Mapping[str, object]) -> list[object] | None:
    """The values behind `in` or `not in`; None where there is no such thing, or where one of them is no constant."""
    if len(node.ops) != 1 or not isinstance(node.ops[0], _MEMBERSHIP):
        return None
    behind = node.comparators[0]
    if isinstance(behind, ast.Name) and is_list(condvars.get(behind.id)):
        return [plain(value) for value in condvars[behind.id]]  # type: ignore[attr-defined]
    if not isinstance(behind, ast.List | ast.Tuple | ast.Set):
        return None
    found = []
    for element in behind.elts:
        if isinstance(element, ast.Name) and element.id in condvars and not is_list(condvars[element.id]):
            found.append(plain(condvars[element.id]))
            continue
        try:
            found.append(ast.literal_eval(element))  # numbers, with a sign too, and text
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None
    return found


def plain(value: object) -> object:
    """An element of an array as Python has it; times stay as exact as they are."""
    value = np.asarray(value)[()] if getattr(value, "ndim", None) == 0 else value
    return value.item() if isinstance(value, np.generic) and value.dtype.kind not in "mM" else value


def as_list(node: ast.Compare, values: list[int | float | bytes]) -> ast.Compare:
    """The same comparison with other values behind `in`."""
    return ast.Compare(node.left, node.ops, [ast.List([ast.Constant(value) for value in values], ast.Load())])


# -- hints ---------------------------------------------------------------------------------------------------

OPERATORS: Final = "write & for 'and', | for 'or', ~ for 'not', == for '=', and comparisons in brackets"


def instead(where: str, *, of_pandas: bool = False) -> str | None:
    """The condition as it has to be written, if `=`, `and`, `or`, `not`, or a chain of comparisons is in it.

    With `&` and `|` beside comparisons, as in `a > 1 & b < 2` or `(a > 1) & b < 2`, it is read as pandas reads it;
    `a & b == 2` only where the condition is one `of_pandas`, as PyTables knows bits of integers.
    """
    try:
        text = _with_words(where.strip(), _WORDS)
        tree = expression(text)
        if any(_is_mixed(node, of_pandas) for node in ast.walk(tree)):
            tree = expression(_with_words(text, _LOOSE))
        meant = ast.unparse(ast.fix_missing_locations(_Operators().visit(tree)))
        written = _unparsed(where)
    except (SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
        return None
    return meant if meant != written else None


def _unparsed(where: str) -> str | None:
    try:
        return ast.unparse(expression(where))
    except SyntaxError:
        return None


def _with_words(where: str, words: Mapping[str, str]) -> str:
    """Other words and signs for some; texts stay as they are."""
    tokens = tokenize.generate_tokens(io.StringIO(where).readline)
    return tokenize.untokenize([(token.type, words.get(token.string, token.string)) for token in tokens])


def _is_mixed(node: ast.AST, of_pandas: bool) -> bool:
    """Whether it is a chain of comparisons with `&` or `|` in it, or compares what those make of a comparison.

    With `of_pandas`, of anything. If that is in brackets it is meant.
    """
    if not isinstance(node, ast.Compare):
        return False
    if len(node.ops) > 1:
        return any(map(_is_and_or, ast.walk(node)))
    left, right = node.left, node.comparators[0]
    bare = [left] if (left.lineno, left.col_offset) == (node.lineno, node.col_offset) else []
    if (right.end_lineno, right.end_col_offset) == (node.end_lineno, node.end_col_offset):
        bare.append(right)
    return any(
        _is_and_or(side) and (of_pandas or any(isinstance(part, ast.Compare) for part in ast.walk(side)))
        for side in bare
    )


def _is_and_or(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr)


class _Operators(ast.NodeTransformer):
    """Operators that work on many rows at once, for those that do not."""

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        operator = ast.BitAnd() if isinstance(node.op, ast.And) else ast.BitOr()
        parts: list[ast.expr] = [self.visit(value) for value in node.values]
        return functools.reduce(lambda left, right: ast.BinOp(left, operator, right), parts)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        operator = ast.Invert() if isinstance(node.op, ast.Not) else node.op
        return ast.UnaryOp(operator, self.visit(node.operand))

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        sides: list[ast.expr] = [self.visit(side) for side in (node.left, *node.comparators)]
        pairs = zip(sides, node.ops, sides[1:], strict=False)
        parts: list[ast.expr] = [ast.Compare(left, [operator], [right]) for left, operator, right in pairs]
        return functools.reduce(lambda left, right: ast.BinOp(left, ast.BitAnd(), right), parts)
