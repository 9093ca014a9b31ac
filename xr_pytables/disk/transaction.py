"""Replacing a file by a new one such that, whatever happens, the old or the new one is there, whole.

A transaction is a hidden folder beside the target. It holds the new file while it is made, and what workers put
aside for it; the last step renames the new file over the old one. Knows no HDF5.

Tested in `tests/disk/test_transaction.py` and `tests/writing/test_writing.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from .folders import (
    CONCLUDED,
    GIVEN_UP,
    HAS_LOCKS,
    OWNER,
    hidden_beside,
    joined,
    made_with_owner,
    make_folder,
    remove_folder,
    remove_stale,
    target_of,
)
from .journal import MAGIC, give_access, recover

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_UNMARKED: Final = "unmarked"
"""A file that says that a commit could not be marked."""
_HERE = -100  # AT_FDCWD
_RENAME_EXCHANGE = 2


@dataclass(frozen=True)
class Transaction:
    """Where the new version of `target` is made. Pickles; every process that sees the folder can work in it."""

    target: str
    """Absolute path, with symbolic links resolved."""
    folder: str

    @classmethod
    def beside(cls, path: str) -> Transaction:
        """A transaction for `path`, not begun yet: nothing is on disk."""
        target = os.path.realpath(path)
        return cls(target, hidden_beside(target))

    @property
    def new_file(self) -> str:
        """Path of the new version."""
        return os.path.join(self.folder, "new.h5")

    @property
    def growing_file(self) -> str:
        """Path of the new version as long as blocks are being written to it."""
        return os.path.join(self.folder, "growing.h5")

    @property
    def decision(self) -> str:
        """Path of what says where the chunks of the new version are; blocks that come later do not count."""
        return os.path.join(self.folder, "chunks.npz")

    def is_decided(self) -> bool:
        """Whether all blocks of the new version were stored: if results are lost, some come again."""
        return any(map(os.path.exists, (self.decision, self.new_file, self.commit_mark))) or self.is_concluded()

    @property
    def commit_mark(self) -> str:
        """Path of what says, from the moment of commit on, that it has happened."""
        return os.path.join(self.folder, "committed")

    @contextlib.contextmanager
    def naming_the_target(self) -> Iterator[None]:
        """If the disk is full (or the like), say so of the user's file, and not of one in the hidden folder."""
        try:
            yield
        except OSError as error:
            if error.errno not in _OF_THE_DISK:
                raise
            reason = os.strerror(error.errno)
            raise OSError(error.errno, f"{self.target}: {reason}. The file was left as it was") from error

    def mark_commit(self) -> None:
        """Make the sign of commit for the new file: another name of it."""
        try:
            os.link(self.new_file, self.commit_mark)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links: a repeated commit is then an error
            self._sign(_UNMARKED)

    def is_committed(self) -> bool:
        """Whether the change was made: its journal was moved here, or the new file has the target's name."""
        if not os.path.exists(self.commit_mark):
            return self.is_concluded()
        with open(self.commit_mark, "rb") as file:
            is_journal = file.read(len(MAGIC)) == MAGIC
        return is_journal or (os.path.exists(self.target) and os.path.samefile(self.commit_mark, self.target))

    def check_folder(self) -> None:
        """Raise FileNotFoundError, naming it, if the target's folder is missing."""
        parent = os.path.dirname(self.target)
        if not os.path.isdir(parent):
            raise FileNotFoundError(f"{self.target}: there is no folder {parent}. Make it first")

    def check_allowed(self) -> None:
        """Raise PermissionError if this user may not change the target or its folder.

        To replace a file takes no permission to write to it. But whoever takes that away means to keep the file.
        """
        parent = os.path.dirname(self.target)
        try:
            if os.path.isfile(self.target):
                os.close(os.open(self.target, os.O_RDWR | getattr(os, "O_CLOEXEC", 0)))
        except OSError as error:
            raise OSError(error.errno, f"{self.target}: the file may not be written to: {error.strerror}") from None
        if not os.access(parent, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError(
                errno.EACCES, f"{self.target}: its folder may not be written to, where the new version would be made"
            )

    def begin(self) -> int:
        """Make the folder and mark it as in use by this process; the descriptor to give to `end`.

        Removes the folders of writers that died. Raises PermissionError if the target's folder cannot be written to.
        """
        remove_stale(self.target)
        return made_with_owner(self.folder, self.target, together=False)

    def begin_shared(self) -> None:
        """Make the folder for processes of which none owns it, and join; again after it was abandoned."""
        if HAS_LOCKS and not os.path.exists(self.folder):
            with contextlib.suppress(FileExistsError):  # another run of this step was faster
                joined.hold(self.folder, made_with_owner(self.folder, self.target, together=True))
        self.begin_unowned()
        self.join()

    def begin_unowned(self) -> None:
        """Make the folder for processes of which none may live for a while: nobody takes it for stale."""
        with contextlib.suppress(FileExistsError):  # an earlier run of this step
            make_folder(self.folder, self.target)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.folder, GIVEN_UP))

    def join(self) -> None:
        """Work on a shared folder: it is not stale as long as a process lives that has joined. Does nothing again."""
        joined.join(self.folder)

    def look_after(self) -> None:
        """Remove the folder when this process ends, if it is there and no process works on it."""
        joined.look_after(self.folder)

    def commit(self, *, fsync: bool, exclusive: bool = False, check: Callable[[], None] | None = None) -> None:
        """Put the new file in the target's place. With `exclusive`, raise FileExistsError if something is there.

        `check` is called right before the target is replaced; what it raises prevents that.
        """
        if fsync:
            _sync(self.new_file)
        with contextlib.suppress(FileNotFoundError):
            give_access(self.new_file, os.stat(self.target))
        if check is not None:
            check()
        if exclusive:
            self._claim()
        elif fsync or not self._exchange():
            os.replace(self.new_file, self.target)
        if fsync:
            _sync(os.path.dirname(self.target))

    def _exchange(self) -> bool:
        """Swap the new file and the target, and remove the old one; False if that cannot be done here.

        Some file systems (ext4) wait for the disk when a file is renamed over another, as if `fsync` was asked for.
        """
        if os.path.exists(os.path.join(self.folder, _UNMARKED)):
            return False  # a commit that is repeated could not tell that it happened, and would bring the old file back
        if not exchange(self.new_file, self.target):
            return False
        os.unlink(self.new_file)
        return True

    def _claim(self) -> None:
        """Give the new file the target's name, which must be free."""
        try:
            try:
                os.link(self.new_file, self.target)  # unlike rename, refuses to replace
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links
                os.close(os.open(self.target, os.O_CREAT | os.O_EXCL, 0o600))
                os.replace(self.new_file, self.target)
        except FileExistsError:
            raise FileExistsError(f"{self.target}: somebody made this file meanwhile; it was left alone") from None

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """The folder is there, and this process's, while the block lasts."""
        owner = self.begin()
        try:
            yield
        finally:
            self.end(owner)

    def end(self, owner: int) -> None:
        """Remove the folder and all that is in it."""
        try:
            remove_folder(self.folder)
        finally:  # whatever is left, Ctrl-C came now: the next writer removes it
            with contextlib.suppress(OSError):
                os.close(owner)

    def remove(self) -> None:
        """Remove the folder from a process that did not begin it."""
        joined.leave(self.folder)
        remove_folder(self.folder)

    def store(self, target: Any, key: tuple[slice, ...], block: Any) -> None:
        """`target[key] = block`, in any process; if the disk is full, let the next writer remove the folder."""
        try:
            with self.naming_the_target():
                target[key] = block
        except OSError as error:
            if error.errno in _OF_THE_DISK:
                self._give_up()
            raise

    def _give_up(self) -> None:
        with contextlib.suppress(OSError):
            self._sign(GIVEN_UP)

    def _sign(self, name: str) -> None:
        os.close(os.open(os.path.join(self.folder, name), os.O_CREAT, 0o600))

    def abandon(self) -> None:
        """Empty the folder after a failure, and leave it: a repeated commit must not take it for a success.

        The next writer of the target removes it, or who looks after it.
        """
        self._give_up()
        with contextlib.suppress(FileNotFoundError):  # the next writer was there
            self._empty(GIVEN_UP, OWNER)

    def run_last(self, step: Callable[[], None]) -> None:
        """Do the last step of a graph, unless an earlier run of it has done it, whose result was lost with a worker."""
        if not os.path.exists(self.folder):
            return  # and somebody has removed what an earlier run left
        try:
            if not self.is_committed():
                with self.naming_the_target():
                    step()
            elif not self.is_concluded():
                with contextlib.suppress(OSError):
                    recover(self.target)  # what the earlier run held while the file was replaced
        except BaseException as error:
            if isinstance(error, Exception) and self.is_concluded():
                return  # by a worker that was taken for dead
            self.abandon()
            raise
        self._conclude()

    def _conclude(self) -> None:
        """Empty the folder after a success, and leave it with a sign of that, for tasks of which the results are lost.

        `forget` removes it, the next writer of the target, or who looks after it.
        """
        with contextlib.suppress(FileNotFoundError):  # somebody has removed it already
            self._sign(CONCLUDED)
            self._empty(CONCLUDED)

    def is_concluded(self) -> bool:
        """Whether all is done, by this graph."""
        return os.path.exists(os.path.join(self.folder, CONCLUDED))

    def forget(self) -> None:
        """Remove the folder if all is done: nobody will ask any more, or all is to be done anew."""
        if self.is_concluded():
            self.remove()

    def _empty(self, *kept: str) -> None:
        for name in os.listdir(self.folder):
            with contextlib.suppress(OSError):
                if name not in kept:
                    os.unlink(os.path.join(self.folder, name))


@contextlib.contextmanager
def in_folder(folder: str) -> Iterator[None]:
    """If the folder of a transaction or a file in it is not there, say of which file, and which process misses it."""
    try:
        yield
    except FileNotFoundError as error:
        if os.path.exists(folder):
            if error.errno is None:  # it says so itself
                raise
            late = f"process {os.getpid()} on {platform.node()} is late: the write is over, {error.filename} is gone"
            raise FileNotFoundError(error.errno, f"{target_of(folder)}: {late}") from None
        raise FileNotFoundError(
            error.errno,
            f"{target_of(folder)}: process {os.getpid()} on {platform.node()} does not see the folder {folder}, where "
            "blocks go. Every worker must see the folder of the file under the same path; or the write is over",
        ) from None


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """The system's call that can swap two names, on Linux."""
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None), "renameat2", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function


def exchange(one: str, other: str) -> bool:
    """Swap the names of two files in one step; False if a file is missing, or system or file system cannot."""
    function = _renameat2()
    return function is not None and (
        function(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE) == 0
    )


def _sync(path: str) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.path.isdir(path) and not hasattr(os, "O_DIRECTORY"):
        return  # Windows cannot open folders; its rename is written through
    descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
