"""What Candor says when something is wrong that a person can put right."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CandorError(Exception):
    """A message for a person: one sentence, what is wrong and what to do."""


class DivergedError(CandorError):
    """A training became infinite or not a number."""


class MissingError(CandorError):
    """A result that has not been computed yet."""


class CorruptError(CandorError):
    """A result that is not as it was written; `path` is the file or folder that is wrong, `what` says how."""

    def __init__(self, path: Path, what: str, remedy: str):
        super().__init__(f"{path} {what}: {remedy}.")
        self.path, self.what = path, what


class NotRun(CandorError):
    """Nothing was run that would have made the rows which were asked for: the check is "not attempted"."""


class Incomplete(NotRun):
    """Something was run, and less than the criterion needs: its note says what is missing."""


@contextmanager
def spoken() -> Iterator[None]:
    """Ends the process with a `CandorError`'s sentence and exit code 2, without a stack trace."""
    try:
        yield
    except CandorError as error:
        print(f"candor: {error}", file=sys.stderr)
        sys.exit(2)


_ELSEWHERE = "set CANDOR_RESULTS to another folder"
_IN_THE_WAY = f"is in the way: remove it, or {_ELSEWHERE}"
_DISK = {
    errno.ENOSPC: "was not written, because the disk is full: free some space and run the command again",
    errno.EDQUOT: "was not written, because your disk quota is used up: free some space and run the command again",
    errno.EFBIG: "was not written, because files may not be that large here: raise the limit (ulimit -f) and run again",
    errno.EROFS: f"lies on a read-only disk: {_ELSEWHERE}",
    errno.EACCES: f"cannot be read or written (permission denied): change its permissions or {_ELSEWHERE}",
    errno.EPERM: f"cannot be written (not permitted): change its permissions or {_ELSEWHERE}",
    errno.EIO: f"cannot be read or written (the disk fails): {_ELSEWHERE}",
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP), _IN_THE_WAY),
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def disk(place: Path | str) -> Iterator[None]:
    """Raises what a disk refuses as one sentence (`CandorError`); it names the file, or `place` where none is known."""
    try:
        yield
    except CandorError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        # safetensors and pyarrow have exceptions of their own.
        code = next((full for full in _FULL if os.strerror(full) in str(error)), code)
        if code not in _DISK:
            raise
        raise CandorError(f"{getattr(error, 'filename', None) or place} {_DISK[code]}.") from None
