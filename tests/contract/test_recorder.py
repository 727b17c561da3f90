"""What every Recorder promises, asked of the fake and of the files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.adapters.recordings import FileRecorder
from tidegate.errors import ConfigError, NoData
from tidegate.testing import FakeRecorder

ONE, TWO = "production/toy/canary-a-20261122T080000Z", "production/toy/canary-b-20261122T090000Z"
HEAD = {"kind": "rollout", "model": "toy"}


def look(at: int) -> dict[str, object]:
    """A look's line."""
    return {"kind": "look", "at": at}


@pytest.fixture(params=["fake", "files"])
def recorder(request: pytest.FixtureRequest, tmp_path: Path) -> FakeRecorder | FileRecorder:
    return FakeRecorder() if request.param == "fake" else FileRecorder(tmp_path / "recordings")


def test_what_was_appended_is_read_in_order(recorder):
    """A recording is its lines in the order in which they came, numbers and letters whole."""
    recorder.append(ONE, [HEAD, {"kind": "event", "text": "ä → 5%\n"}])
    recorder.append(ONE, [look(1), look(2)])
    assert list(recorder.read(ONE)) == [HEAD, {"kind": "event", "text": "ä → 5%\n"}, look(1), look(2)]


def test_recordings_are_kept_apart_and_listed(recorder):
    """Each name has its own lines, and all are listed."""
    recorder.append(ONE, [HEAD])
    recorder.append(TWO, [HEAD, look(1)])
    assert set(recorder.list()) == {ONE, TWO}
    assert [len(recorder.read(name)) for name in (ONE, TWO)] == [1, 2]


def test_none_is_listed_before_the_first(recorder):
    """Before anything was recorded the list is empty, not an error."""
    assert list(recorder.list()) == []


def test_an_unknown_recording_is_no_data(recorder):
    """A name that was never appended to is an error that says where to look."""
    with pytest.raises(NoData, match="explain"):
        recorder.read(TWO)


# ---------------------------------------------------------------- files
def file_of(folder: Path, name: str = ONE) -> Path:
    """Where a recording is."""
    return folder / f"{name}.jsonl"


def test_the_one_written_last_is_listed_first(tmp_path):
    """Newest first, by when it was written."""
    recorder = FileRecorder(tmp_path)
    for age, name in enumerate((TWO, ONE)):
        recorder.append(name, [HEAD])
        os.utime(file_of(tmp_path, name), (1000 - age, 1000 - age))
    assert recorder.list() == [TWO, ONE]


@pytest.mark.parametrize("cut", [1, 5, 10])
def test_a_line_cut_by_a_crash_is_left_out_and_swallows_nothing(tmp_path, cut):
    """Killed in the middle of a write, a recording reads without that line, before and after going on."""
    recorder = FileRecorder(tmp_path)
    recorder.append(ONE, [HEAD, look(1)])
    path = file_of(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    assert recorder.read(ONE) == ([HEAD, look(1)] if cut == 1 else [HEAD])
    FileRecorder(tmp_path).append(ONE, [look(2)])
    assert recorder.read(ONE) == ([HEAD, look(1), look(2)] if cut == 1 else [HEAD, look(2)])


def test_only_the_newest_of_a_model_are_kept(tmp_path):
    """A new recording removes the oldest one of its own model and plane, and no other's."""
    recorder = FileRecorder(tmp_path, kept=3)
    recorder.append("production/other/canary-x-1", [HEAD])
    os.utime(file_of(tmp_path, "production/other/canary-x-1"), (1, 1))
    for number in range(5):
        recorder.append(f"production/toy/canary-{number}", [HEAD])
        os.utime(file_of(tmp_path, f"production/toy/canary-{number}"), (100 + number, 100 + number))
    kept = {f"production/toy/canary-{number}" for number in (2, 3, 4)}
    assert set(recorder.list()) == {"production/other/canary-x-1", *kept}


def test_a_recording_that_grew_too_large_takes_events_only(tmp_path):
    """Days of looks must not fill a disk: past the limit it says so, and only events and the end follow."""
    recorder = FileRecorder(tmp_path, largest=200)
    for at in range(50):
        recorder.append(ONE, [look(at)])
    recorder.append(ONE, [{"kind": "end"}])
    lines = recorder.read(ONE)
    assert [line["kind"] for line in lines].count("full") == 1
    assert lines[-1] == {"kind": "end"}
    assert file_of(tmp_path).stat().st_size < 400


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "a/b/c/d", "/a/b/c", "a/../c", "", "a/b/.c"])
def test_a_name_can_not_leave_the_folder(tmp_path, name):
    """What is no name of a recording is refused by read and written nowhere by append."""
    recorder = FileRecorder(tmp_path / "in")
    recorder.append(name, [HEAD])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with pytest.raises(ConfigError):
        recorder.read(name)


def test_a_folder_that_can_not_be_written_stops_nobody_and_loses_no_head(tmp_path, caplog):
    """While the disk refuses, append says so once and raises nothing; what a reader needs comes later."""
    (tmp_path / "production").write_text("a file where a folder should be")
    recorder = FileRecorder(tmp_path)
    recorder.append(ONE, [HEAD, look(1)])
    recorder.append(ONE, [look(2), {"kind": "event"}])
    assert len(caplog.records) == 1
    (tmp_path / "production").unlink()
    recorder.append(ONE, [look(3)])
    assert recorder.read(ONE) == [HEAD, {"kind": "event"}, look(3)]


FULL = """
import json, pathlib, resource, signal, sys
from tidegate.adapters.recordings import FileRecorder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
recorder = FileRecorder(pathlib.Path(sys.argv[1]))
recorder.append(sys.argv[2], [{"kind": "rollout"}])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for at in range(20):
    recorder.append(sys.argv[2], [{"kind": "look", "at": at}])
recorder.append(sys.argv[2], [{"kind": "end"}])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
recorder.append(sys.argv[2], [{"kind": "look", "at": 99}])
"""


def test_a_full_disk_cuts_no_line(tmp_path):
    """Of a write that ends half-way nothing stays, and the end is written when there is room again."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path), ONE], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    text = file_of(tmp_path).read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["kind"] for line in lines] == ["rollout", "look", "look", "look", "end", "look"]
