"""What Candor says when something is wrong that a person can put right."""


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
