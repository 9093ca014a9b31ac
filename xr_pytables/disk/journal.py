"""The rollback journal: what makes a change of a file in place undone, if its writer dies on the way.

Before a file is changed, every byte range that the change may touch is saved in a journal beside it. When the change
is on the disk, the journal is removed: that is the moment of commit. Whoever finds a journal whose writer is dead puts
the ranges back. The writer holds a lock (`flock`) on the journal as long as it lives. Knows byte ranges and files, and
nothing of HDF5. The format is specified in docs/conventions.md.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import os
import shutil
import stat
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Self

from ..errors import FileBusyError, ForeignJournalError, NeedsRecoveryError, NoLocksError
from ..sources.positioned import pread, pwrite
from ..sources.url import local_path
from ..sources.warning import warn

try:
    import fcntl
except ImportError:  # Windows: there is no lock that tells a live writer from a dead one, so no change in place either
    fcntl = None  # type: ignore[assignment]

Ranges = Sequence[tuple[int, int]]
"""(offset, count) in bytes, ascending and apart."""

MAGIC: Final = b"XRPTJNL1"
_VERSION: Final = 1
# magic, version, CRC-32 of the rest of the header, size and time of change of the file, device and inode, number of
# saved ranges and of samples, CRC-32 of the tables
_HEADER: Final = struct.Struct("<8sIIQqQQIII4x")
_ENTRY: Final = struct.Struct("<QQI4x")
"""A range: offset, count, CRC-32 of its bytes."""
_SUMMED_FROM: Final = 16
_SAMPLES: Final = 8
_SAMPLE_BYTES: Final = 4096
_PIECE: Final = 1 << 24
_MOST_SPARSE: Final = 1000
"""How many times its bytes on the disk a journal may be long; file systems may compress."""
_PATIENCE: Final = 5.0
"""Seconds to wait for somebody who looks at a journal at the same time."""
_PAUSE: Final = 0.005


def is_supported() -> bool:
    """Whether this system has the locks that journals need."""
    return fcntl is not None


def path_of(target: str) -> str:
    """Where the journal of a file is; links are followed."""
    folder, name = os.path.split(os.path.realpath(target))
    return os.path.join(folder, f".{name}.xrpt-journal")


@dataclass(frozen=True)
class _Saved:
    """One range in a journal."""

    offset: int
    count: int
    checksum: int
    place: int = 0
    """Of its bytes in the journal; not for samples."""


class _Contents(NamedTuple):
    """What a journal says."""

    size: int
    modified: int
    """Time of the last change of the file, in nanoseconds."""
    device: int
    inode: int
    saved: tuple[_Saved, ...]
    samples: tuple[_Saved, ...]
    """Ranges that the change does not touch: by them the file is recognised."""

    def encoded(self) -> bytes:
        """Header and tables."""
        tables = b"".join(_ENTRY.pack(each.offset, each.count, each.checksum) for each in (*self.saved, *self.samples))
        known = self.size, self.modified, self.device, self.inode, len(self.saved), len(self.samples)
        header = _HEADER.pack(MAGIC, _VERSION, 0, *known, zlib.crc32(tables))
        checksum = struct.pack("<I", zlib.crc32(header[_SUMMED_FROM:]))
        return header[: _SUMMED_FROM - len(checksum)] + checksum + header[_SUMMED_FROM:] + tables


def _is_valid(header: bytes) -> bool:
    """Whether a journal was finished. It is written last, so without it the file was not touched."""
    if len(header) < _HEADER.size or not header.startswith(MAGIC):
        return False
    return bool(zlib.crc32(header[_SUMMED_FROM:]) == struct.unpack_from("<I", header, _SUMMED_FROM - 4)[0])


def _read_contents(fd: int, path: str) -> _Contents:
    """What a journal with a valid header says.

    Nothing of what it says is out of bounds: ranges are ascending, apart and inside of the file as it was, and the
    journal has their bytes.
    """
    header, status = pread(fd, _HEADER.size, 0), os.fstat(fd)
    if status.st_size > _MOST_SPARSE * 512 * getattr(status, "st_blocks", 0) > 0:
        raise _damaged(path)  # mostly holes: nothing that was saved, and terabytes to look at
    _, version, _, size, modified, device, inode, saved_count, sample_count, checksum = _HEADER.unpack(header)
    if version != _VERSION:
        raise NeedsRecoveryError(
            f"{path}: this journal is of version {version}, this xr_pytables knows {_VERSION}. Use a newer one"
        )
    saved_tables = _read_table(fd, _HEADER.size, saved_count, size, path)
    place = _HEADER.size + (saved_count + sample_count) * _ENTRY.size
    sample_tables = _read_table(fd, _HEADER.size + saved_count * _ENTRY.size, sample_count, size, path)
    if zlib.crc32(sample_tables, zlib.crc32(saved_tables)) != checksum:
        raise _damaged(path)
    saved = []
    for offset, count, crc in _ENTRY.iter_unpack(saved_tables):
        saved.append(_Saved(offset, count, crc, place))
        place += count
    samples = tuple(_Saved(*entry) for entry in _ENTRY.iter_unpack(sample_tables))
    if place != status.st_size or any(each.count > _SAMPLE_BYTES for each in samples):
        raise _damaged(path)
    return _Contents(size, modified, device, inode, tuple(saved), samples)


def _read_table(fd: int, place: int, entries: int, size: int, path: str) -> bytes:
    """A table of ranges of a file of `size` bytes, read as far as it makes sense."""
    pieces, end, step = [], 0, _PIECE // _ENTRY.size
    for first in range(0, entries, step):
        wanted = min(step, entries - first) * _ENTRY.size
        piece = _read_whole(fd, place + first * _ENTRY.size, wanted)
        if len(piece) < wanted:
            raise _damaged(path)
        for offset, count, _ in _ENTRY.iter_unpack(piece):
            if offset < end or count < 1 or offset + count > size:
                raise _damaged(path)
            end = offset + count
        pieces.append(piece)
    return b"".join(pieces)


def _damaged(path: str) -> NeedsRecoveryError:
    return NeedsRecoveryError(f"{path}: the journal is damaged, so the file cannot be put back to what it was")


def _read_whole(fd: int, offset: int, count: int) -> bytes:
    """`count` bytes, or fewer at the end of the file."""
    pieces = []
    while count:
        data = pread(fd, min(count, _PIECE), offset)
        if not data:
            break
        pieces.append(data)
        offset, count = offset + len(data), count - len(data)
    return b"".join(pieces)


def _write_whole(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


@dataclass
class Journal:
    """The journal of a change that this process is making."""

    target: str
    path: str
    _fd: int
    _contents: _Contents
    _fsync: bool
    _offsets: list[int] = field(default_factory=list)

    @classmethod
    def begin(cls, target: str, ranges: Ranges, *, fsync: bool, check: Callable[[], None], room: int = 0) -> Self:
        """Save `ranges` of the file, which may be changed from now on, until `commit` or `roll_back`.

        `check` is called when nobody else can change the file any more; what it raises ends the attempt. `room` are
        the bytes by which the file will grow at least. Raises FileBusyError if somebody else is changing the file,
        OSError (ENOSPC) if there is no room.
        """
        path, fd = path_of(target), _acquire(target)
        try:
            check()
            _check_room(path, sum(count for _, count in ranges) + room)
            contents = _save(fd, target, ranges, fsync=fsync)
        except BaseException:
            _remove(path, fd)
            raise
        return cls(target, path, fd, contents, fsync, [each.offset for each in contents.saved])

    @property
    def size(self) -> int:
        """Of the file before the change, in bytes."""
        return self._contents.size

    def read(self, offset: int, count: int) -> bytes:
        """Bytes of the file as they were before the change; they must lie in a range that was saved."""
        number = bisect.bisect_right(self._offsets, offset) - 1
        saved = self._contents.saved[number] if number >= 0 else None
        if saved is None or offset + count > saved.offset + saved.count:
            raise ValueError(f"{self.target}: bytes {offset} to {offset + count} were not saved")
        return _read_whole(self._fd, saved.place + offset - saved.offset, count)

    def commit(self, *, keep_as: str | None = None) -> None:
        """Make the change final. With `keep_as`, the journal takes that name in the same step, as a sign of it.

        If this is interrupted, `roll_back` undoes the change unless it is final already.
        """
        if self._fsync:
            _sync(self.target)
        if keep_as is None:
            os.unlink(self.path)
        else:
            os.rename(self.path, keep_as)
        if self._fsync:
            _sync(os.path.dirname(self.path))
        self._close()

    def roll_back(self) -> None:
        """Undo the change, unless it is final."""
        try:
            if self._fd < 0 or not _is_at(self._fd, self.path):
                return
            with _to_be_restored(os.path.realpath(self.target)) as file:
                if file is not None:
                    _restore(self.target, self.path, file, self._fd, self._contents)
            _unlink(self.path)
        finally:
            self._close()

    def discard(self) -> None:
        """End without a change: nothing in the file was touched."""
        fd, self._fd = self._fd, -1
        _remove(self.path, fd)

    def _close(self) -> None:
        """Give up the lock: of a journal that is left, everybody knows now that its writer will not come back."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        """Ctrl-C may come where nothing catches it: between two steps of this very class."""
        self._close()


@contextlib.contextmanager
def exclusive(target: str) -> Iterator[None]:
    """Keep others from changing the file while it is replaced. Raises FileBusyError if somebody does."""
    path = path_of(target)
    try:
        held = _acquire(target) if fcntl is not None else None
    except NoLocksError:
        held = None
    try:
        yield
    finally:
        if held is not None:
            _remove(path, held)


def recover(target: str | os.PathLike[str]) -> bool:
    """Put a file back to what it was before its writer died in the middle of a change; whether that was necessary.

    Opening a file does the same by itself, where it may write. Raises FileBusyError while the writer lives,
    NeedsRecoveryError if the file or its folder cannot be written to, or the journal is not about this file or not to
    be believed (see "Journal" in docs/conventions.md), ForeignJournalError if what has its name is none.
    """
    target = os.fspath(target)
    target = os.path.abspath(os.path.expanduser(local_path(target) or target))
    path = path_of(target)
    return os.path.lexists(path) and _settle(os.path.realpath(target), path)


def check(target: str) -> None:
    """Make sure that nobody has left the file, or is leaving it, half changed. Costs one look at the folder.

    Recovers where that is possible; else raises as `recover`. A file that was never changed by whoever made what has
    the name of a journal is as it should be: then there is only a warning.
    """
    try:
        check_for_writing(target)
    except ForeignJournalError as error:
        warn(f"{error}. It was ignored")  # several places ask for one read, but the line is one


def check_for_writing(target: str) -> None:
    """As `check`, but raises ForeignJournalError: nobody can make a journal where there is something else."""
    path = path_of(target)
    if os.path.lexists(path):
        _settle(os.path.realpath(target), path, unfinished="leave")


_ASK: Final = "Ask somebody who may write there to call xr_pytables.recover(path), or to open the file"


def give_access(to: int | str, like: os.stat_result, *, mode: int = 0o777) -> None:
    """Owner, group and permissions (as far as `mode` has them) of a file of that status for the file `to`.

    Where this user may not give the group away, its permissions are those of everybody: never does anybody get access
    who has none to the other.
    """
    permissions = like.st_mode & mode
    if hasattr(os, "chown"):
        for owner in (like.st_uid, -1):
            with contextlib.suppress(OSError):
                os.chown(to, owner, like.st_gid)
                break
        if os.stat(to).st_gid != like.st_gid:
            permissions &= ~0o070 | (permissions & 0o007) << 3
    os.chmod(to, permissions)


# -- locking -----------------------------------------------------------------------------------------------


def _acquire(target: str) -> int:
    """A new and empty journal, locked; its descriptor."""
    assert fcntl is not None
    path, deadline = path_of(target), time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            _settle(os.path.realpath(target), path)
            time.sleep(_PAUSE)
            continue
        except OSError as error:
            raise OSError(error.errno, f"{target}: its journal {path} cannot be made: {error.strerror}") from None
        try:
            with contextlib.suppress(OSError):  # as readable as the file, so that readers learn of a dead writer
                give_access(fd, os.stat(target), mode=0o666)
            # somebody may have looked at it before it was locked, found it dead, and removed it
            if _lock(fd, path) and _is_at(fd, path):
                return fd
        except BaseException:
            _remove(path, fd)
            raise
        os.close(fd)
        time.sleep(_PAUSE)
    raise FileBusyError(
        f"{target}: the journal {path} is there again and again, or cannot be removed. Try again, or remove it if no "
        "other program is writing to the file"
    )


def _lock(fd: int, path: str) -> bool:
    """Whether the lock on a journal could be taken. Raises OSError where the file system has no locks."""
    assert fcntl is not None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise NoLocksError(error.errno, f"{path}: this file system has no locks (flock)") from None
    return True


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _remove(path: str, fd: int) -> None:
    """Remove a journal that this process has locked."""
    try:
        if _is_at(fd, path):
            with contextlib.suppress(OSError):
                os.unlink(path)
    finally:
        os.close(fd)


# -- saving ------------------------------------------------------------------------------------------------


def _save(fd: int, target: str, ranges: Ranges, *, fsync: bool) -> _Contents:
    """Write the journal: first what it saves, then, once that is on the disk, the header that makes it valid."""
    source = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(source)
        place = _HEADER.size + _ENTRY.size * (len(ranges) + len(samples := _sampled(ranges, status.st_size)))
        saved = []
        for offset, count in ranges:
            checksum, begin = 0, place
            for start in range(offset, offset + count, _PIECE):
                data = _read_whole(source, start, min(_PIECE, offset + count - start))
                _write_whole(fd, data, place)
                checksum, place = zlib.crc32(data, checksum), place + len(data)
            if place - begin != count:
                raise OSError(f"{target}: the file ends before byte {offset + count}")
            saved.append(_Saved(offset, count, checksum, begin))
        known = tuple(_Saved(at, n, zlib.crc32(_read_whole(source, at, n))) for at, n in samples)
    finally:
        os.close(source)
    contents = _Contents(status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino, tuple(saved), known)
    encoded = contents.encoded()
    _write_whole(fd, encoded[_HEADER.size :], _HEADER.size)
    if fsync:
        os.fsync(fd)
    _write_whole(fd, encoded[: _HEADER.size], 0)
    if fsync:
        os.fsync(fd)
        _sync(os.path.dirname(path_of(target)))
    return contents


def _sampled(ranges: Ranges, size: int) -> list[tuple[int, int]]:
    """Some ranges of the file that are not saved, spread over it."""
    gaps, end = [], 0
    for offset, count in [*ranges, (size, 0)]:
        if offset > end:
            gaps.append((end, min(offset - end, _SAMPLE_BYTES)))
        end = max(end, offset + count)
    step = -(-len(gaps) // _SAMPLES) or 1
    return gaps[::step]


def _check_room(path: str, needed: int) -> None:
    free = shutil.disk_usage(os.path.dirname(path)).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"{path}: changing the file needs {needed} bytes of free space, and there are {free}"
        )


# -- recovering --------------------------------------------------------------------------------------------


def _settle(target: str, path: str, *, unfinished: Literal["leave", "remove"] = "remove") -> bool:
    """See to a journal that is there: roll the file back if its writer is dead. Whether that was done.

    `target` has no links. An `unfinished` journal means that nothing was changed.
    """
    if fcntl is None:
        raise NeedsRecoveryError(f"{target}: its writer left {path}. Recover it on a system with flock")
    found = _opened(target, path)
    if found is None:
        return False
    fd, writable = found
    try:
        is_finished = _is_valid(pread(fd, _HEADER.size, 0))
        if not is_finished and unfinished == "leave":
            return False
        if not writable:
            _look_only(target, path, fd, is_finished=is_finished)
        elif not _lock(fd, path):
            raise FileBusyError(f"{target}: somebody is changing the file right now. Try again when that is done")
        if not _is_at(fd, path):
            return False  # somebody else has seen to it meanwhile
        if is_finished:
            with _to_be_restored(target) as file:
                if file is not None:
                    _check_believed(target, path, file, fd)
                    _restore(target, path, file, fd, _read_contents(fd, path))
        _unlink(path)
        return is_finished
    finally:
        os.close(fd)


def _look_only(target: str, path: str, fd: int, *, is_finished: bool) -> None:
    """For a journal that this process may not write to: raise unless it is without consequence."""
    assert fcntl is not None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileBusyError(f"{target}: somebody is changing the file right now") from None
    except OSError:
        pass  # a file system without locks: nobody can tell whether the writer lives
    if is_finished:
        raise NeedsRecoveryError(f"{target}: its writer died in the middle of a change, and left {path}. {_ASK}")


def _opened(target: str, path: str) -> tuple[int, bool] | None:
    """The journal's descriptor, and whether it can be written to; None if there is none any more.

    Raises ForeignJournalError for what was not left by a writer of the file. Opens nothing but plain files: a pipe
    would wait for somebody to write to it, a link may lead anywhere.
    """
    fd, writable = -1, True
    try:
        _check_left_by_a_writer(os.lstat(path), target, path)
        try:
            fd = os.open(path, os.O_RDWR | _CAREFULLY)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
                raise
            fd, writable = os.open(path, os.O_RDONLY | _CAREFULLY), False
        _check_left_by_a_writer(os.fstat(fd), target, path)
    except FileNotFoundError:
        return None
    except PermissionError:
        raise NeedsRecoveryError(f"{target}: its writer left {path}, which you may not read. {_ASK}") from None
    except BaseException:
        if fd >= 0:
            os.close(fd)
        raise
    return fd, writable


_CAREFULLY: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def _check_left_by_a_writer(journal: os.stat_result, target: str, path: str) -> None:
    """Raise ForeignJournalError for what nobody left who could have changed the file."""
    if not stat.S_ISREG(journal.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(journal.st_mode)), "no plain file")
        raise ForeignJournalError(f"{target}: what has the name of its journal, {path}, is {kind}. Remove it")
    try:
        file = os.stat(target)
    except FileNotFoundError:
        return
    if journal.st_uid not in _trusted(file) and not file.st_mode & 0o022:
        raise ForeignJournalError(
            f"{target}: the journal {path} is of the user {journal.st_uid}, who may not write to the file: that user "
            "did not change it. Remove the journal"
        )


_KINDS: Final = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _trusted(file: os.stat_result) -> set[int]:
    """Users whose journals of a file are believed: root, its owner, and this one."""
    return {0, file.st_uid, os.geteuid()}


def _why_not_believed(journal: os.stat_result, file: os.stat_result) -> str | None:
    """Why a journal must not be put back into a file, although whoever left it may be able to write to the file."""
    if not stat.S_ISREG(file.st_mode):
        return "what has the name of the file is no plain file"
    if journal.st_uid not in _trusted(file):
        return f"it is of the user {journal.st_uid}, neither you nor the owner of the file"
    if journal.st_mode & ~file.st_mode & 0o022:
        return "others may write to it who may not write to the file"
    if journal.st_nlink > 1:
        return "it has another name as well, and may be of another time"
    return None


@contextlib.contextmanager
def _to_be_restored(target: str) -> Iterator[int | None]:
    """The file, to be written to; None if somebody removed it, so that there is nothing to put back.

    A link in its place is not followed: root would write to whatever the owner of the folder wants.
    """
    try:
        file = os.open(target, os.O_RDWR | _CAREFULLY)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise NeedsRecoveryError(
            f"{target}: its writer died in the middle of a change, and the file cannot be written to: {error}. {_ASK}"
        ) from None
    try:
        yield file
    finally:
        os.close(file)


def _check_believed(target: str, path: str, file: int, fd: int) -> None:
    """Raise NeedsRecoveryError for a journal that was left by somebody whom nobody has to believe."""
    reason = _why_not_believed(os.fstat(fd), os.fstat(file))
    if reason is not None:
        raise NeedsRecoveryError(
            f"{target}: the journal {path} says that its writer died in the middle of a change, but {reason}. So the "
            "file was left as it is. If the journal is right, let the user whose it is call xr_pytables.recover(path); "
            "else remove it"
        )


def _restore(target: str, path: str, file: int, fd: int, contents: _Contents) -> None:
    """Put the saved ranges back. May be interrupted at any time, and repeated: the journal stays until it is done."""
    _check_same_file(target, path, file, contents)
    if not _lock(file, target):
        raise FileBusyError(f"{target}: another program has the file open; it cannot be put back to what it was")
    for whole in (False, True):  # first make sure that all of the journal is sound
        for saved in contents.saved:
            _put_back(file, fd, saved, path, write=whole)
    os.ftruncate(file, contents.size)
    os.fsync(file)
    with contextlib.suppress(PermissionError):  # only its owner may set the time
        os.utime(file, ns=(time.time_ns(), contents.modified))


def _put_back(file: int, fd: int, saved: _Saved, path: str, *, write: bool) -> None:
    checksum = 0
    for start in range(0, saved.count, _PIECE):
        data = _read_whole(fd, saved.place + start, min(_PIECE, saved.count - start))
        checksum = zlib.crc32(data, checksum)
        if write:
            _write_whole(file, data, saved.offset + start)
    if checksum != saved.checksum:
        raise _damaged(path)


def _check_same_file(target: str, path: str, file: int, contents: _Contents) -> None:
    """Raise NeedsRecoveryError if the journal is about another file than the one that has its name now."""
    status = os.fstat(file)
    end = contents.size
    for saved in reversed(contents.saved):
        end = saved.offset if saved.offset + saved.count == end else end
    if status.st_size < end:  # what the file lacks is not in the journal either
        raise _damaged(path)
    if contents.samples:
        same = all(zlib.crc32(_read_whole(file, each.offset, each.count)) == each.checksum for each in contents.samples)
    else:
        same = (status.st_dev, status.st_ino) == (contents.device, contents.inode)
    if not same:
        raise NeedsRecoveryError(
            f"{target}: the journal {path} of a writer that died is about another file than this one. If this file is "
            "whole, remove the journal; else bring back the file that it belongs to"
        )


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise NeedsRecoveryError(
            error.errno, f"{path}: this journal is of no use any more, and you may not remove it: {error.strerror}"
        ) from None
    _sync(os.path.dirname(path))


def _sync(path: str) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
