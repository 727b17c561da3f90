"""The Open Inference Protocol v2 over gRPC: `inference.GRPCInferenceService`, in REST's own process.

`TIDEGATE_GRPC_PORT` says where: `8081` (on 127.0.0.1), `0.0.0.0:8081` or `unix:/run/model.sock`; unset, empty
or 0 is off, and then neither grpcio nor protobuf is even imported. It listens once the model has answered its
own examples, and drains before BentoML ends. Requests go the same way through the engine as those over REST:
checked by the same rules, counted, written down, within the same queue and deadlines.

`ModelStreamInfer` answers many requests of one stream, each by a message, in their order, which costs less
than a call for each. Metadata that are read: `x-request-id` (the request's own `id` goes before it), and what
the router says of a request. An answer's `id` is that of the prediction.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import grpc  # type: ignore[import-untyped]

from tidegate.serving import messages
from tidegate.serving.engine import Call
from tidegate.serving.inference import Given, Inference, said, texts
from tidegate.serving.request import Invalid
from tidegate.serving.tensors import from_raw, rows_of, to_raw

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
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents",
    "UINT32": "uint_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
    "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip

log = logging.getLogger("tidegate.serving")


def given(request: Any, inference: Inference) -> tuple[Given, int]:
    """Return the tensors of a request by field, and how many rows they have; raises Invalid."""
    raw = list(request.raw_input_contents)
    inputs = request.inputs
    if raw and len(raw) != len(inputs):
        raise Invalid(400, "raw_input_contents", f"are {len(raw)} for {len(inputs)} inputs")
    tensors: Given = []
    counts = []
    find = inference.tensors.input
    for index, one in enumerate(inputs):
        name, datatype = one.name, one.datatype
        field = find(name, datatype)
        count = rows_of(name, one.shape)
        values = from_raw(name, datatype, raw[index], count) if raw else _contents(one, count)
        tensors.append((field, values))
        counts.append(count)
    return tensors, inference.rows(tensors, counts)


def _contents(one: Any, count: int) -> Sequence[Any]:
    kind = _CONTENTS.get(one.datatype)
    if kind is None:
        raise Invalid(400, one.name, f"of {one.datatype} must be in raw_input_contents")
    values = list(getattr(one.contents, kind))
    if len(values) != count:
        raise Invalid(400, one.name, f"has {len(values)} values in {kind}; its shape says {count}")
    return values


class Answers:
    """Writes answers as the bytes of ModelInferResponse: what is the same in each is written once."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._begun: dict[tuple[int, tuple[str, ...]], bytes] = {}

    def write(self, request: Any, columns: Mapping[str, Sequence[Any]], rows: int, raw: bool) -> bytes:
        """Return the answer's bytes; values as `contents` unless `raw`."""
        tensors = self._inference.tensors
        names = tuple(one.name for one in request.outputs) or tuple(field.name for field in tensors.outputs)
        wanted = [tensors.output(name) for name in names]
        values = [texts(columns[field.name], field) for field in wanted]
        if not raw:
            message = self._message(wanted, rows, request.id)
            for output, field, those in zip(message.outputs, wanted, values, strict=True):
                those = [text.encode() for text in those] if field.datatype == "BYTES" else those
                getattr(output.contents, _CONTENTS[field.datatype]).extend(those)
            return bytes(message.SerializeToString())
        begun = self._begun.get((rows, names))
        if begun is None:
            begun = self._message(wanted, rows, "").SerializeToString()
            if len(self._begun) < 64:
                self._begun[rows, names] = begun
        # Parts of a message may be written one after the other: 3 is its id, 6 its raw contents.
        parts = [begun, _field(3, request.id.encode())]
        parts += [
            _field(6, to_raw(field.datatype, those)) for field, those in zip(wanted, values, strict=True)
        ]
        return b"".join(parts)

    def _message(self, wanted: Sequence[Any], rows: int, request_id: str) -> Any:
        return messages.ModelInferResponse(
            model_name=self._inference.name,
            model_version=self._inference.version,
            id=request_id,
            outputs=[{"name": f.name, "datatype": f.datatype, "shape": [rows]} for f in wanted],
        )


def _field(number: int, content: bytes) -> bytes:
    """Return a field of bytes as protobuf writes it."""
    size = len(content)
    if size < 128:
        return bytes((number << 3 | 2, size)) + content
    length = bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes((number << 3 | 2,)) + bytes(length) + content


class GrpcServer:
    """The server of one process."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._answers = Answers(inference)
        self._server: Any = None
        self.port = 0

    async def start(self, address: str, *, shared: bool = False) -> None:
        """Listen; raises RuntimeError for a port that is taken, unless it is `shared` by several workers."""
        limit = self._inference.engine.settings.many.max_bytes
        options = [
            ("grpc.so_reuseport", int(shared)),
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", -1),
        ]
        address = address if ":" in address else f"127.0.0.1:{address}"
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((self._handlers(),))
        try:
            self.port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise RuntimeError(
                f"gRPC can't listen on {address}: {error}; set TIDEGATE_GRPC_PORT to a free port"
            ) from error
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Take no more calls, and wait for those in flight."""
        if self._server is not None:
            await self._server.stop(GRACE_SECONDS)

    # ---------------------------------------------------------------- calls
    async def _infer(self, request: Any, context: Any) -> bytes:
        call = self._inference.begin(_headers(context), "grpc", time.perf_counter())
        status, content, error = await self._one(request, call, context.time_remaining())
        if error:
            await context.abort(_CODES.get(status, grpc.StatusCode.INTERNAL), error)
        return content

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        headers = _headers(context)
        headers.pop(b"x-request-id", None)  # the stream's, not that of any one request
        async for request in requests:
            call = self._inference.begin(headers, "grpc", time.perf_counter())
            _, content, error = await self._one(request, call, context.time_remaining())
            if error:
                told = messages.ModelStreamInferResponse(
                    error_message=error, infer_response={"id": request.id, "model_name": self._inference.name}
                )
                yield told.SerializeToString()
            else:
                yield _field(2, content)

    async def _one(self, request: Any, call: Call, left: float | None) -> tuple[int, bytes, str]:
        """Return status, answer and error of one request, for which the caller waits so many seconds more."""
        inference = self._inference
        if left is not None:
            call.deadline = min(call.deadline, call.began + left)
        status, content, reason = 200, b"", ""
        try:
            request.id = inference.name_call(call, request.id)
            content = await self._answered(request, call)
        except Invalid as error:
            status, reason = error.status, said(error)
        except Exception:
            log.exception("request %s failed", call.id)
            status, reason = 500, "the model failed on this request"
        if status != 200:
            inference.engine.failed(call, status)
        inference.engine.measuring.timed(status, time.perf_counter() - call.began)
        return status, content, reason

    async def _answered(self, request: Any, call: Call) -> bytes:
        inference = self._inference
        inference.check(request.model_name, request.model_version)
        tensors, rows = given(request, inference)
        for one in request.outputs:
            inference.tensors.output(one.name)  # an unknown one costs no prediction
        columns = await inference.infer(call, tensors, rows)
        return self._answers.write(request, columns, rows, bool(request.raw_input_contents))

    # ---------------------------------------------------------------- what is known of server and model
    async def _live(self, request: Any, context: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def _ready(self, request: Any, context: Any) -> Any:
        return messages.ServerReadyResponse(ready=True)  # it listens only after the warm-up

    async def _server_metadata(self, request: Any, context: Any) -> Any:
        return messages.ServerMetadataResponse(**self._inference.server)

    async def _model_ready(self, request: Any, context: Any) -> Any:
        await self._check(request, context)
        return messages.ModelReadyResponse(ready=True)

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        await self._check(request, context)
        return messages.ModelMetadataResponse(**self._inference.model)

    async def _check(self, request: Any, context: Any) -> None:
        try:
            self._inference.check(request.name, request.version)
        except Invalid as error:
            await context.abort(_CODES[error.status], error.reason)

    def _handlers(self) -> Any:
        def unary(do: Any, asked: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(
                do, request_deserializer=asked.FromString, response_serializer=_bytes
            )

        infer = messages.ModelInferRequest
        handlers = {
            "ServerLive": unary(self._live, messages.ServerLiveRequest),
            "ServerReady": unary(self._ready, messages.ServerReadyRequest),
            "ServerMetadata": unary(self._server_metadata, messages.ServerMetadataRequest),
            "ModelReady": unary(self._model_ready, messages.ModelReadyRequest),
            "ModelMetadata": unary(self._model_metadata, messages.ModelMetadataRequest),
            "ModelInfer": unary(self._infer, infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
                self._stream, request_deserializer=infer.FromString, response_serializer=_bytes
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)


def _bytes(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def _headers(context: Any) -> dict[bytes, bytes]:
    """Return a call's metadata as HTTP's headers."""
    return {
        name.encode(): value.encode() if isinstance(value, str) else value
        for name, value in context.invocation_metadata() or ()
        if name.startswith("x-")
    }
