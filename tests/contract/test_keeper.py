"""What supervisord can't write down ends nothing."""

from __future__ import annotations

from tidegate.machine.keeper import Forgiving


class Full:
    """A stream on a full disk."""

    name = "full"

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_full_disk_under_standard_error_raises_nothing() -> None:
    """Text is lost, and taken for written; what the stream is otherwise it still is."""
    stream = Forgiving(Full())  # type: ignore[arg-type]
    assert stream.write("a word") == 6
    stream.flush()
    assert stream.name == "full"
