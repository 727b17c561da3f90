"""What a file holds is told by its bytes: pickles in every dress, and nothing that is none."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import tiny_model
from tidegate.core import contents

ROOT = Path(__file__).parents[2]


class Payload:
    """What an attacker pickles: loading it would run a command."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


def pickled(content: bytes) -> str:
    return contents.pickled(io.BytesIO(content))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [Payload(), {"a": 1}, [0.5], "text", (None, True), np.arange(3)])
def test_a_pickle_of_every_protocol_is_seen(value: Any, protocol: int) -> None:
    """Whatever was pickled, by whichever protocol, and also where more follows it."""
    assert "pickle" in pickled(pickle.dumps(value, protocol))
    assert "pickle" in pickled(pickle.dumps(value, protocol) + (b"" if protocol < 2 else b"rubbish"))


@settings(max_examples=30)
@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists),
    st.sampled_from([2, 3, 4, 5]),
)
def test_no_pickle_of_a_later_protocol_gets_by(value: Any, protocol: int) -> None:
    """The header of protocol 2 and later gives any of them away."""
    assert pickled(pickle.dumps(value, protocol))


def test_a_pickle_that_runs_before_it_breaks_is_seen() -> None:
    """A loader runs what it has read before it stumbles, so a broken end hides nothing."""
    assert pickled(b"cposix\nsystem\n(S'true'\ntR\xff\xff\xff") == "a pickle that calls posix.system"
    assert pickled(b"(S'true'\nios\nsystem\n\xff") == "a pickle that calls os.system"


def test_a_large_old_pickle_is_seen_by_its_beginning() -> None:
    """A pickle of protocol 0 that is longer than what is looked at is one all the same."""
    assert pickled(pickle.dumps(list(range(400_000)), 0))


PACKED = {
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}


@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED)
def test_a_compressed_pickle_is_seen(pack: Any) -> None:
    """Also when the stream is cut off, or packed twice."""
    size = 600_000 if pack is bz2.compress else 50_000  # bzip2 gives nothing of a block that is cut off
    packed = pack(pickle.dumps(list(range(size)), 4))
    assert "a pickle of protocol 4" in pickled(packed)
    assert "a pickle of protocol 4" in pickled(packed[: len(packed) // 2])
    assert "a pickle of protocol 4" in pickled(gzip.compress(packed))


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_joblibs_files_are_seen(tmp_path: Path, compress: Any) -> None:
    """As scikit-learn's users store models, by any of joblib's compressions."""
    joblib.dump({"weights": np.arange(1000), "model": [1]}, tmp_path / "model.onnx", compress=compress)
    assert "a pickle" in pickled((tmp_path / "model.onnx").read_bytes())


def archives() -> dict[str, bytes]:
    torch, renamed, tape = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(torch, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with zipfile.ZipFile(renamed, "w") as archive:
        archive.writestr("notes.txt", pickle.dumps([1], 4))
    with tarfile.open(fileobj=tape, mode="w") as tar:
        content = pickle.dumps([1], 4)
        entry = tarfile.TarInfo("weights.bin")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    array = io.BytesIO()
    np.save(array, np.array([{}], dtype=object))
    names = ("PyTorch's", "renamed inside", "tar", "NumPy's objects")
    return dict(zip(names, (f.getvalue() for f in (torch, renamed, tape, array)), strict=True))


@pytest.mark.parametrize("content", archives().values(), ids=archives())
def test_a_pickle_in_an_archive_is_seen(content: bytes) -> None:
    """By its name inside, or by its content under another name; and an archive in an archive."""
    assert "pickle" in pickled(content) or "data.pkl" in pickled(content)
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("inner", content)
    assert pickled(outer.getvalue())


def test_nothing_else_is_taken_for_a_pickle(tmp_path: Path) -> None:
    """ONNX, arrays of numbers, JSON, text, and every source file of this repository are none."""
    tiny_model(tmp_path / "model")
    np.save(tmp_path / "array.npy", np.arange(10))
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    for folder in ("tidegate", "gates", "models", "services", "tests", "docs", "envs", "bench"):
        paths += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".yaml", ".c")]
    wrong = {}
    for path in paths:
        with path.open("rb") as file:
            if said := contents.pickled(file):
                wrong[path.name] = said
    assert not wrong


@given(st.binary(max_size=300))
def test_any_bytes_have_a_kind(content: bytes) -> None:
    """No content makes the look itself fail, whatever an archive or a stream pretends to be."""
    heads = (b"", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\x00", b"x\x9c", b"PK\x03\x04", b"\x93NUMPY", b"\x80\x04")
    for head in heads:
        kind, why = contents.kind(io.BytesIO(head + content), onnx=False)
        assert kind != "onnx"
        assert why or kind == "text"


def test_kinds_are_told_apart(tmp_path: Path) -> None:
    """Text is text with umlauts, too; an archive, byte code and what nobody knows have their own words."""
    import py_compile

    source = tmp_path / "code.py"
    source.write_text("VALUE = 1\n")
    code = Path(py_compile.compile(str(source), str(tmp_path / "code.pyc"), doraise=True) or "")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.txt", "words")
    known = {
        "text": ("grün\n" * 300_000).encode(),
        "empty": b"",
        "byte code": code.read_bytes(),
        "archive": zipped.getvalue(),
        "other": bytes(range(256)) * 20,
    }
    assert {contents.kind(io.BytesIO(content), onnx=False)[0]: content for content in known.values()} == known
    onnx = (tiny_model(tmp_path / "model") / "model.onnx").read_bytes()
    assert contents.kind(io.BytesIO(onnx), onnx=True)[0] == "onnx"
    assert contents.kind(io.BytesIO(pickle.dumps([1])), onnx=True)[0] == "pickle", (
        "the bytes have the last word"
    )
