"""supervisord, which a full disk does not end: what can't be written down is lost, and nothing else.

Its log handlers print what they could not write to standard error, which lies on the same disk; an
exception there ends supervisord, and with it everything that it would have started again.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, TextIO

from supervisor import supervisord


class Forgiving:
    """A text stream that loses what can't be written; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or lose, `text`; returns how much of it was taken: all."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Flush, or don't."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


if __name__ == "__main__":
    sys.stderr = Forgiving(sys.stderr)
    supervisord.main()
