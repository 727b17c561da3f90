"""What `services/<model>/settings.yaml` says of how a model is served; it travels with the model.

Places (where the log, the feature store or a shared cache lie) are the platform's and come by variables.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

FILE = "settings.yaml"
VARIABLE = "TIDEGATE_SETTINGS"  # names another file: what `tidegate tune` tries settings by


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """Base: unknown keys are refused."""


class Batching(_Part, frozen=True):
    """Requests that wait for each other, to be computed at once."""

    max_rows: Annotated[int, Meta(ge=0, le=4096, description="rows of a batch; 0 and 1 are off")] = 0
    max_delay_ms: Annotated[
        float, Meta(ge=0, le=1000, description="how long the first request of a batch waits at most")
    ] = 2.0


class Queue(_Part, frozen=True):
    """What is accepted while the process is busy."""

    max_waiting: Annotated[int, Meta(ge=1, le=100_000, description="requests; one more is a 429")] = 128
    retry_after: Annotated[int, Meta(ge=1, le=3600, description="seconds, told with a 429")] = 1
    deadline_ms: Annotated[
        float,
        Meta(gt=0, le=3_600_000, description="a later answer is a 504, unless a caller says less"),
    ] = 10_000.0
    body_seconds: Annotated[float, Meta(gt=0, le=600, description="a body slower than this is a 408")] = 10.0


class Many(_Part, frozen=True):
    """Requests of many rows."""

    max_rows: Annotated[int, Meta(ge=1, le=1_000_000, description="rows of one request")] = 10_000
    max_bytes: Annotated[int, Meta(ge=1024, le=1 << 30, description="bytes of one request")] = (
        16 * 1024 * 1024
    )


class Cache(_Part, frozen=True):
    """Predictions kept by their features, for one release."""

    entries: Annotated[int, Meta(ge=0, le=10_000_000, description="answers in one process; 0 is off")] = 0
    ttl_seconds: Annotated[float, Meta(gt=0, description="of an answer in a shared cache")] = 3600.0


class Online(_Part, frozen=True):
    """Features looked up in the store; where it lies is the platform's to say."""

    timeout_ms: Annotated[
        float, Meta(gt=0, le=10_000, description="a store that takes longer knows nothing")
    ] = 25.0


class Log(_Part, frozen=True):
    """The log of predictions; where it lies is the platform's to say."""

    enabled: Annotated[bool, Meta(description="false writes nothing down")] = True
    max_waiting_mb: Annotated[
        float,
        Meta(gt=0, le=1024, description="records that may wait for the disk; more are dropped"),
    ] = 16.0


class Gpu(_Part, frozen=True):
    """What a GPU runs and may take, where one is used."""

    device: Annotated[int, Meta(ge=0, le=255, description="its number, as `nvidia-smi` counts")] = 0
    memory_limit_mb: Annotated[
        int, Meta(ge=0, le=1 << 20, description="of ONNX Runtime's arena; 0 is no limit")
    ] = 0
    variant: Annotated[
        Annotated[str, Meta(pattern=r"^([a-z0-9]+)?$")] | None,
        Meta(
            description="which of the model's files a GPU runs, as `variant`; `null`: fp16 if it is there,"
            " else `model.onnx`"
        ),
    ] = None
    arena: Annotated[
        Literal["exact", "doubling"],
        Meta(description="how memory is taken: as asked for, or ever twice that"),
    ] = "exact"
    convolutions: Annotated[
        Literal["heuristic", "exhaustive", "default"],
        Meta(description="how cuDNN looks for a way; `exhaustive` tries all at each new shape"),
    ] = "heuristic"
    tf32: Annotated[bool, Meta(description="true lets float32 be multiplied with 10 bits' precision")] = False


class Settings(_Part, frozen=True):
    """How one model is served."""

    variant: Annotated[
        str,
        Meta(
            pattern=r"^([a-z0-9]+)?$",
            description='which of the model\'s files is run: `model.<variant>.onnx`, or of `""` `model.onnx`',
        ),
    ] = ""
    packages: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], ...],
        Meta(description="what this service needs beside the shell's own; pinned by requirements.lock"),
    ] = ()
    provider: Annotated[
        Literal["auto", "cpu", "cuda"],
        Meta(description="`auto` takes a GPU where there is one; `cuda` does not start without"),
    ] = "auto"
    gpu: Gpu = Gpu()
    threads: Annotated[int, Meta(ge=1, le=256, description="of ONNX Runtime in one process")] = 1
    workers: Annotated[int, Meta(ge=1, le=256, description="processes of `bentoml serve`")] = 1
    batching: Batching = Batching()
    queue: Queue = Queue()
    many: Many = Many()
    cache: Cache = Cache()
    online: Online = Online()
    log: Log = Log()


def settings(service_file: Path) -> Settings:
    """Return the settings beside a service's file; the defaults where there are none.

    Where `TIDEGATE_SETTINGS` names a file, that one is read, and has to be there. Raises RuntimeError that
    names the file and the key: a service must not run otherwise than it says.
    """
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else service_file.resolve().parent / FILE
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        if named:
            raise RuntimeError(f"{path}: is missing, and {VARIABLE} names it") from error
        return Settings()
    try:
        return parse(yaml.safe_load(text))
    except msgspec.ValidationError as error:
        raise RuntimeError(f"{path}: {error}{_meant(str(error))}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RuntimeError(f"{path}: {error}") from error


def parse(content: Any) -> Settings:
    """Return the settings that plain values say; raises msgspec.ValidationError that names the key."""
    return msgspec.convert({} if content is None else content, Settings)


def keys(shape: type[msgspec.Struct] = Settings, before: str = "") -> list[str]:
    """Return every key that may be written, as `batching.maxRows`, in the order of the file."""
    found = []
    for item in msgspec.structs.fields(shape):
        name = f"{before}{item.encode_name}"
        inner = item.type if isinstance(item.type, type) and issubclass(item.type, _Part) else None
        found += keys(inner, f"{name}.") if inner else [name]
    return found


def _meant(text: str) -> str:
    """Return which key an unknown one is closest to, as the end of a sentence; nothing if none is close."""
    unknown = re.search(r"unknown field `([^`]+)`", text)
    known = {part for key in keys() for part in key.split(".")}
    close = difflib.get_close_matches(unknown[1], sorted(known), n=1) if unknown else []
    return f". Did you mean `{close[0]}`?" if close else ""
