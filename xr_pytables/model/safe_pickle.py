"""Restricted decoder for the pickles that PyTables, pandas and Python 2 leave in attributes and object rows.

Decodes in two steps, neither of which imports or calls what a file names: the opcodes are read into a graph
of inert nodes (lists, pairs, "call this name with these arguments"), then the graph is built into values by
the functions of this module, for the names it lists. Knows no file; readers of attributes and rows call it.
"""

from __future__ import annotations

import datetime
import io
import math
import pickletools
import re
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import NoneType
from typing import BinaryIO, Final, Literal, NoReturn, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

MAX_DEPTH: Final = 64
"""Levels of nesting; a container inside itself nests for ever."""
MAX_INT_BITS: Final = 14_000
"""Python refuses to print longer integers (4300 digits), so a dataset with one could not be shown."""
MAX_COLLISIONS: Final = 64
"""Keys of one dict or set that may share a hash. Integers that are made to collide take quadratic time."""


class UnsafePickleError(ValueError):
    """A complete pickle that names, does or needs something that is refused. Nothing of it was executed."""


class NotAPickleError(ValueError):
    """Bytes that are not one complete pickle, such as ordinary text that ends in a full stop."""


@dataclass(frozen=True)
class InertObject:
    """An instance of a known class of another package, as plain values. Nothing of it was imported.

    `name` is canonical whatever module the file names: `tables.Filters`, `pandas.offsets.MonthEnd`. `args`
    are what it was made with, `state` what was put into it later (for Filters, a dict of its attributes).
    """

    name: str
    args: tuple[object, ...] = ()
    state: object = None


def loads(data: bytes, *, max_items: int = 4_000_000) -> object:
    """Decode one pickle of any protocol (0 to 5) without executing anything from it.

    Gives None, bool, numbers, str, bytes, bytearray, containers, slice, range, Ellipsis, `datetime` values,
    NumPy scalars, arrays and dtypes, and InertObject. Strings of Python 2 become str, read as Latin-1. Time
    zones other than `datetime.timezone` become their name, and a datetime in one an InertObject of the wall
    time and that name; pandas' Timestamp and Timedelta become NumPy's. A container that is shared is made
    anew for each place it appears in.

    `max_items` bounds the opcodes read and the objects made, and so memory: at most a few hundred bytes for
    each, plus a small multiple of `data`. Raises NotAPickleError or UnsafePickleError and nothing else.
    """
    try:
        graph = _Reader(data, max_items).graph()
        # Sharing lets a few bytes stand for very many objects: what is made keeps in proportion to the data.
        builder = _Builder(items=min(max_items, 100_000 + 16 * len(data)), payload=2**20 + 8 * len(data))
        return builder.build(graph, 0)
    except (NotAPickleError, UnsafePickleError):
        raise
    except Exception as error:
        # Whatever NumPy, datetime or a dict has to say about arguments chosen by the file.
        _refuse(f"cannot be decoded: {type(error).__name__}: {str(error)[:200]}")


def _refuse(reason: str) -> NoReturn:
    raise UnsafePickleError(f"the pickle {reason}")


# ---- the graph: what the opcodes say, not yet done ----


@dataclass(eq=False, slots=True)
class _Dict:
    pairs: list[tuple[object, object]] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Set:
    items: list[object] = field(default_factory=list)
    frozen: bool = False


@dataclass(eq=False, slots=True)
class _Global:
    name: str


@dataclass(eq=False, slots=True)
class _Call:
    """What `function(*args)`, then its `__setstate__` and `__setitem__`, would have been."""

    function: object
    args: object
    state: object = None
    pairs: list[tuple[object, object]] | None = None


# ---- reading opcodes ----


def _line(stream: BinaryIO) -> bytes:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise ValueError("a line is not complete")
    return line[:-1]


def _names(stream: BinaryIO) -> tuple[str, str]:
    return _line(stream).decode(), _line(stream).decode()


_ESCAPES = {b"\\": b"\\", b"'": b"'", b'"': b'"', b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes([int(code[1:], 16)]) if len(code) == 3 else _ESCAPES[code]


def _python2_string(stream: BinaryIO) -> str:
    # Not codecs.escape_decode: it warns about escapes that repr() never wrote.
    text = _line(stream).rstrip()
    if len(text) < 2 or text[:1] not in (b"'", b'"') or text[-1:] != text[:1]:
        raise ValueError("a string is not quoted")
    return re.sub(rb"\\(x[0-9a-fA-F]{2}|.?)", _unescaped, text[1:-1], flags=re.DOTALL).decode("latin-1")


# pickletools reads the arguments, except where it assumes ASCII or unescapes what Python 2 did not escape.
_READERS: dict[str, Callable[[BinaryIO], object]] = {
    "GLOBAL": _names,
    "INST": _names,
    "PERSID": _line,
    "STRING": _python2_string,
}
_OPCODES: dict[bytes, tuple[str, Callable[[BinaryIO], object] | None]] = {
    op.code.encode("latin-1"): (op.name, _READERS.get(op.name, op.arg.reader if op.arg else None))
    for op in pickletools.opcodes
}
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "SHORT_BINBYTES BINBYTES BINBYTES8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8".split()
)
# What opcodes that are always refused take from the stack; each puts one value back.
_REFUSED_OPCODES = {
    "EXT1": 0,
    "EXT2": 0,
    "EXT4": 0,
    "PERSID": 0,
    "BINPERSID": 1,
    "NEXT_BUFFER": 0,
    "READONLY_BUFFER": 1,
    "NEWOBJ_EX": 3,
}


_SHORT_TEXT, _TEXT, _MEMOIZE = 0x8C, ord("X"), 0x94
# bytes of the argument, a little-endian number
_PUT = {ord("q"): 1, ord("r"): 4}
_GET = {ord("h"): 1, ord("j"): 4}
_NUMBERS = {code: struct.Struct(layout) for code, layout in zip(b"KMJG", ("<B", "<H", "<i", ">d"), strict=True)}
_NAMED: dict[int, object] = {ord("N"): None, 0x88: True, 0x89: False}


class _Reader:
    """The stack of the pickle protocol, except that it calls nothing: it notes what would have been called.

    A refused name or opcode is only noted until the pickle turned out to be complete, so that text which
    happens to begin like a pickle stays text. The builder would not see what a pickle calls and then drops.
    """

    def __init__(self, data: bytes, max_items: int) -> None:
        self._data = data
        self._stream = io.BytesIO(data)
        self._end = len(data)
        self._max_items = max_items
        self._stack: list[object] = []
        self._marked: list[list[object]] = []
        self._memo: dict[object, object] = {}
        self._refusal = ""

    def graph(self) -> object:
        """Read all opcodes and give what the pickle describes."""
        try:
            left = self._max_items
            while left > 0:
                left -= self._read_run(left - 1) + 1
                name, read = _OPCODES[self._stream.read(1)]
                if name == "STOP":
                    break
                self._do(name, read(self._stream) if read else None)
            else:
                _refuse(f"has more than {self._max_items} opcodes")
            if self._stream.tell() != self._end or self._marked:
                raise ValueError("it goes on after its end")
            [graph] = self._stack
        except UnsafePickleError:
            raise
        except (LookupError, ValueError) as error:
            raise NotAPickleError(f"not a complete pickle: {error}") from error
        if self._refusal:
            _refuse(self._refusal)
        return graph

    def _read_run(self, most: int) -> int:
        """Read what the items of a long list are made of: text, numbers and the memo. Gives the number of opcodes.

        The same as reading them one by one, in a fraction of the time; stops before anything else or amiss.
        """
        data, end, stack, memo = self._data, self._end, self._stack, self._memo
        at, count = self._stream.tell(), 0
        while count < most and at + 9 < end:  # room for the longest fixed argument
            code = data[at]
            if code in (_SHORT_TEXT, _TEXT):
                start = at + 2 if code == _SHORT_TEXT else at + 5
                stop = start + int.from_bytes(data[at + 1 : start], "little")
                if stop > end:
                    break
                stack.append(str(data[start:stop], "utf-8", "surrogatepass"))
                at = stop
            elif code == _MEMOIZE and stack:
                memo[len(memo)] = stack[-1]
                at += 1
            elif code in _PUT and stack:
                size = _PUT[code]
                number = int.from_bytes(data[at + 1 : at + 1 + size], "little")
                if number > end:
                    break
                memo[number] = stack[-1]
                at += 1 + size
            elif code in _GET:
                size = _GET[code]
                number = int.from_bytes(data[at + 1 : at + 1 + size], "little")
                if number not in memo:
                    break
                stack.append(memo[number])
                at += 1 + size
            elif code in _NUMBERS:
                layout = _NUMBERS[code]
                stack.append(layout.unpack_from(data, at + 1)[0])
                at += 1 + layout.size
            elif code in _NAMED:
                stack.append(_NAMED[code])
                at += 1
            else:
                break
            count += 1
        self._stream.seek(at)
        return count

    def _do(self, name: str, argument: object) -> None:
        stack, memo = self._stack, self._memo
        if name in _LITERALS:
            if isinstance(argument, int) and argument.bit_length() > MAX_INT_BITS:
                self._note(f"holds an integer of more than {MAX_INT_BITS} bits")
            stack.append(argument)
            return
        match name:
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
                if not 0 <= _operand(argument, int) <= self._end:  # also: indices that are made to collide
                    raise ValueError("a memo index is larger than the pickle")
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "MARK":
                self._marked.append(stack)
                self._stack = []
            case "APPEND":
                value = stack.pop()
                _operand(stack[-1], list).append(value)
            case "APPENDS":
                values = self._pop_mark()
                _operand(self._stack[-1], list).extend(values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._pop_mark())
            case "ADDITEMS":
                values = self._pop_mark()
                _operand(self._stack[-1], _Set).items.extend(values)
            case "NONE":
                stack.append(None)
            case "NEWTRUE":
                stack.append(True)
            case "NEWFALSE":
                stack.append(False)
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_DICT":
                stack.append(_Dict())
            case "EMPTY_SET":
                stack.append(_Set())
            case "LIST":
                values = self._pop_mark()
                self._stack.append(values)
            case "TUPLE":
                values = self._pop_mark()
                self._stack.append(tuple(values))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                values = [stack.pop() for _ in range(int(name[-1]))]
                stack.append(tuple(reversed(values)))
            case "DICT":
                values = self._pop_mark()
                self._stack.append(_Dict())
                self._set_items(values)
            case "FROZENSET":
                values = self._pop_mark()
                self._stack.append(_Set(values, frozen=True))
            case "BYTEARRAY8":
                stack.append(_Call(_Global("builtins.bytearray"), (bytes(_operand(argument, bytearray)),)))
            case "GLOBAL":
                stack.append(self._global(*_operand(argument, tuple)))
            case "STACK_GLOBAL":
                attribute, module = _operand(stack.pop(), str), _operand(stack.pop(), str)
                stack.append(self._global(module, attribute))
            case "REDUCE" | "NEWOBJ":
                args, function = stack.pop(), stack.pop()
                stack.append(self._call(function, args))
            case "INST":
                values = self._pop_mark()
                self._stack.append(self._call(self._global(*_operand(argument, tuple)), tuple(values)))
            case "OBJ":
                function, *values = self._pop_mark()
                self._stack.append(self._call(function, tuple(values)))
            case "BUILD":
                state, target = stack.pop(), stack[-1]
                if not isinstance(target, _Call) or target.state is not None:
                    self._note(f"sets the state of a {type(target).__name__.strip('_').lower()}")
                else:
                    target.state = state
            case "POP":
                if stack:
                    stack.pop()
                else:
                    self._pop_mark()
            case "POP_MARK":
                self._pop_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PROTO":
                if _operand(argument, int) > 5:
                    raise ValueError(f"protocol {argument} does not exist")
            case "FRAME":
                pass  # a hint for reading from a file
            case _:
                self._note(f"uses the opcode {name}")
                for _ in range(_REFUSED_OPCODES[name]):
                    stack.pop()
                stack.append(None)

    def _note(self, refusal: str) -> None:
        self._refusal = self._refusal or refusal

    def _pop_mark(self) -> list[object]:
        values, self._stack = self._stack, self._marked.pop()
        return values

    def _set_items(self, values: list[object]) -> None:
        pairs = list(zip(values[::2], values[1::2], strict=True))
        target = self._stack[-1]
        if not isinstance(target, _Call):
            _operand(target, _Dict).pairs.extend(pairs)
        elif target.pairs is None:
            target.pairs = pairs
        else:
            target.pairs.extend(pairs)

    def _global(self, module: str, name: str) -> _Global:
        return self._known(f"{_MODULES.get(module, module)}.{name}", f"{module}.{name}")

    def _known(self, name: str, stored_name: str) -> _Global:
        if name not in _KNOWN and not _INERT.fullmatch(name):
            self._note(f"names {stored_name[:200]!r}, none of the types that PyTables and pandas write")
        return _Global(name)

    def _call(self, function: object, args: object) -> object:
        """Note a call. The three functions that take a class only name what is to be made."""
        name = function.name if isinstance(function, _Global) else ""
        match args:
            case (_Global(owner), str(attribute)) if name == "builtins.getattr":
                return self._known(f"{owner}.{attribute}", f"{owner}.{attribute}")
            case (_Global() as cls, _Global("builtins.object"), None) if name == "copyreg._reconstructor":
                return _Call(cls, ())
            case (_Global("numpy.ndarray") as cls, _, _) if name == "numpy._reconstruct":
                return _Call(cls, ())
        return _Call(function, args)


_T = TypeVar("_T")


def _operand(value: object, kind: type[_T]) -> _T:
    """Give `value` if the opcode can work on it; if not, this is no pickle."""
    if not isinstance(value, kind):
        raise ValueError(f"an opcode for a {kind.__name__} finds a {type(value).__name__}")
    return value


def _typed(value: object, kind: type[_T]) -> _T:
    """Give `value` if the call that it is meant for takes this; if not, the pickle is refused."""
    if not isinstance(value, kind):
        _refuse(f"has a {type(value).__name__} where a {kind.__name__} belongs")
    return value


# ---- building values ----


_PLAIN = frozenset({NoneType, bool, int, float, str, bytes})
"""Types of what is its own value."""


class _Builder:
    """Makes values from the graph, counting every visit: what is shared counts as often as it appears."""

    def __init__(self, *, items: int, payload: int) -> None:
        self._items = items
        self._payload = payload

    def build(self, node: object, depth: int) -> object:
        self._items -= 1
        if self._items < 0:
            _refuse("describes too many objects for its size")
        if isinstance(node, (NoneType, bool, int, float, str, bytes)):
            return node
        if depth >= MAX_DEPTH:
            _refuse(f"nests more than {MAX_DEPTH} levels, or contains itself")
        if isinstance(node, list):
            return self._list(node, depth + 1)
        if isinstance(node, tuple):
            return tuple([self.build(item, depth + 1) for item in node])
        if isinstance(node, _Dict):
            return dict(self._pairs(node.pairs, depth))
        if isinstance(node, _Set):
            items = [self.build(item, depth + 1) for item in node.items]
            return _frozenset(items) if node.frozen else _set(items)
        if isinstance(node, _Global):
            return _VALUES[node.name] if node.name in _VALUES else _refuse(f"holds {node.name} itself")
        return self._paid(self._called(_typed(node, _Call), depth))

    def _list(self, nodes: list[object], depth: int) -> list[object]:
        self._items -= sum(map(_PLAIN.__contains__, map(type, nodes)))
        if self._items < 0:
            _refuse("describes too many objects for its size")
        return [node if type(node) in _PLAIN else self.build(node, depth) for node in nodes]

    def _pairs(self, pairs: list[tuple[object, object]], depth: int) -> list[tuple[object, object]]:
        built = [(self.build(key, depth + 1), self.build(value, depth + 1)) for key, value in pairs]
        _check_hashes([key for key, _ in built])
        return built

    def _called(self, call: _Call, depth: int) -> object:
        name = _typed(call.function, _Global).name
        args = _typed(self.build(call.args, depth + 1), tuple)
        state = self.build(call.state, depth + 1)
        if name == "collections.OrderedDict" and state is None:
            return _ordered_dict(args, self._pairs(call.pairs or [], depth))
        if call.pairs is None:
            if name in _FUNCTIONS and state is None:
                return _FUNCTIONS[name](*args)
            if name in _STATEFUL:
                return _STATEFUL[name](args, state)
            if _INERT.fullmatch(name):
                return InertObject(name, args, state)
        _refuse(f"uses {name} in a way that is not known")

    def _paid(self, value: object) -> object:
        """Count the bytes of what was copied: an array that appears often is copied as often."""
        if isinstance(value, (np.ndarray, np.generic)):
            self._payload -= value.nbytes
        elif isinstance(value, (bytes, bytearray)):
            self._payload -= len(value)
        if self._payload < 0:
            _refuse("describes more data than it holds")
        return value


def _check_hashes(keys: list[object]) -> None:
    if len(keys) > MAX_COLLISIONS and max(Counter(map(hash, keys)).values()) > MAX_COLLISIONS:
        _refuse("holds keys that are made to collide")


def _ordered_dict(args: tuple[object, ...], set_later: list[tuple[object, object]]) -> object:
    # Python 2 passes a list of lists, Python 3 sets the items afterwards.
    pairs = [*set_later]
    for item in _typed(args[0], list) if args else []:
        key, value = _typed(item, list)
        pairs.append((key, value))
    _check_hashes([key for key, _ in pairs])
    return OrderedDict(pairs)


# Builtins. Arguments are built already; a wrong number of them is a TypeError, which loads() converts.


def _set(items: object = None) -> set[object]:
    items = [] if items is None else _typed(items, list)  # not set(range(10**10))
    _check_hashes(items)
    return set(items)


def _frozenset(items: object = None) -> frozenset[object]:
    return frozenset(_set(items))


def _encode(text: object, encoding: object) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        _refuse("uses a codec other than Latin-1")
    return _typed(text, str).encode("latin-1")


def _bytes(data: object = b"") -> bytes:
    return bytes(_typed(data, bytes))  # not bytes(10**12)


def _bytearray(data: object = b"", encoding: object = "latin-1") -> bytearray:
    return bytearray(_encode(data, encoding) if isinstance(data, str) else _typed(data, bytes))


def _complex(real: object, imaginary: object) -> complex:
    return complex(_typed(real, float), _typed(imaginary, float))


def _range(*args: object) -> range:
    if any(not -(2**63) < _typed(arg, int) < 2**63 for arg in args):
        _refuse("has a range without a length")
    return range(*[_typed(arg, int) for arg in args])


# datetime. Its own constructors copy a pickled state without a look at it: an hour of 255 would get in.


def _state(data: object, size: int) -> bytes:
    state = _payload(data)
    if len(state) != size:
        _refuse(f"has a date or time of {len(state)} bytes instead of {size}")
    return state


def _date(data: object) -> datetime.date:
    state = _state(data, 4)
    return datetime.date(state[0] << 8 | state[1], state[2], state[3])


def _time(data: object, zone: object = None) -> object:
    state = _state(data, 6)
    hour, fold = state[0] & 0x7F, state[0] >> 7
    time = datetime.time(hour, state[1], state[2], int.from_bytes(state[3:]), fold=fold)
    return _in_zone("datetime.time", time, zone)


def _datetime(data: object, zone: object = None) -> object:
    state = _state(data, 10)
    month, fold = state[2] & 0x7F, state[2] >> 7
    day = datetime.date(state[0] << 8 | state[1], month, state[3])
    time = datetime.time(state[4], state[5], state[6], int.from_bytes(state[7:]), fold=fold)
    return _in_zone("datetime.datetime", datetime.datetime.combine(day, time), zone)


def _in_zone(name: str, time: datetime.datetime | datetime.time, zone: object) -> object:
    if zone is None or isinstance(zone, datetime.timezone):
        return time.replace(tzinfo=zone)
    return InertObject(name, (time, _typed(zone, str)))  # wall time and the name of its zone


def _timedelta(days: object, seconds: object, microseconds: object) -> datetime.timedelta:
    return datetime.timedelta(_typed(days, int), _typed(seconds, int), _typed(microseconds, int))


def _timezone(offset: object, *name: object) -> datetime.timezone:
    return datetime.timezone(_typed(offset, datetime.timedelta), *[_typed(part, str) for part in name])


# pandas and the packages of time zones.


def _zone_name(name: object, *_: object) -> str:
    return _typed(name, str)


def _utc() -> str:
    return "UTC"


def _fixed_offset(minutes: object) -> datetime.timezone:
    return datetime.timezone(datetime.timedelta(minutes=_typed(minutes, int)))


_PANDAS_UNITS = {7: "s", 8: "ms", 9: "us", 10: "ns"}


def _timestamp(value: object, freq: object = None, zone: object = None, unit: object = 10) -> object:
    time = np.array(_typed(value, int), "i8").view(f"M8[{_PANDAS_UNITS[_typed(unit, int)]}]")[()]
    # The instant in UTC and its zone, which NumPy has no place for.
    return time if zone is None else InertObject("pandas.Timestamp", (time, zone))


def _pandas_timedelta(value: object, unit: object = 10) -> object:
    return np.array(_typed(value, int), "i8").view(f"m8[{_PANDAS_UNITS[_typed(unit, int)]}]")[()]


def _nat(*_: object) -> np.datetime64:
    return np.datetime64("NaT", "ns")


# NumPy. No __setstate__ of it sees anything from the file: it trusts pickles.

_Array: TypeAlias = NDArray[np.generic]
_TYPE_CODE = re.compile(r"[|<>=]?(b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SUV][0-9]{1,9}|[mM]8|O[48]?)")
_TIME_UNITS = frozenset("Y M W D h m s ms us μs ns ps fs as generic".split())
_ALIGNED_STRUCT = 0x80


def _dtype(args: tuple[object, ...], state: object) -> np.dtype[np.generic]:
    code = _typed(args[0], str)
    if not _TYPE_CODE.fullmatch(code):
        _refuse(f"has a dtype {code[:50]!r}")
    dtype = np.dtype(object if "O" in code else code)
    if state is None:
        return dtype
    # metadata: the time unit, and what users attach, which is no part of a dtype's equality and is dropped.
    _, order, subarray, names, fields, itemsize, _, flags, *metadata = _typed(state, tuple)
    if subarray is not None:
        base, shape = _typed(subarray, tuple)
        return np.dtype((_typed(base, np.dtype), _shape(shape)))
    if names is not None:
        return _structured(_typed(names, tuple), _typed(fields, dict), itemsize, flags)
    if dtype.kind in "mM" and metadata:
        _, (unit, count, divisor, _) = _typed(metadata[0], tuple)
        unit = unit.decode() if isinstance(unit, bytes) else unit
        if unit not in _TIME_UNITS or divisor != 1 or not 0 < _typed(count, int) < 2**31:
            _refuse("has a time unit that is not known")
        if unit != "generic":
            dtype = np.dtype(f"{dtype.kind}8[{count}{unit}]")
    if order not in ("<", ">", "=", "|"):
        _refuse("has a byte order that is not known")
    return dtype.newbyteorder(order) if order in ("<", ">") else dtype


def _structured(
    names: tuple[object, ...], fields: dict[object, object], itemsize: object, flags: object
) -> np.dtype[np.generic]:
    columns: list[tuple[str, np.dtype[np.generic], int, str | None]] = []
    for name in names:
        dtype, offset, *title = _typed(fields[name], tuple)
        columns.append((_typed(name, str), _typed(dtype, np.dtype), _typed(offset, int), None))
        if title and title[0] is not None:
            columns[-1] = (*columns[-1][:3], _typed(title[0], str))
    size = _typed(itemsize, int)
    if sum(column[1].itemsize for column in columns) > size:
        _refuse("has a dtype with fields that overlap")  # a few bytes could be shown as very many
    layout = {
        "names": [column[0] for column in columns],
        "formats": [column[1] for column in columns],
        "offsets": [column[2] for column in columns],
        "titles": [column[3] for column in columns],
        "itemsize": size,
    }
    # NumPy's stubs know no dict with a list of formats that are dtypes already.
    return np.dtype(layout, align=bool(_typed(flags, int) & _ALIGNED_STRUCT))  # type: ignore[call-overload,no-any-return]


def _shape(value: object) -> tuple[int, ...]:
    shape = tuple(int(_typed(size, int)) for size in _typed(value, tuple))
    if len(shape) > 64 or any(not 0 <= size < 2**63 for size in shape):
        _refuse("has an array of an impossible shape")
    return shape


def _payload(data: object) -> bytes:
    if isinstance(data, str):  # Python 2
        return data.encode("latin-1")
    return bytes(data) if isinstance(data, bytearray) else _typed(data, bytes)


def _array(shape: tuple[int, ...], dtype: object, order: Literal["C", "F"], data: object) -> _Array:
    """Make an array of its own memory, after a check that `data` is neither more nor less than it needs."""
    dtype, size = _typed(dtype, np.dtype), math.prod(shape)
    if dtype.kind == "O":
        items = _typed(data, list)
        if len(items) != size:
            _refuse(f"has {len(items)} objects for an array of shape {shape}")
        objects = np.fromiter(items, object, size)  # not objects[:] = items, which would look into the items
        # NumPy lists objects in C order even when the array it made the list of is in Fortran order.
        return objects.reshape(shape).copy(order)
    if dtype.hasobject or dtype.subdtype is not None or (dtype.itemsize == 0 and shape):
        _refuse(f"has an array of {dtype}")
    payload = _payload(data)
    if len(payload) != size * dtype.itemsize:
        _refuse(f"has {len(payload)} bytes for an array of shape {shape} and {dtype}")
    array: _Array = np.ndarray(shape, dtype, payload, order=order).copy("K")
    _check_printable(array)
    return array


def _check_printable(array: _Array) -> None:
    # Elements that NumPy cannot show raise when they are read, long after the attribute was accepted.
    kind = array.dtype.kind
    if kind == "U" and array.size and array.dtype.itemsize:
        points = np.frombuffer(array.tobytes(), array.dtype.str[0] + "u4")
        if points.max() > 0x10FFFF:
            _refuse("has text that is not Unicode")
    if kind == "M" and "[" not in array.dtype.str and not np.isnat(array).all():
        _refuse("has a datetime without a unit")
    for name in array.dtype.names or ():
        _check_printable(np.asarray(array[name]))  # type: ignore[call-overload]


def _ndarray(args: tuple[object, ...], state: object) -> _Array:
    if args:
        _refuse("makes an array without its values")
    *_, shape, dtype, fortran, data = _typed(state, tuple)
    return _array(_shape(shape), dtype, "F" if fortran else "C", data)


def _frombuffer(data: object, dtype: object, shape: object, order: object, axes: object = None) -> object:
    if order == "K":  # newer NumPy: contiguous but for the order of its axes
        return _array(_shape(shape), dtype, "C", data).transpose(_shape(axes))
    if order not in ("C", "F"):
        _refuse("has an array in an order that is not known")
    return _array(_shape(shape), dtype, "F" if order == "F" else "C", data)


def _scalar(dtype: object, data: object = b"") -> object:
    if _typed(dtype, np.dtype).kind == "O":
        _refuse("has a scalar of objects")
    return _array((), dtype, "C", data)[()]


# ---- the names that may appear, in canonical form ----

_MODULES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "dateutil.tz.tz": "dateutil.tz",
    "numpy._core.multiarray": "numpy",
    "numpy._core.numeric": "numpy",
    "numpy.core.multiarray": "numpy",
    "numpy.core.numeric": "numpy",
    "pandas._libs.interval": "pandas",
    "pandas._libs.missing": "pandas",
    "pandas._libs.tslibs.nattype": "pandas",
    "pandas._libs.tslibs.offsets": "pandas.offsets",
    "pandas._libs.tslibs.period": "pandas",
    "pandas._libs.tslibs.timedeltas": "pandas",
    "pandas._libs.tslibs.timestamps": "pandas",
    "pandas.core.datetools": "pandas.offsets",
    "pandas.tseries.offsets": "pandas.offsets",
    "tables.Leaf": "tables",  # PyTables 1
    "tables.enum": "tables",
    "tables.filters": "tables",
    "tables.leaf": "tables",
    "tables.misc.enum": "tables",
}
_FUNCTIONS: dict[str, Callable[..., object]] = {
    "_codecs.encode": _encode,
    "builtins.bytearray": _bytearray,
    "builtins.bytes": _bytes,
    "builtins.complex": _complex,
    "builtins.frozenset": _frozenset,
    "builtins.range": _range,
    "builtins.set": _set,
    "builtins.slice": slice,
    "builtins.xrange": _range,
    "datetime.date": _date,
    "datetime.datetime": _datetime,
    "datetime.time": _time,
    "datetime.timedelta": _timedelta,
    "datetime.timezone": _timezone,
    "dateutil.tz.tzutc": _utc,
    "numpy._frombuffer": _frombuffer,
    "numpy.scalar": _scalar,
    "pandas.Timestamp": _timestamp,
    "pandas._nat_unpickle": _nat,
    "pandas._timedelta_unpickle": _pandas_timedelta,
    "pandas._unpickle_timestamp": _timestamp,
    "pytz.FixedOffset": _fixed_offset,
    "pytz._UTC": _utc,
    "pytz._p": _zone_name,
    "zoneinfo.ZoneInfo._unpickle": _zone_name,
}
_STATEFUL: dict[str, Callable[[tuple[object, ...], object], object]] = {
    "numpy.dtype": _dtype,
    "numpy.ndarray": _ndarray,
}
_INERT = re.compile(
    r"tables\.(Enum|Filters)|pandas\.(DateOffset|Interval|Period|offsets\.[A-Za-z_]{1,99})"
    r"|dateutil\.relativedelta\.relativedelta"
)
_VALUES: dict[str, object] = {"builtins.Ellipsis": ..., "pandas.NA": InertObject("pandas.NA")}
_KNOWN = frozenset(
    {
        *_FUNCTIONS,
        *_STATEFUL,
        *_VALUES,
        "builtins.getattr",
        "builtins.object",
        "collections.OrderedDict",
        "copyreg._reconstructor",
        "numpy._reconstruct",
        "zoneinfo.ZoneInfo",
    }
)
