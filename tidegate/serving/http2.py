"""HTTP/2 (RFC 9113) as far as a server of gRPC needs it, over asyncio: frames, streams, windows; no TLS.

By hand, since gRPC's own library takes four times as long for a call as HTTP/1.1 for a request, and the plain
ones in Python longer still: here frames that arrive together are read together, the headers of a client's
second call are known by their bytes, and what is answered in one turn of the loop is written at once.

What a peer may make us keep is bounded: streams, headers, bytes of a request; while it does not read its
answers, nothing more is read from it. A peer that breaks the rules loses its connection.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from tidegate.serving.hpack import BLOCK_BYTES, Decoder, HpackError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
STREAMS = 100  # of one connection at once
FRAME_BYTES = 16384  # that a frame may hold, either way: the standard's default
WINDOW = 1 << 20  # that a peer may send of one stream ahead of us, and twice that of all
GREETING_SECONDS = 10.0
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM = (
    0,
    1,
    3,
    5,
    6,
    7,
)
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 9, 11
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_MOST_WINDOW = (1 << 31) - 1
_CONTROLS = 10_000  # frames that ask for an answer or for nothing, between two requests

_HEAD = struct.Struct(">HBBBI")
_SETTING = struct.Struct(">HI")
_NUMBER = struct.Struct(">I")


class Http2Error(Exception):
    """A peer that broke the rules."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(text)


class Stream:
    """One request and its answer."""

    __slots__ = (
        "began", "body", "ended", "fields", "held", "id", "pending", "state", "trailers", "unread", "window",
    )  # fmt: skip

    def __init__(self, number: int, fields: dict[bytes, bytes], window: int) -> None:
        self.id, self.fields, self.window = number, fields, window
        self.body: bytes | bytearray = b""
        self.ended = False  # by the peer
        self.held = False  # the peer is to wait before it sends more
        self.unread = 0  # bytes that the peer was not told of
        self.began = False  # our answer
        self.pending = b""  # of our answer, beyond the peer's window
        self.trailers: bytes | None = None
        self.state: Any = None  # the application's


class Http2(asyncio.Protocol):
    """One connection. An application says what happens when a stream begins, grows, ends and is gone."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.streams: dict[int, Stream] = {}
        self.closing = False
        self._decoder = Decoder()
        self._transport: Any = None
        self._greeted = False
        self._buffer = b""
        self._block: tuple[int, bytearray, bool] | None = None  # of headers that go on
        self._last = self._unread = self._controls = 0
        self._window = self._stream_window = 65535  # of the peer: of all streams, and of a new one
        self._blocked: dict[int, Stream] = {}
        self._out: list[bytes] = []
        self._flushing = False

    # ---------------------------------------------------------------- the application's
    def began(self, stream: Stream) -> None:
        """Headers have come."""

    def grew(self, stream: Stream, data: bytes) -> None:
        """A part of the body has come."""

    def finished(self, stream: Stream) -> None:
        """The body is complete."""

    def gone(self, stream: Stream) -> None:
        """Nobody waits for the answer any more."""

    # ---------------------------------------------------------------- answers
    def answer(self, stream: Stream, head: bytes, data: bytes, trailers: bytes | None = None) -> None:
        """Send headers, unless they were sent, data, and with trailers (blocks of HPACK) the end."""
        if self.streams.get(stream.id) is not stream:
            return  # gone
        size = len(data)
        fits = size <= FRAME_BYTES and size <= stream.window and size <= self._window
        if fits and trailers is not None and not stream.began and stream.ended:  # nearly every call
            self._window -= size
            del self.streams[stream.id]
            number, first, last = stream.id, len(head), len(trailers)
            self._out += (
                _HEAD.pack(first >> 8, first & 255, HEADERS, _END_HEADERS, number),
                head,
                _HEAD.pack(size >> 8, size & 255, DATA, 0, number),
                data,
                _HEAD.pack(last >> 8, last & 255, HEADERS, _END_HEADERS | _END_STREAM, number),
                trailers,
            )
            if not self._flushing:
                self._flushing = True
                self.loop.call_soon(self._flush)
            return
        if not stream.began:
            stream.began = True
            self._put(HEADERS, _END_HEADERS, stream.id, head)
        if stream.pending or size > FRAME_BYTES or size > stream.window or size > self._window:
            stream.pending += data
            self._blocked[stream.id] = stream
        elif data:
            stream.window -= size
            self._window -= size
            self._put(DATA, 0, stream.id, data)
        if trailers is not None:
            stream.trailers = trailers
            if not stream.pending:
                self._end(stream)
        if stream.pending:
            self._pump()

    def refuse(self, stream: Stream, block: bytes) -> None:
        """Answer by nothing but headers."""
        if self.streams.get(stream.id) is stream:
            if stream.began:
                self.answer(stream, b"", b"", block)
                return
            stream.trailers = block
            self._end(stream)

    def credit(self, stream: Stream) -> None:
        """Let the peer send more of a stream, unless the application holds it."""
        if stream.unread > WINDOW // 2 and not stream.held and not stream.ended:
            self._put(WINDOW_UPDATE, 0, stream.id, _NUMBER.pack(stream.unread))
            stream.unread = 0

    def _end(self, stream: Stream) -> None:
        self._put(HEADERS, _END_HEADERS | _END_STREAM, stream.id, stream.trailers or b"")
        if not stream.ended:  # what it still sends is not waited for
            self._put(RST_STREAM, 0, stream.id, _NUMBER.pack(NO_ERROR))
        del self.streams[stream.id]
        self._blocked.pop(stream.id, None)

    def _pump(self) -> None:
        for stream in list(self._blocked.values()):
            while stream.pending and self._window > 0 and stream.window > 0:
                part = stream.pending[: min(FRAME_BYTES, self._window, stream.window)]
                stream.pending = stream.pending[len(part) :]
                stream.window -= len(part)
                self._window -= len(part)
                self._put(DATA, 0, stream.id, part)
            if not stream.pending:
                del self._blocked[stream.id]
                if stream.trailers is not None:
                    self._end(stream)

    def _put(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        size = len(payload)
        self._out.append(_HEAD.pack(size >> 8, size & 255, kind, flags, stream))
        self._out.append(payload)
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def close(self) -> None:
        """End the connection at once; what was answered is still sent."""
        self._flush()
        self._transport.close()

    def shut(self) -> None:
        """Take no new streams; those that are there are answered."""
        if not self.closing:
            self.closing = True
            self._put(GOAWAY, 0, 0, _NUMBER.pack(self._last) + _NUMBER.pack(NO_ERROR))

    # ---------------------------------------------------------------- the loop's
    def connection_made(self, transport: Any) -> None:
        """Greet the peer: what it may send, and how much."""
        self._transport = transport
        told = ((0x3, STREAMS), (0x4, WINDOW), (0x6, BLOCK_BYTES))
        self._put(SETTINGS, 0, 0, b"".join(_SETTING.pack(*one) for one in told))
        self._put(WINDOW_UPDATE, 0, 0, _NUMBER.pack(2 * WINDOW - 65535))
        self.loop.call_later(GREETING_SECONDS, self._greeting)

    def _greeting(self) -> None:
        if not self._greeted:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Read the frames that have come."""
        if self._transport.is_closing():
            return
        try:
            self._read(self._buffer + data if self._buffer else data)
        except Http2Error as error:
            self._break(error.code, str(error))
        except HpackError as error:
            self._break(COMPRESSION_ERROR, str(error))

    def connection_lost(self, error: Exception | None) -> None:
        """Let go of all streams."""
        self._greeted = True
        self._out.clear()
        streams, self.streams = self.streams, {}
        self._blocked.clear()
        for stream in streams.values():
            self.gone(stream)

    def pause_writing(self) -> None:
        """Read nothing more from a peer that does not read its answers."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read again."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _break(self, code: int, text: str) -> None:
        last = _NUMBER.pack(self._last) + _NUMBER.pack(code)
        self._put(GOAWAY, 0, 0, last + text.encode()[:200])
        self.close()

    # ---------------------------------------------------------------- frames
    def _read(self, data: bytes) -> None:
        at, size = 0, len(data)
        if not self._greeted:
            if data[: len(PREFACE)] != PREFACE[:size]:
                raise Http2Error(PROTOCOL_ERROR, "this is a server of HTTP/2 without TLS")
            if size < len(PREFACE):
                self._buffer = data
                return
            self._greeted, at = True, len(PREFACE)
        unpack = _HEAD.unpack_from
        while size - at >= 9:
            high, low, kind, flags, stream = unpack(data, at)
            end = at + 9 + (high << 8 | low)
            if end - at > FRAME_BYTES + 9:
                raise Http2Error(FRAME_SIZE_ERROR, "a frame is too large")
            if end > size:
                break
            payload = data[at + 9 : end]
            at = end
            if self._block is not None and (kind != CONTINUATION or stream != self._block[0]):
                raise Http2Error(PROTOCOL_ERROR, "headers are not ended")
            if kind == DATA:
                self._data(flags, stream, payload)
            elif kind == HEADERS:
                self._headers(flags, stream, payload)
            else:
                self._other(kind, flags, stream, payload)
        self._buffer = data[at:]

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._unread += size
        if self._unread > WINDOW:
            self._put(WINDOW_UPDATE, 0, 0, _NUMBER.pack(self._unread))
            self._unread = 0
        stream = self.streams.get(number)
        if stream is None or stream.ended:
            if number > self._last or not number:
                raise Http2Error(PROTOCOL_ERROR, "data of a stream that never began")
            return  # answered already
        if flags & _PADDED:
            payload = _unpadded(payload)
        ended = bool(flags & _END_STREAM)
        if not ended:
            self._calm(size == 0)
            stream.unread += size
            self.credit(stream)
        self.grew(stream, payload)
        if ended:
            stream.ended = True
            self.finished(stream)

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if flags & _PADDED:
            payload = _unpadded(payload)
        if flags & _PRIORITY:
            payload = payload[5:]
        ended = bool(flags & _END_STREAM)
        if flags & _END_HEADERS:
            self._begin(number, payload, ended)
        else:
            self._block = (number, bytearray(payload), ended)

    def _continue(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise Http2Error(PROTOCOL_ERROR, "no headers go on")
        number, block, ended = self._block
        block += payload
        self._calm(True)
        if len(block) > BLOCK_BYTES:
            raise Http2Error(ENHANCE_YOUR_CALM, "the headers are too large")
        if flags & _END_HEADERS:
            self._block = None
            self._begin(number, bytes(block), ended)

    def _begin(self, number: int, block: bytes, ended: bool) -> None:
        fields = self._decoder.read(block)
        if not number % 2:
            raise Http2Error(PROTOCOL_ERROR, "a stream of a client has an odd number")
        if number <= self._last:
            stream = self.streams.get(number)
            if stream is not None and not stream.ended:  # trailers
                if not ended:
                    raise Http2Error(PROTOCOL_ERROR, "trailers that do not end the stream")
                stream.ended = True
                self.finished(stream)
            return
        self._last, self._controls = number, 0
        if self.closing or len(self.streams) >= STREAMS:
            self._put(RST_STREAM, 0, number, _NUMBER.pack(REFUSED_STREAM))
            return
        stream = Stream(number, dict(fields), self._stream_window)
        self.streams[number] = stream
        stream.ended = ended
        self.began(stream)
        if ended:
            self.finished(stream)

    def _other(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        self._calm(kind != WINDOW_UPDATE)
        if kind == WINDOW_UPDATE:
            self._grant(number, _number(payload))
        elif kind == SETTINGS:
            self._settings(flags, number, payload)
        elif kind == PING:
            if len(payload) != 8 or number:
                raise Http2Error(FRAME_SIZE_ERROR, "a ping has eight bytes, and no stream")
            if not flags & _ACK:
                self._put(PING, _ACK, 0, payload)
        elif kind == RST_STREAM:
            _number(payload)
            if number > self._last or not number:
                raise Http2Error(PROTOCOL_ERROR, "the end of a stream that never began")
            stream = self.streams.pop(number, None)
            if stream is not None:
                self._blocked.pop(number, None)
                self.gone(stream)
        elif kind == CONTINUATION:
            self._continue(flags, payload)
        elif kind == PUSH_PROMISE:
            raise Http2Error(PROTOCOL_ERROR, "a client promises nothing")

    def _calm(self, counts: bool) -> None:
        """Raise Http2Error for a peer that keeps us busy with nothing."""
        self._controls += counts
        if self._controls > _CONTROLS:
            raise Http2Error(ENHANCE_YOUR_CALM, "too much that asks for nothing")

    def _grant(self, number: int, more: int) -> None:
        more &= _MOST_WINDOW
        if not more:
            raise Http2Error(PROTOCOL_ERROR, "a window that does not grow")
        if not number:
            self._window += more
        stream = self.streams.get(number)
        if stream is not None:
            stream.window += more
        if max(self._window, stream.window if stream else 0) > _MOST_WINDOW:
            raise Http2Error(FLOW_CONTROL_ERROR, "a window is too large")
        if self._blocked:
            self._pump()

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) % 6 or number:
            raise Http2Error(FRAME_SIZE_ERROR, "settings have six bytes each, and no stream")
        if flags & _ACK:
            return
        for key, value in _SETTING.iter_unpack(payload):
            if key == 0x4:
                if value > _MOST_WINDOW:
                    raise Http2Error(FLOW_CONTROL_ERROR, "a window is too large")
                for stream in self.streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
        self._put(SETTINGS, _ACK, 0)
        self._pump()


def _number(payload: bytes) -> int:
    if len(payload) != 4:
        raise Http2Error(FRAME_SIZE_ERROR, "a number has four bytes")
    return int.from_bytes(payload, "big")


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise Http2Error(PROTOCOL_ERROR, "more padding than there is")
    return payload[1 : len(payload) - payload[0]]
