"""What a header or cookie that decides where a request goes may be called, and may say."""

from __future__ import annotations

import re

OWN_HEADERS = "x-tidegate-"  # a caller's own headers of this prefix are taken away by the router

_HEADER_NAME = re.compile(r"[A-Za-z0-9_-]+")
_COOKIE_NAME = re.compile(r"[A-Za-z0-9!#$&'*+.^_`|~-]+")
_VALUE = re.compile(r"[ -~]*")


def key_fault(header: str, cookie: str, value: str = "") -> str:
    """Return what is wrong with a header or cookie (just one is given) and its value, or an empty string."""
    if bool(header) == bool(cookie):
        return "name either a header or a cookie"
    if cookie and not _COOKIE_NAME.fullmatch(cookie):
        return f"`{cookie}` can't be a cookie's name"
    if header and not _HEADER_NAME.fullmatch(header):
        return f"`{header}` can't be a header's name: take letters, digits, - and _"
    if header.lower().startswith(OWN_HEADERS):
        return f"the header {header} is Tidegate's own, and a caller's is taken away: name another one"
    if not _VALUE.fullmatch(value) or (cookie and ";" in value):
        return f"{value!r} can't be what a header or cookie is compared with: take printable ASCII"
    return ""
