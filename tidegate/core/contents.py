"""What a file holds, told by its bytes and never by its name: is it a program in the form of data?

A pickle is one: whoever loads it runs it. Nothing here loads anything. A stream is looked at by its first
megabyte (a pickle begins where a loader begins), a compressed one by its first megabyte when unpacked, an
archive by its members.
"""

from __future__ import annotations

import bz2
import io
import lzma
import pickletools
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal

from tidegate.core.verdict import Finding, Verdict

Kind = Literal["onnx", "text", "pickle", "byte code", "archive", "empty", "other"]
LOOK = 1024 * 1024  # bytes
DEPTH = 3  # archives and compression inside each other; deeper ones are said to be what they look like
MEMBERS = 10_000
_PICKLED_NAMES = re.compile(r"\.(pkl|pickle|joblib|dill)$|(^|/)data\.pkl$", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][\w.]*")
_CALLS = {"REDUCE", "OBJ", "INST", "NEWOBJ", "NEWOBJ_EX", "BUILD"}
_IMPORTS = {"GLOBAL", "STACK_GLOBAL", "INST"}


def pickled(stream: BinaryIO, depth: int = DEPTH) -> str:
    """Return why a stream is, or holds, a pickle; nothing when it is none.

    Pickles of every protocol, also broken ones that run before they break; joblib's (plain and compressed),
    NumPy's arrays of objects, PyTorch's archives, and what lies in zip and tar files.
    """
    head = _head(stream)
    if said := _pickle(head) or _array_of_objects(head):
        return said
    if depth:
        for name, inner in _unpacked(stream, head):
            if _PICKLED_NAMES.search(name):
                return f"an archive with {name}"
            if said := pickled(inner, depth - 1):
                return f"{said}, in {name}"
    return ""


def kind(stream: BinaryIO, *, onnx: bool) -> tuple[Kind, str]:
    """Return what a stream holds, and for what should not be there why; `onnx` says that it parses as one."""
    said = pickled(stream)
    if said:
        return "pickle", said
    head = _head(stream)
    if not head:
        return "empty", "it is empty"
    if onnx:
        return "onnx", ""
    if head[2:4] == b"\r\n" and len(head) >= 16:  # every CPython's byte code since 3.0
        return "byte code", "it is Python's byte code"
    if _archive(stream, head):
        return "archive", "it is an archive or compressed"
    try:
        head.decode() if len(head) < LOOK else head[: LOOK - 4].decode(errors="strict")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 8:
            return "other", "it is neither ONNX nor text"
    return ("other", "it is neither ONNX nor text") if b"\0" in head else ("text", "")


def allowed(name: str, found: dict[str, str], total: int, what: str) -> Finding:
    """PASS when nothing was found; `found` is file → why it should not be there. Zero files are ERROR."""
    if not total:
        return Finding(name, Verdict.ERROR, 0.0, 0.0, f"{name}: there were no files to look at")
    if not found:
        return Finding(name, Verdict.PASS, 0.0, 0.0, f"{name}: none of {total} files is {what}")
    shown = "; ".join(f"{file}: {why}" for file, why in sorted(found.items())[:5])
    more = f" (and {len(found) - 5} more)" if len(found) > 5 else ""
    reason = f"{name}: {len(found)} of {total} files, limit 0: {shown}{more}"
    return Finding(name, Verdict.FAIL, float(len(found)), 0.0, reason)


def _head(stream: BinaryIO) -> bytes:
    stream.seek(0)
    return stream.read(LOOK)


def _pickle(head: bytes) -> str:
    if re.match(rb"\x80[\x00-\x05]", head):
        return f"a pickle of protocol {head[1]}"
    seen: list[str] = []
    imported, end = "", -1
    try:
        for opcode, argument, place in pickletools.genops(head):
            seen.append(opcode.name)
            if (
                opcode.name in _IMPORTS
                and _importable(argument)
                and (opcode.name != "INST" or "MARK" in seen)
            ):
                imported = imported or str(argument or "an object")
            if imported and opcode.name in _CALLS:
                return f"a pickle that calls {imported.replace(' ', '.')}"
            end = place or 0
    except (ValueError, EOFError, OverflowError, UnicodeError):
        if len(head) == LOOK and len(seen) > 1000:  # cut off by us, and a pickle so far
            return "a pickle of protocol 0 or 1"
        return ""  # without a call on the way it ends here for whoever loads it, too
    whole = not head[end + 1 :].strip()
    return "a pickle of protocol 0 or 1" if imported or (whole and len(seen) > 1) else ""


def _importable(argument: object) -> bool:
    """GLOBAL and INST name a module and something in it; STACK_GLOBAL takes them from the stack."""
    if argument is None:
        return True
    parts = str(argument).split(" ")
    return len(parts) == 2 and all(_NAME.fullmatch(part) for part in parts)


def _array_of_objects(head: bytes) -> str:
    if head[:6] != b"\x93NUMPY":
        return ""
    return "a NumPy array of objects (pickled)" if re.search(rb"['\"]\|?O\d*['\"]", head[:4096]) else ""


def _archive(stream: BinaryIO, head: bytes) -> bool:
    stream.seek(0)
    if zipfile.is_zipfile(stream):
        return True
    return any(True for _ in _decompressed(head)) or _is_tar(head)


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def _unpacked(stream: BinaryIO, head: bytes) -> Iterator[tuple[str, BinaryIO]]:
    """Yield what is inside, by name: the members of a zip or tar file, or the first part of what unpacks."""
    stream.seek(0)
    try:
        if zipfile.is_zipfile(stream):
            with zipfile.ZipFile(stream) as archive:
                for member in archive.infolist()[:MEMBERS]:
                    if not member.is_dir():
                        with archive.open(member) as inside:
                            yield member.filename, io.BytesIO(inside.read(LOOK))
            return
        if _is_tar(head):
            stream.seek(0)
            with tarfile.open(fileobj=stream, mode="r:") as tape:
                for count, entry in enumerate(tape):
                    content = tape.extractfile(entry) if entry.isfile() and count < MEMBERS else None
                    if content is not None:
                        yield entry.name, io.BytesIO(content.read(LOOK))
            return
    except (zipfile.BadZipFile, tarfile.TarError, RuntimeError, NotImplementedError, EOFError, zlib.error):
        return  # a broken or encrypted archive is an archive still: `kind` says so
    yield from _decompressed(head)


def _decompressed(head: bytes) -> Iterator[tuple[str, BinaryIO]]:
    """Yield the beginning of what is compressed, by any of the ways that joblib knows; lz4 is not read."""
    if head[:4] == b"\x04\x22\x4d\x18":
        yield "lz4", io.BytesIO()
        return
    for name, magic, unpack in _PACKERS:
        if not head.startswith(magic):
            continue
        try:
            yield name, io.BytesIO(unpack(head))
        except (OSError, EOFError, lzma.LZMAError, zlib.error):
            continue


_PACKERS: tuple[tuple[str, bytes | tuple[bytes, ...], Callable[[bytes], bytes]], ...] = (
    ("gzip", b"\x1f\x8b", lambda data: zlib.decompressobj(31).decompress(data, LOOK)),
    ("bzip2", b"BZh", lambda data: bz2.BZ2Decompressor().decompress(data, LOOK)),
    ("xz", (b"\xfd7zXZ\x00", b"\x5d\x00\x00"), lambda data: lzma.LZMADecompressor().decompress(data, LOOK)),
    (
        "zlib",
        (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"),
        lambda data: zlib.decompressobj().decompress(data, LOOK),
    ),
)
