"""The Open Inference Protocol v2 over gRPC: `inference.GRPCInferenceService`, in REST's own process and loop.

`TIDEGATE_GRPC_PORT` says where: `8081` (on 127.0.0.1) or `0.0.0.0:8081`; unset, empty or 0 is off, and then
neither grpcio nor protobuf is imported. It listens once the model has answered its own examples, and drains
before BentoML ends. Requests go the same way through the engine as those over REST: checked by the same
rules, counted, written down, within the same queue and deadlines.

`ModelStreamInfer` answers many requests of one stream, each by a message, in their order. Metadata that are
read: `x-request-id` (the request's own `id` goes before it), and what the router says of a request. An
answer's `id` is that of the prediction. Why by grpcio's server, and what it costs:
docs/decisions/0006-grpc.md.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError

from tidegate.serving import messages
from tidegate.serving.engine import Call
from tidegate.serving.grpc_tensors import answer, given
from tidegate.serving.inference import Inference, said
from tidegate.serving.request import Invalid

SERVICE = "inference.GRPCInferenceService"
GRACE_SECONDS = 5.0  # for the calls in flight at the end

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

log = logging.getLogger("tidegate.serving")


class GrpcServer:
    """The server of one process."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._server: Any = None

    async def start(self, address: str, *, shared: bool = False) -> None:
        """Listen; raises RuntimeError for a port that is taken, unless it is `shared` by several workers."""
        host, _, port = address.rpartition(":")
        host = host or "127.0.0.1"
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise RuntimeError(f"gRPC can't listen on {address!r}: set TIDEGATE_GRPC_PORT to a port")
        settings = self._inference.engine.settings
        queue = settings.queue
        options = [
            ("grpc.so_reuseport", int(shared)),
            ("grpc.max_receive_message_length", settings.many.max_bytes),
            ("grpc.max_send_message_length", -1),
            # The library hands over one call a turn of the loop: what waits does so in the library. More is
            # ended there: by UNAVAILABLE on one connection, by CANCELLED over all of them.
            ("grpc.max_concurrent_streams", queue.max_waiting),
            ("grpc.server.max_pending_requests", queue.max_waiting),
            ("grpc.server.max_pending_requests_hard_limit", queue.max_waiting),
            ("grpc.server_max_unrequested_time_in_server", math.ceil(queue.deadline_ms / 1000)),
        ]
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((self._handlers(),))
        try:
            server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            text = f"gRPC can't listen on {host}:{port}: {error}; set TIDEGATE_GRPC_PORT to a free port"
            raise RuntimeError(text) from error
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Take no more calls, and wait for those in flight."""
        if self._server is not None:
            await self._server.stop(GRACE_SECONDS)

    # ---------------------------------------------------------------- predictions
    async def _infer(self, message: bytes, context: Any) -> Any:
        call = self._inference.begin(_headers(context), "grpc", time.perf_counter())
        status, content, error = await self._one(message, call, context.time_remaining())
        if error:
            await context.abort(_CODES.get(status, grpc.StatusCode.INTERNAL), error)
        return content

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        headers = _headers(context)
        headers.pop(b"x-request-id", None)  # the stream's, not that of any one request
        async for message in requests:
            call = self._inference.begin(headers, "grpc", time.perf_counter())
            _, content, error = await self._one(message, call, context.time_remaining())
            if error:  # a refusal is an answer, too
                content = {"id": call.id, "model_name": self._inference.name}
            yield messages.ModelStreamInferResponse(error_message=error, infer_response=content)

    async def _one(self, message: bytes, call: Call, left: float | None) -> tuple[int, Any, str]:
        """Return status (as HTTP's), answer and error of one request.

        `left` is for how many seconds more the caller waits, None where it does not say.
        """
        inference = self._inference
        if left is not None:
            call.deadline = min(call.deadline, call.began + left)
        call.raw = message
        status, content, reason = 200, None, ""
        try:
            content = await self._answered(message, call)
        except Invalid as error:
            status, reason = error.status, said(error)
        except Exception:
            log.exception("request %s failed", call.id)
            status, reason = 500, "the model failed on this request"
        if status != 200:
            inference.engine.failed(call, status)
        inference.counted(call, status)
        return status, content, reason

    async def _answered(self, message: bytes, call: Call) -> Any:
        inference = self._inference
        try:
            request = messages.ModelInferRequest.FromString(message)
        except DecodeError as error:
            raise Invalid(400, "", f"the message is no ModelInferRequest: {error}") from error
        shown = inference.name_call(call, request.id)
        inference.check(request.model_name, request.model_version)
        tensors, rows = given(request, inference)
        wanted = [inference.tensors.output(one.name) for one in request.outputs]  # before it is computed
        columns = await inference.infer(call, tensors, rows)
        raw = bool(request.raw_input_contents)
        return answer(inference, wanted or inference.tensors.outputs, columns, rows, shown, raw=raw)

    # ---------------------------------------------------------------- what is known of server and model
    def _handlers(self) -> Any:
        inference, made = self._inference, messages

        def simple(asked: Any, tell: Callable[[], Any], *, of_model: bool = False) -> Any:
            async def told(request: Any, context: Any) -> Any:
                try:
                    if of_model:
                        inference.check(request.name, request.version)
                except Invalid as error:
                    await context.abort(_CODES[error.status], error.reason)
                return tell()

            return grpc.unary_unary_rpc_method_handler(told, asked.FromString, _bytes)

        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "ServerLive": simple(made.ServerLiveRequest, lambda: made.ServerLiveResponse(live=True)),
                # It listens only after the warm-up.
                "ServerReady": simple(made.ServerReadyRequest, lambda: made.ServerReadyResponse(ready=True)),
                "ServerMetadata": simple(
                    made.ServerMetadataRequest, lambda: made.ServerMetadataResponse(**inference.server)
                ),
                "ModelReady": simple(
                    made.ModelReadyRequest, lambda: made.ModelReadyResponse(ready=True), of_model=True
                ),
                "ModelMetadata": simple(
                    made.ModelMetadataRequest,
                    lambda: made.ModelMetadataResponse(**inference.model),
                    of_model=True,
                ),
                # As bytes: what is no request is refused like any other, and each of a stream for itself.
                "ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer, None, _bytes),
                "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._stream, None, _bytes),
            },
        )


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _headers(context: Any) -> dict[bytes, bytes]:
    """Return a call's metadata as HTTP's headers."""
    return {
        name.encode(): value.encode() if isinstance(value, str) else value
        for name, value in context.invocation_metadata() or ()
        if name.startswith("x-")
    }
