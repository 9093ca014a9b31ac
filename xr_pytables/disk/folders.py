"""The hidden folders of writers beside their files: how they are made, who works in them, when they may go.

A writer holds a lock on the file `owner` in its folder as long as it lives. A folder whose `owner` nobody has locked
was left by writers that died, and the next one removes it. What else is in it is not known here.

Tested in `tests/disk/test_transaction.py`.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import glob
import os
import shutil
import threading
import uuid
from typing import Final

try:
    import fcntl
except ImportError:  # Windows: folders of dead writers are then left for the user to remove
    fcntl = None  # type: ignore[assignment]

HAS_LOCKS: Final = fcntl is not None
OWNER: Final = "owner"
GIVEN_UP: Final = "given-up"
CONCLUDED: Final = "concluded"
_MARK: Final = ".xrpt-"
_NEW: Final = "-new"
"""Of the name of a folder that has no locked owner yet."""
_GONE: Final = "-gone"
"""Of the name of a folder that somebody removes."""
_PRIVATE: Final = 0o700
"""Nobody else sees a file in the making, whatever becomes of it."""
_ATTEMPTS: Final = 100


def hidden_beside(target: str) -> str:
    """The path of a folder that nobody has yet, beside a file."""
    return f"{_start_of_name(target)}{uuid.uuid4().hex[:12]}"


def _start_of_name(target: str) -> str:
    parent, name = os.path.split(target)
    return os.path.join(parent, f".{name}{_MARK}")


def target_of(folder: str) -> str:
    """The file that a folder is beside."""
    parent, name = os.path.split(folder)
    return os.path.join(parent, name.removeprefix(".").rpartition(_MARK)[0])


def make_folder(folder: str, target: str) -> None:
    """Make the folder, without an owner. What the system says against it names the target."""
    try:
        os.mkdir(folder, _PRIVATE)
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(
            error.errno, f"{target}: no folder can be made beside it for the new version: {error.strerror}"
        ) from None


def made_with_owner(folder: str, target: str, *, together: bool) -> int:
    """Make the folder with its owner, locked `together` with others or alone; the lock's descriptor.

    It gets its name when it is locked: killed at any moment, a writer leaves what can be taken for stale. Raises
    FileExistsError if there is such a folder.
    """
    for _ in range(_ATTEMPTS):
        making = f"{folder}{uuid.uuid4().hex[:4]}{_NEW}"
        make_folder(making, target)
        owner: int | None = None
        try:
            owner = os.open(os.path.join(making, OWNER), os.O_CREAT | os.O_RDWR, 0o600)
            if fcntl is not None:
                with contextlib.suppress(OSError):  # a file system without locks: the folder is then never removed
                    fcntl.flock(owner, fcntl.LOCK_SH if together else fcntl.LOCK_EX)
            os.rename(making, folder)
        except BaseException as error:
            if owner is not None:
                os.close(owner)
            if isinstance(error, FileNotFoundError):  # another writer took it for stale before it was locked
                continue
            remove_folder(making)
            if isinstance(error, OSError) and error.errno == errno.ENOTEMPTY:
                raise FileExistsError(errno.EEXIST, f"{target}: its new version is being made") from None
            raise
        return owner
    raise OSError(errno.EBUSY, f"{target}: others remove the folders beside it that its new version needs")


class _Joined:
    """The shared folders that this process works on, and those that it looks after.

    Of each that it works on it holds the lock of `owner` together with all others that do, as long as it lives.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[str, int] = {}
        self._looked_after: set[str] = set()

    def join(self, folder: str) -> None:
        if fcntl is None:
            return
        with self._lock:
            if folder in self._locks:
                return
            self._release()
            with contextlib.suppress(OSError):  # the folder is gone, or the file system has no locks
                self._locks[folder] = _locked_together(os.path.join(folder, OWNER))

    def hold(self, folder: str, lock: int) -> None:
        """Have joined with a lock that was had when the folder was made."""
        with self._lock:
            self._release()
            self._locks[folder] = lock

    def _release(self) -> None:
        """Give up the locks of what others have finished."""
        owners = {each: os.path.join(each, OWNER) for each in self._locks}
        for gone in [each for each, owner in owners.items() if not os.path.exists(owner)]:
            os.close(self._locks.pop(gone))

    def leave(self, folder: str) -> None:
        with self._lock:
            self._looked_after.discard(folder)
            if folder in self._locks:
                os.close(self._locks.pop(folder))

    def look_after(self, folder: str) -> None:
        with self._lock:
            self._looked_after.add(folder)

    def end(self) -> None:
        for folder in [*self._looked_after]:
            self.leave(folder)
            _remove_if_stale(folder)

    def forget(self) -> None:
        """In a child: what the parent works on and looks after is the parent's."""
        for descriptor in self._locks.values():
            os.close(descriptor)  # which gives up none of the parent's locks
        self._lock = threading.Lock()
        self._locks.clear()
        self._looked_after.clear()


joined: Final = _Joined()
atexit.register(joined.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=joined.forget)


def _locked_together(path: str) -> int:
    """A descriptor of the file, which is made if need be, with a lock that others may have as well."""
    making = f"{path}.{uuid.uuid4().hex[:8]}"
    descriptor = os.open(making, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        try:
            os.link(making, path)  # when it is locked: without a lock the folder is stale
        except FileExistsError:
            os.close(descriptor)
            descriptor = os.open(path, os.O_RDWR)
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    finally:
        os.unlink(making)
    return descriptor


def remove_folder(folder: str) -> None:
    """Remove a folder into which tasks that nobody waits for may still put files."""
    gone = f"{folder}{_GONE}"
    with contextlib.suppress(OSError):
        os.rename(folder, gone)  # from here on they cannot
        folder = gone
    shutil.rmtree(folder, ignore_errors=True)


def remove_stale(target: str) -> list[str]:
    """Remove the transaction folders that dead writers of `target` left; their paths.

    A writer holds a lock on a file in its folder as long as it lives.
    """
    folders = glob.glob(glob.escape(_start_of_name(target)) + "*")
    return [folder for folder in folders if _remove_if_stale(folder)]


def _remove_if_stale(folder: str) -> bool:
    """Remove the folder of a dead writer, or the rest of it; whether it was a whole one."""
    if fcntl is None:
        return False
    if folder.endswith(_GONE):  # somebody was interrupted who removed it
        shutil.rmtree(folder, ignore_errors=True)
        return False
    owner: int | None = None
    with contextlib.suppress(OSError):  # not there yet, or nobody's: of a job array
        owner = os.open(os.path.join(folder, OWNER), os.O_RDWR)
    try:
        if not any(os.path.exists(os.path.join(folder, sign)) for sign in (GIVEN_UP, CONCLUDED)):
            if owner is None:
                if folder.endswith(_NEW):
                    os.rmdir(folder)  # of somebody who was killed, or who makes another now
                return False
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_folder(folder)
        return not folder.endswith(_NEW)
    except OSError:
        return False
    finally:
        if owner is not None:
            os.close(owner)
