"""Headers of HTTP/2 (HPACK, RFC 7541): decoded with a table that is bounded, encoded without one.

Blocks that change nothing in the table are remembered by their bytes: of a client's second request and those
after it, that is all of them but those with an id or a deadline of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

TABLE_BYTES = 4096  # the standard's default, which we never raise
BLOCK_BYTES = 16 * 1024  # of one request's headers, as they are sent
LIST_BYTES = 64 * 1024  # of one request's headers, decoded
REMEMBERED = 256

Fields = tuple[tuple[bytes, bytes], ...]

# Appendix A: names and values, from 1 on.
_STATIC: tuple[tuple[bytes, bytes], ...] = (
    (b":authority", b""), (b":method", b"GET"), (b":method", b"POST"), (b":path", b"/"),
    (b":path", b"/index.html"), (b":scheme", b"http"), (b":scheme", b"https"), (b":status", b"200"),
    (b":status", b"204"), (b":status", b"206"), (b":status", b"304"), (b":status", b"400"),
    (b":status", b"404"), (b":status", b"500"), (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    *((name, b"") for name in (
        b"accept-language", b"accept-ranges", b"accept", b"access-control-allow-origin", b"age", b"allow",
        b"authorization", b"cache-control", b"content-disposition", b"content-encoding", b"content-language",
        b"content-length", b"content-location", b"content-range", b"content-type", b"cookie", b"date",
        b"etag", b"expect", b"expires", b"from", b"host", b"if-match", b"if-modified-since", b"if-none-match",
        b"if-range", b"if-unmodified-since", b"last-modified", b"link", b"location", b"max-forwards",
        b"proxy-authenticate", b"proxy-authorization", b"range", b"referer", b"refresh", b"retry-after",
        b"server", b"set-cookie", b"strict-transport-security", b"transfer-encoding", b"user-agent", b"vary",
        b"via", b"www-authenticate",
    )),
)  # fmt: skip

# Appendix B: the bits of each symbol's code; the codes follow, being canonical. The last one ends a string.
_LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b08060606"
    "0505050606060606060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e06"
    "0f05060506050606060507070606060506070605050607070707070f0b0e0d1c14161414161616171617171717171817"
    "1818161718171717171516171617171816151416161717151716161815161717151516151716171714161616171616"
    "171a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a"
    "171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)


class HpackError(Exception):
    """A block of headers that can't be decoded; the connection is of no use any more."""


def _codes() -> dict[tuple[int, int], int]:
    """Return symbols by the length and the bits of their codes."""
    found, code, length = {}, 0, 0
    for symbol in sorted(range(257), key=lambda one: (_LENGTHS[one], one)):
        code <<= _LENGTHS[symbol] - length
        length = _LENGTHS[symbol]
        found[length, code] = symbol
        code += 1
    return found


_CODES = _codes()


@lru_cache(1024)
def _text(content: bytes) -> bytes:
    """Return what Huffman's code says; remembered, since it is read bit by bit."""
    found = bytearray()
    code = length = 0
    for byte in content:
        for shift in range(7, -1, -1):
            code = code << 1 | byte >> shift & 1
            length += 1
            symbol = _CODES.get((length, code))
            if symbol is not None:
                if symbol == 256:
                    raise HpackError("a string holds its own end")
                found.append(symbol)
                code = length = 0
            elif length > 30:
                raise HpackError("a string holds no code")
    if length > 7 or code != (1 << length) - 1:
        raise HpackError("a string is padded wrongly")
    return bytes(found)


class Decoder:
    """Reads the blocks of one connection, in their order."""

    def __init__(self) -> None:
        self._table: list[tuple[bytes, bytes]] = []  # the newest first
        self._size, self._most = 0, TABLE_BYTES
        self._known: dict[bytes, Fields] = {}

    def read(self, block: bytes) -> Fields:
        """Return a block's fields; raises HpackError."""
        fields = self._known.get(block)
        if fields is None:
            try:
                fields, changed = self._read(block)
            except IndexError:
                raise HpackError("a block ends too early") from None
            if changed:
                self._known.clear()
            elif len(self._known) < REMEMBERED:
                self._known[block] = fields
        return fields

    def _read(self, block: bytes) -> tuple[Fields, bool]:
        fields: list[tuple[bytes, bytes]] = []
        at, size, changed = 0, 0, False
        while at < len(block):
            first = block[at]
            if first & 0x80:  # both are in the table
                index, at = _integer(block, at, 7)
                field = self._field(index)
            elif first & 0xE0 == 0x20:  # the table's size
                self._most, at = _integer(block, at, 5)
                if self._most > TABLE_BYTES or fields:
                    raise HpackError("the table can't have that size, or not now")
                changed = True
                self._shrink(0)
                continue
            else:
                kept = first & 0x40
                index, at = _integer(block, at, 6 if kept else 4)
                if index:
                    name = self._field(index)[0]
                else:
                    name, at = _string(block, at)
                value, at = _string(block, at)
                field = (name, value)
                if kept:
                    changed = True
                    self._keep(field)
            size += len(field[0]) + len(field[1]) + 32
            if size > LIST_BYTES:
                raise HpackError("the headers are too large")
            fields.append(field)
        return tuple(fields), changed

    def _field(self, index: int) -> tuple[bytes, bytes]:
        if not index:
            raise HpackError("there is no field 0")
        return _STATIC[index - 1] if index <= len(_STATIC) else self._table[index - len(_STATIC) - 1]

    def _keep(self, field: tuple[bytes, bytes]) -> None:
        size = len(field[0]) + len(field[1]) + 32
        self._shrink(size)
        if size <= self._most:
            self._table.insert(0, field)
            self._size += size

    def _shrink(self, more: int) -> None:
        while self._table and self._size + more > self._most:
            name, value = self._table.pop()
            self._size -= len(name) + len(value) + 32


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    value = block[at] & (1 << bits) - 1
    at += 1
    if value < (1 << bits) - 1:
        return value, at
    for shift in range(0, 28, 7):
        byte = block[at]
        at += 1
        value += (byte & 127) << shift
        if byte < 128:
            return value, at
    raise HpackError("a number is too large")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    coded = block[at] & 0x80
    size, at = _integer(block, at, 7)
    content = block[at : at + size]
    if len(content) != size:
        raise HpackError("a string ends too early")
    return (_text(content) if coded else content), at + size


def encode(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a block that needs no table: whole fields of the standard's own, literals for the rest."""
    block = bytearray()
    for name, value in fields:
        if (name, value) in _STATIC:
            block.append(0x80 | _STATIC.index((name, value)) + 1)
            continue
        block.append(0)
        for text in (name, value):
            _put(block, len(text), 7)
            block += text
    return bytes(block)


def _put(block: bytearray, value: int, bits: int) -> None:
    most = (1 << bits) - 1
    if value < most:
        block.append(value)
        return
    block.append(most)
    value -= most
    while value > 127:
        block.append(value & 127 | 128)
        value >>= 7
    block.append(value)
