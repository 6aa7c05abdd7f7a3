"""What Candor says when something is wrong that a person can put right."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class CandorError(Exception):
    """A message for a person: one sentence, what is wrong and what to do."""


class DivergedError(CandorError):
    """A training became infinite or not a number."""


class CorruptError(CandorError):
    """A result does not match its checksum."""


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
