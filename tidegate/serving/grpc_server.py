"""The Open Inference Protocol v2 over gRPC: `inference.GRPCInferenceService`, in REST's own process and loop.

`TIDEGATE_GRPC_PORT` says where: `8081` (on 127.0.0.1) or `0.0.0.0:8081`; unset, empty or 0 is off, and then
nothing of it is imported. It listens once the model has answered its own examples, and drains before BentoML
ends. Requests go the same way through the engine as those over REST: checked by the same rules, counted,
written down, within the same queue and deadlines.

`ModelStreamInfer` answers many requests of one stream, each by a message, in their order. Metadata that are
read: `x-request-id` (the request's own `id` goes before it), and what the router says of a request. An
answer's `id` is that of the prediction.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from tidegate.serving import messages
from tidegate.serving.engine import Call
from tidegate.serving.grpc_known import Forms
from tidegate.serving.grpc_tensors import Answers, field_of, given
from tidegate.serving.grpc_wire import (
    DEADLINE_EXCEEDED,
    INTERNAL,
    INVALID_ARGUMENT,
    NOT_FOUND,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    Asked,
    Connection,
    Method,
    Refused,
)
from tidegate.serving.inference import Inference, said
from tidegate.serving.request import Invalid

SERVICE = "/inference.GRPCInferenceService/"
GRACE_SECONDS = 5.0  # for the calls in flight at the end

_CODES = {
    400: INVALID_ARGUMENT, 404: NOT_FOUND, 413: RESOURCE_EXHAUSTED, 422: INVALID_ARGUMENT,
    429: RESOURCE_EXHAUSTED, 503: UNAVAILABLE, 504: DEADLINE_EXCEEDED,
}  # fmt: skip

log = logging.getLogger("tidegate.serving")


class GrpcServer:
    """The server of one process."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._answers, self._forms = Answers(inference), Forms()
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self, address: str, *, shared: bool = False) -> None:
        """Listen; raises RuntimeError for a port that is taken, unless it is `shared` by several workers."""
        host, _, port = address.rpartition(":")
        host = host.strip("[]") or "127.0.0.1"
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise RuntimeError(f"gRPC can't listen on {address!r}: set TIDEGATE_GRPC_PORT to a port")
        methods, most = self._methods(), self._inference.engine.settings.many.max_bytes
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Connection(methods, most, self._connections),
                host,
                int(port),
                reuse_port=shared,
                backlog=2048,
            )
        except OSError as error:
            text = f"gRPC can't listen on {host}:{port}: {error}; set TIDEGATE_GRPC_PORT to a free port"
            raise RuntimeError(text) from error

    async def stop(self) -> None:
        """Take no more calls, and wait for those in flight."""
        if self._server is None:
            return
        self._server.close()
        for connection in self._connections:
            connection.shut()
        end = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < end and any(connection.streams for connection in self._connections):
            await asyncio.sleep(0.02)
        for connection in list(self._connections):
            connection.close()

    # ---------------------------------------------------------------- predictions
    async def _infer(self, asked: Asked) -> bytes:
        call = self._inference.begin(asked.headers, "grpc", asked.began)
        status, content, error = await self._one(asked, call)
        if error:
            raise Refused(_CODES.get(status, INTERNAL), error)
        return content

    async def _infer_of_stream(self, asked: Asked) -> bytes:
        """Answer one request of a stream; its refusal is an answer, too."""
        call = self._inference.begin(asked.headers, "grpc", asked.began)
        if b"x-request-id" in asked.headers:  # the stream's, not that of any one request
            call.id = self._inference.new_id()
        _, content, error = await self._one(asked, call)
        if not error:
            return field_of(2, content)
        answer = messages.ModelStreamInferResponse(error_message=error)
        answer.infer_response.id = call.id
        answer.infer_response.model_name = self._inference.name
        return bytes(answer.SerializeToString())

    async def _one(self, asked: Asked, call: Call) -> tuple[int, bytes, str]:
        """Return status (as HTTP's), answer and error of one request."""
        inference = self._inference
        if asked.deadline is not None and asked.deadline < call.deadline:
            call.deadline = asked.deadline
        call.raw = asked.message
        status, content, reason = 200, b"", ""
        try:
            known = self._forms.read(asked.message)
            if known is None:
                content = await self._in_full(asked.message, call)
            else:
                form, shown, row, unknown = known
                shown = inference.name_call(call, shown)
                answer = await inference.engine.one(call, inference.tensors.checked(row, unknown))
                content = form.answer(shown, answer)
        except Invalid as error:
            status, reason = error.status, said(error)
        except Exception:
            log.exception("request %s failed", call.id)
            status, reason = 500, "the model failed on this request"
        if status != 200:
            inference.engine.failed(call, status)
        inference.engine.measuring.timed(status, time.perf_counter() - call.began)
        return status, content, reason

    async def _in_full(self, message: bytes, call: Call) -> bytes:
        """Read every tensor of a request, answer it, and keep its form where it has one."""
        inference = self._inference
        try:
            request = messages.ModelInferRequest.FromString(message)
        except DecodeError as error:
            raise Invalid(400, "", f"the message is no ModelInferRequest: {error}") from error
        request.id = inference.name_call(call, request.id)
        inference.check(request.model_name, request.model_version)
        tensors, rows = given(request, inference)
        wanted = self._answers.wanted(request)  # an unknown one costs no prediction
        columns = await inference.infer(call, tensors, rows)
        raw = bool(request.raw_input_contents)
        if raw and rows == 1:
            self._forms.keep(message, tensors, self._answers.begun(wanted, 1), wanted)
        return self._answers.write(request, columns, rows, raw)

    # ---------------------------------------------------------------- what is known of server and model
    def _methods(self) -> dict[bytes, Method]:
        inference = self._inference

        def of_model(tell: Callable[[], Any]) -> Callable[[Any], Any]:
            def checked(request: Any) -> Any:
                try:
                    inference.check(request.name, request.version)
                except Invalid as error:
                    raise Refused(_CODES[error.status], error.reason) from error
                return tell()

            return checked

        def simple(asked: Any, tell: Callable[[Any], Any]) -> Method:
            return Method(lambda message: tell(_parsed(asked, message)).SerializeToString(), "simple")

        made = messages
        methods = {
            "ServerLive": simple(made.ServerLiveRequest, lambda _: made.ServerLiveResponse(live=True)),
            "ServerReady": simple(made.ServerReadyRequest, lambda _: made.ServerReadyResponse(ready=True)),
            "ServerMetadata": simple(
                made.ServerMetadataRequest, lambda _: made.ServerMetadataResponse(**inference.server)
            ),
            "ModelReady": simple(
                made.ModelReadyRequest, of_model(lambda: made.ModelReadyResponse(ready=True))
            ),
            "ModelMetadata": simple(
                made.ModelMetadataRequest, of_model(lambda: made.ModelMetadataResponse(**inference.model))
            ),
            "ModelInfer": Method(self._infer, "unary"),
            "ModelStreamInfer": Method(self._infer_of_stream, "stream"),
        }
        return {f"{SERVICE}{name}".encode(): method for name, method in methods.items()}


def _parsed(kind: Any, message: bytes) -> Any:
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise Refused(INVALID_ARGUMENT, f"is no {kind.DESCRIPTOR.name}: {error}") from error
