"""What may be decoded equals what pickle decodes; what may not is refused, and nothing of it is executed."""

from __future__ import annotations

import builtins
import codecs
import contextlib
import datetime
import functools
import math
import os
import pickle
import pickletools
import subprocess
import sys
import time
import tracemalloc
import zoneinfo
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import tables
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables.model import safe_pickle
from xr_pytables.model.safe_pickle import InertObject, NotAPickleError, UnsafePickleError, loads

from ..helpers_properties import examples

PROTOCOLS = range(6)
UTC = datetime.UTC
MIB = 2**20


def assert_same(found: object, expected: object) -> None:
    """Equal in value, type, dtype and order of keys, all the way down; NaN equals NaN."""
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert found.flags.writeable
        if expected.dtype.kind == "O":
            assert_same(found.ravel().tolist(), expected.ravel().tolist())
        else:
            assert found.tobytes() == expected.tobytes()
    elif isinstance(expected, np.generic):
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes()
    elif isinstance(expected, np.dtype):
        assert found == expected
        assert found.isalignedstruct == expected.isalignedstruct
    elif isinstance(expected, dict):
        assert_same(list(found.items()), list(expected.items()))
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, slice):
        assert_same((found.start, found.stop, found.step), (expected.start, expected.stop, expected.step))
    elif isinstance(expected, InertObject):
        assert (found.name, len(found.args)) == (expected.name, len(expected.args))
        assert_same((found.args, found.state), (expected.args, expected.state))
    elif isinstance(expected, (float, complex)):
        assert repr(found) == repr(expected)  # -0.0 and NaN too
    else:
        assert found == expected
        if isinstance(expected, (datetime.datetime, datetime.time)):
            assert (found.fold, found.tzinfo) == (expected.fold, expected.tzinfo)


def object_array(*items: object) -> np.ndarray:
    array = np.empty(len(items), object)
    for position, item in enumerate(items):
        array[position] = item
    return array


STRUCTURED = np.dtype([("a", "<i4"), ("b", ">f8", (2, 3)), ("c", [("x", "S3"), ("t", "<M8[ms]")])])
BENIGN = {
    "none": None,
    "bools": [True, False],
    "ints": [0, -1, 255, 256, 65536, -(2**31), 2**31, 2**63, -(2**64), 10**40, 2**3000],
    "floats": [0.0, -0.0, 1.5, -1e300, math.inf, math.nan],
    "text": ["", "a", "é", "\udc80", "😀", "it's", 'a"b', "a\\nb\n\r\t\0", "x" * 300],
    "bytes": [b"", b"a", b"\xff\0", b"x" * 300, bytes(70_000)],
    "bytearray": bytearray(b"a\xff"),
    "empty": [[], (), {}, set(), frozenset(), OrderedDict(), bytearray()],
    "nested": [1, (2, {"a": [3, {4: None}]}), ((),), [[[]]]],
    "dict": {"b": 1, "a": 2, 3: "x", (1, "y"): 4.5, None: 5, b"k": 6, frozenset({1}): 7},
    "dict_order": dict.fromkeys(reversed(range(2000))),
    "sets": [{1, "a", None}, frozenset({(1, 2)}), {frozenset({frozenset()})}],
    "ordered": OrderedDict([("b", 1), ("a", OrderedDict(x=2))]),
    "complex": [1 + 2j, complex(-0.0, math.nan)],
    "slice": [slice(None), slice(1, 2, 3), slice("a", "b")],
    "range": [range(3), range(5, -5, -2), range(10**12)],
    "ellipsis": (..., 1),
    "datetimes": [
        datetime.datetime(2016, 6, 30, 22, 28, 32, 229324),
        datetime.datetime(1, 1, 1),
        datetime.datetime(9999, 12, 31, 23, 59, 59, 999999),
        datetime.datetime(2020, 1, 2, tzinfo=UTC),
        datetime.date(2020, 2, 29),
        datetime.time(23, 59, 58, 7),
        datetime.time(1, tzinfo=datetime.timezone(datetime.timedelta(hours=-3), "x")),
        datetime.timedelta(-1, 2, 3),
    ],
    "timezones": [UTC, datetime.timezone(datetime.timedelta(minutes=90)), datetime.timezone.min],
    "scalars": [
        *(np.dtype(code).type(1) for code in "? b B h H i I l L e f d g F D G".split()),
        *(np.str_("é"), np.str_(""), np.bytes_(b"a"), np.bytes_(b""), np.float64(math.nan)),
        *(np.datetime64("2020-01-01", "25s"), np.timedelta64(3, "D")),
        # without a unit, by the way that NumPy has not deprecated
        *(np.array([np.iinfo("i8").min]).view("M8")[0], np.array([3]).view("m8")[0]),
    ],
    "void": np.zeros(2, STRUCTURED)[1],
    "numbers": [np.arange(5, dtype=code) for code in "b B h >i4 <u4 >i8 e >f4 f8 F D g".split()],
    "bool_array": np.array([True, False]),
    "scalar_array": np.array(1.5),
    "c_order": np.arange(24).reshape(2, 3, 4),
    "f_order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "permuted": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "strided": np.arange(24)[::-3],
    "no_elements": [np.zeros((0, 3)), np.zeros(0, "S0"), np.zeros(0, object), np.zeros((2, 0), STRUCTURED)],
    "string_arrays": [np.array(["a", "é", ""]), np.array(["ab"]).astype(">U3"), np.array([b"a", b""])],
    "times": [np.array(["2020-01-01", "NaT"], "M8[ns]"), np.array([1, -1], ">m8[us]")],
    "structured": [np.zeros(3, STRUCTURED), np.ones((2, 2), STRUCTURED)],
    "objects": [object_array(1, "a", None, [1, (2,)], np.arange(3)), np.array([["a", None]], object)],
    "fortran_objects": np.asfortranarray(np.array([["a", "b"], ["c", "d"]], object)),
    "dtypes": [
        *(np.dtype(code) for code in "? <i4 >f8 S5 V7 U9 O <M8[25s] >m8 M8".split()),
        STRUCTURED,
        np.dtype((">f8", (2, 3))),
        np.dtype({"names": ["a"], "formats": ["i1"], "offsets": [4], "itemsize": 16}),
        np.dtype([("a", "i1"), ("b", "f8")], align=True),
        np.dtype([(("a title", "a"), "i4")]),
        np.dtype([]),
    ],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", BENIGN.values(), ids=BENIGN)
def test_values_decode_to_what_was_pickled(value, protocol):
    assert_same(loads(pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize("protocol", [4, 5])
def test_fold_is_kept_by_the_protocols_that_have_it(protocol):
    value = [datetime.datetime(2020, 10, 25, 2, 30, fold=1), datetime.time(2, 30, fold=1)]
    assert_same(loads(pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_own_their_memory_and_keep_their_order(protocol):
    for value in (np.arange(6.0), np.asfortranarray(np.ones((2, 3)))):
        first, second = (loads(pickle.dumps(value, protocol)) for _ in range(2))
        first[...] = 7
        assert (second == value).all()
        assert first.flags.f_contiguous == value.flags.f_contiguous


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_shared_appears_at_each_place(protocol):
    shared = [1, "a"]
    array = np.arange(3)
    value = {"x": shared, "y": (shared, shared), "z": [array, array]}
    assert_same(loads(pickle.dumps(value, protocol)), value)


def test_dtype_metadata_is_dropped():
    # libraries act on it ("vlen", "enum"): not from an untrusted file
    found = loads(pickle.dumps(np.dtype("i4", metadata={"vlen": 1})))
    assert found == np.dtype("i4")
    assert found.metadata is None


INERT = {
    "filters": (
        tables.Filters(3, "zlib", fletcher32=True),
        InertObject("tables.Filters", (), {**vars(tables.Filters(3, "zlib", fletcher32=True))}),
    ),
    "enum": (
        tables.Enum(["a", "b"]),
        InertObject("tables.Enum", (), dict(vars(tables.Enum(["a", "b"])))),
    ),
    "day": (pd.offsets.Day(2), InertObject("pandas.offsets.Day", (2, False))),
    "month": (pd.offsets.MonthEnd(), InertObject("pandas.offsets.MonthEnd", (1, False))),
    "week": (pd.offsets.Week(weekday=1), InertObject("pandas.offsets.Week", (1, False, 1))),
    "business_day": (
        pd.offsets.BusinessDay(),
        InertObject("pandas.offsets.BusinessDay", (1, False, datetime.timedelta(0))),
    ),
    "na": ([pd.NA], [InertObject("pandas.NA")]),
    "nat": (pd.NaT, np.datetime64("NaT", "ns")),
    "timestamp": (pd.Timestamp(5), np.datetime64(5, "ns")),
    "aware_timestamp": (
        pd.Timestamp(5, tz="UTC"),
        InertObject("pandas.Timestamp", (np.datetime64(5, "ns"), UTC)),
    ),
    "timedelta": (pd.Timedelta(5), np.timedelta64(5, "ns")),
    "zone": (zoneinfo.ZoneInfo("Europe/Berlin"), "Europe/Berlin"),
    "time_in_zone": (
        datetime.datetime(2020, 1, 2, 3, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        InertObject("datetime.datetime", (datetime.datetime(2020, 1, 2, 3), "Europe/Berlin")),
    ),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("value", "expected"), INERT.values(), ids=INERT)
def test_objects_of_other_packages_become_inert(value, expected, protocol):
    assert_same(loads(pickle.dumps(value, protocol)), expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_offset_with_attributes_keeps_them(protocol):
    found = loads(pickle.dumps(pd.DateOffset(months=5), protocol))
    assert found.name == "pandas.DateOffset"
    assert found.state["_offset"].name == "dateutil.relativedelta.relativedelta"
    assert found.state["_offset"].state["months"] == 5


def test_inert_object_is_a_value():
    one = InertObject("pandas.offsets.Day", (2, False))
    assert one == eval(repr(one))
    assert {one: 1} == {InertObject("pandas.offsets.Day", (2, False)): 1}
    with pytest.raises(AttributeError):
        one.name = "other"


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
PYTHON2 = {
    "byte_string": (rb"S'a\xff\\\'\n'" + b"\np1\n.", "a\xff\\'\n"),
    "double_quotes": (b'S"it\'s"\n.', "it's"),
    "short_binstring": (b"\x80\x02U\x02a\xe9q\x01.", "aé"),
    "binstring": (b"\x80\x02T\x02\0\0\0a\xe9.", "aé"),
    "unicode": (rb"V\u20ac \u005c" + b"\np1\n.", "€ \\"),
    "long": (b"L12345678901234567890L\n.", 12345678901234567890),
    "bools": (b"(I00\nI01\nt.", (False, True)),
    "list": (b"(lp1\nI1\naS'a'\np2\nag2\na.", [1, "a", "a"]),
    "dict": (b"(dp1\nS'a'\nI1\ns.", {"a": 1}),
    "dict_of_marked_items": (b"(S'a'\nI1\nd.", {"a": 1}),
    "set": (b"c__builtin__\nset\np1\n((lp2\nI1\natRp3\n.", {1}),
    "complex": (b"c__builtin__\ncomplex\np1\n(F1\nF2\ntRp2\n.", 1 + 2j),
    "range": (b"c__builtin__\nxrange\n(I0\nI3\nI1\ntR.", range(3)),
    "bytearray": (b"c__builtin__\nbytearray\np1\n(V\xe9\np2\nS'latin-1'\np3\ntp4\nRp5\n.", bytearray(b"\xe9")),
    "ordered": (
        b"ccollections\nOrderedDict\np1\n((lp2\n(lp3\nS'b'\naI1\naa(lp4\nS'a'\naI2\naatRp5\n.",
        OrderedDict([("b", 1), ("a", 2)]),
    ),
    "datetime": (
        rb"""cdatetime
datetime
p1
(S'\x07\xe0\x06\x1e\x16\x1c \x03\x7f\xcc'
tRp2
.""",
        datetime.datetime(2016, 6, 30, 22, 28, 32, 229324),
    ),
    "numpy_unicode": (
        rb"""cnumpy.core.multiarray
scalar
p1
(cnumpy
dtype
p2
(S'U3'
I0
I1
tRp3
(I3
S'<'
NNNI12
I4
I0
tbS'a\x00\x00\x00b\x00\x00\x00c\x00\x00\x00'
tRp4
.""",
        np.str_("abc"),
    ),
    "array": (
        ARRAY
        + rb"""(I1
(I2
tcnumpy
dtype
(S'i2'
I0
I1
tR(I3
S'>'
NNNI-1
I-1
I0
tbI00
S'\x00\x01\x00\xff'
tb.""",
        np.array([1, 255], ">i2"),
    ),
    "object_array_of_32_bits": (
        ARRAY + b"(I1\n(I2\ntcnumpy\ndtype\n(S'O4'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntbI00\n(lNaI1\natb.",
        np.array([None, 1], object),
    ),
    "old_style_filters": (
        b"(itables.Leaf\nFilters\np1\n(dp2\nS'shuffle'\np3\nI0\nsS'complevel'\np4\nI1\nsS'complib'\np7\nS'lzo'\nsb.",
        InertObject("tables.Filters", (), {"shuffle": 0, "complevel": 1, "complib": "lzo"}),
    ),
    "new_style_filters": (
        b"ccopy_reg\n_reconstructor\np1\n(ctables.Leaf\nFilters\np2\nc__builtin__\nobject\np3\nNtRp4\n"
        b"(dp5\nS'shuffle'\np6\nI01\nsb.",
        InertObject("tables.Filters", (), {"shuffle": True}),
    ),
    "filters_by_obj": (b"(ctables.Leaf\nFilters\no}b.", InertObject("tables.Filters", (), {})),
    "pytz_utc": (b"cpytz\n_UTC\np1\n(tRp2\n.", "UTC"),
    "pytz_zone": (b"cpytz\n_p\n(S'Europe/Berlin'\nI3600\nI0\nS'CET'\ntR.", "Europe/Berlin"),
    "pytz_fixed": (b"cpytz\nFixedOffset\n(I90\ntR.", datetime.timezone(datetime.timedelta(minutes=90))),
    "dateutil_utc": (b"cdateutil.tz.tz\ntzutc\n)R.", "UTC"),
    "old_timestamp": (
        b"cpandas._libs.tslibs.timestamps\nTimestamp\n(I5\nNNtR.",
        np.datetime64(5, "ns"),
    ),
    "old_offset": (
        b"cpandas.tseries.offsets\nDay\n)\x81}(S'n'\nI1\nub.",
        InertObject("pandas.offsets.Day", (), {"n": 1}),
    ),
}


@pytest.mark.parametrize(("data", "expected"), PYTHON2.values(), ids=PYTHON2)
def test_golden_pickles_of_python_2_and_old_packages(data, expected):
    assert_same(loads(data), expected)


# ---- what is not a pickle ----

TEXTS = [
    b"",
    b".",
    b"0.",
    b"Sea surface temperature.",
    b"Please note.",
    b"In situ.",
    b"Nothing.",
    b"NN.",
    b"(N.",
    b"N.N.",
    b"a.",
    b"(a.",
    b"R.",
    b"K.",
    b"g1\n.",
    b"I1.",
    b"I1 2\n.",
    b"S'a.",
    b"Sa\n.",
    b"S'\\d'\n.",  # no escape that repr() writes; pickle itself warns about it
    b"X\xff\xff\xff\x7fabc.",
    b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.",
    b"\x8a\xff.",
    b"\x80\x06N.",
    b"cos\nsystem.",
    b"N1.",
    b"NNs.",
    b"K\x01K\x02K\x03s.",
    b"(K\x01d.",
    b"\x93.",
    b"K\x01K\x02\x93.",
    b"p-1\n.",
    b"Np99999999999\n.",
    b"\xffN.",
    "Größe in °C.".encode(),
    b"L" + b"9" * 5000 + b"L\n.",
]


@pytest.mark.parametrize("data", TEXTS, ids=repr)
def test_text_that_ends_in_a_full_stop_is_not_a_pickle(data):
    with pytest.raises(NotAPickleError, match="not a complete pickle"):
        loads(data)


@pytest.mark.parametrize("value", [[1, {"a": (2.5, "x")}], np.arange(3), tables.Filters(1)], ids=type)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_part_of_a_pickle_is_a_pickle(value, protocol):
    data = pickle.dumps(value, protocol)
    for end in range(len(data)):
        with pytest.raises(NotAPickleError):
            loads(data[:end])
    for more in (b"\0", b".", data):
        with pytest.raises(NotAPickleError):
            loads(data + more)


def test_the_two_errors_are_told_apart():
    assert not issubclass(UnsafePickleError, NotAPickleError)
    assert not issubclass(NotAPickleError, UnsafePickleError)
    assert issubclass(UnsafePickleError, ValueError)
    assert issubclass(NotAPickleError, ValueError)


# ---- attacks ----


@pytest.fixture
def executed(monkeypatch, tmp_path):
    """Names of what was executed, for real pickles of the same bytes proven to be seen by the next test."""
    seen: list[str] = []

    def spy(name, real):
        @functools.wraps(real)
        def call(*args, **kwargs):
            seen.append(name)

        return call

    monkeypatch.setattr(os, "system", spy("os.system", os.system))
    monkeypatch.setattr(os, "popen", spy("os.popen", os.popen))
    monkeypatch.setattr(subprocess, "Popen", spy("subprocess.Popen", subprocess.Popen))
    monkeypatch.setattr(builtins, "exec", spy("exec", exec))
    monkeypatch.setattr(builtins, "eval", spy("eval", eval))
    monkeypatch.setattr(builtins, "open", spy("open", open))
    monkeypatch.setattr(builtins, "print", spy("print", print))
    return seen


EXECUTING = {
    "reduce": b"cos\nsystem\n(S'true'\ntR.",
    "reduce_dropped": b"cos\nsystem\n(S'true'\ntR0N.",
    "reduce_in_key": b"}cos\nsystem\n(S'true'\ntRNs.",
    "reduce_in_args": b"c__builtin__\nset\n(cos\nsystem\n(S'true'\ntRtR.",
    "inst": b"(S'true'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'true'\no.",
    "stack_global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "posix": b"cos\npopen\n(S'true'\ntR.",
    "subprocess": b"csubprocess\nPopen\n(S'true'\ntR.",
    "eval": b"c__builtin__\neval\n(S'1'\ntR.",
    "exec": b"cbuiltins\nexec\n(S'1'\ntR.",
    "open": b"cbuiltins\nopen\n(S'x'\ntR.",
    "print": b"cbuiltins\nprint\n(S'x'\ntR.",
    "getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nS'__call__'\ntR(S'true'\ntR.",
    "map": b"cbuiltins\nlist\n(cbuiltins\nmap\n(cos\nsystem\n(S'true'\nltRtR.",
    "set_of_map": b"cbuiltins\nset\n(cbuiltins\nmap\n(cos\nsystem\n(S'true'\nltRtR.",
    "dotted": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
    "build_with_setstate": (
        b"ccopy_reg\n_reconstructor\n(ctables.filters\nFilters\nc__builtin__\nobject\nNtR}S'__setstate__'\ncos\n"
        b"system\nsbS'true'\nb."
    ),
}


@pytest.mark.parametrize("data", EXECUTING.values(), ids=EXECUTING)
def test_calls_are_refused_and_not_made(data, executed):
    with pytest.raises(UnsafePickleError, match="names '"):
        loads(data)
    assert executed == []
    with contextlib.suppress(TypeError):
        pickle.loads(data, encoding="latin1")
    assert executed != []  # the spies work: pickle does execute the same bytes


REFUSED = {
    # opcodes
    "ext1": (b"\x82\x01.", "opcode EXT1"),
    "ext2": (b"\x83\x01\0.", "opcode EXT2"),
    "ext4": (b"\x84\x01\0\0\0.", "opcode EXT4"),
    "persid": (b"Pabc\n.", "opcode PERSID"),
    "binpersid": (b"NQ.", "opcode BINPERSID"),
    "next_buffer": (b"\x97.", "opcode NEXT_BUFFER"),
    "readonly_buffer": (b"N\x98.", "opcode READONLY_BUFFER"),
    "newobj_ex": (b"cbuiltins\nset\n)}\x92.", "opcode NEWOBJ_EX"),
    # classes and calls
    "newobj": (b"csubprocess\nPopen\n)\x81.", "names 'subprocess.Popen'"),
    "newobj_array": (b"cnumpy\nndarray\n((I9\ntt\x81.", "array without its values"),
    "unknown_class": (b"ctables.file\nFile\n)\x81.", "names 'tables.file.File'"),
    "enum_class": (b"cctapipe.instrument\nCameraType\n.", "names 'ctapipe.instrument.CameraType'"),
    "defaultdict": (b"ccollections\ndefaultdict\n)R.", "names 'collections.defaultdict'"),
    "ndarray_itself": (b"cnumpy\nndarray\n.", "holds numpy.ndarray itself"),
    "global_in_list": (b"](cbuiltins\nset\ne.", "holds builtins.set itself"),
    "getattr_of_value": (b"cbuiltins\ngetattr\n(NS'x'\ntR.", "builtins.getattr in a way"),
    "getattr_of_known": (b"cbuiltins\ngetattr\n(cbuiltins\nset\nS'pop'\ntR.", "names 'builtins.set.pop'"),
    "getattr_chain": (
        b"cbuiltins\ngetattr\n(cbuiltins\ngetattr\n(czoneinfo\nZoneInfo\nS'_unpickle'\ntRS'__globals__'\ntR.",
        "names 'zoneinfo.ZoneInfo._unpickle.__globals__'",
    ),
    "dunder_of_offsets": (b"cpandas.tseries.offsets\nx.__globals__\n.", "names 'pandas.tseries.offsets.x"),
    "call_of_result": (b"cpandas.tseries.offsets\nDay\n)R)R.", "_Call where a _Global"),
    "call_of_number": (b"K\x01)R.", "int where a _Global"),
    "args_no_tuple": (b"cbuiltins\nset\nNR.", "NoneType where a tuple"),
    "reconstructor_other_base": (
        b"ccopy_reg\n_reconstructor\n(ctables.filters\nFilters\nc__builtin__\nset\nNtR.",
        "Filters itself",
    ),
    "reconstruct_other_class": (
        b"cnumpy.core.multiarray\n_reconstruct\n(ctables.filters\nFilters\n(I0\ntS'b'\ntR.",
        "Filters itself",
    ),
    "items_of_a_set_call": (b"cbuiltins\nset\n)R(NNu.", "builtins.set in a way"),
    # BUILD
    "build_on_global": (b"cbuiltins\nset\n}b.", "sets the state of a global"),
    "build_on_global_dropped": (b"cbuiltins\nset\n}b0N.", "sets the state of a global"),
    "build_on_dict": (b"}}b.", "sets the state of a dict"),
    "build_on_set": (b"cbuiltins\nset\n)R}b.", "builtins.set in a way"),
    "build_twice": (b"cpandas.tseries.offsets\nDay\n)R}b}b.", "sets the state of a call"),
    # arguments
    "codec": (b"c_codecs\nencode\n(Va\nS'idna'\ntR.", "codec other than Latin-1"),
    "not_latin1": (rb"c_codecs" + b"\nencode\n(" + rb"V\u20ac" + b"\nS'latin1'\ntR.", "UnicodeEncodeError"),
    "set_of_range": (b"cbuiltins\nset\n(cbuiltins\nrange\n(L10000000000L\ntRtR.", "range where a list"),
    "bytes_of_int": (b"cbuiltins\nbytes\n(L1000000000000L\ntR.", "int where a bytes"),
    "bytearray_of_int": (b"cbuiltins\nbytearray\n(L1000000000000L\ntR.", "int where a bytes"),
    "endless_range": (b"cbuiltins\nrange\n(L99999999999999999999L\ntR.", "range without a length"),
    "complex_of_text": (b"cbuiltins\ncomplex\n(S'1'\nS'2'\ntR.", "str where a float"),
    "wrong_arity": (b"cbuiltins\ncomplex\n)R.", "TypeError"),
    "timedelta": (b"cdatetime\ntimedelta\n(L99999999999999L\nI0\nI0\ntR.", "OverflowError"),
    "hour_255": (rb"cdatetime" + b"\ntime\n(" + rb"S'\x7f\x00\x00\x00\x00\x00'" + b"\ntR.", "hour must be in"),
    "day_0": (rb"cdatetime" + b"\ndate\n(" + rb"S'\x07\xe0\x01\x00'" + b"\ntR.", "ValueError"),
    "short_date": (b"cdatetime\ndate\n(S'abc'\ntR.", "3 bytes instead of 4"),
    "date_of_numbers": (b"cdatetime\ndate\n(I2020\nI1\nI1\ntR.", "TypeError"),
    # keys
    "list_key": (b"}]Ns.", "TypeError"),
    "dict_in_set": (b"\x8f(}\x90.", "TypeError"),
    "array_key": (b"}" + pickle.dumps(np.arange(2), 2)[2:-1] + b"Ns.", "TypeError"),
    "call_key": (b"}cbuiltins\nbytearray\n)RNs.", "TypeError"),
    "inert_unhashable_key": (b"}cpandas.tseries.offsets\nDay\n(]tRNs.", "TypeError"),
    # integers
    "long_int": (b"\x8b\x00\x10\x00\x00" + b"\x7f" * 4096 + b".", "integer of more than"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused_with_a_reason(data, reason, executed):
    with pytest.raises(UnsafePickleError, match=r"^the pickle ") as error:
        loads(data)
    assert reason in str(error.value)
    assert executed == []


def test_nothing_is_imported_for_a_name():
    # antigravity opens a browser when it is imported
    assert "antigravity" not in sys.modules
    with pytest.raises(UnsafePickleError, match=r"names 'antigravity\.fly'"):
        loads(b"cantigravity\nfly\n)R.")
    assert "antigravity" not in sys.modules


def test_only_the_standard_library_and_numpy_are_needed():
    code = (
        "import sys, importlib.util as u; s = u.spec_from_file_location('safe_pickle', sys.argv[1])\n"
        "m = sys.modules['safe_pickle'] = u.module_from_spec(s); s.loader.exec_module(m)\n"
        "print(m.loads(bytes.fromhex(sys.argv[2])), {'pandas', 'tables', 'xarray'} & set(sys.modules))"
    )
    pickled = pickle.dumps(pd.offsets.Day(2)).hex()
    command = [sys.executable, "-c", code, safe_pickle.__file__, pickled]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out == "InertObject(name='pandas.offsets.Day', args=(2, False), state=None) set()\n"


def array_pickle(shape=(2,), code="f8", payload=bytes(16), order="<", extra=(None, None, None, -1, -1, 0)):
    """The pickle of an array as NumPy writes it, with any part replaced."""

    class DType:
        def __reduce__(self):
            return np.dtype, (code, False, True), (3, order, *extra)

    class Array:
        def __reduce__(self):
            return reconstruct, (np.ndarray, (0,), b"b"), (1, shape, DType(), False, payload)

    reconstruct = np.arange(0).__reduce__()[0]
    return pickled_without_checks(Array())


def pickled_without_checks(value: object) -> bytes:
    return pickle.dumps(value, 2)


def test_array_pickle_helper_makes_what_numpy_makes():
    assert_same(loads(array_pickle()), np.zeros(2))
    assert_same(pickle.loads(array_pickle()), np.zeros(2))


BAD_ARRAYS = {
    "too_short": ({"payload": bytes(15)}, "15 bytes for an array of shape (2,)"),
    "too_long": ({"payload": bytes(17)}, "17 bytes"),
    "huge_shape": ({"shape": (10**12,)}, "16 bytes for an array of shape (1000000000000,)"),
    "shape_beyond_c": ({"shape": (2**70,)}, "impossible shape"),
    "many_dimensions": ({"shape": (1,) * 65}, "impossible shape"),
    "negative": ({"shape": (-1, -2)}, "impossible shape"),
    "float_shape": ({"shape": (2.0,)}, "float where a int"),
    "no_itemsize": ({"shape": (10**15,), "code": "V0", "payload": b""}, "has an array of |V0"),
    "objects_for_bytes": ({"code": "O"}, "bytes where a list"),
    "bytes_for_objects": ({"payload": [1, 2]}, "list where a bytes"),
    "too_few_objects": ({"code": "O", "payload": [1], "shape": (10**12,)}, "1 objects for an array"),
    "dtype_by_name": ({"code": "float64"}, "dtype 'float64'"),
    "dtype_by_list": ({"code": "f8,f8"}, "dtype 'f8,f8'"),
    "deprecated_code": ({"code": "a5"}, "dtype 'a5'"),
    "byte_order": ({"order": "!"}, "byte order"),
    "text_beyond_unicode": ({"code": "U2", "payload": b"\xff" * 16}, "text that is not Unicode"),
    "datetime_without_unit": ({"code": "M8", "payload": b"\1" * 16}, "datetime without a unit"),
    "overlapping_fields": (
        {"code": "V8", "extra": (None, ("a", "b"), dict.fromkeys("ab", (np.dtype("f8"), 0)), 8, 1, 16)},
        "fields that overlap",
    ),
    "object_field": (
        {"code": "V8", "extra": (None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 16)},
        "has an array of",
    ),
    "field_outside": (
        {"code": "V8", "extra": (None, ("a",), {"a": (np.dtype("f8"), 4)}, 8, 1, 16)},
        "ValueError",
    ),
    "missing_field": ({"code": "V8", "extra": (None, ("a",), {}, 8, 1, 16)}, "KeyError"),
    "subarray_bomb": (
        {"code": "V8", "extra": ((np.dtype("f8"), (10**6, 10**6)), None, None, 8, 1, 0)},
        "ValueError",
    ),
    "time_unit": ({"code": "M8", "extra": (None,) * 3 + (-1, -1, 0, ({}, (b"parsec", 1, 1, 1)))}, "time unit"),
    "time_count": ({"code": "M8", "extra": (None,) * 3 + (-1, -1, 0, ({}, (b"s", 0, 1, 1)))}, "time unit"),
}


@pytest.mark.parametrize(("parts", "reason"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_arrays_that_do_not_add_up_are_refused(parts, reason):
    with pytest.raises(UnsafePickleError) as error:
        loads(array_pickle(**parts))
    assert reason in str(error.value)


def test_text_beyond_unicode_is_found_in_fields_too():
    array = np.frombuffer(b"\xff" * 12, [("a", "i4"), ("b", [("c", "U1", (2,))])])
    for value in (array, array[0]):
        with pytest.raises(UnsafePickleError, match="not Unicode"):
            loads(pickle.dumps(value, 3))


# ---- bombs ----


def laughs(levels: int, width: int = 10, push: bytes = b"N") -> bytes:
    """Lists of the same list: `width ** levels` times what `push` pushes."""
    inner = push + b"q\x00"
    for level in range(levels):
        inner += b"0(" + b"h%c" % level * width + b"lq%c" % (level + 1)
    return inner + b"."


def test_laughs_that_are_few_enough_decode():
    assert loads(laughs(2, 3)) == [[None] * 3] * 3


def keys(numbers: list[int]) -> bytes:
    return pickle.dumps(dict.fromkeys(numbers), 2)


def float_array(count: int) -> bytes:
    return pickle.dumps(np.zeros(count), 2)[2:-1]


BOMBS = {
    "laughs": (laughs(30), "too many objects"),
    "tuple_laughs": (laughs(30).replace(b"l", b"t"), "too many objects"),
    "shared_array": (laughs(4, push=float_array(10_000)), "more data than it holds"),
    "shared_bytearray": (laughs(4, push=b"\x96" + (80_000).to_bytes(8, "little") + bytes(80_000)), "more data"),
    "wide_self_reference": (b"]q\x00(" + b"h\x00" * 200 + b"e.", "contains itself"),
    "list_in_itself": (b"]q\x00h\x00a.", "contains itself"),
    "dict_in_itself": (b"}q\x00Nh\x00s.", "contains itself"),
    "tuple_in_itself": (b"]q\x00h\x00\x85a.", "contains itself"),
    "args_in_themselves": (b"]q\x00cpandas.tseries.offsets\nDay\nh\x00\x85Ra.", "contains itself"),
    "state_in_itself": (b"cpandas.tseries.offsets\nDay\n)Rq\x00h\x00b.", "contains itself"),
    "set_in_itself": (b"\x8fq\x00(h\x00\x90.", "contains itself"),
    "deep_list": (b"]" * 100_000 + b"a" * 99_999 + b".", "nests more than 64 levels"),
    "deep_tuple": (b")" + b"\x85" * 100_000 + b".", "nests more than 64 levels"),
    "deep_dict": (b"}" * 1 + b"N}" * 100_000 + b"s" * 100_000 + b".", "nests more than 64 levels"),
    "colliding_ints": (keys([i * (2**61 - 1) for i in range(1, 20_000)]), "made to collide"),
}


@pytest.mark.parametrize(("data", "reason"), BOMBS.values(), ids=BOMBS)
def test_bombs_cost_little_time(data, reason):
    start = time.thread_time()  # without what others do, and without waiting
    with pytest.raises(UnsafePickleError, match=reason):
        loads(data)
    assert time.thread_time() - start < 60


@pytest.mark.parametrize(("data", "reason"), BOMBS.values(), ids=BOMBS)
def test_bombs_cost_little_memory(data, reason):
    tracemalloc.start()
    try:
        with pytest.raises(UnsafePickleError, match=reason):
            loads(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 * MIB + 16 * len(data)


def test_opcodes_are_bounded():
    data = b"(" + b"]" * 1000 + b"t."
    assert loads(data, max_items=1003) == ([],) * 1000
    with pytest.raises(UnsafePickleError, match="more than 1002 opcodes"):
        loads(data, max_items=1002)


def test_opcodes_are_bounded_by_default():
    with pytest.raises(UnsafePickleError, match="more than 4000000 opcodes"):
        loads(b"N0" * 2_000_000 + b"N.")


@pytest.mark.parametrize("opcode", [b"]", b"}", b"\x8f", b"(", b"N\x94", b")", b"N)R", b"N}b"], ids=repr)
def test_each_opcode_costs_at_most_a_few_hundred_bytes(opcode):
    count = 30_000
    data = b"(cpandas.tseries.offsets\nDay\n)R" + opcode * count + b"t."
    tracemalloc.start()
    try:
        with contextlib.suppress(UnsafePickleError, NotAPickleError):
            loads(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count < peak < MIB + 400 * count


def test_memory_stays_a_small_multiple_of_an_honest_array():
    data = pickle.dumps(np.zeros(4 * MIB, "u1"), 4)
    tracemalloc.start()
    try:
        assert loads(data).nbytes == 4 * MIB
        assert tracemalloc.get_traced_memory()[1] < 5 * len(data)
    finally:
        tracemalloc.stop()


def test_long_columns_of_strings_decode():
    rows = object_array(*(f"row {number}" for number in range(100_000)))
    assert_same(loads(pickle.dumps(rows, 4)), rows)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_long_lists_are_read_in_runs_and_the_same_as_one_by_one(protocol, monkeypatch):
    items = ["short", "ä" * 300, 1, 300, -70000, 2.5, None, True, False, "short"] * 50
    data = pickle.dumps(np.array([*items, *map(str, range(500))], object), protocol)
    done = []
    do = safe_pickle._Reader._do
    monkeypatch.setattr(safe_pickle._Reader, "_do", lambda self, *args: (done.append(args[0]), do(self, *args))[1])
    runs = loads(data)
    if protocol >= 2:  # the opcodes of older protocols are lines of text
        assert len(done) < 60
    done.clear()
    monkeypatch.setattr(safe_pickle._Reader, "_read_run", lambda self, most: 0)
    one_by_one = loads(data)
    assert len(done) > 1000
    assert runs.tolist() == one_by_one.tolist()
    assert list(map(type, runs)) == list(map(type, one_by_one))


def test_no_room_on_the_stack_is_refused():
    data = pickle.dumps([[[[[[[[1]]]]]]]])

    def at_depth(left: int) -> object:
        return at_depth(left - 1) if left else loads(data)

    frame, used = sys._getframe(), 0
    while frame := frame.f_back:
        used += 1
    outcomes = []
    for room in range(2, 60):
        try:
            outcomes.append(at_depth(sys.getrecursionlimit() - used - room))
        except UnsafePickleError as error:
            outcomes.append(str(error).partition(": ")[2])
        except RecursionError:
            outcomes.append("no room for loads itself")
    assert [[[[[[[[1]]]]]]]] in outcomes
    assert any(str(outcome).startswith("RecursionError") for outcome in outcomes)


# ---- properties ----

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**2000), 2**2000),
    st.floats(),
    st.complex_numbers(),
    st.text(),
    st.binary(),
    st.builds(bytearray, st.binary()),
    st.datetimes(timezones=st.sampled_from([None, UTC, datetime.timezone(datetime.timedelta(minutes=-7))])).map(
        lambda value: value.replace(fold=0)
    ),  # early protocols have no fold
    st.dates(),
    st.times().map(lambda value: value.replace(fold=0)),
    st.timedeltas(),
    st.builds(range, st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40), st.integers(1, 9)),
    st.just(...),
    st.sampled_from(list(BENIGN["dtypes"])),
    st.integers(0, len(BENIGN["scalars"]) - 1).map(lambda i: BENIGN["scalars"][i]),  # some have no hash
    st.builds(
        lambda data, code, order: np.frombuffer(data[: len(data) // 8 * 8], code).astype(code, order=order),
        st.binary(),
        st.sampled_from("u1 <i2 >i4 f8 >f4 c8 S8 V4 M8[s] m8[ns]".split()),
        st.sampled_from("CF"),
    ),
    st.lists(st.text(alphabet="aé😀")).map(lambda items: np.array(items, "U")),
)
hashables = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.binary(), st.dates(), st.timedeltas()),
    lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3)),
    max_leaves=5,
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.tuples(inner, inner),
        st.dictionaries(hashables, inner, max_size=5),
        st.dictionaries(hashables, inner, max_size=3).map(OrderedDict),
        st.sets(hashables, max_size=5),
        st.frozensets(hashables, max_size=5),
        st.builds(slice, inner, inner, inner),
        st.lists(inner, max_size=5).map(lambda items: object_array(*items)),
    ),
    max_leaves=15,
)


@given(values, st.sampled_from(PROTOCOLS))
@examples(300)
def test_round_trip(value, protocol):
    assert_same(loads(pickle.dumps(value, protocol)), value)


PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, range, slice, type(...))
OTHERS = (
    *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
    *(np.generic, np.dtype, np.ndarray, InertObject),
)


def assert_only_values(value: object) -> None:
    """No function, class or object of another package anywhere inside."""
    if isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            assert_only_values(item)
    elif isinstance(value, dict):
        assert_only_values(list(value.items()))
    elif isinstance(value, slice):
        assert_only_values([value.start, value.stop, value.step])
    elif isinstance(value, InertObject):
        assert_only_values([value.args, value.state])
    elif isinstance(value, np.ndarray) and value.dtype.kind == "O":
        assert_only_values(value.ravel().tolist())
    else:
        assert type(value) in PLAIN or isinstance(value, OTHERS)
    repr(value)


AUDITED: list[str] = []
AUDITING: list[bool] = []


WATCHED = set("import exec compile code marshal pickle open os shutil subprocess socket ctypes".split())


def audit(event: str, arguments: tuple[object, ...]) -> None:
    if AUDITING and event.partition(".")[0] in WATCHED:
        # NumPy imports its own helpers when they are first needed
        if event == "import" and str(arguments[0]).startswith("numpy"):
            return
        AUDITED.append(f"{event} {arguments}")


codecs.lookup("raw_unicode_escape")  # Python imports its codecs when they are first needed
sys.addaudithook(audit)  # for good: Python has no way to take it out again


def audited_loads(data: bytes) -> object:
    """`loads`, failing if the interpreter imports, compiles, opens, looks up or starts anything meanwhile."""
    AUDITED.clear()
    AUDITING.append(True)
    try:
        return loads(data)
    finally:
        AUDITING.clear()
        assert AUDITED == []


def test_audit_sees_what_pickle_does(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "loads", pickle.loads)
    with pytest.raises(AssertionError, match=r"pickle\.find_class \('builtins', 'set'\)"):
        audited_loads(b"cbuiltins\nset\n)R.")


def assert_value_or_refusal(data: bytes) -> bool:
    try:
        assert_only_values(audited_loads(data))
    except (NotAPickleError, UnsafePickleError):
        return False
    return True


@given(st.binary(max_size=200))
@examples(500)
def test_any_bytes_give_a_value_or_a_refusal(data):
    assert_value_or_refusal(data)
    assert_value_or_refusal(data + b".")


CORPUS = [
    *(pickle.dumps(value, protocol) for value in BENIGN.values() for protocol in (0, 2, 4, 5)),
    *(pickle.dumps(value, protocol) for value, _ in INERT.values() for protocol in (0, 4)),
    *(data for data, _ in PYTHON2.values()),
    *(data for data, _ in REFUSED.values()),
    *(data for data in EXECUTING.values()),
]
CORPUS = [data for data in CORPUS if len(data) < 5000]
OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
edits = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 3), st.one_of(st.sampled_from(OPCODES), st.binary(max_size=3))),
    min_size=1,
    max_size=4,
)


@given(st.sampled_from(CORPUS), edits, st.sampled_from(CORPUS))
@examples(1500)
def test_mutated_pickles_give_a_value_or_a_refusal(data, edits, other):
    for position, removed, added in edits:
        position %= len(data)
        data = data[:position] + added + data[position + removed :]
        data = data or b"."
    assert_value_or_refusal(data)
    assert_value_or_refusal(data[:-1] + other[2 if other[:1] == b"\x80" else 0 :])


opcode_soup = st.lists(
    st.one_of(
        st.sampled_from([code for code in OPCODES if code != b"."]),
        st.sampled_from([b"h\0", b"q\0", b"K\1", b"U\1a", b"\x8c\1b", b"\x94", b"I1\n", b"g0\n", b"p0\n"]),
        st.sampled_from(sorted(safe_pickle._KNOWN)).map(
            lambda name: b"c" + b"\n".join(name.rpartition(".")[::2][part].encode() for part in (0, 1)) + b"\n"
        ),
        st.sampled_from([data[:-1] for data in CORPUS if len(data) < 60]),
    ),
    max_size=25,
)


@given(opcode_soup)
@examples(1500)
def test_opcodes_in_any_order_give_a_value_or_a_refusal(parts):
    assert_value_or_refusal(b"".join(parts) + b".")


def test_the_mutations_reach_both_outcomes():
    # a changed digit of an int is another value, a changed opcode is not a pickle: the properties above see both
    assert assert_value_or_refusal(pickle.dumps([7], 0).replace(b"7", b"8"))
    assert not assert_value_or_refusal(pickle.dumps([7], 0).replace(b"a", b"R"))
