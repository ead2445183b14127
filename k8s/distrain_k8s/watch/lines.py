"""Lines of a pod's log: their times, what a terminal shows of them, and which of them have been seen before.

The API server puts a time of nanoseconds before each line, and starts a log again at a whole second. So a connection
that was lost goes on at the second of the last line, and the lines of that second that were seen are passed over.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ?")
CONTROL = re.compile(
    r"\x1b\[[0-9;?]*[A-HJKSTfhlnsu]|\x1b[\]P^_].*?(?:\x07|\x1b\\)|\x1b[=>78]|[\x00-\x08\x0b\x0c\x0e-\x1a]"
)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class LogLine:
    """nanoseconds: since 1970, None where the line came without a time."""

    text: str
    nanoseconds: int | None = None

    @property
    def time(self) -> datetime | None:
        """The line's time, to the microsecond."""
        if self.nanoseconds is None:
            return None
        seconds, rest = divmod(self.nanoseconds, 10**9)
        return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=rest // 1000)


def read_line(raw: str) -> LogLine:
    """A line as the API server sends it with `timestamps`."""
    found = STAMP.match(raw)
    if found is None:
        return LogLine(raw)
    seconds = int(datetime.fromisoformat(found[1] + found[3].replace("Z", "+00:00")).timestamp())
    return LogLine(raw[found.end() :], seconds * 10**9 + int((found[2] or "0").ljust(9, "0")))


def shown(text: str, colours: bool) -> str:
    """What a terminal would show of a line in the end: after the last return of the carriage, without movements of the
    cursor. A progress bar, which draws itself over and over, is its last state."""
    kept = next((part for part in reversed(text.split("\r")) if part.strip()), "")
    kept = CONTROL.sub("", kept)
    return kept if colours else COLOUR.sub("", kept)


class Seen:
    """Passes each line of a log once, over connections that break and overlap.

    The times of one log never go backwards. Lines of one and the same time are told apart by their number.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._count = 0
        self._again = 0
        self._first = False

    @property
    def since(self) -> str | None:
        """Where the next connection starts: the second of the last line, None for the beginning."""
        if self._last is None:
            return None
        return f"{datetime.fromtimestamp(self._last // 10**9, UTC):%Y-%m-%dT%H:%M:%SZ}"

    def connected(self) -> None:
        """A new connection begins, at `since`."""
        self._again, self._first = 0, True

    def is_new(self, line: LogLine) -> bool:
        """Whether the next line of this connection has not been passed before."""
        self._first = False
        when = line.nanoseconds
        if when is None or self._last is None or when > self._last:
            if when is not None:
                self._last, self._count = when, 1
                self._again = 1
            return True
        if when < self._last:
            return False
        self._again += 1
        if self._again <= self._count:
            return False
        self._count += 1
        return True

    def is_gap(self, line: LogLine) -> bool:
        """Whether lines are missing before the first line of a connection: the last one that was passed is not there
        any more, since its machine has thrown it away."""
        return self._first and self._last is not None and (line.nanoseconds or 0) > self._last
