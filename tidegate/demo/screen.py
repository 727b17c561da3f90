"""What a person sees of the demo: lines that stay, and below them a live picture of the planes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

HEARTBEAT = 10.0  # seconds of silence after which a plain terminal is told that work goes on


class Screen:
    """Prints lines with the time since the start. In a terminal a live view of `picture` follows them."""

    def __init__(self, picture: Callable[[], Any]) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
        self.began = time.time()
        self.doing = "starting"
        self._picture = picture
        self._live: Any = None
        self._spoke = time.time()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Screen:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live("", console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(5)
        if self._live is not None:
            self._live.stop()

    def clock(self, at: float | None = None) -> str:
        """Return the time since the start as minutes and seconds."""
        passed = (at or time.time()) - self.began
        return f"{int(passed) // 60:02d}:{passed % 60:04.1f}"

    def say(self, text: str, style: str = "") -> None:
        """Print a line that stays."""
        from rich.text import Text

        self._spoke = time.time()
        self.console.print(Text.assemble((f"{self.clock()}  ", "dim"), (text, style)), soft_wrap=True)

    def now(self, text: str) -> None:
        """Say what is being done; shown below the lines until the next."""
        self.doing = text

    def _beat(self) -> None:
        while not self._over.wait(0.5):
            if self._live is not None:
                self._live.update(self._view())
            elif time.time() - self._spoke > HEARTBEAT:
                self.say(f"… {self.doing}", "dim")

    def _view(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        try:
            picture = self._picture()
        except Exception as error:  # a view must not end the demo
            picture = Text(str(error), "dim")
        return Group("", picture, Text(f"{self.clock()}  {self.doing}", "bold"))
