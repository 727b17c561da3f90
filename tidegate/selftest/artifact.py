"""Faults of the `artifact` gate: releases that are not what their record says, or hold what they must not."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tidegate import bentos
from tidegate.core.verdict import Verdict
from tidegate.files import digest_folder
from tidegate.selftest.room import Fault, Room

QUICK: dict[str, Any] = {}
MODEL = f"{bentos.SOURCE}/{bentos.MODEL}"


def prepare(room: Room) -> None:
    """A sound release: a copy of the Bento that is packaged here, and its record."""
    room.candidate(room.bento("sound"))


def _of_model(change: Callable[[Path], None]) -> Callable[[Room], None]:
    """Change the model's files here, and in nothing else."""
    return lambda room: change(room.edit(f"build/{room.model}/model"))


def _everywhere(change: Callable[[Path], None]) -> Callable[[Room], None]:
    """Change the model's files here and in the Bento, with a record that says so: only its content tells."""

    def make(room: Room) -> None:
        folder = room.edit(f"build/{room.model}/model")
        change(folder)
        record = room.bento("spoilt", lambda bento: change(bento / MODEL), artifact=digest_folder(folder))
        room.candidate(record)

    return make


def _of_bento(change: Callable[[Path], None], *, told: bool = True) -> Callable[[Room], None]:
    """Change a Bento; its record knows of it when `told`."""

    def make(room: Room) -> None:
        record = room.bento("changed", change if told else lambda bento: None)
        if not told:
            change(bentos.bento_path(room.store, record.bento.tag))
        room.candidate(record)

    return make


def _onnx(folder: Path) -> Path:
    return next(folder.glob("*.onnx"))


def _flip(folder: Path) -> None:
    path = _onnx(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(folder: Path) -> None:
    path = _onnx(folder)
    path.write_bytes(path.read_bytes()[:-1000])


def _pickle(folder: Path) -> None:
    _onnx(folder).write_bytes(pickle.dumps({"weights": [0.5] * 100}))


def _old_pickle(folder: Path) -> None:
    _onnx(folder).write_bytes(b"cposix\nsystem\n(S'true'\ntR.")


def _torch(folder: Path) -> None:
    with zipfile.ZipFile(_onnx(folder), "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1, 2]))


def _foreign(folder: Path) -> None:
    """The model needs an operator of a library that nobody has looked at."""
    import onnx

    model = onnx.load(_onnx(folder))
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    _onnx(folder).write_bytes(model.SerializeToString())


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _other_model(bento: Path) -> None:
    """Another model under the same names, as a mixed-up build would have it."""
    path = bento / MODEL / "features.json"
    path.write_text(path.read_text() + "\n")


def _hook(bento: Path) -> None:
    (bento / bentos.SOURCE / "warmup.bin").write_bytes(pickle.dumps({"rows": [1, 2, 3]}))


def _code(bento: Path) -> None:
    path = bento / bentos.SOURCE / "services" / "__init__.py"
    path.write_text(path.read_text() + "VALUE = 1\n")


def _byte_code(bento: Path) -> None:
    """Byte code runs in the place of its source, and no digest covers it."""
    folder = bento / bentos.SOURCE / "services" / "__pycache__"
    folder.mkdir()
    (folder / "__init__.cpython-311.pyc").write_bytes(b"\xa7\r\r\n" + bytes(12) + b"\xe3")


def _requirements(change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(bento: Path) -> None:
        path = bento / bentos.SOURCE / bentos.REQUIREMENTS
        path.write_text(change(path.read_text()))

    return apply


def _loose(text: str) -> str:
    first, _, rest = text.partition("\n")
    return f"{first.partition('==')[0]}>=0\n{rest}"


def _newer(text: str) -> str:
    first, _, rest = text.partition("\n")
    return f"{first}.99\n{rest}"


def _one_less(text: str) -> str:
    return text.partition("\n")[2]


def _deny(room: Room) -> None:
    room.settings("artifact", {"denied": ["Apache-2.0"], "allowed": ["MIT", "BSD-3-Clause"]})


def _forget(room: Room) -> None:
    room.settings("artifact", {"allowed": ["MIT"]})


def _misspell(room: Room) -> None:
    room.settings("artifact", {"denied": ["GPL3"]})


def _other_release(room: Room) -> None:
    """The gate is asked about one release, and the checkout has the record of another."""
    room.candidate(msgspec.structs.replace(room.bento("other"), commit="0" * 40))
    room.release = "0123456789ab"


def _half_record(room: Room) -> None:
    path = room.edit(f"build/{room.model}/release.yaml")
    path.write_text(path.read_text()[:200])


def _no_record(room: Room) -> None:
    room.edit(f"build/{room.model}/release.yaml").unlink()
    room.release = ""


def _no_bento(room: Room) -> None:
    record = room.bento("gone")
    shutil.rmtree(bentos.bento_path(room.store, record.bento.tag))
    room.candidate(record)


def _other_version(room: Room) -> None:
    real = room.original
    registry = msgspec.structs.replace(real.registry, version=real.registry.version + 1000)
    room.candidate(room.bento("version", registry=registry))


def _other_pipeline(room: Room) -> None:
    room.candidate(room.bento("pipeline", pipeline="sha256:" + "0" * 64))


def _fault(name: str, expected: Verdict, make: Callable[[Room], None]) -> Fault:
    return Fault("artifact", name, expected, make)


FAULTS: tuple[Fault, ...] = (
    _fault("one flipped bit in the model", Verdict.FAIL, _of_model(_flip)),
    _fault("model cut off", Verdict.FAIL, _everywhere(_truncate)),
    _fault("a pickle renamed to .onnx", Verdict.FAIL, _everywhere(_pickle)),
    _fault("a pickle of protocol 0 that calls", Verdict.FAIL, _everywhere(_old_pickle)),
    _fault("PyTorch's archive renamed to .onnx", Verdict.FAIL, _everywhere(_torch)),
    _fault("operator of an unknown library", Verdict.FAIL, _everywhere(_foreign)),
    _fault("no file in the model's folder", Verdict.ERROR, _of_model(_empty)),
    _fault("wrong model in the Bento", Verdict.FAIL, _of_bento(_other_model)),
    _fault("a pickle beside the service", Verdict.FAIL, _of_bento(_hook)),
    _fault("Bento changed after its release", Verdict.FAIL, _of_bento(_code, told=False)),
    _fault("byte code in the Bento", Verdict.FAIL, _of_bento(_byte_code)),
    _fault("Bento missing", Verdict.ERROR, _no_bento),
    _fault("unlocked dependency", Verdict.FAIL, _of_bento(_requirements(_loose))),
    _fault("dependency of another version", Verdict.FAIL, _of_bento(_requirements(_newer))),
    _fault("dependency left out", Verdict.FAIL, _of_bento(_requirements(_one_less))),
    _fault("empty requirements", Verdict.FAIL, _of_bento(_requirements(lambda text: ""))),
    _fault("denied licence", Verdict.FAIL, _deny),
    _fault("licence on no list", Verdict.FAIL, _forget),
    _fault("licence misspelt in the policy", Verdict.FAIL, _misspell),
    _fault("record of another release", Verdict.ERROR, _other_release),
    _fault("record cut off", Verdict.ERROR, _half_record),
    _fault("record missing", Verdict.ERROR, _no_record),
    _fault("unknown version in the registry", Verdict.FAIL, _other_version),
    _fault("another pipeline's record", Verdict.FAIL, _other_pipeline),
)
