"""Objects behind a network: which requests are made, and that whatever goes wrong is an error and never wrong data."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from xr_pytables.errors import FileChangedError, FormatError, RemoteError
from xr_pytables.sources import remote
from xr_pytables.sources.filesystems import UrlTarget
from xr_pytables.sources.ranges import Run, merged, parts, together
from xr_pytables.sources.remote import _BLOCK, HEAD, Answer, Fetched, ObjectVersion, Remote, RemotePlace, Transfer
from xr_pytables.sources.url import shown, without_secrets

from .. import helpers_server
from ..helpers_server import Fault, Handler, Server, cut, fine, running, several, shifted, short, status, unsaid
from ..helpers_threads import WATCHDOG

DATA = np.random.default_rng(0).bytes(20_000_000)
QUICK = Transfer(pause=0.0)


@pytest.fixture
def server():
    with running(objects={"a.h5": DATA}) as server:
        yield server


def opened(server: Server, transfer: Transfer = QUICK) -> Remote:
    """The object, its head read; the log of the server is empty after that."""
    source = RemotePlace.of(UrlTarget(server.url()), transfer).open(None).source
    server.asked.clear()
    server.headers.clear()
    return source


# -- which requests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1000, HEAD - 1, HEAD, HEAD + 1])
def test_the_first_request_is_for_the_head_and_tells_the_size(server, size):
    server.objects["a.h5"] = DATA[:size]
    source = RemotePlace.of(UrlTarget(server.url()), QUICK).open(None).source
    assert server.asked == [("a.h5", 0, min(size, HEAD))]
    assert source.size == size
    assert source.read(0, min(size, HEAD)) == DATA[: min(size, HEAD)]
    assert len(server.asked) == 1


def test_a_known_version_needs_no_first_request(server):
    version = opened(server).version
    source = RemotePlace.of(UrlTarget(server.url()), QUICK).open(version).source
    assert server.asked == []
    assert source.read(5_000_000, 10) == DATA[5_000_000:5_000_010]
    assert len(server.asked) == 1


def test_reads_any_range(server):
    source = opened(server)
    random = np.random.default_rng(1)
    for count in (0, 1, 10, 1 << 14, 70_000, 2_000_000, 18_000_000):
        offset = int(random.integers(0, len(DATA) - count))
        assert source.read(offset, count) == DATA[offset : offset + count]
        buffer = np.zeros(count, np.uint8)
        assert source.read_into(buffer, offset) == count
        assert buffer.tobytes() == DATA[offset : offset + count]
    assert source.read(len(DATA) - 5, 5) == DATA[-5:]
    assert source.read_into(bytearray(10), len(DATA) - 5) == 5
    assert source.read_into(bytearray(10), len(DATA) + 5) == 0


def test_neighbours_of_what_was_read_are_kept(server):
    source = opened(server)
    source.read(5_000_000, 10)
    source.read(5_000_100, 1000)
    assert len(server.asked) == 1
    assert server.bytes_asked <= 1 << 16


def test_the_end_comes_as_a_whole(server):
    source = opened(server)
    assert source.read(len(DATA) - 10, 10) == DATA[-10:]
    assert source.read(len(DATA) - 200_000, 10_000) == DATA[-200_000:-190_000]
    assert len(server.asked) == 1
    assert server.bytes_asked <= 1 << 18


def test_who_reads_on_and_on_gets_longer_and_longer_blocks(server):
    source = opened(server)
    for offset in range(HEAD, HEAD + 4_000_000, 10_000):
        assert source.read(offset, 10_000) == DATA[offset : offset + 10_000]
    assert len(server.asked) < 10


def test_many_small_ranges_are_merged_where_they_are_near(server):
    source = opened(server)
    ranges = [(5_000_000 + 100_000 * i, 100) for i in range(20)] + [(15_000_000, 100)]
    assert source.read_many(ranges) == [DATA[offset : offset + count] for offset, count in ranges]
    assert len(server.asked) == 2


def test_ranges_arrive_and_near_ones_together(server):
    source = opened(server)
    ranges = [
        (12_000_000, 200_000),
        (5_000_000, 300_000),
        (5_400_000, 300_000),
        (19_000_000, 1_000_000),
        (5_000_000, 0),
    ]
    found = {number: bytes(data) for number, data in source.arriving(ranges)}
    assert found == {number: DATA[offset : offset + count] for number, (offset, count) in enumerate(ranges)}
    assert sorted(server.asked)[0] == ("a.h5", 5_000_000, 700_000)
    assert len(server.asked) == 3


def test_no_more_requests_are_under_way_than_allowed(server):
    together, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(3)

    def count(handler):
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        both.wait(WATCHDOG)  # three are under way at once
        with lock:
            together -= 1
        return False

    source = opened(server, Transfer(concurrency=3, gap=0, pause=0.0))
    server.always = count
    assert len(list(source.arriving([(i * 1_000_000, 100_000) for i in range(12)]))) == 12
    assert most == 3


def test_a_long_range_comes_in_parts_side_by_side(server):
    source = opened(server)
    assert source.read(1_000_000, 18_000_000) == DATA[1_000_000:19_000_000]
    assert len(server.asked) == 8


def test_threads_that_want_one_block_ask_for_it_once(server):
    source = opened(server)
    here = threading.Event()
    server.always = lambda handler: not here.wait(WATCHDOG)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(source.read, 5_000_000, 100) for _ in range(8)]
        here.set()
        assert {future.result(WATCHDOG) for future in futures} == {DATA[5_000_000:5_000_100]}
    assert len(server.asked) == 1


def test_blocks_are_kept_up_to_a_bound(server, monkeypatch):
    monkeypatch.setattr("xr_pytables.sources.remote._KEPT", 1 << 20)
    source = opened(server)
    for offset in range(2_000_000, 19_000_000, 1_000_000):
        source.read(offset, 100)
    assert source._held <= 2 << 20
    server.asked.clear()
    source.read(2_000_000, 100)
    assert len(server.asked) == 1


def test_blocks_of_all_objects_are_bounded_together(server, monkeypatch):
    gc.collect()
    monkeypatch.setattr("xr_pytables.sources.remote._KEPT_OF_ALL", remote._held.bytes + (4 << 20))
    before, sources = remote._held.bytes, [opened(server) for _ in range(8)]
    for source in sources:
        source.read_many([(i * 1_000_000, 10) for i in range(3, 19)])
    assert remote._held.bytes - before <= 8 * (2 << 20)
    del source, sources
    gc.collect()
    assert remote._held.bytes == before


def test_neighbours_are_not_asked_for_twice(server):
    source = opened(server, Transfer(gap=0, pause=0.0))
    end = len(DATA)
    for ranges in ([(5_000_000, 10), (5_040_000, 10)], [(end - 200_000, 10), (end - 100_000, 10)]):
        server.asked.clear()
        assert source.read_many(ranges) == [DATA[offset : offset + count] for offset, count in ranges]
        asked = sorted(server.asked)
        assert all(offset + count <= after for (_, offset, count), (_, after, _) in itertools.pairwise(asked)), asked


def test_nothing_of_an_answer_stays_that_is_not_kept(server, monkeypatch):
    monkeypatch.setattr(remote, "_KEPT", 1 << 18)
    source = opened(server)
    answers = source._have({offset // _BLOCK: None for offset, _ in APART}, 1)
    alive = [weakref.ref(span.answer) for span in answers.values()]
    assert all(len(span.answer.result(WATCHDOG)[span.number]) == _BLOCK for span in answers.values())
    assert len(set(alive)) == 2
    del answers
    left = [answer.result() for ref in set(alive) if (answer := ref()) is not None]
    assert sum(len(data) for found in left for data in found) == source._held <= 1 << 18


def test_fetched_ranges_are_a_source(server):
    fetched = Fetched(opened(server), [(3_000_000, 500_000), (9_000_000, 500_000)])
    server.asked.clear()
    assert fetched.read(9_100_000, 1000) == DATA[9_100_000:9_101_000]
    assert fetched.read_many([(3_000_000, 5), (9_499_995, 5)]) == [DATA[3_000_000:3_000_005], DATA[9_499_995:9_500_000]]
    assert server.asked == []
    buffer = bytearray(600_000)  # more than was fetched
    assert fetched.read_into(buffer, 3_000_000) == 600_000
    assert buffer == DATA[3_000_000:3_600_000]


@pytest.mark.parametrize("most", [0, 99, 10_000])
def test_merged_ranges_hold_all_of_them_and_no_large_gap(most):
    random = np.random.default_rng(2)
    ranges = [
        (int(a), int(b)) for a, b in zip(random.integers(0, 100_000, 200), random.integers(0, 500, 200), strict=True)
    ]
    runs = merged(ranges, most, 20_000)
    assert sorted(number for run in runs for number in run.members) == list(range(200))
    for run in runs:
        inside = sorted(ranges[number] for number in run.members)
        assert run.offset == inside[0][0]
        assert run.offset + run.count == max(offset + count for offset, count in inside)
        assert run.count <= 20_000
        end = run.offset
        for offset, count in inside:
            assert offset <= end + most
            end = max(end, offset + count)
    assert merged([]) == []
    assert merged([(5, 10**9)]) == [Run(5, 10**9, (0,))]


def test_parts_make_the_whole():
    assert parts(7, 10, 3) == [(7, 2), (9, 3), (12, 2), (14, 3)]
    assert parts(7, 0, 3) == [(7, 0)]


# -- several ranges in one answer ---------------------------------------------------------------------------

APART = [(1_500_000 + 900_000 * i, 100) for i in range(20)]  # further than what is read along


def read_apart(source: Remote) -> bool:
    return source.read_many(APART) == [DATA[offset : offset + count] for offset, count in APART]


def test_ranges_that_lie_apart_come_by_one_request_for_sixteen(server):
    source = opened(server)
    assert read_apart(source)
    assert sorted(headers["Range"].count("-") for headers in server.headers) == [4, 16]
    assert all("If-Match" in headers for headers in server.headers)
    assert read_apart(source)
    assert len(server.headers) == 2  # they are kept


def test_ranges_together_are_few_and_short():
    ranges = [(0, 10), (50, 1 << 20), (2 << 20, 1 << 19), (4 << 20, 1 << 19), (6 << 20, 1)]
    assert together(ranges) == [ranges[:1], ranges[1:2], ranges[2:4], ranges[4:]]
    assert [len(group) for group in together([(i, 1) for i in range(33)])] == [16, 16, 1]
    assert together([]) == []


def test_a_server_that_sends_one_range_each_is_asked_for_several_only_once(server):
    server.has_several = False
    source = opened(server)
    assert read_apart(source)
    assert len(server.headers) - len(APART) in (1, 2)  # the second one may have been under way
    server.headers.clear()
    again = RemotePlace.of(UrlTarget(server.url()), QUICK).open(source.version).source
    assert read_apart(again)
    assert len(server.headers) == len(APART)


@pytest.mark.parametrize("number", [400, 403, 416, 501])
@pytest.mark.parametrize("always", [True, False], ids=["whatever is asked for", "several"])
def test_a_server_is_known_not_to_send_several_only_if_it_refuses_nothing_else(server, number, always):
    source, asked = opened(server), list[int]()
    server.objects["b.h5"] = DATA

    def refusing(handler: Handler) -> bool:
        ranges = len(handler.extents(len(DATA)))
        if handler.name == "b.h5":
            asked.append(ranges)
        return handler.name == "a.h5" and (always or ranges > 1) and status(number)(handler)

    server.always = refusing
    with pytest.raises(OSError, match=rf"says {number}") if always else contextlib.nullcontext():
        assert read_apart(source)
    assert read_apart(RemotePlace.of(UrlTarget(server.url("b.h5")), QUICK).open(None).source)
    assert sorted(asked) == ([1, 4, 16] if always else [1] * 21)


KIND = {"Content-Type": "multipart/byteranges; boundary=THIS"}


def answering(body: Callable[[bytes], bytes]) -> Fault:
    """Answer with a body that is made from the right one."""

    def fault(handler: Handler) -> bool:
        found = body(several(DATA, handler.extents(len(DATA))))
        handler.send(206, found, len(found), KIND, True)
        return True

    return fault


def cut_in_the_last(handler: Handler) -> bool:
    found = several(DATA, handler.extents(len(DATA)))
    handler.send(206, found[:-20_000], len(found), KIND, True)
    handler.close_connection = True
    return True


@pytest.mark.parametrize(
    "fault",
    [
        status(503),
        status(400),
        status(403),
        status(416),
        cut_in_the_last,
        answering(lambda body: body[:-20_000]),
        answering(lambda body: body[50_000:]),
        answering(lambda body: b""),
        answering(lambda body: b"\r\n\r\n" * 1000),
        answering(lambda body: body.replace(b"/20000000\r\n", b"/20000001\r\n")),
        answering(lambda body: body.replace(b"-Range: bytes 1", b"-Range: bytes 99999999999999999999999999991")),
        answering(lambda body: body.replace(b"-Range: bytes", b"-Range: pages")),
    ],
    ids="503 400 403 416 cut short begun empty blank size huge pages".split(),
)
def test_whatever_is_wrong_with_several_ranges_they_are_asked_for_one_by_one(server, fault):
    source = opened(server)
    server.always = lambda handler: len(handler.extents(len(DATA))) > 1 and fault(handler)
    assert read_apart(source)
    assert [headers["Range"].count("-") for headers in server.headers].count(1) == len(APART)


@pytest.mark.parametrize("change", [lambda part: part[:-3], lambda part: part + b"abc"], ids=["shorter", "longer"])
@pytest.mark.parametrize("number", [2, -1])
def test_a_part_that_is_not_as_long_as_it_says_is_not_believed(server, number, change):
    between, behind = b"\r\n--THIS\r\n", b"\r\n--THIS--\r\n"

    def changed(body: bytes) -> bytes:
        parts = body.removesuffix(behind).split(between)
        parts[number] = change(parts[number])
        return between.join(parts) + behind

    source = opened(server)
    server.always = lambda handler: len(handler.extents(len(DATA))) > 1 and answering(changed)(handler)
    assert read_apart(source)
    for offset, count in APART:  # all of the blocks that came
        begin, end = offset // _BLOCK * _BLOCK, -(-(offset + count) // _BLOCK) * _BLOCK
        assert source.read(begin, end - begin) == DATA[begin:end]


def test_an_answer_of_several_ranges_without_end_is_not_read_to_its_end(server):
    source = opened(server)
    ended = threading.Semaphore(0)

    def endless(handler: Handler) -> bool:
        handler.send(206, several(DATA, handler.extents(len(DATA))), 1 << 40, KIND, True)
        with contextlib.suppress(ConnectionError):
            while True:
                handler.wfile.write(bytes(1 << 16))
        handler.close_connection = True
        ended.release()
        return True

    server.always = endless
    assert read_apart(source)
    assert len(server.headers) == 2
    assert all(ended.acquire(timeout=WATCHDOG) for _ in range(2))


def test_a_server_may_send_near_ranges_as_one_and_in_any_order(server):
    def joined(handler: Handler) -> bool:
        extents = handler.extents(len(DATA))
        if len(extents) == 1:
            return False
        ends = [(first, last) for (first, _), (_, last) in zip(extents[::2], extents[1::2], strict=True)]
        body = several(DATA, ends[::-1])
        handler.send(206, body, len(body), KIND, True)
        return True

    source = opened(server, Transfer(gap=0, pause=0.0))
    server.always = joined
    ranges = [(2_000_000, 10), (2_040_000, 10), (3_000_000, 10), (3_040_000, 10)]
    assert source.read_many(ranges) == [DATA[offset : offset + count] for offset, count in ranges]
    assert len(server.headers) == 1


def test_parts_may_hold_what_looks_like_their_heads(server):
    head = b"\r\n--THIS\r\nContent-Range: bytes 0-9/20000000\r\n\r\n"
    server.objects["a.h5"] = data = (head * (len(DATA) // len(head) + 1))[: len(DATA)]
    source = opened(server)
    assert source.read_many(APART) == [data[offset : offset + count] for offset, count in APART]
    assert len(server.headers) == 2


def test_one_of_several_that_fails_leaves_nothing_that_fails_later(server):
    source = opened(server)
    wanted = APART[3][0]
    server.always = lambda handler: (
        any(first <= wanted <= last for first, last in handler.extents(len(DATA))) and status(403)(handler)
    )
    with pytest.raises(PermissionError, match=r"a\.h5: bytes .* the server says 403"):
        source.read_many(APART)
    assert source.read(*APART[18]) == DATA[APART[18][0] : APART[18][0] + 100]  # which came with another answer
    server.always = None
    assert read_apart(source)


def test_a_replaced_object_is_noticed_in_an_answer_of_several(server):
    source = opened(server)
    server.objects["a.h5"] = DATA[::-1]
    for server.heeds_conditions in (False, True):
        with pytest.raises(FileChangedError, match="was replaced since it was opened"):
            source.read_many(APART)


# -- what goes wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [[status(503)], [status(500), status(429, Retry_After="0"), status(504)], [cut], [cut, fine, cut], [short]],
    ids=["503", "several", "cut", "cut twice", "short"],
)
def test_what_may_pass_is_tried_again(server, faults):
    source = opened(server)
    server.faults = list(faults)
    assert source.read(5_000_000, 100_000) == DATA[5_000_000:5_100_000]
    assert source.read(15_000_000, 100_000) == DATA[15_000_000:15_100_000]


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (status(503), RemoteError, r"a\.h5: bytes 4997120 to 5111807: the server says 503 .*; tried 5 times"),
        (cut, RemoteError, r"a\.h5: bytes .*; tried 5 times"),
        (short, RemoteError, r"114687 bytes came, expected 114688: the answer was cut off; tried 5 times"),
        (shifted, RemoteError, r"bytes \d+ to \d+ of 20000000 instead"),
        (unsaid, RemoteError, r"does not say which range"),
        (status(404), FileChangedError, r"was removed since it was opened"),
        (status(412), FileChangedError, r"was replaced since it was opened"),
        (status(416), FileChangedError, r"was replaced since it was opened"),
        (status(403), PermissionError, r"the server says 403 .*storage_options="),
        (status(400), RemoteError, r"the server says 400"),
    ],
    ids=["503", "cut", "short", "shifted", "unsaid", "404", "412", "416", "403", "400"],
)
def test_what_does_not_pass_is_an_error_that_names_url_and_range(server, fault, error, message):
    source = opened(server)
    server.always = fault
    with pytest.raises(error, match=message) as caught:
        source.read(5_000_000, 100_000)
    assert server.url() in str(caught.value)
    server.always = None
    assert source.read(5_000_000, 100_000) == DATA[5_000_000:5_100_000]  # and not kept


def test_a_server_that_does_not_answer_is_given_up(server):
    hasty = Transfer(timeout=0.05, tries=2, pause=0.0)
    source = RemotePlace.of(UrlTarget(server.url()), hasty).open(opened(server).version).source
    ends = threading.Event()
    server.always = lambda handler: ends.wait(WATCHDOG)
    try:
        with pytest.raises(RemoteError, match=r"no answer within 0\.05 seconds; tried 2 times"):
            source.read(5_000_000, 10)
    finally:
        ends.set()


def test_nobody_there():
    with running() as server:
        url = server.url()
    with pytest.raises(RemoteError, match=r"a\.h5: bytes 0 to 1048575: .*[Cc]onnect.*; tried 2 times"):
        RemotePlace.of(UrlTarget(url), Transfer(pause=0.0, tries=2)).open(None)


def test_an_empty_object(server):
    server.objects["a.h5"] = b""
    with pytest.raises(RemoteError, match="the object is empty"):
        RemotePlace.of(UrlTarget(server.url()), QUICK).open(None)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(416), r"says 416 .* where its first bytes were asked for: the object may be empty"),
        (status(416, Content_Range="bytes */200"), r"says 416 .* were asked for of an object of 200 bytes"),
    ],
)
def test_a_range_that_is_refused_makes_no_object_empty(server, fault, message):
    server.always = fault
    with pytest.raises(RemoteError, match=message):
        RemotePlace.of(UrlTarget(server.url()), QUICK).open(None)


def test_a_missing_object(server):
    with pytest.raises(FileNotFoundError, match=r"nope\.h5: there is no such object"):
        RemotePlace.of(UrlTarget(server.url("nope.h5")), QUICK).open(None)


def test_a_copy_is_made_of_what_is_there(server):
    """fsspec itself says of whatever goes wrong that there is no such file."""
    with pytest.raises(FileNotFoundError, match=r"nope\.h5: there is no such object"):
        RemotePlace.of(UrlTarget(f"simplecache::{server.url('nope.h5')}"), QUICK).open(None)
    with pytest.raises(RemoteError, match=r"simplecache::http://127\.0\.0\.1:1/a\.h5.*Cannot connect"):
        RemotePlace.of(UrlTarget("simplecache::http://127.0.0.1:1/a.h5"), QUICK).open(None)
    server.always = status(503)
    with pytest.raises(RemoteError, match="503"):
        RemotePlace.of(UrlTarget(f"simplecache::{server.url()}"), QUICK).open(None)


def test_a_server_without_ranges(server):
    server.has_ranges = False
    with pytest.raises(RemoteError, match=r"it knows no ranges. Put 'simplecache::' before"):
        RemotePlace.of(UrlTarget(server.url()), QUICK).open(None)
    server.objects["a.h5"] = DATA[:5000]  # small enough to come with the first request
    assert RemotePlace.of(UrlTarget(server.url()), QUICK).open(None).source.read(10, 20) == DATA[10:30]


@pytest.mark.parametrize("kind", ["tags", "weak tags", "no tags", "conditions ignored"])
@pytest.mark.parametrize("same_size", [True, False])
def test_a_replaced_object_is_noticed(server, kind, same_size):
    server.has_tags = kind != "no tags"
    server.weak_tags = kind == "weak tags"
    server.heeds_conditions = kind != "conditions ignored"
    source = opened(server)
    server.objects["a.h5"] = DATA[::-1] if same_size else DATA[:-1]
    server.modified += 1
    for read in (
        lambda: source.read(5_000_000, 10),
        lambda: source.read_into(bytearray(1_000_000), 5_000_000),
        lambda: list(source.arriving([(5_000_000, 1_000_000)])),
    ):
        with pytest.raises(FileChangedError, match=r"a\.h5: bytes \d+ to \d+: the object was replaced since"):
            read()
    assert source.read(0, 100) == DATA[:100]  # of the version that was opened


def test_conditions_are_sent_only_where_they_can_be_met(server):
    source = opened(server)
    source.read(5_000_000, 10)
    assert server.headers[-1]["If-Match"] == server.tag(DATA)
    assert server.headers[-1]["Accept-Encoding"] == "identity"
    server.weak_tags = True
    source = opened(server)
    source.read(5_000_000, 10)
    assert "If-Match" not in server.headers[-1]


def test_ranges_beyond_the_end_are_refused_before_anything_is_asked_for(server):
    source = opened(server)
    for read in (lambda: source.read(len(DATA) - 5, 6), lambda: source.arriving([(0, 5), (len(DATA), 1)])):
        with pytest.raises(FormatError, match=r"were to be read, the file has 20000000 bytes"):
            read()
    assert server.asked == []


def test_whoever_stops_listening_leaves_no_request_under_way(server):
    source = opened(server, Transfer(concurrency=2, gap=0, pause=0.0))
    ends, begun = threading.Event(), threading.Semaphore(0)

    def wait(handler):
        begun.release()
        return handler.extent(len(DATA))[0] != 2_000_000 and not ends.wait(WATCHDOG)

    server.always = wait
    arriving = source.arriving([(2_000_000, 100_000), (4_000_000, 100_000), (6_000_000, 100_000), (8_000_000, 100_000)])
    assert next(arriving)[0] == 0
    assert begun.acquire(timeout=WATCHDOG)
    arriving.close()
    ends.set()
    assert len(server.asked) <= 3


# -- secrets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://me:pw@host:80/a/b.h5?X-Signature=abc#d", "https://host:80/a/b.h5?...#..."),
        ("simplecache::s3://bucket/a.h5", "simplecache::s3://bucket/a.h5"),
        ("zip://a.h5::https://me:pw@host/b.zip?sig=1", "zip://a.h5::https://host/b.zip?..."),
        ("s3://bucket/\x1b[2Ja.h5", "s3://bucket/\\x1b[2Ja.h5"),
    ],
)
def test_names_have_no_secrets_and_no_control_characters(url, name):
    assert shown(url) == name
    for part in (url, url.partition("://")[2]):  # file systems take the scheme off
        told = without_secrets(f"cannot get {part} now", part)
        assert "pw" not in told
        assert "abc" not in told
        assert "sig=1" not in told


def test_no_secret_in_any_message_or_repr(server):
    url = server.url(user="me:geheim@") + "?sig=signed"
    place = RemotePlace.of(UrlTarget(url, {"headers": {"X-Key": "token"}}), QUICK)
    opened = place.open(None)
    assert server.headers[-1]["X-Key"] == "token"
    assert server.headers[-1]["Authorization"].startswith("Basic ")
    told = [repr(place), repr(opened.source), str(opened.version()), opened.path]
    for fault in (status(503), status(400), status(403), status(404), status(412), cut, unsaid):
        server.always = fault
        with pytest.raises(OSError, match=r"127\.0\.0\.1") as caught:
            opened.source.read(5_000_000, 10)
        told += [str(caught.value), repr(caught.value)]
    for secret in ("geheim", "signed", "token"):
        assert not any(secret in text for text in told)


# -- clients ------------------------------------------------------------------------------------------------


class Odd:
    """A client whose answers are not what they should be."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    async def get(self, offset, count, version):
        await asyncio.sleep(0)
        return self.answer


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (Answer(b"x" * 11, None), RemoteError, "11 bytes came, expected 10"),
        (Answer(b"x" * 10, ObjectVersion(99, '"b"')), FileChangedError, r"then 100 bytes, ETag \"a\"; now 99 bytes"),
        (Answer(b"x" * 10, ObjectVersion(100, '"b"')), FileChangedError, 'now 100 bytes, ETag "b"'),
    ],
)
def test_answers_of_any_client_are_checked(answer, error, message):
    source = Remote(Odd(answer), "odd://a", ObjectVersion(100, '"a"'), QUICK)
    with pytest.raises(error, match=message):
        source._result(source._asked(0, 10))


def test_versions_agree_as_far_as_both_tell():
    version = ObjectVersion(5, '"a"', "1", "now")
    assert version.same_version(ObjectVersion(5))
    assert version.same_version(ObjectVersion(5, modified="now"))
    assert not version.same_version(ObjectVersion(5, modified="then"))
    assert not version.same_version(ObjectVersion(6))
    assert helpers_server.fine(None) is False
