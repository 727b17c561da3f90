"""What presses a service counts what came back, and nothing else: good answers, failures, and their times."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from tidegate.machine.crowd import press

ROWS = [{"x": 1}, {"x": 2}]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@contextmanager
def server(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """Answer each request on each connection by `answer(body)`; empty hangs up."""
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        with closing(connection), suppress(OSError):
            rest = b""
            while not ended.is_set():
                while b"}" not in rest:
                    more = connection.recv(65536)
                    if not more:
                        return
                    rest += more
                request, _, rest = rest.partition(b"}")
                said = answer(request.rpartition(b"\r\n")[2] + b"}")
                if not said:
                    return
                connection.sendall(said)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        ended.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def test_answers_are_counted_and_timed() -> None:
    """Each good answer after the warm-up has a time, and quantiles rise."""
    with server(lambda body: OK) as port:
        found = press([port], ROWS, connections=4, seconds=0.2, warm_up=0.05)
    assert found.failed == 0
    assert len(found.latencies) > 4
    assert found.rate == len(found.latencies) / 0.2
    assert 0 < found.quantile(0) <= found.quantile(0.5) <= found.quantile(0.99) <= found.latencies[-1]


def test_callers_are_shared_out_over_services_and_rows() -> None:
    """Each service gets its share, and each caller begins with another row."""
    seen: dict[str, set[bytes]] = {"one": set(), "other": set()}

    def noting(name: str) -> Callable[[bytes], bytes]:
        return lambda body: (seen[name].add(body), OK)[1]

    with server(noting("one")) as one, server(noting("other")) as other:
        press([one, other], ROWS, connections=4, seconds=0.1, warm_up=0.0)
    assert seen == {name: {b'{"x": 1}', b'{"x": 2}'} for name in seen}


@pytest.mark.parametrize(
    ("answer", "every"),
    [
        (b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n", True),
        (b"", False),  # hangs up: one failure a caller, which does not come again
        (b"nonsense\r\n\r\n", False),
    ],
)
def test_what_is_no_good_answer_is_a_failure(answer: bytes, every: bool) -> None:
    """A refusal counts as one, and so does a request that nobody answered; none is part of the rate."""
    with server(lambda body: answer) as port:
        found = press([port], ROWS, connections=3, seconds=0.2, warm_up=0.0)
    assert (found.rate, found.latencies, found.quantile(0.99)) == (0, (), 0.0)
    assert found.failed > 3 if every else found.failed == 3


def test_nobody_there_is_an_error() -> None:
    """No number is made up of no answer."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = int(free.getsockname()[1])
    with pytest.raises(OSError):
        press([port], ROWS, connections=1, seconds=0.1)
