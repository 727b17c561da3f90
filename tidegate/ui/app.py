"""The pages as an ASGI application: reading needs nothing, acting needs the token (`guard`)."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from tidegate.core.history import Entry
from tidegate.core.recording import Recording
from tidegate.errors import ConfigError, NoData, Refused, Retryable, TidegateError
from tidegate.report import evidence
from tidegate.ui import view, words
from tidegate.ui.guard import SANDBOXED, Guard, Token, TooLarge
from tidegate.ui.source import Source

HERE = Path(__file__).parent
EVENTS = 200  # shown on their page
RECORDINGS = 100
LATELY = 8
_PAGES = (
    ("/", "Now"),
    ("/rollouts", "Rollouts"),
    ("/history", "History"),
    ("/reports", "Reports"),
    ("/events", "Events"),
)


def make(source: Source, token: Token, hosts: Collection[str]) -> ASGIApp:
    """Return the application; `hosts` are the values of `Host` that mean it."""
    pages = Pages(source)
    routes = [
        Route("/", pages.now),
        Route("/live", pages.live),
        Route("/rollouts", pages.rollouts),
        Route("/rollouts/{name:path}", pages.rollout),
        Route("/live/rollouts/{name:path}", pages.live_rollout),
        Route("/history", pages.history),
        Route("/reports", pages.reports),
        Route("/reports/{model}/{name:path}", pages.report),
        Route("/kept/{commit}", pages.kept),
        Route("/events", pages.events),
        Route("/ask", pages.ask, methods=["POST"]),
        Route("/outcomes", pages.outcomes, methods=["POST"]),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    inner = Starlette(
        routes=routes,
        exception_handlers={
            TidegateError: pages.failed,
            HTTPException: pages.failed,
            TooLarge: lambda *_: JSONResponse({"error": "too large: send it in parts"}, 413),
        },
    )
    return Guard(inner, token, hosts)  # around all of it: what fails unforeseen is answered as safely


def status_of(error: Exception) -> int:
    """Return the HTTP status that an error of ours means."""
    if isinstance(error, HTTPException):
        return error.status_code
    known = {NoData: 404, ConfigError: 422, Refused: 409, Retryable: 503}
    return next((code for kind, code in known.items() if isinstance(error, kind)), 500)


class Pages:
    """One method a route; what is sync runs in a thread."""

    def __init__(self, source: Source) -> None:
        self.source, self._drawing = source, threading.Lock()  # matplotlib draws one picture at a time
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.globals |= {"pages": _PAGES, "join": words.join}
        self.templates.filters |= {"clock": _clock, "iso": _iso, "utc": _utc}

    def _page(self, request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        text = self.templates.get_template(template).render(path=request.url.path, **values)
        return HTMLResponse(text, status)

    # ------------------------------------------------------------ what runs
    def now(self, request: Request) -> Response:
        """Every environment, its rollouts and what was lately told."""
        return self._page(request, "now.html", part=self._now())

    def live(self, request: Request) -> Response:
        """The same without a frame, for the script."""
        text = self._now()
        return _part(request, text, lambda: text)

    def _now(self) -> str:
        found = view.planes(self.source.snapshot(), time.time())
        told = sorted((e for plane in found for e in plane.events), key=lambda event: -event.at)[:LATELY]
        live = [line.recording for plane in found for line in plane.lines if line.live and line.recording]
        sparks = {name: Markup(self.source.spark(name)) for name in live}  # noqa: S704 - drawn by us
        return self.templates.get_template("planes.html").render(planes=found, told=told, sparks=sparks)

    def events(self, request: Request) -> Response:
        """What was told of late, newest first."""
        return self._page(request, "events.html", events=self.source.events(EVENTS))

    # ------------------------------------------------------------ what was
    def rollouts(self, request: Request) -> Response:
        """All rollouts that were recorded, newest first."""
        names = self.source.recordings()
        return self._page(request, "rollouts.html", names=names[:RECORDINGS], more=len(names) - RECORDINGS)

    def rollout(self, request: Request) -> Response:
        """One rollout: its evidence as a plot, and what happened."""
        name = request.path_params["name"]
        found = self.source.recording(name)
        return self._page(request, "rollout.html", name=name, found=found, part=self._drawn(name, found))

    def live_rollout(self, request: Request) -> Response:
        """The same without a frame, for the script."""
        name = request.path_params["name"]
        found = self.source.recording(name)
        state = repr((found.looks[-1:], found.events, found.end, found.full))
        return _part(request, state, lambda: self._drawn(name, found))

    def _drawn(self, name: str, found: Recording) -> str:
        with self._drawing:
            drawn = evidence.svg(found)
        told = evidence.words(found) if drawn else ""
        template = self.templates.get_template("recording.html")
        return template.render(name=name, found=found, plot=_plot(drawn), words=told)

    def history(self, request: Request) -> Response:
        """What Git said should run, by day (UTC)."""
        environment = request.query_params.get("env", "production")
        if environment not in view.ENVIRONMENTS:
            raise HTTPException(404, f"there is no environment {environment!r:.40}")
        found, note = self.source.history(environment)
        days = [(day, list(group)) for day, group in itertools.groupby(found, key=_day)]
        known = view.ENVIRONMENTS
        return self._page(request, "history.html", days=days, environment=environment, known=known, note=note)

    def reports(self, request: Request) -> Response:
        """Every page that gates made and Git keeps."""
        return self._page(request, "reports.html", found=sorted(self.source.reports()))

    def report(self, request: Request) -> Response:
        """One kept page, in a frame that can do nothing."""
        model, name = request.path_params["model"], request.path_params["name"]
        commit = self.source.reports().get((model, name))
        if commit is None:
            raise NoData(f"no page of {name} of {model} is kept", "Choose one of the list of reports.")
        return self._page(request, "report.html", model=model, name=name, commit=commit)

    def kept(self, request: Request) -> Response:
        """What that frame holds."""
        text = self.source.report(request.path_params["commit"])
        return HTMLResponse(text, headers={"content-security-policy": SANDBOXED})

    # ------------------------------------------------------------ acting
    async def ask(self, request: Request) -> Response:
        """Hand a request to a plane's agent: {verb, plane, environment, model, reason}."""
        document = await _json(request)
        fields = ("verb", "plane", "environment", "model", "reason")
        if not isinstance(document, dict) or not all(isinstance(document.get(f, ""), str) for f in fields):
            return JSONResponse({"error": f"send an object with {', '.join(fields)}"}, 422)
        said = [str(document.get(field, ""))[:500] for field in fields]
        answer = await run_in_threadpool(self.source.ask, *said)
        code = {True: 200, False: 409, None: 202}[answer.accepted]
        return JSONResponse({"accepted": answer.accepted, "text": answer.text}, code)

    async def outcomes(self, request: Request) -> Response:
        """Keep outcomes: {id, name, value}, a list of them, or {"outcomes": [...]}; faster: ?check=false."""
        check = request.query_params.get("check") != "false"
        kept = await run_in_threadpool(self.source.accept, await _json(request), check)
        return JSONResponse({"accepted": kept.new, **kept.as_dict()})

    # ------------------------------------------------------------ errors
    def failed(self, request: Request, error: Exception) -> Response:
        """Say what went wrong, to a person as a page, to a program as JSON."""
        code = status_of(error)
        text = error.detail if isinstance(error, HTTPException) else str(error)
        if request.method not in ("GET", "HEAD"):
            return JSONResponse({"error": text}, code)
        return self._page(request, "failed.html", code, code=code, text=text)


def _part(request: Request, state: str, draw: Callable[[], str]) -> Response:
    """Return a part of a page, or nothing (204) when the script has this state's already."""
    mark = hashlib.sha256(state.encode()).hexdigest()[:16]
    if request.query_params.get("seen") == mark:
        return Response(status_code=204)
    return HTMLResponse(draw(), headers={"x-tidegate-mark": mark})


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise ConfigError("the body is no JSON", "Send a JSON document.") from error


def _plot(svg: str) -> Any:
    """Return an SVG as markup to stand in a page; its `<style>` is dropped, the page's policy forbids it."""
    before, style, rest = svg.partition("<style")
    return Markup(before + rest.partition("</style>")[2] if style else svg)  # noqa: S704 - drawn by us


def _day(entry: Entry) -> str:
    return datetime.fromtimestamp(entry.start, UTC).strftime("%A, %-d %B %Y")


def _clock(at: float) -> str:
    """A moment on this machine's clock."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")
