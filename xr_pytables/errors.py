"""Every exception of this package that a caller may catch.

The rest are Python's own: ValueError and TypeError for arguments that do not fit, FileNotFoundError and PermissionError
of the system. Tested in `tests/test_errors.py`.
"""

from __future__ import annotations


class FormatError(OSError):
    """The bytes of a file are not what its format wants: it is damaged, cut off, or not of this format."""


class RemoteError(OSError):
    """A server did not give what it was asked for: it cannot be reached, refuses, or its answer is wrong or cut off."""


class ChunkError(FormatError):
    """The bytes of a chunk, or those that say where chunks are, cannot be what a sound file contains."""


class TooManyChunksError(ChunkError):
    """An array has more chunks than are located at once: nothing is wrong with it, and parts of it can be read."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        """How many there are and how many can be located, without the name of the array and the way out."""


class MissingNodeError(OSError):
    """A path names no object of the file, or a link on the way leads nowhere."""


class FileChangedError(OSError):
    """A file is no longer what it was when it was opened."""


class FileBusyError(BlockingIOError):
    """Somebody else has the file open for writing."""


class NeedsRecoveryError(OSError):
    """The writer of a file died, and the file can be put back to what it was only by somebody who may write to it."""


class ForeignJournalError(OSError):
    """What has the name of a journal beside a file was not left by anybody who could have changed the file."""


class NoLocksError(OSError):
    """The file system has no locks, without which nobody can tell a live writer from a dead one."""


class HDF5Error(OSError):
    """A call of libhdf5 failed; the message is what HDF5 says of the innermost cause.

    `errno` is set where the disk was the cause.
    """


class SegmentError(OSError):
    """A segment is damaged, cut off, or not what it should be."""
