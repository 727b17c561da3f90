"""The Open Inference Protocol v2 over HTTP: `/v2` and what is below it, JSON and binary tensors.

A body is JSON, or JSON with the bytes of tensors behind it: the header `inference-header-content-length` then
tells where (the extension `binary_tensor_data`, which public clients use by default). Errors are
`{"error": "…"}`, with the statuses of `POST /predict`; 404 names an unknown model or version.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import msgspec

from tidegate.serving.engine import Call
from tidegate.serving.inference import Field, Given, Inference, said, texts
from tidegate.serving.request import Invalid, field_error
from tidegate.serving.tensors import from_raw, rows_of, to_raw

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

ROOT = "/v2"
HEADER = b"inference-header-content-length"

log = logging.getLogger("tidegate.serving")


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class Asked(msgspec.Struct):
    """The body of an inference request."""

    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_Output] = []


_decoder = msgspec.json.Decoder(Asked)
_encode = msgspec.json.Encoder().encode


def decode(body: bytes, length: int | None) -> tuple[Asked, bytes]:
    """Return the request that a body begins with, and the bytes behind it; raises Invalid (400, 422)."""
    if length is not None and not 0 <= length <= len(body):
        raise Invalid(400, HEADER.decode(), f"says {length} of {len(body)} bytes")
    told, behind = (body, b"") if length is None else (body[:length], body[length:])
    try:
        return _decoder.decode(told), behind
    except msgspec.ValidationError as error:
        raise field_error(str(error), Asked) from error
    except (ValueError, RecursionError):
        pass
    try:  # public clients write NaN into JSON, which is none; it means the same here as in bytes
        return msgspec.convert(json.loads(told), Asked), behind
    except msgspec.ValidationError as error:
        raise field_error(str(error), Asked) from error
    except (ValueError, RecursionError) as error:
        raise Invalid(400, "body", f"is not JSON: {error}") from error


def given(asked: Asked, behind: bytes, inference: Inference) -> tuple[Given, int]:
    """Return the tensors of a request by field, and how many rows they have; raises Invalid."""
    tensors: Given = []
    counts, at = [], 0
    for one in asked.inputs:
        field = inference.tensors.input(one.name, one.datatype)
        count = rows_of(one.name, one.shape)
        size = one.parameters.get("binary_data_size")
        if size is None:
            values = _listed(one, count)
        elif type(size) is not int or size < 0 or at + size > len(behind) or one.data is not None:
            raise Invalid(400, one.name, f"has {len(behind) - at} bytes left, not the {size} that it names")
        else:
            values = from_raw(one.name, one.datatype, behind[at : at + size], count)
            at += size
        tensors.append((field, values))
        counts.append(count)
    if at != len(behind):
        raise Invalid(400, "body", f"holds {len(behind) - at} bytes that no tensor names")
    return tensors, inference.rows(tensors, counts)


def _listed(one: _Input, count: int) -> Sequence[Any]:
    values = one.data
    if values is None:
        raise Invalid(400, one.name, "has no data")
    if len(one.shape) == 2 and values and isinstance(values[0], list):
        values = [value for row in values for value in (row if isinstance(row, list) else [row])]
    if len(values) != count:
        raise Invalid(400, one.name, f"has {len(values)} values; its shape says {count}")
    return values


def answer(asked: Asked, columns: Mapping[str, Sequence[Any]], inference: Inference) -> tuple[bytes, int]:
    """Return the body that answers, and how much of it is JSON: less than all where bytes follow."""
    tensors = inference.tensors
    wanted: list[tuple[Field, Mapping[str, Any]]] = [
        (tensors.output(one.name), one.parameters) for one in asked.outputs
    ] or [(field, {}) for field in tensors.outputs]
    binary = bool(asked.parameters.get("binary_data_output"))
    parts, outputs = [b""], []
    for field, parameters in wanted:
        values = texts(columns[field.name], field)
        output = {"name": field.name, "datatype": field.datatype, "shape": [len(values)]}
        if parameters.get("binary_data", binary):
            raw = to_raw(field.datatype, values)
            parts.append(raw)
            outputs.append({**output, "parameters": {"binary_data_size": len(raw)}})
        else:
            outputs.append({**output, "data": values})
    said = {"model_name": inference.name, "id": asked.id, "outputs": outputs}
    if inference.version:
        said["model_version"] = inference.version
    parts[0] = _encode(said)
    return b"".join(parts), len(parts[0])


Reading = Callable[[Message, Receive, float, int], Awaitable[bytes | None]]


class V2:
    """ASGI application of everything below `/v2`; `read` returns a request's body, up to so many bytes."""

    def __init__(self, inference: Inference, read: Reading) -> None:
        self._inference = inference
        self._read = read
        retry_after = str(inference.engine.settings.queue.retry_after).encode()
        self._told_with = {405: (b"allow", b"POST"), 429: (b"retry-after", retry_after)}
        self._told_with |= dict.fromkeys((408, 413), (b"connection", b"close"))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        model, version, what = _parts(scope["path"])
        if what == "infer":
            await self._infer(scope, receive, send, model, version)
            return
        try:
            status, content = 200, self._told(model, version, what)
            if scope["method"] not in ("GET", "HEAD"):
                raise Invalid(405, "method", "must be GET")
        except Invalid as error:
            status, content = error.status, refusal(error)
        await _send(send, status, content, [], head=scope["method"] == "HEAD")

    def _told(self, model: str, version: str, what: str) -> bytes:
        """Return what a GET answers; raises Invalid (404)."""
        if what in ("live", "ready") and not model:
            return _encode({what: True})  # no request arrives before the warm-up
        if what == "server":
            return _encode(self._inference.server)
        if what in ("metadata", "ready"):
            self._inference.check(model, version)
            return _encode(
                self._inference.model if what == "metadata" else {"name": self._inference.name, "ready": True}
            )
        raise Invalid(404, "", "there is no such path; GET /v2 and docs/protocols.md tell which there are")

    async def _infer(self, scope: Message, receive: Receive, send: Send, model: str, version: str) -> None:
        told = dict(scope["headers"])
        call = self._inference.begin(told, "v2", time.perf_counter())
        headers: list[tuple[bytes, bytes]] = []
        status, most = 200, self._inference.engine.settings.many.max_bytes
        try:
            body = await self._read(scope, receive, call.began, most)
            if body is None:
                return  # the caller has gone
            content, length = await self._answered(told, body, call, model, version)
            if length < len(content):
                headers.append((HEADER, str(length).encode()))
        except Invalid as error:
            status, content = error.status, refusal(error)
        except Exception:
            log.exception("request %s failed", call.id)
            status, content = 500, refusal(Invalid(500, "", "the model failed on this request"))
        if status != 200:
            self._inference.engine.failed(call, status)
            headers += [self._told_with[status]] if status in self._told_with else []
        headers.append((b"x-request-id", call.id.encode()))
        await _send(send, status, content, headers)
        self._inference.counted(call, status)

    async def _answered(
        self, told: Mapping[bytes, bytes], body: bytes, call: Call, model: str, version: str
    ) -> tuple[bytes, int]:
        self._inference.check(model, version)
        if told.get(b"content-encoding", b"identity") != b"identity":
            raise Invalid(415, "content-encoding", "must be identity")
        length = told.get(HEADER)
        if length is not None and not length.isdigit():
            raise Invalid(400, HEADER.decode(), "is not a number")
        asked, behind = decode(body, None if length is None else int(length))
        call.raw = body
        asked.id = self._inference.name_call(call, asked.id)
        tensors, rows = given(asked, behind, self._inference)
        for one in asked.outputs:
            self._inference.tensors.output(one.name)  # an unknown one costs no prediction
        return answer(asked, await self._inference.infer(call, tensors, rows), self._inference)


def _parts(path: str) -> tuple[str, str, str]:
    """Return model, version and what is asked: server, metadata, ready, live, infer or nothing known."""
    match path.strip("/").split("/"):
        case ["v2"]:
            return "", "", "server"
        case ["v2", "health", ("live" | "ready") as what]:
            return "", "", what
        case ["v2", "models", model]:
            return model, "", "metadata"
        case ["v2", "models", model, ("ready" | "infer") as what]:
            return model, "", what
        case ["v2", "models", model, "versions", version]:
            return model, version, "metadata"
        case ["v2", "models", model, "versions", version, ("ready" | "infer") as what]:
            return model, version, what
    return "", "", ""


def refusal(error: Invalid) -> bytes:
    """Return the protocol's body of an error."""
    return _encode({"error": said(error)})


async def _send(
    send: Send, status: int, content: bytes, headers: list[tuple[bytes, bytes]], *, head: bool = False
) -> None:
    kind = b"application/octet-stream" if any(name == HEADER for name, _ in headers) else b"application/json"
    headers += [(b"content-type", kind), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else content})
