"""What every Measures keeps to: nothing is counted twice, and nothing is made up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.planes import eventually
from tests.prometheus import Pages, Prometheus, pages_up, prometheus_up
from tidegate.adapters.answers import AnswerMeasures
from tidegate.adapters.prometheus import PrometheusMeasures
from tidegate.adapters.service import ServiceMeasures
from tidegate.core import counts
from tidegate.core.plan import Check, Mirror, Plan, Query, Ratio
from tidegate.errors import NoData, Retryable
from tidegate.ports import Asked, Counters, Measured, Measures
from tidegate.serving import answered
from tidegate.serving.measuring import Measuring
from tidegate.testing import FakeMeasures

A, B, OTHER = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"
LIMIT = Ratio(0.05)
RATE = Query('errors_total{release="{{release}}"}', 'requests_total{release="{{release}}"}')
CHECKS = (
    Check("errors", "error-rate", LIMIT),
    Check("gaps", "missing-features", LIMIT),
    Check("otherwise", "disagreement", LIMIT),
    Check("asked", "prometheus", LIMIT, query=RATE),
)
PLAN = Plan(strategy="shadow", mirror=Mirror(), checks=CHECKS)


class FakeCase:
    """The fake; what it says is set."""

    name = "gaps"

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._fake = FakeMeasures("missing-features")
        self._sums = {A: (0, 0), B: (0, 0)}
        self.endpoints = {A: ("a:1",), B: ("b:1",)}

    def reader(self) -> Measures:
        return self._fake

    def count(self, release: str, trials: int, events: int) -> None:
        before = self._sums.get(release, (0, 0))
        self._sums[release] = (before[0] + trials, before[1] + events)
        self._fake.counted = {r: Measured({f"gaps@{r}-1": found}) for r, found in self._sums.items()}

    def take_away(self) -> None:
        self._away, self._fake.counted = self._fake.counted, {}

    def bring_back(self) -> None:
        self._fake.counted = self._away


class ServiceCase:
    """Two services' own counts, by HTTP."""

    name = "gaps"

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._servers = {r: stack.enter_context(pages_up()) for r in (A, B, OTHER)}
        self._counted = {r: Measuring("toy", "score") for r in self._servers}
        self.endpoints = {r: (self._servers[r].endpoint,) for r in (A, B)}
        for release in self._servers:
            self.count(release, 0, 0)

    def reader(self) -> Measures:
        return ServiceMeasures(timeout=2)

    def count(self, release: str, trials: int, events: int) -> None:
        counted = self._counted[release]
        for number in range(trials):
            counted.count({"score": 0.5}, [[None if number < events else 1.0]])
        self._servers[release].pages = {"/measures": (200, counted.document())}

    def take_away(self) -> None:
        for server in self._servers.values():
            server.pages = {"/measures": (503, b"")}

    def bring_back(self) -> None:
        for release in self._servers:
            self.count(release, 0, 0)


class AnswersCase:
    """Journals as services write them; a pair is one answer of each arm."""

    name = "otherwise"
    endpoints: Mapping[str, tuple[str, ...]] = {A: ("a:1",), B: ("b:1",)}

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder / "answers"
        self._number = 0
        self.count(A, 3, 1)  # before anybody reads

    def reader(self) -> Measures:
        return AnswerMeasures(self._folder)

    def count(self, release: str, trials: int, events: int) -> None:
        self._number += trials
        first, service = self._number - trials, Measuring("toy", "score", "late")

        async def write(name: str, differ: int) -> None:
            journal = answered.Journal(self._folder, name)
            for number in range(trials):
                said = {"score": 0.5, "late": number < differ}
                journal.note(service, f"{release}-{first + number}", 200, 1.0, said)
            journal.close()

        # What another release is told of itself has no twin, and counts nowhere.
        for name, differ in ((release, events), *(((B, 0),) if release == A else ())):
            asyncio.run(write(name, differ))

    def take_away(self) -> None:
        self._folder.rename(f"{self._folder}-away")
        self._folder.write_text("")  # a file where a folder should be

    def bring_back(self) -> None:
        self._folder.unlink()
        Path(f"{self._folder}-away").rename(self._folder)


class PrometheusCase:
    """A real Prometheus that scrapes a page of counters; `asked` once it has seen the newest."""

    name = "asked"
    endpoints: Mapping[str, tuple[str, ...]] = {A: ("a:1",), B: ("b:1",)}

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._pages: Pages = stack.enter_context(pages_up())
        self._sums = {A: (100, 10), B: (1000, 10), OTHER: (5, 5)}
        self._server: Prometheus = stack.enter_context(prometheus_up(folder / "prom", self._pages.endpoint))
        self.count(A, 0, 0)

    def reader(self) -> Measures:
        return PrometheusMeasures(self._server.url)

    def count(self, release: str, trials: int, events: int) -> None:
        before = self._sums[release]
        self._sums[release] = (before[0] + trials, before[1] + events)
        lines = []
        for name, at in (("requests_total", 0), ("errors_total", 1)):
            lines += [f'{name}{{release="{r}"}} {found[at]}' for r, found in self._sums.items()]
        self._pages.pages = {"/metrics": (200, ("\n".join(lines) + "\n").encode())}
        self._scraped()

    def _scraped(self) -> None:
        seen = len(self._pages.asked)
        eventually(lambda: len(self._pages.asked) >= seen + 3)

    def take_away(self) -> None:
        self._server.stop()

    def bring_back(self) -> None:
        self._server.start()
        self._scraped()


Case = FakeCase | ServiceCase | AnswersCase | PrometheusCase


@dataclass
class Agent:
    """What an agent keeps of one source: the last reading, as its marks do."""

    case: Case
    reader: Measures
    marks: dict[str, Counters]

    def look(self) -> dict[str, counts.Tally]:
        """Return release → what came since the last look."""
        found = self.reader.read(asked(self.case))
        result = {}
        for release, measured in found.items():
            now = Counters(0, 0, tallies=measured.tallies, bins=measured.bins)
            result[release] = counts.delta(self.marks.get(release), now).tally(self.case.name)
            self.marks[release] = now
        return result


@pytest.fixture(params=[FakeCase, ServiceCase, AnswersCase, PrometheusCase])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    with ExitStack() as stack:
        yield request.param(tmp_path, stack)


def asked(case: Case) -> Asked:
    return Asked("toy", "canary", A, B, 0.0, PLAN, case.endpoints)


def _begin(case: Case) -> Agent:
    """Return an agent that has looked once after something was counted."""
    case.count(A, 1, 0)
    agent = Agent(case, case.reader(), {})
    agent.look()
    return agent


def _settled(agent: Agent, trials: int) -> counts.Tally:
    """Look until this many trials came, or for a while; return what came of the candidate."""
    total = (0, 0)

    def more() -> bool:
        nonlocal total
        n, k = agent.look().get(A, (0, 0))
        total = (total[0] + n, total[1] + k)
        return total[0] >= trials

    eventually(more)
    n, k = agent.look().get(A, (0, 0))
    return total[0] + n, total[1] + k


def test_only_its_own_checks_are_named(case: Case) -> None:
    """A source answers for the checks of its metric, and for no other."""
    assert case.reader().names(PLAN) == (case.name,)
    assert case.reader().names(Plan(checks=CHECKS[:1])) == ()


def test_what_came_between_two_looks_is_counted_once(case: Case) -> None:
    """Whatever was counted before the first look, what comes after is told once, trials and events."""
    agent = _begin(case)
    case.count(A, 7, 2)
    assert _settled(agent, 7) == (7, 2)
    case.count(A, 4, 4)
    assert _settled(agent, 4) == (4, 4)


def test_a_reader_that_was_started_anew_counts_nothing_twice(case: Case) -> None:
    """With the marks of its former life, a restarted agent's first look has nothing that was counted then."""
    agent = _begin(case)
    case.count(A, 6, 3)
    _settled(agent, 6)
    anew = Agent(case, case.reader(), agent.marks)
    assert anew.look().get(A, (0, 0)) == (0, 0)
    case.count(A, 5, 1)
    assert _settled(anew, 5) == (5, 1)


def test_a_source_that_is_away_is_an_error(case: Case) -> None:
    """It says that it can't tell, and what to do, and never that nothing happened; afterwards it goes on."""
    agent = _begin(case)
    case.take_away()
    with pytest.raises(Retryable) as told:
        agent.look()
    assert told.value.message
    assert told.value.action
    case.bring_back()
    case.count(A, 5, 2)
    total, end = (0, 0), 5

    def back() -> bool:
        nonlocal total
        try:
            n, k = agent.look().get(A, (0, 0))
        except NoData:  # Prometheus has read its store, and not scraped yet
            return False
        total = (total[0] + n, total[1] + k)
        return total[0] >= end

    eventually(back)
    assert total == (5, 2)


def test_other_releases_are_left_out(case: Case) -> None:
    """Of releases that don't take part nothing is told, whatever is counted of them."""
    agent = _begin(case)
    case.count(OTHER, 3, 3)
    assert set(agent.reader.read(asked(case))) <= {A, B}
    assert agent.look().get(A, (0, 0)) == (0, 0)


def test_names_of_keys_are_the_checks(case: Case) -> None:
    """Each key is `name@instance`, so that counts are added up by check."""
    agent = _begin(case)
    for measured in agent.reader.read(asked(case)).values():
        for key, (trials, events) in measured.tallies.items():
            name, at, _ = key.partition("@")
            assert (name, at) == (case.name, "@")
            assert 0 <= events <= trials
