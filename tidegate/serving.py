"""The shell around a model's service; it knows no model, and travels inside every Bento.

A service's author writes what a request and an answer are (msgspec Structs), how to load, how features
are computed, and what to answer. Example:

    @bentoml.service(name="flight_delay", service_class=ModelService)
    class FlightDelay:
        request, response, feature_names = Flight, Delay, features.FEATURES
        def __init__(self) -> None:
            self.model = OnnxModel(artifact(Path(__file__), "flight-delay"))
        def features(self, flight: Flight) -> NDArray:
            return features.compute(...)            # [1, len(feature_names)]
        def predict(self, flight: Flight) -> dict[str, object]:
            return {"probability": self.model(self.features(flight))...}

BentoML stays the service: its life cycle, `/livez`, `/readyz`, `/metrics` and packaging. `POST /predict` is
answered in front of its middlewares, which cost more than the model itself; so are `POST /features`, by which
a gate sees what the model saw, `GET /openapi.json`, what both promise, and `GET /measures`, what was counted.
A service without `feature_names` has no `/features`. `score` and `decision`, where a class has them, name
the fields of an answer by which a rollout compares releases: `score, decision = "probability", "late"`.

Imports only what a Bento brings along, and nothing else of this package but `answered`,
`description`, `files`, `measuring` and `request`.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import math
import os
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime
from _bentoml_sdk import Service  # type: ignore[import-untyped] # `service_class=` has no public base

from tidegate import answered, description, measuring
from tidegate.files import digest_folder
from tidegate.request import Invalid, decode

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Answer = Callable[[Any], dict[str, Any]]  # a checked request → what to answer

DESCRIBED = ("/openapi.json", "/docs.json")  # the second is what BentoML's page reads
MAX_BODY = 64 * 1024
REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_HEADERS = frozenset({b"x-request-id", measuring.WARM, answered.JOURNALED})
MANIFEST = "artifact.json"  # beside model/ in a Bento: {"model", "version", "digest"}

log = logging.getLogger("tidegate.serving")


# ---------------------------------------------------------------- the artifact
def artifact(service_file: Path, model: str) -> Path:
    """Return the verified folder of the model's files for the service defined in `service_file`.

    In a Bento that is `model/` beside `services/`, in a checkout `build/<model>/model`. Its digest must
    be the one in the Bento's manifest, and the one in TIDEGATE_ARTIFACT where that is set. Raises
    RuntimeError otherwise: a service with another model than its release names must never be ready.
    """
    root = service_file.resolve().parents[2]
    manifest = root / MANIFEST
    folder = root / "model" if manifest.is_file() else root / "build" / model / "model"
    expected = {}
    if manifest.is_file():
        expected["the Bento"] = json.loads(manifest.read_text())["digest"]
    if os.environ.get("TIDEGATE_ARTIFACT"):
        expected["the release"] = os.environ["TIDEGATE_ARTIFACT"]
    found = digest_folder(folder)
    for who, digest in expected.items():
        if digest != found:
            raise RuntimeError(
                f"model {model} is not the one that {who} names: {found} is here, not {digest}"
            )
    return folder


def _own_version(root: Path) -> str:
    """Return the version that the Bento was built of, or "" in a checkout: `bentoml serve` tells none."""
    try:
        return str(json.loads((root / MANIFEST).read_text())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


class OnnxModel:
    """An ONNX model on one thread: a process is one worker, and more throughput is more processes."""

    def __init__(self, folder: Path, output: str = "probabilities") -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # converters declare `label` with a wrong shape: a warning a batch
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output]
        self.examples: list[dict[str, Any]] = json.loads((folder / "examples.json").read_text())

    def __call__(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the model's output for float32 rows [n, features]."""
        result: npt.NDArray[np.float32] = self._session.run(self._outputs, {self._input: rows})[0]
        return result


# ---------------------------------------------------------------- the service
class ModelService(Service):  # type: ignore[misc]
    """A BentoML service whose predictions are answered by `Predictions`."""

    instance: Any = None

    def __call__(self) -> Any:
        """Load the model, once, when BentoML starts the service in its worker."""
        self.instance = super().__call__()
        return self.instance

    def to_asgi(self, is_main: bool = True) -> Any:
        """Return BentoML's application with `POST /predict` and its kin in front of it."""
        return Predictions(self, super().to_asgi(is_main=is_main))


def describe(service: ModelService) -> dict[str, Any]:
    """Return the OpenAPI document of a service, as `GET /openapi.json` answers it."""
    made = service.inner
    return description.document(
        service.name,
        _identity()["model_version"],
        made.request,
        made.response,
        features=bool(getattr(made, "feature_names", ())),
    )


def _identity() -> dict[str, str]:
    """Return who answers: part of each answer."""
    version = os.environ.get("TIDEGATE_MODEL_VERSION") or _own_version(Path(__file__).resolve().parents[1])
    return {"model_version": version, "release": os.environ.get("TIDEGATE_RELEASE", "")}


class Predictions:
    """ASGI application: `/predict`, `/features` and `/openapi.json`; everything else by `rest` (BentoML)."""

    def __init__(self, service: ModelService, rest: Any) -> None:
        self._service = service
        self._rest = rest
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(service.inner.request)
        self._encode = msgspec.json.Encoder().encode
        self._identity = _identity()
        self._names: tuple[str, ...] = tuple(getattr(service.inner, "feature_names", ()))
        self._answers: dict[str, Answer] = {description.PREDICT: self._predict}
        if self._names:
            self._answers[description.FEATURES] = self._features
        self._described = b""
        inner = service.inner
        self._measuring = measuring.Measuring(
            service.name, getattr(inner, "score", ""), getattr(inner, "decision", "")
        )
        self._journal = answered.Journal.of_environment()
        self._given: dict[str, Any] = {}  # the model's latest answer, empty when it gave none

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in self._answers:
            await self._answer(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] in DESCRIBED and scope["method"] in ("GET", "HEAD"):
            await self._describe(scope, send)
        elif scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == measuring.PATH and scope["method"] == "GET":
            await _send(send, self._measuring.document())
        elif scope["type"] == "http" and scope["path"] == "/metrics" and scope["method"] == "GET":
            await self._rest(scope, receive, measuring.appending(send, self._measuring.text))
        else:
            await self._rest(scope, receive, send)

    async def _live(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let BentoML start, then warm up; a model that can't answer its own examples never starts.

        At the end the last answers are written down, when no request is in flight any more.
        """

        async def after_start(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                try:
                    self._warm()
                except Exception as error:
                    log.exception("warm-up failed")
                    message = {"type": "lifespan.startup.failed", "message": f"warm-up failed: {error}"}
            elif message["type"].startswith("lifespan.shutdown") and self._journal:
                self._journal.close()
            await send(message)

        await self._rest(scope, receive, after_start)

    def _warm(self) -> None:
        examples = self._service.instance.model.examples
        if not examples:
            raise RuntimeError("the model's examples.json is empty: nothing to warm up with")
        for row in examples:
            self._rehearse(self._encode(row))
        self._measuring.watch(self._service.instance)
        gc.collect()
        gc.freeze()  # what is loaded by now stays: later collections need not walk over it
        _trim()

    def _rehearse(self, body: bytes) -> None:
        """Answer one of the model's own examples on each path; raises RuntimeError unless as promised."""
        for path, answer in self._answers.items():
            status, content = self._respond(answer, body, "warm-up")
            if status != 200:
                raise RuntimeError(f"an example of the model's own is answered {status}: {content.decode()}")
            if path == description.PREDICT:
                try:
                    msgspec.json.decode(content, type=self._service.inner.response)
                except msgspec.ValidationError as error:
                    text = f"an example's answer is not what the service promises: {error}"
                    raise RuntimeError(text) from error

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        answer, predicting = self._answers[scope["path"]], scope["path"] == description.PREDICT
        told = {name: value for name, value in scope["headers"] if name in _HEADERS}
        given = told.get(b"x-request-id", b"")
        request_id = given.decode("ascii") if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode())]
        try:
            body = await _read(scope, receive)
        except Invalid as error:
            status, content = error.status, self._refusal(error, request_id)
            headers.append((b"connection", b"close") if status == 413 else (b"allow", b"POST"))
        else:
            if body is None:
                return  # the caller has gone
            status, content = self._respond(answer, body, request_id)
            if predicting:
                self._measure(status, told, request_id, start)
        headers.append((b"content-length", str(len(content)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        if predicting:
            self._measuring.timed(status, time.perf_counter() - start)

    def _measure(self, status: int, told: dict[bytes, bytes], request_id: str, start: float) -> None:
        """Count the prediction just made, before another one can begin, and write it down if asked to."""
        answer, self._given = self._given if status == 200 else {}, {}
        if measuring.WARM in told:
            return
        if status == 200:
            self._measuring.count(answer)
        if self._journal and answered.JOURNALED in told:
            elapsed = 1000 * (time.perf_counter() - start)
            self._journal.note(self._measuring, request_id, status, elapsed, answer)

    async def _describe(self, scope: Message, send: Send) -> None:
        """Answer the OpenAPI document, made at the first request for it."""
        self._described = self._described or json.dumps(describe(self._service)).encode()
        await _send(send, self._described, head=scope["method"] == "HEAD")

    def _predict(self, request: Any) -> dict[str, Any]:
        """Return the model's answer; raises ArithmeticError for a number that is none."""
        self._given = {}
        self._measuring.begin()
        answer: dict[str, Any] = self._service.instance.predict(request)
        for name, value in answer.items():
            if type(value) is float and not math.isfinite(value):
                raise ArithmeticError(f"the model's {name} is {value}")  # JSON would say null
        self._given = answer
        return answer

    def _features(self, request: Any) -> dict[str, Any]:
        """Return the features by name; raises ArithmeticError for an infinity, ValueError for other names."""
        values = np.asarray(self._service.instance.features(request)).reshape(-1).tolist()
        named = dict(zip(self._names, values, strict=True))
        if any(math.isinf(value) for value in values):
            raise ArithmeticError(f"a feature is infinite: {named}")  # JSON would say null, which is NaN
        return {"features": {name: None if math.isnan(value) else value for name, value in named.items()}}

    def _respond(self, answer: Answer, body: bytes, request_id: str) -> tuple[int, bytes]:
        """Return status and JSON for one request's body."""
        try:
            content = answer(decode(body, self._decoder))
            return 200, self._encode({**content, **self._identity, "request_id": request_id})
        except Invalid as error:
            return error.status, self._refusal(error, request_id)
        except Exception:
            log.exception("request %s failed", request_id)
            return 500, self._refusal(Invalid(500, "", "the model failed on this request"), request_id)

    def _refusal(self, error: Invalid, request_id: str) -> bytes:
        reason = {"field": error.field or None, "reason": error.reason}
        text = json.dumps({"error": reason, "request_id": request_id, **self._identity})
        return text.encode()  # ASCII: a refused name may hold what UTF-8 can't


async def _send(send: Send, body: bytes, *, head: bool = False) -> None:
    """Answer 200 with a document of JSON; of a HEAD only its headers."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})


async def _read(scope: Message, receive: Receive) -> bytes | None:
    """Return the whole body, or None if the caller went away; raises Invalid (405, 413)."""
    if scope["method"] != "POST":
        raise Invalid(405, "method", "must be POST")
    body = b""
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part: bytes = message.get("body", b"")
        body += part
        if len(body) > MAX_BODY:
            raise Invalid(413, "body", f"is larger than {MAX_BODY} bytes")
        if not message.get("more_body"):
            return body


def _trim() -> None:
    """Give back what loading left free in the C library's heap: 10 MB here, in which a leak would hide."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
