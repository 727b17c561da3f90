"""A service as its callers meet it: requests to one address, and what came back, whatever it was."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

import httpx

from tidegate.core import contract
from tidegate.core.contract import Answer
from tidegate.core.verdict import Finding
from tidegate.errors import NoData, TidegateError, Unreachable
from tidegate.serving.description import FEATURES, PREDICT

__all__ = ["FEATURES", "PREDICT", "Endpoint", "Silent", "answering"]

PATIENCE = 5  # requests in a row without an answer
WAIT = 10.0  # seconds for the answer that says who gives it
JSON = "application/json"
# What is compared must not depend on what a feature store holds today: the request is all there is.
OFFLINE = {"x-tidegate-offline": "1"}
DESCRIPTION = "/openapi.json"


def answering(url: str, rows: Sequence[Any], release: str) -> Finding:
    """Ask a few rows: does this release answer (any one, where none is named)? See `core.contract.who`.

    Raises Silent or Unreachable.
    """
    with Endpoint(url, WAIT) as endpoint:
        said = [endpoint.ask(PREDICT, json.dumps(row).encode()) for row in rows[:PATIENCE]]
    return contract.who(said, release)


class Silent(TidegateError):
    """A service that answered before does not answer any more."""


class Endpoint:
    """Sends requests, each with a request id of its own; no failure of the service is an exception but one.

    After `PATIENCE` requests in a row without an answer, `Silent` is raised (`Unreachable` if there never was
    an answer): each of them may have taken `timeout` seconds.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._client = httpx.Client(timeout=timeout)
        self._silent = 0
        self.asked = self.answered = self.unechoed = 0

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, path: str, body: bytes, *, method: str = "POST", kind: str = JSON) -> Answer:
        """Send one request; raises Silent or Unreachable when nothing comes back any more."""
        mine = uuid.uuid4().hex
        headers = {"x-request-id": mine, **OFFLINE, **({"content-type": kind} if kind else {})}
        self.asked += 1
        try:
            response = self._client.request(method, f"{self._url}{path}", content=body, headers=headers)
        except httpx.HTTPError:
            self._count_silence()
            return Answer(0)
        self._silent = 0
        self.answered += 1
        try:
            content = response.json()
        except (ValueError, RecursionError):
            content = None
        inside = content.get("request_id") if isinstance(content, dict) else None
        echoed = {response.headers.get("x-request-id"), inside} == {mine}
        self.unechoed += not echoed
        return Answer(response.status_code, content, echoed)

    def _count_silence(self) -> None:
        self._silent += 1
        if self._silent >= PATIENCE:
            if not self.answered:
                raise Unreachable(
                    f"{self._url} did not answer once", "Is the plane up? See `tidegate status`."
                )
            raise Silent(f"the last {PATIENCE} requests got no answer, after {self.answered} that did")

    def document(self) -> Any:
        """Return the OpenAPI document that the service publishes, or None where it publishes none (404).

        Raises Unreachable when it does not answer, NoData when it answers something else.
        """
        try:
            response = self._client.get(f"{self._url}{DESCRIPTION}")
            if response.status_code == 404:
                return None
            if response.status_code != 200:
                raise NoData(
                    f"{DESCRIPTION} is answered {response.status_code}", "Look at the service's log."
                )
            return response.json()
        except httpx.HTTPError as error:
            raise Unreachable(
                f"{self._url}{DESCRIPTION} gave no answer: {type(error).__name__}",
                "Is the plane up? See `tidegate status`.",
            ) from error
        except (ValueError, RecursionError) as error:
            raise NoData(f"{DESCRIPTION} is not JSON: {error}", "Look at the service's log.") from error
