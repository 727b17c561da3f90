"""What a process runs its model by: told at `/readyz` and on `/metrics`, and warmed up where it is a GPU.

BentoML decides whether a process is ready, and its status is what a health check reads; the body is ours.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from tidegate.serving.gpu import Gpu
from tidegate.serving.provider import Running, asked
from tidegate.serving.settings import Settings
from tidegate.serving.turn import MOST

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

PATH = "/readyz"
_UNKNOWN = Running("cpu", "")  # of a service whose model is no OnnxModel


class Runs:
    """What runs the model of a service; `add` is that of a metrics.Registry.

    Raises RuntimeError for a variable of the environment that can't be meant.
    """

    def __init__(self, service: Any, settings: Settings, add: Callable[..., None]) -> None:
        self._service, self._most = service, max(MOST, settings.batching.max_rows)
        wanted = asked(settings)
        self._gpu = Gpu(wanted.gpu.device, add) if wanted.provider != "cpu" else None
        add("tidegate_runtime_info", "What runs the model; always 1", "info", lambda: self.running.told())

    @property
    def running(self) -> Running:
        """What runs it now: a GPU may turn out at the first run not to compute."""
        found = getattr(getattr(self._service.instance, "model", None), "running", None)
        return found if isinstance(found, Running) else _UNKNOWN

    @property
    def on_gpu(self) -> bool:
        """Whether that is a GPU."""
        return self.running.provider != "cpu"

    def document(self) -> dict[str, Any]:
        """Return what `/readyz` says of it."""
        now = self.running
        told: dict[str, Any] = {"provider": now.provider, "device": now.device, "variant": now.variant}
        return {**told, "reason": now.reason} if now.reason else told

    async def refresh(self) -> None:
        """Look at the GPU before its numbers are read; costs nothing where there is none."""
        if self._gpu is not None:
            await self._gpu.refresh()

    def warm(self, rows: Sequence[Any], predict: Callable[[Any], Any]) -> None:
        """Compute the examples' `rows` in each size of a batch that may come, the largest first.

        On a GPU the first of a size takes memory and chooses its kernels: no caller waits for that, and too
        little memory for the largest batch stops the start instead of failing a request.
        """
        together = np.concatenate(rows)
        size = self._most
        while size > 1:
            predict(np.resize(together, (size, *together.shape[1:])))
            size //= 2


def telling(send: Send, known: Callable[[], Mapping[str, Any]]) -> Send:
    """Return a `send` that keeps an answer's status and lays JSON in the place of its body."""
    start: Message = {}

    async def later(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message  # held back, since its length is another
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            body = json.dumps({"ready": start["status"] == 200, **known()}).encode()
            own = (b"content-type", b"content-length", b"content-encoding")
            kept = [(name, value) for name, value in start["headers"] if bytes(name).lower() not in own]
            kept += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            await send({**start, "headers": kept})
            await send({"type": "http.response.body", "body": body})

    return later
