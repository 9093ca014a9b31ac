"""Objects behind a network: few requests, many at once, and never a mixture of two versions.

What is read here and there (headers, indexes, small arrays) comes from blocks that are kept; what is read in bulk is
asked for in ranges that are merged, many in flight. A `Client` knows one protocol; everything that all protocols need
is here: what is worth another try, how long to wait, and whether the answer is of the version that was opened.

The requests run in fsspec's thread, whose event loop all of fsspec's file systems share.

Tested in `tests/sources/test_remote.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from ..errors import FileChangedError, RemoteError
from .disk_cache import BLOCK, DiskCache, KeptBlocks
from .place import Opened, Place, Version
from .ranges import GAP, MOST, Run, merged, part_size, parts, together
from .read_ahead import ReadAhead, Windows
from .source import WritableBuffer, flat_view, in_range, printable

PROBE: Final = 1 << 9
"""Bytes that are asked for to see which version is there, if what it holds may be known."""
HEAD: Final = 1 << 20
"""Bytes of the first request: files that are written front-loaded have all their metadata in them."""
_BLOCK: Final = 1 << 14  # bytes that are kept, or not, together
_WINDOW: Final = 4  # blocks that a read of one of them brings, if nothing is known of the neighbours
_TAIL: Final = 16  # blocks at the end that are read together
_AHEAD: Final = 64  # blocks that are read at once, at most, by who reads on and on
_FEW: Final = 256  # blocks: reads here and there of more than these are no metadata
_KEPT: Final = 1 << 25  # bytes of blocks, of one object
_KEPT_OF_ALL: Final = 1 << 28  # the same of all objects: beyond it each that gets more gives up what it has
_UNDER_WAY: Final = 1 << 26  # bytes that were asked for and not yet handed on
_LONGEST_PAUSE: Final = 30.0  # seconds
_T = TypeVar("_T")


@dataclass(frozen=True)
class ObjectVersion:
    """What a server says of an object: an empty text where it says nothing."""

    size: int
    """In bytes."""
    tag: str = ""
    """The ETag, with its quotes."""
    number: str = ""
    """Of the version, where the store keeps several."""
    modified: str = ""
    """The time of the last change, as the server writes it."""

    def same_version(self, other: ObjectVersion) -> bool:
        """Whether both say the same, as far as both say it."""
        told = ((self.tag, other.tag), (self.number, other.number), (self.modified, other.modified))
        return self.size == other.size and all(one == another for one, another in told if one and another)

    def __str__(self) -> str:
        words = [f"{self.size} bytes", self.tag and f"ETag {self.tag}", self.number and f"version {self.number}"]
        return printable(", ".join([*filter(None, words), *([self.modified] if self.modified else [])]))


@dataclass(frozen=True)
class Answer:
    """Bytes of an object, and which version they are of."""

    data: bytes
    version: ObjectVersion | None
    """None if the server says nothing with each answer."""


class TemporaryError(Exception):
    """An answer that may be another one in a moment."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait
        """Seconds that the server asked for."""


class Client(Protocol):
    """One object, by one protocol."""

    async def get(self, offset: int, count: int, version: ObjectVersion | None) -> Answer:
        """The bytes from `offset`, fewer than `count` at the end of the object alone.

        With a `version` of that one: raises FileChangedError if the server says that it has another. Raises
        TemporaryError, ConnectionError and TimeoutError for what is worth another try, other OSErrors for what is not,
        with messages that begin with what is wrong and have no secrets.
        """


@runtime_checkable
class ClientOfSeveral(Client, Protocol):
    """One object, by a protocol that has several ranges in one answer."""

    async def get_several(self, ranges: Sequence[tuple[int, int]], version: ObjectVersion) -> Sequence[Answer] | None:
        """The bytes of each (offset, count), all within the object; None from a server that does not send them so."""


class Target(Protocol):
    """What is to be opened, as a value that pickles."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def key(self) -> str:
        """What tells it from all other objects. May hold secrets."""

    def client(self) -> Client:
        """Whoever gets its bytes, in this process."""

    def beside(self, path: str) -> Target:
        """The file at a path that counts from the folder of this one. Raises FileNotFoundError if there can be none."""


@dataclass(frozen=True)
class Transfer:
    """How to ask for bytes."""

    concurrency: int = 32
    """Requests in flight for one file."""
    gap: int = GAP
    """Bytes between two ranges that are read along instead of asking twice."""
    timeout: float = 60.0
    """Seconds for each try of a request, of which none is for more than `ranges.MOST` bytes."""
    tries: int = 5
    pause: float = 0.2
    """Seconds before the second try; doubled before each further one."""
    cache: DiskCache | None = None
    """Where bytes are kept on disk; None for nowhere."""


@dataclass(frozen=True)
class RemotePlace:
    """An object behind a network."""

    target: Target = field(compare=False)
    path: str
    transfer: Transfer = Transfer()

    @classmethod
    def of(cls, target: Target, transfer: Transfer) -> RemotePlace:
        return cls(target, target.name, transfer)

    def open(self, version: Version | None) -> Opened:
        """The first request is for the head of the object, if the version is not known yet; else there is none."""
        assert version is None or isinstance(version, ObjectVersion)
        client, cache = self.target.client(), self.transfer.cache
        if cache is not None:
            cache.prepare()
        if version is not None:
            return OpenedObject(self.made(client, version), self)
        known = cache is not None and cache.knows(self.target.key)
        answer = in_loop(_Asking(client, self.path, self.transfer).get(0, PROBE if known else HEAD, None)).result()
        assert answer.version is not None  # checked by who asked
        return OpenedObject(self.made(client, answer.version, b"" if known else answer.data), self)

    def made(self, client: Client, version: ObjectVersion, head: bytes = b"") -> Remote:
        """The source of one version; `head` are its first bytes, if they were read already."""
        return Remote(client, self.path, version, self.transfer, head=head, kept=self.kept(version))

    def kept(self, version: ObjectVersion) -> KeptBlocks | None:
        """What is on disk of that version."""
        cache, told = self.transfer.cache, (version.tag, version.number, version.modified)
        return cache.of(self.target.key, told, version.size) if cache is not None else None

    def beside(self, path: str) -> Place:
        return RemotePlace.of(self.target.beside(path), self.transfer)


class OpenedObject(Opened):
    """One version of an object. A process that was forked off asks anew: it has no connections."""

    def __init__(self, source: Remote, place: RemotePlace) -> None:
        super().__init__(place.path)
        self._source, self._place, self._process = source, place, os.getpid()

    @property
    def source(self) -> Remote:
        if self._process != os.getpid():
            place, version = self._place, self._source.version
            self._source = place.made(place.target.client(), version)
            self._process = os.getpid()
        return self._source

    @property
    def failure(self) -> OSError | None:
        return self._source.failure

    def version(self) -> ObjectVersion:
        """The one that was opened: each answer is checked to be of it."""
        return self._source.version

    def close(self) -> None:
        self._source.forget()


def in_loop(work: Coroutine[Any, Any, _T]) -> Future[_T]:
    """Have the thread of fsspec do it."""
    from fsspec.asyn import get_loop  # not everybody reads from a network

    future: Future[_T] = asyncio.run_coroutine_threadsafe(work, get_loop())
    return future


class _Asking:
    """Requests for ranges of one object: a bounded number at once, tried again where that may help."""

    def __init__(self, client: Client, name: str, transfer: Transfer) -> None:
        self._client, self._name, self._transfer = client, name, transfer
        self._slots = asyncio.Semaphore(transfer.concurrency)

    async def get(self, offset: int, count: int, version: ObjectVersion | None) -> Answer:
        """One answer, of the whole range where the version and so the size is known."""
        transfer, where = self._transfer, f"{self._name}: bytes {offset} to {offset + count - 1}"
        async with self._slots:
            for attempt in range(1, transfer.tries + 1):
                wait = transfer.pause * 2 ** (attempt - 1) * (0.5 + random.random() / 2)
                try:
                    answer = await asyncio.wait_for(self._client.get(offset, count, version), transfer.timeout)
                    _check(answer, count, version)
                    return answer
                except TemporaryError as error:
                    why, wait = str(error), max(wait, error.wait)
                except TimeoutError:
                    why = f"no answer within {transfer.timeout:g} seconds"
                except ConnectionError as error:
                    why = str(error)
                except FileChangedError as error:
                    raise FileChangedError(f"{where}: {error}. Open it again") from None
                except FileNotFoundError:
                    if version is not None:
                        raise FileChangedError(f"{where}: the object was removed since it was opened") from None
                    raise FileNotFoundError(f"{self._name}: there is no such object") from None
                except IsADirectoryError:
                    raise IsADirectoryError(f"{self._name}: this is a folder, not an HDF5 file") from None
                except RemoteError as error:
                    raise RemoteError(f"{where}: {error}") from None
                except PermissionError as error:
                    raise PermissionError(f"{where}: {error}") from None
                except OSError as error:
                    raise RemoteError(f"{where}: {error}") from None
                if attempt < transfer.tries:
                    await asyncio.sleep(min(wait, _LONGEST_PAUSE))
        raise RemoteError(f"{where}: {why}; tried {transfer.tries} times") from None

    async def whole(self, offset: int, count: int, version: ObjectVersion) -> bytes:
        """A range of any length, of which the pieces come side by side."""
        answers = await _together(self.get(*part, version) for part in parts(offset, count, part_size(count)))
        return answers[0].data if len(answers) == 1 else b"".join(answer.data for answer in answers)

    async def apart(self, ranges: Sequence[tuple[int, int]], version: ObjectVersion) -> list[bytes]:
        """Ranges that lie apart, small ones of them by one request where the server knows that."""
        found = await _together(self._several(some, version) for some in together(ranges))
        return [data for some in found for data in some]

    async def _several(self, ranges: Sequence[tuple[int, int]], version: ObjectVersion) -> list[bytes]:
        if len(ranges) > 1 and isinstance(self._client, ClientOfSeveral):
            with contextlib.suppress(TemporaryError, OSError):  # a request for each one is tried again, and tells why
                async with self._slots:
                    asked = self._client.get_several(ranges, version)
                    answers = await asyncio.wait_for(asked, self._transfer.timeout)
                if answers is not None:
                    for answer, (_, count) in zip(answers, ranges, strict=True):
                        _check(answer, count, version)
                    return [answer.data for answer in answers]
        return await _together(self.whole(*one, version) for one in ranges)


async def _together(work: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """The results of all; if one fails, the others end before it is told."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _check(answer: Answer, count: int, version: ObjectVersion | None) -> None:
    """Raise FileChangedError for an answer of another version, TemporaryError for one that is too short or long."""
    found, expected = answer.version, count
    if version is None:
        if found is None:
            raise RemoteError("the server tells nothing of the object, not even its size")
        expected = min(count, found.size)
    elif found is not None and not version.same_version(found):
        raise FileChangedError(f"the object was replaced since it was opened (then {version}; now {found})")
    if len(answer.data) != expected:
        raise TemporaryError(f"{len(answer.data)} bytes came, expected {expected}: the answer was cut off")


class _Held:
    """How many bytes of blocks all objects of the process keep."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a finalizer may come at any time
        self.bytes = 0


_held = _Held()


def _renew_lock() -> None:
    """After a fork: a thread that is gone may have held it."""
    _held.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class _Span:
    """Blocks side by side, which come with an answer."""

    __slots__ = ("answer", "blocks", "number")

    answer: Future[list[bytes]]
    number: int
    """Of their bytes in the answer."""

    def __init__(self, blocks: range) -> None:
        self.blocks = blocks


class Remote:
    """The bytes of one version of an object."""

    exact = False
    """Whether whoever reads metadata should ask for nothing but what it needs."""

    def __init__(
        self,
        client: Client,
        name: str,
        version: ObjectVersion,
        transfer: Transfer,
        *,
        head: bytes = b"",
        kept: KeptBlocks | None = None,
    ) -> None:
        """`head` are the first bytes, if they were read already: whole blocks, or all. `kept` is what is on disk."""
        self.path = self.name = name
        self.version, self.size, self.gap = version, version.size, transfer.gap
        self.failure: OSError | None = None
        """What went wrong last."""
        self._transfer = transfer
        self._asking = _Asking(client, name, transfer)
        self._kept = kept
        self._lock = threading.Lock()
        self._spans: OrderedDict[int, _Span] = OrderedDict()
        self._of_block: dict[int, _Span] = {}
        self._held = 0
        self._ahead = ReadAhead(self._asked)
        self._windows: weakref.WeakKeyDictionary[Hashable, Windows] = weakref.WeakKeyDictionary()
        if head:
            ready: Future[list[bytes]] = Future()
            ready.set_result([head])
            self._come_with(ready, [self._added(range(-(-len(head) // _BLOCK)))])
            if kept is not None:
                kept.write(0, head)

    def __repr__(self) -> str:
        return f"Remote({self.name!r}, {self.version})"

    # -- here and there -------------------------------------------------------------------------------------

    def read(self, offset: int, count: int) -> bytes:
        in_range(self, offset, count)
        if count > HEAD:
            return self._result(self._asked(offset, count))
        return self._from_blocks([(offset, count)], window=_WINDOW)[0]

    def read_into(self, buffer: WritableBuffer, offset: int) -> int:
        view = flat_view(buffer)
        count = max(0, min(len(view), self.size - offset))
        if not count:
            return 0
        if count <= _WINDOW * _BLOCK or self._has(offset, count):
            view[:count] = self.read(offset, count)
            return count
        for number, data in self.arriving(pieces := parts(offset, count, part_size(count))):
            at = pieces[number][0] - offset
            view[at : at + len(data)] = data
        return count

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        for offset, count in ranges:
            in_range(self, offset, count)
        touched = sum(count // _BLOCK + 1 for _, count in ranges)
        if touched <= _FEW:
            return self._from_blocks(ranges, _WINDOW if len(ranges) < _WINDOW else 1)
        found = [b""] * len(ranges)
        for number, data in self.arriving(ranges):
            found[number] = bytes(data)
        return found

    def _from_blocks(self, ranges: Sequence[tuple[int, int]], window: int = 1) -> list[bytes]:
        wanted = [range(offset // _BLOCK, -(-(offset + count) // _BLOCK)) for offset, count in ranges]
        spans = self._have(dict.fromkeys(block for blocks in wanted for block in blocks), window)
        found = []
        for offset, count in ranges:
            pieces = []
            at, end = offset, offset + count
            while at < end:
                span = spans[at // _BLOCK]
                data, begin = self._data(span), span.blocks.start * _BLOCK
                pieces.append(data[at - begin : end - begin])
                at = begin + len(data)
            found.append(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        return found

    def _has(self, offset: int, count: int) -> bool:
        with self._lock:
            return all(block in self._of_block for block in range(offset // _BLOCK, -(-(offset + count) // _BLOCK)))

    def _have(self, blocks: dict[int, None], window: int) -> dict[int, _Span]:
        """The spans of all of these blocks, asked for if they are not there yet."""
        with self._lock:
            missing = sorted(block for block in blocks if block not in self._of_block)
            runs = merged([(block * _BLOCK, _BLOCK) for block in missing], self.gap)
            spans = [self._added(more) for run in runs if (more := self._widened(run, window))]
            rest = iter(spans)
            for ranges in together([self._extent(span) for span in spans]):
                self._come_with(in_loop(self._brought(ranges)), [next(rest) for _ in ranges])
            found = {block: self._of_block[block] for block in blocks}
            for span in found.values():
                if span.blocks.start in self._spans:
                    self._spans.move_to_end(span.blocks.start)
            while (self._held > _KEPT or _held.bytes > _KEPT_OF_ALL) and len(self._spans) > 1:
                self._drop_together(next(iter(self._spans.values())))
        return found

    def _widened(self, run: Run, window: int) -> range:
        """The blocks of a run, and neighbours that are worth it; none if all come as neighbours of others."""
        first, stop = run.offset // _BLOCK, -(-(run.offset + run.count) // _BLOCK)
        while first in self._of_block:
            first += 1
        if first >= stop:
            return range(0)
        before = self._of_block.get(first - 1)
        if before is not None and window > 1:  # somebody reads on
            window = max(window, min(2 * len(before.blocks), _AHEAD))
        last = -(-self.size // _BLOCK)
        while stop - first < window and stop < last and stop not in self._of_block:
            stop += 1
        while window > 1 and stop - first < _WINDOW and first > 0 and first - 1 not in self._of_block:
            first -= 1
        tail = max(last - _TAIL, 0)
        if window > 1 and first >= tail:  # what was written last, and what says where it is
            first, stop = tail, last
        return range(first, stop)

    def _added(self, blocks: range) -> _Span:
        """A span of blocks, of which the caller, who holds the lock, says with which answer they come."""
        span = _Span(blocks)
        if blocks.start in self._spans:
            self._drop(self._spans[blocks.start])
        self._spans[blocks.start] = span
        self._hold(len(blocks) * _BLOCK)
        self._of_block.update(dict.fromkeys(blocks, span))
        return span

    @staticmethod
    def _come_with(answer: Future[list[bytes]], spans: Iterable[_Span]) -> None:
        for number, span in enumerate(spans):
            span.answer, span.number = answer, number

    def _extent(self, span: _Span) -> tuple[int, int]:
        begin = span.blocks.start * _BLOCK
        return begin, min(span.blocks.stop * _BLOCK, self.size) - begin

    def _hold(self, count: int) -> None:
        self._held += count
        with _held.lock:
            _held.bytes += count

    def __del__(self) -> None:
        self._hold(-self._held)  # without the lock: it may have been held by a thread that a fork has ended

    def _drop(self, span: _Span) -> None:
        """Forget a span. The caller holds the lock."""
        if self._spans.get(span.blocks.start) is span:
            del self._spans[span.blocks.start]
            self._hold(-len(span.blocks) * _BLOCK)
        for block in span.blocks:
            if self._of_block.get(block) is span:
                del self._of_block[block]

    def _drop_together(self, span: _Span) -> None:
        """Forget all spans of an answer, which is in memory for as long as there is one. The caller holds the lock."""
        for other in [other for other in self._spans.values() if other.answer is span.answer]:
            self._drop(other)

    def _data(self, span: _Span) -> bytes:
        try:
            return self._result(span.answer)[span.number]
        except BaseException:
            with self._lock:
                self._drop_together(span)
            raise

    # -- in bulk --------------------------------------------------------------------------------------------

    def arriving(
        self, ranges: Sequence[tuple[int, int]], windows: Windows | None = None
    ) -> Iterator[tuple[int, memoryview]]:
        """(number, bytes) of each (offset, count), in the order in which they come.

        Near ones are asked for together. At most 64 MiB are under way, or one range. With the `windows` of an array,
        of which these are a few chunks, others may come with them that are wanted next. Raises FormatError for a range
        that the object does not have, before anything is asked for.
        """
        for offset, count in ranges:
            in_range(self, offset, count)
        nbytes = sum(count for _, count in ranges)
        ahead = self._ahead.found(windows, ranges) if windows is not None and nbytes < MOST else {}
        if not ahead and nbytes <= _WINDOW * _BLOCK:
            return ((i, memoryview(data)) for i, data in enumerate(self._from_blocks(ranges, _WINDOW)))
        return self._with_ahead(ranges, ahead) if ahead else self._arriving(ranges)

    def _with_ahead(
        self, ranges: Sequence[tuple[int, int]], ahead: dict[int, tuple[Run, Future[bytes]]]
    ) -> Iterator[tuple[int, memoryview]]:
        """The same where some come with what was fetched ahead. The others are asked for first."""
        rest = [number for number in range(len(ranges)) if number not in ahead]
        for number, data in self._arriving([ranges[number] for number in rest]):
            yield rest[number], data
        for number, (run, answer) in ahead.items():
            try:
                whole = self._result(answer)
            except BaseException:
                self._ahead.failed(answer)
                raise
            offset, count = ranges[number]
            yield number, memoryview(whole)[offset - run.offset : offset - run.offset + count]

    def _arriving(self, ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, memoryview]]:
        runs = iter(merged(ranges, self.gap, part_size(sum(count for _, count in ranges))))
        under_way: dict[Future[bytes], Run] = {}
        done: SimpleQueue[Future[bytes]] = SimpleQueue()
        held, following = 0, next(runs, None)
        try:
            while under_way or following is not None:
                while following is not None and (
                    not under_way
                    or (len(under_way) < self._transfer.concurrency and held + following.count <= _UNDER_WAY)
                ):
                    future = self._asked(following.offset, following.count)
                    under_way[future] = following
                    held += following.count
                    future.add_done_callback(done.put)
                    following = next(runs, None)
                future = done.get()
                run = under_way.pop(future)
                data = memoryview(self._result(future))
                for number in run.members:
                    offset, count = ranges[number]
                    yield number, data[offset - run.offset : offset - run.offset + count]
                held -= run.count
        finally:
            for future in under_way:
                future.cancel()

    def windows(self, index: Hashable, ranges: Callable[[], Sequence[tuple[int, int]]]) -> Windows:
        """The chunks of an array for `arriving`; `ranges` gives all of them. Kept for as long as its `index` lives."""
        with self._lock:
            windows = self._windows.get(index)
            if windows is None:
                windows = self._windows[index] = Windows(ranges(), self.gap)
        return windows

    # -- requests -------------------------------------------------------------------------------------------

    def ask(self, offset: int, count: int) -> bytes:
        """The bytes by a request of their own, whatever is kept."""
        return self._result(self._asked(offset, count))

    def _asked(self, offset: int, count: int) -> Future[bytes]:
        if not count:
            nothing: Future[bytes] = Future()
            nothing.set_result(b"")
            return nothing
        return in_loop(self._one(offset, count))

    async def _one(self, offset: int, count: int) -> bytes:
        (found,) = await self._brought([(offset, count)])
        return found

    async def _brought(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Ranges, of which comes from disk what is there; the rest is asked for in whole blocks, and kept."""
        if (kept := self._kept) is None:
            return await self._asking.apart(ranges, self.version)
        wanted = [range(offset // BLOCK, -(-(offset + count) // BLOCK)) for offset, count in ranges]
        found: dict[int, bytes | memoryview] = {}
        for some in await asyncio.to_thread(lambda: [kept.read(blocks) for blocks in wanted]):
            found |= some
        missing = {number for blocks in wanted for number in blocks if number not in found}
        runs = merged([(number * BLOCK, BLOCK) for number in sorted(missing)], 0, self.size)
        asked = [(run.offset, min(run.count, self.size - run.offset)) for run in runs]
        for (offset, count), data in zip(asked, await self._asking.apart(asked, self.version), strict=True):
            await asyncio.to_thread(kept.write, offset // BLOCK, data)
            found |= {(offset + at) // BLOCK: memoryview(data)[at : at + BLOCK] for at in range(0, count, BLOCK)}
        brought = []
        for (offset, count), blocks in zip(ranges, wanted, strict=True):
            data, start = b"".join(found[number] for number in blocks), offset - blocks.start * BLOCK
            brought.append(data[start : start + count] if len(data) > count else data)
        return brought

    def _result(self, future: Future[_T]) -> _T:
        try:
            return future.result()
        except CancelledError:
            raise RemoteError(f"{self.name}: a request was cancelled") from None
        except OSError as error:
            self.failure = error
            raise type(error)(*error.args) from error  # several threads may wait for one request

    def forget(self) -> None:
        """Give up the blocks that are kept."""
        with self._lock:
            self._spans.clear()
            self._of_block.clear()
            self._hold(-self._held)
            self._ahead = ReadAhead(self._asked)


class Fetched:
    """Some ranges of a remote source that were read, as a source: they may be read in any way. Others are asked for."""

    def __init__(self, source: Remote, ranges: Sequence[tuple[int, int]]) -> None:
        self._source = source
        self.path, self.name, self.size = source.path, source.name, source.size
        self._parts: list[tuple[int, memoryview]] = [(0, memoryview(b""))] * len(ranges)
        for number, data in source.arriving(ranges):
            self._parts[number] = ranges[number][0], data
        self._parts.sort(key=lambda part: part[0])
        self._starts = [start for start, _ in self._parts]

    def read(self, offset: int, count: int) -> bytes:
        found = self._view(offset, count)
        return self._source.read(offset, count) if found is None else bytes(found)

    def read_into(self, buffer: WritableBuffer, offset: int) -> int:
        view = flat_view(buffer)
        found = self._view(offset, len(view))
        if found is None:
            return self._source.read_into(buffer, offset)
        view[:] = found
        return len(view)

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return [self.read(offset, count) for offset, count in ranges]

    def _view(self, offset: int, count: int) -> memoryview | None:
        number = bisect_right(self._starts, offset) - 1
        if number >= 0:
            start, data = self._parts[number]
            found = data[offset - start : offset - start + count]
            if len(found) == count:
                return found
        return None
