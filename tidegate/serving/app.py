"""The ASGI application of a model's service: what each path does, from bytes to bytes.

`POST /predict` is answered in front of BentoML's middlewares, which cost more than the model itself; so are
`POST /features`, by which a gate sees what the model saw, `GET /openapi.json`, what both promise, and
`GET /measures`, what was counted. A service without `feature_names` has no `/features`. `score` and
`decision`, where a class has them, name the fields of an answer by which a rollout compares releases.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import inspect
import json
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from _bentoml_sdk import Service  # type: ignore[import-untyped] # `service_class=` has no public base

from tidegate.serving import answered, description, docs, measuring, online, ready, v2
from tidegate.serving.admission import Reading
from tidegate.serving.artifact import identity
from tidegate.serving.engine import Call, Engine
from tidegate.serving.inference import Inference
from tidegate.serving.many import PATH as MANY
from tidegate.serving.many import Many
from tidegate.serving.request import Invalid, decode
from tidegate.serving.settings import Settings, settings
from tidegate.serving.turn import Answer

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Answering = Callable[[Call, Any], Awaitable[Answer]]  # a checked request → what to answer

DESCRIBED = ("/openapi.json", "/docs.json")  # the second is what BentoML's page reads
GRPC = "TIDEGATE_GRPC_PORT"  # the variable that says where to listen
MAX_BODY = 64 * 1024
REST_BYTES, REST_SECONDS = 4 * 1024 * 1024, 1.0  # of a body that is refused, read before its answer
BODIES = 8  # of the largest size: what bodies over MAX_BODY may hold at once
REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_JSON = (b"content-type", b"application/json")
_CLOSE = (b"connection", b"close")  # what is left of the body is not worth reading

log = logging.getLogger("tidegate.serving")


# ---------------------------------------------------------------- the service
class ModelService(Service):  # type: ignore[misc]
    """A BentoML service whose predictions are answered by `Predictions`."""

    instance: Any = None

    def __attrs_post_init__(self) -> None:
        """Tell `bentoml serve` how many processes the model's settings want; a plane says its own number."""
        super().__attrs_post_init__()
        workers = _settings(self).workers
        if workers > 1:
            self.config.setdefault("workers", workers)

    def __call__(self) -> Any:
        """Load the model, once, when BentoML starts the service in its worker."""
        self.instance = super().__call__()
        return self.instance

    def to_asgi(self, is_main: bool = True) -> Any:
        """Return BentoML's application with `POST /predict` and its kin in front of it."""
        return Predictions(self, super().to_asgi(is_main=is_main))


def describe(service: ModelService, asked: Mapping[str, docs.Asked] | None = None) -> dict[str, Any]:
    """Return the OpenAPI document of a service; with what was `asked` as `GET /openapi.json` answers it."""
    made = service.inner
    return description.document(
        service.name,
        identity()["model_version"],
        made.request,
        made.response,
        features=bool(getattr(made, "feature_names", ())),
        asked=asked,
    )


class Predictions:
    """ASGI application: `/predict`, `/features` and `/openapi.json`; everything else by `rest` (BentoML)."""

    def __init__(self, service: ModelService, rest: Any) -> None:
        self._service = service
        self._rest = rest
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(service.inner.request)
        self._encode = msgspec.json.Encoder().encode
        self.engine = Engine(service, _settings(service))
        self._measuring = self.engine.measuring
        self._identity = self.engine.identity
        self._answers: dict[str, Answering] = {description.PREDICT: self.engine.one}
        if self.engine.names:
            self._answers[description.FEATURES] = self._features
        self._described = b""
        self._many = Many(self.engine, service.inner.request)
        self._inference = Inference(self.engine, service, self._many)
        self._v2 = v2.V2(self._inference, self._read)
        self._grpc: Any = None  # its server, where there is one
        queue = self.engine.settings.queue
        self._reading = Reading(queue.body_seconds, BODIES * self.engine.settings.many.max_bytes)
        self._told_with = {
            405: (b"allow", b"POST"),
            408: _CLOSE,
            413: _CLOSE,
            429: (b"retry-after", str(queue.retry_after).encode()),
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in self._answers:
            await self._answer(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == MANY:
            await self._answer_many(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] in DESCRIBED and scope["method"] in ("GET", "HEAD"):
            await self._describe(scope, send)
        elif scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] in docs.PATHS and scope["method"] in ("GET", "HEAD"):
            page = docs.page(self._service.name)
            await _send(send, page, head=scope["method"] == "HEAD", headers=docs.HEADERS)
        elif scope["type"] == "http" and scope["path"] == measuring.PATH and scope["method"] == "GET":
            await _send(send, self._measuring.document())
        elif scope["type"] == "http" and scope["path"] == "/metrics" and scope["method"] == "GET":
            await self.engine.runs.refresh()
            await self._rest(scope, receive, measuring.appending(send, self._measuring.text))
        elif scope["type"] == "http" and scope["path"] == ready.PATH and scope["method"] == "GET":
            await self._rest(scope, receive, ready.telling(send, self.engine.runs.document))
        elif scope["type"] == "http" and scope["path"].startswith(v2.ROOT):
            await self._v2(scope, receive, send)
        else:
            await self._rest(scope, receive, send)

    async def _live(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let BentoML start, then warm up; a model that can't answer its own examples never starts.

        At the end the last answers are written down, when no request is in flight any more.
        """

        async def after_start(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                message = await self._begin(message)
            elif message["type"].startswith("lifespan.shutdown"):
                self._many.close()
                self.engine.close()
            await send(message)

        async def before_end() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown" and self._grpc is not None:
                await self._grpc.stop()
            return message

        await self._rest(scope, before_end, after_start)

    async def _begin(self, started: Message) -> Message:
        """Warm up and open what else is listened on; return what is to be said of it."""
        try:
            self.engine.opened()
            await self._warm()
        except Exception as error:
            log.exception("warm-up failed")
            return {"type": "lifespan.startup.failed", "message": f"warm-up failed: {error}"}
        try:
            await self._listen()
        except Exception as error:
            log.error("%s", error)
            return {"type": "lifespan.startup.failed", "message": str(error)}
        return started

    async def _listen(self) -> None:
        """Serve gRPC where that is asked for; its libraries take their time, and are imported only then."""
        address = os.environ.get(GRPC, "0")
        if address not in ("", "0"):
            from tidegate.serving.grpc_server import GrpcServer

            workers = max(self.engine.settings.workers, self._service.config.get("workers") or 1)
            self._grpc = GrpcServer(self._inference)
            await self._grpc.start(address, shared=workers > 1)

    async def _warm(self) -> None:
        examples = self._service.instance.model.examples
        if not examples:
            raise RuntimeError("the model's examples.json is empty: nothing to warm up with")
        for row in examples:
            await self._rehearse(self._encode(row))
            await asyncio.sleep(0)  # a turn of the loop, in which places are free again
        self._many.rehearse(examples)
        if self.engine.runs.on_gpu:
            instance = self._service.instance
            requests = [decode(self._encode(row), self._decoder) for row in examples]
            self.engine.runs.warm([instance.features(one) for one in requests], instance.predict)
        path = f"{v2.ROOT}/models/{self._inference.name}/infer"
        status, content = await self._asked(path, self._inference.example(examples[0]))
        if status != 200:
            log.warning("an example of the model's own is answered %d by %s: %r", status, path, content)
        gc.collect()
        gc.freeze()  # what is loaded by now stays: later collections need not walk over it
        _trim()

    async def _rehearse(self, body: bytes) -> None:
        """Answer one of the model's own examples on each path; raises RuntimeError unless as promised."""
        for path in self._answers:
            status, content = await self._asked(path, body)
            if status != 200:
                raise RuntimeError(f"an example of the model's own is answered {status}: {content.decode()}")
            if path == description.PREDICT:
                try:
                    msgspec.json.decode(content, type=self._service.inner.response)
                except msgspec.ValidationError as error:
                    text = f"an example's answer is not what the service promises: {error}"
                    raise RuntimeError(text) from error

    async def _asked(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Ask this application as a server would, so that all is warm from the first byte to the last."""
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(measuring.WARM, b"1"), (b"content-type", b"application/json")]
        await self({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)
        return sent[0]["status"], sent[1]["body"]

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        path = scope["path"]
        told = dict(scope["headers"])
        request_id = _request_id(told)
        try:
            body = await self._read(scope, receive, began)
        except Invalid as error:
            status, content = error.status, self._refusal(error, request_id)
        else:
            if body is None:
                return  # the caller has gone
            call = self._call(request_id, began, body, told)
            status, content = await self._respond(path, body, call)
            if status != 200 and path == description.PREDICT:
                self.engine.failed(call, status)
        await self._reply(send, status, content, request_id)
        if path == description.PREDICT and measuring.WARM not in told:
            self._measuring.timed(status, time.perf_counter() - began)

    async def _answer_many(self, scope: Message, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        told = dict(scope["headers"])
        request_id = _request_id(told)
        form, rows = _JSON, 0
        try:
            body = await self._read(scope, receive, began, self.engine.settings.many.max_bytes)
            if body is None:
                return  # the caller has gone
            call = self._call(request_id, began, body, told)
            kind = told.get(b"content-type", b"").decode("latin-1")
            content, kind, rows = await self._many.answer(call, kind)
            status, form = 200, (b"content-type", kind.encode())
        except Invalid as error:
            status, content = error.status, self._refusal(error, request_id)
        except Exception:
            log.exception("request %s failed", request_id)
            status, content = 500, self._refusal(failure(), request_id)
        await self._reply(send, status, content, request_id, form)
        if measuring.WARM not in told:
            self._measuring.timed_many(status, rows, time.perf_counter() - began)

    async def _reply(
        self, send: Send, status: int, content: bytes, request_id: str, form: tuple[bytes, bytes] = _JSON
    ) -> None:
        headers = [form, (b"x-request-id", request_id.encode()), (b"content-length", b"%d" % len(content))]
        if status in self._told_with:
            headers.append(self._told_with[status])
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _call(self, request_id: str, began: float, body: bytes, told: dict[bytes, bytes]) -> Call:
        """Return what is known of a request beside its rows."""
        admission = self.engine.admission
        call = Call(request_id, began, body, "rest", measuring.WARM in told, answered.JOURNALED in told)
        call.offline = online.OFFLINE in told
        call.arm = answered.arm(told)
        call.deadline = admission.deadline(told, admission.arrived(began))
        return call

    async def _read(self, scope: Message, receive: Receive, now: float, most: int = MAX_BODY) -> bytes | None:
        """Return the whole body, or None if the caller went away; raises Invalid (405, 408, 413)."""
        if scope["method"] != "POST":
            raise Invalid(405, "method", "must be POST")
        task = asyncio.current_task()
        assert task is not None
        self._reading.begin(task, now)
        parts, size = [], 0
        try:
            while True:
                message: Message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                part: bytes = message.get("body", b"")
                parts.append(part)
                size += len(part)
                if size > most:
                    await _discard(receive, message)
                    raise Invalid(413, "body", f"is larger than {most} bytes")
                if size > MAX_BODY:
                    self._reading.hold(task, len(part))
                if not message.get("more_body"):
                    return part if len(parts) == 1 else b"".join(parts)
        except asyncio.CancelledError as error:
            if not self._reading.ended(task, error):
                raise
            raise Invalid(408, "body", "came too slowly") from None
        finally:
            self._reading.end(task)

    async def _describe(self, scope: Message, send: Send) -> None:
        """Answer the OpenAPI document, made at the first request for it."""
        if not self._described:
            rows = docs.kinds(getattr(getattr(self._service.instance, "model", None), "examples", []))
            many = docs.columnar(list(rows.values()), self._many.form)
            bodies = dict.fromkeys(self._answers, rows) | {MANY: {f"rows: {len(rows)}": many} if rows else {}}
            asked = await docs.asked(bodies, self._example)
            self._described = json.dumps(describe(self._service, asked)).encode()
        await _send(send, self._described, head=scope["method"] == "HEAD")

    async def _example(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Answer what is shown as an example: none of a caller's, so it is not counted."""
        call = Call("example", time.perf_counter(), body, warm=True)
        if path != MANY:
            return await self._respond(path, body, call)
        try:
            return 200, (await self._many.answer(call, ""))[0]
        except Invalid as error:
            return error.status, self._refusal(error, call.id)

    async def _features(self, call: Call, request: Any) -> Answer:
        if self.engine.online is not None:
            request, _ = await self.engine.online.complete(call, request)
        return self.engine.features(request)

    async def _respond(self, path: str, body: bytes, call: Call) -> tuple[int, bytes]:
        """Return status and JSON for one request's body."""
        try:
            content = await self._answers[path](call, decode(body, self._decoder))
            if path == description.PREDICT:
                content = {**content, "source": call.source}  # the log and the cache keep theirs
            return 200, self._encode({**content, **self._identity, "request_id": call.id})
        except Invalid as error:
            return error.status, self._refusal(error, call.id)
        except Exception:
            log.exception("request %s failed", call.id)
            return 500, self._refusal(failure(), call.id)

    def _refusal(self, error: Invalid, request_id: str) -> bytes:
        reason: dict[str, Any] = {"field": error.field or None, "reason": error.reason}
        if error.row is not None:
            reason["row"] = error.row
        text = json.dumps({"error": reason, "request_id": request_id, **self._identity})
        return text.encode()  # ASCII: a refused name may hold what UTF-8 can't


def failure() -> Invalid:
    """Return what is told of a model that failed; what of, is in the log."""
    return Invalid(500, "", "the model failed on this request")


def _request_id(told: Mapping[bytes, bytes]) -> str:
    """Return a request's own id, or a new one where it has none that could be a header's value."""
    given = told.get(b"x-request-id", b"")
    return given.decode("ascii") if given and REQUEST_ID.fullmatch(given) else os.urandom(16).hex()


def _settings(service: Any) -> Settings:
    """Return what lies beside the service's own file."""
    try:
        return settings(Path(inspect.getfile(service.inner)))
    except TypeError:  # made at a prompt, or in a test
        return Settings()


async def _discard(receive: Receive, message: Message) -> None:
    """Take in, and forget, the rest of a body that is refused, within bounds.

    Whoever closes a connection on bytes that it has not read resets it, and the answer is lost on the way to
    a caller that is still sending: a router tells that as a 503.
    """
    left = REST_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REST_SECONDS):
            while left > 0 and message.get("more_body"):
                message = await receive()
                left -= len(message.get("body", b""))


async def _send(
    send: Send, body: bytes, *, head: bool = False, headers: Sequence[tuple[bytes, bytes]] = (_JSON,)
) -> None:
    """Answer 200 with a document, of JSON unless `headers` say otherwise; of a HEAD only its headers."""
    told = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": told})
    await send({"type": "http.response.body", "body": b"" if head else body})


def _trim() -> None:
    """Give back what loading left free in the C library's heap: 10 MB here, in which a leak would hide."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
