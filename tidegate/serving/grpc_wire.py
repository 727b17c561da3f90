"""gRPC over HTTP/2: calls, their messages, deadlines and statuses; knows nothing of what is called."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal

import msgspec

from tidegate.serving.hpack import encode
from tidegate.serving.http2 import Http2, Stream

IN_FLIGHT = 64  # of one stream's requests at once; the others wait, unread

INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED = 3, 4, 5, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 12, 13, 14

_KIND = b"application/grpc"
_HEAD = encode([(b":status", b"200"), (b"content-type", _KIND)])
_OK = encode([(b"grpc-status", b"0")])
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class Refused(Exception):
    """A call that ends with an error: gRPC's code and a text."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(text)


class Asked(msgspec.Struct, gc=False):
    """One message of a call; `headers` are its metadata, times are by `time.perf_counter`."""

    message: bytes
    headers: Mapping[bytes, bytes]
    began: float
    deadline: float | None


Doing = Callable[[Asked], Coroutine[Any, Any, bytes]]  # the answer's bytes; raises Refused


class Method(msgspec.Struct):
    """What is done when a method is called; `stream` answers each message of a stream, in their order."""

    do: Doing | Callable[[bytes], bytes]
    kind: Literal["simple", "unary", "stream"]


class _State:
    """What is known of one call beside its bytes."""

    __slots__ = ("deadline", "method", "tasks")

    def __init__(self, method: Method, deadline: float | None) -> None:
        self.method, self.deadline = method, deadline
        self.tasks: deque[asyncio.Task[bytes]] = deque()


class Connection(Http2):
    """One client's connection; `most` bytes are the largest message, `known` is who has to know of it."""

    def __init__(self, methods: Mapping[bytes, Method], most: int, known: set[Connection]) -> None:
        super().__init__()
        self._methods, self._most, self._connections = methods, most, known

    def connection_made(self, transport: Any) -> None:
        """Be known."""
        super().connection_made(transport)
        self._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Be forgotten."""
        self._connections.discard(self)
        super().connection_lost(error)

    # ---------------------------------------------------------------- what comes
    def began(self, stream: Stream) -> None:
        """Find out what is called."""
        fields = stream.fields
        if fields.get(b":method") != b"POST" or not fields.get(b"content-type", b"").startswith(_KIND):
            self.refuse(stream, encode([(b":status", b"415")]))
            return
        method = self._methods.get(fields.get(b":path", b""))
        if method is None:
            self._fail(stream, Refused(UNIMPLEMENTED, "there is no such method here"))
            return
        stream.state = _State(method, _deadline(fields.get(b"grpc-timeout")))

    def grew(self, stream: Stream, data: bytes) -> None:
        """Take a part of a message."""
        state: _State | None = stream.state
        if state is None:
            return
        if not stream.body:
            stream.body = data
        elif isinstance(stream.body, bytearray):
            stream.body += data
        else:
            stream.body = bytearray(stream.body) + data
        if state.method.kind == "stream":
            self._advance(stream)
        elif len(stream.body) > self._most + 5:
            self._fail(stream, self._too_large())

    def finished(self, stream: Stream) -> None:
        """Begin to answer; or of a stream of requests, look whether all are answered."""
        state: _State | None = stream.state
        if state is None or self.streams.get(stream.id) is not stream:
            return
        if state.method.kind == "stream":
            self._advance(stream)
            return
        try:
            message = self._message(stream)
            if message is None or stream.body:
                raise Refused(INVALID_ARGUMENT, "one whole message is expected")
            if state.method.kind == "unary":
                self._start(stream, message)
                return
            answer: Any = state.method.do(message)  # type: ignore[arg-type]
            self.answer(stream, _HEAD, _prefixed(answer), _OK)
        except Refused as error:
            self._fail(stream, error)

    def gone(self, stream: Stream) -> None:
        """Compute nothing that nobody waits for."""
        if stream.state is not None:
            for task in stream.state.tasks:
                task.cancel()

    def shut(self) -> None:
        """Take no new calls, and end streams that wait for their client."""
        super().shut()
        for stream in list(self.streams.values()):
            if stream.state is not None and stream.state.method.kind == "stream":
                self._advance(stream)

    # ---------------------------------------------------------------- what is done
    def _start(self, stream: Stream, message: bytes) -> None:
        state: _State = stream.state
        asked = Asked(message, stream.fields, time.perf_counter(), state.deadline)
        task = self.loop.create_task(state.method.do(asked))  # type: ignore[arg-type]
        state.tasks.append(task)
        task.add_done_callback(lambda _: self._answered(stream))

    def _answered(self, stream: Stream) -> None:
        """Send what is ready, in the order of the requests."""
        state: _State = stream.state
        streaming = state.method.kind == "stream"
        while state.tasks and state.tasks[0].done():
            task = state.tasks.popleft()
            if task.cancelled():
                continue
            error = task.exception()
            if error is None:
                self.answer(stream, _HEAD, _prefixed(task.result()), None if streaming else _OK)
            else:
                self._fail(stream, error if isinstance(error, Refused) else Refused(INTERNAL, "it failed"))
        if streaming and self.streams.get(stream.id) is stream:
            self._advance(stream)

    def _advance(self, stream: Stream) -> None:
        """Begin to answer the next requests of a stream, or end it after the last."""
        tasks = stream.state.tasks
        try:
            while len(tasks) < IN_FLIGHT and (message := self._message(stream)) is not None:
                self._start(stream, message)
            stream.held = len(tasks) >= IN_FLIGHT
            self.credit(stream)
            if tasks:
                return
            if stream.ended and stream.body:
                raise Refused(INVALID_ARGUMENT, "the last message is not whole")
            if stream.ended:
                self.answer(stream, _HEAD, b"", _OK)
            elif self.closing:
                raise Refused(UNAVAILABLE, "the server ends")
        except Refused as error:
            self._fail(stream, error)

    def _message(self, stream: Stream) -> bytes | None:
        """Take the first message from a body, if it is whole; raises Refused."""
        body = stream.body
        if len(body) < 5:
            return None
        end = 5 + int.from_bytes(body[1:5], "big")
        if end > self._most + 5:
            raise self._too_large()
        if len(body) < end:
            return None
        message, packed = bytes(body[5:end]), body[0]
        stream.body = body[end:]
        if not packed:
            return message
        kind = stream.fields.get(b"grpc-encoding", b"")
        if packed != 1 or kind not in (b"gzip", b"deflate"):
            raise Refused(UNIMPLEMENTED, "messages are taken as they are, or packed by gzip or deflate")
        return self._unpacked(message, 31 if kind == b"gzip" else 15)

    def _unpacked(self, message: bytes, bits: int) -> bytes:
        unpack = zlib.decompressobj(bits)
        try:
            found = unpack.decompress(message, self._most + 1)
        except zlib.error as error:
            raise Refused(INVALID_ARGUMENT, f"the message can't be unpacked: {error}") from error
        if len(found) > self._most:
            raise self._too_large()
        return found

    def _too_large(self) -> Refused:
        return Refused(RESOURCE_EXHAUSTED, f"a message is larger than {self._most} bytes")

    def _fail(self, stream: Stream, error: Refused) -> None:
        """End a call with an error."""
        fields = [(b"grpc-status", str(error.code).encode()), (b"grpc-message", _escaped(str(error)))]
        if not stream.began:
            fields = [(b":status", b"200"), (b"content-type", _KIND), *fields]
        self.gone(stream)
        self.refuse(stream, encode(fields))


def _prefixed(content: bytes) -> bytes:
    return b"\0" + len(content).to_bytes(4, "big") + content


def _escaped(text: str) -> bytes:
    raw = text.encode()[:2048]
    return b"".join(b"%c" % byte if 32 <= byte < 127 and byte != 37 else b"%%%02X" % byte for byte in raw)


def _deadline(told: bytes | None) -> float | None:
    """Return when a caller stops waiting; None where it does not say, or not in gRPC's way."""
    if not told or told[-1:] not in _UNITS or not told[:-1].isdigit() or len(told) > 9:
        return None
    return time.perf_counter() + int(told[:-1]) * _UNITS[told[-1:]]
