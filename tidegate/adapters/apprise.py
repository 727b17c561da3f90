"""People told by apprise: webhooks, Slack and what speaks like it, e-mail, and whatever else apprise knows.

The agent is never held up: each address has a thread and a bounded queue of its own, and what can't be
delivered is tried again with growing pauses, then given up and said in the log. No address is ever
written to a log: most hold a secret.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from tenacity import (
    RetryError,
    Retrying,
    retry_if_result,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_exponential_jitter,
)

from tidegate.core import telling
from tidegate.errors import ConfigError
from tidegate.ports import Event

log = logging.getLogger(__name__)

QUEUED = 100  # messages an address; a longer queue is of no use to a person
PATIENCE = 600.0  # seconds that a message is tried for
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between two tries
DRAIN = 2.0  # seconds that what waits may still take at the end
_NAME = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")
_MEANS = {"bad": "failure", "good": "success", "warn": "warning"}


class AppriseNotifier:
    """`ports.Notifier` to addresses as apprise takes them, for the kinds of event in `events`.

    `$NAME` in an address is filled in from `environ`. Raises ConfigError for a name that is not set and
    for an address that apprise does not know. `patience` and `pause` (the first between two tries) are in
    seconds.
    """

    def __init__(
        self,
        urls: Sequence[str],
        events: Collection[str],
        *,
        environ: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
        pause: float = FIRST_PAUSE,
    ) -> None:
        found = os.environ if environ is None else environ
        self._events = frozenset(events)
        self._channels = [
            _Channel(
                _service(filled(url, found, place), url, place), place, secrets(url, found), patience, pause
            )
            for place, url in enumerate(urls)
        ]
        if self._channels:
            atexit.register(self.close)

    def notify(self, event: Event) -> None:
        """Queue one event's message for every address and return at once."""
        if event.kind not in self._events:
            return
        try:
            message = telling.message(
                event.kind, event.plane, event.model, event.release, event.text, event.data
            )
            for channel in self._channels:
                channel.put(message)
        except Exception:  # the port's promise: delivering must not raise
            log.exception("a message about %s could not be made", event.kind)

    def close(self, patience: float = DRAIN) -> None:
        """Deliver what waits, each message tried once more, for at most `patience` seconds; then stop."""
        atexit.unregister(self.close)
        end = time.monotonic() + patience
        for channel in self._channels:
            channel.finish()
        for channel in self._channels:
            channel.join(max(0.0, end - time.monotonic()))


# ---------------------------------------------------------------- addresses
def filled(url: str, environ: Mapping[str, str], place: int = 0) -> str:
    """Fill `$NAME` and `${NAME}` in an address; user and password are percent-encoded, the rest is not.

    Raises ConfigError with the name of a variable that is not set or is empty.
    """
    head, scheme, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0] if scheme else ""
    private = len(head) + len(scheme) + authority.rindex("@") if "@" in authority else 0

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        known = environ.get(name, "")
        if not known:
            raise ConfigError(
                f"notify.urls[{place}] needs ${name}, which is not set",
                f"Set {name} where `tidegate up` is run, or take the address out of envs/platform.yaml.",
            )
        return quote(known, safe="") if match.start() < private else known

    return _NAME.sub(value, url)


def secrets(url: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the parts of an address that must not be shown, the longest first."""
    names = {match[1] or match[2] for match in _NAME.finditer(url)}
    values = {environ.get(name, "") for name in names}
    rest = _NAME.sub("", url).partition("://")[2]
    written = {part for part in re.split(r"[/@:?&=#]", rest) if len(part) >= 8}
    found = {*values, *(quote(v, safe="") for v in values), *written, *(unquote(w) for w in written)}
    return tuple(sorted((text for text in found if len(text) >= 3), key=len, reverse=True))


def _service(url: str, said: str, place: int) -> Any:
    """Return apprise's service of an address, run in the caller's thread. Raises ConfigError."""
    import apprise

    logging.getLogger("apprise").propagate = False  # what it says may hold an address; we say it ourselves
    asset = apprise.AppriseAsset(
        app_id="Tidegate", app_desc="Tidegate", app_url="", async_mode=False, service_timeout=0
    )
    made = apprise.Apprise.instantiate(url, asset=asset)
    if made is None:
        scheme = said.partition("://")[0] if "://" in said else "none"
        raise ConfigError(
            f"notify.urls[{place}] (scheme: {scheme if '$' not in scheme else 'from the environment'}) "
            "is no address that apprise can use",
            "Compare it with apprise's list of services, e.g. `slack://…`, `mailtos://…`, `jsons://…`.",
        )
    service = apprise.Apprise(asset=asset)
    service.add(made)
    return service


# ---------------------------------------------------------------- delivering
class _Channel:
    """One address: a queue, and a thread that delivers what is in it, one message after the other."""

    def __init__(
        self, service: Any, place: int, hidden: Sequence[str], patience: float, pause: float
    ) -> None:
        self._service, self._name, self._hidden = service, f"notify.urls[{place}]", hidden
        self._queue: queue.Queue[telling.Message | None] = queue.Queue(QUEUED)
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._retrying = Retrying(
            retry=retry_if_result(bool),  # a try returns why it failed, or nothing
            wait=wait_exponential_jitter(multiplier=pause, max=LONGEST_PAUSE, jitter=pause),
            stop=stop_after_delay(patience) | stop_when_event_set(self._ending),
            sleep=sleep_using_event(self._ending),
        )

    def put(self, message: telling.Message | None) -> None:
        """Queue a message; of a full queue the oldest makes room. The thread starts with the first."""
        with self._lock:
            if self._thread is None and message is not None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            while True:
                try:
                    self._queue.put_nowait(message)
                    return
                except queue.Full:
                    self._drop()

    def _drop(self) -> None:
        try:
            lost = self._queue.get_nowait()
        except queue.Empty:
            return
        if lost is not None:
            log.warning("%s is too slow, not told: %s", self._name, lost.title)

    def finish(self) -> None:
        """Try what waits once more and end; pauses between tries are over."""
        self._ending.set()
        self.put(None)

    def join(self, patience: float) -> None:
        """Wait for the end; what is left then is lost, and said."""
        thread = self._thread
        if thread is None:
            return
        thread.join(patience)
        if thread.is_alive():
            log.warning("%s did not take %d messages in time", self._name, max(1, self._queue.qsize()))

    def _run(self) -> None:
        while (message := self._queue.get()) is not None:
            try:
                self._retrying(self._send, message)
            except RetryError as error:
                log.warning("%s was not told %r: %s", self._name, message.title, error.last_attempt.result())
            except Exception as error:
                log.warning("%s was not told %r: %s", self._name, message.title, self._hide(repr(error)))

    def _send(self, message: telling.Message) -> str:
        """Try once; returns why it failed, without the address."""
        import apprise

        try:
            for service in self._service:
                if hasattr(service, "payload_extras"):  # a plain webhook gets the numbers as fields too
                    service.payload_extras = dict(message.fields)
            result = self._service.notify(
                body=message.body,
                title=message.title,
                notify_type=apprise.NotifyType(_MEANS.get(message.tone, "info")),
                body_format=apprise.NotifyFormat.TEXT,
            )
        except Exception as error:
            return self._hide(repr(error)) or "an error without words"
        if result:
            return ""
        said = [str(entry.message) for entry in result.logs()] if hasattr(result, "logs") else []
        return self._hide(said[-1] if said else "it was not taken")

    def _hide(self, text: str) -> str:
        for hidden in self._hidden:
            text = text.replace(hidden, "***")
        return text
